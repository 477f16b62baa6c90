"""Starts a run's ranks on the machines of a hostfile: `ssh` starts a launcher on each, and all end together.

What a launcher must know goes through its standard input, so that nothing of it, a key least of all, stands in a
command line; and when that input ends, because this process ended or lost the machine, the launcher ends its ranks.
"""

from __future__ import annotations

import importlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from reasoner.errors import MissingDependencyError, RunError
from reasoner.io.serialization import from_json, to_json
from reasoner.launch.cluster import FIRST_PORT, PORTS, HostEntry, Node
from reasoner.launch.coordination import INTERRUPTED, TELL_WITHIN
from reasoner.launch.launcher import RankError, launch
from reasoner.processes.child_python import module_command
from reasoner.processes.lifetime import guard_processes, interruptible
from reasoner.processes.run_marker import MARKER
from reasoner.processes.subreaper import wait_gone

SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=15")
FORWARDED = (
    *("REASONER_", "HF_", "HUGGING_FACE_", "TRANSFORMERS_", "TOKENIZERS_", "VLLM_", "DS_", "TORCH_", "PYTORCH_"),
    *("NCCL_", "GLOO_", "UCX_", "CUDA_", "OMP_", "MKL_", "TRITON_", "WANDB_", "LD_LIBRARY_PATH", "PATH"),
)
"""how the names begin of environment variables that the launchers get"""
OF_ONE_MACHINE = (MARKER, "CUDA_VISIBLE_DEVICES")
"""those among them that they do not"""
_NEVER_BEGAN = {
    255: "ssh says why above; `ssh -o BatchMode=yes NAME true` must work without a password for every machine",
    126: f"{sys.executable} cannot be run there",
    127: f"{sys.executable} is not there",
}
"""exit codes of ssh and of a shell -> what they mean"""
END_WITHIN = TELL_WITHIN + 30
"""seconds for the launchers of the other machines to end by themselves, once one has"""


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What the launcher on a machine is told."""

    node: Node
    ranks: int
    arguments: tuple[str, ...]
    output: str
    model: str
    environment: Mapping[str, str]


def launch_on(hosts: Sequence[HostEntry], arguments: Sequence[str], output: Path, model: str) -> None:
    """Run `python -m reasoner ARGUMENTS` on all hosts, as many ranks on each as it has slots, in this folder.

    Args:
        output: folder for run folders, which all hosts see.
        model: `model.path`: every host fetches it once, before its ranks start.

    Raises:
        RankError: a machine could not be reached, or its ranks failed; the first machine has shown which and why.
        KeyboardInterrupt: this process was asked to end, and the ranks have ended.
        MissingDependencyError: there is no ssh.
    """
    if shutil.which(SSH[0]) is None:
        raise MissingDependencyError(
            "--hostfile needs ssh, which is not installed; or start the nodes with srun or torchrun"
        )
    folder = Path.cwd()
    search = f"env PYTHONPATH={shlex.quote(os.environ['PYTHONPATH'])} " if os.environ.get("PYTHONPATH") else ""
    command = f"cd {shlex.quote(str(folder))} && exec {search}{shlex.join(module_command('reasoner', 'node'))}"
    port, job = random.randrange(FIRST_PORT, FIRST_PORT + PORTS), f"{os.getpid()}-{time.time_ns()}"
    sessions = []
    try:
        for index, host in enumerate(hosts):
            node = Node(index, len(hosts), hosts[0].name.rpartition("@")[2], port, job, host.name)
            errand = LaunchRequest(
                node, host.slots, tuple(arguments), str(output), model, forwarded_variables(os.environ)
            )
            # A session of its own: Ctrl-C must reach the machine as the end of its input, not kill the connection.
            session = subprocess.Popen([*SSH, host.name, command], stdin=subprocess.PIPE, start_new_session=True)
            sessions.append(session)
            with suppress(BrokenPipeError):  # it ended already, and is found below
                _tell(session, to_json(errand).encode() + b"\n")
        _wait(sessions)
    finally:
        _end(sessions)
    codes = {host.name: session.returncode for host, session in zip(hosts, sessions, strict=True)}
    if failed := {name: code for name, code in codes.items() if code}:
        if set(failed.values()) == {INTERRUPTED}:
            raise KeyboardInterrupt
        name, code = max(failed.items(), key=lambda item: (item[1] in _NEVER_BEGAN, item[1] != INTERRUPTED))
        why = _NEVER_BEGAN.get(code, "what was behind it stands above")
        raise RankError(f"the launcher on {name} ended with exit code {code}: {why}", code if 0 < code < 126 else 1)


def forwarded_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that the ranks of other machines get, too."""
    return {
        name: value for name, value in environment.items() if name.startswith(FORWARDED) and name not in OF_ONE_MACHINE
    }


def serve_request(prepare: Callable[[str], object]) -> None:
    """The launcher on a machine: an errand on standard input, and the end of that input is the end of the run.

    Args:
        prepare: fetches a model.

    Raises:
        RankError, RunError, UserError, SystemExit, KeyboardInterrupt: see `launch.launch`.
    """
    stdin = FileIO(os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # the ranks must not read what is not for them
    line = stdin.readline()
    if not line.endswith(b"\n"):
        raise RunError(
            "an errand was expected on standard input: this command is for `reasoner run --hostfile` to start"
        )
    errand = from_json(line.decode(), LaunchRequest)
    os.environ.update(errand.environment)
    with interruptible(), guard_processes():
        prepare(errand.model)
        importlib.import_module("torch.distributed.launcher.api")  # inside of an import an interrupt can be lost
        threading.Thread(target=_end_with, args=(stdin,), name="input", daemon=True).start()
        launch(errand.node, errand.ranks, errand.arguments, Path(errand.output))


def _end_with(stdin: FileIO) -> None:
    """Have this process end at the end of an input."""
    stdin.readall()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_WITHIN)
    os.kill(os.getpid(), signal.SIGKILL)  # its watchdog ends the ranks


def _tell(session: subprocess.Popen[bytes], line: bytes) -> None:
    assert session.stdin is not None
    session.stdin.write(line)
    session.stdin.flush()


def _wait(sessions: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all have ended, or some while after one has failed."""
    deadline: float | None = None
    while None in [session.poll() for session in sessions]:
        now = time.monotonic()
        if deadline is None and any(session.returncode for session in sessions):
            # A launcher tells the others why it ended; one that never began cannot.
            deadline = now if any(session.returncode in _NEVER_BEGAN for session in sessions) else now + END_WITHIN
        if deadline is not None and now >= deadline:
            return
        time.sleep(0.1)


def _end(sessions: Sequence[subprocess.Popen[bytes]]) -> None:
    """Close the input of the sessions that still run, and the connection of those that do not end then."""
    for session in sessions:
        assert session.stdin is not None
        with suppress(BrokenPipeError):
            session.stdin.close()
    deadline = time.monotonic() + END_WITHIN
    for session in sessions:
        try:
            session.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(session.pid, signal.SIGKILL)
            wait_gone(session)
