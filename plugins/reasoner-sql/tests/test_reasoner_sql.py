"""Queries that are right and wrong, on several databases; what may not run; the shortcuts; the task's own problems."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import reasoner_sql
from reasoner import DataError, Problem, Response, Score
from reasoner.testing import Case, attack_source, check_source, make_problem, make_response
from reasoner_sql.problems import KINDS, sql_problems
from reasoner_sql.source import query_in, same, sql

pytest_plugins = ["reasoner.testing.pytest_plugin"]
PLUGIN = str(Path(reasoner_sql.__file__))
TABLE = "CREATE TABLE pets (id INTEGER, name TEXT, age REAL);"
DATABASES = [
    f"{TABLE} INSERT INTO pets VALUES (1, 'Rex', 3), (2, 'Tom', 5.0), (3, 'Ann', 7);",
    f"{TABLE} INSERT INTO pets VALUES (1, 'Rex', 8), (2, 'Tom', 1), (3, 'Ann', NULL), (4, 'Rex', 9);",
]
NAMES = make_problem("Which pets are older than 4?", "SELECT name FROM pets WHERE age > 4", databases=DATABASES)
SORTED = make_problem(
    "The pets by age?", "SELECT name, age FROM pets ORDER BY age, name", databases=DATABASES, ordered=True
)


def score(problem: Problem, text: str, **options: Any) -> Score:
    result = sql(problem, make_response(text), **sql.check_options(options))
    assert isinstance(result, Score)
    return result


@pytest.mark.parametrize(
    "query",
    [
        "SELECT name FROM pets WHERE age > 4",
        "```sql\nselect NAME as n from pets where not age <= 4 order by id desc;\n```",
        "Tables first.\n```sql\nSELECT 1\n```\nNo:\n```\nSELECT p.name FROM pets p WHERE p.age >= 4.5\n```",
        "<think>SELECT 1</think>WITH old AS (SELECT * FROM pets WHERE age > 4) SELECT name FROM old",
    ],
)
def test_a_query_with_the_same_rows_is_right(query: str) -> None:
    assert score(NAMES, query) == Score(1.0, {"query": query_in(query.rpartition("</think>")[2]), "rows": [2, 2]}, "")


@pytest.mark.parametrize(
    ("query", "note"),
    [
        ("SELECT name FROM pets WHERE age > 5", "other rows on database 1"),
        ("SELECT name FROM pets WHERE age > 4 AND id > 1", "other rows on database 2"),
        ("SELECT DISTINCT name FROM pets WHERE age > 4", "other rows on database 2"),
        ("SELECT name, age FROM pets WHERE age > 4", "other rows on database 1"),
        ("SELECT 'Tom' UNION SELECT 'Ann'", "other rows on database 2"),
        ("SELECT name FROM pet", "no such table"),
        ("SELECT", "incomplete input"),
        ("", "no query"),
        ("<think>SELECT name FROM pets WHERE age > 4", "not closed"),
        ("```sql\nSELECT name FROM pets WHERE age > 4", "no query"),
        ("```python\nSELECT name FROM pets WHERE age > 4\n```", "no query"),
        ("SELECT name FROM pets WHERE age > 4 " + " " * 20_000 + "--", "too long"),
        ("SELECT name FROM pets WHERE age > 4; SELECT 1", "one statement"),
        ("DELETE FROM pets", "not authorized"),
        ("UPDATE pets SET age = 5", "not authorized"),
        ("INSERT INTO pets VALUES (1, 'x', 5) RETURNING name", "not authorized"),
        ("CREATE TABLE t AS SELECT name FROM pets WHERE age > 4", "not authorized"),
        ("ATTACH 'job.json' AS other", "not authorized"),
        ("PRAGMA table_info(pets)", "not authorized"),
        ("SELECT load_extension('x')", "not authorized"),
        ("SELECT random()", "not authorized"),
        ("SELECT '\ud800'", "UnicodeEncodeError"),
        ("SELECT zeroblob(2000000)", "too big"),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n", "more than 1000 rows"),
    ],
)
def test_what_is_no_right_query_gets_nothing_and_why_is_said(query: str, note: str) -> None:
    result = score(NAMES, query)
    assert result.value == 0.0
    assert note in result.note


def test_a_query_without_end_is_stopped() -> None:
    result = score(
        NAMES, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT MAX(i) FROM n", timeout_s=1.0
    )
    assert (result.value, result.note[:20]) == (0.0, "stopped at the limit")


def test_the_order_of_rows_counts_where_it_is_asked_for() -> None:
    backwards = "SELECT name, age FROM pets ORDER BY age DESC, name"
    assert score(SORTED, "SELECT name, age FROM pets ORDER BY age, name").value == 1.0
    assert score(SORTED, backwards).value == 0.0
    loose = make_problem("?", SORTED.answer, databases=DATABASES)
    assert [score(loose, backwards, ordered=ordered).value for ordered in (False, True)] == [1.0, 0.0]
    null = make_problem("?", SORTED.answer, databases=DATABASES, ordered=None)
    assert [score(null, backwards, ordered=ordered).value for ordered in (False, True)] == [1.0, 0.0]
    never = make_problem("?", SORTED.answer, databases=DATABASES, ordered=False)
    assert score(never, backwards, ordered=True).value == 1.0


@pytest.mark.parametrize(
    ("rows", "wanted", "bags", "lists"),
    [
        ([[1, "a"], [2, None]], [[2.0, None], [1, "a"]], True, False),
        ([[0.1 + 0.2]], [[0.3]], True, True),
        ([[0.3001]], [[0.3]], False, False),
        ([[1], [1]], [[1]], False, False),
        ([["1"]], [[1]], False, False),
        ([[None]], [[0]], False, False),
        ([[{"hex": "00ff"}]], [[{"hex": "00ff"}]], True, True),
        ([], [], True, True),
        ([[0.9138473395000017]], [[0.9138473394999982]], True, True),  # on two sides of where nine digits are rounded
        ([[0.9138473395000017, 1], [0.1, 2]], [[0.1, 2], [0.9138473394999982, 1]], True, False),
        ([[1.0, 2.0], [1.0 + 1e-12, 1.0]], [[1.0 + 1e-12, 2.0], [1.0, 1.0]], True, True),
        ([[1.0, 2.0], [1.0, 1.0]], [[1.0, 2.0], [1.0, 2.0]], False, False),
        ([[1.00000001]], [[1.0]], False, False),
        ([[1234567890123.0]], [[1234567890123]], True, True),
        ([[10**15]], [[10**15 + 1]], False, False),
        ([[1, "a"]], [["a", 1]], False, False),
        ([[1]], [[1, 1]], False, False),
    ],
)
def test_rows_are_compared_by_value(
    rows: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]], bags: bool, lists: bool
) -> None:
    assert (same(rows, wanted, False), same(rows, wanted, True)) == (bags, lists)


@pytest.mark.parametrize(
    ("fields", "answer", "message"),
    [
        ({}, "SELECT 1", "must be a list of two SQL scripts"),
        ({"databases": DATABASES[:1]}, "SELECT 1", "must be a list of two SQL scripts"),
        ({"databases": DATABASES}, "SELECT x FROM pets", "the reference query fails: OperationalError: no such column"),
        ({"databases": DATABASES}, "SELECT 1", "the same rows on all databases"),
        ({"databases": DATABASES, "ordered": "false"}, "SELECT name FROM pets", "'ordered' must be true, false or"),
    ],
)
def test_a_problem_that_cannot_judge_is_refused(fields: Mapping[str, Any], answer: str, message: str) -> None:
    assert sql.check_problem is not None
    with pytest.raises(ValueError, match=message):
        sql.check_problem(make_problem("?", answer, **fields), sql.options())


def test_it_keeps_the_contract_in_workers(score_in_worker: Any) -> None:
    cases = [
        Case(NAMES, make_response(NAMES.answer), 1.0),
        Case(NAMES, make_response("SELECT name FROM pets"), 0.0),
    ]
    checklist = check_source(sql, cases, plugins=[PLUGIN])
    assert checklist.passed, str(checklist)


def test_shortcuts_are_not_paid() -> None:
    """On the kinds of the task that have numbers in them: near misses of these give other rows."""
    problems = [make_problem(**row) for row in sql_problems(2, 5)]
    report = attack_source(sql, problems, plugins=[PLUGIN])
    assert report.problems == 2
    assert [item.attack.text for item in report.wrong] == []


def test_the_problems_of_the_task_can_be_told_from_their_near_misses() -> None:
    """Every reference is right, differs between databases, and `>` is not `>=`."""
    assert sql.check_problem is not None
    rows = [json.loads(json.dumps(row)) for row in sql_problems(24, 3)]
    problems = [make_problem(**row) for row in rows]
    assert len({problem.messages for problem in problems}) == len(problems)
    for problem in problems:
        assert sql.check_problem(problem, sql.options()) == "different results"
        assert score(problem, problem.answer).value == 1.0
    assert len({row["answer"].partition(" WHERE")[0] for row in rows}) >= len(KINDS) - 2
    more = next(problem for problem in problems if "price > " in problem.answer)
    assert score(more, more.answer.replace(" > ", " >= ")).value == 0.0


def test_more_problems_than_there_are_are_refused() -> None:
    with pytest.raises(DataError, match=r"only \d+ different problems"):
        list(sql_problems(10_000, 1))


def test_responses_are_kept_short() -> None:
    text = "SELECT name FROM pets WHERE name <> '" + "x" * 5000 + "'"
    assert len(score(NAMES, text).parts["query"]) == 500
    assert isinstance(make_response(text), Response)
