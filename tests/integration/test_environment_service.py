"""Tools and environments in real workers: what they do wrong is recorded, told to the policy, and bounded."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reasoner.config import EnvironmentConfig
from reasoner.environments.base import EnvironmentFailedError, Environments
from reasoner.environments.choose import choose
from reasoner.environments.service import EnvironmentService, open_environments
from reasoner.errors import ConfigError, EnvironmentsError
from reasoner.plugins import manager as hooks
from reasoner.processes.subreaper import children
from reasoner.records import Message, Observation, Problem, ToolCall, Turn
from reasoner.testing.cases import make_problem

PLUGIN = str(Path(__file__).with_name("misbehaving_tools.py"))
PROBLEM = make_problem("?", "4")


@contextmanager
def opened(**section: Any) -> Iterator[EnvironmentService]:
    with open_environments(EnvironmentConfig(**{"memory_mb": 1024, **section}), [PLUGIN]) as service:
        yield service


@pytest.fixture(scope="module")
def tools() -> Iterator[EnvironmentService]:
    with opened(tools=["trouble", "waits", "counter", "calculator"], max_tool_calls=100) as service:
        yield service


@pytest.fixture(scope="module")
def game() -> Iterator[EnvironmentService]:
    with opened(name="troubled", tools=["trouble"], max_turns=6, max_result_chars=100) as service:
        yield service


def call(name: str = "trouble", **arguments: Any) -> ToolCall:
    return ToolCall(name, arguments)


def turn(*calls: ToolCall, text: str = "") -> Turn:
    return Turn("assistant", 0, 1, text, calls)


async def played(service: Environments, *turns: Turn, problem: Problem = PROBLEM) -> list[Observation]:
    session = await service.start(problem, "problem x, response 0")
    try:
        return [
            await session.step(Turn("assistant", 0, 1, each.text, service.check_calls(each.calls))) for each in turns
        ]
    finally:
        await session.close()


def answers(service: Environments, *calls: ToolCall) -> list[tuple[str, str]]:
    """Text and error of each call, made in a turn of its own."""
    seen = asyncio.run(played(service, *(turn(each) for each in calls)))
    return [(each.messages[0].content, each.errors[0]) for each in seen]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("hang", "no result after 1 s; the call and all it started were killed"),
        ("spin", "no result after 1 s"),
        ("deaf", "no result after 1 s"),
        ("leave", "the worker died during the call: exit status 0."),
        ("die", "the worker died during the call: SIGSEGV."),
        ("exit", "SystemExit: 3"),
        ("raise", "ValueError: no such thing (misbehaving_tools.py:"),
        ("refuse", "ask for something else"),
        ("bytes", "a tool must return text, got 2 bytes: decode them"),
        ("number", "a tool must return text (str), got int 3"),
        ("nothing", "a tool must return text (str), got NoneType None"),
        ("memory", "MemoryError: the call needed more than environment.memory_mb = 1024 MB"),
        ("forge", "the call wrote to the channel between worker and host"),
    ],
)
def test_a_tool_that_fails_is_recorded_and_says_so_to_the_policy(
    tools: EnvironmentService, what: str, words: str
) -> None:
    (text, error), after = answers(tools, call(what=what), call(what="nothing wrong"))
    assert error.startswith(words)
    assert text == f"Error: {error}"
    assert after == ("hello", "")


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("print", "hello"),
        ("print bytes", "hello"),
        ("megabytes", "y" * 4000 + "\n... (2996000 more characters)"),
        ("surrogate", "\\ud800 half"),
        ("fork", "forked"),
        ("thread", "hello"),
    ],
)
def test_what_a_tool_gives_is_bounded_text(tools: EnvironmentService, what: str, text: str) -> None:
    assert answers(tools, call(what=what), call(what="well")) == [(text, ""), ("hello", "")]


def test_calls_are_checked_before_they_are_made(tools: EnvironmentService) -> None:
    wrong = (
        ToolCall("truble", {"what": "x"}),
        ToolCall("trouble", {"wat": "x"}),
        ToolCall("trouble", {}),
        ToolCall("", {}, "the block is not closed"),
    )
    (seen,) = asyncio.run(played(tools, turn(*wrong, call("calculator", expression="6 * 7"))))
    assert [message.content for message in seen.messages] == [
        "Error: there is no tool 'truble'. Did you mean 'trouble'? There are: trouble, waits, counter, calculator.",
        "Error: trouble has no argument 'wat'. Did you mean 'what'? It takes: what.",
        "Error: trouble needs the argument 'what'. It takes: what.",
        "Error: the block is not closed",
        "42",
    ]
    assert [message.name for message in seen.messages] == ["truble", "trouble", "trouble", "", "calculator"]
    assert (seen.errors, seen.done, seen.reward) == (("",) * 5, False, None)


def test_a_turn_without_a_call_ends_a_response_with_tools_alone(tools: EnvironmentService) -> None:
    (seen,) = asyncio.run(played(tools, turn(text="It is 4.")))
    assert (seen.done, seen.messages) == (True, ())


def test_the_host_raises_a_low_limit_on_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low, before = 512, children(os.getpid())
    assert hard == resource.RLIM_INFINITY or hard > low
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
    try:
        with opened(tools=["calculator"]):
            (host,) = children(os.getpid()) - before
            assert resource.prlimit(host, resource.RLIMIT_NOFILE)[0] > low
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_options_and_limits_of_calls_and_turns() -> None:
    with opened(
        tools=["trouble"], tool_options={"trouble": {"greeting": "hi"}}, max_tool_calls=3, max_turns=3, timeout_s=0.5
    ) as service:
        many = [turn(call(what="x"), call(what="x")), turn(call(what="x"), call(what="x")), turn(call(what="hang"))]
        seen = asyncio.run(played(service, *many))
        (slow,) = asyncio.run(played(service, turn(call(what="hang"))))
    texts = [message.content for each in seen for message in each.messages]
    assert texts[:3] == ["hi"] * 3
    assert texts[3:] == ["Error: not called: a response may make 3 calls. Answer without further calls."] * 2
    assert [each.done for each in seen] == [False, False, True]
    assert slow.errors[0].startswith("no result after 0.5 s")


def test_a_tool_with_state_keeps_it_for_one_response_and_loses_it_with_its_worker(tools: EnvironmentService) -> None:
    counted = [text for text, _ in answers(tools, *[call("counter")] * 3, call("counter", what="hang"))]
    assert [text.split()[0] for text in counted[:3]] == ["1", "2", "3"]
    assert len({text.split()[-1] for text in counted[:3]}) == 1
    assert counted[3].startswith("Error: no result after 1 s")
    again = answers(tools, call("counter"), call("counter", what="leave"), call("counter"), call("counter"))
    assert [text.split()[0] for text, _ in again] == ["1", "Error:", "1", "2"]
    assert again[0][0].split()[-1] not in {text.split()[-1] for text in counted[:3]}


def test_an_environment_lives_in_one_worker_with_the_tools_that_it_brings(game: EnvironmentService) -> None:
    async def play() -> tuple[tuple[Message, ...], list[Observation], Any, Any]:
        session = await game.start(PROBLEM, "x")
        seen = [await session.step(turn(*calls, text=text)) for text, calls in TURNS]
        return session.opening, seen, await session.close(), await session.close()

    opening, seen, parts, again = asyncio.run(play())
    assert opening == (Message("user", "Say something."),)
    assert [tool.name for tool in game.tools] == ["touch", "trouble"]
    assert [message.role for message in seen[1].messages] == ["tool", "tool", "user"]
    first, second = (each.messages[-1].content.split() for each in seen[:2])
    assert (first[:2], second[:2]) == (["turn", "1"], ["turn", "12"])
    assert {first[-1], second[-1]} == {seen[1].messages[0].content.split()[-1]}
    assert seen[2].messages[0].content == "z" * 100 + "\n... (2999900 more characters)"
    assert seen[3] == Observation((Message("user", "bye"),), True, 1.0, {"turns": 14}, ("",), (0.0,))
    assert (parts, again) == ({"closed": 14}, {})


TURNS = [
    ("say", ()),
    ("say", (call("touch"), call(what="x"))),
    ("long", ()),
    ("end", ()),
]


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("hang", "timeout", "no result after 1 s"),
        ("leave", "crash", "the worker died during the call"),
        ("raise", "error", "ValueError: no such thing"),
        ("memory", "error", "MemoryError"),
        ("number", "invalid", "step must return an Observation, text or None, got int 3"),
        ("silence", "invalid", "step gave no message and did not end the response"),
        ("nan", "invalid", "Observation.reward must be a finite number"),
        ("role", "invalid", "text or messages of role 'user'"),
        ("parts", "invalid", "Observation.parts must hold JSON values only"),
    ],
)
def test_an_environment_that_fails_is_a_recorded_failure(
    game: EnvironmentService, text: str, kind: str, words: str
) -> None:
    with pytest.raises(EnvironmentFailedError) as caught:
        asyncio.run(played(game, turn(text="say"), turn(text=text)))
    failure = caught.value.failure
    assert (failure.source, failure.kind) == ("troubled", kind)
    assert words in failure.message
    assert len(asyncio.run(played(game, turn(text="say")))) == 1


def test_an_environment_may_fail_at_its_start_and_in_a_tool_of_its_own(game: EnvironmentService) -> None:
    with pytest.raises(EnvironmentFailedError, match="troubled: error: ValueError: no such thing"):
        asyncio.run(played(game, problem=make_problem("?", "4", start="raise")))
    with pytest.raises(EnvironmentFailedError, match="troubled: crash: the worker died during the call"):
        asyncio.run(played(game, turn(call("touch", what="leave"))))
    raised, gone = asyncio.run(played(game, turn(call("touch", what="raise")), turn(call("touch"), text="none")))
    assert raised.errors[0].startswith("ValueError: no such thing")
    assert (gone.messages[0].content.split()[0], gone.done) == ("touched", False)


def test_many_sessions_share_few_workers_and_wait_for_a_place() -> None:
    async def play(service: Environments, number: int) -> float:
        session = await service.start(PROBLEM, str(number))
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        await session.step(turn(text="say"))
        alive[0] -= 1
        await session.close()
        return time.monotonic()

    async def all_of_them(service: Environments) -> None:
        await asyncio.gather(*(play(service, number) for number in range(12)))

    alive, most = [0], [0]
    with opened(name="troubled", sessions=4, workers=2) as service:
        assert service.most_sessions == 4
        asyncio.run(all_of_them(service))
        asyncio.run(all_of_them(service))  # in another event loop
    assert 1 < most[0] <= 4


def test_stateless_calls_run_at_the_same_time_in_as_many_workers_as_allowed(tmp_path: Path) -> None:
    async def together(service: Environments) -> list[list[Observation]]:
        meeting = turn(call("meets", file=str(file), calls=4))
        return list(await asyncio.gather(*(played(service, meeting) for _ in range(4))))

    file = tmp_path / "calls"
    file.touch()
    with opened(tools=["meets"], workers=4) as service:
        seen = asyncio.run(together(service))
        assert service.most_sessions > 10**6
    assert [each[0].messages[0].content for each in seen] == ["4 met"] * 4


def test_a_cancelled_call_ends_its_worker_and_nothing_is_left(tmp_path: Path) -> None:
    """The only worker: it was waiting for another call, which never comes."""

    async def cancelled(service: Environments) -> None:
        task = asyncio.create_task(played(service, turn(call("meets", file=str(file), calls=2))))
        while not file.stat().st_size:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        seen = await asyncio.wait_for(played(service, turn(call("waits", seconds=0.0))), 30)
        assert seen[0].messages[0].content == "waited 0"

    file = tmp_path / "calls"
    file.touch()
    with opened(tools=["meets", "waits"], workers=1) as service:
        asyncio.run(cancelled(service))


def test_closing_ends_sessions_processes_and_calls() -> None:
    async def interrupted(service: EnvironmentService) -> None:
        session = await service.start(PROBLEM, "x")
        await session.step(turn(call(what="fork"), text="say"))
        loop = asyncio.get_running_loop()
        loop.call_later(0.2, service.close)
        with pytest.raises(EnvironmentsError, match="were closed"):
            await session.step(turn(text="hang"))
        assert await session.close() == {}
        with pytest.raises(EnvironmentsError, match="were closed"):
            await service.start(PROBLEM, "y")

    before = children(os.getpid())
    with opened(name="troubled", tools=["trouble"], timeout_s=20.0) as service:
        asyncio.run(interrupted(service))
    assert children(os.getpid()) == before


def test_a_host_that_dies_is_an_error_and_no_waiting(tools: EnvironmentService) -> None:
    async def killed(service: EnvironmentService) -> None:
        (host,) = children(os.getpid()) - before
        task = asyncio.create_task(played(service, turn(call("waits", seconds=4.0))))
        await asyncio.sleep(0.3)
        os.kill(host, 9)
        with pytest.raises(EnvironmentsError, match=r"the environment host, .* was ended by SIGKILL"):
            await task

    before = children(os.getpid())
    with opened(tools=["waits"]) as service:
        asyncio.run(killed(service))


def test_what_is_printed_and_raised_is_told_once() -> None:
    config = EnvironmentConfig(tools=["trouble"])
    manager = hooks.build_manager([PLUGIN])
    chosen = choose(config, hooks.tools(manager), {})
    message: list[str] = []
    failed: list[str] = []
    logged: list[str] = []
    with EnvironmentService(
        config, chosen, [PLUGIN], say=message.append, fail=failed.append, log=logged.append
    ) as service:
        answers(service, *[call(what="raise")] * 2, *[call(what="thread")] * 2, call(what="print"))
    assert len(failed) == len(message) == 1
    assert 'raise ValueError("no such thing")' in failed[0]
    assert "tool 'trouble' leaves its worker changed: thread" in message[0]
    assert logged == [f"trouble (tool), problem x, response 0, printed:\n{'x' * 4000}"]


def test_a_host_refuses_what_it_cannot_work_with() -> None:
    config = EnvironmentConfig(tools=["calculator"], memory_mb=10)
    chosen = choose(config, hooks.tools(hooks.build_manager()), {})
    with pytest.raises(ConfigError, match=r"environment\.memory_mb = 10 is less than the"):
        EnvironmentService(config, chosen)
