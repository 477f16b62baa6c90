"""Runs the tests, in a sandbox without the model's program: what the program defines is asked for over a pipe.

The first line of standard input is what to run (`serve`). From then on every line of standard output is either a
request about the program, in the form that `objects.py` takes and answered in its form, or a result:

    {"result": n, "passed": .., "note": .., "ended": ..}      test n, in order; ended: the program did not fail in it
    {"broken": text}                                          the tests cannot be run, or not be judged as Python does
    {"done": true}                                            all of them were

The program reaches the tests by plain values, by changes of what they handed to it (`heap.py`), by exceptions, and by
objects that are asked for what they do and believed in nothing that the problem does not ask them for (`remote.py`).
"""

from __future__ import annotations

import _thread
import ast
import builtins
import contextlib
import json
import operator
import os
import sys
import traceback
import types
import warnings
from collections.abc import Iterator
from typing import Any

sys.dont_write_bytecode = True
sys.path.insert(0, "")
import codec  # type: ignore[import-not-found]  # noqa: E402
import heap  # type: ignore[import-not-found]  # noqa: E402
import library  # type: ignore[import-not-found]  # noqa: E402, F401  (before files are watched)
from remote import (  # type: ignore[import-not-found]  # noqa: E402
    BASES,
    LINK,
    MADE,
    MAX_NOTE,
    TAME,
    BrokenError,
    Operators,
    RefusedError,
    RemoteType,
    is_instance,
    is_subclass,
    mirror_class,
)

sys.path.pop(0)

REACHED = "reached the end of an assertion"
"""name of the function that the tests call after every assertion: no test can name it"""
SAME = "are one object"
"""name of the function that the tests call for `is`"""
UNSHARED = 3
"""references to an object that only its table, and who counts them, holds"""
SINGLE = {"NotImplemented": NotImplemented, "Ellipsis": ...}
FUNCTIONS = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.MethodWrapperType,
    type,
)
"""what is handed over as a function of the tests"""
FILES = frozenset({"open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.scandir", "subprocess.Popen"})
"""what a test does with files, by the names of audit events: the program has others"""


class Program(heap.Heap):  # type: ignore[misc]
    """The program, at the other end of this process's standard streams, and what the tests share with it."""

    REFERENCES = frozenset({"h", "C", "n", "x", "T", "I"})

    def __init__(self) -> None:
        super().__init__(0)
        self._answers = os.fdopen(os.dup(0), "rb")
        self._requests = os.dup(1)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        self.raised: BaseException | None = None
        """what its last exception became here"""
        self.broken: BrokenError | None = None
        """why the tests cannot be judged, also where they caught that"""
        self.operators = Operators(None)
        self.expects_stop = False
        """whether a test speaks of StopIteration"""
        self._lent: set[int] = set()
        """functions and iterators of the tests that the program may hold"""
        self.world = World()
        self._lock = _thread.RLock()
        self._waiting = 0
        """threads of the tests that have something to ask: one asks at a time"""
        self.timeout_s = 0.0

    def first_line(self) -> dict[str, Any]:
        """What to run."""
        answer: dict[str, Any] = json.loads(self._answers.readline())
        self.timeout_s = answer["timeout_s"]
        self.operators = Operators(answer["operators"])
        self.expects_stop = any("StopIteration" in test for test in answer["tests"])
        return answer

    def say(self, **fields: Any) -> None:
        """Write one line."""
        line = json.dumps(fields, separators=(",", ":")).encode() + b"\n"
        while line:
            line = line[os.write(self._requests, line) :]

    def cannot_judge(self, why: str) -> BrokenError:
        """To be raised; a test that swallows it does not pass by that."""
        self.broken = BrokenError(why)
        return self.broken

    def ask(self, operation: str, /, *values: Any, **keywords: Any) -> Any:
        """Have something done and return what it gives.

        Raises:
            StopIteration: operation `__next__`, and there is none.
            RefusedError: no answer, or one that is malformed.
        """
        if (change := self.world.change()) is not None:
            raise self.cannot_judge(f"a test changes {change}, which the program has for itself")
        self._waiting += 1
        with self._lock:
            self._waiting -= 1
            if (limit := self.world.new_limit()) is not None:
                self._answer("recursion", [limit], {})
            answer = self._answer(operation, values, keywords)
            while "call" in answer:
                answer = self._called(answer)
        if answer.get("stop") is True and operation == "__next__":
            raise StopIteration(answer["value"])
        if "value" in answer:
            value = answer["value"]
            if (
                isinstance(type(value), RemoteType)
                and values
                and (id(values[0]) in MADE or self.operators.has(values[0]))
            ):
                MADE.add(id(value))
            return value
        self.raised = raised(answer, operation)
        raise self.raised

    def _answer(self, operation: str, values: Any, keywords: dict[str, Any]) -> dict[str, Any]:
        try:
            encoded = [self.encode(value) for value in values]
            named = {name: self.encode(value) for name, value in keywords.items()}
            changed = self.changes()
        except codec.NotPlainError as error:
            raise self.cannot_judge(
                f"a test hands something to the program that cannot be handed over: {error}"
            ) from None
        except codec.CodecError as error:
            raise self.cannot_judge(str(error)) from None
        dropped = [*self._dropped()]
        self.say(op=operation, values=encoded, keywords=named, timeout_s=self.timeout_s, heap=changed, forget=dropped)
        try:
            return self._read(json.loads(self._answers.readline()))
        except (ValueError, RecursionError, AttributeError, TypeError, LookupError) as error:
            raise RefusedError(f"the program gave no answer that can be read: {error}"[:MAX_NOTE]) from None

    def _dropped(self) -> Iterator[int]:
        """Objects that no test holds any more: those that others hold come after these."""
        for number in sorted(self.objects):
            if number in self._lent or isinstance(self.objects[number], type):
                continue
            if sys.getrefcount(self.objects[number]) >= UNSHARED:
                continue
            MADE.discard(id(self.objects[number]))
            self.forget(number)
            yield number

    def _read(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "gone" in answer and self._waiting:
            raise self.cannot_judge("a test asks the program from several threads at a time")
        if "gone" in answer:
            raise RefusedError(answer["gone"])
        for number, described in answer.get("types", ()):
            if number not in self.objects:
                self.keep(number, mirror_class(described, self.objects))
        self.receive(answer.get("heap", []))
        for text, stream in zip(answer.get("printed", ()), (sys.stdout, sys.stderr), strict=False):
            if text:
                stream.write(text)
        for name in ("value", "values", "keywords", "raised", "cause"):
            if name in answer:
                answer[name] = self.decode(answer[name])
        return answer

    def _called(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The program calls a function of the tests."""
        if answer["call"] not in self._lent:
            raise RefusedError("the program calls what the tests did not hand to it")
        function = self.objects[answer["call"]]
        values, keywords = answer.pop("values"), answer.pop("keywords")
        try:
            result = next(function) if isinstance(function, Iterator) else function(*values, **keywords)
        except (BrokenError, RefusedError):
            raise
        except BaseException as error:
            return self._answer("raise", [error], {})
        return self._answer("return", [result], {})

    def type_number(self, own: type) -> int:
        """Of a class of the program's."""
        number: int = self.numbers[id(own)]
        return number

    def refer(self, value: Any, depth: int) -> Any:
        """How the program's side names it."""
        if isinstance(type(value), RemoteType) or isinstance(value, RemoteType):
            return ["h", self.numbers[id(value)]]
        name = getattr(value, "__name__", None) if not isinstance(value, (str, bytes)) else None
        if value is ... or value is NotImplemented:
            return ["n", str(value)]
        if isinstance(name, str) and getattr(builtins, name, None) is value:
            return ["n", name]
        if isinstance(value, BaseException) and getattr(builtins, type(value).__name__, None) is type(value):
            return ["x", type(value).__name__, self.encode(value.args, depth - 1)]
        module = getattr(value, "__module__", None) if callable(value) else None
        if isinstance(module, str) and module.partition(".")[0] in sys.stdlib_module_names:
            place = str(getattr(value, "__qualname__", name))
            with contextlib.suppress(AttributeError, TypeError):
                if operator.attrgetter(place)(sys.modules[module]) is value:
                    return ["m", module, place]
        if isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools"):
            return ["I", self._lend(value)]
        if isinstance(value, FUNCTIONS) or (callable(value) and type(value).__module__ in ("functools", "operator")):
            return ["T", self._lend(value), name or "function", value.__doc__, parameters(value)]
        raise codec.NotPlainError(f"not a plain value: {type(value).__name__}")

    def _lend(self, value: Any) -> int:
        number: int = self.number(value)
        self._lent.add(number)
        return number

    def referred(self, data: list[Any]) -> Any:
        """What the program named."""
        tag, name, *rest = data
        if tag in ("T", "I", "C"):
            return self.objects[name]
        if tag == "n":
            return SINGLE[name] if name in SINGLE else known(name)
        if tag == "x":
            if name == "StopIteration" and self.expects_stop:
                raise self.cannot_judge("the program raises StopIteration where it is not asked for a next element")
            return exception(name, self.decode(rest[0]))
        if name not in self.objects:
            own, *value = rest
            self.keep(name, instance(self.objects[own], [self.decode(item) for item in value]))
        return self.objects[name]


def parameters(function: Any) -> list[list[Any]] | None:
    """Name, kind and, where there is one, the default of each; None: nobody knows."""
    import inspect

    try:
        declared = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    scalar = heap.SCALARS
    return [
        [base.name, int(base.kind)]
        + ([base.default if type(base.default) in scalar else None] if base.default is not inspect._empty else [])
        for base in declared
    ]


def known(name: str) -> Any:
    """A builtin class of that name that does no harm; a program that names another one has named none."""
    cls = BASES.get(name) or vars(builtins).get(name)
    if not isinstance(cls, type) or (name not in BASES and not issubclass(cls, BaseException)):
        raise codec.CodecError("not a class that is known")
    return cls


def instance(own: Any, value: list[Any]) -> Any:
    """An object of one of the program's classes; `value`: what it is as a plain one, or an exception's arguments."""
    if not isinstance(own, RemoteType):
        raise codec.CodecError("not a class of the program's")
    if issubclass(own, BaseException):
        return own.__new__(own, *(value[0] if value else ()))
    base = next((cls for cls in own.__mro__ if not isinstance(cls, RemoteType)), object)
    return base.__new__(own, *value) if base is not object else object.__new__(own)


def exception(kind: str, values: Any) -> BaseException:
    """A builtin exception; RuntimeError where there is none of that name, or none that is tame."""
    with contextlib.suppress(TypeError, ValueError):
        if kind in TAME:
            return TAME[kind](*values)  # type: ignore[no-any-return]
    return RuntimeError(f"{kind}: {values[0] if values else ''}"[:MAX_NOTE])


def raised(answer: dict[str, Any], operation: str) -> BaseException:
    """The exception of an answer."""
    error = answer.get("raised")
    if isinstance(error, BaseException):
        cause = answer.get("cause")
        if isinstance(cause, BaseException):
            error.__cause__ = cause
        return error
    return exception(str(answer.get("error")), (str(answer.get("message")),))


class Names(dict[str, Any]):
    """The names of the tests; those that the program defines are asked of it."""

    def __init__(self, program: Program, program_names: list[str]) -> None:
        super().__init__(__name__="tests", isinstance=is_instance, issubclass=is_subclass)
        self._program, self._theirs = program, frozenset(program_names)

    def __missing__(self, name: str) -> Any:
        if name not in self._theirs:
            raise KeyError(name)
        value = self._program.ask("global", name)
        if isinstance(value, RemoteType) or type(value).__name__ == "function":
            self[name] = value
        return value


class Instrument(ast.NodeTransformer):
    """Adds to every assertion that it was passed; collects the numbers of those that must be."""

    def __init__(self) -> None:
        self.assertions: dict[int, ast.Assert] = {}

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        """The assertion, and a call after it. One of a constant that is false must not be passed."""
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant) and not node.test.value:
            return [node]
        self.assertions[len(self.assertions)] = node
        number = ast.Constant(len(self.assertions) - 1)
        after = ast.Expr(ast.Call(ast.Name(REACHED, ast.Load()), [number], []))
        return [node, ast.fix_missing_locations(ast.copy_location(after, node))]

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """`a is b` as a question that knows when it has no answer here."""
        self.generic_visit(node)
        if len(node.ops) != 1 or not isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            return node
        sides = [node.left, *node.comparators]
        if any(isinstance(side, ast.Constant) for side in sides):
            return node
        asked: ast.expr = ast.Call(ast.Name(SAME, ast.Load()), sides, [])
        if isinstance(node.ops[0], ast.IsNot):
            asked = ast.UnaryOp(ast.Not(), asked)
        return ast.fix_missing_locations(ast.copy_location(asked, node))


def same(one: Any, other: Any) -> bool:
    """`is`; whether equal values that cannot change are one object, is not known of what came from the program."""
    if one is other:
        return True
    kind = type(one)
    if kind is type(other) and kind in (int, float, complex, str, bytes, tuple, frozenset, range) and one == other:
        raise LINK[0].cannot_judge(f"a test asks whether two equal values of type {kind.__name__} are one object")
    return False


def run(source: str, file: str, names: dict[str, Any]) -> str:
    """Why a piece of the tests fails; empty: it ran to its end and passed each of its assertions."""
    instrument = Instrument()
    tree = instrument.visit(ast.parse(source))
    missing = dict(instrument.assertions)
    names[REACHED] = lambda number: missing.pop(number, None)
    names[SAME] = same
    exec(compile(tree, file, "exec"), names)
    return "".join(f"never reached: {ast.unparse(node)}" for node in list(missing.values())[:1])


def attempt(source: str, file: str, names: dict[str, Any], program: Program) -> tuple[str, bool]:
    """As `run`, and whatever comes out of it is a reason; then, whether the program did not fail in it.

    Raises:
        BrokenError: it needs a module that is not there, or cannot be judged as plain Python judges it.
    """
    try:
        note, ended = run(source, file, names), True
    except BaseException as error:
        from_program = error is program.raised or isinstance(error, RefusedError)
        if isinstance(error, ImportError) and not from_program:
            raise BrokenError(f"{type(error).__name__}: {error}") from None
        frames = traceback.walk_tb(error.__traceback__)
        lines = [number for frame, number in frames if frame.f_code.co_filename == file]
        place = source.splitlines()[lines[-1] - 1].strip() if lines else ""
        kind = "" if isinstance(error, (AssertionError, RefusedError)) else f"{type(error).__name__}: "
        note = ": ".join(part for part in (f"{kind}{said(error)}", place) if part) or "it failed"
        ended = not from_program
    if program.broken is not None:
        raise program.broken
    return note, ended


def said(error: BaseException) -> str:
    """Its message."""
    try:
        return str(error)
    except BaseException as worse:
        return f"its message raises {type(worse).__name__}"


class World:
    """What a test may change of its process in order to change what the program does; the program has another one."""

    def __init__(self) -> None:
        self._was = self._now()
        self._limit = sys.getrecursionlimit()

    def _now(self) -> dict[str, Any]:
        return {
            "standard input": sys.stdin,
            "input": builtins.input,
            "open": builtins.open,
            "the environment": dict(os.environ),
            "the arguments of the process": [*sys.argv],
            "the working directory": os.getcwd(),
            "functions by unittest.mock": "unittest.mock" in sys.modules,
            "how warnings are shown": getattr(sys.modules.get("warnings"), "_showwarnmsg_impl", None),
            "the handlers of logs": [*logs.root.handlers] if (logs := sys.modules.get("logging")) else [],
        }

    def change(self) -> str | None:
        """What is not as it was."""
        now = self._now()
        return None if now == self._was else next(name for name in now if now[name] != self._was[name])

    def new_limit(self) -> int | None:
        """The recursion limit, if it has changed."""
        if sys.getrecursionlimit() == self._limit:
            return None
        self._limit = sys.getrecursionlimit()
        return self._limit


def watch_files(program: Program) -> None:
    """A test that reads or writes files cannot be judged: the program's are in another folder."""
    allowed = tuple({os.path.dirname(os.__file__), sys.base_prefix, *filter(None, sys.path)})

    def check(event: str, path: Any) -> None:
        if not isinstance(path, int) and not os.fsdecode(path).startswith((*allowed, os.devnull, "<")):
            raise program.cannot_judge(f"a test works with files, which the program does not share: {event} {path!r}")

    def look(event: str, values: Any) -> None:
        if event in FILES:
            check(event, "." if values[0] is None else values[0])

    def watched(name: str, do: Any) -> Any:
        def stat(path: Any, *values: Any, **keywords: Any) -> Any:
            check(name, path)
            return do(path, *values, **keywords)

        return stat

    os.stat, os.lstat = watched("stat", os.stat), watched("lstat", os.lstat)
    sys.addaudithook(look)
    warnings.showwarning = lambda *_, **__: None  # it would look for the line in a file


def share_seeds(program: Program) -> None:
    """A seed that a test sets is the program's, too."""
    import random

    seed = random.seed

    def both(*values: Any, **keywords: Any) -> None:
        seed(*values, **keywords)
        program.ask("seed", *values, **keywords)

    random.seed = both


def serve(program: Program) -> None:
    """Run what the first line says.

    prelude    source that comes before everything: helpers of the problem
    names      what the program defines, as the tests call it
    operators  names of the operators that each class of the reference program defines; None: there is none
    setup      source that runs once after it
    tests      sources, each one a test
    timeout_s  seconds for each thing that the program does
    """
    request = program.first_line()
    names = Names(program, request["names"])
    exec(compile(request["prelude"], "<prelude>", "exec"), names)
    for name in request["names"]:
        names.pop(name, None)
    if any("random" in text for text in (request["setup"], *request["tests"])):
        share_seeds(program)
    watch_files(program)
    program.world = World()
    setup, ended = attempt(request["setup"], "<setup>", names, program)
    for number, source in enumerate(request["tests"]):
        note, ended = (f"setup: {setup}", ended) if setup else attempt(source, "<test>", names, program)
        program.say(result=number, passed=not note, note=note[:MAX_NOTE], ended=ended)


def main() -> None:
    """Serve, and say how it ended."""
    program = Program()
    LINK.append(program)
    try:
        serve(program)
    except BrokenError as error:
        program.say(broken=str(error)[:MAX_NOTE])
    except Exception as error:
        program.say(broken=repr(error)[:MAX_NOTE])
    else:
        program.say(done=True)
    os._exit(0)  # without waiting for threads and exit handlers of the tests


if __name__ == "__main__":
    main()
