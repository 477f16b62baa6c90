"""Who may ask a vLLM server for what: nobody without its key, no page in a browser, only for a run's own methods.

And the one route of ours, by which a run without a shared folder has the server pull weights (`pull.py`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from reasoner.processes.scratch_folders import ScratchFolder
from reasoner.sampling.server.pull import PULL_S, PullError, PullOrder, place_for, pull

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

KEY = "VLLM_API_KEY"
"""environment variable: vLLM's own, read by server and run"""
BOUND = "REASONER_SERVE_HOST"
"""environment variable: the address that `reasoner serve` was told to listen on"""
METHODS = ("describe", "merge_adapter", "seed_sampling", "take_weights")
"""of the workers, which a run calls (`vllm_worker.WorkerExtension`)"""
MAX_CALL = 2**20
"""bytes of a request to call one of them"""
PULL = "/pull_weights"
"""route: the body is a `PullOrder`, the answer says in which folder of the server's machine the files are"""
_TAKING = ("merge_adapter", "take_weights")
_IN_USE = "another run uses it: its engine is taking weights; give every run servers of its own"
_OPEN = ("/health",)
_CALL = "/collective_rpc"


@dataclass(frozen=True, slots=True)
class _Pulled:
    """Weights that were pulled."""

    folder: ScratchFolder
    at: float
    """moment at which they were there"""


class Guard:
    """ASGI middleware of a `vllm serve`: passes a request on, or refuses it with status 400, 401, 403, 404 or 413.

    With a key in the environment no route but `/health` answers without it: vLLM's own check leaves out the routes that
    load weights, pause the engine and call methods of its workers.

    A page in a browser of this machine reaches a server on 127.0.0.1, and vLLM lets every page read its answers. So
    what a browser sends for a page from elsewhere is refused; and without a key, what is addressed to a name that is
    not this machine's: to the browser, a page whose name was made to lead here is from this server.

    Of the workers' methods only a run's own can be called: some of the others end the engine, or never answer.

    Weights are pulled before the engine hears of them. They are removed once `take_weights` or `merge_adapter` of them
    is answered, when the same run has others pulled, when nobody has taken them for long, and with the process. While
    the engine takes weights, others are refused: it would read what is being removed, or mix two runs' weights.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._key = os.environ.get(KEY, "")
        names = ("localhost", socket.gethostname(), socket.getfqdn(), os.environ.get(BOUND, ""))
        self._names = {name.lower() for name in names if name}
        self._pulled: dict[str, _Pulled] = {}
        """run -> what it has not taken yet"""
        self._is_taking = False
        self._pulling = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status, why = self._refusal(scope)
        if status and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": why})  # 403, before it was accepted
            return
        path = scope["path"].rstrip("/") if scope.get("method") == "POST" else ""
        takes = False
        if not status and path == _CALL:
            body = await _body(receive)
            status, why = _refused_call(body)
            takes = not status and json.loads(body or b"")["method"] in _TAKING
            if takes and self._is_taking:
                status, why = 409, _IN_USE
            receive = _once(body or b"", receive)
        elif not status and path == PULL:
            status, why = await self._pull(await _body(receive), (scope.get("client") or ("",))[0])
        if status:
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": why.encode()})
        elif takes:
            await self._take(scope, receive, send, _arguments(body))
        else:
            await self._app(scope, receive, send)

    async def _take(self, scope: Scope, receive: Any, send: Any, arguments: list[Any]) -> None:
        """Have the engine take weights, and remove them if they were pulled."""
        self._is_taking = True
        try:
            await self._app(scope, receive, send)
        finally:
            self._is_taking = False
            self._remove_pulled(lambda _, pulled: str(pulled.folder.path) in arguments)

    async def _pull(self, body: bytes | None, host: str) -> tuple[int, str]:
        """Pull what an order from `host` names; returns status and the folder, or why not."""
        try:
            order = PullOrder.model_validate_json(body or b"")
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the order"
            return 400, f"{place}: {first['msg']}"
        async with self._pulling:
            if not order.is_trial:
                if self._is_taking:
                    return 409, _IN_USE
                old = time.monotonic() - PULL_S
                self._remove_pulled(lambda owner, pulled: owner == order.owner or pulled.at < old)
            try:
                folder = ScratchFolder("weights", place_for(order.size))
            except (PullError, OSError) as error:
                return 409, str(error)
            try:
                await asyncio.to_thread(pull, order, host, folder.path)
            except (PullError, OSError) as error:
                folder.remove()
                return 409, str(error)
            if order.is_trial:
                folder.remove()
            else:
                self._pulled[order.owner] = _Pulled(folder, time.monotonic())
            return 200, json.dumps({"folder": str(folder.path)})

    def _remove_pulled(self, is_over: Callable[[str, _Pulled], bool]) -> None:
        for owner, pulled in [*self._pulled.items()]:
            if is_over(owner, pulled):
                self._pulled.pop(owner).folder.remove()

    def _refusal(self, scope: Scope) -> tuple[int, str]:
        """Status and why; 0: the request may pass."""
        hosts, origins = _headers(scope, b"host"), _headers(scope, b"origin")
        if origins and (len(origins) > 1 or len(hosts) != 1 or not _is_of(origins[0], hosts[0])):
            return 403, "a page from elsewhere must not use this server"
        if any(site not in ("same-origin", "none") for site in _headers(scope, b"sec-fetch-site")):
            return 403, "a page from elsewhere must not use this server"
        if self._key:
            if scope["path"] in _OPEN:
                return 0, ""
            header = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(header, f"Bearer {self._key}".encode()):
                return 401, "the key is missing or wrong"
        elif len(hosts) > 1 or not all(map(self._is_here, hosts)):  # none: no browser asks
            return 403, (
                f"without a key this server is asked by its IP address or the name of its machine: set {KEY} to the "
                "same secret for server and run, or use one of these"
            )
        return 0, ""

    def _is_here(self, host: str) -> bool:
        """Whether a `Host` is an IP address, which nobody can make lead elsewhere, or a name of this machine."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key.lower() == name]


def _is_of(origin: str, host: str) -> bool:
    """Whether an `Origin` is that of pages from this `Host`."""
    scheme, separator, place = origin.lower().partition("://")
    return scheme in ("http", "https") and bool(separator) and place == host.lower()


async def _body(receive: Any) -> bytes | None:
    """All of a request's body; None: it is too long, or its sender is gone."""
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if message["type"] != "http.request" or len(body) > MAX_CALL:
            return None
        if not message.get("more_body"):
            return body


def _refused_call(body: bytes | None) -> tuple[int, str]:
    if body is None:
        return 413, f"a call may take {MAX_CALL} bytes"
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return 400, "the call of a method must be a JSON object"
    method = call.get("method") if isinstance(call, dict) else None
    if not isinstance(method, str) or method not in METHODS:
        return 404, f"no method {str(method)[:80]!r}; there are {', '.join(METHODS)}"
    return 0, ""


def _arguments(body: bytes | None) -> list[Any]:
    """Of a call that was let through."""
    arguments = json.loads(body or b"{}").get("args")
    return arguments if isinstance(arguments, list) else []


def _once(body: bytes, receive: Any) -> Any:
    """What gives a body that was read already, and after it what comes."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Any:
        return messages.pop() if messages else await receive()

    return replayed
