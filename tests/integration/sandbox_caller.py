"""A process that uses a sandbox and is killed meanwhile: `python -m tests.integration.sandbox_caller BACKEND MARK`.

Under sandlock, what a program forked outlives a killed caller; the watchdog of a run ends it.
"""

from __future__ import annotations

import contextlib
import sys

from reasoner.processes.lifetime import guard_processes
from reasoner.sandbox import ISOLATED, PYTHON, Limits
from reasoner.sandbox.choose import BACKENDS

PROGRAM = b"""
import os, sys, time
if os.fork() == 0:
    time.sleep(60)
print("ready", flush=True)
time.sleep(60)
"""


def main(backend: str, mark: str) -> None:
    program = [PYTHON, *ISOLATED, "main.py", mark]
    files = {"main.py": PROGRAM, "mark.txt": mark.encode()}
    guard = guard_processes() if backend == "sandlock" else contextlib.nullcontext()
    with guard, BACKENDS[backend]().open(program, files, Limits(wall_s=60.0)) as session:
        print(session.receive_line(), flush=True)
        session.receive_line()


if __name__ == "__main__":
    main(*sys.argv[1:])
