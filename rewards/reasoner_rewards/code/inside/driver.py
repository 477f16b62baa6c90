"""Runs the tests, in a sandbox without the model's program: what the program defines is reached through `Remote`.

The first line of standard input is what to run (`serve`). From then on every line of standard output is either a
request about the program, in the form that `stub.py` takes and answered in its form, or a result:

    {"result": n, "passed": .., "note": .., "ended": ..}      test n, in order; ended: the program did not fail in it
    {"broken": text}                                          the tests themselves cannot be run
    {"done": true}                                            all of them were

The program reaches the tests by plain values, by exceptions of builtin types, and by objects that nothing here
believes: they are equal to themselves only and have no truth value.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import json
import operator
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

sys.dont_write_bytecode = True
sys.path.insert(0, "")
import codec  # type: ignore[import-not-found]  # noqa: E402

sys.path.pop(0)

MAX_NOTE = 300
"""characters"""
REACHED = "reached the end of an assertion"
"""name of the function that the tests call after every assertion: no test can name it"""


class BrokenError(Exception):
    """The tests cannot be run; nothing that the program did is the reason."""


class RefusedError(BaseException):
    """The program is gone, or did what no test can go on with; no `except Exception` of a test stops it."""


class Program:
    """The program, at the other end of this process's standard streams."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(0), "rb")
        self._requests = os.dup(1)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        self.raised: BaseException | None = None
        """what its last exception became here"""
        self._objects: dict[int, Remote] = {}
        self.timeout_s = 0.0

    def first_line(self) -> dict[str, Any]:
        """What to run."""
        given: dict[str, Any] = json.loads(self._answers.readline())
        self.timeout_s = given["timeout_s"]
        return given

    def say(self, **fields: Any) -> None:
        """Write one line."""
        line = json.dumps(fields).encode() + b"\n"
        while line:
            line = line[os.write(self._requests, line) :]

    def ask(self, operation: str, /, *values: Any, **keywords: Any) -> Any:
        """Have something done and return what it gives: a plain value or a `Remote`.

        Raises:
            StopIteration: operation `next`, and there is none.
            RefusedError: no answer, or one that is malformed.
        """
        try:
            encoded = [codec.encode(value, self._sent) for value in values]
            named = {name: codec.encode(value, self._sent) for name, value in keywords.items()}
        except codec.NotPlainError as error:
            raise BrokenError(f"a test hands something to the program that cannot be handed over: {error}") from None
        except codec.CodecError as error:
            raise RefusedError(str(error)) from None
        self.say(op=operation, values=encoded, keywords=named, timeout_s=self.timeout_s)
        try:
            answer = json.loads(self._answers.readline())
            if "value" in answer:
                return codec.decode(answer["value"], self._received)
            if "gone" in answer:
                raise RefusedError(answer["gone"])
            kind, message = answer.get("error"), str(answer.get("message"))
        except (ValueError, RecursionError, AttributeError, TypeError) as error:
            raise RefusedError(f"the program gave no answer that can be read: {error}") from None
        if kind is None and operation == "next":
            raise StopIteration
        self.raised = exception(str(kind), message)
        raise self.raised

    def _sent(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return target_of(value)
        name = getattr(value, "__name__", "")
        if isinstance(name, str) and getattr(builtins, name, None) is value:
            return ["n", name]
        raise codec.NotPlainError(f"not a plain value: {type(value).__name__}")

    def _received(self, data: list[Any]) -> Remote:
        tag, number, kind = data
        if tag != "h" or type(number) is not int or type(kind) is not str:
            raise codec.CodecError("not a handle")
        if number not in self._objects:
            self._objects[number] = Remote(self, data, kind)
        return self._objects[number]


def exception(kind: str, message: str) -> Exception:
    """The builtin exception of that name with that message; RuntimeError where there is none, or none that is tame."""
    type_ = getattr(builtins, kind, None)
    if isinstance(type_, type) and issubclass(type_, Exception) and not issubclass(type_, StopIteration):
        with contextlib.suppress(TypeError):
            return type_(message)
    return RuntimeError(f"{kind}: {message}")


class Remote:
    """Something of the program's that is not plain: a function, a class, an object. What it can do, it does there.

    It has no attributes of its own but those with two underscores: any other may be one of the object's.
    """

    __slots__ = ("__kind", "__program", "__target")

    def __init__(self, program: Program, target: list[Any], kind: str) -> None:
        for name, value in (("program", program), ("target", target), ("kind", kind)):
            object.__setattr__(self, f"_Remote__{name}", value)

    def __call__(self, /, *values: Any, **keywords: Any) -> Any:
        return self.__program.ask("call", self, *values, **keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{name} of an object of the program")
        return self.__program.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__program.ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self.__program.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__program.ask("setitem", self, key, value)

    def __len__(self) -> Any:
        return self.__program.ask("len", self)

    def __iter__(self) -> Iterator[Any]:
        iterator = self.__program.ask("iter", self)
        with contextlib.suppress(StopIteration):
            while True:
                yield self.__program.ask("next", iterator)

    def __next__(self) -> Any:
        return self.__program.ask("next", self)

    def __bool__(self) -> bool:
        raise RefusedError(f"a test asks whether {self!r} is true; only plain values are")

    def __repr__(self) -> str:
        return f"<{self.__kind} of the program>"


target_of: Callable[[Remote], list[Any]] = operator.attrgetter("_Remote__target")
"""how the program's side calls it"""


class Instrument(ast.NodeTransformer):
    """Adds to every assertion that it was passed; collects the numbers of those that must be."""

    def __init__(self) -> None:
        self.assertions: dict[int, ast.Assert] = {}

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        """The assertion, and a call after it. One of a constant that is false must not be passed."""
        if isinstance(node.test, ast.Constant) and not node.test.value:
            return [node]
        self.assertions[len(self.assertions)] = node
        number = ast.Constant(len(self.assertions) - 1)
        after = ast.Expr(ast.Call(ast.Name(REACHED, ast.Load()), [number], []))
        return [node, ast.fix_missing_locations(ast.copy_location(after, node))]


def run(source: str, file: str, names: dict[str, Any]) -> str:
    """Why a piece of the tests fails; empty: it ran to its end and passed each of its assertions."""
    instrument = Instrument()
    tree = instrument.visit(ast.parse(source))
    missing = dict(instrument.assertions)
    names[REACHED] = lambda number: missing.pop(number, None)
    exec(compile(tree, file, "exec"), names)
    return "".join(f"never reached: {ast.unparse(node)}" for node in list(missing.values())[:1])


def attempt(source: str, file: str, names: dict[str, Any], program: Program) -> tuple[str, bool]:
    """As `run`, and whatever comes out of it is a reason; then, whether the program did not fail in it.

    Raises:
        BrokenError: it needs a module that is not there, or hands the program what cannot be handed over.
    """
    try:
        return run(source, file, names), True
    except BrokenError:
        raise
    except BaseException as error:
        theirs = error is program.raised or isinstance(error, RefusedError)
        if isinstance(error, ImportError) and not theirs:
            raise BrokenError(f"{type(error).__name__}: {error}") from None
        lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        place = source.splitlines()[lines[-1] - 1].strip() if lines else ""
        kind = "" if isinstance(error, (AssertionError, RefusedError)) else f"{type(error).__name__}: "
        return ": ".join(part for part in (f"{kind}{error}", place) if part) or "it failed", not theirs


def serve(program: Program) -> None:
    """Run what the first line says.

    prelude    source that comes before everything: helpers of the problem
    names      what the program defines, as the tests call it
    setup      source that runs once after it
    tests      sources, each one a test
    timeout_s  seconds for each thing that the program does
    """
    given = program.first_line()
    names: dict[str, Any] = {"__name__": "tests"}
    exec(compile(given["prelude"], "<prelude>", "exec"), names)
    names |= {name: Remote(program, ["g", name], name) for name in given["names"]}
    setup, ended = attempt(given["setup"], "<setup>", names, program)
    for number, source in enumerate(given["tests"]):
        note, ended = (f"setup: {setup}", ended) if setup else attempt(source, "<test>", names, program)
        program.say(result=number, passed=not note, note=note[:MAX_NOTE], ended=ended)


def main() -> None:
    """Serve, and say how it ended."""
    program = Program()
    try:
        serve(program)
    except Exception as error:
        program.say(broken=f"{error if isinstance(error, BrokenError) else repr(error)}"[:MAX_NOTE])
    else:
        program.say(done=True)
    os._exit(0)  # without waiting for threads and exit handlers of the tests


if __name__ == "__main__":
    main()
