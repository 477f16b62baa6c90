#!/usr/bin/env python3
"""Trains every method of GRO on one verifiable task with the same budget, and writes a table and a plot.

    scripts/validate_gro [--model digits|embedded] [--seeds N] [--steps N] [--methods grpo,dpo] [--minutes M]
                         [--work FOLDER] [--output docs/validation]

`--model digits` (`digits.toml`): write three digits backwards. Per seed, a Llama of 0.1 million parameters is trained
on demonstrations of which four fifths are in a random order, so that it starts at about a third of right answers; then
each method gets the same steps, problems, responses and learning rate. Methods that read preference pairs or labels
take them from their own fresh responses; `sft` reads right demonstrations; the teacher of `opd` is the same Llama
trained on right demonstrations. Nothing is tuned per method. About 10 s per training on two cores.

`--model embedded` (`validate_embedded.py`): a pretrained model of 135 million parameters on word problems, with methods
switched half-way and mixed beside the methods alone. Minutes per training.

Every finished training is a line of `gro.jsonl` or `embedded.jsonl`; what is there is not trained again. With
`--minutes` it ends in time. `--work` names a folder that is kept: the training that was interrupted goes on with the
next call (embedded), and warmed-up models are not trained again (digits).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from reasoner.errors import OutOfTimeError, ReasonerError
from reasoner.gro.spec.presets import PRESETS
from reasoner.loading import load_config
from reasoner.monitoring.format import duration
from reasoner.pipeline import train
from reasoner.runs.folder import read_evaluations
from reasoner.testing import make_problem, make_response
from reasoner.training.build import open_trainer
from scripts.digits import backwards, digits
from scripts.validate_embedded import Embedded, on_online_groups
from scripts.validation_results import Training, add, fingerprint, read, write_plot, write_table

ROOT = Path(__file__).resolve().parents[1]
STARTED = time.perf_counter()
LAST_S = 60.0
"""seconds before the end in which nothing more is begun"""
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


def main() -> None:
    """Train what is missing, then write table and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("digits", "embedded"), default="digits")
    parser.add_argument("--seeds", type=int, help="5 of digits, 3 of embedded")
    parser.add_argument("--steps", type=int, help="80 of digits, 24 of embedded")
    parser.add_argument("--methods", help="all, unless some are named")
    parser.add_argument("--minutes", type=float, help="end within so many")
    parser.add_argument("--work", type=Path, help="folder of the runs; without one they are removed")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "validation")
    options = parser.parse_args()
    validation: Embedded | Digits = Embedded() if options.model == "embedded" else Digits()
    methods = options.methods.split(",") if options.methods else validation.order
    if unknown := [name for name in methods if name not in validation.methods]:
        parser.error(f"no such method: {', '.join(unknown)}; there are {', '.join(validation.methods)}")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    options.output.mkdir(parents=True, exist_ok=True)
    cells = [(name, seed) for seed in range(options.seeds or validation.seeds) for name in methods]
    hours = options.minutes / 60 if options.minutes else None
    with contextlib.nullcontext(options.work) if options.work else tempfile.TemporaryDirectory() as work:
        complete(validation, cells, options.steps or validation.steps, Path(work), options.output, hours)


def complete(
    validation: Embedded | Digits,
    cells: Sequence[tuple[str, int]],
    steps: int,
    work: Path,
    output: Path,
    max_hours: float | None,
) -> None:
    """Train the cells (method, seed) that are missing, as far as the time goes, and write what there is.

    Args:
        work: folder of the runs.
        output: of the results.
        max_hours: from the start of this process; None: no limit.
    """
    file = output / f"{validation.name}.jsonl"
    done = [item for item in read(file) if item.steps == steps and item.setting == validation.setting(item.preset)]
    finished = {(item.preset, item.seed) for item in done}
    missing = [cell for cell in cells if cell not in finished]
    print(f"{len(finished)} trainings are there, {len(missing)} to do", flush=True)
    if missing and done:
        training_s = median(item.seconds for item in done)
        print(f"so far one took {duration(training_s)}: about {duration(training_s * len(missing))} to go", flush=True)
    for number, (name, seed) in enumerate(missing, 1):
        if max_hours and time.perf_counter() - STARTED > 3600 * max_hours - LAST_S:
            print("the time is over")
            break
        try:
            result = validation.train(name, seed, steps, work, max_hours)
        except OutOfTimeError as error:
            print(f"{name}, seed {seed}: {error}")
            break
        add(file, result)
        done.append(result)
        change = f"{100 * result.before:.1f}% -> {100 * result.after:.1f}%"
        print(f"[{number}/{len(missing)}] {name}, seed {seed}: {change} ({result.seconds:.0f} s)", flush=True)
    budget = validation.budget.format(steps=steps)
    write_table(output / f"{validation.name}.md", done, validation.methods, budget)
    write_plot(output / f"{validation.name}.svg", done, validation.methods)


@dataclass
class Digits:
    """Three digits to write backwards."""

    name: str = "gro"
    methods: Sequence[str] = tuple(name for name in PRESETS if name != "opsd")
    """the model was never trained to read a solution"""
    order: Sequence[str] = methods
    """in which they are trained"""
    budget: str = "{steps} steps of 16 problems x 8 responses"
    steps: int = 80
    seeds: int = 5
    _starts: dict[int, tuple[Path, float]] = field(default_factory=dict)

    def setting(self, method: str) -> str:
        """The same for all methods."""
        return setting()

    def train(self, method: str, seed: int, steps: int, work: Path, max_hours: float | None) -> Training:
        """One training from a seed's warmed-up model; short, so that it is never interrupted."""
        if seed not in self._starts:
            self._starts[seed] = start(work, seed)
            print(f"seed {seed}: starts at {100 * self._starts[seed][1]:.1f}% right", flush=True)
        model, before = self._starts[seed]
        teacher = (
            teacher_of(work, seed) if any(term.term.needs_teacher for term in PRESETS[method].terms.values()) else None
        )
        return train_one(method, seed, steps, model, before, work, teacher)


def setting() -> str:
    """What every result depends on beside method, seed and steps."""
    task = tomllib.loads(TASK.read_text(encoding="utf-8"))
    problems = [list(digits(100, 1, part=part, wrong=wrong)) for part in ("train", "eval") for wrong in (0.0, 0.8)]
    answers = [make_response("321"), make_response("3 2 1"), make_response("321", finish_reason="length")]
    verdicts = [backwards(make_problem("123", "321"), answer) for answer in answers]
    return fingerprint([task, problems, verdicts, WARM_UP, TEMPLATE])


def start(work: Path, seed: int) -> tuple[Path, float]:
    """The warmed-up model of a seed and its share of right answers."""
    folder = warmed_up(work, seed, "warm", WARM_UP)
    return folder / "model", accuracy(folder)


def teacher_of(work: Path, seed: int) -> Path:
    """A model that is right nearly always, and has the tokenizer of the others."""
    right = [item for item in WARM_UP if "wrong" not in item]
    return warmed_up(work, seed, "teacher", right) / "model"


def warmed_up(work: Path, seed: int, name: str, sets: Sequence[str]) -> Path:
    """The run folder of a random model's first training, which is made once."""
    known = work / f"{name}-{seed}"
    if not known.is_dir():
        random_model = build_model(work / f"random-{seed}", seed)
        folder, _ = run([f"model.path={random_model}", f"run.seed={seed}", *sets], work)
        folder.rename(known)
    return known


def train_one(
    name: str, seed: int, steps: int, model: Path, before: float, work: Path, teacher: Path | None = None
) -> Training:
    """One training from a seed's warmed-up model."""
    own = [f"gro.preset={name}", f"run.steps={steps}", f"model.path={model}", f"run.seed={seed}"]
    own += [] if teacher is None else [f"teacher.path={teacher}"]
    own += on_online_groups(name)
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
    share = read_evaluations(run_folder)[-1].evaluation.accuracy
    if share is None:
        raise ReasonerError("the evaluation gave no accuracy")
    return share.value


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


if __name__ == "__main__":
    main()
