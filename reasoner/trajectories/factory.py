"""Opens the sampler that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from reasoner.config import Config
from reasoner.config.decisions import Decisions
from reasoner.data.turn_formats import TurnFormat
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.environments import CallMark, open_environments
from reasoner.sampling.factory import open_engine
from reasoner.trajectories.interaction import Interaction
from reasoner.trajectories.sampler import TrajectorySampler


def open_sampler(
    config: Config,
    decisions: Decisions,
    folder: Path,
    log: Path,
    longest: int | None = None,
    ranks: Ranks = ALONE,
    say: Callable[[str], None] = print,
    devices: str = "",
) -> TrajectorySampler:
    """Start the engine for the model in `folder`, or ask the servers, for responses of one turn; `description` of the
    result says what was chosen. Arguments and errors as of `reasoner.sampling.factory.open_engine`."""
    return TrajectorySampler(open_engine(config, decisions, folder, log, longest, ranks, say, devices))


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
