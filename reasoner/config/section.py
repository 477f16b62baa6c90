"""The base of every section, and the types of numbers that several sections share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
COLDEST, HOTTEST = 0.01, 2.0
"""The range of temperatures that sample. vLLM silently raises lower ones to the first and refuses those above the
second; transformers follows the same rule here, so that a run can change its engine."""


class Section(BaseModel):
    """Base of all sections: frozen, without unknown keys, without silent conversion of strings to numbers."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        defer_build=True,  # hosts of workers, and commands that only look, import sections and check none
    )


def mistake_of_temperature(temperature: float) -> str:
    """What is wrong with a sampling temperature, or an empty string."""
    if temperature == 0.0 or COLDEST <= temperature <= HOTTEST:
        return ""
    return f"must be 0 (greedy) or from {COLDEST:g} to {HOTTEST:g}"


def _temperature(temperature: float) -> float:
    if wrong := mistake_of_temperature(temperature):
        raise PydanticCustomError("temperature", wrong)
    return temperature


Temperature = Annotated[float, AfterValidator(_temperature)]
"""0 for greedy decoding, or a temperature that samples."""
