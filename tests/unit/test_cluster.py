"""Which machines a run is on, and what their launchers tell each other."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reasoner.cli.train.run import _ranks_setting
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.errors import UserError
from reasoner.launch import coordination as board
from reasoner.launch.cluster import HostEntry, Node, first_host, idle_nodes, read_hostfile, slurm_node
from reasoner.launch.coordination import INTERRUPTED, NodeEnd, open_board
from reasoner.launch.ssh import forwarded_variables


def test_a_hostfile(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# ours\n\ngpu-a slots=8   # the new one\nuser@10.0.0.2 slots = 4\n")
    assert read_hostfile(file) == (HostEntry("gpu-a", 8), HostEntry("user@10.0.0.2", 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a slots=8\n\nb slots=8\na slots=8\n", r"line 4: a is on line 1 already"),
        ("a slots=8\nb\n", r"line 2: expected `NAME slots=GPUS`, got 'b'"),
        ("a slots=0\n", r"line 1: expected"),
        ("a slots=2 max_slots=4\n", r"line 1: expected"),
        ("-oProxyCommand=x slots=2\n", r"line 1: expected"),
        ("a slots=1\n", r"less than two GPUs"),
        ("# nothing\n", r"names 0 machines"),
    ],
)
def test_a_hostfile_that_says_something_else(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_hostfile(file)


def test_a_hostfile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_hostfile(tmp_path / "hosts")


STEP = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "2",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "gpu[07,09]",
    "SLURM_NODEID": "1",
    "SLURMD_NODENAME": "gpu09",
}
"""what srun sets for the second task of `srun --nodes=2` in a job of four nodes"""


def test_a_step_of_slurm() -> None:
    assert slurm_node(STEP) == Node(1, 2, "gpu07", 23_718, "123456.2", "gpu09")
    assert idle_nodes(STEP) == 2


def test_no_step_of_several_nodes_is_one_node() -> None:
    script = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NUM_NODES": "2", "SLURM_NNODES": "2", "SLURM_NODEID": "0"}
    assert slurm_node({}) == slurm_node(script) == Node()
    assert (idle_nodes({}), idle_nodes(script)) == (0, 1)


def test_a_task_per_gpu_is_refused() -> None:
    with pytest.raises(UserError, match="16 times on 2 nodes"):
        slurm_node(STEP | {"SLURM_STEP_NUM_TASKS": "16"})
    with pytest.raises(UserError, match="'SLURM_STEP_NODELIST' is not set"):
        slurm_node({name: value for name, value in STEP.items() if name != "SLURM_STEP_NODELIST"})


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[03-05,9],cpu1", "gpu03"),
        ("r[1-2]n[08-09]-ib", "r1n08-ib"),
    ],
)
def test_the_first_name_of_a_list(listed: str, first: str) -> None:
    assert first_host(listed) == first


def test_what_other_machines_get_of_the_environment() -> None:
    here = {"HF_TOKEN": "x", "NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": "4", "REASONER_RUN": "y", "AWS_SECRET_KEY": "z"}
    assert list(forwarded_variables(here | {"CUDA_VISIBLE_DEVICES": "1", "HOME": "/root"})) == [
        "HF_TOKEN",
        "NCCL_DEBUG",
        "OMP_NUM_THREADS",
    ]


SAID = NodeEnd(0, 20.0, "rank 3 on b failed.\nValueError", 2)
KILLED = NodeEnd(1, 10.0, "rank 3 on b was ended by signal 9", 1)
MISSED = NodeEnd(2, 5.0, "rank 0 on a failed.\ngloo: Connection closed by peer", 1)
ASKED = NodeEnd(0, 1.0, "interrupted", INTERRUPTED)
ENDED = NodeEnd(3, 1.0, "rank 2 on b was ended by signal 15", 1)


@pytest.mark.parametrize(
    ("first", "second", "cause"),
    [(MISSED, SAID, SAID), (MISSED, KILLED, KILLED), (SAID, KILLED, SAID), (SAID, ENDED, SAID), (ENDED, ASKED, ASKED)],
)
def test_all_nodes_go_by_the_cause(first: NodeEnd, second: NodeEnd, cause: NodeEnd) -> None:
    boards = [open_board(Node(0, 2))]
    boards.append(open_board(Node(1, 2, port=boards[0].port)))
    result: dict[int, NodeEnd] = {}

    def of(index: int, end: NodeEnd) -> None:
        boards[index].meet(pytest.fail)
        result[index] = boards[index].settle(end)

    threads = [threading.Thread(target=of, args=each) for each in ((0, first), (1, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert result == {0: cause, 1: cause}


def test_a_node_learns_that_another_has_ended() -> None:
    first = open_board(Node(0, 2))
    second = open_board(Node(1, 2, port=first.port))
    stopped = threading.Event()
    with first.watched(lambda seconds: stopped.set()) as told:
        time.sleep(1)
        assert not told.is_set()
        thread = threading.Thread(target=second.settle, args=(SAID,))
        thread.start()
        assert stopped.wait(60)
    assert told.is_set()
    assert first.settle(ENDED) == SAID
    thread.join(60)


def test_a_launcher_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ranks broke a collective, and it says nothing of itself any more."""
    monkeypatch.setattr(board, "TELL_WITHIN", 1)
    monkeypatch.setattr(board, "_SILENT", 2)
    first = open_board(Node(0, 2))
    second = open_board(Node(1, 2, port=first.port, name="gpu-b"))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda each: each.meet(pytest.fail), (first, second)))
    stopped = threading.Event()
    with first.watched(lambda seconds: stopped.set()):
        assert stopped.wait(60)
    verdict = first.settle(MISSED)
    assert (verdict.message, verdict.code) == ("the launcher on gpu-b, which may have been killed, does not answer", 1)


def test_how_many_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run.ranks` is nodes x GPUs, for the launcher and for the ranks that it starts."""
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=8\nb slots=4\n")
    assert _ranks_setting(ALONE, None, None, []) == []
    assert _ranks_setting(ALONE, 8, None, []) == ["run.ranks=8"]
    assert _ranks_setting(Ranks(1, 4), None, None, ["run.steps=2", "run.ranks=4"]) == []  # the command said so already
    assert _ranks_setting(ALONE, None, hosts, []) == ["run.ranks=12"]
    assert _ranks_setting(Ranks(9, 12, 1, 1, 2), None, tmp_path / "not on this machine", []) == ["run.ranks=12"]
    assert _ranks_setting(Ranks(9, 16, 1, 1, 2), 8, None, []) == ["run.ranks=16"]
    with pytest.raises(UserError, match="--gpus cannot be given with --hostfile"):
        _ranks_setting(ALONE, 8, hosts, [])
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    assert _ranks_setting(ALONE, 8, None, []) == ["run.ranks=16"]
