"""A step's groups with dynamic sampling: how many problems they take, what is measured of them, and what is kept."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from statistics import fmean
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reasoner.config import EnvironmentConfig
from reasoner.data.curriculum import Curriculum
from reasoner.data.mixture import Chooser, Mixture
from reasoner.data.problems import Cursor, Stream
from reasoner.distributed.ranks import Ranks
from reasoner.errors import SamplerError, ScoringError
from reasoner.io.parquet import read_parquet, write_parquet
from reasoner.loading import load_config
from reasoner.monitoring.step_metrics import rollout_metrics
from reasoner.records import (
    Component,
    EnvironmentReport,
    Failure,
    Group,
    Message,
    Problem,
    Prompt,
    Response,
    Rollout,
    SamplingParams,
    ScoredGroup,
)
from reasoner.runs.rollouts import to_rollouts
from reasoner.sampling.base import ParamsByTask, params_of
from reasoner.sampling.sharded import ShardedSampler
from reasoner.scoring.sharded import ShardedScorer
from reasoner.scoring.statistics import FailedResponse, SourceStatistics
from reasoner.training.evaluator import Evaluator
from reasoner.training.guards.environment_failures import limit_failures
from reasoner.training.rollout import RolloutCollector, StepRollouts
from reasoner.training.trainer import Trainer
from tests.unit.test_sharded_sampler import on_ranks

SIZE = 4
"""responses of a group"""
Rewards = Callable[[int], Sequence[float]]
"""of the responses to problem n"""


@dataclass
class Sampler:
    """Remembers what it was asked for."""

    rounds: list[list[str]] = field(default_factory=list)
    """ids of the problems of every call"""
    seeds: list[int] = field(default_factory=list)

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        self.rounds.append([prompt.problem.id for prompt in prompts])
        self.seeds.append(params.seed)
        response = Response("x", (1, 2), (True, True), (-0.5, -0.5), "stop", 3)
        return iter([Group(prompt.problem, prompt.token_ids, (response,) * n) for prompt in prompts])


@dataclass
class Scorer:
    rewards: Rewards

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        for group in groups:
            rewards = tuple(self.rewards(int(group.problem.answer)))
            components = tuple((Component("math", 1.0, reward),) for reward in rewards)
            yield ScoredGroup(group, components, rewards)

    def statistics(self) -> dict[str, SourceStatistics]:
        return {}


def collector(
    rewards: Rewards,
    *,
    problems: int = 40,
    per_step: int = 4,
    refills: int = 3,
    seed: int = 0,
    curriculum: bool = False,
    threshold: float = 1.0,
) -> tuple[RolloutCollector, Sampler]:
    sets = [
        f"evaluation.threshold={threshold}",
        f"learning.problems_per_step={per_step}",
        f"sampling.refills={refills}",
        f"run.seed={seed}",
    ]
    chosen = "pass-rate" if curriculum else "none"
    sets += [f"sampling.group_size={SIZE}", f"curriculum.kind={chosen}"]
    config = load_config("math-gsm8k", "laptop", sets=sets).config
    all_ = [Problem(f"p:{n}", (Message("user", "?"),), str(n)) for n in range(problems)]
    stream = Stream(all_, per_step, seed, section="data.train", key="learning.problems_per_step")
    sampler = Sampler()
    prompts = {problem.id: Prompt(problem, (1,)) for problem in all_}
    chooser = Curriculum(stream, seed, 8) if curriculum else Cursor(stream)
    mixture = Mixture({config.task: chooser}, {config.task: 1.0})
    return RolloutCollector(config, cast(Any, sampler), cast(Any, Scorer(rewards)), mixture, prompts), sampler


def every(share: int) -> Rewards:
    """One problem of so many gives differences; all others are wrong throughout."""
    return lambda n: (1.0, 0.0, 0.0, 0.0) if n % share == 0 else (0.0,) * SIZE


def test_a_refill_takes_as_many_problems_as_are_missing_and_an_epoch_holds_each_once() -> None:
    made, sampler = collector(every(3))
    for step in range(1, 13):
        sampler.rounds.clear()
        rollouts = made.collect(step, greedy=False)
        kept = 0
        for asked, groups in zip(sampler.rounds, rollouts.rounds, strict=True):
            assert len(asked) == 4 - kept
            kept += sum(scored.informative for scored in groups)
        names = [scored.group.problem.id for scored in rollouts.sampled]
        assert len(set(names)) == len(names)
        assert len(rollouts.groups) == kept
    made, sampler = collector(every(3))
    for step in range(1, 13):
        made.collect(step, greedy=False)
    order = [name for asked in sampler.rounds for name in asked]
    epochs = [order[first : first + 40] for first in range(0, len(order) - 40, 40)]
    assert len(epochs) >= 2
    assert all(len(set(epoch)) == 40 for epoch in epochs)


@pytest.mark.parametrize(("threshold", "rate"), [(1.0, 0.0), (0.8, 0.5)])
def test_a_curriculum_learns_from_what_is_correct_by_the_threshold(threshold: float, rate: float) -> None:
    made, _ = collector(lambda n: (0.9, 0.9, 0.7, 0.0), refills=0, curriculum=True, threshold=threshold)
    made.collect(1, greedy=False)
    assert made.problems.metrics["curriculum/pass_rate"] == rate


@pytest.mark.parametrize(("wrong", "low", "high"), [(0.0, 0.0, 0.1), (1.0, 0.9, 1.0)])
def test_a_step_that_drops_most_groups_shows_their_rewards(wrong: float, low: float, high: float) -> None:
    """Nearly all are wrong, or nearly all are right: the mean of what is kept is far from both."""
    made, _ = collector(lambda n: (1.0, 0.0, wrong, wrong) if n == 0 else (wrong,) * SIZE, problems=16, per_step=8)
    rollouts = made.collect(1, greedy=False)
    assert len(rollouts.sampled) == 16
    assert fmean(reward or 0.0 for scored in rollouts.groups for reward in scored.rewards) == 0.25 + wrong / 2
    metrics = rollout_metrics(rollouts.sampled)
    assert low <= metrics["reward/mean"] <= high
    assert low <= metrics["reward/math/mean"] <= high
    assert metrics["groups/no_credit"] == 15 / 16
    assert rollouts.metrics == {"groups/kept": 1.0, "groups/sampled": 16.0}


def test_rollouts_keep_what_was_dropped_with_a_flag(tmp_path: Any) -> None:
    rollouts = collector(every(3), problems=12, per_step=6)[0].collect(1, greedy=False)
    trained = sum(len(scored.rewards) for scored in rollouts.groups)
    rows = to_rollouts(1, rollouts.sampled, [0.5] * trained, [(0.1, 0.2)] * trained, rollouts.dropped)
    write_parquet(tmp_path / "x.parquet", rows)
    rows = read_parquet(tmp_path / "x.parquet", Rollout)
    assert [row.problem.id for row in rows[::SIZE]] == [scored.group.problem.id for scored in rollouts.sampled]
    for row in rows:
        assert row.dropped == (int(row.problem.answer) % 3 != 0)
        assert (row.credit, row.weights) == ((None, None) if row.dropped else (0.5, (0.1, 0.2)))
        assert row.training
    assert 0 < sum(row.dropped for row in rows) < len(rows)
    with pytest.raises(ValueError, match=f"each of {trained} responses that were trained on needs a credit"):
        to_rollouts(1, rollouts.sampled, [0.5] * len(rows), None, rollouts.dropped)


def test_a_step_ends_smaller_where_it_has_tried_every_problem() -> None:
    made, sampler = collector(every(100), problems=6, per_step=4, refills=9)
    rollouts = made.collect(1, greedy=False)
    assert [len(asked) for asked in sampler.rounds] == [4, 2]
    assert len(rollouts.groups) <= 1
    assert len({scored.group.problem.id for scored in rollouts.sampled}) == 6
    assert len(made.collect(2, greedy=False).sampled) == 6  # all of them again


def test_without_refills_everything_is_kept_and_the_order_is_the_streams() -> None:
    made, sampler = collector(every(3), refills=0)
    drawn = [made.collect(step, greedy=False) for step in range(1, 21)]  # two epochs
    assert not any(dropped for rollouts in drawn for dropped in rollouts.dropped)
    assert all(rollouts.groups == rollouts.sampled for rollouts in drawn)
    stream = Stream([str(n) for n in range(40)], 4, 0, section="", key="")
    assert sampler.rounds == [[f"p:{n}" for n in stream.at(step)] for step in range(1, 21)]
    assert drawn[0].metrics == {}


@pytest.mark.parametrize("curriculum", [False, True])
def test_a_resumed_run_draws_the_same_problems_with_the_same_noise(curriculum: bool) -> None:
    """From the state after every step, over the end of an epoch."""
    made, sampler = collector(every(3), problems=22, per_step=5, curriculum=curriculum)
    states = []
    for step in range(1, 10):
        made.mark()
        states.append((len(sampler.seeds), json.loads(json.dumps(made.state()))))
        made.collect(step, greedy=False)
    for step, (before, state) in enumerate(states, 1):
        resumed, again = collector(every(3), problems=22, per_step=5, curriculum=curriculum)
        resumed.restore(state)
        for later in range(step, 10):
            resumed.collect(later, greedy=False)
        assert (again.rounds, again.seeds) == (sampler.rounds[before:], sampler.seeds[before:])


def test_runs_steps_and_refills_share_no_noise() -> None:
    seeds = []
    for seed in range(4):
        made, sampler = collector(every(5), seed=seed)
        for step in range(1, 6):
            made.collect(step, greedy=True)
        seeds += sampler.seeds
    assert len(seeds) > 40
    assert len(set(seeds)) == len(seeds)


def test_groups_that_belong_to_no_step_change_no_step() -> None:
    """The gate before training: problems, order and noise of the steps are what they are without it."""
    made, sampler = collector(every(3), problems=22, per_step=5, curriculum=True)
    before = made.state()
    apart = made.sample_apart(8, lambda done, total: None)
    assert made.state() == before
    assert len({scored.group.problem.id for scored in apart}) == 8
    assert {len(scored.rewards) for scored in apart} == {SIZE}
    for step in range(1, 6):
        made.collect(step, greedy=True)
    without, plain = collector(every(3), problems=22, per_step=5, curriculum=True)
    for step in range(1, 6):
        without.collect(step, greedy=True)
    assert (sampler.rounds[1:], sampler.seeds[1:]) == (plain.rounds, plain.seeds)
    assert sampler.seeds[0] not in plain.seeds
    few, asked = collector(every(3), problems=3, per_step=3)
    assert len(few.sample_apart(8, lambda done, total: None)) == 3
    other, _ = collector(every(3), problems=22, per_step=5, seed=1)
    chosen = [scored.group.problem.id for scored in other.sample_apart(8, lambda done, total: None)]
    assert chosen != [scored.group.problem.id for scored in apart]
    assert len(asked.seeds) == 1


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_gap_check_sees_every_ranks_sampler_also_where_groups_are_dropped(ranks: int) -> None:
    rollouts = collector(every(100), per_step=8)[0].collect(1, greedy=False)
    assert len(rollouts.groups) <= 1
    few = on_policy_groups(rollouts, ranks, version=3)
    assert [group.problem.id for group in few] == [s.group.problem.id for s in rollouts.rounds[0][: max(2, ranks)]]
    assert (
        on_policy_groups(rollouts, ranks, version=4) == []
    )  # of older weights: it asks for what is drawn ahead, here nothing


def on_policy_groups(rollouts: StepRollouts, ranks: int, version: int) -> list[Group]:
    trainer = SimpleNamespace(
        config=SimpleNamespace(sampling=SimpleNamespace(over_sample=0.0)),
        _own=[],
        rollouts=rollouts,
        ranks=SimpleNamespace(count=ranks, gather=lambda value: [value] * ranks),
        learner=SimpleNamespace(version=version),
        prefetcher=SimpleNamespace(first=lambda fits: None),
    )
    return Trainer.on_policy_groups(cast(Any, trainer))


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_draw_one_step_together_also_where_a_refill_is_smaller_than_they_are(ranks: int) -> None:
    """Every rank samples and scores its share, which may be empty, with noise of its own; all have the whole."""

    def rank(here: Ranks) -> tuple[list[StepRollouts], dict[str, Any], Sampler]:
        made, sampler = collector(every(3), per_step=3)
        made.sampler = cast(Any, ShardedSampler(cast(Any, Engine(sampler)), here))
        made.scorer = ShardedScorer(cast(Any, made.scorer), here, 1.0)
        assert [scored.group.problem.id for scored in made.sample_apart(2, lambda done, total: None)] == apart
        steps = [made.collect(step, greedy=False) for step in range(1, 5)]
        made.mark()
        return steps, made.state(), sampler

    two = collector(every(3), per_step=3)[0].sample_apart(2, lambda done, total: None)
    apart = [scored.group.problem.id for scored in two]
    result = on_ranks(ranks, rank)
    alone, state, _ = on_ranks(1, rank)[0]
    check_steps([steps for steps, *_ in result], alone)
    assert all(own_state == state for _, own_state, _ in result)
    assert any(len(some) < ranks for rollouts in alone for some in rollouts.rounds)
    seeds = [seed for _, _, sampler in result for seed in sampler.seeds]
    assert len(set(seeds)) == len(seeds)


def check_steps(of_ranks: Sequence[Sequence[StepRollouts]], alone: Sequence[StepRollouts]) -> None:
    """The first of several ranks has the rounds of one, the others the same groups and rewards."""
    for index, steps in enumerate(of_ranks):
        for rollouts, expected in zip(steps, alone, strict=True):
            assert index or rollouts.rounds == expected.rounds
            assert (rollouts.dropped, rollouts.tokens) == (expected.dropped, expected.tokens)
            for groups, whole in zip(rollouts.rounds, expected.rounds, strict=True):
                assert [(scored.group.problem.id, scored.rewards) for scored in groups] == [
                    (scored.group.problem.id, scored.rewards) for scored in whole
                ]


@dataclass
class FailingSampler(Sampler):
    """The environment fails at every response to some problems."""

    failing: tuple[int, ...] = ()

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        report = EnvironmentReport(failure=Failure("maze", "crash", "its worker died", 0.5))
        for group in super().sample(prompts, n, params):
            failed = int(group.problem.answer) in self.failing
            yield (
                replace(group, responses=tuple(replace(r, report=report) for r in group.responses)) if failed else group
            )


def failing(count: int, share: float, per_step: int = 8, refills: int = 0) -> RolloutCollector:
    """Environments fail on the first so many problems, and may on this share of responses; a step has `per_step`
    problems with four responses each."""
    made, _ = collector(every(1), problems=8, per_step=per_step, refills=refills)
    made.sampler = cast(Any, FailingSampler(failing=tuple(range(count))))
    environment = EnvironmentConfig(tools=["calculator"], max_failure_rate=share)
    made.config = made.config.model_copy(update={"environment": environment})
    return made


@pytest.mark.parametrize(
    ("failed", "share", "ends"), [(1, 0.12, True), (1, 0.125, False), (4, 0.5, False), (5, 0.5, True)]
)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_failed_environments_end_all_ranks_by_their_share_of_the_step(
    failed: int, share: float, ends: bool, ranks: int
) -> None:
    """Also where all responses of a rank failed, and where another rank has no failure."""

    def rank(here: Ranks) -> str:
        made = failing(failed, share)
        made.sampler = cast(Any, ShardedSampler(cast(Any, Engine(cast(Any, made.sampler))), here))
        made.scorer = ShardedScorer(cast(Any, made.scorer), here, 1.0)
        messages = []
        for sampled in (lambda: made.collect(1, greedy=False), lambda: made.sample_apart(8, lambda done, total: None)):
            try:
                sampled()
                messages.append("")
            except SamplerError as error:
                messages.append(str(error))
        assert bool(messages[0]) == bool(messages[1])
        return messages[0]

    result = on_ranks(ranks, rank)
    assert len(set(result)) == 1
    assert bool(result[0]) == ends
    if ends:
        assert f"of 32 responses, more than environment.max_failure_rate = {share:g}. Problem p:" in result[0]
        assert result[0].endswith("maze: crash: its worker died")


def test_a_refill_s_failures_are_a_share_of_the_whole_step() -> None:
    """All of the first round fail and none of the refill: half of the step's responses."""
    made = failing(0, 0.5, per_step=4, refills=1)
    first = [problem.id for problem in failing(0, 0.5, per_step=4).problems.take(4, [])]
    failed = tuple(int(name.removeprefix("p:")) for name in first)
    cast(Any, made.sampler).failing = failed
    made.scorer = cast(Any, Scorer(lambda n: (0.0,) * SIZE if n in failed else (1.0, 0.0, 0.0, 0.0)))
    rollouts = made.collect(1, greedy=False)
    assert [len(groups) for groups in rollouts.rounds] == [4, 4]


def test_of_a_few_responses_all_may_fail() -> None:
    failing(8, 0.5, per_step=1).collect(1, greedy=False)
    with pytest.raises(SamplerError, match="at least 5 of 8 responses"):
        failing(8, 0.5, per_step=2).collect(1, greedy=False)


@pytest.mark.parametrize(("share", "ends"), [(0.24, True), (0.25, False)])
def test_an_evaluation_is_judged_as_a_whole(share: float, ends: bool) -> None:
    made = failing(2, share)
    evaluation = made.config.required_evaluation.model_copy(update={"samples": SIZE})
    config = made.config.model_copy(update={"evaluation": evaluation})
    evaluator = SimpleNamespace(
        held_out=list(made.prompts.values()),
        config=config,
        turn_end=made.turn_end,
        view=SimpleNamespace(stage=lambda *parts: None),
        sampler=made.sampler,
        scorer=made.scorer,
    )
    with pytest.raises(SamplerError, match="at least 8 of 32 responses") if ends else nullcontext():
        Evaluator._evaluate_task(cast(Any, evaluator), config.task, config)


def test_a_benchmark_ends_as_soon_as_too_many_are_certain() -> None:
    made = failing(8, 0.25)
    drawn = made.sampler.sample(list(made.prompts.values()), SIZE, SamplingParams(1.0, 8))
    limited = limit_failures(drawn, 32, made.config.environment)
    assert [next(limited).problem.id for _ in range(2)] == ["p:0", "p:1"]
    with pytest.raises(SamplerError, match="at least 9 of 32 responses"):
        next(limited)
    assert next(drawn).problem.id == "p:3"


@pytest.mark.parametrize(
    ("responses", "failed", "said"),
    [
        ((8, 24, 0), (8, 0, 0), ""),  # all of one rank, a quarter of all
        ((8, 24, 0), (8, 8, 0), ""),  # half, which is not more than half
        ((8, 24, 0), (8, 9, 0), "failed on 17 of 32 responses (timeout 17)"),
        ((3, 3, 3), (3, 2, 0), "failed on 5 of 9 responses (timeout 5)"),  # each rank has too few to say anything
        ((3, 3, 1), (3, 3, 1), ""),  # all have
        ((0, 9, 0), (0, 5, 0), "failed on 5 of 9 responses (timeout 5)"),
    ],
)
def test_failures_of_a_source_are_judged_over_all_ranks(
    responses: tuple[int, ...], failed: tuple[int, ...], said: str
) -> None:
    """Every rank says the same, also one that scored nothing."""

    def rank(here: Ranks) -> str:
        scorer = cast(Any, Counting(lambda n: (1.0,), responses[here.index], failed[here.index]))
        try:
            list(ShardedScorer(scorer, here, 0.5).score([]))
        except ScoringError as error:
            return str(error)
        return ""

    first, *others = on_ranks(3, rank)
    assert others == [first] * 2
    assert bool(first) is bool(said)
    assert said in first


@dataclass
class Counting(Scorer):
    """`judge` failed on some of its responses."""

    responses: int
    failed: int

    def statistics(self) -> dict[str, SourceStatistics]:
        example = FailedResponse("p:0", 0, Failure("judge", "timeout", "too slow", 1.0)) if self.failed else None
        failures = cast(Any, {"timeout": self.failed} if self.failed else {})
        return {"judge": SourceStatistics("judge", self.responses, 0, self.responses, failures, 0.0, example)}


@dataclass
class NotingSampler(Sampler):
    """Notes the limits with which each prompt is sampled."""

    limits: list[tuple[str, int]] = field(default_factory=list)

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams | ParamsByTask) -> Iterator[Group]:
        chosen = [params_of(params, prompt.problem) for prompt in prompts]
        (seed,) = {each.seed for each in chosen}
        self.limits += [(prompt.problem.part, each.max_tokens) for prompt, each in zip(prompts, chosen, strict=True)]
        return super().sample(prompts, n, SamplingParams(1.0, 1, seed=seed))


def of_two_tasks(refills: int = 0) -> tuple[RolloutCollector, NotingSampler]:
    """Two problems of `math-gsm8k` for one of `code-stdin`, three per step."""
    sets = ["learning.problems_per_step=3", f"sampling.refills={refills}", f"sampling.group_size={SIZE}"]
    config = load_config(["math-gsm8k=2", "code-stdin=1"], "laptop", sets=sets).config
    choosers: dict[str, Chooser] = {}
    prompts: dict[str, Prompt] = {}
    for name, count in (("math-gsm8k", 11), ("code-stdin", 7)):
        problems = [Problem(f"{name}:{n}", (Message("user", "?"),), str(n), part=name) for n in range(count)]
        choosers[name] = Cursor(Stream(problems, 1, 0, section="", key=""))
        prompts |= {problem.id: Prompt(problem, (1,)) for problem in problems}
    sampler = NotingSampler()
    mixture = Mixture(choosers, {"math-gsm8k": 2.0, "code-stdin": 1.0})
    return RolloutCollector(config, cast(Any, sampler), cast(Any, Scorer(every(2))), mixture, prompts), sampler


def test_tasks_are_sampled_as_one_batch_each_with_its_own_limits() -> None:
    made, sampler = of_two_tasks()
    rollouts = made.collect(1, greedy=True)
    assert {name: limit for name, limit in sampler.limits} == {"math-gsm8k": 64, "code-stdin": 96}  # noqa: C416
    assert len(set(sampler.seeds)) == len(sampler.seeds) == 2  # of the step, and of its greedy responses
    assert [len(batch) for batch in sampler.rounds] == [3, 3]
    assert len(rollouts.greedy_rewards or ()) == 3
    apart = made.sample_apart(4, lambda done, total: None)
    assert Counter(scored.group.problem.part for scored in apart) == {"math-gsm8k": 4, "code-stdin": 4}


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("refills", [0, 3])
def test_ranks_draw_a_mixture_together_also_where_a_task_has_fewer_problems_than_there_are_ranks(
    ranks: int, refills: int
) -> None:
    def rank(here: Ranks) -> tuple[list[StepRollouts], dict[str, Any]]:
        made, sampler = of_two_tasks(refills)
        made.sampler = cast(Any, ShardedSampler(cast(Any, Engine(sampler)), here))
        made.scorer = ShardedScorer(cast(Any, made.scorer), here, 1.0)
        steps = [made.collect(step, greedy=False) for step in range(1, 7)]
        made.mark()
        return steps, made.state()

    ((alone, state),) = on_ranks(1, rank)
    result = on_ranks(ranks, rank)
    check_steps([steps for steps, _ in result], alone)
    assert all(own_state == state for _, own_state in result)
    seen = Counter(scored.group.problem.part for rollouts in alone for scored in rollouts.sampled)
    assert abs(seen["math-gsm8k"] - 2 * seen["code-stdin"]) <= 1


@dataclass
class Engine:
    """The sampler with what else an engine has."""

    sampler: Sampler
    name: str = "fake"
    description: str = "fake"

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams | ParamsByTask) -> Iterator[Group]:
        return self.sampler.sample(prompts, n, cast(Any, params))


def test_sampling_and_scoring_are_on_the_timeline_also_where_they_fail() -> None:
    """Scoring begins with the first group, the sampler ends with the last; a failure leaves nothing at work."""
    made, _ = collector(every(1), refills=0)
    start = time.perf_counter()
    seen: list[Mapping[str, object]] = []

    def look(group: Group) -> None:
        seen.append(made.timeline.cut(0, start, time.perf_counter()).lanes)

    made.collect(1, greedy=False, on_group=look)
    assert [set(lanes) for lanes in seen] == [{"sampler"}, *[{"sampler", "scoring"}] * 3]
    end = time.perf_counter()
    ((_, sampled),) = made.timeline.cut(1, start, end).lanes["sampler"]
    assert sampled < end - start
    failing, _ = collector(lambda n: [1.0 / 0.0])
    with pytest.raises(ZeroDivisionError):
        failing.collect(1, greedy=False)
    start = time.perf_counter()
    assert failing.timeline.cut(2, start, start + 1.0).lanes == {}
