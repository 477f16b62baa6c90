"""What tools and environments returned, checked and cut. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

from reasoner.errors import ReasonerError
from reasoner.io.redaction import redact_start
from reasoner.io.safe_text import storable
from reasoner.records import Message, Observation
from reasoner.workers.json_values import json_values

MAX_MESSAGES = 16
"""messages that an environment may give at once"""
SHOWN = 200
"""characters of a wrong value that a message quotes"""


class InvalidReturnError(ReasonerError):
    """A tool or an environment returned something else than it may."""


def cut(text: str, most: int) -> str:
    """The first characters of a text; the rest is counted."""
    if len(text) <= most:
        return storable(text)
    return f"{storable(text[:most])}\n... ({len(text) - most} more characters)"


def text_of(returned: object, most: int) -> str:
    """The result of a tool."""
    if isinstance(returned, bytes | bytearray):
        raise InvalidReturnError(f"a tool must return text, got {len(returned)} bytes: decode them")
    if not isinstance(returned, str):
        raise InvalidReturnError(f"a tool must return text (str), got {_format_value(returned)}")
    return cut(returned, most)


def opening_of(returned: object, most: int) -> tuple[Message, ...]:
    """What `start` of an environment adds to the prompt."""
    if returned is None:
        return ()
    return _messages("start", [returned] if isinstance(returned, str | Message) else returned, most)


def observation_of(returned: object, most: int) -> Observation | None:
    """What `step` of an environment says; None: nothing."""
    if returned is None:
        return None
    if isinstance(returned, str):
        return Observation(_messages("step", [returned], most))
    if not isinstance(returned, Observation):
        raise InvalidReturnError(f"step must return an Observation, text or None, got {_format_value(returned)}")
    if not isinstance(returned.done, bool):
        raise InvalidReturnError(f"Observation.done must be true or false, got {_format_value(returned.done)}")
    return replace(
        returned,
        messages=_messages("step", returned.messages, most),
        reward=_reward(returned.reward),
        parts=_json("Observation.parts", returned.parts),
        errors=(),
        seconds=(),
    )


def parts_of(returned: object) -> Mapping[str, Any]:
    """What `close` of an environment saves with the response."""
    return {} if returned is None else _json("what close returns", returned)


def _messages(method: str, returned: object, most: int) -> tuple[Message, ...]:
    if not isinstance(returned, Sequence) or isinstance(returned, bytes):
        raise InvalidReturnError(f"{method} must give messages, got {_format_value(returned)}")
    if len(returned) > MAX_MESSAGES:
        raise InvalidReturnError(f"{method} may give {MAX_MESSAGES} messages at once, got {len(returned)}")
    messages = [Message("user", message) if isinstance(message, str) else message for message in returned]
    for message in messages:
        if not isinstance(message, Message) or message.role != "user" or not isinstance(message.content, str):
            raise InvalidReturnError(
                f"{method} must give text or messages of role 'user', got {_format_value(message)}"
            )
    return tuple(Message("user", cut(message.content, most)) for message in messages)


def _reward(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, Real) or not math.isfinite(value):
        raise InvalidReturnError(f"Observation.reward must be a finite number or None, got {_format_value(value)}")
    return float(value)


def _json(what: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidReturnError(f"{what} must be a mapping with names as keys, got {_format_value(value)}")
    try:
        return json_values(dict(value), what)
    except ValueError as error:
        raise InvalidReturnError(str(error)) from error


def _format_value(value: object) -> str:
    return redact_start(f"{type(value).__name__} {value!r}", SHOWN)
