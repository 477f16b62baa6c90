"""The environment host: started once per run, it runs the configured tools and the environment in its workers."""

from __future__ import annotations

from reasoner.environments.choose import ConfiguredEnvironment, choose
from reasoner.environments.workers.protocol import load_environment_plan
from reasoner.environments.workers.worker_pool import SessionPool
from reasoner.plugins.manager import build_manager, environments, tools
from reasoner.workers.host import HostStart, check_memory, get_ready, run_host
from reasoner.workers.lines import dump_line


def boot(line: bytes) -> HostStart:
    """What the host does with the plan of that line.

    Raises:
        UserError: a plugin, a name, an option or the memory limit is wrong; the message says which and why.
    """
    plan = load_environment_plan(line)
    manager = build_manager(plan.plugins)
    chosen = choose(plan.environment, tools(manager), environments(manager))
    _get_all_ready(chosen)
    check_memory("environment.memory_mb", plan.environment.memory_mb)
    return HostStart(
        plan.parent,
        dump_line({"ready": True}),
        lambda selector, emit, detach: SessionPool(chosen, plan.environment, selector, emit, detach),
    )


def main() -> None:
    """Entry point of the host process."""
    run_host("the environment host", boot)


def _get_all_ready(chosen: ConfiguredEnvironment) -> None:
    if chosen.kind is not None:
        get_ready(f"environment {chosen.kind.name!r}", chosen.kind.prepare)
    for name, configured in chosen.tools.items():
        get_ready(f"tool {name!r}", configured.tool.prepare)
