"""Scores groups of responses: the main process's side of a reward path that cannot hang."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Self

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import ConfigError, ScoringError
from reasoner.records import Component, Group, ScoredGroup
from reasoner.scoring.compose import component, total
from reasoner.scoring.process import HostProcess, Inbox
from reasoner.scoring.tally import SourceStatistics, Tally
from reasoner.scoring.wire import CANCEL, Plan, Result, dump_tasks, load_result


class ScoringService:
    """Runs the configured reward sources in worker processes with deadlines. Leaving the context ends all of them.

    It uses neither signals nor asyncio, so it works in any thread and inside an event loop. One `score` call at a time:
    the next one cancels what is left of the one before.

    Raises:
        ConfigError: a plugin, a reward source or one of its options is wrong.
        ScoringError: the host did not start.
    """

    def __init__(self, rewards: Sequence[RewardConfig], scoring: ScoringConfig, plugins: Sequence[str] = ()) -> None:
        self._rewards = tuple(rewards)
        self._scoring = scoring
        self._ids = count()
        self._tally = Tally([reward.source for reward in self._rewards])
        self._running: _Call | None = None
        self._host = HostProcess(Plan(self._rewards, scoring, tuple(plugins), os.getpid()))
        try:
            _check_start(self._host)
        except BaseException:
            self.close()
            raise

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        """Yield each group as soon as all its responses are scored, in the order of completion.

        Groups are pulled one by one and handed to the workers at once, so that scoring overlaps with an iterator that
        samples.

        Raises:
            ScoringError: a source failed in more than `max_failure_rate` of its calls, or the scoring host died.
        """
        call = self._begin()
        try:
            for group in groups:
                call.submit(group)
                yield from call.completed()
            call.close_intake(self._scoring.max_failure_rate)
            while call.open:
                call.wait()
                yield from call.completed()
        finally:
            self._finish(call)

    def statistics(self) -> Mapping[str, SourceStatistics]:
        """Calls, failures and seconds by source: of the running `score` call, or of the last one."""
        return self._tally.statistics()

    def close(self) -> None:
        """End the host, its workers and everything that they started; safe to call twice."""
        self._host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin(self) -> _Call:
        if self._host.closed:
            raise ScoringError("the scoring service is closed; make a new one")
        if self._running is not None:
            self._host.send(CANCEL + b"\n")
        self._tally = Tally([reward.source for reward in self._rewards])
        self._running = _Call(self._rewards, self._host, self._tally, self._ids)
        return self._running

    def _finish(self, call: _Call) -> None:
        if self._running is call:
            self._running = None
            if call.open:
                self._host.send(CANCEL + b"\n")


class _Slots:
    """The components of one group while they arrive."""

    def __init__(self, group: Group, rewards: int) -> None:
        self.group = group
        self.missing = len(group.responses) * rewards
        self.components: list[list[Component | None]] = [[None] * rewards for _ in group.responses]

    def scored(self) -> ScoredGroup:
        rows = tuple(tuple(part for part in row if part is not None) for row in self.components)
        return ScoredGroup(self.group, rows, tuple(map(total, rows)))


class _Call:
    """One `score` call: which tasks are out, what has come back."""

    def __init__(self, rewards: Sequence[RewardConfig], host: HostProcess, tally: Tally, ids: count[int]) -> None:
        self._rewards, self._host, self._tally, self._ids = rewards, host, tally, ids
        self._inbox: Inbox = host.listen()
        self._tasks: dict[int, tuple[_Slots, int]] = {}
        self._complete: deque[_Slots] = deque()
        self._responses = 0
        self._max_failure_rate: float | None = None
        self.open = 0
        """groups that were submitted and are not complete"""

    def submit(self, group: Group) -> None:
        slots = _Slots(group, len(self._rewards))
        self.open += 1
        if slots.missing == 0:
            self._settle(slots)
            return
        first = next(self._ids)
        ids = [first, *(next(self._ids) for _ in group.responses[1:])]
        self._tasks.update((id_, (slots, sample)) for sample, id_ in enumerate(ids))
        self._responses += len(ids)
        self._host.send(dump_tasks(first, group.problem, group.responses))

    def close_intake(self, max_failure_rate: float) -> None:
        """The number of calls is known from here on, so a failure rate means something."""
        self._max_failure_rate = max_failure_rate
        self._tally.check(max_failure_rate, self._responses)

    def completed(self) -> Iterator[ScoredGroup]:
        """The groups that are complete now, without waiting."""
        while not self._inbox.empty():
            self.wait()
        while self._complete:
            yield self._complete.popleft().scored()

    def wait(self) -> None:
        """Wait for the next result and put it where it belongs.

        Raises:
            ScoringError: the host died, another call took over, or a source fails too often.
        """
        line = self._inbox.get()
        if line is None and self._host.closed:
            raise ScoringError("this score call was cut off: its service was closed")
        if line is None and not self._host.ended:
            raise ScoringError("this score call was cancelled: another one was started on the same service")
        if line is None:
            raise ScoringError(f"the scoring host, which runs the reward sources, {self._host.obituary()}")
        self._take(load_result(line))

    def _take(self, result: Result) -> None:
        if result.task not in self._tasks:
            return  # of a call that was cancelled
        slots, sample = self._tasks[result.task]
        reward = self._rewards[result.reward]
        part = component(reward, result.outcome(reward.source), result.seconds)
        slots.components[sample][result.reward] = part
        slots.missing -= 1
        self._tally.add(part, slots.group.problem.id, sample)
        if slots.missing == 0:
            self._settle(slots)
        if part.failure is not None and self._max_failure_rate is not None:
            self._tally.check(self._max_failure_rate, self._responses)

    def _settle(self, slots: _Slots) -> None:
        self.open -= 1
        self._complete.append(slots)


def _check_start(host: HostProcess) -> None:
    line = host.first_line()
    if line is None:
        raise ScoringError(f"the scoring host did not start: it {host.obituary()}")
    answer = json.loads(line)
    if "refused" in answer:
        raise ConfigError(answer["refused"])
