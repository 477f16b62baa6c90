"""Namespaces through bubblewrap: the program sees no other process, no network and next to no files.

Inside there are the programs and libraries of the system, read-only, a few devices, and one temporary file system of
limited size: the scratch folder, which is gone with the last process. There is no /proc, no home and no environment.

Limits are set on the first process from outside, while it waits: bubblewrap knows none, and processes must be counted
inside the new user namespace, not against everything that this user runs. That count does not bind root (`INIT_USER` in
the kernel's fork.c), so for root the program gets a user id of its own instead.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path, PurePosixPath

from reasoner.errors import MissingDependencyError
from reasoner.processes.subreaper import held, kill
from reasoner.sandbox.backends.local import LocalSandbox
from reasoner.sandbox.backends.seccomp import program_filter
from reasoner.sandbox.base import FILE_BYTES, End, Limits, SandboxError
from reasoner.sandbox.interpreter import hidden_paths, readable_paths
from reasoner.sandbox.limits import limit_process
from reasoner.sandbox.pipes import Pipes, ending, open_gate, read_all
from reasoner.sandbox.usage import tree

SCRATCH = next(
    place for place in ("/tmp", "/reasoner-scratch") if not any(path.is_relative_to(place) for path in readable_paths())
)
"""where the scratch folder is inside: it hides what is below, so not where an interpreter lies that programs need"""
START_S = 10.0
"""seconds for bubblewrap to set up its namespaces"""
_DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": SCRATCH, "TMPDIR": SCRATCH, "LANG": "C.UTF-8"}
_INIT = ("/bin/sh", "-c", 'read -r go || exit; exec 3>&2 2>/dev/null; (exec "$@" 2>&3 3>&-); exit $?', "sh")
"""The first process inside: it waits for a word (`open_gate`) and starts the program; with its end the kernel kills
everything else inside. Bubblewrap waits for this one; its own would stay a zombie where nobody reaps orphans, as in
many containers."""
_SIGNALLED = 128
"""an exit status above it: ended by a signal, as in a shell"""


def bubblewrap() -> LocalSandbox:
    """Raises MissingDependencyError: it is not installed; the message says what to install."""
    if (command := shutil.which("bwrap")) is None:
        raise MissingDependencyError("bubblewrap is not installed: `apt install bubblewrap` (or `dnf`, `pacman`)")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        raise MissingDependencyError("for root, bubblewrap needs setpriv: `apt install util-linux` (or `dnf`, `apk`)")
    seccomp = program_filter()
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return LocalSandbox(version or "bubblewrap", partial(BubblewrapChild, command, seccomp))


class BubblewrapChild:
    """A program in bubblewrap (a `Child`)."""

    def __init__(
        self,
        command: str,
        seccomp: bytes,
        program: Sequence[str],
        files: Mapping[str, bytes],
        limits: Limits,
        undo: ExitStack,
    ) -> None:
        self._scratch_bytes = limits.scratch_mb * 2**20
        with ExitStack() as inherited:
            self._status, write_end = _pipe(undo, inherited)
            rules = _memory_descriptor(seccomp, inherited)
            contents = {name: _memory_descriptor(data, inherited) for name, data in files.items()}
            argv = [command, *_isolation(), *_view(), *_scratch(contents, limits), "--seccomp", str(rules)]
            argv += ["--json-status-fd", str(write_end), "--", *_INIT, *_user_switch(), *program]
            self._process = undo.enter_context(
                held(
                    subprocess.Popen(
                        argv,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        pass_fds=(write_end, rules, *contents.values()),
                        env=_ENVIRONMENT,
                        start_new_session=True,
                    )
                )
            )
        undo.callback(self._give_up)
        self.pipes = Pipes(self._process.stdin, self._process.stdout, self._process.stderr)
        undo.callback(self.pipes.close)
        self.ended = os.pidfd_open(self._process.pid)
        undo.callback(os.close, self.ended)
        self._first = self._first_process()
        try:
            self._first_fd = os.pidfd_open(self._first)
            undo.callback(os.close, self._first_fd)
            # the first process counts too, unless it is root's
            limit_process(self._first, limits, limits.processes + (os.geteuid() != 0))
        except ProcessLookupError:
            raise self._not_started() from None
        open_gate(self.pipes)

    def pids(self) -> list[int]:
        return tree(self._first)[1:]

    def full(self) -> bool:
        # the size is limited by the file system, the number of files is not
        with suppress(OSError):
            scratch = os.statvfs(f"/proc/{self._first}/root{SCRATCH}")
            return (scratch.f_files - scratch.f_ffree) * FILE_BYTES > self._scratch_bytes
        return False

    def kill(self) -> None:
        # the kernel kills all of a process namespace with its first process, and bubblewrap ends after that
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._first_fd, signal.SIGKILL)

    def finish(self, killed: bool) -> tuple[End, int]:
        self._process.wait()
        statuses = map(json.loads, read_all(self._status).splitlines())
        codes = [status["exit-code"] for status in statuses if "exit-code" in status]
        if codes:
            return ending(codes[0] if codes[0] <= _SIGNALLED else _SIGNALLED - codes[0])
        if killed:
            return "signal", signal.SIGKILL.value
        raise SandboxError("bubblewrap did not start the program")

    def _first_process(self) -> int:
        """The id that the first process inside has here."""
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._status], [], [], START_S)
            data = os.read(self._status, 1) if ready else b""
            if not data:
                raise self._not_started()
            line += data
        return int(json.loads(line)["child-pid"])

    def _not_started(self) -> SandboxError:
        os.set_blocking(self.pipes.stderr, False)
        stderr = read_all(self.pipes.stderr).decode(errors="replace").strip()
        return SandboxError(f"bubblewrap did not start: {stderr or 'no answer'}")

    def _give_up(self) -> None:
        """End what was begun, if it has not ended."""
        if self._process.returncode is None:
            for pid in tree(self._process.pid):
                kill(pid)


def _isolation() -> Iterator[str]:
    """Every namespace there is. Without a user namespace (root) it needs the rights to change the user inside."""
    yield from ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
    yield from ("--die-with-parent", "--new-session", "--as-pid-1")
    if os.geteuid() == 0:
        yield from ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    else:
        yield "--unshare-user"


def _user_switch() -> list[str]:
    """Root only: run the rest of the command as a user that nobody else is."""
    if os.geteuid() != 0:
        return []
    identity = str(_spare_user())
    return ["setpriv", "--reuid", identity, "--regid", identity, "--clear-groups", "--inh-caps=-all", "--"]


def _spare_user() -> int:
    """A user id from the upper half of the largest range that exists in this user namespace."""
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    first, _, count = max(ranges, key=lambda range_: range_[2])
    return random.SystemRandom().randrange(first + count // 2, first + count - 1)


def _view() -> Iterator[str]:
    """What of the file system is there, read-only."""
    paths = readable_paths()
    for folder in sorted({folder for path in paths for folder in path.parents if folder.name}):
        # left to bubblewrap, a folder that leads to a path would be closed to others where it is outside
        yield from ("--perms", "0755", "--dir", str(folder))
    for path in paths:
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        else:
            yield from ("--ro-bind", str(path), str(path))
    for path in hidden_paths():
        yield from ("--perms", "0555", "--tmpfs", str(path), "--remount-ro", str(path))
    yield from ("--perms", "0755", "--dir", "/dev")
    for device in _DEVICES:
        yield from ("--dev-bind", device, device)
    yield from ("--symlink", SCRATCH, "/dev/shm")


def _scratch(contents: Mapping[str, int], limits: Limits) -> Iterator[str]:
    """The one place that can be written, with the files in it; everything else is read-only from then on."""
    yield from ("--perms", "0777", "--size", str(limits.scratch_mb * 2**20), "--tmpfs", SCRATCH)
    folders = {folder for name in contents for folder in PurePosixPath(name).parents if folder.name}
    for folder in sorted(folders):
        yield from ("--perms", "0777", "--dir", f"{SCRATCH}/{folder}")
    for name, descriptor in contents.items():
        yield from ("--perms", "0666", "--file", str(descriptor), f"{SCRATCH}/{name}")
    yield from ("--remount-ro", "/", "--chdir", SCRATCH)


def _pipe(reading: ExitStack, writing: ExitStack) -> tuple[int, int]:
    """Its two ends, each closed with its stack."""
    ends = os.pipe()
    reading.callback(os.close, ends[0])
    writing.callback(os.close, ends[1])
    return ends


def _memory_descriptor(data: bytes, stack: ExitStack) -> int:
    """A descriptor from which the data can be read, closed with the stack."""
    descriptor = os.memfd_create("file")
    stack.callback(os.close, descriptor)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
