"""Runs that are killed and resumed: they end as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from reasoner.errors import RunError, ScoringError, UserError
from reasoner.io.parquet import read_parquet
from reasoner.loading import load_config
from reasoner.pipeline import train
from reasoner.records import PartialGroup, Rollout
from reasoner.runs.folder import read_evaluations, read_metrics
from reasoner.runs.resuming.resume import Resume
from reasoner.runs.resuming.rules import load_resumed
from reasoner.runs.starts import read_starts
from reasoner.training.build import open_trainer
from tests.integration.killing import PLUGIN, TRIALS, Trial
from tests.integration.test_methods import TASK
from tests.tiny import build_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tests.integration.killing` after it has done its work."""
    folder = tmp_path_factory.mktemp("killed")
    write_task(folder, folder / "tiny")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.killing", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def write_task(folder: Path, model: Path) -> Path:
    rows: dict[str, list[dict[str, Any]]] = {
        "problems": [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(10)],
        "pairs": [{"prompt": f"say {n}", "chosen": f"yes {n}", "rejected": f"no, {n}"} for n in range(10)],
        "labelled": [{"prompt": f"say {n}", "completion": f"yes {n}", "label": n % 2 == 0} for n in range(10)],
        "demos": [{"prompt": f"say {n}", "completion": f"yes {n}"} for n in range(10)],
    }
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    task = folder / "trial.toml"
    task.write_text(TASK.format(model=model, folder=folder).replace("steps = 2", "steps = 6"))
    return task


def only(folder: Path) -> Path:
    """The run below an output folder that got further than its start."""
    (run,) = (path.parent for path in folder.glob("*/identity.json"))
    return run


def interrupted_runs(killed: Path, trial: Trial) -> list[Path]:
    """Those of a trial that were killed and resumed; beside their folders are copies of what checkpoints kept."""
    return [only(path) for path in killed.glob(f"{trial.name}-often-*") if path.is_dir()]


def same_every_time(row: dict[str, float]) -> dict[str, float]:
    """Metrics without times and memory."""
    measured = ("time/", "idle/", "memory/", "tokens_per_s/")
    return {
        name: value for name, value in row.items() if not name.startswith(measured) and not name.endswith("/seconds")
    }


def rollouts(run: Path) -> Iterator[tuple[str, list[Rollout]]]:
    """Every rollout without the seconds that its components took."""
    for path in sorted((run / "rollouts").iterdir()):
        rows = read_parquet(path, Rollout)
        yield path.name, [replace(r, components=tuple(replace(c, seconds=0.0) for c in r.components)) for r in rows]


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(killed: Path, trial: Trial) -> None:
    kinds = json.loads((killed / "report.json").read_text())[trial.name]
    assert sum(kinds.values()) == trial.kills
    once, often = only(killed / f"{trial.name}-once"), interrupted_runs(killed, trial)
    for run in often:
        if trial.exact:
            check_equal(once, run)
        else:
            check_every_group_once(run, 6, trial.most_tokens)
    if not trial.exact:
        kept = [check_kept_tokens(run, [*killed.glob(f"{run.parent.name}-kept-*.parquet")]) for run in often]
        assert max(kept) >= (2 if trial.turns else 0)


def test_the_kills_were_at_moments_and_at_calls_and_cost_steps(killed: Path) -> None:
    """Of all trials together: one alone may be spared by chance."""
    report = json.loads((killed / "report.json").read_text())
    assert len({kind for kinds in report.values() for kind in kinds}) == 3
    runs = [run for trial in TRIALS for run in interrupted_runs(killed, trial)]
    starts = [start for run in runs for start in read_starts(run)]
    assert sum(start.repeated for start in starts) > 0
    assert len(starts) > sum(trial.kills for trial in TRIALS) / 2  # the others were killed before they came so far


def check_every_group_once(run: Path, steps: int, most_tokens: int = 24) -> None:
    """A run with `sampling.over_sample` that is finished: problems of an epoch were begun once each, every group that
    was begun was learned from once or is kept, whole, and none by weights that are too old."""
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["committed_steps"]) == ("finished", steps)
    learned = [(step, row) for step in range(1, steps + 1) for row in of_step(run, step)]
    last = run / "checkpoints" / f"step-{steps:06d}"
    [state] = json.loads((last / "state.json").read_text())
    carried = state["collector"]["carried"]
    kept = {group.problem.id: group for group in read_parquet(last / "partial-0.parquet", PartialGroup)}
    assert sorted(kept) == sorted(carried)
    assert len(carried) == 2
    begun = Counter([*carried, *(row.problem.id for _, row in learned if row.sample == 0)])
    assert (begun.total(), len(begun)) == (4 * steps + 2, 10)
    assert max(begun.values()) - min(begun.values()) == 1  # in epochs
    for step, row in learned:
        assert step - 2 <= row.response.policy_version < step
        assert row.response.discarded_tokens == 0
        assert 0 <= row.response.carried_tokens <= len(row.response.token_ids)
        assert row.response.finish_reason == "stop" or len(row.response.token_ids) <= most_tokens


def check_kept_tokens(run: Path, files: Sequence[Path]) -> int:
    """What the run's checkpoints held of responses when it was resumed is how those responses begin, token by token
    and turn by turn; returns the most turns of a response that was begun and not complete."""
    most = 0
    resumed = {start.step for start in read_starts(run)[1:]}
    steps = sorted(run.glob("rollouts/step-*.parquet"))
    for file in files:
        step = int(file.stem.rpartition("-")[2])
        later = [row for path in steps if int(path.stem[5:]) > step for row in read_parquet(path, Rollout)]
        for group in read_parquet(file, PartialGroup) if step in resumed else ():
            rows = [row for row in later if row.problem.id == group.problem.id][:4]  # one that is begun later follows
            for row in rows:
                assert row.prompt_ids == group.prompt_ids
            whole = dict(zip(group.samples, group.responses, strict=True))
            parts = {part.sample: part for part in group.partial if part.token_ids}
            for row in (row for row in rows if row.sample in (whole | parts)):
                before, now = (whole | parts)[row.sample], row.response
                tokens, turns = len(before.token_ids), len(before.turns)
                assert now.token_ids[:tokens] == before.token_ids
                assert now.policy_mask[:tokens] == before.policy_mask
                assert now.sampler_logprobs[:tokens] == before.sampler_logprobs
                assert now.turns[:turns] == before.turns
                assert now.carried_tokens >= tokens
                most = max(most, turns if row.sample in parts else 0)
    return most


def of_step(run: Path, step: int) -> list[Rollout]:
    """The responses that a step learned from."""
    rows = read_parquet(run / "rollouts" / f"step-{step:06d}.parquet", Rollout)
    assert Counter(row.sample for row in rows) == dict.fromkeys(range(4), 4)
    return rows


def check_equal(once: Path, often: Path) -> None:
    weights = sorted(path.relative_to(once) for path in (once / "model").rglob("*") if path.is_file())
    assert weights
    for path in weights:
        assert (often / path).read_bytes() == (once / path).read_bytes(), path
    assert [*map(same_every_time, read_metrics(often))] == [*map(same_every_time, read_metrics(once))]
    assert dict(rollouts(often)) == dict(rollouts(once))
    assert read_evaluations(often) == read_evaluations(once)
    status = json.loads((often / "status.json").read_text())
    assert (status["state"], status["committed_steps"]) == ("finished", len(read_metrics(once)))
    assert not list(often.rglob("*.partial"))


# ---- in this process: what happens at one moment of a run

WATCHER = """
import os
import shutil
from pathlib import Path
from reasoner import hookimpl

RUNS = []

@hookimpl
def run_started(folder):
    RUNS.append(folder)

@hookimpl
def groups_scored(step, groups):
    act("scored", step)

@hookimpl
def step_finished(step, metrics):
    act("finished", step)

def act(event, step):
    if (Path(__file__).parent / f"interrupt-{event}-{step}").exists():
        raise KeyboardInterrupt
    if (Path(__file__).parent / f"copy-{event}-{step}").exists():
        shutil.copytree(RUNS[-1], Path(__file__).parent / "copy" / RUNS[-1].name)
    if (Path(__file__).parent / f"fill-{event}-{step}").exists():
        disk = Path(__file__).parent / "disk"
        room = os.statvfs(disk)
        (disk / "ballast").write_bytes(bytes(room.f_bavail * room.f_frsize - 400_000))
"""
SETS = (
    "gro.preset=grpo",
    "gro.terms.grpo.kl={coefficient=0.01, estimator='k3'}",
    "evaluation.every=2",
    "run.keep_best=0",
)


@dataclass
class OneTrial:
    """Runs of one task with a plugin that acts where a file of the right name is."""

    folder: Path

    def begin(self, output: str, *sets: str, steps: int = 4) -> Path:
        plugins = [str(PLUGIN), str(self.folder / "watcher.py")]
        where = self.folder / output
        with open_trainer(
            load_config(
                self.folder / "trial.toml",
                sets=[*SETS, *sets, f"run.steps={steps}", f"run.output='{where}'"],
                plugins=plugins,
            )
        ) as trainer:
            train(trainer)
        return trainer.run.folder

    def go_on(self, run: Path, *sets: str, accept: bool = False) -> Path:
        resolved, changes = load_resumed(run, sets, accept=accept)
        with open_trainer(resolved, Resume(run, changes, accept)) as trainer:
            train(trainer)
        return trainer.run.folder

    def interrupted(self, output: str, moment: str, *sets: str) -> Path:
        """A run that is interrupted at a moment (`scored-3`: when the responses of step 3 have their scores)."""
        (self.folder / f"interrupt-{moment}").touch()
        with pytest.raises(KeyboardInterrupt):
            self.begin(output, *sets)
        (self.folder / f"interrupt-{moment}").unlink()
        return only(self.folder / output)


def one_trial(folder: Path) -> OneTrial:
    write_task(folder, build_tiny_model(folder / "tiny"))
    (folder / "watcher.py").write_text(WATCHER)
    return OneTrial(folder)


@pytest.fixture
def trial(tmp_path: Path) -> OneTrial:
    return one_trial(tmp_path)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    return one_trial(tmp_path_factory.mktemp("once")).begin("once")


def test_an_interrupted_run_saves_its_last_step_and_a_damaged_checkpoint_is_passed_over(
    trial: OneTrial, once: Path
) -> None:
    run = trial.interrupted("interrupted", "scored-4", "run.checkpoint_every=2")
    checkpoints = run / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000002", "step-000003"]
    cut = checkpoints / "step-000003" / "optimizer-00001.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    assert trial.go_on(run) == run
    check_equal(once, run)
    log = (run / "log.txt").read_text()
    assert f"interrupted: to resume from step 3: reasoner run --resume {run}" in log
    assert "The checkpoint of step 3 is damaged and not used: optimizer-00001.safetensors has " in log
    assert read_starts(run)[-1].repeated == 1
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000004"]


def test_a_finished_run_with_more_steps_is_the_run_that_had_them_from_the_start(trial: OneTrial, once: Path) -> None:
    short = trial.begin("short", steps=2)
    trial.go_on(short, "run.steps=4", "run.keep_last=3")
    check_equal(once, short)
    assert read_starts(short)[-1].changes == {"run.steps": [2, 4], "run.keep_last": [2, 3]}
    assert "steps = 4" in (short / "config.toml").read_text()
    with pytest.raises(UserError, match="the run is finished, all its 4 steps are done"):
        trial.go_on(short)


def test_a_changed_plugin_or_data_file_is_refused_before_anything_is_touched(trial: OneTrial) -> None:
    run = trial.interrupted("interrupted", "finished-2", "run.checkpoint_every=1")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (trial.folder / "watcher.py").write_text(WATCHER + "# changed\n")
    problems = trial.folder / "problems.jsonl"
    problems.write_text(problems.read_text().replace("1 + 1?", "one and one?"))
    with pytest.raises(UserError, match=r"(?s)would change them:\n  data.train: .*\n  plugin watcher.py: was"):
        trial.go_on(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


VERIFIER = """
from reasoner import RewardSource, reward

@reward("mine")
def mine(problem, response, *, right: float = 0.25) -> float:
    return right

@hookimpl
def register_rewards() -> list[RewardSource]:
    return [mine]
"""


@pytest.mark.parametrize(
    "drawn",
    [("run.checkpoint_every=4",), ("run.checkpoint_every=1", "sampling.max_staleness=1")],
    ids=["in turn, saved on the way out", "ahead"],
)
def test_a_mended_verifier_goes_on_with_its_run_and_with_no_score_of_before(
    trial: OneTrial, drawn: tuple[str, ...]
) -> None:
    """The responses of step 3 were scored before the interruption, and are scored again."""
    watcher = trial.folder / "watcher.py"
    watcher.write_text(WATCHER + VERIFIER)
    sets = ("rewards=[{source='mine'}]", "evaluation.correct=mine", *drawn)
    run = trial.interrupted("mended", "scored-3", *sets)
    watcher.write_text(WATCHER + VERIFIER.replace("return right", "print('called'); raise ValueError('broken here')"))
    with pytest.raises(ScoringError, match="ValueError: broken here"):
        trial.go_on(run, accept=True)
    log = (run / "log.txt").read_text()
    assert log.count("print('called'); raise ValueError('broken here')\n") == 1  # the end of the traceback, once
    assert re.search(r"mine on problem \S+, response \d, printed:\n +called\n", log)
    assert f"reasoner run --resume {run} (after repairing a reward source, add --accept-changes)" in log
    watcher.write_text(WATCHER + VERIFIER.replace("return right", "return 2 * right"))
    with pytest.raises(UserError, match="--accept-changes"):
        trial.go_on(run)
    with pytest.raises(UserError, match=r"rewards\.mine\.options\.right: none -> 0\.5"):
        trial.go_on(run, "rewards.mine.options.right=0.5")
    trial.go_on(run, "rewards.mine.options.right=0.5", accept=True)
    means = [row["reward/mine/mean"] for row in read_metrics(run)]
    assert means == [0.25, 0.25, 1.0, 1.0]
    changes = read_starts(run)[-1].changes
    assert changes["rewards.mine.options.right"] == [None, 0.5]
    assert "plugin watcher.py" in changes
    assert "right = 0.5" in (run / "config.toml").read_text()


@pytest.fixture
def disk(trial: OneTrial) -> Iterator[Path]:
    """A file system of 300 MB that is all the run's."""
    folder = trial.folder / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # weights of this process are mapped from there


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root; test_checkpoints has the error without a disk")
def test_a_full_disk_ends_the_run_with_a_message_and_costs_no_step_that_has_a_checkpoint(
    trial: OneTrial, disk: Path, once: Path
) -> None:
    (trial.folder / "fill-finished-2").touch()
    with pytest.raises(RunError, match=r"the checkpoint of step 2 cannot be written .*: No space left on device"):
        trial.begin("disk", "run.checkpoint_every=1")
    run = only(disk)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000000", "step-000001"]
    assert len(read_metrics(run)) == 2
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert not list(run.rglob("*.partial"))
    with pytest.raises(UserError, match=r"has 0\.00 GiB free and the run needs at least 0\.2"):
        trial.go_on(run)
    (trial.folder / "fill-finished-2").unlink()
    (disk / "ballast").unlink()
    trial.go_on(run)
    check_equal(once, run)


@pytest.mark.vllm
def test_a_new_vllm_engine_goes_on_with_the_responses_of_the_old_one(trial: OneTrial) -> None:
    sets = ("sampling.engine=vllm", "sampling.kv_cache_gib=0.25", "run.checkpoint_every=2")
    (trial.folder / "copy-scored-4").touch()  # the folder as a kill at that moment would leave it
    once = trial.begin("once", *sets)
    (trial.folder / "copy-scored-4").unlink()
    run = only(trial.folder / "copy")
    assert len(read_metrics(run)) == 3
    trial.go_on(run)
    assert read_starts(run)[-1].step == 2
    check_equal(once, run)
