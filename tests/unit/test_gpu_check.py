"""The checks for whoever has a GPU, as far as a CPU can run them: they pass here, and they can fail."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from reasoner.learning.model import attention
from scripts import gpu_check, gpu_checks_learner, gpu_checks_sampler
from scripts.gpu_check import CHECKS, Outcome, page, run_apart, run_one, skip_note
from scripts.gpu_models import FailedCheckError, Scene, build_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("models")
    build_models(built, tiny=True)
    return built


def test_every_check_is_written_and_they_are_fourteen() -> None:
    written = {**gpu_checks_learner.CHECKS, **gpu_checks_sampler.CHECKS}
    assert written.keys() == CHECKS.keys()
    assert len(CHECKS) == 14
    plain = ["attention", "lengths", "update", "formats", "buckets"]
    assert [name for name, check in CHECKS.items() if not check.needs] == plain
    assert list(CHECKS)[:5] == plain
    assert list(CHECKS)[-1] == "run"  # the longest: what finds no time is named in a second call


def test_attention_passes_here_and_fails_where_sequences_see_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_one("attention", folder, cpu=True)
    assert (result.verdict, result.why) == ("PASS", "")
    assert result.figures["gap float32"] < 1e-5

    def blind(query: Tensor, key: Tensor, value: Tensor, shapes: Sequence[Any], scaling: float | None) -> Tensor:
        parts = [part.transpose(1, 2) for part in (query, key, value)]
        return attention._attend(parts[0], parts[1], parts[2], scaling, None)

    monkeypatch.setattr(attention, "_by_sequence", blind)
    result = run_one("attention", folder, cpu=True)
    assert result.verdict == "FAIL"
    assert "ragged, float32, prompts shared always" in result.why


def test_an_update_has_its_figures(folder: Path) -> None:
    scene = Scene(folder, "cpu", tiny=True)
    gpu_checks_learner.check_update(scene)
    assert {name for name in scene.figures if name.startswith("tokens/s")} == {
        *("tokens/s, plain", "tokens/s, recomputed", "tokens/s, 256 logits")
    }


def test_an_unexpected_error_fails_the_check_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(scene: Scene) -> None:
        scene.figures["seen"] = 1
        raise KeyError("lm_head")

    monkeypatch.setattr(gpu_checks_learner, "CHECKS", {"attention": broken})
    result = run_one("attention", tmp_path, cpu=True)
    assert (result.verdict, result.figures) == ("FAIL", {"seen": 1})
    assert "KeyError" in result.why
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "verdict", "said"),
    [
        ("import time; print('stands here', flush=True); time.sleep(60)", "FAIL", "no result after 3 s\nstands here"),
        ("import sys; print('gone'); sys.exit(7)", "FAIL", "ended with 7\ngone"),
        ("import pathlib; pathlib.Path({file!r}).write_text({outcome!r}); print('much')", "PASS", ""),
    ],
)
def test_a_check_that_hangs_or_dies_is_a_result_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, verdict: str, said: str
) -> None:
    outcome = json.dumps({"check": "lengths", "verdict": "PASS", "seconds": 1.0, "figures": {"s": 2.0}, "why": ""})
    program = program.format(file=str(tmp_path / "lengths.json"), outcome=outcome)
    monkeypatch.setattr(gpu_check, "command_of", lambda *_: [sys.executable, "-S", "-c", program])
    monkeypatch.setattr(gpu_check, "CHECKS", {"lengths": replace(CHECKS["lengths"], seconds=3.0)})
    result = run_apart("lengths", tmp_path, cpu=False)
    assert (result.verdict, result.why.strip()) == (verdict, said)
    assert result.figures == ({"s": 2.0} if verdict == "PASS" else {})


def test_what_cannot_run_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None if name == "deepspeed" else object())
    assert skip_note("formats", True, []) == "needs a GPU"
    assert skip_note("formats", False, []) == ""
    assert skip_note("engine", False, ["vllm"]) == "vllm is left out"
    assert skip_note("deepspeed", False, []) == "deepspeed is not installed"
    assert skip_note("run", False, [], left=3.0) == "no time is left: scripts/gpu_check run"


def test_a_check_ends_when_the_time_of_all_of_them_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "command_of", lambda *_: [sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    result = run_apart("lengths", tmp_path, cpu=False, left=1.0)
    assert (result.verdict, result.why.strip()) == ("FAIL", "no result after 1 s")


def test_the_page_says_whatever_was_found() -> None:
    outcomes = [
        Outcome("attention", "PASS", 12.3, {"gap float32": 3.5e-7, "kernels": "a | b"}),
        Outcome("lengths", "FAIL", 61.0, why="new lengths take 9.0 times as long\nTraceback"),
        Outcome("engine", "SKIP", why="vllm is not installed"),
    ]
    text = page({"device": "NVIDIA H200", "torch": "2.11.0"}, outcomes)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"\|", row)) for row in rows}) == 1
    assert "| PASS | 12 |" in text
    assert "gap float32 3.5e-07; kernels a / b |" in text
    assert "| FAIL (new lengths take 9.0 times as long) | 61 |" in text
    assert "| SKIP (vllm is not installed) | 0 |" in text
    assert "NVIDIA H200, torch 2.11.0" in text


def test_seeds_are_judged_by_what_must_be_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines whose noise does what it should, does not depend on the seed, or depends on the start."""

    class Engine:
        def __init__(self, noise: Any) -> None:
            self.noise = noise

        def __enter__(self) -> Engine:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    kinds = {
        "good": (lambda start, seed: seed, ""),
        "deaf": (lambda start, seed: 0, "another seed gives the same"),
        "fickle": (lambda start, seed: (start, seed), "after a restart: 0% are equal"),
    }
    for noise, message in kinds.values():
        starts = iter(range(9))
        scene = Scene(tmp_path, "cpu")

        def sampled(engine: Engine, *_: Any, seed: int, **__: Any) -> list[Any]:
            return [engine.noise(seed, place) for place in range(4)]

        def opened(_: Scene, *__: Any, noise: Any = noise, starts: Any = starts, **___: Any) -> Engine:
            start = next(starts)
            return Engine(lambda seed, place: _group((noise(start, seed), place)))

        monkeypatch.setattr(gpu_checks_sampler, "_sample", sampled)
        monkeypatch.setattr(Scene, "sampler", opened)
        if message:
            with pytest.raises(FailedCheckError, match=re.escape(message)):
                gpu_checks_sampler.check_seeds(scene)
        else:
            gpu_checks_sampler.check_seeds(scene)


def _group(noise: tuple[Any, int]) -> Any:
    return SimpleNamespace(responses=[SimpleNamespace(token_ids=(hash(noise), 1))])


class Gpu:
    """`torch.cuda` where there is none: what the checks ask of it, by the names that the installed torch has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        memory = SimpleNamespace(total_memory=2**37, major=9, minor=0, name="NVIDIA H200")
        answers: dict[str, object] = {
            "synchronize": None,
            "empty_cache": None,
            "reset_peak_memory_stats": None,
            "get_sync_debug_mode": 0,
        }
        answers |= {"max_memory_allocated": 2**30, "max_memory_reserved": 2**31, "set_sync_debug_mode": None}
        answers |= {"get_device_properties": memory, "mem_get_info": (2**36, 2**37)}
        for name, value in answers.items():
            assert callable(getattr(torch.cuda, name))
            monkeypatch.setattr(torch.cuda, name, self._answering(name, value))
        monkeypatch.setattr(
            torch.profiler, "ProfilerActivity", SimpleNamespace(CUDA=torch.profiler.ProfilerActivity.CPU)
        )
        monkeypatch.setattr(Scene, "on_gpu", property(lambda scene: True))

    def _answering(self, name: str, value: object) -> Any:
        def answer(*arguments: object) -> object:
            self.asked.append(name)
            return value

        return answer


def test_what_is_for_a_gpu_alone_runs_here_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line that only a GPU would reach, with its calls faked: judged by what it notes, not by its verdict."""
    monkeypatch.setattr(gpu_checks_learner, "_segments_error", lambda scene: 0.0)
    gpu = Gpu(monkeypatch)
    notes = {
        "lengths": {"s known", "s new", "s again", "kernels", "attention"},
        "update": {"GiB, plain", "GiB, recomputed", "GiB, 256 logits", "kernels", "share of peak"},
        "formats": {"formats", "synchronisations"},
    }
    for name, figures in notes.items():
        scene = Scene(folder, "cpu", tiny=True)
        with suppress(FailedCheckError):
            gpu_checks_learner.CHECKS[name](scene)
        assert figures <= scene.figures.keys()
    assert {"synchronize", "max_memory_allocated", "set_sync_debug_mode", "reset_peak_memory_stats"} <= set(gpu.asked)


@pytest.mark.parametrize("same", [True, False])
def test_an_engine_that_sleeps_is_judged_by_what_it_says_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    told: list[str] = []
    Gpu(monkeypatch)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: told.append("60%"))
    drawn = iter([1, 1 if same else 2])
    monkeypatch.setattr(gpu_checks_sampler, "_sample", lambda *_: [_group((next(drawn), 0))])
    monkeypatch.setattr(gpu_checks_sampler, "hand_over", None)
    monkeypatch.setattr("reasoner.training.synced_sampler.hand_over", lambda *_: told.append("weights"))
    sampler: Any = SimpleNamespace(
        version=-1, sleep=lambda: told.append("sleep"), wake=lambda: told.append("wake"), load=None
    )
    scene = Scene(tmp_path, "cuda")
    judged = nullcontext() if same else pytest.raises(FailedCheckError, match="other responses after the sleep")
    with judged:
        gpu_checks_sampler._sleep_and_wake(scene, sampler, SimpleNamespace(version=0), 2)
    assert told == ["sleep", "60%", "wake", "weights"]
    assert scene.figures["level 2, GiB free"] == "64.0 / 64.0 / 64.0 / 64.0"


def test_runs_are_compared_up_to_rounding_on_a_gpu_and_exactly_here() -> None:
    agree = gpu_checks_sampler._agree
    run: list[dict[str, Any]] = [{"loss": 0.5, "reward/mean": None}, {"loss": 0.25, "reward/mean": 0.0}]
    near = [run[0], {"loss": 0.251, "reward/mean": 0.0}]
    assert agree(run, run, 0.0)
    assert agree(run, near, 0.02)
    assert not agree(run, near, 0.0)
    assert not agree(run, run[:1], 0.02)
    assert not agree(run, [run[0], {"loss": 0.4, "reward/mean": 0.0}], 0.02)
    assert not agree(run, [run[0], {"loss": None, "reward/mean": 0.0}], 0.02)


def test_buckets_between_two_processes_arrive(folder: Path) -> None:
    """The protocol of learner and engine, with a file in memory in the place of the GPU's."""
    result = run_one("buckets", folder, cpu=True)
    assert (result.verdict, result.why) == ("PASS", "")
    assert result.figures["weights"] > 20
