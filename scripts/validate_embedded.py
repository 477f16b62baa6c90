"""The methods on a pretrained model, SmolLM2-135M-Instruct, on word problems of one step (`math-gsm8k` on a laptop).

Right answers are counted on 128 problems of held-out kinds of stories, decoded greedily, before and after 24 steps of 4
problems x 8 responses. Beside the methods alone there is what arXiv 2503.19523 claims of RL-based and RL-free methods:
that one can switch between them and mix them. RAFT, DPO and KTO learn from the samples of the same run.

A training that ran out of time goes on in its folder below `work`.
"""

from __future__ import annotations

import contextlib
import io
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasoner.errors import ReasonerError
from reasoner.gro.spec.presets import PRESETS
from reasoner.loading import load_config
from reasoner.pipeline import train
from reasoner.runs.folder import read_evaluations
from reasoner.runs.resuming.resume import Resume
from reasoner.runs.resuming.rules import load_resumed
from reasoner.training.build import open_trainer
from reasoner_tasks.word_problems import word_problems
from scripts.validation_results import Training, fingerprint

TASKS = Path(__file__).resolve().parents[1] / "tasks" / "reasoner_tasks"
SOLUTION = r"{{ message }}\n\nA reference solution, to learn from and not to mention:\n\n{{ solution }}"
COMMON = ("run.keep_best=0",)
DEMOS = (
    "data.demos.generator=word_problems",
    "data.demos.options={levels = [1], frames = 'train'}",
    "data.demos.limit=2000",
    "data.demos.seed=1",
    "data.demos.per_step=32",
    "data.demos.columns={prompt = 'question', completion = 'solution'}",
    "data.overlap=drop",
)


def on_online_groups(preset: str) -> list[str]:
    """Settings with which a method's pairs and labels are those of its own online responses."""
    terms = PRESETS[preset].terms
    return [f"gro.terms.{name}.source=online" for name in terms if terms[name].term.source in ("pairs", "labelled")]


def _alone(preset: str) -> list[str]:
    sets, terms = [f"gro.preset={preset}", *on_online_groups(preset)], PRESETS[preset].terms
    if any(weighted.term.source == "demos" for weighted in terms.values()):
        sets += DEMOS
    taught = [name for name, weighted in terms.items() if weighted.term.needs_teacher]
    if taught:
        sets += [f'teacher.template="{SOLUTION}"', *(f"gro.terms.{name}.credit.sees=solution" for name in taught)]
    return sets


def _together(first: str, second: str, *, half_way: bool) -> list[str]:
    """Two methods on the same samples: the first until half of the steps and then the second, or both at once."""
    sets = ["gro.preset="]
    for name, (before, after) in {first: (1.0, 0.0), second: (0.0, 1.0)}.items():
        own = [f"preset={name}", *(["source=online"] if on_online_groups(name) else [])]
        if half_way:
            own.append(f"schedule={{kind = 'switch', at = 0.5, before = {before}, after = {after}}}")
        sets += [f"gro.terms.{name}.{item}" for item in own]
    return sets


RL_FREE = ("raft", "dpo", "kto")
RECIPES: Mapping[str, Sequence[str]] = {
    **{name: _alone(name) for name in PRESETS if name != "opd"},
    **{f"{free} then grpo": _together(free, "grpo", half_way=True) for free in RL_FREE},
    **{f"grpo then {free}": _together("grpo", free, half_way=True) for free in RL_FREE},
    **{f"{free} and grpo": _together(free, "grpo", half_way=False) for free in RL_FREE},
}
"""method -> its settings; `opd` has no other model to learn from"""
TELLING = (
    *("grpo", "rloo", "maxrl", "sapo", "raft", "dpo", "kto", "raft->grpo", "grpo+sft", "opsd", "grpo then dpo"),
    *("raft and grpo", "dr-grpo", "dapo", "cispo", "reinforce", "sft"),
)
"""what is trained first: the families apart, what is switched and mixed, then the neighbours of grpo"""


@dataclass(frozen=True)
class Embedded:
    """Word problems with the embedded model."""

    name: str = "embedded"
    methods: Sequence[str] = tuple(RECIPES)
    order: Sequence[str] = (*TELLING, *(name for name in RECIPES if name not in TELLING))
    """in which they are trained"""
    budget: str = "{steps} steps of 4 problems x 8 responses"
    steps: int = 24
    seeds: int = 3

    def setting(self, method: str) -> str:
        """A hash of the task, its problems and the method's settings."""
        task = tomllib.loads((TASKS / "math-gsm8k.toml").read_text(encoding="utf-8"))
        laptop = task.pop("profiles")["laptop"]
        problems = [list(word_problems(128, seed, levels=[1], frames="all")) for seed in (1, 2)]
        return fingerprint([task, laptop, problems, COMMON, RECIPES.get(method)])

    def train(self, method: str, seed: int, steps: int, work: Path, max_hours: float | None) -> Training:
        """A training, or what is left of it."""
        output = work / f"{method.replace(' ', '-')}-{seed}-{self.setting(method)}"
        limit = f"run.max_hours={max_hours}" if max_hours else "run.max_hours=none"
        resume = None
        begun = [path.parent.parent for path in output.glob("*/checkpoints/step-*")]
        if begun:
            resolved, changes = load_resumed(begun[-1], [limit])
            resume = Resume(begun[-1], changes)
        else:
            own = [f"run.output={output}", f"run.seed={seed}", f"run.steps={steps}", limit]
            resolved = load_config("math-gsm8k", "laptop", sets=[*COMMON, *own, *RECIPES[method]])
        with contextlib.redirect_stdout(io.StringIO()), open_trainer(resolved, resume) as trainer:
            train(trainer)
            folder, seconds = trainer.run.folder, round(trainer.run.clock.total, 1)
            rewards = tuple(row["reward/mean"] for row in trainer.history if "reward/mean" in row)
        shares = {evaluation.step: evaluation.evaluation.accuracy for evaluation in read_evaluations(folder)}
        before, after = shares[0], shares[steps]
        if before is None or after is None:
            raise ReasonerError("the evaluation gave no accuracy")
        return Training(method, seed, steps, self.setting(method), before.value, after.value, rewards, seconds)
