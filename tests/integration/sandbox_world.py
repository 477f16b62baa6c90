"""Everything around a sandbox that a program could harm, and whether it was."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from reasoner.sandbox import ISOLATED, PYTHON, Limits, Outcome, Sandbox, Session
from reasoner.sandbox.proof import survivors

SECRET = "REASONER_TEST_SECRET"
REPOSITORY = Path(__file__).resolve().parents[2]

_PREAMBLE = """
import contextlib, ctypes, json, os, resource, signal, socket, subprocess, sys, threading, time
world, libc = json.loads(sys.argv[1]), ctypes.CDLL(None)
path, value = world['file'].encode(), ctypes.create_string_buffer(b'1')
new = (ctypes.c_uint64 * 2)(ctypes.addressof(value), 1)  # arguments of setxattrat
def tries(*acts):
    for act in acts:
        with contextlib.suppress(Exception):
            print(act, '->', eval(act) if act[0] != '!' else exec(act[1:]), flush=True)
"""


@dataclass
class World:
    """Canaries: files, services, a process, an environment variable."""

    folder: Path
    victim: psutil.Process
    services: dict[str, socket.socket]
    secret: str = field(default_factory=lambda: secrets.token_hex(8))
    before: dict[str, Any] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def told(self) -> dict[str, Any]:
        """What the programs know."""
        return {
            "file": str(self.folder / "canary"),
            "folder": str(self.folder),
            "new": str(self.folder / "new"),
            "socket": str(self.folder / "socket"),
            "datagrams": str(self.folder / "datagrams"),
            "tcp": self.services["tcp"].getsockname()[1],
            "udp": self.services["udp"].getsockname()[1],
            "abstract": self.services["abstract"].getsockname()[1:].decode(),
            "victim": self.victim.pid,
            "parent": os.getpid(),
            "home": str(Path.home()),
            "repository": str(REPOSITORY),
            "mark": self.mark,
            "key": self.key,
        }

    def state(self) -> dict[str, Any]:
        """All that must stay as it is."""
        canary = self.folder / "canary"
        about = canary.lstat() if canary.exists() else None
        return {
            "names": sorted(path.name for path in self.folder.rglob("*")),
            "content": canary.read_text() if about else None,
            "metadata": about and (about.st_mode, about.st_uid, about.st_gid, about.st_mtime_ns, about.st_nlink),
            "attributes": os.listxattr(canary) if about else None,
            "victim": self._victim(),
            "shared memory": [path.name for path in Path("/dev/shm").glob(f"*{self.mark}*")],
            "segments": self._of_this_key("shm"),
            "queues": self._of_this_key("msg"),
            "host": socket.gethostname(),
        }

    def _victim(self) -> Any:
        if not self.victim.is_running() or self.victim.status() == psutil.STATUS_ZOMBIE:
            return "dead"
        limit = self.victim.rlimit(psutil.RLIMIT_NOFILE)
        stopped = self.victim.status() == psutil.STATUS_STOPPED
        return (self.victim.nice(), self.victim.cpu_affinity(), limit, "stopped" if stopped else "going on")

    def _of_this_key(self, kind: str) -> list[int]:
        """Numbers of System V objects with the key that the programs use."""
        rows = [line.split() for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]]
        return [int(row[1]) for row in rows if int(row[0]) == self.key]

    @property
    def key(self) -> int:
        """Key of System V objects."""
        return int(self.mark[:7], 16)

    def clean(self) -> None:
        """Remove what a program left that had no sandbox."""
        libc = ctypes.CDLL(None)
        for number in self._of_this_key("shm"):
            libc.shmctl(number, 0, None)
        for number in self._of_this_key("msg"):
            libc.msgctl(number, 0, None)
        for path in Path("/dev/shm").glob(f"*{self.mark}*"):
            path.unlink()

    def harm(self) -> list[str]:
        """What is not as it was, in words."""
        now = self.state()
        result = [f"{name}: {self.before[name]} -> {now[name]}" for name in now if now[name] != self.before[name]]
        result += [f"{name} was reached" for name, service in self.services.items() if _has_caller(service)]
        result += list(survivors(self.mark))
        temporary = Path(tempfile.gettempdir())
        return result + [f"left {path}" for path in temporary.glob("reasoner-*program-*") if self.mark in _text(path)]


def _text(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return (folder / "mark.txt").read_text()
    return ""


def _has_caller(service: socket.socket) -> bool:
    service.setblocking(False)
    try:
        if service.type == socket.SOCK_DGRAM:
            return bool(service.recv(1))
        service.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def world() -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="canary-")))
        folder.chmod(0o755)
        victim = stack.enter_context(subprocess.Popen(["sleep", "1000"]))
        stack.callback(victim.kill)
        services = {
            "tcp": socket.create_server(("127.0.0.1", 0)),
            "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "unix": socket.socket(socket.AF_UNIX),
            "abstract": socket.socket(socket.AF_UNIX),
            "datagrams": socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        }
        for service in services.values():
            stack.enter_context(service)
        services["udp"].bind(("127.0.0.1", 0))
        services["unix"].bind(str(folder / "socket"))
        services["datagrams"].bind(str(folder / "datagrams"))
        services["abstract"].bind("\0" + secrets.token_hex(8))
        for name in ("unix", "abstract"):
            services[name].listen()
        made = World(folder, psutil.Process(victim.pid), services)
        (folder / "canary").write_text(made.secret)
        stack.enter_context(_variable(SECRET, made.secret))
        stack.callback(made.clean)
        made.before = made.state()
        yield made


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def program(source: str, around: World) -> tuple[list[str], dict[str, bytes]]:
    """Command and files of a program that knows the world around it."""
    files = {"main.py": (_PREAMBLE + source).encode(), "mark.txt": around.mark.encode()}
    return [PYTHON, *ISOLATED, "main.py", json.dumps(around.told)], files


def attack(sandbox: Sandbox, source: str, around: World, limits: Limits) -> Outcome:
    command, files = program(source, around)
    return sandbox.run(command, files, b"", limits)


def attacking(
    sandbox: Sandbox, source: str, around: World, limits: Limits
) -> contextlib.AbstractContextManager[Session]:
    command, files = program(source, around)
    return sandbox.open(command, files, limits)


CANARY_ATTACKS = {
    "tcp": "socket.create_connection(('127.0.0.1', world['tcp']), 2).send(b'x')",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', world['udp']))",
    "unix socket": "socket.socket(socket.AF_UNIX).connect(world['socket'])",
    "abstract socket": "socket.socket(socket.AF_UNIX).connect('\\0' + world['abstract'])",
    "multipath TCP": "socket.socket(2, 1, 262).connect(('127.0.0.1', world['tcp']))",
    "TCP fast open": "socket.socket().sendto(b'x', socket.MSG_FASTOPEN, ('127.0.0.1', world['tcp']))",
    "datagram": "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', world['datagrams'])",
    "datagram from a pair": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', world['datagrams'])",
    "message from a pair": "socket.socketpair(1, socket.SOCK_DGRAM)[0].sendmsg([b'x'], [], 0, world['datagrams'])",
    "new file": "open(world['new'], 'w').write('x')",
    "new folder": "os.mkdir(world['new'])",
    "append": "open(world['file'], 'a').write('x')",
    "truncate": "os.truncate(world['file'], 0)",
    "remove": "os.unlink(world['file'])",
    "rename": "os.rename(world['file'], world['new'])",
    "link": "os.link(world['file'], world['new'])",
    "permissions": "os.chmod(world['file'], 0o777)",
    "times": "os.utime(world['file'], (1, 1))",
    "attribute": "os.setxattr(world['file'], 'user.x', b'1')",
    "attribute by a newer call": "assert libc.syscall(463, -100, path, 0, b'user.y', ctypes.byref(new), 16) == 0",
    "through a link": "os.symlink(world['file'], 'link'); open('link', 'a').write('x')",
    "through dots": "open('../' * 20 + world['file'], 'a').write('x')",
    "its file is a link": "os.unlink('main.py'); os.symlink(world['file'], 'main.py'); open('main.py', 'a').write('x')",
    "kill": "os.kill(world['victim'], signal.SIGKILL)",
    "stop": "os.kill(world['victim'], signal.SIGSTOP); time.sleep(.2)",
    "signal by descriptor": "signal.pidfd_send_signal(os.pidfd_open(world['victim']), signal.SIGKILL)",
    "priority": "os.setpriority(os.PRIO_PROCESS, world['victim'], 7)",
    "cores": "os.sched_setaffinity(world['victim'], [max(os.sched_getaffinity(0))])",
    "limits of others": "resource.prlimit(world['victim'], resource.RLIMIT_NOFILE, (5, 5))",
    "trace": "assert ctypes.CDLL(None).ptrace(0x4206, world['victim'], 0, 0x100000) == 0",
    "shared memory": "open('/dev/shm/' + world['mark'], 'w').write('x')",
    "segment": "assert ctypes.CDLL(None).shmget(world['key'], 4096, 0o1666) >= 0",
    "queue": "assert ctypes.CDLL(None).msgget(world['key'], 0o1666) >= 0",
}
"""what each does to the canaries of the test; a line of Python"""


def touched(sandbox: Sandbox, around: World, limits: Limits) -> list[str]:
    """What is not as it was after all of these attacks.

    Raises:
        AssertionError: they were not tried.
    """
    lines = [f"tries({'!' + line!r})" for line in CANARY_ATTACKS.values()]
    outcome = attack(sandbox, "\n".join([*lines, "print('all tried')"]), around, limits)
    assert outcome.stdout.endswith(b"all tried\n"), outcome
    return around.harm()
