"""One thing that `reasoner doctor` looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FindingState = Literal["ok", "missing", "broken"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found, and what to do about it."""

    name: str
    state: FindingState
    detail: str
    """what was found"""
    advice: str = ""
    """what to do about it; empty when it is ok"""
