"""The weights in a model's folder: which files hold them, and which tensors those say they hold.

transformers and vLLM load `model.safetensors`, or the shards that `model.safetensors.index.json` names. Whatever else
lies beside them (`consolidated.safetensors`, an adapter, `model.fp16.safetensors`, the same weights for other programs)
is not loaded, and so neither counted nor downloaded. Nothing here reads a weight, and what the files say of themselves
is believed within bounds only: they may be a stranger's.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from reasoner.errors import DataError
from reasoner.io.parsing import parse_json, read_model_json
from reasoner.io.serialization import shortened

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_HEADER = 32 * 2**20
"""bytes of a file's header; a model of a hundred thousand tensors has some 10 MB in all of its files"""
MAX_TENSORS = 1_000_000
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
}
"""bits of a number of those formats whose tensors are whole bytes"""


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of the model in `folder`; empty: it has none.

    Raises:
        DataError: its index cannot be used, or names other files than are there.
    """
    single, index = folder / SINGLE, folder / INDEX
    if not index.is_file():
        return [single] if single.is_file() else []
    shards = named_files(folder)
    if single.is_file() and SINGLE not in shards:
        raise DataError(
            f"model folder {folder} has {SINGLE} and {INDEX}, which names other files: transformers would load the one "
            "and vLLM the others. Remove one of the two."
        )
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{index} names {missing[0]!r} ({len(missing)} of {len(shards)} files), which is not there.")
    return [folder / name for name in shards]


def named_files(folder: Path) -> list[str]:
    """The names of the files that hold the weights, of a folder in which they may not be yet."""
    index = folder / INDEX
    return sorted(set(_weight_map(index).values())) if index.is_file() else [SINGLE]


def read_shapes(folder: Path) -> dict[str, list[int]]:
    """Tensors of the model in `folder` by name, with their shapes; empty: it has no weights.

    Raises:
        DataError: as `weight_files`, or a file is no safetensors file, or the index names a tensor that is in none.
    """
    shapes: dict[str, list[int]] = {}
    for path in weight_files(folder):
        shapes |= _shapes_of(path)
        if len(shapes) > MAX_TENSORS:
            raise DataError(f"{path}: with it the model has more than {MAX_TENSORS:,} tensors.")
    if shapes and (folder / INDEX).is_file():
        lacking = _weight_map(folder / INDEX).keys() - shapes.keys()
        if lacking:
            raise DataError(f"{folder / INDEX} names the tensor {min(lacking)!r}, which none of its files has.")
    return shapes


def _weight_map(index: Path) -> Mapping[str, str]:
    """Tensor -> file, as the index has it; every file is in the index's own folder."""
    table = read_model_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise DataError(f"{index}: 'weight_map' must be a table of tensors and their files, got {shortened(table)}.")
    for tensor, name in table.items():
        if not isinstance(name, str) or not name.endswith(".safetensors") or name != _plain(name):
            raise DataError(
                f"{index}: the file of tensor {shortened(tensor)} is {shortened(name)}. It must be the name of a "
                ".safetensors file in the same folder: other formats can run code, other folders are not the model's."
            )
    return table


def _plain(name: str) -> str:
    """The last part of a path, on any system."""
    return name.replace("\\", "/").rpartition("/")[2].replace("\0", "")


def _shapes_of(path: Path) -> dict[str, list[int]]:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            header, start = _header(path, file, size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    end = 0
    for name, (begin, stop) in sorted(
        ((name, _place(path, name, entry)) for name, entry in tensors.items()), key=lambda placed: placed[1]
    ):
        if begin != end:
            raise DataError(
                f"{path}: tensor {shortened(name)} begins at byte {begin}, and the one before ends at {end}."
            )
        end = stop
    if start + end != size:
        raise DataError(f"{path}: its header speaks of {start + end} bytes, and the file has {size}: it is cut off.")
    return {name: entry["shape"] for name, entry in tensors.items()}


def _header(path: Path, file: BinaryIO, size: int) -> tuple[Mapping[str, Any], int]:
    """The header, and how many bytes are before the numbers."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise DataError(
            f"{path}: no safetensors file: its header would have {length} bytes, the file has {size}, and a header may "
            f"have {MAX_HEADER}."
        )
    try:
        header = parse_json(file.read(length).decode("utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: no safetensors file: its header is {error}.") from None
    if not isinstance(header, dict):
        raise DataError(f"{path}: no safetensors file: its header is {shortened(header)}.")
    return header, 8 + length


def _place(path: Path, name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor begins and ends, which fits to its shape."""
    fields = entry if isinstance(entry, dict) else {}
    shape, offsets = _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2:
        raise DataError(f"{path}: tensor {shortened(name)} has no shape and place, but {shortened(entry)}.")
    begin, stop = offsets
    bits = _BITS.get(fields["dtype"]) if isinstance(fields.get("dtype"), str) else None
    if stop < begin or (bits and (stop - begin) * 8 != prod(shape) * bits):
        raise DataError(
            f"{path}: tensor {shortened(name)} of shape {shortened(shape)} ({shortened(fields.get('dtype'))}) cannot "
            f"be in the bytes {begin} to {stop}."
        )
    return begin, stop


def _counts(value: Any) -> list[int] | None:
    """A list of numbers such as a size can be; None: it is something else."""
    if not isinstance(value, list) or len(value) > 64:
        return None
    fit = all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**63 for item in value)
    return value if fit else None
