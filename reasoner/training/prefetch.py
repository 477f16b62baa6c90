"""Sampling ahead of the update (`sampling.max_staleness = k`): later steps' groups are sampled while this step's update
runs.

    step t:   take the groups that were sampled for it
              sync the weights after update t - 1, and have the groups of all steps up to t + k sampled
              update t

The groups of a step are sampled after those of the step before, so the oldest token of a response is of weights that
are at most k training steps older than those that learn from it, and the correction of its term weighs that. With k = 1
nothing is being sampled when the weights go over: the order of sampling, and so its seeds, problems and weights, does
not depend on how long anything takes, and a run repeats itself exactly where its sampler does. With more, the weights
change under what is being sampled.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Condition
from typing import Protocol, Self

from reasoner.records import Group
from reasoner.sampling.base import Progress
from reasoner.training.rollout import StepRollouts


class Collect(Protocol):
    """`RolloutCollector.collect` of one step."""

    def __call__(self, *, progress: Progress, on_group: Callable[[Group], None]) -> StepRollouts: ...


class Prefetcher:
    """Collects rollouts beside the update. Leaving the context waits for the thread: end the sampler before."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sampling ahead")
        self._steps: deque[tuple[int, Future[StepRollouts]]] = deque()
        """steps whose groups are sampled, or are being sampled"""
        self._groups: list[Group] = []
        """what the sampler gave since `take`"""
        self._news = Condition()
        """of the groups, and of collections that end"""
        self._progress: Progress | None = None
        self._seconds = 0.0

    def start(self, step: int, collect: Collect) -> None:
        """Have a step's groups sampled and scored, after those of the steps before."""

        def on_group(group: Group) -> None:
            with self._news:
                self._groups.append(group)
                self._news.notify_all()

        def collected() -> StepRollouts:
            started = time.perf_counter()
            try:
                return collect(progress=self._tell, on_group=on_group)
            finally:
                self._seconds = time.perf_counter() - started

        future = self._thread.submit(collected)
        self._steps.append((step, future))
        future.add_done_callback(self._ended)

    def restore(self, rollouts: Sequence[StepRollouts]) -> None:
        """Take groups that were sampled before the run was interrupted; their sampler is gone."""
        for rollout in rollouts:
            future: Future[StepRollouts] = Future()
            future.set_result(rollout)
            self._steps.append((rollout.step, future))

    @property
    def seconds(self) -> float:
        """How long the last collection took."""
        return self._seconds

    @property
    def is_settled(self) -> bool:
        """Whether nothing is under way and nothing has failed: what a checkpoint can hold."""
        return all(future.done() and future.exception() is None for _, future in self._steps)

    @property
    def ready(self) -> tuple[StepRollouts, ...]:
        """Rollouts that wait to be taken; none unless all are complete."""
        return tuple(future.result() for _, future in self._steps) if self.is_settled else ()

    @property
    def last(self) -> int:
        """The last step whose groups are sampled, or are being sampled; 0: there is none."""
        return self._steps[-1][0] if self._steps else 0

    def wait(self, progress: Progress = lambda done, total: None) -> None:
        """Wait until nothing is being sampled: the sampler is free then.

        Raises:
            RunError: the sampler or the scoring service failed.
        """
        for _, future in self._steps:
            self._wait(future, progress)

    def take(self, step: int, progress: Progress) -> StepRollouts | None:
        """The groups of a step, waited for; None: none were sampled for it. Those of steps before it are dropped.

        Raises:
            RunError: the sampler or the scoring service failed.
        """
        with self._news:
            self._groups = []
        while self._steps and self._steps[0][0] <= step:
            rollouts = self._wait(self._steps[0][1], progress)
            self._steps.popleft()
            if rollouts.step == step:
                return rollouts
        return None

    def first(self, fits: Callable[[Group], bool]) -> Group | None:
        """The first group since `take` that this rank's sampler gave and that fits, waited for; None: there is none.

        Raises:
            RunError: the sampler failed before.
        """
        with self._news:
            while True:
                group = next(filter(fits, self._groups), None)
                if group or all(future.done() for _, future in self._steps):
                    break
                self._news.wait()
        if group is None:
            self.wait()
        return group

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _wait(self, future: Future[StepRollouts], progress: Progress) -> StepRollouts:
        self._progress = progress
        rollouts = future.result()
        self._progress = None
        return rollouts

    def _ended(self, future: Future[StepRollouts]) -> None:
        with self._news:
            self._news.notify_all()

    def _tell(self, done: int, total: int) -> None:
        """The view follows only while something waits: otherwise it shows the update."""
        if self._progress:
            self._progress(done, total)
