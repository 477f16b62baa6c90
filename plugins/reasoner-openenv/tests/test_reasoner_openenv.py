"""The environment `openenv` on a local server that speaks OpenEnv's protocol, well and badly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

import reasoner_openenv
from reasoner import ConfigError, Message, Observation, Problem, Turn, UserError
from reasoner.testing import check_environment, make_problem
from reasoner_openenv.environment import OpenEnv, OpenEnvOptions, last_whole_number, openenv
from reasoner_openenv.session import MOST_BYTES, Answer, ServerError, address_of

PLUGIN = str(Path(reasoner_openenv.__file__))
ODD: dict[str, str] = {
    "not json": "{",
    "a list": "[]",
    "no type": '{"data": {}}',
    "no observation": '{"type": "observation", "data": {"reward": 1.0}}',
    "reward is text": '{"type": "observation", "data": {"observation": {}, "reward": "high"}}',
    "reward is nan": '{"type": "observation", "data": {"observation": {}, "reward": NaN}}',
    "done is a number": '{"type": "observation", "data": {"observation": {}, "done": 1}}',
    "error": '{"type": "error", "data": {"message": "no such action", "code": "VALIDATION_ERROR"}}',
    "too long": '"' + "x" * MOST_BYTES + '"',
}
"""answers to the action of that name"""


def game(socket: ServerConnection) -> None:
    """A number to guess: `{"guess": n}`; an action `{"say": ...}` has an odd answer."""
    with suppress(ConnectionClosed):
        play(socket)


def play(socket: ServerConnection) -> None:
    secret = 0
    for text in socket:
        message = json.loads(text)
        data = message.get("data", {})
        if message["type"] == "close":
            return
        if message["type"] == "reset":
            secret = data.get("seed", 7)
            answer: dict[str, Any] = {"observation": {"text": "Guess.", "board": {"left": 3}}, "reward": None}
        elif "say" in data:
            if data["say"] == "die":
                socket.socket.close()
                return
            if data["say"] == "hang":
                time.sleep(3.0)
            socket.send(ODD.get(data["say"], "null"))
            continue
        else:
            right = data["guess"] == secret
            answer = {"observation": {"text": "Right!" if right else "No."}, "reward": float(right), "done": right}
        socket.send(json.dumps({"type": "observation", "data": answer}))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server."""
    with serve(game, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(10)


def opened(url: str, problem: Problem | None = None, **options: Any) -> tuple[OpenEnv, Message | None]:
    """An environment after its start, and what it adds to the prompt."""
    chosen: dict[str, Any] = {"action": {"guess": "{number}"}, "observation": "text", "answer_s": 5.0, **options}
    made = OpenEnv(options=OpenEnvOptions(url=url, **chosen))
    return made, made.start(problem or make_problem("Guess the number.", ""))


def said(text: str) -> Turn:
    return Turn("assistant", 0, 1, text)


def test_an_episode_is_played_to_its_end(url: str) -> None:
    made, opening = opened(url, make_problem("Guess.", "", start=4), reset={"seed": "start"})
    assert opening == Message("user", "Guess.")
    assert made.step(said("Perhaps 7")) == Observation((Message("user", "No."),), False, 0.0, {"steps": 1})
    assert made.step(said("no idea")) == Observation(
        (Message("user", "Answer with a whole number."),), parts={"steps": 1}
    )
    assert made.step(said("<think>7?</think> 3 or 4")) == Observation(
        (Message("user", "Right!"),), True, 1.0, {"steps": 2}
    )
    made.close()
    made.close()


def test_each_response_has_a_session_of_its_own(url: str) -> None:
    first, _ = opened(url, make_problem("Guess.", "", start=1), reset={"seed": "start"})
    second, _ = opened(url, make_problem("Guess.", "", start=2), reset={"seed": "start"})
    assert (first.step(said("1")).done, second.step(said("1")).done) == (True, False)
    first.close()
    assert second.step(said("2")).done
    second.close()


def test_an_observation_is_shown_whole_or_by_a_path(url: str) -> None:
    whole, opening = opened(url, observation="")
    assert opening == Message("user", '{"text": "Guess.", "board": {"left": 3}}')
    whole.close()
    part, opening = opened(url, observation="board.left")
    assert opening == Message("user", "3")
    part.close()
    with pytest.raises(ServerError, match=r"no 'board\.right' \(options\.observation\): there is left"):
        opened(url, observation="board.right")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("not json", "something that is not JSON: '{'"),
        ("a list", r"something that is no observation: \[\]"),
        ("no type", "something that is no observation"),
        ("no observation", "something that is no observation"),
        ("null", "something that is no observation: None"),
        ("reward is text", "reward 'high' and done False: a finite number or null"),
        ("reward is nan", "reward nan"),
        ("done is a number", "done 1: .*true or false"),
        ("error", "an error: no such action"),
        ("too long", "ended the session at step"),
        ("die", "ended the session at step"),
        ("hang", "gave no answer to step in 1 seconds"),
    ],
)
def test_what_a_server_must_not_answer_is_an_error_that_says_it(url: str, answer: str, message: str) -> None:
    made, _ = opened(url, action={"say": "{text}"}, answer_s=1.0 if answer == "hang" else 5.0)
    with pytest.raises(ServerError, match=message):
        made.step(said(answer))
    made.close()


def test_in_workers_it_keeps_the_contract(url: str) -> None:
    problem = make_problem("Guess.", "", start=4)
    options = {"url": url, "action": {"guess": "{number}"}, "observation": "text", "reset": {"seed": "start"}}
    checklist = check_environment(openenv, problem, ["1", "2", "4"], options=options, plugins=[PLUGIN])
    assert (checklist.passed, checklist.unreached) == (True, ()), str(checklist)
    assert "3 turns, reward 1" in str(checklist)


def test_in_workers_a_server_that_hangs_is_a_recorded_failure(url: str) -> None:
    options = {"url": url, "action": {"say": "{text}"}, "answer_s": 1.0}
    checklist = check_environment(openenv, make_problem("?", ""), ["hang"], options=options, plugins=[PLUGIN])
    (failed,) = [check for check in checklist.checks if check.name == "plays the given turns to the end"]
    assert "gave no answer to step in 1 seconds" in failed.detail
    assert not failed.passed


def test_a_server_that_is_not_there_is_refused_before_anything_is_loaded(url: str) -> None:
    assert openenv.ready({"url": url}) == f"OpenEnv server {url}"
    with pytest.raises(UserError, match=r"no OpenEnv server takes a session at ws://127\.0\.0\.1:1/ws: .*Start it"):
        openenv.ready({"url": "http://127.0.0.1:1", "answer_s": 2.0})
    with pytest.raises(ValueError, match=r"has no field 'start', which options\.reset names"):
        opened(url, reset={"seed": "start"})


def test_addresses() -> None:
    assert address_of("http://a:8000") == address_of("ws://a:8000/ws") == "ws://a:8000/ws"
    assert address_of("https://a/env/") == "wss://a/env/ws"
    for dropped in ("https://a/env/?token=secret", "https://a#secret"):
        with pytest.raises(ConfigError, match=r"what is after \? or # .* would not be sent"):
            openenv.check_options({"url": dropped})
    for wrong in ("a:8000", "ftp://a", "http://", ""):
        with pytest.raises(ConfigError, match="must be the address of an OpenEnv server"):
            openenv.check_options({"url": wrong})


class Recorded:
    """A session that keeps the actions of its steps."""

    def __init__(self) -> None:
        self.actions: list[Any] = []

    def step(self, action: Any) -> Answer:
        self.actions.append(action)
        return Answer("seen", None, False)


def actions_of(action: dict[str, Any], text: str) -> tuple[list[Any], tuple[Message, ...]]:
    """What a turn sends to the server, and what the policy reads then."""
    made, session = OpenEnv(options=OpenEnvOptions(url="http://a", action=action)), Recorded()
    made._session = session  # type: ignore[assignment]
    messages = made.step(said(text)).messages
    return session.actions, messages


@pytest.mark.parametrize(
    ("action", "sent"),
    [
        ({"move": {"text": "{text}", "speed": 2}}, {"move": {"text": "go 7", "speed": 2}}),
        ({"moves": ["{text}", {"to": ["{number}"]}, True]}, {"moves": ["go 7", {"to": [7]}, True]}),
        ({"say": "I said: {text} ({number})"}, {"say": "I said: go 7 (7)"}),
        ({"say": "{number}"}, {"say": 7}),
        ({"json": '{"a": {"b": {number}}, "c": {}}'}, {"json": '{"a": {"b": 7}, "c": {}}'}),
    ],
)
def test_placeholders_are_filled_wherever_they_are(action: dict[str, Any], sent: dict[str, Any]) -> None:
    assert actions_of(action, "<think>8</think> go 7 ")[0] == [sent]


def test_what_the_policy_writes_is_no_placeholder() -> None:
    assert actions_of({"say": "{text}, {text}"}, "{number} {x} \\1")[0] == [
        {"say": "{number} {x} \\1, {number} {x} \\1"}
    ]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"say": "{txt}"}, r"no placeholder \{txt\}\. Did you mean 'text'\?"),
        ({"a": ["{text}", {"b": "go {nubmer}"}]}, r"no placeholder \{nubmer\}\. Did you mean 'number'\?"),
        ({"say": "{Text}"}, r"no placeholder \{Text\}\. Did you mean 'text'\?"),
        ({"say": "{ text }"}, r"no placeholder \{ text \}\. Did you mean 'text'\?"),
        ({"say": "{{text}}"}, r"no placeholder \{\{text\}\}\. Did you mean 'text'\?"),
        ({"{text}": "{text}"}, "not in a name: '{text}'"),
        ({"a": [{"{number}": "{text}"}]}, "not in a name: '{number}'"),
        ({"say": "hello", "n": 1}, "every action would be the same"),
        ({}, "every action would be the same"),
    ],
)
def test_unknown_placeholders_are_refused_with_the_nearest(action: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        openenv.check_options({"url": "http://a", "action": action})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("3", 3), ("is 3.", 3), ("3, or 4!", 4), ("**12**", 12), (r"\boxed{5}", 5), ("007", 7), ("答案是5。", 5)),
        *(("-3", -3), ("+3", 3), ("(-3)", -3), ("\N{MINUS SIGN}3", -3), ("x = -3", -3), ("n:-3", -3)),
        *(("10-5", 5), ("10 - 5", 5), ("10 -5", -5), ("f(1)-5", 5), ("level-5", 5), ("--5", -5)),
        *(("1,000", 1000), ("-12,345,678", -12345678), ("1,000, yes", 1000), ("1, 000", 0), ("1000", 1000)),
        *(("1,00", None), ("1,0000", None), ("0,123", None), ("1,2", None), ("1000,000", None), ("1, 2", 2)),
        *(("3.14", None), ("3.0", None), (".5", None), ("-.5", None), ("1,000.00", None), ("1.2.3", None)),
        *(("7, not 3.14", 7), ("3.14 or 7", 7), ("1e5", None), ("x2", None), ("5km", None), ("1_000", None)),
        *(("1,000x", None), ("9" * 18, int("9" * 18)), ("9" * 19, None), ("", None), ("none", None), ("٣", None)),
    ],
)
def test_the_last_whole_number(text: str, number: int | None) -> None:
    assert last_whole_number(text) == number


@pytest.mark.parametrize("text", ["<think>7", "<think>a</think>7<think>8", "[THINK]7", "<thought>7</think>"])
def test_thoughts_are_no_actions(text: str) -> None:
    for action in ({"say": "{text}"}, {"guess": "{number}"}):
        sent, messages = actions_of(action, text)
        assert (sent, messages) == ([], (Message("user", "Close your thinking, and answer after it."),))
    assert actions_of({"say": "{text}"}, "[THINK]7[/THINK] 8")[0] == [{"say": "8"}]
