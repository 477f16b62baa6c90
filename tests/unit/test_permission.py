"""Programs run without a sandbox only where the command line says so, each time."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from reasoner.cli.app import app
from reasoner.errors import MissingDependencyError
from reasoner.sandbox.permission import ALLOWED


@pytest.fixture
def reasoner(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def missing(choice: str) -> object:
        if choice == "none":
            return type("Unsandboxed", (), {"name": "none (programs are not isolated)"})()
        raise MissingDependencyError("no sandbox for generated programs works here: install bubblewrap")

    monkeypatch.setattr("reasoner.sandbox.permission.open_sandbox", missing)
    monkeypatch.setattr("reasoner.planning.rehearsal.check_problems_of", lambda *_: {})  # no program is run
    monkeypatch.setenv(ALLOWED, "1")  # as if a shell had left it
    return lambda *arguments: CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


PLAN = ("run", "code-stdin", "--profile", "laptop", "--dry-run")


def test_without_a_sandbox_a_run_is_refused_before_anything_is_loaded(reasoner: Callable[..., Result]) -> None:
    result = reasoner(*PLAN)
    message = str(result.exception)
    assert "reward source 'code' cannot work here: no sandbox for generated programs works here" in message
    assert "install bubblewrap" in message
    assert "--allow-unsandboxed-code" in message
    assert ALLOWED not in os.environ


def test_the_option_permits_it_and_the_plan_says_so(reasoner: Callable[..., Result]) -> None:
    result = reasoner(*PLAN, "--allow-unsandboxed-code")
    assert result.exit_code == 0, result.exception
    assert "sandbox: none (programs are not isolated)" in result.output
    assert os.environ[ALLOWED] == "1"


def test_a_configuration_cannot_permit_it(reasoner: Callable[..., Result]) -> None:
    result = reasoner(*PLAN, "--set", "rewards.code.options.sandbox=none")
    assert "needs the option --allow-unsandboxed-code" in str(result.exception)
