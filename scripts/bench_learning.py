#!/usr/bin/env python3
"""Time to accuracy, this project next to TRL's `GRPOTrainer`, in turns on one machine without GPU.

    scripts/bench_learning [--seeds 0,1,2] [--steps 120] [--minutes 8] [--max-minutes 40] [--work FOLDER]

Both sides train the embedded model on what `reasoner run math-gsm8k --profile laptop` trains on: the same problems in
the same order, the same prompts token by token, the same verifiers (a child process of ours judges TRL's responses),
group size, steps, learning rate and optimiser. It measures the seconds from the start of each process until the mean
share of right training samples over the last 8 steps passes 50%, and the greedy accuracy of both on the same held-out
problems after `--minutes`. A side ends when it has passed both, or at `--max-minutes` or `--steps`. Evaluation is not
counted, and neither side saves checkpoints.

Sides take turns, seed by seed. A finished side is a line of `learning.jsonl` and is not made again; one that was
interrupted starts anew. The page `learning.md` is written after every side. TRL needs an environment of its own, which
is made in the cache folder on first use (some minutes).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from reasoner.data.problems import Cursor
from reasoner.gro.spec.terms import Clip
from reasoner.loading import Resolved, load_config
from reasoner.models.resolve import resolve_model
from reasoner.monitoring.timer import Timer
from reasoner.pipeline import train
from reasoner.planning.decide import decide
from reasoner.planning.resources import load_resources
from reasoner.plugins.manager import reward_sources
from reasoner.processes.lifetime import guard_processes
from reasoner.records import Message, Problem, Response
from reasoner.training.build import open_trainer
from reasoner.training.update import UpdateReport
from scripts.bench_step import TRL_VERSION, trl_environment
from scripts.harness import PAGES, parser_of, write_page
from scripts.learning_clock import Clock
from scripts.learning_results import NAMES, SIDES, Learnt, Side, add, page, read

ROOT = Path(__file__).resolve().parents[1]
TARGET, WINDOW = 0.5, 8
GRACE_S = 1800.0
"""seconds after its limit in which a side's last step ends"""


class _EnoughError(Exception):
    """Our side has done all that was asked of it."""


def main() -> None:
    """Measure what is missing, then write the page; or be one of the child processes."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--steps", type=int, default=120, help="most steps of a side")
    parser.add_argument("--minutes", type=float, default=8.0, help="time after which both are evaluated")
    parser.add_argument("--max-minutes", type=float, default=40.0, help="limit of a side")
    parser.add_argument("--trl-python", type=Path, help=f"Python of an environment with trl {TRL_VERSION}")
    parser.add_argument(
        "--trl-options",
        type=json.loads,
        default={},
        help="further arguments of GRPOConfig, as JSON: what makes it fast",
    )
    parser.add_argument("--work", type=Path, help="folder of the runs, which is kept; without one they are removed")
    parser.add_argument("--output", type=Path, default=PAGES, help="folder of learning.jsonl and learning.md")
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--judge", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side or options.judge:
        run_ours(options.side) if options.side else judge(options.judge)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    limits = {"steps": options.steps, "mark_s": 60 * options.minutes, "limit_s": 60 * options.max_minutes}
    with contextlib.nullcontext(options.work) if options.work else tempfile.TemporaryDirectory() as work:
        python = options.trl_python or trl_environment()
        seeds = [int(seed) for seed in options.seeds.split(",")]
        measure(seeds, limits | {"trl_options": options.trl_options}, python, Path(work), options.output)


def measure(seeds: Sequence[int], given: Mapping[str, Any], python: Path, work: Path, output: Path) -> None:
    """Measure the sides and seeds that are missing, and write the page after each.

    Args:
        given: of the setting.
        python: of TRL's environment.
        work: folder of the runs.
        output: of the results.
    """
    before: float | None = None
    for seed in seeds:
        resolved = configuration(seed)
        setting = {**common_setting(resolved), **given}
        name = hashlib.sha256(repr(sorted(setting.items())).encode()).hexdigest()[:12]
        for side in SIDES:
            done = read(output / "learning.jsonl", name)
            before = next((each.before for each in done), before)
            if any((each.side, each.seed) == (side, seed) for each in done):
                continue
            if before is None:
                before = accuracy(resolve_model(resolved.config.model.path), work)
            print(f"seed {seed}: {NAMES[side]}", flush=True)
            folder = work / f"seed-{seed}" / side
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            whole = setting | {"seed": seed, "rows": training_rows(resolved, setting["steps"])}
            learnt = measure_side(side, whole, name, before, python, folder)
            add(output / "learning.jsonl", learnt)
            passed = learnt.passing_s(WINDOW, TARGET)
            when = f"{TARGET:.0%} after {passed:.0f} s" if passed else f"{TARGET:.0%} not passed"
            print(f"  {len(learnt.right)} steps, {when}; accuracy {before:.1%} -> {learnt.after:.1%}", flush=True)
            done = [each for each in read(output / "learning.jsonl", name) if each.seed in seeds]
            if output == PAGES:
                write_page("learning.md", "bench_learning", page(done, setting))
            else:
                (output / "learning.md").write_text(page(done, setting) + "\n", encoding="utf-8")


def configuration(seed: int, sets: Sequence[str] = ()) -> Resolved:
    """What the laptop profile trains, without checkpoints."""
    own = [f"run.seed={seed}", "run.keep_last=0", "run.keep_best=0"]
    return load_config("math-gsm8k", "laptop", sets=[*own, *sets])


def common_setting(resolved: Resolved) -> dict[str, Any]:
    """What both sides are given beside the problems, from our configuration.

    Raises:
        SystemExit: TRL's side does not have what the configuration asks for.
    """
    config = resolved.config
    term = config.gro.terms["grpo"].term
    if not isinstance(term.link, Clip) or term.link.low != term.link.high or term.kl.coefficient or term.mask_truncated:
        raise SystemExit("the TRL side has no such method: change bench_learning_trl.py")
    learning = config.learning
    if learning.updates_per_step * learning.epochs != 1 or learning.decay != "constant" or learning.warmup_steps:
        raise SystemExit("the TRL side has no such course of updates: change bench_learning_trl.py")
    return {
        "trl": TRL_VERSION,
        "sets": [f"model.path={config.model.path}"],
        "model": config.model.path,
        "problems_per_step": learning.problems_per_step,
        "group_size": config.sampling.group_size,
        "max_tokens": config.sampling.max_tokens,
        "temperature": config.sampling.temperature,
        "learning_rate": learning.learning_rate,
        "betas": list(learning.betas),
        "weight_decay": learning.weight_decay,
        "max_grad_norm": learning.max_grad_norm,
        "clip": term.link.low,
        "target": TARGET,
        "window": WINDOW,
        "held_out": config.data.eval.limit if config.data.eval else 0,
        "data": repr(config.data.train),
    }


def training_rows(resolved: Resolved, steps: int) -> list[dict[str, Any]]:
    """The problems in the order in which our run takes them."""
    resources = load_resources(resolved, decide(resolved.config), training=True)
    prompts = {prompt.problem.id: prompt for prompt in resources.train}
    (stream,) = resources.problems.values()
    cursor, per_step = Cursor(stream), resolved.config.learning.problems_per_step
    problems = [problem for _ in range(steps) for problem in cursor.take(per_step)]
    return [
        {
            "id": problem.id,
            "prompt": [{"role": message.role, "content": message.content} for message in problem.messages],
            "token_ids": list(prompts[problem.id].token_ids),
            "answer": problem.answer,
            "fields": dict(problem.fields),
        }
        for problem in problems
    ]


def measure_side(
    side: Side, setting: Mapping[str, Any], name: str, before: float, python: Path, folder: Path
) -> Learnt:
    """One side with one seed, and its evaluation after it.

    Args:
        name: hash of the setting.
        before: accuracy of the initial model.
        folder: of this side alone.

    Raises:
        SystemExit: it failed.
    """
    model = resolve_model(setting["model"])
    verifiers = [sys.executable, "-m", "scripts.bench_learning", "--judge"]
    commands = {
        "ours": [sys.executable, "-m", "scripts.bench_learning", "--side", str(folder)],
        "trl": [str(python), "-m", "scripts.bench_learning_trl", "--model", str(model), "--work", str(folder)],
    }
    whole = {**setting, "verifiers": verifiers, "started": time.time()}
    (folder / "setting.json").write_text(json.dumps(whole), encoding="utf-8")
    with _other_work() as others, (folder / "log.txt").open("w") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        subprocess.run(
            commands[side],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            timeout=setting["limit_s"] + GRACE_S,
            check=False,
        )
    if not (folder / "done").exists():
        raise SystemExit(f"{NAMES[side]} failed:\n{(folder / 'log.txt').read_text()[-3000:]}")
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return Learnt(
        side,
        setting["seed"],
        name,
        start_s=round(steps[0]["began"], 1),
        ends_s=tuple(round(step["seconds"], 1) for step in steps),
        right=tuple(step["right"] for step in steps),
        tokens=sum(step["tokens"] for step in steps),
        before=before,
        after=_accuracy_after(folder, model, before),
        others=round(others[0], 3),
    )


def _accuracy_after(folder: Path, model: Path, before: float) -> float:
    """Of the weights that the side saved; the initial ones where no step ended in time."""
    weights = folder / "weights"
    if not weights.is_dir():
        return before
    for file in model.iterdir():
        if file.suffix != ".safetensors" and not (weights / file.name).exists():
            shutil.copy(file, weights / file.name)
    return accuracy(weights, folder)


def accuracy(model: Path, work: Path) -> float:
    """Greedy accuracy on the held-out problems, by `reasoner eval`."""
    evaluation = [sys.executable, "-m", "reasoner", "eval", "math-gsm8k", "--profile", "laptop", "--json"]
    command = [*evaluation, "--model", str(model), "--output", str(work / "eval")]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    (results,) = found["tasks"][0]["results"].values()
    return float(results["figures"]["avg@1"]["value"])


@contextlib.contextmanager
def _other_work() -> Iterator[list[float]]:
    """The share of the processor, in a list of one, that others than this process's children took meanwhile."""
    others = [0.0]
    started, busy, own = time.time(), _busy_s(), _children_s()
    yield others
    available = (time.time() - started) * (os.cpu_count() or 1)
    others[0] = max(0.0, (_busy_s() - busy) - (_children_s() - own)) / available


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_ours(folder: Path) -> None:
    """Our side: the run of the laptop profile, without its evaluations."""
    setting = json.loads((folder / "setting.json").read_text(encoding="utf-8"))
    clock = Clock(setting, folder / "steps.jsonl")
    own = [f"run.steps={setting['steps']}", f"run.output={folder / 'runs'}"]
    resolved = configuration(setting["seed"], [*setting["sets"], *own])
    with guard_processes(), contextlib.suppress(_EnoughError), open_trainer(resolved) as trainer:
        commit, prove = trainer.commit, trainer.prove_sampler

        def committed(step: int, report: UpdateReport, timer: Timer) -> None:
            commit(step, report, timer)
            metrics = trainer.history[-1]
            right, tokens = metrics["reward/math/mean"], int(metrics["tokens/sampled"])
            if clock.step(right, tokens, lambda: trainer.learner.save(folder / "weights")):
                raise _EnoughError

        def proved() -> None:
            prove()
            clock.begin()

        trainer.commit = committed  # type: ignore[method-assign]
        trainer.prove_sampler = proved  # type: ignore[method-assign]
        trainer.evaluate = lambda step: None  # type: ignore[method-assign]
        train(trainer)
    (folder / "done").touch()


def judge(folder: Path) -> None:
    """Judge TRL's responses: a line `[[row, text, finished], ...]` is answered with `[[right, reward], ...]`."""
    setting = json.loads((folder / "setting.json").read_text(encoding="utf-8"))
    resolved = configuration(setting["seed"], setting["sets"])
    sources = reward_sources(resolved.manager)
    rewards = resolved.config.rewards
    for source in (sources[reward.source] for reward in rewards):
        if source.prepare:
            source.prepare()
    problems = [
        Problem(row["id"], tuple(Message(**each) for each in row["prompt"]), row["answer"], row["fields"])
        for row in setting["rows"]
    ]
    for line in sys.stdin:
        verdicts = []
        for number, text, finished in json.loads(line):
            response = Response(text, (0,), (True,), (0.0,), "stop" if finished else "length", 0)
            scores = [_value(sources[each.source](problems[number], response, **each.options)) for each in rewards]
            total = sum(each.weight * score for each, score in zip(rewards, scores, strict=True))
            right = next(score for each, score in zip(rewards, scores, strict=True) if each.source == "math")
            verdicts.append((right, total))
        print(json.dumps(verdicts), flush=True)


def _value(score: Any) -> float:
    return float(getattr(score, "value", score))


if __name__ == "__main__":
    main()
