"""The mark that every process and every scratch folder of a run carries, and what it proves.

A run's processes inherit it in their environment, and its scratch folders have it in their names. It names the run's
main process too: whoever meets the mark later can tell whether that process is gone.
"""

from __future__ import annotations

import os
import re
import uuid
from contextlib import suppress

from reasoner.processes import parent_watchdog

MARKER = "REASONER_RUN"
"""environment variable that every process of a run inherits; its value is unique to the run"""

_FORM = re.compile(r"(?P<run>[0-9a-f]{32})\.(?P<pid>\d+)\.(?P<start>\d+)\.(?P<namespace>\d+)", re.ASCII)


def new_marker() -> str:
    """A value of `MARKER` for a run whose main process is this one."""
    own = parent_watchdog.look_at(os.getpid())
    return f"{uuid.uuid4().hex}.{os.getpid()}.{own.start if own else 0}.{_process_namespace()}"


def is_gone(marker: str) -> bool:
    """Whether the run with this mark is certainly over.

    What cannot be seen from here counts as alive: a mark of another form, another process namespace (a container that
    shares a folder with this one), and a process whose entry in /proc is hidden from this user.
    """
    match = _FORM.fullmatch(marker)
    if match is None or int(match["namespace"]) != _process_namespace():
        return False
    pid = int(match["pid"])
    if main := parent_watchdog.look_at(pid):
        return main.start != match["start"] or main.dead
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is another user's
        pass
    return False


def scratch_prefix() -> str:
    """Start of the names of this run's temporary folders, by which the watchdog finds what a killed run left behind."""
    return f"reasoner-{os.environ.get(MARKER, 'alone').partition('.')[0]}-"


def _process_namespace() -> int:
    """The number of the namespace in which this process counts process ids; 0 when it cannot be seen."""
    with suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 (the link is no path)
    return 0
