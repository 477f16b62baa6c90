"""The checks of `scripts/gpu_check` in which vLLM samples: engine, seeds, hand-over, sleep, a whole run, adapters."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from safetensors.torch import load_file

from reasoner.config import LoraConfig
from reasoner.data.prompts.chat_probe import TurnEnd
from reasoner.distributed.ranks import ALONE
from reasoner.errors import HandoverError
from reasoner.learning.learner import Learner
from reasoner.models.tensor_files import read_files, write_weights
from reasoner.records import Group, SamplingParams
from reasoner.runs.folder import read_metrics
from reasoner.training.guards.canary import Canary
from reasoner.training.synced_sampler import SyncedSampler
from reasoner.training.weight_sync import Publisher, check_gap, gap_limit, hand_over
from reasoner.trajectories.sampler import TrajectorySampler
from scripts.gpu_models import Scene, even_weights, fail_if

GAP = 0.03
"""nats per token that are rounding, with random weights in bfloat16"""
QUANTIZED_GAP = 0.3
"""the same where weights are quantised: the limit of a run"""


def _sample(
    sampler: TrajectorySampler, scene: Scene, count: int, n: int, tokens: int, temperature: float = 1.0, seed: int = 0
) -> list[Group]:
    """Groups in the order of their prompts."""
    params = SamplingParams(temperature, tokens, seed=seed)
    groups = sampler.sample(scene.prompts(count), n, params)
    return sorted(groups, key=lambda group: group.problem.id)


def check_engine(scene: Scene) -> None:
    """Speed and gap."""
    count, tokens = (4, 16) if scene.tiny else (64, 256)
    mistakes = []
    started = time.perf_counter()
    with scene.sampler(scene.large, "engine") as sampler:
        scene.figures |= {"engine": sampler.description, "s to start": time.perf_counter() - started}
        _sample(sampler, scene, count, 8, 8)
        groups = {}
        for temperature in (1.0, 0.7):
            started = time.perf_counter()
            groups[temperature] = _sample(sampler, scene, count, 8, tokens, temperature)
            made = sum(len(response.token_ids) for group in groups[temperature] for response in group.responses)
            scene.figures[f"tokens/s, T = {temperature}"] = round(made / (time.perf_counter() - started))
    log = (scene.folder / "engine.vllm.log").read_text(errors="replace")
    lines = [line[-120:] for line in log.splitlines() if "odel runner" in line or "attention backend" in line.lower()]
    scene.figures["vLLM says"] = " / ".join(dict.fromkeys(lines[:3]))
    learner = scene.learner(scene.large)
    learner.policy.rotate_as_vllm(1024)
    for temperature, some in groups.items():
        gap = check_gap(learner, some[:16], temperature)
        scene.figures[f"gap, T = {temperature}"] = f"{gap.mean:.2g}, most {gap.max:.2g}"
        mistakes += [f"gap {gap.mean:.2g} at T = {temperature}"] if gap.mean > GAP else []
    fail_if(mistakes)


def check_seeds(scene: Scene) -> None:
    """What the same seed gives, within an engine and across its starts."""

    def drawn(sampler: TrajectorySampler, seed: int) -> list[Sequence[int]]:
        groups = _sample(sampler, scene, 8, 4, 24, seed=seed)
        return [response.token_ids for group in groups for response in group.responses]

    with scene.sampler(scene.small, "first") as sampler:
        first, again, other = drawn(sampler, 1), drawn(sampler, 1), drawn(sampler, 2)
    with scene.sampler(scene.small, "second") as sampler:
        other_first, restarted = drawn(sampler, 2), drawn(sampler, 1)
    equal = {
        "the same seed": sum(map(_same, first, again)) / len(first),
        "another seed": sum(map(_same, first, other)) / len(first),
        "after a restart": sum(map(_same, first, restarted)) / len(first),
        "another seed, after a restart": sum(map(_same, other, other_first)) / len(first),
        "responses to one prompt": len(first) - len(set(first)),
    }
    scene.figures |= equal
    mistakes = [
        f"{name}: {equal[name]:.0%} are equal" for name in equal if "restart" in name or name == "the same seed"
    ]
    mistakes = [text for text in mistakes if not text.endswith(" 100% are equal")]
    mistakes += ["another seed gives the same"] if equal["another seed"] > 0 else []
    fail_if(mistakes + (["responses to one prompt are equal"] if len(set(first)) < len(first) else []))


def _same(a: Sequence[int], b: Sequence[int]) -> bool:
    return tuple(a) == tuple(b)


@dataclass(frozen=True)
class _Stale:
    """Publishes a learner's weights with the embedding of the folder that it came from."""

    other: Publisher
    folder: Path

    @property
    def version(self) -> int:
        return self.other.version

    def publish(self, folder: Path) -> str:
        old = load_file(self.folder / "model.safetensors")["model.embed_tokens.weight"]
        with TemporaryDirectory() as whole:
            self.other.publish(Path(whole))
            tensors = read_files(Path(whole))
            return write_weights(
                folder, ((name, old.to(value.dtype) if "embed_tokens" in name else value) for name, value in tensors)
            )


def check_handover(scene: Scene) -> None:
    """Every family arrives, on the GPU and as files; one that does not is found; how long each way takes."""
    learner = scene.learner(scene.small)
    learner.policy.rotate_as_vllm(1024)
    limit, params = gap_limit(scene.dtype, None), SamplingParams(1.0, 16)
    said: list[str] = []
    with scene.sampler(scene.small, "handover") as sampler:

        def give(publisher: Publisher, parent: str | None = None) -> None:
            started, before = time.perf_counter(), len(said)
            hand_over(publisher, sampler, parent=parent, say=said.append)
            way = "the GPU" if any("on the GPU" in text for text in said[before:]) else "files"
            scene.figures[f"s through {way}"] = time.perf_counter() - started

        for parent in (None, "/dev/shm"):
            proof = Canary(learner, sampler, ALONE, limit, partial(give, parent=parent), params)
            scene.figures["canary" if parent is None else "canary, files"] = proof.prove(scene.prompts(4))[:100]
        stale = Canary(learner, sampler, ALONE, limit, lambda item: give(_Stale(item, scene.small)), params)
        with contextlib.suppress(HandoverError):
            stale.prove(scene.prompts(4))
            fail_if(["an embedding that stayed was not found"])
    scene.figures["GiB"] = sum(file.stat().st_size for file in scene.small.glob("*.safetensors")) / 2**30
    fell_back = [text for text in said if "as files" in text] if scene.on_gpu else []
    fail_if(fell_back[:1])


def check_sleep(scene: Scene) -> None:
    """The engine gives its weights up and wakes beside what a learner kept of its update."""
    learner = scene.learner(scene.small)
    with scene.sampler(scene.small, "sleep", memory_share=0.5) as sampler:
        for time_asleep in (
            "",
            ", second",
        ):  # then its own tensors must be those of the first, to the bit (`worker.py`)
            _sleep_and_wake(scene, sampler, learner, 2, time_asleep)


def _sleep_and_wake(scene: Scene, sampler: TrajectorySampler, learner: Any, level: int, name: str = "") -> None:
    """Asleep, it leaves room for a learner that takes 60% of the GPU; afterwards it samples as before."""
    synced = SyncedSampler(cast(Any, _Settings()), sampler, learner, ALONE, TurnEnd(), print)
    before = _sample(sampler, scene, 4, 2, 8)
    free = [_free()]
    started = time.perf_counter()
    synced.sleep()
    seconds = [time.perf_counter() - started]
    free.append(_free())
    kept = torch.empty(int(0.6 * torch.cuda.get_device_properties(0).total_memory), dtype=torch.uint8, device="cuda")
    del kept  # torch keeps it
    free.append(_free())
    started = time.perf_counter()
    synced.wake()
    synced.publish()
    seconds.append(time.perf_counter() - started)
    free.append(_free())
    after = _sample(sampler, scene, 4, 2, 8)
    scene.figures[f"level {level}{name}, GiB free"] = " / ".join(f"{gib:.1f}" for gib in free)
    scene.figures[f"level {level}{name}, s to sleep and wake"] = " / ".join(f"{second:.2f}" for second in seconds)
    fail_if([] if _tokens(before) == _tokens(after) else [f"level {level}: other responses after the sleep"])


def _free() -> float:
    return torch.cuda.mem_get_info()[0] / 2**30


def _tokens(groups: Sequence[Group]) -> list[Sequence[int]]:
    return [response.token_ids for group in groups for response in group.responses]


@dataclass
class _Settings:
    """Of a configuration what `SyncedSampler` reads to hand weights over."""

    class Sampling:
        weights_folder = None

    sampling = Sampling


TASK = """
plugins = ["{folder}/vowels.py"]
[model]
path = "{model}"
device = "{device}"
dtype = "{dtype}"
[data.train]
path = "{folder}/train.jsonl"
[data.eval]
path = "{folder}/train.jsonl"
limit = 4
[[rewards]]
source = "vowels"
[gro]
preset = "grpo"
[evaluation]
correct = "vowels"
[sampling]
engine = "vllm"
group_size = 4
max_tokens = 32
max_prompt_tokens = 128
kv_cache_gib = 0.25
memory_share = 0.3
[learning]
problems_per_step = 4
learning_rate = 1e-5
[run]
steps = 3
output = "{folder}/{name}"
checkpoint_every = 1
"""
REWARD = '''
"""Responses with more vowels are better: groups have differences."""
from reasoner import hookimpl, reward


@reward("vowels")
def vowels(problem, response):
    return sum(response.text.count(letter) for letter in "aeiou") / (1 + len(response.text))


@hookimpl
def register_rewards():
    return [vowels]
'''
SAME = ("reward/mean", "response/length_mean", "update/grad_norm", "loss")
"""metrics that are compared, where a run has them"""


def check_run(scene: Scene) -> None:
    """A run, and one that is killed in its third step and resumed."""
    folder = scene.folder / "runs"
    folder.mkdir()
    (folder / "vowels.py").write_text(REWARD)
    rows = [json.dumps({"question": f"Tell story {number}.", "answer": "1"}) + "\n" for number in range(16)]
    (folder / "train.jsonl").write_text("".join(rows))
    free = _free() if scene.on_gpu else 0.0
    started = time.perf_counter()
    whole = _run(scene, folder, "whole")
    scene.figures["s of three steps"] = time.perf_counter() - started
    killed = _run(scene, folder, "killed", kill_after=2)
    command = [sys.executable, "-m", "reasoner", "run", "--resume", str(killed)]
    if code := subprocess.run(command).returncode:
        fail_if([f"`reasoner run --resume` ended with {code}"])
    histories = [list(read_metrics(item)) for item in (whole, killed)]
    figures = [[{name: step.get(name) for name in SAME} for step in history] for history in histories]
    scene.figures["last step"] = json.dumps(figures[0][-1])
    rounding = 0.02 if scene.on_gpu else 0.0  # kernels of a GPU add up in another order each time
    mistakes = [] if _agree(figures[0], figures[1], rounding) else [f"resumed: {figures[1][-1]} for {figures[0][-1]}"]
    if scene.on_gpu:
        lost = free - _free()
        scene.figures["GiB less free at the end"] = lost
        mistakes += [f"{lost:.1f} GiB of the GPU are still taken"] if lost > 0.5 else []
    fail_if(mistakes)


def _agree(whole: Sequence[Mapping[str, Any]], resumed: Sequence[Mapping[str, Any]], rounding: float) -> bool:
    """Whether two runs have the same metrics."""
    if len(whole) != len(resumed):
        return False
    pairs = [(a[name], b[name]) for a, b in zip(whole, resumed, strict=True) for name in a]
    return all(a == b or (a and b and math.isclose(a, b, rel_tol=rounding, abs_tol=1e-3 * rounding)) for a, b in pairs)


def _run(scene: Scene, folder: Path, name: str, kill_after: int = 0) -> Path:
    """The folder of a run of three steps, killed once so many of them are committed."""
    values = {"folder": folder, "model": scene.small, "device": scene.device, "dtype": scene.dtype, "name": name}
    task = folder / f"{name}.toml"
    task.write_text(TASK.format(**values))
    process = subprocess.Popen([sys.executable, "-m", "reasoner", "run", str(task)])
    while kill_after and process.poll() is None and _committed(folder / name) < kill_after:
        time.sleep(0.1)
    if kill_after:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    code = process.wait()
    if code and not kill_after:
        fail_if([f"`reasoner run` ended with {code}"])
    runs = [*(folder / name).iterdir()] if (folder / name).is_dir() else []
    fail_if([] if len(runs) == 1 else [f"{len(runs)} run folders, where one was to be"])
    return runs[0]


def _committed(output: Path) -> int:
    """Steps whose metrics are written."""
    lines = [file.read_text().count("\n") for file in output.glob("*/metrics.jsonl")]
    return max(lines, default=0)


def check_lora(scene: Scene) -> None:
    """An adapter alone reaches the sampler; with it the engine keeps its weights while it sleeps."""
    gap = _hand_adapter_over(scene, "lora")
    fail_if([f"gap {gap:.2g}"] if not gap <= GAP else [])


def check_quantized(scene: Scene) -> None:
    """The same with weights of four bits in the learner and of eight in the engine, as `--profile small-gpu` has them;
    the gap is their rounding."""
    gap = _hand_adapter_over(scene, "quantized", "nf4", quantization="fp8")
    fail_if([f"gap {gap:.2g}"] if not gap <= QUANTIZED_GAP else [])


def _hand_adapter_over(scene: Scene, name: str, learner_bits: str | None = None, **start: Any) -> float:
    """The gap after an adapter has changed; the engine samples the same when it has slept."""
    lora = LoraConfig.model_validate({"rank": 8, "handover": "adapter", "quantization": learner_bits})
    learner = scene.learner(scene.small, lora=lora, learning_rate=1e-2)
    learner.policy.rotate_as_vllm(1024)
    with scene.sampler(scene.small, name, adapter_rank=8, **start) as sampler:
        groups = _sample(sampler, scene, 4, 4, 16)
        for _ in range(3):
            learner.accumulate(groups, even_weights(0.1), 1.0)
            learner.step()
        without = check_gap(learner, groups, 1.0).mean  # the engine has no adapter yet
        started = time.perf_counter()
        hand_over(cast(Learner, learner), sampler)
        seconds = time.perf_counter() - started
        gap = check_gap(learner, _sample(sampler, scene, 4, 4, 16), 1.0)
        scene.figures |= {"gap": gap.mean, "gap without the adapter": without, "s": seconds}
        fail_if([] if gap.mean < 0.5 * without else [f"gap {gap.mean:.2g}, and {without:.2g} without the adapter"])
        if scene.on_gpu:
            _sleep_and_wake(scene, sampler, learner, 1)
    return gap.mean


def check_float32(scene: Scene) -> None:
    """Float32 in vLLM: with TF32 in attention the gap would be larger than what is allowed."""
    learner = scene.learner(scene.small, "float32")
    learner.policy.rotate_as_vllm(1024)
    with scene.sampler(scene.small, "float32", "float32") as sampler:
        gap = check_gap(learner, _sample(sampler, scene, 8, 4, 32), 1.0).mean
    scene.figures["gap"] = gap
    doctor = subprocess.run([sys.executable, "-m", "reasoner", "doctor"], capture_output=True, text=True)
    broken = [line.strip() for line in doctor.stdout.splitlines() if "broken" in line]
    scene.figures["doctor"] = "; ".join(broken)[:200] or "nothing broken"
    fail_if([f"gap {gap:.2g}"] if not gap <= 1e-3 else [])


CHECKS: Mapping[str, Callable[[Scene], None]] = {
    "engine": check_engine,
    "seeds": check_seeds,
    "handover": check_handover,
    "sleep": check_sleep,
    "run": check_run,
    "lora": check_lora,
    "quantized": check_quantized,
    "float32": check_float32,
}
