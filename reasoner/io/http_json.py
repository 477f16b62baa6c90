"""A JSON request to a service: a few attempts, bounded reading, no redirects, no secret in a message.

Only the standard library, no threads: a call that hangs is ended with its worker, at the deadline of the source.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import re
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from itertools import count
from secrets import SystemRandom
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator

from reasoner.errors import UserError
from reasoner.io.parsing import STRICT_JSON_DECODER
from reasoner.io.redaction import hide, redact_start, register_secret_variable

MAX_BYTES = 8 * 2**20
"""bytes of an answer that are read at most, as it comes and unpacked"""
ENCODINGS = ("gzip", "deflate")
"""how an answer may be compressed"""
IDLE_S = 600.0
"""seconds without a byte; the deadline of a call is usually earlier"""
FIRST_PAUSE_S = 0.5
"""longest pause before the second attempt; doubled before each further one"""
LONGEST_PAUSE_S = 30.0
"""seconds; also what a `Retry-After` may ask for at most"""
MAX_SHOWN = 300
"""characters of an answer that an error message quotes"""

_jitter = SystemRandom()  # `random` has the same state in all forked workers: they would come back together


class RemoteError(RuntimeError):
    """A service did not deliver; the message says which, what it did, and how often it was asked."""


class _Refusal(Exception):  # noqa: N818 (it never leaves this module)
    """One attempt that did not deliver."""

    def __init__(self, what: str, got: object, *, transient: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(what)
        self.what, self.got = what, got
        self.transient, self.retry_after_s = transient, retry_after_s


def checked_url(url: str) -> str:
    """The address as it is.

    Raises:
        ValueError: it is no HTTP address, or holds what belongs into an environment variable.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not url.isascii() or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError("an address that starts with http:// or https:// is needed")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("it must not hold a user, a password or a fragment; keys come from environment variables")
    return url


Url = Annotated[str, AfterValidator(checked_url)]
"""an HTTP address without a user or password"""


def read_secret(variable: str) -> str:
    """The value of an environment variable, to be sent as a header.

    Raises:
        UserError: it is not set, or no header can hold it; the value is not shown.
    """
    value = os.environ.get(variable, "")
    if not value:
        raise UserError(
            f"the environment variable {variable} is not set: set it, or name another one, or none, in the options"
        )
    if not (value.isascii() and value.isprintable()):
        raise UserError(
            f"the environment variable {variable} holds a line end or another character that a header cannot hold"
        )
    register_secret_variable(variable)
    return value


def without_query(url: str) -> str:
    """An address as messages have it: without its query, which may hold a key."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


@dataclass(frozen=True, slots=True)
class Service:
    """Where to send requests, and what of it must not be shown."""

    url: str
    """its query is left out of messages"""
    headers: Mapping[str, str] = field(repr=False)
    """beside those that say that it is JSON"""
    secrets: tuple[str, ...] = field(repr=False)
    """left out of messages, wherever they turn up"""
    attempts: int
    """requests at most, for one answer"""
    idle_s: float = IDLE_S
    """seconds without a byte after which an attempt ends"""

    def post(self, body: Mapping[str, Any]) -> Any:
        """What it answers to a POST of `body`, read as strict JSON. What is kept of it has to go through `hide`.

        The request is repeated on status 429 and 5xx and when the connection fails or breaks off, after a pause that
        doubles and is drawn at random, and after what `Retry-After` asks for. Redirects are not followed: the headers
        may hold a key. A proxy from the environment is used, but never for this machine's own addresses.

        Raises:
            RemoteError: no attempt delivered, or the answer is not JSON.
        """
        request = urllib.request.Request(
            self.url,
            data=json.dumps(body, allow_nan=False).encode(),
            headers={
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Accept-Encoding": ", ".join(ENCODINGS),
                **self.headers,
            },
            method="POST",
        )
        opener = _opener(self.url)
        for attempt in count(1):
            try:
                data = _attempt(opener, request, self.idle_s)
                break
            except _Refusal as refusal:
                wait = refusal.retry_after_s
                if not refusal.transient or attempt >= self.attempts or wait > LONGEST_PAUSE_S:
                    raise self.error(f"{refusal.what} (attempt {attempt} of {self.attempts})", refusal.got) from None
            longest = min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S)
            time.sleep(wait + _jitter.uniform(longest / 2, longest))
        try:
            return parsed(data)
        except ValueError as error:
            raise self.error(f"answered no JSON ({error})", data) from None

    def check_answers(self, within_s: float = 10.0) -> int:
        """The status of its answer to a GET, whatever it is: somebody is there. It is asked once.

        Raises:
            UserError: nobody answers.
        """
        request = urllib.request.Request(self.url, headers=dict(self.headers))
        try:
            with _opener(self.url).open(request, timeout=within_s) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise UserError(
                f"{without_query(self.url)} does not answer ({self._describe_answer(reason)}): start it, or "
                "correct the address in the options"
            ) from None

    def hide(self, data: Any) -> Any:
        """JSON data of an answer without the secrets, which a server can repeat."""
        return hide(data, self.secrets)

    def error(self, what: str, got: object) -> RemoteError:
        """What it did wrong, with the beginning of what came."""
        return RemoteError(f"{without_query(self.url)} {self.hide(what)}; got {self._describe_answer(got)}")

    def _describe_answer(self, got: object) -> str:
        text = got.decode(errors="replace") if isinstance(got, bytes) else str(got)
        for secret in self.secrets:  # short ones too
            text = text.replace(secret, "***")
        text = redact_start(" ".join(self.hide(text).split()), MAX_SHOWN + 1)
        return (text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...") or "nothing"


def parsed(data: bytes | str) -> Any:
    """Strict JSON: no `NaN`, no `Infinity`, no repeated key.

    Raises:
        ValueError: it is something else, or nested too deeply.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        return STRICT_JSON_DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _opener(url: str) -> urllib.request.OpenerDirector:
    proxies = urllib.request.ProxyHandler({} if _is_local(urlsplit(url).hostname or "") else None)
    return urllib.request.build_opener(proxies, _NoRedirect())


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _attempt(opener: urllib.request.OpenerDirector, request: urllib.request.Request, idle_s: float) -> bytes:
    try:
        with opener.open(request, timeout=idle_s) as answer:
            return _read(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            raise _refusal(refused) from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        got = f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else reason
        raise _Refusal("could not be reached, or broke off", got, transient=True) from None


def _read(answer: http.client.HTTPResponse) -> bytes:
    data = answer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise _Refusal(f"answered more than {MAX_BYTES} bytes, where reading stopped", data)
    if answer.length:
        raise _Refusal(f"broke off, with {answer.length} bytes of the answer missing", data, transient=True)
    return _decompress(data, answer.headers)


def _decompress(data: bytes, headers: Message) -> bytes:
    """What was compressed, at most `MAX_BYTES` of it."""
    names = [name.strip().lower() for name in ",".join(headers.get_all("Content-Encoding", [])).split(",")]
    for name in (name.removeprefix("x-") for name in reversed(names) if name not in ("", "identity")):
        if name not in ENCODINGS:
            raise _Refusal(f"answered in the encoding {name[:40]!r}, where {' or '.join(ENCODINGS)} was asked for", b"")
        if not data:  # nothing, not even an empty archive
            return data
        unpacking = zlib.decompressobj(_window(name, data))
        try:
            unpacked = unpacking.decompress(data, MAX_BYTES + 1)
        except zlib.error as error:
            raise _Refusal(f"answered what is not {name}: {error}", data[:MAX_SHOWN]) from None
        if len(unpacked) > MAX_BYTES:
            raise _Refusal(f"answered more than {MAX_BYTES} bytes, unpacked, where reading stopped", unpacked)
        if not unpacking.eof:
            raise _Refusal(f"broke off within the {name} of its answer", unpacked, transient=True)
        if unpacking.unused_data:
            raise _Refusal(f"answered more than one {name}", unpacked)
        data = unpacked
    return data


def _window(name: str, data: bytes) -> int:
    """The argument by which zlib knows the format: `deflate` is in zlib's envelope, and with some servers in none."""
    if name == "gzip":
        return 16 + zlib.MAX_WBITS
    enveloped = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
    return zlib.MAX_WBITS if enveloped else -zlib.MAX_WBITS


def _refusal(refused: urllib.error.HTTPError) -> _Refusal:
    status, headers = refused.code, refused.headers
    if 300 <= status < 400:
        return _Refusal(
            f"redirects (status {status}), which is not followed: put the final address into the options",
            headers.get("Location", "").partition("?")[0],
        )
    try:
        got: object = _decompress(refused.read(MAX_BYTES), headers)
    except (OSError, http.client.HTTPException):
        got = "an answer that broke off"
    except _Refusal as unreadable:
        got = f"an answer that {unreadable.what}"
    wait = _retry_after(headers.get("Retry-After", ""))
    what = f"answered with status {status}"
    if wait > LONGEST_PAUSE_S:
        what += f" and asks to wait {wait:.0f} s, more than the {LONGEST_PAUSE_S:.0f} s that are waited"
    return _Refusal(what, got, transient=status == 429 or status >= 500, retry_after_s=wait)


def _retry_after(value: str) -> float:
    """Seconds from now: the header holds seconds or a date; 0 when it holds neither."""
    if re.fullmatch(r"\s*\d{1,9}\s*", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
