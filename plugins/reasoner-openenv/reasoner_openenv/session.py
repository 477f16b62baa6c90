"""One episode on an OpenEnv server: a session of its WebSocket, `/ws`.

The server's plain HTTP routes (`POST /reset`, `POST /step`) make an environment anew for every request, so that an
episode of several steps needs a session. Messages are JSON, and each but the last has an answer:

    {"type": "reset" | "step", "data": {...}}    {"type": "observation", "data": {"observation", "reward", "done"}}
    {"type": "close"}                            {"type": "error", "data": {"message"}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

MOST_BYTES = 2**20
"""of one answer; a longer one ends the session"""
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class ServerError(Exception):
    """A server that is not there, or answers what it must not."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reset or a step gives."""

    observation: Any
    reward: float | None
    done: bool


class Session:
    """An episode; `answer_s` are the seconds that each answer may take.

    Raises:
        ServerError: nobody is there, or it takes no session.
    """

    def __init__(self, url: str, answer_s: float) -> None:
        self._address, self._answer_s = address_of(url), answer_s
        self._stack = ExitStack()
        options: dict[str, Any] = {
            "open_timeout": answer_s,
            "close_timeout": 1.0,
            "max_size": MOST_BYTES,
            "proxy": None,
        }
        try:
            self._socket = self._stack.enter_context(connect(self._address, **options))
        except (OSError, WebSocketException) as error:
            raise ServerError(f"no OpenEnv server takes a session at {self._address}: {_said(error)}") from error

    def reset(self, data: Mapping[str, Any]) -> Answer:
        """Begin the episode.

        Raises:
            ServerError: as `step`.
        """
        return self._ask("reset", data)

    def step(self, action: Mapping[str, Any]) -> Answer:
        """Take an action.

        Raises:
            ServerError: the server is gone, gives no answer in time, or one that is an error or none that can be read.
        """
        return self._ask("step", action)

    def close(self) -> None:
        """End the session; of a server that is gone nothing is left to end."""
        with suppress(OSError, WebSocketException):
            self._socket.send(json.dumps({"type": "close"}))
        with suppress(OSError, WebSocketException):
            self._stack.close()

    def _ask(self, kind: str, data: Mapping[str, Any]) -> Answer:
        try:
            self._socket.send(json.dumps({"type": kind, "data": dict(data)}))
            text = self._socket.recv(timeout=self._answer_s)
        except TimeoutError as error:
            raise ServerError(f"{self._address} gave no answer to {kind} in {self._answer_s:g} seconds") from error
        except (OSError, WebSocketException) as error:
            raise ServerError(f"{self._address} ended the session at {kind}: {_said(error)}") from error
        return _answer(text, f"{self._address} answered {kind} with")


def address_of(url: str) -> str:
    """The address of sessions: `ws://host:8000/ws` for `http://host:8000`.

    Raises:
        ValueError: it is no address of a server, or has a part that a session's address does not have.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise ValueError(f"url must be the address of an OpenEnv server, such as http://127.0.0.1:8000, got {url!r}")
    if parts.query or parts.fragment:
        raise ValueError("url must end with the path: what is after ? or # (a token, for example) would not be sent")
    path = parts.path.rstrip("/")
    path = path if path.endswith("/ws") else f"{path}/ws"
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, "", ""))


def _answer(text: str | bytes, what: str) -> Answer:
    """What an answer says.

    Raises:
        ServerError: it is an error, or something else.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ServerError(f"{what} something that is not JSON: {text[:80]!r}") from error
    kind, data = (message.get("type"), message.get("data")) if isinstance(message, dict) else (None, None)
    if kind == "error" and isinstance(data, dict):
        details = f" ({data['errors']})" if data.get("errors") else ""
        raise ServerError(f"{what} an error: {data.get('message', data)}{details}"[:500])
    if kind != "observation" or not isinstance(data, dict) or "observation" not in data:
        raise ServerError(f"{what} something that is no observation: {str(message)[:80]}")
    reward, done = data.get("reward"), data.get("done", False)
    is_number = isinstance(reward, int | float) and math.isfinite(reward)
    if not (reward is None or is_number) or not isinstance(done, bool):
        raise ServerError(f"{what} reward {reward!r} and done {done!r}: a finite number or null, and true or false")
    return Answer(data["observation"], None if reward is None else float(reward), done)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
