"""Reads the layers, lays them over each other and checks the result."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pluggy
from pydantic import ValidationError

from reasoner import plugins as hooks
from reasoner.config import Config
from reasoner.data import compile_template
from reasoner.errors import ConfigError, nearest
from reasoner.gro.presets import PRESETS
from reasoner.models import has_nvidia_gpu
from reasoner.rows import check_generator
from reasoner.scoring.compose import check_rewards
from reasoner.settings.layers import Layer, Leaf, Leaves, layer_of, layer_of_sets, nest, overlay, reward_names
from reasoner.settings.messages import explain, show_key
from reasoner.settings.schema import Path as Key
from reasoner.settings.write import settings_of
from reasoner.tasks import TaskFile, find_task, is_complete, read_toml

IDENTITY: tuple[Key, ...] = (("task",), ("profile",))


@dataclass(frozen=True, slots=True)
class Resolved:
    """A checked configuration and the layer that each of its values came from."""

    config: Config
    origins: Mapping[str, str]
    """dotted key -> `default`, `preset grpo`, `task math-gsm8k`, `profile laptop`, the `--config` file, `--set`"""


def load_config(
    task: str | Path,
    profile: str | None = None,
    config_file: str | Path | None = None,
    sets: Sequence[str] = (),
    plugins: Sequence[str] = (),
) -> Resolved:
    """The configuration of a run: `task` is a registered task's name or a TOML file of the user's.

    A complete configuration (a run folder's config.toml: it names its task and profile) stands for task and profile
    both, whether it is given as `config_file` or as `task`.

    Raises:
        ConfigError: a key, value or combination is not allowed; one line for each, with where the value came from.
        UserError: there is no such task, profile, file or plugin.
    """
    manager = hooks.build_manager(plugins)
    found = find_task(task, hooks.task_files(manager))
    extra = read_toml(Path(config_file)) if config_file else {}
    if is_complete(extra):
        if extra["task"] != found.name:
            raise ConfigError(f"{config_file} is a configuration of task {extra['task']!r}, not of {found.name!r}.")
        found, extra = TaskFile(found.name, Path(str(config_file)), str(config_file), extra), {}
    leaves = _task_leaves(found, profile)
    for layer in (layer_of(extra, str(config_file)), layer_of_sets(sets, leaves)):
        _refuse_identity(layer)
        leaves = overlay(leaves, layer)
    leaves = _with_plugins(leaves, plugins)
    _check_entries(leaves)
    config = _validated(leaves := _over_preset(leaves))
    _check_names(config, manager if config.plugins == list(plugins) else hooks.build_manager(config.plugins))
    return Resolved(config, _origins(config, leaves))


def _task_leaves(found: TaskFile, profile: str | None) -> Leaves:
    """The task file and the chosen profile, with their names."""
    if found.is_complete:
        if profile not in (None, found.table["profile"]):
            raise ConfigError(
                f"{found.origin} is a complete configuration with profile {found.table['profile']!r}: "
                f"--profile {profile} cannot be laid over it. Leave --profile out, or start from the task."
            )
        return layer_of(found.table, found.origin).leaves
    task = layer_of({key: value for key, value in found.table.items() if key != "profiles"}, found.origin)
    _refuse_identity(task)
    name, reason = _choose_profile(found, profile)
    leaves = task.leaves
    if name:
        chosen = layer_of(found.profiles[name], f"profile {name}")
        _refuse_identity(chosen)
        leaves = overlay(leaves, chosen)
    return {("task",): Leaf(found.name, "command line"), ("profile",): Leaf(name, reason), **leaves}


def _choose_profile(found: TaskFile, wanted: str | None) -> tuple[str, str]:
    """Name of the profile (empty: the task has none) and why it was chosen."""
    names = list(found.profiles)
    if wanted is not None:
        if wanted not in names:
            raise ConfigError(
                f"--profile {wanted}: {found.origin} has no such profile.{nearest(wanted, names)} "
                f"It has: {', '.join(names) or 'none'}."
            )
        return wanted, "--profile"
    if len(names) <= 1:
        return (names[0], "the only profile") if names else ("", "the task has no profiles")
    name, reason = ("gpu", "an NVIDIA GPU is here") if has_nvidia_gpu() else ("laptop", "no NVIDIA GPU here")
    if name not in names:
        raise ConfigError(f"{found.origin}: choose a profile with --profile: {', '.join(names)}.")
    return name, reason


def _refuse_identity(layer: Layer) -> None:
    for key in IDENTITY:
        if key in layer.leaves:
            raise ConfigError(
                f"{layer.leaves[key].origin} sets {key[0]!r}: the task and the profile are chosen on the command line, "
                "`reasoner run TASK --profile NAME`."
            )


def _with_plugins(leaves: Leaves, plugins: Sequence[str]) -> Leaves:
    configured = leaves.get(("plugins",), Leaf([], "default"))
    if not plugins or not isinstance(configured.value, list):
        return leaves
    more = [plugin for plugin in plugins if plugin not in configured.value]
    return {**leaves, ("plugins",): Leaf([*configured.value, *more], "--plugin")} if more else leaves


def _check_entries(leaves: Leaves) -> None:
    """A table such as `[rewards.math]` changes an entry: refuse it where there is none."""
    names = [name for name in reward_names(leaves) if ("rewards", name, "source") in leaves]
    for path, leaf in leaves.items():
        if path[0] == "rewards" and len(path) > 2 and not path[1].isdecimal() and path[1] not in names:
            raise ConfigError(
                f"{show_key(path)} ({leaf.origin}): rewards has no entry {path[1]!r}.{nearest(path[1], names)} "
                f"Its entries are: {', '.join(names) or 'none'}."
            )


def _over_preset(leaves: Leaves) -> Leaves:
    """The leaves over those of the method that `gro.preset` names."""
    preset = leaves.get(("gro", "preset"))
    names = ", ".join(PRESETS)
    if preset is None:
        raise ConfigError(f"gro.preset is needed and not set: the method, one of {names}.")
    if preset.value not in PRESETS:
        hint = nearest(preset.value, PRESETS) if isinstance(preset.value, str) else ""
        raise ConfigError(
            f"gro.preset = {preset.value!r} ({preset.origin}): there is no such method.{hint} There are: {names}."
        )
    lowest = layer_of({"gro": dataclasses.asdict(PRESETS[preset.value].term)}, f"preset {preset.value}")
    kinds = frozenset(path[:-1] for path in leaves if path[0] == "gro" and path[-1] == "kind")
    return overlay(lowest.leaves, Layer(leaves, kinds))


def _validated(leaves: Leaves) -> Config:
    try:
        # As JSON: strict mode then takes lists as tuples and tables as dataclasses, and still converts nothing else.
        return Config.model_validate_json(json.dumps(nest(leaves)))
    except ValidationError as error:
        raise ConfigError(explain(error, leaves)) from None


def _check_names(config: Config, manager: pluggy.PluginManager) -> None:
    """What the models cannot know: registered names, their options, and the template's syntax."""
    check_rewards(config.rewards, hooks.reward_sources(manager))
    generators = hooks.generators(manager)
    check_generator(config.data.train, generators, "data.train")
    check_generator(config.data.eval, generators, "data.eval")
    compile_template(config.prompt)


def _origins(config: Config, leaves: Leaves) -> Mapping[str, str]:
    return {show_key(path): leaves[path].origin if path in leaves else "default" for path in settings_of(config)}
