"""Runs tests in one process with the model's program, as plain Python would: `harness = "inside"`.

This process never runs the program itself. It forks a child for each test, which does both and reports; what comes out
is relayed to whoever asks. Requests are lines on standard input, answers lines on standard output, both JSON:

    {"files": [...], "setup": text, "tests": [texts], "theirs": [names]}    names that the program defines
    -> {"ready": true}, {"compiled": ...} as `stub.py`, then {"broken": text}, empty unless the tests cannot be run
    {"test": number, "timeout_s": s} -> {"passed": .., "note": .., "ended": .., "timed_out": .., "loaded": ..}

A program that goes to the trouble can make its child report what it likes: docs/code.md says how. What it cannot do by
accident, or by the usual tricks, is to pass: a child that passed must have executed an assertion, found what the tests
use unchanged, and written a key that is made after its fork and lies in a pipe until its test is over.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import json
import os
import sys
import time
import traceback
import types

TYPE_CHECKING = False  # as in codec.py
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

sys.dont_write_bytecode = True
sys.path.insert(0, "")
import stub  # type: ignore[import-not-found]  # noqa: E402

sys.path.pop(0)

MAX_NOTE = 300
"""characters"""
MAX_REPORT = 2**14
"""bytes that a child may write"""
KEY_BYTES = 32
MODULE_NAMES = frozenset(("__doc__", "__spec__", "__loader__", "__file__", "__cached__", "__warningregistry__"))
"""of every module; importing a submodule may change them"""
REACHED = "executed an assertion"
"""name of the function that a test calls after every assertion: no program can name it by itself"""
EQUAL = "equal to"
"""name of the function that compares in place of `==` in a test"""
BUILTIN = "builtin "
"""before a name that stands for Python's own, whatever the program makes of the name"""


class Tests(ast.NodeTransformer):
    """Makes the source of tests say that an assertion was passed, and use Python's own builtins.

    `theirs` are names that the program defines; whatever the tests bind themselves is left alone, too.
    """

    def __init__(self, program_names: set[str], trees: list[ast.Module]) -> None:
        bound = {name for tree in trees for node in ast.walk(tree) for name in bound_names_of(node)}
        own = {name for name in vars(builtins) if not name.startswith("__")} - {"super"}  # the compiler looks for it
        self.protected = own - program_names - bound
        self.assertions = 0

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        """The assertion, and a call after it. One of a constant that is false must not be passed."""
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant) and not node.test.value:
            return [node]
        self.assertions += 1
        after = ast.Expr(ast.Call(ast.Name(REACHED, ast.Load()), [], []))
        return [node, ast.fix_missing_locations(ast.copy_location(after, node))]

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """`a == b` through `Compared`, which sees objects that are equal to everything."""
        self.generic_visit(node)
        if len(node.ops) != 1 or not isinstance(node.ops[0], ast.Eq):
            return node
        call = ast.Call(ast.Name(EQUAL, ast.Load()), [node.left, node.comparators[0]], [])
        return ast.fix_missing_locations(ast.copy_location(call, node))

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """A builtin under its other name."""
        protected = isinstance(node.ctx, ast.Load) and node.id in self.protected
        return ast.copy_location(ast.Name(BUILTIN + node.id, node.ctx), node) if protected else node


def bound_names_of(node: ast.AST) -> Iterator[str]:
    """The names that a node binds, in whatever scope."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).partition(".")[0]
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name


def imported(trees: list[ast.Module]) -> list[str]:
    """Names of the modules that they import, without what is in them."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return sorted({name.partition(".")[0] for name in names} - {"program", "__main__", "__future__"})


class Compared:
    """Compares as `==` does, and tries whether what equals a plain value equals anything."""

    def __init__(self) -> None:
        self.note = ""

    def __call__(self, left: Any, right: Any) -> Any:
        """`left == right`."""
        equal = left == right
        kinds = [type(value) for value in (left, right) if type(value).__module__ not in ("builtins", "unittest.mock")]
        value = right if type(left).__module__ == "builtins" else left
        if len(kinds) == 1 and equal_to_anything(value):
            self.note = f"an object of type {kinds[0].__name__} is equal to everything"
        return equal


def equal_to_anything(value: Any) -> bool:
    """Whether it says that it equals an object of a class that it cannot know."""
    try:
        equal = value == object()
        return isinstance(equal, int) and bool(equal)  # not an array of answers
    except BaseException:
        return False


class Unchanged:
    """What the tests rely on: builtins and the modules that they import, as they are before the program runs."""

    def __init__(self, modules: list[str]) -> None:
        self._modules = {name: __import__(name) for name in modules}
        kept = {
            name: module for name, module in self._modules.items() if module is not sys
        }  # streams come and go there
        self._contents = [(f"{name}.", vars(module), dict(vars(module))) for name, module in kept.items()]
        self._builtins = [("builtins.", vars(builtins), dict(vars(builtins)))]
        self._tracers = (sys.gettrace, sys.getprofile)

    def after_loading(self) -> str:
        """What the program changed; empty: nothing. Modules that it replaced are put back."""
        sys.modules.update(self._modules)
        return changed(self._contents) or self.after_testing()

    def after_testing(self) -> str:
        """What was changed of builtins and tracing; empty: nothing."""
        traced = [tracer for tracer in self._tracers if tracer() is not None]
        return changed(self._builtins) or ("the program set a trace function" if traced else "")


def changed(contents: list[tuple[str, dict[str, Any], dict[str, Any]]]) -> str:
    """The first name in a namespace that is no longer what it was. It calls no builtin: they may have been changed."""
    for where, now, before in contents:
        for name, value in before.items():
            if now.get(name) is not value and name != "_" and name not in MODULE_NAMES:
                return f"the program changed {where}{name}"
    return ""


class Run:
    """The program and its tests, in a child."""

    def __init__(self, codes: list[types.CodeType], setup: types.CodeType, modules: list[str]) -> None:
        self.codes, self.setup, self.modules = codes, setup, modules

    def note(self, test: types.CodeType, source: str, tests: Tests) -> dict[str, Any]:
        """Why the test is not passed (`note`), whether the program failed in it (`ended`); an empty dict: passed."""
        unchanged = Unchanged(self.modules)
        reached: list[bool] = []
        compared = Compared()
        own = {BUILTIN + name: value for name, value in vars(builtins).items()}
        own |= {EQUAL: compared, REACHED: lambda: reached.append(True)}
        module = types.ModuleType("program")
        sys.modules.update({"program": module, "__main__": module})
        for harness in ("stub", "codec"):
            del sys.modules[harness]
        names = module.__dict__
        try:
            for code in self.codes:
                exec(code, names)
        except BaseException as error:
            return {"loaded": False, "note": message(error), "ended": False}
        if why := unchanged.after_loading():
            return {"note": why}
        names |= own
        try:
            exec(self.setup, names)
            exec(test, names)
        except BaseException as error:
            texts = (message(error), place(error, source))
            return {"note": ": ".join(filter(None, texts)), "ended": isinstance(error, AssertionError)}
        if "builtins" not in source and (why := unchanged.after_testing()):
            return {"note": why}
        if not reached and tests.assertions:
            return {"note": "no assertion was executed"}
        return {"note": compared.note} if compared.note else {}


def message(error: BaseException) -> str:
    """`ValueError: what it said`; of an assertion only that."""
    described = stub.described(error)
    if described["error"] == "AssertionError":
        return str(described["message"])
    return ": ".join(part for part in (described["error"], described["message"]) if part)


def place(error: BaseException, source: str) -> str:
    """The line of the test that failed."""
    lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<test>"]
    return source.splitlines()[lines[-1] - 1].strip() if lines else ""


def attempt(run: Run, test: types.CodeType, source: str, tests: Tests, report: int, key: int) -> None:
    """In a child: run the test, report, and end. What the program can replace is looked up before."""
    write, read, leave, dumps = os.write, os.read, os._exit, json.dumps
    note = run.note(test, source, tests)
    if note:
        write(report, dumps(note).encode()[:MAX_REPORT])
        leave(1)
    write(report, read(key, KEY_BYTES))
    leave(0)


def tried(channel: stub.Channel, run: Run, source: str, timeout_s: float, tests: Tests) -> dict[str, Any]:
    """Run one test in a child of its own; what came of it."""
    test = compiled_tests(source, "<test>", tests)
    (report, their_report), (their_key, key) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        channel.close()
        os.close(report)
        os.close(key)
        attempt(run, test, source, tests, their_report, their_key)
    os.close(their_report)
    secret = os.urandom(KEY_BYTES)
    os.write(key, secret)
    output, end = watched(pid, report, timeout_s)
    for pipe in (report, key, their_key):
        os.close(pipe)
    if output == secret and end == 0:
        return {"passed": True, "note": "", "ended": True}
    try:
        fields = json.loads(output)
    except (ValueError, RecursionError):
        fields = None
    if end == "timeout" or not isinstance(fields, dict):
        return {"passed": False, "note": ending(end), "ended": False, "timed_out": end == "timeout"}
    texts = {"note": str(fields.get("note"))[:MAX_NOTE]}
    return {"passed": False, "ended": fields.get("ended") is not False, "loaded": fields.get("loaded"), **texts}


def watched(pid: int, report: int, timeout_s: float) -> tuple[bytes, int | str]:
    """What a child reports until it ends, and its exit status (a signal's below 0), or `timeout`."""
    output = bytearray()
    open_ = {report: output}
    end, deadline = "", time.monotonic() + timeout_s
    while not end:
        alive = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        came = stub.read(open_, stub.LOOK_S if alive else 0.0)
        if (not alive and not came) or len(output) > MAX_REPORT:
            end = "exit"
        elif time.monotonic() > deadline:
            end = "timeout"
    code = stub.ended(pid)
    return bytes(output), "timeout" if end == "timeout" else code


def ending(end: int | str) -> str:
    """How a child ended that did not say what came of its test."""
    if end == "timeout":
        return "took longer than it may"
    return f"ended by signal {-int(end)}" if int(end) < 0 else f"ended with exit status {end} before its end"


def compiled_tests(source: str, file: str, tests: Tests) -> types.CodeType:
    """The code of a test, counted and protected."""
    code: types.CodeType = compile(tests.visit(ast.parse(source)), file, "exec")
    return code


def serve(channel: stub.Channel) -> None:
    """Compile the program, then try its tests, each when it is asked for."""
    requests = channel.requests()
    first = next(requests)
    trees = [ast.parse(source) for source in (first["setup"], *first["tests"])]
    codes = stub.compiled(channel, first["files"])
    modules = imported(trees)
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        channel.answer({"broken": f"there is no module {missing[0]!r} where programs run"})
        os._exit(0)
    channel.answer({"broken": ""})
    program_names = set(first["theirs"])
    run = Run(codes, compiled_tests(first["setup"], "<setup>", Tests(program_names, trees)), modules)
    for request in requests:
        source = first["tests"][request["test"]]
        answer = tried(channel, run, source, request["timeout_s"], Tests(program_names, trees))
        channel.answer(answer)
        if answer.get("timed_out") or answer.get("loaded") is False:
            break
    os._exit(0)


if __name__ == "__main__":
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # as in `site`, which is not imported (-S)
    serve(stub.Channel())
