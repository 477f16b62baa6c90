"""`reasoner` and `python -m reasoner`. Exit codes: 0 done, 1 run failed, 2 the input must change, 130 interrupted."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType

from reasoner.cli.app import app
from reasoner.cli.console import complain
from reasoner.errors import MissingDependencyError, RunError, UserError
from reasoner.secrets import redact


def main() -> None:
    """Run the command line. Errors that a user can act on are one message; anything else is a bug, with traceback."""
    sys.excepthook = _show_bug
    try:
        app()
    except (UserError, MissingDependencyError) as error:
        complain(error)
        sys.exit(2)
    except RunError as error:
        complain(error)
        sys.exit(1)


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


if __name__ == "__main__":
    main()
