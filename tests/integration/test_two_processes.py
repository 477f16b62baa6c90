"""The gradient of one process and of two: real processes, summed over gloo."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from reasoner.config import LearningConfig
from reasoner.gro.spec.presets import PRESETS
from reasoner.gro.spec.terms import KL
from reasoner.learning.torch_engine import TorchLearner
from reasoner.records import Batch, ScoredGroup
from reasoner.training.update import ActiveTerm, Objective, Prepared
from tests.ragged import ragged_groups
from tests.tiny import build_tiny_model

pytestmark = pytest.mark.slow

PORT_FILE = "rendezvous"


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


def test_one_and_two_processes_give_the_same_gradient(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    alone = gradient(model, 0, 1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "tests.integration.test_two_processes", str(model), str(tmp_path)]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    together = [load_file(tmp_path / f"gradient-{rank}.safetensors") for rank in range(2)]
    halves = [load_file(tmp_path / f"half-{rank}.safetensors") for rank in range(2)]
    assert any(float(value.abs().max()) > 1e-3 for value in alone.values())
    for name, expected in alone.items():
        size = float(expected.abs().max())
        for found in together:
            torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-9 * max(size, 1e-3))
    # Each had real work: neither half is the whole.
    assert all(not torch.allclose(half["model.norm.weight"], alone["model.norm.weight"], rtol=1e-3) for half in halves)


def main(model: Path, folder: Path) -> None:
    """Two processes: forks of this one, which has imported torch once."""
    other = os.fork()
    reduce_gradient(model, folder, rank=0 if other else 1)
    if other:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))


def reduce_gradient(model: Path, folder: Path, rank: int) -> None:
    """One process of two."""
    dist.init_process_group("gloo", init_method=f"file://{folder / PORT_FILE}", rank=rank, world_size=2)
    found = {name: value.clone() for name, value in gradient(model, rank, 2).items()}
    save_file(found, folder / f"half-{rank}.safetensors")
    for value in found.values():
        dist.all_reduce(value)
    save_file(found, folder / f"gradient-{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
