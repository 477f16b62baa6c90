"""Log-probabilities of given tokens from hidden states, without ever holding all logits.

    l[s] = log_softmax(z[s] / temperature)[target[s]]
    H[s] = - sum_v p[s,v] log p[s,v],    p = softmax(z / temperature)    (only when asked for)
    z = cap * tanh(raw / cap),    raw = scale * (hidden @ weight^T + bias)

Logits exist for at most `chunk` positions at a time, in the forward as in the backward pass (which computes them
again, except for the last chunk, whose probabilities are kept): peak memory does not grow with response length x
vocabulary. Softmax is taken in float32 (float64 for float64 models). The gradient is written out, because it then
needs one buffer of a chunk's logits where autograd with checkpoints needs several, and adds to the weight's gradient
in place. With u = z / temperature:

    dl/du_v = [v = target] - p_v,    dH/du_v = - p_v (log p_v + H)

The entropy costs one more buffer of a chunk in either pass; without it there is neither the buffer nor the work.

Legend: S response tokens, H hidden size, V vocabulary, C positions of a chunk.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.nn.functional import linear

from reasoner.errors import UserError

_WIDE_SUMS = "2.10"
"""the first torch that adds products of 16-bit numbers to a float32 sum: before, the sum had to be of 16 bits too"""


class Head(nn.Module):
    """The output layer of a language model and what it does to its logits.

    A module of its own, because an engine that shards parameters (ZeRO-3) gathers those of the module that is called.
    """

    def __init__(self, weight_VH: Tensor, bias_V: Tensor | None, scale: float = 1.0, cap: float | None = None) -> None:
        """`cap`: soft cap of the logits; None: off."""
        super().__init__()
        self.weight_VH, self.bias_V, self.scale, self.cap = weight_VH, bias_V, scale, cap

    def forward(
        self, hidden_SH: Tensor, targets_S: Tensor, temperature: float, chunk: int, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """See `token_logprobs`; the entropies are None where they are not asked for."""
        device = hidden_SH.device.type
        if torch.is_autocast_enabled(device):
            hidden_SH = hidden_SH.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            return _TokenLogprobs.apply(  # type: ignore[no-any-return, no-untyped-call]
                hidden_SH,
                self.weight_VH,
                self.bias_V,
                targets_S,
                self.scale / temperature,
                None if self.cap is None else self.cap / temperature,
                chunk,
                entropy,
            )


def head_of(model: Any) -> Head:
    """The output layer of a transformers causal language model.

    Soft caps and constant scales are honoured (Gemma, Cohere, Granite, Falcon-H1). A model that does something else to
    its logits is found out by the comparison with the plain forward pass on the first batch.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise UserError(
            f"{type(model).__name__} has no linear output layer (got {type(layer).__name__}): only causal language "
            "models can be trained"
        )
    config = model.config.get_text_config()
    scale = float(_number(config, "logit_scale", 1.0)) * float(_number(config, "lm_head_multiplier", 1.0))
    return Head(
        layer.weight,
        layer.bias,
        scale / _number(config, "logits_scaling", 1.0),
        _number(config, "final_logit_softcapping", 0.0) or _number(config, "logits_soft_cap", 0.0) or None,
    )


@overload
def token_logprobs(
    hidden_SH: Tensor, targets_S: Tensor, head: Head, temperature: float, chunk: int, *, entropy: Literal[False] = False
) -> Tensor: ...


@overload
def token_logprobs(
    hidden_SH: Tensor, targets_S: Tensor, head: Head, temperature: float, chunk: int, *, entropy: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def token_logprobs(
    hidden_SH: Tensor, targets_S: Tensor, head: Head, temperature: float, chunk: int, *, entropy: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """(S,) log-probability of each target; with `entropy` also (S,) the entropy of the distribution it is sampled from.

    Both are differentiable in the hidden states, the weight and the bias.

    Two positions over three tokens. At the first all are as likely; at the second the logits are 2, 0 and 0.

    >>> head = Head(torch.tensor([[1.0], [0.0], [0.0]]), None)
    >>> hidden_SH, targets_S = torch.tensor([[0.0], [2.0]]), torch.tensor([1, 0])
    >>> logprobs_S, entropies_S = token_logprobs(hidden_SH, targets_S, head, 1.0, 1, entropy=True)
    >>> logprobs_S  # -ln 3, 2 - ln(e^2 + 2)
    tensor([-1.0986, -0.2395])
    >>> entropies_S  # ln 3, less
    tensor([1.0986, 0.6656])
    >>> token_logprobs(hidden_SH, targets_S, head, 2.0, 1)  # temperature 2: 1 - ln(e + 2) at the second
    tensor([-1.0986, -0.5514])

    Args:
        hidden_SH: states that predict the targets.
        targets_S: token ids.
        head: the output layer.
        temperature: T of softmax(logits / T), above 0.
        chunk: positions whose logits are in memory at once; the result does not depend on it.
        entropy: also give the entropies, in nats.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if temperature <= 0.0:
        raise ValueError(f"log-probabilities need a temperature above 0, got {temperature}")
    logprobs_S, entropies_S = head(hidden_SH, targets_S, temperature, chunk, entropy)
    return (logprobs_S, entropies_S) if entropy else logprobs_S


class _TokenLogprobs(torch.autograd.Function):
    """The chunk loop. Temperature is folded in: z / T = (cap / T) * tanh((raw / T) / (cap / T))."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_S: Tensor,
        scale: float,
        cap: float | None,
        chunk: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.scale, ctx.cap, ctx.chunk, ctx.kept = scale, cap, chunk, None
        ctx.set_materialize_grads(False)  # an entropy that is only reported costs no backward
        layer = _narrowed(weight_VH, bias_V, hidden_SH.dtype)
        logprobs, entropies = [], []
        for hidden_CH, targets_C in zip(torch.split(hidden_SH, chunk), torch.split(targets_S, chunk), strict=True):
            logits_CV = _logits(hidden_CH, *layer, scale, cap)
            chosen = logits_CV.gather(1, targets_C.unsqueeze(1))
            top, total = _softmax_(logits_CV)
            logprobs.append((chosen - top - total.log()).squeeze(1))
            if entropy:
                entropies.append(torch.special.entr(logits_CV).sum(1))
        if cap is None and any(ctx.needs_input_grad):
            ctx.kept = logits_CV
        entropies_S = torch.cat(entropies) if entropy else None
        ctx.save_for_backward(hidden_SH, weight_VH, bias_V, targets_S, entropies_S)
        return torch.cat(logprobs), entropies_S

    @staticmethod
    def backward(ctx: Any, grad_S: Tensor | None, grad_entropy_S: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_SH, weight_VH, bias_V, targets_S, entropies_S = ctx.saved_tensors
        if grad_S is None:
            grad_S = torch.zeros(len(hidden_SH), device=hidden_SH.device)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        weight, bias = _narrowed(weight_VH, bias_V, hidden_SH.dtype)
        grad_hidden = torch.empty_like(hidden_SH) if wants_hidden else None
        # Chunks add up in float32 also where the weight is bfloat16.
        wide = torch.promote_types(weight_VH.dtype, torch.float32)
        grad_weight = torch.zeros_like(weight_VH, dtype=wide) if wants_weight else None
        grad_bias = torch.zeros_like(bias_V) if wants_bias else None
        for start in reversed(range(0, len(hidden_SH), ctx.chunk)):
            part = slice(start, start + ctx.chunk)
            probs_CV, ctx.kept = ctx.kept, None
            slope = None
            if probs_CV is None:
                probs_CV = _logits(hidden_SH[part], weight, bias, ctx.scale, ctx.cap)
                slope = None if ctx.cap is None else 1 - (probs_CV / ctx.cap).square()
                _softmax_(probs_CV)
            entropy = None if grad_entropy_S is None else (entropies_S[part], grad_entropy_S[part])
            raw_CV = _grad_raw_(probs_CV, targets_S[part], grad_S[part], ctx.scale, slope, entropy).to(hidden_SH.dtype)
            if grad_hidden is not None:
                torch.mm(raw_CV, weight, out=grad_hidden[part])
            if grad_weight is not None:
                _add_product_(grad_weight, raw_CV, hidden_SH[part])
            if grad_bias is not None:
                grad_bias += raw_CV.sum(0)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight_VH.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None


def _narrowed(weight_VH: Tensor, bias_V: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in the number format of the hidden states: once for all chunks, for it reads the whole weight."""
    return weight_VH.to(dtype), None if bias_V is None else bias_V.to(dtype)


def _logits(hidden_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, scale: float, cap: float | None) -> Tensor:
    """(C, V) in float32 (float64 for float64), scale, cap and temperature applied. All in one number format."""
    if _adds_wide(hidden_CH):
        raw = torch.mm(hidden_CH, weight_VH.t(), out_dtype=torch.float32)
        if bias_V is not None:
            raw.add_(bias_V)
    else:
        raw = linear(hidden_CH, weight_VH, bias_V)
    if raw.dtype != torch.float64:
        raw = raw.float()
    if scale != 1.0:
        raw.mul_(scale)
    return raw if cap is None else raw.div_(cap).tanh_().mul_(cap)


def _softmax_(logits_CV: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits into probabilities in place; returns the maximum and the sum of exp(logit - maximum), both (C, 1)."""
    top = logits_CV.amax(1, keepdim=True)
    total = logits_CV.sub_(top).exp_().sum(1, keepdim=True)
    logits_CV.div_(total)
    return top, total


def _grad_raw_(
    probs_CV: Tensor,
    targets_C: Tensor,
    grad_C: Tensor,
    scale: float,
    slope_CV: Tensor | None,
    entropy: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Gradient with respect to `hidden @ weight^T + bias`, in place.

    scale * slope * (grad * (onehot - probs) - grad_entropy * probs * (log probs + entropy)), where `entropy` is the
    pair of the entropies and their gradient, both (C,); None: without the second term.
    """
    grad = (grad_C.to(probs_CV.dtype) * scale).unsqueeze(1)
    if entropy is None:
        probs_CV.mul_(-grad)
    else:
        entropy_C1, grad_entropy_C1 = (part.to(probs_CV.dtype).unsqueeze(1) for part in entropy)
        grad_entropy_C1 = grad_entropy_C1 * scale
        surprise_CV = torch.special.entr(probs_CV).mul_(grad_entropy_C1)
        probs_CV.mul_(-grad - grad_entropy_C1 * entropy_C1).add_(surprise_CV)
    probs_CV.scatter_add_(1, targets_C.unsqueeze(1), grad)
    return probs_CV if slope_CV is None else probs_CV.mul_(slope_CV)


def _adds_wide(hidden_CH: Tensor) -> bool:
    """Whether products of 16-bit numbers are had in the float32 that they add up in: a GPU's are, without a rounded
    copy in between."""
    narrow = hidden_CH.device.type != "cpu" and hidden_CH.dtype in (torch.bfloat16, torch.float16)
    return narrow and Version(torch.__version__) >= Version(_WIDE_SUMS)


def _add_product_(total_VH: Tensor, raw_CV: Tensor, hidden_CH: Tensor) -> None:
    if raw_CV.dtype == total_VH.dtype:
        total_VH.addmm_(raw_CV.t(), hidden_CH)
    elif _adds_wide(hidden_CH):
        torch.addmm(total_VH, raw_CV.t(), hidden_CH, out_dtype=torch.float32, out=total_VH)
    else:
        total_VH.add_(raw_CV.t() @ hidden_CH)


def _number(config: Any, name: str, default: float) -> float:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) else default
