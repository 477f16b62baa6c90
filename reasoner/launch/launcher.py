"""Starts the ranks of a run on this node and ends all of them when one fails, with torch's launcher.

Every rank is this very command again; the launcher's environment variables tell it which one it is
(`reasoner.distributed.ranks`). The first rank has the terminal; what the others print goes into files. A rank that
fails writes why into a file that the launcher names, and says nothing itself: the one that failed first is what is
shown. With several nodes there is a launcher on each, and the first one shows it (`reasoner.launch.coordination`).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from reasoner.errors import ReasonerError, RunError, UserError
from reasoner.io.folder_lock import Lock, is_going
from reasoner.io.redaction import redact, redact_end
from reasoner.launch.cluster import Node
from reasoner.launch.coordination import INTERRUPTED, Coordinator, NodeEnd, open_board
from reasoner.processes.caller import tell_folder
from reasoner.processes.child_python import module_command
from reasoner.processes.run_marker import scratch_prefix
from reasoner.processes.stacks import FILE, stack_summary
from reasoner.processes.subreaper import children

_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""environment variable of torch's launcher: where a rank writes why it failed"""
_ERROR = "error: "
"""how the message of an error of ours begins; anything else is a traceback"""
_FOLDER_FILE = "run-folder"
"""beside that file: where the first rank writes the path of the run folder"""
_END_WITHIN = 15
"""seconds for the other ranks to end by themselves before they are killed"""
_TAIL = 3000
"""characters of a rank's output in an error"""


class RankError(RunError):
    """A rank failed: the message holds its number and its traceback, `code` its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def launch(node: Node, ranks: int, arguments: Sequence[str], output: Path) -> None:
    """Run `python -m reasoner ARGUMENTS` as `ranks` ranks on this node, and wait for the end of the ranks of all nodes.

    Args:
        output: folder for run folders; logs of the ranks are kept there until the run folder has them.

    Raises:
        RankError: one of them failed, and this is the first node.
        SystemExit: one of them failed, and the first node has said so.
        RunError: the launchers of the nodes did not find each other.
        KeyboardInterrupt: this process was asked to end, and the ranks have ended.
        UserError: `output` cannot be written.
    """
    with _logs(output) as folder:
        board = open_board(node)
        board.meet(lambda text: print(text, file=sys.stderr, flush=True))  # noqa: T201
        ended = _run(node, board, ranks, arguments, folder)
        folder_file = next(iter(folder.glob(f"*/*/0/{_FOLDER_FILE}")), None)
        run_folder = Path(folder_file.read_text(encoding="utf-8")) if folder_file else None
        if run_folder:
            tell_folder(run_folder)
        if ended is None:
            return
        ended = board.settle(ended)
        if ended.code == INTERRUPTED:
            raise KeyboardInterrupt
        if not node.first and ended.rung < 2:
            sys.exit(ended.code)
        message = "\n".join(filter(None, (ended.message, _stack_report(ended, folder, run_folder))))
        resume_hint = _keep_failure(run_folder, message) if run_folder else ""
    raise RankError(message + resume_hint, ended.code)


def report(error: BaseException, code: int) -> bool:
    """On a rank: write why it fails for the launcher, which shows it. False: there is no launcher to tell."""
    file = os.environ.get(_ERROR_FILE)
    if not file:
        return False
    text = f"{_ERROR}{error}" if isinstance(error, ReasonerError) else "".join(traceback.format_exception(error))
    text = redact(text)
    details = {"py_callstack": text, "timestamp": str(int(time.time()))}
    document = {"message": text, "code": code, "time": time.time(), "extraInfo": details}
    Path(file).write_text(json.dumps({"message": document}), encoding="utf-8")
    return True


def error_folder() -> Path | None:
    """On a rank: the folder in which it says why it fails; None: there is no launcher to tell."""
    file = os.environ.get(_ERROR_FILE)
    return Path(file).parent if file else None


def report_folder(folder: Path) -> None:
    """On the first rank: tell the launcher which run folder is written, or the program that called this command."""
    if file := os.environ.get(_ERROR_FILE):
        Path(file).with_name(_FOLDER_FILE).write_text(str(folder.absolute()), encoding="utf-8")
    else:
        tell_folder(folder)


def _run(node: Node, board: Coordinator, ranks: int, arguments: Sequence[str], logs: Path) -> NodeEnd | None:
    """The ranks of this node, from their start to their end; None: they have done their work."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is said by us
    python, *options = module_command("reasoner")
    config = LaunchConfig(
        min_nodes=node.count,
        max_nodes=node.count,
        nproc_per_node=ranks,
        run_id=node.job,
        rdzv_backend="static",
        rdzv_endpoint=f"{node.host}:{board.port}",
        rdzv_configs={"rank": node.index},
        max_restarts=0,
        monitor_interval=0.2,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=dict.fromkeys(range(int(node.first), ranks), Std.ALL)),
        shutdown_timeout=_END_WITHIN,
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks)))
    with board.watched(_end_ranks) as notified, _signals_kept():
        try:
            elastic_launch(config, python)(*options, *arguments)
            return None
        except ChildFailedError as failed:
            end = _first_of(failed.failures, logs, node)
            return replace(end, rung=3) if notified.is_set() and end.rung == 1 else end
        except (SignalException, KeyboardInterrupt):
            return NodeEnd(0, time.time(), "interrupted", INTERRUPTED)


def _end_ranks(seconds: float) -> None:
    """Ask the ranks of this node to end; after a while they are killed."""
    number = signal.SIGTERM if seconds < _END_WITHIN else signal.SIGKILL
    for pid in children(os.getpid()):
        with suppress(OSError):
            if b"\0TORCHELASTIC_RUN_ID=" in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, number)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Torch's launcher leaves its handlers behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logs(output: Path) -> Iterator[Path]:
    """A folder for what the ranks of this node print; those that killed launchers left are removed.

    It is beside the run folders: these keep the files by a second name (`reasoner.runs.rank_folder`).
    """
    suffix = f"@{socket.gethostname()}"  # what a host's name cannot hold: `gpu1` is not the end of `rack@gpu1`
    with ExitStack() as stack:
        try:
            output.mkdir(parents=True, exist_ok=True)
            for leftover in output.glob(".reasoner-*"):
                if leftover.name.endswith(suffix) and not is_going(leftover):
                    shutil.rmtree(leftover, ignore_errors=True)
            temporary = tempfile.TemporaryDirectory(
                prefix=f".{scratch_prefix()}", suffix=suffix, dir=output, ignore_cleanup_errors=True
            )
            folder = Path(stack.enter_context(temporary))
            stack.enter_context(Lock(folder))
        except OSError as error:
            raise UserError(f"run.output = {str(output)!r} cannot be written: {error.strerror or error}") from error
        yield folder


def _first_of(failures: Mapping[int, Any], logs: Path, node: Node) -> NodeEnd:
    """The failure behind the others: where one rank is gone the others fail too, because they were waiting for it."""
    return min((_end(rank, failure, logs, node) for rank, failure in failures.items()), key=lambda end: end.order)


def _end(rank: int, failure: Any, logs: Path, node: Node) -> NodeEnd:
    """How one rank of this node ended."""
    name = f"rank {rank}" if node.count == 1 else f"rank {rank} on {node.name or f'node {node.index}'}"
    if reported := _read_error_file(failure.error_file):
        text = reported["message"].strip()
        in_vain = _is_collective_timeout(text)
        rung = 1 if in_vain else 2 if _misses_another(text) else 0
        how = "waited in vain for another rank, and gave up" if in_vain else "failed"
        return NodeEnd(rung, float(reported["time"]), f"{name} {how}.\n{text}", int(reported["code"]))
    code = failure.exitcode
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    rung = 3 if code == -signal.SIGTERM else 1  # which is how the launcher ends the rest
    said_nothing = f"{name} {how} without any output.{_tail(failure.local_rank, logs)}"
    return NodeEnd(rung, failure.timestamp + 1.0, said_nothing, 1)  # torch's whole seconds are rounded down


def _misses_another(message: str) -> bool:
    """Whether a rank failed only because it waited for one that is gone."""
    return _shows(message, "gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


def _is_collective_timeout(message: str) -> bool:
    """Whether a collective took longer than `reasoner.distributed.ranks.PATIENCE`: gloo's words, the store's and
    NCCL's."""
    return _shows(message, "Timed out waiting", "wait timeout", "Watchdog caught collective operation")


def _shows(message: str, *signs: str) -> bool:
    """Whether one of them is in a traceback: an error of ours may quote a server that says the same."""
    return not message.startswith(_ERROR) and any(sign in message for sign in signs)


def _read_error_file(error_file: str) -> dict[str, Any]:
    """What a rank wrote for the launcher; empty: nothing."""
    try:
        message: dict[str, Any] = json.loads(Path(error_file).read_text(encoding="utf-8"))["message"]
    except (OSError, ValueError):
        return {}
    return message


def _tail(local_rank: int, logs: Path) -> str:
    """The end of what a rank printed."""
    texts = [file.read_text(errors="replace") for file in sorted(logs.glob(f"*/*/{local_rank}/std*.log"))]
    text = redact_end("\n".join(filter(None, texts)), _TAIL).strip()
    return f" The end of its output:\n{text}" if text else ""


def _stack_report(end: NodeEnd, logs: Path, run_folder: Path | None) -> str:
    """Where the ranks stood, as lines, for a run of which no rank reported why it ended."""
    if end.rung == 0:
        return ""
    if run_folder is None:
        return stack_summary([(int(file.parent.name), file) for file in sorted(logs.glob(f"*/*/*/{FILE}"))])
    dumps = [(int(file.parent.name.removeprefix("rank-")), file) for file in run_folder.glob(f"ranks/*/{FILE}")]
    stood = stack_summary([(0, run_folder / FILE), *sorted(dumps)])
    return stood and f"{stood}\nAll of their threads: {FILE} in {run_folder} and in its folders ranks/*."


def _keep_failure(folder: Path, message: str) -> str:
    """Record the failure in the run folder, because the first rank was ended and cannot; returns how to resume, as a
    line."""
    from reasoner.runs.folder import record_failure

    return f"\nTo resume: reasoner run --resume {quote(str(folder))}" if record_failure(folder, message) else ""
