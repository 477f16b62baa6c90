"""Start, failure and end of the process that holds vLLM, with a stand-in for vLLM."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import psutil
import pytest

from reasoner.errors import SamplerError
from reasoner.records import SamplingParams
from reasoner.sampling.base import Completion, TokenRequest
from reasoner.sampling.vllm import process as vllm_process
from reasoner.sampling.vllm.messages import EngineReady, Sleep, StartEngine, Submit, vllm_message
from reasoner.sampling.vllm.process import EngineProcess, StartHungError, host_environment


@pytest.fixture(autouse=True)
def fake_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_process, "_HOST_MODULE", "tests.unit.fake_hosts")


def start(behaviour: str) -> StartEngine:
    return StartEngine(behaviour, "float32", "cpu", 64, 4, 0.4, 0.1, False)


def started(log: Path) -> list[int]:
    return [int(pid) for pid in re.findall(r"host (\d+) does", log.read_text())]


def test_a_start_that_hangs_is_tried_again_and_then_shows_where_it_hung(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vllm_process, "_STALLED_AFTER", 3.0)
    log = tmp_path / "log"
    with pytest.raises(StartHungError, match=r"did not start within (?s:.*) in hang_at_start"):
        EngineProcess(start("hang"), log)
    assert len(started(log)) == 2
    assert not any(psutil.pid_exists(pid) for pid in started(log))


def test_a_host_that_ends_while_it_starts_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(SamplerError, match=r"ended with exit code 3\.(?s:.*)does: crash"):
        EngineProcess(start("crash"), tmp_path / "log")
    assert len(started(tmp_path / "log")) == 1


def test_what_a_person_can_act_on_is_told_as_it_is_and_anything_else_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(SamplerError, match=r"^no experts \(vLLM's log is .*log\)$"):
        EngineProcess(start("refuse"), tmp_path / "log")
    with pytest.raises(
        SamplerError, match=r"^vLLM failed \(its log is (?s:.*)Traceback(?s:.*)KeyError: 'lm_head\.weight'"
    ):
        EngineProcess(start("raise"), tmp_path / "log")


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (
            "1 validation error for ModelConfig\n  Value error, Model architectures ['A'] failed to be inspected. "
            "[type=value_error, input_value=ArgsKwargs((), {'model': 'x'}), input_type=ArgsKwargs]\n"
            "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
            "Model architectures ['A'] failed to be inspected.",
        ),
        ("No available memory for the cache blocks.", "No available memory for the cache blocks."),
        ("a Value error, in the middle", "a Value error, in the middle"),
    ],
)
def test_the_reason_in_a_message_of_vllm(message: str, why: str) -> None:
    assert vllm_message(ValueError(message)) == why
    assert vllm_message(AttributeError("no 'conv_dim'")) == "AttributeError: no 'conv_dim'"


def submitted(tokens: int = 1, id_: int = 1) -> Submit:
    return Submit((TokenRequest(id_, (7,) * tokens, 1, SamplingParams(1.0, 1)),))


def test_requests_are_answered_and_closing_twice_is_safe(tmp_path: Path) -> None:
    host = EngineProcess(start("serve"), tmp_path / "log")
    assert host.ready == EngineReady("a fake", 4)
    assert host.completed(0.0) is None
    host.send(submitted())
    assert host.call(Sleep()) is None  # what is completed meanwhile is kept
    completed = host.completed(0.0)
    assert completed
    assert completed.completions == (Completion((7,), (-0.5,), "stop", 0),)
    host.close(is_idle=True)
    host.close()
    assert not any(psutil.pid_exists(pid) for pid in started(tmp_path / "log"))
    with pytest.raises(SamplerError, match="is closed"):
        host.call(Sleep())


def test_neither_side_waits_for_the_other_to_read(tmp_path: Path) -> None:
    """More than a socket holds, both ways at once: the host blocks in what it sends unless somebody reads."""
    host = EngineProcess(start("serve"), tmp_path / "log")
    sending = Thread(target=lambda: deque(map(host.send, (submitted(300_000, id_) for id_ in range(4)))), daemon=True)
    sending.start()
    sending.join(60.0)
    assert not sending.is_alive()
    received = [host.completed(60.0) for _ in range(4)]
    assert [completed and completed.id for completed in received] == [0, 1, 2, 3]
    host.close(is_idle=True)


def test_a_host_that_is_killed_at_work_says_how_it_ended(tmp_path: Path) -> None:
    host = EngineProcess(start("die"), tmp_path / "log")
    host.send(submitted())
    for ask in (lambda: host.completed(None), lambda: host.call(Sleep())):
        with pytest.raises(SamplerError, match=r"ended by SIGKILL \(the system .* memory runs out\)"):
            ask()
    host.close()


def test_an_engine_that_makes_no_token_for_too_long_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vllm_process, "PATIENCE_S", 1.0)
    monkeypatch.setattr(vllm_process, "_LOOK_EVERY", 0.1)
    host = EngineProcess(start("stall"), tmp_path / "log")
    host.send(submitted())
    with pytest.raises(SamplerError, match=r"made no token for \d+ s while it was sampling(?s:.*) in hang_at_work"):
        host.completed(None)
    host.close()


@pytest.mark.parametrize(
    ("limit", "what"),
    [
        ("PATIENCE_S", r"did nothing for the last \d+ s: it hangs\."),
        ("_ANSWER_LIMIT", r"still works at it, longer than"),
    ],
)
def test_an_engine_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, what: str
) -> None:
    monkeypatch.setattr(vllm_process, limit, 1.0)
    monkeypatch.setattr(vllm_process, "_LOOK_EVERY", 0.1)
    if limit == "_ANSWER_LIMIT":  # it spins
        monkeypatch.setattr(vllm_process, "_work_done", lambda pid: time.monotonic())
    host = EngineProcess(start("mute"), tmp_path / "log")
    with pytest.raises(SamplerError, match=rf"has not answered Sleep for \d+ s, and {what}(?s:.*) in hang_at_work"):
        host.call(Sleep())
    host.close(is_idle=True)
    assert not any(psutil.pid_exists(pid) for pid in started(tmp_path / "log"))


def test_what_fails_while_it_samples_is_told_to_whoever_waits(tmp_path: Path) -> None:
    host = EngineProcess(start("fail"), tmp_path / "log")
    host.send(submitted())
    with pytest.raises(SamplerError, match=r"^no experts"):
        host.completed(None)
    assert host.call(Sleep()) is None
    host.close(is_idle=True)


def test_the_environment_of_the_host_stays_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    environment = host_environment(start("serve"), tmp_path)
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in os.environ


def test_processes_that_share_a_model_share_processors_and_devices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    several = replace(start("serve"), tensor_parallel=2, devices="4,5")
    environment = host_environment(several, tmp_path)
    assert (environment["OMP_NUM_THREADS"], environment["CUDA_VISIBLE_DEVICES"]) == ("4", "4,5")
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_what_torchrun_says_of_its_store_is_not_for_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """vLLM's own process group would only connect, to a store that nobody keeps."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCH_HOME", "kept")
    environment = host_environment(start("serve"), tmp_path)
    assert not [name for name in environment if name.startswith("TORCHELASTIC")]
    assert environment["TORCH_HOME"] == "kept"
    assert os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True"


@pytest.mark.parametrize(
    ("device", "dtype", "precision"),
    [("cuda", "float32", "ieee"), ("cuda", "bfloat16", None), ("cpu", "float32", None)],
)
def test_float32_on_cuda_is_multiplied_in_float32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, dtype: str, precision: str | None
) -> None:
    monkeypatch.delenv("TRITON_F32_DEFAULT", raising=False)
    environment = host_environment(replace(start("serve"), device=device, dtype=dtype), tmp_path)
    assert environment.get("TRITON_F32_DEFAULT") == precision


def test_work_is_seen_where_it_is_hidden_what_a_process_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers that keep /proc/PID/io from their processes: one of three readings is missing."""
    processes = {1: (2.0, 3 * 2**20), 2: (4.0, None), 3: (8.0, 5 * 2**20)}

    class Process:
        def __init__(self, pid: int) -> None:
            self.pid = pid

        def children(self, recursive: bool) -> list[Process]:
            return [Process(pid) for pid in processes if pid != self.pid]

        def cpu_times(self) -> SimpleNamespace:
            return SimpleNamespace(user=processes[self.pid][0], system=0.0)

        def io_counters(self) -> SimpleNamespace:
            if (read := processes[self.pid][1]) is None:
                raise psutil.AccessDenied(self.pid)
            return SimpleNamespace(read_bytes=read)

    monkeypatch.setattr(psutil, "Process", Process)
    assert vllm_process._work_done(1) == 2.0 + 4.0 + 8.0 + 3 + 5
