"""What makes long rows possible: MLPs that take tokens in tiles, and inputs of layers that wait in host memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from reasoner.config import LearningConfig, LoraConfig
from reasoner.distributed.ranks import ALONE
from reasoner.distributed.sharding import rows_by_group
from reasoner.errors import UserError
from reasoner.learning.critic import TorchCritic
from reasoner.learning.model.offloading import HiddenStatesOffload
from reasoner.learning.model.policy import ModelOptions, TorchPolicy
from reasoner.learning.model.tiling import _in_tiles, tile_mlps
from reasoner.loading import load_config
from reasoner.planning.feasibility import _host_memory_obstacles
from reasoner.processes.machine import Machine, planned_machine
from reasoner.training.build.models import _frozen_policy
from tests.architectures import build
from tests.ragged import make_group
from tests.tiny import build_tiny_model

RAGGED = [
    make_group("a", [5, 6, 7], [[8], [9, 10, 11, 12, 13], [14] * 23]),
    make_group("b", [5], [[7]]),
]
ONE_TOKEN = [make_group("b", [5], [[7]])]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


def make_policy(folder: Path, **options: Any) -> TorchPolicy:
    values: dict[str, Any] = {"token_budget": 400, "logit_chunk": 64} | options
    torch.manual_seed(0)  # of an adapter
    return TorchPolicy(folder, ModelOptions(device="cpu", dtype="float32", **values))


def gradients(policy: TorchPolicy, groups: Any) -> dict[str, Tensor]:
    """Of the sum of all log-probabilities, each with a weight of its own."""
    policy.model.zero_grad()
    for batch in policy.packing.micro_batches(rows_by_group(groups)):
        logprobs_S, *_ = policy.scores(policy.inputs(batch), 1.0, False)
        torch.autograd.backward((logprobs_S * torch.linspace(-1.0, 2.0, len(logprobs_S))).sum())
    return {name: value.grad.clone() for name, value in policy.trained.items() if value.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert any(value.abs().max() > 1e-3 for value in expected.values())
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-5 * value.norm() + 1e-8, name


@pytest.mark.parametrize("groups", [RAGGED, ONE_TOKEN], ids=["ragged", "one token"])
@pytest.mark.parametrize("tile", [1, 7, 16, 1000])
def test_tiles_change_no_gradient(tiny: Path, tile: int, groups: Any) -> None:
    assert_same(gradients(make_policy(tiny, mlp_tile=tile), groups), gradients(make_policy(tiny), groups))


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True},
        {"packing": "padded"},
        {"lora": LoraConfig(rank=4)},
        {"lora": LoraConfig(rank=4), "gradient_checkpointing": True},
    ],
    ids=["recomputed", "padded", "adapter", "recomputed adapter"],
)
def test_tiles_go_with_everything_else(tiny: Path, options: dict[str, Any]) -> None:
    assert_same(
        gradients(make_policy(tiny, mlp_tile=7, **options), RAGGED), gradients(make_policy(tiny, **options), RAGGED)
    )


def test_what_an_mlp_computes_is_kept_of_one_tile(tiny: Path) -> None:
    """Autograd keeps of an untiled MLP 4 I numbers a token, of a tiled one its input."""
    groups = [make_group("a", [5], [[7] * 300])]
    wide = 128  # I of the tiny model, twice its hidden size

    def kept(policy: TorchPolicy) -> int:
        seen: dict[int, int] = {}

        def keep(value: Tensor) -> Tensor:
            if value.shape[-1] == wide and value.shape[-2] > 1 and not isinstance(value, torch.nn.Parameter):
                seen[value.untyped_storage().data_ptr()] = value.numel()
            return value

        (batch,) = policy.packing.micro_batches(rows_by_group(groups))
        with saved_tensors_hooks(keep, lambda value: value):
            policy.hidden(policy.inputs(batch))
        weights = {value.untyped_storage().data_ptr() for value in policy.model.parameters()}
        return sum(count for pointer, count in seen.items() if pointer not in weights)

    layers = 2
    assert kept(make_policy(tiny)) >= layers * 4 * wide * 300
    assert kept(make_policy(tiny, mlp_tile=50)) == 0


@pytest.mark.parametrize(("name", "words"), [("mixtral", "experts"), ("qwen3_moe", "experts")])
def test_a_model_of_experts_alone_has_nothing_to_tile(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(UserError, match=f"learning.mlp_tile = 8 is impossible for .*{words}"):
        make_policy(build(name, tmp_path), mlp_tile=8)


OTHER_KINDS = [
    ("mixtral", {"mlp_tile": 8}),
    ("llama", {"experts": "grouped_mm"}),
    ("llama4", {"experts": "grouped_mm"}),
    ("nemotron", {"packing": "packed"}),
    ("nemotron", {"share_prompts": "always"}),
]
"""models, and settings of a policy that they cannot have"""


@pytest.mark.parametrize(("name", "settings"), OTHER_KINDS)
def test_a_teacher_of_another_kind_than_the_policy_takes_of_its_settings_what_it_can(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    folder = build(name, tmp_path)
    with pytest.raises(UserError, match="is impossible for"):
        make_policy(folder, **settings)
    base: Any = SimpleNamespace(
        config=SimpleNamespace(
            learning=LearningConfig.model_validate(settings), model=SimpleNamespace(trust_remote_code=False)
        ),
        decisions=SimpleNamespace(device="cpu", learner="torch"),
        ranks=ALONE,
    )
    expected = make_policy(folder).logprobs(RAGGED, 1.0)
    for got, row in zip(_frozen_policy(base, folder, "float32").logprobs(RAGGED, 1.0), expected, strict=True):
        assert got == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize(("name", "settings"), [kind for kind in OTHER_KINDS if kind[0] != "llama4"])
def test_a_critic_of_another_kind_than_the_policy_takes_of_its_settings_what_it_can(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    config = LearningConfig.model_validate(settings)
    folder = build(name, tmp_path)
    critic = TorchCritic(folder, device="cpu", dtype="float32", config=config, learning_rate=1e-3, total_steps=1)
    assert [len(row) for row in critic.values(RAGGED)] == [1, 5, 23, 1]


def test_a_teacher_and_a_critic_that_can_have_a_setting_of_the_policy_have_it(tiny: Path, tmp_path: Path) -> None:
    """As the policy's own model does: a reference rounds as the policy, and a critic's memory is bounded."""
    options = ModelOptions.of(
        LearningConfig(mlp_tile=8, experts="batched_mm"), "cpu", "float32", trust_remote_code=False
    )
    options = replace(options, required=False)
    tiled = TorchPolicy(tiny, options).model.model.layers[0].mlp.forward
    assert tiled.func is _in_tiles
    assert TorchPolicy(build("mixtral", tmp_path), options).model.config._experts_implementation == "batched_mm"


@pytest.mark.parametrize("required", [True, False])
def test_an_mlp_that_takes_more_than_hidden_states_is_refused_where_tiles_are_required(required: bool) -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = torch.nn.Bilinear(2, 2, 2)

    layer, unnamed = Layer(), torch.nn.Linear(2, 2)
    tile_mlps(layer, 1, required=required)
    if not required:
        assert layer.mlp(torch.ones(1, 2, 2), torch.ones(1, 2, 2)).shape == (1, 2, 2)
        tile_mlps(unnamed, 1, required=False)
        return
    with pytest.raises(UserError, match="take more than hidden states"):
        layer.mlp(torch.ones(1, 2, 2), torch.ones(1, 2, 2))
    with pytest.raises(UserError, match="no part of its layers is called"):
        tile_mlps(unnamed, 1)


def test_inputs_of_recomputed_layers_wait_elsewhere(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Host memory is another storage: as many copies as layers, and not a bit of the gradient changes."""
    copies: list[tuple[torch.Size, bool]] = []
    pack, unpack = HiddenStatesOffload._pack, HiddenStatesOffload._unpack

    def counted(self: HiddenStatesOffload, value: Tensor) -> Any:
        kept = pack(self, value)
        if isinstance(kept, tuple):
            device, copy = kept
            assert device == value.device
            assert copy.data_ptr() != value.data_ptr()
            copies.append((value.shape, unpack(self, kept).equal(value)))
        return kept

    monkeypatch.setattr(HiddenStatesOffload, "_pack", counted)
    expected = gradients(make_policy(tiny, gradient_checkpointing=True), ONE_TOKEN)
    assert not copies
    found = gradients(make_policy(tiny, gradient_checkpointing=True, offload_activations=True), ONE_TOKEN)
    assert all(found[name].equal(value) for name, value in expected.items())
    assert len(copies) >= 2  # layers
    assert len({shape for shape, _ in copies}) == 1
    assert all(same for _, same in copies)


def test_what_is_no_hidden_state_stays() -> None:
    offload = HiddenStatesOffload(64, pin=False)
    stays = [torch.ones(1, 9, 32), torch.ones(9, 64), torch.ones(1, 9, 64, dtype=torch.int64)]
    assert all(offload._pack(value) is value for value in stays)
    assert isinstance(offload._pack(torch.ones(1, 9, 64)), tuple)


def test_offload_is_for_recomputation_on_a_gpu() -> None:
    sets = ["learning.offload_activations=true", "learning.gradient_checkpointing=true"]
    for setting in ("false", "auto"):
        with pytest.raises(UserError, match="gradient_checkpointing = true"):
            load_config("math-gsm8k", "laptop", (), [sets[0], f"learning.gradient_checkpointing={setting}"])
    config = load_config("math-gsm8k", "laptop", (), sets).config
    (obstacle,) = _host_memory_obstacles(config, Machine("cpu", {}))
    assert "there is none: leave it out" in obstacle
    assert not list(_host_memory_obstacles(config, planned_machine(80.0, 1)))
