"""Proof by trying that a sandbox holds what it promises, before anything generated runs in it.

One program tries to get out in every way that matters and reports how far it got; it is cooperative, so its report can
be believed. `prove` takes one start of a program; `prove_fully` also runs into every limit.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.processes.run_marker import MARKER
from reasoner.processes.scratch_folders import ScratchFolder
from reasoner.sandbox.base import Limits, Outcome, Sandbox
from reasoner.sandbox.interpreter import ISOLATED, PYTHON, hidden_paths, readable_paths

_LIMITS = Limits(wall_s=10.0, cpu_s=5.0, memory_mb=256, processes=8, scratch_mb=8)
_LONGEST_DEADLINE_S = 5.0
"""seconds after its deadline at which a program must be gone on a busy machine"""
_HARMLESS = {"REASONER_PROGRAM", MARKER, "PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE", "PWD", "OLDPWD", "SHLVL", "_"}
"""environment variables that a sandbox or a shell sets"""

_PROBE = """
import ctypes, errno, fcntl, mmap, os, socket, sys, time, json
told = json.loads(input())
libc = ctypes.CDLL(None, use_errno=True)
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
def connect(family, address, protocol=0):
    with socket.socket(family, socket.SOCK_STREAM, protocol) as client:
        client.settimeout(2)
        client.connect(address)
def open_fast(address):
    with socket.socket() as client:
        client.sendto(b"x", socket.MSG_FASTOPEN, address)
def opens(family, kind, protocol):
    try:
        socket.socket(family, kind, protocol).close()
    except OSError:
        return False
    return True
def let_in(call, *arguments):
    # with arguments that are good for nothing, the kernel has another error for a call than a filter that refuses it
    ctypes.set_errno(0)
    kept_out = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP)
    return call(*arguments) != -1 or ctypes.get_errno() not in kept_out
def allowed(act):
    try:
        act()
    except OSError:
        return False
    return True
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
here = ("127.0.0.1", told["port"])
own, ends, file = attempt(lambda: write("own")), os.pipe(), os.open("probe.py", os.O_RDONLY)
target = os.open("taken", os.O_CREAT | os.O_RDWR)
calls = {name: let_in(getattr(libc, name), *arguments) for name, arguments in told["functions"].items()}
calls |= {name: let_in(libc.syscall, number, -1, None, 0, None, 0, 0) for name, number in told["numbers"].items()}
calls |= {name: allowed(lambda: fcntl.fcntl(file, number, value)) for name, (number, value) in told["fcntl"].items()}
calls |= {
    "FS_IOC_SETFLAGS": let_in(libc.ioctl, file, 0x40086602, None),
    "fallocate": let_in(libc.fallocate, target, 0, ctypes.c_long(0), ctypes.c_long(4096)),
    "F_SETPIPE_SZ": allowed(lambda: fcntl.fcntl(ends[0], 1031, 8192)),
    "MAP_SHARED | MAP_ANONYMOUS": allowed(lambda: mmap.mmap(-1, 4096)),
    "SO_SNDBUF": allowed(lambda: socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)),
}
print(json.dumps({
    "tcp": attempt(lambda: connect(socket.AF_INET, here)),
    "mptcp": attempt(lambda: connect(socket.AF_INET, here, 262)),
    "fast open": attempt(lambda: open_fast(here)),
    "abstract": attempt(lambda: connect(socket.AF_UNIX, "\\0" + told["abstract"])),
    "sockets": [name for name, (family, kind, protocol) in told["sockets"].items() if opens(family, kind, protocol)],
    "write": attempt(lambda: write(told["outside"])),
    "own": own,
    "read": attempt(lambda: read(told["secret"])),
    "home": attempt(lambda: os.listdir(told["home"])),
    "packages": [path for path in told["packages"] if isinstance(attempt(lambda: os.listdir(path) or {}), list)],
    "parent": attempt(lambda: read(f"/proc/{told['parent']}/environ")),
    "environment": sorted(os.environ),
    "calls": [name for name, done in calls.items() if done],
    "forks": fork(),
}), flush=True)
time.sleep(60)
"""
SOCKETS = {
    "IPv4": (2, 1, 0),
    "UDP": (2, 2, 0),
    "MPTCP": (2, 1, 262),
    "SCTP": (2, 1, 132),
    "ICMP": (2, 2, 1),
    "raw": (2, 3, 1),
    "IPv6": (10, 1, 0),
    "netlink": (16, 3, 0),
    "packet": (17, 3, 0),
    "Bluetooth": (31, 5, 0),
    "crypto": (38, 5, 0),
    "vsock": (40, 1, 0),
    "local datagram": (1, 2, 0),
}
"""family, type and protocol of sockets that no program needs"""
CALLS: dict[str, tuple[str, ...]] = {
    "hold memory that no limit counts": (
        *("vmsplice", "splice", "tee", "sendfile", "memfd_create", "shmget", "msgget", "sendmsg"),
        *("F_SETPIPE_SZ", "MAP_SHARED | MAP_ANONYMOUS", "SO_SNDBUF"),
    ),
    "take disk space faster than anybody looks": ("fallocate", "copy_file_range"),
    "change files of others": ("setxattr", "setxattrat", "removexattrat", "file_setattr", "FS_IOC_SETFLAGS"),
    "watch files of others, or use up what all share": ("inotify_init1", "io_setup", "F_NOTIFY", "F_SETLEASE"),
    "make system calls that are unknown here": (
        "cachestat",
        "fchmodat2",
        "futex_wake",
        "listmount",
    ),
}
"""what a program could do -> calls, or arguments of them, that let it"""
_FUNCTIONS: dict[str, tuple[object, ...]] = {
    "vmsplice": (-1, None, 0, 0),
    "splice": (-1, None, -1, None, 0, 0),
    "tee": (-1, -1, 0, 0),
    "sendfile": (-1, -1, None, 0),
    "memfd_create": (None, 0),
    "shmget": (-2, 0, 0),
    "msgget": (-2, 0),
    "sendmsg": (-1, None, 0),
    "copy_file_range": (-1, None, -1, None, 0, 0),
    "setxattr": (None, None, None, 0, 0),
    "inotify_init1": (-1,),
}
"""functions of the C library, with arguments of no use"""
_NUMBERS = {
    "setxattrat": 463,
    "removexattrat": 466,
    "file_setattr": 469,
    "cachestat": 451,
    "fchmodat2": 452,
    "futex_wake": 454,
    "listmount": 458,
    "io_setup": 206 if platform.machine() == "x86_64" else 0,
}
"""calls that the C library may not know; new ones have the same numbers everywhere"""
_FCNTLS = {"F_NOTIFY": (1026, 0), "F_SETLEASE": (1024, 0)}
"""on a file that is open for reading: take back a notification, take a lease"""


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
        observed = _outside(outside)
        mark = uuid.uuid4().hex
        program = [PYTHON, *ISOLATED, "probe.py", mark]
        with sandbox.open(program, {"probe.py": _PROBE.encode()}, _LIMITS) as session:
            session.send(json.dumps(observed).encode() + b"\n")
            line = session.receive_line()
            if line is None:
                ended = session.outcome()
                return [f"its program ended too early ({ended.end} {ended.code}): {ended.stderr.decode().strip()}"]
        return [*_faults(json.loads(line), observed), *survivors(mark)]


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
        "packages": [*map(str, hidden_paths())],
        "parent": os.getpid(),
        "forks": 4 * _LIMITS.processes,
        "sockets": SOCKETS,
        "functions": _FUNCTIONS,
        "numbers": _NUMBERS,
        "fcntl": _FCNTLS,
    }


def _faults(report: dict[str, Any], observed: dict[str, Any]) -> Iterator[str]:
    wrong = {
        "tcp": "the network can be reached",
        "mptcp": "the network can be reached by MPTCP",
        "fast open": "the network can be reached by TCP fast open",
        "abstract": "local services can be reached",
        "write": "files outside of the scratch folder can be written",
        "read": "files outside of the scratch folder can be read",
        "parent": "the environment of other processes can be read",
    }
    yield from (fault for what, fault in wrong.items() if not isinstance(report[what], dict))
    if report["sockets"]:
        yield f"sockets can be opened: {', '.join(report['sockets'])}"
    for what, calls in CALLS.items():
        if through := [call for call in calls if call in report["calls"]]:
            yield f"a program can {what}: {', '.join(through)}"
    if report["own"] != "done":
        yield f"the scratch folder cannot be written ({report['own']})"
    if Path(observed["outside"]).exists():
        yield wrong["write"]
    if isinstance(report["home"], list) and set(report["home"]) - _on_the_way(Path(observed["home"])):
        yield "the home folder can be read"
    if report["packages"]:
        yield f"installed packages can be read: {', '.join(report['packages'][:3])}"
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
