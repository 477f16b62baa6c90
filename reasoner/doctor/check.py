"""One thing that `reasoner doctor` looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was found, and what to do about it."""

    name: str
    state: State
    detail: str
    """what was found"""
    advice: str = ""
    """what to do about it; empty when it is ok"""
