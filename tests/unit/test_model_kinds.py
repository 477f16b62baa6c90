"""How models that are no plain Llama go through the learner: packed or padded, by themselves, the same every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from reasoner.distributed.sharding import rows_by_group
from reasoner.errors import RunError, UserError
from reasoner.learning.batching.packing import Layout, Sharing
from reasoner.learning.model import attention
from reasoner.learning.model.backbone import _recompute
from reasoner.learning.model.policy import ModelOptions, TorchPolicy
from reasoner.records import Group
from tests.architectures import build
from tests.ragged import make_group, ragged_groups

ORIGINAL_CONTEXT = 64
"""of the tiny models whose rotary embedding depends on the length"""
SHORT_FIRST = [*ragged_groups((3, 9), 2, 8), *ragged_groups((60, 30), 3, 60, seed=1)]
"""sequences on both sides of the original context, one group with both, short ones first"""


def make_policy(folder: Path, **options: Any) -> TorchPolicy:
    values: dict[str, Any] = {"token_budget": 500, "logit_chunk": 64} | options
    return TorchPolicy(folder, ModelOptions(device="cpu", dtype="float32", **values))


def plain_logprobs(folder: Path, groups: Sequence[Group]) -> Sequence[Sequence[float]]:
    """(R)(T) by a model of its own for every response, whose last token is only predicted."""
    result = []
    for group in groups:
        for response in group.responses:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            with torch.no_grad():
                logits = model(torch.tensor([[*group.prompt_ids, *response.token_ids[:-1]]])).logits[0]
            predicted = torch.log_softmax(logits[len(group.prompt_ids) - 1 :], -1)
            result.append(predicted.gather(1, torch.tensor(response.token_ids)[:, None])[:, 0].tolist())
    return result


def same(got: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> bool:
    return [*map(list, got)] == [pytest.approx(row, abs=1e-4) for row in expected]


def _stretched(folder: Path) -> Path:
    """A Llama whose rotary embedding is stretched with the length of a sequence."""
    build("llama", folder)
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    model = AutoModelForCausalLM.from_pretrained(folder, rope_parameters=rope, max_position_embeddings=ORIGINAL_CONTEXT)
    model.save_pretrained(folder)
    return folder


def _longrope(folder: Path) -> Path:
    return build("phi3-longrope", folder)


@pytest.mark.parametrize("layout", ["auto", "padded"])
@pytest.mark.parametrize("built", [_longrope, _stretched])
def test_a_rotary_embedding_that_depends_on_the_length_sees_each_sequence_by_itself(
    tmp_path: Path, built: Callable[[Path], Path], layout: Layout
) -> None:
    folder = built(tmp_path)
    lengths = {len(group.prompt_ids) + len(each.token_ids) for group in SHORT_FIRST for each in group.responses}
    assert min(lengths) < ORIGINAL_CONTEXT < max(lengths)
    policy = make_policy(folder, packing=layout)
    expected = plain_logprobs(folder, SHORT_FIRST)
    assert same(policy.logprobs(SHORT_FIRST, 1.0), expected)
    assert same(policy.logprobs(SHORT_FIRST[:2], 1.0), expected[:4])  # after longer ones
    if layout == "auto":
        assert "prompts not shared (its rotary embedding depends on the length of a sequence)" in policy.description


@pytest.mark.parametrize(("max_model_len", "factors"), [(64, "short_factor"), (65, "long_factor")])
@pytest.mark.parametrize("layout", ["auto", "padded"])
def test_where_vllm_samples_its_longest_sequence_decides(
    tmp_path: Path, layout: Layout, max_model_len: int, factors: str
) -> None:
    folder = _longrope(tmp_path / "model")
    policy = make_policy(folder, packing=layout)
    policy.rotate_as_vllm(max_model_len)
    within = SHORT_FIRST[:2]  # shorter than the original context, like all that the engine samples in the first case
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rope = model.config.rope_parameters
    always = {**rope, "short_factor": rope[factors], "long_factor": rope[factors]}
    AutoModelForCausalLM.from_pretrained(folder, rope_parameters=always).save_pretrained(tmp_path / "always")
    assert same(policy.logprobs(within, 1.0), plain_logprobs(tmp_path / "always", within))
    assert same(make_policy(folder).logprobs(within, 1.0), plain_logprobs(folder, within))


def test_what_makes_sharing_wrong_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="share_prompts = 'always' is impossible for Phi3ForCausalLM: its rotary"):
        make_policy(_longrope(tmp_path), share_prompts="always")


@pytest.mark.parametrize("sharing", ["auto", "always"])
def test_padding_is_a_choice(tmp_path: Path, sharing: Sharing) -> None:
    folder = build("llama", tmp_path)
    if sharing == "always":
        with pytest.raises(UserError, match=r"impossible for LlamaForCausalLM: learning\.packing = 'padded'"):
            make_policy(folder, packing="padded", share_prompts=sharing)
        return
    policy = make_policy(folder, packing="padded")
    assert "one response per padded sequence (learning.packing = 'padded')" in policy.description
    assert same(policy.logprobs(SHORT_FIRST, 1.0), make_policy(folder, packing="packed").logprobs(SHORT_FIRST, 1.0))


def test_a_model_that_cannot_be_packed_is_padded_and_says_why(tmp_path: Path) -> None:
    folder = build("nemotron", tmp_path)
    policy = make_policy(folder)
    why = "NemotronAttention calls attention without saying where sequences begin"
    assert f"one response per padded sequence ({why})" in policy.description
    assert same(policy.logprobs(SHORT_FIRST, 1.0), plain_logprobs(folder, SHORT_FIRST))
    with pytest.raises(UserError, match=f"learning.packing = 'packed' is impossible for NemotronForCausalLM: {why}"):
        make_policy(folder, packing="packed")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_routers_do_what_they_do_in_evaluation(tmp_path: Path, checkpointing: bool) -> None:
    """phimoe's "jitter" is a threshold of its router, and in training mode its router draws experts at random."""
    folder = build("phimoe", tmp_path)
    policy = make_policy(folder, gradient_checkpointing=checkpointing)
    expected = plain_logprobs(folder, SHORT_FIRST)
    assert same(policy.logprobs(SHORT_FIRST, 1.0), expected)
    inputs = policy.inputs(policy.packing.micro_batches(rows_by_group(SHORT_FIRST))[0])
    assert torch.equal(policy.scores(inputs, 1.0, False)[0], policy.scores(inputs, 1.0, False)[0])


@pytest.mark.parametrize(("checkpointing", "passes"), [(False, 1), (True, 2)])
def test_activations_are_recomputed_where_that_is_asked_for(tmp_path: Path, checkpointing: bool, passes: int) -> None:
    policy = make_policy(build("llama", tmp_path), gradient_checkpointing=checkpointing)
    seen: list[nn.Module] = []
    policy.model.model.layers[0].mlp.register_forward_pre_hook(lambda module, _: seen.append(module))
    inputs = policy.inputs(policy.packing.micro_batches(rows_by_group(SHORT_FIRST[:1]))[0])
    policy.scores(inputs, 1.0, False)[0].sum().backward()  # type: ignore[no-untyped-call]
    assert len(seen) == passes


def test_recomputation_is_asked_for_by_its_name_of_today() -> None:
    """transformers 5.24 renames it and warns of the old name, which is an error here and goes with version 6."""

    class Today:
        asked: Any = None

        def activation_checkpointing_enable(self, options: Any, every_n_layers: int = 1) -> None:
            self.asked = options

        def gradient_checkpointing_enable(self, options: Any) -> None:
            raise FutureWarning("deprecated")

        def modules(self) -> list[nn.Module]:
            return []

    model = Today()
    _recompute(model)
    assert model.asked == {"use_reentrant": False}


def test_opt_drops_no_layer(tmp_path: Path) -> None:
    folder = build("opt", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.config.layerdrop = 0.9
    model.save_pretrained(folder)
    policy = make_policy(folder, gradient_checkpointing=True)
    assert same(policy.logprobs(SHORT_FIRST, 1.0), plain_logprobs(folder, SHORT_FIRST))


# The comparison with plain forward passes


def _wrong_beyond(tokens: int) -> Callable[..., Any]:
    """Packed attention that is wrong in sequences of more than `tokens` tokens."""
    right = attention._sequence

    def attend(shape: Any, parts: Any, scaling: float | None) -> Any:
        return right(shape, parts, scaling) * (0.5 if len(parts[0]) > tokens else 1.0)

    return attend


def test_the_longest_sequence_is_compared_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(build("llama", tmp_path))
    monkeypatch.setattr(attention, "_sequence", _wrong_beyond(100))
    long_last = [*ragged_groups((3, 9, 4), 2, 8), make_group("long", [1] * 60, [[2] * 60])]
    with pytest.raises(RunError, match=r"packed responses differ.*learning.packing = 'padded' may be right"):
        policy.logprobs(long_last, 1.0)


def test_sequences_that_grow_are_compared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(build("llama", tmp_path))
    monkeypatch.setattr(attention, "_sequence", _wrong_beyond(100))
    policy.logprobs(ragged_groups((40,), 2, 8), 1.0)
    with pytest.raises(RunError, match="packed responses differ"):
        policy.logprobs(ragged_groups((100,), 2, 8), 1.0)


FROZEN = ("llama", "gemma3", "gpt_neox", "opt", "qwen3_moe", "gpt_oss", "qwen3_next", "falcon_h1", "mamba2", "glm4_moe")


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_model_takes_less_and_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    """Linear layers are multiplied in bfloat16 anyway; norms, embeddings and what recurrent layers compute with their
    weights beside that stay as they are."""
    values: dict[str, Any] = {"token_budget": 500, "logit_chunk": 64, "autocast": True}
    policy = TorchPolicy(build(name, tmp_path), ModelOptions(device="cpu", dtype="bfloat16", **values))
    groups = ragged_groups((9, 4), 2, 12)
    before, size = policy.logprobs(groups, 1.0), _bytes(policy)
    policy.freeze()
    assert policy.logprobs(groups, 1.0) == before
    narrow = [part for part in policy.model.parameters() if part.dtype == torch.bfloat16]
    assert size - _bytes(policy) == 2 * sum(part.numel() for part in narrow) > 0
    assert policy.model.get_input_embeddings().weight.dtype == torch.float32


def _bytes(policy: TorchPolicy) -> int:
    return sum(part.nbytes for part in policy.model.parameters())


def test_a_linear_layer_that_is_multiplied_in_float32_stays(tmp_path: Path) -> None:
    policy = TorchPolicy(
        build("llama", tmp_path),
        ModelOptions(device="cpu", dtype="bfloat16", token_budget=500, logit_chunk=64, autocast=True),
    )
    wide = policy.model.model.layers[0].mlp.gate_proj

    class Wide(nn.Module):
        """As routers of experts are computed, where rounding would send tokens elsewhere."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = wide

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                return self.inner(hidden.float())  # type: ignore[no-any-return]

    policy.model.model.layers[0].mlp.gate_proj = Wide()
    policy.freeze()
    assert wide.weight.dtype == torch.float32
    assert policy.model.model.layers[1].mlp.gate_proj.weight.dtype == torch.bfloat16
