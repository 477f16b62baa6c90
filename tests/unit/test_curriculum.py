"""The curriculum on a simulated policy: what is preferred, that nothing starves, and that it repeats itself."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NoReturn, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoner.data.curriculum import Curriculum, _Record
from reasoner.data.problems import Stream
from reasoner.records import Message, Problem

SIZE, PER_STEP, GROUP = 120, 8, 8
LONGEST = 8


def stream(size: int = SIZE, per_step: int = PER_STEP) -> Stream[Problem]:
    problems = [Problem(f"p:{n}", (Message("user", str(n)),), str(n)) for n in range(size)]
    return Stream(problems, per_step, 3, section="data.train", key="learning.problems_per_step")


def curriculum(size: int = SIZE, longest_rest: int = LONGEST) -> Curriculum:
    return Curriculum(stream(size), 3, longest_rest)


class Policy:
    """Solves problem n with probability n / (SIZE - 1): never the first, always the last."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    def pass_rate(self, problem: Problem) -> float:
        chance = int(problem.answer) / (SIZE - 1)
        return sum(self.random.random() < chance for _ in range(GROUP)) / GROUP


def simulate(
    take: Callable[[int], Sequence[Problem]], observe: Callable[[dict[str, float]], None], steps: int
) -> tuple[list[list[str]], float]:
    """The ids of every step's problems, and the share of groups with differences."""
    policy, seen, informative = Policy(), [], []
    for step in range(1, steps + 1):
        problems = take(step)
        rates = {problem.id: policy.pass_rate(problem) for problem in problems}
        observe(rates)
        seen.append(list(rates))
        informative += [0.0 < rate < 1.0 for rate in rates.values()]
    return seen, fmean(informative)


def test_the_middle_is_preferred_and_more_groups_have_differences() -> None:
    chosen = curriculum()
    seen, informative = simulate(lambda _: chosen.take(PER_STEP), chosen.observe, 300)
    plain = stream()
    _, without = simulate(plain.at, lambda rates: None, 300)
    visits = Counter(int(name.removeprefix("p:")) for step in seen for name in step)
    middle = fmean(visits[n] for n in range(50, 70))
    hard, easy = fmean(visits[n] for n in range(5)), fmean(visits[n] for n in range(115, 120))
    assert middle > 3 * max(hard, easy)
    assert middle > 1.3 * fmean(visits[n] for n in range(15, 25)) > 1.3 * hard
    assert informative > without + 0.08


def test_nothing_starves() -> None:
    longest = 3
    chosen = curriculum(longest_rest=longest)
    order: list[str] = []
    for rate in (0.0, 1.0) * 200:
        problems = chosen.take(PER_STEP)
        chosen.observe({problem.id: rate if int(problem.answer) % 2 else 0.5 for problem in problems})
        order += [problem.id for problem in problems]
    # Those that always rest get at least every fourth turn; the others are always taken.
    turns = Counter(order)
    most = max(turns.values())
    assert set(turns) == {f"p:{n}" for n in range(SIZE)}
    assert min(turns.values()) >= most // (longest + 1)
    assert min(turns.values()) < most / 3


def test_the_first_epoch_is_the_streams() -> None:
    chosen, plain = curriculum(), stream()
    seen, _ = simulate(lambda _: chosen.take(PER_STEP), chosen.observe, SIZE // PER_STEP)
    assert seen == [[problem.id for problem in plain.at(step)] for step in range(1, SIZE // PER_STEP + 1)]


def test_a_rest_doubles_with_every_group_without_differences_and_ends_with_the_first_that_has_some() -> None:
    chosen = Curriculum(stream(1, 1), 0, 4)

    def epoch() -> int:
        chosen.mark()
        return int(chosen.state()["cursor"]["epoch"])

    def turns_until_taken() -> int:
        before = epoch()
        chosen.take(1)
        return epoch() - before - 1  # one problem: every epoch is a turn

    chosen.take(1)
    gaps = []
    for rate in (1.0, 1.0, 1.0, 1.0, 0.5):
        chosen.observe({"p:0": rate})
        gaps.append(turns_until_taken())
    assert gaps[:4] == [1, 2, 4, 4]
    chosen.observe({"p:0": 0.0})
    assert turns_until_taken() == 1


def test_it_goes_on_from_its_saved_state_exactly() -> None:
    one = curriculum()
    policy = Policy()
    for _ in range(40):
        one.observe({problem.id: policy.pass_rate(problem) for problem in one.take(5)})
    other = curriculum()
    one.mark()
    other.restore(json.loads(json.dumps(one.state())))
    assert other.metrics == one.metrics
    for _ in range(40):
        problems = one.take(5)
        assert other.take(5) == problems
        rates = {problem.id: policy.pass_rate(problem) for problem in problems}
        one.observe(rates)
        other.observe(rates)
    one.mark()
    other.mark()
    assert other.state() == one.state()


def test_its_state_is_that_of_the_last_mark_and_a_mark_touches_only_what_has_changed() -> None:
    """A step that fails is forgotten; and after a step nothing is copied that grows with the problems tried."""
    chosen, policy = curriculum(), Policy()
    for _ in range(40):
        chosen.observe({problem.id: policy.pass_rate(problem) for problem in chosen.take(5)})
        chosen.mark()
    before, metrics = json.dumps(chosen.state()), chosen.metrics
    for _ in range(3):  # steps that are not committed, with problems that were never tried, passed over and tried again
        chosen.observe({problem.id: policy.pass_rate(problem) for problem in chosen.take(5)})
        assert json.dumps(chosen.state()) == before
    again = curriculum()
    again.restore(json.loads(before))
    assert again.metrics == metrics
    everything = chosen._records
    chosen._records = cast(Any, Untouchable(everything))
    chosen.mark()
    assert set(chosen.metrics) == set(metrics)
    chosen._records = everything
    assert json.dumps(chosen.state()) != before


class Untouchable(dict[str, Any]):
    """May be asked for one record, not gone through."""

    def _refuse(self) -> NoReturn:
        raise AssertionError("all records were gone through")

    __iter__ = items = values = keys = copy = _refuse


def test_its_metrics_are_the_means_over_all_records() -> None:
    chosen, policy = curriculum(), Policy()
    for _ in range(60):
        chosen.observe({problem.id: policy.pass_rate(problem) for problem in chosen.take(7)})
        chosen.mark()
        records = [_Record(*values) for values in chosen.state()["problems"].values()]
        assert chosen.metrics == {
            "curriculum/tried": len(records) / SIZE,
            "curriculum/resting": sum(record.rest > 0 for record in records) / SIZE,
            "curriculum/pass_rate": fmean(record.pass_rate for record in records),
        }


def test_a_step_has_no_problem_twice_even_where_an_epoch_ends_or_all_rest() -> None:
    chosen = curriculum(10)
    for _ in range(30):
        problems = chosen.take(8)
        assert len({problem.id for problem in problems}) == 8
        chosen.observe({problem.id: 0.0 for problem in problems})


def test_problems_without_a_verdict_are_taken_again() -> None:
    chosen = Curriculum(stream(4, 4), 0, LONGEST)
    assert {problem.id for problem in chosen.take(4)} == {problem.id for problem in chosen.take(4)}


def test_metrics() -> None:
    chosen = Curriculum(stream(10, 4), 0, LONGEST)
    assert chosen.metrics == {}
    first, second, third, _ = chosen.take(4)
    chosen.observe({first.id: 1.0, second.id: 0.0, third.id: 0.5})
    assert chosen.metrics == pytest.approx(
        {"curriculum/tried": 0.3, "curriculum/resting": 0.2, "curriculum/pass_rate": 0.5}
    )


@settings(deadline=None)
@given(rounds=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), max_size=20))
def test_every_problem_has_its_turn_once_per_epoch_whatever_a_step_takes(rounds: list[list[int]]) -> None:
    """Nobody is passed over here: no group was seen yet, and a pass rate of one half is always taken."""
    chosen, order = Curriculum(stream(7, 1), 3, LONGEST), list[str]()
    for counts in rounds:
        step: list[str] = []
        for count in counts:
            result = [problem.id for problem in chosen.take(count, step)]
            assert len(result) == min(count, 7 - len(step))
            chosen.observe(dict.fromkeys(result, 0.5))
            step += result
        assert len(set(step)) == len(step)
        order += step
    for first in range(0, len(order) - 6, 7):
        assert len(set(order[first : first + 7])) == 7
