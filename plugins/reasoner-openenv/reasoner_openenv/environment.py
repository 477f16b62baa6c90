"""The environment `openenv`: turns of the policy as actions of a server, its observations as messages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from reasoner import EnvironmentKind, Message, Observation, Problem, Turn, UserError, environment
from reasoner_openenv.session import Answer, ServerError, Session, address_of

TEXT, NUMBER = "{text}", "{number}"
_NUMBER = re.compile(r"-?\d{1,18}")


class OpenEnvOptions(BaseModel):
    """Options of `openenv`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    url: str
    """address of the server, such as `http://127.0.0.1:8000`"""
    action: dict[str, Any] = Field(default_factory=lambda: {"message": TEXT})
    """fields of an action: `{text}` stands for what the policy wrote after `</think>`, `{number}` for the last whole
    number in it"""
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
        said = turn.text.rpartition("</think>")[2].strip()
        if NUMBER in self._options.action.values() and not _NUMBER.search(said):
            return Observation((Message("user", "Answer with a whole number."),), parts={"steps": self._steps})
        answer = self._session.step(_action(self._options.action, said))
        self._steps += 1
        text = self._text(answer)
        messages = () if answer.done and not text else (Message("user", text or "(nothing)"),)
        return Observation(messages, answer.done, answer.reward, {"steps": self._steps})

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _text(self, answer: Answer) -> str:
        """What the policy reads of an observation."""
        found, path = answer.observation, self._options.observation
        for part in path.split(".") if path else ():
            if not isinstance(found, Mapping) or part not in found:
                has = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
                raise ServerError(f"the observation has no {path!r} (options.observation): there is {has}")
            found = found[part]
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _action(fields: Mapping[str, Any], said: str) -> dict[str, Any]:
    """The action that a turn stands for."""
    values = dict(fields)
    for name, value in fields.items():
        if value == NUMBER:
            values[name] = int(_NUMBER.findall(said)[-1])
        elif isinstance(value, str):
            values[name] = value.replace(TEXT, said)
    return values


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
