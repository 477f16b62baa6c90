"""What a chat template writes from the end of a response to the beginning of the next one.

A conversation is never rendered and tokenised again once the policy has written in it: templates drop newlines, take
earlier thinking out, and move tools to the last question. So the template is asked with a short conversation of its own
in place of the real one; what it writes after the short response is what comes after the real one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import count
from typing import Any, Protocol

from reasoner.data.prompts.chat_probe import ANSWER, USER, ChatTurn

_ARGUMENT = "qzargument{}qz"


class NextTurnError(ValueError):
    """The template cannot write these messages after a response."""


class Render(Protocol):
    """A conversation as the template writes it."""

    def __call__(self, turns: Sequence[ChatTurn], *, generation: bool) -> str: ...


def following(render: Render, messages: Sequence[ChatTurn], ends: Collection[str]) -> str:
    """The end of a response, the messages, and what comes before the next response.

    Args:
        ends: how the tokens that end a response are spelled.

    Raises:
        NextTurnError: the template refuses such a conversation, or leaves the response out.
    """
    messages = _with_ids(messages)
    after = _after_calls(render, messages, ends) if any(message["role"] == "tool" for message in messages) else None
    if after is not None:
        return after
    try:
        text = render([*_QUESTION, {"role": "assistant", "content": ANSWER}, *messages], generation=True)
    except Exception as error:  # templates raise their own errors
        raise NextTurnError(f"{type(error).__name__}: {error}") from error
    _, separator, after = text.partition(ANSWER)
    if not separator:
        raise NextTurnError("it leaves the response before them out")
    return after


_QUESTION = ({"role": "user", "content": USER},)


def call_texts(render: Render, name: str, argument: str, ends: Collection[str]) -> list[str]:
    """How the template writes a response that calls a tool: where it begins is not always certain, so there can be
    several answers; none: it cannot.

    Args:
        name: of the tool.
        argument: the value of the call's argument, whose name is `value`.
    """
    texts: list[str] = []
    for as_text in (False, True):
        calls = [_call(name, 0, argument, as_text=as_text)]
        try:
            text = render([*_QUESTION, _answer(calls)], generation=False)
            plain = render([*_QUESTION, {"role": "assistant", "content": ANSWER}], generation=False)
        except Exception:  # templates raise their own errors; the next form is tried
            continue
        end = text.find(_first(ends, text, text.find(argument)) or text, text.find(argument))
        end = end if end >= 0 else len(text)
        texts += [text[max(begin, 0) : end] for begin in (plain.find(ANSWER), text.find(USER) + len(USER))]
    return texts


def _after_calls(render: Render, messages: Sequence[ChatTurn], ends: Collection[str]) -> str | None:
    """What follows a response that calls tools, from its end on; None: the template does not take the calls, or writes
    no end after them."""
    tools = [message for message in messages if message["role"] == "tool"]
    for as_text in (False, True):  # some templates take the arguments as they are, and others as JSON text
        calls = [
            _call(tool.get("name") or "tool", at, _ARGUMENT.format(at), tool["tool_call_id"], as_text=as_text)
            for at, tool in enumerate(tools)
        ]
        try:
            without_result = render([*_QUESTION, _answer(calls)], generation=False)
            text = render([*_QUESTION, _answer(calls), *messages], generation=True)
        except Exception:  # templates raise their own errors; the next form is tried
            continue
        last = _ARGUMENT.format(len(calls) - 1)
        end = _first(ends, without_result, without_result.find(last))
        _, separator, after = text.partition(last)
        if separator and end in after:
            return after[after.index(end) :] if end else None
    return None


def _first(ends: Collection[str], text: str, begin: int) -> str:
    """The one of the ends that comes first in the text from there on; empty: none."""
    places = {text.find(end, max(begin, 0)): end for end in ends if end in text[max(begin, 0) :]}
    return places[min(places)] if places else ""


def _with_ids(messages: Sequence[ChatTurn]) -> list[ChatTurn]:
    """Results with the ids of the calls that they answer."""
    results = count()
    return [
        {**turn, "tool_call_id": turn.get("tool_call_id") or _id(next(results))} if turn["role"] == "tool" else turn
        for turn in messages
    ]


def _id(at: int) -> str:
    """Nine letters and digits, as Mistral's templates demand."""
    return f"call{at:05d}"


def _answer(calls: Sequence[Mapping[str, Any]]) -> ChatTurn:
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _call(name: str, at: int, argument: str, id_: str | None = None, *, as_text: bool) -> dict[str, Any]:
    """A call as the interface of OpenAI has it."""
    arguments = f'{{"value": "{argument}"}}' if as_text else {"value": argument}
    return {"type": "function", "id": id_ or _id(at), "function": {"name": name, "arguments": arguments}}
