"""The plugin `reasoner-openenv`: the environment `openenv`, which a server of OpenEnv runs.

session.py        an episode on a server: reset, step, close
environment.py    turns of the policy as actions, observations as messages
"""

from collections.abc import Iterable

from reasoner import EnvironmentKind, hookimpl


@hookimpl
def register_environments() -> Iterable[EnvironmentKind]:
    """`openenv`."""
    from reasoner_openenv.environment import openenv

    return [openenv]
