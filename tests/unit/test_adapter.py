"""Adapters in the torch engine: what is trained, what leaves the learner, what the reference is."""

from __future__ import annotations

import importlib.util
import json
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from reasoner.config import LearningConfig, LoraConfig
from reasoner.errors import ConfigError, DataError, MissingDependencyError, RunError, UserError
from reasoner.gro.weights import Weights
from reasoner.learning.adapter import WithoutAdapter, adapted
from reasoner.learning.factory import choose_learner
from reasoner.learning.model.model_weights import Dtype
from reasoner.learning.model.quantization import is_quantized
from reasoner.learning.torch_engine import TorchLearner
from reasoner.loading import load_config
from reasoner.models.tensor_files import (
    Digest,
    PublishedAdapter,
    checksum_of_model,
    merged_weights,
    read_files,
    read_weights,
    write_adapter,
)
from reasoner.models.weight_files import SINGLE, read_shapes
from reasoner.planning.memory.quantized import NF4
from tests.architectures import build
from tests.ragged import ragged_groups
from tests.tiny import build_tiny_model

GROUPS = ragged_groups()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


def make_learner(folder: Path, checkpoint: Path | None = None, dtype: Dtype = "float32", **lora: Any) -> TorchLearner:
    config, adapter = LearningConfig(learning_rate=1e-2, token_budget=60), LoraConfig(**{"rank": 4} | lora)
    return TorchLearner(
        folder, device="cpu", dtype=dtype, config=config, total_steps=3, lora=adapter, checkpoint=checkpoint
    )


def step(learner: TorchLearner) -> None:
    learner.accumulate(GROUPS, lambda _, logprobs_RT, __: Weights(torch.ones_like(logprobs_RT)), 1.0)
    assert learner.step().applied


def test_the_adapter_learns_and_the_rest_does_not(tiny: Path) -> None:
    learner = make_learner(tiny)
    before = {name: p.detach().clone() for name, p in learner.policy.model.named_parameters()}
    for _ in range(2):
        step(learner)
    changed = {name for name, p in learner.policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if ".lora_" in name}


def test_without_its_adapter_it_is_the_initial_model(tiny: Path) -> None:
    learner = make_learner(tiny)
    initial = learner.logprobs(GROUPS, 0.8)
    assert WithoutAdapter(learner).logprobs(GROUPS, 0.8) == initial  # B starts at 0
    step(learner)
    assert WithoutAdapter(learner).logprobs(GROUPS, 0.8) == initial
    assert learner.logprobs(GROUPS, 0.8) != initial


def test_what_leaves_is_the_plain_model_with_the_adapter_in_it(tiny: Path, tmp_path: Path) -> None:
    learner = make_learner(tiny, alpha=3.0, targets=["q_proj", "down_proj"])
    step(learner)
    trained = learner.logprobs(GROUPS, 1.0)
    learner.publish(tmp_path)
    published = dict(read_files(tmp_path))
    plain = AutoModelForCausalLM.from_pretrained(tiny)
    assert published.keys() == read_shapes(tiny).keys()
    learner.save(tmp_path / "saved")
    saved = TorchLearner(
        tmp_path / "saved", device="cpu", dtype="float32", config=LearningConfig(token_budget=60), total_steps=1
    )
    pairs = zip(chain(*trained), chain(*saved.logprobs(GROUPS, 1.0)), strict=True)
    assert max(abs(mine - theirs) for mine, theirs in pairs) < 1e-5
    moved = {name for name, value in published.items() if not torch.equal(value, plain.state_dict()[name])}
    assert {name.split(".")[-2] for name in moved} == {"q_proj", "down_proj"}


def test_what_is_handed_over_alone_is_an_adapter_as_peft_reads_it(tiny: Path, tmp_path: Path) -> None:
    learner = make_learner(tiny, alpha=3.0, targets=["q_proj", "down_proj"], handover="adapter")
    step(learner)
    checksum = learner.publish(tmp_path)
    digest = Digest()
    assert len(dict(read_weights(tmp_path, digest))) == 2 * 2 * 2
    assert digest.checksum == checksum
    read = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path).merge_and_unload()
    learner.save(tmp_path / "saved")  # is merged
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").state_dict()
    for name, value in read.state_dict().items():
        torch.testing.assert_close(value, saved[name])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_who_has_the_model_makes_of_the_adapter_what_the_learner_publishes_merged(
    tiny: Path, tmp_path: Path, dtype: Dtype, stored: torch.dtype
) -> None:
    """Bit for bit, in the number format of the run, at every version; and it says what it has read."""
    shutil.copytree(tiny, folder := tmp_path / "model")
    weights = load_file(folder / SINGLE)
    save_file({name: value.to(stored) for name, value in weights.items()}, folder / SINGLE)
    learner = make_learner(folder, dtype=dtype, alpha=3.0, targets=["q_proj", "down_proj"], handover="adapter")
    for version in (1, 2):
        step(learner)
        (alone := tmp_path / f"{version}").mkdir()
        checksum = learner.publish(alone)
        learner.save(saved := tmp_path / f"{version}-merged")
        base, adapter = Digest(), PublishedAdapter.read(alone, folder)
        merged = dict(merged_weights(folder, adapter, getattr(torch, dtype), "cpu", base))
        assert (adapter.digest.checksum, adapter.digest.tensors) == (checksum, 2 * 2 * 2)
        assert base.checksum == checksum_of_model(folder)
        expected = dict(read_files(saved))
        assert merged.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(merged[name].to(value.dtype), value), name
        moved = [name for name, value in merged.items() if not torch.equal(value, weights[name].to(value.dtype))]
        assert len(moved) == 2 * 2


LAYER = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("parts", "facts", "why"),
    [
        ({"model.layers.7.mlp.up_proj": ((2, 64), (128, 2))}, {}, r"no weights of 1 layers .* \(model\.layers\.7\.mlp"),
        ({LAYER: ((2, 63), (128, 2))}, {}, r"up_proj\.lora_A\.weight is \[2, 63\], and \[2, 64\] belongs to the model"),
        ({LAYER: ((2, 64), (127, 2))}, {}, r"up_proj\.lora_B\.weight is \[127, 2\], and \[128, 2\]"),
        ({LAYER: ((2, 64),)}, {}, r"up_proj\.lora_B\.weight is missing"),
        ({"model.norm": ((2, 64), (64, 2))}, {}, r"model\.norm\.lora_A\.weight is \[2, 64\]"),
        ({LAYER: ((2, 64), (128, 2))}, {"r": 4}, r"lora_A\.weight is \[2, 64\], and \[4, 64\]"),
        ({LAYER: ((2, 64), (128, 2))}, {"r": 0}, "r must be a whole number from 1 and lora_alpha a number, got 0 and"),
        ({LAYER: ((2, 64), (128, 2))}, {"lora_alpha": None}, r"got 2 and None"),
        ({LAYER: ((2, 64), (128, 2))}, {"lora_alpha": "32"}, r"got 2 and '32'"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_made_of_it(
    tiny: Path, tmp_path: Path, parts: dict[str, tuple[tuple[int, int], ...]], facts: dict[str, Any], why: str
) -> None:
    named = [
        (f"{layer}.lora_{part}.default.weight", torch.ones(shape))
        for layer, shapes in parts.items()
        for part, shape in zip("AB", shapes, strict=False)
    ]
    write_adapter(tmp_path, named, LoraConfig(rank=2))
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | facts))
    with pytest.raises(DataError, match=why):
        PublishedAdapter.read(tmp_path, tiny)


def test_the_receipt_of_an_adapter_says_how_it_is_added(tmp_path: Path) -> None:
    """The same numbers with another scale are another adapter, for who writes it and for who reads it."""
    parts = [(f"{LAYER}.lora_{part}.default.weight", torch.ones(2, 2)) for part in "AB"]
    checksums = []
    for alpha in (1.0, 2.0):
        (folder := tmp_path / str(alpha)).mkdir()
        checksums.append(write_adapter(folder, parts, LoraConfig(rank=2, alpha=alpha)))
        dict(read_weights(folder, digest := Digest()))
        assert (digest.checksum, digest.tensors) == (checksums[-1], 2)
    assert len(set(checksums)) == 2


def test_targets_that_are_not_there_are_refused(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"can have an adapter: query\. There are down_proj, gate_proj"):
        make_learner(tiny, targets=["q_proj", "query"])


def test_an_adapter_on_the_output_layer_is_refused(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"can have an adapter: lm_head\. There are"):
        make_learner(tiny, targets=["lm_head"])


ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("mixtral", ATTENTION),
        ("phimoe", ATTENTION),
        ("qwen2_moe", ATTENTION | MLP),  # of the shared expert, and not its gate
        ("deepseek_v3", {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"} | MLP),
        ("falcon_h1", ATTENTION | MLP | {"in_proj"}),
        ("mamba2", {"in_proj"}),
        ("nemotron_h", ATTENTION | {"up_proj", "down_proj", "in_proj"}),
        ("jamba", ATTENTION | MLP | {"in_proj"}),
        ("zamba2", {"in_proj", "linear"}),  # its attention is in several layers, with one weight
        ("gemma3_vl", ATTENTION | MLP),  # and not those of the part that reads images
    ],
)
def test_the_default_leaves_out_what_an_adapter_would_miss(tmp_path: Path, name: str, layers: set[str]) -> None:
    learner = make_learner(build(name, tmp_path))
    assert set(adapted(learner.policy.model)) == layers
    assert f"adapter next to {', '.join(sorted(layers))}" in learner.description
    beside = {each.partition(".lora_")[0] for each, _ in learner.policy.model.named_parameters() if ".lora_" in each}
    assert not [each for each in beside if "vision" in each or "expert_gate" in each]
    step(learner)


@pytest.mark.parametrize(("name", "target"), [("qwen3_moe", "gate_proj"), ("mamba2", "out_proj"), ("olmoe", "gate")])
def test_layers_that_an_adapter_would_miss_are_no_targets(tmp_path: Path, name: str, target: str) -> None:
    with pytest.raises(ConfigError, match=rf"can have an adapter: {target}\. There are"):
        make_learner(build(name, tmp_path), targets=[target])


def test_a_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no plain linear layers inside.*remove \[lora\]"):
        make_learner(build("gpt2", tmp_path))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_a_checkpoint_holds_the_adapter_and_goes_on_with_the_same_bits(
    tiny: Path, tmp_path: Path, dtype: Dtype, quantization: str | None
) -> None:
    learner = make_learner(tiny, dtype=dtype, quantization=quantization)
    step(learner)
    learner.checkpoint(tmp_path)
    kept = dict(read_files(tmp_path / "model")) | dict(read_files(tmp_path, "optimizer-*"))
    assert all(".lora_" in name for name in kept)
    resumed = make_learner(tiny, tmp_path, dtype, quantization=quantization)
    for each in (learner, resumed):
        step(each)
    assert resumed.version == learner.version == 2
    assert WithoutAdapter(resumed).logprobs(GROUPS, 1.0) == WithoutAdapter(learner).logprobs(GROUPS, 1.0)
    checksums = set()
    for name, each in (("resumed", resumed), ("uninterrupted", learner)):
        (tmp_path / name).mkdir()
        checksums.add(each.publish(tmp_path / name))
        each.policy.weights.write_checkpoint(tmp_path / name / "kept")
    assert len(checksums) == 1
    mine, theirs = (dict(read_files(tmp_path / name / "kept")) for name in ("resumed", "uninterrupted"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_checkpoint_of_another_adapter_is_refused(tiny: Path, tmp_path: Path) -> None:
    learner = make_learner(tiny)
    step(learner)
    learner.checkpoint(tmp_path)
    with pytest.raises(RunError, match=r"lora_A.default.weight is \[4, \d+\] there and \[8, \d+\]"):
        make_learner(tiny, tmp_path, rank=8)
    with pytest.raises(RunError, match="there and missing in the model"):
        make_learner(tiny, tmp_path, targets=["q_proj"])


def quantized_learner(folder: Path, checkpoint: Path | None = None, dtype: Dtype = "float32") -> TorchLearner:
    return make_learner(folder, checkpoint, dtype, quantization="nf4")


def dequantized(learner: TorchLearner, folder: Path) -> Path:
    """A model folder with the numbers that a quantised learner computes with."""
    plain = AutoModelForCausalLM.from_pretrained(learner.policy._folder, dtype=torch.float32)
    layers = dict(learner.policy.model.named_modules())
    for name, module in plain.named_modules():
        weight: Any = getattr(getattr(layers.get(name), "base_layer", None), "weight", None)
        if is_quantized(weight):
            module.weight.data = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    plain.save_pretrained(folder)
    return folder


def gradients(learner: TorchLearner) -> dict[str, torch.Tensor]:
    learner.accumulate(GROUPS, lambda _, logprobs_RT, __: Weights(torch.ones_like(logprobs_RT)), 1.0)
    return {name: value.grad for name, value in learner.policy.trained.items() if value.grad is not None}


def test_a_base_of_4_bits_gives_the_gradient_of_the_numbers_that_it_stands_for(tiny: Path, tmp_path: Path) -> None:
    quantized = quantized_learner(tiny)
    plain = make_learner(dequantized(quantized, tmp_path / "plain"))
    layers = [each for each in quantized.policy.model.modules() if isinstance(each, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 2 * 7  # all linear layers, and not the output layer
    numbers = sum(layer.in_features * layer.out_features for layer in layers)
    scales = [(s.absmax, s.state2.absmax) for s in (layer.weight.quant_state for layer in layers)]
    taken = sum(
        layer.weight.nbytes + first.nbytes + second.nbytes
        for layer, (first, second) in zip(layers, scales, strict=True)
    )
    assert taken == pytest.approx(NF4 * numbers, rel=2e-3)
    assert quantized.logprobs(GROUPS, 0.8) != make_learner(tiny).logprobs(GROUPS, 0.8)
    for _ in range(2):  # in the first step A has no gradient, because B is 0
        mine, theirs = gradients(quantized), gradients(plain)
        assert mine.keys() == theirs.keys() == quantized.policy.trained.keys()
        for name, expected in theirs.items():
            torch.testing.assert_close(mine[name], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        for learner in (quantized, plain):
            assert learner._optimizer.step().applied
    assert any(float(value.abs().max()) > 0 for name, value in mine.items() if "lora_A" in name)


def test_passes_with_and_without_gradient_give_the_same_of_4_bits(tiny: Path) -> None:
    learner = quantized_learner(tiny, dtype="bfloat16")
    with_gradient: list[torch.Tensor] = []

    def weights(_: object, logprobs_RT: torch.Tensor, __: object) -> Weights:
        with_gradient.append(logprobs_RT.detach().flatten())
        return Weights(torch.ones_like(logprobs_RT))

    without = torch.tensor([*chain(*learner.logprobs(GROUPS, 1.0))])
    learner.accumulate(GROUPS, weights, 1.0)
    seen = torch.cat(with_gradient)
    assert torch.equal(seen[seen != 0].sort().values, without.sort().values)


def test_of_4_bits_only_the_adapter_leaves_and_a_saved_model_has_the_original_weights(
    tiny: Path, tmp_path: Path
) -> None:
    learner = quantized_learner(tiny)
    step(learner)
    (tmp_path / "published").mkdir()
    learner.publish(tmp_path / "published")
    published = dict(read_files(tmp_path / "published"))
    assert len(published) == 2 * 2 * 7
    assert all(".lora_" in name for name in published)
    learner.save(tmp_path / "saved")
    read = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path / "published")
    expected = read.merge_and_unload().state_dict()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").state_dict()
    assert saved.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(saved[name], value)


@pytest.mark.parametrize("name", ["falcon_h1", "mamba2", "gemma3_vl"])
def test_what_an_adapter_would_miss_is_not_quantized(tmp_path: Path, name: str) -> None:
    learner = quantized_learner(build(name, tmp_path))
    beside = {each.partition(".lora_")[0] for each, _ in learner.policy.model.named_parameters() if ".lora_" in each}
    quantized = {
        each.removesuffix(".base_layer")
        for each, module in learner.policy.model.named_modules()
        if is_quantized(getattr(module, "weight", None))
    }
    assert quantized == beside
    step(learner)
    learner.save(tmp_path / "saved")


@pytest.mark.parametrize(
    ("name", "layers"), [("gpt2", r"Conv1D \(.*c_attn.weight\)"), ("mixtral", r"MixtralExperts \(.*gate_up_proj\)")]
)
def test_models_whose_weights_are_no_linear_layers_are_not_quantized(tmp_path: Path, name: str, layers: str) -> None:
    with pytest.raises(UserError, match=rf"'nf4' is impossible for \w+: bitsandbytes.*{layers}"):
        quantized_learner(build(name, tmp_path))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (["lora.quantization=nf4", "gro.terms.grpo.correction.kind=truncate"], "lora.quantization = 'nf4'"),
        (["learning.optimizer=adamw-8bit"], "learning.optimizer = 'adamw-8bit'"),
        (["lora.rank=4"], ""),
    ],
)
def test_what_needs_bitsandbytes_is_refused_by_name_without_it(
    monkeypatch: pytest.MonkeyPatch, settings: list[str], key: str
) -> None:
    config = load_config("math-gsm8k", "laptop", sets=["model.device=cpu", *settings]).config
    assert choose_learner(config) == "torch"
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    if not key:
        assert choose_learner(config) == "torch"
        return
    with pytest.raises(MissingDependencyError, match=rf"{key} needs bitsandbytes, .*'reasoner\[small-gpu\]'"):
        choose_learner(config)
