"""Opens what responses interact with, as a configuration asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext

from reasoner.config import Config
from reasoner.data.turn_formats import TurnFormat
from reasoner.environments import CallMark, open_environments
from reasoner.trajectories.interaction import Interaction


@contextmanager
def open_interactions(
    config: Config,
    turn_formats: Mapping[str, TurnFormat],
    say: Callable[[str], None],
    log: Callable[[str], None],
    working: CallMark = nullcontext,
) -> Iterator[Mapping[str, Interaction]]:
    """Start the workers of the tools and of the environment of every task that has some; returns what its responses
    interact with by task. Each task has workers of its own, and one without tools and environment has none.

    Args:
        turn_formats: how they speak with the policy, by task.
        say: told what is worth knowing, each once.
        log: takes what their code prints.
        working: entered while a call of theirs runs.

    Raises:
        ConfigError: a plugin, a tool, an environment or one of their options is wrong.
        RunError: the workers did not start.
    """
    with ExitStack() as stack:
        yield {
            name: Interaction(
                stack.enter_context(open_environments(environment, config.plugins, say, log, working)),
                turn_formats[name],
                environment.max_turns,
            )
            for name, environment in config.environments.items()
        }
