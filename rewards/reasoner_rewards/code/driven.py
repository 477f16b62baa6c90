"""Tests that are more than calls: they run in a sandbox of their own and reach the program through this process.

    driver (tests) --request--> here --request--> stub (program)
           <------answer-------      <---answer--

Requests and answers pass unread; the driver decodes them into plain values (`inside/driver.py`). What a program makes
slow there ends with the driver's own time.
"""

from __future__ import annotations

from contextlib import ExitStack

from reasoner import ISOLATED, PYTHON, Sandbox, SandboxError, Session
from reasoner_rewards.code.asserts import AssertTests
from reasoner_rewards.code.process import (
    STUB,
    Allowance,
    NoAnswer,
    Program,
    answer_to,
    ending,
    fields_of,
    first_lines,
    harness,
    line,
    readable,
    refusal,
)
from reasoner_rewards.code.verdict import ProgramVerdict, TestResult, cut

REQUEST = b'{"op":'
"""what a line of the driver begins with that is for the program"""
MAX_NOTE = 300
"""characters of what the driver says of a test"""


def judge(sandbox: Sandbox, program: Program, tests: AssertTests, allowance: Allowance) -> ProgramVerdict:
    """Run the program and its tests in two sandboxes and pass on what one asks of the other.

    A test counts as passed when the driver says that it ran to its end with every assertion executed.

    Raises:
        SandboxError: a sandbox failed, or is none in which two programs can talk.
        ValueError: the tests cannot be run (the problem is broken, not the response).
    """
    if not sandbox.interactive:
        raise SandboxError(f"tests that are more than calls with literals need a local sandbox; {sandbox.name} is none")
    with ExitStack() as stack:
        stub = stack.enter_context(sandbox.open(STUB, program.files(), allowance.limits))
        stub.send(program.start("driven", allowance.timeout_s))
        answers = first_lines(stub, allowance)
        if (verdict := refusal(answers, "driven", stub.outcome, len(tests.sources), allowance)) is not None:
            return verdict
        command = [PYTHON, *ISOLATED, "driver.py"]
        driver = stack.enter_context(sandbox.open(command, harness("driver.py"), allowance.limits))
        driver.send(
            line(
                prelude=tests.prelude,
                names=tests.names,
                operators=tests.operators,
                setup=tests.setup,
                tests=tests.sources,
                timeout_s=allowance.timeout_s,
            )
        )
        return _relay(stub, driver, len(tests.sources), allowance)


def _relay(stub: Session, driver: Session, count: int, allowance: Allowance) -> ProgramVerdict:
    results: list[TestResult] = []
    gone: NoAnswer | None = None
    done = False
    while not done and (text := driver.receive_line()) is not None:
        if text.startswith(REQUEST):
            answer = answer_to(stub, text, allowance) if gone is None else gone
            if not isinstance(answer, NoAnswer) and not readable(answer):
                answer = NoAnswer("gave a longer answer than it may")
            if isinstance(answer, NoAnswer):
                gone = answer
                answer = line(gone=f"the program {gone.why}")
            driver.send(answer)
            continue
        fields = fields_of(text) or {}
        if fields.get("result") == len(results):
            timed_out = gone is not None and gone.timed_out
            results.append(
                TestResult(fields["passed"] is True, cut(fields["note"], MAX_NOTE), fields["ended"] is True, timed_out)
            )
        elif "broken" in fields:
            raise ValueError(f"the tests cannot be run: {fields['broken']}")
        else:
            done = fields == {"done": True}
    missing = count - len(results)
    if missing:
        silent = ending(driver.outcome(), allowance)
        results += [TestResult(False, f"the tests {silent.why}", ended=False, timed_out=silent.timed_out)] * missing
    return ProgramVerdict(tuple(results))
