"""The critic against plain transformers and plain autograd, for every way of cutting a batch."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from reasoner.config import LearningConfig
from reasoner.distributed.ranks import Ranks
from reasoner.distributed.sharding import Selection
from reasoner.errors import RunError, UserError
from reasoner.gro.weights import Weights
from reasoner.learning.batching.packing import Sharing
from reasoner.learning.critic import HEAD_FILE, TorchCritic
from reasoner.learning.learner import WeightFunction
from reasoner.learning.model import attention
from reasoner.learning.model.backbone import Packing
from reasoner.learning.model.model_weights import Dtype
from reasoner.models.loading import check_weights_at_hand
from reasoner.records import Group
from reasoner.training.critic_update import _Regression
from tests.architectures import build
from tests.ragged import make_response, ragged_groups
from tests.tiny import build_tiny_model

GROUPS = ragged_groups()
RESPONSES = [response for group in GROUPS for response in group.responses]
SHARING: list[Sharing] = ["auto", "always", "never"]


@pytest.fixture(scope="module", autouse=True)
def exact_norms() -> Iterator[None]:
    """transformers normalises in float32 whatever the dtype; in float64 that would hide what is compared here."""

    def forward(self: Any, hidden: Tensor) -> Tensor:
        scaled = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * scaled  # type: ignore[no-any-return]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaRMSNorm, "forward", forward)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def shared_critic(tiny: Path) -> TorchCritic:
    """A float64 critic that never steps, with the head of `some_head`; each test sets its packing."""
    return with_some_head(make_critic(tiny))


def make_critic(
    folder: Path, dtype: Dtype = "float64", learning_rate: float = 1e-2, total_steps: int = 10, **config: Any
) -> TorchCritic:
    values = {"learning_rate": 123.0, "token_budget": 60, "max_grad_norm": None} | config
    return TorchCritic(
        folder,
        device="cpu",
        dtype=dtype,
        config=LearningConfig(**values),
        learning_rate=learning_rate,
        total_steps=total_steps,
    )


def some_head() -> tuple[Tensor, Tensor]:
    """(H,) weight and () bias."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(64, generator=generator, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)


def with_some_head(critic: TorchCritic) -> TorchCritic:
    weight_H, bias = some_head()
    with torch.no_grad():
        critic.head.weight.copy_(weight_H[None])
        critic.head.bias.copy_(bias)
    return critic


def plain_values(model: Any, head: tuple[Tensor, Tensor], groups: Sequence[Group]) -> list[Tensor]:
    """(R)(T) with gradient: the value before every token, by one plain forward pass per response."""
    weight_H, bias = head
    result = []
    for group in groups:
        for response in group.responses:
            hidden_LH = model(torch.tensor([[*group.prompt_ids, *response.token_ids]])).last_hidden_state[0]
            states_TH = hidden_LH[len(group.prompt_ids) - 1 :][: len(response.token_ids)]
            result.append((states_TH * weight_H).sum(1) + bias)
    return result


def load_plain(folder: Path) -> Any:
    """The backbone inside the plain language model."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval().model


def target(response: int, token: int) -> float:
    return ((7 * response + 3 * token) % 5 - 2) / 2


def squared_error(offset: int = 0) -> WeightFunction:
    """w = - d/dV of sum (V - target)^2 / 2; `offset` is the index of the first response that this call sees."""

    def weigh(rows: Sequence[int], values_RT: Tensor, _: Tensor | None = None) -> Weights:
        targets = [[target(row + offset, token) for token in range(values_RT.shape[1])] for row in rows]
        return Weights(torch.tensor(targets, dtype=values_RT.dtype) - values_RT)

    return weigh


@cache
def plain_gradients(folder: Path) -> dict[str, Tensor]:
    """Of sum (V - target)^2 / 2, by autograd."""
    model = load_plain(folder)
    weight_H, bias = (part.requires_grad_() for part in some_head())
    values = plain_values(model, (weight_H, bias), GROUPS)
    errors = [(value - target(r, t)) ** 2 / 2 for r, row in enumerate(values) for t, value in enumerate(row)]
    torch.stack(errors).sum().backward()  # type: ignore[no-untyped-call]
    assert weight_H.grad is not None
    assert bias.grad is not None
    backbone = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return backbone | {"head.weight": weight_H.grad[None], "head.bias": bias.grad[None]}


def gradients(critic: TorchCritic) -> dict[str, Tensor]:
    named = [*critic.backbone.model.named_parameters(), *critic.head.named_parameters(prefix="head")]
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def assert_same_gradient(got: dict[str, Tensor], expected: dict[str, Tensor], relative: float) -> None:
    assert got.keys() == expected.keys()
    assert all(got[name].shape == value.shape for name, value in expected.items())
    difference = sum(float((got[name].double() - value).square().sum()) for name, value in expected.items())
    size = sum(float(value.square().sum()) for value in expected.values())
    assert math.sqrt(difference / size) < relative


def parameters(critic: TorchCritic) -> list[Tensor]:
    return [p.detach().clone() for p in [*critic.backbone.model.parameters(), *critic.head.parameters()]]


# Values


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_values_equal_plain_forward_passes(
    tiny: Path, shared_critic: TorchCritic, sharing: Sharing, budget: int
) -> None:
    shared_critic.backbone.packing = Packing(True, sharing, budget)
    got = shared_critic.values(GROUPS)
    expected = plain_values(load_plain(tiny), some_head(), GROUPS)
    assert [len(row) for row in got] == [len(response.token_ids) for response in RESPONSES]
    assert got == [pytest.approx(row.tolist(), rel=1e-9, abs=1e-9) for row in expected]


def test_a_value_is_of_the_state_before_its_token(shared_critic: TorchCritic) -> None:
    (group, *_) = GROUPS
    same = replace(group, responses=(make_response([1, 2, 3]), make_response([1, 2, 99])))
    first, second = shared_critic.values([same])
    assert first == pytest.approx(second, abs=1e-12)
    other = replace(group, responses=(make_response([1, 2, 3]), make_response([1, 99, 3])))
    first, second = shared_critic.values([other])
    assert first[:2] == pytest.approx(second[:2], abs=1e-12)
    assert first[2] != pytest.approx(second[2], abs=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_first_values_are_zero(tiny: Path, dtype: Dtype) -> None:
    critic = make_critic(tiny, dtype)
    assert critic.values(GROUPS) == [[0.0] * len(response.token_ids) for response in RESPONSES]
    assert critic.head.weight.dtype == (torch.float64 if dtype == "float64" else torch.float32)


def test_values_in_other_formats_are_within_rounding(tiny: Path, shared_critic: TorchCritic) -> None:
    shared_critic.backbone.packing = Packing(True, "always", 60)
    expected = shared_critic.values(GROUPS)
    for dtype, gap in (("float32", 1e-4), ("bfloat16", 0.5)):
        got = with_some_head(make_critic(tiny, dtype)).values(GROUPS)  # type: ignore[arg-type]
        assert got == [pytest.approx(row, abs=gap) for row in expected]


def test_an_untied_language_model_lends_its_backbone(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path, tied=False)
    critic = with_some_head(make_critic(folder))
    assert not any("lm_head" in name for name, _ in critic.backbone.model.named_parameters())
    expected = plain_values(load_plain(folder), some_head(), GROUPS)
    assert critic.values(GROUPS) == [pytest.approx(row.tolist(), rel=1e-9, abs=1e-9) for row in expected]


@pytest.mark.parametrize(
    ("kind", "sizes", "packing"),
    [
        ("qwen3", {}, "packed sequences"),
        ("gemma2", {"sliding_window": 4}, "full_attention, sliding_attention"),
        ("mamba", {"state_size": 4}, "recurrent layers"),
    ],
)
def test_other_models_equal_their_own_forward_pass(
    tmp_path: Path, kind: str, sizes: dict[str, Any], packing: str
) -> None:
    common = {"vocab_size": 260, "hidden_size": 64, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": None}
    heads = {"intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    torch.manual_seed(0)
    options = common | sizes if kind == "mamba" else common | heads | sizes
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options)).save_pretrained(tmp_path)
    critic = with_some_head(make_critic(tmp_path))
    assert packing in critic.description
    eager = "eager" if kind == "gemma2" else None
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation=eager).eval()
    expected = plain_values(model, some_head(), GROUPS)
    assert critic.values(GROUPS) == [pytest.approx(row.tolist(), abs=1e-4) for row in expected]


# Gradients


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_gradient_is_that_of_plain_autograd_however_the_batch_is_cut(
    tiny: Path, shared_critic: TorchCritic, data: st.DataObject
) -> None:
    backbone = shared_critic.backbone
    backbone.packing = Packing(True, data.draw(st.sampled_from(SHARING)), data.draw(st.integers(1, 300)))
    backbone.model.zero_grad()
    shared_critic.head.zero_grad()
    cut = data.draw(st.integers(0, len(GROUPS)), label="accumulation split")
    calls = [(0, GROUPS[:cut]), (sum(len(group.responses) for group in GROUPS[:cut]), GROUPS[cut:])]
    for offset, groups in data.draw(st.permutations(calls), label="order"):
        shared_critic.accumulate(groups, squared_error(offset))
    assert_same_gradient(gradients(shared_critic), plain_gradients(tiny), 1e-9)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_float32_gradient_is_within_rounding(tiny: Path, checkpointing: bool) -> None:
    critic = with_some_head(make_critic(tiny, "float32", gradient_checkpointing=checkpointing))
    done = critic.accumulate(GROUPS, squared_error())
    assert_same_gradient(gradients(critic), plain_gradients(tiny), 1e-5)
    assert done.responses == len(RESPONSES)
    assert done.response_tokens == sum(len(response.token_ids) for response in RESPONSES)
    assert done.entropy == 0.0


def test_the_weight_function_gets_the_rows_it_is_asked_about(shared_critic: TorchCritic) -> None:
    shared_critic.backbone.packing = Packing(True, "auto", 60)
    expected = shared_critic.values(GROUPS)
    seen: list[int] = []

    def weigh(rows: Sequence[int], values_RT: Tensor, _: Tensor | None = None) -> Weights:
        assert not values_RT.requires_grad
        for row, values in zip(rows, values_RT.tolist(), strict=True):
            size = len(expected[row])
            assert values[:size] == pytest.approx(expected[row], abs=1e-12)
            assert values[size:] == [0.0] * (len(values) - size)
        seen.extend(rows)
        return Weights(torch.ones_like(values_RT))

    done = shared_critic.accumulate(GROUPS, weigh)
    assert sorted(seen) == list(range(len(RESPONSES)))
    assert done.loss == pytest.approx(-sum(map(sum, expected)))


def test_tokens_that_the_policy_did_not_write_are_ignored() -> None:
    """Whatever their returns and values are: the regression gives them no weight, and does not count them."""
    written_RT = torch.tensor([[True, False, True, False]])
    returns_RT, values_RT = torch.tensor([[1.0, 7.0, 1.0, 7.0]]), torch.tensor([[0.0, 5.0, 0.5, -5.0]])
    regression = _Regression([0], returns_RT, torch.zeros(1, 4), written_RT, None)
    assert regression([0], values_RT).weights_RT.equal(torch.tensor([[0.5, 0.0, 0.25, 0.0]]))
    assert regression.loss == pytest.approx((1.0**2 + 0.5**2) / 2 / 2)


def test_weights_of_the_wrong_shape_are_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="weights of shape"):
        make_critic(tiny).accumulate(GROUPS, lambda _, values, __: Weights(values[:, :-1]))


# Steps


def test_steps_equal_plain_adamw_with_the_learning_rate_of_the_critic(tiny: Path) -> None:
    critic = with_some_head(make_critic(tiny, learning_rate=4e-3, warmup_steps=2, weight_decay=0.1))
    model = load_plain(tiny)
    head = tuple(part.requires_grad_() for part in some_head())
    optimizer = torch.optim.AdamW([*model.parameters(), *head], lr=0.0, weight_decay=0.1, fused=False)
    for rate in (2e-3, 4e-3):
        critic.accumulate(GROUPS, squared_error())
        assert critic.step().learning_rate == rate
        values = plain_values(model, (head[0], head[1]), GROUPS)
        errors = [(value - target(r, t)) ** 2 / 2 for r, row in enumerate(values) for t, value in enumerate(row)]
        torch.stack(errors).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    assert critic.version == 2
    theirs = [*(p.detach() for p in model.parameters()), head[0].detach()[None], head[1].detach()[None]]
    for own, other in zip(parameters(critic), theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-7)


def test_a_new_critic_learns_its_targets(tiny: Path) -> None:
    """From a head of zeros, where the backbone gets no gradient at first."""
    critic = make_critic(tiny, "float32", max_grad_norm=1.0)

    def error() -> float:
        values = critic.values(GROUPS)
        return sum((v - target(r, t)) ** 2 for r, row in enumerate(values) for t, v in enumerate(row))

    before = error()
    for _ in range(20):
        critic.accumulate(GROUPS, squared_error())
        assert critic.step().applied
    assert error() < before / 2


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_dropped(tiny: Path, bad: float) -> None:
    critic = with_some_head(make_critic(tiny))
    before = parameters(critic)
    critic.accumulate(GROUPS, lambda _, values, __: Weights(torch.full_like(values, bad)))
    result = critic.step()
    assert (result.applied, result.version) == (False, 0)
    assert "not finite" in result.reason
    assert all(a.equal(b) for a, b in zip(before, parameters(critic), strict=True))


def test_only_zero_weights_move_nothing(tiny: Path) -> None:
    critic = make_critic(tiny)
    critic.accumulate(GROUPS, squared_error())
    assert critic.step().applied  # AdamW has momentum from here on
    before = parameters(critic)
    critic.accumulate(GROUPS, lambda _, values, __: Weights(torch.zeros_like(values)))
    result = critic.step()
    assert (result.applied, critic.version) == (False, 1)
    assert all(a.equal(b) for a, b in zip(before, parameters(critic), strict=True))


def test_nothing_of_a_micro_batch_lives_on_during_the_next(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    critic = make_critic(tiny)
    forward, earlier = critic._forward, list[weakref.ref[Tensor]]()

    def watched(batch: Any) -> Any:
        assert [alive for alive in earlier if alive() is not None] == []
        outputs = forward(batch)
        earlier.append(weakref.ref(outputs[0]))
        return outputs

    monkeypatch.setattr(critic, "_forward", watched)
    critic.accumulate(GROUPS, lambda _, values, __: Weights(torch.zeros_like(values)))
    assert len(earlier) > 1


def test_a_selection_for_other_ranks_is_refused(tiny: Path) -> None:
    """Every rank would put everything through its model, and the gradient would be as many times too large."""
    critic = make_critic(tiny)
    critic._ranks = Ranks(index=1, count=3)
    with pytest.raises(ValueError, match="share 1 of 1, and this rank learns from share 2 of 3"):
        critic.accumulate(GROUPS, squared_error(), selection=Selection.of(GROUPS))
    with pytest.raises(ValueError, match="share 1 of 3, and this rank learns from share 2 of 3"):
        critic.accumulate(GROUPS, squared_error(), selection=Selection.of(GROUPS, ranks=Ranks(index=0, count=3)))


def test_no_groups_are_no_gradient(tiny: Path) -> None:
    critic = make_critic(tiny)
    done = critic.accumulate([], squared_error())
    assert (done.sequences, done.responses, done.loss) == (0, 0, 0.0)
    assert critic.values([]) == []
    assert not critic.step().applied


# Saving and loading


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_critic_loads_with_its_head(tiny: Path, tmp_path: Path, dtype: Dtype) -> None:
    critic = make_critic(tiny, dtype)
    critic.accumulate(GROUPS, squared_error())
    assert critic.step().applied
    critic.save(tmp_path)
    loaded = make_critic(tmp_path, dtype)
    assert all(a.equal(b) for a, b in zip(parameters(loaded), parameters(critic), strict=True))
    assert loaded.values(GROUPS) == critic.values(GROUPS) != make_critic(tiny, dtype).values(GROUPS)
    assert loaded.version == 0


def test_the_saved_backbone_loads_with_plain_transformers(tiny: Path, tmp_path: Path) -> None:
    critic = with_some_head(make_critic(tiny, "bfloat16"))
    critic.save(tmp_path)
    saved = AutoModel.from_pretrained(tmp_path)
    assert saved.dtype == torch.bfloat16
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaModel"]
    trained = dict(critic.backbone.model.named_parameters())
    assert {name: value.shape for name, value in saved.named_parameters()} == {n: p.shape for n, p in trained.items()}
    assert all(value.equal(trained[name].bfloat16()) for name, value in saved.named_parameters())
    assert AutoTokenizer.from_pretrained(tmp_path).encode("one") == AutoTokenizer.from_pretrained(tiny).encode("one")
    head = load_file(tmp_path / HEAD_FILE)
    assert {name: value.dtype for name, value in head.items()} == {"weight": torch.float32, "bias": torch.float32}


def test_the_value_head_of_another_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    make_critic(tiny, "float32").save(tmp_path)
    save_file({"weight": torch.zeros(1, 32), "bias": torch.zeros(1)}, tmp_path / HEAD_FILE)
    with pytest.raises(UserError, match=r"is not the value head of the model next to it.*\[1, 32\].*\[1, 64\]"):
        make_critic(tmp_path, "float32")


# The check on the first batch


def _ignore_rows(shape: Any, parts: Sequence[Tensor], scaling: float | None) -> Tensor:
    """What a model does that takes no notice of the rows: one causal sequence."""
    query, key, value = (part.unsqueeze(0) for part in parts)
    return attention._attend(query, key, value, scaling, None)[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_first_batch_finds_a_forward_pass_that_is_wrong(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, dtype: Dtype
) -> None:
    make_critic(tiny, dtype, share_prompts="always").values(GROUPS)
    critic = make_critic(tiny, dtype, share_prompts="always")
    monkeypatch.setattr(attention, "_sequence", _ignore_rows)
    with pytest.raises(RunError, match="hidden states of packed responses differ from those of single sequences"):
        critic.values(GROUPS)


def test_a_model_without_hidden_states_of_its_own_is_refused_as_a_critic_by_name(tmp_path: Path) -> None:
    whole = build("llama4", tmp_path)
    with pytest.raises(UserError, match="has Llama4ForConditionalGeneration with its output layer alone, so that a"):
        check_weights_at_hand(str(whole), False, head=False)
    text = {**json.loads((whole / "config.json").read_text())["text_config"], "architectures": ["Llama4ForCausalLM"]}
    (part := tmp_path / "text").mkdir()
    (part / "config.json").write_text(json.dumps(text))
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(part)).save_pretrained(part)
    check_weights_at_hand(str(part), False, head=False)
