"""Limits that the kernel holds for each process."""

from __future__ import annotations

import math
import resource

from reasoner.sandbox.base import Limits

_PENDING_SIGNALS = 1024
"""signals and timers of one user that wait; counted with all else of this user, so that the program stops first"""


def limit_process(pid: int, limits: Limits, processes: int | None) -> None:
    """Set the limits of a process that has not started its program; what it starts inherits them.

    Args:
        processes: processes and threads of its user in its user namespace; None: not limited here.
    """
    seconds = math.ceil(limits.cpu_s)
    wanted = {
        resource.RLIMIT_AS: (limits.memory_mb * 2**20,) * 2,
        resource.RLIMIT_CPU: (seconds, seconds + 1),  # SIGXCPU first, then SIGKILL
        resource.RLIMIT_FSIZE: (limits.scratch_mb * 2**20,) * 2,
        resource.RLIMIT_NOFILE: (limits.open_files,) * 2,
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_SIGPENDING: (_PENDING_SIGNALS,) * 2,
    }
    if processes is not None:
        wanted[resource.RLIMIT_NPROC] = (processes,) * 2
    for resource_, (soft, hard) in wanted.items():
        most = resource.prlimit(pid, resource_)[1]
        if most != resource.RLIM_INFINITY:  # only root can raise what is already limited
            soft, hard = min(soft, most), min(hard, most)
        resource.prlimit(pid, resource_, (soft, hard))
