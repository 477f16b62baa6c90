"""Takes secrets out of what is shown, stored or sent elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "***"
SECRET_NAME = re.compile(
    r"(^|[_-])(api[_-]?key|access[_-]?key|key|token|secret|password|passwd|authorization|credentials?)$", re.IGNORECASE
)
"""names of options and environment variables whose values are secrets (`max_tokens` is none)"""
LEAST = 8
"""characters of an environment variable's value from which on it is looked for in other texts"""


def without_secrets(settings: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A configuration without what must not leave the machine.

    Hidden are: text under a name that says secret (`api_key`); users, passwords and queries of addresses; the values
    that secret environment variables hold, wherever they stand. Names of variables (`api_key_env`, all of
    `headers_env`) stay.

    Args:
        settings: nested tables.
        environment: None: that of this process.
    """
    variables = os.environ if environment is None else environment
    known = [value for name, value in variables.items() if SECRET_NAME.search(name) and len(value) >= LEAST]
    return {key: _shown(key, value, known) for key, value in settings.items()}


def _shown(name: str, value: Any, known: list[str]) -> Any:
    if isinstance(value, Mapping):
        named = name.endswith("_env")  # its values name variables
        return {key: inner if named else _shown(str(key), inner, known) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shown(name, inner, known) for inner in value]
    if not isinstance(value, str) or not value:
        return value
    if SECRET_NAME.search(name):
        return HIDDEN
    for secret in known:
        value = value.replace(secret, HIDDEN)
    return _address(value)


def _address(text: str) -> str:
    if not re.match(r"[a-z][a-z0-9+.-]*://", text):
        return text
    parts = urlsplit(text)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{HIDDEN}@{host}" if host != parts.netloc else host
    return urlunsplit(parts._replace(netloc=netloc, query=HIDDEN if parts.query else ""))
