"""One call of the sampler: groups that are begun or continued, until enough of them are complete."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from anyio import CancelScope

from reasoner.environments.base import EnvironmentSession
from reasoner.io.token_array import TokenArray
from reasoner.records import UNKNOWN_EXPERT, Group, PartialGroup, PartialResponse, Response, Routes
from reasoner.sampling.base import Oldest
from reasoner.trajectories.interaction import Interaction
from reasoner.trajectories.token_client import TokenClient
from reasoner.trajectories.trajectory import (
    GroupPrompt,
    ResponseOutcome,
    SamplingContext,
    Trajectory,
    sample_single_turns,
)

Sessions = dict[tuple[str, int], EnvironmentSession]
"""open between two draws: problem id, index of the response -> session"""


@dataclass
class GroupInProgress:
    """A group while it is made."""

    sampling: SamplingContext
    interaction: Interaction | None
    """None: responses of one turn"""
    group_prompt: GroupPrompt
    size: int
    """responses"""
    complete: dict[int, Response] = field(default_factory=dict)
    partial: dict[int, PartialResponse] = field(default_factory=dict)
    is_due: bool = False
    """it would be too old at the next step"""
    begins_anew: bool = False
    """it is too old already: its sessions are at turns that are given up"""

    def take(self, kept: PartialGroup, oldest: Oldest) -> None:
        """Go on with what there is of it, unless that is too old by now."""
        version = oldest.next if kept.version is None else kept.version
        self.begins_anew, self.is_due = version < oldest.now, oldest.now <= version < oldest.next
        if self.begins_anew:
            self._give_up(kept)
            return
        self.group_prompt.opening_ids = kept.prompt_ids
        self.partial = {partial.sample: partial for partial in kept.partial}
        self.complete = {
            sample: replace(response, carried_tokens=len(response.token_ids))
            for sample, response in zip(kept.samples, kept.responses, strict=True)
        }

    def _give_up(self, kept: PartialGroup) -> None:
        """Count what there is of it, and keep nothing else."""
        given_up = {partial.sample: (partial.policy_mask, partial.discarded_tokens) for partial in kept.partial}
        for sample, response in zip(kept.samples, kept.responses, strict=True):
            given_up[sample] = response.policy_mask, response.discarded_tokens
        self.partial = {
            sample: PartialResponse(sample, discarded_tokens=before + sum(mask))
            for sample, (mask, before) in given_up.items()
        }

    @property
    def is_complete(self) -> bool:
        return len(self.complete) == self.size

    @property
    def group(self) -> Group:
        """When it is complete."""
        responses = tuple(self.complete[sample] for sample in range(self.size))
        token_ids = self.group_prompt.token_ids
        return Group(self.group_prompt.prompt.problem, token_ids, with_one_prompt(responses, len(token_ids)))

    @property
    def kept(self) -> PartialGroup:
        """What there is of it, for a later draw."""
        samples = sorted(self.complete)
        return PartialGroup(
            self.group_prompt.prompt.problem,
            self.group_prompt.token_ids,
            tuple(samples),
            tuple(self.complete[sample] for sample in samples),
            tuple(self.partial[sample] for sample in sorted(self.partial)),
        )

    def add(self, sample: int, outcome: ResponseOutcome) -> None:
        """A response, or what there is of one."""
        if isinstance(outcome, Response):
            self.partial.pop(sample, None)
            self.complete[sample] = outcome
        else:
            self.partial[sample] = outcome


def with_one_prompt(responses: tuple[Response, ...], prompt: int) -> tuple[Response, ...]:
    """The responses of a group with the same experts for their prompt: those with which the first that has any read it.

    The sampler may have read the prompt several times, with other weights or other rounding. The learner reads it once
    for as many responses as fit into a packed sequence, and its numbers must not depend on which these are.

    Args:
        prompt: tokens of the prompt.
    """
    first = next((response for response in responses if response.routes), None)
    if first is None:
        return responses
    width = len(first.routes) // (prompt + len(first.token_ids) - 1)
    of_prompt = first.routes[: prompt * width]

    def routes(response: Response) -> Routes:
        unread = [UNKNOWN_EXPERT] * (width * (len(response.token_ids) - 1))
        return TokenArray.joined([of_prompt, response.routes[prompt * width :] or unread], "uint16")

    return tuple(replace(response, routes=routes(response)) for response in responses)


@dataclass
class Draw:
    """Makes groups, all responses at the same time.

    Args:
        client: what all of them are generated with; closed at the end.
        groups: all of them.
        wanted: how many are enough; those that are due are among them. What is complete beyond that waits for the next
            draw, like what is not complete.
        sessions: those that are open; at the end, those of responses that are not complete.
        done: takes each group, as soon as it is complete.
    """

    client: TokenClient
    groups: Sequence[GroupInProgress]
    wanted: int
    sessions: Sessions
    done: Callable[[Group], None]
    _given: int = 0
    _trajectories: dict[asyncio.Task[None], Trajectory] = field(default_factory=dict)

    async def run(self) -> list[PartialGroup]:
        """Make them; returns what there is of those that are not given to `done`.

        Raises:
            SamplerError: the engine failed, or is gone.
        """
        await self._end_sessions()
        tasks = [task for group in self.groups for task in self._begin(group)]
        try:
            waiting = self._give([*self.groups])
            for next_ in asyncio.as_completed(tasks) if self._given < self.wanted else ():
                await next_
                waiting = self._give(waiting)
                if self._given == self.wanted:
                    break
            await self._stop(tasks)
            await self._keep_sessions()
        finally:
            await self._end(tasks)
        return [group.kept for group in waiting]

    async def _end(self, tasks: Collection[asyncio.Task[None]]) -> None:
        """Leave nothing running."""
        with CancelScope(shield=True):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.client.close()

    async def _end_sessions(self) -> None:
        """Of groups that begin anew."""
        for group in self.groups:
            for sample in range(group.size) if group.begins_anew else ():
                if session := self.sessions.pop((group.group_prompt.prompt.problem.id, sample), None):
                    await session.close()

    def _begin(self, group: GroupInProgress) -> Iterator[asyncio.Task[None]]:
        """Begin what is not complete of a group: its responses of one turn together, others one by one."""
        samples = [sample for sample in range(group.size) if sample not in group.complete]
        if group.interaction is None:
            if samples:
                yield asyncio.create_task(_run_single_turns(group, samples))
            return
        for sample in samples:
            kept = group.partial.get(sample, PartialResponse(sample))
            session = self.sessions.pop((group.group_prompt.prompt.problem.id, sample), None)
            trajectory = Trajectory(group.sampling, group.interaction, group.group_prompt, sample, kept, session)
            task = asyncio.create_task(_run_trajectory(group, trajectory))
            self._trajectories[task] = trajectory
            yield task

    def _give(self, groups: list[GroupInProgress]) -> list[GroupInProgress]:
        """Give the groups that are complete, as far as there are places for them; returns the others."""
        left: list[GroupInProgress] = []
        due = sum(group.is_due for group in groups)
        for group in groups:
            reserved = 0 if group.is_due else due
            if group.is_complete and self._given + reserved < self.wanted:
                due -= group.is_due
                self._given += 1
                self.done(group.group)
            else:
                left.append(group)
        return left

    async def _stop(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Interrupt what is not complete. A call of a tool or an environment that is under way is waited for: it has a
        deadline.

        Raises:
            SamplerError: the engine failed, or is gone, or does not end what it was told to end.
        """
        for task, trajectory in self._trajectories.items():
            if trajectory.session is None or trajectory.is_opening:  # it may wait for the place of another
                task.cancel()
        await self.client.stop()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
                raise ended

    async def _keep_sessions(self) -> None:
        """Keep the sessions of what is not complete, up to half of those that may be open: an evaluation needs some
        before the next step. The others are rebuilt."""
        kept: Counter[int] = Counter()
        for trajectory in self._trajectories.values():
            if trajectory.session is None:
                continue
            environments = trajectory.interaction.environments
            kept[id(environments)] += 1
            if kept[id(environments)] <= environments.most_sessions // 2:
                self.sessions[trajectory.group.prompt.problem.id, trajectory.sample] = trajectory.session
            else:
                await trajectory.session.close()


@dataclass
class QueueDraw(Draw):
    """Makes groups of a queue that several engines share, so many at the same time: the next one begins when one is
    complete. `groups` are those of all engines, `wanted` the number that is made at the same time.

    Args:
        take: the index of the next group that is this engine's; None: there is none.
    """

    take: Callable[[], int | None] = lambda: None

    async def run(self) -> list[PartialGroup]:
        """As of `Draw`; nothing is left over."""
        tasks: dict[asyncio.Task[None], GroupInProgress] = {}
        running = 0
        try:
            while True:
                while running < self.wanted and (index := self.take()) is not None:
                    tasks |= dict.fromkeys(self._begin(self.groups[index]), self.groups[index])
                    running += 1
                if not tasks:
                    return []
                ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(ended, key=[*tasks].index):
                    group = tasks.pop(task)
                    task.result()
                    if not any(other is group for other in tasks.values()):
                        running -= 1
                        self.done(group.group)
        finally:
            await self._end(tasks)


async def _run_single_turns(group: GroupInProgress, samples: Sequence[int]) -> None:
    for sample, outcome in await sample_single_turns(group.sampling, group.group_prompt, samples, group.partial):
        group.add(sample, outcome)


async def _run_trajectory(group: GroupInProgress, trajectory: Trajectory) -> None:
    group.add(trajectory.sample, await trajectory.run())
