"""The key of a vLLM server, asked for on every route."""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

KEY = "VLLM_API_KEY"
"""environment variable: vLLM's own, read by server and run"""
_OPEN = ("/health",)


class RequireKey:
    """ASGI middleware of a `vllm serve`: with a key in the environment, no route but `/health` answers without it.

    vLLM's own check leaves out the routes that load weights, pause the engine and call methods of its workers.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._key = os.environ.get(KEY, "")

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass the request on, or refuse it with status 401."""
        if self._key and scope["type"] in ("http", "websocket") and scope["path"] not in _OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, f"Bearer {self._key}".encode()):
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b"the key is missing or wrong"})
                return
        await self._app(scope, receive, send)
