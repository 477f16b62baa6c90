"""DeepSpeed against the torch engine, in real processes: the same gradient, the same steps, the same weights. And the
torch engine on a device beside the CPU against itself."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from reasoner.config import LoraConfig
from reasoner.distributed.ranks import ALONE
from reasoner.distributed.sharding import rows_by_group, shares_of
from reasoner.learning.critic import HEAD_FILE
from reasoner.learning.model.policy import Dtype
from reasoner.learning.torch_engine import TorchLearner
from reasoner.models.tensor_files import read_files
from tests.architectures import build
from tests.integration import deepspeed_steps
from tests.integration.deepspeed_steps import (
    BATCHES,
    EXPERTS,
    LORA,
    ON_FOUR_RANKS,
    ON_ONE_RANK,
    ON_SECOND_DEVICE,
    ON_THREE_RANKS,
    QLORA,
    RESUMED,
    SPREADS,
    WHOLE,
    learn_of_teacher,
    learning,
    one_more,
    record,
    teacher_of,
    torch_moments,
    train_critic,
)
from tests.tiny import build_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.deepspeed]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the torch engine, and one, two and three ranks of DeepSpeed did."""
    folder = tmp_path_factory.mktemp("deepspeed")
    model = _renamed(build_tiny_model(folder / "tiny"))
    build_tiny_model(folder / "teacher", seed=1)
    for dtype in ("float32", "bfloat16"):
        _torch(model, dtype, folder / "torch", dtype)
    _torch(model, "float32", folder / "torch", "lora", LORA)
    _torch(model, "float32", folder / "torch", "qlora", QLORA)
    _torch(build(EXPERTS, folder / EXPERTS), "float32", folder / "torch", "experts")
    done = subprocess.run(
        [sys.executable, "-m", deepspeed_steps.__name__, str(model), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return folder


def _renamed(model: Path) -> Path:
    """With other names for the weights in the folder than transformers has in memory, as some models have."""
    tensors = load_file(model / "model.safetensors")
    renamed = {name.removeprefix("model."): value for name, value in tensors.items()}
    save_file(renamed, model / "model.safetensors", {"format": "pt"})
    return model


def _torch(model: Path, dtype: Dtype, folder: Path, name: str, lora: LoraConfig | None = None) -> None:
    config = learning(router_loss=0.5 if name == "experts" else 0.0, routing_replay=name == "experts")
    learner = TorchLearner(model, device="cpu", dtype=dtype, config=config, total_steps=5, lora=lora)
    record(learner, lambda: torch_moments(learner), folder, name)


def outcome(file: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Gradient of the first step, weights at the end, what was reported."""
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        facts = json.loads(opened.metadata()["facts"])
    gradient = {name: value for name, value in tensors.items() if name.startswith("gradient:")}
    return gradient, {name: value for name, value in tensors.items() if name not in gradient}, facts


def distance(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """||got - expected|| / ||expected|| over all tensors."""
    assert got.keys() == expected.keys()
    difference = sum(float((got[name].double() - value.double()).square().sum()) for name, value in expected.items())
    return float((difference / sum(float(value.double().square().sum()) for value in expected.values())) ** 0.5)


def cases(dtype: str) -> list[tuple[str, str]]:
    """(`one`, `two` or `three` ranks, how the learner is spread)"""
    names = [name for name, (each, _) in SPREADS.items() if each == dtype]
    few = [(ranks, name) for ranks, some in RANKS.items() for name in some if name in names]
    return [("two", name) for name in names] + few


RANKS = {"one": ON_ONE_RANK, "three": ON_THREE_RANKS, "four": ON_FOUR_RANKS}


@pytest.mark.parametrize(
    ("batch", "two", "three"),
    [
        ("one group", [1, 0], [1, 0, 0]),
        ("three equal groups", [1, 2], [1, 1, 1]),
        ("a long and a short group", [3, 1], [3, 1, 0]),
        ("no group", [0, 0], [0, 0, 0]),
    ],
)
def test_the_ranks_have_unequal_shares(outcomes: Path, batch: str, two: list[int], three: list[int]) -> None:
    """How many micro-batches each rank has: otherwise the tests below are of equal ones."""
    policy = TorchLearner(outcomes / "tiny", device="cpu", dtype="float32", config=learning(), total_steps=1).policy
    for expected in (two, three):
        shares = shares_of(rows_by_group(BATCHES[batch]), len(expected))
        assert [len(policy.packing.micro_batches(share)) for share in shares] == expected


def largest_difference(got: list[list[list[float]]], expected: list[list[list[float]]]) -> float:
    """Over log-probabilities before and after the steps, of all responses."""
    return max(
        abs(mine - theirs)
        for when, then in zip(got, expected, strict=True)
        for row, other in zip(when, then, strict=True)
        for mine, theirs in zip(row, other, strict=True)
    )


@pytest.mark.parametrize(("ranks", "name"), [*cases("float32"), ("second", "float32"), ("second", "lora")])
def test_deepspeed_makes_the_steps_of_the_torch_engine(outcomes: Path, ranks: str, name: str) -> None:
    expected = next((kind for kind in ("qlora", "lora", "experts") if kind in name), "float32")
    gradient, weights, facts = outcome(outcomes / "torch" / f"{expected}.safetensors")
    got_gradient, got_weights, got = outcome(outcomes / ranks / "rank-0" / f"{name}.safetensors")
    assert distance(got_gradient, gradient) < 1e-5
    assert distance(got_weights, weights) < 1e-5
    versions = 6 if expected == "experts" else 4  # routers learn also where no token weighs anything
    assert got["version"] == facts["version"] == versions
    for mine, expected in zip(got["reports"], facts["reports"], strict=True):
        loss, entropy, responses, applied, finite, norm, replayed, rerouted = expected
        assert mine[6:] == [replayed, pytest.approx(rerouted)]
        assert mine[2:5] == [responses, applied, finite]
        if finite:
            assert mine[0] == pytest.approx(loss, rel=1e-4, abs=1e-4)
            assert mine[1] == pytest.approx(entropy, rel=1e-5)
            assert mine[5] == pytest.approx(norm, rel=1e-5)
    # steps with experts that no router would choose take a model further
    assert largest_difference(got["logprobs"], facts["logprobs"]) < (1e-3 if "experts" in name else 2e-4)


@pytest.mark.parametrize(("ranks", "name"), cases("float32"))
def test_weights_that_are_changed_on_purpose_are_the_same_ones_however_they_are_spread(
    outcomes: Path, ranks: str, name: str
) -> None:
    expected = next((kind for kind in ("qlora", "lora", "experts") if kind in name), "float32")
    _, _, facts = outcome(outcomes / "torch" / f"{expected}.safetensors")
    _, _, got = outcome(outcomes / ranks / "rank-0" / f"{name}.safetensors")
    before, changed, after = got["perturbed"]
    assert largest_difference([changed], [facts["perturbed"][1]]) < 1e-4
    assert largest_difference([changed], [before]) > 0.05
    assert after == before


def test_all_ranks_know_what_all_did(outcomes: Path) -> None:
    """Counts, losses, norms, log-probabilities and the checksum of the published weights."""
    for ranks, count, names in (("two", 2, tuple(SPREADS)), ("three", 3, ON_THREE_RANKS), ("four", 4, ON_FOUR_RANKS)):
        for name, other in product(names, range(1, count)):
            _, _, first = outcome(outcomes / ranks / "rank-0" / f"{name}.safetensors")
            _, published, second = outcome(outcomes / ranks / f"rank-{other}" / f"{name}.safetensors")
            assert json.dumps(first) == json.dumps(second)  # as text, where NaN equals NaN
            assert published == {}


@pytest.mark.parametrize("ranks", ["two", "three"])
def test_tokens_that_are_fetched_from_other_ranks_make_the_same_bits(outcomes: Path, ranks: str) -> None:
    folder = outcomes / ranks / "rank-0"
    gradient, weights, facts = outcome(folder / f"{WHOLE}-whole.safetensors")
    got_gradient, got_weights, got = outcome(folder / f"{WHOLE}.safetensors")
    assert json.dumps(got) == json.dumps(facts)
    for mine, theirs in ((got_gradient, gradient), (got_weights, weights)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], value) for name, value in theirs.items())


def test_a_full_disk_while_publishing_is_an_error_of_all_ranks(outcomes: Path) -> None:
    for rank in (0, 1):
        folder = outcomes / "two" / f"rank-{rank}"
        _, _, facts = outcome(folder / "lora-zero-3.safetensors")
        assert json.loads((folder / "full-disk" / "facts.json").read_text()) == [errno.ENOSPC, facts["checksum"]]


def test_a_critic_on_several_ranks_makes_the_steps_of_one(outcomes: Path, tmp_path: Path) -> None:
    """Beside DeepSpeed's own process group; the same returns, the same gradient, the same weights and values."""
    train_critic(outcomes / "tiny", ALONE, tmp_path)
    expected, values, version = json.loads((tmp_path / "critic.json").read_text())
    for rank in (
        "two/rank-0",
        "two/rank-1",
        "three/rank-0",
        "three/rank-2",
        "two/rank-1/rows",
        "four/rank-2/rows",
        "second/rank-0",
    ):
        folder = outcomes / rank
        reports, got, done = json.loads((folder / "critic.json").read_text())
        assert (version, done) == (4, 4)
        assert [each[1:4] for each in reports] == [each[1:4] for each in expected]
        for mine, theirs in zip(reports, expected, strict=True):
            if theirs[2]:
                assert [mine[0], mine[4]] == pytest.approx([theirs[0], theirs[4]], rel=1e-9)
        assert largest_difference([got], [values]) < 1e-9
    for name in ("model.safetensors", HEAD_FILE):  # the first rank saves it
        for place in ("two/rank-0", "three/rank-0", "two/rank-0/rows", "four/rank-0/rows"):
            saved = outcomes / place / "critic" / name
            assert distance(load_file(saved), load_file(tmp_path / "critic" / name)) < 1e-9


def test_a_teacher_on_several_ranks_gives_the_credit_and_the_steps_of_one(outcomes: Path, tmp_path: Path) -> None:
    """With uneven and empty shares of policy and teacher alike: the same gradients, and the same weights after them."""
    model = outcomes / "tiny"
    learner = TorchLearner(model, device="cpu", dtype="float32", config=learning(), total_steps=5)
    learn_of_teacher(learner, teacher_of(model, ALONE), ALONE, tmp_path)
    batches, version = json.loads((tmp_path / "taught.json").read_text())
    assert version == len(batches) == 3
    assert all(any(map(any, weights)) for _, _, weights, _, _ in batches)
    for rank in ("two/rank-0", "two/rank-1", "three/rank-0", "three/rank-2", "two/rank-0/rows", "two/rank-1/rows"):
        got, done = json.loads((outcomes / rank / "taught.json").read_text())
        assert done == version
        for (taught, credits, weights, norms, figures), expected in zip(got, batches, strict=True):
            assert largest_difference([taught], [expected[0]]) < 1e-4
            if "rank-0" in rank:  # which writes them down
                assert largest_difference([weights], [expected[2]]) < 1e-4
            assert figures == pytest.approx(expected[4], rel=1e-3, abs=1e-4)
            assert credits == pytest.approx(expected[1], abs=1e-4)
            assert norms == pytest.approx(expected[3], rel=1e-5)
    for rank in ("two/rank-0", "three/rank-0", "two/rank-0/rows"):
        published = outcomes / rank / "taught"
        assert distance(dict(read_files(published)), dict(read_files(tmp_path / "taught"))) < 1e-5


@pytest.mark.parametrize(("ranks", "name"), [*cases("bfloat16"), ("second", "bfloat16")])
def test_bfloat16_differs_from_float32_by_rounding(outcomes: Path, ranks: str, name: str) -> None:
    """Gradients are within the rounding of the forward pass, steps that must not be made are not."""
    gradient, weights, facts = outcome(outcomes / "torch" / "float32.safetensors")
    got_gradient, got_weights, got = outcome(outcomes / ranks / "rank-0" / f"{name}.safetensors")
    rounding, _, _ = outcome(outcomes / "torch" / "bfloat16.safetensors")
    assert distance(got_gradient, gradient) < 3 * distance(rounding, gradient) < 0.1
    assert {value.dtype for value in got_weights.values()} == {torch.bfloat16}
    assert [report[3:5] for report in got["reports"]] == [report[3:5] for report in facts["reports"]]
    assert distance(got_weights, weights) < 0.05


@pytest.mark.parametrize(
    ("ranks", "name"),
    [("two", name) for name in RESUMED]
    + [("one", name) for name in RESUMED if name in ON_ONE_RANK]
    + [("second", name) for name in ON_SECOND_DEVICE]
    + [("three", name) for name in RESUMED if name in ON_THREE_RANKS],  # many weights cannot be divided by three
)
def test_a_checkpoint_goes_on_with_the_same_bits(outcomes: Path, ranks: str, name: str) -> None:
    uninterrupted, resumed = json.loads((outcomes / ranks / "rank-0" / f"{name}-resumed.json").read_text())
    assert resumed == uninterrupted
    assert resumed[0] == (7 if name == "experts" else 5)  # routers learn also where no token weighs anything


@pytest.mark.parametrize("name", ["zero-3", "lora-zero-3"])
def test_the_torch_engine_goes_on_from_a_checkpoint_of_two_ranks(outcomes: Path, tmp_path: Path, name: str) -> None:
    lora = LORA if "lora" in name else None

    def learner(checkpoint: Path) -> TorchLearner:
        model, config = outcomes / "tiny", learning()
        return TorchLearner(
            model, device="cpu", dtype="float32", config=config, total_steps=5, checkpoint=checkpoint, lora=lora
        )

    theirs = learner(outcomes / "two" / f"{name}-checkpoint")
    assert theirs.version == 4
    (tmp_path / "again").mkdir()
    theirs.checkpoint(tmp_path / "again")
    version, norm, _ = one_more(learner(tmp_path / "again"), tmp_path / "published")
    expected, _ = json.loads((outcomes / "two" / "rank-0" / f"{name}-resumed.json").read_text())
    assert (version, norm) == (5, pytest.approx(expected[1], rel=1e-5))
