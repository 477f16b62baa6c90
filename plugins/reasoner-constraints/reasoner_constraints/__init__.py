"""The plugin `reasoner-constraints`: puzzles judged by their rules, with exact enumeration, and a task to try it on."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from reasoner import Generator, RewardSource, hookimpl


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    """`constraints`."""
    from reasoner_constraints.source import constraints

    return [constraints]


@hookimpl
def register_generators() -> Mapping[str, Generator]:
    """`puzzles`."""
    from reasoner_constraints.puzzles import puzzles

    return {"puzzles": puzzles}


@hookimpl
def register_tasks() -> Iterable[Path]:
    """`constraints`."""
    return [Path(__file__).with_name("constraints.toml")]
