"""Publishing, receipts and the gap check, with small fakes."""

from __future__ import annotations

import errno
import math
import shutil
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from reasoner.data.prompts.chat_probe import TurnEnd
from reasoner.distributed.ranks import ALONE
from reasoner.errors import HandoverError
from reasoner.learning.learner import Learner
from reasoner.models.tensor_files import Digest, check_room, count_weights, read_files, read_weights, write_weights
from reasoner.processes.machine import describe_handover
from reasoner.records import Group, Message, Problem, Receipt, Response
from reasoner.sampling.base import Sampler
from reasoner.training.synced_sampler import SyncedSampler
from reasoner.training.weight_sync import Gap, check_gap, gap_limit, hand_over, verify_gap

EMBEDDING = torch.arange(6.0).reshape(3, 2)
WEIGHTS = {
    "b": torch.ones(2, dtype=torch.bfloat16),
    "model.embed_tokens.weight": EMBEDDING,
    "lm_head.weight": EMBEDDING,
}


class FakeLearner:
    """Publishes WEIGHTS as version 3 and scores every token with `shift` more than the sampler."""

    version = 3

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift
        self.folders: list[Path] = []

    def publish(self, folder: Path) -> str:
        self.folders.append(folder)
        check_room(folder, 40)
        return write_weights(folder, WEIGHTS.items())

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[list[float]]:
        return [[value + self.shift for value in r.sampler_logprobs] for group in groups for r in group.responses]


class FakeSampler:
    """Reads what is published; `spoil` changes the receipt."""

    version = 0

    def __init__(self, spoil: Callable[[Receipt], Receipt] = lambda receipt: receipt) -> None:
        self.spoil = spoil

    def load(self, folder: Path, version: int) -> Receipt:
        digest = Digest()
        self.loaded = dict(read_weights(folder, digest))
        receipt = self.spoil(Receipt(version, digest.checksum, digest.tensors, 0.0))
        self.version = receipt.version
        return receipt


def through(learner: FakeLearner, sampler: FakeSampler) -> Receipt:
    return hand_over(cast(Learner, learner), cast(Sampler, sampler))


def group(*logprobs: Sequence[float], mask: Sequence[bool] | None = None) -> Group:
    responses = tuple(
        Response("", (1,) * len(row), tuple(mask or [True] * len(row)), tuple(row), "stop", 0) for row in logprobs
    )
    return Group(Problem("p", (Message("user", "?"),), ""), (1, 2), responses)


def test_the_checksum_is_the_same_on_both_sides_and_tied_weights_are_written_twice(tmp_path: Path) -> None:
    checksum = write_weights(tmp_path, WEIGHTS.items())
    digest = Digest()
    read = dict(read_weights(tmp_path, digest))
    assert (digest.checksum, digest.tensors, count_weights(tmp_path)) == (checksum, 3, 3)
    assert read.keys() == WEIGHTS.keys()
    assert all(torch.equal(read[name], WEIGHTS[name]) and read[name].dtype == WEIGHTS[name].dtype for name in WEIGHTS)


@pytest.mark.parametrize(
    "other",
    [
        {**WEIGHTS, "b": torch.tensor([1.0, 1.0078125], dtype=torch.bfloat16)},
        {**WEIGHTS, "b": torch.ones(2, dtype=torch.float16)},
        {**WEIGHTS, "b": torch.ones(2, 1, dtype=torch.bfloat16)},
        {"c" if name == "b" else name: tensor for name, tensor in WEIGHTS.items()},
        {name: tensor for name, tensor in WEIGHTS.items() if name != "lm_head.weight"},
    ],
    ids=["value", "dtype", "shape", "name", "missing"],
)
def test_the_checksum_sees_every_difference(tmp_path: Path, other: dict[str, Tensor]) -> None:
    assert write_weights(tmp_path, WEIGHTS.items()) != write_weights(tmp_path, other.items())


def test_the_checksum_depends_neither_on_the_order_of_the_tensors_nor_on_the_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checksum = write_weights(tmp_path, WEIGHTS.items())
    assert write_weights(tmp_path, reversed(WEIGHTS.items())) == checksum
    monkeypatch.setattr("reasoner.models.tensor_files.SHARD_BYTES", 1)
    (split := tmp_path / "split").mkdir()
    assert write_weights(split, WEIGHTS.items()) == checksum
    digest = Digest()
    assert len(dict(read_weights(split, digest))) == len(list(split.iterdir())) == count_weights(split) == 3
    assert digest.checksum == checksum


def test_no_more_than_one_file_of_weights_is_in_memory_while_they_are_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layer, layers = 2**18, 40  # bytes, of which `tracemalloc` knows, because numpy holds them

    def gathered() -> Iterator[tuple[str, Tensor]]:
        for number in range(layers):
            yield f"layers.{number}", torch.from_numpy(np.full(layer // 4, number, dtype=np.float32))

    monkeypatch.setattr("reasoner.models.tensor_files.SHARD_BYTES", 4 * layer)
    tracemalloc.start()
    write_weights(tmp_path, gathered())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 4 * layer <= peak < 6 * layer
    assert len(list(tmp_path.iterdir())) == layers / 4
    assert all(tensor.eq(int(name.partition(".")[2])).all() for name, tensor in read_files(tmp_path))


def test_a_folder_without_weights_is_not_read_as_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file"):
        read_weights(tmp_path, Digest())


def test_a_hand_over_returns_the_receipt_and_leaves_no_file() -> None:
    learner, sampler = FakeLearner(), FakeSampler()
    receipt = through(learner, sampler)
    assert (receipt.version, receipt.tensors) == (3, 3)
    assert torch.equal(sampler.loaded["lm_head.weight"], EMBEDDING)
    [folder] = learner.folders
    assert not folder.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version is 2, published was 3"),
        ({"checksum": "0" * 64}, "checksum is '000"),
        ({"tensors": 2}, "number of tensors is 2, published was 3"),
    ],
)
def test_a_receipt_that_differs_stops_the_run(change: dict[str, Any], message: str) -> None:
    sampler = FakeSampler(lambda receipt: replace(receipt, **change))
    with pytest.raises(HandoverError, match=message):
        through(FakeLearner(), sampler)


def test_weights_that_do_not_fit_into_memory_go_through_the_folder_for_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9 if tmp_path in Path(path).parents else 8))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    message: list[str] = []
    learner = FakeLearner()
    hand_over(cast(Learner, learner), cast(Sampler, FakeSampler()), say=message.append)
    assert learner.folders[-1].parent == tmp_path
    assert message == [
        f"the weights go to the sampler through {tmp_path}, which is slower than memory: they do not fit into /dev/shm "
        "(a container: start it with a larger --shm-size)"
    ]
    with pytest.raises(OSError, match="do not fit") as caught:
        check_room(Path("/"), 8)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("case", ["missing", "read-only", "in memory"])
def test_what_keeps_the_weights_out_of_memory_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    memory, temporary = tmp_path / "shm", tmp_path / "tmp"
    temporary.mkdir()
    for module in ("processes.machine", "training.weight_sync"):
        monkeypatch.setattr(f"reasoner.{module}.MEMORY_FOLDER", memory)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    if case != "missing":
        memory.mkdir()
    if case == "read-only":
        monkeypatch.setattr("os.access", lambda path, mode: Path(path) != memory)
    message: list[str] = []
    learner = FakeLearner()
    hand_over(cast(Learner, learner), cast(Sampler, FakeSampler()), say=message.append)
    assert learner.folders[-1].parent == (memory if case == "in memory" else temporary)
    why = {
        "missing": f"{memory} is not there: mount",
        "read-only": f"{memory} cannot be written: mount",
        "in memory": "",
    }
    if case == "in memory":
        assert message == []
        assert describe_handover(0.0, None) == f"through memory ({memory})"
        free = shutil.disk_usage(memory).free
        assert f"{memory} is too small: " in describe_handover(float(free), None)
        assert f"--shm-size={math.ceil(1.1 * free / 2**30)}g" in describe_handover(float(free), None)
    else:
        assert why[case] in message[0]
        assert describe_handover(0.0, None) == message[0].removeprefix("the weights go to the sampler ")
    assert describe_handover(0.0, "/x") == "through /x (sampling.weights_folder)"


def test_a_run_says_once_that_its_weights_do_not_go_through_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("reasoner.training.weight_sync.why_not_in_memory", lambda: "/dev/shm is not there")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    message: list[str] = []
    sampler = FakeSampler()
    config: Any = SimpleNamespace(sampling=SimpleNamespace(weights_folder=None))
    learner: Any = FakeLearner()
    synced = SyncedSampler(config, cast(Sampler, sampler), learner, ALONE, TurnEnd(), message.append)
    for _ in range(3):
        sampler.version = 0
        synced.publish()
        assert sampler.version == 3
    assert len(message) == 1
    assert "which is slower than memory: /dev/shm is not there" in message[0]


def test_a_folder_that_cannot_take_the_weights_ends_the_run_with_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("reasoner.training.weight_sync.why_not_in_memory", lambda: "it is not there")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(HandoverError, match=r"cannot be written to the folder for temporary files = '.*gone'"):
        hand_over(cast(Learner, FakeLearner()), cast(Sampler, FakeSampler()))


def test_the_gap_is_taken_over_the_tokens_that_the_policy_wrote() -> None:
    groups = [group([-1.0, -2.0, 0.0], mask=[True, True, False]), group([-0.5])]
    learner = FakeLearner(shift=0.1)
    gap = check_gap(cast(Learner, learner), groups, 1.0)
    assert gap.tokens == 3
    assert gap.mean == pytest.approx(0.1)
    assert gap.max == pytest.approx(0.1)
    assert gap.k3 == pytest.approx(math.exp(0.1) - 1.1)


def test_gaps_add_up_to_the_gap_over_all_tokens() -> None:
    learner, sampler = [-1.0, -2.0, -3.0], [-1.5, -2.0, -2.0]
    whole = Gap.between(learner, sampler)
    parts = Gap.between(learner[:1], sampler[:1]) + Gap.between(learner[1:], sampler[1:])
    assert (whole.mean, whole.max, whole.tokens) == (0.5, 1.0, 3)
    assert (parts.mean, parts.max, parts.tokens) == pytest.approx((whole.mean, whole.max, whole.tokens))
    assert parts.k3 == pytest.approx(whole.k3)


@pytest.mark.parametrize(
    ("learner", "sampler", "mean", "k3"),
    [
        (-1.0, -math.inf, math.inf, math.inf),
        (-math.inf, -1.0, math.inf, math.inf),
        (-1.0, -800.0, 799.0, math.inf),
        (-1.0, -700.0, 699.0, math.expm1(699.0) - 699.0),
        (-math.inf, -math.inf, math.nan, math.nan),
        (math.nan, -1.0, math.nan, math.nan),
    ],
)
def test_log_probabilities_that_are_far_apart_give_a_gap_that_says_so(
    learner: float, sampler: float, mean: float, k3: float
) -> None:
    gap = Gap.between([learner], [sampler])
    assert (gap.mean, gap.max, gap.k3) == pytest.approx((mean, mean, k3), nan_ok=True)
    many = Gap.between([learner, -0.5], [sampler, -0.5])
    assert (many.mean, many.k3) == pytest.approx((mean / 2, k3 / 2), nan_ok=True)


def test_groups_without_a_token_of_the_policy_cannot_be_checked() -> None:
    with pytest.raises(HandoverError, match="no token that the policy wrote"):
        check_gap(cast(Learner, FakeLearner()), [group([0.0], mask=[False])], 1.0)


@pytest.mark.parametrize("mean", [0.11, math.inf, math.nan])
def test_a_gap_above_the_limit_stops_the_run_and_says_why(mean: float) -> None:
    verify_gap(Gap(0.09, 5.0, 0.0, 10), gap_limit("bfloat16", None))
    with pytest.raises(HandoverError, match=r"Stale or wrong weights .* prefix cache"):
        verify_gap(Gap(mean, 5.0, 0.0, 10), gap_limit("bfloat16", None))


def test_the_limit_depends_on_the_number_format_unless_it_is_configured() -> None:
    assert (gap_limit("float32", None), gap_limit("bfloat16", None), gap_limit("float32", 0.5)) == (1e-3, 0.1, 0.5)
    assert [gap_limit(dtype, None, quantized=True) for dtype in ("float32", "bfloat16")] == [0.3, 0.3]
    assert gap_limit("bfloat16", 0.05, quantized=True) == 0.05
    with pytest.raises(HandoverError, match=r"limit is 0\.3 .* take a larger model, .* raise handover\.max_gap"):
        verify_gap(Gap(0.48, 5.0, 0.27, 10), gap_limit("bfloat16", None, quantized=True))
