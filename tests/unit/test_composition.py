from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from reasoner.config import RewardConfig, ScoringConfig, mistake_of_conditions
from reasoner.errors import ConfigError, ScoringError
from reasoner.monitoring.metrics import find
from reasoner.monitoring.step_metrics import rollout_metrics
from reasoner.plugins.reward_api import RewardSource, reward
from reasoner.records import (
    Component,
    EnvironmentReport,
    Failure,
    Group,
    Message,
    Problem,
    Response,
    Score,
    ScoredGroup,
    ToolCall,
    Turn,
)
from reasoner.scoring.cache import Cache, digest
from reasoner.scoring.composition import (
    InvalidScoreError,
    Refused,
    check_rewards,
    component,
    total,
    totals,
    verdict,
    verdicts,
)
from reasoner.scoring.service import ScoringService
from reasoner.scoring.statistics import MIN_RESPONSES, FailedResponse, Tally
from reasoner.scoring.workers.protocol import (
    CallResult,
    Traits,
    dump_content,
    dump_problem,
    dump_response,
    dump_result,
    dump_task,
    dump_traits,
    load_result,
    load_start,
    load_task,
)
from reasoner.workers.json_values import MAX_RESULT_BYTES
from reasoner.workers.lines import LineBuffer


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


def summed(*components: Component, **changes: Any) -> float | None:
    return total([RewardConfig(source="unit", **changes)] * len(components), components)


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


@pytest.mark.parametrize("half", ["\ud800", "a\ud83d b"])
def test_half_a_surrogate_pair_is_kept_as_its_escape(half: str) -> None:
    """From a verifier, and from a worker that does not do what ours does."""
    escaped = half.encode("utf-8", "backslashreplace").decode()
    given = Score(1.0, {half: [half, {"in": (half,)}], "n": 10**30, "whole": "\U0001f600\x00\u202e"}, half)
    expected = Score(
        1.0, {escaped: [escaped, {"in": (escaped,)}], "n": 10**30, "whole": "\U0001f600\x00\u202e"}, escaped
    )
    assert verdict(given) == expected
    read = load_result(dump_result(CallResult(1, 0, 0.0, (given, Refused("error", half)), message=half)))
    assert (cast(Score, read.scores[0]).note, read.message) == (escaped, escaped)
    assert cast(Score, read.scores[0]).parts[escaped] == [escaped, {"in": [escaped]}]
    assert read.scores[1] == Refused("error", escaped)


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
        Score(1.0, {"bytes": b"x"}),
        Score(1.0, {"long": 10**5000}),
        Score(1.0, cast(Mapping[str, Any], {("a", "b"): 1})),
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


@pytest.mark.parametrize("several", [[1, None, Score(0.5)], (1, None, 0.5), (each for each in [1, None, 0.5])])
def test_several_scores_are_one_per_response(several: object) -> None:
    assert verdicts(several, 3) == [Score(1.0), None, Score(0.5)]


@pytest.mark.parametrize("several", [[1.0], [1.0] * 3, 1.0, None, "11", {0: 1.0, 1: 1.0}, {1.0, 2.0}])
def test_anything_else_is_no_scores_for_two_responses(several: object) -> None:
    with pytest.raises(InvalidScoreError):
        verdicts(several, 2)


def test_what_is_no_score_among_several_fails_alone() -> None:
    result = verdicts([1.0, math.nan, KeyError("x"), "1"], 4)
    assert result[0] == Score(1.0)
    assert result[1:] == [
        Refused("invalid", "a score must be finite, got nan"),
        Refused("error", "KeyError: 'x'"),
        Refused("invalid", "a score must be a number, None or Score, got str '1'"),
    ]


def test_total_is_the_weighted_sum() -> None:
    assert summed(part(1.0, 1.0), part(0.5, 0.5), part(1.0, -0.25)) == 1.0
    assert summed() == 0.0


def test_not_applicable_contributes_nothing_and_a_failure_abstains() -> None:
    assert summed(part(1.0), part(None)) == 1.0
    assert summed(part(None)) == 0.0
    assert summed(part(1.0), part(None, failure=FAILURE)) is None
    assert summed(part(1.0), part(None, 0.0, FAILURE)) is None


def test_a_total_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(ScoringError, match=r"1e\+308"):
        summed(part(1e308, 1e9))


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))))
def test_total_equals_the_formula(pairs: list[tuple[float, float]]) -> None:
    expected = math.fsum(weight * value for weight, value in pairs)
    assert summed(*(part(value, weight) for weight, value in pairs)) == pytest.approx(expected, rel=1e-9, abs=1e-6)


SUMMED, GATE = RewardConfig(source="unit"), RewardConfig(source="gate", gate=True)


@pytest.mark.parametrize(
    ("value", "gate", "expected"),
    [
        (2.0, 1.0, 2.0),
        (2.0, 0.1, 2.0),
        (2.0, 0.0, 0.0),
        (2.0, -1.0, 0.0),
        (-2.0, 0.0, -2.0),
        (-2.0, 1.0, -2.0),
        (2.0, None, 2.0),
        (None, 0.0, 0.0),
        (None, 5.0, 0.0),
    ],
)
def test_a_shut_gate_leaves_no_reward_above_0(value: float | None, gate: float | None, expected: float) -> None:
    assert total([SUMMED, GATE], [part(value), part(gate, 0.0)]) == expected
    assert total([GATE, SUMMED], [part(gate, 0.0), part(value)]) == expected


def test_what_a_failure_does_is_said_by_its_policy() -> None:
    def rewards(policy: Any, gate: bool = False) -> tuple[float | None, ...]:
        other = RewardConfig(source="other", on_failure=policy, gate=gate)
        rows = [[part(1.0), part(2.0)], [part(1.0), part(None, failure=FAILURE)], [part(3.0), part(None)]]
        return totals([SUMMED, other], rows)

    assert rewards("abstain") == (3.0, None, 3.0)
    assert rewards("zero") == (3.0, 1.0, 3.0)
    assert rewards("zero", gate=True) == (1.0, 0.0, 3.0)
    assert rewards("drop-group") == (None, None, None)
    assert totals([SUMMED], []) == ()
    dropping = RewardConfig(source="other", on_failure="drop-group")
    assert totals([SUMMED, dropping], [[part(None, failure=FAILURE), part(1.0)], [part(1.0)] * 2]) == (None, 2.0)


def conditions(*pairs: tuple[str, str | None]) -> str:
    return mistake_of_conditions([RewardConfig(source=source, when=when) for source, when in pairs])


def test_a_condition_is_an_earlier_source() -> None:
    assert conditions(("math", None), ("language", "math"), ("judge", "language"), ("length", "math")) == ""
    unknown = conditions(("math", None), ("language", "maths"))
    assert all(text in unknown for text in ("rewards[1].when = 'maths'", "Did you mean 'math'?", "Earlier ones: math"))
    assert "rewards[0].when = 'math' comes after 'language'" in conditions(("language", "math"), ("math", None))
    assert "comes after" in conditions(("language", "math"), ("math", "language"))
    assert "rewards[0].when = 'math' is the source itself" in conditions(("math", "math"))
    with pytest.raises(ConfigError, match=r"rewards\[0\].when = 'unti'"):
        check_rewards([RewardConfig(source="unit", when="unti")], SOURCES)


def test_a_gate_has_no_weight() -> None:
    assert RewardConfig(source="unit", gate=True, weight=1.0).gate
    with pytest.raises(ValidationError, match=r"weight = 0\.5 of the gate 'unit'"):
        RewardConfig(source="unit", gate=True, weight=0.5)


def test_a_component_carries_weight_and_outcome() -> None:
    config = RewardConfig(source="unit", weight=0.5)
    assert component(config, Score(1.0, {"a": 1}, "n"), 0.1) == Component("unit", 0.5, 1.0, {"a": 1}, "n", None, 0.1)
    assert component(config, None, 0.1) == Component("unit", 0.5, None, seconds=0.1)
    assert component(config, FAILURE, 1.0) == Component("unit", 0.5, None, failure=FAILURE, seconds=1.0)
    assert component(GATE, Score(1.0), 0.1) == Component("gate", 0.0, 1.0, seconds=0.1)


def tallied(failed: int, passed: int, to_come: int = 0) -> Tally:
    tally = Tally(["unit", "other"])
    tally.expect("unit", failed + passed + to_come)
    for sample in range(failed):
        tally.add("unit", 1.0, [FailedResponse("p:1", sample, FAILURE)])
    for _ in range(passed):
        tally.add("unit", 0.5, [])
    return tally


def test_statistics_count_calls_failures_and_keep_the_first_example() -> None:
    tally = tallied(failed=2, passed=3, to_come=1)
    tally.spare("unit")
    statistics = tally.statistics()
    assert list(statistics) == ["unit", "other"]
    assert (statistics["unit"].calls, statistics["unit"].failed, statistics["unit"].cached) == (5, 2, 1)
    assert statistics["unit"].failures == {"timeout": 2}
    assert statistics["unit"].seconds == 3.5
    example = statistics["unit"].example
    assert example is not None
    assert example == FailedResponse("p:1", 0, FAILURE)
    assert (statistics["other"].calls, statistics["other"].failures, statistics["other"].example) == (0, {}, None)


def test_a_rate_above_the_limit_stops_and_names_source_count_and_example() -> None:
    with pytest.raises(ScoringError) as caught:
        tallied(failed=6, passed=4).check(0.5)
    assert all(
        text in str(caught.value) for text in ("'unit'", "6 of 10 responses", "timeout 6", "p:1", FAILURE.message)
    )


def test_a_rate_at_the_limit_or_among_too_few_calls_does_not_stop() -> None:
    tallied(failed=5, passed=5).check(0.5)
    tallied(failed=10, passed=0).check(1.0)
    tallied(failed=MIN_RESPONSES - 1, passed=0).check(0.0)


def test_the_rate_is_that_of_responses_however_many_a_call_sees() -> None:
    tally = Tally(["unit"])
    tally.expect("unit", 20)
    tally.add("unit", 1.0, [FailedResponse("p:1", sample, FAILURE) for sample in range(10)])
    tally.check(0.5)
    tally.add("unit", 1.0, [FailedResponse("p:2", 3, FAILURE)])
    with pytest.raises(ScoringError, match="11 of 20 responses"):
        tally.check(0.5)
    assert (tally.statistics()["unit"].calls, tally.statistics()["unit"].failed) == (2, 11)


def test_the_rate_is_among_the_calls_made_and_to_come() -> None:
    tally = tallied(failed=6, passed=0, to_come=6)
    tally.check(0.5)
    tally.spare("unit")
    with pytest.raises(ScoringError, match="6 of 11 responses"):
        tally.check(0.5)
    tally.expect("unit", 1)
    tally.check(0.5)


def response(text: str = "a", tokens: int = 2) -> Response:
    return Response(text, (1,) * tokens, (True,) * tokens, (-0.5,) * tokens, "stop", 0)


def test_the_cache_keeps_what_was_used_last() -> None:
    cache = Cache(2)
    cache[0, b"a"], cache[0, b"b"] = Score(1.0), None
    assert cache[0, b"a"] == Score(1.0)
    cache[1, b"a"] = Score(2.0)
    assert [key in cache for key in ((0, b"a"), (0, b"b"), (1, b"a"))] == [True, False, True]
    cache[0, b"a"] = Score(3.0)
    assert (cache[0, b"a"], cache[1, b"a"]) == (Score(3.0), Score(2.0))
    off = Cache(0)
    off[0, b"a"] = Score(1.0)
    assert (0, b"a") not in off


def test_calls_are_equal_when_they_see_the_same() -> None:
    problem = Problem("p", (Message("user", "?"),), "4", {"n": 1})
    seen = digest(dump_content(problem), response())
    assert digest(dump_content(replace(problem, id="q")), replace(response(), policy_version=3)) == seen
    others = [
        (replace(problem, messages=(Message("system", "?"),)), response()),
        (replace(problem, answer="5"), response()),
        (replace(problem, fields={"n": 2}), response()),
        (problem, response("b")),
        (problem, response(tokens=3)),
        (problem, replace(response(), finish_reason="length")),
    ]
    turn = Turn("assistant", 0, 2, "a", (ToolCall("add", {"a": 1}),))
    turns = replace(response(), turns=(turn,), report=EnvironmentReport(0.5, {}, (0.5,)))
    others += [
        (problem, turns),
        (problem, replace(turns, turns=(replace(turn, text="b"),))),
        (problem, replace(turns, turns=(replace(turn, calls=(ToolCall("add", {"a": 2}),)),))),
        (problem, replace(turns, turns=(replace(turn, error="timeout"),))),
        (problem, replace(turns, report=EnvironmentReport(1.0, {}, (1.0,)))),
        (problem, replace(turns, policy_mask=(True, False))),
    ]
    assert len({seen, *(digest(dump_content(problem), other) for problem, other in others)}) == 1 + len(others)
    slower = replace(turns, turns=(replace(turn, seconds=9.0),), token_ids=(3, 4))
    assert digest(dump_content(problem), slower) == digest(dump_content(problem), turns)


scores = (
    st.none()
    | st.builds(Score, finite, parts, st.text())
    | st.builds(Refused, st.sampled_from(["error", "invalid"]), st.text())
)


@given(task=st.integers(0), seconds=finite, scores=st.lists(scores), message=st.text(), last=st.booleans())
def test_results_cross_the_wire_unchanged(
    task: int, seconds: float, scores: list[Score | Refused | None], message: str, last: bool
) -> None:
    result = CallResult(task, 1, seconds, tuple(scores), message=message, last=last)
    line = dump_result(result)
    assert line.count(b"\n") == 1
    assert load_result(line) == result


FORGED: tuple[dict[str, Any], ...] = (
    {"task": "1"},
    {"reward": 0.5},
    {"task": True},
    {"seconds": "1"},
    {"seconds": float("nan")},
    {"kind": "odd"},
    {"message": None},
    {"last": 1},
    {"left": []},
    {"scores": 1},
    {"scores": ["x"]},
    {"scores": [[1.0]], "more": 1},
    {"scores": [["1.0", {}, ""]]},
    {"scores": [[float("inf"), {}, ""]]},
    {"scores": [[True, {}, ""]]},
    {"scores": [[1.0, [], ""]]},
    {"scores": [[1.0, {}, 3]]},
    {"scores": [{"kind": "timeout", "message": ""}]},
    {"scores": [{"kind": "error"}]},
)


@pytest.mark.parametrize("fields", FORGED, ids=str)
def test_what_is_almost_a_result_is_none(fields: dict[str, Any]) -> None:
    good = json.loads(dump_result(CallResult(1, 0, 1.0, (Score(1.0, {"a": 1}, "b"), None, Refused("error", "c")))))
    assert load_result(json.dumps(good).encode()).task == 1
    with pytest.raises(ValueError, match="not a result"):
        load_result(json.dumps({**good, **fields}).encode())


@pytest.mark.parametrize("line", [b"", b"garbage", b"[]", b"3", b"{}", b"\xff", b"[" * 10**5, b"null"])
def test_what_is_no_message_is_none(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a result"):
        load_result(line)
    with pytest.raises(ValueError, match="not the host's first line"):
        load_start(line)


def test_a_failed_call_fails_for_each_of_its_responses() -> None:
    assert CallResult(1, 0, 1.0, kind="timeout", message=FAILURE.message).outcomes("unit", 2) == [FAILURE, FAILURE]
    assert list(CallResult(1, 0, 1.0, (None, Score(1.0))).outcomes("unit", 2)) == [None, Score(1.0)]
    alone = CallResult(1, 0, 1.0, (Refused("error", "no GPU"), Score(1.0))).outcomes("unit", 2)
    assert list(alone) == [Failure("unit", "error", "no GPU", 1.0), Score(1.0)]


def test_the_host_says_how_sources_are_called_or_why_not() -> None:
    traits = [Traits("group", -1, True, 5.0), Traits("response", 1, False, 0.5)]
    assert load_start(dump_traits(traits)) == traits
    assert load_start(b'{"refused": "why"}') == "why"


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=())), max_size=3),
    tokens=st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans(), st.floats(max_value=0.0)), min_size=1),
    fields=parts,
    report=st.none() | st.builds(EnvironmentReport, st.none() | finite, parts, st.just((0.5, 0.0)), st.just(FAILURE)),
)
def test_tasks_cross_the_wire_unchanged(
    texts: list[str], tokens: list[tuple[int, bool, float]], fields: dict[str, Any], report: EnvironmentReport | None
) -> None:
    ids, mask, logprobs = zip(*tokens, strict=True)
    turns = tuple(
        Turn("assistant", at, at + 1, text, (ToolCall(text, fields, text),), "", text, 0.5)
        for at, text in enumerate(texts)
    )
    responses = [Response(text, ids, mask, logprobs, "length", 3, ((1, 4),), turns, report) for text in texts]
    messages = tuple(Message("tool", text, text) for text in texts)
    problems = [Problem(text, messages, "a\nb", fields) for text in texts]
    encoded = [dump_problem(problem, dump_content(problem)) for problem in problems]
    line = dump_task(7, [0, 2], encoded, [dump_response(response) for response in responses])
    task, rewards, payload = line.split(b" ", 2)
    assert (task, rewards, line.count(b"\n")) == (b"7", b"0,2", 1)
    assert load_task(payload) == (problems, responses)


@given(st.lists(st.binary(max_size=5)), st.data())
def test_lines_come_back_whole_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line.replace(b"\n", b"") + b"\n" for line in lines) + b"rest"
    buffer, result = LineBuffer(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        result += buffer.feed(stream[:size])
        stream = stream[size:]
    assert result == [line.replace(b"\n", b"") for line in lines]
    assert buffer.pending == len(b"rest")


PROBLEM = Problem("p", (Message("user", "?"),), "4")


class Bounds(BaseModel):
    high: float
    low: float = 0.0


def test_calling_a_source_calls_its_function_with_its_options() -> None:
    @reward("model")
    def model(problem: Problem, response: Response, *, options: Bounds) -> float:
        return options.high - options.low

    @reward("slow", granularity="group", workers=3, retries=2, cache=False)
    async def slow(problem: Problem, responses: Sequence[Response], *, step: float = 1.0) -> list[float]:
        return [step * index for index, _ in enumerate(responses)]

    assert (unit(PROBLEM, response("km")), unit(PROBLEM, response("km"), name="mi")) == (1.0, 0.0)
    assert slow(PROBLEM, [response(), response()], step=0.5) == [0.0, 0.5]
    assert (slow.granularity, slow.workers, slow.limit_memory, slow.retries, slow.cache) == ("group", 3, True, 2, False)
    assert model(PROBLEM, response(), high=3.0, low=1.0) == 2.0
    assert model.check_options({"high": 2}) == {"high": 2.0, "low": 0.0}
    with pytest.raises(ConfigError, match=r"option 'high': Field required"):
        model.check_options({})


def test_without_a_name_a_source_has_that_of_its_function() -> None:
    @reward
    def short(problem: Problem, response: Response, *, most: int = 3) -> float:
        """1.0 if it is short."""
        return float(len(response.text) <= most)

    @reward(timeout_s=1.0, needs_answer=False)
    def long(problem: Problem, response: Response) -> float:
        return 1.0

    assert isinstance(short, RewardSource)
    assert (short.name, short.summary, short.timeout_s, short.needs_answer) == (
        "short",
        "1.0 if it is short.",
        5.0,
        True,
    )
    assert short(PROBLEM, response(), most=100) == 1.0
    assert (long.name, long.timeout_s, long.needs_answer) == ("long", 1.0, False)
    assert reward("other")(short.function).name == "other"
    with pytest.raises(TypeError, match=r"<lambda>.* has no name that a reward source could have: give one, @reward"):
        reward(lambda problem, response: 1.0)
    with pytest.raises(TypeError, match=r"'part' needs a function \(def or async def\), got functools\.partial"):
        reward("part")(functools.partial(print))
    with pytest.raises(TypeError, match="reward source 'narrow': the function must take"):

        @reward
        def narrow(response: Response) -> float:
            return 1.0


def test_whether_answers_are_needed_may_depend_on_the_options() -> None:
    @reward("mine", needs_answer=lambda options: options.compare)
    def mine(problem: Problem, response: Response, *, compare: bool = False) -> float:
        return 1.0

    assert [mine.compares({}), mine.compares({"compare": True})] == [False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"granularity": "groups"}, "got 'groups'. Did you mean 'group'?"),
        ({"timeout_s": 0.0}, "timeout_s must be above 0 seconds, got 0.0"),
        ({"timeout_s": math.nan}, "timeout_s must be above 0 seconds, got nan"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"retries": -1}, "retries must be at least 0, got -1"),
        ({"limit_memory": False}, "needs workers of its own"),
    ],
)
def test_a_wrong_declaration_is_refused_where_it_stands(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="reward source 'mine'") as caught:
        reward("mine", **changes)
    assert message in str(caught.value)


@pytest.mark.parametrize("granularity", ["response", "group", "batch"])
def test_a_function_takes_two_positional_arguments(granularity: Any) -> None:
    declare = reward("mine", granularity=granularity)
    for wrong in (lambda response: 1.0, lambda problem, response, unit: 1.0, lambda: 1.0):
        with pytest.raises(
            TypeError, match=r"reward source 'mine': the function must take \(problems?, responses?, \*"
        ):
            declare(wrong)
    assert declare(lambda *both: 1.0)(PROBLEM, response()) == 1.0


def test_metrics_of_a_source_before_and_after_weighting() -> None:
    def row(math_: Component, gate: float) -> tuple[Component, ...]:
        return math_, Component("gate", 0.0, gate, seconds=0.5)

    rows = (
        row(Component("math", 2.0, 1.0, seconds=1.0), 1.0),
        row(Component("math", 2.0, 0.0, seconds=2.0), 0.0),
        row(Component("math", 2.0, None), 1.0),
        row(Component("math", 2.0, None, failure=FAILURE, seconds=3.0), 1.0),
    )
    group = Group(PROBLEM, (1,), (response(),) * 4)
    metrics = rollout_metrics([ScoredGroup(group, rows, (2.0, 0.0, 0.0, None))])
    assert {name: value for name, value in metrics.items() if name.startswith(("reward/math", "reward/gate"))} == {
        "reward/math/mean": 0.5,
        "reward/math/std": 0.5,
        "reward/math/weighted_mean": 0.5,
        "reward/math/not_applicable": 0.25,
        "reward/math/failed": 0.25,
        "reward/math/seconds": 1.5,
        "reward/gate/mean": 0.75,
        "reward/gate/std": math.sqrt(3) / 4,
        "reward/gate/not_applicable": 0.0,
        "reward/gate/failed": 0.0,
        "reward/gate/seconds": 0.5,
    }
    assert {find(name).unit for name in metrics} <= {"reward", "share", "s", "tokens", "nats"}


def test_metrics_of_turns_and_of_responses_whose_environment_failed() -> None:
    call = ToolCall("add", {})
    turns = (
        Turn("assistant", 0, 1, "", (call, replace(call, error="no such tool"))),
        Turn("tool", 1, 2, "", (), "add", "timeout", 3.0),
        Turn("tool", 2, 3, "", (), "add", "", 1.0),
        Turn("assistant", 3, 4, "", (call,)),
        Turn("tool", 4, 5, "", (), "add", "", 0.0),
    )
    mask, logprobs = (True, False, False, True, False), (-1.0, 0.0, 0.0, -3.0, 0.0)
    called = Response("", (1,) * 5, mask, logprobs, "length", 0, (), turns, EnvironmentReport())
    answered = Response("", (1,), (True,), (-2.0,), "stop", 0, (), (Turn("assistant", 0, 1, ""),), EnvironmentReport())
    lost = Response("", (9,), (False,), (0.0,), "stop", 0, report=REPORTS[1])
    rows = (
        (Component("math", 1.0, 1.0),),
        (Component("math", 1.0, 0.0),),
        (Component("math", 1.0, None, failure=lost.failure),),
    )
    metrics = rollout_metrics([ScoredGroup(Group(PROBLEM, (1,), (called, answered, lost)), rows, (1.0, 0.0, None))])
    assert {name: value for name, value in metrics.items() if "/" in name and not name.startswith("reward/math/s")} == {
        "reward/abstained": pytest.approx(1 / 3),
        "reward/mean": 0.5,
        "reward/std": 0.5,
        "reward/math/mean": 0.5,
        "reward/math/weighted_mean": 0.5,
        "reward/math/not_applicable": 0.0,
        "reward/math/failed": 0.0,  # it was not called
        "groups/no_credit": 0.0,
        "response/length_mean": 1.0,
        "response/finished": pytest.approx(2 / 3),
        "response/entropy": 2.0,  # of the policy's tokens
        "tokens/sampled": 3.0,
        "turns/mean": 1.0,
        "turns/observed_mean": pytest.approx(4 / 3),
        "tools/calls": 1.0,
        "tools/seconds": pytest.approx(4 / 3),
        "tools/malformed": pytest.approx(1 / 3),
        "tools/failed": pytest.approx(1 / 3),
        "environment/failed": pytest.approx(1 / 3),
    }
    assert {find(name).unit for name in metrics} <= {"reward", "share", "s", "tokens", "nats", "count", "number"}
    [of_lost] = (rollout_metrics([ScoredGroup(Group(PROBLEM, (1,), (lost,)), rows[2:], (None,))]),)
    assert (of_lost["reward/abstained"], of_lost["tools/calls"], of_lost["response/entropy"]) == (1.0, 0.0, 0.0)


VALUES = {"1": 1.0, "0": 0.0, "-": -1.0, "n": None}
"""what a reward makes of its letter of a response; `f` fails"""


LOST = "lost"
"""the text of a response whose environment failed"""
REPORTS = (None, EnvironmentReport(failure=Failure("environment", "crash", "its worker died", 1.0)))


class FakeHost:
    """In place of processes: answers at once what the letters say, and hands the answers out in any order."""

    closed = ended = False

    def __init__(self, traits: Sequence[Traits], pick: Callable[[int], int]) -> None:
        self.traits, self.pick = traits, pick
        self.calls: list[tuple[int, tuple[str, ...]]] = []
        self.answers: list[bytes] = []

    def first_line(self) -> bytes:
        return dump_traits(self.traits)

    def listen(self) -> FakeHost:
        return self

    def empty(self) -> bool:
        return not self.answers

    def get(self, timeout: float) -> bytes:
        return self.answers.pop(self.pick(len(self.answers)))

    def close(self) -> None:
        assert self.answers == []

    def send(self, lines: bytes) -> None:
        for line in lines.splitlines():
            task, rewards, payload = line.split(b" ", 2)
            problems, responses = load_task(payload)
            assert len({self.traits[int(reward)].lane for reward in rewards.split(b",")}) == 1
            for index in map(int, rewards.split(b",")):
                assert len(problems) == (len(responses) if self.traits[index].granularity == "batch" else 1)
                texts = tuple(each.text for each in responses)
                self.calls.append((index, texts))
                letters = [text[index] for text in texts]
                if "f" in letters:
                    result = CallResult(int(task), index, 1.0, kind="error", message="f")
                else:
                    scores = [None if letter == "n" else Score(cast(float, VALUES[letter])) for letter in letters]
                    result = CallResult(int(task), index, 1.0, tuple(scores))
                self.answers.append(dump_result(result))


def letters_of(group: Sequence[str], rewards: Sequence[RewardConfig], traits: Sequence[Traits]) -> list[list[str]]:
    """What each reward makes of each response, `n` where it is not asked; the slow and simple way."""
    names = [each.source for each in rewards]
    rows: list[list[str]] = [[] for _ in group]
    for index, each in enumerate(rewards):
        asked = [each.when is None or row[names.index(each.when)] == "1" for row in rows]
        there = [text[index] for text, yes in zip(group, asked, strict=True) if yes]
        broken = traits[index].granularity == "group" and "f" in there
        for row, text, yes in zip(rows, group, asked, strict=True):
            row.append("n" if not yes else "f" if broken else text[index])
    return rows


def rewards_of(rows: list[list[str]], rewards: Sequence[RewardConfig]) -> list[float | None]:
    policies = [{each.on_failure for each, letter in zip(rewards, row, strict=True) if letter == "f"} for row in rows]
    if any("drop-group" in result for result in policies):
        return [None] * len(rows)
    result: list[float | None] = []
    for row, failed in zip(rows, policies, strict=True):
        pairs = list(zip(rewards, row, strict=True))
        reward = sum(each.weight * (VALUES.get(letter) or 0.0) for each, letter in pairs if not each.gate)
        if any(each.gate and letter in "-0f" for each, letter in pairs):
            reward = min(reward, 0.0)
        result.append(None if "abstain" in failed else reward)
    return result


def letter_of(part: Component) -> str | float:
    return "f" if part.failure is not None else "n" if part.value is None else part.value


@st.composite
def set_ups(draw: st.DrawFn) -> tuple[list[RewardConfig], list[Traits], list[list[str]]]:
    rewards: list[RewardConfig] = []
    traits: list[Traits] = []
    for index in range(draw(st.integers(1, 4))):
        gate = draw(st.booleans())
        reward = RewardConfig(
            source=f"r{index}",
            weight=1.0 if gate else float(2**index),
            gate=gate,
            when=draw(st.sampled_from([None, *(each.source for each in rewards)])),
            on_failure=draw(st.sampled_from(["abstain", "zero", "drop-group"])),
        )
        rewards.append(reward)
        lane = draw(st.sampled_from([-1, index]))
        traits.append(Traits(draw(st.sampled_from(["response", "group", "batch"])), lane, draw(st.booleans()), 5.0))
    columns = [st.sampled_from("10-n" if each.granularity == "batch" else "10-nf") for each in traits]
    texts = st.tuples(*columns).map("".join) | st.just(LOST)
    return rewards, traits, draw(st.lists(st.lists(texts, max_size=4), max_size=5))


@given(set_ups(), st.data(), st.sampled_from([0, 2, 100]))
def test_any_set_of_rewards_gives_what_the_simple_way_gives(
    set_up: tuple[list[RewardConfig], list[Traits], list[list[str]]], data: st.DataObject, cache: int
) -> None:
    rewards, traits, texts = set_up
    host = FakeHost(traits, lambda size: data.draw(st.integers(0, size - 1)))
    groups = [
        Group(
            Problem(str(index), (), ""),
            (1,),
            tuple(replace(response(text), report=REPORTS[text == LOST]) for text in group),
        )
        for index, group in enumerate(texts)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reasoner.scoring.service.HostProcess", lambda name, module, plan: host)
        patch.setattr("reasoner.scoring.score_call.BATCH_SIZE", 3)
        service = ScoringService(rewards, ScoringConfig(cache=cache, max_failure_rate=1.0))
        scored = {int(each.group.problem.id): each for each in service.score(groups)}
        statistics = service.statistics()
        service.close()
    assert sorted(scored) == list(range(len(texts)))
    for index, group in enumerate(texts):
        # a response whose environment failed is asked of no source, abstains, and changes nothing for the others
        judged = iter(expected := letters_of([text for text in group if text != LOST], rewards, traits))
        rows = [["f"] * len(rewards) if text == LOST else next(judged) for text in group]
        letters = [[letter_of(part) for part in row] for row in scored[index].components]
        assert letters == [[VALUES[letter] if letter in "10-" else letter for letter in row] for row in rows]
        known = iter(rewards_of(expected, rewards))
        assert list(scored[index].rewards) == [None if text == LOST else next(known) for text in group]
    made = Counter(reward for reward, _ in host.calls)
    assert [each.calls for each in statistics.values()] == [made[index] for index in range(len(rewards))]
    for index, each in enumerate(traits):
        sizes = [len(call) for reward, call in host.calls if reward == index]
        if each.granularity == "batch":
            assert all(size == 3 for size in sizes[:-1])
        if each.granularity == "response" and each.cache and cache == 100:
            calls = Counter(call for reward, call in host.calls if reward == index and call[0][index] != "f")
            assert set(calls.values()) <= {1}
