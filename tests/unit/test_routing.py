"""The loss of the routers of a mixture of experts, against plain forward passes over single responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reasoner.config import LearningConfig
from reasoner.errors import UserError
from reasoner.gro.weights import Weights
from reasoner.learning.model.routing import Routers, balance
from reasoner.learning.torch_engine import TorchLearner
from reasoner.records import Group
from tests.architectures import BY_NAME, build, random_model
from tests.ragged import ragged_groups

WEIGHT = 0.3
GROUPS = [*ragged_groups(prompts=(3, 17, 5), responses=3), *ragged_groups(prompts=(2,), responses=1, longest=1, seed=1)]


def no_weights(rows: Sequence[int], logprobs_RT: Tensor, _: Tensor | None = None) -> Weights:
    return Weights(torch.zeros_like(logprobs_RT))


def learner(model: Path, **settings: object) -> TorchLearner:
    config = LearningConfig.model_validate({"router_loss": WEIGHT, **settings})
    return TorchLearner(model, device="cpu", dtype="float32", config=config, total_steps=1)


def gradient_of(learner: TorchLearner, groups: Sequence[Group]) -> tuple[float, dict[str, Tensor]]:
    """The sum of the balances, and the gradient where no token weighs anything."""
    done = learner.accumulate(groups, no_weights, 1.0)
    named = learner.policy.model.named_parameters()
    return done.balance, {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}


def router_inputs(model: Any, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The weight (E, H) of every router and the states (L, H) that it gets: not what transformers calls its logits."""
    routed: list[tuple[Tensor, Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(
            lambda module, inputs: routed.append((module.weight, inputs[0].flatten(0, -2)))
        )
        for module in model.modules()
        if type(module).__name__.endswith("TopKRouter")
    ]
    model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return routed


def reference(learner: TorchLearner, groups: Sequence[Group]) -> tuple[float, dict[str, Tensor]]:
    """Response by response, layer by layer, expert by expert."""
    model = learner.policy.model
    config = model.config
    experts = getattr(config, "num_local_experts", None) or config.num_experts
    choices = config.num_experts_per_tok
    total = torch.zeros(())
    responses = [(group.prompt_ids, response.token_ids) for group in groups for response in group.responses]
    with learner.policy.own_attention():
        for prompt, response in responses:
            ids = torch.tensor([[*prompt, *response[:-1]]])
            for weight, hidden in router_inputs(model, ids):
                own = hidden[len(prompt) - 1 :] @ weight.T
                probabilities = own.softmax(1)
                chosen = own.topk(choices, 1).indices
                for expert in range(experts):
                    share = (chosen == expert).float().mean()
                    total = total + experts / config.num_hidden_layers * share * probabilities[:, expert].mean()
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(WEIGHT * total / len(responses), list(named.values()), materialize_grads=True)
    return float(total.detach()), dict(zip(named, gradients, strict=True))


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe"])
@pytest.mark.parametrize(
    "settings",
    [
        {"token_budget": 4096},
        {"token_budget": 24, "share_prompts": "never"},
        {"token_budget": 40, "share_prompts": "always", "gradient_checkpointing": True},
        {"token_budget": 60, "packing": "padded"},
    ],
    ids=["one micro-batch", "many", "shared and recomputed", "padded"],
)
def test_its_gradient_is_that_of_single_responses_however_the_batch_is_cut(
    name: str, settings: dict[str, object], tmp_path: Path
) -> None:
    model = build(name, tmp_path)
    total, gradient = gradient_of(learner(model, **settings), GROUPS)
    expected, wanted = reference(learner(model), GROUPS)
    assert total == pytest.approx(expected, rel=1e-5)
    assert total >= 10  # one for each response, and more where experts are not used evenly
    assert any(float(value.abs().max()) > 1e-4 for key, value in wanted.items() if "gate" in key)
    for key, value in wanted.items():
        torch.testing.assert_close(gradient[key], value, rtol=1e-3, atol=1e-6)


def test_without_a_weight_nothing_is_computed(tmp_path: Path) -> None:
    total, gradient = gradient_of(learner(build("mixtral", tmp_path), router_loss=0.0), GROUPS)
    assert total == 0.0
    assert not any(value.any() for value in gradient.values())


def test_probabilities_that_are_called_logits_are_taken_as_they_are() -> None:
    """As routers of some releases of transformers give them; near misses are logits."""
    choices, lengths = torch.tensor([[0], [1], [0]]), (2, 1)
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 0.1], [1.0, 0.9, 0.8]])
    expected = balance(logits, choices, lengths)
    torch.testing.assert_close(balance(logits.softmax(1), choices, lengths), expected)
    not_summing = torch.tensor([[0.5, 0.5, 0.2], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    not_positive = torch.tensor([[1.2, -0.2, 0.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    for near in (not_summing, not_positive):
        torch.testing.assert_close(balance(near, choices, lengths), balance(near + 7.0, choices, lengths))


def test_a_model_without_routers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"router_loss is for models with experts .* LlamaForCausalLM has none"):
        learner(build("llama", tmp_path))


EXPERTS = [name for name, architecture in BY_NAME.items() if "experts" in architecture.kinds]


@pytest.mark.parametrize("name", EXPERTS)
def test_the_routers_of_every_family_are_found_or_refused_by_name(name: str) -> None:
    model = random_model(BY_NAME[name]).eval()
    if name == "jamba":
        with pytest.raises(UserError, match="has none; set it to 0"):
            Routers(model)
        return
    routers = Routers(model)
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    if name == "llama4":
        with pytest.raises(UserError, match="Llama4Router does not say which experts it chose"), routers.recording():
            model(input_ids=ids)
        return
    with routers.recording() as routed:
        model(input_ids=ids)
    assert len(routed) == routers.count > 0
    for logits, choices in routed:
        assert logits.shape == (5, 4)
        assert choices.shape == (5, 2)
