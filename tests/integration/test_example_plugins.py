"""The plugins of verifiers in a checkout, not installed: their tasks load, and their references are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import Cli

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


@pytest.mark.parametrize("name", ["sql", "constraints"])
def test_every_reference_of_the_task_is_right(cli: Cli, name: str) -> None:
    plugin = PLUGINS / f"reasoner-{name}" / f"reasoner_{name}" / "__init__.py"
    few = ["--set", "data.train.limit=6", "--set", "data.eval.limit=3"]
    tested = cli("rewards", "test", name, "--task", name, "--profile", "laptop", "--plugin", str(plugin), *few)
    assert tested.code == 0, tested.out + tested.err
    assert "as given  9 of 9 get 1.0" in tested.out
    assert "tried: 9" in tested.out
