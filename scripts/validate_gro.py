#!/usr/bin/env python3
"""Trains every method of GRO on one small verifiable task with the same budget, and writes a table and a plot.

    scripts/validate_gro [--seeds 5] [--steps 80] [--presets grpo,dpo] [--output docs/validation]

The task (`digits.toml`): write three digits backwards. Per seed, a Llama of 0.1 million parameters is trained on
demonstrations of which four fifths are in a random order, so that it starts at about a third of right answers; then
each method gets the same steps, problems, responses and learning rate. Methods that read preference pairs or labels
take them from their own fresh responses; `sft` reads right demonstrations. Nothing is tuned per method.

Every finished training is a line of `gro.jsonl`; what is there is not trained again. About 10 s per training on two
cores.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

import matplotlib.pyplot as plt
import torch
from scipy.stats import t as student
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from reasoner.errors import ReasonerError
from reasoner.gro.spec.presets import PRESETS
from reasoner.loading import load_config
from reasoner.pipeline import train
from reasoner.runs.folder import read_evaluations
from reasoner.training.build import open_trainer

ROOT = Path(__file__).resolve().parents[1]
TASK = ROOT / "scripts" / "digits.toml"
PLUGIN = ROOT / "scripts" / "digits.py"
WARM_UP = (
    "gro.preset=sft",
    "run.steps=150",
    "learning.learning_rate=3e-3",
    "learning.decay=linear",
    "data.demos.per_step=256",
    "data.demos.limit=40000",
    "data.demos.options={wrong=0.8}",
)
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% if message['role'] == 'user' %}="
    "{% else %}<end>{% endif %}{% endfor %}"
)


@dataclass(frozen=True, slots=True)
class Training:
    """One method with one seed: a line of the results."""

    preset: str
    seed: int
    steps: int
    setting: str
    """hash of the task, its plugin and the warm-up: results of different settings are not mixed"""
    before: float
    """share of right answers on held-out problems, sampled at temperature 1"""
    after: float
    rewards: tuple[float, ...]
    """mean reward of every step; empty without fresh responses"""
    seconds: float


def main() -> None:
    """Train what is missing, then write table and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "validation")
    options = parser.parse_args()
    names = [name for name in options.presets.split(",") if name]
    if unknown := [name for name in names if name not in PRESETS]:
        parser.error(f"no such method: {', '.join(unknown)}; there are {', '.join(PRESETS)}")
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "gro.jsonl"
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    done = [each for each in read(file) if each.setting == setting() and each.steps == options.steps]
    there = {(each.preset, each.seed) for each in done}
    missing = [(name, seed) for seed in range(options.seeds) for name in names if (name, seed) not in there]
    print(f"{len(there)} trainings are there, {len(missing)} to do")
    with tempfile.TemporaryDirectory() as work:
        starts: dict[int, tuple[Path, float]] = {}
        for number, (name, seed) in enumerate(missing, 1):
            if seed not in starts:
                starts[seed] = start(Path(work), seed)
                print(f"seed {seed}: starts at {100 * starts[seed][1]:.1f}% right")
            each = train_one(name, seed, options.steps, *starts[seed], Path(work))
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(each)) + "\n")
            done.append(each)
            print(
                f"[{number}/{len(missing)}] {name}, seed {seed}: {100 * each.before:.1f}% -> {100 * each.after:.1f}% "
                f"({each.seconds:.0f} s)",
                flush=True,
            )
    write_table(options.output / "gro.md", done, options.steps)
    write_plot(options.output / "gro.svg", done)


def read(file: Path) -> list[Training]:
    """The results so far."""
    if not file.exists():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Training(**{**row, "rewards": tuple(row["rewards"])}) for row in rows]


def setting() -> str:
    """What every result depends on beside method, seed and steps. Where a name is imported from does not count: modules
    move, and the results stay."""
    plugin = [
        line for line in PLUGIN.read_text(encoding="utf-8").splitlines() if not line.startswith(("from ", "import "))
    ]
    text = TASK.read_text(encoding="utf-8") + "\n".join(plugin) + repr((WARM_UP, TEMPLATE))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def start(work: Path, seed: int) -> tuple[Path, float]:
    """The warmed-up model of a seed and its share of right answers."""
    random_model = build_model(work / f"random-{seed}", seed)
    folder, _ = run([f"model.path={random_model}", f"run.seed={seed}", *WARM_UP], work)
    return folder / "model", accuracy(folder)


def train_one(name: str, seed: int, steps: int, model: Path, before: float, work: Path) -> Training:
    """One training from a seed's warmed-up model."""
    own = [f"gro.preset={name}", f"run.steps={steps}", f"model.path={model}", f"run.seed={seed}"]
    for term_name, weighted in PRESETS[name].terms.items():
        if weighted.term.source in ("pairs", "labelled"):
            own.append(f"gro.terms.{term_name}.source=online")
    started = time.perf_counter()
    folder, rewards = run(own, work)
    return Training(
        preset=name,
        seed=seed,
        steps=steps,
        setting=setting(),
        before=before,
        after=accuracy(folder),
        rewards=tuple(rewards),
        seconds=round(time.perf_counter() - started, 1),
    )


def run(sets: Sequence[str], work: Path) -> tuple[Path, list[float]]:
    """Run the pipeline; the run folder and the mean reward of every step."""
    resolved = load_config(TASK, sets=[f"plugins=['{PLUGIN}']", f"run.output={work / 'runs'}", *sets])
    with contextlib.redirect_stdout(io.StringIO()), open_trainer(resolved) as trainer:
        train(trainer)
        rewards = [metrics["reward/mean"] for metrics in trainer.history if "reward/mean" in metrics]
        return trainer.run.folder, rewards


def accuracy(run_folder: Path) -> float:
    """Share of right answers on the held-out problems, after training."""
    found = read_evaluations(run_folder)[-1].evaluation.accuracy
    if found is None:
        raise ReasonerError("the evaluation gave no accuracy")
    return found.value


def build_model(folder: Path, seed: int) -> Path:
    """A random Llama of two layers with a tokenizer of one token per character."""
    symbols = [*"0123456789=", "<end>", "<pad>", "<unk>"]
    core = Tokenizer(WordLevel({symbol: index for index, symbol in enumerate(symbols)}, unk_token="<unk>"))
    core.pre_tokenizer = Split(Regex("."), "isolated")
    core.decoder = Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", pad_token="<pad>", unk_token="<unk>", chat_template=TEMPLATE
    )
    end, pad = tokenizer.convert_tokens_to_ids(["<end>", "<pad>"])
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=16,
            max_position_embeddings=32,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=end,
            pad_token_id=pad,
        )
    )
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95% interval over seeds (Student's t)."""
    mean = fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def by_preset(done: Sequence[Training]) -> Iterator[tuple[str, list[Training]]]:
    """The trainings of each method, in the order of the presets."""
    for name in PRESETS:
        some = [each for each in done if each.preset == name]
        if some:
            yield name, some


def write_table(file: Path, done: Sequence[Training], steps: int) -> None:
    """Share of right answers before and after, with intervals over seeds."""
    seeds = len({each.seed for each in done})
    lines = [
        f"<!-- written by scripts/validate_gro: {steps} steps of 16 problems x 8 responses, {seeds} seeds -->",
        "| method | right before | right after | change [95% interval] | learns |",
        "|---|---:|---:|---:|---|",
    ]
    for name, some in by_preset(done):
        before, after = (fmean(values) for values in ([e.before for e in some], [e.after for e in some]))
        change, low, high = interval([each.after - each.before for each in some])
        verdict = "one seed" if math.isnan(low) else "yes" if low > 0 else "no" if high < 0 else "within noise"
        lines.append(
            f"| `{name}` | {100 * before:.1f}% | {100 * after:.1f}% | {100 * change:+.1f} [{100 * low:+.1f}, "
            f"{100 * high:+.1f}] | {verdict} |"
        )
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_plot(file: Path, done: Sequence[Training]) -> None:
    """Right answers after training per method with intervals, and reward over the steps."""
    plt.rcParams.update({"svg.hashsalt": "reasoner", "font.size": 8})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 6.5), width_ratios=(1.1, 1))
    rows = [(name, interval([each.after for each in some]), some) for name, some in by_preset(done)]
    for place, (_, (mean, low, high), _) in enumerate(rows):
        left.errorbar(100 * mean, place, xerr=[[100 * (mean - low)], [100 * (high - mean)]], fmt="o", color="C0")
    left.axvline(100 * fmean(each.before for each in done), color="grey", linestyle="--", label="before training")
    left.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    left.invert_yaxis()
    left.set_xlabel("right answers on held-out problems, % (mean over seeds, 95% interval)")
    left.legend(loc="lower left")
    for index, (name, _, some) in enumerate(rows):
        curves = [each.rewards for each in some if each.rewards]
        if curves:
            right.plot(*smoothed(curves), label=name, color=plt.get_cmap("turbo")(index / max(1, len(rows) - 1)))
    right.set_xlabel("training step")
    right.set_ylabel("mean reward (mean over seeds and 5 steps)")
    right.legend(ncols=2, fontsize=6)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def smoothed(curves: Sequence[Sequence[float]], width: int = 5) -> tuple[list[int], list[float]]:
    """Steps, and the mean over curves and the last `width` steps."""
    means = [fmean(values) for values in zip(*curves, strict=True)]
    return list(range(1, len(means) + 1)), [
        fmean(means[max(0, index - width + 1) : index + 1]) for index in range(len(means))
    ]


if __name__ == "__main__":
    main()
