"""What calls leave behind in their worker, and what they do to the processes that run them: real processes."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import ScoringError
from reasoner.records import Component, Group
from reasoner.scoring import score_call as call
from reasoner.scoring.cache import Cache
from reasoner.scoring.reward_table import RewardTable
from reasoner.scoring.service import ScoringService
from reasoner.scoring.statistics import Tally
from reasoner.scoring.workers.protocol import COMMON, Traits
from reasoner.testing.cases import make_problem, make_response
from tests.integration.untidy_rewards import CHANGES, SET_BACK, SHARED

PLUGIN = str(Path(__file__).with_name("untidy_rewards.py"))
ROWS = [{"x": [1, 2]}, {"y": [3]}]


def group(*texts: str, name: str = "p", **fields: Any) -> Group:
    return Group(replace(make_problem("?", "4", **fields), id=name), (1,), tuple(map(make_response, texts)))


@pytest.fixture
def said() -> list[str]:
    return []


ONE = ScoringConfig(workers=1, max_failure_rate=1.0)
"""worker, so that calls follow each other in it"""


@pytest.fixture
def scorer(said: list[str]) -> Iterator[ScoringService]:
    with ScoringService([RewardConfig(source="untidy")], ONE, [PLUGIN], said.append) as service:
        yield service


@pytest.fixture(scope="module")
def forged() -> Iterator[ScoringService]:
    """Whose workers say what is no result, one after the other: the host outlives them all."""
    with ScoringService([RewardConfig(source="untidy")], ONE, [PLUGIN]) as service:
        yield service


def scored(scorer: ScoringService, *texts: str) -> list[Component]:
    (result,) = scorer.score([group(*texts)])
    return [row[0] for row in result.components]


def kinds(parts: list[Component]) -> list[float | str | None]:
    return [part.value if part.failure is None else part.failure.kind for part in parts]


def in_memory() -> list[str]:
    return sorted(path.name for path in Path("/dev/shm").glob(f"{SHARED}*"))


def test_no_change_reaches_the_next_call_and_each_is_named(scorer: ScoringService, said: list[str]) -> None:
    names = [*SET_BACK, *CHANGES]
    parts = scored(scorer, "state", *(text for name in names for text in (name, "state")))
    assert kinds(parts) == [1.0] * len(parts)
    states = [json.loads(part.parts["state"]) for part in parts[::2]]
    assert {name: state for name, state in zip(names, states[1:], strict=True) if state != states[0]} == {}
    assert sorted(scorer.left_behind()["untidy"]) == sorted({named for _, named in CHANGES.values()})
    assert len(said) == 1
    assert said[0].startswith("reward source 'untidy' leaves its worker changed: the working directory. ")


def test_what_is_set_back_costs_no_worker(scorer: ScoringService, said: list[str]) -> None:
    first, *_, last = scored(scorer, "pid", *SET_BACK, "few files", "pid")
    assert (first.parts, said, dict(scorer.left_behind())) == (last.parts, [], {})


def test_a_seed_holds_for_its_own_call(scorer: ScoringService) -> None:
    draws = [part.value for part in scored(scorer, *["seed", "draw"] * 3)][1::2]
    assert len(set(draws)) == 3


def test_what_is_changed_in_place_is_the_call_s_own() -> None:
    rewards = [RewardConfig(source=source) for source in ("vandal", "thief", "untidy")]
    with ScoringService(rewards, ScoringConfig(workers=1, cache=0), [PLUGIN]) as scorer:
        texts = ("good", "good", "again", "good")
        problem = group(*texts, rows=ROWS)
        scored = [*scorer.score([problem]), *scorer.score([problem])]
    rows = [row for each in scored for row in each.components if row[0].failure is None or row[2].value == 1.0]
    assert [row[0].failure for row in rows] == [None] * 8
    fields = {"question": "?", "answer": "4", "rows": ROWS}
    assert [json.loads(row[0].parts["got"]) for row in rows] == [[fields, ["a"]]] * 8
    assert [row[1].value for row in rows] == [4.0] * 8


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("child writes", 1.0),
        ("flood", "crash"),
        ("half a line", "crash"),
        ("forge wrong task", "crash"),
        ("forge text", "crash"),
        ("forge nan", "crash"),
        ("forge parts", "crash"),
        ("forge seconds", "crash"),
        ("forge kind", "crash"),
        ("forge two", "crash"),
        ("forge none", "crash"),
    ],
)
def test_what_is_no_result_is_a_crash_of_its_worker(forged: ScoringService, text: str, outcome: float | str) -> None:
    assert kinds(scored(forged, text)) == [outcome]
    assert kinds(scored(forged, "good", "good")) == [1.0, 1.0]


def test_a_worker_has_its_channel_and_nothing_else_of_its_host(scorer: ScoringService) -> None:
    (part,) = scored(scorer, "descriptors")
    assert part.parts["links"] == ["/dev/null", "pipe", "pipe", "socket"]


def test_a_stopped_host_goes_on_and_its_calls_are_named(scorer: ScoringService, said: list[str]) -> None:
    assert kinds(scored(scorer, "stop parent", "good", "stop parent")) == [1.0, 1.0, 1.0]
    assert said == [
        "the scoring host, which runs the reward sources, was stopped by a signal, and continues\n"
        "Calls without an outcome, the oldest first: untidy on problem p, response 0; "
        "untidy on problem p, response 1; untidy on problem p, response 2"
    ]


class SilentHost:
    """Takes calls and never says anything."""

    closed = ended = False
    dead = False

    def listen(self) -> queue.SimpleQueue[bytes | None]:
        return queue.SimpleQueue()

    def send(self, lines: bytes) -> None:
        pass

    def has_died(self) -> bool:
        self.ended = self.dead
        return self.dead

    def was_stopped(self) -> bool:
        return False

    def obituary(self) -> str:
        return "ended" if self.dead else "is stuck"


@pytest.mark.parametrize(
    ("dead", "message"),
    [
        (False, r"has been silent for 0.02 seconds more than the longest deadline of its calls; it is stuck\n"),
        (True, r"the reward sources, ended\n"),
    ],
)
def test_a_host_that_says_nothing_ends_the_call(dead: bool, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen, or dead with its pipe held open by somebody else."""
    monkeypatch.setattr(call, "SLACK_S", 0.02)
    monkeypatch.setattr(call, "LOOK_S", 0.01)
    host = SilentHost()
    host.dead = dead
    traits = (Traits("response", COMMON, cache=False, timeout_s=0.05),)
    shared = call.Shared(RewardTable.of({"": [RewardConfig(source="untidy")]}), traits, 1.0, host, Cache(0))  # type: ignore[arg-type]
    waiting = call.ScoreCall(shared, Tally(["untidy"]))
    waiting.submit(group("good", "bad"))
    with pytest.raises(ScoringError, match=message + "Calls without an outcome.*untidy on problem p, response 1"):
        waiting.wait()


def test_a_line_of_the_host_that_is_no_message_is_an_error_in_words(scorer: ScoringService) -> None:
    message = r"sent something that is not a message: b'garbage\\n'(?s:.*)oldest first: untidy on problem p, response 0"
    with pytest.raises(ScoringError, match=message):
        scored(scorer, "write to main", "good")


def test_nothing_stays_in_memory(scorer: ScoringService) -> None:
    texts = ("memory file", "memory folder", "shared memory", "memory file and hang", "memory file and exit", "tidy")
    assert kinds(scored(scorer, *texts)) == [1.0, 1.0, 1.0, "timeout", "crash", 1.0]
    assert in_memory() == []
    named = scorer.left_behind()["untidy"]
    assert named[:2] == [
        f"file /dev/shm/{SHARED}file",
        f"file /dev/shm/{SHARED}folder, file /dev/shm/{SHARED}folder/file",
    ]
    assert len(named) == 3
    assert named[2].endswith(f"file /dev/shm/{SHARED}segment")


def test_a_call_that_is_cut_off_leaves_nothing_in_memory(scorer: ScoringService) -> None:
    scores = scorer.score([group("good"), group("memory file and hang", name="q")])
    next(scores)
    while not in_memory():
        pass
    scorer.close()
    assert in_memory() == []


def test_temporary_files_go_with_the_service() -> None:
    with ScoringService(
        [RewardConfig(source="untidy")], ScoringConfig(workers=1, max_failure_rate=1.0), [PLUGIN]
    ) as it:
        made, hung = scored(it, "temporary", "temporary and hang")
        folder = Path(made.parts["folder"])
        assert folder.is_dir()
        assert len(list(folder.parent.iterdir())) == 2
        assert kinds([hung]) == ["timeout"]
    assert not folder.parent.exists()


BUILT_IN: dict[str, dict[str, Any]] = {
    "math": {},
    "exact": {},
    "choice": {},
    "regex": {"pattern": "x"},
    "json_schema": {"schema_inline": {"type": "object"}},
    "boxed_format": {},
    "think_format": {},
    "length": {"max_tokens": 100, "cache_tokens": 10},
    "repetition": {},
    "language": {"expect": "en"},
}


def test_built_in_rules_leave_nothing(said: list[str]) -> None:
    rewards = [RewardConfig(source=source, options=options) for source, options in BUILT_IN.items()]
    texts = (
        r"\boxed{\frac{1}{2}x^2+\sqrt{3}}",
        r"\boxed{\int_0^1 x dx = [0, 1) \cup (2, 3]}",
        '{"a": 1}',
        "B",
        "#### 5",
    )
    with ScoringService(rewards, ScoringConfig(workers=1, max_failure_rate=1.0, cache=0), say=said.append) as scorer:
        list(scorer.score([group(*texts), Group(make_problem("?", r"x^2/2+\sqrt{3}"), (1,), group(*texts).responses)]))
        assert dict(scorer.left_behind()) == {}
    assert said == []
