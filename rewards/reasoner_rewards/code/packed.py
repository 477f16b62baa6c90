"""Tests that LiveCodeBench keeps packed: base64 of zlib of a pickle that holds one text of JSON.

Loading a pickle runs what is in it. So nothing is loaded: its operations are read one by one, and only those are known
that make one text. Anything else is refused.
"""

from __future__ import annotations

import base64
import binascii
import pickletools
import zlib
from collections.abc import Iterator
from functools import lru_cache

MAX_UNPACKED = 2**28
"""bytes; a few kilobytes can stand for gigabytes"""
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_WITHOUT_EFFECT = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"}


@lru_cache(maxsize=2)  # the responses of a group share their tests; few are kept, as they may be large
def unpack_text(packed: str) -> str:
    """The text that is packed.

    Raises:
        ValueError: it is not packed in this way, is too large, or the pickle holds anything but a text.
    """
    try:
        stream = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("neither JSON nor base64") from None
    return _only_text(_decompress(stream))


def _decompress(stream: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(stream, MAX_UNPACKED)
    except zlib.error as error:
        raise ValueError(f"base64 of something that zlib cannot decompress: {error}") from None
    if decompressor.unconsumed_tail:
        raise ValueError(f"more than {MAX_UNPACKED:,} bytes when it is decompressed")
    if not decompressor.eof:
        raise ValueError("zlib data that are cut short")
    return data


def _only_text(pickled: bytes) -> str:
    """The one text of a pickle.

    Raises:
        ValueError: there is anything else in it.
    """
    texts: list[str] = []
    for name, argument in _operations(pickled):
        if name in _TEXTS and not texts and isinstance(argument, str):
            texts.append(argument)
        elif name not in _WITHOUT_EFFECT:
            raise ValueError(
                f"a pickle that holds more than one text ({name}), which is not loaded: loading a pickle runs what is "
                "in it. Save the tests as JSON"
            )
    if not texts:
        raise ValueError("a pickle without a text")
    return texts[0]


def _operations(pickled: bytes) -> Iterator[tuple[str, object]]:
    """The operations up to the end of the pickle, each with its argument."""
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name == "STOP":
                return
            yield operation.name, argument
    except (ValueError, IndexError) as error:
        raise ValueError(f"no pickle: {error}") from None
