"""Opens the sampler that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reasoner.config import Config
from reasoner.config.decisions import Decisions
from reasoner.data.turn_formats import TurnFormat
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.errors import ConfigError
from reasoner.sampling.base import Sampler
from reasoner.sampling.factory import open_engine
from reasoner.sampling.server.sampler import ServerSampler
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
) -> Sampler:
    """Start the engine for the model in `folder`, or ask the servers, for responses of one turn; `description` of the
    result says what was chosen. Arguments and errors as of `reasoner.sampling.factory.open_engine`."""
    engine = open_engine(config, decisions, folder, log, longest, ranks, say, devices)
    return engine if isinstance(engine, ServerSampler) else TrajectorySampler(engine)


@contextmanager
def open_interaction(
    config: Config, turn_format: TurnFormat | None, say: Callable[[str], None], log: Callable[[str], None]
) -> Iterator[Interaction | None]:
    """Start the workers of the tools and of the environment; None: the task has neither.

    Args:
        turn_format: how they speak with the policy.
        say: told what is worth knowing, each once.
        log: takes what their code prints.

    Raises:
        ConfigError: a plugin, a tool, an environment or one of their options is wrong.
        RunError: the workers did not start.
    """
    if config.environment is None:
        yield None
        return
    raise ConfigError("environment: tools and environments are not run yet")


def interacting(sampler: Sampler, interaction: Interaction | None) -> Sampler:
    """The sampler over the same engine whose responses have tools or an environment; None: the sampler itself.

    Raises:
        ConfigError: its engine cannot.
    """
    if interaction is None:
        return sampler
    if not isinstance(sampler, TrajectorySampler):
        raise ConfigError("environment: responses with tools or an environment are not sampled by vLLM servers yet")
    return sampler.interacting(interaction)
