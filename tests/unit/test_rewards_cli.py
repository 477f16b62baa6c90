"""`reasoner rewards`: what is shown, self-test on reference answers, labelled cases."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel, Field, create_model

from reasoner.config import Config, RewardConfig
from reasoner.errors import DataError
from reasoner.plugins.options import field_documents
from reasoner.records import Component, Failure, Group, Message, Problem, Response, Score, ScoredGroup
from reasoner.testing.bench import bench, self_test
from reasoner.testing.cases import Case, load_cases, make_problem, make_response, score_cases
from tests.command import Cli, Outcome

PLUGIN = '''
from pydantic import Field
from reasoner import Score, hookimpl, reward


@reward("names", timeout_s=0.5)
def names(problem, response, *, unit: str, limit: int = 3, pattern: str | None = None) -> Score:
    """1.0 if the answer names the unit.

    It looks at
    the text alone.

    Args:
        unit: what must be named,
            in lower case
        limit (int): how often at most

    Raises:
        ValueError: never
    """
    if response.text == "sleep":
        import time
        time.sleep(60)
    return Score(float(response.text.count(unit)))


@hookimpl
def register_rewards():
    return [names]
'''


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "names.py"
    path.write_text(PLUGIN)
    return str(path)


class Judge:
    """A scorer without processes."""

    def __init__(self, function: Callable[[Problem, Response], Score | str | None]) -> None:
        self._function = function

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        for group in reversed(list(groups)):  # as workers do: in any order
            parts = tuple((self._component(group.problem, response),) for response in group.responses)
            yield ScoredGroup(group, parts, (None,) * len(parts))

    def _component(self, problem: Problem, response: Response) -> Component:
        score = self._function(problem, response)
        if isinstance(score, str):
            return Component("judge", 1.0, None, failure=Failure("judge", "timeout", score, 1.0), seconds=1.0)
        if score is None:
            return Component("judge", 1.0, None, seconds=0.5)
        return Component("judge", 1.0, score.value, score.parts, score.note, seconds=0.5)


def test_show_has_everything_that_one_needs_to_use_a_source(cli: Cli, plugin: str) -> None:
    outcome = cli("rewards", "show", "names", "--plugin", plugin)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[:4] == ["names", "1.0 if the answer names the unit.", "", "It looks at the text alone."]
    assert "Args:" not in lines
    assert "deadline  0.5 seconds per call" in [line.rstrip() for line in lines]
    assert f"file      {plugin}:6" in lines
    shown = [line.rstrip() for line in lines[lines.index("Options") + 1 :][:5]]
    assert shown == [
        "  unit: str, needed",
        "      what must be named, in lower case",
        "  limit: int = 3",
        "      how often at most",
        "  pattern: str | None = None",
    ]
    assert "one call  sees one response" in [line.rstrip() for line in lines]
    example = outcome.out.partition("--config file\n")[2]
    assert tomllib.loads(example) == {"rewards": [{"source": "names", "weight": 1.0, "options": {"limit": 3}}]}
    assert "# options.unit is needed: str" in example


def test_show_of_an_unknown_name_gives_the_nearest(cli: Cli) -> None:
    assert cli("rewards", "show", "mth") == Outcome(
        2, "", "error: there is no reward source 'mth'. Did you mean 'math'? See `reasoner rewards list`.\n"
    )


def test_cases_are_read_with_their_fields_and_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(
        '{"reference": 4, "response": "4", "expected": 1, "unit": "m"}\n\n'
        '{"reference": "a", "response": "", "expected": null, "question": "?"}\n'
    )
    first, second = load_cases(path)
    assert (first.problem.id, first.problem.answer, first.problem.fields["unit"]) == ("cases:1", "4", "m")
    assert (first.expected, second.expected, second.problem.messages[0].content) == (1.0, None, "?")
    for line, message in {
        "{": "line 1: not JSON",
        "3": "line 1: must be a JSON object, got int",
        '{"refrence": "1", "response": "", "expected": 1}': "'reference' is missing. Did you mean 'refrence'",
        '{"reference": "1", "response": "", "expected": true}': "'expected': must be a number or null, got True",
        '{"reference": "1", "response": 1, "expected": 1}': "'response': must be text, got int",
        "": "holds no cases",
    }.items():
        path.write_text(line)
        with pytest.raises(DataError, match=message.replace("?", r"\?")):
            load_cases(path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        load_cases(tmp_path / "none.jsonl")


def test_cases_are_read_as_training_data_is(tmp_path: Path) -> None:
    """With a byte order mark, and with characters that end lines elsewhere than in JSON lines."""
    path = tmp_path / "cases.jsonl"
    line = '{"reference": "1", "response": "a\u2028b\u0085c", "expected": 1.0}'
    path.write_text(f"\ufeff{line}\r\n{line}\n", encoding="utf-8", newline="")
    assert [case.response.text for case in load_cases(path)] == ["a\u2028b\u0085c"] * 2


def test_problems_with_one_id_are_told_apart() -> None:
    problem = make_problem("?", "1")
    judge = Judge(lambda _, response: Score(float(response.text)))
    scored = score_cases(judge, [(problem, make_response(str(n))) for n in range(5)])
    assert [parts[0].value for parts in scored] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_bench_counts_every_way_to_be_wrong() -> None:
    problem = make_problem("?", "1")
    verdicts: list[tuple[Score | str | None, float | None]] = [
        (Score(1.0), 1.0),
        (Score(0.5), 0.5),
        (None, None),
        (Score(1.0), 0.0),
        (Score(0.2), 0.3),
        (None, 1.0),
        (Score(0.0), None),
        ("too slow", 1.0),
        ("too slow", None),
    ]
    cases = [Case(problem, make_response(str(n)), expected) for n, (_, expected) in enumerate(verdicts)]
    done: list[int] = []
    result = bench(Judge(lambda _, response: verdicts[int(response.text)][0]), cases, done.append)
    kinds = ["agrees"] * 3 + ["false positive", "false negative"] + ["not applicable"] * 2 + ["failed"] * 2
    assert [verdict.kind for verdict in result.verdicts] == kinds
    assert result.accuracy == 3 / 9
    assert dict(result.failures) == {"timeout": 2}
    assert result.seconds == 2 * 1.0 + 7 * 0.5
    assert done == list(range(1, 10))


def extracting(problem: Problem, response: Response) -> Score:
    """Takes what follows `#`, or a box; the reference is what follows `#`, or the whole."""
    reference = problem.answer.rpartition("#")[2]
    text = response.text
    found = text[7:-1] if text.startswith("\\boxed{") else text.partition("#")[2] or None
    return Score(float(found == reference != "bad"), {"extracted": found, "method": "x", "reference": reference}, "no")


def test_a_self_test_scores_answers_as_given_and_boxed() -> None:
    problems = [make_problem("?", answer) for answer in ("so #4", "5", "so #bad")]
    passes: list[tuple[str, int]] = []

    def counting(what: str, total: int) -> Callable[[int], None]:
        passes.append((what, total))
        return lambda done: None

    result = self_test(Judge(extracting), problems, counting)
    assert (result.scored, result.bare) == ({"as given": 2, "boxed": 3}, 1)
    assert [(each.form, each.text, each.verdict, each.note) for each in result.rejected] == [
        ("as given", "so #bad", "0", "no"),
        ("boxed", "\\boxed{bad}", "0", "no"),
    ]
    assert passes == [("answers as given", 3), ("answers in their mark", 3)]


def test_a_source_that_extracts_nothing_is_tested_with_the_answers_as_given() -> None:
    judge = Judge(lambda problem, response: Score(float(response.text == problem.answer != "4"), {"reference": "x"}))
    result = self_test(judge, [make_problem("?", "4"), make_problem("?", "5")], lambda what, total: lambda done: None)
    assert (result.scored, result.bare) == ({"as given": 2}, 0)
    assert [(each.form, each.text) for each in result.rejected] == [("as given", "4")]


@pytest.fixture
def answers(tmp_path: Path) -> Callable[..., list[str]]:
    def write(*rows: str) -> list[str]:
        path = tmp_path / "answers.jsonl"
        path.write_text("".join(json.dumps({"question": f"{n}?", "answer": row}) + "\n" for n, row in enumerate(rows)))
        sets = [f"--set=data.{section}.path={path}" for section in ("train", "eval")]
        return ["--task", "math-gsm8k", "--profile", "laptop", *sets]

    return write


def test_reference_answers_of_a_task_are_scored_by_its_verifier(cli: Cli, answers: Callable[..., list[str]]) -> None:
    right = cli("rewards", "test", "math", *answers("so 3 + 4 = 7\n#### 7", "\\boxed{\\frac{1}{2}}", "12"))
    assert (right.code, right.err) == (0, "")
    lines = [line.split() for line in right.out.splitlines()]
    assert lines[0] == ["math", "on", "math-gsm8k,", "profile", "laptop"]
    assert lines[1] == ["problems", "3"]
    assert lines[2][:7] == ["as", "given", "2", "of", "2", "get", "1.0"]
    assert lines[3] == ["boxed", "3", "of", "3", "get", "1.0"]
    wrong = cli("rewards", "test", "math", *answers("#### 7", "there is no answer ####"))
    assert wrong.code == 1
    assert "answers:1, as given: error: ValueError" in wrong.out
    assert '  "there is no answer ####"' in wrong.out


def test_a_task_whose_data_is_not_there_is_said_and_left_out(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(config: Config, manager: object) -> list[Problem]:
        if config.task != "math-gsm8k":
            raise DataError("no hub")
        return [Problem("p:0", (Message("user", "3 + 4?"),), "7")]

    monkeypatch.setattr("reasoner.cli.inspect.reward_checks.task_problems", few)
    tested = cli("rewards", "test", "math", "--profile", "laptop")
    assert (tested.code, tested.err) == (0, "")
    assert "math on math-500: not tested: no hub" in tested.out
    assert "math on math-gsm8k, profile laptop" in tested.out
    named = cli("rewards", "test", "math", "--profile", "laptop", "--task", "aime24")
    assert (named.code, named.err) == (2, "error: no hub\n")
    monkeypatch.setattr("reasoner.cli.inspect.reward_checks._tasks", lambda *ignored: ["aime24", "aime25"])
    assert cli("rewards", "test", "math", "--profile", "laptop").code == 1


def test_a_verifier_that_no_task_uses_needs_a_task(cli: Cli, plugin: str) -> None:
    outcome = cli("rewards", "test", "names", "--plugin", plugin, "--profile", "laptop")
    assert outcome.code == 2
    assert "no registered task rewards with 'names'; name one whose answers it can check with --task" in outcome.err


def test_bench_prints_what_is_wrong_and_fails_only_when_strict(cli: Cli, plugin: str, tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    rows = [("3 km", 1), ("3 m", 1), ("km", 0), ("sleep", 0)]
    cases.write_text(
        "".join(json.dumps({"reference": "3", "response": text, "expected": value}) + "\n" for text, value in rows)
    )
    arguments = ["rewards", "bench", "names", "--plugin", plugin, "--cases", str(cases), "--options", '{unit = "km"}']
    loose = cli(*arguments)
    assert (loose.code, loose.err) == (0, "")
    text = " ".join(loose.out.split())
    for part in (
        "accuracy 25% (1 of 4)",
        "false positives 1",
        "false negatives 1",
        "failed 1 (timeout 1)",
        "responses/s per worker",
        "false positive cases:3: 1, expected 0",
        "false negative cases:2: 0, expected 1",
        "failed cases:4: timeout",
    ):
        assert part in text
    assert cli(*arguments, "--strict").code == 1
    rows = [row for row in rows if row[0] == "3 km"]
    cases.write_text(json.dumps({"reference": "3", "response": "3 km", "expected": 1}))
    assert cli(*arguments, "--strict").code == 0


def test_options_that_are_no_table_or_unknown_are_refused(cli: Cli, plugin: str, tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text('{"reference": "3", "response": "3", "expected": 1}')
    arguments = ["rewards", "bench", "names", "--plugin", plugin, "--cases", str(cases), "--options"]
    assert "--options {unit: not TOML" in cli(*arguments, "{unit").err
    assert "--options 3: must be a table" in cli(*arguments, "3").err
    outcome = cli(*arguments, '{untt = "km"}')
    assert outcome.code == 2
    assert "has no option 'untt'. Did you mean 'unit'?" in outcome.err


def test_the_reward_of_a_task_keeps_its_own_options() -> None:
    from reasoner.cli.inspect.reward_inputs import reward_of
    from reasoner.loading import load_config

    config = load_config("math-gsm8k", "laptop", sets=["rewards.math.options.extract=lenient"]).config
    assert reward_of(config, "math", None).options == {"extract": "lenient"}
    assert reward_of(config, "math", '{extract = "strict"}').options == {"extract": "strict"}
    assert reward_of(config, "other", None) == RewardConfig(source="other")


class Described(BaseModel):
    first: int = 0
    """In two
    lines."""
    second: int = Field(0, description="The description.")
    """Not this."""
    third: int = 0

    def fourth(self) -> None:
        """No field."""


def test_a_field_means_what_stands_under_it() -> None:
    """Also where the class is inside a function, or inherits the field; a model that a program made has descriptions
    alone."""

    class Inner(Described):
        """The class."""

        CONSTANT: ClassVar[int] = 1
        """No field."""
        third: int = 1
        """Redefined."""
        fifth: int = 0
        "in one word"

    own = {"first": "In two\nlines.", "second": "The description."}
    assert field_documents(Described) == own
    assert field_documents(Inner) == own | {"third": "Redefined.", "fifth": "in one word"}
    assert field_documents(create_model("Made", one=(int, 1), two=(int, Field(2, description="two")))) == {"two": "two"}


def test_no_model_reads_its_source_when_it_is_imported() -> None:
    """Every host and rank would: `field_documents` reads it when somebody asks."""
    root = Path(__file__).resolve().parents[2]
    files = [path for folder in ("reasoner", "rewards", "tasks", "plugins") for path in (root / folder).rglob("*.py")]
    assert len(files) > 400
    assert [
        path for path in files if re.search(r"use_attribute_docstrings\W*[:=]", path.read_text(encoding="utf-8"))
    ] == []
