"""The environment `openenv`: turns of the policy as actions of a server, its observations as messages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from reasoner import (
    EnvironmentKind,
    Message,
    Observation,
    Problem,
    Turn,
    UserError,
    after_thinking,
    environment,
    nearest,
)
from reasoner_openenv.session import Answer, ServerError, Session, address_of

TEXT, NUMBER = "{text}", "{number}"
_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}|\{\s*(\w+)\s*\}")
"""what stands for something, or is meant to"""
_NUMERAL = re.compile(
    r"(?:(?<![\w)\]])([-\N{MINUS SIGN}+]))?"  # a sign, not the hyphen or minus of `10-5`
    r"(?<![\w.])(?<!\d,)(\d++(?:[.,]\d++)*+)(?!\w)",  # all of `3.14`, `1,000`, `1.2.3`; nothing of `x2`, `.5`, `1e5`
    re.ASCII,  # other letters may touch a number, as in Chinese
)
_WHOLE = re.compile(r"\d{1,18}|[1-9]\d{0,2}(?:,\d{3}){1,5}")


class OpenEnvOptions(BaseModel):
    """Options of `openenv`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    """address of the server, such as `http://127.0.0.1:8000`"""
    action: dict[str, Any] = Field(default_factory=lambda: {"message": TEXT})
    """fields of an action: `{text}` stands for what the policy wrote after its thinking, `{number}` for the last whole
    number in it, also in lists, tables and longer texts"""
    observation: str = ""
    """what the policy reads of an observation: a field, or a dotted path such as `board.text`; empty: all of it as JSON
    """
    reset: dict[str, str] = Field(default_factory=dict)
    """arguments of the server's reset, each with the field of the problem that has its value: `{ seed = "seed" }`"""
    answer_s: Annotated[float, Field(gt=0.0, le=50.0)] = 20.0
    """seconds in which the server must answer"""

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        address_of(url)
        return url

    @field_validator("action")
    @classmethod
    def _has_placeholders(cls, action: dict[str, Any]) -> dict[str, Any]:
        for key in _keys_of(action):
            if _PLACEHOLDER.search(key):
                raise ValueError(f"a placeholder can be in a value, and not in a name: {key!r}")
        named = [match for text in _texts_of(action) for match in _PLACEHOLDER.finditer(text)]
        for match in named:
            if match.group() not in (TEXT, NUMBER):
                near = nearest((match[1] or match[2]).lower(), [TEXT[1:-1], NUMBER[1:-1]])
                raise ValueError(f"there is no placeholder {match.group()}.{near} There are: {TEXT}, {NUMBER}")
        if not named:
            raise ValueError(f"every action would be the same: put {TEXT} or {NUMBER} where the policy's turn belongs")
        return action


class OpenEnv:
    """The policy speaks with an environment that a server of OpenEnv runs.

    Each response has a session of its own on the server, from its start to its end. What the server says at the reset
    is added to the prompt, so it must be the same for all responses to a problem: pass a seed (`reset`).
    """

    def __init__(self, *, options: OpenEnvOptions) -> None:
        self._options = options
        self._session: Session | None = None
        self._steps = 0

    def start(self, problem: Problem) -> Message | None:
        wanted = self._options.reset
        missing = [field for field in wanted.values() if field not in problem.fields]
        if missing:
            raise ValueError(f"problem {problem.id!r} has no field {missing[0]!r}, which options.reset names")
        self._session = Session(self._options.url, self._options.answer_s)
        answer = self._session.reset({name: problem.fields[field] for name, field in wanted.items()})
        if answer.done:
            raise ServerError("the episode was over at its reset")
        text = self._text(answer)
        return Message("user", text) if text else None

    def step(self, turn: Turn) -> Observation:
        assert self._session is not None
        said = after_thinking(turn.text)
        if said is None:
            return self._refused("Close your thinking, and answer after it.")
        number = last_whole_number(said)
        if number is None and any(NUMBER in text for text in _texts_of(self._options.action)):
            return self._refused("Answer with a whole number.")
        answer = self._session.step(_filled(self._options.action, {TEXT: said.strip(), NUMBER: number}))
        self._steps += 1
        text = self._text(answer)
        messages = () if answer.done and not text else (Message("user", text or "(nothing)"),)
        return Observation(messages, answer.done, answer.reward, {"steps": self._steps})

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _refused(self, text: str) -> Observation:
        """What the policy reads in the place of an observation where its turn is no action."""
        return Observation((Message("user", text),), parts={"steps": self._steps})

    def _text(self, answer: Answer) -> str:
        """What the policy reads of an observation."""
        found, path = answer.observation, self._options.observation
        for part in path.split(".") if path else ():
            if not isinstance(found, Mapping) or part not in found:
                has = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
                raise ServerError(f"the observation has no {path!r} (options.observation): there is {has}")
            found = found[part]
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def last_whole_number(text: str) -> int | None:
    """The last whole number of a text, with its sign, and with commas between thousands where it has them; numbers that
    are none are passed over.

    >>> [last_whole_number(text) for text in ("10-5", "3 -4", "1,000.", "3.14", "7, not 2.5")]
    [5, -4, 1000, None, 7]
    """
    whole = [found for found in _NUMERAL.finditer(text) if _WHOLE.fullmatch(found[2])]
    if not whole:
        return None
    number = int(whole[-1][2].replace(",", ""))
    return number if whole[-1][1] in (None, "+") else -number


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    """A value of an action with what its placeholders stand for; one alone keeps the type of what it stands for."""
    if isinstance(value, Mapping):
        return {name: _filled(inner, values) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, values) for inner in value]
    if not isinstance(value, str):
        return value
    return values[value] if value in values else _PLACEHOLDER.sub(lambda match: str(values[match.group()]), value)


def _texts_of(value: Any) -> list[str]:
    """All texts among the values of an action."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _texts_of(each)]


def _keys_of(value: Any) -> list[str]:
    """All names in an action."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    own = list(value) if isinstance(value, Mapping) else []
    return [*own, *(key for each in inner for key in _keys_of(each))]


def preflight(options: OpenEnvOptions) -> str:
    """A server is there, and takes a session."""
    try:
        Session(options.url, options.answer_s).close()
    except ServerError as error:
        raise UserError(f"{error}. Start it, or set environment.options.url.") from None
    return f"OpenEnv server {options.url}"


def get_ready() -> None:
    """Import what is slow to import."""
    with suppress(ImportError):
        import websockets.sync.client  # noqa: F401


# Above the longest `answer_s`, so that a server that is too slow is named.
openenv: EnvironmentKind = environment("openenv", timeout_s=60.0, prepare=get_ready, preflight=preflight)(OpenEnv)
