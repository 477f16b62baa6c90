"""Task files: one TOML file names a task's data, prompt, rewards, evaluation and the values of each profile."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.errors import ConfigError, UserError
from reasoner.plugins import find


@dataclass(frozen=True, slots=True)
class TaskFile:
    """A task file as it was read; `reasoner.settings` gives it meaning."""

    name: str
    path: Path
    origin: str
    """how messages call it: `task math-gsm8k`, or the file that the user named"""
    table: Mapping[str, Any]

    @property
    def title(self) -> str:
        """One line that says what the task trains."""
        return str(self.table.get("title", ""))

    @property
    def profiles(self) -> Mapping[str, Mapping[str, Any]]:
        """The tables under `[profiles]` by name, in the file's order.

        Raises:
            ConfigError: `profiles` is not a table of tables.
        """
        profiles = self.table.get("profiles", {})
        if not isinstance(profiles, Mapping) or not all(isinstance(table, Mapping) for table in profiles.values()):
            raise ConfigError(
                f"{self.origin}: profiles must be tables, one [profiles.NAME] for each; got {profiles!r}."
            )
        return profiles

    @property
    def is_complete(self) -> bool:
        """Whether it is a run folder's resolved configuration, which needs no profile and no other task file."""
        return is_complete(self.table)


def find_task(task: str | Path, registered: Mapping[str, Path]) -> TaskFile:
    """The task of that name, or the user's own TOML file.

    Raises:
        UserError: there is no such task or file, or it is not TOML.
    """
    text = str(task)
    if isinstance(task, Path) or text.endswith(".toml") or "/" in text:
        path = Path(task).expanduser()
        table = read_toml(path)
        return TaskFile(str(table["task"]) if is_complete(table) else path.stem, path, text, table)
    path = find("task", text, registered, "reasoner tasks list")
    return TaskFile(text, path, f"task {text}", read_toml(path))


def is_complete(table: Mapping[str, Any]) -> bool:
    """Whether the table is a complete configuration: it says itself what its task and profile are."""
    return "task" in table and "profile" in table


def read_toml(path: Path) -> dict[str, Any]:
    """The file's table.

    Raises:
        UserError: there is no such file, or it cannot be read.
        ConfigError: it is not TOML; the message has the line and column.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path.absolute()}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: byte {error.start} cannot be decoded.") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}.") from None
