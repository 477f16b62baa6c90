"""What ranks share and agree on, without processes: those are in tests/integration/test_ranks.py."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reasoner import launch
from reasoner.errors import RunError, UserError
from reasoner.learning.spread import SpreadPolicy, same_batch, shares_of
from reasoner.nodes import Node
from reasoner.ranks import ALONE, Ranks, claim_device, launched, share
from reasoner.records import Group
from tests.ragged import ragged_groups


@dataclass(frozen=True)
class Faked(Ranks):
    """Rank 0 of two; `other` makes what rank 1 says of what rank 0 says."""

    other: Callable[[Any], Any] = lambda value: value

    def gather(self, value: Any) -> list[Any]:
        return [value, self.other(value)]


def test_shares_are_balanced_whole_and_the_same_for_all() -> None:
    assert share([5, 1, 1, 1, 1, 1], 2) == [[0], [1, 2, 3, 4, 5]]
    assert (
        share([3, 3, 2, 2, 2], 2) == [[0, 2], [1, 3, 4]]
        or max(sum([3, 3, 2, 2, 2][n] for n in each) for each in share([3, 3, 2, 2, 2], 2)) == 7
    )
    assert share([4], 3) == [[0], [], []]


def test_a_share_knows_its_rows() -> None:
    groups = ragged_groups(prompts=(3, 40, 5), responses=2)
    first, second = shares_of(groups, 2)
    assert (first.groups, first.rows) == ((groups[1],), (2, 3))
    assert (second.groups, second.rows) == ((groups[0], groups[2]), (0, 1, 4, 5))
    responses = [response for group in groups for response in group.responses]
    assert second.responses == [responses[row] for row in second.rows]


def test_log_probabilities_come_back_in_the_order_of_the_batch() -> None:
    groups = ragged_groups(prompts=(3, 40, 5), responses=2)
    rows = {id(r): float(n) for n, r in enumerate(r for group in groups for r in group.responses)}

    class Policy:
        def logprobs(self, groups: Any, temperature: float) -> list[list[float]]:
            return [[rows[id(r)], temperature] for group in groups for r in group.responses]

    def other(_: Any) -> list[list[float]]:
        return Policy().logprobs(shares_of(groups, 2)[1].groups, 0.5)

    found = SpreadPolicy(Policy(), Faked(count=2, other=other)).logprobs(groups, 0.5)
    assert found == [[float(n), 0.5] for n in range(6)]


def test_another_batch_is_found_out() -> None:
    groups: list[Group] = ragged_groups()
    same_batch(groups, Faked(count=2))
    with pytest.raises(RunError, match="different batches"):
        same_batch(groups, Faked(count=2, other=lambda value: value + 1))


def test_a_difference_is_named_with_the_rank() -> None:
    Faked(count=2).agree({"device": "cpu"})
    with pytest.raises(UserError, match=r"torch is .* on rank 0 and 2\.6\.0 on rank 1"):
        Faked(count=2, other=lambda facts: facts | {"torch": "2.6.0"}).agree({"device": "cpu"})
    with pytest.raises(UserError, match=r"peft is .* on rank 0 and 0\.18\.0 on rank 1"):
        Faked(count=2, other=lambda facts: facts | {"peft": "0.18.0"}).agree({"device": "cpu"})
    with pytest.raises(UserError, match=r"run\.seed is 0 on rank 0 and 1 on rank 1"):
        Faked(count=2, other=lambda facts: facts | {"run.seed": "1"}).agree({"run.seed": "0"})


def test_ranks_are_those_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() == ALONE
    launcher = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2"}
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    assert launched() == Ranks(9, 16, 1, 1, 2)
    assert not launched().first
    assert not launched().leads_node


@pytest.mark.parametrize(("visible", "mine"), [(None, "1"), ("4,6", "6"), ("", "1"), ("4", "4")])
def test_a_rank_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch, visible: str | None, mine: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    claim_device()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == mine


def failure(folder: Path, rank: int, exitcode: int, said: dict[str, Any] | None) -> Any:
    file = folder / f"error-{rank}.json"
    if said is not None:
        file.write_text(json.dumps({"message": said}))
    return SimpleNamespace(exitcode=exitcode, error_file=str(file), local_rank=rank % 4, timestamp=20)


def test_the_first_failure_is_shown(tmp_path: Path) -> None:
    failures = {
        0: failure(tmp_path, 0, 1, {"message": "gloo: timeout", "code": 1, "time": 20.5}),
        1: failure(tmp_path, 1, -9, None),  # by the launcher, because it did not end by itself
        3: failure(tmp_path, 3, 2, {"message": "error: no such key", "code": 2, "time": 20.6}),
    }
    found = launch._first_of(failures, tmp_path, Node())
    assert (found.message, found.code) == ("rank 3 failed.\nerror: no such key", 2)


def test_a_rank_that_was_killed_comes_before_those_that_missed_it(tmp_path: Path) -> None:
    logs = tmp_path / "x" / "attempt_0" / "1"
    logs.mkdir(parents=True)
    (logs / "stderr.log").write_text("out of memory\n")
    failures = {
        0: failure(tmp_path, 0, 1, {"message": "Connection closed by peer", "code": 1, "time": 20.5}),
        1: failure(tmp_path, 1, -9, None),
        2: failure(tmp_path, 2, -15, None),
    }
    found = launch._first_of(failures, tmp_path, Node())
    expected = "rank 1 was ended by signal 9 and said nothing. The end of its output:\nout of memory"
    assert (found.message, found.code) == (expected, 1)


def test_a_rank_of_another_node_is_named_with_it(tmp_path: Path) -> None:
    logs = tmp_path / "x" / "attempt_0" / "2"
    logs.mkdir(parents=True)
    (logs / "stderr.log").write_text("out of memory\n")
    found = launch._first_of({6: failure(tmp_path, 6, -9, None)}, tmp_path, Node(1, 2, name="gpu-b"))
    assert found.message.startswith("rank 6 on gpu-b was ended by signal 9 and said nothing.")
    assert found.message.endswith("out of memory")


def test_logs_that_a_killed_launcher_left_are_removed(tmp_path: Path) -> None:
    left = tmp_path / f".reasoner-gone-{socket.gethostname()}"
    of_another = tmp_path / ".reasoner-gone-elsewhere"
    run = tmp_path / "20260101-120000-math"
    for folder in (left, of_another, run):
        folder.mkdir()
    with launch._logs(tmp_path) as first, launch._logs(tmp_path) as second:
        assert first != second
        assert sorted(tmp_path.iterdir()) == sorted([first, second, of_another, run])
    assert sorted(tmp_path.iterdir()) == sorted([of_another, run])


def test_a_rank_tells_its_launcher_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert not launch.report(ValueError("x"), 1)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert launch.report(ValueError("unexpected"), 1)
    assert "ValueError: unexpected" in launch._said(str(tmp_path / "error.json"))["message"]
