"""Fixtures of all tests."""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Generator

import pytest
from hypothesis import settings

from reasoner.__main__ import main
from tests.command import COMMAND, Cli, Outcome

settings.register_profile("untimed", deadline=None)  # a machine that is busy is no failure
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected is no garbage: none is looked for."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of vLLM where it is missing. These start it in processes of its own: nothing imports it here."""
    if importlib.util.find_spec("vllm") is None:
        for item in items:
            if item.get_closest_marker("vllm"):
                item.add_marker(pytest.mark.skip(reason="vllm is not installed"))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported and collected: samplers that close collect, a million objects each
    time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `reasoner ARGUMENTS` in this process, on a pipe 80 columns wide."""
    monkeypatch.setattr("reasoner.__main__.app", COMMAND)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["reasoner", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Outcome(int(ended.value.code or 0), *capsys.readouterr())

    return call
