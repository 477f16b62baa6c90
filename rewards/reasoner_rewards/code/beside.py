"""Tests that run beside the program, in its own sandbox and process: all of Python, and no protection from forgery.

What a program can and cannot do to such a verdict is in docs/code.md.
"""

from __future__ import annotations

from reasoner import ISOLATED, PYTHON, Sandbox, SandboxError, Session
from reasoner_rewards.code.asserts import AssertTests
from reasoner_rewards.code.process import (
    Allowance,
    NoAnswer,
    Program,
    answer_to,
    fields_of,
    first_lines,
    harness,
    line,
    refusal,
)
from reasoner_rewards.code.verdict import ProgramVerdict, TestResult, cut, refused

MAX_NOTE = 300
"""characters of what is said of a test"""


def judge(sandbox: Sandbox, program: Program, tests: AssertTests, allowance: Allowance) -> ProgramVerdict:
    """Run every test in a fresh process with the program.

    A test counts as passed when it ran to its end and executed an assertion, if it has any.

    Raises:
        SandboxError: the sandbox failed, or is none that can be asked one thing after the other.
        ValueError: the tests cannot be run (the problem is broken, not the response).
    """
    if not sandbox.interactive:
        raise SandboxError(f"harness = 'inside' needs a local sandbox; {sandbox.name} is none")
    files = {**program.files(), **harness("beside.py", "stub.py")}
    with sandbox.open([PYTHON, *ISOLATED, "beside.py"], files, allowance.limits) as session:
        names = [program.name(index) for index in range(len(program.sources))]
        session.send(line(files=names, setup=tests.setup, tests=tests.sources, theirs=tests.names))
        answers = first_lines(session, allowance)
        if (verdict := refusal(answers, "stdin", session.outcome, len(tests.sources), allowance)) is not None:
            return verdict
        if broken := (fields_of(next(answers)) or {}).get("broken", "nothing was answered"):
            raise ValueError(f"the tests cannot be run: {broken}")
        return _verdict(session, len(tests.sources), allowance)


def _verdict(session: Session, count: int, allowance: Allowance) -> ProgramVerdict:
    results: list[TestResult] = []
    while len(results) < count:
        answer = answer_to(session, line(test=len(results), timeout_s=allowance.timeout_s), allowance)
        fields = {} if isinstance(answer, NoAnswer) else fields_of(answer) or {}
        note = cut(str(fields.get("note")), MAX_NOTE)
        if fields.get("loaded") is False:
            return refused(count, f"the program fails before its first test: {note}", compiled=True)
        if isinstance(answer, NoAnswer):
            results.append(TestResult(False, f"the program {answer.why}", ended=False, timed_out=answer.timed_out))
        elif fields.get("timed_out") is True:
            note = f"the program took longer than {allowance.timeout_s:g} s"
            results.append(TestResult(False, note, ended=False, timed_out=True))
        else:
            passed = fields.get("passed") is True
            results.append(TestResult(passed, "" if passed else note, ended=fields.get("ended") is True))
        if isinstance(answer, NoAnswer) or results[-1].timed_out:
            rest = TestResult(False, "was not tried: the program had ended", ended=False)
            results += [rest] * (count - len(results))
    return ProgramVerdict(tuple(results))
