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
from reasoner.launch import RankError, report
from reasoner.safe_text import printable
from reasoner.secrets import redact

OUT_OF_TIME = 3


def main() -> None:
    """Run the command line. Errors that a user can act on are one message; anything else is a bug, with traceback."""
    sys.excepthook = _show_bug
    try:
        app()
    except RankError as error:
        if error.code != OUT_OF_TIME:
            complain(error)
        sys.exit(error.code)
    except OutOfTimeError as error:  # the run has said it, and how to go on
        report(error, OUT_OF_TIME)
        sys.exit(OUT_OF_TIME)
    except (UserError, MissingDependencyError) as error:
        _fail(error, 2)
    except RunError as error:
        _fail(error, 1)
    except Exception as error:
        if not report(error, 1):
            raise
        sys.exit(1)


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(printable(redact("".join(traceback.format_exception(kind, error, trace)))))


def _fail(error: ReasonerError, code: int) -> NoReturn:
    """End with one message: on the terminal, or on a rank by the launcher."""
    if not report(error, code):
        complain(error)
    sys.exit(code)


if __name__ == "__main__":
    main()
