"""Programs that read standard input and print: their output is compared here, or judged by a checker program."""

from __future__ import annotations

import ast
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial

from reasoner import ISOLATED, PYTHON, Problem, Sandbox
from reasoner_rewards.code.fields import list_of_tests, text_field, without_nulls
from reasoner_rewards.code.inside.codec import MAX_OUTPUT
from reasoner_rewards.code.process import Allowance, NoAnswer, Program, ask, exception_text, fields_of, line
from reasoner_rewards.code.verdict import ProgramVerdict, TestResult, cut, shown

MAX_READ = 2**12
"""bytes of what a checker prints that are looked at"""
INTEGER = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class StdinCase:
    """One input."""

    input: str
    output: str | None
    """what a right program prints; None: only a checker can tell"""


Judge = Callable[[StdinCase, str], str]
"""why an output does not pass; empty: it does"""


def read_cases(problem: Problem, *, outputs: bool) -> list[StdinCase]:
    """The field `tests` as a list of `{"input": text, "output": text}`; unless `outputs`, the second may be missing.

    A key whose value is null is missing, as Parquet writes it.

    Raises:
        ValueError: it is something else (the problem is broken, not the response).
    """
    cases = []
    for entry in list_of_tests(problem):
        test = without_nulls(entry)
        known = isinstance(test, Mapping) and {"input"} <= set(test) <= {"input", "output"}
        if not known or not all(isinstance(text, str) for text in test.values()) or (outputs and "output" not in test):
            raise ValueError(
                f"problem {problem.id!r}: a test must be an object with the texts 'input' and 'output', got "
                f"{str(entry)[:200]}"
            )
        cases.append(StdinCase(test["input"], test.get("output")))
    return cases


def judge(
    sandbox: Sandbox, program: Program, cases: Sequence[StdinCase], allowance: Allowance, judged: Judge
) -> ProgramVerdict:
    """Run the program once for each input, all in one start of the sandbox; judge what it prints.

    Raises:
        SandboxError: the sandbox failed.
    """
    requests = [line(input=case.input, timeout_s=allowance.timeout_s) for case in cases]
    answers = ask(sandbox, program, "stdin", requests, allowance)
    if isinstance(answers, ProgramVerdict):
        return answers
    return ProgramVerdict(tuple(_test_result(*pair, allowance, judged) for pair in zip(cases, answers, strict=True)))


def _test_result(case: StdinCase, answer: bytes | NoAnswer, allowance: Allowance, judged: Judge) -> TestResult:
    input_text = f"the input {shown(case.input)}"
    if isinstance(answer, NoAnswer):
        return TestResult(False, f"{input_text}: {answer.why}", ended=False, timed_out=answer.timed_out)
    fields = fields_of(answer) or {}
    output = fields.get("output")
    ended = fields.get("end"), fields.get("code")
    if not isinstance(output, str) or not isinstance(ended[0], str) or not isinstance(ended[1], int):
        why = exception_text(fields) if "error" in fields else "an answer that cannot be read"
        return TestResult(False, f"{input_text}: {why}", ended=False)
    match ended:
        case "exit", 0:
            note = judged(case, output)
            return TestResult(not note, f"{input_text}: {note}" if note else "")
        case "timeout", _:
            return TestResult(
                False, f"{input_text}: longer than {allowance.timeout_s:g} s", ended=False, timed_out=True
            )
        case "output", _:
            return TestResult(False, f"{input_text}: printed more than {MAX_OUTPUT} bytes", ended=False)
        case end, code:
            message = fields.get("message")
            why = f", {cut(message)}" if isinstance(message, str) and message else ""
            return TestResult(False, f"{input_text}: {cut(f'{end} {code}')}{why}", ended=False)


def same_output(tolerance: float) -> Judge:
    """Compare with the case's output, line by line without trailing white space.

    With a `tolerance` above 0, words that both are numbers may differ by it (absolute and relative), unless the
    expected one is an integer: then the other has exactly its value, in any notation (`5`, `5.0`, `+5`, `5e0`).
    """
    return partial(_differs, tolerance)


def _differs(tolerance: float, case: StdinCase, output: str) -> str:
    assert case.output is not None
    expected, printed = _lines(case.output), _lines(output)
    if expected == printed:
        return ""
    if tolerance and len(expected) == len(printed) and all(map(partial(_close, tolerance), expected, printed)):
        return ""
    return f"printed {shown(output)}, expected {shown(case.output)}"


def _lines(text: str) -> list[str]:
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip("\n").split("\n")


def _close(tolerance: float, expected: str, printed: str) -> bool:
    words = expected.split(), printed.split()
    return len(words[0]) == len(words[1]) and all(map(partial(_close_word, tolerance), *words))


def _close_word(tolerance: float, expected: str, printed: str) -> bool:
    if expected == printed:
        return True
    if INTEGER.fullmatch(expected):
        return NUMBER.fullmatch(printed) is not None and Decimal(expected) == Decimal(printed)
    try:
        return math.isclose(float(expected), float(printed), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return False


def checked_by(sandbox: Sandbox, problem: Problem, allowance: Allowance) -> Judge:
    """Have the problem's checker decide, a Python program in a sandbox of its own.

    It is run as `checker.py input.txt expected.txt output.txt` and accepts by printing 1 and ending with status 0. All
    its runs together get as long as the program. Whatever else it does is a no: an output can be made to break it.

    Raises:
        ValueError: there is no checker, or it is not Python.
    """
    source = text_field(problem, "checker")
    try:
        ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"problem {problem.id!r}: the checker is not Python: {error}") from None
    if not source.strip():
        raise ValueError(f"problem {problem.id!r} has no checker: its field 'checker' must be a Python program")
    end = time.monotonic() + allowance.program_timeout_s
    return lambda case, output: _rejection(sandbox, source, case, output, allowance, end)


def _rejection(sandbox: Sandbox, source: str, case: StdinCase, output: str, allowance: Allowance, end: float) -> str:
    left = min(allowance.timeout_s, end - time.monotonic())
    if left <= 0:
        return "the checker took too long"
    texts = {"checker.py": source, "input.txt": case.input, "expected.txt": case.output or "", "output.txt": output}
    files = {name: text.encode("utf-8", "replace") for name, text in texts.items()}
    files["main.py"] = f"import sys\nsys.argv = {[*texts]}\nexec(open('checker.py').read())".encode()
    command = [PYTHON, *ISOLATED, "main.py"]  # a service passes no arguments
    outcome = sandbox.run(command, files, b"", replace(allowance, program_timeout_s=left).limits)
    printed = outcome.stdout[:MAX_READ]
    if outcome.ok and printed.split()[:1] == [b"1"]:
        return ""
    message = cut(printed.decode("utf-8", "replace").strip())
    return f"printed {shown(output)}, which the checker does not accept{f' ({message})' if message else ''}"
