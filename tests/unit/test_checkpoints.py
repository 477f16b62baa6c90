"""Checkpoint folders: whole and unharmed, or not used; which ones stay."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from reasoner.config import RunConfig
from reasoner.distributed.ranks import ALONE, Ranks, part_of
from reasoner.errors import DataError, RunError
from reasoner.evaluation.metrics import Estimate, Evaluation
from reasoner.runs.checkpoints import MANIFEST, Checkpoints
from reasoner.runs.folder import RunFolder, open_run
from reasoner.training.checkpointing import SCORING, STATE_FILE, CheckpointManager
from reasoner.training.prefetch import Prefetcher


def write(checkpoints: Checkpoints, step: int) -> Path:
    with checkpoints.writing(step) as folder:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(bytes(range(256)))
        (folder / "state.json").write_text("{}")
    return checkpoints.at(step)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    (tmp_path / "checkpoints").mkdir()
    return Checkpoints(tmp_path)


def test_what_was_written_is_verified(checkpoints: Checkpoints) -> None:
    write(checkpoints, 20)
    write(checkpoints, 3)
    assert checkpoints.steps() == [3, 20]
    checkpoints.verify(3)
    checkpoints.verify(20)
    manifest = json.loads((checkpoints.at(20) / MANIFEST).read_text())
    assert [file["name"] for file in manifest["files"]] == ["model/weights", "state.json"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: (at / "model" / "weights").write_bytes(bytes(255)), r"model/weights has 255 bytes, 256 were"),
        (lambda at: (at / "model" / "weights").write_bytes(bytes(256)), r"model/weights is not what was written"),
        (lambda at: (at / "state.json").unlink(), r"state\.json cannot be read: No such file"),
        (lambda at: shutil.rmtree(at / "model"), r"model/weights cannot be read"),
        (lambda at: (at / MANIFEST).write_text((at / MANIFEST).read_text()[:40]), r"JSON"),
        (lambda at: (at / MANIFEST).unlink(), r"manifest\.json cannot be read"),
        (lambda at: at.rename(at.with_name("step-000021")), r"manifest\.json is of step 20"),
    ],
)
def test_damage_is_found_and_named(checkpoints: Checkpoints, damage: Any, message: str) -> None:
    damage(write(checkpoints, 20))
    (step,) = checkpoints.steps()
    with pytest.raises(DataError, match=message):
        checkpoints.verify(step)


def test_a_part_of_a_checkpoint_is_verified_alone(checkpoints: Checkpoints) -> None:
    at = write(checkpoints, 20)
    (at / "state.json").unlink()
    checkpoints.verify(20, "model")
    (at / "model" / "weights").write_text("other")
    with pytest.raises(DataError, match="model/weights"):
        checkpoints.verify(20, "model")


def test_a_checkpoint_that_is_not_completely_written_does_not_appear(checkpoints: Checkpoints) -> None:
    with pytest.raises(OSError, match="No space"), checkpoints.writing(1) as folder:  # noqa: PT012
        (folder / "half").touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert checkpoints.steps() == []
    assert list(checkpoints.folder.iterdir()) == []


def test_only_the_others_are_removed(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3):
        write(checkpoints, step)
    (checkpoints.folder / "notes.txt").touch()
    checkpoints.keep({3, 1, 9})
    assert checkpoints.steps() == [1, 3]
    assert {path.name for path in checkpoints.folder.iterdir()} == {"step-000001", "step-000003", "notes.txt"}


@dataclass
class Model:
    """A learner whose weights are a number."""

    version: int = 0
    fails: bool = False

    def checkpoint(self, folder: Path) -> None:
        if self.fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        (folder / "version").write_text(str(self.version))


@dataclass
class Count:
    """A part whose state is a number."""

    count: int = 0
    marked: int = 0
    asked: int = field(default=0, compare=False)
    """times that its state was asked for"""

    def mark(self) -> None:
        self.marked = self.count

    def state(self) -> dict[str, Any]:
        self.asked += 1
        return {"count": self.marked}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]


@dataclass
class Trial:
    """A run that commits steps and says nothing of them."""

    run: RunFolder
    checkpoints: CheckpointManager
    model: Model
    part: Count
    said: list[str]

    def step(self, accuracy: float | None = None) -> None:
        self.model.version += 1
        self.part.count += 10
        step = self.run.steps + 1
        self.run.commit(step, {"reward/mean": 0.0}, [])
        self.checkpoints.committed()
        if accuracy is not None:
            self.run.evaluations[step] = evaluation(accuracy)
        self.checkpoints.save_if_due()

    def state(self, step: int) -> Any:
        return json.loads((self.run.checkpoints.at(step) / STATE_FILE).read_text())


def evaluation(accuracy: float) -> Evaluation:
    figures = (("avg@1", accuracy), ("reward", 0.5))
    return Evaluation(1, 1, 0, tuple(Estimate(name, "share", value, None, None, "none", {}) for name, value in figures))


def trial(output: Path, **config: Any) -> Trial:
    run = open_run(output, "task", "", {}, identity={"model": "sha256 0"})
    model, part, message = Model(), Count(), list[str]()
    checkpoints = CheckpointManager(
        RunConfig(**{"steps": 100} | config),
        run,
        ALONE,
        model,
        None,
        None,
        {"part": part},
        Prefetcher(),
        message.append,
    )
    return Trial(run, checkpoints, model, part, message)


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    made = trial(tmp_path, checkpoint_every=2, keep_last=2, keep_best=1, steps=9)
    for accuracy in (None, None, 0.5, 0.9, 0.2, None, None, 0.3, 0.6):
        made.step(accuracy)
    # 9: the last step of the run; 4: the best; 3 was the best for a while
    assert made.run.checkpoints.steps() == [4, 8, 9]
    made.checkpoints.finish()
    assert made.run.checkpoints.steps() == [4, 9]


def test_a_new_best_is_saved_although_it_is_not_yet_time(tmp_path: Path) -> None:
    made = trial(tmp_path, checkpoint_every=50, keep_best=1)
    made.step()
    assert made.run.checkpoints.steps() == []
    made.step(0.5)
    made.step(0.4)
    assert made.run.checkpoints.steps() == [2]
    made.step(0.5)  # as good, and later
    assert made.run.checkpoints.steps() == [2, 4]


def test_without_a_number_checkpoints_take_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    made = trial(tmp_path)
    write_checkpoint = made.model.checkpoint

    def slowly(folder: Path) -> None:
        now[0] += 3.0
        write_checkpoint(folder)

    monkeypatch.setattr(made.model, "checkpoint", slowly)
    saved = []
    for _ in range(40):
        made.step()
        saved += [step for step in made.run.checkpoints.steps() if step not in saved]
        now[0] += 10.0
    # the first step; then 3 s of every 150 s and a little
    assert saved == [1, 16, 31]


def test_states_are_asked_for_where_a_checkpoint_is_written_and_not_after_every_step(tmp_path: Path) -> None:
    made = trial(tmp_path, checkpoint_every=4)
    for _ in range(11):
        made.step()
    assert made.run.checkpoints.steps() == [4, 8]
    assert made.part.asked == 2
    assert made.state(8) == [{"part": {"count": 80}}]


def test_keep_last_0_writes_none(tmp_path: Path) -> None:
    made = trial(tmp_path, keep_last=0, checkpoint_every=1)
    made.step(1.0)
    made.checkpoints.save_on_exit()
    made.checkpoints.finish()
    assert list((made.run.folder / "checkpoints").iterdir()) == []


def test_an_interrupted_step_is_forgotten_and_the_one_before_it_saved(tmp_path: Path) -> None:
    made = trial(tmp_path, checkpoint_every=50)
    made.step()
    made.part.count = 999  # of a step that was not committed
    made.checkpoints.save_on_exit()
    assert made.state(1) == [{"part": {"count": 10}}]
    again = CheckpointManager(
        made.checkpoints.config, made.run, ALONE, Model(), None, None, {"part": Count()}, Prefetcher(), made.said.append
    )
    again.restore(made.run.checkpoints.at(1))
    assert again.parts["part"] == Count(10, 10)


def test_weights_that_have_changed_since_are_not_saved_as_those_of_the_step(tmp_path: Path) -> None:
    made = trial(tmp_path, checkpoint_every=50)
    made.step()
    made.model.version += 1
    made.checkpoints.save_on_exit()
    assert made.run.checkpoints.steps() == []
    assert made.said == ["the weights have changed since step 1: it cannot be saved any more"]


def test_a_full_disk_ends_the_run_with_a_message_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    made = trial(tmp_path, checkpoint_every=1)
    made.step()
    made.model.fails = True
    with pytest.raises(RunError, match=r"the checkpoint of step 2 cannot be written .*No space left.*--resume"):
        made.step()
    made.checkpoints.save_on_exit()
    assert "the checkpoint of step 2 cannot be written" in made.said[0]
    assert made.run.checkpoints.steps() == [1]
    assert [path.name for path in made.run.checkpoints.folder.iterdir()] == ["step-000001"]


def test_a_checkpoint_of_a_run_with_other_parts_is_refused(tmp_path: Path) -> None:
    made = trial(tmp_path, checkpoint_every=1)
    made.step()
    other = CheckpointManager(
        made.checkpoints.config,
        made.run,
        ALONE,
        Model(),
        None,
        None,
        {"curriculum": Count()},
        Prefetcher(),
        made.said.append,
    )
    with pytest.raises(RunError, match="holds the state of part, and this run has curriculum"):
        other.restore(made.run.checkpoints.at(1))


def test_a_state_that_another_version_wrote_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    made = trial(tmp_path, checkpoint_every=1)
    made.step()
    file = made.run.checkpoints.at(1) / STATE_FILE
    file.write_text(json.dumps([{"part": {"draws": 3}}]))
    with pytest.raises(RunError, match=r"state\.json does not hold 'count' of the part 'part': .*another version"):
        made.checkpoints.restore(made.run.checkpoints.at(1))


@pytest.mark.parametrize(("ranks", "per_engine"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4)])
def test_another_number_of_ranks_divides_the_calls_as_it_divides_the_budget(
    tmp_path: Path, ranks: int, per_engine: int
) -> None:
    """So that what is left of the budget is left of its parts too."""
    made = trial(tmp_path, checkpoint_every=1)
    states = [{SCORING: {"made": {"judge": calls}}, "part": {}} for calls in (7, 0, 4, 9, 1)]
    budget, own = 30, []
    for index in range(ranks):
        checkpoints = replace(made.checkpoints, ranks=Ranks(index, ranks), per_engine=per_engine)
        own.append(checkpoints._own(states)[SCORING]["made"]["judge"])
        assert own[-1] <= part_of(budget, Ranks(index, ranks), per_engine)
    assert sum(own) == 21
