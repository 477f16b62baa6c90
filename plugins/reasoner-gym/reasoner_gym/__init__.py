"""The plugin `reasoner-gym`: every reasoning-gym dataset as a task `gym/NAME`, with its own scorer as the verifier."""

from collections.abc import Iterable, Mapping

from reasoner import Generator, RewardSource, TaskFamily, hookimpl


@hookimpl
def register_task_families() -> Mapping[str, TaskFamily]:
    """`gym`."""
    from reasoner_gym.datasets import names
    from reasoner_gym.family import toml

    return {"gym": TaskFamily("problems of reasoning-gym, made on demand", names, toml)}


@hookimpl
def register_generators() -> Mapping[str, Generator]:
    """`reasoning_gym`."""
    from reasoner_gym.generator import reasoning_gym

    return {"reasoning_gym": reasoning_gym}


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    """`reasoning_gym`."""
    from reasoner_gym.source import reasoning_gym

    return [reasoning_gym]
