"""The reference program under its assertions in plain Python: what the harness must agree with."""

from __future__ import annotations

from reasoner import ISOLATED, PYTHON, Outcome, Sandbox
from reasoner_rewards.code.asserts import AssertTests
from reasoner_rewards.code.process import Allowance, Program

SCRIPT = """\
import sys, types
module = sys.modules['program'] = sys.modules['__main__'] = types.ModuleType('program')
for file in {files!r}:
    with open(file, 'rb') as opened:
        exec(compile(opened.read(), file, 'exec'), vars(module))
"""


def run_plainly(sandbox: Sandbox, program: Program, tests: AssertTests, allowance: Allowance) -> Outcome:
    """Run program and tests one after the other in one namespace, in the sandbox. Exit status 0: they passed.

    Raises:
        SandboxError: the sandbox failed.
    """
    parts = {program.name(index): source for index, source in enumerate(program.sources)}
    parts |= {"setup.py": tests.setup, **{f"test{number}.py": text for number, text in enumerate(tests.sources, 1)}}
    files = {name: text.encode("utf-8", "replace") for name, text in parts.items()}
    files["main.py"] = SCRIPT.format(files=[*parts]).encode()
    return sandbox.run([PYTHON, *ISOLATED, "main.py"], files, b"", allowance.limits)
