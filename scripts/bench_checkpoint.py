#!/usr/bin/env python3
"""What a checkpoint costs: seconds to write one, to verify it and to go on from it, beside a training step; its size.

    scripts/bench_checkpoint.py [--repeat 5] [--write]

Trains the embedded model for one step of the laptop profile, then writes the checkpoint of that step again and again
(flushed to the disk, checksums included), verifies it, and resumes the run once. The disk's own speed is measured
beside it: a file of the same size, written and flushed. `--write` writes docs/validation/checkpoints.md, which
scripts/document.py puts into docs/runs.md.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from reasoner.loading import load_config
from reasoner.pipeline import train
from reasoner.runs.resuming.resume import Resume
from reasoner.runs.resuming.rules import load_resumed
from reasoner.training.build import open_trainer
from scripts.harness import parser_of, spread, write_page

PAGE = "checkpoints.md"
SETS = ("run.steps=1", "data.eval.limit=2", "run.keep_best=0", "run.checkpoint_every=1")


def main() -> None:
    parser = parser_of(__doc__, PAGE)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-checkpoint-") as folder:
        table = measure(Path(folder), arguments.repeat)
    print(table)
    if arguments.write:
        write_page(PAGE, "bench_checkpoint.py", table)


def measure(output: Path, repeat: int) -> str:
    """The table: one training step, and everything that a checkpoint takes."""
    written, verified = [], []
    with open_trainer(load_config("math-gsm8k", "laptop", sets=[*SETS, f"run.output='{output}'"])) as trainer:
        train(trainer)
        step_s = trainer.history[-1]["time/total"]
        run, checkpoints = trainer.run.folder, trainer.run.checkpoints
        for _ in range(repeat):
            shutil.rmtree(checkpoints.at(1))
            trainer.checkpoints.save_if_due()
            written.append(trainer.checkpoints.seconds)
            verified.append(seconds(lambda: checkpoints.verify(1)))
        size = sum(path.stat().st_size for path in checkpoints.at(1).rglob("*") if path.is_file())
    plain = [seconds(lambda: _write(output / "plain", size)) for _ in range(repeat)]
    resolved, changes = load_resumed(run, ["run.steps=2"])
    started = time.perf_counter()
    with open_trainer(resolved, Resume(run, changes)):
        resumed_s = time.perf_counter() - started
    rows = {
        "the first training step of the run": f"{step_s:.1f}",
        "writing a checkpoint": spread(written),
        "the same number of bytes, written and flushed as one file": spread(plain),
        "verifying it (at a resume)": spread(verified),
        "opening the resumed run, engine and model included": f"{resumed_s:.1f}",
    }
    lines = [f"| {size / 1e9:.2f} GB, median [range] of {repeat} | seconds |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {taken} |" for what, taken in rows.items())])


def seconds(work: Callable[[], None]) -> float:
    """That a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _write(path: Path, size: int) -> None:
    block = os.urandom(2**20)
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


if __name__ == "__main__":
    main()
