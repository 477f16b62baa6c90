"""The built-in tools and environments, registered through the same hooks as a third party's."""

from collections.abc import Iterable

from reasoner import Tool, hookimpl


@hookimpl
def register_tools() -> Iterable[Tool]:
    """All of them; docs/environments.md has a section for each."""
    from reasoner_environments.calculator import calculator

    return (calculator,)
