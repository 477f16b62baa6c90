"""The machines of a run that is larger than one: from a hostfile, or from the environment that SLURM gives its tasks.

Which place a process has among the ranks is `reasoner.distributed.ranks`; here it is which place a launcher has among
the launchers, one per machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reasoner.errors import UserError

FIRST_PORT, PORTS = 20_000, 10_000
"""ports for the launchers to meet at, below those that Linux gives to outgoing connections"""
_HOST = re.compile(r"(?P<name>\S+)\s+slots\s*=\s*(?P<slots>[1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Node:
    """This machine among those of the run."""

    index: int = 0
    count: int = 1
    host: str = "localhost"
    """name of the first one, as the others reach it"""
    port: int = 0
    """at which the launchers meet there; 0, of one node: any that is free"""
    job: str = "run"
    """the same on all nodes, and another in every run"""
    name: str = ""
    """of this machine, for messages"""

    @property
    def first(self) -> bool:
        """Whether the first rank is here, with the terminal."""
        return self.index == 0


@dataclass(frozen=True, slots=True)
class HostEntry:
    """A line of a hostfile."""

    name: str
    slots: int
    """ranks, one per GPU"""


def read_hostfile(path: Path) -> tuple[HostEntry, ...]:
    """The machines of a hostfile as DeepSpeed reads it: `NAME slots=GPUS` lines, `#` before comments.

    Raises:
        UserError: it cannot be read, a line says something else, a machine is there twice, or nothing is.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--hostfile {path} cannot be read: {error}") from error
    seen: dict[str, int] = {}
    hosts: list[HostEntry] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _HOST.fullmatch(text)
        if match is None or match["name"].startswith("-"):
            raise UserError(f"{path}, line {number}: expected `NAME slots=GPUS`, got {text!r}")
        if (name := match["name"]) in seen:
            raise UserError(
                f"{path}, line {number}: {name} is on line {seen[name]} already; give each machine one line with all "
                "of its slots"
            )
        seen[name] = number
        hosts.append(HostEntry(name, int(match["slots"])))
    if sum(host.slots for host in hosts) < 2:
        raise UserError(f"{path} names {len(hosts)} machines with less than two GPUs in all; leave --hostfile out")
    return tuple(hosts)


def slurm_node(environment: Mapping[str, str]) -> Node:
    """This machine among those on which `srun` started this command; a node alone where it did not.

    The variables of the step are read, not those of the job: a step may have fewer nodes.

    Raises:
        UserError: `srun` started it more than once per machine, or not all that is needed is in the environment.
    """
    count = int(environment.get("SLURM_STEP_NUM_NODES", "1"))
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks != count:
        raise UserError(
            f"srun started this command {tasks} times on {count} node{'s' * (count > 1)}, and it starts the ranks of a "
            f"node itself: srun --nodes={count} --ntasks-per-node=1 reasoner run ... --gpus GPUS_PER_NODE"
        )
    if count == 1:
        return Node()
    try:
        job, step = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])
        index, listed = int(environment["SLURM_NODEID"]), environment["SLURM_STEP_NODELIST"]
    except KeyError as missing:
        raise UserError(
            f"SLURM_STEP_NUM_NODES is {count} and {missing} is not set: start it with srun, or without SLURM_ variables"
        ) from None
    port = FIRST_PORT + (job + 131 * step) % PORTS
    return Node(index, count, first_host(listed), port, f"{job}.{step}", environment.get("SLURMD_NODENAME", ""))


def first_host(listed: str) -> str:
    """The first name of a list of SLURM's: `gpu[03-05,9]-ib,other` -> `gpu03-ib`."""
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", listed).partition(",")[0]


def idle_nodes(environment: Mapping[str, str]) -> int:
    """Machines of a SLURM job that a command on one of them leaves without work."""
    of_job = int(environment.get("SLURM_JOB_NUM_NODES", "1"))
    return of_job - int(environment.get("SLURM_STEP_NUM_NODES", "1"))
