"""Tasks inside a configuration: the parts of `[[mixture]]`, and the further tasks of `[[evaluation.also]]`.

An entry names a task, whose file and profile are read as if it were run alone. What a part has of its own (`of_part`)
becomes the entry; the rest is the run's: set at the top level, or that of a mixture's first task. What the top level,
`--config` or `--set` set of a part's keys holds for every part of a mixture; `mixture.NAME.KEY` is of one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.config import PartSampling
from reasoner.errors import ConfigError, UserError, nearest
from reasoner.loading.introspection import Path as Key
from reasoner.loading.introspection import annotation_at
from reasoner.loading.layers import TASKS, Layer, Leaf, Leaves, layer_of, layer_of_sets, overlay, reward_names
from reasoner.loading.tables import ALSO, MIXTURE, Tables, tables_of
from reasoner.loading.task_files import TaskFile
from reasoner.loading.task_layers import layer_of_file, refuse_complete, without_identity

_Table = Mapping[str, Any]
_FindTask = Callable[[str], TaskFile]
_DATA = ("train", "eval", "holdout", "overlap", "on_bad_row")
_EVALUATION = ("also", "best")
"""keys of `[evaluation]` that are the run's"""
_SHORT: Mapping[str, Key] = {
    "limit": ("data", "eval", "limit"),
    "samples": ("evaluation", "samples"),
    "temperature": ("evaluation", "temperature"),
    "every": ("evaluation", "every"),
}
"""short names of keys in `[[evaluation.also]]`"""
_NAMING = ("task", "profile")
"""keys of an entry that say which task it is"""


def of_part(key: Key) -> bool:
    """Whether a task inside a configuration has a value of its own for the key."""
    match key:
        case ("prompt" | "rewards" | "environment", *_):
            return True
        case ("data", name, *_):
            return name in _DATA
        case ("sampling", name, *_):
            return name in PartSampling.model_fields
        case ("evaluation", name, *_):
            return name not in _EVALUATION
    return False


def assemble(
    task_file: TaskFile, profile: str | None, files: Sequence[tuple[str, _Table]], sets: Sequence[str], find: _FindTask
) -> Leaves:
    """The values of a run: of the task file and its profile, of `--config` files and `--set`, each laid over those
    before; with the tasks inside by `mixture.NAME` and `evaluation.also.NAME`.

    Args:
        files: `--config` files by name.
        find: reads the file of a task that an entry names.

    Raises:
        UserError: there is no such task or profile, or a value is where none may be.
    """
    for origin, table in files:
        refuse_complete(origin, table)
    over = [Tables.of(table, origin, Path(origin)) for origin, table in files]
    own_sets, task_sets = _split_sets(sets)
    if task_file.is_complete:
        return _complete(task_file, profile, over, own_sets, task_sets)
    stack, chosen = tables_of(task_file, profile)
    stack += over
    _refuse_lists(stack[1:])
    identity: dict[Key, Leaf] = {("task",): Leaf(task_file.name, "command line"), ("profile",): chosen}
    finder = _finder(find, task_file)
    parts = [_part(MIXTURE, at, stack, profile, finder) for at in range(len(stack[0].listed.get(MIXTURE, ())))]
    _refuse_unknown(MIXTURE, [part.name for part in parts], stack, task_sets)
    below = [part.under(stack, own_sets, task_sets) for part in parts]
    own = stack
    if parts:
        _refuse_rewards_of_none(own_sets, below)
        stack = [*parts[0].tables, *stack]
        if not chosen.value:
            identity["profile",] = parts[0].profile
    also = _further_parts(stack, profile, finder)
    wanted = _of_run if parts else _any_key
    of_first = len(stack) - len(own)
    layers = [
        only(table.layer, lambda key: wanted(key) and key != ("title",)) if at < of_first else only(table.layer, wanted)
        for at, table in enumerate(stack)
    ]
    run: Leaves = {**_laid(layers), **_plugins_of([*(part.tables for part in (*parts, *also)), own])}
    run_sets = [setting for setting in own_sets if wanted(_key(setting))]
    run = overlay(run, only(without_identity(layer_of_sets(run_sets, run)), wanted))
    return {
        **identity,
        **run,
        **(_largest_limits(below) if parts else {}),
        **_nest(MIXTURE, parts, below),
        **_further_leaves(also, stack, task_sets),
    }


def only(layer: Layer, wanted: Callable[[Key], bool]) -> Layer:
    """The keys of a layer that are wanted."""
    leaves = {key: leaf for key, leaf in layer.leaves.items() if wanted(key)}
    return Layer(leaves, frozenset(key for key in layer.drops if wanted(key)))


@dataclass(frozen=True, slots=True)
class _Part:
    """A task inside, as its entry names it."""

    place: Key
    name: str
    tables: Sequence[Tables]
    """of its file and profile"""
    profile: Leaf
    own: Layer
    """what the entry sets"""

    def under(
        self, stack: Sequence[Tables], sets: Sequence[str], task_sets: Mapping[Key, Mapping[str, Sequence[str]]]
    ) -> Leaves:
        """Its values under those of the run's files and `--set`; for a task that is only evaluated, its own alone."""
        leaves = _laid([only(table.layer, of_part) for table in self.tables])
        for at, table in enumerate(stack):
            if self.place == MIXTURE:
                leaves = overlay(leaves, _for_part(table.layer, leaves))
            leaves = overlay(leaves, self.own) if at == 0 else leaves
            if change := table.changed.get(self.place, {}).get(self.name):
                leaves = overlay(leaves, _entry_layer(change, self.place, self.name, table))
        if self.place == MIXTURE:
            wanted = [setting for setting in sets if _sets_part(_key(setting), leaves)]
            leaves = overlay(leaves, layer_of_sets(wanted, leaves))
        return _with_sets(leaves, self.place, self.name, task_sets[self.place].get(self.name, ()))


def _part(place: Key, at: int, stack: Sequence[Tables], profile: str | None, find: _FindTask) -> _Part:
    table = next(table for table in reversed(stack) if place in table.listed)
    entry, where = table.listed[place][at], f"{'.'.join(place)}[{at}]"
    try:
        task_file = find(entry["task"])
        asked = entry.get("profile", profile)
        if place == ALSO and "profile" not in entry and asked not in task_file.profiles:
            asked = None
        tables, chosen = tables_of(task_file, asked)
    except UserError as error:
        raise ConfigError(f"{where}.task = {entry['task']!r} ({table.origin}): {error}") from None
    if task_file.is_complete or any(MIXTURE in table.listed for table in tables):
        what = "a complete configuration" if task_file.is_complete else "a mixture itself"
        raise ConfigError(f"{where}.task = {entry['task']!r} ({table.origin}) is {what}: name a task.")
    return _Part(place, task_file.name, tables, chosen, _entry_layer(entry, place, task_file.name, table))


def _further_parts(stack: Sequence[Tables], profile: str | None, find: _FindTask) -> list[_Part]:
    """The further tasks of the last list."""
    listing = _listing(stack)
    return [_part(ALSO, at, stack, profile, find) for at in range(len(listing.listed[ALSO]) if listing else 0)]


def _further_leaves(
    parts: Sequence[_Part], stack: Sequence[Tables], task_sets: Mapping[Key, Mapping[str, Sequence[str]]]
) -> Leaves:
    _refuse_unknown(ALSO, [part.name for part in parts], stack, task_sets)
    listing = _listing(stack)
    over = list(stack[stack.index(listing) :]) if listing else []
    return _nest(ALSO, parts, [part.under(over, (), task_sets) for part in parts])


def _listing(stack: Sequence[Tables]) -> Tables | None:
    return next((table for table in reversed(stack) if ALSO in table.listed), None)


def _complete(
    task_file: TaskFile,
    profile: str | None,
    over: Sequence[Tables],
    own_sets: Sequence[str],
    task_sets: Mapping[Key, Mapping[str, Sequence[str]]],
) -> Leaves:
    """The values of a complete configuration, whose tasks inside are complete too."""
    if profile not in (None, task_file.table["profile"]):
        raise ConfigError(
            f"{task_file.origin} is a complete configuration with profile {task_file.table['profile']!r}: --profile "
            f"{profile} cannot be laid over it. Leave --profile out, or start from the task."
        )
    whole = Tables.of(task_file.table, task_file.origin, None)
    _refuse_lists(over, ALSO)
    leaves = _laid([layer_of(whole.own, task_file.origin), *(table.layer for table in over)])
    leaves = overlay(leaves, without_identity(layer_of_sets(own_sets, leaves)))
    for place in TASKS:
        entries = whole.listed.get(place, ())
        _refuse_unknown(place, [entry["task"] for entry in entries], over, task_sets)
        for entry in entries:
            name = entry["task"]
            own = layer_of({key: value for key, value in entry.items() if key != "task"}, task_file.origin).leaves
            for table in over:
                if change := table.changed.get(place, {}).get(name):
                    own = overlay(own, _entry_layer(change, place, name, table))
            own = _with_sets(own, place, name, task_sets[place].get(name, ()))
            prefix = (*place, name)
            if (*prefix, "task") in leaves:
                raise ConfigError(f"{task_file.origin}: {'.'.join(place)} names the task {name!r} twice.")
            own = {("task",): Leaf(name, task_file.origin), **own}
            leaves = {**leaves, **{(*prefix, *key): leaf for key, leaf in own.items()}}
    return leaves


def _laid(layers: Sequence[Layer]) -> Leaves:
    leaves: Leaves = {}
    for layer in layers:
        leaves = overlay(leaves, layer)
    return leaves


def _nest(place: Key, parts: Sequence[_Part], values: Sequence[Leaves]) -> Leaves:
    """The values of tasks inside by their keys in the configuration.

    Raises:
        ConfigError: a task is named twice.
    """
    result: dict[Key, Leaf] = {}
    for part, leaves in zip(parts, values, strict=True):
        if (*place, part.name, "task") in result:
            raise ConfigError(f"{'.'.join(place)} names the task {part.name!r} twice; name each task once.")
        result[*place, part.name, "task"] = Leaf(part.name, part.tables[0].origin)
        result |= {(*place, part.name, *key): leaf for key, leaf in leaves.items()}
    return result


def _entry_layer(entry: _Table, place: Key, name: str, tables: Tables) -> Layer:
    """What an entry sets of its task's keys.

    Raises:
        ConfigError: one of them is the run's.
    """
    values: dict[str, Any] = {key: value for key, value in entry.items() if key not in (*_NAMING, "weight")}
    for short in [key for key in values if place == ALSO and key in _SHORT]:
        value, table = values.pop(short), values
        for part in _SHORT[short][:-1]:
            table[part] = dict(table.get(part, {}))
            table = table[part]
        table[_SHORT[short][-1]] = value
    leaves_of_file = layer_of_file(values, tables.origin, tables.file)
    _refuse_run_keys(leaves_of_file.leaves, place, name)
    weight: Leaves = {("weight",): Leaf(entry["weight"], tables.origin)} if "weight" in entry else {}
    return Layer({**leaves_of_file.leaves, **weight}, leaves_of_file.drops)


def _refuse_run_keys(leaves: Leaves, place: Key, name: str) -> None:
    """Refuse keys of the run; unknown ones are refused where all keys are checked."""
    for key, leaf in leaves.items():
        if not of_part(key) and annotation_at(key) is not None:
            shown = ".".join(key)
            raise ConfigError(
                f"{'.'.join(place)}.{name}.{shown} ({leaf.origin}): {shown} is the run's, the same for all its tasks: "
                "set it at the top level."
            )


def _for_part(layer: Layer, leaves: Leaves) -> Layer:
    """What a layer of the run sets for a part that has these values."""
    replaced = ("rewards",) in layer.drops
    return only(layer, lambda key: of_part(key) and (replaced or _sets_part(key, leaves)))


def _sets_part(key: Key, leaves: Leaves) -> bool:
    """Whether a key of the run's is one of a part; that of a reward (`rewards.math.weight`) only where it has it."""
    names = reward_names(leaves)
    has_it = key[0] != "rewards" or len(key) == 1 or key[1] in names or key[1].isdecimal()
    return of_part(key) and has_it


def _of_run(key: Key) -> bool:
    return not of_part(key)


def _any_key(key: Key) -> bool:
    return True


def _key(argument: str) -> Key:
    """The key of a `--set` argument."""
    return tuple(part.strip() for part in argument.partition("=")[0].split("."))


def _split_sets(sets: Sequence[str]) -> tuple[list[str], Mapping[Key, Mapping[str, Sequence[str]]]]:
    """The `--set` arguments of the run, and those of tasks inside by place and name.

    Raises:
        ConfigError: one of them lists tasks.
    """
    own: list[str] = []
    by_place: dict[Key, dict[str, list[str]]] = {place: {} for place in TASKS}
    for argument in sets:
        key, (_, separator, value) = _key(argument), argument.partition("=")
        place = next((place for place in TASKS if key[: len(place)] == place and len(key) > len(place) + 1), None)
        if place is None or not separator:
            _refuse_set_list(key, argument, value.strip())
            own.append(argument)
        else:
            name, rest = key[len(place)], key[len(place) + 1 :]
            by_place[place].setdefault(name, []).append(f"{'.'.join(rest)}={value}")
    return own, by_place


def _refuse_set_list(key: Key, argument: str, value: str) -> None:
    """Refuse a list of tasks: their files are read before `--set` is."""
    if key in TASKS and value.startswith("[") and value[1:].strip() != "]":
        shown = ".".join(key)
        example = "" if key == ALSO else ", or on the command line (`reasoner run A=2 B=1`)"
        raise ConfigError(
            f"--set {argument}: tasks cannot be listed by --set. List them in a file, [[{shown}]]{example}; "
            f"--set {shown}.NAME.KEY=VALUE changes one of them."
        )


def _with_sets(leaves: Leaves, place: Key, name: str, sets: Sequence[str]) -> Leaves:
    """A task's values with the `--set` arguments that are of it alone."""
    full = []
    for argument in sets:
        key, _, value = argument.partition("=")
        full.append(f"{'.'.join(_SHORT.get(key, (key,)))}={value}" if place == ALSO else argument)
    layer = layer_of_sets(full, leaves)
    _refuse_run_keys(only(layer, lambda key: key != ("weight",)).leaves, place, name)
    return overlay(leaves, layer)


def _finder(find: _FindTask, task_file: TaskFile) -> _FindTask:
    """Finds the tasks that a file names: their own files are relative to it."""

    def finder(name: str) -> TaskFile:
        beside = task_file.path.parent / name if task_file.path and name.endswith(".toml") else None
        return find(str(beside) if beside else name)

    return finder


def _refuse_lists(tables: Sequence[Tables], *more: Key) -> None:
    for table in tables:
        if place := next((place for place in (MIXTURE, *more) if place in table.listed), None):
            shown = ".".join(place)
            raise ConfigError(
                f"{table.origin} lists [[{shown}]]: the tasks are chosen in the task file, or on the command line "
                f"(`reasoner run A=2 B=1`). To change one, write a table: [{shown}.NAME]."
            )


def _refuse_unknown(
    place: Key, names: Sequence[str], stack: Sequence[Tables], sets: Mapping[Key, Mapping[str, Sequence[str]]]
) -> None:
    """Refuse changes of tasks that are not inside."""
    named = [(name, table.origin) for table in stack for name in table.changed.get(place, {})]
    named += [(name, "--set") for name in sets[place]]
    for name, origin in named:
        if name not in names:
            raise ConfigError(
                f"{'.'.join(place)}.{name} ({origin}): there is no such task in it.{nearest(name, names)} It has: "
                f"{', '.join(names) or 'none'}."
            )


def _refuse_rewards_of_none(sets: Sequence[str], parts: Sequence[Leaves]) -> None:
    """A `--set` of a reward that no part has."""
    names = list(dict.fromkeys(name for leaves in parts for name in reward_names(leaves)))
    for argument in sets:
        key = _key(argument)
        if key[0] == "rewards" and len(key) > 1 and not key[1].isdecimal() and key[1] not in names:
            raise ConfigError(
                f"--set {argument}: rewards has no entry {key[1]!r} in any part.{nearest(key[1], names)} The parts "
                f"have: {', '.join(names) or 'none'}."
            )


def _largest_limits(parts: Sequence[Leaves]) -> Leaves:
    """The limits of a mixture: the largest of its parts."""
    result: dict[Key, Leaf] = {}
    for name in ("max_tokens", "max_prompt_tokens"):
        default = PartSampling.model_fields[name].default
        values = [leaves.get(("sampling", name), Leaf(default, "default")).value for leaves in parts]
        if all(isinstance(value, int) for value in values):  # anything else is refused where the part is checked
            result["sampling", name] = Leaf(max(values), "the largest of the mixture")
    return result


def _plugins_of(stacks: Sequence[Sequence[Tables]]) -> Leaves:
    """The plugins of all tasks and of the run, each once.

    Args:
        stacks: the files and profiles of each.
    """
    plugins = [_laid([table.layer for table in stack]).get(("plugins",)) for stack in stacks]
    leaves = [leaf for leaf in plugins if leaf is not None]
    if len(leaves) < 2 or not all(isinstance(leaf.value, list) for leaf in leaves):
        return {("plugins",): leaves[-1]} if leaves else {}
    names = dict.fromkeys(name for leaf in leaves for name in leaf.value if isinstance(name, str))
    return {("plugins",): Leaf(list(names), leaves[-1].origin)}
