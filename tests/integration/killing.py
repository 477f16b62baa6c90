"""Runs that are killed again and again: `python -m tests.integration.killing FOLDER`.

Torch is imported once; every attempt is a fork of this process and dies of a real SIGKILL: at a random moment, or just
before or after a random one of the calls that make things last (fsync, rename, unlink). The next attempt resumes. Each
trial is run once without a kill, for comparison. FOLDER/report.json says what happened.
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from reasoner.loading import load_config
from reasoner.pipeline import train
from reasoner.runs.environment import describe
from reasoner.runs.resuming.resume import Resume
from reasoner.runs.resuming.rules import load_resumed
from reasoner.training.build import open_trainer
from reasoner.trajectories.transcript import Transcript
from tests.tiny import build_tiny_model

LASTING = ("fsync", "rename", "replace", "unlink")
PLUGIN = Path(__file__).with_name("rewarding_letters.py")
WALK = Path(__file__).with_name("walking_environment.py")


@dataclass(frozen=True)
class Trial:
    name: str
    sets: tuple[str, ...]
    kills: int
    exact: bool = True
    """the same bits as without a kill; otherwise its state is exact"""
    plugins: tuple[Path, ...] = (PLUGIN,)
    most_tokens: int = 24
    """of a response, where the state is exact"""
    turns: int = 0
    """the first kill comes when so many turns of responses were answered; 0: at random, as the others"""


def main(folder: Path) -> None:
    chance = random.Random(20)
    build_tiny_model(folder / "tiny")
    task = str(folder / "trial.toml")
    warm_up(task)
    gc.freeze()
    report: dict[str, Counter[str]] = {}
    for trial in TRIALS:
        started = time.monotonic()
        assert attempt(partial(begin, task, trial, folder / f"{trial.name}-once"), None) == 0
        seconds = time.monotonic() - started
        kills = report[trial.name] = Counter()
        for number in count(1):
            work = partial(go_on, task, trial, folder / f"{trial.name}-often-{number}")
            kill_until_done(work, trial, kills, chance, seconds)
            if kills.total() == trial.kills:
                break
    (folder / "report.json").write_text(json.dumps(report))


def warm_up(task: str) -> None:
    """What every attempt would import and look up again is then there for all: plugins, trackers, the configuration's
    models, the installed packages, adapters, and what pyarrow imports for its first array."""
    import_module("peft")
    load_config(task, sets=["gro.preset=grpo"], plugins=[str(PLUGIN), str(WALK)])
    describe({})
    pa.array([1])


def kill_until_done(
    work: Callable[[], None], trial: Trial, kills: Counter[str], chance: random.Random, seconds: float
) -> None:
    """Attempt the work until it is done, with what is left of the trial's kills.

    Args:
        seconds: that it takes undisturbed.
    """
    while True:
        fault = None
        if kills.total() < trial.kills:
            fault = Fault("turn", trial.turns) if trial.turns and not kills else draw(chance, seconds)
        code = attempt(work, fault)
        if code == 0:
            return
        if fault is None or code != -signal.SIGKILL:
            sys.exit(f"{trial.name}: an attempt with {fault} ended with {code}")
        kills[fault.kind] += 1


def begin(task: str, trial: Trial, output: Path) -> None:
    sets = [*trial.sets, f"run.output='{output}'"]
    with open_trainer(load_config(task, sets=sets, plugins=[*map(str, trial.plugins)])) as trainer:
        train(trainer)


def go_on(task: str, trial: Trial, output: Path) -> None:
    """Resume the run in `output`; start it where there is none that got far enough. What its checkpoints hold of groups
    that are not complete is kept beside it."""
    for run in output.glob("*"):
        if (run / "identity.json").exists():
            if json.loads((run / "status.json").read_text())["state"] == "finished":
                return  # killed after its end
            for file in run.glob("checkpoints/step-*/partial-0.parquet"):
                shutil.copy(file, output.with_name(f"{output.name}-kept-{file.parent.name}.parquet"))
            resolved, changes = load_resumed(run, [])
            with open_trainer(resolved, Resume(run, changes)) as trainer:
                train(trainer)
            return
    begin(task, trial, output)


@dataclass(frozen=True)
class Fault:
    kind: str
    """`moment`, `turn`, or a call before or after which the process dies"""
    at: float
    """seconds, or the number of the turn or the call"""
    after: bool = False


def draw(chance: random.Random, seconds: float) -> Fault:
    if chance.random() < 0.4:
        return Fault("moment", chance.uniform(0.0, 0.7 * seconds))
    return Fault("call", chance.randint(1, 50), after=chance.random() < 0.5)


def attempt(work: Callable[[], None], fault: Fault | None) -> int:
    """Do the work in a fork that the fault befalls; its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sys.stdout = sys.stderr = (Path(os.devnull)).open("w")  # noqa: SIM115
            if fault and fault.kind == "call":
                die_at_call(fault)
            if fault and fault.kind == "turn":
                die_at_turn(fault)
            work()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    if fault and fault.kind == "moment":
        deadline = time.monotonic() + fault.at
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at_turn(fault: Fault) -> None:
    """In the middle of trajectories: when an environment has answered."""
    answers, append = count(1), Transcript.append

    def fatal(*arguments: Any) -> None:
        append(*arguments)
        if next(answers) == fault.at:
            os.kill(os.getpid(), signal.SIGKILL)

    Transcript.append = fatal  # type: ignore[assignment, method-assign]


def die_at_call(fault: Fault) -> None:
    calls = 0

    def fatal(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fault.at and not fault.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **more)
            if calls == fault.at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    for name in LASTING:
        setattr(os, name, fatal(getattr(os, name)))


ENDS = f"sampling.stop={[*'0123456789!#$%&()*+,-./:;<=>?@[]^_{|}~']}"
"""a tenth of the tokens end a turn, so that lengths differ"""
OVER = ("sampling.over_sample=0.5", "sampling.max_tokens=24", ENDS)

TRIALS = (
    # dynamic sampling, a curriculum, a frozen reference, several optimiser steps, a schedule on a metric, a budget of
    # calls
    Trial(
        "online",
        (
            "gro.preset=grpo",
            "gro.terms.grpo.kl={coefficient=0.01, estimator='k3'}",
            "gro.terms.raft.preset=raft",
            "gro.terms.raft.schedule={kind='metric', metric='response/length_mean', above=7.0}",
            "learning.updates_per_step=2",
            "sampling.refills=1",
            "curriculum.kind=pass-rate",
            "rewards.letters.max_calls=110",
            "scoring.max_failure_rate=1.0",
            "run.checkpoint_every=2",
            "evaluation.every=3",
        ),
        5,
    ),
    # the next step's groups are drawn during the update
    Trial(
        "ahead",
        ("gro.preset=grpo", "sampling.max_staleness=1", "curriculum.kind=pass-rate", "run.checkpoint_every=2"),
        5,
    ),
    # groups that are not complete when a step has enough are in the checkpoint, and continued
    Trial("over", ("gro.preset=grpo", "sampling.max_staleness=1", *OVER, "run.checkpoint_every=1"), 5, exact=False),
    # the same with responses of three turns, whose environments are rebuilt; of a step about 40 turns are answered
    Trial(
        "turns",
        (
            "gro.preset=grpo",
            "sampling.max_staleness=1",
            "sampling.over_sample=0.5",
            "sampling.max_tokens=150",
            ENDS,
            "run.checkpoint_every=1",
            "environment.name=walk",
            "environment.format=tags",
        ),
        6,
        exact=False,
        plugins=(PLUGIN, WALK),
        most_tokens=150,
        turns=100,
    ),
    Trial(
        "critic", ("gro.preset=ppo", "learning.updates_per_step=2", "learning.epochs=2", "run.checkpoint_every=3"), 5
    ),
    # held-out rows are measured before training, in between and after it
    Trial(
        "offline",
        (
            "gro.preset=dpo",
            "run.steps=12",
            "run.checkpoint_every=1",
            "run.keep_last=1",
            "data.eval=none",
            "data.holdout=0.2",
            "evaluation.every=4",
        ),
        5,
    ),
    # the reference is the model without its adapter
    Trial("lora", ("gro.preset=dpo", "lora.rank=4", "run.checkpoint_every=2"), 5),
)

if __name__ == "__main__":
    main(Path(sys.argv[1]))
