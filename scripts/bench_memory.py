#!/usr/bin/env python3
"""What `reasoner plan` estimates next to what runs take: the table of docs/scaling.md.

    .venv/bin/python scripts/bench_memory.py [CASE ...] [--steps 2]

Every case is a run of `reasoner run` in processes of its own, of two training steps (AdamW has no moments before the
first): another engine, sampler or size each. Its memory is the highest sum, over the process and everything that it
started, of what is private, its share of what is shared (PSS), and the weights that are being handed over in /dev/shm;
it is looked at ten times a second. Needs a CPU, some minutes, and an otherwise idle machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from reasoner.loading import load_config
from reasoner.models.resolve import resolve_model
from reasoner.planning.decide import decide
from reasoner.planning.estimate import RunEstimate, find_estimate
from reasoner.processes.machine import GIB, this_machine
from reasoner.processes.run_marker import MARKER
from scripts.harness import parser_of, peak
from tests.tiny import build_tiny_model

SMALL = "embedded:smollm2-135m-instruct"
RANDOM = "RANDOM"
"""stands for the folder of a random Llama"""
RANKS = "run.ranks"
"""the setting that a command has an option for, which the ranks that it starts take too"""
INTERVAL_S = 0.1
TASK = """
plugins = ["{folder}/vowels.py"]
[model]
path = "{model}"
device = "cpu"
[data.train]
path = "{folder}/train.jsonl"
[data.eval]
path = "{folder}/eval.jsonl"
[data.demos]
path = "{folder}/demos.jsonl"
max_tokens = 512
[[rewards]]
source = "vowels"
[gro]
preset = "grpo"
[evaluation]
correct = "vowels"
[sampling]
group_size = 4
max_tokens = 64
max_prompt_tokens = 128
[learning]
problems_per_step = 4
token_budget = 384
[run]
keep_last = 0
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
CASES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "torch": ("GRPO, torch, transformers, SmolLM2-135M", SMALL, ("sampling.engine=hf",)),
    "vllm": (
        "GRPO, torch, vLLM with a cache of 1 GiB, SmolLM2-135M",
        SMALL,
        ("sampling.engine=vllm", "sampling.kv_cache_gib=1.0"),
    ),
    "lora": (
        "SFT, torch, LoRA, recomputation, SmolLM2-135M",
        SMALL,
        ("gro.preset=sft", "learning.gradient_checkpointing=true", "lora.rank=16", "learning.token_budget=1024"),
    ),
    "zero2": (
        "GRPO, DeepSpeed ZeRO 2 on two ranks, transformers, random 28M",
        RANDOM,
        ("sampling.engine=hf", "run.ranks=2", "learning.deepspeed.zero_stage=2"),
    ),
    "long": (
        "SFT, torch, random 28M, 4,096 tokens at once",
        RANDOM,
        ("gro.preset=sft", "learning.token_budget=4096", "data.demos.per_step=16"),
    ),
}
"""name -> what it is, model, settings"""


@dataclass(frozen=True, slots=True)
class Compared:
    """One case."""

    what: str
    estimated: float
    """bytes, at the moment of the highest sum"""
    when: str
    measured: float

    @property
    def ratio(self) -> float:
        """Estimated over measured."""
        return self.estimated / self.measured


def compare(name: str, folder: Path, steps: int) -> Compared:
    """Estimate a case, then run it."""
    what, model, sets = CASES[name]
    path = str(_random_model(folder / "random")) if model == RANDOM else str(resolve_model(model))
    task = _write_task(folder / name, path)
    sets = (*sets, f"run.steps={steps}", f"run.output={folder / name}/runs")
    most = max(_estimate(task, sets).needs, key=lambda need: need.total)
    print(f"{name}: estimated {most.total / GIB:.2f} GiB {most.when} ({most.parts})", flush=True)
    ranks = f"{RANKS}="
    options = [part for value in sets if not value.startswith(ranks) for part in ("--set", value)]
    options += [part for value in sets if value.startswith(ranks) for part in ("--gpus", value.removeprefix(ranks))]
    command = [sys.executable, "-m", "reasoner", "run", str(task), *options]
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        with peak(process.pid, _memory_in_use, INTERVAL_S) as highest:
            code = process.wait()
    if code:
        raise SystemExit(f"{name} ended with {code}:\n{(folder / f'{name}.log').read_text()[-3000:]}")
    print(f"{name}: measured {highest[0] / GIB:.2f} GiB", flush=True)
    return Compared(what, most.total, most.when, highest[0])


def _estimate(task: Path, sets: tuple[str, ...]) -> RunEstimate:
    config = load_config(task, sets=sets).config
    return find_estimate(config, this_machine("cpu"), decide(config).engine)


def _write_task(folder: Path, model: str) -> Path:
    folder.mkdir()
    (folder / "vowels.py").write_text(REWARD)
    for split, count, first in (("train", 64, 0), ("eval", 2, 1000)):
        rows = [
            {"question": f"Tell a very long story about {number} ships that sail around the world.", "answer": "1"}
            for number in range(first, first + count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompt = " ".join(f"the {number}th wave" for number in range(200))[: 360 if "random" in model else 1050]
    demos = [json.dumps({"prompt": f"Tell story {number}.", "completion": prompt}) for number in range(64)]
    (folder / "demos.jsonl").write_text("\n".join(demos) + "\n")
    task = folder / "task.toml"
    task.write_text(TASK.format(model=model, folder=folder))
    return task


def _random_model(folder: Path) -> Path:
    """A random Llama of 28 million parameters with a byte tokenizer."""
    if not folder.exists():
        build_tiny_model(folder)
        config = LlamaConfig.from_pretrained(folder)
        config.update({"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 10, "head_dim": 64})
        config.update({"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 4096})
        config.update({"initializer_range": 0.02, "tie_word_embeddings": False})
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _memory_in_use(processes: Sequence[psutil.Process]) -> float:
    rollups = [_rollup(process.pid) for process in processes]
    mapped = sum(item.get("Pss_Shmem", 0.0) for item in rollups)
    runs = {run for process in processes if (run := _run_of(process))}
    files = sum(_size(file) for run in runs for file in Path("/dev/shm").glob(f"reasoner-{run}-*/**/*"))
    return sum(item.get("Pss", 0.0) for item in rollups) - mapped + max(mapped, files)


def _run_of(process: psutil.Process) -> str:
    """The mark that a run's processes carry and by which its folders are called."""
    with suppress(psutil.Error):
        return process.environ().get(MARKER, "")
    return ""


def _size(file: Path) -> int:
    with suppress(OSError):
        return file.stat().st_size if file.is_file() else 0
    return 0


def _rollup(pid: int) -> dict[str, float]:
    """Bytes by kind; nothing of a process that has ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        return {line.split(":")[0]: 1024.0 * int(line.split()[1]) for line in lines}
    return {}


def main() -> None:
    """Compare the cases that are named, or all."""
    parser = parser_of(__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; none: all")
    parser.add_argument("--steps", type=int, default=2, help="training steps of a run")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    table = Table("run", "estimated", "measured", "ratio", title=f"GiB at most, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder:
        for name in options.cases or CASES:
            result = compare(name, Path(folder), options.steps)
            numbers = (result.estimated / GIB, result.measured / GIB, result.ratio)
            table.add_row(f"{result.what} ({result.when})", *(f"{number:.2f}" for number in numbers))
    Console().print(table)


if __name__ == "__main__":
    main()
