"""A run folder after SIGKILL at any moment: what is committed is whole."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reasoner.io.parquet import read_parquet
from reasoner.records import Rollout
from reasoner.runs.folder import read_metrics

WRITER = """
import sys
from pathlib import Path
from reasoner.records import Component, Message, Problem, Response, Rollout
from reasoner.runs.folder import open_run

problem = Problem("p:1", (Message("user", "2+2?"),), "4")
response = Response("x" * 5000, (1,) * 5000, (True,) * 5000, (-0.1,) * 5000, "stop", 0)
rows = [Rollout(0, problem, (1,), n, response, (Component("math", 1.0, 1.0),), 1.0, 0.0) for n in range(8)]
with open_run(Path(sys.argv[1]), "task", "", {}) as run:
    print(run.folder, flush=True)
    for step in range(1, 100_000):
        run.commit(step, {"reward/mean": 1.0}, rows)
        if step == 1:
            print("committed", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("milliseconds", [100, 233, 371])
def test_what_is_committed_is_whole_after_a_kill(tmp_path: Path, milliseconds: int) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        folder = Path(writer.stdout.readline().strip())
        assert writer.stdout.readline() == "committed\n"
        time.sleep(milliseconds / 1000)
        writer.kill()
    committed = [row["step"] for row in read_metrics(folder)]
    assert committed == list(range(1, len(committed) + 1)) != []
    files = sorted((folder / "rollouts").glob("step-*.parquet"))
    assert len(files) - len(committed) in (0, 1)  # rollouts without their metrics line are not committed
    for file in files:
        assert len(read_parquet(file, Rollout)) == 8
    assert json.loads((folder / "status.json").read_text())["state"] == "running"
