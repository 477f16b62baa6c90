"""The contract of a plugin's link: what the objective relies on, tried on a range of values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from reasoner.testing.checklist import Check, Checklist

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FARTHEST = 20.0
"""largest log-ratio that is tried, either way"""


def check_link(name: str, link: Callable[..., Any], *, options: Mapping[str, Any] | None = None) -> Checklist:
    """Run the contract on a link.

    It gives one value per unit, of each unit by itself; value and slope are finite numbers wherever the policy has
    moved to; it has a slope in u, and none where there is no credit; and it gives the same twice.

    Args:
        link: the function that a plugin registers under this name.
        options: its options; None: there are none.
    """
    function = partial(link, **(options or {}))
    checks: list[Check] = []
    for what, look in _looks(function):
        try:
            wrong = look()
        except Exception as error:  # a plugin's function can raise anything
            wrong = f"{type(error).__name__}: {error}"
        checks.append(Check(what, not wrong, wrong))
        if wrong:  # what comes after it builds on it
            break
    return Checklist(name, tuple(checks))


def _looks(function: Callable[..., Any]) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "gives one value per unit", partial(_shapes, function)
    yield "gives a unit the same value, whatever is beside it", partial(_elementwise, function)
    yield "value and slope are finite", partial(_finite, function)
    yield "has a slope in u where there is credit", partial(_slope, function)
    yield "is flat where there is no credit", partial(_flat, function)


def _grid(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    import torch

    u = torch.linspace(-FARTHEST, FARTHEST, 41, dtype=dtype)
    credits = torch.tensor([-2.0, -0.5, 0.5, 2.0], dtype=dtype)
    return u.repeat(len(credits)), credits.repeat_interleave(len(u))


def _shapes(function: Callable[..., Any]) -> str:
    import torch

    from reasoner.gro.links import link as value_of

    for shape in ((5,), (2, 3), (1,), (0,)):
        value_of(function, torch.zeros(shape, requires_grad=True), torch.ones(shape))
    return ""


def _elementwise(function: Callable[..., Any]) -> str:
    import torch

    from reasoner.gro.links import link as value_of

    u, c = _grid(torch.float64)  # so that only what is beside a unit can change its value, and no rounding
    whole, again = value_of(function, u, c), value_of(function, u, c)
    if not torch.equal(whole, again):
        return "the same values give another result"
    alone = torch.cat([value_of(function, u[at : at + 1], c[at : at + 1]) for at in range(len(u))])
    if torch.allclose(whole, alone, equal_nan=True):
        return ""
    at = int((whole - alone).abs().argmax())
    return f"u = {u[at]:g}, c = {c[at]:g} give {whole[at]:g} among others and {alone[at]:g} alone"


def _values_and_slopes(function: Callable[..., Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u, c, value and slope, in the numbers of a run: the learner's log-probabilities have 32 bits."""
    import torch

    from reasoner.gro.links import link as value_of

    u, c = _grid(torch.float32)
    u.requires_grad_()
    with torch.enable_grad():
        value = value_of(function, u, c)
        slope = torch.autograd.grad(value.sum(), u, allow_unused=True)[0] if value.requires_grad else None
    return u.detach(), c, value.detach(), torch.zeros_like(u) if slope is None else slope


def _finite(function: Callable[..., Any]) -> str:
    u, c, value, slope = _values_and_slopes(function)
    bad = ~(value.isfinite() & slope.isfinite())
    if not bad.any():
        return ""
    at = int(bad.int().argmax())
    return f"u = {u[at]:g}, c = {c[at]:g} give the value {value[at]:g} and the slope {slope[at]:g}"


def _slope(function: Callable[..., Any]) -> str:
    *_, slope = _values_and_slopes(function)
    return "" if slope.any() else "it is flat everywhere, so nothing would be learned"


def _flat(function: Callable[..., Any]) -> str:
    from reasoner.gro.links import slope_without_credit

    broken = slope_without_credit(function)
    return "" if broken is None else f"at c = 0 and u = {broken[0]:g} the slope is {broken[1]:g}"
