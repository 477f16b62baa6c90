"""The section on the run itself: `[run]`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from reasoner.config.section import Positive, Section


class RunConfig(Section):
    """`[run]`: length of the run, its folder and its checkpoints."""

    ranks: Positive = 1
    """Processes that train together, one per GPU (`--gpus`)."""
    steps: Positive = 100
    """Training steps."""
    output: str = "runs"
    """Folder in which the run folder is created."""
    max_hours: Annotated[float, Field(gt=0.0)] | None = None
    """Stop after this many hours, with a checkpoint saved before they are over; the run can be resumed. `none` sets no
    limit."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of sampling and of shuffling the training data."""
    checkpoint_every: Positive | None = None
    """Steps between checkpoints; `none` writes them as often as takes 2% of the time. The last step always has one."""
    keep_last: Annotated[int, Field(ge=0)] = 2
    """Newest checkpoints kept while the run trains (one once it is finished). With 0 none is written, and the run
    cannot be resumed."""
    keep_rollouts: Positive = 1
    """Training steps of which one has its responses kept in `rollouts/`; the first and the last always have, and so do
    evaluations. Metrics are of every step."""
    keep_best: Annotated[int, Field(ge=0)] = 1
    """Checkpoints kept in addition for their evaluation results (`evaluation.every`), the best ones."""
