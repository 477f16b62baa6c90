"""What the weights of a term look like: sums over responses, added over micro-batches."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

_LARGEST = {"ratio_max"}


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Sums over the responses of a term that were weighed; `+` joins micro-batches."""

    loss: float = 0.0
    positive: float = 0.0
    """Sum of w where w > 0: these tokens are pushed up."""
    negative: float = 0.0
    """Sum of -w where w < 0: these tokens are pushed down."""
    tokens: int = 0
    """Tokens that the policy wrote, of responses that count."""
    nonzero: int = 0
    """Tokens with w != 0."""
    clipped: int = 0
    """Tokens with credit but w = 0: the link has clipped them."""
    response_mass: float = 0.0
    """Sum over responses of m_i = sum_t |w[i,t]|."""
    response_mass_squared: float = 0.0
    """Sum over responses of m_i^2; mass^2 / mass_squared is the effective number of responses."""
    kl: float = 0.0
    """Sum over tokens of the KL estimate, nats."""
    ratio: float = 0.0
    """Sum over tokens of the ratio e^(l - l_old)."""
    ratio_max: float = 0.0
    corrected: int = 0
    """Tokens whose importance weight was truncated."""
    pairs: int = 0
    pairs_right: int = 0
    """Pairs in which the chosen response has more evidence than the rejected one."""
    margin: float = 0.0
    """Sum over pairs of the difference of their evidence."""

    def __add__(self, other: Diagnostics) -> Diagnostics:
        joined = {f.name: _join(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Diagnostics(**joined)

    def metrics(self, weight: float, counted_tokens: int) -> dict[str, float]:
        """The figures of a step without their prefix (`reasoner.monitoring.metrics` documents them). What is a mean
        over weighed tokens, or pairs, is left out of a step that had none.

        Args:
            weight: lambda of the term.
            counted_tokens: tokens that count in the term; those that cost no forward are among the zero ones.
        """
        values = {
            "weight": weight,
            "loss": self.loss,
            "positive": self.positive,
            "negative": self.negative,
            "zero_share": 1.0 - self.nonzero / max(counted_tokens, 1),
            "clipped_share": self.clipped / max(counted_tokens, 1),
            "ess": self.response_mass**2 / self.response_mass_squared if self.response_mass else 0.0,
        }
        if self.tokens:
            values |= {
                "ratio_mean": self.ratio / self.tokens,
                "ratio_max": self.ratio_max,
                "kl": self.kl / self.tokens,
                "corrected_share": self.corrected / self.tokens,
            }
        if self.pairs:
            values |= {
                "pairs": float(self.pairs),
                "accuracy": self.pairs_right / self.pairs,
                "margin": self.margin / self.pairs,
            }
        return values


def _join(name: str, one: Any, other: Any) -> Any:
    return max(one, other) if name in _LARGEST else one + other
