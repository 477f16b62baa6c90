"""The plugin `reasoner-verifiers`: single-turn tasksets of the package verifiers, their prompts and their rewards.

tasksets.py     finds a taskset, and refuses what a single turn cannot do
generator.py    its tasks as problems
source.py       its rewards for a response
"""

from collections.abc import Iterable, Mapping

from reasoner import Generator, RewardSource, hookimpl


@hookimpl
def register_generators() -> Mapping[str, Generator]:
    """`verifiers`."""
    from reasoner_verifiers.generator import verifiers

    return {"verifiers": verifiers}


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    """`verifiers`."""
    from reasoner_verifiers.source import verifiers

    return [verifiers]
