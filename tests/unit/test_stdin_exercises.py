"""The generated exercises: different, reproducible, and solved by their own reference programs."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest

from reasoner.errors import ConfigError, DataError
from reasoner_tasks import register_generators
from reasoner_tasks.stdin_exercises import stdin_exercises
from reasoner_tasks.stdin_kinds import KINDS, LEVELS, ExerciseNumbers


def rows(count: int, seed: int = 0, **options: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in stdin_exercises(count, seed, **options)]


def printed(program: str, text: str) -> str:
    lines = iter(text.splitlines())
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(program, {"input": lambda: next(lines)})
    return out.getvalue()


def test_it_is_registered() -> None:
    assert register_generators()["stdin_exercises"] is stdin_exercises


def test_the_same_seed_gives_the_same_exercises_and_another_seed_others() -> None:
    assert rows(30, 1) == rows(30, 1)
    assert {row["question"] for row in rows(60, 1)}.isdisjoint(row["question"] for row in rows(60, 2))


def test_all_are_different_and_levels_take_turns() -> None:
    result = rows(300)
    assert len({row["question"].partition("\n\nExample")[0] for row in result}) == 300
    assert [row["level"] for row in result[:6]] == [*LEVELS, *LEVELS]
    assert {row["kind"] for row in result} == {kind.name for kind in KINDS}
    assert {row["level"] for row in rows(30, levels=[2])} == {2}


def test_reference_programs_print_what_was_computed_without_them() -> None:
    for row in rows(600):
        assert len(row["tests"]) == 5, row["question"]
        for test in row["tests"]:
            assert printed(row["answer"], test["input"]) == test["output"], (row["question"], test)
        _, example = row["question"].split("\n\nExample input:\n")
        given, expected = example.split("\nExample output:\n")
        assert printed(row["answer"], given) == expected + "\n"
        assert given + "\n" not in {test["input"] for test in row["tests"]}


def test_no_constant_solves_an_exercise() -> None:
    assert all(len({test["output"] for test in row["tests"]}) > 1 for row in rows(600, 3))


@pytest.mark.parametrize(
    ("kind", "given", "right"),
    [
        ("remainder", "100", "1"),
        ("sum_plus", "-3 5", "35"),
        ("compare", "33", "small"),
        ("sum_of_list", "3\n33 34 40", "74"),
        ("sorted_without", "4\n33 5 33 2", "2 5"),
        ("sorted_without", "1\n33", "none"),
        ("count_up", "3", "33\n66\n99"),
        ("count_down", "6", "6\n5\n4"),
        ("replace_vowels", "apple tea", "4ppl4 t44"),
        ("reverse_words", "a b", "b a word"),
        ("digit_sum", "204", "198"),
        ("gcd", "12 18", "39"),
        ("primes", "11", "3"),
        ("fizz", "4", "1\n2\n3\nword"),
        ("in_base", "18", "102"),
        ("caesar", "xyz a", "bcd e"),
        ("palindrome", "never odd or even", "word"),
        ("palindrome", "ab", "4"),
        ("runs", "aab", "a2b1 word"),
        ("brackets", "(())()", "word"),
        ("brackets", ")(", "4"),
        ("most_frequent", "5\n3 1 1 3 2", "34"),
    ],
)
def test_outputs_are_those_of_the_question(kind: str, given: str, right: str) -> None:
    """Worked out by hand, for the variable n, the numbers 33 and 4, `word` and `e`."""

    (result,) = [each for each in KINDS if each.name == kind]
    assert result.solve(given, ExerciseNumbers("n", 33, 4, "word", "e")) == right


def test_what_it_cannot_give_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"options\.levels of stdin_exercises must be some of \[1, 2, 3\], got \[4\]"):
        rows(1, levels=[4])
    with pytest.raises(ConfigError, match=r"got \[\]"):
        rows(1, levels=[])
    with pytest.raises(
        DataError, match=r"stdin_exercises has only \d+ different exercises: lower the limit, or add levels"
    ):
        rows(5000, levels=[2])
