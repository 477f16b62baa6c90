"""The datasets of reasoning-gym by name; it is imported here and nowhere else, when it is first asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from reasoner import ConfigError, MissingDependencyError, nearest

COMPOSED = frozenset({"composite"})
"""mixtures of other datasets: they have no problems of their own"""
RESERVED = {"seed": "the source's `seed`", "size": "the source's `limit`"}
"""fields of every dataset's configuration that `reasoner` sets, and by what"""


class Dataset(Protocol):
    """What is used of a dataset."""

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float: ...


def names() -> Sequence[str]:
    """All datasets that can be made alone, in alphabetical order.

    Raises:
        MissingDependencyError: reasoning-gym is not installed.
    """
    return sorted(_factory().DATASETS.keys() - COMPOSED)


def make(name: str, config: Mapping[str, Any], *, seed: int = 0, size: int = 1) -> Dataset:
    """The dataset of that name, its difficulty as in `config`. Its problem i is drawn from `seed + i`.

    Raises:
        MissingDependencyError: reasoning-gym is not installed.
        ConfigError: there is no such dataset, or its configuration refuses a field or value.
    """
    factory = _factory()
    if name not in (known := names()):
        raise ConfigError(
            f"reasoning-gym has no dataset {name!r}.{nearest(name, known)} See `reasoner tasks show gym`."
        )
    dataset: Dataset = factory.create_dataset(name, seed=seed, size=size, **_check_config(name, config))
    return dataset


def _check_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as the dataset's configuration takes them: lists as tuples where its default is one."""
    _, config_class = _factory().DATASETS[name]
    fields = {field.name: field for field in dataclasses.fields(config_class) if field.name not in RESERVED}
    values = {}
    for key, value in config.items():
        if key in RESERVED:
            raise ConfigError(f"config.{key} of the dataset {name!r} is not for you to set: use {RESERVED[key]}.")
        if key not in fields:
            raise ConfigError(
                f"config.{key}: the dataset {name!r} has no such field.{nearest(key, fields)} "
                f"It has: {', '.join(fields) or 'none'}."
            )
        values[key] = tuple(value) if isinstance(value, list) and isinstance(fields[key].default, tuple) else value
    try:
        built = config_class(**values)
        if hasattr(built, "validate"):
            built.validate()
    except (AssertionError, TypeError, ValueError) as error:
        settings = ", ".join(f"{key} = {value!r}" for key, value in config.items()) or "its defaults"
        raise ConfigError(f"the dataset {name!r} refuses {settings}: {error or type(error).__name__}.") from error
    return values


def _factory() -> ModuleType:
    try:
        import reasoning_gym.factory
    except ImportError as error:
        raise MissingDependencyError(
            f"the plugin reasoner-gym needs reasoning-gym and what it needs ({error}); "
            "install it with `pip install 'reasoning-gym>=0.1.25'`"
        ) from error
    factory: ModuleType = reasoning_gym.factory
    return factory
