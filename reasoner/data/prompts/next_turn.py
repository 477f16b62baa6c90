"""What a chat template writes from the end of a response to the beginning of the next one.

A conversation is never rendered and tokenised again once the policy has written in it: templates drop newlines, take
earlier thinking out, and move tools to the last question. So the template is asked with a short conversation of its own
in place of the real one; what it writes after the short response is what comes after the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from reasoner.data.prompts.chat_probe import ANSWER, USER, ChatTurn

_ARGUMENT = "qzargument{}qz"


class NextTurnError(ValueError):
    """The template cannot write these messages after a response."""


def following(render: Callable[[Sequence[ChatTurn]], str], messages: Sequence[ChatTurn], ends: Collection[str]) -> str:
    """The end of a response, the messages, and what comes before the next response.

    Args:
        render: a conversation as text, with what the template writes before a response.
        ends: how the tokens that end a response are spelled.

    Raises:
        NextTurnError: the template refuses such a conversation, or leaves the response out.
    """
    calls = sum(message["role"] == "tool" for message in messages)
    after = _after_calls(render, messages, ends) if calls else None
    if after is not None:
        return after
    try:
        text = render([*_QUESTION, {"role": "assistant", "content": ANSWER}, *messages])
    except Exception as error:  # templates raise their own errors
        raise NextTurnError(f"{type(error).__name__}: {error}") from error
    _, found, after = text.partition(ANSWER)
    if not found:
        raise NextTurnError("it leaves the response before them out")
    return after


_QUESTION = ({"role": "user", "content": USER},)


def _after_calls(
    render: Callable[[Sequence[ChatTurn]], str], messages: Sequence[ChatTurn], ends: Collection[str]
) -> str | None:
    """What follows a response that calls tools, from its end token on; None: the template does not take the calls, or
    the end cannot be seen."""
    names = [message.get("name") or "tool" for message in messages if message["role"] == "tool"]
    for as_text in (False, True):  # some templates take the arguments as they are, and others as JSON text
        calls = [_call(name, at, as_text=as_text) for at, name in enumerate(names)]
        answer = {"role": "assistant", "content": "", "tool_calls": calls}
        answered = [_with_id(message, at) for at, message in enumerate(messages)]
        try:
            text = render([*_QUESTION, answer, *answered])
        except Exception:  # templates raise their own errors; the next form is tried
            continue
        _, found, after = text.partition(_ARGUMENT.format(len(names) - 1))
        places = [at for at in (after.find(end) for end in ends if end) if at >= 0]
        if found and places:
            return after[min(places) :]
    return None


def _call(name: str, at: int, *, as_text: bool) -> dict[str, Any]:
    argument = _ARGUMENT.format(at)
    arguments = f'{{"value": "{argument}"}}' if as_text else {"value": argument}
    return {"type": "function", "id": _id(at), "function": {"name": name, "arguments": arguments}}


def _with_id(message: ChatTurn, at: int) -> ChatTurn:
    return {**message, "tool_call_id": _id(at)} if message["role"] == "tool" else message


def _id(at: int) -> str:
    """Nine letters and digits, as Mistral's templates demand."""
    return f"qzcall{at:03d}"[-9:]
