"""The plain view: lines of text for a pipe and for `log.txt`, without colours."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from reasoner.evaluation.metrics import Evaluation
from reasoner.monitoring import lines
from reasoner.monitoring.alarms import Warned
from reasoner.monitoring.summary import as_text
from reasoner.monitoring.view import Summary

QUIET_S = 10.0
"""seconds without a line after which a stage says how far it is"""


class PlainView:
    """Writes one block of text per event."""

    def __init__(
        self, write: Callable[[str], None], ascii_only: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write_block = write
        self._ascii_only = ascii_only
        self._clock = clock
        self._written = clock()
        self._last_steps: deque[Mapping[str, float]] = deque(maxlen=lines.RECENT)

    def started(self, facts: Mapping[str, str], steps: int) -> None:
        self._write(lines.facts(facts))

    def resumed(self, history: Sequence[Mapping[str, float]], evaluations: Sequence[Evaluation], steps: int) -> None:
        self._last_steps.extend(history[-lines.RECENT :])

    def message(self, text: str) -> None:
        self._write(text)

    def stage(self, name: str, done: int, total: int) -> None:
        if self._clock() - self._written >= QUIET_S:
            self._write(f"  {name} {done}/{total}" if total else f"  {name} ...")

    def evaluated(self, when: str, evaluation: Evaluation) -> None:
        self._write(lines.evaluation(when, evaluation))

    def step(self, step: int, total: int, metrics: Mapping[str, float], warnings: Sequence[Warned]) -> None:
        self._last_steps.append(metrics)
        self._write(lines.step(step, total, [*self._last_steps]))
        for warned in lines.new(warnings, step):
            self._write(lines.warning(warned))

    def finished(self, summary: Summary) -> None:
        self._write(as_text(summary, self._ascii_only))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def _write(self, text: str) -> None:
        self._write_block(text)
        self._written = self._clock()
