"""Sandboxes for generated programs: isolated, limited, and killed with everything that they started.

sandbox = open_sandbox()
outcome = sandbox.run([PYTHON, *ISOLATED, "main.py"], {"main.py": b"print(input())"}, b"hello", Limits(wall_s=2.0))
outcome.stdout  # b"hello\\n"

base.py, choose.py          the types; the best sandbox that holds, which proof.py tries
backends/                   ways to start a program
running.py, pipes.py        a program that runs, from its input to its end
limits.py, usage.py         what the kernel limits; what a program uses
family.py, system_calls.py  processes that it started; system calls that it may make
scratch.py, interpreter.py  its files; its Python
permission.py               to run without any
"""

from reasoner.sandbox.base import End, Limits, Outcome, Sandbox, SandboxError, Session
from reasoner.sandbox.choose import open_sandbox
from reasoner.sandbox.interpreter import ISOLATED, PYTHON
from reasoner.sandbox.permission import permitted_sandbox

__all__ = [
    "ISOLATED",
    "PYTHON",
    "End",
    "Limits",
    "Outcome",
    "Sandbox",
    "SandboxError",
    "Session",
    "open_sandbox",
    "permitted_sandbox",
]
