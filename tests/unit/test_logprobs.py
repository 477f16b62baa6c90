"""Log-probabilities in chunks: equal to the definition, gradient too, and never many logits at once."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reasoner.learning.logprobs import Head, token_logprobs

VOCABULARY, HIDDEN = 50, 6


def _random(size: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, bias, targets."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    targets = torch.randint(VOCABULARY, (size,), generator=generator)
    return normal(size, HIDDEN), normal(VOCABULARY, HIDDEN), normal(VOCABULARY), targets


def _by_definition(hidden: Tensor, head: Head, targets: Tensor, temperature: float) -> Tensor:
    logits = hidden @ head.weight_VH.T
    if head.bias_V is not None:
        logits = logits + head.bias_V
    logits = logits * head.scale
    if head.cap is not None:
        logits = head.cap * torch.tanh(logits / head.cap)
    return torch.log_softmax(logits / temperature, dim=-1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("chunk", [1, 4, 10, 11, 100])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize(("with_bias", "scale", "cap"), [(False, 1.0, None), (True, 0.25, None), (True, 2.0, 3.0)])
def test_value_and_gradient_equal_the_definition(
    chunk: int, temperature: float, with_bias: bool, scale: float, cap: float | None
) -> None:
    hidden, weight, bias, targets = _random(10)
    head = Head(weight, bias if with_bias else None, scale, cap)
    leaves = (hidden, weight, bias) if with_bias else (hidden, weight)
    factors = torch.linspace(-1, 2, 10, dtype=torch.float64)

    expected = _by_definition(hidden, head, targets, temperature)
    got = token_logprobs(hidden, targets, head, temperature, chunk)

    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad((factors * got).sum(), leaves),
        torch.autograd.grad((factors * expected).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, _, targets = _random(5)
    got = token_logprobs(hidden, targets, Head(weight.detach(), None), 1.0, 2)
    expected = _by_definition(hidden, Head(weight.detach(), None), targets, 1.0)
    torch.testing.assert_close(torch.autograd.grad(got.sum(), hidden), torch.autograd.grad(expected.sum(), hidden))


def test_softmax_is_float32_under_bfloat16_autocast() -> None:
    hidden, weight, _, targets = _random(20, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = token_logprobs(hidden, targets, Head(weight, None), 1.0, 7)
    rounded = Head(weight.bfloat16(), None)
    logits = (hidden.bfloat16() @ rounded.weight_VH.T).float()
    expected = torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    got.sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    hidden, weight, _, targets = _random(3)
    with pytest.raises(ValueError, match="temperature above 0"):
        token_logprobs(hidden, targets, Head(weight, None), temperature, 2)


class _LogitsAlive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the elements of vocabulary-wide results that are alive at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[int, weakref.ref[Tensor]] = {}
        self.peak: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dim() == 2 and result.shape[1] == VOCABULARY:
            self.seen[result.data_ptr()] = weakref.ref(result)
        alive = [tensor for tensor in (ref() for ref in self.seen.values()) if tensor is not None]
        self.peak = max(self.peak, sum(tensor.numel() for tensor in alive))
        return result


def _peak_logits(size: int, chunk: int) -> int:
    hidden, weight, _, targets = _random(size)
    counted = _LogitsAlive()
    with counted:
        token_logprobs(hidden, targets, Head(weight, None), 1.0, chunk).sum().backward()  # type: ignore[no-untyped-call]
    return counted.peak


def test_the_logits_in_memory_do_not_grow_with_the_response() -> None:
    short, long = _peak_logits(40, 10), _peak_logits(400, 10)
    assert 10 * VOCABULARY <= short == long <= 3 * 10 * VOCABULARY
