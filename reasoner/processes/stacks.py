"""Where the ranks of a run stood when it ended without one of them knowing why.

A rank that waits in vain for another can only say that it waited; what it waited for is in the other one's stack. So
every rank writes the stacks of its threads when it is ended from outside, as a launcher does with the ranks that are
left when one fails, and when it breaks, as NCCL does to a process whose collective waited too long. It is written in C
(`faulthandler`): a rank that stands inside a collective, or in code that never returns, can do it too.
"""

from __future__ import annotations

import faulthandler
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from reasoner.errors import ReasonerError
from reasoner.io.redaction import redact

FILE = "stacks.txt"
_DUMPED = "(most recent call first):\n"
"""how faulthandler ends the line before the frames of a thread"""
_FRAMES = 12
"""lines of a rank's stack in a message"""


@contextmanager
def keep_stacks(folder: Path) -> Iterator[None]:
    """Meanwhile the stacks of this process go to `stacks.txt` in `folder` when SIGTERM ends it, before anything else
    is done about the signal, when it breaks, and when an unexpected error leaves the context. Otherwise there is no
    such file.

    Inside of another one it takes over from that.
    """
    path = folder / FILE
    with ExitStack() as stack:
        stack.callback(_remove_if_empty, path)
        file = stack.enter_context(path.open("w", encoding="utf-8"))
        faulthandler.enable(file)
        faulthandler.register(signal.SIGTERM, file, chain=True)
        try:
            yield
        except Exception as error:
            if not isinstance(error, ReasonerError):
                file.write(redact("".join(traceback.format_exception(error))))
            raise
        finally:
            faulthandler.unregister(signal.SIGTERM)
            faulthandler.disable()


def _remove_if_empty(file: Path) -> None:
    if file.exists() and not file.stat().st_size:
        file.unlink()


def forget_stacks(run_folder: Path) -> None:
    """Remove what the ranks of an earlier start of a run wrote."""
    for file in (run_folder / FILE, *run_folder.glob(f"ranks/*/{FILE}")):
        file.unlink(missing_ok=True)


def stack_summary(files: Sequence[tuple[int, Path]]) -> str:
    """The innermost frames of every rank's main thread, for a message; empty: no rank has written any.

    Args:
        files: rank and file of each; those that are not there are left out.
    """
    stacks = [f"rank {rank}:\n{_innermost(text)}" for rank, file in files if (text := _read(file))]
    return "\n".join(["Where the ranks stood when they were ended, innermost first:", *stacks]) if stacks else ""


def _innermost(text: str) -> str:
    """Of a dump the last thread, which is the main one; of a traceback its last frames."""
    if _DUMPED in text:
        frames = text.split(_DUMPED)[-1].splitlines()
        frames = frames[: next((n for n, line in enumerate(frames) if not line.startswith("  File")), len(frames))]
    else:
        frames = [line for line in text.splitlines() if line.startswith("  File")][::-1]
    return "\n".join(frames[:_FRAMES])


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
