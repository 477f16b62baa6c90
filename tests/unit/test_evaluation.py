import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasoner.config import Config, EvaluationConfig, RewardConfig
from reasoner.errors import DataError, SamplerError
from reasoner.evaluation.intervals import bootstrap, change_p, mean_interval, wilson
from reasoner.evaluation.metrics import (
    Criterion,
    Difference,
    Estimate,
    Evaluation,
    compare,
    criteria_difference,
    majority,
    pass_at,
    pass_rates,
    summarise,
)
from reasoner.io.serialization import from_json, to_json
from reasoner.records import (
    Component,
    Failure,
    FinishReason,
    Group,
    Message,
    PartialGroup,
    Problem,
    Prompt,
    Receipt,
    Response,
    SamplingParams,
    ScoredGroup,
)
from reasoner.sampling.base import ParamsByTask
from reasoner.training.evaluator import evaluate

PARAMS = SamplingParams(temperature=0.0, max_tokens=4)


def problem(name: str) -> Problem:
    return Problem(name, (Message("user", name),), "4")


def prompts(*names: str) -> list[Prompt]:
    return [Prompt(problem(name), (1, 2)) for name in names]


def response(text: str, tokens: int = 2) -> Response:
    ending: FinishReason = "stop" if tokens < 4 else "length"
    return Response(text, (7,) * tokens, (True,) * tokens, (-1.0,) * tokens, ending, 0)


def component(answer: str | None, **changes: Any) -> Component:
    return Component("math", 1.0, float(answer == "4"), {"extracted": answer}, **changes)


def failed() -> Component:
    return Component("math", 1.0, None, failure=Failure("math", "timeout", "killed after 5 s", 5.0))


def scored(name: str, components: Sequence[Component], tokens: int = 2) -> ScoredGroup:
    answers = tuple(response(str(c.parts.get("extracted")), tokens) for c in components)
    rewards = tuple(None if c.failure else c.value or 0.0 for c in components)
    return ScoredGroup(Group(problem(name), (1, 2), answers), tuple((c,) for c in components), rewards)


def answered(table: Mapping[str, Sequence[str | None]]) -> list[ScoredGroup]:
    return [scored(name, [component(answer) for answer in answers]) for name, answers in table.items()]


def estimate(evaluation: Evaluation, name: str) -> Estimate:
    result = evaluation.find(name)
    assert result is not None, name
    return result


class FakeSampler:
    """Answers from a table, groups in reverse order."""

    name = "fake"
    description = "fake"
    version = 0
    kept: tuple[PartialGroup, ...] = ()

    def __init__(self, answers: Mapping[str, Sequence[str]]) -> None:
        self.answers = answers

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams | ParamsByTask) -> Iterator[Group]:
        for prompt in reversed(prompts):
            answers = self.answers[prompt.problem.id][:n]
            responses = (replace(response(answer), routes=(3, 1)) for answer in answers)
            yield Group(prompt.problem, prompt.token_ids, tuple(responses))

    def sample_some(self, *arguments: object) -> Iterator[Group]:
        raise NotImplementedError

    def keep(self, groups: Sequence[PartialGroup]) -> None:
        raise NotImplementedError

    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        raise NotImplementedError

    def load(self, folder: Path, version: int) -> Receipt:
        raise NotImplementedError

    def change(self, folder: Path, version: int) -> Receipt:
        raise NotImplementedError

    def sleep(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> "FakeSampler":
        return self

    def __exit__(self, *exc: object) -> None: ...


class FakeScorer:
    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        for group in groups:
            components = tuple((component(r.text),) for r in group.responses)
            yield ScoredGroup(group, components, tuple(c[0].value for c in components))


def test_evaluate_overlaps_counts_progress_and_keeps_the_order_of_the_prompts() -> None:
    sampler = FakeSampler({"a": ["4", "4"], "b": ["5", "4"], "c": ["5", "6"]})
    seen: list[tuple[int, int]] = []
    evaluation, groups = evaluate(
        sampler,
        FakeScorer(),
        prompts("a", "b", "c"),
        PARAMS,
        2,
        Criterion("math"),
        lambda done, total: seen.append((done, total)),
    )
    assert [g.group.problem.id for g in groups] == ["a", "b", "c"]
    assert not any(response.routes for g in groups for response in g.group.responses)  # nobody learns from them
    assert seen == [(0, 6), (2, 6), (4, 6), (6, 6)]
    assert (evaluation.problems, evaluation.samples, evaluation.abstained) == (3, 2, 0)
    assert evaluation.accuracy is not None
    assert evaluation.accuracy.by_problem == {"a": 1.0, "b": 0.5, "c": 0.0}
    assert evaluation.accuracy.value == 0.5
    assert estimate(evaluation, "pass@2").value == pytest.approx(2 / 3)
    assert estimate(evaluation, "maj@2").value == pytest.approx((1 + 0.5 + 0) / 3)


def test_evaluate_refuses_what_is_not_complete() -> None:
    sampler = FakeSampler({"a": ["4"], "b": ["4", "4"]})
    with pytest.raises(SamplerError, match="2 responses to each of 2 problems and got 3 responses to 2"):
        evaluate(sampler, FakeScorer(), prompts("a", "b"), PARAMS, 2, Criterion("math"), lambda done, total: None)
    for bad in (prompts(), prompts("a", "a")):
        with pytest.raises(DataError, match="different ids"):
            evaluate(sampler, FakeScorer(), bad, PARAMS, 1, Criterion("math"), lambda done, total: None)


@pytest.mark.parametrize(("n", "c", "k"), [(n, c, k) for n in (1, 3, 5) for c in range(n + 1) for k in range(1, n + 1)])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_one(n: int, c: int, k: int) -> None:
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at(k, n, c) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_refuses_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="k=3, n=2"):
        pass_at(3, 2, 1)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["4", "4", "5"], 1.0),
        (["5", "5", "4"], 0.0),
        (["4", "5"], 0.5),
        (["4", "5", "6", None], 1 / 3),
        (["4", None, None, ""], 1.0),  # a missing answer does not vote
        ([None, None], 0.0),
        ([["4", "x"], ["4", "x"], "4"], 0.0),  # any JSON value can be an answer
    ],
)
def test_majority_ties_and_missing_answers(answers: list[Any], expected: float) -> None:
    assert majority(answers, [answer == "4" for answer in answers]) == pytest.approx(expected)


def test_wilson_is_scipys() -> None:
    from scipy import stats  # here: only the worker that runs these tests waits for it

    for successes, n in ((0, 1), (0, 48), (1, 48), (24, 48), (48, 48)):
        reference = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
        assert wilson(successes, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_the_bootstrap_is_scipys_within_its_noise_and_repeats_itself() -> None:
    from scipy import stats

    rng = random.Random(0)
    values = [rng.random() ** 3 for _ in range(60)]
    reference = stats.bootstrap(
        (values,), statistic=_mean, method="percentile", n_resamples=5000, random_state=0
    ).confidence_interval
    low, high = bootstrap(values)
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.01)
    assert bootstrap(values) == (low, high)


def test_the_bootstrap_in_parts_covers_a_large_evaluation() -> None:
    values = [float(i % 10 == 0) for i in range(3000)]
    low, high = bootstrap(values)
    assert (low, high) == pytest.approx(wilson(300, 3000), abs=2e-3)


def _mean(values: Any, axis: int) -> Any:
    return values.mean(axis=axis)


def test_which_interval_is_taken() -> None:
    assert mean_interval([0.0, 1.0, 1.0], share=True, samples=1) == (*wilson(2, 3), "wilson")
    assert mean_interval([0.0, 0.5, 1.0], share=True, samples=4)[2] == "bootstrap"
    # Nothing to resample: the bootstrap would say [0, 0].
    assert mean_interval([0.0] * 48, share=True, samples=4) == (*wilson(0, 48), "wilson")
    assert mean_interval([96.0], share=False, samples=4) == (None, None, "none")


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = random.Random(1)
    hits = 0
    for _ in range(200):
        values = [sum(rng.random() < 0.3 for _ in range(4)) / 4 for _ in range(40)]
        low, high, _ = mean_interval(values, share=True, samples=4)
        assert low is not None
        assert high is not None
        hits += low <= 0.3 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_abstained_responses_are_counted_and_left_out() -> None:
    groups = [scored("a", [component("4"), failed()]), scored("b", [failed(), failed()])]
    evaluation = summarise(groups, 2, Criterion("math"))
    assert evaluation.abstained == 3
    assert estimate(evaluation, "avg@2").by_problem == {"a": 1.0}
    assert estimate(evaluation, "reward/math").by_problem == {"a": 1.0}
    assert estimate(evaluation, "reward").by_problem == {"a": 1.0}
    assert evaluation.find("pass@2") is None  # no problem has two verdicts
    assert estimate(evaluation, "finished").by_problem == {"a": 1.0, "b": 1.0}


def test_a_failure_of_another_source_leaves_the_accuracy_alone() -> None:
    judge = Component("judge", 1.0, None, failure=Failure("judge", "error", "503", 0.1))
    group = ScoredGroup(Group(problem("a"), (1,), (response("4"),)), ((component("4"), judge),), (None,))
    evaluation = summarise([group], 1, Criterion("math"))
    assert evaluation.abstained == 1
    assert estimate(evaluation, "avg@1").value == 1.0
    assert evaluation.find("reward") is None
    assert evaluation.find("reward/judge") is None


def test_the_threshold_decides_what_is_correct() -> None:
    groups = [scored(name, [Component("math", 1.0, value)]) for name, value in {"a": 0.9, "b": 0.8, "c": 0.79}.items()]
    strict, lenient = (summarise(groups, 1, Criterion("math", least)) for least in (1.0, 0.8))
    assert estimate(strict, "avg@1").by_problem == {"a": 0.0, "b": 0.0, "c": 0.0}
    assert estimate(lenient, "avg@1").by_problem == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert pass_rates(groups, Criterion("math", 0.8)) == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert (lenient.correct, lenient.threshold) == ("math", 0.8)
    assert from_json(to_json(lenient), Evaluation) == lenient


def test_what_was_judged_by_other_thresholds_is_not_compared() -> None:
    groups = [scored("a", [Component("math", 1.0, 0.9, {"extracted": "4"})])]
    strict, lenient = (summarise(groups, 1, Criterion("math", least)) for least in (1.0, 0.8))
    assert [d.name for d in compare(strict, lenient)] == ["finished", "length", "reward", "reward/math"]
    assert "differs (by math >= 1 and by math >= 0.8)" in criteria_difference(strict, lenient)
    unknown = Evaluation(1, 1, 0, lenient.estimates)  # written before thresholds were
    assert next(d.name for d in compare(strict, unknown)) == "avg@1"


def test_accuracy_is_over_the_problems_to_which_the_deciding_source_applies() -> None:
    inapplicable = Component("math", 1.0, None)
    groups = [scored("a", [component("4")]), scored("b", [inapplicable]), scored("c", [component("5")])]
    evaluation = summarise(groups, 1, Criterion("math"))
    assert estimate(evaluation, "avg@1").by_problem == {"a": 1.0, "c": 0.0}
    assert estimate(evaluation, "parsable").by_problem == {"a": 1.0, "c": 1.0}
    assert estimate(evaluation, "length").by_problem.keys() == {"a", "b", "c"}
    assert (evaluation.problems, evaluation.judged, evaluation.abstained) == (3, 2, 0)
    assert pass_rates(groups, Criterion("math")) == {"a": 1.0, "c": 0.0}
    nothing = summarise([scored("b", [inapplicable])], 1, Criterion("math"))
    assert (nothing.accuracy, nothing.judged) == (None, 0)


def test_where_a_source_applies_to_a_problem_a_response_without_a_value_is_wrong() -> None:
    """Otherwise a policy that gives the verifier nothing to read would be the best one."""
    groups = [scored("a", [component("4"), Component("math", 1.0, None), failed()])]
    evaluation = summarise(groups, 3, Criterion("math"))
    assert estimate(evaluation, "avg@3").by_problem == {"a": 0.5}
    assert estimate(evaluation, "pass@2").by_problem == {"a": 1.0}
    unjudged = summarise([scored("a", [Component("math", 1.0, None), failed()])], 2, Criterion("math"))
    assert unjudged.accuracy is None  # a failure does not say that the source applies


@pytest.mark.parametrize(
    ("boxed", "polite", "math", "expected"),
    [
        (1.0, 1.0, 1.0, 1.0),
        (1.0, 1.0, 0.0, 0.0),
        (1.0, 1.0, None, None),  # it was called, and had nothing to say
        (1.0, 0.0, None, 0.0),  # it was not called: the response did not meet its condition
        (0.0, None, None, 0.0),  # nor was its condition
        (1.0, None, None, None),  # its condition does not apply
        (None, None, None, None),
        ("failed", None, None, None),
        (1.0, "failed", None, None),
    ],
)
def test_a_response_that_does_not_meet_the_condition_of_the_deciding_source_is_wrong(
    boxed: float | str | None, polite: float | str | None, math: float | str | None, expected: float | None
) -> None:
    values = {"boxed": boxed, "polite": polite, "math": math}
    failure = Failure("x", "error", "503", 0.1)
    parts = tuple(
        Component(name, 1.0, None, failure=failure) if value == "failed" else Component(name, 1.0, value)  # type: ignore[arg-type]
        for name, value in values.items()
    )
    group = ScoredGroup(Group(problem("a"), (1,), (response("4"),)), (parts,), (0.0,))
    rewards = [RewardConfig(source="boxed"), RewardConfig(source="polite", when="boxed")]
    rewards += [RewardConfig(source="math", when="polite")]
    config = Config.model_construct(rewards=rewards, evaluation=EvaluationConfig(correct="math"))
    criterion = Criterion.of(config)
    assert criterion.conditions == ("polite", "boxed")
    result = summarise([group], 1, criterion).accuracy
    assert (result.value if result else None) == expected


def test_figures_without_extracted_answers_and_with() -> None:
    without = summarise([scored("a", [Component("math", 1.0, 1.0)])], 1, Criterion("math"))
    assert without.find("parsable") is None
    assert [e.name for e in without.estimates] == ["avg@1", "finished", "length", "reward", "reward/math"]
    with_them = summarise(answered({"a": ["4", None, "5", "5"], "b": [None] * 4}), 4, Criterion("math"))
    assert estimate(with_them, "parsable").by_problem == {"a": 0.75, "b": 0.0}
    assert [e.name for e in with_them.estimates][:5] == ["avg@4", "pass@2", "pass@4", "maj@4", "finished"]


def test_length_and_finished() -> None:
    groups = [scored("a", [component("4")], tokens=2), scored("b", [component("4")], tokens=4)]
    evaluation = summarise(groups, 1, Criterion("math"))
    assert estimate(evaluation, "length").value == 3.0
    assert estimate(evaluation, "finished").value == 0.5


def test_the_comparison_is_paired_by_problem() -> None:
    names = [f"p{i}" for i in range(60)]
    before = summarise(answered({n: ["4" if i % 2 else "5"] for i, n in enumerate(names)}), 1, Criterion("math"))
    after = summarise(
        answered({n: ["4" if i % 2 or i < 20 else "5"] for i, n in enumerate(names)}), 1, Criterion("math")
    )
    (accuracy,) = [d for d in compare(before, after) if d.name == "avg@1"]
    assert accuracy.problems == 60
    assert accuracy.change == pytest.approx(10 / 60)
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert 0.0 < accuracy.low < 10 / 60 < accuracy.high < 0.3
    assert not accuracy.within_noise
    # Unpaired, the same two shares would be within noise: their own intervals overlap.
    one, two = estimate(before, "avg@1"), estimate(after, "avg@1")
    assert one.high is not None
    assert two.low is not None
    assert two.low < one.high


def test_no_change_is_within_noise_and_has_a_width() -> None:
    same = summarise(answered({f"p{i}": ["5"] for i in range(48)}), 1, Criterion("math"))
    accuracy = compare(same, same)[0]
    assert accuracy.within_noise
    assert accuracy.high == pytest.approx(wilson(0, 48)[1])
    single = summarise(answered({"a": ["4"]}), 1, Criterion("math"))
    length = next(d for d in compare(single, single) if d.name == "length")
    assert (length.low, length.interval, length.within_noise) == (None, "none", True)


def change(before: Sequence[str], after: Sequence[str]) -> Difference:
    """Of the accuracy, one response per problem."""
    one, two = ({f"p{i}": [answer] for i, answer in enumerate(answers)} for answers in (before, after))
    return compare(*(summarise(answered(each), 1, Criterion("math")) for each in (one, two)))[0]


def test_the_p_value_of_one_response_per_problem_is_mcnemars() -> None:
    # 9 problems became right, 2 wrong, 29 stayed: the exact test is the binomial one over the 11.
    result = change(["5"] * 9 + ["4"] * 2 + ["4"] * 20 + ["5"] * 9, ["4"] * 9 + ["5"] * 2 + ["4"] * 20 + ["5"] * 9)
    assert (result.rose, result.fell, result.problems) == (9, 2, 40)
    table = 2 * sum(math.comb(11, k) for k in range(3)) / 2**11
    assert result.p == pytest.approx(table)
    assert change(["4", "5"], ["4", "5"]).p == 1.0
    assert change(["5"], ["4"]).p == 1.0
    assert change(["4", "5"], ["5", "4"]).p == 1.0


def test_the_sign_flip_test_is_that_over_all_signs() -> None:
    changes = [0.25, 0.5, -0.25, 0.75, 0.5, 0.25, -0.5, 1.0, 0.25, 0.0]
    sums = [
        abs(sum(s * c for s, c in zip(signs, changes, strict=True))) for signs in itertools.product((1, -1), repeat=10)
    ]
    exact = sum(total >= abs(sum(changes)) - 1e-9 for total in sums) / len(sums)
    assert change_p(changes) == pytest.approx(exact, abs=0.01)
    assert change_p(changes) == change_p(changes)
    assert change_p([-c for c in changes]) == change_p(changes)


def test_only_shared_problems_are_compared() -> None:
    before = summarise(answered({"a": ["4"], "b": ["5"]}), 1, Criterion("math"))
    after = summarise(answered({"b": ["4"], "c": ["5"]}), 1, Criterion("math"))
    accuracy = compare(before, after)[0]
    assert (accuracy.before, accuracy.after, accuracy.problems) == (0.0, 1.0, 1)
    assert compare(before, summarise(answered({"z": ["4"]}), 1, Criterion("math"))) == ()


def test_an_evaluation_is_written_and_read_back() -> None:
    evaluation = summarise(answered({"a": ["4", "5"], "b": ["4", None]}), 2, Criterion("math"))
    assert from_json(to_json(evaluation), Evaluation) == evaluation
    assert all(math.isfinite(e.value) for e in evaluation.estimates)
