"""Seeds: every use of random numbers has its own, in every run."""

from __future__ import annotations

import ast
import random
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from reasoner.distributed.seeds import Purpose, derive_seed
from reasoner.loading import load_config
from reasoner.records import SamplingParams
from reasoner.training.evaluator import evaluation_params
from reasoner.training.trainer import seed_generators

ROOT = Path(__file__).resolve().parents[2]


def test_no_two_uses_share_a_seed() -> None:
    """Runs x steps x refills, on one engine and on four; then every other purpose."""
    rounds = [derive_seed(run, "sampling", *at) for run in range(12) for at in product(range(150), range(4))]
    seeds = rounds + [derive_seed(each, "engine", engine) for each in rounds for engine in range(4)]
    for purpose in get_args(Purpose):
        if purpose != "sampling":
            seeds += [derive_seed(run, purpose, number) for run in range(12) for number in range(150)]
    assert len(seeds) > 40_000
    assert len(set(seeds)) == len(seeds)


def test_what_is_put_together_is_not_confused() -> None:
    assert derive_seed(1, "sampling", 1, 23) != derive_seed(1, "sampling", 12, 3)
    assert derive_seed(1, "sampling", 1) != derive_seed(11, "sampling")
    assert derive_seed(1, "sampling", 1) == derive_seed(1, "sampling", 1)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63, 2**70])
def test_generators_and_columns_take_every_seed(seed: int) -> None:
    for step in range(50):
        result = derive_seed(seed, "sampling", step)
        assert 0 <= result < 2**63  # int64: vLLM's column of seeds, a Parquet file's
        torch.Generator().manual_seed(result)
        SamplingParams(1.0, 8, seed=result)
    seed_generators(seed, 1)


def drawn(seed: int, step: int) -> list[float]:
    seed_generators(seed, step)
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_generators_of_a_step_repeat_themselves_and_share_nothing_with_another_run() -> None:
    assert drawn(0, 2) == drawn(0, 2)
    values = [value for seed in range(4) for step in range(4) for value in drawn(seed, step)]
    assert len(set(values)) == len(values)


def test_evaluations_of_a_run_draw_the_same_and_the_rest_of_an_interrupted_one_another() -> None:
    config, other = (load_config("math-gsm8k", "laptop", sets=[f"run.seed={seed}"]).config for seed in (0, 1))
    seeds = [evaluation_params(each, done).seed for each in (config, other) for done in range(5)]
    assert len(set(seeds)) == 10
    assert evaluation_params(config).seed == evaluation_params(config, 0).seed == seeds[0]


def test_nothing_adds_to_a_seed() -> None:
    files = [path for folder in ("reasoner", "rewards", "tasks", "plugins") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    result = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        if "tests" not in path.relative_to(ROOT).parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.BinOp | ast.AugAssign)
        and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.BitXor)
        if any(_is_seed(side) for side in ast.iter_child_nodes(node))
    ]
    assert result == []


def _is_seed(node: ast.AST) -> bool:
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name.lower().strip("_").endswith("seed")
