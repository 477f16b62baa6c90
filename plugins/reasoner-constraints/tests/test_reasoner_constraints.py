"""Rules as they are read and refused, answers right and wrong, exact counts, the task's own puzzles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import reasoner_constraints
from reasoner import ConfigError, DataError, Problem, Score
from reasoner.testing import Case, attack_source, check_source, make_problem, make_response
from reasoner_constraints.puzzles import puzzles
from reasoner_constraints.rules import read_rule, solutions
from reasoner_constraints.source import constraints, final_line

PLUGIN = str(Path(reasoner_constraints.__file__))
DIGITS = {name: [1, 2, 3, 4] for name in "abc"}
PUZZLE = make_problem(
    "Which?", "a = 1, b = 2, c = 4", variables=DIGITS, rules=["a + b == 3", "a < b", "c == a + 3", "different(a, b, c)"]
)
SEVERAL = make_problem("Which?", "", variables={"x": [1, 2, 3], "y": ["red", "blue"]}, rules=["x > 1", "y != 'red'"])
UNSOLVABLE = make_problem("Which?", "none", variables=DIGITS, rules=["a < b", "b < a"])
COUNTED = make_problem("How many?", "6", variables=DIGITS, rules=["a < b", "c == 1"], ask="count")


def score(problem: Problem, text: str, **options: Any) -> Score:
    result = constraints(problem, make_response(text), **constraints.check_options(options))
    assert isinstance(result, Score)
    return result


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (PUZZLE, "a = 1, b = 2, c = 4"),
        (PUZZLE, "So a is 1.\nc: 4, b=2, a =1."),
        (PUZZLE, "<think>a = 9</think>\n\\boxed{a = 1, b = 2, c = 4}."),
        (PUZZLE, "a = 3, b = 3, c = 3\nNo, it is $\\boxed{a = 1, b = 2, c = 4}$"),
        (SEVERAL, "x = 2, y = blue"),
        (SEVERAL, "x = 3, y = blue"),
        (UNSOLVABLE, "None"),
        (COUNTED, "6"),
        (COUNTED, "\\boxed{6}"),
    ],
)
def test_every_solution_is_right(problem: Problem, text: str) -> None:
    assert (score(problem, text).value, score(problem, text).note) == (1.0, "")


@pytest.mark.parametrize(
    ("problem", "text", "note"),
    [
        (PUZZLE, "a = 2, b = 1, c = 4", "breaks a < b"),
        (PUZZLE, "a = 1, b = 2, c = 5", "c = 5 is not among its values"),
        (PUZZLE, "a = 1, b = 2", "must give a, b, c"),
        (PUZZLE, "a = 1, b = 2, c = 4, d = 1", "must give a, b, c"),
        (PUZZLE, "a = 1, b = 2, c = 4, c = 3", "no value of another variable"),
        (PUZZLE, "a = 1, b = 2, c = 4 or a = 1, b = 2, c = 3", "no value of another variable"),
        (PUZZLE, "\\boxed{a = 1, b = 2, c = 3} or \\boxed{a = 1, b = 2, c = 4}", "more than one box"),
        (PUZZLE, "\\boxed{a = 1, b = 2, c = 4", "no closed box"),
        (PUZZLE, "a = 1, b = 2, c = 4\nThat is it", "no value of another variable"),
        (PUZZLE, "<think>a = 1, b = 2, c = 4", "not closed"),
        (PUZZLE, "a = ١, b = 2, c = 4", "no value of another variable"),
        (PUZZLE, "", "no answer"),
        (PUZZLE, "none", "there is a solution"),
        (PUZZLE, "a = 1, " * 200, "longer than 500"),
        (UNSOLVABLE, "a = 1, b = 1, c = 1", "breaks a < b"),
        (COUNTED, "7", "there are 6 solutions"),
        (COUNTED, "٦", "there are 6 solutions"),
        (COUNTED, "6, 7", "there are 6 solutions"),
    ],
)
def test_what_is_no_solution_gets_nothing_and_why_is_said(problem: Problem, text: str, note: str) -> None:
    result = score(problem, text)
    assert result.value == 0.0
    assert note in result.note


def test_a_box_can_be_demanded() -> None:
    assert score(PUZZLE, PUZZLE.answer, boxed=True).value == 0.0
    assert score(PUZZLE, f"\\boxed{{{PUZZLE.answer}}}", boxed=True).value == 1.0
    assert final_line("a\n\\boxed{b}", boxed=True) == ("b", "")


@pytest.mark.parametrize(
    ("rule", "values", "holds"),
    [
        ("a + 2 * b == 7", {"a": 1, "b": 3}, True),
        ("1 < a <= b", {"a": 1, "b": 3}, False),
        ("a == 2 or not b == 3", {"a": 1, "b": 3}, False),
        ("abs(a - b) == max(a, b) - min(a, b)", {"a": 1, "b": 3}, True),
        ("b // a == 3 and b % 2 == 1", {"a": 1, "b": 3}, True),
        ("b % (a - 1) == 0", {"a": 1, "b": 3}, False),
        ("different(a, b, -a)", {"a": 1, "b": 3}, True),
        ("a * 3 == 'xxx'", {"a": "x", "b": 3}, False),
        ("a == 'x'", {"a": "x", "b": 3}, True),
        ("a < b", {"a": "x", "b": 3}, False),
    ],
)
def test_rules_are_read_as_expressions(rule: str, values: Mapping[str, Any], holds: bool) -> None:
    assert read_rule(rule, frozenset("ab")).holds(values) is holds


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("a +", "no expression"),
        ("a = 3", "no expression"),
        ("a == d", "there is no 'd'"),
        ("a ** 99999999 > 1", "Pow is not known"),
        ("a.real == 1", "Attribute is not known"),
        ("open('x')", "there is no 'open'"),
        ("__import__('os')", "there is no '__import__'"),
        ("(lambda: 1)() == a", "keywords are not known|Lambda"),
        ("[a][0] == 1", "List is not known|Subscript is not known"),
        ("max(a, key=abs)", "keywords are not known|keyword"),
        ("f'{a}' == '1'", "JoinedStr is not known"),
        ("a == 1.5", "no whole number or text"),
        ("a == True", "no whole number or text"),
        ("(" * 250 + "a" + ")" * 40, "no expression"),
        ("a == 1 or " * 40 + "a == 2", "longer than 300"),
    ],
)
def test_what_a_rule_may_not_hold_is_refused(rule: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_rule(rule, frozenset("abc"))


def test_the_enumeration_is_exact() -> None:
    rules = [read_rule(text, frozenset("abc")) for text in ("a + b >= c", "different(a, b)", "c % 2 == 0")]
    domains = {name: tuple(values) for name, values in DIGITS.items()}
    found = [tuple(solution.values()) for solution in solutions(domains, rules)]
    brute = [
        values
        for values in product(*domains.values())
        if all(rule.holds(dict(zip(domains, values, strict=True))) for rule in rules)
    ]
    assert found == brute
    assert len(found) > 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "'variables' must be a table"),
        ({"variables": {"a": []}, "rules": ["a == 1"]}, "'variables' must be a table"),
        ({"variables": {"a": [1.5]}, "rules": ["a == 1"]}, "'variables' must be a table"),
        ({"variables": {"a": [1]}, "rules": []}, "'rules' must be a list"),
        ({"variables": {"a": [1]}, "rules": ["b == 1"]}, "there is no 'b'"),
        ({"variables": {"a": [1]}, "rules": ["a == 1"], "ask": "all"}, "'ask' must be one of"),
        ({"variables": {"a": [1, 2]}, "rules": ["a > 0"]}, "every assignment is a solution"),
        ({"variables": {"a": [1, 2]}, "rules": ["a > 1"], "reference": "a = 1"}, "the reference answer is wrong"),
        (
            {"variables": {name: list(range(60)) for name in "abcd"}, "rules": ["a + b + c + d == 500"]},
            "more than 500 steps",
        ),
    ],
)
def test_a_puzzle_that_cannot_be_judged_is_refused(
    fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoner_constraints.rules.MOST_STEPS", 500)
    assert constraints.check_problem is not None
    problem = make_problem("?", fields.pop("reference", ""), **fields)
    with pytest.raises(ValueError, match=message):
        constraints.check_problem(problem, constraints.options())


def test_it_keeps_the_contract_in_workers() -> None:
    cases = [Case(PUZZLE, make_response(PUZZLE.answer), 1.0), Case(PUZZLE, make_response("a = 1, b = 2, c = 3"), 0.0)]
    checklist = check_source(constraints, cases, plugins=[PLUGIN])
    assert checklist.passed, str(checklist)


def test_shortcuts_are_not_paid() -> None:
    problems = [make_problem(**row) for row in puzzles(4, 5)]
    report = attack_source(constraints, problems, plugins=[PLUGIN])
    assert report.problems == 4
    assert [item.attack.text for item in report.wrong] == []


def test_the_puzzles_of_the_task_have_one_solution() -> None:
    assert constraints.check_problem is not None
    rows = [json.loads(json.dumps(row)) for row in puzzles(60, 3)]
    assert len({row["question"] for row in rows}) == 60
    for row in rows:
        problem = make_problem(**row)
        assert constraints.check_problem(problem, constraints.options()) == "one solution"
        assert score(problem, row["answer"]).value == 1.0


def test_options_of_the_puzzles_are_checked() -> None:
    for largest in (2, 31, True, "6"):
        with pytest.raises(ConfigError, match="from 3 to 30"):
            list(puzzles(1, 1, largest=largest))  # type: ignore[arg-type]


def test_more_puzzles_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (same,) = puzzles(1, 1)
    monkeypatch.setattr("reasoner_constraints.puzzles._puzzle", lambda draw, largest: same)
    with pytest.raises(DataError, match="only 1 different ones"):
        list(puzzles(2, 1))
