"""What a model is called in its folder, and that it is loaded, published and saved whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from reasoner.config import LearningConfig, LoraConfig
from reasoner.errors import ConfigError, DataError, HandoverError, RunError, UserError
from reasoner.learning.critic import TorchCritic
from reasoner.learning.torch_engine import TorchLearner
from reasoner.models.files import write_model
from reasoner.models.loading import check_weights, load_model
from reasoner.models.tensor_files import read_files, write_weights
from reasoner.models.weight_files import INDEX, read_shapes
from reasoner.sampling.transformers import HfSampler
from reasoner.training.weight_sync import SavedModel
from tests.architectures import build

Tensors = dict[str, Tensor]
WEIGHTS = "model.safetensors"
KINDS = (
    "llama",
    "llama-untied",
    "gemma2",
    "gpt_neox",
    "mixtral",
    "gpt_oss",
    "deepseek_v3",
    "gemma4",
    "gemma3_vl",
    "qwen3_5_vl",
    "llama4",
)
"""tied, untied, a tied one that vLLM knows no output layer of, renamed, experts apart in the folder, experts together,
buffers of the router, buffers of the layers, images in one model with the text, images beside the text's model (two)"""
FROZEN = ("vision_tower.", "vision_model.", "multi_modal_projector.", "model.visual.")
BUFFERS = ("e_score_correction_bias", "layer_scalar", "std_bias", "std_scale")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(root: Path) -> Callable[[str], Path]:
    """The folder of a tiny model by its name in `tests.architectures`, built once."""
    return cache(lambda name: build(name, root / name))


@pytest.fixture
def change(model: Callable[[str], Path], tmp_path: Path) -> Callable[[str, Callable[[Tensors], Tensors]], Path]:
    """A copy of a tiny model's folder with other weights."""

    def changed(name: str, edit: Callable[[Tensors], Tensors]) -> Path:
        folder = tmp_path / "changed"
        folder.mkdir(exist_ok=True)
        for file in model(name).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        tensors = {key: value.clone() for key, value in edit(load_file(model(name) / WEIGHTS)).items()}
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})
        return folder

    return changed


def learner(folder: Path, lora: LoraConfig | None = None, checkpoint: Path | None = None) -> TorchLearner:
    config = LearningConfig(token_budget=64)
    return TorchLearner(
        folder, device="cpu", dtype="float32", config=config, total_steps=1, lora=lora, checkpoint=checkpoint
    )


@torch.no_grad()
def train(some: TorchLearner) -> None:
    """As an optimiser step does: every trained parameter changes."""
    for parameter in some.policy.model.parameters():
        if parameter.requires_grad:
            parameter.mul_(1.25).add_(0.01)
    some._optimizer.version += 1


def published(some: TorchLearner, folder: Path) -> Tensors:
    folder.mkdir()
    some.publish(folder)
    return dict(read_files(folder))


@pytest.mark.parametrize("name", KINDS)
def test_what_leaves_a_learner_has_the_names_of_the_folder(
    model: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = model(name)
    origin = dict(read_files(folder))
    some = learner(folder)
    outside = {key for key in origin if name in ("qwen3_5_vl", "llama4") and key.startswith(FROZEN)}
    before = published(some, tmp_path / "before")
    assert before.keys() == origin.keys() - outside
    assert all(torch.equal(before[key], origin[key]) for key in before)
    train(some)
    after = published(some, tmp_path / "after")
    kept = {key for key in origin if key.startswith(FROZEN) or key.endswith(BUFFERS)}
    assert {key for key in origin if key not in after or torch.equal(after[key], origin[key])} == kept
    some.save(tmp_path / "saved")
    saved = dict(read_files(tmp_path / "saved"))
    assert {key: value.shape for key, value in saved.items()} == {key: value.shape for key, value in origin.items()}
    assert all(torch.equal(saved[key], after.get(key, origin[key])) for key in saved)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32).state_dict()
    trained = some.policy.model.state_dict()
    assert all(torch.equal(again[key], trained[key]) for key in trained)


@pytest.mark.parametrize("name", ["gemma2", "mixtral", "deepseek_v3", "gemma4", "gemma3_vl", "qwen3_5_vl"])
def test_a_sampler_takes_what_was_published(model: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    some = learner(model(name))
    train(some)
    with HfSampler(model(name), "float32", "cpu", 64, 2, False) as sampler:
        weights = published(some, tmp_path / "published")
        receipt = sampler.load(tmp_path / "published", 1)
        assert receipt.tensors == len(weights)
        state, trained = sampler._model.state_dict(), some.policy.model.state_dict()
        assert all(torch.equal(state[key], trained[key]) for key in trained)
        lost = sorted(weights)[3]
        (tmp_path / "fewer").mkdir()
        write_weights(tmp_path / "fewer", ((key, value) for key, value in weights.items() if key != lost))
        with pytest.raises(HandoverError, match=f"{lost}: missing, of {len(weights)}"):
            sampler.load(tmp_path / "fewer", 2)


@pytest.mark.parametrize("name", ["deepseek_v3", "qwen3_5_vl"])
def test_a_model_as_it_is_on_disk_is_published_under_the_same_names(
    model: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    expected = published(learner(model(name)), tmp_path / "learner")
    (tmp_path / "saved").mkdir()
    SavedModel(model(name), "bfloat16", False).publish(tmp_path / "saved")
    result = dict(read_files(tmp_path / "saved"))
    assert result.keys() == expected.keys()
    for key, value in result.items():
        dtype = torch.float32 if key.endswith(BUFFERS) else torch.bfloat16
        assert value.dtype == dtype
        assert torch.equal(value, expected[key].to(dtype))


@pytest.mark.parametrize("name", ["mixtral", "gpt_neox"])
def test_a_checkpoint_is_gone_on_with(model: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    some = learner(model(name))
    train(some)
    some.checkpoint(tmp_path)
    assert read_shapes(tmp_path / "model") == read_shapes(model(name))
    state, trained = learner(model(name), checkpoint=tmp_path).policy.model.state_dict(), some.policy.model.state_dict()
    assert all(torch.equal(state[key], trained[key]) for key in trained)
    tensors = load_file(tmp_path / "model" / WEIGHTS)
    lost = sorted(tensors)[5]
    save_file({key: value for key, value in tensors.items() if key != lost}, tmp_path / "model" / WEIGHTS)
    with pytest.raises(DataError, match=f"does not hold the weights of this model: {lost} is missing there"):
        learner(model(name), checkpoint=tmp_path)


def test_an_adapter_is_merged_under_the_names_of_the_folder_and_goes_alone_under_them_too(
    model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = model("qwen3_5_vl")
    origin = load_file(folder / WEIGHTS)
    lora = LoraConfig(rank=2, targets=["down_proj"])
    some = learner(folder, lora)
    train(some)
    merged = published(some, tmp_path / "merged")
    changed = {key for key in merged if not torch.equal(merged[key], origin[key])}
    assert changed == {f"model.language_model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)}
    some.save(tmp_path / "saved")
    assert read_shapes(tmp_path / "saved") == read_shapes(folder)
    alone = published(learner(folder, lora.model_copy(update={"handover": "adapter"})), tmp_path / "alone")
    assert set(alone) == {
        f"base_model.model.model.language_model.layers.{layer}.mlp.down_proj.lora_{part}.weight"
        for layer in (0, 1)
        for part in "AB"
    }


def without(*endings: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if not key.endswith(endings)}


def loads(folder: Path) -> Iterator[Callable[[], object]]:
    """Every way into memory that a model has."""
    yield lambda: learner(folder)
    yield lambda: HfSampler(folder, "float32", "cpu", 64, 2, False)
    yield lambda: SavedModel(folder, "float32", False).publish(folder)
    config = LearningConfig(token_budget=64)
    yield lambda: TorchCritic(folder, device="cpu", dtype="float32", config=config, learning_rate=1e-3, total_steps=1)


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("llama", without("1.self_attn.o_proj.weight"), r"lacks [.a-z]*layers\.1\.self_attn\.o_proj\.weight: "),
        (
            "mixtral",
            without("0.block_sparse_moe.experts.1.w2.weight"),
            r"lacks .*layers\.0\..*experts\.1\.w2\.weight: ",
        ),
        ("mixtral", without("experts.3.w1.weight", "experts.3.w2.weight", "experts.3.w3.weight"), "and 1 more tensors"),
        (
            "llama",
            lambda tensors: tensors | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)},
            r"has model\.layers\.0\.self_attn\.q_proj\.bias, which Llama\w+ has no place for",
        ),
        (
            "llama",
            lambda tensors: tensors | {"model.norm.weight": torch.zeros(6)},
            r"norm\.weight is \[6\], and the model of its config\.json has \[64\]",
        ),
    ],
    ids=["missing", "an expert's", "an expert", "unknown", "shape"],
)
def test_a_folder_that_is_not_complete_is_refused(
    change: Callable[[str, Callable[[Tensors], Tensors]], Path],
    name: str,
    edit: Callable[[Tensors], Tensors],
    words: str,
) -> None:
    for load in loads(change(name, edit)):
        with pytest.raises(DataError, match=words):
            load()


def test_a_missing_output_layer_is_refused_where_it_is_needed(
    change: Callable[[str, Callable[[Tensors], Tensors]], Path],
) -> None:
    *policies, critic = loads(change("llama-untied", without("lm_head.weight")))
    for load in policies:
        with pytest.raises(DataError, match=r"lacks lm_head\.weight: "):
            load()
    critic()


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("llama", lambda tensors: {key.removeprefix("model."): value for key, value in tensors.items()}),
        ("llama", lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}),
        ("llama", lambda tensors: {key.replace("model.embed_tokens", "lm_head"): tensors[key] for key in tensors}),
        ("llama", lambda tensors: tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
        ("gemma3_vl", lambda tensors: {key.replace("tower.", "tower.vision_model."): tensors[key] for key in tensors}),
        ("qwen3_5_vl", lambda tensors: tensors | {"mtp.fc.weight": torch.ones(4)}),
    ],
    ids=["no prefix", "tied twice", "tied as the head", "former buffer", "former names", "further tokens"],
)
def test_other_names_for_the_same_model_are_kept(
    change: Callable[[str, Callable[[Tensors], Tensors]], Path],
    tmp_path: Path,
    name: str,
    edit: Callable[[Tensors], Tensors],
) -> None:
    folder = change(name, edit)
    origin = load_file(folder / WEIGHTS)
    some = learner(folder)
    train(some)
    some.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / WEIGHTS)
    assert saved.keys() == origin.keys()
    assert any(not torch.equal(saved[key], origin[key]) for key in saved)
    state, trained = learner(tmp_path / "saved").policy.model.state_dict(), some.policy.model.state_dict()
    assert all(torch.equal(state[key], trained[key]) for key in trained)


def test_layers_that_predict_further_tokens_are_carried_over(
    change: Callable[[str, Callable[[Tensors], Tensors]], Path],
) -> None:
    def more(layer: int) -> Path:
        name = f"model.layers.{layer}.eh_proj.weight"
        return change("glm4_moe", lambda tensors: tensors | {name: torch.ones(2)})

    folder = more(2)
    assert check_weights(folder, False).names.kept == ("model.layers.2.eh_proj.weight",)
    with pytest.raises(DataError, match=r"has model\.layers\.3\.eh_proj\.weight, which"):
        check_weights(more(3), False)


def test_every_expert_is_trained_in_float32(model: Callable[[str], Path], root: Path) -> None:
    small = root / "gpt_oss-bfloat16"
    AutoModelForCausalLM.from_pretrained(model("gpt_oss"), dtype=torch.bfloat16).save_pretrained(small)
    some = load_model(small, device="cpu", dtype=torch.float32, trust_remote_code=False).model
    assert {value.dtype for value in some.parameters()} == {torch.float32}


def test_files_beside_the_weights_are_carried_over_as_they_are(
    change: Callable[[str, Callable[[Tensors], Tensors]], Path], tmp_path: Path
) -> None:
    folder = change("llama", dict)
    invalid = '{"temperature": 0.6, "do_sample": false, "eos_token_id": [2, 0]}'  # transformers would not save it
    (folder / "generation_config.json").write_text(invalid)
    (folder / "preprocessor_config.json").write_text('{"size": 4}')
    config = json.loads((folder / "config.json").read_text())
    config |= {"own": "words", "torch_dtype": "float16", "vision_config": {"dtype": "float16", "depth": 2}}
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    some = learner(folder)
    for file in folder.iterdir():
        if file.name != WEIGHTS:
            file.unlink()  # whatever becomes of the origin meanwhile
    some.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "generation_config.json").read_text() == invalid
    assert (tmp_path / "saved" / "preprocessor_config.json").read_text() == '{"size": 4}'
    assert (tmp_path / "saved" / "tokenizer.json").stat().st_size > 1000
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == config | {
        "torch_dtype": "float32",
        "vision_config": {"dtype": "float32", "depth": 2},
    }


def test_a_folder_without_settings_of_generation_gets_those_of_its_configuration(
    change: Callable[[str, Callable[[Tensors], Tensors]], Path], tmp_path: Path
) -> None:
    folder = change("llama", dict)
    (folder / "generation_config.json").unlink()
    learner(folder).save(tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    written = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert written["eos_token_id"] == config["eos_token_id"]


def test_many_files_have_an_index_and_what_was_lost_or_added_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("reasoner.models.tensor_files.SHARD_BYTES", 16)
    tensors = {"a": torch.ones(4), "b": torch.zeros(3), "c": torch.ones(1)}
    expected = {name: list(value.shape) for name, value in tensors.items()}
    write_model(tmp_path, tensors.items(), expected)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        INDEX,
    ]
    assert read_shapes(tmp_path) == expected
    for wrong, words in (
        (expected | {"d": [2]}, "d is missing there and should be \\[2\\]"),
        ({name: expected[name] for name in "ac"}, "b is \\[3\\] there and should be missing"),
        (expected | {"c": [1, 1]}, "c is \\[1\\] there and should be \\[1, 1\\]"),
    ):
        (other := tmp_path / words[:1]).mkdir()
        with pytest.raises(RunError, match=words):
            write_model(other, tensors.items(), wrong)


@pytest.mark.parametrize("name", ["mistral3", "qwen2_5_vl"])
def test_models_whose_text_part_is_not_known_are_refused_by_name(model: Callable[[str], Path], name: str) -> None:
    with pytest.raises(UserError, match=r"is a \w+ForConditionalGeneration.* cannot be trained"):
        check_weights(model(name), False)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", None])
def test_quantised_weights_are_refused(
    change: Callable[[str, Callable[[Tensors], Tensors]], Path], method: str | None
) -> None:
    folder = change("llama", dict)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    for load in loads(folder):
        with pytest.raises(UserError, match=rf"quantised \({method or 'None'}\).* whose weights are bfloat16"):
            load()


@pytest.mark.parametrize(
    "wrong",
    [
        {"vocab_size": 10, "pad_token_id": 12},
        {"hidden_size": -64},
        {"num_attention_heads": 0},
        {"hidden_act": "nonsense"},
        {"rope_parameters": {"rope_type": "nonsense"}},
        {"quantization_config": "4 bits"},
        {"vocab_size": "many"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_configuration_of_which_no_model_can_be_made_is_refused_with_its_folder(
    change: Callable[[str, Callable[[Tensors], Tensors]], Path], wrong: dict[str, Any]
) -> None:
    """Whatever transformers and torch raise for it: an AssertionError, RuntimeError, ZeroDivisionError..."""
    folder = change("llama", dict)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | wrong))
    with pytest.raises(UserError, match=f"transformers cannot open the model in {folder}: [A-Za-z]+Error: "):
        check_weights(folder, False)


def test_an_adapter_beside_the_model_is_refused(change: Callable[[str, Callable[[Tensors], Tensors]], Path]) -> None:
    folder = change("llama", dict)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="merge_and_unload"):
        check_weights(folder, False)


def mxfp4(tensors: Tensors) -> Tensors:
    """Experts as gpt-oss is published: blocks of 32 four-bit numbers, each with the exponent of a scale."""
    result = {}
    for name, value in tensors.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, columns, rows = value.shape
            generator = torch.Generator().manual_seed(rows)
            blocks = torch.randint(0, 255, (experts, rows, columns // 32, 16), generator=generator)
            result[f"{name}_blocks"] = blocks.to(torch.uint8)
            result[f"{name}_scales"] = torch.full((experts, rows, columns // 32), 124, dtype=torch.uint8)
        else:
            result[name] = value.bfloat16()
    return result


def fp8(tensors: Tensors) -> Tensors:
    """Matrices as blocks of 32 x 32, each with a scale."""
    result = {}
    for name, value in tensors.items():
        result[name] = value
        if name.endswith("_proj.weight"):
            rows, columns = value.shape
            blocks = value.reshape(rows // 32, 32, columns // 32, 32)
            scale = blocks.abs().amax((1, 3)) / 448
            result[name] = (blocks / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
            result[name.replace("weight", "weight_scale_inv")] = scale
    return result


@pytest.mark.parametrize(
    ("name", "quantise", "settings"),
    [
        ("gpt_oss", mxfp4, {"quant_method": "mxfp4"}),
        ("qwen3_moe", fp8, {"quant_method": "fp8", "weight_block_size": [32, 32], "activation_scheme": "dynamic"}),
    ],
    ids=["mxfp4", "fp8"],
)
def test_the_refusal_of_quantised_weights_says_how_to_write_plain_ones(
    model: Callable[[str], Path],
    change: Callable[[str, Callable[[Tensors], Tensors]], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    quantise: Callable[[Tensors], Tensors],
    settings: dict[str, object],
) -> None:
    folder = change(name, quantise)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    with pytest.raises(UserError, match=rf"quantised \({settings['quant_method']}\)") as refused:
        check_weights(folder, False)
    _, code = str(refused.value).split("PLAIN:\n")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "message", "exec"), {})
    plain = tmp_path / "PLAIN"
    assert read_shapes(plain) == read_shapes(model(name))
    assert {value.dtype for _, value in read_files(plain)} == {torch.bfloat16}
    learner(plain)
    if name == "qwen3_moe":
        origin = load_file(model(name) / WEIGHTS)
        assert all(torch.allclose(value.float(), origin[key], atol=0.05) for key, value in read_files(plain))


def test_an_adapter_beside_a_weight_that_is_converted_cannot_go_alone() -> None:
    from reasoner.learning.adapter import adapter_names

    with pytest.raises(ConfigError, match=r"experts\.gate_up_proj\.weight in another form .*'merged'"):
        adapter_names(["model.experts.gate_up_proj.lora_A.default.weight"], {})
