#!/usr/bin/env python3
"""What `reasoner plan` estimates next to what runs take.

    .venv/bin/python scripts/bench_memory.py [CASE ...] [--steps 2] [--write]

Every case is a run of `reasoner run` in processes of its own, of two training steps (AdamW has no moments before the
first): another engine, model, optimiser or size each. Its memory is the highest sum, over the process and everything
that it started, of what is private, its share of what is shared (PSS), and the weights that are being handed over in
/dev/shm; it is looked at twice a second. Needs an otherwise idle machine: libraries that other processes have loaded
too count for less. `--write` keeps the figures of the cases in docs/validation/memory.json, and makes the page beside
it of all that are there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from reasoner.loading import load_config
from reasoner.models.resolve import resolve_model
from reasoner.planning.decide import decide
from reasoner.planning.estimate import RunEstimate, find_estimate
from reasoner.processes.machine import GIB, Machine, this_machine
from reasoner.processes.run_marker import MARKER
from scripts.harness import parser_of, peak
from tests.tiny import build_tiny_model

SMALL = "embedded:smollm2-135m-instruct"
RANDOM = "random"
"""stands for the folder of a random Llama"""
EXPERTS = "random-experts"
"""stands for the folder of a random Qwen3-MoE"""
PAGE = Path(__file__).resolve().parents[1] / "docs" / "validation" / "memory.md"
LONGEST = PAGE.with_name("memory-longest.txt")
"""the second half of the page"""
RANKS = "run.ranks"
"""the setting that a command has an option for, which the ranks that it starts take too"""
INTERVAL_S = 0.5
TASK = """
plugins = ["{folder}/vowels.py"]
[model]
path = "{model}"
device = "cpu"
[data.train]
path = "{folder}/train.jsonl"
[data.eval]
path = "{folder}/eval.jsonl"
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
DEMOS = """
[model]
path = "{model}"
device = "cpu"
[data.demos]
path = "{folder}/demos.jsonl"
max_tokens = 512
per_step = 4
[gro]
preset = "sft"
[learning]
token_budget = 2048
[run]
keep_last = 0
"""
"""no sampler, no rewards: what is in memory is the learner's"""
DEMO_TOKENS = 512
TEMPLATE_TOKENS = 45
"""of a demonstration beside its response, at most"""
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
RECOMPUTE = "learning.gradient_checkpointing=true"
TWO_RANKS = ("run.ranks=2", "learning.deepspeed.zero_stage=2")
CASES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "torch": ("GRPO, torch, transformers, SmolLM2-135M", TASK, SMALL, ("sampling.engine=hf",)),
    "vllm": (
        "GRPO, torch, vLLM with a cache of 1 GiB, SmolLM2-135M",
        TASK,
        SMALL,
        ("sampling.engine=vllm", "sampling.kv_cache_gib=1.0"),
    ),
    "full": ("SFT, all weights, random 28M", DEMOS, RANDOM, ()),
    "recompute": ("SFT, all weights, recomputation, random 28M", DEMOS, RANDOM, (RECOMPUTE,)),
    "tiled": (
        "SFT, recomputation, MLPs in tiles of 256, random 28M",
        DEMOS,
        RANDOM,
        (RECOMPUTE, "learning.mlp_tile=256"),
    ),
    "lora": ("SFT, LoRA with recomputation, random 28M", DEMOS, RANDOM, (RECOMPUTE, "lora.rank=16")),
    "lora-small": (
        "SFT, LoRA with recomputation, SmolLM2-135M",
        DEMOS,
        SMALL,
        (RECOMPUTE, "lora.rank=16"),
    ),
    "8bit": (
        "SFT, AdamW of 8 bits, recomputation, random 28M",
        DEMOS,
        RANDOM,
        (RECOMPUTE, "learning.optimizer=adamw-8bit"),
    ),
    "experts": ("SFT, random Qwen3-MoE of 34M with 8 experts", DEMOS, EXPERTS, ()),
    "zero2": (
        "GRPO, DeepSpeed ZeRO 2 on two ranks, transformers, random 28M",
        TASK,
        RANDOM,
        ("sampling.engine=hf", *TWO_RANKS),
    ),
    "sequence": (
        "SFT, ZeRO 2, two ranks to a row, 1,024 tokens each, random 28M",
        DEMOS,
        RANDOM,
        (*TWO_RANKS, "learning.token_budget=1024", "learning.sequence_parallel=2"),
    ),
}
"""name -> what it is, task, model, settings; `SFT` has 2,048 tokens in a micro-batch"""


HEAD = """<!-- written by scripts/bench_memory.py -->
# Memory, estimated and measured

`scripts/bench_memory.py --write`: what `reasoner plan` says next to the highest memory of a real run of two training
steps on a CPU, float32. Measured is the sum over all processes of a run of what is private, their share of what is
shared, and what lies in `/dev/shm`.
"""


HEAD_LONGEST = """## The longest row

`scripts/bench_memory.py --longest GIB`: rows that double, learnt from by two ranks (ZeRO 2, random 28M), until both
together take more than {limit:g} GiB, next to the longest that `reasoner plan` says fits into so much.
"""


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
    what, text, model, sets = CASES[name]
    path = str(random_model(folder / model)) if model in (RANDOM, EXPERTS) else str(resolve_model(model))
    task = _write_task(folder / name, text, path, DEMO_TOKENS)
    sets = (*sets, f"run.steps={steps}", f"run.output={folder / name}/runs")
    most = max(_estimate(task, sets, this_machine("cpu")).needs, key=lambda need: need.total)
    print(f"{name}: estimated {most.total / GIB:.2f} GiB {most.when} ({most.parts})", flush=True)
    measured = run_and_measure(task, sets)
    print(f"{name}: measured {measured / GIB:.2f} GiB", flush=True)
    return Compared(what, most.total, most.when, measured)


def find_longest(limit: float, folder: Path) -> list[str]:
    """Learn from rows that double until two ranks take more than `limit` bytes: next to the longest one that `plan`
    says fits into so many. Markdown."""
    model, machine = str(random_model(folder / RANDOM)), Machine("cpu", {"memory": limit})
    lines = ["", HEAD_LONGEST.format(limit=limit / GIB), "| tokens of a row | took, GiB | |", "|--:|--:|---|"]
    for name, more in (("as it is", ()), ("tiled", (RECOMPUTE, "learning.mlp_tile=256"))):
        tokens, measured = 1024, 0.0
        while measured <= limit:
            sets = (*TWO_RANKS, *more, f"data.demos.max_tokens={tokens}", "learning.token_budget=256", "run.steps=2")
            sets = (*sets, "data.demos.per_step=2", f"run.output={folder}/{name}-{tokens}/runs")
            task = _write_task(folder / f"{name}-{tokens}", DEMOS, model, tokens)
            longest = _estimate(task, sets, machine).longest_context[0]
            measured = run_and_measure(task, sets)
            verdict = "" if measured <= limit else "too much"
            lines.append(f"| {tokens:,} ({name}; `plan` says {longest:,}) | {measured / GIB:.2f} | {verdict} |")
            print(lines[-1], flush=True)
            tokens *= 2
    return lines


def run_and_measure(task: Path, sets: tuple[str, ...]) -> float:
    """Run a task; the most bytes that it had."""
    ranks = f"{RANKS}="
    options = [part for value in sets if not value.startswith(ranks) for part in ("--set", value)]
    options += [part for value in sets if value.startswith(ranks) for part in ("--gpus", value.removeprefix(ranks))]
    command = [sys.executable, "-m", "reasoner", "run", str(task), *options]
    with (task.parent / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        with peak(process.pid, _memory_in_use, INTERVAL_S) as highest:
            code = process.wait()
    if code:
        raise SystemExit(f"{task} ended with {code}:\n{(task.parent / 'log.txt').read_text()[-3000:]}")
    return highest[0]


def _estimate(task: Path, sets: tuple[str, ...], machine: Machine) -> RunEstimate:
    config = load_config(task, sets=sets).config
    return find_estimate(config, machine, decide(config).engine)


def _write_task(folder: Path, text: str, model: str, tokens: int) -> Path:
    """A task in a folder of its own, with demonstrations of so many tokens (of a byte tokenizer, or of another)."""
    folder.mkdir(parents=True)
    (folder / "vowels.py").write_text(REWARD)
    for split, count, first in (("train", 64, 0), ("eval", 2, 1000)):
        rows = [
            {"question": f"Tell a very long story about {number} ships that sail around the world.", "answer": "1"}
            for number in range(first, first + count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    per_token = 1 if model.rpartition("/")[2] in (RANDOM, EXPERTS) else 2
    prompt = " ".join(f"the {number}th wave" for number in range(tokens))[: per_token * (tokens - TEMPLATE_TOKENS)]
    demos = [json.dumps({"prompt": f"Tell story {number}.", "completion": prompt}) for number in range(64)]
    (folder / "demos.jsonl").write_text("\n".join(demos) + "\n")
    task = folder / "task.toml"
    task.write_text(text.format(model=model, folder=folder))
    return task


def random_model(folder: Path) -> Path:
    """A random model of about 30 million parameters with a byte tokenizer; with experts where its name says so."""
    if folder.exists():
        return folder
    build_tiny_model(folder)
    sizes: dict[str, Any] = {
        **{"vocab_size": 260, "hidden_size": 512, "head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 4},
        **{"max_position_embeddings": 2**17, "initializer_range": 0.02, "tie_word_embeddings": False},
    }
    torch.manual_seed(0)
    if folder.name == EXPERTS:
        few = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "num_hidden_layers": 8}
        Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **few)).save_pretrained(folder)
    else:
        config = LlamaConfig.from_pretrained(folder)
        config.update({**sizes, "intermediate_size": 1408, "num_hidden_layers": 10})
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
    parser.add_argument("--write", action="store_true", help="keep the figures in docs/validation")
    parser.add_argument("--longest", type=float, metavar="GIB", help="find the longest row in so much memory instead")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    measured: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder:
        if options.longest:
            lines = find_longest(options.longest * GIB, Path(folder))
            if options.write:
                LONGEST.write_text("\n".join(lines) + "\n", encoding="utf-8")
                write_page({})
            return
        for name in options.cases or CASES:
            measured[name] = asdict(compare(name, Path(folder), options.steps))
            if options.write:
                write_page({name: measured[name]})
    print("\n".join(table(measured)))


def write_page(new: dict[str, dict[str, Any]]) -> None:
    """Keep the new figures beside those of other cases, and make the page of all."""
    kept = {**(json.loads(PAGE.with_suffix(".json").read_text()) if PAGE.with_suffix(".json").exists() else {}), **new}
    PAGE.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    longest = LONGEST.read_text(encoding="utf-8") if LONGEST.exists() else ""
    PAGE.write_text("\n".join([HEAD, *table(kept), longest]), encoding="utf-8")


def table(kept: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown, a row for each case, in the order of `CASES`."""
    lines = ["| run | highest, estimated | estimated, GiB | measured, GiB | ratio |", "|---|---|--:|--:|--:|"]
    for row in (Compared(**kept[name]) for name in CASES if name in kept):
        figures = f"{row.estimated / GIB:.2f} | {row.measured / GIB:.2f} | {row.ratio:.2f}"
        lines.append(f"| {row.what} | {row.when} | {figures} |")
    return lines


if __name__ == "__main__":
    main()
