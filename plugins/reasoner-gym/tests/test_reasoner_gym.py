"""Every dataset gives JSON rows whose reference answer its own scorer accepts; answers, options, refusals."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reasoner_gym
from reasoner import ConfigError, DataError, Problem, Score
from reasoner.testing import Case, check_source, make_problem, make_response
from reasoner_gym.answers import MOST, Extract, final_answer
from reasoner_gym.datasets import make, names
from reasoner_gym.family import toml
from reasoner_gym.generator import DATED, MANY, UNSTABLE, drawing, reasoning_gym
from reasoner_gym.plain import from_plain, to_plain
from reasoner_gym.source import reasoning_gym as source

PLUGIN = str(Path(reasoner_gym.__file__))

NO_REFERENCE = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
"""datasets that give no answer, only a scorer"""
ARC_LEAVES_ITS_FILE_OPEN = pytest.mark.filterwarnings(
    "ignore:.*arcagi:pytest.PytestUnraisableExceptionWarning", "ignore:unclosed file.*arcagi:ResourceWarning"
)


@cache
def rows_of(name: str) -> Sequence[Mapping[str, Any]]:
    """The first rows of a dataset: enough that those of an unstable one differ from process to process."""
    return list(reasoning_gym(6 if name in UNSTABLE else 2, 1, name=name))


def problems(name: str, count: int = 2, seed: int = 1, **config: Any) -> list[Problem]:
    """Problems as a run has them after they were written and read."""
    is_usual = (count, seed, config) == (2, 1, {})
    rows = rows_of(name)[:2] if is_usual else reasoning_gym(count, seed, name=name, config=config)
    return [make_problem(**json.loads(json.dumps(row, allow_nan=False))) for row in rows]


def score(problem: Problem, text: str, name: str, extract: Extract = "auto") -> Score:
    result = source(problem, make_response(text), name=name, extract=extract)
    assert isinstance(result, Score)
    return result


@ARC_LEAVES_ITS_FILE_OPEN
def test_every_dataset_accepts_its_own_reference_answers() -> None:
    less = {}
    for name in names():
        values = [
            score(problem, f"So it is \\boxed{{{problem.answer}}}.", name).value
            for problem in problems(name)
            if problem.answer != MANY
        ]
        if values != [1.0, 1.0]:
            less[name] = values
    print("datasets whose reference answer is not given, or not accepted in a box:", less)  # noqa: T201
    assert less == {name: [] for name in sorted(NO_REFERENCE)}


@ARC_LEAVES_ITS_FILE_OPEN
@pytest.mark.parametrize(
    "name", ["arc_agi", "codeio", "graph_color", "gsm_symbolic", "knights_knaves", "rearc", "sudoku"]
)
def test_a_row_scores_as_the_entry_it_was_made_of(name: str) -> None:
    import reasoning_gym as library

    for problem in problems(name):
        index = problem.fields["index"]
        dataset = make(name, {}, seed=first_seed(1), size=2)
        with drawing(first_seed(1) + index):
            entry = dataset[index]
        assert from_plain(problem.fields["metadata"]) == entry["metadata"]
        fresh = library.create_dataset(name)
        for answer in (entry["answer"] or json.dumps(entry["metadata"].get("possible_answer")), "17", "no idea"):
            expected = fresh.score_answer(answer, entry)
            assert score(problem, f"<answer>{answer}</answer>", name).value == expected


def first_seed(seed: int) -> int:
    return random.Random(f"reasoning_gym:{seed}").randrange(2**31)


def test_the_same_seed_gives_the_same_problems_and_neighbours_share_none() -> None:
    first = list(reasoning_gym(50, 1, name="chain_sum"))
    assert first == list(reasoning_gym(50, 1, name="chain_sum"))
    assert first[:20] == list(reasoning_gym(20, 1, name="chain_sum"))
    assert not {row["question"] for row in first} & {row["question"] for row in reasoning_gym(50, 2, name="chain_sum")}


DRAWN = """
import hashlib, json, sys
from reasoner_gym.generator import UNSTABLE, reasoning_gym
for name in sys.argv[1:]:
    rows = json.dumps(list(reasoning_gym(6 if name in UNSTABLE else 2, 1, name=name)), sort_keys=True)
    print("DRAWN", name, hashlib.sha256(rows.encode()).hexdigest())
"""


def drawn(hash_seed: int, some: Iterable[str]) -> set[str]:
    """What another process draws: a line for each of these datasets."""
    package = str(Path(PLUGIN).parents[1])
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": package}
    command = [sys.executable, "-c", DRAWN, *some]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return {line for line in done.stdout.splitlines() if line.startswith("DRAWN")}


def drawn_here(some: Iterable[str]) -> set[str]:
    """The same of this process."""
    texts = {name: json.dumps(rows_of(name), sort_keys=True) for name in some}
    return {f"DRAWN {name} {hashlib.sha256(text.encode()).hexdigest()}" for name, text in texts.items()}


def test_drawing_leaves_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    for name in ("binary_alternation", "codeio", "pool_matrix"):
        list(reasoning_gym(20, 1, name=name))
    assert (random.random(), np.random.random()) == expected
    assert capsys.readouterr().out == ""


@ARC_LEAVES_ITS_FILE_OPEN
def test_another_process_draws_the_same_problems() -> None:
    """Of all datasets but those that depend on the seed of Python's hashes, which is another one there; with the same
    seed, of those as well."""
    some = [name for name in names() if name not in DATED]  # two processes may lie on both sides of midnight
    here, there = drawn_here(some), drawn(1, some)
    assert len(here) == len(there) == len(some)
    assert {line.split()[1] for line in here ^ there} <= UNSTABLE
    unstable = {line for line in there if line.split()[1] in UNSTABLE}
    assert drawn(1, UNSTABLE) == unstable
    assert not drawn(2, UNSTABLE) & unstable


def test_the_difficulty_is_that_of_the_configuration() -> None:
    for problem in problems("chain_sum", 5, min_terms=6, max_terms=6, min_digits=1, max_digits=1):
        assert problem.fields["metadata"]["num_terms"] == 6
        terms = problem.fields["metadata"]["expression"].replace("-", "+").split("+")
        assert [len(term.strip()) for term in terms] == [1] * 6


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("chain_sm", {}, r"no dataset 'chain_sm'. Did you mean 'chain_sum'\? See `reasoner tasks show gym`"),
        ("composite", {}, r"no dataset 'composite'"),
        (
            "chain_sum",
            {"max_term": 3},
            r"config.max_term: the dataset 'chain_sum' has no such field. Did you mean 'max_t",
        ),
        (
            "chain_sum",
            {"seed": 3},
            r"config.seed of the dataset 'chain_sum' is not for you to set: use the source's `seed`",
        ),
        ("chain_sum", {"min_terms": 9}, r"the dataset 'chain_sum' refuses min_terms = 9: "),
        ("chain_sum", {"min_terms": "x"}, r"the dataset 'chain_sum' refuses min_terms = 'x': "),
    ],
)
def test_what_a_dataset_does_not_take_is_refused(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        next(reasoning_gym(1, 1, name=name, config=config))


@pytest.mark.parametrize(
    ("text", "extract", "answer", "method"),
    [
        ("It is 4.\n\\boxed{5}", "auto", "5", "boxed"),
        ("\\boxed{4} or rather \\boxed{\\frac{1}{2}}.", "auto", "\\frac{1}{2}", "boxed"),
        ("\\boxed{4} <answer> 5 </answer>", "auto", "5", "answer"),
        ("<answer>5</answer> \\boxed{4}", "auto", "4", "boxed"),
        ("<answer>5</answer> \\boxed{4}", "answer", "5", "answer"),
        ("\\boxed{1 2\n3 4}", "auto", "1 2\n3 4", "boxed"),
        ("First.\n\n 12 \n", "auto", "12", "last_line"),
        ("\\boxed{3}\nIt is 12", "last_line", "It is 12", "last_line"),
        ("a\nb\n", "all", "a\nb", "all"),
        ("\\boxed{7}</think>8", "auto", "8", "last_line"),
        ("\\boxed{7} <think>", "auto", None, "none"),
        ("\\boxed{7", "auto", None, "boxed"),
        ("5 <answer>7", "auto", None, "answer"),
        ("\\boxed{ }", "auto", None, "boxed"),
        ("7", "boxed", None, "none"),
        ("\\boxed{7}", "answer", None, "none"),
        ("", "auto", None, "last_line"),
        ("5" * (MOST + 1), "auto", None, "last_line"),
    ],
)
def test_the_final_answer(text: str, extract: Extract, answer: str | None, method: str) -> None:
    extraction = final_answer(text, extract)
    assert (extraction.text, extraction.method) == (answer, method)
    assert bool(extraction.problem) == (answer is None)


def test_a_wrong_answer_scores_less_and_none_scores_nothing() -> None:
    (problem,) = problems("chain_sum", 1)
    assert score(problem, f"\\boxed{{{int(problem.answer) + 1}}}", "chain_sum").value < 1
    nothing = score(problem, f"<think>{problem.answer}", "chain_sum")
    assert (nothing.value, nothing.parts["extracted"], nothing.note) == (0.0, None, "the think block is not closed")


def test_problems_of_elsewhere_are_refused() -> None:
    (problem,) = problems("chain_sum", 1)
    with pytest.raises(ValueError, match="is of the dataset 'chain_sum': the scorer of 'gcd' does not fit"):
        score(problem, "4", "gcd")
    with pytest.raises(ValueError, match="has no metadata for the scorer of 'gcd'"):
        score(make_problem("2 + 2?", "4"), "4", "gcd")


def test_it_keeps_the_contract() -> None:
    (problem,) = problems("chain_sum", 1)
    cases = [
        Case(problem, make_response(f"\\boxed{{{problem.answer}}}"), 1.0),
        Case(problem, make_response("<think>unfinished"), 0.0),
    ]
    checklist = check_source(source, cases, options={"name": "chain_sum"}, plugins=[PLUGIN])
    assert checklist.passed, str(checklist)


KEYS = st.one_of(st.text(max_size=4), st.integers(), st.tuples(st.integers(), st.integers()), st.just("$tuple"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.fractions(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.sets(KEYS, max_size=3)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_values_survive_json(value: object) -> None:
    assert from_plain(json.loads(json.dumps(to_plain(value, "value"), allow_nan=False))) == value


def test_numpy_becomes_plain_and_the_rest_is_refused_by_its_place() -> None:
    import numpy as np

    plain = to_plain({"a": np.int64(3), "b": [np.float64(0.5), np.str_("x"), np.bool_(True)]}, "metadata")
    assert plain == {"a": 3, "b": [0.5, "x", True]}
    assert [type(item) for item in (plain["a"], *plain["b"])] == [int, float, str, bool]
    assert to_plain(Fraction(1, 3), "metadata") == {"$fraction": "1/3"}
    with pytest.raises(TypeError, match=r"metadata\.grid\[1\] is a numpy\.ndarray, which has no form in JSON"):
        to_plain({"grid": [0, np.zeros(2)]}, "metadata")
    with pytest.raises(TypeError, match=r"metadata\.x is nan"):
        to_plain({"x": float("nan")}, "metadata")


def test_a_problem_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"question": "?", "answer": "4", "metadata": {"made_by": object()}}
    monkeypatch.setattr("reasoner_gym.generator.make", lambda *_, **__: [entry])
    with pytest.raises(DataError, match=r"dataset 'gcd', problem 0: metadata\.made_by is a builtins\.object"):
        next(reasoning_gym(1, 1, name="gcd"))


def test_the_task_file_names_the_dataset_everywhere() -> None:
    table: Mapping[str, Any] = tomllib.loads(toml("gcd"))
    assert list(table["profiles"]) == ["laptop", "gpu"]
    assert [(reward["source"], reward["weight"]) for reward in table["rewards"]] == [
        ("reasoning_gym", 1.0),
        ("boxed_format", 0.2),
    ]
    assert {table["data"][split]["options"]["name"] for split in ("train", "eval")} == {"gcd"}
    assert table["rewards"][0]["options"] == {"name": "gcd"}
    assert (table["data"]["train"]["seed"], table["data"]["eval"]["seed"]) == (1, 2)
    assert "@" not in toml("gcd")
