"""Links: how distance from the anchor becomes weight. Differentiable in `u = evidence - anchor`; credit `c` carries
no gradient.

A link is written as the value whose gradient is wanted; nobody derives that gradient by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from reasoner.gro.terms import (
    Clip,
    CustomLink,
    Hinge,
    Linear,
    Link,
    LinkFunction,
    LogSigmoid,
    Sigmoid,
    Square,
    Truncate,
)

LARGEST = 60.0
"""log-ratio above which a ratio grows no further: e^u of a long response would overflow, and inf * 0 is NaN"""


def link(spec: Link | LinkFunction, u: Tensor, c: Tensor) -> Tensor:
    """link(c, u), elementwise.

    linear:      c u
    clip:        min(e^u c, clamp(e^u, 1 - low, 1 + high) c); with `dual = d` and c < 0 also max(., d c)
    truncate:    sg(min(e^u, cap)) c u
    logsigmoid:  c ((1 - smoothing) log s(u) + smoothing log s(-u))
    sigmoid:     lambda_y s(y u) with y = sign(c), 0 for c = 0
    square:      -c u^2
    hinge:       c min(u, 0)
    """
    match spec:
        case Linear():
            return c * u
        case Clip():
            ratio = u.clamp(max=LARGEST).exp()
            value = torch.minimum(ratio * c, ratio.clamp(1 - spec.low, 1 + spec.high) * c)
            return value if spec.dual is None else torch.where(c < 0, torch.maximum(value, spec.dual * c), value)
        case Truncate():
            return u.exp().clamp(max=spec.cap).detach() * c * u
        case LogSigmoid():
            return c * ((1 - spec.smoothing) * logsigmoid(u) + spec.smoothing * logsigmoid(-u))
        case Sigmoid():
            factor = spec.desirable * (c > 0).to(u.dtype) + spec.undesirable * (c < 0).to(u.dtype)
            return factor * torch.sigmoid(torch.sign(c) * u)
        case Square():
            return -c * u.square()
        case Hinge():
            return c * u.clamp(max=0)
        case CustomLink():
            raise ValueError(f"the link {spec.name!r} is not bound to its function (Algorithms.bind)")
        case function:
            value = function(u, c)
            if not isinstance(value, Tensor) or value.shape != u.shape:
                raise ValueError(f"a link must return one value per unit, shape {tuple(u.shape)}; got {value!r}")
            return value
