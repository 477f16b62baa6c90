"""Responses of one turn and of several, over an engine that writes what the test says."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from reasoner.data.turn_formats import TurnFormat
from reasoner.distributed.ranks import Ranks
from reasoner.environments.base import EnvironmentFailedError
from reasoner.errors import HandoverError, SamplerError
from reasoner.records import (
    Failure,
    Group,
    Message,
    Observation,
    Problem,
    Prompt,
    Receipt,
    Response,
    SamplingParams,
    ToolCall,
    Turn,
)
from reasoner.sampling.base import Completed, Completion, TokenRequest
from reasoner.sampling.responses import prompt_seeds
from reasoner.sampling.sharded import ShardedSampler
from reasoner.trajectories import token_client
from reasoner.trajectories.interaction import Interaction
from reasoner.trajectories.sampler import TrajectorySampler
from tests.tiny import byte_tokenizer
from tests.unit.fake_environments import FakeEnvironments, FakeSession
from tests.unit.fake_tokens import FakeTokens, Script
from tests.unit.test_sharded_sampler import on_ranks

TOKENIZER = byte_tokenizer()
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
START = TOKENIZER.convert_tokens_to_ids("<|im_start|>")
PARAMS = SamplingParams(1.0, 64, seed=5)


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text))


def decoded(token_ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(token_ids))


def prompt(name: str, text: str = "ask") -> Prompt:
    return Prompt(Problem(name, (Message("user", "?"),), ""), ids(text))


class Plain:
    """`<t>1+2</t>` calls `add`; results come in brackets."""

    stop = ("</t>",)

    def prompt(self, problem: Problem, opening: Sequence[Message]) -> tuple[int, ...]:
        return ids("".join(message.content for message in opening) + ">")

    def read(self, written: Sequence[int], text: str) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall("add", {"a": int(result[1]), "b": int(result[2])})
            if result[1]
            else ToolCall("", error="no numbers")
            for result in re.finditer(r"<t>(?:(\d+)\+(\d+)|.*?)</t>", text)
        )

    def increment(self, written: Sequence[int], messages: Sequence[Message]) -> tuple[tuple[int, ...], ...]:
        return tuple((START, *ids(f"[{message.content}]")) for message in messages)


def interaction(environments: FakeEnvironments) -> Interaction:
    return Interaction(environments, cast(TurnFormat, Plain()), environments.max_turns)


def writes(*turns: str) -> Script:
    """The turns of every response, told apart by how often something came back in between."""
    return lambda asked, k: ids(turns[asked.token_ids.count(START)])


def one(
    turns: Sequence[str], environments: FakeEnvironments | None = None, params: SamplingParams = PARAMS
) -> Response:
    fake = FakeTokens(writes(*turns), TOKENIZER, (END,))
    environments = environments or FakeEnvironments()
    with TrajectorySampler(fake).with_interactions(interaction(environments)) as sampler:
        [group] = sampler.sample([prompt("p")], 1, params)
    assert [session.closed for session in environments.sessions] == [1]
    return group.responses[0]


def check(response: Response, prompt_ids: tuple[int, ...] = ids("ask")) -> None:
    """What holds of every response: the turns cover its tokens, and only those of the policy are its own."""
    assert [turn.first for turn in response.turns] == [0, *(turn.end for turn in response.turns)][:-1]
    assert response.turns[-1].end == len(response.token_ids)
    for turn in response.turns:
        own = turn.role == "assistant"
        assert set(response.policy_mask[turn.first : turn.end]) == {own}
        assert all((logprob != 0.0) is own for logprob in response.sampler_logprobs[turn.first : turn.end])


# One turn


def test_a_single_turn_is_one_request_for_the_whole_group_and_one_batch_for_all_prompts() -> None:
    fake = FakeTokens(lambda asked, k: ids(decoded(asked.token_ids)[::-1] + str(k)), TOKENIZER, (END,))
    batches: list[int] = []
    submit = fake.submit
    fake.submit = lambda requests: batches.append(len(requests)) or submit(requests)  # type: ignore[func-returns-value,method-assign]
    prompts = [prompt("long", "a longer one"), prompt("a", "ab"), prompt("b", "cd")]
    with TrajectorySampler(fake) as sampler:
        groups = list(sampler.sample(prompts, 2, PARAMS))
    assert fake.told == ["begin 5", "close"]
    assert (batches, [(asked.token_ids, asked.n, asked.params) for asked in fake.submitted]) == (
        [3],
        [
            (each.token_ids, 2, replace(PARAMS, seed=seed))
            for each, seed in zip(prompts, prompt_seeds(PARAMS.seed, prompts), strict=True)
        ],
    )
    assert [group.problem.id for group in groups] == ["a", "b", "long"]
    assert [response.text for response in groups[0].responses] == ["ba0", "ba1"]
    response = groups[0].responses[1]
    assert (response.token_ids, response.policy_mask) == ((*ids("ba1"), END), (True,) * 4)
    assert (response.turns, response.report, response.finish_reason) == ((), None, "stop")
    assert response.sampler_logprobs == tuple(float(-token) for token in response.token_ids)


def test_a_text_is_cut_at_a_stop_string_and_its_tokens_stay() -> None:
    fake = FakeTokens(writes("so#it"), TOKENIZER, (END,))
    with TrajectorySampler(fake) as sampler:
        [group] = sampler.sample([prompt("p")], 1, replace(PARAMS, stop=("#",)))
    assert (group.responses[0].text, decoded(group.responses[0].token_ids)) == ("so", "so#")


def slowly(asked: TokenRequest, k: int) -> Iterator[int]:
    """As many tokens as the prompt has, and where it begins with b many more than a test waits for."""
    left = 10_000 if decoded(asked.token_ids[:1]) == "b" else len(asked.token_ids)
    while left:
        time.sleep(0.002)
        left -= 1
        yield ids("x")[0]


def test_weights_change_under_what_is_sampled_and_the_tokens_say_where() -> None:
    fake = FakeTokens(slowly, TOKENIZER, (END,))
    with TrajectorySampler(fake) as sampler:
        groups = sampler.sample([prompt("short", "a"), prompt("long", "b")], 1, replace(PARAMS, max_tokens=600))
        assert next(groups).responses[0].version_changes == ()
        assert sampler.change(Path(), 3).version == 3
        [response] = next(groups).responses
        [(first, version)] = response.version_changes
        assert (response.policy_version, version) == (0, 3)
        assert 0 < first < 600
        assert {round(-logprob % 1, 3) for logprob in response.sampler_logprobs[:first]} == {0.0}
        assert {round(-logprob % 1, 3) for logprob in response.sampler_logprobs[first:]} == {0.003}
        assert [told for told in fake.told if "begin" not in told] == ["pause", "load 3", "resume"]
        assert sampler.change(Path(), 4).version == 4  # nothing runs
        assert next(groups, None) is None


class Preparing(FakeTokens):
    """Takes weights in two steps; what is sampled goes on in the first one."""

    def prepare(self, folder: Path, version: int) -> None:
        before = len(self.told), self.running
        assert before[1]
        ended = time.monotonic() + 30
        while self.running and time.monotonic() < ended:
            time.sleep(0.01)
        assert (len(self.told), self.running) == (before[0], set())
        self.told.append(f"prepare {version}")


def test_weights_are_brought_while_the_engine_samples_and_loaded_while_it_is_paused() -> None:
    fake = Preparing(slowly, TOKENIZER, (END,))
    with TrajectorySampler(fake) as sampler:
        groups = sampler.sample([prompt("short", "a"), prompt("long", "b")], 1, replace(PARAMS, max_tokens=100))
        next(groups)
        assert sampler.change(Path(), 3).version == 3
        assert next(groups).responses[0].version_changes == ()
    assert fake.told == ["begin 5", "prepare 3", "pause", "load 3", "resume", "close"]
    with pytest.raises(SamplerError, match="this sampler is closed"):
        sampler.change(Path(), 4)


def test_weights_that_are_not_taken_end_what_is_sampled_and_leave_the_engine_free() -> None:
    fake = FakeTokens(slowly, TOKENIZER, (END,))
    load = fake.load

    def fail(folder: Path, version: int) -> Receipt:
        raise HandoverError("other weights")

    with TrajectorySampler(fake) as sampler:
        groups = sampler.sample([prompt("short", "a"), prompt("long", "b")], 1, replace(PARAMS, max_tokens=4000))
        next(groups)
        fake.load = fail  # type: ignore[method-assign]
        with pytest.raises(HandoverError, match="other weights"):
            sampler.change(Path(), 1)
        with pytest.raises(SamplerError, match="did not take new weights"):
            next(groups)
        assert sorted(fake.told) == ["abort [1]", "begin 5", "pause", "resume"]
        assert not fake.running
        fake.load = load  # type: ignore[method-assign]
        assert sampler.change(Path(), 2).version == 2
        assert len(list(sampler.sample([prompt("again")], 2, PARAMS))) == 1


def test_an_engine_that_does_not_answer_a_pause_is_left_free() -> None:
    fake = FakeTokens(slowly, TOKENIZER, (END,))
    pause = fake.pause

    def fail() -> None:
        pause()
        raise SamplerError("it did not answer")

    fake.pause = fail  # type: ignore[method-assign]
    with TrajectorySampler(fake) as sampler:
        groups = sampler.sample([prompt("short", "a"), prompt("long", "b")], 1, replace(PARAMS, max_tokens=4000))
        next(groups)
        with pytest.raises(SamplerError, match="it did not answer"):
            sampler.change(Path(), 1)
        with pytest.raises(SamplerError, match="did not take new weights"):
            next(groups)
        assert sorted(fake.told) == ["abort [1]", "begin 5", "pause", "resume"]
        assert not fake.running


def test_an_engine_that_a_load_ended_says_why() -> None:
    fake = FakeTokens(writes("abc"), TOKENIZER, (END,))

    def fail(folder: Path, version: int) -> Receipt:
        fake.resume = gone  # type: ignore[method-assign]
        raise SamplerError("the weights are no weights")

    def gone() -> None:
        raise SamplerError("this sampler is closed")

    fake.load = fail  # type: ignore[method-assign]
    with TrajectorySampler(fake) as sampler, pytest.raises(SamplerError, match="the weights are no weights"):
        sampler.change(Path(), 1)


def test_a_closed_iterator_leaves_the_engine_free() -> None:
    fake = FakeTokens(slowly, TOKENIZER, (END,))
    with TrajectorySampler(fake) as sampler:
        groups = sampler.sample([prompt("short", "a"), prompt("long", "b")], 1, replace(PARAMS, max_tokens=4000))
        assert next(groups).problem.id == "short"
        with pytest.raises(SamplerError, match=r"still sampling, and was asked for new weights"):
            sampler.load(Path(), 1)
        cast(Any, groups).close()
        assert not fake.running
        assert sampler.load(Path(), 1).version == 1
        assert len(list(sampler.sample([prompt("again")], 2, PARAMS))) == 1


def test_a_closed_sampler_ends_its_iterator() -> None:
    fake = FakeTokens(slowly, TOKENIZER, (END,))
    sampler = TrajectorySampler(fake)
    groups = sampler.sample([prompt("short", "a"), prompt("long", "b")], 1, replace(PARAMS, max_tokens=4000))
    next(groups)
    sampler.close()
    with pytest.raises(SamplerError, match="closed while it was sampling"):
        list(groups)


def test_a_closed_sampler_begins_nothing() -> None:
    fake = FakeTokens(writes("abc"), TOKENIZER, (END,))
    sampler = TrajectorySampler(fake)
    late = sampler.sample([prompt("p")], 1, PARAMS)
    sampler.close()
    sampler.close()
    with pytest.raises(SamplerError, match="this sampler is closed"):
        next(late)
    with pytest.raises(SamplerError, match="this sampler is closed"):
        sampler.change(Path(), 1)
    assert set(fake.told) == {"close"}


def test_a_sampling_that_does_not_start_leaves_the_engine_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("can't start new thread")

    fake = FakeTokens(slowly, TOKENIZER, (END,))
    sampler = TrajectorySampler(fake)
    with monkeypatch.context() as patched:
        patched.setattr("reasoner.trajectories.sampler.start_blocking_portal", fail)
        with pytest.raises(RuntimeError, match="new thread"):
            next(sampler.sample([prompt("p", "a")], 1, PARAMS))
    assert len(list(sampler.sample([prompt("p", "a")], 1, PARAMS))) == 1
    sampler.close()


def test_an_engine_that_hangs_does_not_keep_its_sampler_from_closing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hangs = threading.Event()

    def receive(timeout_s: float | None = None) -> None:
        hangs.set()
        time.sleep(0.01)

    monkeypatch.setattr(token_client, "ABORT_S", 0.2)
    fake = FakeTokens(writes("abc"), TOKENIZER, (END,))
    fake.receive = receive  # type: ignore[method-assign]
    sampler = TrajectorySampler(fake)
    with ThreadPoolExecutor(1) as pool:
        groups = pool.submit(list, sampler.sample([prompt("p")], 1, PARAMS))
        assert hangs.wait(10)
        closing = threading.Thread(target=sampler.close, daemon=True)
        closing.start()
        closing.join(30)
        assert not closing.is_alive()
        with pytest.raises(SamplerError, match="closed while it was sampling"):
            groups.result(10)
    assert fake.told == ["begin 5", "abort [0]", "close"]
    assert "did not end 1 requests within 0.2 s" in caplog.text


def test_an_engine_that_hangs_in_a_call_is_closed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    called, killed = threading.Event(), threading.Event()

    def begin(seed: int) -> None:
        called.set()
        assert killed.wait(30)
        raise SamplerError("the engine is gone")

    monkeypatch.setattr("reasoner.trajectories.sampler.ABORT_S", 0.2)
    fake = FakeTokens(writes("abc"), TOKENIZER, (END,))
    fake.begin, fake.close = begin, killed.set  # type: ignore[method-assign]
    sampler = TrajectorySampler(fake)
    with ThreadPoolExecutor(1) as pool:
        groups = pool.submit(list, sampler.sample([prompt("p")], 1, PARAMS))
        assert called.wait(10)
        sampler.close()
        with pytest.raises(SamplerError, match="the engine is gone"):
            groups.result(10)


def test_an_engine_that_fails_ends_the_iterator_with_its_own_message() -> None:
    fake = FakeTokens(writes("abc"), TOKENIZER, (END,))

    def fail(*_: object) -> Completed:
        raise SamplerError("the engine is gone")

    fake.receive = fake.abort = fail  # type: ignore[method-assign,assignment]
    with TrajectorySampler(fake) as sampler, pytest.raises(SamplerError, match="the engine is gone"):
        list(sampler.sample([prompt("p"), prompt("q")], 2, PARAMS))


def test_what_the_engine_aborted_by_itself_is_no_sample() -> None:
    fake = FakeTokens(writes("abc"), TOKENIZER, (END,))
    aborted = Completed(0, (Completion((1,), (-1.0,), "abort", 0),))
    fake.receive = lambda timeout_s=None: aborted  # type: ignore[method-assign]
    with TrajectorySampler(fake) as sampler, pytest.raises(SamplerError, match="no sample of the policy"):
        list(sampler.sample([prompt("p")], 1, PARAMS))


# Several turns


def test_a_result_is_appended_to_what_the_policy_wrote_and_no_token_is_made_twice() -> None:
    response = one(["hm <t>1+2</t>", "so 3"])
    check(response)
    assert decoded(response.token_ids) == "hm <t>1+2</t><|im_start|>[3]so 3<|im_end|>"
    assert [(turn.role, turn.text, turn.tool) for turn in response.turns] == [
        ("assistant", "hm <t>1+2</t>", ""),
        ("tool", "3", "add"),
        ("assistant", "so 3", ""),
    ]
    assert response.turns[0].calls == (ToolCall("add", {"a": 1, "b": 2}),)
    assert (response.text, response.finish_reason) == ("so 3", "stop")
    assert response.report is not None
    assert response.report.parts == {"turns": 2}


def test_each_generation_continues_exactly_what_is_there_and_gets_what_is_left() -> None:
    fake = FakeTokens(writes("<t>1+2</t>", "<t>3+4</t>", "7"), TOKENIZER, (END,))
    with TrajectorySampler(fake).with_interactions(interaction(FakeEnvironments())) as sampler:
        [group] = sampler.sample([prompt("p")], 1, PARAMS)
    [response] = group.responses
    check(response)
    for asked, turn in zip(fake.submitted, response.turns[::2], strict=True):
        assert asked.token_ids == (*group.prompt_ids, *response.token_ids[: turn.first])
        assert (asked.params.max_tokens, asked.n) == (PARAMS.max_tokens - turn.first, 1)
        assert asked.params.stop == ("</t>",)


def test_a_malformed_call_and_a_tool_that_fails_are_told_and_kept() -> None:
    def broken(session: FakeSession, turn: Turn, seen: Observation) -> Observation:
        return replace(seen, errors=("timeout",) * len(seen.messages), seconds=(2.0,) * len(seen.messages))

    response = one(["<t>?</t>", "done"], FakeEnvironments(react=broken))
    check(response)
    assert [call.error for call in response.turns[0].calls] == ["no numbers"]
    assert (response.turns[1].text, response.turns[1].error, response.turns[1].seconds) == (
        "no numbers",
        "timeout",
        2.0,
    )


@pytest.mark.parametrize(
    ("most", "text", "finish"),
    [
        (9, "<t>1+2</t", "length"),  # in the middle of a call, which is not read
        (10, "<t>1+2</t>", "length"),  # no token is left for the result
        (14, "<t>1+2</t>", "length"),  # the result fits, and no token after it
        (15, "<t>1+2</t><|im_start|>[3]s", "length"),
        (18, "<t>1+2</t><|im_start|>[3]so 3", "length"),  # the end token does not fit
        (19, "<t>1+2</t><|im_start|>[3]so 3<|im_end|>", "stop"),
    ],
)
def test_max_tokens_are_those_of_the_whole_response(most: int, text: str, finish: str) -> None:
    response = one(["<t>1+2</t>", "so 3"], params=replace(PARAMS, max_tokens=most))
    check(response)
    assert (decoded(response.token_ids), response.finish_reason) == (text, finish)
    assert len(response.token_ids) <= most
    assert response.turns[0].calls == (() if most == 9 else (ToolCall("add", {"a": 1, "b": 2}),))


def test_a_policy_that_still_calls_at_its_last_turn_was_cut() -> None:
    response = one(["<t>1+2</t>"] * 3, FakeEnvironments(max_turns=2))
    check(response)
    assert (len(response.turns), response.finish_reason) == (3, "length")


def test_turns_have_rewards_and_an_environment_may_end_them() -> None:
    def react(session: FakeSession, turn: Turn, seen: Observation) -> Observation:
        if len(session.turns) == 3:
            return Observation((Message("user", "won"),), done=True, reward=1.0, parts={"won": True})
        return Observation((Message("user", "colder"),), reward=-0.25, errors=("",), seconds=(0.0,))

    environments = FakeEnvironments(react=react)
    response = one(["5", "7", "8"], environments)
    check(response)
    assert [turn.role for turn in response.turns] == ["assistant", "user", "assistant", "user", "assistant"]
    assert (response.text, response.finish_reason) == ("8", "stop")
    report = response.report
    assert report is not None
    assert (report.reward, report.turn_rewards) == (0.5, (-0.25, -0.25, 1.0))
    assert report.parts == {"won": True, "turns": 3}


def test_what_an_environment_adds_to_the_prompt_is_the_prompt_of_its_group() -> None:
    environments = FakeEnvironments(opening=(Message("user", "You are in a maze."),))
    fake = FakeTokens(writes("left"), TOKENIZER, (END,))
    with TrajectorySampler(fake).with_interactions(interaction(environments)) as sampler:
        [group] = sampler.sample([prompt("p")], 3, PARAMS)
    assert decoded(group.prompt_ids) == "You are in a maze.>"
    assert {asked.token_ids for asked in fake.submitted} == {group.prompt_ids}
    assert [response.failure for response in group.responses] == [None] * 3


# Failures


FAILURE = Failure("environment maze", "crash", "its worker died", 0.5)


def test_an_environment_that_fails_is_recorded_with_what_was_written() -> None:
    def fail(session: FakeSession, turn: Turn, seen: Observation) -> Observation:
        raise EnvironmentFailedError(FAILURE)

    response = one(["<t>1+2</t>"], FakeEnvironments(react=fail))
    check(response)
    assert response.report is not None
    assert response.report.failure == FAILURE
    assert decoded(response.token_ids) == "<t>1+2</t>"


def test_an_environment_that_fails_at_its_start_leaves_a_token_that_is_not_the_policy_s() -> None:
    fake = FakeTokens(writes("a"), TOKENIZER, (END,))
    environments = FakeEnvironments(failure=EnvironmentFailedError(FAILURE))
    with TrajectorySampler(fake).with_interactions(interaction(environments)) as sampler:
        [group] = sampler.sample([prompt("p")], 2, PARAMS)
    assert (fake.submitted, group.prompt_ids) == ([], ids("ask"))
    for response in group.responses:
        assert (response.token_ids, response.policy_mask, response.sampler_logprobs) == ((END,), (False,), (0.0,))
        assert (response.text, response.turns) == ("", ())
        assert response.report is not None
        assert response.report.failure == FAILURE


def test_responses_of_a_group_that_open_in_different_ways_fail_and_the_others_stay() -> None:
    class Random(FakeEnvironments):
        async def start(self, problem: Problem, key: str) -> FakeSession:
            self.opening = (Message("user", str(len(self.sessions) == 1)),)
            return await super().start(problem, key)

    fake = FakeTokens(writes("a"), TOKENIZER, (END,))
    environments = Random()
    with TrajectorySampler(fake).with_interactions(interaction(environments)) as sampler:
        [group] = sampler.sample([prompt("p")], 3, PARAMS)
    failures = [response.failure for response in group.responses]
    assert [failure and failure.kind for failure in failures] == [None, "invalid", None]
    assert failures[1] is not None
    assert "derive what is chosen at random from the problem" in failures[1].message
    assert [session.closed for session in environments.sessions] == [1, 1, 1]


def test_an_opening_that_leaves_no_room_is_a_failure() -> None:
    fake = FakeTokens(writes("a"), TOKENIZER, (END,), max_model_len=70)
    environments = FakeEnvironments(opening=(Message("user", "x" * 10),))
    with TrajectorySampler(fake).with_interactions(interaction(environments)) as sampler:
        [group] = sampler.sample([prompt("p")], 1, PARAMS)
    report = group.responses[0].report
    assert report is not None
    assert report.failure is not None
    assert "has 11 tokens, and there is room for 6" in report.failure.message


def test_closing_the_iterator_closes_all_sessions() -> None:
    hanging = threading.Event()

    class Hanging(FakeEnvironments):
        async def start(self, problem: Problem, key: str) -> FakeSession:
            session = await super().start(problem, key)
            if problem.id == "hangs":
                session.step = never  # type: ignore[method-assign]
            return session

    async def never(turn: Turn) -> Observation:
        import asyncio

        hanging.set()
        await asyncio.sleep(3600)
        raise AssertionError("unreachable")

    fake = FakeTokens(writes("a"), TOKENIZER, (END,))
    environments = Hanging()
    with TrajectorySampler(fake).with_interactions(interaction(environments)) as sampler:
        groups = sampler.sample([prompt("hangs"), prompt("p")], 2, PARAMS)
        assert next(groups).problem.id == "p"
        assert hanging.wait(10)
        cast(Any, groups).close()
    assert [session.closed for session in environments.sessions] == [1] * 4


def test_versions_that_change_in_a_response_are_where_their_tokens_are() -> None:
    class Loading(FakeTokens):
        """New weights before every third token."""

        def step(self) -> None:
            self.steps = getattr(self, "steps", -1) + 1
            self.version = 4 + self.steps // 3
            super().step()

    fake = Loading(writes("<t>1+2</t>", "so 3"), TOKENIZER, (END,))
    fake.version = 4
    with TrajectorySampler(fake).with_interactions(interaction(FakeEnvironments())) as sampler:
        [group] = sampler.sample([prompt("p")], 1, PARAMS)
    [response] = group.responses
    check(response)
    assert response.policy_version == 4
    spans = [(0, 4), *response.version_changes]
    for at, (own, logprob, token) in enumerate(
        zip(response.policy_mask, response.sampler_logprobs, response.token_ids, strict=True)
    ):
        version = max(version for first, version in spans if first <= at)
        assert not own or logprob == pytest.approx(-(token + version / 1000), abs=1e-5)
    assert len(response.version_changes) == 4
    asked: Callable[[TokenRequest], int] = lambda request: request.n  # noqa: E731
    assert {asked(request) for request in fake.submitted} == {1}


@pytest.mark.parametrize("ranks", [1, 3])
def test_tasks_have_their_own_environments_and_limits_in_one_batch(ranks: int) -> None:
    """One task with an environment, one with another, and one without; also where ranks have none of some task."""
    prompts = [
        _of_task("plain", 2),
        _of_task("adds", 2),
        _of_task("adds", 1),
        _of_task("once", 1),
        _of_task("plain", 3),
    ]
    limits = {"plain": 5, "adds": 64, "once": 32}
    params = {name: SamplingParams(1.0, most, seed=5) for name, most in limits.items()}

    def rank(here: Ranks) -> tuple[list[Group], dict[str, FakeEnvironments], Batches]:
        fake = Batches(writes("<t>1+2</t>", "it is 3"), TOKENIZER, (END,))
        own = {"adds": FakeEnvironments(), "once": FakeEnvironments(max_turns=1)}
        sampler = TrajectorySampler(fake).with_interactions({name: interaction(each) for name, each in own.items()})
        with ShardedSampler(sampler, here) as sharded:
            return list(sharded.sample(prompts, 2, params)), own, fake

    made = on_ranks(ranks, rank)
    groups = [group for share, _, _ in made for group in share]
    assert sorted(group.problem.id for group in groups) == sorted(each.problem.id for each in prompts)
    turns = {"plain": 0, "adds": 3, "once": 1}
    for group in groups:
        for response in group.responses:
            assert len(response.turns) == turns[group.problem.part]
            assert (response.report is None) is (group.problem.part == "plain")
            assert len(response.token_ids) <= limits[group.problem.part]
    for share, own, fake in made:
        for name, environments in own.items():
            assert len(environments.sessions) == 2 * sum(group.problem.part == name for group in share)
        first = fake.batches[0] if share else []
        wanted = [
            limits[group.problem.part] for group in share for _ in range(1 if group.problem.part == "plain" else 2)
        ]
        assert sorted(first) == sorted(wanted)


class Batches(FakeTokens):
    """Notes the limits of each batch."""

    def submit(self, requests: Sequence[TokenRequest]) -> None:
        self.batches = [*getattr(self, "batches", []), [request.params.max_tokens for request in requests]]
        super().submit(requests)


def _of_task(name: str, number: int) -> Prompt:
    one = prompt(f"{name}:{number}")
    return replace(one, problem=replace(one.problem, part=name))


@pytest.mark.parametrize("count", [5, 1])
def test_ranks_with_uneven_and_empty_shares_make_every_group_once(count: int) -> None:
    prompts = [prompt(f"p{n}", f"ask {n}") for n in range(count)]
    environments = [FakeEnvironments() for _ in range(3)]

    def rank(ranks: Ranks) -> list[Group]:
        fake = FakeTokens(writes("<t>1+2</t>", f"from {ranks.index}"), TOKENIZER, (END,))
        own = TrajectorySampler(fake).with_interactions(interaction(environments[ranks.index]))
        with ShardedSampler(own, ranks) as sampler:
            return list(sampler.sample(prompts, 2, PARAMS))

    shares = on_ranks(3, rank)
    assert [len(share) for share in shares] == [len(prompts[index::3]) for index in range(3)]
    assert sorted(group.problem.id for share in shares for group in share) == [each.problem.id for each in prompts]
    for index, share in enumerate(shares):
        for group in share:
            assert [response.text for response in group.responses] == [f"from {index}"] * 2
            for response in group.responses:
                check(response)
    assert [len(each.sessions) for each in environments] == [2 * len(share) for share in shares]
    assert all(session.closed == 1 for each in environments for session in each.sessions)
