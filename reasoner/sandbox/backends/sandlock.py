"""Landlock and seccomp through the package sandlock: needs no namespaces, so it works where containers forbid them.

Files outside are not hidden: their contents cannot be read, but whether they exist, how large they are and when they
were changed can be seen. Landlock leaves changes of permissions, owners and times to the file system, and scheduling
and limits of other processes to the kernel's own rules, which let a program do to all of this user's what it likes;
the system calls for it are refused instead.

Everything that a program started is killed with it, by its parent: if that is killed itself, the program dies, but a
process that has detached itself from it can go on, without opening a file, until its CPU seconds are used up.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from reasoner.errors import MissingDependencyError
from reasoner.sandbox.backends.local import LocalSandbox
from reasoner.sandbox.backends.seccomp import confine_thread, program_filter
from reasoner.sandbox.base import End, Limits, SandboxError
from reasoner.sandbox.family import ProcessFamily
from reasoner.sandbox.interpreter import hidden_paths, readable_paths
from reasoner.sandbox.pipes import GATE, Pipes, ending

_REFUSED = (
    # what our filter allows, as in bubblewrap a program has only itself and its own files to do it to
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat"),
    *("utime", "utimes", "utimensat", "futimesat"),
    *("prlimit64", "setpriority", "pidfd_open"),
    *("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"),
    # what our filter allows to sandlock itself (`STARTING`) and sandlock's own does not refuse
    *("accept", "accept4", "listen", "memfd_create", "name_to_handle_at", "pidfd_getfd", "seccomp"),
    *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
)
_DEVICES = ("/dev/full", "/dev/random", "/dev/urandom")
_OVERALL = 2
"""what all processes together may map, in multiples of what one may: sandlock kills where the kernel would refuse"""
_END_S = 30.0
"""seconds for everything that was killed to be gone"""


def sandlock() -> LocalSandbox:
    """Raises MissingDependencyError: it is not installed, or the kernel is too old; the message says what to do."""
    try:
        import sandlock
    except ImportError:
        raise MissingDependencyError("sandlock is not installed: `pip install 'reasoner[code]'`") from None
    has, needs = sandlock.landlock_abi_version(), sandlock.min_landlock_abi()
    if has < needs:
        raise MissingDependencyError(f"sandlock needs Landlock {needs} (Linux 6.12 or newer); this kernel has {has}")
    rules = program_filter(starting=True)
    return LocalSandbox(f"sandlock {sandlock.__version__}", partial(SandlockChild, rules))


class SandlockChild(ProcessFamily):
    """A program under sandlock (a `Child`).

    It is started from a thread of its own, which has put a filter of system calls on itself: what it starts inherits
    that, and sandlock, which knows calls but not their arguments, puts its own one on top. The thread waits until the
    program has ended: the kernel kills a program with the thread that started it.
    """

    def __init__(
        self, rules: bytes, program: Sequence[str], files: Mapping[str, bytes], limits: Limits, undo: ExitStack
    ) -> None:
        super().__init__(files, limits, undo)
        command = [*GATE, *_without_rights(), *program]
        starter = undo.enter_context(ThreadPoolExecutor(1, "sandlock"))
        starter.submit(confine_thread, rules).result()
        started = starter.submit(_popen, command, self.folder, self.environment(), limits)
        self._process = undo.enter_context(started.result())
        pipes = Pipes(self._process.stdin, self._process.stdout, self._process.stderr)
        self.begin(int(self._process.pid), pipes, undo)

    def finish(self, killed: bool) -> tuple[End, int]:
        from sandlock import ExitReason

        result = self.end(lambda: self._process.wait(_END_S))
        match result.reason:
            case ExitReason.EXITED:
                return ending(result.exit_code)
            case ExitReason.SIGNALED:
                return ending(-result.signal)
            case ExitReason.KILLED:
                return ending(-signal.SIGKILL)
        raise SandboxError(f"sandlock could not end a program: {result}")


def _popen(argv: Sequence[str], folder: str, environment: Mapping[str, str], limits: Limits) -> Any:
    import sandlock

    box = sandlock.Sandbox(
        fs_readable=[*map(str, readable_paths()), *_DEVICES],
        fs_denied=[*map(str, hidden_paths())],
        fs_writable=[folder, os.devnull],
        cwd=folder,
        clean_env=True,
        env=environment,
        max_processes=limits.processes,
        max_memory=_OVERALL * limits.memory_mb * 2**20,
        extra_deny_syscalls=_REFUSED,
    )
    pipe = sandlock.StdioMode.PIPED
    try:
        return box.popen(argv, stdin=pipe, stdout=pipe, stderr=pipe)
    except (RuntimeError, sandlock.SandlockError) as error:
        raise SandboxError(f"sandlock did not start a program: {error}") from error


def _without_rights() -> list[str]:
    """Root only: run the rest of the command without a root's capabilities."""
    if os.geteuid() != 0:
        return []
    return [shutil.which("setpriv") or "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
