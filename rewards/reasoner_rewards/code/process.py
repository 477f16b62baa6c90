"""The model's program in its sandbox: what is sent to the stub beside it, and what comes back.

Nothing that comes back is believed: a line that cannot be read is a failed test, and what can be read is a plain value.
Nor does anything in there keep the time: a program can switch off any alarm in its own process. Each answer is waited
for as long as its test may take; then the program is killed from here.
"""

from __future__ import annotations

import io
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from reasoner import ISOLATED, PYTHON, Limits, Outcome, Sandbox, SandboxError, Session
from reasoner_rewards.code import inside
from reasoner_rewards.code.inside import codec
from reasoner_rewards.code.verdict import ProgramVerdict, cut, refused

OUTPUT_BYTES = 2**26
"""bytes of all answers of a program together"""
GRACE_S = 0.25
"""seconds beyond those of a test in which the stub can say itself that they are over"""

STUB = [PYTHON, *ISOLATED, "stub.py"]
"""what is run in the sandbox of a program"""

HARNESS = {
    "stub.py": ("codec.py", "heap.py", "library.py", "objects.py"),
    "driver.py": ("codec.py", "heap.py", "library.py", "remote.py"),
}
"""what these files of `inside` import"""

ProgramMode = Literal["calls", "driven", "stdin"]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a program may use, as the options say it."""

    timeout_s: float
    """wall seconds per test"""
    program_timeout_s: float
    """wall seconds for all tests of a program"""
    memory_mb: int

    @property
    def limits(self) -> Limits:
        """For the sandbox."""
        return Limits(
            wall_s=self.program_timeout_s,
            cpu_s=self.program_timeout_s,
            memory_mb=self.memory_mb,
            output_bytes=OUTPUT_BYTES,
        )

    def reading_ends(self, start: float) -> float:
        """When the answers of a program that was started then must have been read and compared (`time.monotonic`).

        The time of all tests holds for what they cost here, too: at least that of one test is left for it.
        """
        return max(start + self.program_timeout_s, time.monotonic() + self.timeout_s)


@dataclass(frozen=True, slots=True)
class Program:
    """Source texts that run one after the other in one namespace; the last one is the model's."""

    sources: tuple[str, ...]

    def files(self) -> dict[str, bytes]:
        """What the sandbox's folder holds."""
        own = {self.name(index): source.encode("utf-8", "replace") for index, source in enumerate(self.sources)}
        return {**harness("stub.py"), **own}

    def start(self, mode: ProgramMode, timeout_s: float) -> bytes:
        """The first request to the stub."""
        return line(mode=mode, files=[self.name(index) for index in range(len(self.sources))], timeout_s=timeout_s)

    def name(self, index: int) -> str:
        """`program.py` for the model's."""
        return "program.py" if index == len(self.sources) - 1 else f"prelude{index}.py"


@cache
def harness(*names: str) -> Mapping[str, bytes]:
    """Files of `inside` with what they import."""
    folder = Path(inside.__file__).parent
    return {file: (folder / file).read_bytes() for name in names for file in (name, *HARNESS.get(name, ("codec.py",)))}


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of a function that the program defines."""

    function: str
    args: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    truth: bool = False
    """whether it is enough to know of an object that is returned whether it is true"""

    def request(self, timeout_s: float) -> bytes:
        """As the stub reads it."""
        values = [["g", self.function], *(codec.encode(value) for value in self.args)]
        keywords = {name: codec.encode(value) for name, value in self.keywords.items()}
        return line(op="call", values=values, keywords=keywords, truth=self.truth, timeout_s=timeout_s)


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """It did not answer, or nothing that can be read."""

    why: str
    timed_out: bool = False


def line(**fields: Any) -> bytes:
    """A request."""
    return json.dumps(fields).encode() + b"\n"


def fields_of(text: bytes) -> dict[str, Any] | None:
    """An answer line as it was sent; None: it is none, or longer than one can be."""
    try:
        fields = json.loads(text) if text.endswith(b"\n") and readable(text) else None
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def readable(text: bytes) -> bool:
    """Whether an answer is short enough, and of few enough lists, to be read at all."""
    return len(text) <= codec.MAX_ANSWER and text.count(b"[") + text.count(b"{") <= codec.MAX_LISTS


def refusal(
    answers: Iterator[bytes], mode: ProgramMode, outcome: Callable[[], Outcome], tests: int, allowance: Allowance
) -> ProgramVerdict | None:
    """The verdict on a program that cannot be compiled, or does not come through its own statements; None: it does.

    Raises:
        SandboxError: the stub did not start, which no program can be blamed for.
    """
    if fields_of(next(answers, b"")) != {"ready": True}:
        raise SandboxError(
            f"the harness did not start in the sandbox: {outcome().stderr[-500:].decode('utf-8', 'replace')}"
        )
    steps = {"compiled": "is not Python", "loaded": "fails before its first test"}
    for step in list(steps)[: 1 if mode == "stdin" else 2]:
        fields = fields_of(next(answers, b"")) or {}
        if fields.get(step) is True:
            continue
        compiled = step != "compiled"
        if "error" in fields:
            return refused(tests, f"the program {steps[step]}: {exception_text(fields)}", compiled=compiled)
        silent = ending(outcome(), allowance)
        return refused(tests, f"the program {silent.why}", compiled=compiled, timed_out=silent.timed_out)
    return None


def exception_text(fields: Mapping[str, Any]) -> str:
    """`ValueError: what it said`."""
    texts = (fields.get(key) for key in ("error", "message"))
    return cut(": ".join(text for text in texts if isinstance(text, str) and text)) or "an exception without a name"


def ending(outcome: Outcome, allowance: Allowance) -> NoAnswer:
    """Why there are no further answers."""
    match outcome.end, outcome.code:
        case "timeout" | "cpu", _:
            return NoAnswer(f"took longer than {allowance.program_timeout_s:g} s for all tests", timed_out=True)
        case ("answer", _) | ("signal", signal.SIGALRM):
            return NoAnswer(f"took longer than {allowance.timeout_s:g} s", timed_out=True)
        case "signal", code:
            return NoAnswer(f"ended by signal {code}")
        case "exit", code:
            return NoAnswer(f"ended with exit status {code}")
        case "memory", _:
            return NoAnswer(f"used more than {allowance.memory_mb} MB of memory")
        case "output", _:
            return NoAnswer(f"gave more than {OUTPUT_BYTES} bytes of answers to all tests")
        case end, _:
            return NoAnswer(f"used more {end} than allowed")


def ask(
    sandbox: Sandbox, program: Program, mode: ProgramMode, requests: Sequence[bytes], allowance: Allowance
) -> ProgramVerdict | list[bytes | NoAnswer]:
    """One answer line to each request, all made in one start of the sandbox; `NoAnswer` from
    where the program was gone. A verdict: it was not even asked.

    Raises:
        SandboxError: the sandbox failed.
    """
    ask_all = _ask_in_turn if sandbox.interactive else _ask_at_once
    answers = ask_all(sandbox, program, mode, requests, allowance)
    if isinstance(answers, ProgramVerdict):
        return answers
    return answers + [NoAnswer("was not tried: the program had ended")] * (len(requests) - len(answers))


def _ask_in_turn(
    sandbox: Sandbox, program: Program, mode: ProgramMode, requests: Sequence[bytes], allowance: Allowance
) -> ProgramVerdict | list[bytes | NoAnswer]:
    """Each request only when the one before has its answer: none can be read ahead, and each has its own time."""
    answers: list[bytes | NoAnswer] = []
    with sandbox.open(STUB, program.files(), allowance.limits) as session:
        session.send(program.start(mode, allowance.timeout_s))
        verdict = refusal(first_lines(session, allowance), mode, session.outcome, len(requests), allowance)
        if verdict is not None:
            return verdict
        for request in requests:
            answers.append(answer_to(session, request, allowance))
            if isinstance(answers[-1], NoAnswer):
                break
    return answers


def _ask_at_once(
    sandbox: Sandbox, program: Program, mode: ProgramMode, requests: Sequence[bytes], allowance: Allowance
) -> ProgramVerdict | list[bytes | NoAnswer]:
    """For a service. The time of a single test is kept inside only, that of all of them by the service."""
    stdin = program.start(mode, allowance.timeout_s) + b"".join(requests)
    outcome = sandbox.run(STUB, program.files(), stdin, allowance.limits)
    lines = iter(io.BytesIO(outcome.stdout))
    if (verdict := refusal(lines, mode, lambda: outcome, len(requests), allowance)) is not None:
        return verdict
    answers: list[bytes | NoAnswer] = list(islice(lines, len(requests)))
    return answers if len(answers) == len(requests) else [*answers, ending(outcome, allowance)]


def first_lines(session: Session, allowance: Allowance) -> Iterator[bytes]:
    """What the stub says first: two lines before the program runs, then one that has the time of a test."""
    for timeout_s in (math.inf, math.inf, allowance.timeout_s + GRACE_S):
        yield session.receive_line(timeout_s) or b""


def answer_to(session: Session, request: bytes, allowance: Allowance) -> bytes | NoAnswer:
    """The line that answers a request; `NoAnswer`: the program is gone, by itself or because its time was over."""
    session.send(request)
    answer = session.receive_line(allowance.timeout_s + GRACE_S)
    return answer if answer is not None and answer.endswith(b"\n") else ending(session.outcome(), allowance)
