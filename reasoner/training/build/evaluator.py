"""Opens what samples and scores: the engine, its sampler and the reward sources, of one rank among those of all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from reasoner.config import RewardConfig
from reasoner.distributed.ranks import Ranks, part_of, visible_devices
from reasoner.errors import ConfigError
from reasoner.monitoring.timer import Timeline
from reasoner.sampling.base import Sampler
from reasoner.sampling.factory import open_engine
from reasoner.sampling.sharded import ShardedSampler
from reasoner.scoring.base import Scorer
from reasoner.scoring.service import ScoringService
from reasoner.scoring.sharded import ShardedScorer
from reasoner.training.build.run_base import RunBase
from reasoner.training.evaluator import Evaluator
from reasoner.trajectories.factory import open_interactions
from reasoner.trajectories.sampler import TrajectorySampler


@contextmanager
def open_evaluator(base: RunBase, timeline: Timeline) -> Iterator[Evaluator]:
    """Start the sampler and the scoring service of this rank."""
    config, view = base.config, base.view
    working = partial(timeline, "environment")
    with ExitStack() as stack:
        shared = config.sampling.tensor_parallel if base.ranks.count > 1 else 1
        rewards = {name: _rank_rewards(rewards, base.ranks, shared) for name, rewards in config.scored.items()}
        scoring = config.scoring
        if base.ranks.count > 1:  # the failures of all ranks are judged together (`ShardedScorer`)
            scoring = scoring.model_copy(update={"max_failure_rate": 1.0})
        service = stack.enter_context(
            ScoringService(rewards, scoring, config.plugins, view.message, fail=view.message, log=base.run.log)
        )
        scorer: Scorer = service
        view.message(f"starting the sampler ({base.decisions.engine})")
        log = base.run.folder / "sampler.log"
        devices = _devices(base.ranks, shared)
        engine: Sampler | None = None
        sampler: Sampler | None = None
        if base.ranks.index % shared == 0:
            token_service = open_engine(
                config, base.decisions, base.folder, log, ranks=base.ranks, say=view.message, devices=devices
            )
            opened = TrajectorySampler(token_service)
            engine = stack.enter_context(opened)
            interactions = open_interactions(config, base.turn_formats, view.message, base.run.log, working)
            sampler = opened.with_interactions(stack.enter_context(interactions))
        if base.ranks.count > 1:
            # Prefetched groups are exchanged while the update exchanges gradients.
            ranks = base.ranks.twin() if config.sampling.lookahead else base.ranks
            scorer = ShardedScorer(service, ranks, config.scoring.max_failure_rate)
            engine, sampler = (_sharded(rank_sampler, rewards, ranks, shared) for rank_sampler in (engine, sampler))
        assert engine is not None
        assert sampler is not None
        merged = base.decisions.merge_reason
        how = f", {f'merged hand-over ({merged})' if merged else 'adapter hand-over'}" if config.lora else ""
        view.message(f"sampler: {sampler.description}{how}")
        yield Evaluator(
            config, base.run, view, base.held_out, scorer, service, sampler, engine, base.events, base.turn_end
        )


def _devices(ranks: Ranks, shared: int) -> str:
    """The CUDA devices of the `shared` neighbours that have an engine together; empty: each has its own.

    Raises:
        ConfigError: they are on different nodes.
    """
    if shared == 1:
        return ""
    first = ranks.index - ranks.index % shared
    of_ranks = ranks.gather((ranks.node, visible_devices() or []))[first : first + shared]
    if len({node for node, _ in of_ranks}) > 1:
        raise ConfigError(
            f"sampling.tensor_parallel = {shared} does not divide the ranks of a node, and an engine is on one node"
        )
    return ",".join(device for _, own in of_ranks for device in own)


def _rank_rewards(rewards: Sequence[RewardConfig], ranks: Ranks, shared: int) -> list[RewardConfig]:
    """The reward sources as one rank calls them: each has its part of a budget of calls.

    Args:
        shared: neighbouring ranks that have an engine together, on the first of them.
    """
    return [
        reward
        if reward.max_calls is None
        else reward.model_copy(update={"max_calls": part_of(reward.max_calls, ranks, shared)})
        for reward in rewards
    ]


def _sharded(
    sampler: Sampler | None, rewards: Mapping[str, Sequence[RewardConfig]], ranks: Ranks, shared: int
) -> ShardedSampler:
    """The sampler of one rank among those of all; see `_rank_rewards`.

    A budget of calls is divided evenly, so with one every rank samples, and then scores, as many groups as the others:
    a fast one would use up its part while that of a slow one is left.
    """
    has_budget = any(reward.max_calls is not None for of_task in rewards.values() for reward in of_task)
    return ShardedSampler(sampler, ranks, shared, takes_others=not has_budget)
