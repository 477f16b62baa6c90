"""The plugin `names-unit`: what reasoner calls."""

from collections.abc import Iterable

from names_unit.verifier import names_unit
from reasoner import RewardSource, hookimpl


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    """`names_unit`."""
    return [names_unit]
