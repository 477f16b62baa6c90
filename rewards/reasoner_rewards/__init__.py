"""The built-in reward sources, registered through the same hook as a third party's."""

from collections.abc import Iterable

from reasoner import RewardSource, hookimpl


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    """`math`, `boxed_format`."""
    from reasoner_rewards.boxed_format import boxed_format
    from reasoner_rewards.math import math

    return (math, boxed_format)
