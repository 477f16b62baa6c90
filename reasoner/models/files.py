"""A model's folder as it is written: the weights, and every file that lay beside them in the folder it came from.

Configuration, tokenizer, chat template, the settings of images: all are carried over as they are, so that a saved model
is to every program what its origin was. They are read when the model is loaded: a file that cannot be saved ends a run
before it begins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from reasoner.errors import RunError
from reasoner.io.bounded_files import LARGE_BYTES, read_bytes
from reasoner.io.parsing import read_model_json
from reasoner.models.tensor_files import read_tensors, write_shards
from reasoner.models.weight_files import INDEX, SINGLE, read_shapes

SUFFIXES = (".json", ".txt", ".model", ".jinja", ".py")
"""of the files that a model has beside its weights"""
CONFIG, GENERATION = "config.json", "generation_config.json"
_DTYPES = ("dtype", "torch_dtype")


class ModelFiles:
    """What lies beside the weights of a model."""

    def __init__(self, folder: Path, generation: str | None, architecture: str | None = None) -> None:
        """Read it.

        Args:
            folder: of the model.
            generation: text of `generation_config.json`, for a folder that has none; None: it needs none.
            architecture: name of the model's class, where it is another than the folder's; None: it is the same.

        Raises:
            DataError: a file cannot be read.
        """
        paths = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES and path.is_file()]
        self._folder = folder
        self._files = {
            path.name: read_bytes(path, LARGE_BYTES, links=True)
            for path in paths
            if not path.name.endswith(".index.json") and path.name != CONFIG
        }
        if generation is not None:
            self._files.setdefault(GENERATION, generation.encode())
        self._config = read_model_json(folder / CONFIG)
        if architecture is not None:
            self._config["architectures"] = [architecture]

    def write(self, folder: Path, dtype: str) -> None:
        """Write it into `folder`, with the number format of the weights in the configuration.

        Raises:
            OSError: the disk is full.
        """
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
        config = {"dtype": dtype} | _with_dtype(self._config, dtype)
        if "torch_dtype" in config:  # the older name for it
            del config["dtype"]
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def tensors(self, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Tensors of the folder's weights as they are there."""
        return read_tensors(self._folder, names)


def write_model(folder: Path, tensors: Iterable[tuple[str, Tensor]], expected: Mapping[str, Sequence[int]]) -> None:
    """Write weights into `folder`, a few at a time, under the names by which every program finds them.

    Args:
        expected: names and shapes of what is to be there then.

    Raises:
        OSError: the disk is full.
        RunError: something else was written; the message names it.
    """
    write_shards(folder, "model", tensors)
    files = sorted(folder.glob("model-*.safetensors"))
    if len(files) == 1:
        files[0].rename(folder / SINGLE)
    else:
        _name_shards(folder, files)
    written = read_shapes(folder)
    wrong = {name for name in written.keys() | expected.keys() if _shape(written, name) != _shape(expected, name)}
    if wrong:
        name = min(wrong)
        raise RunError(
            f"{folder} is not what was loaded: {name} is {_shape(written, name)} there and should be "
            f"{_shape(expected, name)} ({len(wrong)} such tensors). This is a bug; please report the model."
        )


def _name_shards(folder: Path, files: Sequence[Path]) -> None:
    """Say of each file how many there are, and of each tensor which file has it."""
    places: dict[str, str] = {}
    size = 0
    for number, file in enumerate(files, 1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        file.rename(folder / name)
        size += (folder / name).stat().st_size
        with safe_open(folder / name, framework="pt") as opened:
            places |= dict.fromkeys(opened.keys(), name)
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + os.linesep, encoding="utf-8")


def _shape(shapes: Mapping[str, Sequence[int]], name: str) -> object:
    return list(shapes[name]) if name in shapes else "missing"


def _with_dtype(config: Any, dtype: str) -> Any:
    """A configuration, and those inside it, with every number format that it names replaced."""
    if not isinstance(config, dict):
        return config
    return {
        key: dtype if key in _DTYPES and value is not None else _with_dtype(value, dtype)
        for key, value in config.items()
    }
