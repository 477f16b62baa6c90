"""Runs beside the model's program and answers what it returns, or prints, for an input. It judges nothing.

Requests are lines on standard input, answers lines on standard output, both JSON. The first one says what to do:

    {"mode": "calls", "files": [...], "timeout_s": s}    run the files in one namespace, then call its functions
    {"mode": "driven", ...}                              the same, then answer the requests of a driver (objects.py)
    {"mode": "stdin", "files": [one]}                    run the file as a script, in a child for each input

    -> {"ready": true}, then {"compiled": ...}, and but for mode `stdin` {"loaded": ...} once they have run

    {"op": "call", "values": [["g", name], ...], "keywords": {...}, "truth": bool, "timeout_s": s}
        -> {"value": ...} or {"error": ..., "message": ...}
    {"input": text, "timeout_s": s} -> {"output": text, "end": ..., "code": n, "message": text}

The program shares this process and may do anything to it. It gains nothing: whatever comes out is taken as what the
program answered, and nothing in here says what the answer should be.
"""

from __future__ import annotations

import _thread
import builtins
import io
import json
import os
import select
import signal
import sys
import time
import types

TYPE_CHECKING = False  # as in codec.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

sys.dont_write_bytecode = True  # the folder is the program's
sys.path.insert(0, "")
import codec  # type: ignore[import-not-found]  # noqa: E402

sys.path.pop(0)

MAX_MESSAGE = 200
"""characters of an exception's message"""
MAX_ERRORS = 2**12
"""bytes of what it prints as errors that are kept, the last ones"""
MAX_STACK = 2**28
"""bytes of a thread's stack, which the kernel counts as used when the thread begins; programs ask for any number"""
STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2, "/dev/fd/0": 0, "/dev/fd/1": 1, "/dev/fd/2": 2}
LOOK_S = 0.05
"""seconds between looks whether a child has ended without closing its output"""
END_S = 0.001
"""seconds between looks whether a child has ended that has closed its output"""


class Channel:
    """The lines between this process and whoever asks; the program gets /dev/null for its standard streams."""

    def __init__(self) -> None:
        self._requests = os.fdopen(os.dup(0), "rb")
        self._answers = os.dup(1)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.close(nowhere)

    def requests(self) -> Iterator[dict[str, Any]]:
        """What is asked, until nobody asks any more."""
        for line in self._requests:
            yield json.loads(line)

    def answer(self, fields: dict[str, Any]) -> None:
        """Write one line."""
        line = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"
        if len(line) > codec.MAX_ANSWER:
            fields = {"error": "ValueError", "message": f"the answer is longer than {codec.MAX_ANSWER} bytes"}
            line = json.dumps(fields).encode() + b"\n"
        while line:
            line = line[os.write(self._answers, line) :]

    def close(self) -> None:
        """Leave it to the process that this one was forked from."""
        self._requests.close()
        os.close(self._answers)


def compiled(channel: Channel, files: list[str]) -> list[types.CodeType]:
    """The code of the files; ends the process when one of them is not Python."""
    channel.answer({"ready": True})
    try:
        codes = [compile(contents(file), file, "exec") for file in files]
    except BaseException as error:
        channel.answer({"compiled": False, **described(error)})
        os._exit(0)
    channel.answer({"compiled": True})
    return codes


def contents(file: str) -> bytes:
    """All of a file."""
    with open(file, "rb") as opened:
        return opened.read()


def described(error: BaseException) -> dict[str, Any]:
    """An exception as the nearest builtin type, and its message."""
    kind = next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == "builtins")
    try:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error  # it quotes itself once more
        message = str(text)[:MAX_MESSAGE]
    except BaseException as worse:
        message = f"its message raises {type(worse).__name__}"
    own = type(error).__name__
    return {"error": kind, "message": message if own == kind else f"{own}: {message}"}


def limit_time(seconds: float) -> None:
    """End this process after so many seconds, whatever it is doing then; 0: no limit.

    The program can undo it. Whoever asks keeps the time as well, and needs no help from here for that; but a service
    that takes all requests at once cannot.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def load(channel: Channel, files: list[str], timeout_s: float) -> dict[str, Any]:
    """Run the program; the process ends here when it fails. Returns its namespace."""
    codes = compiled(channel, files)
    module = types.ModuleType("program")
    sys.modules["program"] = module
    try:
        limit_time(timeout_s)
        for code in codes:
            exec(code, module.__dict__)
        limit_time(0.0)
    except BaseException as error:
        channel.answer({"loaded": False, **described(error)})
        os._exit(0)
    channel.answer({"loaded": True})
    return module.__dict__


def serve_calls(channel: Channel, files: list[str], timeout_s: float) -> None:
    """Run the program, then make calls until no more are asked for."""
    names = load(channel, files, timeout_s)
    for request in channel.requests():
        try:
            limit_time(request["timeout_s"])
            answer = returned(names, request)
            limit_time(0.0)
        except BaseException as error:
            answer = described(error)
        channel.answer(answer)
    os._exit(0)  # without waiting for threads and exit handlers of the program


def returned(names: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Call a function; the program's exceptions pass through. `truth`: of what is not plain, whether it is true."""

    def named(data: list[Any]) -> Any:
        """What a global `["g", name]` stands for; `Solution.add` is a method of a new instance."""
        first, *path = data[1].split(".")
        if first not in names:
            raise NameError(f"the program does not define {first!r}")
        value = names[first]
        for name in path:
            value = getattr(value() if isinstance(value, type) else value, name)
        return value

    function, *values = (codec.decode(value, named) for value in request["values"])
    keywords = {name: codec.decode(value) for name, value in request["keywords"].items()}
    result = function(*values, **keywords)
    return {"value": codec.encode(result, bool if request["truth"] else handle)}


def handle(value: Any) -> list[Any]:
    """What stands for a value that is not plain."""
    return ["h", 0, type(value).__name__]


def serve_driver(channel: Channel, files: list[str], timeout_s: float) -> None:
    """Run the program, then do what a driver asks for until it has no more requests."""
    requests = channel.requests()

    def listen() -> dict[str, Any] | None:
        limit_time(0.0)
        request = next(requests, None)
        limit_time(request["timeout_s"] if request else 0.0)
        return request

    sys.path.insert(0, "")
    from objects import Objects  # type: ignore[import-not-found]

    sys.path.pop(0)
    answers = Objects(channel.answer, listen)
    names = load(channel, files, timeout_s)
    while (request := listen()) is not None:
        try:
            answer = answers.to(names, request)
        except BaseException as error:
            answer = described(error)
        limit_time(0.0)
        channel.answer(answer)
    os._exit(0)


def serve_inputs(channel: Channel, file: str) -> types.CodeType:
    """Run the program for every input, each time in a child; returns its code in the children, and nowhere else."""
    (code,) = compiled(channel, [file])
    for request in channel.requests():
        streams = Streams(request["input"])
        pid = os.fork()
        if pid == 0:
            os.setsid()
            channel.close()
            streams.become_standard()
            return code
        answer = streams.watch(pid, request["timeout_s"])
        channel.answer(answer)
        if answer["end"] == "timeout":
            break  # an input that takes too long ends it: there may be many
    os._exit(0)


class Streams:
    """Input, output and errors of one child."""

    def __init__(self, text: str) -> None:
        with open("input", "wb") as file:
            file.write(text.encode("utf-8", "replace"))
        self._input = os.open("input", os.O_RDONLY)
        os.unlink("input")
        self._output, self._theirs = os.pipe()
        self._errors, self._their_errors = os.pipe()

    def become_standard(self) -> None:
        """In the child: they are its standard streams."""
        for stream, own in enumerate((self._input, self._theirs, self._their_errors)):
            os.dup2(own, stream)
            os.close(own)
        os.close(self._output)
        os.close(self._errors)
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)

    def watch(self, pid: int, timeout_s: float) -> dict[str, Any]:
        """In the parent: what the child prints until it ends, or is killed at a limit."""
        for program_end in (self._input, self._theirs, self._their_errors):
            os.close(program_end)
        output, errors = bytearray(), bytearray()
        open_ = {self._output: output, self._errors: errors}
        end, deadline = "", time.monotonic() + timeout_s
        while not end:
            alive = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            came = read(open_, LOOK_S if alive else 0.0)
            del errors[:-MAX_ERRORS]
            if len(output) > codec.MAX_OUTPUT:
                end = "output"
            elif not alive and not came:
                end = "exit"
            elif time.monotonic() > deadline:
                end = "timeout"
        code = ended(pid)
        for pipe in (self._output, self._errors):
            os.close(pipe)
        return {
            "output": output.decode("utf-8", "replace"),
            "end": "signal" if end == "exit" and code < 0 else end,
            "code": code,
            "message": errors.decode("utf-8", "replace").strip().rpartition("\n")[2][:MAX_MESSAGE],
        }


def read(open_: dict[int, bytearray], patience_s: float) -> bool:
    """Wait for something to read and add it to its text; pipes that have ended are dropped. Whether anything came."""
    if not open_:
        time.sleep(min(patience_s, END_S))
        return False
    ready = select.select(list(open_), [], [], patience_s)[0]
    for pipe in ready:
        data = os.read(pipe, 2**16)
        open_[pipe] += data
        if not data:
            del open_[pipe]
    return bool(ready)


def ended(pid: int) -> int:
    """End a child with its group; its exit status, a signal's below 0."""
    for kill in (os.killpg, os.kill):  # it may not lead a group yet
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_as_script(file: str, code: types.CodeType) -> None:
    """Run the program as `python FILE` would. What it raises ends this process in the usual way."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__dict__["__file__"] = file
    open_standard_streams_by_name()
    resize_stack = _thread.stack_size
    _thread.stack_size = lambda size=0: resize_stack(min(size, MAX_STACK))
    sys.argv = [file]
    exec(code, main.__dict__)


def open_standard_streams_by_name() -> None:
    """Let `open("/dev/stdin")` and its like work, whose names lead to /proc, which no sandbox has."""

    def opens(function: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, *args: Any, **keywords: Any) -> Any:
            stream = STREAMS.get(file) if isinstance(file, str) else None
            if stream is None:
                return function(file, *args, **keywords)
            copy = os.dup(stream)
            return copy if function is open_file else function(copy, *args, **keywords)

        return opened

    open_file = os.open
    builtins.open = io.open = opens(io.open)
    os.open = opens(open_file)


if __name__ == "__main__":
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # as in `site`, which is not imported (-S)
    lines = Channel()
    first = next(lines.requests())
    if first["mode"] == "calls":
        serve_calls(lines, first["files"], first["timeout_s"])
    elif first["mode"] == "driven":
        serve_driver(lines, first["files"], first["timeout_s"])
    else:
        run_as_script(first["files"][0], serve_inputs(lines, first["files"][0]))
