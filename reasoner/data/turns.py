"""Conversations that a row holds: a list of {role, content} messages, as TRL and verl write them."""

from __future__ import annotations

from typing import Any, Literal, get_args

from reasoner.data.row_report import RowError
from reasoner.data.rows import Row
from reasoner.errors import nearest
from reasoner.records import Message

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


def opening_of(row: Row, field: str) -> tuple[Message, ...]:
    """The messages of a field, which a response continues.

    Raises:
        RowError: it holds no messages, or the last one is not the user's.
    """
    return ends_with_user(row, messages_of(row, field), field)


def ends_with_user(row: Row, messages: tuple[Message, ...], field: str) -> tuple[Message, ...]:
    """The messages as they are.

    Raises:
        RowError: there is none, or the last one is not the user's.
    """
    if not messages or messages[-1].role != "user":
        got = f"got one from {messages[-1].role!r}" if messages else "there is none"
        raise RowError(
            row.place,
            f"a user message is needed just before the response; {got}.",
            "whose conversation does not end with a user message",
            where=f"field {field!r}",
        )
    return messages


def last_turn(row: Row, field: str) -> tuple[tuple[Message, ...], str]:
    """The messages before the last one, and the last one's text.

    Raises:
        RowError: it holds no messages, or the last one is not the assistant's.
    """
    messages = messages_of(row, field)
    if messages[-1].role != "assistant":
        raise RowError(
            row.place,
            f"the last message must be the assistant's, got {messages[-1].role!r}.",
            f"whose {field!r} does not end with an assistant message",
            where=f"field {field!r}",
        )
    return messages[:-1], messages[-1].content


def messages_of(row: Row, field: str) -> tuple[Message, ...]:
    """The messages of a field, at least one.

    Raises:
        RowError: it holds something else; the message names the field and which of the messages.
    """
    value = row.fields[field]
    if not isinstance(value, list) or not value:
        raise RowError(
            row.place,
            f"a list of {{role, content}} messages is needed, got {str(value)[:60]!r}.",
            f"whose field {field!r} holds no messages",
            where=f"field {field!r}",
        )
    return tuple(_message(row, field, at, turn) for at, turn in enumerate(value, 1))


def _message(row: Row, field: str, at: int, turn: Any) -> Message:
    def wrong(complaint: str) -> RowError:
        return RowError(
            row.place, complaint, f"with a broken message in {field!r}", where=f"field {field!r}, message {at}"
        )

    if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
        raise wrong(f"an object with role and content is needed, got {str(turn)[:60]!r}.")
    more = [key for key, value in turn.items() if key not in ("role", "content") and value is not None]
    if more:
        raise wrong(f"role and content are understood, got also {more[0]!r}. Leave it out.")
    role, content = turn["role"], turn["content"]
    if role not in ROLES:
        raise wrong(f"role = {role!r} is none of {', '.join(ROLES)}.{nearest(str(role), ROLES)}")
    if not isinstance(content, str):
        raise wrong(f"content must be text, got {str(content)[:60]!r}.")
    if not content.strip():
        raise wrong("content is empty.")
    return Message(role, content)
