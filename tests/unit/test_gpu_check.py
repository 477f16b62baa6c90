"""The checks for whoever has a GPU, as far as a CPU can run them: they pass here, and they can fail."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
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


def test_every_check_is_written_and_they_are_twelve() -> None:
    written = {**gpu_checks_learner.CHECKS, **gpu_checks_sampler.CHECKS}
    assert written.keys() == CHECKS.keys()
    assert len(CHECKS) == 12
    assert [name for name, check in CHECKS.items() if not check.needs] == ["attention", "lengths", "update", "formats"]
    assert sum(check.seconds for check in list(CHECKS.values())[:4]) <= 480


def test_attention_passes_here_and_fails_where_sequences_see_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run_one("attention", folder, cpu=True)
    assert (found.verdict, found.why) == ("PASS", "")
    assert found.figures["gap float32"] < 1e-5

    def blind(query: Tensor, key: Tensor, value: Tensor, shapes: Sequence[Any], scaling: float | None) -> Tensor:
        parts = [part.transpose(1, 2) for part in (query, key, value)]
        return attention._attend(parts[0], parts[1], parts[2], scaling, None)

    monkeypatch.setattr(attention, "_by_sequence", blind)
    found = run_one("attention", folder, cpu=True)
    assert found.verdict == "FAIL"
    assert "ragged, float32, prompts shared always" in found.why


def test_an_update_has_its_figures(folder: Path) -> None:
    scene = Scene(folder, "cpu")
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
    found = run_one("attention", tmp_path, cpu=True)
    assert (found.verdict, found.figures) == ("FAIL", {"seen": 1})
    assert "KeyError" in found.why
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
    found = run_apart("lengths", tmp_path, cpu=False)
    assert (found.verdict, found.why.strip()) == (verdict, said)
    assert found.figures == ({"s": 2.0} if verdict == "PASS" else {})


def test_what_cannot_run_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None if name == "deepspeed" else object())
    assert skip_note("formats", True, []) == "needs a GPU"
    assert skip_note("formats", False, []) == ""
    assert skip_note("engine", False, ["vllm"]) == "vllm is left out"
    assert skip_note("deepspeed", False, []) == "deepspeed is not installed"


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
    for noise, said in kinds.values():
        starts = iter(range(9))
        scene = Scene(tmp_path, "cpu")

        def sampled(engine: Engine, *_: Any, seed: int, **__: Any) -> list[Any]:
            return [engine.noise(seed, place) for place in range(4)]

        def opened(_: Scene, *__: Any, noise: Any = noise, starts: Any = starts, **___: Any) -> Engine:
            start = next(starts)
            return Engine(lambda seed, place: _group((noise(start, seed), place)))

        monkeypatch.setattr(gpu_checks_sampler, "_sample", sampled)
        monkeypatch.setattr(Scene, "sampler", opened)
        if said:
            with pytest.raises(FailedCheckError, match=re.escape(said)):
                gpu_checks_sampler.check_seeds(scene)
        else:
            gpu_checks_sampler.check_seeds(scene)


def _group(noise: tuple[Any, int]) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(responses=[SimpleNamespace(token_ids=(hash(noise), 1))])
