import errno
import json
import math
import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import reasoner.runs.folder as folder_module
from reasoner.errors import DataError, RunError, UserError
from reasoner.evaluation.metrics import Criterion, Evaluation, summarise
from reasoner.io.atomic_files import append_line, replace_text, replacing_folder
from reasoner.io.parquet import read_parquet
from reasoner.io.serialization import read_jsonl
from reasoner.monitoring.alarms import Warned
from reasoner.records import Component, Group, Message, Problem, Response, Rollout, ScoredGroup
from reasoner.runs.environment import describe, git_commit
from reasoner.runs.folder import RunFolder, open_run, read_evaluations, read_metrics
from reasoner.runs.rollouts import to_rollouts
from reasoner.runs.starts import read_starts


def scored_group() -> ScoredGroup:
    problem = Problem("p:1", (Message("user", "2+2?"),), "4", {"level": 1})
    responses = tuple(Response(text, (5, 6), (True, True), (-0.1, -0.2), "stop", 3) for text in ("4", "5"))
    components = tuple((Component("math", 1.0, value, {"extracted": "4"}),) for value in (1.0, 0.0))
    return ScoredGroup(Group(problem, (1, 2), responses), components, (1.0, 0.0))


def rollouts(step: int = 1) -> list[Rollout]:
    return to_rollouts(step, [scored_group()], [0.5, -0.5], [(0.1, 0.1), (-0.1, 0.0)])


def evaluation() -> Evaluation:
    return summarise([scored_group()], 2, Criterion("math"))


def start(output: Path) -> RunFolder:
    return open_run(output, "math-gsm8k", 'task = "math-gsm8k"\n', {"engine": "vllm: it can be imported"})


def status(run: RunFolder) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((run.folder / "status.json").read_text())
    return read


def test_a_finished_run_holds_everything(tmp_path: Path) -> None:
    with start(tmp_path / "deep" / "runs") as run:
        assert status(run)["state"] == "running"
        run.commit_evaluation(0, evaluation(), to_rollouts(0, [scored_group()]))
        run.commit(1, {"reward/mean": 0.5, "update/grad_norm": math.inf}, rollouts())
        run.commit(2, {"reward/mean": 0.75}, rollouts(2))
        assert (status(run)["state"], status(run)["committed_steps"]) == ("running", 2)
        with run.saving_model() as model:
            (model / "config.json").write_text("{}")
        run.log("two\nlines")
    folder = run.folder
    assert folder.name.endswith("-math-gsm8k")
    assert (folder / "config.toml").read_text() == 'task = "math-gsm8k"\n'
    assert json.loads((folder / "environment.json").read_text())["chosen"] == {"engine": "vllm: it can be imported"}
    first, second = read_metrics(folder)
    assert (first["step"], first["reward/mean"], second["step"]) == (1, 0.5, 2)
    assert math.isnan(first["update/grad_norm"])
    assert read_parquet(folder / "rollouts" / "step-000002.parquet", Rollout) == rollouts(2)
    assert [row.credit for row in read_parquet(folder / "rollouts" / "eval-000000.parquet", Rollout)] == [None, None]
    (before,) = read_evaluations(folder)
    assert (before.step, before.evaluation) == (0, evaluation())
    assert (run.model_folder / "config.json").is_file()
    assert run.log_file.read_text()[8:] == " two\n         lines\n"
    assert set(json.loads((folder / "status.json").read_text())["seconds"]) == {"set_up", "evaluation", "total"}
    assert status(run) | {"started": "", "ended": "", "process": 0, "seconds": {}} == {
        "state": "finished",
        "reason": "",
        "committed_steps": 2,
        "started": "",
        "ended": "",
        "process": 0,
        "seconds": {},
    }
    assert not [path for path in folder.rglob("*") if ".partial" in path.name]


def test_runs_that_start_in_the_same_second_get_their_own_folders(tmp_path: Path) -> None:
    folders = {start(tmp_path).folder for _ in range(5)}
    assert len(folders) == 5


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("bad batch"), "failed"),
        (RunError("sampler died"), "failed"),
        (KeyboardInterrupt("SIGINT"), "interrupted"),
        (SystemExit(143), "interrupted"),
    ],
)
def test_how_the_run_ended_is_recorded_and_the_error_goes_on(tmp_path: Path, error: BaseException, state: str) -> None:
    run = start(tmp_path)
    with pytest.raises(type(error)), run:  # noqa: PT012
        run.commit(1, {"reward/mean": 0.0}, rollouts())
        raise error
    assert status(run)["state"] == state
    assert status(run)["reason"] == f"{type(error).__name__}: {error}"
    assert status(run)["committed_steps"] == 1


def test_steps_are_committed_in_order(tmp_path: Path) -> None:
    run = start(tmp_path)
    with pytest.raises(ValueError, match="expected 1, got 2"):
        run.commit(2, {}, rollouts())


def test_a_cut_last_line_was_not_committed(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.commit(1, {"reward/mean": 0.5}, rollouts())
    run.commit(2, {"reward/mean": 0.6}, rollouts(2))
    metrics = run.folder / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-5])
    assert [row["step"] for row in read_metrics(run.folder)] == [1]


def test_a_malformed_metrics_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n[2]\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2"):
        read_metrics(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_metrics(tmp_path / "none")


def test_a_step_whose_rollouts_cannot_be_written_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tmp_path)
    run.commit(1, {"reward/mean": 0.5}, rollouts())

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder_module, "write_parquet", full)
    with pytest.raises(RunError, match=r"step 2 cannot be written .*No space left on device.*1 steps are committed"):
        run.commit(2, {"reward/mean": 0.6}, rollouts(2))
    assert len(read_metrics(run.folder)) == 1


def test_an_end_that_cannot_be_written_does_not_hide_the_error(tmp_path: Path) -> None:
    run = start(tmp_path)
    with pytest.raises(RunError, match="sampler died") as caught, run:  # noqa: PT012
        shutil.rmtree(run.folder)
        raise RunError("sampler died")
    assert "could not be written" in caught.value.__notes__[0]


def test_unwritable_output_is_a_user_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(UserError, match=r"run\.output = .*cannot be written: (File exists|Not a directory).*--output"):
        start(blocked)
    with pytest.raises(UserError, match="cannot be written"):
        start(blocked / "runs")


def test_a_full_disk_is_a_user_error_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**27))
    with pytest.raises(UserError, match=r"has 0\.12 GiB free and the run needs at least 0\.25 GiB"):
        start(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_completely_saved_leaves_the_old_one(tmp_path: Path) -> None:
    run = start(tmp_path)
    with run.saving_model() as model:
        (model / "weights").write_text("old")
    with pytest.raises(RunError, match="the model cannot be written"), run.saving_model() as model:  # noqa: PT012
        (model / "weights").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (run.model_folder / "weights").read_text() == "old"
    with run.saving_model() as model:
        (model / "sub").mkdir()
        (model / "sub" / "weights").write_text("new")
    assert [path.name for path in run.model_folder.iterdir() if path.name != "run.json"] == ["sub"]


def test_atomic_files(tmp_path: Path) -> None:
    path = tmp_path / "x"
    replace_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "new \ud800")
    assert path.read_text() == "old"
    append_line(path, "er")
    assert path.read_text() == "older\n"
    with pytest.raises(ValueError, match="got 2"):
        append_line(path, "a\nb")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "old").touch()
    with (
        pytest.raises(OSError, match="not empty"),
        replacing_folder(tmp_path / "kept", new=True) as folder,
    ):
        (folder / "new").touch()
    assert [entry.name for entry in (tmp_path / "kept").iterdir()] == ["old"]
    shutil.rmtree(tmp_path / "kept")
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "folder") as folder:  # noqa: PT012
        (folder / "y").touch()
        raise ZeroDivisionError
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_the_environment_names_versions_and_hardware_and_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_topsecret")
    result = describe({"device": "cpu: there is no GPU"})
    assert result["packages"]["pyarrow"]
    assert result["cores"]["usable"] >= 1
    assert result["memory_gib"] > 0.1
    assert result["python"].startswith("CPython 3.")
    assert "topsecret" not in json.dumps(result)


def test_the_commit_is_that_of_the_checkout_itself(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    assert git_commit(tmp_path) is None
    git("init")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_text("1")
    git("add", ".")
    git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-m", "first")
    result = git_commit(tmp_path)
    assert result is not None
    assert (len(result["commit"]), result["changed"]) == (40, False)
    (tmp_path / "inner" / "file").write_text("2")
    assert (git_commit(tmp_path) or {})["changed"]
    assert git_commit(tmp_path / "inner") is None  # a folder inside somebody else's repository


def test_rollouts_follow_the_order_of_groups_and_responses() -> None:
    other = replace(scored_group(), group=replace(scored_group().group, prompt_ids=(9,)))
    rows = to_rollouts(4, [scored_group(), other], [0.1, 0.2, 0.3, 0.4])
    assert [(row.prompt_ids, row.sample, row.reward, row.credit) for row in rows] == [
        ((1, 2), 0, 1.0, 0.1),
        ((1, 2), 1, 0.0, 0.2),
        ((9,), 0, 1.0, 0.3),
        ((9,), 1, 0.0, 0.4),
    ]
    assert {row.credit for row in to_rollouts(4, [other])} == {None}
    assert [row.weights for row in to_rollouts(4, [other], [0.1, 0.2], [(0.1, 0.2), (0.3,)])] == [(0.1, 0.2), (0.3,)]
    with pytest.raises(ValueError, match="2 responses that were trained on needs a credit, got 1"):
        to_rollouts(4, [other], [0.1])
    with pytest.raises(ValueError, match="2 responses that were trained on needs weights, got 3"):
        to_rollouts(4, [other], [0.1, 0.2], [(), (), ()])


def test_what_cannot_be_written_costs_a_note_and_not_the_run(tmp_path: Path) -> None:
    """The fields that a reward source fills, then the row of the data, then the response itself."""
    good, bad = rollouts()
    worst = replace(bad, sample=2, step=2**70)
    parts = replace(bad, components=(Component("math", 1.0, 0.0, {"x": math.inf}, "a long reason"),))
    row = replace(bad, sample=1, problem=replace(bad.problem, fields={"x": {1}}))
    with start(tmp_path) as run:
        run.commit(1, {"reward/mean": 0.5}, [good, parts])
        run.commit(2, {"reward/mean": 0.5}, [good, row, worst])
        run.commit(3, {"reward/mean": 0.5}, [worst])
        run.commit_evaluation(3, evaluation(), [good, parts])
    assert len(read_metrics(run.folder)) == 3
    for name in ("step-000001", "eval-000003"):
        first, second = read_parquet(run.folder / "rollouts" / f"{name}.parquet", Rollout)
        assert (first, second.reward, second.response) == (good, bad.reward, bad.response)
        assert second.components[0].note.startswith("not kept, it cannot be written: field components[].parts: ")
        assert second.components[0].parts == {}
    second = read_parquet(run.folder / "rollouts" / "step-000002.parquet", Rollout)[1]
    assert (second.problem, second.response) == (replace(bad.problem, fields={}), bad.response)
    assert not (run.folder / "rollouts" / "step-000003.parquet").exists()
    warnings = read_jsonl(run.folder / "warnings.jsonl", Warned)
    assert [(each.step, each.what[:1]) for each in warnings] == [
        (1, "1"),
        (2, "2"),
        (3, "1"),
        (3, "1"),
    ]
    assert "problem p:1, sample 2: it is left out" in run.log_file.read_text()


def test_half_a_surrogate_pair_goes_into_every_file_of_a_run(tmp_path: Path) -> None:
    """In whatever a plugin, a verifier or a file name brings."""
    half, escaped = "x\ud800", "x\\ud800"
    named = replace(evaluation(), estimates=tuple(replace(e, name=half) for e in evaluation().estimates))
    with suppress(RuntimeError), open_run(tmp_path, "task", "", {half: half}, identity={half: half}) as run:
        run.commit(1, {f"reward/{half}/mean": 0.5}, [replace(rollouts()[0], components=(Component(half, 1.0, 1.0),))])
        run.commit_evaluation(1, named, rollouts())
        run.warn([Warned(1, half, half, half)])
        run.log(half)
        raise RuntimeError(half)
    assert status(run)["reason"] == f"RuntimeError: {escaped}"
    assert f"reward/{escaped}/mean" in read_metrics(run.folder)[0]
    assert read_evaluations(run.folder)[0].evaluation.estimates[0].name == escaped
    assert read_jsonl(run.folder / "warnings.jsonl", Warned)[0].what == escaped
    assert escaped in run.log_file.read_text()
    assert read_starts(run.folder)[0].environment["chosen"] == {escaped: escaped}
    assert json.loads((run.folder / "identity.json").read_text()) == {escaped: escaped}
    assert json.loads((run.folder / "environment.json").read_text())["chosen"] == {escaped: escaped}
