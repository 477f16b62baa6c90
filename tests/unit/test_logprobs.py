"""Log-probabilities in chunks: equal to the definition, gradient too, and never many logits at once."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reasoner.learning.model import logprobs as logprobs_module
from reasoner.learning.model.logprobs import Head, token_logprobs

VOCABULARY, HIDDEN = 50, 6


def _random(size: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, bias, targets."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    targets = torch.randint(VOCABULARY, (size,), generator=generator)
    return normal(size, HIDDEN), normal(VOCABULARY, HIDDEN), normal(VOCABULARY), targets


def _log_softmax(hidden: Tensor, head: Head, temperature: float) -> Tensor:
    logits = hidden @ head.weight_VH.T
    if head.bias_V is not None:
        logits = logits + head.bias_V
    logits = logits * head.scale
    if head.cap is not None:
        logits = head.cap * torch.tanh(logits / head.cap)
    return torch.log_softmax(logits / temperature, dim=-1)


def _by_definition(hidden: Tensor, head: Head, targets: Tensor, temperature: float) -> Tensor:
    return _log_softmax(hidden, head, temperature).gather(1, targets[:, None])[:, 0]


def _entropy_by_definition(hidden: Tensor, head: Head, temperature: float) -> Tensor:
    logprobs = _log_softmax(hidden, head, temperature)
    return -(logprobs.exp() * logprobs).sum(-1)


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


@pytest.mark.parametrize("chunk", [1, 4, 10, 100])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize(("with_bias", "scale", "cap"), [(False, 1.0, None), (True, 0.25, None), (True, 2.0, 3.0)])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_entropy_and_its_gradient_equal_the_definition(
    chunk: int, temperature: float, with_bias: bool, scale: float, cap: float | None, share: float
) -> None:
    """`share`: of the log-probabilities in the loss."""
    hidden, weight, bias, targets = _random(10)
    head = Head(weight, bias if with_bias else None, scale, cap)
    leaves = (hidden, weight, bias) if with_bias else (hidden, weight)
    factors = torch.linspace(-1, 2, 10, dtype=torch.float64)

    logprobs, entropies = token_logprobs(hidden, targets, head, temperature, chunk, entropy=True)
    expected_logprobs = _by_definition(hidden, head, targets, temperature)
    expected = _entropy_by_definition(hidden, head, temperature)

    torch.testing.assert_close(entropies, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad((share * logprobs + factors * entropies).sum(), leaves),
        torch.autograd.grad((share * expected_logprobs + factors * expected).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_the_entropy_alone_has_a_gradient() -> None:
    hidden, weight, bias, targets = _random(10)
    _, entropies = token_logprobs(hidden, targets, Head(weight, bias), 0.8, 4, entropy=True)
    expected = _entropy_by_definition(hidden, Head(weight, bias), 0.8)
    for mine, theirs in zip(
        torch.autograd.grad(entropies.sum(), (hidden, weight, bias)),
        torch.autograd.grad(expected.sum(), (hidden, weight, bias)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("cap", [None, 3.0])
def test_an_entropy_that_is_only_reported_changes_no_bit(cap: float | None) -> None:
    hidden, weight, bias, targets = _random(10, torch.float32)
    head = Head(weight, bias, 1.0, cap)
    plain = token_logprobs(hidden, targets, head, 0.7, 4)
    logprobs, _ = token_logprobs(hidden, targets, head, 0.7, 4, entropy=True)
    assert logprobs.equal(plain)
    for mine, theirs in zip(
        torch.autograd.grad(logprobs.sum(), (hidden, weight, bias)),
        torch.autograd.grad(plain.sum(), (hidden, weight, bias)),
        strict=True,
    ):
        assert mine.equal(theirs)


def test_a_certain_distribution_has_no_entropy() -> None:
    """All but one probability underflow to 0 in float32: 0 log 0 is 0, in the gradient too."""
    hidden = torch.ones(3, 1, requires_grad=True)
    weight = torch.tensor([[0.0], [500.0], [0.0]], requires_grad=True)
    _, entropies = token_logprobs(hidden, torch.tensor([1, 0, 1]), Head(weight, None), 1.0, 2, entropy=True)
    assert entropies.tolist() == [0.0, 0.0, 0.0]
    entropies.sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert weight.grad is not None
    assert not hidden.grad.any()
    assert not weight.grad.any()


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


def _peak_with_entropy(size: int, chunk: int, cap: float | None) -> int:
    hidden, weight, _, targets = _random(size)
    counted = _LogitsAlive()
    with counted:
        found = token_logprobs(hidden, targets, Head(weight, None, 1.0, cap), 1.0, chunk, entropy=True)
        torch.stack(found).sum().backward()  # type: ignore[no-untyped-call]
    return counted.peak


def test_the_logits_in_memory_do_not_grow_with_the_response() -> None:
    short, long = _peak_logits(40, 10), _peak_logits(400, 10)
    assert 10 * VOCABULARY <= short == long <= 3 * 10 * VOCABULARY


@pytest.mark.parametrize(("cap", "buffers"), [(None, 3), (2.0, 4)])
def test_nor_do_they_with_entropies(cap: float | None, buffers: int) -> None:
    short, long = _peak_with_entropy(40, 10, cap), _peak_with_entropy(400, 10, cap)
    assert 20 * VOCABULARY <= short == long <= buffers * 10 * VOCABULARY


class _Noted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations, and the dtype and shape of what they give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.results: list[tuple[str, torch.dtype, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.results.append((str(func), result.dtype, tuple(result.shape)))
        return result


def _noted(device: str, bias: bool) -> _Noted:
    """A pass over three chunks, bfloat16 over a float32 weight as under autocast, and its gradient."""
    hidden = torch.empty(20, HIDDEN, dtype=torch.bfloat16, device=device, requires_grad=True)
    weight = torch.empty(VOCABULARY, HIDDEN, device=device, requires_grad=True)
    bias_V = torch.empty(VOCABULARY, device=device, requires_grad=True) if bias else None
    targets = torch.zeros(20, dtype=torch.int64, device=device)
    noted = _Noted()
    with noted:
        # autocast, which the head asks about, does not know the meta device
        apply: Any = logprobs_module._TokenLogprobs.apply
        logprobs, _ = apply(hidden, weight, bias_V, targets, 1.0, None, 7, False)
        logprobs.sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    return noted


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_weight_is_cast_once_in_either_pass(device: str, bias: bool) -> None:
    """A cast reads all of it: 0.5 GB of a small model's, for every chunk that has one of its own."""
    casts = [
        shape
        for name, dtype, shape in _noted(device, bias).results
        if name == "aten._to_copy.default" and dtype == torch.bfloat16
    ]
    assert casts.count((VOCABULARY, HIDDEN)) == 2


@pytest.mark.parametrize("bias", [True, False])
def test_a_gpu_adds_up_in_float32_and_rounds_no_logit(bias: bool) -> None:
    """Nothing that is as wide as the vocabulary is rounded before the softmax, and no product for the weight's gradient
    is made beside it."""
    results = _noted("meta", bias).results
    chunks = ((7, VOCABULARY), (6, VOCABULARY))
    rounded = [name for name, dtype, shape in results if dtype == torch.bfloat16 and shape in chunks]
    assert [name for name in rounded if name != "aten.t.default"] == ["aten._to_copy.default"] * 3  # gradients
    names = [name for name, _, shape in results if shape in ((VOCABULARY, HIDDEN), *chunks)]
    assert names.count("aten.mm.dtype") == 3 + 2  # the last chunk's probabilities are kept
    assert names.count("aten.addmm.dtype_out") == 3
    assert "aten.mm.default" not in names


@pytest.mark.parametrize(("version", "wide"), [("2.8.0", False), ("2.9.1+cu128", False), ("2.10.0+cu130", True)])
def test_a_torch_whose_products_take_no_float32_sum_is_given_none(
    monkeypatch: pytest.MonkeyPatch, version: str, wide: bool
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert ("aten.addmm.dtype_out" in {name for name, *_ in _noted("meta", False).results}) == wide


def test_wide_products_are_nearer_to_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, with its two products computed here in float32 from the same rounded numbers."""
    hidden, weight, bias, targets = _random(20, torch.bfloat16)
    plain_mm, plain_addmm = torch.mm, torch.addmm

    def mm(a: Tensor, b: Tensor, out_dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        return plain_mm(a, b, **options) if out_dtype is None else plain_mm(a.to(out_dtype), b.to(out_dtype))

    def addmm(total: Tensor, a: Tensor, b: Tensor, *, out_dtype: torch.dtype, out: Tensor) -> Tensor:
        return plain_addmm(total, a.to(out_dtype), b.to(out_dtype), out=out)

    def both() -> list[Tensor]:
        logprobs = token_logprobs(hidden, targets, Head(weight, bias), 0.7, 7)
        return [logprobs.detach(), *torch.autograd.grad(logprobs.sum(), (hidden, weight, bias))]

    exact = [part.detach().double().requires_grad_() for part in (hidden, weight, bias)]
    expected = _by_definition(exact[0], Head(exact[1], exact[2]), targets, 0.7)
    gradients = torch.autograd.grad(expected.sum(), exact)
    rounded = both()
    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(torch, "addmm", addmm)
    monkeypatch.setattr(logprobs_module, "_adds_wide", lambda _: True)
    wide = both()
    errors = [float((part.double() - expected.detach()).abs().max()) for part in (rounded[0], wide[0])]
    assert errors[1] < 1e-5 < errors[0]
    for got, gradient in zip(wide[1:], gradients, strict=True):
        torch.testing.assert_close(got.double(), gradient, rtol=0.02, atol=0.02)
