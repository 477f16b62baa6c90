"""One step off-policy (`sampling.ahead = 1`): the next step's groups are sampled while this step's update runs.

    step t:   take the groups that were sampled during update t - 1   (with the weights before it)
              sync the weights after it, and begin to sample for t + 1
              update t

So every response is at most one training step older than the weights that learn from it, and the correction of its
term weighs that. The order of sampling, and so its seeds, problems and weights, does not depend on how long anything
takes: a run repeats itself exactly where its sampler does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
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
        self._future: Future[StepRollouts] | None = None
        self._first: Future[Group | None] = Future()
        self._progress: Progress | None = None
        self._seconds = 0.0

    def start(self, collect: Collect) -> None:
        """Begin to sample and score the next step's groups."""
        first: Future[Group | None] = Future()

        def on_group(group: Group) -> None:
            if not first.done():
                first.set_result(group)

        def collected() -> StepRollouts:
            started = time.perf_counter()
            try:
                return collect(progress=self._tell, on_group=on_group)
            finally:
                self._seconds = time.perf_counter() - started
                if not first.done():
                    first.set_result(None)

        self._first = first
        self._future = self._thread.submit(collected)

    def restore(self, rollouts: StepRollouts) -> None:
        """Take groups that were sampled before the run was interrupted."""
        self._future, self._first = Future(), Future()
        self._future.set_result(rollouts)
        self._first.set_result(None)  # its sampler is gone

    @property
    def seconds(self) -> float:
        """How long the last collection took."""
        return self._seconds

    @property
    def is_settled(self) -> bool:
        """Whether nothing is under way and nothing has failed: what a checkpoint can hold."""
        return self._future is None or (self._future.done() and self._future.exception() is None)

    @property
    def ready(self) -> StepRollouts | None:
        """Rollouts that wait to be taken; None: there are none, or they are not complete."""
        return self._future.result() if self._future and self.is_settled else None

    def wait(self, progress: Progress = lambda done, total: None) -> None:
        """Wait until nothing is being sampled: the sampler is free then.

        Raises:
            RunError: the sampler or the scoring service failed.
        """
        if self._future:
            self._progress = progress
            self._future.result()
            self._progress = None

    def take(self, step: int, progress: Progress) -> StepRollouts | None:
        """The groups of a step, waited for; None: none were sampled for it.

        Raises:
            RunError: the sampler or the scoring service failed.
        """
        self.wait(progress)
        rollouts, self._future = self._future, None
        return rollouts.result() if rollouts and rollouts.result().step == step else None

    def first(self) -> Group | None:
        """The first group that this rank's sampler gives, waited for; None: it has none to give.

        Raises:
            RunError: the sampler failed before.
        """
        if self._future is None:
            return None
        group = self._first.result()
        if group is None:
            self.wait()
        return group

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.shutdown(wait=True)

    def _tell(self, done: int, total: int) -> None:
        """The view follows only while something waits: otherwise it shows the update."""
        if self._progress:
            self._progress(done, total)
