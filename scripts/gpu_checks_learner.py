"""The checks of `scripts/gpu_check` that need torch and transformers alone, and those of DeepSpeed."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor

from reasoner.config import LearningConfig
from reasoner.distributed.ranks import open_ranks
from reasoner.distributed.sharding import rows_by_group
from reasoner.learning.batching.shapes import Segments, SequenceShape
from reasoner.learning.model import attention
from reasoner.learning.torch_engine import TorchLearner
from reasoner.loading import load_config
from reasoner.models.size import ModelSize
from reasoner.planning.memory.needs import needs
from reasoner.processes.machine import Machine
from reasoner.records import Group
from reasoner.sampling.vllm.buckets import DeviceDigest, SharedBuffer
from reasoner.sampling.vllm.device_link import DeviceLink
from reasoner.sampling.vllm.messages import BUFFER_BYTES, TakeBuckets, Value
from scripts.gpu_models import Dtype, Scene, even_weights, fail_if, group

PEAK = 790e12
"""operations a second in bfloat16 that matrix products of this size were seen to reach on an H200"""
GROUPS = {
    "single": [group(40, (60,), 1), group(7, (33,), 2)],
    "shared": [group(40, (30, 30, 30, 30), 3)],
    "ragged": [group(24, (1, 45, 7, 30), 4), group(3, (5, 60), 5)],
    "one token": [group(1, (1, 1), 6), group(9, (1,), 7)],
}
"""what is packed together in different ways"""


def check_attention(scene: Scene) -> None:
    """Log-probabilities and gradients through the model, and the two ways of attention by themselves."""
    limits: dict[Dtype, float] = {"float32": 1e-3, "bfloat16": 0.02}
    mistakes = []
    for dtype, limit in limits.items():
        for sharing in ("never", "always"):
            learner = scene.learner(scene.small, dtype, share_prompts=sharing)
            for name, groups in GROUPS.items():
                gaps = [
                    learner.policy._gap(batch, 1.0)
                    for batch in learner.policy.packing.micro_batches(rows_by_group(groups))
                ]
                _keep_most(scene, f"gap {dtype}", max(gaps))
                mistakes += [f"{name}, {dtype}, prompts shared {sharing}: {max(gaps):.2g}"] if max(gaps) > limit else []
            if dtype == "float32" and not mistakes:  # otherwise the learner itself refuses to train
                error = _gradient_error(learner)
                _keep_most(scene, "gradient error float32", error)
                mistakes += [f"gradient, prompts shared {sharing}: {error:.2g}"] if error > 1e-5 else []
    if scene.on_gpu:
        error = _segments_error(scene)
        mistakes += [f"by segment: {error:.2g} off by sequence in float32"] if error > 0.02 else []
    fail_if(mistakes)


def _gradient_error(learner: TorchLearner) -> float:
    """Of packed sequences against one sequence at a time, relative, over all parameters together."""
    groups = [item for some in GROUPS.values() for item in some]
    learner.accumulate(groups, even_weights(0.01), 1.0)
    packed = _gradients(learner)
    for single_group in groups:
        for response in single_group.responses:
            single = Group(single_group.problem, single_group.prompt_ids, (response,))
            learner.accumulate([single], even_weights(0.01), 1.0)
    plain = _gradients(learner)
    difference = sum(float((packed[name] - plain[name]).square().sum()) for name in plain)
    return math.sqrt(difference / sum(float(value.square().sum()) for value in plain.values()))


def _gradients(learner: TorchLearner) -> dict[str, Tensor]:
    gradients = {name: value.grad.clone() for name, value in learner.policy.trained.items() if value.grad is not None}
    learner.policy.model.zero_grad()
    return gradients


def _segments_error(scene: Scene) -> float:
    """The kernel of a whole micro-batch in bfloat16 against the rows in float32: output and gradients, relative."""
    shapes = [SequenceShape(0, 40, (30, 1, 64)), SequenceShape(135, 300, (17,)), SequenceShape(452, 3, (0, 9))]
    device = torch.device(scene.device)
    segments = Segments.of(shapes, device)
    torch.manual_seed(0)
    parts = [torch.randn(1, heads, 464, 64, device=device) for heads in (14, 2, 2)]
    weights = torch.randn(1, 464, 14, 64, device=device)
    differences = []
    for dtype in (torch.float32, torch.bfloat16):
        query, key, value = (part.to(dtype).requires_grad_() for part in parts)
        output, _ = attention.packed_attention(torch.nn.Identity(), query, key, value, None, 0.125, shapes, segments)
        gradients = torch.autograd.grad((output.float() * weights).sum(), (query, key, value))
        differences.append([output, *gradients])
    errors = [
        float((narrow.float() - wide).norm() / wide.norm())
        for wide, narrow in zip(differences[0], differences[1], strict=True)
    ]
    for name, error in zip(("output", "query", "key", "value"), errors, strict=True):
        scene.figures[f"by segment, {name}"] = error
    return max(errors)


def check_lengths(scene: Scene) -> None:
    """New lengths must cost what known ones do."""
    learner = scene.learner(scene.small, share_prompts="never")
    count, longest = (8, 90) if scene.tiny else (64, 700)
    lengths = random.Random(0).sample(range(65, longest), count)
    known = [group(20, (64,), 500 + number) for number in range(count)]
    fresh = [group(20, (length,), number) for number, length in enumerate(lengths)]
    times = [_seconds(scene, learner, groups) for groups in (known, known, fresh, fresh)]
    scene.figures |= {"s known": times[1], "s new": times[2], "s again": times[3]}
    scene.figures["attention"] = attention.described_kernel(learner.policy.device, learner.policy.dtype)
    if scene.on_gpu:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            learner.accumulate(fresh[:8], even_weights(0.01), 1.0)
        names = [event.key for event in profile.key_averages() if _is_attention(event.key)]
        scene.figures["kernels"] = ", ".join(sorted({name[:40] for name in names})[:4])
        fail_if([f"new lengths take {times[2] / times[3]:.1f} times as long"] if times[2] > 2 * times[3] else [])


def _is_attention(kernel: str) -> bool:
    return any(word in kernel.lower() for word in ("flash", "fmha", "cudnn", "attention"))


def _seconds(scene: Scene, learner: TorchLearner, groups: Sequence[Group]) -> float:
    scene.wait()
    started = time.perf_counter()
    learner.accumulate(groups, even_weights(0.01), 1.0)
    scene.wait()
    return time.perf_counter() - started


def check_update(scene: Scene) -> None:
    """Speed, and memory against the estimate."""
    tokens, batches = (512, 2) if scene.tiny else (32768, 8)
    size = ModelSize.of(scene.large)
    length = max(16, tokens // 16 - 64)
    groups = [group(64, (length,) * 4, number) for number in range(batches * 4)]
    mistakes, speeds = [], {}
    for name, learning in _VARIANTS.items():
        learner = scene.learner(scene.large, token_budget=tokens, share_prompts="never", **learning)
        _seconds(scene, learner, groups[:4])  # the first takes memory and prepares kernels
        learner.step()
        if scene.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        speeds[name] = batches * tokens / _seconds(scene, learner, groups)
        scene.figures[f"tokens/s, {name}"] = round(speeds[name])
        if scene.on_gpu:
            mistakes += _compare_memory(scene, name, learning, tokens, size)
        del learner
    if scene.on_gpu:
        scene.figures["kernels"] = _profile(scene, groups[:4], tokens)
        share = max(speeds.values()) * _operations(size, length + 64) / PEAK
        scene.figures["share of peak"] = share
        mistakes += [f"{share:.0%} of the peak"] if share < 0.4 else []
    fail_if(mistakes)


_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "recomputed": {"gradient_checkpointing": True},
    "256 logits": {"gradient_checkpointing": True, "logit_chunk": 256},
}


def _operations(size: ModelSize, length: int) -> float:
    """Of a token, forward and backward without recomputation: products with weights, and attention."""
    return 6.0 * size.parameters + 6.0 * size.layers * size.queries * length


def _compare_memory(scene: Scene, name: str, learning: Mapping[str, Any], tokens: int, size: ModelSize) -> list[str]:
    values = {"token_budget": tokens, "share_prompts": "never", **learning}
    sets = [f"learning.{key}={str(value).lower()}" for key, value in values.items()]
    sets += ["model.dtype=bfloat16", "model.device=cuda", "sampling.max_prompt_tokens=64", "learning.engine=torch"]
    config = load_config("math-gsm8k", "gpu", (), sets).config
    total = float(torch.cuda.get_device_properties(0).total_memory)
    estimates = needs(config, size, size, Machine("cuda", {}, total), "")
    (need,) = (need for need in estimates if need.where == "GPU memory" and need.when == "in the update")
    estimated = need.total - need.likely["CUDA contexts"]
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    ratio = estimated / allocated
    scene.figures[f"GiB, {name}"] = f"{allocated / 2**30:.1f}, held {reserved / 2**30:.1f}, estimated {ratio:.2f} of it"
    return [f"{name}: the estimate is {ratio:.2f} of what was allocated"] if abs(ratio - 1) > 0.15 else []


def _profile(scene: Scene, groups: Sequence[Group], tokens: int) -> str:
    """The kernels that take most of an update."""
    learner = scene.learner(scene.large, token_budget=tokens, share_prompts="never")
    _seconds(scene, learner, groups)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        _seconds(scene, learner, groups)
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events) or 1
    return ", ".join(f"{event.key[:32]} {event.self_device_time_total / total:.0%}" for event in events[:6])


def check_formats(scene: Scene) -> None:
    """Number formats where attention is computed, and synchronisations of a micro-batch."""
    dtypes: set[torch.dtype] = set()
    kernel = attention._kernel

    def noted(query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Any:
        dtypes.update((query.dtype, key.dtype, value.dtype))
        assert kernel is not None
        return kernel(query, key, value, *arguments, **options)

    learner = scene.learner(scene.small, "bfloat16", share_prompts="always")
    groups = [group(64, (100, 80, 120, 90), 1)]
    learner.accumulate(groups, even_weights(0.01), 1.0)
    attention._kernel = noted
    try:
        with _synchronisations() as waits:
            learner.accumulate(groups, even_weights(0.01), 1.0)
    finally:
        attention._kernel = kernel
    scene.figures |= {"formats": ", ".join(sorted(map(str, dtypes))), "synchronisations": len(waits)}
    mistakes = [] if dtypes == {torch.bfloat16} else [f"attention has {sorted(map(str, dtypes)) or 'another kernel'}"]
    fail_if(mistakes + ([f"{len(waits)} synchronisations"] if len(waits) > 12 else []))


@contextmanager
def _synchronisations() -> Iterator[list[Any]]:
    """The places where this process waits for the GPU meanwhile."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode(before)


class _WorkerProcess:
    """In the place of vLLM's process: one that takes weights and says what it has (`gpu_bucket_worker`)."""

    def send(self, request: TakeBuckets) -> None:
        """Start it."""
        command = [sys.executable, "-m", "scripts.gpu_bucket_worker", request.address]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    @property
    def has_replied(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def reply(self) -> Value:
        """What it printed."""
        text, _ = self.process.communicate(timeout=60)
        if self.process.returncode:
            fail_if([f"the process that takes the weights ended with {self.process.returncode}"])
        checksum, tensors = json.loads(text)
        return checksum, tensors


def check_buckets(scene: Scene) -> None:
    """Weights through a buffer that another process maps; on a CPU a file in memory is the buffer."""
    learner = scene.learner(scene.large)
    weights = dict(learner.policy.weights.published())
    with TemporaryDirectory(dir="/dev/shm") as folder:
        link = _link(scene, Path(folder))
        started = time.perf_counter()
        received, sent = link.give(weights.items(), 1)
        seconds = time.perf_counter() - started
        size = sum(value.nbytes for value in weights.values())
        scene.figures |= {"weights": sent.tensors, "GiB": size / 2**30, "s with the other's start": seconds}
        mistakes = [] if received == (sent.checksum, len(weights)) else [f"{received} arrived of {sent.checksum}"]
        name = next(iter(weights))
        changed = weights | {name: weights[name].clone()}
        changed[name].view(-1).view(torch.int16)[5] ^= 1
        digests = [DeviceDigest(), DeviceDigest()]
        started = time.perf_counter()
        for digest, some in zip(digests, (weights, changed), strict=True):
            for key, value in some.items():
                digest.add(key, value)
        sums = [digest.checksum for digest in digests]
        scene.figures["s of a checksum"] = (time.perf_counter() - started) / 2
        mistakes += [] if sums[0] == sent.checksum != sums[1] else ["a changed bit does not change the checksum"]
    fail_if(mistakes)


def _link(scene: Scene, folder: Path) -> DeviceLink:
    host = cast(Any, _WorkerProcess())
    if scene.on_gpu:
        return DeviceLink(host)
    file = str(folder / "buffer")
    buffer = torch.from_file(file, shared=True, size=BUFFER_BYTES, dtype=torch.uint8)
    return DeviceLink(host, buffer, lambda _: SharedBuffer(file, "cpu"))


def check_deepspeed(scene: Scene) -> None:
    """Three steps of every ZeRO stage against torch's."""
    from reasoner.learning.deepspeed.engine import DeepspeedLearner

    dtype = scene.dtype
    groups = [group(20, (30, 12, 40, 25), number) for number in range(4)]
    values: dict[str, Any] = {"token_budget": 400, "learning_rate": 1e-4}
    options: dict[str, Any] = {"device": scene.device, "dtype": dtype, "total_steps": 100}
    expected = _trained(TorchLearner(scene.small, config=LearningConfig.model_validate(values), **options), groups)
    mistakes = []
    with open_ranks(scene.device) as ranks:
        for stage, offload in ((1, False), (2, False), (2, True), (3, False), (3, True)):
            spread = {"zero_stage": stage, "offload_optimizer": offload}
            config = LearningConfig.model_validate(values | {"deepspeed": spread})
            trained = _trained(DeepspeedLearner(scene.small, config=config, ranks=ranks, **options), groups)
            name = f"ZeRO {stage}{', offloaded' if offload else ''}"
            difference = float((torch.tensor(trained) - torch.tensor(expected)).abs().mean())
            scene.figures[name] = difference
            limit = 0.02 if dtype == "bfloat16" else 1e-4
            mistakes += [f"{name}: {difference:.2g} nats off"] if not difference <= limit else []
    fail_if(mistakes)


def _trained(learner: Any, groups: Sequence[Group]) -> list[float]:
    """Log-probabilities after three steps."""
    for _ in range(3):
        learner.accumulate(groups, even_weights(0.05), 1.0)
        learner.step()
    return [value for row in learner.logprobs(groups, 1.0) for value in row]


def _keep_most(scene: Scene, name: str, value: float) -> None:
    scene.figures[name] = max(value, scene.figures.get(name, 0.0))


CHECKS: Mapping[str, Callable[[Scene], None]] = {
    "attention": check_attention,
    "lengths": check_lengths,
    "update": check_update,
    "formats": check_formats,
    "buckets": check_buckets,
    "deepspeed": check_deepspeed,
}
