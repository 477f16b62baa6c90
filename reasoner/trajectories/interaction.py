"""What the policy interacts with between its turns."""

from __future__ import annotations

from dataclasses import dataclass

from reasoner.data.turn_formats import TurnFormat
from reasoner.environments.base import Environments


@dataclass(frozen=True, slots=True)
class Interaction:
    """Tools, perhaps an environment, and how turns are written for them."""

    environments: Environments
    turn_format: TurnFormat
    """Finds the calls in what the policy wrote, and writes what answers them as tokens."""
    max_turns: int
    """Most turns of the policy in one response; the environment counts them, and ends it."""
