"""SHA-256 of files, and what a run was made from as a table of checksums: model, data, plugin files, engine.

A resumed run gives the results of one that was never interrupted only if all of these are what they were.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reasoner.io.serialization import to_json
from reasoner.models.weight_files import weight_files

MODEL_FILES = (".json", ".txt", ".model", ".jinja", ".py")
"""endings of the files of a model that are read beside its weights"""
_SHA256 = re.compile(r"sha256 ([0-9a-f]{8})[0-9a-f]{56}")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_all(paths: Iterable[Path]) -> list[str]:
    """The same of several files, a few at a time."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(sha256_of, paths))


def identify(
    models: Mapping[str, Path], data: Mapping[str, Iterable[object]], plugins: Iterable[str], engine: str
) -> dict[str, str]:
    """What a run is made from: a name for the user -> the checksum, or what identifies it.

    Args:
        models: model folders by name.
        data: records by name, in the order in which the run uses them: prompts with their tokens, offline groups.
        plugins: plugin files; of a package (`__init__.py`) all its modules count.
        engine: what samples; empty: nothing does.
    """
    identity = {"sampling engine": engine} if engine else {}
    for name, records in data.items():
        digest, count = hashlib.sha256(), 0
        for record in records:
            digest.update(to_json(record).encode() + b"\n")
            count += 1
        identity[name] = f"{count} rows, sha256 {digest.hexdigest()}"
    files = {f"{name}: {path.name}": path for name, folder in models.items() for path in _model_files(folder)}
    files |= {f"plugin {name}": path for plugin in plugins for name, path in _plugin_files(Path(plugin))}
    sums = (f"sha256 {digest}" for digest in sha256_of_all(files.values()))
    return identity | dict(zip(files, sums, strict=True))


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is not as it was, a line each."""
    return [
        f"{name}: was {shortened(before.get(name))}, is {shortened(now.get(name))}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def shortened(value: str | None) -> str:
    """A value of `identify` as one reads it."""
    return "not there" if value is None else _SHA256.sub(r"sha256 \1...", value)


def _model_files(folder: Path) -> list[Path]:
    rest = (path for path in folder.iterdir() if path.suffix in MODEL_FILES and path.is_file())
    return sorted([*weight_files(folder), *rest])


def _plugin_files(plugin: Path) -> list[tuple[str, Path]]:
    if plugin.name != "__init__.py":
        return [(plugin.name, plugin)]
    folder = plugin.resolve().parent
    return [(f"{folder.name}/{path.relative_to(folder)}", path) for path in sorted(folder.rglob("*.py"))]
