"""A socket whose reads have a deadline together: the timeout of a plain one begins anew with every byte."""

from __future__ import annotations

import socket
import time
from typing import Any


class TimedSocket(socket.socket):
    """Takes the place of a connected socket.

    Args:
        plain: the socket; used up.
        idle_s: seconds without a byte after which it counts as broken.
        ends: moment (`time.monotonic`) after which nothing is read any more, however much comes; may be set anew.
    """

    def __init__(self, plain: socket.socket, idle_s: float, ends: float) -> None:
        super().__init__(fileno=plain.detach())
        self.ends, self._idle_s = ends, idle_s
        self.settimeout(idle_s)

    def recv_into(self, *args: Any) -> int:
        """As of any socket; files made of it (`makefile`) read with this.

        Raises:
            TimeoutError: nothing came for too long, or the deadline is over.
        """
        left = self.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("its time is over")
        self.settimeout(min(self._idle_s, left))
        try:
            return super().recv_into(*args)
        finally:
            self.settimeout(self._idle_s)
