import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner.config import RewardConfig
from reasoner.errors import ConfigError, ScoringError
from reasoner.records import Component, Failure, Message, Problem, Response, Score
from reasoner.rewards_api import RewardSource, reward
from reasoner.scoring.compose import MAX_RESULT_BYTES, InvalidScoreError, check_rewards, component, total, verdict
from reasoner.scoring.tally import MIN_CALLS, Tally
from reasoner.scoring.wire import LineBuffer, Result, dump_result, dump_tasks, load_result, load_task


@reward("unit")
def unit(problem: Problem, response: Response, *, name: str = "km") -> float:
    """1.0 if the answer names the unit."""
    return float(name in response.text)


SOURCES: dict[str, RewardSource] = {"unit": unit}
FAILURE = Failure("unit", "timeout", "no result after 1 s", 1.0)

finite = st.floats(allow_nan=False, allow_infinity=False)
parts = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | finite | st.text() | st.lists(finite))


def part(value: float | None, weight: float = 1.0, failure: Failure | None = None) -> Component:
    return Component("unit", weight, value, failure=failure)


def nested(levels: int) -> Mapping[str, Any]:
    inner: Mapping[str, Any] = {}
    for _ in range(levels):
        inner = {"in": inner}
    return inner


def test_registered_rewards_with_their_options_pass() -> None:
    check_rewards([RewardConfig(source="unit"), RewardConfig(source="unit", options={"name": "mi"})], SOURCES)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (RewardConfig(source="units"), ["rewards[1].source", "'units'", "Did you mean 'unit'?"]),
        (RewardConfig(source="unit", options={"nam": "mi"}), ["rewards[1].options", "'nam'", "Did you mean 'name'?"]),
        (RewardConfig(source="unit", options={"name": 3}), ["rewards[1].options", "'name'", "got 3"]),
    ],
)
def test_wrong_rewards_are_refused_with_key_and_nearest_name(config: RewardConfig, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_rewards([RewardConfig(source="unit"), config], SOURCES)
    assert all(text in str(caught.value) for text in expected)


@pytest.mark.parametrize(
    ("returned", "value"), [(1, 1.0), (True, 1.0), (0.25, 0.25), (Fraction(1, 4), 0.25), (-0.0, 0.0)]
)
def test_numbers_are_scores(returned: object, value: float) -> None:
    assert verdict(returned) == Score(value)


def test_none_is_not_applicable_and_a_score_keeps_its_parts() -> None:
    assert verdict(None) is None
    assert verdict(Score(1, {"extracted": "4"}, "why")) == Score(1.0, {"extracted": "4"}, "why")


@pytest.mark.parametrize(
    "returned",
    [
        math.nan,
        math.inf,
        10**400,
        "1.0",
        [1.0],
        1j,
        Score(math.nan),
        Score(cast(float, "1")),
        Score(1.0, {"set": {1}}),
        Score(1.0, {"nan": math.nan}),
        Score(1.0, cast(Mapping[str, Any], [1])),
        Score(1.0, nested(40)),
        Score(1.0, {"text": "x" * MAX_RESULT_BYTES}),
        Score(1.0, note="x" * MAX_RESULT_BYTES),
        Score(1.0, note=cast(str, b"x")),
    ],
)
def test_anything_else_is_invalid(returned: object) -> None:
    with pytest.raises(InvalidScoreError):
        verdict(returned)


def test_a_circle_in_the_parts_is_invalid() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    with pytest.raises(InvalidScoreError):
        verdict(Score(1.0, circle))


def test_total_is_the_weighted_sum() -> None:
    assert total([part(1.0, 1.0), part(0.5, 0.5), part(1.0, -0.25)]) == 1.0
    assert total([]) == 0.0


def test_not_applicable_contributes_nothing_and_a_failure_abstains() -> None:
    assert total([part(1.0), part(None)]) == 1.0
    assert total([part(None)]) == 0.0
    assert total([part(1.0), part(None, failure=FAILURE)]) is None
    assert total([part(1.0), part(None, 0.0, FAILURE)]) is None


def test_a_total_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(ScoringError, match=r"1e\+308"):
        total([part(1e308, 1e9)])


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))))
def test_total_equals_the_formula(pairs: list[tuple[float, float]]) -> None:
    expected = math.fsum(weight * value for weight, value in pairs)
    assert total([part(value, weight) for weight, value in pairs]) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_a_component_carries_weight_and_outcome() -> None:
    config = RewardConfig(source="unit", weight=0.5)
    assert component(config, Score(1.0, {"a": 1}, "n"), 0.1) == Component("unit", 0.5, 1.0, {"a": 1}, "n", None, 0.1)
    assert component(config, None, 0.1) == Component("unit", 0.5, None, seconds=0.1)
    assert component(config, FAILURE, 1.0) == Component("unit", 0.5, None, failure=FAILURE, seconds=1.0)


def tallied(failed: int, passed: int) -> Tally:
    tally = Tally(["unit", "other"])
    for sample in range(failed):
        tally.add(part(None, failure=FAILURE), "p:1", sample)
    for sample in range(passed):
        tally.add(part(1.0), "p:2", sample)
    return tally


def test_statistics_count_calls_failures_and_keep_the_first_example() -> None:
    statistics = tallied(failed=2, passed=3).statistics()
    assert list(statistics) == ["unit", "other"]
    assert (statistics["unit"].calls, statistics["unit"].failed) == (5, 2)
    assert statistics["unit"].failures == {"timeout": 2}
    example = statistics["unit"].example
    assert example is not None
    assert (example.problem_id, example.sample, example.failure) == ("p:1", 0, FAILURE)
    assert (statistics["other"].calls, statistics["other"].failures, statistics["other"].example) == (0, {}, None)


def test_a_rate_above_the_limit_stops_and_names_source_count_and_example() -> None:
    with pytest.raises(ScoringError) as caught:
        tallied(failed=6, passed=4).check(0.5, 10)
    assert all(text in str(caught.value) for text in ("'unit'", "6 of 10 calls", "timeout 6", "p:1", FAILURE.message))


def test_a_rate_at_the_limit_or_among_too_few_calls_does_not_stop() -> None:
    tallied(failed=5, passed=5).check(0.5, 10)
    tallied(failed=10, passed=0).check(1.0, 10)
    tallied(failed=MIN_CALLS - 1, passed=0).check(0.0, MIN_CALLS - 1)


@given(task=st.integers(0), seconds=finite, value=st.none() | finite, parts=parts, note=st.text(), last=st.booleans())
def test_results_cross_the_wire_unchanged(
    task: int, seconds: float, value: float | None, parts: dict[str, Any], note: str, last: bool
) -> None:
    result = Result(task, 1, seconds, value, parts, note, last=last)
    line = dump_result(result)
    assert line.count(b"\n") == 1
    assert load_result(line) == result


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=())), max_size=3),
    tokens=st.lists(st.tuples(st.integers(0, 2**31), st.booleans(), st.floats(max_value=0.0)), min_size=1),
    fields=parts,
)
def test_tasks_cross_the_wire_unchanged(
    texts: list[str], tokens: list[tuple[int, bool, float]], fields: dict[str, Any]
) -> None:
    ids, mask, logprobs = zip(*tokens, strict=True)
    responses = [Response(text, ids, mask, logprobs, "length", 3) for text in texts]
    problem = Problem("p", tuple(Message("user", text) for text in texts), "a\nb", fields)
    lines = dump_tasks(7, problem, responses).splitlines(keepends=True)
    split = [line.split(b" ", 1) for line in lines]
    assert [int(task) for task, _ in split] == list(range(7, 7 + len(texts)))
    assert [load_task(payload) for _, payload in split] == [(problem, response) for response in responses]


@given(st.lists(st.binary(max_size=5)), st.data())
def test_lines_come_back_whole_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line.replace(b"\n", b"") + b"\n" for line in lines) + b"rest"
    buffer, found = LineBuffer(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += buffer.feed(stream[:size])
        stream = stream[size:]
    assert found == [line.replace(b"\n", b"") for line in lines]
    assert buffer.pending == len(b"rest")
