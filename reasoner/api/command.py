"""Starts a command as a child process, shows what it prints, and comes back with its folder or raises its error.

Why a child, and not this process: a run takes memory of the GPU that no Python process gives back, starts engines,
watches the whole process tree and kills what is left of it, and turns signals into its own end. A notebook's kernel
lives on, with processes and memory of its own. So the kernel starts what a terminal would start, and nothing of a run
is left in it: not after its end, not after an error, and not after an interrupt. With several GPUs the child starts
its ranks as ever.
"""

from __future__ import annotations

import codecs
import json
import locale
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reasoner import errors
from reasoner.distributed.ranks import launched
from reasoner.errors import OutOfTimeError, ReasonerError, RunError, UserError
from reasoner.processes.caller import VARIABLE
from reasoner.processes.child_python import module_command
from reasoner.processes.scratch_folders import ScratchFolder

_COLOURS = ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
"""environment variables by which a notebook has programs write as on a terminal: these would move a cursor that is not
there"""
_OF_CODES: dict[int, type[ReasonerError]] = {2: UserError, 3: OutOfTimeError}
"""exit code -> what a rank ended with, whose launcher knows no more than the code; any other code: RunError"""


def call(*arguments: str, resume: str) -> Path:
    """Run `reasoner ARGUMENTS` to its end and return the folder that it wrote; what it prints appears as it comes.

    It may be called anywhere, also from a thread or while an event loop runs; it returns when the command has ended. In
    the main thread Ctrl-C, or a notebook's interrupt, ends the command as Ctrl-C in a terminal does: it saves where it
    is. Nothing of this process is changed.

    Args:
        resume: how to resume, with `{folder}` in it: a note of the error that interrupts.

    Raises:
        ReasonerError: what the command complains of; of the same class, with the same message.
        RunError: it ended well and did not say which folder it wrote, because its first rank ran on another machine.
        KeyboardInterrupt: it was interrupted, and has ended.
    """
    if launched().count > 1:
        raise UserError(
            "this program was started as several ranks (torchrun, srun), and each rank would start another run. "
            "Start the program once; the run starts its own ranks, as many as run.ranks says."
        )
    with ScratchFolder("call") as scratch:
        answers = scratch / "answers.jsonl"
        with _running_command(arguments, answers) as process:
            interrupted = _show(process)
        answer = _read(answers)
    if not interrupted and process.returncode == 0:
        if "folder" not in answer:
            raise RunError(
                "the command ended well, but only its first rank knows the folder that it wrote, and that ran on "
                "another machine (--hostfile, or another node of srun). The folder is below run.output: open it with "
                "reasoner.open_run(FOLDER)."
            )
        return Path(answer["folder"])
    error = _error(process.returncode, answer)
    ended = KeyboardInterrupt() if interrupted else error
    if "folder" in answer and isinstance(ended, KeyboardInterrupt | RunError | OutOfTimeError):
        ended.add_note(f"To resume: {resume.format(folder=answer['folder'])}")
    raise ended from (error if interrupted and "message" in answer else None)


@contextmanager
def _running_command(arguments: tuple[str, ...], answers: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, in a session of its own: an interrupt reaches it once, from here. It has ended at the end."""
    environment = {name: value for name, value in os.environ.items() if name not in _COLOURS}
    process = subprocess.Popen(
        module_command("reasoner", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**environment, VARIABLE: f"{os.getpid()}:{answers}"},
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)


def _show(process: subprocess.Popen[bytes]) -> bool:
    """Write what a process prints until it ends; whether it was interrupted from here meanwhile."""
    assert process.stdout is not None
    pipe, interrupted = process.stdout.fileno(), False
    decoder = codecs.getincrementaldecoder(locale.getpreferredencoding(False))("replace")
    ended = os.pidfd_open(process.pid)
    try:
        os.set_blocking(pipe, False)
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            while True:
                try:
                    _pass_on_until(ended, selector, pipe, decoder)
                    return interrupted
                except KeyboardInterrupt:  # further ones change nothing: it is saving
                    if not interrupted:
                        interrupted = True
                        process.send_signal(signal.SIGINT)
    finally:
        os.close(ended)


def _pass_on_until(ended: int, selector: selectors.BaseSelector, pipe: int, decoder: codecs.IncrementalDecoder) -> None:
    """Write what is in the pipe until the process has ended.

    A function of its own, because Python looks for signals where a loop begins again: that must be inside of the `try`.
    """
    while True:
        ready = {key.fd for key, _ in selector.select()}
        if not _pass_on(pipe, decoder) and pipe in ready:
            selector.unregister(pipe)
        if ended in ready:  # what it left behind may hold the pipe open
            return


def _pass_on(pipe: int, decoder: codecs.IncrementalDecoder) -> bool:
    """Write what is in the pipe; False: nothing will follow."""
    try:
        while data := os.read(pipe, 2**16):
            text = decoder.decode(data)
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
            sys.stdout.flush()
    except BlockingIOError:
        return True
    return False


def _read(answers: Path) -> dict[str, Any]:
    """Everything that the command answered, later lines over earlier ones."""
    result: dict[str, Any] = {}
    if answers.exists():
        for line in answers.read_text(encoding="utf-8").splitlines():
            result |= json.loads(line)
    return result


def _error(code: int, answer: dict[str, Any]) -> ReasonerError:
    """The error that the command ended with, as far as it can be known."""
    if "message" not in answer:
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            how += ": by somebody, or by the system, because memory was full" if code == -signal.SIGKILL else ""
        else:
            how = "was interrupted by somebody else" if code == 130 else f"ended with exit code {code}"
        return RunError(f"the process that did the work {how}; its last output is above.")
    message = str(answer["message"])
    if not answer["kinds"]:
        return RunError(f"a mistake in reasoner, or in a plugin:\n{message}")
    kind: type[ReasonerError] = next(vars(errors)[name] for name in answer["kinds"] if name in vars(errors))
    return _OF_CODES.get(code, kind)(message) if kind is RunError else kind(message)
