"""The built-in tools and environments, registered through the same hooks as a third party's."""

from collections.abc import Iterable

from reasoner import EnvironmentKind, Tool, hookimpl


@hookimpl
def register_tools() -> Iterable[Tool]:
    """All of them; docs/environments.md has a section for each."""
    from reasoner_environments.calculator import calculator
    from reasoner_environments.python import python

    return (python, calculator)


@hookimpl
def register_environments() -> Iterable[EnvironmentKind]:
    """All of them; docs/environments.md has a section for each."""
    from reasoner_environments.guess_number import guess_number

    return (guess_number,)
