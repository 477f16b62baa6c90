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
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit, urlunsplit

HIDDEN = "***"
_SAYS_SECRET = (
    r"(?:api[_-]?key|access[_-]?key|private[_-]?key|secret(?:[_-]?key)?|(?:pg)?password|passwd|passphrase|authorization"
    r"|credentials?)"
)
_MAY_BE_SECRET = r"(?:key|token|auth)"
SECRET_NAME = re.compile(rf"(^|[_-])({_SAYS_SECRET}|{_MAY_BE_SECRET})$", re.IGNORECASE)
"""names of options whose values are secrets (`max_tokens` is none)"""
_CERTAIN_NAME = re.compile(rf"(^|[_-]){_SAYS_SECRET}$", re.IGNORECASE)
_ENDS = r"(?:PWD|PAT|PASS|DSN|WEBHOOK(?:_URL)?)"
"""what names of environment variables end with after a `_`; `PWD` alone is a folder"""
_VARIABLE = re.compile(
    r"TOKEN(?!IZ)|SECRET|PASSW|PASSPHRASE|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIAL|CONNECTION_STRING|AUTH$|COOKIE$|JWT$"
    rf"|_KEY$|_{_ENDS}$",
    re.IGNORECASE,
)
"""names of environment variables whose values are secrets"""
_PLACE = re.compile(r"_(?:PATH|FILE|DIR|FOLDER|HOME|SOCK)$", re.IGNORECASE)
"""names of those that say where something is"""
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|sk-(?=[\w-]{0,60}[0-9])[\w-]{20,}|gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{20,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}"
    r"|(?<![\w-])eyJ[\w-]{10,}+\.[\w-]{10,}+\.[\w-]++)"
    r"|(?<=hooks\.slack\.com/services/)[\w/-]{10,}|(?<=/api/webhooks/)[\w/-]{10,}"
)
"""keys that are known by their looks: Hugging Face, OpenAI and others, GitHub, GitLab, Slack, AWS, Google, JWT, and the
addresses of webhooks"""
_PEM = re.compile(
    r"(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----)"
    r"(?:[A-Za-z0-9+/=:,.\s]|\\+[nrt]|-(?!----))*+(?:-----END [A-Z0-9 ]{0,60}-----)?"
)
"""a private key as a file has it, or in a text that writes its line ends as `\\n`; also the beginning of one"""
_RANDOM = r"(?=[\w+/=.-]{0,60}[0-9])(?=[\w+/=.-]{0,60}[A-Za-z])[\w+/=.-]{16,}"
"""what a key looks like and the name of a field does not"""
_USER = re.compile(r"\b([a-z][a-z0-9+.-]{0,30}://)[^/\s\"'<>]{1,512}@", re.IGNORECASE)
_IS = r"\\{0,8}[\"']?\s{0,20}[=:]\s{0,20}"
_CERTAIN = rf"(?:{_SAYS_SECRET}|(?<=_)(?-i:{_ENDS}))"
_NAMED = re.compile(
    rf"(?<![A-Za-z0-9])((?:{_CERTAIN}{_IS}(?=\\{{0,8}}[\"'][^\n]{{4}}|[^\s\"',;&]{{4}})"
    rf"|(?:{_MAY_BE_SECRET}|signature){_IS}(?=\\{{0,8}}[\"']?{_RANDOM})))"
    # Between quotes all of it, to the next such quote: with the backslashes that it has where a text was quoted twice.
    r"(?:(\\{0,8}[\"'])(?:(?!\2)(?:\\.|[^\\\n]))++|[^\s\"',;&]+)",
    re.IGNORECASE,
)
"""`api_key = "..."`, `token=...`, `MYSQL_PWD=...`"""
_BEARER = re.compile(r"\b(bearer|basic)\s{1,20}[\w.~+/=-]{8,}", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{0,30}://[^/\s:@]{0,512}:([^/\s]{1,512})@", re.IGNORECASE)
"""an address with a password"""
LEAST = 8
"""characters of an environment variable's value from which on it is looked for in other texts"""

MARGIN = 100_000
"""characters beside those that are kept of a long text, in which a secret may begin or end"""

_named_variables: set[str] = set()
"""environment variables that a configuration names (`api_key_env`): secret whatever they are called"""


def redact(text: str) -> str:
    """`text` without the values of secret environment variables, keys, and users and passwords of addresses.

    The values are found as they are, between quotes of `repr` and JSON with any escapes, in addresses (`%2F`), and in
    base64 and hexadecimal digits. What is cut must be redacted before: half of a key is none of these.
    """
    known = _spellings(tuple(_values(os.environ)))
    for value in known.plain:
        text = text.replace(value, HIDDEN)
    if known.escaped is not None and any(sign in text for sign in "\\%+"):
        text = known.escaped.sub(HIDDEN, text)
    text = _PEM.sub(HIDDEN, text)
    text = _USER.sub(rf"\1{HIDDEN}@", text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    return _SHAPES.sub(HIDDEN, _NAMED.sub(lambda match: f"{match[1]}{match[2] or ''}{HIDDEN}", text))


@dataclass(frozen=True, slots=True)
class _Spellings:
    """How secret values can be written."""

    plain: tuple[str, ...]
    escaped: re.Pattern[str] | None
    """with any character written as its escape; None: there is no value"""


@lru_cache(maxsize=4)
def _spellings(values: tuple[str, ...]) -> _Spellings:
    plain = [form for value in values for form in (value, *_encodings(value.encode("utf-8", "surrogateescape")))]
    escaped = "|".join("".join(map(_any_escape, value)) for value in values)
    return _Spellings(tuple(plain), re.compile(escaped) if values else None)


def _encodings(value: bytes) -> Iterator[str]:
    """In hexadecimal digits, and in base64: what is the same wherever in a longer text the value begins."""
    yield value.hex()
    yield value.hex().upper()
    for before in range(3):
        # A character of base64 has 6 bits: those that the bytes around the value have a part in are left out.
        encoded = base64.b64encode(b"\0" * before + value)
        whole = encoded[-(-before * 8 // 6) : (before + len(value)) * 8 // 6].decode()
        yield whole
        if (in_addresses := whole.replace("+", "-").replace("/", "_")) != whole:
            yield in_addresses


def _any_escape(character: str) -> str:
    """A pattern of one character in whatever way it is escaped, with the backslashes of several quotings."""
    code, quoted = ord(character), r"\\{1,8}"
    data, units = character.encode("utf-8", "surrogateescape"), character.encode("utf-16-be", "surrogatepass")
    forms = [
        "".join(f"%{_any_case(f'{byte:02x}')}" for byte in data),
        "".join(f"{quoted}x{_any_case(f'{byte:02x}')}" for byte in data),
        "".join(f"{quoted}u{_any_case(units[at : at + 2].hex())}" for at in range(0, len(units), 2)),
        f"{quoted}x{_any_case(f'{code:02x}')}" if code < 0x100 else f"{quoted}U{_any_case(f'{code:08x}')}",
    ]
    if character == " ":
        forms.append(r"\+")  # in the query of an address
    if character in _LETTERS:
        forms.append(quoted + _LETTERS[character])
    if character == "\\":
        forms.append(quoted)
    else:
        forms.append(re.escape(character) if character.isalnum() else rf"\\{{0,8}}{re.escape(character)}")
    return f"(?:{'|'.join(forms)})"


_LETTERS = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}


def _any_case(digits: str) -> str:
    return "".join(f"[{digit.lower()}{digit.upper()}]" if digit.isalpha() else digit for digit in digits)


def redact_start(text: str, most: int) -> str:
    """The first `most` characters of a text that may be very long, redacted before it is cut: half of a key is none."""
    return redact(text[: most + MARGIN])[:most]


def redact_end(text: str, most: int) -> str:
    """The last ones."""
    return redact(text[-most - MARGIN :])[-most:]


def know_variables(options: Mapping[str, Any]) -> None:
    """Take note of the environment variables that the options of a reward source name (`api_key_env`), in a process
    that has not loaded the configuration itself."""
    why_secret(("options",), options)


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
        return "holds something that looks like a key; it takes the name of a variable" if _SHAPES.search(value) else ""
    return _secret_reason(path[-1], value)


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
    return {key: _redact_value(key, value, known) for key, value in settings.items()}


def _values(environment: Mapping[str, str]) -> list[str]:
    """Values of secret environment variables, and passwords in addresses, the longest first: one may be a part of
    another."""
    return _secret_values(tuple(environment.items()), frozenset(_named_variables))


@lru_cache(maxsize=4)  # looked for in every score, and the environment hardly ever changes
def _secret_values(environment: tuple[tuple[str, str], ...], named: frozenset[str]) -> list[str]:
    secrets = set()
    for name, value in environment:
        if name in named or (_VARIABLE.search(name) and not _PLACE.search(name)):
            secrets.add(value)
        elif address := _ADDRESS.match(value):
            secrets.add(address[1])
    long = (value for value in secrets if len(value) >= LEAST and not value.isdecimal())
    return sorted(long, key=lambda value: (-len(value), value))


def _secret_reason(name: str, value: str) -> str:
    if _CERTAIN_NAME.search(name):
        return "is a secret by its name"
    if _SHAPES.search(value) or (SECRET_NAME.search(name) and re.fullmatch(_RANDOM, value)):
        return "holds what looks like a key"
    if _USER.search(value):
        return "holds an address with a user or password"
    if any(secret in value for secret in _values(os.environ)):
        return "holds the value of a secret environment variable"
    return ""


def _redact_value(name: str, value: Any, known: list[str]) -> Any:
    if isinstance(value, Mapping):
        named = name.endswith("_env")  # its values name variables
        return {key: inner if named else _redact_value(str(key), inner, known) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redact_value(name, inner, known) for inner in value]
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
    present = [form for form in forms if form in text]
    return _remove_forms(value, present) if present else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (*_texts(key), *_texts(inner))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def _remove_forms(value: Any, forms: Sequence[str]) -> Any:
    if isinstance(value, str):
        for form in forms:
            value = value.replace(form, HIDDEN)
        return value
    if isinstance(value, Mapping):
        return {_remove_forms(key, forms): _remove_forms(inner, forms) for key, inner in value.items()}
    return [_remove_forms(inner, forms) for inner in value] if isinstance(value, (list, tuple)) else value


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
    all_forms = {form for part in parts if len(part) >= LEAST for form in (part, *_escapes(part))}
    return frozenset(form for form in all_forms if len(form) >= LEAST)


def _escapes(text: str) -> Iterator[str]:
    """In addresses, and as `_encodings`."""
    data = text.encode("utf-8", "surrogateescape")
    strict = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02X}" for byte in data)
    for escaped in (strict, quote(data, safe=""), quote(data), quote_plus(data)):
        yield from (escaped, re.sub("%..", lambda byte: byte[0].lower(), escaped))
    yield from _encodings(data)


def register_secret_variable(name: str) -> None:
    """Keep the value of an environment variable out of texts from here on, whatever the variable is called."""
    _named_variables.add(name)
