"""The view of a run: fed with plain events, it decides how they look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from reasoner.evaluation.examples import Example
from reasoner.evaluation.metrics import Evaluation
from reasoner.evaluation.training_gate import TrainingGate
from reasoner.io.redaction import redact
from reasoner.monitoring.alarms import Warned


@dataclass(frozen=True, slots=True)
class Summary:
    """What the end of a run tells."""

    task: str
    correct: str
    """what makes a response correct: `math`, `judge >= 0.8`; empty: nothing was sampled"""
    history: Sequence[Mapping[str, float]]
    """the metrics of every step"""
    warnings: Sequence[Warned]
    """all that were given, in order"""
    evaluations: tuple[Evaluation, Evaluation] | None
    """before and after training; None: the run had nothing to evaluate on"""
    examples: Sequence[Example]
    """responses of these evaluations"""
    gate: TrainingGate | None
    """what was found on a few training problems before training; None: nothing was sampled for it"""
    set_up_s: float
    """seconds from the run's folder to the first evaluation: models and engines"""
    evaluation_s: float
    """seconds in all evaluations"""
    total_s: float
    """seconds from the run's folder to this summary (`reasoner.runs.clock`)"""
    run_folder: Path
    model_folder: Path
    next_commands: Mapping[str, str]
    """what one may want to do next -> its command line"""


class View(Protocol):
    """Shows a run while it happens. A context manager: leaving it gives the terminal back."""

    def started(self, facts: Mapping[str, str], steps: int) -> None:
        """What was chosen, and why: device, engine, profile, data, model, rewards, method, output folder.

        `steps`: training steps of the run.
        """
        ...

    def resumed(self, history: Sequence[Mapping[str, float]], evaluations: Sequence[Evaluation], steps: int) -> None:
        """The run is resumed after the steps with these metrics, of `steps` in all, and after these evaluations."""
        ...

    def message(self, text: str) -> None:
        """Something worth knowing, once."""
        ...

    def stage(self, name: str, done: int, total: int) -> None:
        """Progress within a stage (`sampling`: responses; `scoring`; `update`). `total` 0: not known."""
        ...

    def evaluated(self, when: str, evaluation: Evaluation) -> None:
        """An evaluation is done; `when`: `before training`, `after step 20`, `after training`."""
        ...

    def step(self, step: int, total: int, metrics: Mapping[str, float], warnings: Sequence[Warned]) -> None:
        """A step is committed; `warnings`: those that hold now, new ones have this step."""
        ...

    def finished(self, summary: Summary) -> None:
        """The run is done."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Views:
    """Several views as one, which show no secrets."""

    def __init__(self, *views: View, ranks: int = 1) -> None:
        """`ranks`: how many have even shares of the work, of which this process tells its own."""
        self.views = views
        self.ranks = ranks

    def started(self, facts: Mapping[str, str], steps: int) -> None:
        shown = {name: redact(fact) for name, fact in facts.items()}
        for view in self.views:
            view.started(shown, steps)

    def resumed(self, history: Sequence[Mapping[str, float]], evaluations: Sequence[Evaluation], steps: int) -> None:
        for view in self.views:
            view.resumed(history, evaluations, steps)

    def message(self, text: str) -> None:
        shown = redact(text)
        for view in self.views:
            view.message(shown)

    def stage(self, name: str, done: int, total: int) -> None:
        of_all = min(done * self.ranks, total) if total else done * self.ranks
        for view in self.views:
            view.stage(name, of_all, total)

    def evaluated(self, when: str, evaluation: Evaluation) -> None:
        for view in self.views:
            view.evaluated(when, evaluation)

    def step(self, step: int, total: int, metrics: Mapping[str, float], warnings: Sequence[Warned]) -> None:
        for view in self.views:
            view.step(step, total, metrics, warnings)

    def finished(self, summary: Summary) -> None:
        for view in self.views:
            view.finished(summary)

    def __enter__(self) -> Self:
        for view in self.views:
            view.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        for view in reversed(self.views):
            view.__exit__(*exc)
