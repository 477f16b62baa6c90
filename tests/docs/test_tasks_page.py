"""`docs/tasks.md` followed literally: its files, its commands; the model is a tiny one, so that it takes seconds."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from reasoner.__main__ import main
from reasoner.config import OfflineConfig, PromptConfig, SourceConfig
from reasoner.data.offline import read_offline
from reasoner.data.problems import load_held_out
from reasoner.data.readers import READERS
from reasoner.data.row_report import RowReport
from reasoner.loading import load_config
from reasoner.records import Message
from reasoner.runs.folder import read_evaluations, read_metrics
from tests.sources import load_problems
from tests.tiny import build_tiny_model

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w.-]+)`:\n\n```\w+\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def test_ten_lines_are_ten_lines() -> None:
    assert list(FILES) == ["train.jsonl", "test.jsonl", "my-task.toml"]
    assert len(FILES["my-task.toml"].splitlines()) == 10
    assert [command[:3] for command in COMMANDS[:3]] == [
        ["reasoner", "run", "my-task.toml"],
        ["reasoner", "run", "my-task.toml"],
        ["reasoner", "eval", "my-task.toml"],
    ]


def test_the_table_has_every_format() -> None:
    assert set(re.findall(r"^\| `(\.\w+)` \|", PAGE, flags=re.MULTILINE)) == set(READERS)


@pytest.mark.slow
def test_the_commands_do_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def reasoner(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["reasoner", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        assert not ended.value.code, shown.err
        return shown.out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name, text in FILES.items():
        Path(name).write_text(text)
    dry_run, run, evaluate = (command[1:] for command in COMMANDS[:3])
    plan = reasoner(*dry_run)
    assert "4 from train.jsonl" in plan
    assert "2 from test.jsonl" in plan
    tiny = build_tiny_model(tmp_path / "tiny")
    quick = [f"--set=sampling.{choice}" for choice in ("engine=hf", "max_tokens=8", "max_prompt_tokens=256")]
    reasoner(*run, "--set", f"model.path={tiny}", *quick)
    (folder,) = Path("runs").iterdir()
    assert len(read_metrics(folder)) == 2
    assert [evaluated.step for evaluated in read_evaluations(folder)] == [0, 2]
    reasoner(*[argument.replace("runs/RUN", str(folder)) for argument in evaluate], *quick)


def test_the_prompt_of_a_base_model_is_written_as_the_page_has_it(tmp_path: Path) -> None:
    (plain,) = re.findall(r'^```toml\n(prompt\.format = "plain"\n.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "plain.toml").write_text(plain)
    (tmp_path / "rows.jsonl").write_text(FILES["test.jsonl"])
    sets = [f"data.{name}.path={tmp_path / 'rows.jsonl'}" for name in ("train", "eval")]
    config = load_config("math-gsm8k", "laptop", [tmp_path / "plain.toml"], sets).config
    problems = load_held_out(config.data, config.prompt, {})
    (text,) = {problem.messages[0].content for problem in problems if "book" in problem.messages[0].content}
    assert text == (
        "Problems, and their solutions in a few words.\n\nProblem: A pen costs 2 euros. What do 3 pens cost?\n"
        "Solution: 3 x 2 = 6. \\boxed{6}\n\nProblem: A book costs 7 euros. What do 2 books cost?\nSolution:"
    )


BLOCKS = re.findall(r"^```(json|toml)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = [(row, table) for (kind, row), (_, table) in pairwise(BLOCKS) if kind == "json" and table.startswith("[")]


def test_the_other_settings_load(tmp_path: Path) -> None:
    tables = [block for kind, block in BLOCKS if kind == "toml" and block.startswith("[")]
    assert len(tables) == len(EXAMPLES) + 3
    for table in tables:
        own = tmp_path / "own.toml"
        own.write_text(table)
        assert load_config("math-gsm8k", "laptop", [own]).config.data.train is not None


def test_rows_of_trl_and_verl_and_multiple_choice_load_as_the_page_says(tmp_path: Path) -> None:
    user = (Message("user", "What is 2 + 2?"),)
    quiz = (Message("user", "Which one is a colour?\n\nA. seven\nB. red"),)
    expected = [(user, "4"), (user, "4"), (quiz, "B")]
    assert len(EXAMPLES) == 4
    for row, table in EXAMPLES:
        ((name, settings),) = tomllib.loads(table)["data"].items()
        (tmp_path / "rows.jsonl").write_text(row)
        settings["path"] = str(tmp_path / "rows.jsonl")
        if name == "train":
            (problem,) = load_problems(SourceConfig(**settings), PromptConfig(), {}, 0)
            assert (problem.messages, problem.answer) == expected.pop(0)
        else:
            report = RowReport()
            rows = read_offline("pairs", OfflineConfig(**settings), PromptConfig(), {}, 0, None, report)
            (written,) = rows.written
            assert (written.messages, [each.text for each in written.completions]) == (user, ["4", "5"])
            assert report.settle() == ()


def test_the_quiz_is_read_as_the_page_says(tmp_path: Path) -> None:
    (line,) = re.findall(r'^path = "quiz.jsonl" +# (.*)$', PAGE, re.MULTILINE)
    (table,) = [block for kind, block in BLOCKS if kind == "toml" and "quiz.jsonl" in block]
    (tmp_path / "quiz.jsonl").write_text(line)
    settings = tomllib.loads(table)["data"]["train"] | {"path": str(tmp_path / "quiz.jsonl")}
    (problem,) = load_problems(SourceConfig(**settings), PromptConfig(), {}, 0)
    assert (problem.answer, problem.fields["text"]) == ("B", "blue")
