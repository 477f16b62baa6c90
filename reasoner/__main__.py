"""`reasoner` and `python -m reasoner`. Exit codes: 0 done, 1 run failed, 2 the input must change, 130 interrupted."""

from __future__ import annotations

import sys

from reasoner.cli.app import app
from reasoner.cli.console import complain
from reasoner.errors import MissingDependencyError, RunError, UserError


def main() -> None:
    """Run the command line. Errors that a user can act on are one message; anything else is a bug, with traceback."""
    try:
        app()
    except (UserError, MissingDependencyError) as error:
        complain(error)
        sys.exit(2)
    except RunError as error:
        complain(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
