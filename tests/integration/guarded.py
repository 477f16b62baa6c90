"""A run in small: `python -m tests.integration.guarded FOLDER [MODEL]` starts processes of every kind and waits.

It writes their ids into FOLDER/ready when all of them run. With MODEL it also holds a vLLM engine that is drawing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from reasoner.processes.lifetime import guard_processes, interruptible
from reasoner.processes.run_marker import MARKER
from reasoner.processes.scratch_folders import ScratchFolder
from reasoner.records import Group, Message, Problem, Prompt, SamplingParams
from reasoner.sampling.vllm.engine import VllmSampler
from reasoner.sampling.vllm.messages import StartEngine
from reasoner.trajectories.sampler import TrajectorySampler

ORPHAN = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(600)"


def main(folder: Path, model: str | None) -> None:
    with interruptible(), guard_processes(), ExitStack() as stack:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        subprocess.run([sys.executable, "-c", ORPHAN], check=True)
        forked = os.fork()
        if not forked:
            os.setsid()
            time.sleep(600)
        scratch = str(ScratchFolder("test").path)
        stream = None
        if model:
            sampler = stack.enter_context(
                VllmSampler(StartEngine(model, "float32", "cpu", 256, 4, 0.4, 0.25, False), folder / "log")
            )
            stream = draw_for_ever(sampler)
            next(stream)
        else:
            time.sleep(2.5)
        facts = {"marker": f"{MARKER}={os.environ[MARKER]}", "forked": forked, "scratch": scratch}
        (folder / "facts").write_text(json.dumps(facts))
        (folder / "facts").rename(folder / "ready")
        while True:
            if stream:
                next(stream)
            else:
                time.sleep(600)


def draw_for_ever(sampler: VllmSampler) -> Iterator[Group]:
    prompt = Prompt(Problem("p", (Message("user", "?"),), ""), tuple(range(40)))
    while True:
        yield from TrajectorySampler(sampler).sample([prompt] * 8, 2, SamplingParams(1.0, 200))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
    except KeyboardInterrupt:
        sys.exit(130)
