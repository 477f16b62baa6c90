#!/usr/bin/env python3
"""A step of a run whose responses have one turn, in this checkout next to an earlier one, alternating in one run.

    git worktree add --detach ../before COMMIT
    .venv/bin/python scripts/bench_single_turn.py ../before [--rounds 5] [--steps 8] [--engine hf]

Both sides are `reasoner run` with this interpreter and its packages; PYTHONPATH names the checkout. A round is one run
of each side, every other round in the other order, with the same problems, seed and settings. The reward is the share
of letters, which differs within the groups of any model. Seconds are those of the runs' own metrics, without the first
`--skip` steps; a ratio is taken within a round, between medians of steps.

Token ids and rewards of all steps are compared, too, between the sides and between the runs of each side. Sampled ids
that differ at the first step come from the sampler; later ones may also come from an update that adds in another order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal, get_args

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from reasoner.models.resolve import resolve_model
from scripts.harness import parser_of, spread
from tests.tiny import build_tiny_model

ROOT = Path(__file__).resolve().parents[1]
Side = Literal["before", "now"]
SIDES: tuple[Side, ...] = get_args(Side)
TIMES = ("time/total", "time/sample", "time/update")
"""metrics of a step, in seconds"""
Row = tuple[str, int, tuple[int, ...], float]  # problem, number in its group, token ids, reward
TASK = """
plugins = ["{root}/tests/integration/rewarding_letters.py"]
model = {{ path = "{model}", device = "cpu" }}
prompt = {{ template = "{{{{ question }}}}" }}
rewards = [{{ source = "letters" }}]
gro = {{ preset = "grpo" }}
sampling = {{ engine = "{engine}", group_size = 8, max_tokens = 64, max_prompt_tokens = 384 }}
learning = {{ problems_per_step = 4, token_budget = 1024 }}
evaluation = {{ every = 0, correct = "letters", max_tokens = 1 }}
run = {{ steps = {steps}, seed = 1, keep_last = 0 }}
[data]
train = {{ generator = "word_problems", options = {{ levels = [1] }}, limit = 512, seed = 1 }}
eval = {{ generator = "word_problems", options = {{ levels = [1] }}, limit = 1, seed = 2 }}
"""


@dataclass(frozen=True)
class SingleTurnRun:
    """What a run left."""

    times: Mapping[str, Sequence[float]]
    """seconds of every step, by metric"""
    steps: Sequence[Sequence[Row]]
    """the responses of every step"""


def run(checkout: Path, task: Path, output: Path) -> SingleTurnRun:
    """One run with the code of a checkout."""
    path = os.pathsep.join(str(checkout / part) for part in ("", "rewards", "tasks"))
    environment = {**os.environ, "PYTHONPATH": path}
    if not (checkout / "reasoner" / "__main__.py").is_file():  # Python would take the installed one
        raise SystemExit(f"{checkout} is no checkout: it has no package reasoner")
    command = [sys.executable, "-m", "reasoner", "run", str(task), "--output", str(output)]
    done = subprocess.run(command, env=environment, cwd=task.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the run with {checkout} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return read(next(output.glob("*/metrics.jsonl")).parent)


def read(folder: Path) -> SingleTurnRun:
    """Times and responses of a finished run, of whichever version."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    columns = ["problem.id", "sample", "response.token_ids", "reward"]
    steps = [
        sorted(
            (row["problem"]["id"], row["sample"], tuple(row["response"]["token_ids"]), row["reward"])
            for row in pq.ParquetFile(file).read(columns=columns).to_pylist()
        )
        for file in sorted((folder / "rollouts").glob("step-*.parquet"))
    ]
    return SingleTurnRun({name: [row[name] for row in rows] for name in TIMES}, steps)


def same_steps(first: SingleTurnRun, second: SingleTurnRun) -> int:
    """Steps from the first on whose token ids and rewards are exactly the same."""
    pairs = zip(first.steps, second.steps, strict=True)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), len(first.steps))


def report(runs: Mapping[Side, Sequence[SingleTurnRun]], skip: int) -> Table:
    """Median and range over the rounds."""
    table = Table("", *SIDES, "now / before", title="seconds per step: median and range of the rounds")
    for name in TIMES:
        before, now = ([median(run.times[name][skip:]) for run in runs[side]] for side in SIDES)
        ratios = [new / old for old, new in zip(before, now, strict=True)]
        table.add_row(name, spread(before, ".3g"), spread(now, ".3g"), spread(ratios, ".3f"))
    return table


def sameness(runs: Mapping[Side, Sequence[SingleTurnRun]]) -> list[str]:
    """How far token ids and rewards are the same, a line for the sides and one for the repetitions of each."""
    counts = {"before and now": min(map(same_steps, runs["before"], runs["now"]))}
    counts |= {f"all runs of {side}": min(same_steps(runs[side][0], run) for run in runs[side]) for side in SIDES}
    total = len(runs["now"][0].steps)
    return [f"token ids and rewards of {what}: same in the first {n} of {total} steps" for what, n in counts.items()]


def main() -> None:
    """Run both sides in turn and print what they took."""
    parser = parser_of(__doc__)
    parser.add_argument("before", type=Path, help="folder of the earlier checkout")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--steps", type=int, default=8, help="steps of each run")
    parser.add_argument("--skip", type=int, default=2, help="first steps of each run that are left out")
    parser.add_argument("--engine", choices=["hf", "vllm"], default="hf", help="hf: transformers")
    parser.add_argument("--model", help="embedded:NAME or a folder; a tiny random model is made otherwise")
    options = parser.parse_args()
    if options.skip >= options.steps:
        parser.error("--steps must be greater than --skip")
    checkouts: dict[Side, Path] = {"before": options.before.resolve(), "now": ROOT}
    runs: dict[Side, list[SingleTurnRun]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="bench-single-turn-") as temporary:
        work = Path(temporary)
        model = resolve_model(options.model) if options.model else build_tiny_model(work / "tiny")
        text = TASK.format(root=ROOT, model=model, engine=options.engine, steps=options.steps)
        (work / "single-turn.toml").write_text(text, encoding="utf-8")
        for number in range(options.rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                runs[side].append(run(checkouts[side], work / "single-turn.toml", work / f"{side}-{number}"))
                seconds = runs[side][-1].times["time/total"][options.skip :]
                print(f"round {number + 1} {side:6} {spread(seconds, '.3g')} s", flush=True)
    Console().print(report(runs, options.skip))
    print(*sameness(runs), sep="\n")


if __name__ == "__main__":
    main()
