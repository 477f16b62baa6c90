"""Task files: one TOML file names a task's data, prompt, rewards, evaluation and the values of each profile.

A family makes the text of such a file for each of its members.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from reasoner.errors import ConfigError, DataError, ReasonerError, UserError, nearest
from reasoner.io.bounded_files import SMALL_BYTES, read_bytes
from reasoner.io.parsing import parse_toml
from reasoner.plugins.hookspecs import TaskFamily
from reasoner.plugins.importing import PluginError
from reasoner.plugins.manager import TaskFiles, find

T = TypeVar("T")

_WEIGHT = re.compile(r"(?P<task>.+)=(?P<weight>[^=/\\]*)(?<!\.toml)")
_LONGEST = 60
"""characters of a mixture's name that hold the names of its tasks"""
_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class TaskFile:
    """A task file as it was read; `reasoner.loading` gives it meaning."""

    name: str
    """it is part of the run folder's name: of a family's member `gym-chain_sum`"""
    path: Path | None
    """None: its family made it"""
    origin: str
    """how messages call it: `task math-gsm8k`, `task gym/chain_sum`, or the file that the user named"""
    table: Mapping[str, Any]
    named: tuple[str, ...] = ()
    """the arguments that name a mixture on the command line; empty: it is one task"""

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
    """The task of that name, the member of a family, or the user's own TOML file.

    A member goes by `gym/chain_sum`, or by `gym-chain_sum` as run folders and their configurations call it.

    Raises:
        UserError: there is no such task or file, or it is not TOML.
    """
    text = str(task)
    families = registered.families if isinstance(registered, TaskFiles) else {}
    if isinstance(task, Path) or text.endswith(".toml"):
        return _own_file(task)
    if text in registered:
        path = registered[text]
        return TaskFile(text, path, f"task {text}", read_toml(path))
    family, joined, member = text.partition("/" if "/" in text else "-")
    if joined and family in families:
        return _member(family, member, families[family], registered)
    if "/" in text:
        _refuse_mistyped(text, families)
        return _own_file(task)
    if text in families:
        names = members(text, families[text])
        example = f", for example {text}/{names[0]}" if names else ""
        raise UserError(
            f"{text} is a family of {len(names)} tasks: name one{example}. See `reasoner tasks show {text}`."
        )
    if text not in registered and (file := Path(f"{text}.toml")).is_file():
        raise UserError(f"there is no task {text!r}; for the file here, give its name: {file}")
    path = find("task", text, registered, "reasoner tasks list")
    return TaskFile(text, path, f"task {text}", read_toml(path))


def names_mixture(arguments: Sequence[str]) -> bool:
    """Whether the arguments of a command name a mixture and not a task: several, or one with a weight."""
    return len(arguments) > 1 or _WEIGHT.fullmatch(arguments[0]) is not None


def find_mixture(arguments: Sequence[str], registered: Mapping[str, Path]) -> TaskFile:
    """The mixture that `math-gsm8k=2 code-stdin=1` names, as the task file that says the same; without a weight, 1.

    Raises:
        UserError: there is no such task.
    """
    entries, names = [], []
    for task, text in map(_weighed, arguments):
        try:
            weight: float | str = float(text)
        except ValueError:
            weight = text
        entries.append({"task": task, "weight": weight})
        names.append(find_task(task, registered).name)
    name = "+".join(names)
    name = name if len(name) <= _LONGEST else f"{names[0]}+{len(names) - 1}"
    return TaskFile(name, None, "command line", {"mixture": entries}, tuple(arguments))


def find_parts(arguments: Sequence[str], registered: Mapping[str, Path]) -> list[TaskFile]:
    """The files of the tasks that the arguments of a command name: one, or those of a mixture.

    Raises:
        UserError: there is no such task.
    """
    if not names_mixture(arguments):
        return [find_task(arguments[0], registered)]
    return [find_task(task, registered) for task, _ in map(_weighed, arguments)]


def _weighed(argument: str) -> tuple[str, str]:
    """A task and its weight as it was written."""
    weighed = _WEIGHT.fullmatch(argument)
    return (weighed["task"], weighed["weight"]) if weighed else (argument, "1")


def members(name: str, family: TaskFamily) -> tuple[str, ...]:
    """The names of a family's members, without the family's.

    Raises:
        PluginError: the family cannot name them, or one of them cannot be part of a folder's name.
    """
    names = _asked(name, "names", family.names)
    for member in names:
        if not _MEMBER.fullmatch(member):
            raise PluginError(
                f"task family {name!r}: {member!r} is not a valid name for a task: use letters, digits and '_.-'."
            )
    return tuple(names)


def _member(family: str, member: str, made_by: TaskFamily, registered: Mapping[str, Path]) -> TaskFile:
    name = f"{family}-{member}"
    of_family = {f"{family}/{member}": member for member in members(family, made_by)}
    member_name = find("task", f"{family}/{member}", of_family, f"reasoner tasks show {family}")
    if name in registered:
        raise UserError(f"{family}/{member} would be called {name} in run folders, and a task file has that name.")
    origin = f"task {family}/{member}"
    text = _asked(family, "toml", lambda: made_by.toml(member_name))
    return TaskFile(name, None, origin, _parsed(text, origin))


def _refuse_mistyped(text: str, families: Mapping[str, TaskFamily]) -> None:
    """Refuse what is neither a file nor a member; a broken plugin that may have the family is named instead."""
    family = text.partition("/")[0]
    if Path(text).expanduser().exists():
        return
    try:
        families[family]
    except KeyError:
        if families:
            raise UserError(
                f"cannot read {text}: there is no such file, and no family of tasks {family!r}."
                f"{nearest(family, families)} See `reasoner tasks list`."
            ) from None


def _own_file(task: str | Path) -> TaskFile:
    path = Path(task).expanduser()
    table = read_toml(path)
    return TaskFile(str(table["task"]) if is_complete(table) else path.stem, path, str(task), table)


def _asked(family: str, what: str, ask: Callable[[], T]) -> T:
    """What a family's function returns; that it lacks a package is told as it is."""
    try:
        return ask()
    except ReasonerError:
        raise
    except Exception as error:
        raise PluginError(f"task family {family!r}: {what} failed: {type(error).__name__}: {error}") from error


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
        data = read_bytes(path, SMALL_BYTES, links=True)
    except DataError as error:
        why = str(error).removeprefix(f"{path} ").removeprefix("cannot be read: ").rstrip(".")
        raise UserError(f"cannot read {path.absolute()}: {why}.") from None
    try:
        return _parsed(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: byte {error.start} cannot be decoded.") from None


def _parsed(text: str, origin: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}.") from None
