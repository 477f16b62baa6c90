"""Starts the ranks of a run on this node and ends all of them when one fails, with torch's launcher.

Every rank is this very command again; the launcher's environment variables tell it which one it is
(`reasoner.ranks`). The first rank has the terminal; what the others print goes into files. A rank that fails writes
why into a file that the launcher names, and says nothing itself: the one that failed first is what is shown.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasoner.errors import ReasonerError, RunError, UserError
from reasoner.processes import scratch_prefix
from reasoner.secrets import redact

_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""environment variable of torch's launcher: where a rank writes why it failed"""
_END_WITHIN = 15
"""seconds for the other ranks to end by themselves before they are killed"""
_TAIL = 3000
"""characters of a rank's output in an error"""


class RankError(RunError):
    """A rank failed: the message holds its number and its traceback, `code` its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def launch(ranks: int, arguments: Sequence[str], output: Path) -> None:
    """Run `python -m reasoner ARGUMENTS` as `ranks` ranks and wait for their end.

    Args:
        output: folder for run folders; logs of the ranks are kept there until the run folder has them.

    Raises:
        RankError: one of them failed.
        KeyboardInterrupt: this process was asked to end, and the ranks have ended.
        UserError: `output` cannot be written.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    try:
        output.mkdir(parents=True, exist_ok=True)
        logs = tempfile.TemporaryDirectory(prefix=f".{scratch_prefix()}", dir=output, ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(f"run.output = {str(output)!r} cannot be written: {error.strerror or error}") from error
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what matters is said below
    with logs as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id=uuid.uuid4().hex[:8],
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.2,
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=dict.fromkeys(range(1, ranks), Std.ALL)),
            shutdown_timeout=_END_WITHIN,
        )
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks)))
        try:
            elastic_launch(config, sys.executable)("-m", "reasoner", *arguments)
        except ChildFailedError as failed:
            raise _first_of(failed.failures, Path(folder)) from None
        except SignalException:
            raise KeyboardInterrupt from None


def report(error: BaseException, code: int) -> bool:
    """On a rank: write why it fails for the launcher, which shows it. False: there is no launcher to tell."""
    file = os.environ.get(_ERROR_FILE)
    if not file:
        return False
    text = f"error: {error}" if isinstance(error, ReasonerError) else "".join(traceback.format_exception(error))
    text = redact(text)
    details = {"py_callstack": text, "timestamp": str(int(time.time()))}
    said = {"message": text, "code": code, "time": time.time(), "extraInfo": details}
    Path(file).write_text(json.dumps({"message": said}), encoding="utf-8")
    return True


def _first_of(failures: Mapping[int, Any], logs: Path) -> RankError:
    """The failure behind the others: a rank that was killed, or the one that failed first.

    Where one rank is gone the others fail too, because they were waiting for it.
    """
    said = {rank: message for rank, failure in failures.items() if (message := _said(failure.error_file))}
    silent = {rank: failure.exitcode for rank, failure in failures.items() if rank not in said}
    causes = {rank: message for rank, message in said.items() if not _misses_another(message["message"])}
    died = [rank for rank, code in silent.items() if code != -signal.SIGTERM]  # which is how the launcher ends the rest
    if causes or (said and not died):
        rank, message = min((causes or said).items(), key=lambda item: float(item[1]["time"]))
        return RankError(f"rank {rank} failed.\n{message['message'].strip()}", int(message["code"]))
    rank = [*died, *silent][0]
    how = f"was ended by signal {-silent[rank]}" if silent[rank] < 0 else f"ended with exit code {silent[rank]}"
    return RankError(f"rank {rank} {how} and said nothing.{_tail(rank, logs)}", 1)


def _misses_another(message: str) -> bool:
    """Whether a rank failed only because it waited for one that is gone."""
    return any(sign in message for sign in ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer"))


def _said(error_file: str) -> dict[str, Any]:
    """What a rank wrote for the launcher; empty: nothing."""
    try:
        message: dict[str, Any] = json.loads(Path(error_file).read_text(encoding="utf-8"))["message"]
    except (OSError, ValueError):
        return {}
    return message


def _tail(rank: int, logs: Path) -> str:
    """The end of what a rank printed."""
    texts = [file.read_text(errors="replace") for file in sorted(logs.glob(f"*/*/{rank}/std*.log"))]
    text = "\n".join(filter(None, texts))[-_TAIL:].strip()
    return f" The end of its output:\n{text}" if text else ""
