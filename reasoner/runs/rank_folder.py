"""The run folder as a rank sees that is not the first: a folder of its own below it, for logs.

<run>/ranks/rank-1/
    log.txt          what this rank's view would show
    output.txt       what it printed
    sampler.log
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from reasoner.evaluation.metrics import Evaluation
from reasoner.evaluation.training_gate import TrainingGate
from reasoner.io.folder_lock import Lock
from reasoner.records import NonFiniteResponse, Rollout
from reasoner.runs.folder import RunFolder, as_read


class RankFolder(RunFolder):
    """Takes what the first rank writes, and writes nothing but logs."""

    def __init__(
        self,
        run_folder: Path,
        history: Iterable[Mapping[str, float]],
        evaluations: Mapping[int, Evaluation],
        rank: int,
    ) -> None:
        folder = run_folder / "ranks" / f"rank-{rank}"
        folder.mkdir(parents=True, exist_ok=True)
        _keep_output(folder / "output.txt")
        super().__init__(folder, Lock(folder), history, evaluations)
        self.model_folder = run_folder / "model"

    def add_fact(self, name: str, fact: str) -> None:
        pass

    def commit(self, step: int, metrics: Mapping[str, float], rollouts: Sequence[Rollout]) -> None:
        self.history.append(as_read(metrics))

    def commit_evaluation(self, step: int, evaluation: Evaluation, rollouts: Sequence[Rollout]) -> None:
        self.evaluations[step] = evaluation

    def commit_gate(self, gate: TrainingGate) -> None:
        pass

    @contextmanager
    def saving_checkpoint(self) -> Iterator[Path]:
        yield self.folder

    def keep_checkpoints(self, steps: Collection[int]) -> None:
        pass

    def warn(self, warnings: Sequence[Any]) -> None:
        pass

    def keep_timeline(self, timeline: Any) -> None:
        pass

    def keep_nonfinite(self, step: int, nonfinite: Sequence[NonFiniteResponse]) -> Path:
        return self.folder.parents[1] / "not-finite" / f"step-{step:06}.parquet"

    @contextmanager
    def saving_model(self) -> Iterator[Path]:
        yield self.folder


def _keep_output(file: Path) -> None:
    """Give the launcher's log of this rank a second name, under which it stays."""
    if stat.S_ISREG(os.fstat(1).st_mode):
        with suppress(OSError):  # on another file system it stays where the launcher wrote it
            os.link(Path("/proc/self/fd/1").readlink(), file)
