"""The scoring service with real processes and reward sources that misbehave in every way that we could think of."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import ConfigError, ScoringError
from reasoner.records import Component, Group, Message, Problem, Response, ScoredGroup
from reasoner.scoring.service import ScoringService

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


def outcome(component: Component) -> float | str | None:
    return component.value if component.failure is None else component.failure.kind


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[int]]:
    """The living processes, except this one, that were started since the fixture was made."""
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)

    def alive() -> set[int]:
        found = set()
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == value and process.status() != psutil.STATUS_ZOMBIE:
                    found.add(process.pid)
            except psutil.Error:
                continue
        return found

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
        assert "reward source 'obedient' failed in 11 of 20 calls (error 11)" in message
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


def test_it_works_in_a_thread_and_inside_an_event_loop() -> None:
    results: list[ScoredGroup] = []

    def run() -> None:
        with service("obedient") as scorer:
            results.extend(scorer.score([group("good", "exit 0")]))

    async def main() -> None:
        run()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    asyncio.run(main())
    assert [each.rewards for each in results] == [(1.0, None)] * 2


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
    broken.write_text("print('halfway', flush=True)\nraise SystemExit(5)\n")
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
