"""Proof by trying that a sandbox holds what it promises, before anything generated runs in it.

One program tries to get out in every way that matters and reports how far it got; it is cooperative, so its report can
be believed. `prove` takes one start of a program; `prove_fully` also runs into every limit.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.run_marker import MARKER
from reasoner.sandbox.base import Limits, Outcome, Sandbox
from reasoner.sandbox.interpreter import ISOLATED, PYTHON, readable_paths
from reasoner.scratch_folders import ScratchFolder

_LIMITS = Limits(wall_s=10.0, cpu_s=5.0, memory_mb=256, processes=8, scratch_mb=8)
_LONGEST_DEADLINE_S = 5.0
"""seconds after its deadline at which a program must be gone on a busy machine"""
_HARMLESS = {"REASONER_PROGRAM", MARKER, "PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE", "PWD", "OLDPWD", "SHLVL", "_"}
"""environment variables that a sandbox or a shell sets"""

_PROBE = """
import json, os, socket, sys, time
told = json.loads(input())
def attempt(act):
    try:
        return act() or "done"
    except OSError as error:
        return {"refused": str(error)}
def read(path):
    with open(path, "rb") as file:
        return file.read(4096).decode("latin-1")
def write(path):
    with open(path, "w") as file:
        file.write("x")
def connect(family, address):
    with socket.socket(family) as client:
        client.settimeout(2)
        client.connect(address)
def fork():
    count = 0
    for _ in range(told["forks"]):
        try:
            if os.fork() == 0:
                os.setsid()
                time.sleep(60)
                os._exit(0)
        except OSError:
            break
        count += 1
    return count
print(json.dumps({
    "tcp": attempt(lambda: connect(socket.AF_INET, ("127.0.0.1", told["port"]))),
    "abstract": attempt(lambda: connect(socket.AF_UNIX, "\\0" + told["abstract"])),
    "write": attempt(lambda: write(told["outside"])),
    "own": attempt(lambda: write("own")),
    "read": attempt(lambda: read(told["secret"])),
    "home": attempt(lambda: os.listdir(told["home"])),
    "parent": attempt(lambda: read(f"/proc/{told['parent']}/environ")),
    "environment": sorted(os.environ),
    "forks": fork(),
}), flush=True)
time.sleep(60)
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """A program that runs into a limit, and what its outcome says about it."""

    name: str
    source: str
    limits: Limits
    holds: Callable[[Outcome], bool]


_TRIALS = (
    Trial(
        "deadline",
        "import os, signal, time\n"
        "for number in (1, 2, 3, 13, 14, 15): signal.signal(number, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n    os.setsid()\n    os.fork()\n"
        "for stream in (0, 1, 2): os.close(stream)\n"
        "time.sleep(60)",
        Limits(wall_s=0.5),
        lambda outcome: outcome.end == "timeout" and outcome.seconds < 0.5 + _LONGEST_DEADLINE_S,
    ),
    Trial("CPU seconds", "while True: pass", Limits(cpu_s=0.3, wall_s=20.0), lambda outcome: outcome.end == "cpu"),
    Trial(
        "memory",
        "block = bytearray(300 * 2**20)\nprint('kept')",
        _LIMITS,
        lambda outcome: b"kept" not in outcome.stdout,
    ),
    Trial(
        "output",
        "import os\nwhile True: os.write(1, b'x' * 65536)",
        Limits(output_bytes=2**16),
        lambda outcome: outcome.end == "output" and len(outcome.stdout) == 2**16,
    ),
    Trial(
        "scratch folder",
        "for number in range(512):\n    with open(str(number), 'wb') as file: file.write(b'x' * 2**20)\nprint('kept')",
        _LIMITS,
        lambda outcome: b"kept" not in outcome.stdout,
    ),
)


def prove(sandbox: Sandbox) -> list[str]:
    """What an interactive sandbox did not hold, in words; empty: it holds.

    Raises:
        SandboxError: it runs no program.
    """
    with ExitStack() as outside:
        told = _outside(outside)
        mark = uuid.uuid4().hex
        program = [PYTHON, *ISOLATED, "probe.py", mark]
        with sandbox.open(program, {"probe.py": _PROBE.encode()}, _LIMITS) as session:
            session.send(json.dumps(told).encode() + b"\n")
            line = session.receive_line()
            if line is None:
                ended = session.outcome()
                return [f"its program ended too early ({ended.end} {ended.code}): {ended.stderr.decode().strip()}"]
        return [*_faults(json.loads(line), told), *survivors(mark)]


def prove_fully(sandbox: Sandbox) -> list[str]:
    """As `prove`, and every limit is run into; takes some seconds."""
    faults = prove(sandbox)
    for trial in _TRIALS:
        mark = uuid.uuid4().hex
        program = [PYTHON, *ISOLATED, "trial.py", mark]
        outcome = sandbox.run(program, {"trial.py": trial.source.encode()}, b"", trial.limits)
        if not trial.holds(outcome):
            faults.append(f"the limit on {trial.name} does not hold (ended with {outcome.end} {outcome.code})")
        faults.extend(survivors(mark))
    return faults


def answers(sandbox: Sandbox) -> str:
    """What is wrong with the answers of a service, in words; empty: it runs Python and says how that ended."""
    word = uuid.uuid4().hex
    source = b"import sys\nprint(input()[::-1])\nsys.exit(3)\n"
    outcome = sandbox.run([PYTHON, *ISOLATED, "main.py"], {"main.py": source}, word.encode(), _LIMITS)
    if (outcome.end, outcome.code, outcome.stdout.strip()) == ("exit", 3, word[::-1].encode()):
        return ""
    return f"does not run a program as it should: {outcome}"


def _outside(stack: ExitStack) -> dict[str, Any]:
    """Things outside of the sandbox that it must not reach."""
    folder = stack.enter_context(ScratchFolder("proof"))
    folder.chmod(0o755)
    secret = folder / "secret"
    secret.write_text("secret")
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    abstract = f"reasoner-{uuid.uuid4().hex}"
    local = stack.enter_context(socket.socket(socket.AF_UNIX))
    local.bind("\0" + abstract)
    local.listen()
    return {
        "port": server.getsockname()[1],
        "abstract": abstract,
        "outside": str(folder / "written"),
        "secret": str(secret),
        "home": str(Path.home()),
        "parent": os.getpid(),
        "forks": 4 * _LIMITS.processes,
    }


def _faults(report: dict[str, Any], told: dict[str, Any]) -> Iterator[str]:
    wrong = {
        "tcp": "the network can be reached",
        "abstract": "local services can be reached",
        "write": "files outside of the scratch folder can be written",
        "read": "files outside of the scratch folder can be read",
        "parent": "the environment of other processes can be read",
    }
    yield from (fault for what, fault in wrong.items() if not isinstance(report[what], dict))
    if report["own"] != "done":
        yield f"the scratch folder cannot be written ({report['own']})"
    if Path(told["outside"]).exists():
        yield wrong["write"]
    if isinstance(report["home"], list) and set(report["home"]) - _on_the_way(Path(told["home"])):
        yield "the home folder can be read"
    if leaked := set(report["environment"]) - _HARMLESS:
        yield f"environment variables are visible: {', '.join(sorted(leaked)[:3])}"
    if report["forks"] > _LIMITS.processes:
        yield f"the limit on processes does not hold ({_LIMITS.processes} allowed, {report['forks']} started)"


def _on_the_way(folder: Path) -> set[str]:
    """Names in a folder that lead to what a program may read, such as an interpreter in the home folder."""
    paths = [path.relative_to(folder) for path in readable_paths() if path.is_relative_to(folder)]
    return {path.parts[0] for path in paths if path.parts}


def survivors(mark: str) -> Iterator[str]:
    """Processes whose command holds the mark."""
    wanted = mark.encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if wanted in (entry / "cmdline").read_bytes():
                    yield f"process {entry.name} outlived its program"
