"""Sections on rewards and the workers that compute them: `[[rewards]]`, `[scoring]`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from reasoner.config.section import Fraction, Positive, Section


class RewardConfig(Section):
    """`[[rewards]]`: one reward source and its weight."""

    source: str
    """Name of a registered reward source (`reasoner rewards list`)."""
    weight: float = 1.0
    """Factor of the source's value in the total reward."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the source (`reasoner rewards show NAME`)."""
    timeout_s: Annotated[float, Field(gt=0.0)] | None = None
    """Seconds that a call may take before the worker and everything it started is killed; `none` takes the source's
    default."""
    gate: bool = False
    """Use the source as a condition on the total instead of adding it: where its value is 0 or below, the total reward
    is at most 0."""
    when: str | None = None
    """Name of an earlier reward source: this one is scored only where that one's value is above 0, and contributes 0
    elsewhere."""
    on_failure: Literal["abstain", "zero", "drop-group", "abort"] = "abstain"
    """Effect of a failed call: `abstain` leaves the response without a reward, `zero` counts the value as 0,
    `drop-group` leaves its whole group without rewards, `abort` stops the run."""
    retries: Annotated[int, Field(ge=0)] | None = None
    """Further attempts after a call that raised, within `timeout_s`; `none` takes the source's default."""
    max_calls: Annotated[int, Field(ge=0)] | None = None
    """Most calls per run, retries not counted; calls beyond it fail. `none` sets no limit."""

    @model_validator(mode="after")
    def _gate_without_weight(self) -> Self:
        if self.gate and self.weight != type(self).model_fields["weight"].default:
            raise ValueError(
                f"weight = {self.weight} of the gate {self.source!r} would have no effect: a gate is not summed; "
                "leave weight out, or gate"
            )
        return self


class ScoringConfig(Section):
    """`[scoring]`: the worker processes that run reward sources."""

    workers: Positive = 2
    """Worker processes shared by the sources that have no workers of their own."""
    memory_mb: Positive = 2048
    """Address space that one worker may take, in MB."""
    max_failure_rate: Fraction = 0.5
    """Share of a step's responses on which a source may fail; above it the run stops."""
    cache: Annotated[int, Field(ge=0)] = 100_000
    """Scores kept to answer equal calls without running the source again; 0 keeps none."""
