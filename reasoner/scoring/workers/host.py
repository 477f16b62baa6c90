"""The scoring host: started once per run by `ScoringService`, it runs the configured reward sources in its workers."""

from __future__ import annotations

from reasoner.plugins.manager import build_manager, reward_sources
from reasoner.scoring.composition import check_rewards
from reasoner.scoring.workers.protocol import COMMON, Plan, dump_traits, load_plan
from reasoner.scoring.workers.worker import ConfiguredSource
from reasoner.scoring.workers.worker_pool import ScoringPool
from reasoner.workers.host import HostStart, check_memory, get_ready, run_host


def prepare(plan: Plan) -> list[ConfiguredSource]:
    """Import the plugins and let the configured sources get ready.

    Raises:
        UserError: a plugin, a reward or the memory limit is wrong; the message says which and why.
    """
    sources = reward_sources(build_manager(plan.plugins))
    check_rewards(plan.rewards, sources)
    jobs = []
    owners: dict[str, int] = {}  # several tasks may use a source: it gets ready once, and its own workers do all calls
    for index, reward in enumerate(plan.rewards):
        source = sources[reward.source]
        if owners.setdefault(reward.source, index) == index:
            get_ready(f"reward source {source.name!r}", source.prepare)
        retries = source.retries if reward.retries is None else reward.retries
        lane = COMMON if source.workers is None else owners[reward.source]
        timeout_s = reward.timeout_s or source.timeout_s
        jobs.append(ConfiguredSource(source, source.check_options(reward.options), timeout_s, retries, lane))
    if any(job.source.limit_memory for job in jobs):
        check_memory("scoring.memory_mb", plan.scoring.memory_mb)
    return jobs


def boot(line: bytes) -> HostStart:
    """What the host does with the plan of that line."""
    plan = load_plan(line)
    jobs = prepare(plan)
    return HostStart(
        plan.parent,
        dump_traits([job.traits for job in jobs]),
        lambda selector, emit, detach: ScoringPool(jobs, plan.scoring, selector, emit, detach),
    )


def main() -> None:
    """Entry point of the host process."""
    run_host("the scoring host", boot)
