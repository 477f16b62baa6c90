"""Links: how distance from the anchor becomes weight. Differentiable in `u = evidence - anchor`; credit `c` carries
no gradient.

A link is written as the value whose gradient is wanted; nobody derives that gradient by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner.gro.terms import Clip, Linear, Link


def link(spec: Link, u: Tensor, c: Tensor) -> Tensor:
    """link(c, u), elementwise.

    linear:  c u
    clip:    min(e^u c, clamp(e^u, 1 - low, 1 + high) c); with `dual = d` and c < 0 also max(., d c)
    """
    match spec:
        case Linear():
            return c * u
        case Clip():
            ratio = u.exp()
            value = torch.minimum(ratio * c, ratio.clamp(1 - spec.low, 1 + spec.high) * c)
            return value if spec.dual is None else torch.where(c < 0, torch.maximum(value, spec.dual * c), value)


def kl_estimate(estimator: str, u: Tensor) -> Tensor:
    """Elementwise estimate of KL(theta || reference) from u = l - l_ref: k2 = u^2 / 2, k3 = e^-u - 1 + u."""
    match estimator:
        case "k2":
            return u.square() / 2
        case "k3":
            return torch.expm1(-u) + u
    raise ValueError(f"unknown KL estimator {estimator!r}; known: k2, k3")
