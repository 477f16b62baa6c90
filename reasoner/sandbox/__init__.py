"""Sandboxes for generated programs.

    sandbox = open_sandbox()
    outcome = sandbox.run([PYTHON, *ISOLATED, "main.py"], {"main.py": b"print(input())"}, b"hello", Limits(wall_s=2.0))
    outcome.stdout  # b"hello\\n"

`base.py` has the types. Sandboxes on this machine share `local.py` and `running.py` (pipes, deadlines, limits, the end)
and differ in how a program is started: `bubblewrap.py`, `unsandboxed.py`.
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
