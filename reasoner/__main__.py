"""`reasoner` and `python -m reasoner`. Exit codes: 0 done, 1 run failed, 2 the input must change, 3 out of time,
130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import NoReturn

from reasoner.cli.app import app
from reasoner.cli.console import complain
from reasoner.errors import MissingDependencyError, OutOfTimeError, ReasonerError, RunError, UserError
from reasoner.io.redaction import redact
from reasoner.io.safe_text import printable
from reasoner.launch.launcher import RankError, report
from reasoner.processes.caller import answer_caller, tell_error

OUT_OF_TIME = 3


def main() -> None:
    """Run the command line. Errors that a user can act on are one message; anything else is a bug, with traceback."""
    sys.excepthook = _show_bug
    answer_caller()
    try:
        app()
    except RankError as error:
        if not tell_error(error, error.code) and error.code != OUT_OF_TIME:
            complain(error)
        sys.exit(error.code)
    except OutOfTimeError as error:  # the run has said it, and how to go on
        _is_reported(error, OUT_OF_TIME)
        sys.exit(OUT_OF_TIME)
    except (UserError, MissingDependencyError) as error:
        _fail(error, 2)
    except RunError as error:
        _fail(error, 1)
    except Exception as error:
        if not _is_reported(error, 1):
            raise
        sys.exit(1)


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(printable(redact("".join(traceback.format_exception(kind, error, trace)))))


def _fail(error: ReasonerError, code: int) -> NoReturn:
    """End with one message: on the terminal, or by whoever started this command."""
    if not _is_reported(error, code):
        complain(error)
    sys.exit(code)


def _is_reported(error: BaseException, code: int) -> bool:
    """Whether the launcher of this rank, or the program that called this command, says it."""
    return report(error, code) or tell_error(error, code)


if __name__ == "__main__":
    main()
