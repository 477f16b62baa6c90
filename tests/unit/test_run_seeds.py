"""The script that runs several seeds: what it starts, what it resumes, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import run_seeds
from tests.made_up import edit_json, made_up_run


def test_a_finished_seed_is_left_alone_and_an_interrupted_one_resumed(tmp_path: Path) -> None:
    def arguments() -> list[str]:
        return run_seeds.run_arguments(tmp_path / "seed-3", 3, "math-gsm8k", "laptop", ["--steps", "4"])

    new = ["run", "math-gsm8k", "--profile", "laptop", "--set", "run.seed=3", "--output", str(tmp_path / "seed-3")]
    assert arguments() == [*new, "--steps", "4"]
    folder = made_up_run(tmp_path / "seed-3", steps=2, problems=1, size=2)
    assert arguments() == []
    edit_json(folder / "status.json", state="interrupted")
    assert arguments() == [*new, "--steps", "4"]  # there is no checkpoint to go on from
    (folder / "identity.json").write_text("{}")
    (folder / "checkpoints" / "step-000001").mkdir()
    (folder / "checkpoints" / "step-000001" / "manifest.json").write_text("{}")
    assert arguments() == ["run", "--resume", str(folder)]


def test_the_table_has_every_finished_seed_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up_run(tmp_path / "seed-0", steps=2, problems=1, size=2, gain=0.9, every=2)
    made_up_run(tmp_path / "seed-1", steps=2, problems=1, size=2, gain=0.0, every=2, seed=1)
    table = tmp_path / "seeds.md"
    command = ["run_seeds", "math-gsm8k", "--profile", "laptop", "--output", str(tmp_path), "--seeds", "0,1,2"]
    monkeypatch.setattr("sys.argv", [*command, "--only-table", "--table", str(table)])
    with pytest.raises(SystemExit) as ended:
        run_seeds.main()
    assert ended.value.code == 1
    text = table.read_text()
    assert "| 0 | " in text and "| 1 | " in text and "| 2 | " not in text  # noqa: PT018
    assert "| **mean of 2** | " in text
    assert "The rise is beyond noise in 1 of 2 runs." in text
    assert "1 more seeds were asked for and are not finished." in text
    assert "did not rise beyond noise: seeds 1" in capsys.readouterr().out


def test_what_stands_behind_two_dashes_goes_to_the_run() -> None:
    """Options of ours before the dashes, options of `reasoner run` behind them, and none."""
    own = ["math-gsm8k", "--profile", "laptop", "--output", "runs/seeds", "--seeds", "0"]
    options, further = run_seeds.parse_arguments([*own, "--", "--set", "sampling.max_staleness=4", "--steps", "2"])
    assert (options.task, options.seeds) == ("math-gsm8k", "0")
    assert further == ["--set", "sampling.max_staleness=4", "--steps", "2"]
    assert run_seeds.parse_arguments(own)[1] == []
    with pytest.raises(SystemExit):
        run_seeds.parse_arguments([*own, "--steps", "2"])
