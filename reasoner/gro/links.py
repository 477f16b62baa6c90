"""Links: how distance from the anchor becomes weight. Differentiable in `u = evidence - anchor`; credit `c` carries
no gradient.

A link is written as the value whose gradient is wanted; nobody derives that gradient by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from reasoner.gro.evidence import NEARLY_CERTAIN
from reasoner.gro.spec.terms import (
    Clip,
    CustomLink,
    Divergence,
    Gamma,
    Hinge,
    Linear,
    Link,
    LinkFunction,
    LogSigmoid,
    Ratio,
    Sigmoid,
    SoftClip,
    Square,
    Truncate,
)

LARGEST = 60.0
"""log-ratio above which a ratio grows no further: e^u of a long response would overflow, and inf * 0 is NaN"""


def link(spec: Link | LinkFunction, u: Tensor, c: Tensor, old: Tensor | None = None) -> Tensor:
    """link(c, u), elementwise.

    linear:      c u
    ratio:       e^u c
    clip:        min(e^u c, clamp(e^u, 1 - low, 1 + high) c); with `dual = d` and c < 0 also max(., d c)
    soft-clip:   (4 / tau) s(tau (e^u - 1)) c, tau by the sign of c
    divergence:  e^u c, 0 where c and u have the same sign and D(old, u) > limit
    truncate:    sg(min(e^u, cap)) c u; with `only_negative` c u where c > 0
    gamma:       sg(W^k e^(rate (1 - W))) c u, W = e^u, k and rate by the sign of c
    logsigmoid:  c ((1 - smoothing) log s(u) + smoothing log s(-u))
    sigmoid:     lambda_y s(y u) with y = sign(c), 0 for c = 0
    square:      -c u^2
    hinge:       c min(u, 0)

    All are flat at c = 0 (`slope_without_credit`): what has no credit has no weight, and needs no forward.

    The weight of a token is the slope in u. At the policy of the anchor, and where its probability has doubled:

    >>> def slopes(spec, credit=1.0, **more):
    ...     u = torch.tensor([0.0, 0.6931472], requires_grad=True)
    ...     return torch.autograd.grad(link(spec, u, torch.full_like(u, credit), **more).sum(), u)[0]
    >>> slopes(Linear())
    tensor([1., 1.])
    >>> slopes(Ratio())
    tensor([1., 2.])
    >>> slopes(Clip(low=0.2, high=0.2))  # beyond 1 + 0.2 there is nothing more to gain
    tensor([1., 0.])
    >>> slopes(Clip(low=0.2, high=0.2), credit=-1.0)
    tensor([-1., -2.])
    >>> slopes(Clip(dual=1.5), credit=-1.0)
    tensor([-1.,  0.])
    >>> slopes(SoftClip(positive=1.0))  # r 4 s(r - 1) (1 - s(r - 1))
    tensor([1.0000, 1.5729])
    >>> slopes(Divergence(measure="tv", limit=0.2), old=torch.tensor([0.3, 0.3]).log())  # from 0.3 to 0.6
    tensor([1., 0.])
    >>> slopes(Divergence(measure="kl", limit=0.5), old=torch.tensor([0.3, 0.3]).log())  # 0.18 nats
    tensor([1., 2.])
    >>> slopes(Truncate(cap=1.5))
    tensor([1.0000, 1.5000])
    >>> slopes(Gamma(positive_power=2.0, positive_rate=3.0))  # 4 e^-3
    tensor([1.0000, 0.1991])
    >>> slopes(LogSigmoid())  # s(-u)
    tensor([0.5000, 0.3333])
    >>> slopes(LogSigmoid(smoothing=0.1))  # 0.9 s(-u) - 0.1 s(u)
    tensor([0.4000, 0.2333])
    >>> slopes(Sigmoid(desirable=1.0))  # s(u) s(-u)
    tensor([0.2500, 0.2222])
    >>> slopes(Square())
    tensor([-0.0000, -1.3863])
    >>> slopes(Hinge())[1]  # its margin is reached
    tensor(0.)

    Args:
        spec: which link; bound to the functions of plugins (`Algorithms.bind`).
        u: evidence - anchor.
        c: credit, of the shape of u.
        old: the tokens' log-probabilities under the policy of the anchor, which `divergence` reads.

    Raises:
        ValueError: `old` is missing, or a plugin's link is not bound to its function or returns another shape.
    """
    if isinstance(spec, Divergence) and old is None:
        raise ValueError("the link 'divergence' needs the log-probabilities of the anchor's policy; got none")
    if isinstance(spec, CustomLink):
        raise ValueError(f"the link {spec.name!r} is not bound to its function (Algorithms.bind)")
    if builtin := LINKS.get(type(spec)):
        return builtin(spec, u, c, old)
    assert callable(spec)
    value = spec(u, c)
    if not isinstance(value, Tensor) or value.shape != u.shape:
        raise ValueError(f"a link must return one value per unit, shape {tuple(u.shape)}; got {value!r}")
    return value


def _ratio(u: Tensor) -> Tensor:
    """e^u, which grows no further than `LARGEST`."""
    return u.clamp(max=LARGEST).exp()


def _clip(spec: Clip, u: Tensor, c: Tensor, _: Tensor | None) -> Tensor:
    ratio = _ratio(u)
    value = torch.minimum(ratio * c, ratio.clamp(1 - spec.low, 1 + spec.high) * c)
    return value if spec.dual is None else torch.where(c < 0, torch.maximum(value, spec.dual * c), value)


def _soft_clip(spec: SoftClip, u: Tensor, c: Tensor, _: Tensor | None) -> Tensor:
    tau = _select_by_sign(c, spec.positive, spec.negative)
    return 4 / tau * torch.sigmoid(tau * (_ratio(u) - 1)) * c


def _divergence(spec: Divergence, u: Tensor, c: Tensor, old: Tensor | None) -> Tensor:
    assert old is not None
    far = (_distance(spec, old, u.detach()) > spec.limit) & (u * c > 0)
    return (_ratio(u) * c).masked_fill(far, 0.0)


def _truncate(spec: Truncate, u: Tensor, c: Tensor, _: Tensor | None) -> Tensor:
    factor = u.exp().clamp(max=spec.cap).detach()
    return (factor.masked_fill(c > 0, 1.0) if spec.only_negative else factor) * c * u


def _gamma(spec: Gamma, u: Tensor, c: Tensor, _: Tensor | None) -> Tensor:
    power = _select_by_sign(c, spec.positive_power, spec.negative_power)
    rate = _select_by_sign(c, spec.positive_rate, spec.negative_rate)
    # by its logarithm: W^k alone would overflow
    return (power * u + rate * (1 - _ratio(u))).exp().detach() * c * u


def _sigmoid(spec: Sigmoid, u: Tensor, c: Tensor, _: Tensor | None) -> Tensor:
    factor = spec.desirable * (c > 0).to(u.dtype) + spec.undesirable * (c < 0).to(u.dtype)
    return factor * torch.sigmoid(torch.sign(c) * u)


LINKS: dict[type, Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]] = {
    Linear: lambda _, u, c, __: c * u,
    Ratio: lambda _, u, c, __: _ratio(u) * c,
    Clip: _clip,
    SoftClip: _soft_clip,
    Divergence: _divergence,
    Truncate: _truncate,
    Gamma: _gamma,
    LogSigmoid: lambda s, u, c, _: c * ((1 - s.smoothing) * logsigmoid(u) + s.smoothing * logsigmoid(-u)),
    Sigmoid: _sigmoid,
    Square: lambda _, u, c, __: -c * u.square(),
    Hinge: lambda _, u, c, __: c * u.clamp(max=0),
}
"""link(c, u) by its specification: `(spec, u, c, old) -> value`"""


def slope_without_credit(function: Link | LinkFunction) -> tuple[float, float] | None:
    """Where a link breaks its contract, (u, its slope there at c = 0): such responses get no forward pass, whatever the
    link says of them. None: it is flat at c = 0.

    >>> slope_without_credit(Linear()) is None
    True
    >>> slope_without_credit(lambda u, c: (c - 1) * u)
    (-8.0, -1.0)
    """
    u = torch.linspace(-8.0, 8.0, 33, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        value = link(function, u, torch.zeros_like(u))
        slope = torch.autograd.grad(value.sum(), u, allow_unused=True)[0] if value.requires_grad else None
    if slope is None or not bool((slope != 0).any()):
        return None
    at = int((slope != 0).to(torch.int64).argmax())
    return u[at].item(), slope[at].item()


def _select_by_sign(c: Tensor, positive: float, negative: float) -> Tensor:
    """`positive` where c > 0, else `negative`."""
    return torch.full_like(c, negative).masked_fill(c > 0, positive)


def _distance(spec: Divergence, old: Tensor, u: Tensor) -> Tensor:
    """Between two policies that say q = e^old and p = e^(old + u) of a token, and 1 - q and 1 - p of anything else."""
    before, now = old.exp(), (old + u).exp()
    if spec.measure == "tv":
        return (now - before).abs()
    # log(1 - p) from expm1, which keeps its digits near p = 1; p is kept below 1 there, where it would be -inf
    other_before, other_now = (torch.log(-torch.expm1(logprob.clamp(max=NEARLY_CERTAIN))) for logprob in (old, old + u))
    return -before * u + (1 - before) * (other_before - other_now)
