"""One `score` call: which calls of sources are due, which are out, what has come back.

submit -> condition known -> spared by an equal call, or sent -> outcome -> component -> conditions of others known
                                                                   all components of a group there -> complete
"""

from __future__ import annotations

import math
import queue
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count, islice

from reasoner.config import RewardConfig
from reasoner.errors import ScoringError
from reasoner.io.redaction import redact
from reasoner.records import Component, Failure, Group, Score, ScoredGroup
from reasoner.scoring.cache import Cache, Key, digest
from reasoner.scoring.composition import component, totals
from reasoner.scoring.reward_table import RewardTable
from reasoner.scoring.statistics import FailedResponse, Tally
from reasoner.scoring.workers.protocol import (
    CallResult,
    Traits,
    dump_content,
    dump_problem,
    dump_response,
    dump_task,
    load_printed,
    load_result,
)
from reasoner.workers.host_process import HostProcess, Inbox
from reasoner.workers.lines import PRINTED

BATCH_SIZE = 64
"""responses in a call of granularity `batch`; the last one has what is left"""
LOOK_S = 1.0
"""seconds of silence between looks at the host"""
SLACK_S = 60.0
"""seconds beyond the longest deadline for a host on a machine that is busy: it forks and kills workers meanwhile"""
MAX_LOGGED = 200_000
"""characters of what a source prints that are logged"""
MOST_NAMED = 4
"""calls that a message names"""
_HOST = "the scoring host, which runs the reward sources,"


@dataclass(slots=True)
class Shared:
    """What all `score` calls of a service have in common."""

    table: RewardTable
    traits: tuple[Traits, ...]
    max_failure_rate: float
    host: HostProcess
    cache: Cache
    tasks: Iterator[int] = field(default_factory=count)
    """numbers of tasks, never used twice"""
    made: Counter[int] = field(default_factory=Counter)
    """calls by reward, against `max_calls`"""
    say: Callable[[str], None] = lambda text: None
    """takes what is worth knowing, once"""
    left: dict[str, list[str]] = field(default_factory=dict)
    """by source, what its calls left behind in their workers, each once"""
    log: Callable[[str], None] = lambda text: None
    """takes what the sources print"""
    fail: Callable[[str], None] = lambda text: None
    """takes the first failure of a source, with the end of its traceback"""
    logged: Counter[str] = field(default_factory=Counter)
    """characters that a source printed, by its name"""
    failed: set[str] = field(default_factory=set)
    """sources whose failure was told"""
    was_stopped: bool = False
    """whether the host was once stopped by a signal, and it was said"""


class _Slots:
    """The components of one group while they arrive."""

    def __init__(self, group: Group, rewards: range) -> None:
        self.group = group
        self.rewards = rewards
        """the indices of those that score it"""
        self.content = dump_content(group.problem)
        self.problem = dump_problem(group.problem, self.content)
        self.responses = [dump_response(response) for response in group.responses]
        self.judged = [at for at, response in enumerate(group.responses) if response.failure is None]
        """the responses that sources are called for: not those whose environment failed"""
        self.missing = len(self.judged) * len(rewards)
        self.components: list[list[Component | None]] = [[None] * len(rewards) for _ in group.responses]
        self.decided: Counter[int] = Counter()
        """judged responses by reward for which it is known whether they are scored"""
        self.chosen: defaultdict[int, list[_Place]] = defaultdict(list)
        """by reward of granularity `group`: the responses that are"""

    def scored(self, rewards: Sequence[RewardConfig]) -> ScoredGroup:
        """A response whose environment failed abstains, and each of its components says why."""
        own = [rewards[index] for index in self.rewards]
        rows = [tuple(part for part in row if part is not None) for row in self.components]
        known = dict(zip(self.judged, totals(own, [rows[at] for at in self.judged]), strict=True))
        for at, response in enumerate(self.group.responses):
            if response.failure is not None:
                rows[at] = tuple(component(reward, response.failure, 0.0) for reward in own)
        return ScoredGroup(self.group, tuple(rows), tuple(known.get(at) for at in range(len(rows))))


_Place = tuple[_Slots, int]
"""a response: its group and its index there"""


@dataclass(slots=True)
class _Sent:
    """A call that is out."""

    reward: int
    places: list[list[_Place]]
    """per response of the call, who waits for its outcome: itself, and those for which an equal call was spared"""
    key: Key | None
    """None: not for the cache"""


def _on(sent: _Sent) -> str:
    """The call's first response."""
    slots, sample = sent.places[0][0]
    return f"on problem {slots.group.problem.id}, response {sample},"


class ScoreCall:
    """Takes groups, sends what is due to the host, gives back the groups that are complete."""

    def __init__(self, shared: Shared, tally: Tally) -> None:
        self._shared, self._tally = shared, tally
        self._rewards, self._traits = shared.table.rewards, shared.traits
        self._names, self._conditions = shared.table.names, shared.table.conditions
        self._inbox: Inbox = shared.host.listen()
        self._outgoing: list[bytes] = []
        self._sent: dict[tuple[int, int], _Sent] = {}
        self._equal: dict[Key, _Sent] = {}
        self._batches: defaultdict[int, list[_Place]] = defaultdict(list)
        self._undecided: Counter[int] = Counter()
        self._complete: deque[_Slots] = deque()
        self._closed = False
        self.open = 0
        """groups that were submitted and are not complete"""

    def submit(self, group: Group) -> None:
        """Send the calls of a group that depend on nothing."""
        slots = _Slots(group, self._shared.table.of_problem(group.problem))
        self.open += 1
        if slots.missing == 0:
            self._settle(slots)
            return
        places = [(slots, sample) for sample in slots.judged]
        for reward in slots.rewards:
            self._undecided[reward] += len(places)
            self._tally.expect(self._names[reward], len(places))
        free = [reward for reward in slots.rewards if self._conditions[reward] is None]
        by_lane: defaultdict[int, list[int]] = defaultdict(list)  # one task for all rewards of a lane
        for reward in free:
            if self._traits[reward].granularity == "response":
                by_lane[self._traits[reward].lane].append(reward)
        for rewards in by_lane.values():
            for place in places:
                self._ask(rewards, place)
        for reward in free:
            if self._traits[reward].granularity != "response":
                for place in places:
                    self._decide(reward, place, True)
        self._post()

    def close_intake(self) -> None:
        """No group will follow: what waits for a full batch is sent, and a failure rate means something from here."""
        self._closed = True
        for reward in range(len(self._rewards)):
            self._send_batches(reward)
        self._post()
        self._tally.check(self._shared.max_failure_rate)

    def completed(self) -> Iterator[ScoredGroup]:
        """The groups that are complete now, without waiting."""
        while not self._inbox.empty():
            self.wait()
        while self._complete:
            yield self._complete.popleft().scored(self._rewards)

    def wait(self) -> None:
        """Wait for the next result, put it where it belongs and send what it was the condition of.

        Raises:
            ScoringError: the host died, another call took over, a source fails too often, or once where it must not.
        """
        line = self._next_line()
        host = self._shared.host
        if line is None and host.closed:
            raise ScoringError("this score call was cut off: its service was closed")
        if line is None and not host.ended:
            raise ScoringError("this score call was cancelled: another one was started on the same service")
        if line is None:
            raise ScoringError(f"{_HOST} {host.obituary()}{self._in_flight()}")
        if line.startswith(PRINTED):
            self._log(line)
            return
        try:
            result = load_result(line)
        except ValueError as error:
            shown = f"{line[:200]!r} ({error})"
            raise ScoringError(f"{_HOST} sent something that is not a message: {shown}{self._in_flight()}") from error
        self._take(result)
        self._post()
        if self._closed:
            self._tally.check(self._shared.max_failure_rate)

    def _next_line(self) -> bytes | None:
        """The host's next line; None: there will be no more.

        Every call has a deadline and several run at a time, so a host with calls is never silent for longer than the
        longest of the deadlines. Looks are counted and not seconds: while this process was stopped, so was the host.

        Raises:
            ScoringError: the host is silent for too long.
        """
        with suppress(queue.Empty):
            return self._inbox.get(timeout=LOOK_S)  # the usual case: what follows looks at every call that is out
        host = self._shared.host
        longest = max((self._traits[reward].timeout_s for _, reward in self._sent), default=0.0)
        for _ in range(math.ceil((longest + SLACK_S) / LOOK_S)):
            if host.has_died():
                return None
            if host.was_stopped() and not self._shared.was_stopped:
                self._shared.was_stopped = True
                self._shared.say(f"{_HOST} was stopped by a signal, and continues{self._in_flight()}")
            with suppress(queue.Empty):
                return self._inbox.get(timeout=LOOK_S)
        raise ScoringError(
            f"{_HOST} has been silent for {SLACK_S:g} seconds more than the longest deadline of its calls; it "
            f"{host.obituary()}{self._in_flight()}"
        )

    def _in_flight(self) -> str:
        """The calls that are out, on a line of their own: the host was at the oldest."""
        names = [
            f"{self._names[sent.reward]} on problem {slots.group.problem.id}, response {sample}"
            for sent in islice(self._sent.values(), MOST_NAMED)
            for slots, sample in (sent.places[0][0],)
        ]
        return f"\nCalls without an outcome, the oldest first: {'; '.join(names)}" if names else ""

    def _take(self, result: CallResult) -> None:
        sent = self._sent.pop((result.task, result.reward), None)
        if sent is None:
            return  # of a call that was cancelled
        source = self._rewards[sent.reward].source
        if result.kind is None and len(result.scores) != len(sent.places):
            message = f"{len(result.scores)} scores for {len(sent.places)} responses: not the worker's own answer"
            result = replace(result, scores=(), kind="crash", message=message)
        if result.left:
            self._note(source, redact(result.left))
        if result.trace and source not in self._shared.failed:
            self._shared.failed.add(source)
            self._shared.fail(
                f"{source} {_on(sent)} failed (the first time; the others are counted):\n{redact(result.trace)}"
            )
        outcomes = result.outcomes(source, len(sent.places))
        if sent.key is not None:
            del self._equal[sent.key]
            if not isinstance(outcomes[0], Failure):
                self._shared.cache[sent.key] = outcomes[0]
        self._conclude(sent, outcomes, result.seconds)

    def _log(self, line: bytes) -> None:
        """What a call printed."""
        call, text = load_printed(line)
        sent = self._sent.get(call)
        if sent is None:
            return  # of a call that was cancelled
        source, logged = self._rewards[sent.reward].source, self._shared.logged
        if logged[source] <= MAX_LOGGED:
            logged[source] += len(text)
            self._shared.log(f"{source} {_on(sent)} printed:\n{redact(text)}")
            if logged[source] > MAX_LOGGED:
                self._shared.log(f"{source} has printed {logged[source]:,} characters: no more of it is logged")

    def _note(self, source: str, left: str) -> None:
        """A call left something behind: its source is named once."""
        known = self._shared.left.setdefault(source, [])
        if not known:
            self._shared.say(
                f"reward source {source!r} leaves its worker changed: {left}. Nothing of it reaches another call, but "
                "every such call costs a new worker: undo it in the call, or do it once, in `prepare` or where the "
                "plugin is imported."
            )
        if left not in known:
            known.append(left)

    def _ask(self, rewards: Sequence[int], place: _Place) -> None:
        """Score one response with sources of granularity `response` that share a lane."""
        slots, sample = place
        seen = digest(slots.content, slots.group.responses[sample])
        calls = []
        for reward in rewards:
            cached = self._traits[reward].cache and self._shared.cache.size > 0
            key = (reward, seen) if cached else None
            if not self._is_duplicate(key, place):
                calls.append(_Sent(reward, [[place]], key))
        self._send(calls)

    def _is_duplicate(self, key: Key | None, place: _Place) -> bool:
        """Whether an equal call was made or is out; its outcome is used."""
        if key is None or (key not in self._shared.cache and key not in self._equal):
            return False
        reward = self._rewards[key[0]]
        self._tally.spare(self._names[key[0]])
        if key in self._equal:
            self._equal[key].places[0].append(place)
        else:
            self._deliver(key[0], place, component(reward, self._shared.cache[key], 0.0))
        return True

    def _decide(self, reward: int, place: _Place, wanted: bool) -> None:
        """It is known whether this reward scores this response."""
        slots, _ = place
        granularity = self._traits[reward].granularity
        self._undecided[reward] -= 1
        slots.decided[reward] += 1
        if granularity == "response" and wanted:
            self._ask([reward], place)
        elif granularity == "group" and wanted:
            slots.chosen[reward].append(place)
        elif granularity == "batch" and wanted:
            self._batches[reward].append(place)
        else:
            self._leave_out(reward, place)
        if granularity == "group" and slots.decided[reward] == len(slots.judged):
            self._send_group(reward, slots)
        self._send_batches(reward)

    def _leave_out(self, reward: int, place: _Place) -> None:
        self._tally.expect(self._names[reward], -1)
        self._deliver(reward, place, component(self._rewards[reward], None, 0.0))

    def _send_group(self, reward: int, slots: _Slots) -> None:
        chosen = sorted(slots.chosen[reward], key=lambda place: place[1])  # conditions become known in any order
        if chosen:
            self._send([_Sent(reward, [[place] for place in chosen], None)])

    def _send_batches(self, reward: int) -> None:
        """Send full batches, and the rest when nothing can join it any more."""
        gathered = self._batches[reward]
        last = self._closed and self._undecided[reward] == 0
        while len(gathered) >= BATCH_SIZE or (last and gathered):
            batch, gathered[:] = gathered[:BATCH_SIZE], gathered[BATCH_SIZE:]
            self._send([_Sent(reward, [[place] for place in batch], None)])

    def _send(self, calls: Sequence[_Sent]) -> None:
        """Send calls that see the same, as one task; those beyond their budget fail."""
        for call in (call for call in calls if self._is_over_budget(call.reward)):
            reward = self._rewards[call.reward]
            message = f"not called: rewards.max_calls leaves this process {reward.max_calls} calls, which were made"
            self._conclude(call, [Failure(reward.source, "error", message, 0.0)] * len(call.places), 0.0)
        calls = [call for call in calls if not self._is_over_budget(call.reward)]
        if not calls:
            return
        task = next(self._shared.tasks)
        for call in calls:
            self._shared.made[call.reward] += 1
            self._sent[task, call.reward] = call
            if call.key is not None:
                self._equal[call.key] = call
        places = [waiting[0] for waiting in calls[0].places]
        batch = self._traits[calls[0].reward].granularity == "batch"
        problems = [slots.problem for slots, _ in (places if batch else places[:1])]
        responses = [slots.responses[sample] for slots, sample in places]
        self._outgoing.append(dump_task(task, [call.reward for call in calls], problems, responses))

    def _is_over_budget(self, reward: int) -> bool:
        most = self._rewards[reward].max_calls
        return most is not None and self._shared.made[reward] >= most

    def _conclude(self, call: _Sent, outcomes: Sequence[Score | Failure | None], seconds: float) -> None:
        """A call has its outcomes: everyone who waits gets theirs."""
        reward = self._rewards[call.reward]
        failed = [
            FailedResponse(waiting[0][0].group.problem.id, waiting[0][1], outcome)
            for waiting, outcome in zip(call.places, outcomes, strict=True)
            if isinstance(outcome, Failure)
        ]
        self._tally.add(self._names[call.reward], seconds, failed)
        if failed and reward.on_failure == "abort":
            raise ScoringError(
                f"reward source {self._names[call.reward]!r} failed and its on_failure is 'abort'. {failed[0]}"
            )
        for waiting, outcome in zip(call.places, outcomes, strict=True):
            for place in waiting:
                own = seconds / len(outcomes) if place is waiting[0] else 0.0
                self._deliver(call.reward, place, component(reward, outcome, own))

    def _deliver(self, reward: int, place: _Place, part: Component) -> None:
        slots, sample = place
        slots.components[sample][reward - slots.rewards.start] = part
        slots.missing -= 1
        if slots.missing == 0:
            self._settle(slots)
        for dependent in slots.rewards:
            if self._conditions[dependent] == reward:
                self._decide(dependent, place, part.value is not None and part.value > 0.0)

    def _settle(self, slots: _Slots) -> None:
        self.open -= 1
        self._complete.append(slots)

    def _post(self) -> None:
        if self._outgoing:
            self._shared.host.send(b"".join(self._outgoing))
            self._outgoing.clear()
