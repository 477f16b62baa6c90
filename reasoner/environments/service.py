"""Tools and environments of a run: the main process's side of a path that cannot hang."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Self

from reasoner.config import EnvironmentConfig
from reasoner.environments.choose import ConfiguredEnvironment, choose
from reasoner.environments.host_client import CallMark, HostClient
from reasoner.environments.session import ResponseSession, SessionContext
from reasoner.environments.workers.protocol import CallOutcome, EnvironmentPlan, dump_environment_plan
from reasoner.errors import nearest
from reasoner.plugins import manager as hooks
from reasoner.records import Problem, ToolCall, ToolDescription


class EnvironmentService:
    """See `Environments`. Runs tools and environments in worker processes with deadlines; leaving the context ends all
    of them.

    Args:
        chosen: what `config` names.
        plugins: files that register it, where no installed distribution does.
        say: takes what is worth knowing, each once: that a tool leaves its worker changed.
        fail: takes the first failure of everything that raised, with the end of its traceback.
        log: takes what tools and environments print.
        working: entered while a call runs.

    Raises:
        ConfigError: a plugin, a name or an option is wrong.
        EnvironmentsError: the host did not start.
    """

    def __init__(
        self,
        config: EnvironmentConfig,
        chosen: ConfiguredEnvironment,
        plugins: Sequence[str] = (),
        *,
        say: Callable[[str], None] = lambda text: None,
        fail: Callable[[str], None] = lambda text: None,
        log: Callable[[str], None] = lambda text: None,
        working: CallMark = nullcontext,
    ) -> None:
        self._config, self._chosen = config, chosen
        self._say, self._fail = say, fail
        self._noted: set[str] = set()
        self._places: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None
        self._open = 0
        """sessions that have a place"""
        plan = dump_environment_plan(EnvironmentPlan(config, tuple(plugins), os.getpid()))
        self._client = HostClient(plan, log, working)
        self._context = SessionContext(config, chosen, self._client, self._note)

    @property
    def tools(self) -> Sequence[ToolDescription]:
        return tuple(configured.description for configured in self._chosen.tools.values())

    @property
    def most_sessions(self) -> int:
        return self._config.sessions if self._chosen.keeps_state else sys.maxsize

    def check_calls(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        return tuple(call if call.error else replace(call, error=self._mistake(call)) for call in calls)

    async def start(self, problem: Problem, key: str) -> ResponseSession:
        end: Callable[[], None] = lambda: None  # noqa: E731
        if self._chosen.keeps_state:
            await self._semaphore().acquire()
            self._open += 1
            end = self._release
        session = ResponseSession(self._context, key, end)
        try:
            await session.begin(problem)
        except BaseException:
            await session.close()
            raise
        return session

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _semaphore(self) -> asyncio.Semaphore:
        """Of this event loop, less the places of sessions that earlier ones left open."""
        loop = asyncio.get_running_loop()
        if self._places is None or self._places[0] is not loop:
            self._places = loop, asyncio.Semaphore(self._config.sessions - self._open)
        return self._places[1]

    def _release(self) -> None:
        """A session has ended, perhaps in another event loop than the one that began it."""
        places = self._semaphore()
        self._open -= 1
        places.release()

    def _mistake(self, call: ToolCall) -> str:
        tools = self._chosen.tools
        if call.name not in tools:
            return (
                f"there is no tool {call.name!r}.{nearest(call.name, tools)} There are: {', '.join(tools) or 'none'}."
            )
        return tools[call.name].tool.check_arguments(call.arguments)

    def _note(self, name: str, what: str, outcome: CallOutcome) -> None:
        """Say the first time that something raised, or left its worker changed."""
        if outcome.trace and (key := f"{name} raised") not in self._noted:
            self._noted.add(key)
            self._fail(f"{what} failed (the first time; the others are counted):\n{outcome.trace}")
        if outcome.left and (key := f"{name} left") not in self._noted:
            self._noted.add(key)
            self._say(
                f"tool {name!r} leaves its worker changed: {outcome.left}. Nothing of it reaches another call, but "
                "every such call costs a new worker: undo it in the call."
            )


def open_environments(
    config: EnvironmentConfig,
    plugins: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
    log: Callable[[str], None] = lambda text: None,
    working: CallMark = nullcontext,
) -> EnvironmentService:
    """The tools and the environment that a section names.

    Args:
        plugins: files that register them, where no installed distribution does.
        say: takes what is worth knowing, each once.
        log: takes what tools and environments print, and the end of the traceback of what raised, the first time.
        working: entered while a call runs.

    Raises:
        ConfigError: a plugin, a name or an option is wrong.
        EnvironmentsError: the host did not start.
    """
    manager = hooks.build_manager(plugins)
    chosen = choose(config, hooks.tools(manager), hooks.environments(manager))
    return EnvironmentService(config, chosen, plugins, say=say, fail=log, log=log, working=working)
