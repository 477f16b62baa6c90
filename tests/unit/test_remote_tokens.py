"""What ranks send each other of a batch: summaries to all, tokens to those that need them. Ranks are threads here; gloo
and the gradients are in tests/integration/test_deepspeed.py."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch

from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.distributed.remote_tokens import summary_of, whole_groups
from reasoner.distributed.sharding import Selection, rows_by_group, same_batch, sharded_outputs, with_tokens
from reasoner.errors import RunError
from reasoner.gro.spec.presets import PRESETS
from reasoner.io.token_array import RemoteArray, TokenArray
from reasoner.records import Batch, Component, Group, Problem, Response, ScoredGroup, ToolCall, Turn
from reasoner.scoring.sharded import ShardedScorer
from reasoner.training.objective_inputs import padded
from reasoner.training.update import ActiveTerm, Objective, Prepared
from tests.unit.test_sharded_sampler import on_ranks

RESPONSES = 3


def made(name: str, prompt: int, lengths: Sequence[int], seed: int = 0) -> ScoredGroup:
    """A group of random tokens; a tool wrote the middle of its longer responses."""
    random = np.random.default_rng([seed, *name.encode()])
    responses = []
    for length in lengths:
        mask = np.ones(length, bool)
        mask[length // 3 : length // 2] = False
        turns = (Turn("assistant", 0, length, "text" * length, (ToolCall("tool", {"x": 1}),)),)
        ids, logprobs = random.integers(0, 9999, length), -random.random(length)
        routes = random.integers(0, 9, length, np.uint16)
        arrays: dict[str, Any] = {"token_ids": ids, "policy_mask": mask, "sampler_logprobs": logprobs, "routes": routes}
        more: dict[str, Any] = {"text": "text" * length, "finish_reason": "stop", "policy_version": 7, "turns": turns}
        responses.append(Response(**arrays, **more))
    problem = Problem(name, (), "answer", {"row": "x" * 99}, part="task")
    rewards = tuple(float(random.random()) for _ in lengths)
    components = tuple((Component("judge", 1.0, reward, {"extracted": "4"}),) for reward in rewards)
    prompt_ids = tuple(int(id_) for id_ in random.integers(0, 9999, prompt))
    return ScoredGroup(Group(problem, prompt_ids, tuple(responses)), components, rewards)


def batch_of(scale: int = 1) -> list[ScoredGroup]:
    """Five groups of uneven lengths."""
    lengths = ([2, 1, 30], [9, 9, 9], [1, 1, 1], [40, 2, 3], [5, 6, 7])
    return [made(f"p{n}", 3 + n, [scale * length for length in own]) for n, own in enumerate(lengths)]


class Scorer:
    """Has scored this rank's groups."""

    def __init__(self, groups: Sequence[ScoredGroup]) -> None:
        self.groups = groups

    def score(self, groups: Any) -> Any:
        return iter(self.groups)

    def statistics(self) -> dict[str, Any]:
        return {}


def sampled(here: Ranks, groups: Sequence[ScoredGroup]) -> list[ScoredGroup]:
    """The batch as this rank has it after all have sampled in turns, the last rank first."""
    own = groups[here.count - 1 - here.index :: here.count]
    by_name = {scored.group.problem.id: scored for scored in ShardedScorer(cast(Any, Scorer(own)), here, 1.0).score([])}
    return [by_name[scored.group.problem.id] for scored in groups]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_first_rank_has_everything_and_the_others_what_credit_is_made_of(count: int) -> None:
    everything = batch_of()
    first, *others = on_ranks(count, lambda here: sampled(here, everything))
    for number, (seen, whole) in enumerate(zip(first, everything, strict=True)):
        if number % count == count - 1:
            assert seen == whole
            continue
        assert replace(seen, group=seen.group.without_routes()) == replace(whole, group=whole.group.without_routes())
        lengths = [len(response.routes) for response in whole.group.responses]
        assert [len(response.routes) for response in seen.group.responses] == lengths
        assert all(isinstance(response.routes, RemoteArray) for response in seen.group.responses)
    for index, of_rank in enumerate(others, 1):
        for number, (scored, whole) in enumerate(zip(of_rank, everything, strict=True)):
            if number % count == count - 1 - index:
                assert scored == whole
                continue
            assert (scored.rewards, scored.components) == (whole.rewards, whole.components)
            assert (scored.group.problem.id, scored.group.problem.part) == (whole.group.problem.id, "task")
            for response, full in zip(scored.group.responses, whole.group.responses, strict=True):
                assert response.policy_mask == full.policy_mask
                assert len(response.token_ids) == len(response.sampler_logprobs) == len(full.token_ids)
                assert (response.text, response.policy_version, response.turns[0].end) == ("", 7, len(full.token_ids))
                with pytest.raises(RuntimeError, match="were read before they were fetched"):
                    np.asarray(response.token_ids)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("per_row", [1, 2])
def test_every_rank_gets_the_tokens_of_its_share(count: int, per_row: int) -> None:
    """Some shares are empty, some are of one response of a group; neighbours that share rows have the same."""
    everything = batch_of()
    rows = [0, 2, 3, 4, 9, 10, 11, 14]

    def rank(here: Ranks) -> tuple[int, list[Any], list[Any]]:
        here = replace(here, per_row=per_row if here.count % per_row == 0 else 1)
        groups = [scored.group for scored in sampled(here, everything)]
        selection = Selection.of(groups, rows, ranks=here)
        same_batch(selection.parts, here)
        share = with_tokens(selection.share, groups, here)
        read = [
            (p.group.prompt_ids, row, p.response(row).token_ids, p.response(row).routes)
            for p in share
            for row in p.rows
        ]
        outputs = sharded_outputs(
            groups, here, lambda parts: {r: p.response(r).token_ids for p in parts for r in p.rows}
        )
        return here.share_index, read, outputs

    whole = [scored.group for scored in everything]
    responses = [response for group in whole for response in group.responses]
    seen: dict[int, Any] = {}
    for share, read, outputs in on_ranks(count, rank):
        assert outputs == [response.token_ids for response in responses]
        assert read == seen.setdefault(share, read)
        for prompt_ids, row, ids, routes in read:
            assert (prompt_ids, ids) == (whole[row // RESPONSES].prompt_ids, responses[row].token_ids)
            assert routes == responses[row].routes
    assert sorted(row for read in seen.values() for _, row, *_ in read) == rows


def test_a_few_groups_are_whole_on_every_rank() -> None:
    everything = batch_of()
    for groups in on_ranks(3, lambda here: whole_groups([s.group for s in sampled(here, everything)][:3], here)):
        for group, scored in zip(groups, everything, strict=False):
            assert group.prompt_ids == scored.group.prompt_ids
            for response, full in zip(group.responses, scored.group.responses, strict=True):
                assert (response.token_ids, response.sampler_logprobs) == (full.token_ids, full.sampler_logprobs)
                assert response.routes == full.routes


def test_a_part_whose_token_ids_are_here_gets_the_experts_that_are_not() -> None:
    whole = batch_of()[0].group

    def rank(here: Ranks) -> list[Any]:
        responses = whole.responses
        if here.index:
            responses = tuple(replace(r, routes=RemoteArray[int](len(r.routes), 0)) for r in responses)
        groups = [replace(whole, responses=responses)]
        (part,) = with_tokens(rows_by_group(groups), groups, here)
        return [response.routes for response in part.group.responses]

    assert on_ranks(2, rank) == [[response.routes for response in whole.responses]] * 2


class Learner:
    """Reads the batch as a learner of several ranks does, and keeps what its objective gives."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.weights = ranks, dict[int, Any]()

    def accumulate(self, groups: Any, weights: Any, temperature: float, *, selection: Selection, entropy: bool) -> None:
        same_batch(selection.parts, self.ranks)
        for part in with_tokens(selection.share, groups, self.ranks):
            for row in part.rows:
                logprobs_RT = torch.from_numpy(-1.0 / (1 + np.asarray(part.response(row).token_ids, np.float32)))[None]
                self.weights[row] = weights([row], logprobs_RT, None).weights_RT.tolist()


@pytest.mark.parametrize("method", ["grpo", "kto"])
@pytest.mark.parametrize("count", [2, 3])
def test_weights_and_the_gap_are_those_of_one_rank_to_the_bit(method: str, count: int) -> None:
    """`kto` has a mean over the log-probabilities of the whole batch."""
    everything, active = batch_of(), ActiveTerm(method, PRESETS[method].term, 1.0)
    reference = [[-1.5] * len(response.token_ids) for scored in everything for response in scored.group.responses]

    def rank(here: Ranks) -> tuple[dict[int, Any], Any]:
        batch = Batch(tuple(sampled(here, everything)), reference_logprobs=tuple(reference))
        prepared = Prepared.of(batch, [active], 99, here)
        objective: Objective = prepared.objective(0, 1, cast(Any, None), lambda done, total: None)
        objective.measures_gap = True
        objective.accumulate(learner := cast(Any, Learner(here)), here)
        objective.join(here)
        return learner.weights, objective.gap

    ((expected, gap),) = on_ranks(1, rank)
    found = on_ranks(count, rank)
    assert {row: weights for own, _ in found for row, weights in own.items()} == expected
    assert sum(len(own) for own, _ in found) == len(expected)
    for _, other in found:
        assert other.mean == pytest.approx(gap.mean, rel=1e-6)  # a sum in another order
        assert (other.max, other.tokens) == (gap.max, gap.tokens)


def test_what_a_rank_sends_grows_with_its_own_tokens_and_its_share() -> None:
    """Not with the batch: the same groups with a thousand times the tokens, on three ranks and on six."""

    def traffic(count: int, scale: int) -> list[tuple[int, int]]:
        """By rank, the bytes that it sends, and the tokens that it has sampled."""
        everything = [made(f"p{n}", 5, [scale * length for length in (2, 3, 4)]) for n in range(2 * count)]

        def rank(here: Ranks) -> tuple[int, int]:
            groups = [scored.group for scored in sampled(here, everything)]
            with_tokens(Selection.of(groups, ranks=here).share, groups, here)
            own = groups[here.count - 1 - here.index :: here.count]
            return sum(cast(Any, here).sent), sum(len(r.token_ids) for group in own for r in group.responses)

        return on_ranks(count, rank)

    for count in (3, 6):
        small, large = traffic(count, 1), traffic(count, 1000)
        for index, ((before, _), (after, tokens)) in enumerate(zip(small, large, strict=True)):
            to_learn = 4 + 2  # ids and routes, to the rank that learns from them
            whole = 4 + 4 + 4 + 4 if index else 0  # with log-probabilities, text and that of the turn: to rank 0
            assert after - before < (to_learn + whole + 0.5) * tokens


def test_a_batch_that_differs_in_one_token_is_found_out_wherever_it_is() -> None:
    everything = batch_of()
    groups = [scored.group for scored in everything]
    whole = [response.token_ids for response in groups[1].responses]

    def rank(here: Ranks, owner: bool) -> str:
        own = list(groups)
        if here.index and owner:
            ids = (int(whole[0][0]) + 1, *whole[0][1:])
            changed = replace(groups[1].responses[0], token_ids=ids)
            other = replace(everything[1], group=replace(groups[1], responses=(changed, *groups[1].responses[1:])))
            own[1] = summary_of(other, 0).group
        elif here.index:
            own[1] = summary_of(everything[1], 0).group
        try:
            same_batch(rows_by_group(own), here)
        except RunError as error:
            return str(error)
        return ""

    assert on_ranks(2, lambda here: rank(here, owner=False)) == ["", ""]
    assert all("ranks hold different batches" in said for said in on_ranks(2, lambda here: rank(here, owner=True)))


def test_numbers_of_another_rank_are_never_read_as_something_else() -> None:
    array: RemoteArray[int] = RemoteArray(3, owner=1, digest=b"12345678")
    for back in (array, pickle.loads(pickle.dumps(array)), copy.copy(array)):
        assert (len(back), back.owner, back.digest, bool(back)) == (3, 1, b"12345678", True)
    for read in (list, tuple, np.asarray, lambda a: a[0], lambda a: 1 in a, lambda a: a.count(1)):
        with pytest.raises(RuntimeError, match="these 3 numbers are on rank 1"):
            cast(Any, read)(array)
    with pytest.raises(RuntimeError, match="these 3 numbers"):
        Response("", (1, 2, 3), cast(Any, array), (0.0,) * 3, "stop", 0)  # masks are everywhere
    with pytest.raises(ValueError, match="one mask entry and one log-probability per token"):
        Response("", cast(Any, array), (True,) * 2, cast(Any, array), "stop", 0)
    assert padded([array, (1.0, 2.0)], torch.float32).isnan().tolist() == [[True] * 3, [False] * 3]
    assert with_tokens([], [], ALONE) == []


@pytest.mark.parametrize(
    "mask",
    [
        [],
        [True],
        [False],
        [True] * 1000,
        [False] * 1000,
        [True, False] * 500,
        [True] * 500 + [False] * 499 + [True],
        [False] * 400 + [True] * 600,
    ],
)
def test_a_mask_is_sent_as_its_runs_where_that_is_less(mask: list[bool]) -> None:
    values: TokenArray[bool] = TokenArray(mask, "bool")
    sent = pickle.dumps(values, protocol=5)
    back = pickle.loads(sent)
    assert (back, back.kind, np.asarray(back).dtype) == (mask, "bool", np.dtype(bool))
    runs = 1 + sum(here != there for here, there in pairwise(mask))
    assert len(sent) < 150 + min(len(mask), 4 * (runs + 1))
