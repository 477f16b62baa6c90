"""The gradient of one process and of two, and what ranks tell each other: real processes, over gloo."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from reasoner.config import LearningConfig
from reasoner.distributed.ranks import Ranks
from reasoner.distributed.sharding import rows_by_group, same_batch
from reasoner.errors import RunError
from reasoner.gro.spec.presets import PRESETS
from reasoner.gro.spec.terms import KL
from reasoner.io.token_array import TokenArray
from reasoner.learning.torch_engine import TorchLearner
from reasoner.records import Batch, Group, ScoredGroup
from reasoner.training.guards.nonfinite import StepTrace
from reasoner.training.update import ActiveTerm, Objective, Prepared
from tests.ragged import ragged_groups
from tests.tiny import build_tiny_model

pytestmark = pytest.mark.slow

PORT_FILE = "rendezvous"
WORLDS = (2, 3)
"""ranks that tell each other arrays"""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which processes that have imported torch once left what they computed and told each other."""
    folder = tmp_path_factory.mktemp("worlds")
    model = build_tiny_model(folder / "tiny")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "tests.integration.test_two_processes", str(model), str(folder)]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return folder


def batch(learner: TorchLearner) -> Batch:
    """Ragged groups with rewards, an abstention and a group without differences; old and reference are made up."""
    rng = random.Random(1)
    groups = ragged_groups(prompts=(3, 17, 5, 9), responses=4)
    rewards: list[tuple[float | None, ...]] = [
        (1.0, 0.0, 0.5, 0.0), (None, 1.0, 0.0, 0.2), (1.0, 1.0, 1.0, 1.0), (0.0, 0.3, 0.1, 0.9)
    ]  # fmt: skip
    current = learner.logprobs(groups, 0.8)
    old, reference = (tuple(tuple(value + rng.gauss(0.0, 0.2) for value in row) for row in current) for _ in range(2))
    scored = tuple(ScoredGroup(g, ((),) * 4, r) for g, r in zip(groups, rewards, strict=True))
    return Batch(scored, old, reference, temperature=0.8)


def gradient(folder: Path, rank: int, world: int) -> dict[str, torch.Tensor]:
    """The gradient of this process's share of the groups; normalisers are those of the whole batch."""
    config = LearningConfig(token_budget=48)
    learner = TorchLearner(folder, device="cpu", dtype="float64", config=config, total_steps=1)
    grpo = replace(PRESETS["dapo"].term, kl=KL(0.1, "k3"), entropy=0.05)
    dpo = replace(PRESETS["dpo"].term, source="online")
    terms = [ActiveTerm("grpo", grpo, 1.0), ActiveTerm("dpo", dpo, 0.3)]
    objective = Prepared.of(batch(learner), terms, 16).objective(0, 1, learner, lambda done, total: None)
    share(objective, rank, world).accumulate(learner)
    named = learner.policy.model.named_parameters()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named}


def share(objective: Objective, rank: int, world: int) -> Objective:
    """Every `world`-th group."""
    return replace(objective, rows=[row for row in objective.rows if row // 4 % world == rank])


def test_one_and_two_processes_give_the_same_gradient(worlds: Path) -> None:
    alone = gradient(worlds / "tiny", 0, 1)
    together = [load_file(worlds / "gradient" / f"gradient-{rank}.safetensors") for rank in range(2)]
    halves = [load_file(worlds / "gradient" / f"half-{rank}.safetensors") for rank in range(2)]
    assert any(float(value.abs().max()) > 1e-3 for value in alone.values())
    for name, expected in alone.items():
        size = float(expected.abs().max())
        for result in together:
            torch.testing.assert_close(result[name], expected, rtol=0, atol=1e-9 * max(size, 1e-3))
    # Each had real work: neither half is the whole.
    assert all(not torch.allclose(half["model.norm.weight"], alone["model.norm.weight"], rtol=1e-3) for half in halves)


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_tell_each_other_arrays_of_any_size(worlds: Path, world: int) -> None:
    done = sorted(path.name for path in (worlds / str(world)).glob("done-*"))
    assert done == [f"done-{rank}" for rank in range(world)]


def share_of(rank: int, tokens: int) -> list[Group]:
    """Groups of a rank: the more the higher its number, so that rank 0 has none; one text that is longer than the
    tokens."""
    groups = ragged_groups(prompts=(3, 40, 5), responses=2, seed=rank)[:rank]
    return [
        replace(group, responses=tuple(replace(each, text=f"{rank}" * tokens) for each in group.responses))
        for group in groups
    ]


def exchange(folder: Path, rank: int, world: int) -> None:
    """One process of several: short and long values, from all to all and from all to the first."""
    dist.init_process_group("gloo", init_method=f"file://{folder / PORT_FILE}", rank=rank, world_size=world)
    ranks = Ranks(rank, world, group=dist.new_group(backend="gloo"))
    for tokens in (1, 10**5):
        expected = [share_of(each, tokens) for each in range(world)]
        result = ranks.gather(expected[rank])
        assert result == expected
        assert result[rank] is expected[rank]
        assert ranks.gather_first(expected[rank]) == (expected if rank == 0 else [expected[rank]])
        assert all(isinstance(each.prompt_ids, TokenArray) for share in result for each in share)
    arrays = [np.arange(each * 10**5, dtype=np.float64) for each in range(world)]
    assert all(np.array_equal(*pair) for pair in zip(ranks.gather(arrays[rank]), arrays, strict=True))
    assert ranks.gather(None) == ranks.gather_first(None) + [None] * (world - 1 if rank else 0)
    assert ranks.broadcast({"of": rank}) == {"of": 0}
    trace = StepTrace([([rank], arrays[rank], arrays[rank])] if rank else [])
    for finite in (True, False):
        copied = replace(trace)
        copied.join(ranks, finite)
        rows = [row for part in copied.parts for row in part[0]]
        assert rows == (list(range(1, world)) if rank == 0 or not finite else [rank])
    same_batch(rows_by_group(expected[1]), ranks)
    with pytest.raises(RunError, match="different batches"):
        same_batch(rows_by_group(expected[rank]), ranks)
    (folder / f"done-{rank}").touch()
    dist.destroy_process_group()


def main(model: Path, folder: Path) -> None:
    """Every world, one after the other."""
    run_world(2, folder / "gradient", partial(reduce_gradient, model))
    for world in WORLDS:
        run_world(world, folder / str(world), partial(exchange, world=world))


def run_world(world: int, folder: Path, work: Callable[[Path, int], None]) -> None:
    """Do the work of every rank (folder, rank) in a fork of this process; ends with an error if one of them does."""
    folder.mkdir()
    pids = [fork_rank(partial(work, folder, rank)) for rank in range(world)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    if any(codes):
        sys.exit(f"the ranks in {folder} ended with {codes}")


def fork_rank(work: Callable[[], None]) -> int:
    """The process id of a fork that does the work."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def reduce_gradient(model: Path, folder: Path, rank: int) -> None:
    """One process of two."""
    dist.init_process_group("gloo", init_method=f"file://{folder / PORT_FILE}", rank=rank, world_size=2)
    result = {name: value.clone() for name, value in gradient(model, rank, 2).items()}
    save_file(result, folder / f"half-{rank}.safetensors")
    for value in result.values():
        dist.all_reduce(value)
    save_file(result, folder / f"gradient-{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
