#!/usr/bin/env python3
"""What many steps cost: time per step, memory, the run folder and its report, early in a run and late.

    scripts/bench_long_run.py [--steps 10000] [--every 1000] [--work FOLDER] [--write]

A real run: a tiny random model that transformers samples from, generated problems, the built-in rewards in scoring
workers, checkpoints, metrics and responses on disk (`run.keep_rollouts = 10`). After every part of `--every` steps the
run ends and is resumed, so that each part has its own memory and starts as a user's would. `--write` writes
docs/validation/long_run.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reasoner.monitoring.format import duration
from reasoner.runs.folder import read_metrics
from tests.tiny import build_tiny_model

PAGE = Path(__file__).resolve().parents[1] / "docs" / "validation" / "long_run.md"
SETTINGS = (
    "model.device=cpu",
    "sampling.engine=hf",
    "sampling.group_size=4",
    "sampling.max_tokens=8",
    "sampling.max_prompt_tokens=500",
    "learning.problems_per_step=2",
    "learning.learning_rate=1e-4",
    "scoring.workers=1",
    "run.keep_rollouts=10",
    "run.checkpoint_every=500",
    "evaluation.every=0",
    "data.eval.limit=4",
    "handover.check_every=1000",
)


def main() -> None:
    """Run in parts, look after each, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--work", type=Path, help="folder of the run, kept and gone on with; without one it is removed")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        rows = run_parts(work, options.steps, options.every)
    text = "\n".join(["<!-- written by scripts/bench_long_run.py -->", *rows]) + "\n"
    print(text, end="")
    if options.write:
        PAGE.write_text(text, encoding="utf-8")


def run_parts(work: Path, steps: int, every: int) -> list[str]:
    """A row for each part."""
    model = work / "tiny"
    if not model.exists():
        build_tiny_model(model)
    rows = [
        "| steps | time | ms per step, first and last 100 | memory, GiB | run folder, MiB | report: made in, size |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for last in range(every, steps + 1, every):
        seconds, memory = run_until(work, model, last)
        (folder,) = (work / "runs").iterdir()
        times = [line["time/total"] for line in read_metrics(folder)][-every:]
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "reasoner", "report", str(folder)], check=True, capture_output=True)
        report, page = time.monotonic() - started, (folder / "report.html").stat().st_size
        rows.append(
            f"| {last:,} | {duration(seconds)} | {mean_ms(times[:100])}, {mean_ms(times[-100:])} | "
            f"{memory / 2**20:.2f} | {size / 2**20:.1f} | {report:.1f} s, {page / 2**20:.1f} MiB |"
        )
        print(rows[-1], flush=True)
    return rows


def run_until(work: Path, model: Path, steps: int) -> tuple[float, int]:
    """Seconds, and the largest memory of a process so far, KiB."""
    folders = list((work / "runs").glob("*"))
    command = [sys.executable, "-m", "reasoner", "run"]
    if folders:
        command += ["--resume", str(folders[0]), "--steps", str(steps)]
    else:
        sets = [f"model.path={json.dumps(str(model))}", f"run.steps={steps}", *SETTINGS]
        command += ["math-gsm8k", "--profile", "laptop", "--no-gate", "--output", str(work / "runs")]
        command += [part for setting in sets for part in ("--set", setting)]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def mean_ms(seconds: list[float]) -> str:
    """Mean in milliseconds."""
    return f"{1000 * sum(seconds) / len(seconds):.0f}"


if __name__ == "__main__":
    main()
