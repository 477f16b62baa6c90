"""What is asked of a GPU, on a machine without one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from reasoner.learning import device as learning_device
from reasoner.learning.batching.logit_chunk import choose_logit_chunk
from reasoner.learning.model import backbone
from reasoner.learning.model.policy import ModelOptions, TorchPolicy
from reasoner.monitoring.step_metrics import memory_metrics
from tests.tiny import build_tiny_model


@pytest.mark.parametrize(("device", "wanted"), [("cuda", [False]), ("cuda:0", [False]), ("cpu", [])])
def test_attention_on_a_gpu_does_not_plan_anew_for_every_length(
    monkeypatch: pytest.MonkeyPatch, device: str, wanted: list[bool]
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", told.append)
    learning_device.prepare_device(device)
    assert told == wanted


def test_every_model_that_opens_prepares_its_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Learner, reference and critic are all built on the backbone."""
    told: list[str] = []
    monkeypatch.setattr(backbone, "prepare_device", told.append)
    TorchPolicy(build_tiny_model(tmp_path), ModelOptions(device="cpu", dtype="float32", token_budget=64, logit_chunk=8))
    assert told == ["cpu"]


def test_on_a_cpu_memory_below_what_is_in_use_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As gradients leave it, of tensors too small to have pages of their own."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("there is no GPU"))
    size, count = 2**16, 2000  # 125 MiB
    freed = [torch.ones(size // 4) for _ in range(count)]
    in_use = torch.ones(size // 4)
    freed.clear()
    before = resident_bytes()
    learning_device.release_device_memory()
    assert before - resident_bytes() > size * count / 2
    assert in_use.all()


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def test_the_peak_on_the_gpu_is_what_was_held_and_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process on the GPU does not get what is held and not used, so what is allocated says too little."""
    held, peak = [40, 10], [40]

    def reset() -> None:
        peak[0] = held[1]

    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: peak[0] * 2**30)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5 * 2**30)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    assert [memory_metrics("cuda")["memory/device_gib"] for _ in range(2)] == [40.0, 10.0]
    assert "memory/device_gib" not in memory_metrics("cpu")


def test_more_logits_are_in_memory_at_once_on_a_larger_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """DeepSpeed moves the model to its device after it was loaded."""
    folder = build_tiny_model(tmp_path)
    policy = TorchPolicy(folder, ModelOptions(device="cpu", dtype="float32", token_budget=64, logit_chunk=None))
    assert policy._chunk == 256
    size = SimpleNamespace(total_memory=2048 * 4 * policy.model.config.vocab_size * 50)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: size)
    policy.device = torch.device("cuda")
    assert policy._chunk == 2048
    policy._logit_chunk = 7
    assert policy._chunk == 7


@pytest.mark.parametrize("vocabulary", [64, 32000, 151936, 262144])
@pytest.mark.parametrize("gib", [0, 4, 24, 80, 141])
def test_a_chunk_of_logits_takes_a_fiftieth_of_a_gpu(gib: int, vocabulary: int) -> None:
    chunk = choose_logit_chunk(None, gib * 2**30, vocabulary)
    assert chunk & (chunk - 1) == 0
    assert 256 <= chunk <= 16384
    if chunk > 256:
        assert 4 * vocabulary * chunk <= gib * 2**30 / 50
    if gib and chunk < 16384:
        assert 4 * vocabulary * 2 * chunk > gib * 2**30 / 50
