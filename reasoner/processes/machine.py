"""The memory that there is: of this machine or container and its GPUs, or of a machine that is only planned for."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

GIB = 2**30
MEMORY_FOLDER = Path("/dev/shm")
"""files in it are in the memory of this machine or container"""
_GROUP_FILES = {
    "": (("", "memory.max", "memory.current", "inactive_file"),),
    "memory": (("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),),
}
"""controller in /proc/self/cgroup (version 2 names none) -> folder, files of limit and use, key of the cache"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a rank finds, and what the ranks of a node share."""

    device: Literal["cpu", "cuda"]
    free: Mapping[str, float]
    """bytes by `Need.where`; one that is not known is left out"""
    gpu_bytes: float = 0.0
    """of a GPU in all"""
    per_node: int = 0
    """ranks of a node at most; 0: all"""
    planned: bool = False
    """it is not this one"""

    def ranks(self, wanted: int) -> int:
        """How many of so many ranks are on one node."""
        return min(wanted, self.per_node or wanted)


def this_machine(device: Literal["cpu", "cuda"], ranks: int = 0) -> Machine:
    """What is free here now.

    Args:
        ranks: of this node, where this process is one of several, which sees no GPU but its own; 0: it is alone.
    """
    if device == "cpu":
        return Machine("cpu", free_memory("cpu"), per_node=ranks)
    import torch

    total = float(torch.cuda.mem_get_info()[1])
    return Machine("cuda", free_memory("cuda"), total, ranks or torch.cuda.device_count())


def planned_machine(gpu_gib: float, gpus: int) -> Machine:
    """A node with so many empty GPUs of that size; of its own memory nothing is known."""
    return Machine("cuda", {"GPU memory": gpu_gib * GIB}, gpu_gib * GIB, gpus, planned=True)


def free_memory(device: str) -> dict[str, float]:
    """Bytes that are free now, by `Need.where`: of the machine or of this container, whichever is less."""
    available = psutil.virtual_memory().available + psutil.swap_memory().free
    own = Path("/proc/self/cgroup")
    container = _container_free(Path("/sys/fs/cgroup"), own.read_text()) if own.exists() else ()
    free = {"memory": float(min([available, *container]))}
    if device == "cuda":
        import torch

        free["GPU memory"] = float(torch.cuda.mem_get_info()[0])
    return free


def why_not_in_memory(size: float = 0.0) -> str:
    """Why weights of so many bytes cannot go to samplers through memory (/dev/shm), and what to do; empty: they can."""
    if not MEMORY_FOLDER.is_dir():
        return f"{MEMORY_FOLDER} is not there: mount a tmpfs on it"
    if not os.access(MEMORY_FOLDER, os.W_OK | os.X_OK):
        return f"{MEMORY_FOLDER} cannot be written: mount it writable for this user"
    free = shutil.disk_usage(MEMORY_FOLDER).free
    if size >= free:
        return (
            f"{MEMORY_FOLDER} is too small: {free / GIB:.2f} GiB free, {size / GIB:.2f} GiB needed (a container: "
            f"`--shm-size={math.ceil(1.1 * size / GIB)}g` or `--ipc=host`)"
        )
    return ""


def describe_handover(size: float, parent: str | None) -> str:
    """Through what weights of so many bytes would go to the samplers of this machine now, and why.

    Args:
        parent: `sampling.weights_folder`; None: memory is taken where they fit.
    """
    if parent is not None:
        return f"through {parent} (sampling.weights_folder)"
    if why := why_not_in_memory(size):
        return f"through {tempfile.gettempdir()}, which is slower than memory: {why}"
    return f"through memory ({MEMORY_FOLDER})"


def _container_free(root: Path, groups: str) -> Iterator[float]:
    """What the control groups of this process leave it; a file cache that can be dropped counts as free.

    Args:
        root: where they are mounted.
        groups: `/proc/self/cgroup`.
    """
    for line in groups.splitlines():
        _, controller, path = line.split(":", 2)
        for folder, limit, used, cache in _GROUP_FILES.get(controller, ()):
            top = root / folder
            for group in (top / path.lstrip("/"), *(top / path.lstrip("/")).parents):
                if group.is_relative_to(top) and (group / limit).exists():
                    stat = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
                    allowed = (group / limit).read_text().strip()
                    if allowed != "max":
                        yield int(allowed) - int((group / used).read_text()) + int(stat.get(cache, 0))
