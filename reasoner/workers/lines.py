"""The lines that pass between the main process, a host and its workers: JSON, never a pickle."""

from __future__ import annotations

import json
from typing import Any

START_S = 120
"""seconds in which the host must have imported and prepared all plugins"""
CANCEL = b"cancel"
"""main -> host: forget every call and end what is running"""
CLOSE = b"close"
"""main -> host: end"""
CREATED = b"created "
"""worker -> host: what a line begins with that names a file in /dev/shm, before the call creates it"""
PRINTED = b"printed "
"""host -> main: what a line begins with that has what a call printed"""
MAX_LINE_BYTES = 2**21
"""bytes of a line of a worker"""


def dump_line(data: dict[str, Any]) -> bytes:
    """One line of JSON."""
    return json.dumps(data).encode() + b"\n"


class LineBuffer:
    """Puts lines together from chunks of any size."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self.pending = 0
        """bytes of the line that is not complete yet"""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their newline."""
        head, newline, rest = data.partition(b"\n")
        self._chunks.append(head)
        self.pending += len(head)
        if not newline:
            return []
        *lines, tail = rest.split(b"\n")
        lines.insert(0, b"".join(self._chunks))
        self._chunks, self.pending = [tail], len(tail)
        return lines
