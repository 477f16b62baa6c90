"""A sandbox used from a terminal: `python -m tests.integration.sandbox_terminal BACKEND` prints what nobody typed.

The program inside tries to put characters into the input of the terminal, where a shell would run them afterwards.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import termios

from reasoner.sandbox import ISOLATED, PYTHON, Limits
from reasoner.sandbox.backends.unsandboxed import unsandboxed
from reasoner.sandbox.choose import BACKENDS

PROGRAM = b"""
import fcntl, os, termios
places = [0, 1, 2]
for path in ("/dev/tty", "/dev/pts/0"):
    try: places.append(os.open(path, os.O_RDWR))
    except OSError: pass
for place in places:
    for character in b"rm\\n":
        try: fcntl.ioctl(place, termios.TIOCSTI, bytes([character]))
        except OSError: pass
"""


def main(backend: str) -> None:
    os.setsid()
    _, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
    sandbox = {**BACKENDS, "none": unsandboxed}[backend]()
    outcome = sandbox.run([PYTHON, *ISOLATED, "main.py"], {"main.py": PROGRAM}, b"", Limits())
    assert outcome.ok, outcome
    typed = os.read(theirs, 100) if select.select([theirs], [], [], 0.1)[0] else b""
    print(typed)


if __name__ == "__main__":
    main(sys.argv[1])
