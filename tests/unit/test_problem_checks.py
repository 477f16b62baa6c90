"""Problems are tried before a run: what a source refuses stops it, and names the problem."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasoner import Problem, RewardSource, reward
from reasoner.errors import UserError
from reasoner.loading import load_config
from reasoner.planning.problem_checks import SAMPLE, ProblemChecks, check_problems, check_sample
from reasoner.testing import make_problem
from tests.command import Cli
from tests.resources import resources_of

PLUGIN = '''
from reasoner import hookimpl, reward


def _check(problem, options):
    if problem.answer in options.refused:
        raise ValueError(f"problem {problem.id!r}: {problem.answer} is none")
    return "fine"


@reward("checking", check_problem=_check)
def checking(problem, response, *, refused: tuple[str, ...] = ()) -> float:
    """1.0 for anything."""
    return 1.0


@hookimpl
def register_rewards():
    return [checking]
'''


def source(check: Any) -> RewardSource:
    @reward("own", check_problem=check)
    def own(problem: object, response: object, *, bad: str = "3") -> float:
        return 1.0

    return own


def problems(count: int) -> list[Problem]:
    return [replace(make_problem("?", str(n)), id=f"p{n}") for n in range(count)]


def refusing(problem: Problem, options: Any) -> str:
    if problem.answer == options.bad:
        raise ValueError(f"problem {problem.id!r}: cannot be judged")
    return "even" if int(problem.answer) % 2 == 0 else "odd"


def test_all_problems_are_tried_with_the_checked_options_and_counted() -> None:
    done: list[int] = []
    result = check_problems(source(refusing), {}, problems(5), progress=done.append)
    assert done == [1, 2, 3, 4, 5]
    assert result == ProblemChecks(Counter(even=3, odd=1), (("p3", "problem 'p3': cannot be judged"),), 5)
    assert str(result) == "3 even, 1 odd, 1 that cannot be judged"
    result = check_problems(source(refusing), {"bad": "0"}, problems(5))
    assert result is not None
    assert [id_ for id_, _ in result.refused] == ["p0"]


def test_a_source_without_such_a_check_says_nothing() -> None:
    assert check_problems(source(None), {}, problems(3)) is None
    assert check_sample(source(None), {}, problems(3), 0) == ""
    assert check_sample(source(refusing), {}, [], 0) == ""


def test_without_time_nothing_more_is_begun() -> None:
    result = check_problems(source(refusing), {}, problems(5), budget_s=-1.0)
    assert result == ProblemChecks(Counter(), (), 5)
    assert str(result) == "0 of 5 problems tried: "


def test_a_run_tries_a_sample_that_its_seed_chooses() -> None:
    tried: dict[int, set[str]] = {0: set(), 1: set()}
    for seed, ids in tried.items():

        def check(problem: Problem, options: Any, ids: set[str] = ids) -> str:
            ids.add(problem.id)
            return "fine"

        assert check_sample(source(check), {}, problems(100), seed) == f"{SAMPLE} of 100 problems tried: {SAMPLE} fine"
        assert check_sample(source(check), {}, problems(100), seed) is not None
        assert len(ids) == SAMPLE
    assert tried[0] != tried[1]


def test_a_sample_with_a_refused_problem_is_an_error_that_names_it() -> None:
    assert check_sample(source(refusing), {}, problems(3), 0) == "2 even, 1 odd"
    with pytest.raises(UserError) as caught:
        check_sample(source(refusing), {}, problems(5), 0)
    assert "'own' cannot judge 1 of 5 problems that were tried:\n  problem 'p3': cannot be judged" in str(caught.value)
    assert "reasoner rewards test own" in str(caught.value)


def test_a_check_that_breaks_is_an_error_that_names_the_problem() -> None:
    def broken(problem: Problem, options: Any) -> str:
        raise KeyError("x")

    with pytest.raises(UserError, match="'own': trying problem 'p0' failed: KeyError: 'x'"):
        check_problems(source(broken), {}, problems(1))


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """`--plugin` and `--config` of a run with `checking` on a few problems."""
    (tmp_path / "own.py").write_text(PLUGIN)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"{n}?", "answer": str(n)}) + "\n" for n in range(4)))
    (tmp_path / "own.toml").write_text(
        f'[[rewards]]\nsource = "checking"\n[data.eval]\npath = "{rows}"\n[evaluation]\ncorrect = "checking"\n'
        f'[data.train]\npath = "{rows}"\n[data]\noverlap = "allow"\n'
    )
    return ["--plugin", str(tmp_path / "own.py"), "--config", str(tmp_path / "own.toml")]


@pytest.mark.parametrize("training", [True, False])
def test_a_run_and_an_evaluation_are_refused_before_a_model_is_looked_for(own: list[str], training: bool) -> None:
    config, sets = Path(own[3]), ["model.path=/nowhere", "model.device=cpu", "sampling.engine=hf"]
    with pytest.raises(UserError, match="/nowhere"):
        resources_of(load_config("math-gsm8k", "laptop", [config], sets=sets, plugins=own[1:2]), training=training)
    config.write_text(config.read_text().replace('"checking"\n', '"checking"\noptions.refused = ["2"]\n', 1))
    with pytest.raises(UserError, match=r"'checking' cannot judge \d of \d problems that were tried:\n.*: 2 is none\n"):
        resources_of(load_config("math-gsm8k", "laptop", [config], sets=sets, plugins=own[1:2]), training=training)


def test_rewards_test_tries_all_and_names_what_cannot_be_judged(cli: Cli, own: list[str]) -> None:
    rows = str(Path(own[1]).with_name("rows.jsonl"))
    sets = ["--set", f"data.train.path={rows}", "--set", f"data.eval.path={rows}", "--set", "data.overlap=allow"]
    arguments = ("rewards", "test", "checking", "--task", "math-gsm8k", "--profile", "laptop", *own[:2], *sets)
    right = cli(*arguments)
    assert (right.code, right.err) == (0, "")
    assert "tried: 4 fine" in right.out
    wrong = cli(*arguments, "--options", '{refused = ["2", "3"]}')
    assert wrong.code == 1
    assert "tried: 2 fine, 2 that cannot be judged" in wrong.out
    assert ": 2 is none" in wrong.out
    assert ": 3 is none" in wrong.out
