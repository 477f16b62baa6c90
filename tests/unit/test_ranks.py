"""What ranks share and agree on, without processes: those are in tests/integration/test_ranks.py."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reasoner.config import RewardConfig
from reasoner.distributed.ranks import ALONE, Ranks, claim_device, launched, part_of, share, visible_devices
from reasoner.distributed.sharding import ShardedPolicy, rows_by_group, same_batch, shares_of
from reasoner.errors import ConfigError, RunError, UserError
from reasoner.launch import launcher as launch
from reasoner.launch.cluster import Node
from reasoner.launch.coordination import NodeEnd
from reasoner.processes.stacks import forget_stacks
from reasoner.training.build import evaluator
from tests.ragged import make_group, ragged_groups


@dataclass(frozen=True)
class Faked(Ranks):
    """Rank 0 of two; `other` makes what rank 1 says of what rank 0 says, except of the tokens that it lacks."""

    other: Callable[[Any], Any] = lambda value: value

    def gather(self, value: Any) -> list[Any]:
        return [value, value if value == {} else self.other(value)]


def test_shares_are_balanced_whole_and_the_same_for_all() -> None:
    assert share([5, 1, 1, 1, 1, 1], 2) == [[0], [1, 2, 3, 4, 5]]
    assert (
        share([3, 3, 2, 2, 2], 2) == [[0, 2], [1, 3, 4]]
        or max(sum([3, 3, 2, 2, 2][n] for n in each) for each in share([3, 3, 2, 2, 2], 2)) == 7
    )
    assert share([4], 3) == [[0], [], []]


def test_a_share_knows_its_rows() -> None:
    groups = ragged_groups(prompts=(3, 40, 5), responses=2)
    first, second = shares_of(rows_by_group(groups), 2)
    assert [(part.group, part.rows) for part in first] == [(groups[1], (2, 3))]
    assert [(part.group, part.rows) for part in second] == [(groups[0], (0, 1)), (groups[2], (4, 5))]
    responses = [response for group in groups for response in group.responses]
    assert all(part.response(row) is responses[row] for part in (*first, *second) for row in part.rows)


def test_shares_are_balanced_by_the_responses_that_are_meant() -> None:
    """A long response that is left out costs nothing."""
    groups = [make_group(name, [1], [[1] * length, [1]]) for name, length in (("a", 50), ("b", 9), ("c", 8))]
    assert [[part.rows for part in share] for share in shares_of(rows_by_group(groups), 2)] == [
        [(0, 1)],
        [(2, 3), (4, 5)],
    ]
    without = shares_of(rows_by_group(groups, rows=[1, 2, 3, 4]), 2)
    assert [[part.rows for part in share] for share in without] == [[(2, 3)], [(1,), (4,)]]


def test_log_probabilities_come_back_in_the_order_of_the_batch() -> None:
    groups = ragged_groups(prompts=(3, 40, 5), responses=2)
    rows = {id(r): float(n) for n, r in enumerate(r for group in groups for r in group.responses)}

    class Policy:
        def logprobs(self, groups: Any, temperature: float) -> list[list[float]]:
            return [[rows[id(r)], temperature] for group in groups for r in group.responses]

    def other(_: Any) -> dict[int, list[float]]:
        return {row: [float(row), 0.5] for part in shares_of(rows_by_group(groups), 2)[1] for row in part.rows}

    found = ShardedPolicy(Policy(), Faked(count=2, other=other)).logprobs(groups, 0.5)
    assert found == [[float(n), 0.5] for n in range(6)]


def test_another_batch_is_found_out() -> None:
    groups = rows_by_group(ragged_groups())
    same_batch(groups, Faked(count=2))
    same_batch([], Faked(count=2))
    with pytest.raises(RunError, match="different batches"):
        same_batch(groups, Faked(count=2, other=lambda value: value + 1))


def test_ranks_that_leave_out_other_responses_are_found_out() -> None:
    """Also where the responses say the same."""
    group = make_group("a", [1], [[5], [5]])
    fingerprints: list[int] = []

    def remember(value: int) -> int:
        fingerprints.append(value)
        return value

    for row in (0, 1, 0):
        same_batch(rows_by_group([group], rows=[row]), Faked(count=2, other=remember))
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]


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
    launcher["LOCAL_WORLD_SIZE"] = "8"
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    assert launched() == Ranks(9, 16, 1, 1, 2, 8)
    assert not launched().first
    assert not launched().leads_node


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This process is the second rank of two on a node."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("visible", "mine"),
    [
        (None, "1"),
        ("4,6", "6"),
        ("4, 6,7", "6"),
        ("GPU-8c1e,GPU-77aa", "GPU-77aa"),
        ("MIG-GPU-8c1e/1/0,MIG-55", "MIG-55"),
        *((hidden, hidden) for hidden in ("", " ", "-1", "-1,0,1", "NoDevFiles", "none")),
    ],
)
def test_a_rank_sees_its_own_gpu(second: pytest.MonkeyPatch, visible: str | None, mine: str) -> None:
    if visible is not None:
        second.setenv("CUDA_VISIBLE_DEVICES", visible)
    claim_device("auto")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == mine


@pytest.mark.parametrize("visible", ["4", "4,-1,5", "4,,5", "MIG-55"])
def test_a_rank_without_a_gpu_takes_no_other_ones(second: pytest.MonkeyPatch, visible: str) -> None:
    second.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigError, match=r"leaves rank 1 without a GPU: .* take all 1;") as refused:
        claim_device("auto")
    assert repr(visible) in str(refused.value)
    claim_device("cpu")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.parametrize(("visible", "seen"), [(None, None), ("", []), ("-1", []), ("2,3", ["2", "3"])])
def test_gpus_that_are_hidden_are_not_those_of_an_engine(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, seen: list[str] | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_devices() == seen
    assert evaluator._devices(Faked(count=2), 2) == ",".join([*(seen or []), *(seen or [])])


@pytest.mark.parametrize("per_engine", [1, 2, 4])
def test_a_budget_of_calls_is_divided_without_a_rest(per_engine: int) -> None:
    for engines, calls in product((1, 2, 3, 7, 8, 64), (0, 1, 5, 63, 64, 65, 20_000)):
        count = engines * per_engine
        parts = [part_of(calls, Ranks(index, count), per_engine) for index in range(count)]
        if count == 1:
            assert parts == [calls]
            continue
        assert sum(parts) == calls
        scoring = parts[::per_engine]
        assert max(scoring) - min(scoring) <= 1
        assert not any(part for index, part in enumerate(parts) if index % per_engine)
    assert part_of(7, ALONE, per_engine) == 7


def test_a_rank_has_its_part_of_the_budget_and_all_of_no_budget() -> None:
    rewards = [RewardConfig(source="judge", max_calls=11), RewardConfig(source="exact")]
    for index, expected in enumerate((6, 0, 5, 0)):
        budgets = [each.max_calls for each in evaluator._rank_rewards(rewards, Ranks(index, 4), 2)]
        assert budgets == [expected, None]


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
    expected = "rank 1 was ended by signal 9 without any output. The end of its output:\nout of memory"
    assert (found.message, found.code) == (expected, 1)


def test_a_rank_of_another_node_is_named_with_it(tmp_path: Path) -> None:
    logs = tmp_path / "x" / "attempt_0" / "2"
    logs.mkdir(parents=True)
    (logs / "stderr.log").write_text("out of memory\n")
    found = launch._first_of({6: failure(tmp_path, 6, -9, None)}, tmp_path, Node(1, 2, name="gpu-b"))
    assert found.message.startswith("rank 6 on gpu-b was ended by signal 9 without any output.")
    assert found.message.endswith("out of memory")


def test_logs_that_a_killed_launcher_left_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this host, and of none whose name ends with its name."""
    monkeypatch.setattr(socket, "gethostname", lambda: "rack-gpu1")
    with launch._logs(tmp_path) as folder:
        of_another = tmp_path / folder.name
    of_another.mkdir()
    (of_another / ".lock").touch()
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu1")
    with launch._logs(tmp_path) as folder:
        left = tmp_path / folder.name
    run = tmp_path / "20260101-120000-math"
    for each in (left, run):
        each.mkdir()
    with launch._logs(tmp_path) as first, launch._logs(tmp_path) as second:
        assert first != second
        assert sorted(tmp_path.iterdir()) == sorted([first, second, of_another, run])
    assert sorted(tmp_path.iterdir()) == sorted([of_another, run])


GLOO = "RuntimeError: [../gloo/unbound_buffer.cc:84] Timed out waiting 3600000ms for recv operation to complete"


def test_a_rank_that_waited_in_vain_comes_before_the_one_that_was_ended(tmp_path: Path) -> None:
    failures = {
        0: failure(tmp_path, 0, 1, {"message": GLOO, "code": 1, "time": 20.5}),
        1: failure(tmp_path, 1, 130, None),  # it unwound after the launcher's SIGTERM
        2: failure(tmp_path, 2, 1, {"message": "Connection closed by peer", "code": 1, "time": 20.1}),
    }
    found = launch._first_of(failures, tmp_path, Node())
    assert found.message.startswith("rank 0 waited in vain for another rank, and gave up.\n")
    assert found.rung > 0  # nobody said why: the stacks are shown


@pytest.mark.parametrize("quoted", ["Timed out waiting", "wait timeout", "Connection reset by peer", "gloo"])
def test_an_error_that_quotes_a_server_is_a_cause(tmp_path: Path, quoted: str) -> None:
    said = {"message": f"error: reward source 'judge' failed: {quoted}", "code": 1, "time": 20.5}
    failures = {0: failure(tmp_path, 0, -9, None), 1: failure(tmp_path, 1, 1, said)}
    found = launch._first_of(failures, tmp_path, Node())
    assert (found.rung, found.message.splitlines()[0]) == (0, "rank 1 failed.")


def test_the_stacks_are_shown_where_no_rank_said_why(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "ranks" / "rank-10").mkdir(parents=True)
    main = [f'  File "loop.py", line {n} in f{n}' for n in range(40)]
    dump = ["Thread 0x1 (most recent call first):", '  File "threading.py", line 1 in wait', ""]
    dump += ["Current thread 0x2 (most recent call first):", *main, "", "Extension modules: numpy"]
    (run / "ranks" / "rank-10" / "stacks.txt").write_text("\n".join(dump))
    error = ["Traceback (most recent call last):", '  File "pipeline.py", line 7, in train', "    all_reduce()"]
    error += ['  File "torch.py", line 8, in all_reduce', GLOO]
    (run / "stacks.txt").write_text("\n".join(error))
    logs = tmp_path / "logs"
    shown = launch._stack_report(NodeEnd(1, 0.0, "", 1), logs, run)
    assert shown.splitlines()[1:4] == ["rank 0:", *error[3:4], *error[1:2]]
    assert shown.splitlines()[4:-1] == ["rank 10:", *main[:12]]
    assert str(run) in shown.splitlines()[-1]
    assert launch._stack_report(NodeEnd(0, 0.0, "", 1), logs, run) == ""
    assert launch._stack_report(NodeEnd(1, 0.0, "", 1), logs, None) == ""
    (logs / "job" / "attempt_0" / "1").mkdir(parents=True)
    (logs / "job" / "attempt_0" / "1" / "stacks.txt").write_text("\n".join(dump))
    assert launch._stack_report(NodeEnd(1, 0.0, "", 1), logs, None).splitlines()[1:3] == ["rank 1:", main[0]]
    forget_stacks(run)
    assert [each for each in run.rglob("*") if each.is_file()] == []


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM)", "line 4 in stands"),
        ("os.abort()", "line 4 in stands"),
        ("raise ValueError('odd')", "ValueError: odd"),
        ("raise UserError('a key')", None),
        ("pass", None),
    ],
)
def test_a_process_that_is_ended_leaves_its_stacks(tmp_path: Path, end: str, expected: str | None) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from reasoner.processes.stacks import keep_stacks\n"
        "from reasoner.errors import UserError\n"
        f"def stands():\n    {end}\n"
        "(outer := Path(sys.argv[1]) / 'outer').mkdir()\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "with keep_stacks(outer), keep_stacks(outer.parent):\n    stands()"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, timeout=60)
    assert (done.returncode == 7) == ("SIGTERM" in end)  # what was to be done about the signal is done
    file = tmp_path / "stacks.txt"
    assert file.exists() == (expected is not None)
    assert expected is None or expected in file.read_text()


def test_a_rank_tells_its_launcher_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert not launch.report(ValueError("x"), 1)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert launch.report(ValueError("unexpected"), 1)
    assert "ValueError: unexpected" in launch._read_error_file(str(tmp_path / "error.json"))["message"]
