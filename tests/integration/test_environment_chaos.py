"""200 responses whose tools hang, crash and flood and whose environments never end: all end, and nothing is left."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from reasoner.config import EnvironmentConfig
from reasoner.data.turn_formats import TurnFormat
from reasoner.environments import open_environments
from reasoner.processes.subreaper import children
from reasoner.records import Message, Problem, Prompt, Response, SamplingParams, ToolCall
from reasoner.sampling.base import TokenRequest
from reasoner.trajectories.interaction import Interaction
from reasoner.trajectories.sampler import TrajectorySampler
from tests.tiny import byte_tokenizer
from tests.unit.fake_tokens import FakeTokens

PLUGIN = str(Path(__file__).with_name("misbehaving_tools.py"))
TOKENIZER = byte_tokenizer()
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
START = TOKENIZER.convert_tokens_to_ids("<|im_start|>")
RESPONSES = 8
MAX_TURNS = 4

FAILS = ("hang", "spin", "deaf", "leave", "die", "exit", "raise", "bytes", "number", "memory", "forge")
WORKS = ("well", "print", "print bytes", "megabytes", "surrogate", "fork", "thread")
ENVIRONMENTS = {
    "hang": "timeout",
    "leave": "crash",
    "raise": "error",
    "number": "invalid",
    "silence": "invalid",
    "say": None,  # for ever
    "long": None,
}


class Brackets:
    """`<t>what</t>` calls the tool `trouble`."""

    stop = ("</t>",)

    def prompt(self, problem: Problem, opening: Sequence[Message]) -> tuple[int, ...]:
        return ids(f"{problem.id}>")

    def read(self, written: Sequence[int], text: str) -> tuple[ToolCall, ...]:
        return tuple(ToolCall("trouble", {"what": what}) for what in re.findall(r"<t>(.*?)</t>", text))

    def increment(self, written: Sequence[int], messages: Sequence[Message]) -> tuple[tuple[int, ...], ...]:
        return tuple((START, *ids(message.content[:50])) for message in messages)


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text))


def calls_first(request: TokenRequest, _: int) -> tuple[int, ...]:
    """What the prompt says as a call, then a call that works, then an answer."""
    turn, what = request.token_ids.count(START), TOKENIZER.decode(request.token_ids).partition(">")[0]
    return ids((f"<t>{what}</t>", "<t>well</t>", "done")[turn])


def says(request: TokenRequest, _: int) -> tuple[int, ...]:
    """What the prompt says, in every turn."""
    return ids(TOKENIZER.decode(request.token_ids).partition(">")[0])


def sampled(config: EnvironmentConfig, script: object, names: Sequence[str]) -> dict[str, tuple[Response, ...]]:
    engine = FakeTokens(script, TOKENIZER, (END,))  # type: ignore[arg-type]
    prompts = [Prompt(Problem(name, (Message("user", "?"),), ""), ids(f"{name}>")) for name in names]
    with open_environments(config, [PLUGIN]) as environments, TrajectorySampler(engine) as sampler:
        interaction = Interaction(environments, cast(TurnFormat, Brackets()), MAX_TURNS)
        groups = sampler.with_interactions(interaction).sample(prompts, RESPONSES, SamplingParams(1.0, 1000))
        return {group.problem.id: group.responses for group in groups}


@contextmanager
def nothing_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process, thread, open file or temporary file more than before."""

    def look() -> tuple[object, ...]:
        threads = {thread.name for thread in threading.enumerate()}
        open_files = len([*Path("/proc/self/fd").iterdir()])
        return children(os.getpid()), threads, open_files, [*folder.iterdir()]

    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = look()
    yield
    assert look() == before


def test_200_responses_end_with_a_result_or_a_recorded_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    with nothing_left(tmp_path, monkeypatch):
        limits: dict[str, Any] = {
            "max_turns": MAX_TURNS,
            "workers": 8,
            "memory_mb": 1024,
            "timeout_s": 1.5,
            "max_result_chars": 200,
        }
        tools = sampled(EnvironmentConfig(tools=["trouble"], **limits), calls_first, [*FAILS, *WORKS])
        games = sampled(
            EnvironmentConfig(name="troubled", tools=["trouble"], sessions=16, **limits), says, [*ENVIRONMENTS]
        )
    assert sum(map(len, tools.values())) + sum(map(len, games.values())) == 8 * 25
    for what, responses in tools.items():
        for response in responses:
            assert (response.finish_reason, response.text, response.failure) == ("stop", "done", None)
            first, result, *_ = response.turns
            assert [call.name for call in first.calls] == ["trouble"]
            assert bool(result.error) or what in WORKS
            assert len(result.text) < 300
    failed = Counter(what for what in WORKS for response in tools[what] if response.turns[1].error)
    assert failed.total() <= len(WORKS) * RESPONSES // 2  # on a machine that is busy a good call can be too slow
    for what, kind in ENVIRONMENTS.items():
        for response in games[what]:
            if kind is None and response.failure is None:
                assert len([turn for turn in response.turns if turn.role == "assistant"]) == MAX_TURNS
            else:
                assert response.failure is not None
                assert response.failure.kind in (kind, "timeout")
    assert time.monotonic() - started < 240  # hanging calls take their deadlines, and nothing waits for ever
