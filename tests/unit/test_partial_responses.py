"""Groups that are interrupted when enough others are complete, and continued later under newer weights."""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasoner.config import EnvironmentConfig
from reasoner.data.mixture import Mixture
from reasoner.data.problems import Cursor, Stream
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.environments.base import EnvironmentFailedError
from reasoner.environments.service import EnvironmentService
from reasoner.errors import ConfigError, RunError, SamplerError
from reasoner.io.parquet import read_parquet, write_parquet
from reasoner.loading import load_config
from reasoner.monitoring.step_metrics import carried_metrics, staleness_metrics
from reasoner.records import (
    Failure,
    Group,
    Message,
    Observation,
    PartialGroup,
    Problem,
    Prompt,
    Receipt,
    Response,
    SamplingParams,
    Turn,
)
from reasoner.sampling.base import Completed, Oldest, TokenRequest
from reasoner.sampling.sharded import ShardedSampler
from reasoner.scoring.sharded import ShardedScorer
from reasoner.training.rollout import RolloutCollector
from reasoner.trajectories import token_client
from reasoner.trajectories.joints import end_across
from reasoner.trajectories.sampler import TrajectorySampler
from tests.unit.fake_environments import FakeEnvironments, FakeSession
from tests.unit.fake_tokens import FakeTokens
from tests.unit.test_rollout import Scorer
from tests.unit.test_sharded_sampler import on_ranks
from tests.unit.test_trajectories import END, PARAMS, START, TOKENIZER, check, decoded, ids, interaction, prompt

ANY = Oldest(-1, -1)


class Lengths:
    """Every response has a length of its own, whatever it was interrupted by: `<problem><sample>` and so many x."""

    def __init__(self, **lengths: Sequence[int]) -> None:
        self.lengths = lengths

    def __call__(self, asked: TokenRequest, k: int) -> Iterator[int]:
        name, _, written = decoded(asked.token_ids).partition(":")
        sample = int(written[0]) if written else k
        whole = str(sample) + "x" * (self.lengths[name][sample] - 2)
        yield from ids(whole[len(written) :])


def fake(**lengths: Sequence[int]) -> FakeTokens:
    return FakeTokens(Lengths(**lengths), TOKENIZER, (END,))


def prompts(*names: str) -> list[Prompt]:
    return [prompt(name, f"{name}:") for name in names]


def some(
    sampler: TrajectorySampler,
    carried: Sequence[str],
    new: Sequence[str],
    n: int,
    wanted: int,
    oldest: Oldest = ANY,
    params: SamplingParams = PARAMS,
) -> list[Group]:
    return list(sampler.sample_some(prompts(*carried), prompts(*new), n, params, wanted, oldest))


def names(groups: Sequence[Group | PartialGroup]) -> list[str]:
    return [group.problem.id for group in groups]


def test_enough_groups_end_a_draw_and_the_others_go_on_with_their_tokens_under_newer_weights() -> None:
    service = fake(a=[3, 5], b=[4, 60], c=[7, 3], d=[3, 3])
    with TrajectorySampler(service) as sampler:
        assert names(some(sampler, [], ["a", "b", "c"], 2, 2)) == ["a", "c"]
        [kept] = sampler.kept
        assert (kept.problem.id, kept.samples, [len(each.token_ids) for each in kept.responses]) == ("b", (0,), [4])
        [partial] = kept.partial
        assert 7 <= (carried := len(partial.token_ids)) < 60
        sampler.load(Path(), 4)
        groups = {group.problem.id: group for group in some(sampler, ["b"], ["d"], 2, 2)}
        assert sampler.kept == ()
    assert set(groups) == {"b", "d"}
    done, long = groups["b"].responses
    assert (done.policy_version, done.version_changes, done.carried_tokens) == (0, (), 4)
    assert (long.policy_version, long.version_changes, long.carried_tokens) == (0, ((carried, 4),), carried)
    assert decoded(long.token_ids) == "1" + "x" * 58 + "<|im_end|>"
    # every token has the log-probability of the weights that wrote it
    assert [round(-logprob % 1, 3) for logprob in long.sampler_logprobs] == [0.0] * carried + [0.004] * (60 - carried)
    assert {response.carried_tokens for response in groups["d"].responses} == {0}
    again = service.submitted[3]
    assert (again.n, again.params.max_tokens, len(again.token_ids)) == (1, PARAMS.max_tokens - carried, 2 + carried)
    assert again.params.seed != service.submitted[1].params.seed


@pytest.mark.parametrize("lengths", [[2], [2, 2, 2], [50, 2, 50, 2]])
def test_the_text_is_that_of_a_response_that_nobody_interrupted(lengths: Sequence[int]) -> None:
    """However often it is interrupted, and where no response was begun, one token is written, or all are."""
    whole = fake(a=lengths)
    with TrajectorySampler(whole) as sampler:
        [expected] = list(sampler.sample(prompts("a"), len(lengths), PARAMS))
    names_of = [f"s{step}" for step in range(12)]
    service = fake(a=lengths, **{name: [5] * len(lengths) for name in names_of})
    with TrajectorySampler(service) as sampler:
        result = some(sampler, [], ["a", "s0"], len(lengths), 1)
        for version, name in enumerate(names_of[1:], 1):
            sampler.load(Path(), version)
            result += some(sampler, names(sampler.kept), [name], len(lengths), 1)
            result += some(sampler, names(sampler.kept), [], len(lengths), 1) if "a" in names(sampler.kept) else []
        while sampler.kept:
            result += some(sampler, names(sampler.kept), [], len(lengths), 1)
    assert sorted(names(result)) == sorted(["a", *names_of])
    [group] = [group for group in result if group.problem.id == "a"]
    assert [response.token_ids for response in group.responses] == [
        response.token_ids for response in expected.responses
    ]
    for response in group.responses:
        assert len(response.token_ids) == len(response.sampler_logprobs) == len(response.policy_mask)
        assert sorted(response.version_changes) == list(response.version_changes)


def test_what_would_be_too_old_at_the_next_step_is_among_those_that_are_enough() -> None:
    service = fake(a=[3], old=[60], b=[2], c=[2], d=[3])
    with TrajectorySampler(service) as sampler:
        assert names(some(sampler, [], ["a", "old"], 1, 1)) == ["a"]
        sampler.load(Path(), 1)
        assert names(some(sampler, ["old"], ["b", "c"], 1, 2, Oldest(0, 1))) == ["b", "old"]
        # what was complete beyond that is complete, waits, and counts as carried
        assert [(kept.problem.id, len(kept.responses), kept.partial) for kept in sampler.kept] == [("c", 1, ())]
        sampler.load(Path(), 2)
        [first, second] = some(sampler, ["c"], ["d"], 1, 2, Oldest(1, 2))
    assert (first.problem.id, first.responses[0].carried_tokens) == ("c", 2)
    assert second.problem.id == "d"


def test_what_is_too_old_begins_anew_and_is_counted() -> None:
    service = fake(a=[6, 6], old=[4, 60])
    environments = FakeEnvironments()
    with TrajectorySampler(service) as sampler:
        some(sampler, [], ["a", "old"], 2, 1)
        [kept] = sampler.kept
        sampler.load(Path(), 5)
        groups = some(sampler, ["old"], [], 2, 1, Oldest(1, 5))
    [group] = groups
    assert [response.policy_version for response in group.responses] == [5, 5]
    assert [response.carried_tokens for response in group.responses] == [0, 0]
    assert [response.discarded_tokens for response in group.responses] == [4, len(kept.partial[0].token_ids)]
    assert not environments.sessions


def test_all_are_complete_or_none_is_wanted() -> None:
    service = fake(a=[3], b=[3], c=[3])
    with TrajectorySampler(service) as sampler:
        assert names(some(sampler, [], ["a", "b"], 1, 2)) == ["a", "b"]
        assert sampler.kept == ()
        told = list(service.told)
        assert some(sampler, [], [], 1, 0) == []
        assert service.told == told  # the engine is not asked for anything
        assert names(some(sampler, ["unknown"], ["c"], 1, 1)) == ["c"]  # another rank has it


def test_other_responses_in_between_leave_what_is_kept_alone() -> None:
    service = fake(a=[3], b=[60])
    with TrajectorySampler(service) as sampler:
        some(sampler, [], ["a", "b"], 1, 1)
        before = sampler.kept
        [group] = sampler.sample(prompts("b"), 1, replace(PARAMS, max_tokens=7))  # an evaluation
        assert (len(group.responses[0].token_ids), group.responses[0].carried_tokens) == (7, 0)
        assert sampler.kept == before
        assert names(some(sampler, ["b"], [], 1, 1)) == ["b"]


def test_an_engine_that_does_not_end_what_it_is_told_to_end_is_named_with_what_it_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_client, "ABORT_S", 0.2)
    service = fake(a=[3], b=[60])
    sampler = TrajectorySampler(service)
    service.abort = lambda ids: setattr(service, "step", lambda: None)  # type: ignore[method-assign]
    with pytest.raises(SamplerError, match=r"did not end what it was told to end (?s:.*)problem b, 1 of its responses"):
        some(sampler, [], ["a", "b"], 1, 1)
    service.abort = lambda ids: None  # type: ignore[method-assign]


def test_weights_that_take_long_as_a_draw_ends_are_no_engine_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are given in the thread that would receive what was interrupted."""
    monkeypatch.setattr(token_client, "ABORT_S", 0.4)
    service = fake(a=[3], b=[60])
    receive, load, queued = service.receive, service.load, threading.Event()
    changes: list[Future[Receipt]] = []

    def receive_and_change(timeout_s: float | None = None) -> Completed | None:
        if (done := receive(timeout_s)) and not changes:  # the only group that is wanted is complete
            changes.append(pool.submit(sampler.change, Path(), 7))
            assert queued.wait(10)
        return done

    def load_slowly(folder: Path, version: int) -> Receipt:
        time.sleep(1.2)
        return load(folder, version)

    service.receive, service.load = receive_and_change, load_slowly  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool, TrajectorySampler(service) as sampler:
        submit = sampler._state.thread.submit

        def note(work: Any, *args: Any) -> Any:
            future = submit(work, *args)
            if work == sampler._change:
                queued.set()
            return future

        monkeypatch.setattr(sampler._state.thread, "submit", note)
        assert names(some(sampler, [], ["a", "b"], 1, 1)) == ["a"]
        assert changes[0].result(10).version == 7
        [kept] = sampler.kept
        assert len(kept.partial[0].token_ids) == 3
        assert names(some(sampler, ["b"], [], 1, 1)) == ["b"]


def test_an_engine_that_fails_names_what_it_was_sampling() -> None:
    service = fake(a=[30], b=[60])

    def fail(timeout_s: float | None = None) -> None:
        raise SamplerError("no token for 600 s: it hangs")

    service.receive = fail  # type: ignore[method-assign]
    with (
        TrajectorySampler(service) as sampler,
        pytest.raises(SamplerError, match=r"600 s: it hangs\nIt was sampling: problem a, 2 of .*; problem b, 2"),
    ):
        list(sampler.sample(prompts("a", "b"), 2, PARAMS))


# Where a turn ended that was continued


@pytest.mark.parametrize("joint", range(1, 9))
def test_a_stop_string_across_the_joint_ends_the_turn_where_it_ends(joint: int) -> None:
    written = ids("go on</t> and more")
    expected = (9, "stop") if joint >= 5 else None  # before it, the engine sees all of it
    assert end_across(TOKENIZER, written, joint, SamplingParams(1.0, 64, stop=("</t>", "?"))) == expected
    assert end_across(TOKENIZER, written, joint, SamplingParams(1.0, 64)) is None


@pytest.mark.parametrize("text", ["é</ü>", "</ü"])
def test_a_stop_string_of_several_bytes_a_character(text: str) -> None:
    written = ids(text + " more")
    end = len(ids("é</ü>")) if text.endswith(">") else None
    result = end_across(TOKENIZER, written, len(ids("é</")) + 1, SamplingParams(1.0, 64, stop=("</ü>",)))
    assert result == (None if end is None else (end, "stop"))


@pytest.mark.parametrize(("joint", "expected"), [(4, (8, "repetition")), (7, (8, "repetition")), (8, None)])
def test_what_repeats_itself_across_the_joint_ends_the_turn(joint: int, expected: tuple[int, str] | None) -> None:
    written = ids("abababab and more")
    assert end_across(TOKENIZER, written, joint, SamplingParams(1.0, 64, stop_repetition=4)) == expected
    assert end_across(TOKENIZER, written, joint, SamplingParams(1.0, 64, stop_repetition=5)) is None


# Several turns


def turns(asked: TokenRequest, k: int) -> Iterator[int]:
    """Problem `long` calls twice, and its second turn takes long; `q` is complete in the middle of it."""
    text = decoded(asked.token_ids)
    answered = asked.token_ids.count(START)
    if text.startswith("q"):
        yield from ids("ok" * 14)
        return
    whole = ["<t>1+2</t>", "x" * 30 + "<t>3+4</t>", "7"][answered]
    written = text.rpartition("]")[2] if answered else text.partition(":")[2]
    yield from ids(whole[len(written) :])


def interrupted(environments: FakeEnvironments) -> tuple[TrajectorySampler, FakeTokens]:
    """A sampler that has interrupted the second turn of `long`, and new weights."""
    service = FakeTokens(turns, TOKENIZER, (END,))
    sampler = TrajectorySampler(service).with_interactions(interaction(environments))
    groups = list(sampler.sample_some([], [prompt("long", "l:"), prompt("q0", "q:")], 1, PARAMS, 1, ANY))
    assert names(groups) == ["q0"]
    [partial] = sampler.kept[0].partial
    assert [turn.text for turn in partial.turns] == ["<t>1+2</t>", "3"]
    assert len(partial.token_ids) > partial.turns[-1].end
    sampler.load(Path(), 1)
    return sampler, service


def finish(sampler: TrajectorySampler) -> Group:
    while "long" in names(sampler.kept):
        result = list(sampler.sample_some([prompt("long", "l:")], [], 1, PARAMS, 1, ANY))
        if result:
            return result[0]
    raise AssertionError("unreachable")


def test_the_environment_of_a_response_stays_where_it_was() -> None:
    environments = FakeEnvironments()
    sampler, _ = interrupted(environments)
    with sampler:
        session = environments.sessions[0]
        assert session.closed == 0
        group = finish(sampler)
    assert [each.closed for each in environments.sessions] == [1, 1]  # no further one was opened
    [response] = group.responses
    check(response, ids("l:"))
    assert [turn.text for turn in response.turns] == ["<t>1+2</t>", "3", "x" * 30 + "<t>3+4</t>", "7", "7"]
    assert response.report
    assert response.report.parts == {"turns": 3}
    assert response.carried_tokens > 0
    assert response.discarded_tokens == 0
    assert response.version_changes[0][1] == 1


def test_in_another_process_the_environment_is_brought_to_where_it_was(tmp_path: Path) -> None:
    environments = FakeEnvironments()
    sampler, _ = interrupted(environments)
    write_parquet(tmp_path / "kept", sampler.kept)
    kept = read_parquet(tmp_path / "kept", PartialGroup)
    assert tuple(kept) == sampler.kept
    sampler.close()
    others = FakeEnvironments()
    service = FakeTokens(turns, TOKENIZER, (END,))
    service.version = 1
    with TrajectorySampler(service).with_interactions(interaction(others)) as resumed:
        resumed.keep(kept)
        group = finish(resumed)
    [response] = group.responses
    assert [turn.text for turn in response.turns] == ["<t>1+2</t>", "3", "x" * 30 + "<t>3+4</t>", "7", "7"]
    assert response.carried_tokens == len(kept[0].partial[0].token_ids) > 0
    assert response.discarded_tokens == 0
    [session] = others.sessions
    assert [turn.text for turn in session.turns] == [turn.text for turn in response.turns if turn.role == "assistant"]


@pytest.mark.parametrize("change", ["text", "reward", "done", "more"])
def test_an_environment_that_does_not_come_back_to_the_same_state_makes_the_response_begin_anew(change: str) -> None:
    sampler, _ = interrupted(FakeEnvironments())
    kept = sampler.kept
    sampler.close()

    def react(session: FakeSession, turn: Turn, seen: Observation) -> Observation:
        if len(others.sessions) > 1 or len(session.turns) > 1:
            return seen
        return {
            "text": replace(seen, messages=tuple(replace(each, content="5") for each in seen.messages)),
            "reward": replace(seen, reward=1.0),
            "done": replace(seen, done=True),
            "more": replace(seen, messages=(*seen.messages, Message("user", "?")), errors=("", ""), seconds=(0.0, 0.0)),
        }[change]

    others = FakeEnvironments(react)
    service = FakeTokens(turns, TOKENIZER, (END,))
    service.version = 3
    with TrajectorySampler(service).with_interactions(interaction(others)) as resumed:
        resumed.keep(kept)
        [response] = finish(resumed).responses
    written = sum(kept[0].partial[0].policy_mask)
    assert (response.carried_tokens, response.discarded_tokens, response.policy_version) == (0, written, 3)
    assert [turn.text for turn in response.turns][:2] == ["<t>1+2</t>", "3"]
    assert [session.closed for session in others.sessions] == [1, 1]


def _crash(session: FakeSession, turn: Turn, seen: Observation) -> Observation:
    raise EnvironmentFailedError(Failure("environment", "crash", "gone", 0.0))


@pytest.mark.parametrize(
    "failing",
    [
        FakeEnvironments(_crash),
        FakeEnvironments(failure=EnvironmentFailedError(Failure("environment", "crash", "gone", 0.0))),
        FakeEnvironments(opening=(Message("user", "x" * 4096 + "gone"),)),
    ],
    ids=["at a turn", "at its start", "another opening"],
)
def test_an_environment_that_fails_on_its_way_back_is_a_recorded_failure(failing: FakeEnvironments) -> None:
    """The turn that was interrupted ends where it was, and is a turn like the others."""
    sampler, _ = interrupted(FakeEnvironments())
    kept = sampler.kept
    sampler.close()
    with TrajectorySampler(FakeTokens(turns, TOKENIZER, (END,))).with_interactions(interaction(failing)) as resumed:
        resumed.keep(kept)
        [response] = finish(resumed).responses
    [partial] = kept[0].partial
    assert response.failure
    assert response.failure.message == "gone" or "different ways" in response.failure.message
    assert response.token_ids == partial.token_ids
    check(response)
    written = len(partial.token_ids) - partial.turns[-1].end
    assert [turn.text for turn in response.turns] == ["<t>1+2</t>", "3", "x" * written]
    assert response.turns[-1].calls == ()
    assert response.turns[-1].seconds == partial.turn_seconds > 0
    assert response.text == "x" * written


def test_an_environment_that_fails_before_a_turn_begins_anew_adds_none() -> None:
    sampler, _ = interrupted(FakeEnvironments())
    [group] = sampler.kept
    sampler.close()
    [partial] = group.partial
    end = partial.turns[-1].end
    cut = replace(
        partial,
        token_ids=partial.token_ids[:end],
        policy_mask=partial.policy_mask[:end],
        sampler_logprobs=partial.sampler_logprobs[:end],
        turn_seconds=0.0,
    )
    with TrajectorySampler(FakeTokens(turns, TOKENIZER, (END,))).with_interactions(
        interaction(FakeEnvironments(_crash))
    ) as resumed:
        resumed.keep([replace(group, partial=(cut,))])
        [response] = finish(resumed).responses
    assert response.turns == partial.turns
    check(response)


def test_sessions_leave_half_of_the_places_to_others_and_those_that_are_closed_are_rebuilt() -> None:
    """One place: none stays open between two steps, or an evaluation would wait for ever."""
    environments = FakeEnvironments(most_sessions=1)
    sampler, _ = interrupted(environments)
    with sampler:
        assert environments.sessions[0].closed == 1
        [response] = finish(sampler).responses
    assert (response.discarded_tokens, len(environments.sessions)) == (0, 3)
    assert response.carried_tokens > 0


def test_whatever_the_lengths_every_group_is_given_once_and_every_token_kept() -> None:
    """Random lengths with a heavy tail, random numbers of groups; versions advance at every draw."""
    for seed in range(6):
        chance = random.Random(seed)
        size, wanted, extra = chance.randint(1, 3), chance.randint(1, 4), chance.randint(1, 3)
        extra = min(extra, wanted)
        total = wanted * 8 + extra
        all_names = [f"p{number}" for number in range(total)]
        lengths = {name: [min(60, 2 + int(chance.paretovariate(0.7))) for _ in range(size)] for name in all_names}
        service = FakeTokens(Lengths(**lengths), TOKENIZER, (END,))
        left, result = list(all_names), list[Group]()
        with TrajectorySampler(service) as sampler:
            for step in range(8):
                new = [left.pop(0) for _ in range(wanted + (0 if step else extra))]
                groups = some(sampler, names(sampler.kept), new, size, wanted, Oldest(step - 2, step - 1))
                assert len(groups) == wanted
                assert all(response.policy_version >= step - 2 for group in groups for response in group.responses)
                assert len(sampler.kept) == extra
                result += groups
                sampler.load(Path(), step + 1)
            rest = names(sampler.kept)
        assert sorted([*names(result), *rest]) == sorted(all_names)
        for group in result:
            assert [len(each.token_ids) for each in group.responses] == lengths[group.problem.id]
            assert all(each.discarded_tokens == 0 for each in group.responses)


def test_a_session_that_stays_open_between_two_steps_keeps_its_place() -> None:
    """Every step, and every evaluation, is an event loop of its own."""
    service = EnvironmentService.__new__(EnvironmentService)
    service._config, service._places, service._open = EnvironmentConfig(name="any", sessions=2), None, 0

    async def start() -> bool:
        """Take a place; whether it was the last one."""
        await service._semaphore().acquire()
        service._open += 1
        return service._semaphore().locked()

    async def evaluation() -> list[bool]:
        last = [await start()]
        service._release()
        return [*last, service._semaphore().locked()]

    async def next_step() -> list[bool]:
        service._release()  # the one that was kept
        return [await start(), await start()]

    assert asyncio.run(start()) is False
    assert asyncio.run(evaluation()) == [True, False]
    assert asyncio.run(next_step()) == [False, True]
    assert service._open == 2


# The groups of a step


def collected(
    ranks: Ranks, service: FakeTokens, per_step: int, over: float, refills: int = 0, staleness: int = 1
) -> RolloutCollector:
    """The collector of one rank over problems `p0` to `p11`, of which every second one has differences."""
    sets = [f"learning.problems_per_step={per_step}", f"sampling.over_sample={over}", "sampling.group_size=2"]
    sets += [f"sampling.refills={refills}", f"sampling.max_staleness={staleness}", "sampling.max_tokens=64"]
    config = load_config("math-gsm8k", "laptop", sets=sets).config
    problems = [Problem(f"p{number}", (Message("user", "?"),), str(number)) for number in range(12)]
    mixture = Mixture(
        {config.task: Cursor(Stream(problems, per_step, 0, section="data.train", key="per_step"))}, {config.task: 1.0}
    )
    asked = {problem.id: Prompt(problem, ids(f"{problem.id}:")) for problem in problems}
    sampler = ShardedSampler(TrajectorySampler(service), ranks)
    scorer = ShardedScorer(Scorer(lambda number: (1.0, float(number % 2))), ranks, 1.0)
    return RolloutCollector(config, sampler, scorer, mixture, asked)


def heavy(seed: int) -> FakeTokens:
    chance = random.Random(seed)
    lengths = {f"p{number}": [min(60, 2 + int(chance.paretovariate(0.7))) for _ in range(2)] for number in range(12)}
    return FakeTokens(Lengths(**lengths), TOKENIZER, (END,))


@pytest.mark.parametrize(
    ("count", "per_step", "over", "refills"), [(1, 4, 0.5, 0), (2, 3, 0.34, 0), (2, 1, 1.0, 0), (2, 3, 1.0, 2)]
)
def test_every_problem_of_an_epoch_is_begun_once_and_every_group_that_was_begun_is_learned_from_once(
    count: int, per_step: int, over: float, refills: int
) -> None:
    """Also where a rank has nothing to continue, or nothing to begin."""

    def rank(ranks: Ranks) -> tuple[list[list[str]], tuple[str, ...], int]:
        service = heavy(ranks.index)
        made, steps = collected(ranks, service, per_step, over, refills), list[list[str]]()
        for step in range(1, 9):
            made.note_version(step, step - 1)
            rollouts = made.collect(step, greedy=False)
            assert len(rollouts.rounds[0]) == per_step
            for scored in rollouts.sampled:
                for response in scored.group.responses:
                    assert response.policy_version >= step - 2
                    assert response.discarded_tokens == 0
            steps.append([scored.group.problem.id for scored in rollouts.sampled])
            made.sampler.load(Path(), step)
        return steps, made.carried, len(made.sampler.kept)

    result = on_ranks(count, rank)
    steps, carried, _ = result[0]
    assert all((own, left) == (steps, carried) for own, left, _ in result)
    assert sum(kept for *_, kept in result) == len(carried) == math.ceil(per_step * over)
    begun = Counter(name for step in [*steps, carried] for name in step)
    assert max(begun.values()) - min(begun[f"p{number}"] for number in range(12)) <= 1
    assert all(len(set(step)) == len(step) for step in steps)


def test_a_checkpoint_holds_what_is_begun_and_another_number_of_ranks_goes_on_with_it(tmp_path: Path) -> None:
    def before(ranks: Ranks) -> tuple[dict[str, Any], list[str]]:
        made = collected(ranks, heavy(ranks.index), 3, 1.0)
        made.note_version(1, 0)
        made.collect(1, greedy=False)
        made.mark()
        state = json.loads(json.dumps(made.state()))
        made.note_version(2, 1)
        made.collect(2, greedy=False)  # interrupted afterwards: it is not what was marked
        made.save_kept(tmp_path / f"partial-{ranks.index}.parquet")
        assert json.loads(json.dumps(made.state())) == state
        return state, [group.problem.id for group in made.sampler.kept]

    [(state, _), _] = on_ranks(2, before)
    files = sorted(tmp_path.iterdir())
    kept = {group.problem.id: group for file in files for group in read_parquet(file, PartialGroup)}
    assert sorted(kept) == sorted(state["carried"])
    assert state["published"] == {"1": 0}
    service = heavy(0)
    service.version = 1
    made = collected(ALONE, service, 3, 1.0)
    made.restore(state)
    made.load_kept(files)
    made.note_version(2, 1)
    rollouts = made.collect(2, greedy=False)
    # at the next step they would be too old
    assert {scored.group.problem.id for scored in rollouts.sampled} == set(kept)
    tokens = {(name, partial.sample): partial.token_ids for name, group in kept.items() for partial in group.partial}
    assert tokens
    for scored in rollouts.sampled:
        for sample, response in enumerate(scored.group.responses):
            begun = tokens.get((scored.group.problem.id, sample), ())
            assert response.token_ids[: len(begun)] == begun
    made.restore(state)
    with pytest.raises(RunError, match=r"holds nothing of 3 groups that were begun before it, such as that of problem"):
        made.load_kept([])


def test_figures_of_what_was_carried() -> None:
    response = Response("x", (1, 2, 3, 4), (True, True, False, True), (-0.5, -0.5, 0.0, -0.5), "stop", 2, ((2, 4),))
    carried = [replace(response, carried_tokens=3, discarded_tokens=5), replace(response, carried_tokens=4), response]
    assert carried_metrics(carried) == {
        "response/carried": 2 / 3,
        "response/continued": 1 / 3,
        "tokens/carried": 5 / 9,
        "tokens/discarded": 5.0,
    }
    assert staleness_metrics([response, replace(response, policy_version=5, version_changes=())], 5) == {
        "response/staleness": 1.5,
        "response/weights_changed": 0.5,
        "response/versions": 1.5,
        "tokens/staleness_mean": (3 + 3 + 1) / 6,
        "tokens/staleness_max": 3.0,
    }


# What is refused


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ["sampling.over_sample=-0.1", "sampling.max_staleness=1"],
            r"sampling\.over_sample = -0\.1 .*must be at least 0",
        ),
        (["sampling.over_sample=1.5", "sampling.max_staleness=1"], r"sampling\.over_sample = 1\.5 .*must be at most 1"),
        (["sampling.over_sample=0.5"], r"sampling\.over_sample = 0\.5 .*set sampling\.max_staleness = 1"),
        (
            ["sampling.over_sample=0.5", "sampling.max_staleness=1", "gro.preset=dpo", "data.pairs.path=x.jsonl"],
            r"sampling\.over_sample = 0\.5 begins more online groups, and no term reads any",
        ),
    ],
)
def test_what_cannot_be_continued_is_refused(sets: Sequence[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("math-gsm8k", "laptop", sets=sets)


def test_one_step_of_staleness_is_for_being_continued() -> None:
    def lookahead(*sets: str) -> int:
        return load_config("math-gsm8k", "laptop", sets=sets).config.sampling.lookahead

    assert lookahead() == 0
    assert lookahead("sampling.max_staleness=2") == 2
    assert lookahead("sampling.max_staleness=1", "sampling.over_sample=0.5") == 0
    assert lookahead("sampling.max_staleness=3", "sampling.over_sample=0.5") == 2
