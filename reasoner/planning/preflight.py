"""Asks sources, tools, trackers and servers for what they need before anything is loaded: a key costs a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pluggy

from reasoner.config import RewardConfig
from reasoner.environments import choose
from reasoner.loading import Resolved
from reasoner.monitoring.tracking import preflight_trackers
from reasoner.plugins.manager import environments, reward_sources, tools, trackers


def preflight(rewards: Sequence[RewardConfig], manager: pluggy.PluginManager) -> dict[str, str]:
    """What each source that has a preflight says, by its name.

    Raises:
        UserError: a source cannot work here; the message says what to install or set.
    """
    sources = reward_sources(manager)
    lines = {reward.source: sources[reward.source].ready(reward.options) for reward in rewards}
    return {source: line for source, line in lines.items() if line}


def ready(resolved: Resolved, *, training: bool = True) -> Resolved:
    """The configuration with what its reward sources, tools, trackers and vLLM servers say of this machine.

    Args:
        training: False for an evaluation, which always scores and has no tracker. A training on offline data alone
            scores nothing unless it evaluates.

    Raises:
        UserError: as `preflight`.
    """
    config = resolved.config
    lines: dict[str, str] = {}
    if config.has_sampler or not training:
        rewards = [reward for of_task in config.scored.values() for reward in of_task]
        lines |= {f"reward {source}": line for source, line in preflight(rewards, resolved.manager).items()}
        for environment in config.environments.values():
            lines |= choose(environment, tools(resolved.manager), environments(resolved.manager)).ready()
        if config.sampling.servers:
            from reasoner.sampling.server.compatibility import preflight_servers

            lines["servers"] = preflight_servers(config, resolved.typed)
    if training:
        tracked = preflight_trackers(config.trackers, trackers(resolved.manager))
        lines |= {f"tracker {name}": line for name, line in tracked.items()}
    return replace(resolved, preflights=lines)
