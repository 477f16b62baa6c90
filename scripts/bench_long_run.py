#!/usr/bin/env python3
"""What many steps cost: time per step, memory, the run folder and its report, early in a run and late.

    scripts/bench_long_run.py --work FOLDER [--steps 10000] [--every 1000] [--hours H] [--write]

A real run: a tiny random model that transformers samples from, generated problems, the built-in rewards in scoring
workers, checkpoints, metrics and responses on disk (`run.keep_rollouts = 10`). After every part of `--every` steps the
run ends and is resumed, so that each part starts as a user's would. It can be interrupted at any time, and ends itself
after `--hours`: called again with the same `--work`, it continues at the last checkpoint. `--write` writes the table
into docs/validation/long_run.md.

The known scores fill up to `scoring.cache`, 50 MiB by default, over the first thousands of steps; 2,000 of them are
kept here, so that nothing hides behind that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

from reasoner.monitoring.format import duration
from reasoner.runs.folder import read_metrics
from reasoner.runs.reader import disk_use
from scripts import harness
from tests.browser import CHROMIUM
from tests.tiny import build_tiny_model

PARTS = "parts.jsonl"
"""In the folder of the work, the rows of the parts that are complete."""
COLUMNS = (
    "steps",
    "time of the steps",
    "ms per step, first and last 100",
    "memory of the run and its workers, first and last 100 steps, GiB",
    "run folder, MiB",
    "report: made in, largest memory, size",
    "opened in",
)
OUT_OF_TIME = 3
"""Exit code of a run that ended because of `run.max_hours`."""
SETTINGS = (
    "model.device=cpu",
    "sampling.engine=hf",
    "sampling.group_size=4",
    "sampling.max_tokens=8",
    "sampling.max_prompt_tokens=500",
    "learning.problems_per_step=2",
    "learning.learning_rate=1e-4",
    "scoring.workers=1",
    "scoring.cache=2000",
    "run.keep_rollouts=10",
    "run.checkpoint_every=250",
    "evaluation.every=0",
    "data.eval.limit=4",
    "handover.check_every=1000",
)


def main() -> None:
    """Run in parts, measure after each, print the table."""
    parser = harness.parser_of(__doc__, "long_run.md")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run")
    parser.add_argument("--hours", type=float, default=24.0, help="after which it ends, to be called again")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    complete = run_parts(options.work, options.steps, options.every, time.monotonic() + 3600 * options.hours)
    rows = [json.loads(line) for line in (options.work / PARTS).read_text().splitlines()]
    lines = [COLUMNS, ["--:"] * len(COLUMNS), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    print(table)
    if options.write:
        harness.write_block("long_run.md", "bench_long_run.py", table)
    if not complete:
        sys.exit("The time is over. Call it again with the same --work to continue.")


def run_parts(work: Path, steps: int, every: int, end: float) -> bool:
    """Add a row to the table for each part that is not in it yet; False: the time ended before."""
    model, table = work / "tiny", work / PARTS
    if not model.exists():
        build_tiny_model(model)
    table.touch()
    for last in range(every * (len(table.read_text().splitlines()) + 1), steps + 1, every):
        if not run_until(work, model, last, end):
            return False
        with table.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row_of(work, last, every)) + "\n")
    return True


def run_until(work: Path, model: Path, steps: int, end: float) -> bool:
    """Train until so many steps are committed; False: the time ended before."""
    (work / "runs").mkdir(exist_ok=True)
    folders = sorted((work / "runs").glob("*"))
    hours = max(0.01, (end - time.monotonic()) / 3600)
    command = [sys.executable, "-m", "reasoner", "run", "--steps", str(steps), "--max-hours", f"{hours:.3f}"]
    if folders and not list(folders[0].glob("checkpoints/step-*")):  # interrupted before its first checkpoint
        folders[0].rename(work / f"abandoned-{time.time():.0f}")
        folders = []
    if folders and len(read_metrics(folders[0])) >= steps:
        return True  # it was interrupted while the part was being measured
    if folders:
        command += ["--resume", str(folders[0])]
    else:
        sets = [f"model.path={json.dumps(str(model))}", *SETTINGS]
        command += ["math-gsm8k", "--profile", "laptop", "--no-gate", "--output", str(work / "runs")]
        command += [part for setting in sets for part in ("--set", setting)]
    code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    if code not in (0, OUT_OF_TIME):
        sys.exit(f"{' '.join(command)} failed with exit code {code}.")
    return code == 0


def row_of(work: Path, last: int, every: int) -> list[str]:
    """What the part that ended with step `last` took, and what the report of the run takes now."""
    (folder,) = (work / "runs").iterdir()
    metrics = read_metrics(folder)[-every:]
    times, memory = ([line[name] for line in metrics] for name in ("time/total", "memory/rss_gib"))
    made, peak = report(folder)
    page = folder / "report.html"
    size = disk_use(folder) - page.stat().st_size
    row = [
        f"{last:,}",
        duration(sum(times)),
        f"{1000 * fmean(times[:100]):.0f}, {1000 * fmean(times[-100:]):.0f}",
        f"{fmean(memory[:100]):.3f}, {fmean(memory[-100:]):.3f}",
        f"{size / 2**20:.1f}",
        f"{made:.1f} s, {peak / 2**20:.2f} GiB, {page.stat().st_size / 2**20:.1f} MiB",
        opening(page),
    ]
    print(" | ".join(row), flush=True)
    return row


def report(folder: Path) -> tuple[float, int]:
    """Seconds that `reasoner report` takes, and its largest memory in KiB."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "reasoner", "report", str(folder)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"The report of {folder} failed with exit code {process.returncode}.")
    return time.monotonic() - started, usage.ru_maxrss


def opening(page: Path) -> str:
    """How long a browser takes to load the page and run its scripts, beyond what an empty page takes."""
    if CHROMIUM is None:
        return "no browser"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        empty = Path(folder) / "empty.html"
        empty.write_text("<!doctype html><title>empty</title>", encoding="utf-8")
        load_seconds(empty, folder)  # makes the profile
        return f"{max(0.0, load_seconds(page, folder) - load_seconds(empty, folder)):.1f} s"


def load_seconds(page: Path, profile: str) -> float:
    """Seconds from a browser's start to the end of the page's loading."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}/profile"]
    started = time.monotonic()
    subprocess.run([str(CHROMIUM), *flags, "--dump-dom", page.as_uri()], capture_output=True, timeout=300, check=True)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
