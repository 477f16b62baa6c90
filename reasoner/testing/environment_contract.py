"""The contract that every tool and environment must keep, checked in the workers that a run would use.

from reasoner.testing import check_environment, check_tool, make_problem

def test_it_keeps_the_contract():
    checklist = check_environment(my_environment, make_problem("Guess.", "7"), ["5", "7"])
    assert checklist.passed, str(checklist)
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoner.config import EnvironmentConfig
from reasoner.environments import EnvironmentFailedError, EnvironmentSession
from reasoner.environments.choose import choose
from reasoner.environments.service import EnvironmentService
from reasoner.errors import ConfigError, EnvironmentsError, UserError
from reasoner.plugins.environment_api import EnvironmentKind
from reasoner.plugins.tool_api import Tool
from reasoner.records import Message, Observation, Problem, ToolCall, Turn
from reasoner.testing.checklist import MEGABYTE, UNICODE, Check, Checklist
from reasoner.testing.examples import example_arguments

MOST_TURNS = 20
"""of a game that a check plays"""


@dataclass(slots=True)
class EpisodeTurn:
    """A turn of a scripted policy, and what it was answered with."""

    turn: Turn
    observation: Observation | None
    """None: the environment failed"""
    failure: str = ""


@dataclass(slots=True)
class Episode:
    """A response of a scripted policy."""

    opening: tuple[Message, ...] = ()
    turns: list[EpisodeTurn] = field(default_factory=list)
    parts: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    """why the environment could not go on: `timeout: ...`"""


def scripted(text: str = "", *calls: ToolCall) -> Turn:
    """A turn of a policy that does what the script says."""
    return Turn("assistant", 0, 1, text, tuple(calls))


def play(service: EnvironmentService, problem: Problem, turns: Sequence[Turn]) -> Episode:
    """Play the turns, until the environment ends the response or fails."""
    return asyncio.run(_play(service, problem, turns))


def check_tool(
    tool: Tool,
    arguments: Sequence[Mapping[str, Any]] = (),
    *,
    options: Mapping[str, Any] | None = None,
    plugins: Sequence[str] = (),
) -> Checklist:
    """Run the contract on a tool.

    It accepts its options and finds what it needs; wrong arguments are refused in words; it answers odd arguments and
    the given ones with text, or says what is wrong with them, within its deadline, and never takes its worker with it;
    it leaves its worker as it was.

    Args:
        tool: registered by an installed distribution or by one of `plugins`.
        arguments: of calls that must have a result.
        options: its options; None: the defaults.
        plugins: files that register it.
    """
    chosen = dict(options or {})
    checks = _check_declared(tool.name, tool, chosen)
    if not checks[-1].passed:
        return Checklist(tool.name, tuple(checks))
    config = EnvironmentConfig(
        tools=[tool.name], tool_options={tool.name: chosen}, workers=1, max_turns=1000, max_tool_calls=1000
    )
    left: list[str] = []
    try:
        with EnvironmentService(config, choose(config, {tool.name: tool}, {}), plugins, say=left.append) as service:
            checks += [Check("is found in a worker", True), *_check_calls(service, tool, arguments)]
    except (ConfigError, EnvironmentsError) as error:
        return Checklist(tool.name, (*checks, Check("is found in a worker", False, str(error))))
    if not tool.is_stateful(chosen):
        checks.append(Check("leaves its worker as it was", not left, "; ".join(left)))
    return Checklist(tool.name, tuple(checks))


def check_environment(
    kind: EnvironmentKind,
    problem: Problem | None = None,
    turns: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
    plugins: Sequence[str] = (),
) -> Checklist:
    """Run the contract on an environment.

    It accepts its options and finds what it needs; it starts with the problem, twice in the same way; it answers odd
    turns (an empty text, a megabyte, unicode) and the given ones within its deadline, and its tools odd arguments; a
    game ends at the given turns, or goes on and is closed.

    Args:
        kind: registered by an installed distribution or by one of `plugins`.
        problem: what it is started with; None: one without fields, which it may refuse.
        turns: what a policy says in its turns; the last one must end the response.
        options: its options; None: the defaults.
        plugins: files that register it.
    """
    chosen = dict(options or {})
    checks = _check_declared(kind.name, kind, chosen)
    if not checks[-1].passed:
        return Checklist(kind.name, tuple(checks))
    config = EnvironmentConfig(name=kind.name, options=chosen, workers=1, max_turns=MOST_TURNS, max_tool_calls=1000)
    try:
        with EnvironmentService(config, choose(config, {}, {kind.name: kind}), plugins) as service:
            checks += [Check("is found in a worker", True), *_check_games(service, kind, problem, turns)]
    except (ConfigError, EnvironmentsError) as error:
        return Checklist(kind.name, (*checks, Check("is found in a worker", False, str(error))))
    return Checklist(kind.name, tuple(checks))


async def _play(service: EnvironmentService, problem: Problem, turns: Sequence[Turn]) -> Episode:
    game = Episode()
    session: EnvironmentSession | None = None
    try:
        session = await service.start(problem, f"problem {problem.id}")
        game.opening = session.opening
        for turn in turns:
            checked = scripted(turn.text, *service.check_calls(turn.calls))
            game.turns.append(EpisodeTurn(checked, None))
            observation = game.turns[-1].observation = await session.step(checked)
            if observation.done:
                break
    except EnvironmentFailedError as error:
        game.failure = f"{error.failure.kind}: {error.failure.message}"
    finally:
        if session is not None:
            game.parts = dict(await session.close())
    return game


def _check_declared(name: str, declared: Tool | EnvironmentKind, options: Mapping[str, Any]) -> list[Check]:
    """Its options, and what it needs."""
    try:
        complete = declared.check_options(options)
    except ConfigError as error:
        return [Check("accepts its options", False, str(error))]
    checks = [
        Check(
            "accepts its options",
            True,
            ", ".join(f"{key} = {value!r}" for key, value in complete.items()) or "has none",
        )
    ]
    if declared.preflight is not None:
        title = "finds what it needs here"
        try:
            checks.append(Check(title, True, declared.ready(options)))
        except UserError as error:
            checks.append(Check(title, False, str(error)))
    return checks


def _check_calls(service: EnvironmentService, tool: Tool, examples: Sequence[Mapping[str, Any]]) -> list[Check]:
    checks = [_check_refused(service, tool)]
    errors = []
    for arguments in example_arguments(tool.schema):
        shown = ", ".join(f"{name} = {_short(value)}" for name, value in arguments.items()) or "no arguments"
        error = _error_of(service, tool.name, arguments)
        errors.append(error)
        broken = _is_broken(error)
        detail = f"says: {_short(error)}" if error and not broken else error
        checks.append(Check(f"copes with {shown}", not broken, detail))
    for own in examples:
        error = _error_of(service, tool.name, own)
        checks.append(Check(f"has a result for {_short(dict(own))}", not error, error))
    if not examples and all(errors):
        checks.append(Check("has a result", True, "not checked: it refuses all made-up arguments", reached=False))
    return checks


def _check_refused(service: EnvironmentService, tool: Tool) -> Check:
    (call,) = service.check_calls([ToolCall(tool.name, {"no such argument": 1})])
    return Check("refuses wrong arguments in words", bool(call.error), call.error)


def _error_of(service: EnvironmentService, name: str, arguments: Mapping[str, Any]) -> str:
    """Why a call has no result; empty: it has one."""
    (call,) = service.check_calls([ToolCall(name, arguments)])
    if call.error:
        return call.error
    game = play(service, _PROBLEM, [scripted("", call)])
    observation = game.turns[-1].observation if game.turns else None
    return game.failure or ("" if observation is None else observation.errors[0])


def _is_broken(error: str) -> bool:
    """Whether it is no answer to wrong arguments: it took the worker with it, or returned no text."""
    return error.startswith(("no result after", "the worker ", "the call ", "a tool must", "MemoryError"))


def _check_games(
    service: EnvironmentService, kind: EnvironmentKind, chosen: Problem | None, turns: Sequence[str]
) -> list[Check]:
    problem = chosen or _PROBLEM
    first, second = play(service, problem, []), play(service, problem, [])
    if first.failure:
        if chosen is not None or not first.failure.startswith("error"):
            return [Check("starts", False, first.failure)]
        why = f"not checked: it refuses a problem without fields ({first.failure}). Give it one of its own kind"
        return [Check(name, True, why if name == "starts" else "not checked", reached=False) for name in _OF_GAMES]
    same = first.opening == second.opening
    checks = [
        Check("starts", True, f"adds {len(first.opening)} messages to the prompt"),
        Check(_SAME, same),
    ]
    for name, text in _ODD_TURNS.items():
        game = play(service, problem, [scripted(text)])
        checks.append(Check(f"copes with {name}", not game.failure, game.failure))
    for name, tool in kind.tools.items():
        for arguments in example_arguments(tool.schema):
            game = play(service, problem, [scripted("", ToolCall(name, arguments))])
            shown = f"{name}({', '.join(f'{key} = {_short(value)}' for key, value in arguments.items())})"
            checks.append(Check(f"copes with {shown}", not game.failure, game.failure))
    checks.append(_check_game(service, problem, turns))
    return checks


def _check_game(service: EnvironmentService, problem: Problem, turns: Sequence[str]) -> Check:
    texts = [*turns] or ["1"] * MOST_TURNS
    game = play(service, problem, [scripted(text) for text in texts])
    title = "plays the given turns to the end" if turns else _PLAYS
    last = game.turns[-1].observation if game.turns else None
    if game.failure or last is None:
        return Check(title, False, game.failure)
    rewards = [turn.observation.reward for turn in game.turns if turn.observation]
    rewarded = [reward for reward in rewards if reward is not None]
    detail = (
        f"{len(game.turns)} turns, reward {sum(rewarded):g}" if rewarded else f"{len(game.turns)} turns, no rewards"
    )
    return Check(title, last.done or not turns, detail if last.done or not turns else f"{detail}: it goes on")


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


_ODD_TURNS = {"an empty turn": "", "a megabyte of text": "0 = 1 {" * (MEGABYTE // 7), "unicode": UNICODE}
_SAME = "starts in the same way for all responses to a problem"
_PLAYS = f"plays up to {MOST_TURNS} turns"
_OF_GAMES = ("starts", _SAME, *(f"copes with {name}" for name in _ODD_TURNS), _PLAYS)
"""checks of an environment that starts"""
_PROBLEM = Problem("problem", (Message("user", "What is 6 times 7?"),), "42", {})
