"""Reads the layers, lays them over each other and checks the result."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy
from pydantic import ValidationError

from reasoner.config import Config
from reasoner.data.problems import open_template
from reasoner.data.prompts.plain import check_prompt
from reasoner.data.rows import check_generator
from reasoner.environments.choose import choose
from reasoner.errors import ConfigError, nearest
from reasoner.evaluation.metrics import task_of
from reasoner.gro.spec.presets import Preset, Weighted
from reasoner.gro.spec.registry import Algorithms, options_of, takes_any_option
from reasoner.gro.spec.schedules import MetricSwitch
from reasoner.gro.spec.terms import CustomCredit, CustomLink
from reasoner.io.redaction import why_secret
from reasoner.loading.dump import settings_of, term_table
from reasoner.loading.introspection import Path as Key
from reasoner.loading.layers import Layer, Leaf, Leaves, entries, entry_key, layer_of, nest, overlay
from reasoner.loading.messages import explain, show_key
from reasoner.loading.parts import assemble
from reasoner.loading.task_files import TaskFile, find_mixture, find_task, is_complete, names_mixture, read_toml
from reasoner.loading.task_layers import complete_file
from reasoner.monitoring.metrics import find, sources, terms
from reasoner.monitoring.tracking import check_trackers
from reasoner.plugins import manager as hooks
from reasoner.scoring.composition import check_rewards


@dataclass(frozen=True, slots=True)
class Resolved:
    """A checked configuration and the layer that each of its values came from."""

    config: Config
    origins: Mapping[str, str]
    """dotted key -> `default`, `preset grpo`, `task math-gsm8k`, `profile laptop`, a `--config` file, `--set`"""
    manager: pluggy.PluginManager
    """the plugins that it names, each executed once: whoever needs plugins takes them from here"""
    typed: str = ""
    """what names the task after a command, so that it can be copied: `my-task.toml --profile gpu --plugin mine.py`"""
    preflights: Mapping[str, str] = field(default_factory=dict)
    """what reward sources and trackers say of this machine (`reasoner.planning.preflight`), by how the plan calls
    them"""


def load_config(
    task: str | Path | TaskFile | Sequence[str],
    profile: str | None = None,
    config_files: Sequence[Path] = (),
    sets: Sequence[str] = (),
    plugins: Sequence[str] = (),
) -> Resolved:
    """The configuration of a run: `task` is a registered task's name, a TOML file of the user's, or read already;
    several of them, or one with a weight (`math-gsm8k=2`), are a mixture.

    A complete configuration (a run folder's config.toml: it names its task and profile) stands for task and profile
    both, whether it is given as `task` or as the first of `config_files`.

    Args:
        config_files: laid over task and profile in this order, later ones over earlier ones.

    Raises:
        ConfigError: a key, value or combination is not allowed; one line for each, with where the value came from.
        UserError: there is no such task, profile, file or plugin.
    """
    manager = hooks.build_manager(plugins)
    registered = hooks.task_files(manager)
    task_file = _task_file(task, registered)
    tables = [(str(file), read_toml(file)) for file in config_files]
    if tables and is_complete(tables[0][1]):
        task_file = complete_file(task_file, *tables.pop(0))
    leaves = assemble(task_file, profile, tables, sets, lambda name: find_task(name, registered))
    leaves = _with_plugins(leaves, plugins)
    _check_entries(leaves)
    _refuse_secrets(leaves)
    hooks.add_files(manager, _plugins_of(leaves))
    algorithms = hooks.algorithms(manager)
    config = _validated(leaves := _over_presets(leaves, algorithms))
    _check_names(config, manager, algorithms)
    origins = {show_key(path): leaves[path].origin if path in leaves else "default" for path in settings_of(config)}
    return Resolved(config, origins, manager, _typed(task_file, config, plugins))


def _typed(task_file: TaskFile, config: Config, plugins: Sequence[str]) -> str:
    """A task of one's own goes by its file; a complete configuration has its profile and plugins."""
    if task_file.is_complete:
        return shlex.join([task_file.origin])
    profile = ["--profile", config.profile] if config.profile else []
    more = [part for plugin in plugins for part in ("--plugin", plugin)]
    named = task_file.named or [task_file.origin.removeprefix("task ")]
    return shlex.join([*named, *profile, *more])


def _task_file(task: str | Path | TaskFile | Sequence[str], registered: Mapping[str, Path]) -> TaskFile:
    if isinstance(task, TaskFile):
        return task
    if isinstance(task, str | Path):
        return find_task(task, registered)
    return find_mixture(task, registered) if names_mixture(task) else find_task(task[0], registered)


def _check_entries(leaves: Leaves) -> None:
    """A table such as `[rewards.math]` changes an entry: refuse it where there is none."""
    lists = {path[:length] for path in leaves for length in range(1, len(path)) if entry_key(path[:length]) == "source"}
    for place in sorted(lists):
        depth = len(place)
        names = [name for name in entries(leaves, place) if (*place, name, "source") in leaves]
        for path, leaf in leaves.items():
            wanted = path[depth] if path[:depth] == place and len(path) > depth + 1 else ""
            if wanted and not wanted.isdecimal() and wanted not in names:
                raise ConfigError(
                    f"{show_key(path)} ({leaf.origin}): {show_key(place)} has no entry {wanted!r}."
                    f"{nearest(wanted, names)} Its entries are: {', '.join(names) or 'none'}."
                )


def _refuse_secrets(leaves: Leaves) -> None:
    for path, leaf in leaves.items():
        if reason := why_secret(path, leaf.value):
            raise ConfigError(
                f"{show_key(path)} ({leaf.origin}) {reason}, and the configuration is stored with the run. Put the "
                "secret into an environment variable: name that one where there is an option for it (api_key_env, "
                "headers_env), or take the variable that the library reads itself (HF_TOKEN, WANDB_API_KEY)."
            )


def _with_plugins(leaves: Leaves, plugins: Sequence[str]) -> Leaves:
    configured = leaves.get(("plugins",), Leaf([], "default"))
    if not plugins or not isinstance(configured.value, list):
        return leaves
    known = {Path(path).expanduser().resolve() for path in configured.value if isinstance(path, str)}
    more = [plugin for plugin in plugins if Path(plugin).expanduser().resolve() not in known]
    return {**leaves, ("plugins",): Leaf([*configured.value, *more], "--plugin")} if more else leaves


def _over_presets(leaves: Leaves, algorithms: Algorithms) -> Leaves:
    """The leaves over those of the methods that `gro.preset` and `gro.terms.NAME.preset` name."""
    table: dict[str, Any] = {}
    origins: dict[str, str] = {}
    preset = leaves.get(("gro", "preset"))
    if preset is not None and preset.value != "":
        chosen = _preset(("gro", "preset"), preset, algorithms)
        table = {name: term_table(weighted) for name, weighted in chosen.terms.items()}
        origins = dict.fromkeys(table, f"preset {preset.value}")
    for name in dict.fromkeys(path[2] for path in leaves if path[:2] == ("gro", "terms") and len(path) > 2):
        own = leaves.get(key := ("gro", "terms", name, "preset"))
        if own is not None and own.value != "":
            chosen = _preset(key, own, algorithms)
            if len(chosen.terms) > 1:
                raise ConfigError(
                    f"{show_key(key)} = {own.value!r} ({own.origin}): it has the terms {', '.join(chosen.terms)}, and "
                    f"one term takes one method. Use gro.preset = {own.value!r}."
                )
            table[name], origins[name] = term_table(Weighted(chosen.term)), f"preset {own.value}"
        elif name not in table and ("gro", "terms", name, "source") not in leaves:
            origin = next(leaf.origin for path, leaf in leaves.items() if path[:3] == key[:3])
            there = f" gro.preset = {preset.value!r} has: {', '.join(table)}." if preset and table else ""
            raise ConfigError(
                f"gro.terms.{name} ({origin}): there is no such term.{nearest(name, table)}{there} A new term needs "
                "a preset, or a source and its choices."
            )
    lowest: Leaves = {}
    for name, choices in table.items():
        lowest = {**lowest, **layer_of({"gro": {"terms": {name: choices}}}, origins[name]).leaves}
    if leaves.get(("sampling", "max_staleness"), Leaf(0, "default")).value:
        lowest = _corrected(lowest, leaves)
    kinds = frozenset(path[:-1] for path in leaves if path[0] == "gro" and path[-1] == "kind")
    return overlay(lowest, Layer(leaves, kinds))


def _corrected(lowest: Leaves, leaves: Leaves) -> Leaves:
    """With `sampling.max_staleness` responses are stale: terms that say nothing of a correction have one, truncated at
    2 (TIS), per token or with the geometric mean of a response."""
    corrected = dict(lowest)
    for name in dict.fromkeys(path[2] for path in (*lowest, *leaves) if path[:2] == ("gro", "terms") and len(path) > 2):
        choices = {
            path[3:]: leaf.value for path, leaf in {**lowest, **leaves}.items() if path[:3] == ("gro", "terms", name)
        }
        unit = choices.get(("evidence", "unit"), "token")
        kind = ("gro", "terms", name, "correction", "kind")
        unset = kind not in leaves and lowest.get(kind, Leaf("none", "")).value == "none"
        if choices.get(("source",), "online") == "online" and unit != "pair" and unset:
            corrected[kind] = Leaf("truncate", "sampling.max_staleness")
            if unit == "response":
                corrected[*kind[:-1], "level"] = Leaf("geometric", "sampling.max_staleness")
    return corrected


def _preset(key: Key, leaf: Leaf, algorithms: Algorithms) -> Preset:
    try:
        return algorithms.presets[str(leaf.value)]
    except KeyError:
        hint = nearest(leaf.value, algorithms.presets) if isinstance(leaf.value, str) else ""
        raise ConfigError(
            f"{show_key(key)} = {leaf.value!r} ({leaf.origin}): there is no such method.{hint} There are: "
            f"{', '.join(algorithms.presets)}."
        ) from None


def _validated(leaves: Leaves) -> Config:
    try:
        # As JSON: strict mode then takes lists as tuples and tables as dataclasses, and still converts nothing else.
        return Config.model_validate_json(json.dumps(nest(leaves)))
    except ValidationError as error:
        raise ConfigError(explain(error, leaves)) from None


def _plugins_of(leaves: Leaves) -> list[str]:
    """The plugins that the configuration names; where one of them is no text, none: that is refused later."""
    named = leaves.get(("plugins",), Leaf([], "default")).value
    return named if isinstance(named, list) and all(isinstance(name, str) for name in named) else []


def _check_names(config: Config, manager: pluggy.PluginManager, algorithms: Algorithms) -> None:
    """What the models cannot know: registered names, their options, and the template's syntax."""
    check_trackers(config.trackers, hooks.trackers(manager))
    _check_task(config, manager)
    for place, tasks in (("mixture", config.parts if config.mixture else {}), ("evaluation.also", config.also)):
        for name, part in tasks.items():
            try:
                _check_task(part, manager)
            except ConfigError as error:
                raise ConfigError(f"{place}.{name}.{error}") from None
    for name, term in config.gro.terms.items():
        _check_custom(f"gro.terms.{name}.credit", term.credit, algorithms.credits)
        _check_custom(f"gro.terms.{name}.link", term.link, algorithms.links)
        if isinstance(term.schedule, MetricSwitch):
            _check_metric(f"gro.terms.{name}.schedule.metric", term.schedule.metric, config)


def _check_task(config: Config, manager: pluggy.PluginManager) -> None:
    """What a task names: reward sources, tools and environment, generators, and its template."""
    check_rewards(config.rewards, hooks.reward_sources(manager))
    if config.environment is not None:
        choose(config.environment, hooks.tools(manager), hooks.environments(manager))
    generators = hooks.generators(manager)
    for name, source in config.data.sources.items():
        check_generator(source, generators, f"data.{name}")
    open_template(config.prompt).close()
    check_prompt(config.prompt)


def _check_custom(key: str, choice: object, registered: Mapping[str, Callable[..., Any]]) -> None:
    """A credit or link of a plugin is there and takes the options."""
    if not isinstance(choice, CustomCredit | CustomLink):
        return
    try:
        function = registered[choice.name]
    except KeyError:
        raise ConfigError(
            f"{key}.name = {choice.name!r}: no plugin registers it.{nearest(choice.name, registered)} "
            f"Registered: {', '.join(registered) or 'none'}."
        ) from None
    known = options_of(function)
    for option in choice.options:
        if option not in known and not takes_any_option(function):
            raise ConfigError(
                f"{key}.options.{option}: {choice.name!r} has no such option.{nearest(option, known)} "
                f"It has: {', '.join(known) or 'none'}."
            )
    parameters = inspect.signature(function).parameters
    for option in known:
        if parameters[option].default is inspect.Parameter.empty and option not in choice.options:
            raise ConfigError(f"{key}.options.{option} is needed and not set: {choice.name!r} has no default for it.")


def _check_metric(key: str, name: str, config: Config) -> None:
    """A metric is in the table, and the task, reward source or term that it speaks of is configured."""
    task, own = task_of(name)
    if task and own != "share":
        parts = config.parts if config.mixture else {}
        if task not in parts:
            raise ConfigError(
                f"{key} = {name!r}: the run has no part {task!r}.{nearest(task, parts)} It has: "
                f"{', '.join(parts) or 'none'}."
            )
        _check_metric(key, own, parts[task])
        return
    try:
        find(name)
    except KeyError as error:
        raise ConfigError(f"{key} = {name!r}: {error.args[0]}") from None
    conditions = {
        "teacher/": ("a term with a teacher", config.gro.needs_teacher),
        "critic/": ("a term with a critic", config.gro.needs_critic),
        "reward/": ("online groups", config.online),
        "groups/no_credit": ("online groups", config.online),
        "groups/kept": ("sampling.refills", bool(config.sampling.refills)),
        "groups/sampled": ("sampling.refills", bool(config.sampling.refills)),
        "sample/seconds": ("sampling.max_staleness", bool(config.sampling.max_staleness)),
        "response/weights_changed": ("sampling.max_staleness", bool(config.sampling.max_staleness)),
        "response/versions": ("sampling.max_staleness", bool(config.sampling.max_staleness)),
        "tokens/staleness": ("sampling.max_staleness", bool(config.sampling.max_staleness)),
        "response/carried": ("sampling.over_sample", bool(config.sampling.over_sample)),
        "response/continued": ("sampling.over_sample", bool(config.sampling.over_sample)),
        "tokens/carried": ("sampling.over_sample", bool(config.sampling.over_sample)),
        "tokens/discarded": ("sampling.over_sample", bool(config.sampling.over_sample)),
        "response/staleness": ("sampling.max_staleness", bool(config.sampling.max_staleness)),
        "curriculum/": ("a curriculum", config.curriculum.kind != "none"),
        "entropy": ("a term that needs entropies", any(term.term.needs_entropy for term in config.gro.terms.values())),
    }
    for prefix, (need, there_is) in conditions.items():
        if name.startswith(prefix) and not there_is:
            raise ConfigError(f"{key} = {name!r}: the run does not measure it without {need}.")
    for kind, named, there in (
        ("reward source", sources([name]), [reward.source for reward in config.rewards]),
        ("term", terms([name]), list(config.gro.terms)),
    ):
        for metric in named:
            if metric not in there:
                raise ConfigError(
                    f"{key} = {name!r}: the run has no {kind} {metric!r}.{nearest(metric, there)} "
                    f"It has: {', '.join(there) or 'none'}."
                )
