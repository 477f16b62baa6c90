"""The plugin `reasoner-sql`: queries judged by their results on several databases, and a task to try it on."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from reasoner import Generator, RewardSource, hookimpl


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    """`sql`."""
    from reasoner_sql.source import sql

    return [sql]


@hookimpl
def register_generators() -> Mapping[str, Generator]:
    """`sql_problems`."""
    from reasoner_sql.problems import sql_problems

    return {"sql_problems": sql_problems}


@hookimpl
def register_tasks() -> Iterable[Path]:
    """`sql`."""
    return [Path(__file__).with_name("sql.toml")]
