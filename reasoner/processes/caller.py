"""Tells the Python program that started this command (`reasoner.api`) what became of it: the folder, and the error.

The program names itself and a file in the environment; the command writes lines of JSON into the file. It ends when
the program does, as after `kill`: it saves where it is.
"""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Mapping
from pathlib import Path

from reasoner.errors import ReasonerError
from reasoner.io.redaction import redact
from reasoner.processes.subreaper import die_with_parent

VARIABLE = "REASONER_CALLER"
"""environment variable `PROCESS:FILE`. The command takes it out of its environment: what it starts was not called"""
_answers: Path | None = None


def answer_caller() -> None:
    """At the start of a command: remember who called it, if somebody did.

    Raises:
        SystemExit: the caller is gone already.
    """
    global _answers
    process, _, file = os.environ.pop(VARIABLE, "").partition(":")
    _answers = Path(file) if file else None
    if file:
        die_with_parent(signal.SIGTERM)
        if os.getppid() != int(process):  # it ended before the kernel was asked to say so
            raise SystemExit(1)


def tell_folder(folder: Path) -> None:
    """Say which run folder is written, or evaluation folder."""
    _answer({"folder": str(folder.absolute())})


def tell_error(error: BaseException, code: int) -> bool:
    """Say what ended the command, and with which exit code. False: nobody called it."""
    if isinstance(error, ReasonerError):
        kinds, text = [kind.__name__ for kind in type(error).__mro__], str(error)
    else:
        kinds, text = [], "".join(traceback.format_exception(error)).strip()
    return _answer({"kinds": kinds, "message": redact(text), "code": code})


def _answer(answer: Mapping[str, object]) -> bool:
    if _answers is None or not _answers.parent.is_dir():  # the caller was killed, and its folder removed
        return False
    with _answers.open("a", encoding="utf-8") as file:
        file.write(json.dumps(answer) + "\n")
    return True
