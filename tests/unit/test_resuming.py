"""Where a run goes on, what is cut back, and what is refused: run folders without a model."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reasoner.errors import ConfigError, DataError, UserError
from reasoner.io.folder_lock import NAME, Lock, is_going
from reasoner.io.metric_history import MetricHistory
from reasoner.launch import launcher as launch
from reasoner.loading import load_config, to_toml
from reasoner.models.run_models import record_step
from reasoner.runs.checksums import differences, identify
from reasoner.runs.environment import describe
from reasoner.runs.folder import RunFolder, open_run, read_evaluations, read_metrics
from reasoner.runs.resuming.resume import Place, find_place
from reasoner.runs.resuming.rules import (
    ALLOWED,
    DRAWS,
    FAILURES,
    LENGTH,
    PLACE,
    REWARDS,
    ROUNDING,
    allowed,
    load_resumed,
)
from reasoner.runs.starts import environment_changes, read_starts
from tests.unit.test_architecture import keys
from tests.unit.test_checkpoints import evaluation
from tests.unit.test_run_folder import rollouts

IDENTITY = {"data.train": "8 rows, sha256 " + "a" * 64, "sampling engine": "hf"}


def started(output: Path, steps: int = 6, checkpoints: tuple[int, ...] = (2, 4)) -> Path:
    """A run that was killed after some steps, with an evaluation after every second one."""
    run = open_run(output, "task", "old = true\n", {"device": "cpu"}, identity=IDENTITY)
    for step in range(1, steps + 1):
        run.commit(step, {"reward/mean": step / 10}, rollouts(step))
        if step % 2 == 0:
            run.commit_evaluation(step, evaluation(0.5), rollouts(step))
        if step in checkpoints:
            with run.saving_checkpoint() as folder:
                (folder / "state.json").write_text("{}")
    killed(run)
    return run.folder


def killed(run: RunFolder) -> None:
    run._lock.close()


def reopen(place: Place) -> RunFolder:
    place.check(IDENTITY)
    run, _ = place.reopen("new = true\n", IDENTITY, {"device": "cpu"}, (), 0)
    return run


def test_what_came_after_the_newest_checkpoint_is_cut_back(tmp_path: Path) -> None:
    folder = started(tmp_path)
    (folder / "rollouts" / ".step-000007.parquet.1.partial").touch()
    (folder / "checkpoints" / ".step-000006.1.partial").mkdir()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "rew')
    with find_place(folder, 10) as place:
        assert (place.step, place.repeated, place.notes) == (4, 2, ())
        assert isinstance(place.history, MetricHistory)  # it lives as long as the run, and dicts take 13 KiB a step
        assert str(place) == "from step-000004; 2 committed steps after it are made again"
        assert str(replace(place, repeated=1)) == "from step-000004; 1 committed step after it is made again"
        run = reopen(place)
    assert [row["step"] for row in read_metrics(folder)] == [1, 2, 3, 4]
    assert [made.step for made in read_evaluations(folder)] == [2, 4]
    names = {path.name for path in (folder / "rollouts").iterdir()}
    assert names == {*(f"step-00000{n}.parquet" for n in range(1, 5)), "eval-000002.parquet", "eval-000004.parquet"}
    assert not list(folder.rglob("*.partial"))
    assert (folder / "config.toml").read_text() == "new = true\n"
    assert list(run.history) == [{"reward/mean": step / 10} for step in range(1, 5)]
    assert set(run.evaluations) == {2, 4}
    first, second = read_starts(folder)
    assert (first.step, second.step, second.repeated) == (0, 4, 2)
    with run:
        run.commit(5, {"reward/mean": 0.5}, rollouts(5))
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["committed_steps"], status["started"]) == ("finished", 5, first.at)


def test_a_model_of_steps_that_are_made_again_goes(tmp_path: Path) -> None:
    """Of a run that had ended and whose last checkpoint cannot be used: `model/` is of none of the steps to come."""
    folder = started(tmp_path)
    for step, stays in ((6, False), (4, True)):
        (folder / "model").mkdir()
        record_step(folder / "model", step)
        with find_place(folder, 10) as place:
            reopen(place)
        assert (folder / "model").exists() is stays


def test_a_run_that_was_killed_before_its_first_step_starts_from_the_beginning(tmp_path: Path) -> None:
    folder = started(tmp_path, steps=0)
    with find_place(folder, 10) as place:
        assert (place.step, place.checkpoint, str(place)) == (0, None, "from the beginning")
        assert list(reopen(place).history) == []


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path) -> None:
    folder = started(tmp_path)
    (folder / "checkpoints" / "step-000004" / "state.json").write_text("[]")
    with find_place(folder, 10) as place:
        assert place.step == 2
        (note,) = place.notes
        assert note.startswith("The checkpoint of step 4 is damaged and not used: state.json is not what was written")
        run, notes = place.reopen("", IDENTITY, {"device": "cpu"}, (), 0)
    assert note in notes
    assert run.checkpoints.steps() == [2]
    assert read_starts(folder)[-1].notes == notes


def test_without_any_checkpoint_that_can_be_used_nothing_is_thrown_away(tmp_path: Path) -> None:
    folder = started(tmp_path)
    for step in (2, 4):
        (folder / "checkpoints" / f"step-00000{step}" / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"no checkpoint of its 6 steps can be used.*step 4 is damaged.*step 2 is"):
        find_place(folder, 10).__enter__()
    assert len(read_metrics(folder)) == 6
    none = started(tmp_path, checkpoints=())
    with pytest.raises(DataError, match=r"It has none.*To start it again: reasoner run .*config\.toml"):
        find_place(none, 10).__enter__()


def test_a_checkpoint_of_a_step_that_is_not_in_the_metrics_is_not_used(tmp_path: Path) -> None:
    folder = started(tmp_path)
    metrics = folder / "metrics.jsonl"
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(keepends=True)[:3]))
    with find_place(folder, 10) as place:
        assert (place.step, place.repeated) == (2, 1)
        assert place.notes == ("The checkpoint of step 4 is not used: metrics.jsonl ends at step 3.",)
    metrics.write_text('{"step": 2}\n')
    with pytest.raises(DataError, match=r"line 1: the steps must be 1, 2, 3, \.\.\. in order; got 2"):
        find_place(folder, 10).__enter__()


def test_a_run_that_is_still_going_is_refused(tmp_path: Path) -> None:
    run = open_run(tmp_path, "task", "", {}, identity=IDENTITY)
    assert is_going(run.folder)
    with pytest.raises(UserError, match=rf"still going, as process {os.getpid()}.*kill {os.getpid()}"):
        find_place(run.folder, 10).__enter__()
    with run:
        pass
    assert not is_going(run.folder)


def test_the_lock_goes_with_its_process_however_it_ends(tmp_path: Path) -> None:
    program = "import sys, time; from pathlib import Path; from reasoner.io.folder_lock import Lock; "
    program += "lock = Lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_going(tmp_path)
        with pytest.raises(BlockingIOError):
            Lock(tmp_path)
        holder.kill()
    assert not is_going(tmp_path)
    with Lock(tmp_path) as lock:
        lock.close()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """As Lustre without `flock` and NFS without a lock service; by whatever wants to lock a folder."""
    folder = started(tmp_path / "before")

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    open_files = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(fcntl, "flock", flock)
    message = rf"cannot be locked \({re.escape(os.strerror(code))}\).*no file locks.*--output"
    output = tmp_path / "output"
    attempts: list[Callable[[], object]] = [
        lambda: Lock(tmp_path),
        lambda: open_run(output, "task", "", {}),
        lambda: find_place(folder, 10).__enter__(),
        lambda: launch._logs(output).__enter__(),
    ]
    for attempt in attempts:
        with pytest.raises(UserError, match=message):
            attempt()
    assert list(output.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files
    assert is_going(folder)  # nobody can know that nobody works on it
    assert not is_going(output)  # nobody ever did


def test_a_pipe_in_the_place_of_a_lock_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    assert not is_going(tmp_path)


def test_a_finished_run_goes_on_with_more_steps_only(tmp_path: Path) -> None:
    folder = started(tmp_path, checkpoints=(6,))
    with find_place(folder, 6) as place:
        run = reopen(place)
    with run:
        pass
    with pytest.raises(
        UserError, match=r"finished, all its 6 steps are done\. To train on: .* --steps N, with N above"
    ):
        find_place(folder, 6).__enter__()
    with pytest.raises(UserError, match=r"run\.steps = 5, and 6 steps are done already"):
        find_place(folder, 5).__enter__()
    with find_place(folder, 7) as place:
        assert (place.step, place.repeated) == (6, 0)


def test_folders_without_a_training_run_are_refused(tmp_path: Path) -> None:
    with open_run(tmp_path, "eval-task", "", {}) as run:
        pass
    with pytest.raises(UserError, match=r"identity\.json is missing: the folder is of an evaluation"):
        find_place(run.folder, 10).__enter__()
    with pytest.raises(UserError, match="does not exist"):
        load_resumed(tmp_path / "none", [])
    with pytest.raises(UserError, match=r"holds no run: config\.toml is missing"):
        load_resumed(tmp_path, [])


def test_another_model_data_plugin_or_engine_is_refused(tmp_path: Path) -> None:
    folder = started(tmp_path)
    now = {"data.train": "9 rows, sha256 " + "b" * 64, "plugin x.py": "sha256 " + "c" * 64, "sampling engine": "vllm"}
    with find_place(folder, 10) as place, pytest.raises(UserError) as caught:
        place.check(now)
    assert str(caught.value).splitlines()[1:-1] == [
        "  data.train: was 8 rows, sha256 aaaaaaaa..., is 9 rows, sha256 bbbbbbbb...",
        "  sampling engine: was hf, is vllm",
        "  plugin x.py: was not there, is sha256 cccccccc...",
    ]


PLUGIN = "plugin x.py"


def accepted(folder: Path, identity: dict[str, str], *, checkpoint: int | None = None) -> Place:
    """Resume with `--accept-changes`, and perhaps save after the next step."""
    with find_place(folder, 10, accept=True) as place:
        changes = place.check(identity)
        run, _ = place.reopen("", identity, {"device": "cpu"}, changes, 0)
        if checkpoint:
            run.commit(checkpoint, {"reward/mean": 0.0}, rollouts(checkpoint))
            with run.saving_checkpoint() as saved:
                (saved / "state.json").write_text("{}")
    return place


def test_a_mended_plugin_goes_on_when_that_is_accepted_and_is_recorded(tmp_path: Path) -> None:
    folder = started(tmp_path)
    (folder / "identity.json").write_text(json.dumps(before := IDENTITY | {PLUGIN: "sha256 " + "b" * 64}))
    mended = before | {PLUGIN: "sha256 " + "c" * 64, "plugin y.py": "sha256 " + "d" * 64}
    with find_place(folder, 10) as place:
        assert not place.forgets
        with pytest.raises(
            UserError, match=r"(?s)x\.py: was sha256 bbbbbbbb\.\.\., is .*with --accept-changes the run"
        ):
            place.check(mended)
    assert json.loads((folder / "identity.json").read_text()) == before
    assert accepted(folder, mended).forgets
    assert read_starts(folder)[-1].changes == {
        PLUGIN: ["sha256 bbbbbbbb...", "sha256 cccccccc..."],
        "plugin y.py": ["not there", "sha256 dddddddd..."],
        "scores that were known": ["kept", "forgotten"],
    }
    assert (
        "Rewards and evaluations up to step 4 are those of the sources as they were."
        in read_starts(folder)[-1].notes[0]
    )
    with find_place(folder, 10) as place:  # killed before its next checkpoint: the scores in this one are old ones
        assert place.forgets
        assert place.check(mended) == ()
    with find_place(folder, 10) as place, pytest.raises(UserError):
        place.check(before)


@pytest.mark.parametrize("other", ["data.train", "model: config.json", "sampling engine"])
def test_what_is_no_matter_of_the_rewards_stays_refused(tmp_path: Path, other: str) -> None:
    folder = started(tmp_path)
    changed = IDENTITY | {other: "another", PLUGIN: "sha256 " + "c" * 64}
    with find_place(folder, 10, accept=True) as place:
        with pytest.raises(UserError, match="a new run") as caught:
            place.check(changed)
        assert "--accept-changes" not in str(caught.value)
        assert f"{other}: was" in str(caught.value)
        assert "plugin x.py: was not there" in str(caught.value)


def test_scores_are_forgotten_until_a_checkpoint_has_new_ones(tmp_path: Path) -> None:
    folder = started(tmp_path)
    accepted(folder, IDENTITY, checkpoint=5)
    with find_place(folder, 10) as place:
        assert (place.step, place.forgets) == (5, False)
    (folder / "checkpoints" / "step-000005" / "state.json").unlink()
    with find_place(folder, 10) as place:
        assert (place.step, place.forgets) == (4, True)


def test_the_identity_changes_with_every_file_and_row(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("model.safetensors", "config.json", "README.md"):
        (model / name).write_text(name)
    package = tmp_path / "mine"
    package.mkdir()
    for name in ("__init__.py", "helper.py"):
        (package / name).write_text("")
    alone = tmp_path / "alone.py"
    alone.write_text("")

    def now(rows: list[object]) -> dict[str, str]:
        return identify({"model": model}, {"data.train": rows}, [str(package / "__init__.py"), str(alone)], "hf")

    before = now([{"question": 1}, {"question": 2}])
    assert set(before) == {
        *("sampling engine", "data.train", "model: model.safetensors", "model: config.json"),
        *("plugin mine/__init__.py", "plugin mine/helper.py", "plugin alone.py"),
    }
    assert differences(before, now([{"question": 1}, {"question": 2}])) == []
    assert [line[:11] for line in differences(before, now([{"question": 2}, {"question": 1}]))] == ["data.train:"]
    for file, name in ((model / "model.safetensors", "model: model.saf"), (package / "helper.py", "plugin mine/help")):
        file.write_text("changed")
        assert name in " ".join(differences(before, now([{"question": 1}, {"question": 2}])))
    (model / "README.md").write_text("nobody reads it")
    assert len(differences(before, now([{"question": 1}, {"question": 2}]))) == 2


def test_other_versions_are_noted(tmp_path: Path) -> None:
    before = describe({"device": "cpu"})
    packages = dict(before["packages"]) | {"torch": "1.0"}
    del packages["numpy"]
    found = environment_changes(before | {"packages": packages, "cores": {"threads": 999}}, before)
    assert [note.split()[0] for note in found] == ["numpy", "torch", "number"]
    assert found[0] == f"numpy was not there, and is {before['packages']['numpy']}."


# ---- the configuration


def run_with(tmp_path: Path, *sets: str) -> Path:
    """A run folder with the configuration of the laptop profile."""
    resolved = load_config("math-gsm8k", "laptop", sets=sets)
    run = open_run(tmp_path, "math-gsm8k", to_toml(resolved.config), {}, identity=IDENTITY)
    killed(run)
    return run.folder


def test_safe_changes_are_taken_with_what_they_do(tmp_path: Path) -> None:
    folder = run_with(tmp_path)
    sets = ["run.steps=40", "learning.token_budget=512", "rewards.math.timeout_s=9.0", "sampling.kv_cache_gib=1.0"]
    resolved, changes = load_resumed(folder, sets)
    assert resolved.config.run.steps == 40
    assert {change.key: (change.after, change.effect) for change in changes} == {
        "run.steps": (40, ""),
        "sampling.kv_cache_gib": (1.0, DRAWS),
        "rewards.math.timeout_s": (9.0, FAILURES),
        "learning.token_budget": (512, ROUNDING),
    }
    assert str(changes[0]) == "run.steps: 24 -> 40"
    assert load_resumed(folder, [])[1] == ()
    assert load_resumed(folder, ["run.steps=24"])[1] == ()


def test_more_steps_move_what_depends_on_their_number(tmp_path: Path) -> None:
    folder = run_with(tmp_path, "learning.decay=cosine")
    (change,) = load_resumed(folder, ["run.steps=40"])[1]
    assert change.effect == LENGTH


def test_changes_of_what_is_trained_are_refused_one_by_one(tmp_path: Path) -> None:
    folder = run_with(tmp_path)
    sets = ["learning.learning_rate=1e-3", "rewards.boxed_format.weight=2.0", "run.steps=40", "run.seed=7"]
    with pytest.raises(ConfigError) as caught:
        load_resumed(folder, sets)
    assert [line.strip() for line in str(caught.value).splitlines()[1:-1]] == [
        "run.seed: 0 -> 7",
        "rewards.boxed_format.weight: 0.5 -> 2.0",
        "learning.learning_rate: 2e-05 -> 0.001",
    ]
    with pytest.raises(ConfigError, match=r"gro\.terms\.grpo\.link\.high: 0\.2 -> 0\.3"):
        load_resumed(folder, ["gro.terms.grpo.link.high=0.3"], accept=True)


@pytest.mark.parametrize("value", ["rewards.math.options.tolerance=0.1", "rewards.math.options.extract=lenient"])
def test_options_of_a_reward_source_change_when_that_is_accepted(tmp_path: Path, value: str) -> None:
    folder, key = run_with(tmp_path), value.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{key}: none -> .*\n.*with --accept-changes the run is resumed"):
        load_resumed(folder, [value])
    resolved, (change,) = load_resumed(folder, [value], accept=True)
    assert (change.key, change.effect) == (key, REWARDS)
    assert resolved.config.rewards[0].options == {key.rpartition(".")[2]: change.after}
    with pytest.raises(
        ConfigError, match=r"options.*\n  run\.seed: 0 -> 7\nLeave it|seed: 0 -> 7\n.*options.*\nLeave it"
    ):
        load_resumed(folder, [value, "run.seed=7"], accept=True)


def test_every_key_that_may_change_exists() -> None:
    there = {key.replace("entry", "*") for key in keys()}
    there |= {"learning.deepspeed.*" for key in there if key.startswith("learning.deepspeed.")}
    there |= {f"data.*.{key.split('.')[2]}" for key in there if key.startswith("data.") and key.count(".") == 2}
    assert set(ALLOWED) <= there
    assert allowed("data.train.path") == PLACE
    assert allowed("data.train.limit") is None
    assert allowed("rewards.math.weight") is None
