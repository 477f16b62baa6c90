"""The torch learner against plain transformers and plain autograd, for every way of cutting a batch."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from reasoner.config import LearningConfig
from reasoner.distributed.sharding import Selection
from reasoner.errors import RunError, UserError
from reasoner.gro.spec.presets import PRESETS
from reasoner.gro.spec.terms import Evidence, Term
from reasoner.gro.weights import Weights
from reasoner.learning.batching.packing import Sharing
from reasoner.learning.learner import StepResult, WeightFunction
from reasoner.learning.model import attention
from reasoner.learning.model.policy import Dtype, ModelOptions, Packing, TorchPolicy
from reasoner.learning.schedule import learning_rate
from reasoner.learning.torch_engine import TorchLearner
from reasoner.models.tensor_files import Digest, read_weights
from reasoner.models.weight_files import read_shapes
from reasoner.records import Batch, Group, ScoredGroup
from reasoner.training.update import ActiveTerm, update
from tests.ragged import make_group, make_response, ragged_groups
from tests.tiny import build_tiny_model

TEMPERATURE = 0.7
ECHO = replace(PRESETS["sft"].term, source="online", evidence=Evidence(tokens="observed"))
GROUPS = [
    *ragged_groups()[:2],
    make_group("alike", range(7), [[*range(60, 69), *end] for end in ([1, 2, 3], [1, 4], [])] + [[5]]),
]
"""three responses of the last begin alike"""
RESPONSES = [response for group in GROUPS for response in group.responses]
SHARING: list[Sharing] = ["auto", "always", "never"]


@pytest.fixture(scope="module", autouse=True)
def exact_norms() -> Iterator[None]:
    """transformers normalises in float32 whatever the dtype; in float64 that would hide what is compared here."""

    def forward(self: Any, hidden: Tensor) -> Tensor:
        scaled = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * scaled  # type: ignore[no-any-return]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaRMSNorm, "forward", forward)
        yield


@pytest.fixture(scope="module")
def shared_learner(tiny: Path) -> TorchLearner:
    """A float64 learner that never steps; each test sets its packing."""
    return make_learner(tiny)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


def make_learner(folder: Path, dtype: Dtype = "float64", total_steps: int = 10, **config: Any) -> TorchLearner:
    values = {"learning_rate": 1e-2, "token_budget": 60, "logit_chunk": 5, "max_grad_norm": None} | config
    return TorchLearner(folder, device="cpu", dtype=dtype, config=LearningConfig(**values), total_steps=total_steps)


def make_policy(folder: Path, dtype: Dtype = "float64", **options: Any) -> TorchPolicy:
    values: dict[str, Any] = {"token_budget": 60, "logit_chunk": 5} | options
    return TorchPolicy(folder, ModelOptions(device="cpu", dtype=dtype, **values))


def load_plain(folder: Path, attention: str | None = None) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation=attention).eval()


@cache
def plain_values(folder: Path, temperature: float) -> list[list[float]]:
    return [row.tolist() for row in plain_logprobs(load_plain(folder), GROUPS, temperature)]


def plain_logprobs(model: Any, groups: Sequence[Group], temperature: float) -> list[Tensor]:
    """(R)(T) with gradient: one plain forward pass per response."""
    found = []
    for group in groups:
        for response in group.responses:
            logits = model(torch.tensor([[*group.prompt_ids, *response.token_ids]])).logits[0]
            predicted = logits[len(group.prompt_ids) - 1 : -1] / temperature
            found.append(torch.log_softmax(predicted, -1).gather(1, torch.tensor(response.token_ids)[:, None])[:, 0])
    return found


def plain_entropies(model: Any, groups: Sequence[Group], temperature: float) -> list[Tensor]:
    """(R)(T) with gradient: one plain forward pass per response."""
    found = []
    for group in groups:
        for response in group.responses:
            logits = model(torch.tensor([[*group.prompt_ids, *response.token_ids]])).logits[0]
            found.append(Categorical(logits=logits[len(group.prompt_ids) - 1 : -1] / temperature).entropy())  # type: ignore[no-untyped-call]
    return found


def weight(response: int, token: int) -> float:
    """Some weight for every token; a few are 0."""
    return ((7 * response + 3 * token) % 5 - 2) / 10


def fixed_weights(offset: int = 0) -> WeightFunction:
    """`weight` of the responses; `offset` is the index of the first response that this call sees."""

    def weigh(rows: Sequence[int], logprobs_RT: Tensor, _: Tensor | None = None) -> Weights:
        values = [[weight(row + offset, token) for token in range(logprobs_RT.shape[1])] for row in rows]
        return Weights(torch.tensor(values, dtype=logprobs_RT.dtype))

    return weigh


def uniform(value: float) -> WeightFunction:
    """The same weight for every token."""
    return lambda _, logprobs_RT, __: Weights(torch.full_like(logprobs_RT, value))


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@cache
def plain_gradients(folder: Path) -> dict[str, Tensor]:
    model = load_plain(folder)
    logprobs = plain_logprobs(model, GROUPS, TEMPERATURE)
    plain_loss(logprobs).backward()  # type: ignore[no-untyped-call]
    return gradients(model)


def plain_loss(logprobs: Sequence[Tensor]) -> Tensor:
    return -torch.stack([weight(r, t) * value for r, row in enumerate(logprobs) for t, value in enumerate(row)]).sum()


def assert_same_gradient(got: dict[str, Tensor], expected: dict[str, Tensor], relative: float) -> None:
    assert got.keys() == expected.keys()
    difference = sum(float((got[name].double() - value).square().sum()) for name, value in expected.items())
    size = sum(float(value.square().sum()) for value in expected.values())
    assert math.sqrt(difference / size) < relative


def parameters(learner: TorchLearner) -> list[Tensor]:
    return [p.detach().clone() for p in learner.policy.model.parameters()]


# Log-probabilities


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("budget", [1, 60, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_equal_plain_forward_passes(
    tiny: Path, shared_learner: TorchLearner, sharing: Any, budget: int, temperature: float
) -> None:
    shared_learner.policy.packing = Packing(True, sharing, budget)
    got = shared_learner.logprobs(GROUPS, temperature)
    expected = plain_values(tiny, temperature)
    assert [len(row) for row in got] == [len(response.token_ids) for response in RESPONSES]
    assert got == [pytest.approx(row, rel=1e-10) for row in expected]


def test_float32_logprobs_equal_plain_forward_passes(tiny: Path) -> None:
    got = make_policy(tiny, "float32", share_prompts="always").logprobs(GROUPS, 1.0)
    assert got == [pytest.approx(row, abs=1e-4) for row in plain_values(tiny, 1.0)]


def test_responses_of_one_token_share_a_prompt(tiny: Path) -> None:
    groups = [make_group("one", range(9), [[5], [6], [7]])]
    got = make_policy(tiny, share_prompts="always").logprobs(groups, 1.0)
    expected = [row.tolist() for row in plain_logprobs(load_plain(tiny), groups, 1.0)]
    assert got == [pytest.approx(row, abs=1e-10) for row in expected]


def test_untied_models_have_their_own_head(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path, tied=False)
    got = make_policy(folder).logprobs(GROUPS, 1.0)
    assert got == [pytest.approx(row, abs=1e-10) for row in plain_values(folder, 1.0)]


# Gradients


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_gradient_does_not_depend_on_how_the_batch_is_cut(
    tiny: Path, shared_learner: TorchLearner, data: st.DataObject
) -> None:
    policy = shared_learner.policy
    policy.packing = Packing(True, data.draw(st.sampled_from(SHARING)), data.draw(st.integers(1, 300), label="budget"))
    policy._logit_chunk = data.draw(st.integers(1, 100), label="logit chunk")
    policy.model.zero_grad()
    cut = data.draw(st.integers(0, len(GROUPS)), label="accumulation split")
    calls = [(0, GROUPS[:cut]), (sum(len(group.responses) for group in GROUPS[:cut]), GROUPS[cut:])]
    for offset, groups in data.draw(st.permutations(calls), label="order"):
        shared_learner.accumulate(groups, fixed_weights(offset), TEMPERATURE)
    assert_same_gradient(gradients(policy.model), plain_gradients(tiny), 1e-9)


def bonus(response: int, token: int) -> float:
    """Some weight of the entropy of every token; a few are 0."""
    return ((5 * response + 2 * token) % 4 - 1) / 7


def weights_and_bonus(offset: int = 0) -> WeightFunction:
    def weigh(rows: Sequence[int], logprobs_RT: Tensor, _: Tensor | None = None) -> Weights:
        bonus_RT = [[bonus(row + offset, token) for token in range(logprobs_RT.shape[1])] for row in rows]
        plain = fixed_weights(offset)(rows, logprobs_RT, None)
        return Weights(plain.weights_RT, torch.tensor(bonus_RT, dtype=logprobs_RT.dtype))

    return weigh


@cache
def plain_gradients_with_bonus(folder: Path) -> tuple[dict[str, Tensor], float, float]:
    """The gradient, the loss and the sum of the entropies."""
    model = load_plain(folder)
    entropies = plain_entropies(model, GROUPS, TEMPERATURE)
    bonuses = torch.stack([bonus(r, t) * value for r, row in enumerate(entropies) for t, value in enumerate(row)])
    loss = plain_loss(plain_logprobs(model, GROUPS, TEMPERATURE)) - bonuses.sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return gradients(model), float(loss.detach()), float(sum(row.detach().sum() for row in entropies))


def draw_packing(data: st.DataObject) -> Packing:
    """Any sharing, any budget, padded sequences too."""
    flat = data.draw(st.booleans(), label="flat")
    return Packing(flat, data.draw(st.sampled_from(SHARING)), data.draw(st.integers(1, 300), label="budget"))


@contextmanager
def cut_by(policy: TorchPolicy, packing: Packing) -> Iterator[None]:
    """Another packing for a while; padded sequences need the model's own attention."""
    before, policy.packing = policy.packing, packing
    policy.model.set_attn_implementation(attention.IMPLEMENTATION if packing.flat else policy._plain_attention)
    try:
        yield
    finally:
        policy.packing = before
        policy.model.set_attn_implementation(attention.IMPLEMENTATION)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_nor_does_the_gradient_of_the_entropy(tiny: Path, shared_learner: TorchLearner, data: st.DataObject) -> None:
    policy = shared_learner.policy
    policy._logit_chunk = data.draw(st.integers(1, 100), label="logit chunk")
    policy.model.zero_grad()
    units = [10 * n + data.draw(st.integers(0, 3)) for n, group in enumerate(GROUPS) for _ in group.responses]
    cut = data.draw(st.integers(0, len(GROUPS)), label="accumulation split")
    first = sum(len(group.responses) for group in GROUPS[:cut])
    calls = [(0, GROUPS[:cut], units[:first]), (first, GROUPS[cut:], units[first:])]
    loss = entropy = 0.0
    with cut_by(policy, draw_packing(data)):
        for offset, groups, unit_ids in data.draw(st.permutations(calls), label="order"):
            done = shared_learner.accumulate(
                groups,
                weights_and_bonus(offset),
                TEMPERATURE,
                selection=Selection.of(groups, unit_ids=unit_ids),
                entropy=True,
            )
            loss, entropy = loss + done.loss, entropy + done.entropy
    expected, expected_loss, expected_entropy = plain_gradients_with_bonus(tiny)
    assert_same_gradient(gradients(policy.model), expected, 1e-9)
    assert loss == pytest.approx(expected_loss, rel=1e-9, abs=1e-9)
    assert entropy == pytest.approx(expected_entropy, rel=1e-9)


PAIRS = [(0, 3), (2, 1), (5, 6), (11, 8)]
"""(better, worse), neighbours or not, in every group; 4, 7, 9 and 10 are in no pair"""


def dpo_loss(better: Tensor, worse: Tensor) -> Tensor:
    return -torch.nn.functional.logsigmoid(0.3 * (better - worse))


def pair_weights(rows: Sequence[int], logprobs_RT: Tensor, _: Tensor | None = None) -> Weights:
    """- d loss / d l of pairs, both responses of which must be among `rows`."""
    place = {row: index for index, row in enumerate(rows)}
    leaf_RT = logprobs_RT.clone().requires_grad_()
    total_R = leaf_RT.sum(1)
    loss = leaf_RT.sum() * 0.0
    for better, worse in PAIRS:
        if better in place or worse in place:
            loss = loss + dpo_loss(total_R[place[better]], total_R[place[worse]])
    (grad_RT,) = torch.autograd.grad(loss, leaf_RT)
    return Weights(-grad_RT)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_pairs_are_weighed_together_however_the_batch_is_cut(
    tiny: Path, shared_learner: TorchLearner, data: st.DataObject
) -> None:
    policy = shared_learner.policy
    policy.model.zero_grad()
    unit = {row: 100 + number for number, pair in enumerate(PAIRS) for row in pair}
    unit_ids = [unit.get(row, row) for row in range(len(RESPONSES))]
    with cut_by(policy, draw_packing(data)):
        shared_learner.accumulate(GROUPS, pair_weights, TEMPERATURE, selection=Selection.of(GROUPS, unit_ids=unit_ids))
    assert_same_gradient(gradients(policy.model), plain_pair_gradients(tiny), 1e-9)


@cache
def plain_pair_gradients(folder: Path) -> dict[str, Tensor]:
    model = load_plain(folder)
    totals = [row.sum() for row in plain_logprobs(model, GROUPS, TEMPERATURE)]
    torch.stack([dpo_loss(totals[better], totals[worse]) for better, worse in PAIRS]).sum().backward()  # type: ignore[no-untyped-call]
    return gradients(model)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("sharing", "budget"), [("always", 30), ("never", 500)])
def test_the_float32_gradient_is_within_rounding(tiny: Path, sharing: str, budget: int, checkpointing: bool) -> None:
    learner = make_learner(
        tiny, "float32", share_prompts=sharing, token_budget=budget, gradient_checkpointing=checkpointing
    )
    done = learner.accumulate(GROUPS, fixed_weights(), TEMPERATURE)
    assert_same_gradient(gradients(learner.policy.model), plain_gradients(tiny), 1e-5)
    assert done.responses == len(RESPONSES)
    assert done.response_tokens == sum(len(response.token_ids) for response in RESPONSES)


STEM = [*range(100, 120)]
TREE = make_group(
    "tree",
    range(5),
    [
        *([*STEM, 1, 2], [*STEM, 1, 2], [*STEM]),  # two are the same, one ends where they go on
        *([*STEM[:12], *range(9), 3], [*STEM[:12], *range(9), 4, 5, 6], [*STEM[:12], 7]),  # a branch within a branch
        *([*STEM[:4], 8], [9], [*STEM[:10]]),  # too little in common; one token; within a piece
    ],
)


@pytest.mark.parametrize("sharing", ["auto", "always"])
@pytest.mark.parametrize("budget", [1, 40, 500])
@pytest.mark.parametrize(("dtype", "most"), [("float64", 1e-9), ("float32", 1e-5)])
def test_the_gradient_of_responses_that_begin_alike(
    tiny: Path, sharing: str, budget: int, dtype: Dtype, most: float
) -> None:
    """Also where they are tokens of an environment: those of a piece have the weights of each response that has it."""
    masks = [[at % 3 != 0 for at in range(len(response.token_ids))] for response in TREE.responses]
    responses = [make_response(row.token_ids, mask) for row, mask in zip(TREE.responses, masks, strict=True)]
    groups = [replace(TREE, responses=tuple(responses)), GROUPS[0]]

    def masked(row: int, token: int) -> float:
        return weight(row, token) if row >= len(masks) or masks[row][token] else 0.0

    def weigh(rows: Sequence[int], logprobs_RT: Tensor, _: Tensor | None = None) -> Weights:
        lengths = [len(response.token_ids) for group in groups for response in group.responses]
        values = [[masked(r, t) if t < lengths[r] else 0.0 for t in range(logprobs_RT.shape[1])] for r in rows]
        return Weights(torch.tensor(values, dtype=logprobs_RT.dtype))

    model = load_plain(tiny)
    logprobs = plain_logprobs(model, groups, TEMPERATURE)
    terms = [masked(r, t) * value for r, row in enumerate(logprobs) for t, value in enumerate(row)]
    (-torch.stack(terms).sum()).backward()  # type: ignore[no-untyped-call]
    learner = make_learner(tiny, dtype, share_prompts=sharing, token_budget=budget)
    done = learner.accumulate(groups, weigh, TEMPERATURE)
    assert_same_gradient(gradients(learner.policy.model), gradients(model), most)
    got = learner.logprobs(groups, TEMPERATURE)
    assert got == [pytest.approx(row.tolist(), abs=1e-10 if dtype == "float64" else 1e-4) for row in logprobs]
    apart = make_learner(tiny, dtype, share_prompts="never", token_budget=budget).accumulate(groups, weigh, TEMPERATURE)
    assert (done.tokens < apart.tokens) == (budget > 1)


def test_sharing_puts_fewer_tokens_through_the_model(tiny: Path) -> None:
    shared, single = (
        make_learner(tiny, share_prompts=sharing, token_budget=1000).accumulate(GROUPS, fixed_weights(), 1.0)
        for sharing in ("always", "never")
    )
    alike = 2 * 8  # of three responses that begin with the same nine tokens, of which one has no more
    assert single.tokens - shared.tokens == sum(3 * len(group.prompt_ids) for group in GROUPS) + alike
    assert (shared.sequences, single.sequences) == (3, 12)
    assert shared.loss == pytest.approx(single.loss, rel=1e-9)


def test_the_same_inputs_give_the_same_bits(tiny: Path) -> None:
    def train() -> list[Tensor]:
        learner = make_learner(tiny, "float32")
        for _ in range(2):
            learner.accumulate(GROUPS, fixed_weights(), 1.0)
            learner.step()
        return parameters(learner)

    assert all(a.equal(b) for a, b in zip(train(), train(), strict=True))


# Weights


def test_the_weight_function_gets_the_rows_it_is_asked_about(tiny: Path) -> None:
    learner = make_learner(tiny)
    expected = learner.logprobs(GROUPS, TEMPERATURE)
    seen: list[int] = []

    def weigh(rows: Sequence[int], logprobs_RT: Tensor, _: Tensor | None = None) -> Weights:
        assert not logprobs_RT.requires_grad
        for row, values in zip(rows, logprobs_RT.tolist(), strict=True):
            size = len(expected[row])
            assert values[:size] == pytest.approx(expected[row], abs=1e-12)
            assert values[size:] == [0.0] * (len(values) - size)
        seen.extend(rows)
        return Weights(torch.ones_like(logprobs_RT))

    done = learner.accumulate(GROUPS, weigh, TEMPERATURE)
    assert sorted(seen) == list(range(len(RESPONSES)))
    assert done.loss == pytest.approx(-sum(map(sum, expected)))


def test_the_weight_function_gets_the_entropies_where_they_are_computed(tiny: Path) -> None:
    learner = make_learner(tiny, token_budget=60)
    sums: list[float] = []

    def weigh(rows: Sequence[int], logprobs_RT: Tensor, entropies_RT: Tensor | None) -> Weights:
        assert entropies_RT is not None
        assert entropies_RT.shape == logprobs_RT.shape
        assert not entropies_RT.requires_grad
        sums.append(float(entropies_RT.sum()))
        return Weights(torch.zeros_like(logprobs_RT))

    done = learner.accumulate(GROUPS, weigh, TEMPERATURE, entropy=True)
    assert done.entropy > 0.0
    assert sum(sums) == pytest.approx(done.entropy)

    def without(rows: Sequence[int], logprobs_RT: Tensor, entropies_RT: Tensor | None) -> Weights:
        assert entropies_RT is None
        return Weights(torch.zeros_like(logprobs_RT))

    learner.accumulate(GROUPS, without, TEMPERATURE)


OBSERVED: list[list[list[int]]] = [
    [[], [3], [0, 2, 4], [1, 2]],
    [[], [], [], []],
    [[0, 1, 2], [5], [2, 3, 4, 6], []],
]
"""the tokens of each response that the environment wrote, where it is that long"""


def observing() -> list[ScoredGroup]:
    """The ragged groups with tokens of an environment in between; a response of the first has no reward, the responses
    of the second read nothing."""
    rewards: list[tuple[float | None, ...]] = [(1.0, 0.0, None, 0.5), (0.0, 1.0, 1.0, 0.0), (2.0, 0.0, 0.0, 1.0)]
    groups = []
    for group, observed, of_group in zip(GROUPS, OBSERVED, rewards, strict=True):
        responses = [
            make_response(response.token_ids, [at not in places for at in range(len(response.token_ids))])
            for response, places in zip(group.responses, observed, strict=True)
        ]
        groups.append(ScoredGroup(replace(group, responses=tuple(responses)), ((),) * len(responses), of_group))
    return groups


def likelihood_of_observations(folder: Path, groups: Sequence[ScoredGroup], weight: float) -> tuple[Any, int]:
    """- weight / Z sum of log p over the observed tokens of the responses that have a reward, and Z, their number."""
    model = load_plain(folder)
    logprobs = plain_logprobs(model, [scored.group for scored in groups], TEMPERATURE)
    rewards = [reward for scored in groups for reward in scored.rewards]
    responses = [response for scored in groups for response in scored.group.responses]
    observed = [
        value
        for row, response, reward in zip(logprobs, responses, rewards, strict=True)
        for value, written in zip(row, response.policy_mask, strict=True)
        if not written and reward is not None
    ]
    (-weight * torch.stack(observed).mean()).backward()  # type: ignore[no-untyped-call]
    return model, len(observed)


def update_with(learner: TorchLearner, groups: Sequence[ScoredGroup], terms: Mapping[str, tuple[Term, float]]) -> Any:
    active = [ActiveTerm(name, term, weight) for name, (term, weight) in terms.items()]
    return update({"online": Batch(tuple(groups), temperature=TEMPERATURE)}, active, learner, max_tokens=12)


@pytest.mark.parametrize("options", [{"share_prompts": "always", "token_budget": 30}, {"packing": "padded"}])
def test_a_term_on_observed_tokens_is_their_likelihood(tiny: Path, options: dict[str, Any]) -> None:
    """Beside a method's own term, with a weight of its own, whatever is packed with what."""
    groups, weight = observing(), 0.3
    grpo = PRESETS["grpo"].term
    before: dict[str, Tensor] = {}
    after: dict[str, Tensor] = {}
    both = {"grpo": (grpo, 1.0), "echo": (ECHO, weight)}
    for terms, found in (({"grpo": (grpo, 1.0)}, before), (both, after)):
        learner = make_learner(tiny, **options, max_grad_norm=None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(learner, "step", lambda: StepResult(True, "", 0.0, 0.0, 1))
            report = update_with(learner, groups, terms)
        found |= gradients(learner.policy.model)
    model, observed = likelihood_of_observations(tiny, groups, weight)
    difference = {name: value - before[name] for name, value in after.items()}
    assert_same_gradient(difference, gradients(model), 1e-9)
    assert report.terms["echo"][2] == observed
    assert report.metrics["term/echo/weight"] == weight
    weights = [token for row, mask in written(groups, report) for token, own in zip(row, mask, strict=True) if not own]
    assert sum(weights) == pytest.approx(weight)  # each counts 1 / Z


def written(groups: Sequence[ScoredGroup], report: Any) -> list[tuple[Sequence[float], Sequence[bool]]]:
    responses = [response for scored in groups for response in scored.group.responses]
    return [(row, response.policy_mask) for row, response in zip(report.weights, responses, strict=True)]


def test_without_an_observation_its_term_costs_nothing(tiny: Path) -> None:
    """Neither a forward, nor a number that is none."""
    (_, nothing_read, some_read) = observing()
    learner = make_learner(tiny)
    report = update_with(learner, [nothing_read], {"echo": (ECHO, 1.0)})
    assert not report.steps[0].applied
    assert report.metrics["update/responses_skipped"] == 4
    report = update_with(learner, [nothing_read, some_read], {"echo": (ECHO, 1.0)})
    reading = sum(not all(response.policy_mask) for response in some_read.group.responses)
    assert report.metrics["update/responses_skipped"] == 8 - reading
    assert all(math.isfinite(value) for value in report.metrics.values())


def test_weights_of_the_wrong_shape_are_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="weights of shape"):
        make_learner(tiny).accumulate(GROUPS, lambda _, logprobs, __: Weights(logprobs[:, :-1]), 1.0)


def test_entropy_weights_of_the_wrong_shape_are_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="weights of shape"):
        make_learner(tiny).accumulate(GROUPS, lambda _, l_RT, __: Weights(l_RT, l_RT[:-1]), 1.0, entropy=True)


def test_entropy_weights_need_entropies(tiny: Path) -> None:
    with pytest.raises(ValueError, match="pass entropy=True"):
        make_learner(tiny).accumulate(GROUPS, weights_and_bonus(), 1.0)


def test_an_entropy_that_is_only_reported_leaves_the_gradient_as_it_is(tiny: Path) -> None:
    learner, plain = make_learner(tiny, "float32"), make_learner(tiny, "float32")
    done = learner.accumulate(GROUPS, fixed_weights(), TEMPERATURE, entropy=True)
    without = plain.accumulate(GROUPS, fixed_weights(), TEMPERATURE)
    assert done == replace(without, entropy=done.entropy)
    assert without.entropy == 0.0
    assert done.entropy == pytest.approx(plain_gradients_with_bonus(tiny)[2], rel=1e-4)
    expected = gradients(plain.policy.model)
    assert all(value.equal(expected[name]) for name, value in gradients(learner.policy.model).items())


def test_entropy_weights_alone_are_learned_from(tiny: Path) -> None:
    learner = make_learner(tiny)

    def weigh(rows: Sequence[int], logprobs_RT: Tensor, _: Tensor | None = None) -> Weights:
        return Weights(torch.zeros_like(logprobs_RT), torch.ones_like(logprobs_RT))

    before = learner.accumulate(GROUPS, weigh, 1.0, entropy=True)
    assert before.loss == -before.entropy
    assert learner.step().applied
    assert learner.accumulate(GROUPS, weigh, 1.0, entropy=True).entropy > before.entropy


def test_the_entropy_is_of_the_tokens_that_the_policy_wrote(tiny: Path) -> None:
    (group, *_) = GROUPS
    mask = [index % 3 != 0 for index in range(6)]
    masked = replace(group, responses=(make_response([1, 2, 3, 4, 5, 6], mask),))
    learner, other = make_learner(tiny), make_learner(tiny)
    written_RT = torch.tensor([mask])

    def weigh(outside: float) -> WeightFunction:
        return lambda _, l_RT, __: Weights(torch.zeros_like(l_RT), torch.where(written_RT, 1.0, outside).to(l_RT))

    done = learner.accumulate([masked], weigh(torch.nan), 1.0, entropy=True)
    other.accumulate([masked], weigh(0.0), 1.0, entropy=True)
    (entropies,) = plain_entropies(load_plain(tiny), [masked], 1.0)
    assert done.entropy == pytest.approx(float(entropies.detach()[torch.tensor(mask)].sum()), rel=1e-9)
    assert_same_gradient(gradients(learner.policy.model), gradients(other.policy.model), 1e-12)


def test_only_zero_weights_move_nothing(tiny: Path) -> None:
    learner = make_learner(tiny)
    learner.accumulate(GROUPS, fixed_weights(), 1.0)
    assert learner.step().applied  # AdamW has momentum from here on
    before = parameters(learner)
    learner.accumulate(GROUPS, uniform(0.0), 1.0)
    learner.accumulate(GROUPS, lambda _, l_RT, __: Weights(0 * l_RT, 0 * l_RT), 1.0, entropy=True)
    result = learner.step()
    assert (result.applied, result.version, learner.version) == (False, 1, 1)
    assert "every weight was zero" in result.reason
    assert all(a.equal(b) for a, b in zip(before, parameters(learner), strict=True))


def test_nothing_of_a_micro_batch_lives_on_during_the_next(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every weight is zero no backward pass frees the graph; two of them at once would take twice the memory."""
    learner = make_learner(tiny)
    scores, earlier = learner.policy.scores, list[weakref.ref[Tensor]]()

    def watched(*arguments: Any) -> Any:
        assert [alive for alive in earlier if alive() is not None] == []
        outputs = scores(*arguments)
        earlier.append(weakref.ref(outputs[0]))
        return outputs

    monkeypatch.setattr(learner.policy, "scores", watched)
    learner.accumulate(GROUPS, uniform(0.0), 1.0)
    assert len(earlier) > 2


def test_no_groups_are_no_gradient(tiny: Path) -> None:
    learner = make_learner(tiny)
    done = learner.accumulate([], fixed_weights(), 1.0)
    assert (done.sequences, done.tokens, done.responses, done.loss) == (0, 0, 0, 0.0)
    assert not learner.step().applied


# Steps


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_dropped(tiny: Path, bad: float) -> None:
    learner = make_learner(tiny)
    before = parameters(learner)
    learner.accumulate(GROUPS, uniform(bad), 1.0)
    result = learner.step()
    assert (result.applied, result.version) == (False, 0)
    assert "not finite" in result.reason
    assert all(a.equal(b) for a, b in zip(before, parameters(learner), strict=True))
    learner.accumulate(GROUPS, fixed_weights(), 1.0)
    assert learner.step().applied
    assert learner.version == 1


def test_two_steps_equal_plain_adamw(tiny: Path) -> None:
    learner = make_learner(tiny, learning_rate=3e-3, betas=(0.8, 0.95), weight_decay=0.1, warmup_steps=2)
    model = load_plain(tiny)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.8, 0.95), weight_decay=0.1, fused=False)
    for rate in (1.5e-3, 3e-3):
        learner.accumulate(GROUPS, fixed_weights(), 1.0)
        assert learner.step().learning_rate == rate
        plain_loss(plain_logprobs(model, GROUPS, 1.0)).backward()  # type: ignore[no-untyped-call]
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    for mine, theirs in zip(parameters(learner), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.detach(), rtol=1e-7, atol=1e-7)


def test_clipping_scales_the_gradient_and_reports_its_norm(tiny: Path) -> None:
    free, clipped = make_learner(tiny), make_learner(tiny, max_grad_norm=0.5, betas=(0.0, 0.0))
    for learner in (free, clipped):
        learner.accumulate(GROUPS, fixed_weights(), 1.0)
    expected = math.sqrt(sum(float(value.square().sum()) for value in gradients(free.policy.model).values()))
    assert expected > 0.5
    assert clipped.step().grad_norm == pytest.approx(expected)
    # With beta1 = 0 the first moment is the gradient that the optimiser saw.
    moments = [state["exp_avg"] for state in clipped._optimizer._adamw.state.values()]
    assert math.sqrt(sum(float(value.square().sum()) for value in moments)) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
    ],
)
def test_warm_up_and_decay(decay: Any, expected: list[float]) -> None:
    rates = [learning_rate(step, 6, 2.0, 2, decay) for step in range(6)]
    assert rates == pytest.approx([2.0 * rate for rate in expected])


def test_the_decay_stays_at_zero_after_the_last_step() -> None:
    assert learning_rate(9, 6, 1.0, 0, "linear") == learning_rate(6, 6, 1.0, 6, "cosine") - 1.0 == 0.0


# Publishing and saving


@pytest.mark.parametrize("tied", [True, False])
def test_published_weights_are_named_in_full_and_change_with_a_step(tmp_path: Path, tied: bool) -> None:
    learner = make_learner(build_tiny_model(tmp_path / "model", tied=tied), "float32")
    (tmp_path / "weights").mkdir()
    before = learner.publish(tmp_path / "weights")
    learner.accumulate(GROUPS, fixed_weights(), 1.0)
    learner.step()
    after = learner.publish(tmp_path / "weights")
    digest = Digest()
    tensors = dict(read_weights(tmp_path / "weights", digest))
    assert before != after == digest.checksum
    trained = learner.policy.model.state_dict()
    assert tensors.keys() == read_shapes(tmp_path / "model").keys()
    assert ("lm_head.weight" in tensors) is not tied
    assert all(value.equal(trained[name]) for name, value in tensors.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_saved_model_loads_with_plain_transformers(tiny: Path, tmp_path: Path, dtype: Dtype) -> None:
    learner = make_learner(tiny, dtype)
    learner.accumulate(GROUPS, fixed_weights(), 1.0)
    assert learner.step().applied
    learner.save(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert saved.dtype == getattr(torch, dtype)
    trained = dict(learner.policy.model.named_parameters())
    for name, value in saved.named_parameters():
        assert value.equal(trained[name].to(saved.dtype))
    assert AutoTokenizer.from_pretrained(tmp_path).encode("one two") == AutoTokenizer.from_pretrained(tiny).encode(
        "one two"
    )
    assert saved.generation_config.eos_token_id == load_plain(tiny).generation_config.eos_token_id
    if dtype == "float32":
        expected = [row.tolist() for row in plain_logprobs(saved, GROUPS[:1], 1.0)]
        assert learner.logprobs(GROUPS[:1], 1.0) == [pytest.approx(row, abs=1e-4) for row in expected]


def test_bfloat16_trains_float32_parameters(tiny: Path) -> None:
    learner = make_learner(tiny, "bfloat16", learning_rate=1e-6)
    before = parameters(learner)
    learner.accumulate(GROUPS, fixed_weights(), 1.0)
    learner.step()
    # A step of 1e-6 would be lost in bfloat16 weights of this size.
    assert all(
        p.dtype == torch.float32 and not p.equal(old) for p, old in zip(parameters(learner), before, strict=True)
    )
    assert "bfloat16 over float32" in learner.description


# Models


def test_dropout_is_off(tiny: Path, tmp_path: Path) -> None:
    folder = _copy_with(tiny, tmp_path, attention_dropout=0.5)
    learner = make_learner(folder, gradient_checkpointing=True)
    assert learner.logprobs(GROUPS, 1.0) == [pytest.approx(row, abs=1e-10) for row in plain_values(tiny, 1.0)]
    learner.save(tmp_path / "saved")
    assert AutoConfig.from_pretrained(tmp_path / "saved").attention_dropout == 0.5


def _copy_with(folder: Path, target: Path, **settings: Any) -> Path:
    model = load_plain(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    for name, value in settings.items():
        setattr(model.config, name, value)
    model.save_pretrained(target)
    return target


def _random_model(kind: str, **sizes: Any) -> Any:
    common = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": None}
    attention = {"intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    torch.manual_seed(0)
    options = common | sizes if kind == "mamba" else common | attention | {"initializer_range": 0.3} | sizes
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options))


@pytest.mark.parametrize(
    ("kind", "sizes", "packing"),
    [
        ("qwen2", {}, "packed sequences"),
        ("qwen3", {}, "packed sequences"),
        ("cohere", {"logit_scale": 0.25}, "packed sequences"),
        ("granite", {"logits_scaling": 4.0}, "packed sequences"),
        ("gemma2", {"sliding_window": 4, "final_logit_softcapping": 2.0}, "full_attention, sliding_attention"),
        ("mistral", {"sliding_window": 4}, "sliding-window attention"),
        ("mamba", {"state_size": 4}, "recurrent layers"),
    ],
)
def test_other_models_equal_their_own_forward_pass(
    tmp_path: Path, kind: str, sizes: dict[str, Any], packing: str
) -> None:
    _random_model(kind, **sizes).save_pretrained(tmp_path)
    policy = make_policy(tmp_path)
    assert packing in policy.description
    expected = plain_logprobs(load_plain(tmp_path, "eager" if kind == "gemma2" else None), GROUPS, TEMPERATURE)
    got = policy.logprobs(GROUPS, TEMPERATURE)
    assert got == [pytest.approx(row.tolist(), abs=1e-5) for row in expected]


def test_sharing_is_refused_where_it_would_be_wrong(tmp_path: Path) -> None:
    _random_model("mistral", sliding_window=4).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match="share_prompts = 'always' is impossible for MistralForCausalLM: sliding-window"
    ):
        make_policy(tmp_path, share_prompts="always")


def _ignore_rows(shape: Any, parts: Sequence[Tensor], scaling: float | None) -> Tensor:
    """What a model does that takes no notice of the rows: one causal sequence."""
    query, key, value = (part.unsqueeze(0) for part in parts)
    return attention._attend(query, key, value, scaling, None)[0]


def _scaled_head(policy: TorchPolicy, _: pytest.MonkeyPatch) -> None:
    policy.head.scale = 2.0


def _blind_attention(_: TorchPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_sequence", _ignore_rows)


@pytest.mark.parametrize("damage", [_scaled_head, _blind_attention])
def test_the_first_batch_finds_a_forward_pass_that_is_wrong(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[TorchPolicy, pytest.MonkeyPatch], None]
) -> None:
    learner = make_learner(tiny, "float32")
    damage(learner.policy, monkeypatch)
    with pytest.raises(RunError, match="differ from those of single sequences"):
        learner.accumulate(GROUPS, fixed_weights(), 1.0)
