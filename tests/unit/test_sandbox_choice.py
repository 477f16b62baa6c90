"""Which sandbox is chosen, and what is said when there is none."""

from __future__ import annotations

import builtins
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from reasoner.errors import ConfigError, MissingDependencyError
from reasoner.sandbox import Limits, Sandbox, SandboxError, bubblewrap, choose, open_sandbox, running, seccomp
from reasoner.sandbox.unsandboxed import unsandboxed


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """What was proven before a test, or in it, is of no use to another."""
    choose._proven.cache_clear()
    yield
    choose._proven.cache_clear()


def missing() -> Sandbox:
    raise MissingDependencyError("install it")


def broken() -> Sandbox:
    raise SandboxError("Permission denied")


def test_with_no_backend_it_is_refused_within_a_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    imports = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "sandlock":
            raise ImportError(name)
        return imports(name, *rest)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(builtins, "__import__", refuse)
    start = time.monotonic()
    with pytest.raises(MissingDependencyError, match=r"(?s)bubblewrap: .*apt install.*sandlock: .*reasoner\[code\]"):
        open_sandbox()
    assert time.monotonic() - start < 1.0


def test_one_that_does_not_hold_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "FIRST_LOOK_S", 60.0)  # too many processes: it would be killed before it reports
    monkeypatch.setattr(choose, "BACKENDS", {"open": unsandboxed, "broken": broken, "missing": missing})
    with pytest.raises(MissingDependencyError) as refused:
        open_sandbox()
    said = str(refused.value)
    assert "open: does not hold here" in said
    for what in ("network", "can be written", "can be read", "environment of other", "limit on processes"):
        assert what in said
    assert "broken: Permission denied" in said
    assert "missing: install it" in said


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'setting up uid map: Permission denied' >&2; exit 1", "did not start: setting up uid map"),
        ("/bin/sleep 60 & exec /bin/sleep 60", "did not start: no answer"),
        ("echo '{' >&2", "did not start: {"),
    ],
)
def test_a_bubblewrap_that_does_not_start_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, said: str
) -> None:
    for name, text in {"bwrap": f'[ "$1" = --version ] && exec echo 0.8.0\n{script}', "setpriv": ""}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bubblewrap, "START_S", 0.3)
    before = psutil.Process().children(recursive=True)
    with pytest.raises(MissingDependencyError, match=f"bubblewrap: bubblewrap {said}"):
        open_sandbox("bubblewrap")
    assert psutil.Process().children(recursive=True) == before


def test_the_best_that_holds_is_taken_and_proven_once(monkeypatch: pytest.MonkeyPatch) -> None:
    proven: list[str] = []

    def believe(sandbox: Sandbox) -> list[str]:
        proven.append(sandbox.name)
        return []

    monkeypatch.setattr(choose, "BACKENDS", {"missing": missing, "good": unsandboxed})
    monkeypatch.setattr(choose, "prove", believe)
    assert open_sandbox() is open_sandbox("good") is open_sandbox("auto")
    assert len(proven) == 1


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'bubblewrap'"):
        open_sandbox("bublewrap")


@pytest.mark.parametrize("limit", ["wall_s", "memory_mb", "output_bytes"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_above_zero(limit: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{limit} of a sandbox must be a number above 0"):
        Limits(**{limit: value})  # type: ignore[arg-type]


HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}


@pytest.mark.parametrize("machine", [name for name in HEADERS if Path(HEADERS[name]).exists()])
def test_the_numbers_of_system_calls_are_those_of_the_kernel(machine: str) -> None:
    text = Path(HEADERS[machine]).read_text()
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", text)}
    column = seccomp._ARCHITECTURES[machine][0]
    ours = {name: pair[column] for name, pair in seccomp._REFUSED.items() if pair[column] is not None}
    special = {"clone": seccomp._CLONE, "clone3": seccomp._CLONE3, "socket": seccomp._SOCKET, "ioctl": seccomp._IOCTL}
    ours.update({name: pair[column] for name, pair in special.items()})
    assert {name: numbers.get(name) for name in ours} == ours


def test_the_filter_is_for_known_machines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(MissingDependencyError, match="this is riscv64"):
        seccomp.program_filter()
