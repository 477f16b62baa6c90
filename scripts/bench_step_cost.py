#!/usr/bin/env python3
"""What a training step costs beside sampling, scoring and learning, with little and with much data and history.

    scripts/bench_step_cost.py [--steps 20] [--write]

Everything of a step is real but the sampler, the reward sources and the learner, which answer at once: choosing the
problems (curriculum on), the groups of an offline source, the metrics, the warnings, the run folder, the state that a
checkpoint would hold, and one redraw of the live view. Problems were all tried before, and the steps of the history
were evaluated every 20th time on 200 problems. `--write` writes docs/validation/step_cost.md, which scripts/document.py
puts into docs/runs.md.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast

from rich.console import Console

from reasoner.config import Config
from reasoner.data.curriculum import Curriculum
from reasoner.data.mixture import Mixture
from reasoner.data.problems import Stream
from reasoner.distributed.ranks import ALONE
from reasoner.evaluation.metrics import Estimate, Evaluation
from reasoner.learning.learner import StepResult
from reasoner.loading import load_config, to_toml
from reasoner.monitoring.alarms import AlarmMonitor
from reasoner.monitoring.live import LiveView
from reasoner.monitoring.timer import Timer
from reasoner.monitoring.view import Views
from reasoner.plugins.events import Events
from reasoner.records import Component, Group, Message, Problem, Prompt, Response, SamplingParams, ScoredGroup
from reasoner.runs.folder import RunFolder, open_run
from reasoner.training.prefetch import Prefetcher
from reasoner.training.rollout import RolloutCollector
from reasoner.training.trainer import Trainer
from reasoner.training.update import UpdateReport

PAGE = Path(__file__).resolve().parents[1] / "docs" / "validation" / "step_cost.md"
PROBLEMS, HISTORY = (1_000, 1_000_000), (10, 10_000)
PER_STEP, GROUP, EVERY, EVALUATED = 8, 8, 20, 200
MESSAGES = (Message("user", "How much is 1 + 1?"),)
RESPONSE = Response("2", (1, 2), (True, True), (-0.5, -0.5), "stop", 0)


class Sampler:
    """Answers at once."""

    version = 0

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        return iter([Group(prompt.problem, prompt.token_ids, (RESPONSE,) * n) for prompt in prompts])


class Scorer:
    """Finds one response of every group right."""

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        for group in groups:
            rewards = tuple(float(index == 0) for index in range(len(group.responses)))
            yield ScoredGroup(group, tuple((Component("math", 1.0, reward),) for reward in rewards), rewards)


class Learner:
    """Has learned."""

    version = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows = ["| problems | steps before | ms per step | ms per redraw |", "|--:|--:|--:|--:|"]
    for problems in PROBLEMS:
        for history in HISTORY:
            with tempfile.TemporaryDirectory(prefix="bench-step-cost-") as folder:
                step_ms, redraw_ms = measure(Path(folder), problems, history, arguments.steps)
            rows.append(f"| {problems:,} | {history:,} | {step_ms:.1f} | {redraw_ms:.2f} |")
            print(rows[-1], flush=True)
    table = "\n".join(rows)
    print(table)
    if arguments.write:
        PAGE.write_text(f"<!-- written by scripts/bench_step_cost.py -->\n{table}\n", encoding="utf-8")


def measure(output: Path, problems: int, history: int, steps: int) -> tuple[float, float]:
    """Milliseconds of a step without its redraw, and of a redraw of the live view."""
    trainer, view = build(output, problems, history)
    step_s, redraw_s = [], []
    for step in range(history + 1, history + 1 + steps):
        started = time.perf_counter()
        timer = Timer(trainer.timeline)
        terms = trainer.active_terms(step)
        batches = trainer.collect(step, terms, timer)
        trainer.offline["pairs"].at(step)
        trained = sum(len(scored.rewards) for scored in batches["online"].groups)
        trainer.commit(step, report(trained), timer)
        trainer.checkpoints.save_if_due()
        step_s.append(time.perf_counter() - started)
        started = time.perf_counter()
        Console(file=io.StringIO(), width=120).print(view.render())
        redraw_s.append(time.perf_counter() - started)
    return 1000 * median(step_s), 1000 * median(redraw_s)


def build(output: Path, problems: int, history: int) -> tuple[Trainer, LiveView]:
    """A run that has trained for `history` steps on so many problems."""
    config = configured(output, history)
    run = open_run(output, "bench", to_toml(config), {})
    for step in range(1, history + 1):
        run.history.append(metrics(step))
    run.evaluations.update({step: evaluation(step) for step in range(0, history, EVERY)})
    view = LiveView(Console(file=io.StringIO(), width=120), ascii_only=False)
    view.resumed(run.history, list(run.evaluations.values()), config.run.steps)
    everything = [Problem(f"p:{number}", MESSAGES, "2") for number in range(problems)]
    return trainer_of(config, run, view, everything), view


def configured(output: Path, history: int) -> Config:
    sets = [
        f"learning.problems_per_step={PER_STEP}",
        f"sampling.group_size={GROUP}",
        "curriculum.kind=pass-rate",
        "run.steps=1000000",
        "run.checkpoint_every=1000000",
        "evaluation.every=0",
        f"run.output='{output}'",
    ]
    return load_config("math-gsm8k", "laptop", sets=sets).config


def trainer_of(config: Config, run: RunFolder, view: LiveView, problems: Sequence[Problem]) -> Trainer:
    stream = Stream(problems, PER_STEP, 0, section="data.train", key="learning.problems_per_step")
    curriculum = Curriculum(stream, 0, config.curriculum.longest_rest)
    records = {problem.id: [0.5, 0, 0, 0] for problem in problems}
    curriculum.restore({"cursor": curriculum.state()["cursor"], "problems": records})
    mixture = Mixture({config.task: curriculum}, {config.task: 1.0})
    prompts = {problem.id: Prompt(problem, (1, 2, 3)) for problem in problems}
    pairs = [ScoredGroup(Group(problems[0], (1,), (RESPONSE,) * 2), (), (1.0, 0.0))] * len(problems)
    return Trainer(
        config=config,
        device="cpu",
        run=run,
        view=Views(view),
        events=Events(None, view.message),
        ranks=ALONE,
        terms={name: configured.term for name, configured in config.gro.terms.items()},
        learner=cast(Any, Learner()),
        reference=None,
        teacher=None,
        critic=None,
        evaluator=None,
        held_out=None,
        collector=RolloutCollector(config, cast(Any, Sampler()), cast(Any, Scorer()), mixture, prompts),
        prefetcher=Prefetcher(),
        offline={"pairs": Stream(pairs, PER_STEP, 0, section="data.pairs", key="data.pairs.per_step")},
        alarms=AlarmMonitor(run.history, list(run.evaluations.items())),
    )


def metrics(step: int) -> dict[str, float]:
    """Of a step of the history."""
    names = ("reward/mean", "reward/math/mean", "response/length_mean", "response/entropy", "gap/mean", "time/total")
    return {"step": float(step), **dict.fromkeys(names, 0.5 + 0.1 * (step % 7)), "reward/abstained": 0.0}


def evaluation(step: int) -> Evaluation:
    by_problem = {f"e:{number}": float((number + step) % 3 == 0) for number in range(EVALUATED)}
    estimate = Estimate("avg@1", "share", 1 / 3, 0.3, 0.4, "none", by_problem)
    return Evaluation(EVALUATED, 1, 0, (estimate,))


def report(trained: int) -> UpdateReport:
    return UpdateReport(
        (0.0,) * trained,
        ((0.0, 0.0),) * trained,
        {},
        trained,
        (),
        (StepResult(True, "", 1.0, 1e-6, 0),),
        None,
        None,
        None,
    )


if __name__ == "__main__":
    main()
