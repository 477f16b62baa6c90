"""The scoring service with real processes and reward sources that misbehave in every way that we could think of."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import ConfigError, ScoringError
from reasoner.records import Component, Group, Message, Problem, Response, ScoredGroup
from reasoner.scoring.score_call import BATCH_SIZE, MAX_LOGGED
from reasoner.scoring.service import ScoringService
from reasoner.workers.worker_pool import MAX_PRINTED
from scripts.bench_scoring import WAYS, chaos

PLUGIN = str(Path(__file__).with_name("misbehaving_rewards.py"))
MARK = "REASONER_SCORING_TEST"

VERDICTS: dict[str, float | str | None] = {
    "good": 1.0,
    "score": 0.5,
    "not applicable": None,
    "spin": "timeout",
    "sleep": "timeout",
    "stop": "timeout",
    "fork and hang": "timeout",
    "daemon and hang": "timeout",
    "daemon and answer": 1.0,
    "answer twice": 1.0,
    "sleeping child": 1.0,
    "allocate": "error",
    "deep": "error",
    "exit 0": "crash",
    "exit 3": "crash",
    "segfault": "crash",
    "kill itself": "crash",
    "kill group": "crash",
    "raise": "error",
    "leave": "error",
    "interrupt": "error",
    "nan": "invalid",
    "infinite": "invalid",
    "huge": "invalid",
    "text": "invalid",
    "no json": "invalid",
    "endless parts": "invalid",
    "shout": 1.0,
    "listen": 1.0,
    "close output": 1.0,
    "close everything": "crash",
    "write everywhere": "crash",
    "leave thread": 1.0,
    "leave alarm": 1.0,
    "bomb": "timeout",
    "scattering bomb": "timeout",
}


def response(text: str) -> Response:
    return Response(text, (1, 2), (True, True), (-0.5, -0.25), "stop", 0)


def group(*texts: str, name: str = "p") -> Group:
    return Group(Problem(name, (Message("user", "?"),), "4"), (1,), tuple(map(response, texts)))


def service(
    *sources: str, workers: int = 2, max_failure_rate: float = 1.0, timeout_s: float | None = None
) -> ScoringService:
    rewards = [RewardConfig(source=source, timeout_s=timeout_s) for source in sources]
    scoring = ScoringConfig(workers=workers, memory_mb=256, max_failure_rate=max_failure_rate)
    return ScoringService(rewards, scoring, [PLUGIN])


def scoring_of(*rewards: RewardConfig, cache: int = 0, max_failure_rate: float = 1.0) -> ScoringService:
    scoring = ScoringConfig(workers=2, memory_mb=256, max_failure_rate=max_failure_rate, cache=cache)
    return ScoringService(rewards, scoring, [PLUGIN])


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """On the disk: what a call leaves in /dev/shm is removed, and `scripts/test` puts the tests' folders there."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def by_name(scored: Iterable[ScoredGroup]) -> dict[str, ScoredGroup]:
    return {each.group.problem.id: each for each in scored}


def outcome(component: Component) -> float | str | None:
    return component.value if component.failure is None else component.failure.kind


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[int]]:
    """The living processes, except this one, that were started since the fixture was made."""
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)

    def alive() -> set[int]:
        result = set()
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == value and process.status() != psutil.STATUS_ZOMBIE:
                    result.add(process.pid)
            except psutil.Error:
                continue
        return result

    return alive


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
def test_every_call_gets_its_verdict_or_its_own_failure(marked: Callable[[], set[int]]) -> None:
    texts = [text for action in VERDICTS for text in (action, "good")]
    with service("obedient", timeout_s=3.0) as scorer:  # bombs and endless loops leave little for the others
        (scored,) = scorer.score([group(*texts)])
        wait_until(lambda: len(marked()) <= 3)  # the host and two workers: nothing else has survived
        (again,) = scorer.score([group(*["good"] * 20)])
        statistics = scorer.statistics()["obedient"]
    got = {text: outcome(parts[0]) for text, parts in zip(texts, scored.components, strict=True) if text != "good"}
    assert got == {action: expected for action, expected in VERDICTS.items() if action != "good"}
    assert [outcome(parts[0]) for parts in scored.components[1::2]] == [1.0] * len(VERDICTS)
    assert [parts[0].value for parts in again.components] == [1.0] * 20
    assert (statistics.calls, statistics.failed, statistics.example) == (20, 0, None)
    wait_until(lambda: not marked())


HARM = (
    "good",
    "not applicable",
    "spin",
    "fork and hang",
    "daemon and hang",
    "daemon and answer",
    "answer twice",
    "allocate",
    "exit 0",
    "kill group",
    "raise",
    "leave",
    "nan",
    "no json",
    "leave thread",
    "close everything",
    "write everywhere",
)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["obedient_async", "obedient_lane", "obedient_group", "obedient_batch"])
def test_every_kind_of_source_may_do_harm(source: str, marked: Callable[[], set[int]]) -> None:
    """Each action next to a harmless call; of groups and batches every response gets what its call got."""
    size = BATCH_SIZE if source == "obedient_batch" else 3 if source == "obedient_group" else 1
    groups = [
        group(*[action] * size, name=f"{action} {index}")
        for action in HARM
        for index, action in enumerate((action, "good"))
    ]
    with service(source, timeout_s=2.0) as scorer:
        scored = by_name(scorer.score(groups))
        wait_until(lambda: len(marked()) <= 3)
        statistics = scorer.statistics()[source]
    got = {name: {outcome(row[0]) for row in each.components} for name, each in scored.items()}
    assert got == {each.problem.id: {VERDICTS[each.responses[0].text]} for each in groups}
    assert (statistics.calls, statistics.cached) == (len(groups), 0)
    wait_until(lambda: not marked())


def test_an_async_source_that_waits_for_ever_is_killed() -> None:
    with service("obedient_async", timeout_s=0.5) as scorer:
        (scored,) = scorer.score([group("await", "good", "raise")])
    assert [outcome(row[0]) for row in scored.components] == ["timeout", 1.0, "error"]


@pytest.mark.parametrize("source", ["obedient_group", "obedient_batch"])
def test_a_group_or_batch_needs_one_score_per_response(source: str) -> None:
    with service(source) as scorer:
        for text, message in (
            ("too few", "got 2 for 3 responses"),
            ("too many", "got 4 for 3 responses"),
            ("one number", "a sequence of scores is needed, one per response, got float 1.0"),
            ("letters", "a sequence of scores is needed, one per response, got str 'xxx'"),
        ):
            (scored,) = scorer.score([group(text, "good", "good")])
            statistics = scorer.statistics()[source]
            failures = [row[0].failure for row in scored.components]
            assert [failure.kind for failure in failures if failure is not None] == ["invalid"] * 3
            assert all(failure is not None and message in failure.message for failure in failures)
            assert scored.rewards == (None,) * 3
            assert (statistics.calls, statistics.failed) == (1, 3)


@pytest.mark.parametrize("source", ["obedient_group", "obedient_batch"])
def test_a_response_of_a_group_or_batch_may_fail_alone(source: str) -> None:
    with service(source) as scorer:
        (scored,) = scorer.score([group("one by one", "score", "nan", "refuse", "not applicable", "good")])
        statistics = scorer.statistics()[source]
    assert [outcome(row[0]) for row in scored.components] == [1.0, 0.5, "invalid", "error", None, 1.0]
    refused = scored.components[3][0].failure
    assert refused is not None
    assert refused.message == "LookupError: no such unit"
    assert scored.rewards == (1.0, 0.5, None, None, 0.0, 1.0)
    assert (statistics.calls, statistics.failures) == (1, {"invalid": 1, "error": 1})


def test_the_scores_of_a_call_are_bounded_together() -> None:
    with service("obedient_group") as scorer:
        scored = by_name(scorer.score([group(*["large parts"] * size, name=str(size)) for size in (2, 5)]))
    few, too_much = scored["2"], scored["5"]
    assert few.rewards == (1.0, 1.0)
    failures = [row[0].failure for row in too_much.components]
    assert [failure.kind for failure in failures if failure is not None] == ["invalid"] * 5
    assert all(failure is not None and "bytes together" in failure.message for failure in failures)


def test_a_group_source_sees_all_responses_of_a_problem() -> None:
    with service("rank", "number") as scorer:
        scored = by_name(scorer.score([group("3", "1", "2", name="a"), group("1", "", name="b"), group(name="c")]))
    assert [[row[0].value for row in scored[name].components] for name in "abc"] == [[2, 0, 1], [1, None], []]
    assert [row[0].parts for row in scored["a"].components] == [{"group": "a"}] * 3
    assert scored["a"].rewards == (5.0, 1.0, 3.0)
    assert outcome(scored["b"].components[1][1]) == "error"


def test_batches_are_full_but_the_last_and_keep_the_order() -> None:
    names = [str(index) for index in range(BATCH_SIZE // 3 + 2)]
    with service("gather") as scorer:
        scored = by_name(scorer.score(group("a", "b", "c", name=name) for name in names))
        statistics = scorer.statistics()["gather"]
        (alone,) = scorer.score([group("z")])
    parts = [row[0].parts for name in names for row in scored[name].components]
    assert [part["seen"] for part in parts] == [[name, text] for name in names for text in "abc"]
    assert [part["size"] for part in parts] == [BATCH_SIZE] * BATCH_SIZE + [len(parts) - BATCH_SIZE] * (
        len(parts) - BATCH_SIZE
    )
    assert statistics.calls == 2
    assert alone.components[0][0].parts["size"] == 1


def test_a_full_batch_is_scored_while_others_are_sampled() -> None:
    def sampled() -> Iterator[Group]:
        yield group(*["a"] * BATCH_SIZE, name="full")
        end = time.monotonic() + 20
        while not seen and time.monotonic() < end:
            time.sleep(0.05)
            yield group(name="empty")
        yield group("a", name="rest")

    seen: list[str] = []
    with service("gather") as scorer:
        for scored in scorer.score(sampled()):
            if scored.group.responses:
                seen.append(scored.group.problem.id)
    assert seen == ["full", "rest"]


def test_a_lane_neither_waits_for_the_common_workers_nor_makes_them_wait(tmp_path: Path) -> None:
    """The only common worker and all four of the lane are in a call at the same time: each waits for the others."""
    options = {"folder": str(tmp_path), "calls": 5}
    rewards = [RewardConfig(source=source, options=options) for source in ("meeting_lane", "meeting")]
    with ScoringService(rewards, ScoringConfig(workers=1), [PLUGIN]) as scorer:
        (scored,) = scorer.score([group(*"abcd")])
    assert scored.rewards == (2.0,) * 4


def test_the_memory_limit_holds_unless_the_source_says_otherwise() -> None:
    with service("limited", "unlimited", workers=1) as scorer:
        (scored,) = scorer.score([group("a")])
    assert [outcome(part) for part in scored.components[0]] == ["error", 1.0]


def test_options_may_be_a_model() -> None:
    with scoring_of(RewardConfig(source="bounded", options={"high": 2.0})) as scorer:
        (scored,) = scorer.score([group("-1", "1", "3")])
    assert scored.rewards == (0.0, 1.0, 2.0)
    with pytest.raises(ConfigError, match=r"'hgh'.*Did you mean 'high'"):
        scoring_of(RewardConfig(source="bounded", options={"hgh": 2.0}))
    with pytest.raises(ConfigError, match=r"option 'high'.*greater than or equal to 0"):
        scoring_of(RewardConfig(source="bounded", options={"high": -2.0}))


def test_a_condition_spares_the_calls_where_it_does_not_hold(tmp_path: Path) -> None:
    file = tmp_path / "calls"
    with scoring_of(
        RewardConfig(source="number"),
        RewardConfig(source="counted", when="number", options={"file": str(file)}),
    ) as scorer:
        (scored,) = scorer.score([group("1 a", "0 b", "-1 c", "x d", "0.5 e")])
        statistics = scorer.statistics()
    assert sorted(lines(file)) == ["0.5 e", "1 a"]
    assert [row[1].value for row in scored.components] == [3.0, None, None, None, 5.0]
    assert scored.rewards == (4.0, 0.0, -1.0, None, 5.5)
    assert (statistics["number"].calls, statistics["counted"].calls) == (5, 2)


def test_conditions_chain_and_hold_for_groups_and_batches() -> None:
    with scoring_of(
        RewardConfig(source="number"),
        RewardConfig(source="second", when="number"),
        RewardConfig(source="rank", when="second"),
        RewardConfig(source="gather", when="second"),
        RewardConfig(source="obedient_group", when="rank"),
    ) as scorer:
        groups = [group("1 1", "1 0", "0 1", "2 1", name="a"), group("0 1", "1 -1", name="b"), group("1 1", name="c")]
        scored = by_name(scorer.score(groups))
        calls = {name: each.calls for name, each in scorer.statistics().items()}
    values = {name: [[part.value for part in row] for row in each.components] for name, each in scored.items()}
    assert values["a"] == [
        [1.0, 1.0, 0.0, 1.0, None],
        [1.0, 0.0, None, None, None],
        [0.0, None, None, None, None],
        [2.0, 1.0, 1.0, 1.0, None],
    ]
    assert values["b"] == [[0.0, None, None, None, None], [1.0, -1.0, None, None, None]]
    assert values["c"] == [[1.0, 1.0, 0.0, 1.0, None]]
    assert {row[3].parts.get("size") for each in scored.values() for row in each.components} == {3, None}
    assert scored["a"].components[3][4].failure is not None  # rank is above 0 there, and "2 1" is no action
    assert calls == {"number": 7, "second": 5, "rank": 2, "gather": 1, "obedient_group": 1}


def test_a_gate_shuts_and_is_not_summed() -> None:
    with scoring_of(RewardConfig(source="number"), RewardConfig(source="second", gate=True)) as scorer:
        (scored,) = scorer.score([group("3 2", "3 0", "-3 -1", "3")])
    assert scored.rewards == (3.0, 0.0, -3.0, None)
    assert [row[1].weight for row in scored.components] == [0.0] * 4


def test_the_policy_decides_what_a_failure_does() -> None:
    good, bad = group("1 2", "2 2", name="good"), group("1 2", "2", name="bad")

    def rewards(policy: Any, gate: bool = False) -> dict[str, tuple[float | None, ...]]:
        second = RewardConfig(source="second", on_failure=policy, gate=gate)
        with scoring_of(RewardConfig(source="number"), second) as scorer:
            return {name: each.rewards for name, each in by_name(scorer.score([good, bad])).items()}

    assert rewards("abstain") == {"good": (3.0, 4.0), "bad": (3.0, None)}
    assert rewards("zero") == {"good": (3.0, 4.0), "bad": (3.0, 2.0)}
    assert rewards("zero", gate=True) == {"good": (1.0, 2.0), "bad": (1.0, 0.0)}
    assert rewards("drop-group") == {"good": (3.0, 4.0), "bad": (None, None)}
    with pytest.raises(ScoringError, match=r"(?s)'second' failed.*Problem bad, response 1: error: IndexError"):
        rewards("abort")


def test_an_abort_leaves_the_service_usable() -> None:
    with scoring_of(RewardConfig(source="obedient", on_failure="abort", timeout_s=60.0)) as scorer:
        with pytest.raises(ScoringError, match="on_failure is 'abort'"):
            list(scorer.score([group("sleep", "raise", "sleep")]))
        assert [each.rewards for each in scorer.score([group("good")])] == [(1.0,)]


@pytest.mark.parametrize(
    ("failures", "retries", "expected", "attempts"), [(2, None, 1.0, 3), (3, None, "error", 3), (1, 0, "error", 1)]
)
def test_what_raises_is_tried_again(
    failures: int, retries: int | None, expected: float | str, attempts: int, tmp_path: Path
) -> None:
    file = tmp_path / "attempts"
    reward = RewardConfig(source="flaky", retries=retries, options={"file": str(file), "failures": failures})
    with scoring_of(reward) as scorer:
        (scored,) = scorer.score([group("a")])
        assert scorer.statistics()["flaky"].calls == 1
    (part,) = scored.components[0]
    assert (outcome(part), len(lines(file))) == (expected, attempts)
    if attempts == 3:
        assert part.seconds > 0.6  # 0.2 and 0.4 s of pauses
    if part.failure is not None:
        assert f"no answer to attempt {attempts}" in part.failure.message


def test_the_deadline_holds_over_all_attempts(tmp_path: Path) -> None:
    def failure(name: str, **options: Any) -> tuple[str, str, float]:
        reward = RewardConfig(
            source="flaky", retries=50, timeout_s=1.0, options={"file": str(tmp_path / name), **options}
        )
        with scoring_of(reward) as scorer:
            (scored,) = scorer.score([group("a")])
        result = scored.components[0][0].failure
        assert result is not None
        return result.kind, result.message, result.seconds

    kind, message, seconds = failure("raises", failures=50)
    assert (kind, len(lines(tmp_path / "raises"))) == ("error", 3)  # a fourth would begin after 1.4 s
    assert "ConnectionError: no answer to attempt 3" in message
    assert "attempt 3" in message
    assert seconds < 1.0
    kind, _, seconds = failure("hangs", failures=1, hang=True)
    assert kind == "timeout"
    assert 1.0 <= seconds < 2.0


def test_a_wrong_number_is_not_tried_again(tmp_path: Path) -> None:
    file = tmp_path / "calls"
    with scoring_of(RewardConfig(source="counted", retries=5, options={"file": str(file)})) as scorer:
        (scored,) = scorer.score([group("nan")])
    assert outcome(scored.components[0][0]) == "invalid"
    assert lines(file) == ["nan"]


def test_calls_beyond_the_budget_fail_and_say_so(tmp_path: Path) -> None:
    file = tmp_path / "calls"
    reward = RewardConfig(source="counted", max_calls=3, options={"file": str(file)})
    with scoring_of(reward, cache=10) as scorer:
        (first,) = scorer.score([group("a", "bb", "a", "bb")])  # two calls: equal ones cost nothing
        (second,) = scorer.score([group("ccc", "dddd", "a")])
        statistics = scorer.statistics()["counted"]
    assert first.rewards == (1.0, 2.0, 1.0, 2.0)
    assert second.rewards == (3.0, None, 1.0)
    assert sorted(lines(file)) == ["a", "bb", "ccc"]
    failure = second.components[1][0].failure
    assert failure is not None
    assert (failure.kind, failure.seconds) == ("error", 0.0)
    assert "rewards.max_calls leaves this process 3 calls, which were made" in failure.message
    assert (statistics.calls, statistics.failed, statistics.cached) == (2, 1, 1)


@pytest.mark.parametrize("source", ["gather", "rank"])
def test_a_budget_counts_batches_and_groups_as_one_call(source: str) -> None:
    with scoring_of(RewardConfig(source=source, max_calls=1)) as scorer:
        (first,) = scorer.score([group("a", "b")])
        (second,) = scorer.score([group("a", "b")])
    assert None not in first.rewards
    assert [outcome(row[0]) for row in second.components] == ["error", "error"]


def test_a_spent_budget_stops_the_run_when_too_much_fails(tmp_path: Path) -> None:
    reward = RewardConfig(source="counted", max_calls=2, options={"file": str(tmp_path / "calls")})
    with (
        scoring_of(reward, max_failure_rate=0.5) as scorer,
        pytest.raises(ScoringError, match="max_calls leaves this process 2 calls"),
    ):
        list(scorer.score([group(*"abcdefghij")]))


def test_equal_calls_are_made_once(tmp_path: Path) -> None:
    file = tmp_path / "calls"
    longer = Response("a", (1, 2, 3), (True,) * 3, (-0.5,) * 3, "stop", 0)
    cut = Response("a", (1, 2), (True, True), (-0.5, -0.25), "length", 0)
    other_tokens = Response("a", (5, 6), (True, True), (-1.5, -2.5), "stop", 7)
    problem = Problem("p", (Message("user", "?"),), "4", {"n": 1})
    with scoring_of(RewardConfig(source="counted", options={"file": str(file)}), cache=100) as scorer:
        (first,) = scorer.score([group("a", "a", "bb", "none", "none", "raise", "raise")])
        assert sorted(lines(file)) == ["a", "bb", "none", "raise"]
        assert first.rewards == (1.0, 1.0, 2.0, 0.0, 0.0, None, None)
        statistics = scorer.statistics()["counted"]
        assert (statistics.calls, statistics.cached, statistics.failed) == (4, 3, 1)
        assert [row[0].seconds > 0.0 for row in first.components] == [True, False, True, True, False, True, False]
        again = list(scorer.score([group("a", "bb", "none", "raise", name="another name")]))
        assert again[0].rewards == (1.0, 2.0, 0.0, None)
        assert sorted(lines(file)) == ["a", "bb", "none", "raise", "raise"]  # a failure is not kept
        statistics = scorer.statistics()["counted"]
        assert (statistics.calls, statistics.cached) == (1, 3)
        list(scorer.score([Group(group().problem, (1,), (longer, cut, other_tokens)), Group(problem, (1,), (cut,))]))
        assert sorted(lines(file)) == ["a"] * 4 + ["bb", "none", "raise", "raise"]
        assert scorer.statistics()["counted"].cached == 1  # the text, its length and its end are what it was


def test_the_cache_forgets_what_was_used_least_recently_and_can_be_off(tmp_path: Path) -> None:
    def calls(cache: int) -> list[str]:
        file = tmp_path / str(cache)
        with scoring_of(RewardConfig(source="counted", options={"file": str(file)}), cache=cache) as scorer:
            for text in ("a", "b", "a", "c", "a", "b"):
                list(scorer.score([group(text)]))
        return lines(file)

    assert calls(2) == ["a", "b", "c", "b"]
    assert calls(0) == ["a", "b", "a", "c", "a", "b"]


def test_a_source_that_does_not_want_it_is_not_cached() -> None:
    with service("echo") as scorer:
        list(scorer.score([group("a", "a")]))
        assert scorer.statistics()["echo"].calls == 2


def test_what_a_successful_call_has_started_ends_with_the_call(marked: Callable[[], set[int]]) -> None:
    with service("obedient", workers=1) as scorer:
        (scored,) = scorer.score([group("daemon and answer", "sleeping child")])
        assert scored.rewards == (1.0, 1.0)
        wait_until(lambda: len(marked()) == 1)  # the host


def test_a_failure_says_what_happened() -> None:
    with service("obedient") as scorer:
        (scored,) = scorer.score([group("raise", "exit 3", "segfault", "allocate", "nan", "sleep")])
        statistics = scorer.statistics()["obedient"]
    failures = [parts[0].failure for parts in scored.components]
    messages = [failure.message for failure in failures if failure is not None]
    expected = (
        "LookupError: no such unit (misbehaving_rewards.py",
        "exit status 3",
        "SIGSEGV",
        "scoring.memory_mb",
        "finite",
        "no result after 2 s",
    )
    assert len(messages) == len(expected)
    assert all(part in message for part, message in zip(expected, messages, strict=True))
    assert scored.rewards == (None,) * 6
    assert (statistics.calls, statistics.failed) == (6, 6)
    assert statistics.failures == {"error": 2, "crash": 2, "invalid": 1, "timeout": 1}
    assert statistics.example is not None
    assert statistics.seconds >= 1.0


def test_a_call_does_not_change_the_next_one_on_the_same_worker() -> None:
    with service("obedient", workers=1) as scorer:
        texts = ("leave alarm", "pause", "close output", "shout", "leave thread", "alone", "listen")
        (scored,) = scorer.score([group(*texts)])
    assert scored.rewards == (1.0,) * len(texts)


def test_a_failed_call_leaves_the_response_s_other_rewards_alone() -> None:
    with service("echo", "obedient", "prepared") as scorer:
        (scored,) = scorer.score([group("exit 0", "spin", "close output", "good")])
    outcomes = [[outcome(part) for part in parts] for parts in scored.components]
    assert outcomes == [[1.0, "crash", 1.0], [1.0, "timeout", 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    assert scored.rewards == (None, None, 3.0, 3.0)


def test_the_worker_sees_the_records_as_they_are_and_has_no_heavy_library() -> None:
    problem = Problem(
        "gsm:1 é\ud800\n", (Message("system", "a\tb"), Message("user", "\u2028")), "x", {"n": [1, None, 0.1]}
    )
    tokens = 3000
    long = Response(
        "𝛑 \\boxed{4}",
        tuple(range(tokens)),
        tuple(index % 3 > 0 for index in range(tokens)),
        tuple(-index / 7 for index in range(tokens)),
        "length",
        12,
    )
    with service("echo") as scorer:
        (scored,) = scorer.score([Group(problem, (1,), (long, response("")))])
    parts = [row[0].parts for row in scored.components]
    assert [part["seen"] for part in parts] == [repr((problem, long)), repr((problem, response("")))]
    assert [part["heavy"] for part in parts] == [[], []]


def test_a_worker_serves_many_calls() -> None:
    with service("echo", workers=1) as scorer:
        scored = list(scorer.score(group("a", "b", name=str(index)) for index in range(50)))
    assert len({parts[0].parts["pid"] for each in scored for parts in each.components}) == 1


def test_groups_come_in_the_order_of_completion_and_empty_ones_too() -> None:
    with service("patient") as scorer:
        names = [
            each.group.problem.id
            for each in scorer.score([group("1.0", name="slow"), group("0", "0", name="fast"), group(name="empty")])
        ]
        assert list(scorer.score([])) == []
    assert set(names) == {"slow", "fast", "empty"}
    assert names[-1] == "slow"


def test_scoring_overlaps_with_the_iterator_that_makes_the_groups(tmp_path: Path) -> None:
    def sampled() -> Iterator[Group]:
        yield group(str(tmp_path / "first"))
        wait_until((tmp_path / "first").exists)
        yield group(str(tmp_path / "second"))

    with service("touch") as scorer:
        assert [each.rewards for each in scorer.score(sampled())] == [(1.0,), (1.0,)]


def test_a_source_that_fails_too_often_stops_the_call_before_all_deadlines_have_passed() -> None:
    with service("obedient", max_failure_rate=0.5) as scorer:
        scored = scorer.score([group(*["raise"] * 12, *["sleep"] * 8)])
        with pytest.raises(ScoringError) as caught:
            list(scored)
        message = str(caught.value)
        assert "reward source 'obedient' failed on 11 of 20 responses (error 11)" in message
        assert "no such unit" in message
        assert "scoring.max_failure_rate = 0.5" in message
        assert [each.rewards for each in scorer.score([group("good")])] == [(1.0,)]


def test_an_interrupted_consumer_leaves_no_stale_results_and_no_busy_worker() -> None:
    def interrupted() -> Iterator[Group]:
        yield group("good", "sleep", "sleep")
        raise KeyboardInterrupt

    with service("obedient", timeout_s=3600.0) as scorer:  # the test hangs unless the sleeping workers are replaced
        with pytest.raises(KeyboardInterrupt):
            list(scorer.score(interrupted()))
        abandoned = scorer.score([group("good", name="a"), group("sleep", "sleep", "good", name="b")])
        assert next(abandoned).group.problem.id == "a"
        abandoned.close()  # type: ignore[attr-defined]
        scored = list(scorer.score(group("good", "score", name=str(index)) for index in range(10)))
        assert {each.rewards for each in scored} == {(1.0, 0.5)}
        assert scorer.statistics()["obedient"].calls == 20


def test_a_new_call_takes_over_from_one_that_was_not_finished() -> None:
    with service("obedient") as scorer:
        first = scorer.score([group("good"), group("sleep")])
        next(first)
        assert [each.rewards for each in scorer.score([group("score")])] == [(0.5,)]
        with pytest.raises(ScoringError, match="another one was started"):
            next(first)
        assert [each.rewards for each in scorer.score([group("score")])] == [(0.5,)]


@pytest.mark.slow
@pytest.mark.parametrize("where", WAYS)
def test_two_hundred_responses_of_which_some_do_harm_cost_their_deadlines_and_no_more(where: str) -> None:
    """`scripts/bench_scoring.py` measures the same, with more of them."""
    result = WAYS[where](lambda: chaos(count=1, timeout_s=1.5))
    assert result.wrong == ()
    assert result.outcomes == {1.0: 190, "timeout": 4, "error": 2, "crash": 2, "invalid": 2}
    assert (result.left, result.usable) == (0, True)
    assert result.bound_s <= result.seconds + 0.5  # the deadlines were really waited for, two at a time
    assert result.seconds < result.bound_s + 10.0


def test_a_dead_host_is_an_error_and_leaves_nothing(marked: Callable[[], set[int]]) -> None:
    with service("obedient") as scorer:
        with pytest.raises(ScoringError, match=r"scoring host.* ended by SIGKILL"):
            list(scorer.score([group("kill parent")]))
        wait_until(lambda: len(marked()) == 1)  # its workers die with it, the daemon when the service is closed
        with pytest.raises(ScoringError, match="scoring host"):
            list(scorer.score([group("good")]))
    wait_until(lambda: not marked())


def test_close_ends_running_calls_at_once_and_may_be_repeated(marked: Callable[[], set[int]]) -> None:
    scorer = service("obedient")
    scored = scorer.score([group("good"), group("daemon and hang", "fork and hang")])
    next(scored)
    scorer.close()
    scorer.close()
    assert marked() == set()
    with pytest.raises(ScoringError):
        next(scored)
    with pytest.raises(ScoringError, match="closed"):
        next(scorer.score([group("good")]))


def test_wrong_sources_plugins_and_limits_are_refused(tmp_path: Path, marked: Callable[[], set[int]]) -> None:
    with pytest.raises(ConfigError, match=r"rewards\[1\].source.*'ecko'.*Did you mean 'echo'"):
        service("obedient", "ecko")
    with pytest.raises(ConfigError, match=r"memory_mb = 1 "):
        ScoringService([RewardConfig(source="echo")], ScoringConfig(memory_mb=1), [PLUGIN])
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_like_this\n")
    with pytest.raises(ConfigError, match=r"broken\.py cannot be imported"):
        ScoringService([RewardConfig(source="echo")], ScoringConfig(), [str(broken)])
    broken.write_text("import os\nprint('halfway', flush=True)\nos._exit(5)\n")
    with pytest.raises(ScoringError, match=r"did not start: it ended with exit status 5(?s:.*)halfway"):
        ScoringService([RewardConfig(source="echo")], ScoringConfig(), [str(broken)])
    assert marked() == set()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_survives_the_main_process(number: signal.Signals, marked: Callable[[], set[int]]) -> None:
    script = (
        "import os, signal\n"
        "from test_scoring_service import group, service\n"
        "scorer = service('obedient')\n"
        "child = os.fork()\n"
        "if child == 0:\n"  # it holds the other ends of the host's pipes, and must not keep the host alive by that
        "    signal.pause()\n"
        "for _ in scorer.score([group('good'), group('daemon and hang', *['sleep'] * 20)]):\n"
        "    print(child, flush=True)\n"
    )
    main = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert main.stdout is not None
    with main.stdout as output:
        child = int(output.readline())
    try:
        assert len(marked()) > 3
        main.send_signal(number)
        main.wait()
        wait_until(lambda: marked() == {child})
    finally:
        os.kill(child, signal.SIGKILL)


TALKING = """
import os
import subprocess
import sys
from reasoner import RewardSource, hookimpl, reward


@reward("talks", timeout_s=2.0)
def talks(problem, response):
    word = response.text.split()[0]
    if word != "silent":
        print("saw", response.text)
    if word == "aside":
        print("to the error stream", file=sys.stderr)
    elif word == "child":
        subprocess.run(["echo", "from a child"], check=True)
    elif word == "flood":
        os.write(1, b"x" * 1_000_000)
    elif word == "hang":
        while True:
            pass
    elif word == "die":
        os._exit(3)
    elif word == "raise":
        return look_up(response.text)
    return 1.0


def look_up(text):
    raise LookupError(f"no such unit as {os.environ['A_KEY_OF_MINE']}")


@hookimpl
def register_rewards() -> list[RewardSource]:
    return [talks]
"""
SECRET = "sk-" + "0123456789abcdef" * 2


def test_what_a_source_prints_is_logged_and_its_first_exception_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the call that printed it, also where it was killed or died; a flood is cut, secrets are hidden."""
    plugin = tmp_path / "talking.py"
    plugin.write_text(TALKING)
    monkeypatch.setenv("A_KEY_OF_MINE", SECRET)
    logged, failed, message = list[str](), list[str](), list[str]()
    words = ["silent", "aside", "child", "flood", "hang", "die", "raise 1", "raise 2", "silent again", SECRET]
    scoring = ScoringConfig(workers=2, max_failure_rate=1.0)
    rewards = [RewardConfig(source="talks")]
    with ScoringService(
        rewards, scoring, [str(plugin)], message.append, fail=failed.append, log=logged.append
    ) as service:
        (scored,) = service.score([group(*words)])
    verdicts_ = [part.value if part.failure is None else part.failure.kind for (part,) in scored.components]
    assert verdicts_ == [1.0, 1.0, 1.0, 1.0, "timeout", "crash", "error", "error", 1.0, 1.0]
    by_response = {int(text.split("response ")[1].split(",")[0]): text.partition("printed:\n")[2] for text in logged}
    assert by_response.keys() == {1, 2, 3, 4, 5, 6, 7, 9}
    assert by_response[1] == "saw aside\nto the error stream\n"
    assert by_response[2] == "saw child\nfrom a child\n"
    assert len(by_response[3]) == MAX_PRINTED
    assert by_response[3].startswith("saw flood\nxxx")
    assert by_response[4] == "saw hang\n"
    assert by_response[5] == "saw die\n"
    assert SECRET not in "".join(logged + failed)
    assert message == []
    (told,) = failed
    first, *lines = told.splitlines()
    assert re.fullmatch(r"talks on problem p, response [67], failed \(the first time; the others are counted\):", first)
    assert [line for line in lines if "File " in line] == [
        f'  File "{plugin}", line 25, in talks',
        f'  File "{plugin}", line 30, in look_up',
    ]
    assert "    raise LookupError" in told
    assert lines[-1].startswith("LookupError: no such unit as ")


def test_a_source_that_prints_without_end_is_not_logged_without_end(tmp_path: Path) -> None:
    plugin = tmp_path / "talking.py"
    plugin.write_text(TALKING)
    logged: list[str] = []
    texts = [f"flood {number}" for number in range(70)]
    with ScoringService(
        [RewardConfig(source="talks")], ScoringConfig(workers=2), [str(plugin)], log=logged.append
    ) as s:
        (scored,) = s.score([group(*texts)])
    assert all(part.value == 1.0 for (part,) in scored.components)
    assert sum(map(len, logged)) < MAX_LOGGED + 2 * MAX_PRINTED + 60 * len(logged)
    assert len(logged) < len(texts)
    assert logged[-1].endswith("no more of it is logged")
