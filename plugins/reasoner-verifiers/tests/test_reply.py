"""What of a response a taskset's rewards read as its reply; without the package verifiers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from reasoner.testing import make_problem
from reasoner_verifiers import source


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The types of verifiers as plain values."""
    names = ("SystemMessage", "UserMessage", "AssistantMessage", "Trace", "TraceTask", "AgentInfo", "AgentConfig")
    base = SimpleNamespace(**dict.fromkeys((*names, "MessageNode"), SimpleNamespace))
    monkeypatch.setattr(source, "library", lambda name: base)


@pytest.mark.parametrize(
    ("text", "reply", "thinking"),
    [
        ("It is 42.", "It is 42.", None),
        ("<think>7?</think>It is 42.", "It is 42.", "<think>7?</think>"),
        ("7?</think>It is 42.", "It is 42.", "7?</think>"),
        ("[THINK]7?[/THINK]It is 42.", "It is 42.", "[THINK]7?[/THINK]"),
        ("<think>It is 42", "", "<think>It is 42"),
        ("[THINK]It is 42", "", "[THINK]It is 42"),
        ("<thought>It is 42</think>42", "", "<thought>It is 42</think>42"),
        ("<think>7</think>", "", "<think>7</think>"),
        ("", "", None),
    ],
)
def test_a_reward_that_searches_the_reply_finds_no_thoughts(text: str, reply: str, thinking: str | None) -> None:
    trace = source.one_turn(SimpleNamespace(data={}), make_problem("6 * 7?", "42"), text)
    message = trace.nodes[-1].message
    assert (message.content, message.reasoning_content) == (reply, thinking)
    assert float("42" in message.content) == float(bool(reply))
