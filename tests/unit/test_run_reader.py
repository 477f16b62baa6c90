"""Run folders read back, found by name, and looked at from the command line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reasoner.__main__ import main
from reasoner.errors import DataError, UserError
from reasoner.evaluation.metrics import Criterion, Evaluation, estimate
from reasoner.io.folder_lock import Lock
from reasoner.io.parquet import write_parquet
from reasoner.io.serialization import to_json
from reasoner.loading import load_config
from reasoner.monitoring.format import age, size
from reasoner.records import Message, Problem, Response, Rollout
from reasoner.report.words import ended, resumptions
from reasoner.runs.find import find_run, list_runs
from reasoner.runs.folder import Evaluated
from reasoner.runs.reader import disk_use, read_run
from reasoner.runs.rollouts import index_groups
from reasoner.runs.starts import record_start
from tests.made_up import edit_json, made_up_run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs and a failed one; it is only read."""
    output = tmp_path_factory.mktemp("made") / "runs"
    made_up_run(output, steps=3, problems=2).rename(output / "20260101-120000-first")
    made_up_run(output, steps=2, problems=2, seed=1, sets=["gro.preset=rloo"]).rename(output / "20260101-130000-second")
    made_up_run(output, steps=1, problems=2, end=RuntimeError("the sampler died")).rename(output / "20260202-failed")
    return output


@pytest.fixture
def reasoner(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `reasoner ARGUMENTS` in the folder that holds `runs/`, 80 columns wide: exit code, output, errors."""
    monkeypatch.chdir(made.parent)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reasoner", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def copy(made: Path, to: Path) -> Path:
    """A run of one's own to damage."""
    return Path(shutil.copytree(made / "20260202-failed", to / "run"))


def test_a_run_is_read_back(made: Path) -> None:
    run = read_run(made / "20260101-120000-first")
    assert (run.state, run.reason, run.steps, run.planned_steps, run.correct) == ("finished", "", 3, 3, "math")
    assert [at.step for at in run.evaluations] == [0, 3]
    assert run.trains
    assert run.chosen["method"] == "grpo (2402.03300)"
    assert run.seconds is not None
    failed = read_run(made / "20260202-failed")
    assert (failed.state, failed.reason) == ("failed", "RuntimeError: the sampler died")


def test_the_part_of_an_evaluation_is_called_by_both_folders(made: Path, tmp_path: Path) -> None:
    folder = copy(made, tmp_path / "20260101-eval")
    assert read_run(folder).name == "run"
    (tmp_path / "20260101-eval" / "plan.json").touch()
    assert read_run(folder).name == "20260101-eval/run"


def test_a_run_that_nobody_works_on_was_killed_if_it_says_that_it_runs(made: Path, tmp_path: Path) -> None:
    folder = copy(made, tmp_path)
    edit_json(folder / "status.json", state="running", ended=None)
    with Lock(folder):
        assert read_run(folder).state == "running"
    assert read_run(folder).state == "killed"


def test_a_resumed_run_tells_its_starts_and_not_the_time_between_them(made: Path, tmp_path: Path) -> None:
    folder = copy(made, tmp_path)
    edit_json(folder / "status.json", seconds={"set_up": 2.0, "evaluation": 3.0, "total": 60.0})
    environment = json.loads((folder / "environment.json").read_text())
    record_start(folder, environment, step=1, changes={"run.steps": [1, 9]}, notes=["checkpoint 2 is damaged"])
    run = read_run(folder)
    assert run.seconds == 60.0
    assert ended(run).endswith("resumed once, took 1:00")
    (message,) = resumptions(run)
    assert message.endswith(" from step 1; run.steps: 1 -> 9; checkpoint 2 is damaged")


STATUS = (
    '{"state": "finished", "reason": "", "started": "2026-01-01T00:00:00+00:00", "ended": null, '
    '"seconds": {"set_up": 0.5, "evaluation": 0.0, "total": 1.5}}'
)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("status.json", "{", r"status\.json: not JSON"),
        ("status.json", "[]", r"status\.json is not a JSON object"),
        ("status.json", '{"state": "asleep", "started": "2026-01-01T00:00:00", "ended": null}', "state 'asleep'"),
        ("status.json", '{"state": "finished"}', "not what a run writes"),
        ("status.json", STATUS.replace("1.5", "-1.5"), r"status\.json: seconds\.field total: .*greater than or equal"),
        ("status.json", STATUS.replace("1.5", '"1.5"'), r"status\.json: seconds\.field total: .*valid number"),
        ("config.toml", "a = ", r"config\.toml: not TOML"),
        ("environment.json", None, r"environment\.json cannot be read"),
        ("metrics.jsonl", None, r"metrics\.jsonl cannot be read"),
        ("evaluations.jsonl", '{"step": "0"}\n', r"evaluations\.jsonl, line 1"),
    ],
)
def test_a_damaged_run_names_the_file(made: Path, tmp_path: Path, file: str, text: str | None, message: str) -> None:
    folder = copy(made, tmp_path)
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(DataError, match=message):
        read_run(folder)


def test_runs_are_found_by_path_name_and_the_beginning_of_it(made: Path) -> None:
    first = made / "20260101-120000-first"
    assert find_run(str(first), made) == first
    assert find_run("20260101-120000-first", made) == first
    assert find_run("20260101-12", made) == first
    with pytest.raises(UserError, match=r"beginning of 2 runs .*20260101-120000-first, 20260101-130000-second"):
        find_run("20260101", made)
    with pytest.raises(UserError, match=r"no run '20250101'.*The last ones there: .*20260202-failed"):
        find_run("20250101", made)
    with pytest.raises(UserError, match=r"runs is not a run folder.*It holds runs: .*20260202-failed"):
        find_run(str(made))
    with pytest.raises(UserError, match="no run 'x'"):
        find_run("x", made / "nowhere")
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        list_runs(made / "nowhere")


def test_a_name_that_is_the_beginning_of_another_is_itself(tmp_path: Path) -> None:
    for name in ("run", "run-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").touch()
    assert find_run("run", tmp_path) == tmp_path / "run"


def test_groups_are_indexed_without_reading_them(made: Path) -> None:
    groups = index_groups(made / "20260101-120000-first" / "rollouts" / "step-000001.parquet")
    assert [(group.first, group.responses) for group in groups] == [(0, 8), (8, 8)]
    history = read_run(made / "20260101-120000-first").metrics
    assert sum(group.tokens for group in groups) / 16 == pytest.approx(history[0]["response/length_mean"])
    boxed = [group.means["reward/boxed_format/mean"] for group in groups]
    assert sum(boxed) / 2 == pytest.approx(history[0]["reward/boxed_format/mean"])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        index_groups(made / "20260101-120000-first" / "config.toml")


def test_the_length_of_a_group_counts_what_the_policy_wrote(tmp_path: Path) -> None:
    masks = [(True, False, True), (True,), (False,), (False, True, True, True)]
    problem = Problem("p", (Message("user", "?"),), "4")
    rollouts = [
        Rollout(
            1, problem, (1,), at % 2, Response("", (1,) * len(mask), mask, (0.0,) * len(mask), "stop", 0), (), None, 0.0
        )
        for at, mask in enumerate(masks)
    ]
    write_parquet(tmp_path / "rollouts.parquet", rollouts)
    groups = index_groups(tmp_path / "rollouts.parquet")
    assert [(group.tokens, group.means["response/length_mean"]) for group in groups] == [(4, 1.5), (5, 1.5)]


def test_sizes_and_ages() -> None:
    assert [size(n) for n in (0, 812, 54_321, 999_600, 1_234_567_890)] == ["0 B", "812 B", "54 kB", "1.0 MB", "1.2 GB"]
    assert [age(s) for s in (40, 130, 7 * 3600, 3 * 86400)] == ["40 s", "2 min", "7 h", "3 d"]


def test_list_fits_80_columns_and_names_what_cannot_be_read(reasoner: Command, made: Path) -> None:
    (made / "20260303-broken").mkdir()
    (made / "20260303-broken" / "status.json").write_text("{")
    try:
        code, text, _ = reasoner("runs", "list")
    finally:
        (made / "20260303-broken" / "status.json").unlink()
        (made / "20260303-broken").rmdir()
    assert code == 0
    lines = text.splitlines()
    assert max(map(len, lines[:4])) <= 80
    assert lines[1].split()[:4] == ["20260101-120000-first", "finished", "3/3", "4.5%"]
    assert "failed" in lines[3]
    assert "not readable: 20260303-broken: " in text


def test_list_has_the_held_out_loss_of_a_run_that_samples_nothing(
    reasoner: Command, made: Path, tmp_path: Path
) -> None:
    folder = copy(made, tmp_path)
    figures = [estimate("term/dpo/loss", "number", {"pairs:0": loss}, 1) for loss in (0.693, 0.25)]
    made_at = [Evaluated(step, Evaluation(0, 0, 0, (each,), rows=1)) for step, each in enumerate(figures)]
    (folder / "evaluations.jsonl").write_text("".join(to_json(each) + "\n" for each in made_at))
    assert "dpo loss 0.693 -> 0.25" in " ".join(reasoner("runs", "list", str(folder.parent))[1].split())


def test_show_tells_what_to_do_next(reasoner: Command) -> None:
    code, text, _ = reasoner("runs", "show", "20260101-12")
    assert code == 0
    assert "finished: 3 of 3 steps" in text
    assert "reasoner export runs/20260101-120000-first --to DIR" in text
    assert "boxed_format" in text
    assert "rollouts/" in text
    assert max(len(line) for line in text.splitlines() if "reasoner " not in line) <= 80
    code, text, _ = reasoner("runs", "show", "20260202-failed")
    assert "RuntimeError: the sampler died" in text
    assert "--resume" not in text  # it has nothing to go on with


def test_show_says_how_to_go_on(reasoner: Command, made: Path, tmp_path: Path) -> None:
    folder = copy(made, tmp_path)
    (folder / "identity.json").write_text("{}")
    assert f"reasoner run --resume {folder}" in reasoner("runs", "show", str(folder))[1]


def test_compare_pairs_evaluations_and_names_settings(reasoner: Command) -> None:
    code, text, _ = reasoner("runs", "compare", "20260101-12", "20260101-13")
    assert code == 0
    flat = " ".join(text.split())
    assert "A 20260101-120000-first finished" in flat
    assert "run.steps 3 2" in flat
    assert "gro.terms.*.credit.baseline mean leave-one-out" in flat
    assert "run.output" not in text
    assert "B against A, last evaluation" in text
    assert "avg@1" in text
    code, _, errors = reasoner("runs", "compare", "20260101-12", "20260101-12")
    assert (code, errors) == (2, "error: compare takes 2 to 26 runs, got 1.\n")


def test_rm_asks_refuses_what_still_runs_and_says_what_it_freed(
    reasoner: Command, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(made, tmp_path)
    (folder / "config.toml").write_text("broken =")  # what cannot be read can be removed
    bytes_ = disk_use(folder)
    edit_json(folder / "status.json", state="running", ended=None)
    with Lock(folder):
        code, _, errors = reasoner("runs", "rm", str(folder), "--yes")
    assert (code, "still running" in errors) == (2, True)
    edit_json(folder / "status.json", state="finished")
    monkeypatch.setattr("typer.confirm", lambda text: False)
    assert reasoner("runs", "rm", str(folder))[1].endswith("nothing was removed\n")
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert "is a link" in reasoner("runs", "rm", str(link), "--yes")[2]
    assert folder.is_dir()
    code, text, _ = reasoner("runs", "rm", str(folder), "--yes")
    assert code == 0
    assert text.splitlines()[-1] == f"freed {size(bytes_)}"
    assert not folder.exists()


def test_an_evaluation_alone_is_listed_and_shown(reasoner: Command, made: Path, tmp_path: Path) -> None:
    folder = copy(made, tmp_path / "runs")
    environment = json.loads((folder / "environment.json").read_text())
    del environment["chosen"]["steps"]
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("")
    first = (folder / "evaluations.jsonl").read_text().splitlines(keepends=True)[0]
    (folder / "evaluations.jsonl").write_text(first)
    assert " eval " in reasoner("runs", "list", str(tmp_path / "runs"))[1]
    text = reasoner("runs", "show", str(folder))[1]
    assert "evaluation only" in text
    assert "Evaluation without training [95% interval]" in text


@pytest.mark.parametrize(
    "sets", [(), ("rewards.boxed_format.when=math", "evaluation.correct=boxed_format", "evaluation.threshold=0.5")]
)
def test_what_makes_a_response_correct_is_read_back_with_its_conditions(sets: tuple[str, ...], tmp_path: Path) -> None:
    config = load_config("math-gsm8k", "laptop", sets=sets).config
    folder = made_up_run(tmp_path, steps=1, problems=1, size=2, sets=sets)
    assert read_run(folder).criteria == Criterion.of_tasks(config)
    assert read_run(folder).correct == str(Criterion.of(config))


@pytest.mark.parametrize("rewards", [3, [1], [{"when": 3}], [{"source": "math", "when": "math"}], None])
def test_rewards_that_another_version_wrote_are_no_error(rewards: object, made: Path) -> None:
    saved = read_run(made / "20260202-failed")
    assert replace(saved, config={**saved.config, "rewards": rewards}).correct == "math"
