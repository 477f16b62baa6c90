"""Keeps secrets out of what is shown, stored or sent elsewhere.

A configuration must not hold any: it is written into the run folder, shown and copied (`why_secret`, when it is
loaded). Texts that others wrote, such as the message of a verifier that failed, are cleaned where they leave the
program: terminal, log, rollouts (`redact`); what a reward source returns, before it is kept (`hide`). Trackers get a
cleaned configuration (`without_secrets`).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit, urlunsplit

HIDDEN = "***"
_SAYS_SECRET = (
    r"(?:api[_-]?key|access[_-]?key|private[_-]?key|secret(?:[_-]?key)?|password|passwd|authorization|credentials?)"
)
_MAY_BE_SECRET = r"(?:key|token|auth)"
SECRET_NAME = re.compile(rf"(^|[_-])({_SAYS_SECRET}|{_MAY_BE_SECRET})$", re.IGNORECASE)
"""names of options whose values are secrets (`max_tokens` is none)"""
_CERTAIN_NAME = re.compile(rf"(^|[_-]){_SAYS_SECRET}$", re.IGNORECASE)
_VARIABLE = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIAL|AUTH$|_KEY$", re.IGNORECASE)
"""names of environment variables whose values are secrets"""
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|sk-(?=[\w-]*[0-9])[\w-]{20,}|gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{20,}|glpat-[\w-]{20,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+)"
)
"""keys that are known by their looks: Hugging Face, OpenAI and others, GitHub, GitLab, Slack, AWS, Google, JWT"""
_RANDOM = r"(?=\S*[0-9])(?=\S*[A-Za-z])[\w+/=.-]{16,}"
"""what a key looks like and the name of a field does not"""
_USER = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^/\s@]+@", re.IGNORECASE)
_IS = r"[\"']?\s*[=:]\s*[\"']?"
_NAMED = re.compile(
    rf"\b((?:[\w-]*[_-])?(?:{_SAYS_SECRET}{_IS}(?=[^\s\"',;&]{{4}})|(?:{_MAY_BE_SECRET}|signature){_IS}(?={_RANDOM})))"
    r"[^\s\"',;&]+",
    re.IGNORECASE,
)
"""`api_key = "..."`, `token=...`"""
_BEARER = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)
LEAST = 8
"""characters of an environment variable's value from which on it is looked for in other texts"""

_named_variables: set[str] = set()
"""environment variables that a configuration names (`api_key_env`): secret whatever they are called"""


def redact(text: str) -> str:
    """`text` without the values of secret environment variables, keys, and users and passwords of addresses."""
    for value in _values(os.environ):
        text = text.replace(value, HIDDEN)
    text = _USER.sub(rf"\1{HIDDEN}@", text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    return _SHAPES.sub(HIDDEN, _NAMED.sub(rf"\1{HIDDEN}", text))


def why_secret(path: Sequence[str], value: Any) -> str:
    """What gives a configured value away as a secret, as the end of a sentence; empty: nothing.

    Names of environment variables (`api_key_env = "NAME"`, the values of `headers_env`) are none; what such a variable
    holds is kept out of texts from here on.
    """
    if isinstance(value, Mapping):
        return next(filter(None, (why_secret((*path, str(key)), inner) for key, inner in value.items())), "")
    if isinstance(value, (list, tuple)):
        return next(filter(None, (why_secret(path, inner) for inner in value)), "")
    if not isinstance(value, str) or not value:
        return ""
    if any(part.endswith("_env") for part in path[-2:]):
        _named_variables.add(value)
        return "holds what looks like a key, in the place of a variable's name" if _SHAPES.search(value) else ""
    return _why_text(path[-1], value)


def without_secrets(settings: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A configuration without what must not leave the machine.

    Hidden are: text under a name that says secret (`api_key`); users, passwords and queries of addresses; the values
    that secret environment variables hold, wherever they stand. Names of variables (`api_key_env`, all of
    `headers_env`) stay.

    Args:
        settings: nested tables.
        environment: None: that of this process.
    """
    known = _values(os.environ if environment is None else environment)
    return {key: _shown(key, value, known) for key, value in settings.items()}


def _values(environment: Mapping[str, str]) -> list[str]:
    """Values of secret environment variables, the longest first: one may be a part of another."""
    found = {
        value
        for name, value in environment.items()
        if (name in _named_variables or _VARIABLE.search(name)) and len(value) >= LEAST and not value.isdecimal()
    }
    return sorted(found, key=len, reverse=True)


def _why_text(name: str, value: str) -> str:
    if _CERTAIN_NAME.search(name):
        return "is a secret by its name"
    if _SHAPES.search(value) or (SECRET_NAME.search(name) and re.fullmatch(_RANDOM, value)):
        return "holds what looks like a key"
    if _USER.search(value):
        return "holds an address with a user or password"
    if any(secret in value for secret in _values(os.environ)):
        return "holds the value of a secret environment variable"
    return ""


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


def hide(value: Any, secrets: Iterable[str] | None = None) -> Any:
    """JSON data without these secrets in any of its texts or keys: as they are, in addresses, hexadecimal and base64.

    Only they are hidden, and not what looks like a key, as in `redact`: the data is somebody's result.

    Args:
        secrets: values of configured keys; None: those of the secret environment variables. Of a header such as
            `Bearer KEY` each word is one. What is shorter than `LEAST` characters could be anything, and stays.
    """
    text = "\0".join(_texts(value))
    forms = _all_forms(tuple(_values(os.environ) if secrets is None else secrets))
    found = [form for form in forms if form in text]
    return _without(value, found) if found else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (*_texts(key), *_texts(inner))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def _without(value: Any, forms: Sequence[str]) -> Any:
    if isinstance(value, str):
        for form in forms:
            value = value.replace(form, HIDDEN)
        return value
    if isinstance(value, Mapping):
        return {_without(key, forms): _without(inner, forms) for key, inner in value.items()}
    return [_without(inner, forms) for inner in value] if isinstance(value, (list, tuple)) else value


@lru_cache(maxsize=16)
def _all_forms(secrets: tuple[str, ...]) -> list[str]:
    """The longest first: one may be a part of another."""
    return sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)


def _forms(secret: str) -> frozenset[str]:
    """How a service can write a secret that it was sent."""
    parts = {secret, *secret.split()}
    if secret.lower().startswith("basic "):  # user and password in base64
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):  # then it is none
            parts |= {(pair := base64.b64decode(secret[6:]).decode()), pair.partition(":")[2]}
    found = {form for part in parts if len(part) >= LEAST for form in (part, *_encoded(part))}
    return frozenset(form for form in found if len(form) >= LEAST)


def _encoded(text: str) -> Iterator[str]:
    data = text.encode("utf-8", "surrogateescape")
    strict = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02X}" for byte in data)
    for escaped in (strict, quote(data, safe=""), quote(data), quote_plus(data)):
        yield from (escaped, re.sub("%..", lambda byte: byte[0].lower(), escaped))
    yield from (data.hex(), data.hex().upper())
    for before in range(3):
        # Six bits per character: left out are those that what stands around the text has a part in.
        whole = base64.b64encode(bytes(before) + data)[-(-before * 8 // 6) : (before + len(data)) * 8 // 6].decode()
        yield from (whole, whole.replace("+", "-").replace("/", "_"))


def know_variable(name: str) -> None:
    """Keep the value of an environment variable out of texts from here on, whatever the variable is called."""
    _named_variables.add(name)
