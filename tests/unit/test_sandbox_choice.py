"""Which sandbox is chosen, and what is said when there is none."""

from __future__ import annotations

import builtins
import contextlib
import errno
import json
import platform
import re
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from reasoner.errors import ConfigError, MissingDependencyError
from reasoner.sandbox import Limits, Sandbox, SandboxError, choose, open_sandbox, running
from reasoner.sandbox.backends import bubblewrap, seccomp
from reasoner.sandbox.backends.unsandboxed import unsandboxed
from reasoner.sandbox.proof import CALLS, SOCKETS, prove
from reasoner.sandbox.system_calls import ALLOWED, CHECKED, NEWEST, STARTING


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


def test_with_no_backend_it_is_refused_and_nothing_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    imports = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "sandlock":
            raise ImportError(name)
        return imports(name, *rest)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(MissingDependencyError, match=r"(?s)bubblewrap: .*apt install.*sandlock: .*reasoner\[code\]"):
        open_sandbox()


def test_one_that_does_not_hold_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "FIRST_LOOK_S", 60.0)  # too many processes: it would be killed before it reports
    monkeypatch.setattr(choose, "BACKENDS", {"open": unsandboxed, "broken": broken, "missing": missing})
    with pytest.raises(MissingDependencyError) as refused:
        open_sandbox()
    message = str(refused.value)
    assert "open: does not hold here" in message
    for what in ("network", "can be written", "can be read", "environment of other", "limit on processes"):
        assert what in message
    assert "broken: Permission denied" in message
    assert "missing: install it" in message


LATER = {"cachestat": (6, 5), "fchmodat2": (6, 6), "futex_wake": (6, 7), "listmount": (6, 8), "file_setattr": (6, 17)}
LATER |= {"setxattrat": (6, 13), "removexattrat": (6, 13)}
"""calls -> the kernel that brought them"""


@pytest.mark.skipif(
    "Seccomp:\t0" not in Path("/proc/self/status").read_text(), reason="a container around it refuses some"
)
def test_every_call_that_is_tried_is_let_in_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "FIRST_LOOK_S", 60.0)
    kernel = tuple(int(number) for number in platform.release().split("-")[0].split(".")[:2])
    message = "; ".join(prove(unsandboxed()))
    for what, calls in CALLS.items():
        (named,) = re.findall(f"a program can {re.escape(what)}: ([^;]*)", message)
        assert named.split(", ") == [call for call in calls if LATER.get(call, kernel) <= kernel]
    assert "sockets can be opened: IPv4, UDP" in message
    assert "local datagram" in message


class Reporting:
    """A sandbox whose probe reports something."""

    name, interactive = "fake", True

    def __init__(self, **report: Any) -> None:
        ways = ("tcp", "mptcp", "fast open", "abstract", "write", "read", "home", "parent")
        held = {"own": "done", "environment": [], "calls": [], "sockets": [], "packages": [], "forks": 8}
        self._report = {**{way: {"refused": ""} for way in ways}, **held, **report}

    @contextlib.contextmanager
    def open(self, *_: object) -> Iterator[Any]:
        yield self

    def send(self, data: bytes) -> None:
        pass

    def receive_line(self) -> bytes:
        return json.dumps(self._report).encode()


PROBES: list[tuple[str, Any, str]] = [
    ("tcp", "done", "the network can be reached"),
    ("mptcp", "done", "the network can be reached by MPTCP"),
    ("fast open", "done", "the network can be reached by TCP fast open"),
    ("abstract", "done", "local services can be reached"),
    ("write", "done", "files outside of the scratch folder can be written"),
    ("read", "secret", "files outside of the scratch folder can be read"),
    ("home", ["mail"], "the home folder can be read"),
    ("parent", "A=B", "the environment of other processes can be read"),
    ("own", {"refused": "no space"}, "the scratch folder cannot be written ({'refused': 'no space'})"),
    ("environment", ["TOKEN"], "environment variables are visible: TOKEN"),
    ("packages", ["/usr/lib/python3/dist-packages"], "installed packages can be read: /usr/lib/python3/dist-packages"),
    ("forks", 9, "the limit on processes does not hold (8 allowed, 9 started)"),
    *(("sockets", [name], f"sockets can be opened: {name}") for name in SOCKETS),
    *(("calls", [call], f"a program can {what}: {call}") for what, calls in CALLS.items() for call in calls),
]
"""part of the report, what it says, and what is said of it"""


@pytest.mark.parametrize(("part", "value", "said"), PROBES)
def test_a_backend_that_lets_one_thing_through_is_not_used(
    part: str, value: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "BACKENDS", {"fake": lambda: Reporting(**{part: value})})
    with pytest.raises(MissingDependencyError, match=f"fake: does not hold here: {re.escape(said)}$"):
        open_sandbox()
    assert prove(Reporting()) == []  # type: ignore[arg-type]


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
    numbers.setdefault("newfstatat", numbers.get("fstatat", -1))
    column = seccomp._ARCHITECTURES[machine][0]
    pairs = {**ALLOWED, **CHECKED, **STARTING}
    ours = {name: number for name, pair in pairs.items() if (number := pair[column]) is not None}
    assert {name: numbers.get(name) for name in ours} == ours
    assert max(ours.values()) <= NEWEST


def verdict(rules: bytes, audit: int, number: int, arguments: Sequence[int]) -> int:
    """What a filter says of a call, as the kernel would run it: 0 allows, otherwise the error; -1 kills."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    code, place, value = list(struct.iter_unpack("=HBBI", rules)), 0, 0
    while True:
        operation, if_true, if_false, operand = code[place]
        place += 1
        match operation:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                value &= operand
            case 0x06:
                return -1 if operand == 0x80000000 else 0 if operand == 0x7FFF0000 else operand & 0xFFFF
            case _:
                holds = {0x15: value == operand, 0x25: value > operand, 0x35: value >= operand}[operation]
                place += if_true if holds else if_false


VERDICTS: list[tuple[str, list[int], int]] = [
    ("read", [0, 0, 0], 0),
    ("socketpair", [1, 1, 0], 0),
    ("socketpair", [1, 5 | 0o2004000, 0], 0),
    ("socketpair", [1 | 1 << 32, 1, 0], 0),  # the kernel takes the lower half too
    ("socketpair", [1, 2, 0], errno.EACCES),
    ("socketpair", [1, 1 | 0x100, 0], errno.EACCES),
    ("socketpair", [2, 1, 0], errno.EACCES),
    ("socketpair", [1, 1, 262], errno.EACCES),
    ("socket", [1, 1, 0], errno.EACCES),
    ("socket", [2, 1, 262], errno.EACCES),
    ("setsockopt", [0, 1, 2], 0),
    ("setsockopt", [0, 1, 7], errno.ENOPROTOOPT),
    ("setsockopt", [0, 6, 2], errno.ENOPROTOOPT),
    ("clone", [0x3D0F00], 0),
    ("clone", [0x10000000 | 17], errno.EPERM),
    ("clone3", [0, 0], errno.ENOSYS),
    ("fallocate", [3, 0], errno.EOPNOTSUPP),
    ("fcntl", [3, 1030], 0),
    ("fcntl", [3, 8], errno.EINVAL),
    ("fcntl", [3, 1031], errno.EINVAL),
    ("fcntl", [3, 1024 | 1 << 32], errno.EINVAL),
    ("ioctl", [0, 0x5401], 0),
    ("ioctl", [0, 0x40086602], errno.ENOTTY),
    ("ioctl", [0, 0x5412], errno.ENOTTY),
    ("madvise", [0, 0, 4], 0),
    ("madvise", [0, 0, 21], errno.EINVAL),
    ("mmap", [0, 0, 3, 0x22], 0),
    ("mmap", [0, 0, 3, 0x01], 0),
    ("mmap", [0, 0, 3, 0x20022], 0),
    ("mmap", [0, 0, 3, 0x21], errno.ENOMEM),
    ("mmap", [0, 0, 3, 0x23], errno.ENOMEM),
    ("mmap", [0, 0, 3, 0x40022], errno.ENOMEM),
    ("prctl", [15], 0),
    ("prctl", [4], errno.EINVAL),
    ("prctl", [62], errno.EINVAL),
]
"""call, arguments, error"""


@pytest.mark.parametrize("machine", seccomp._ARCHITECTURES)
def test_the_filter_allows_what_is_listed_and_nothing_else(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    column, audit = seccomp._ARCHITECTURES[machine]
    rules, starting = seccomp.program_filter(), seccomp.program_filter(starting=True)
    for name, arguments, error in VERDICTS:
        number = {**ALLOWED, **CHECKED}[name][column]
        assert number is not None
        assert verdict(rules, audit, number, arguments) == error, (name, arguments)
    allowed = {pair[column] for pair in ALLOWED.values()}
    for number in {*range(NEWEST + 1)} - {pair[column] for pair in CHECKED.values()}:
        assert verdict(rules, audit, number, []) == (0 if number in allowed else errno.EPERM), number
        more = allowed | {pair[column] for pair in STARTING.values()}
        assert verdict(starting, audit, number, []) == (0 if number in more else errno.EPERM), number
    for number in (NEWEST + 1, 463, 1000, 0x40000000, 0x40000029, 0xFFFFFFFF):
        assert verdict(rules, audit, number, []) == verdict(starting, audit, number, []) == errno.ENOSYS
    assert verdict(rules, 0x40000003, 1, []) == -1  # as a program for another processor
    socket = CHECKED["socket"][column] or 0
    assert verdict(starting, audit, socket, [1, 0o2000001, 0]) == 0
    for arguments in ([1, 2, 0], [2, 1, 0], [1, 1, 1]):
        assert verdict(starting, audit, socket, arguments) == errno.EACCES


def test_the_filter_is_for_known_machines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(MissingDependencyError, match="this is riscv64"):
        seccomp.program_filter()
