"""Credit and pairs: numbers by hand, invariances, abstentions, several rewards, the critic's recursion."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reasoner.gro.credit import credit, informative, returns_and_advantages
from reasoner.gro.inputs import ObjectiveInputs
from reasoner.gro.pairs import mine_pairs, units
from reasoner.gro.spec.terms import (
    KL,
    Advantage,
    Best,
    Chosen,
    CustomCredit,
    Label,
    One,
    Pairing,
    Term,
    Threshold,
)
from reasoner.gro.term_plan import credit_of

Rewards = Sequence[Sequence[float | None]]
NO_PAIRS = torch.empty(0, 2, dtype=torch.int64)
BASELINES = ("none", "mean", "leave-one-out", "greedy")
SCALES = ("none", "group", "batch")


def _inputs(rewards: Rewards, lengths: Sequence[int] | None = None, abstained: float = math.nan) -> ObjectiveInputs:
    """Responses of these lengths, 1 by default; `abstained` stands where there is no reward."""
    responses = sum(len(group) for group in rewards)
    lengths = lengths or [1] * responses
    return ObjectiveInputs(
        rewards_NG=torch.tensor(
            [[abstained if r is None else r for r in group] for group in rewards], dtype=torch.float64
        ),
        valid_NG=torch.tensor([[r is not None for r in group] for group in rewards]),
        mask_RT=torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None],
        greedy_N=torch.full((len(rewards),), 0.5, dtype=torch.float64),
    )


def _credit(spec: object, inputs: ObjectiveInputs, **changes: object) -> list[list[float]]:
    """Credit by group, of a response as a whole."""
    found_RT = credit(Term(credit=spec, **changes), inputs, NO_PAIRS)  # type: ignore[arg-type]
    assert found_RT.shape == (len(inputs.mask_RT), 1)
    by_group: list[list[float]] = found_RT.reshape(inputs.rewards_NG.shape).tolist()
    return by_group


def _advantage(baseline: str, scale: str = "none", **options: object) -> Advantage:
    return Advantage(baseline=baseline, scale=scale, **options)  # type: ignore[arg-type]


@st.composite
def _rewards(draw: st.DrawFn, abstentions: bool = True) -> list[list[float | None]]:
    value = st.sampled_from([-1.0, 0.0, 0.1, 0.3, 1.0, 2.5])
    size = draw(st.integers(1, 5))
    one: st.SearchStrategy[float | None] = st.one_of(st.none(), value) if abstentions else value
    return draw(st.lists(st.lists(one, min_size=size, max_size=size), min_size=1, max_size=4))


@pytest.mark.parametrize(
    ("baseline", "scale", "expected"),
    [
        ("none", "none", [[1.0, 0.0, 0.0, 1.0], [4.0, 0.0, 0.0, 0.0]]),
        ("mean", "none", [[0.5, -0.5, -0.5, 0.5], [3.0, -1.0, -1.0, -1.0]]),
        ("leave-one-out", "none", [[2 / 3, -2 / 3, -2 / 3, 2 / 3], [4.0, -4 / 3, -4 / 3, -4 / 3]]),
        ("greedy", "none", [[0.5, -0.5, -0.5, 0.5], [3.5, -0.5, -0.5, -0.5]]),
        (
            "mean",
            "group",
            [
                [s * 0.5 / (math.sqrt(1 / 3) + 1e-4) for s in (1, -1, -1, 1)],
                [d / (2 + 1e-4) for d in (3.0, -1.0, -1.0, -1.0)],
            ],
        ),
        (
            "mean",
            "batch",
            [
                [s * 0.5 / (math.sqrt(13 / 8) + 1e-8) for s in (1, -1, -1, 1)],
                [d / (math.sqrt(13 / 8) + 1e-8) for d in (3.0, -1.0, -1.0, -1.0)],
            ],
        ),
    ],
)
def test_credit_of_two_groups(baseline: str, scale: str, expected: list[list[float]]) -> None:
    found = _credit(_advantage(baseline, scale), _inputs([[1.0, 0.0, 0.0, 1.0], [4.0, 0.0, 0.0, 0.0]]))
    for mine_, theirs in zip(found, expected, strict=True):
        assert mine_ == pytest.approx(theirs, rel=1e-12)


def test_the_batch_is_measured_in_tokens() -> None:
    """Rewards 1 and 0 on three tokens and one: mean 3/4, deviation sqrt(3)/4."""
    found = _credit(_advantage("none", "batch"), _inputs([[1.0, 0.0]], [3, 1]))
    deviation = math.sqrt(3) / 4 + 1e-8
    assert found[0] == pytest.approx([0.25 / deviation, -0.75 / deviation], rel=1e-12)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (Best(), [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
        (Threshold(at=1.0), [[0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]),
        (Threshold(at=0.5), [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]),
        (Label(), [[-1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, -1.0, 0.0]]),
        (One(), [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]),
    ],
)
def test_marks(spec: object, expected: list[list[float]]) -> None:
    rewards: Rewards = [[0.5, 1.0, 1.0], [1.0, 1.0, 1.0], [None, -0.5, None]]
    assert _credit(spec, _inputs(rewards)) == expected


def test_chosen_marks_what_a_pair_prefers() -> None:
    inputs = _inputs([[1.0, 0.0, 1.0], [0.0, 1.0, None]])
    pairs_P2 = torch.tensor([[0, 1], [2, 1], [4, 3]])
    assert credit(Term(credit=Chosen()), inputs, pairs_P2).flatten().tolist() == [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]


def test_a_function_is_called_with_rewards_and_validity() -> None:
    def doubled(rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
        assert valid_NG.tolist() == [[True, False]]
        return 2 * rewards_NG + 1

    assert _credit(doubled, _inputs([[1.0, None]])) == [[3.0, 0.0]]


def test_a_name_without_its_function_is_refused() -> None:
    with pytest.raises(ValueError, match="'mine' is not bound"):
        _credit(CustomCredit("mine"), _inputs([[1.0, 0.0]]))


@given(
    _rewards(),
    st.sampled_from(BASELINES),
    st.sampled_from(SCALES),
    st.sampled_from([0.0, 1e6, math.inf, -math.inf, math.nan]),
)
def test_what_stands_for_an_abstained_reward_changes_nothing(
    rewards: list[list[float | None]], baseline: str, scale: str, filler: float
) -> None:
    spec = _advantage(baseline, scale)
    found = _credit(spec, _inputs(rewards, abstained=filler))
    assert found == _credit(spec, _inputs(rewards, abstained=0.25))
    for group, row in zip(rewards, found, strict=True):
        assert all(c == 0.0 for r, c in zip(group, row, strict=True) if r is None)
        assert all(math.isfinite(c) for c in row)


@given(_rewards(), st.sampled_from(["mean", "leave-one-out", "none"]), st.sampled_from(["none", "group"]))
def test_abstained_responses_could_as_well_not_be_there(
    rewards: list[list[float | None]], baseline: str, scale: str
) -> None:
    spec = _advantage(baseline, scale)
    for group, row in zip(rewards, _credit(spec, _inputs(rewards)), strict=True):
        kept = [r for r in group if r is not None]
        if kept:
            (alone,) = _credit(spec, _inputs([kept]))
            assert [c for r, c in zip(group, row, strict=True) if r is not None] == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize(
    ("baseline", "scale"),
    [("mean", "none"), ("leave-one-out", "none"), ("mean", "group"), ("none", "group"), ("greedy", "group")],
)
@pytest.mark.parametrize("group", [[0.1, 0.1, 0.1], [0.3, None, None], [None, 0.7, 0.7], [None, None, None]])
def test_a_group_without_a_difference_gets_exactly_nothing(
    baseline: str, scale: str, group: list[float | None]
) -> None:
    told: list[float | None] = [1.0, 0.2, 0.7]
    silent, heard = _credit(_advantage(baseline, scale), _inputs([group, told]))
    assert silent == [0.0, 0.0, 0.0]
    assert all(heard)


def test_groups_that_compare() -> None:
    inputs = _inputs([[1.0, 0.0], [1.0, 1.0], [1.0, None], [None, None]])
    assert informative(inputs.rewards_NG, inputs.valid_NG).tolist() == [True, False, False, False]


def test_without_a_baseline_and_with_a_greedy_one_a_single_response_has_credit() -> None:
    inputs = _inputs([[2.0, None], [2.0, 2.0]])
    assert _credit(_advantage("none"), inputs) == [[2.0, 0.0], [2.0, 2.0]]
    assert _credit(_advantage("greedy"), inputs) == [[1.5, 0.0], [1.5, 1.5]]


def test_a_greedy_response_that_abstained_gives_its_group_no_credit() -> None:
    inputs = replace(_inputs([[1.0, 0.0], [1.0, 0.0]]), greedy_N=torch.tensor([math.nan, 0.25], dtype=torch.float64))
    assert _credit(_advantage("greedy"), inputs) == [[0.0, 0.0], [0.75, -0.25]]


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_batch_of_equal_credit_is_zero_after_scaling(baseline: str) -> None:
    found = _credit(_advantage(baseline, "batch"), _inputs([[0.1, 0.1, None], [0.1, 0.1, 0.1]], [3, 1, 2, 5, 1, 1]))
    assert found == [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


@given(_rewards(), st.sampled_from(["mean", "leave-one-out"]), st.sampled_from(SCALES), st.integers(-3, 3))
def test_a_constant_on_all_rewards_changes_no_compared_credit(
    rewards: list[list[float | None]], baseline: str, scale: str, shift: int
) -> None:
    spec = _advantage(baseline, scale)
    shifted = [[None if r is None else r + shift for r in group] for group in rewards]
    for one, other in zip(_credit(spec, _inputs(rewards)), _credit(spec, _inputs(shifted)), strict=True):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-12)


@given(_rewards(), st.sampled_from(BASELINES), st.sampled_from(SCALES), st.data())
def test_credit_follows_its_response_to_another_place(
    rewards: list[list[float | None]], baseline: str, scale: str, data: st.DataObject
) -> None:
    spec = _advantage(baseline, scale)
    order = data.draw(st.permutations(range(len(rewards[0]))))
    found = _credit(spec, _inputs(rewards))
    moved = _credit(spec, _inputs([[group[g] for g in order] for group in rewards[::-1]]))
    for one, other in zip(found[::-1], moved, strict=True):
        assert [one[g] for g in order] == pytest.approx(other, rel=1e-9, abs=1e-12)


@given(_rewards(), st.data())
def test_scaled_by_the_batch_the_tokens_have_mean_0_and_deviation_1(
    rewards: list[list[float | None]], data: st.DataObject
) -> None:
    lengths = [data.draw(st.integers(1, 5)) for group in rewards for _ in group]
    found = _credit(_advantage("none", "batch"), _inputs(rewards, lengths))
    flat = zip([r for group in rewards for r in group], [c for row in found for c in row], lengths, strict=True)
    per_token = [c for r, c, length in flat if r is not None for _ in range(length)]
    if len({r for group in rewards for r in group if r is not None}) < 2:
        assert not any(per_token)
    else:
        assert sum(per_token) / len(per_token) == pytest.approx(0.0, abs=1e-9)
        assert sum(c * c for c in per_token) / len(per_token) == pytest.approx(1.0, rel=1e-6)


def _with_kl(inputs: ObjectiveInputs, gap: Sequence[Sequence[float]]) -> ObjectiveInputs:
    """l_old - l_ref of every token; NaN on padding."""
    width = inputs.mask_RT.shape[1]
    old_RT = torch.tensor([[*row, *[math.nan] * (width - len(row))] for row in gap], dtype=torch.float64)
    return replace(inputs, old_RT=old_RT, reference_RT=torch.zeros_like(old_RT))


def test_kl_in_the_reward_is_paid_from_each_token_on_or_by_the_response() -> None:
    inputs = _with_kl(_inputs([[1.0, 0.0]], [3, 1]), [[1.0, 2.0, 4.0], [-8.0]])
    kl = KL(0.1, "k1", "reward")
    per_token = credit(Term(credit=_advantage("none"), kl=kl), inputs, NO_PAIRS)
    assert per_token[0].tolist() == pytest.approx([1 - 0.7, 1 - 0.6, 1 - 0.4], rel=1e-12)
    assert per_token[1, 0].item() == pytest.approx(0.8, rel=1e-12)
    assert _credit(_advantage("mean"), inputs, kl=kl)[0] == pytest.approx([-0.25, 0.25], rel=1e-12)
    assert _credit(_advantage("greedy"), inputs, kl=kl)[0] == pytest.approx([-0.2, 0.3], rel=1e-12)
    in_loss = replace(kl, place="loss")
    assert _credit(_advantage("mean"), inputs, kl=in_loss) == [[0.5, -0.5]]


def _several(
    components: Sequence[Rewards], weights: Sequence[float], lengths: Sequence[int] | None = None
) -> ObjectiveInputs:
    total: list[list[float | None]] = []
    for groups in zip(*components, strict=True):
        rows = zip(*groups, strict=True)
        total.append(
            [None if None in row else sum(w * (r or 0.0) for w, r in zip(weights, row, strict=True)) for row in rows]
        )
    values = [[[math.nan if r is None else r for r in group] for group in part] for part in components]
    return replace(
        _inputs(total, lengths),
        components_KNG=torch.tensor(values, dtype=torch.float64),
        component_weights_K=torch.tensor(weights, dtype=torch.float64),
    )


def _normalised(group: Sequence[float | None], scale: str) -> list[float | None]:
    """A group's own credit in plain Python: minus the mean, over the unbiased deviation + 1e-4."""
    known = [r for r in group if r is not None]
    if len(set(known)) < 2:
        return [None if r is None else 0.0 for r in group]
    mean = sum(known) / len(known)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in known) / (len(known) - 1)) + 1e-4
    return [None if r is None else (r - mean) / (deviation if scale == "group" else 1.0) for r in group]


@pytest.mark.parametrize("scale", ["none", "group"])
def test_normalise_then_sum(scale: str) -> None:
    first: Rewards = [[1.0, 0.0, 0.0, None], [1.0, 1.0, 1.0, 1.0]]
    second: Rewards = [[0.2, 0.2, 0.9, None], [0.5, 0.1, 0.1, 0.3]]
    weights, lengths = (2.0, 0.5), [1, 4, 2, 3, 1, 1, 5, 2]
    spec = _advantage("mean", scale, combine="normalise-then-sum")
    found = _credit(spec, _several([first, second], weights, lengths))
    parts = [[c for group in part for c in _normalised(group, scale)] for part in (first, second)]
    total = [None if a is None or b is None else weights[0] * a + weights[1] * b for a, b in zip(*parts, strict=True)]
    spread = [c for c, length in zip(total, lengths, strict=True) if c is not None for _ in range(length)]
    mean = sum(spread) / len(spread)
    deviation = math.sqrt(sum((c - mean) ** 2 for c in spread) / len(spread)) + 1e-8
    expected = [0.0 if c is None else (c - mean) / deviation for c in total]
    assert [c for row in found for c in row] == pytest.approx(expected, rel=1e-10)


def test_a_reward_that_the_whole_group_shares_says_nothing_of_its_own() -> None:
    """Beside a constant reward, and with any factor, what is left is the other reward's credit."""
    shared: Rewards = [[0.3, 0.3, 0.3]]
    telling: Rewards = [[1.0, 0.0, 0.5]]
    spec = _advantage("mean", "group", combine="normalise-then-sum")
    with_shared = _credit(spec, _several([shared, telling], [100.0, 1.0]))
    assert with_shared == _credit(spec, _several([telling], [1.0]))
    assert all(c for c in with_shared[0][:2])


def test_sum_then_normalise_reads_the_total_only() -> None:
    inputs = _several([[[1.0, 0.0]], [[0.0, 3.0]]], [1.0, 1.0])
    assert _credit(_advantage("mean"), inputs) == [[-1.0, 1.0]]
    assert _credit(_advantage("mean"), replace(inputs, components_KNG=None)) == [[-1.0, 1.0]]


def _critic(lengths: Sequence[int], rewards: Rewards, seed: int = 0) -> ObjectiveInputs:
    inputs = _inputs(rewards, lengths)
    values_RT = torch.randn(inputs.mask_RT.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return replace(inputs, values_RT=values_RT.masked_fill(~inputs.mask_RT, math.nan))


def test_one_temporal_difference_with_a_trace_of_zero() -> None:
    inputs = _critic([3, 1], [[2.0, -1.0]])
    spec = _advantage("critic", trace=0.0, discount=0.9)
    assert inputs.values_RT is not None
    v, u = inputs.values_RT[0].tolist(), inputs.values_RT[1].tolist()
    _, advantages_RT = returns_and_advantages(spec, KL(), inputs)
    expected = [0.9 * v[1] - v[0], 0.9 * v[2] - v[1], 2.0 - v[2]]
    assert advantages_RT[0].tolist() == pytest.approx(expected, rel=1e-12)
    assert advantages_RT[1].tolist() == pytest.approx([-1.0 - u[0], 0.0, 0.0], rel=1e-12)


def test_the_return_less_the_value_with_a_trace_of_one() -> None:
    inputs = _critic([4, 2], [[2.0, -1.0]])
    spec = _advantage("critic", trace=1.0, discount=0.5)
    returns_RT, advantages_RT = returns_and_advantages(spec, KL(), inputs)
    assert returns_RT[0].tolist() == pytest.approx([0.25, 0.5, 1.0, 2.0], rel=1e-12)
    assert returns_RT[1, :2].tolist() == pytest.approx([-0.5, -1.0], rel=1e-12)
    assert inputs.values_RT is not None
    difference_RT = (returns_RT - inputs.values_RT)[inputs.mask_RT]
    assert advantages_RT[inputs.mask_RT].tolist() == pytest.approx(difference_RT.tolist(), rel=1e-12)


def test_tokens_that_the_policy_did_not_write_are_passed_over() -> None:
    """A response with a tool's answer inside has the advantages of the same response without it."""
    plain = _critic([3], [[1.5]])
    assert plain.values_RT is not None
    v = plain.values_RT[0].tolist()
    gaps = replace(
        plain,
        mask_RT=torch.tensor([[False, True, False, False, True, True, False]]),
        values_RT=torch.tensor([[9.0, v[0], math.nan, 7.0, v[1], v[2], 5.0]], dtype=torch.float64),
    )
    spec = _advantage("critic")
    for whole, short in zip(
        returns_and_advantages(spec, KL(), gaps),
        returns_and_advantages(spec, KL(), plain),
        strict=True,
    ):
        assert whole[0, [1, 4, 5]].tolist() == pytest.approx(short[0].tolist(), rel=1e-12)
        assert not whole[0, [0, 2, 3, 6]].any()


def test_a_perfect_critic_leaves_no_advantage() -> None:
    inputs = _inputs([[1.0, 0.0]], [3, 2])
    inputs = replace(inputs, values_RT=torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64))
    assert not credit(Term(credit=_advantage("critic")), inputs, NO_PAIRS).any()


def test_an_abstained_response_has_no_advantage_and_leaves_the_whitening() -> None:
    spec = _advantage("critic", "batch")
    whole = credit(Term(credit=spec), _critic([3, 2, 2], [[2.0, -1.0, None]]), NO_PAIRS)
    inputs = _critic([3, 2, 2], [[2.0, -1.0, None]])
    assert inputs.values_RT is not None
    alone = replace(_inputs([[2.0, -1.0]], [3, 2]), values_RT=inputs.values_RT[:2])
    assert whole[:2][alone.mask_RT].tolist() == pytest.approx(
        credit(Term(credit=spec), alone, NO_PAIRS)[alone.mask_RT].tolist(), rel=1e-12
    )
    assert not whole[2].any()


def _pairs(spec: Pairing, rewards: Rewards) -> list[tuple[int, int]]:
    inputs = _inputs(rewards)
    return [(chosen, rejected) for chosen, rejected in mine_pairs(spec, inputs.rewards_NG, inputs.valid_NG).tolist()]


def test_best_against_worst_takes_the_first_of_equals() -> None:
    rewards: Rewards = [
        [0.0, 1.0, 1.0, 0.0],
        [0.5, 0.5, 0.5, 0.5],
        [None, 0.2, None, 0.3],
        [None, 0.2, None, None],
        [None, None, None, None],
    ]
    assert _pairs(Pairing(), rewards) == [(1, 0), (11, 9)]


def test_a_pair_must_differ_by_more_than_the_margin() -> None:
    rewards: Rewards = [[1.0, 0.5], [1.0, 0.25]]
    assert _pairs(Pairing(margin=0.5), rewards) == [(2, 3)]
    assert _pairs(Pairing("correct-incorrect", margin=0.5), rewards) == [(2, 3)]


def test_every_correct_response_against_every_other() -> None:
    rewards: Rewards = [[1.0, 0.0, 2.0, None, 0.5], [1.0, 1.0, 1.0, 1.0, None], [0.0, 0.9, None, 0.0, 0.0]]
    assert sorted(_pairs(Pairing("correct-incorrect"), rewards)) == [(0, 1), (0, 4), (2, 1), (2, 4)]
    assert sorted(_pairs(Pairing("correct-incorrect", correct=0.9), [[0.0, 0.9, None]])) == [(1, 0)]


@given(
    _rewards(),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.15, 1.0]),
    st.sampled_from(["best-worst", "correct-incorrect"]),
)
def test_pairs_stay_in_their_group_and_within_their_number(
    rewards: list[list[float | None]], most: int, margin: float, rule: str
) -> None:
    size, flat = len(rewards[0]), [r for group in rewards for r in group]
    found = _pairs(Pairing(rule, most, margin), rewards)  # type: ignore[arg-type]
    assert len(set(found)) == len(found)
    for chosen, rejected in found:
        assert chosen // size == rejected // size
        up, down = flat[chosen], flat[rejected]
        assert up is not None
        assert down is not None
        assert up - down > margin
    for n, group in enumerate(rewards):
        known = [r for r in group if r is not None]
        good, bad = [r for r in known if r >= 1.0], [r for r in known if r < 1.0]
        far = sum(g - b > margin for g in good for b in bad)
        of_group = [pair for pair in found if pair[0] // size == n]
        if rule == "correct-incorrect":
            assert len(of_group) == min(most, far)
        else:
            assert len(of_group) == (bool(known) and max(known) - min(known) > margin)


def test_few_pairs_of_a_large_group_use_several_responses_on_both_sides() -> None:
    found = _pairs(Pairing("correct-incorrect", most=3), [[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    assert len(found) == 3
    assert len({chosen for chosen, _ in found}) > 1
    assert len({rejected for _, rejected in found}) > 1


def test_responses_that_pairs_connect_are_one_unit() -> None:
    found = units(7, torch.tensor([[0, 1], [2, 1], [4, 5]]))
    assert found[0] == found[1] == found[2]
    assert found[4] == found[5]
    assert len(set(found)) == 4


def _returns(rewards: float, turns: Sequence[float], at: int) -> float:
    """What is left of a reward when a turn begins."""
    return rewards - sum(turns[:at])


def _by_turn(
    spec: Advantage, rewards: Rewards, turns: Sequence[Sequence[float]], of_tokens: Sequence[Sequence[int | None]]
) -> list[list[float]]:
    """The credit of every token, 0 where it is not the policy's: one token and one response at a time."""
    found: list[list[float]] = []
    size = len(rewards[0])
    for i, row in enumerate(of_tokens):
        group = list(range(i - i % size, i - i % size + size))
        known = {j: reward for j in group if (reward := rewards[i // size][j % size]) is not None}
        values = []
        for turn in row:
            if turn is None or i not in known:
                values.append(0.0)
                continue
            returns = {j: _returns(reward, turns[j], turn) for j, reward in known.items()}
            mean = sum(returns.values()) / len(returns)
            others = [value for j, value in returns.items() if j != i]
            lengths = {j: sum(at is not None for at in of_tokens[j]) for j in known}
            baseline = {
                "none": 0.0,
                "mean": mean,
                "leave-one-out": sum(others) / max(len(others), 1),
                "length-weighted": sum(lengths[j] * returns[j] for j in known) / sum(lengths.values()),
            }[spec.baseline]
            value = returns[i] - baseline
            compares = spec.baseline != "none" or spec.scale == "group"
            if compares and (len(returns) < 2 or len(set(returns.values())) == 1):
                value = 0.0
            elif spec.scale == "group":
                spread = sum((each - mean) ** 2 for each in returns.values()) / (len(returns) - 1)
                value /= math.sqrt(spread) + 1e-4
            values.append(value)
        found.append(values)
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("baseline", ["none", "mean", "leave-one-out", "length-weighted"])
@pytest.mark.parametrize("scale", ["none", "group"])
def test_credit_by_turn_is_of_the_returns_from_each_turn_on(baseline: str, scale: str, seed: int) -> None:
    rng = random.Random(seed)
    groups, size = rng.randint(1, 3), rng.randint(1, 4)
    rewards = [
        [None if rng.random() < 0.2 else rng.choice((0.0, 0.5, 1.0)) for _ in range(size)] for _ in range(groups)
    ]
    turns = [[rng.choice((0.0, 0.25, -0.5)) for _ in range(rng.randint(1, 4))] for _ in range(groups * size)]
    # the policy writes one to three tokens a turn, the environment none to two after it; some last turns were cut, and
    # some of those have many turns before them that nothing was given for
    written = [len(row) + rng.choice((0, 0, 1, 3)) for row in turns]
    of_tokens: list[list[int | None]] = [
        [at for turn in range(count) for at in [turn] * rng.randint(1, 3) + [None] * rng.randint(0, 2)]
        for count in written
    ]
    width = max(map(len, of_tokens))
    inputs = replace(
        _inputs(rewards),
        mask_RT=torch.tensor([[at is not None for at in row] + [False] * (width - len(row)) for row in of_tokens]),
        turns_RT=torch.tensor([[at or 0 for at in row] + [9] * (width - len(row)) for row in of_tokens]),
        turn_rewards_RM=torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in turns], batch_first=True),
    )
    spec = _advantage(baseline, scale, level="turn")
    found = credit_of(Term(credit=spec), inputs)
    for row, expected in zip(found.tolist(), _by_turn(spec, rewards, turns, of_tokens), strict=True):
        assert row[: len(expected)] == pytest.approx(expected, abs=1e-9)
        assert not any(row[len(expected) :])


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([None, 0.0, 0.5, 1.0]), min_size=3, max_size=3), min_size=1, max_size=3),
    st.sampled_from(["none", "mean", "leave-one-out", "length-weighted"]),
    st.sampled_from(["none", "group", "mean", "batch"]),
)
def test_without_rewards_of_turns_it_is_the_credit_of_whole_responses(
    rewards: Rewards, baseline: str, scale: str
) -> None:
    responses = 3 * len(rewards)
    inputs = _inputs(rewards, [1 + n % 4 for n in range(responses)])
    whole = credit(Term(credit=_advantage(baseline, scale)), inputs, NO_PAIRS)
    by_turn = Term(credit=_advantage(baseline, scale, level="turn"))
    assert torch.equal(credit(by_turn, inputs, NO_PAIRS), whole)
    inputs = replace(
        inputs,
        turns_RT=torch.arange(inputs.mask_RT.shape[1]).repeat(responses, 1) // 2,
        turn_rewards_RM=torch.zeros(responses, 2),
    )
    torch.testing.assert_close(credit(by_turn, inputs, NO_PAIRS), whole.expand_as(inputs.mask_RT))


@pytest.mark.parametrize("scale", ["none", "group", "mean"])
def test_rounding_after_the_last_reward_is_no_credit(scale: str) -> None:
    """0.1 + 0.2 + 0.3 is not 0.6: what is left of the first reward after its last turn is 1e-16."""
    turns = [[-0.1, -0.2, -0.3], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    inputs = replace(
        _inputs([[-0.6, 0.0, 1.0, 1.0]], [4, 4, 4, 4]),
        turns_RT=torch.arange(4).repeat(4, 1),
        turn_rewards_RM=torch.tensor(turns, dtype=torch.float64),
    )
    found_RT = credit(Term(credit=_advantage("mean", scale, level="turn")), inputs, NO_PAIRS)
    assert bool(found_RT[:, 0].all())
    assert found_RT[:, 3].tolist() == [0.0] * 4


def test_a_kl_in_the_reward_is_paid_before_turns_are_compared() -> None:
    inputs = replace(
        _inputs([[1.0, 0.0]], [2, 2]),
        old_RT=torch.tensor([[-1.0, -1.0], [-1.0, -1.0]]),
        reference_RT=torch.tensor([[-2.0, -1.0], [-1.0, -1.0]]),
        turns_RT=torch.tensor([[0, 1], [0, 1]]),
        turn_rewards_RM=torch.tensor([[0.5, 0.5], [0.0, 0.0]]),
    )
    kl = KL(0.1, "k1", "reward")
    for baseline, expected in (("none", [[0.9, 0.4], [0.0, 0.0]]), ("mean", [[0.45, 0.2], [-0.45, -0.2]])):
        found = credit(Term(credit=_advantage(baseline, level="turn"), kl=kl), inputs, NO_PAIRS)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), check_dtype=False)
