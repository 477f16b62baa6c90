"""Which files of a model's folder are its weights, and what is believed of what they say."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils._paths import filter_repo_objects
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from reasoner.errors import DataError, UserError
from reasoner.models import resolve as models
from reasoner.models.resolve import resolve_model
from reasoner.models.size import ModelSize, find_size
from reasoner.models.tokenizer import open_tokenizer
from reasoner.models.weight_files import INDEX, SINGLE, read_shapes, weight_files
from reasoner.runs.checksums import identify
from tests.tiny import build_tiny_model

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
BESIDE = (
    "consolidated.safetensors",
    "consolidated.00.pth",
    "pytorch_model.bin",
    "pytorch_model-00001-of-00002.bin",
    "model.fp16.safetensors",
    "adapter_model.safetensors",
    "model.gguf",
    "flax_model.msgpack",
    "tf_model.h5",
    "rust_model.ot",
    "original/model.safetensors",
    "original/consolidated.00.pth",
    "onnx/model.onnx",
    "fp16/model.safetensors",
)
"""what repositories have beside the weights that are loaded"""


def index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def sharded(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(SHARDS):
        save_file({f"x{number}": torch.zeros(2, 3)}, folder / name)
    index(folder, {"x0": SHARDS[0], "x1": SHARDS[1]})
    return folder


def single(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"x": torch.zeros(2, 3)}, folder / SINGLE)
    return folder


@pytest.mark.parametrize(("build", "expected"), [(sharded, [*SHARDS]), (single, [SINGLE])])
def test_what_lies_beside_the_weights_is_neither_counted_nor_checked(
    tmp_path: Path, build: Callable[[Path], Path], expected: list[str]
) -> None:
    folder = build(tmp_path)
    before = read_shapes(folder)
    for name in BESIDE:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"anything")
    assert [path.name for path in weight_files(folder)] == expected
    assert read_shapes(folder) == before
    (folder / "config.json").write_text("{}")
    assert ModelSize.of(folder).parameters == 6 * len(expected)
    assert find_size(str(folder), None, False).parameters == 6 * len(expected)
    assert {
        name for name in identify({"model": folder}, {}, [], "") if "safetensors" in name and "json" not in name
    } == {f"model: {name}" for name in expected}


@pytest.mark.parametrize("built", ["sharded", "single"])
def test_only_what_is_loaded_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: str) -> None:
    repository = (sharded if built == "sharded" else single)(tmp_path / "hub")
    for name in (*BESIDE, "config.json", "tokenizer.json", "chat_template.jinja", "README.md"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("{}")
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    fetched: list[str] = []

    def snapshot_download(
        hub_id: str, *, allow_patterns: list[str], revision: str | None = None, local_files_only: bool = False
    ) -> str:
        assert revision in (None, folder.name)
        names = [path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()]
        for name in () if local_files_only else filter_repo_objects(names, allow_patterns=allow_patterns):
            blob, link = blobs / name.replace("/", "_"), folder / name
            if not link.exists():
                fetched.append(name)
                link.parent.mkdir(parents=True, exist_ok=True)
                blob.write_bytes((repository / name).read_bytes())
                link.symlink_to(os.path.relpath(blob, link.parent))  # as the cache of the hub does
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr(models, "hub_reachable", lambda: True)
    assert resolve_model("some/model") == folder
    weights = {SINGLE} if built == "single" else {*SHARDS, INDEX}
    assert set(fetched) == {*weights, "config.json", "tokenizer.json", "chat_template.jinja"}
    monkeypatch.setattr(models, "hub_reachable", lambda: False)
    assert resolve_model("some/model") == folder


def test_a_folder_with_both_kinds_is_refused_as_the_engines_would_load_different_weights(tmp_path: Path) -> None:
    folder = single(sharded(tmp_path))
    with pytest.raises(DataError, match=r"transformers would load the one and vLLM the others"):
        weight_files(folder)
    index(folder, {"x": SINGLE})
    assert [path.name for path in weight_files(folder)] == [SINGLE]


def test_the_choice_is_that_of_transformers(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "tiny")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    (folder / "config.json").rename(tmp_path / "shards" / "config.json")
    (folder / SINGLE).rename(tmp_path / "shards" / "consolidated.safetensors")
    assert len(weight_files(tmp_path / "shards")) > 1
    expected = sum(value.numel() for value in model.parameters())
    assert ModelSize.of(tmp_path / "shards").parameters == expected


OUTSIDE = [
    "pytorch_model.bin",
    "../x.safetensors",
    "/x.safetensors",
    "sub/x.safetensors",
    "..\\x.safetensors",
    "x.safetensors\0.bin",
    "x.safetensors/../../y.safetensors",
    "",
    ".safetensors/",
    None,
    3,
    ["model.safetensors"],
    {"a": "model.safetensors"},
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_names_files_of_its_own_folder_only(tmp_path: Path, name: object) -> None:
    folder = sharded(tmp_path / "model")
    save_file({"x0": torch.zeros(1)}, tmp_path / "x.safetensors")
    index(folder, {"x0": name, "x1": SHARDS[1]})
    with pytest.raises(
        DataError, match=r"index\.json: the file of tensor 'x0' is .* must be the name of a \.safetensors"
    ):
        weight_files(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "a JSON object is needed, got list"),
        ("{}", "'weight_map' must be a table of tensors and their files, got None"),
        ('{"weight_map": []}', r"'weight_map' must be a table .*got \[\]"),
        ('{"weight_map": {}}', r"'weight_map' must be a table"),
        ("[" * 100_000, "nested more than 100 levels deep"),
        ('{"weight_map": ' * 100_000, "nested more than 100 levels deep, in weight_map"),
        (
            '{"weight_map": {"x0": "gone.safetensors"}}',
            r"names 'gone.safetensors' \(1 of 1 files\), which is not there",
        ),
        (f'{{"weight_map": {{"x0": "{SHARDS[0]}", "x9": "{SHARDS[1]}"}}}}', "names the tensor 'x9', which none"),
    ],
)
def test_an_index_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = sharded(tmp_path)
    (folder / INDEX).write_text(text)
    with pytest.raises(DataError, match=message) as refused:
        read_shapes(folder)
    assert len(str(refused.value)) < 1000
    assert str(folder / INDEX) in str(refused.value)


def test_an_index_of_gigabytes_and_one_that_is_no_file_are_not_read(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    os.truncate(folder / INDEX, 2**33)
    with pytest.raises(DataError, match="has more than 64 MiB"):
        read_shapes(folder)
    (folder / INDEX).unlink()
    os.mkfifo(folder / INDEX)
    os.mkfifo(folder / SINGLE)
    os.mkfifo(folder / "config.json")
    assert weight_files(folder) == []
    with pytest.raises(UserError, match=r"config.json"):
        resolve_model(str(folder))


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(header: Mapping[str, Any] | list[Any] | bytes, data: int = 8, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        file_of({"x": F32}, length=2**62),
        file_of({"x": F32}, length=2**64 - 1),
        file_of({"x": F32}, length=10_000),
        file_of({"x": F32}, length=3),
        file_of([1]),
        file_of(b"\xff\xfe"),
        file_of(b"[" * 100_000),
        file_of(b'{"x":' * 50_000 + b"1" + b"}" * 50_000),
        file_of({"x": 3}),
        file_of({"x": {}}),
        file_of({"x": {**F32, "shape": None}}),
        file_of({"x": {**F32, "shape": [-2]}}),
        file_of({"x": {**F32, "shape": [2.0]}}),
        file_of({"x": {**F32, "shape": [2**62, 2**62]}}),
        file_of({"x": {**F32, "shape": [10**30]}}),
        file_of({"x": {**F32, "shape": [True, 2]}}),
        file_of({"x": {**F32, "shape": [3]}}),
        file_of({"x": {**F32, "data_offsets": [0]}}),
        file_of({"x": {**F32, "data_offsets": [8, 0]}}),
        file_of({"x": {**F32, "data_offsets": [-8, 0]}}),
        file_of({"x": {**F32, "data_offsets": [0, 2**63]}}),
        file_of({"x": {**F32, "data_offsets": [4, 12]}}, 12),
        file_of({"x": F32, "y": F32}),
        file_of({"x": F32, "y": {**F32, "data_offsets": [4, 12]}}, 12),
        file_of({"x": F32, "y": {**F32, "data_offsets": [16, 24]}}, 24),
        file_of({"x": F32}, 7),
        file_of({"x": F32}, 9),
        file_of({"x": F32}, 0),
        file_of({"x": {**F32, "dtype": ["F32"]}}, 12),
    ],
)
def test_a_file_that_is_no_safetensors_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / SINGLE).write_bytes(data)
    with pytest.raises(DataError, match=r"model\.safetensors: (no safetensors file|tensor|its header)") as refused:
        read_shapes(tmp_path)
    assert len(str(refused.value)) < 600


def test_files_as_the_library_writes_them_are_read(tmp_path: Path) -> None:
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    tensors = {f"x{number}": torch.zeros(number, 3).to(kind) for number, kind in enumerate(kinds)}
    tensors["scalar"] = torch.tensor(1.0)
    tensors["f8"] = torch.zeros(5).to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / SINGLE, metadata={"format": "pt"})
    assert read_shapes(tmp_path) == {name: list(value.shape) for name, value in tensors.items()}
    (tmp_path / SINGLE).write_bytes(file_of({"x": {**F32, "dtype": "A_NEW_ONE"}}))
    assert read_shapes(tmp_path) == {"x": [2]}  # how wide its numbers are is not known here


def test_a_run_on_a_stranger_model_ends_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "tiny")
    (folder / SINGLE).write_bytes(file_of({"x": F32}, length=2**62))
    with pytest.raises(DataError, match="its header would have 4611686018427387904 bytes"):
        resolve_model(str(folder))
    with pytest.raises(DataError, match="its header would have"):
        find_size(str(folder), None, False)
    for name in ("config.json", "tokenizer_config.json"):
        deep = build_tiny_model(tmp_path / name)
        (deep / name).write_text('{"a": ' * 100_000 + "1" + "}" * 100_000)
        with pytest.raises(UserError, match=rf"{name}: nested more than 100 levels deep, in a.a.a"):
            open_tokenizer(deep, trust_remote_code=False)
    (build_tiny_model(tmp_path / "t") / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="transformers cannot open the model"):
        open_tokenizer(tmp_path / "t", trust_remote_code=False)
