"""Routing replay: the experts of the sampler in the learner's forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from reasoner.config import LearningConfig
from reasoner.distributed.ranks import Ranks
from reasoner.distributed.remote_tokens import whole_groups
from reasoner.distributed.sharding import Selection, ShardedPolicy
from reasoner.errors import RunError, SamplerError, UserError
from reasoner.gro.weights import Weights
from reasoner.io.parquet import read_parquet, write_parquet
from reasoner.io.token_array import TokenArray
from reasoner.learning.batching.inputs import flat_inputs
from reasoner.learning.batching.packing import MicroBatch, PackedSequence
from reasoner.learning.batching.routes import UNKNOWN, flat_routes, padded_routes
from reasoner.learning.learner import Accumulated
from reasoner.learning.model.replay import RoutingReplay
from reasoner.learning.torch_engine import TorchLearner
from reasoner.models.model_config import routers_of
from reasoner.records import (
    UNKNOWN_EXPERT,
    Group,
    PartialGroup,
    PartialResponse,
    Problem,
    Prompt,
    Response,
    SamplingParams,
    ScoredGroup,
)
from reasoner.runs.rollouts import to_rollouts
from reasoner.sampling.base import Completion, TokenRequest
from reasoner.sampling.routes import RouteRecorder
from reasoner.sampling.transformers import HfSampler
from reasoner.training.update import mismatch
from reasoner.training.weight_sync import check_gap
from reasoner.trajectories.draw import GroupInProgress
from reasoner.trajectories.sampler import TrajectorySampler
from reasoner.trajectories.trajectory import GroupPrompt
from reasoner.trajectories.transcript import Transcript, TurnDecoder
from tests.architectures import BY_NAME, build, random_model
from tests.ragged import made_up_routes, ragged_groups, with_routes
from tests.unit.test_remote_tokens import sampled
from tests.unit.test_sharded_sampler import on_ranks

LAYERS, CHOICES, EXPERTS = 2, 2, 4
WIDTH = LAYERS * CHOICES
GROUPS = [*ragged_groups(prompts=(3, 17, 5), responses=3), *ragged_groups(prompts=(2,), responses=1, longest=1, seed=1)]
FAMILIES = ["mixtral", "qwen3_moe"]
LAYOUTS: dict[str, dict[str, Any]] = {
    "one micro-batch": {"token_budget": 4096},
    "many": {"token_budget": 24, "share_prompts": "never"},
    "shared and recomputed": {"token_budget": 40, "share_prompts": "always", "gradient_checkpointing": True},
    "padded": {"token_budget": 60, "packing": "padded"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: build(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


def learner(model: Path, *, replays: bool = True, **settings: Any) -> TorchLearner:
    config = LearningConfig.model_validate({"routing_replay": replays, **settings})
    return TorchLearner(model, device="cpu", dtype="float32", config=config, total_steps=1)


def ones(rows: Sequence[int], logprobs_RT: Tensor, _: Tensor | None = None) -> Weights:
    """Other weights for every response and token."""
    return Weights(torch.linspace(0.5, 1.5, logprobs_RT.numel()).view_as(logprobs_RT) * (1 + len(rows) % 2))


def by_row(rows: Sequence[int], logprobs_RT: Tensor, _: Tensor | None = None) -> Weights:
    """Weights that do not depend on how a batch is cut."""
    columns_T = torch.linspace(1.0, 2.0, 16)[: logprobs_RT.shape[1]]
    return Weights((1.0 + torch.tensor([*rows])[:, None] / 10) * columns_T)


def results(learner: TorchLearner, groups: Sequence[Group]) -> tuple[Accumulated, list[Any], dict[str, Tensor]]:
    """What was accumulated, the log-probabilities, and the gradient."""
    logprobs = [list(row) for row in learner.logprobs(groups, 1.0)]
    done = learner.accumulate(groups, by_row, 1.0)
    named = learner.policy.model.named_parameters()
    return done, logprobs, {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}


@contextmanager
def noted_choices(model: Any) -> Any:
    """The experts that every router chooses in the meantime, in the order of its calls."""
    chosen: list[Tensor] = []
    hooks = [
        router.module.register_forward_hook(lambda _m, _i, output, router=router: chosen.append(router.choices(output)))
        for router in routers_of(model)
    ]
    try:
        yield chosen
    finally:
        for hook in hooks:
            hook.remove()


def live_routes(model: Any, ids: Sequence[int]) -> TokenArray[int]:
    """(tokens * WIDTH,) the experts that a plain forward pass chooses."""
    with noted_choices(model) as chosen, torch.no_grad():
        model(input_ids=torch.tensor([[*ids]]), use_cache=False)
    return TokenArray(torch.stack(chosen, 1).reshape(-1).numpy().astype(np.uint16), "uint16")


def with_live_routes(groups: Sequence[Group], model: Any) -> list[Group]:
    return with_routes(groups, lambda ids: live_routes(model, ids))


def other_routes(response: Response, change: Callable[[Any], Any]) -> Response:
    """The response with what the function makes of its experts, (tokens, LAYERS, CHOICES)."""
    routes = change(np.array(response.routes, np.uint16).reshape(-1, LAYERS, CHOICES))
    return replace(response, routes=routes.astype(np.uint16).ravel())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_experts_that_would_be_chosen_anyway_change_no_bit(models: dict[str, Path], name: str, layout: str) -> None:
    plain = learner(models[name], replays=False, **LAYOUTS[layout])
    with plain.policy.own_attention():
        groups = with_live_routes(GROUPS, plain.policy.model)
    first, *others = groups
    reversed_ = [other_routes(response, lambda routes: routes[:, :, ::-1]) for response in first.responses]
    groups = [replace(first, responses=tuple(reversed_)), *others]  # the order says nothing
    _, expected, gradient = results(plain, GROUPS)
    done, logprobs, replayed = results(learner(models[name], **LAYOUTS[layout]), groups)
    assert logprobs == expected
    assert all(torch.equal(replayed[key], value) for key, value in gradient.items())
    assert any(float(value.abs().max()) > 1e-4 for key, value in gradient.items() if key.endswith("gate.weight"))
    assert (done.rerouted, done.replayed) == (0.0, sum(len(r.token_ids) for group in GROUPS for r in group.responses))


def reference(model: Any, groups: Sequence[Group]) -> tuple[list[list[float]], dict[str, Tensor], float]:
    """Response by response, with experts written out: the log-probabilities, the gradient of their weighted sum, and
    the share of layers in which routers would have chosen others, summed over the tokens."""
    given: list[Tensor] = []
    blocks = [layer.mlp for layer in model.model.layers]
    differing: list[Tensor] = []

    def block_of(number: int, block: Any) -> Any:
        experts, gate = block.experts, block.gate

        def forward(hidden_BLH: Tensor) -> Tensor:
            hidden_LH = hidden_BLH.flatten(0, 1)
            chosen_LK = given[number]
            probabilities_LE = torch.softmax(hidden_LH @ gate.weight.T, -1)
            differing.append(
                torch.tensor(
                    [
                        set(row.topk(CHOICES).indices.tolist()) != set(chosen.tolist())
                        for row, chosen in zip(probabilities_LE, chosen_LK, strict=True)
                    ]
                )
            )
            rows = []
            for hidden_H, probabilities_E, chosen_K in zip(hidden_LH, probabilities_LE, chosen_LK, strict=True):
                weights_K = probabilities_E[chosen_K]
                if getattr(gate, "norm_topk_prob", True):
                    weights_K = weights_K / weights_K.sum()
                outputs = []
                for expert in chosen_K.tolist():
                    gated, up = (experts.gate_up_proj[expert] @ hidden_H).chunk(2)
                    outputs.append(experts.down_proj[expert] @ (experts.act_fn(gated) * up))
                rows.append(weights_K @ torch.stack(outputs))
            return torch.stack(rows).view_as(hidden_BLH)

        return forward

    for number, block in enumerate(blocks):
        block.forward = block_of(number, block)
    logprobs, total, rerouted, row = [], torch.zeros(()), 0.0, 0
    for group in groups:
        for response in group.responses:
            ids = [*group.prompt_ids, *response.token_ids]
            given[:] = torch.from_numpy(np.array(response.routes, np.int64)).view(-1, LAYERS, CHOICES).unbind(1)
            differing.clear()
            logits = model(input_ids=torch.tensor([ids[:-1]]), use_cache=False).logits[0]
            of_tokens = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[len(group.prompt_ids) - 1 :, 0]
            logprobs.append(of_tokens.tolist())
            total = total - (by_row([row], of_tokens[None]).weights_RT[0] * of_tokens).sum()
            rerouted += float(torch.stack(differing).float().mean(0)[len(group.prompt_ids) - 1 :].sum())
            row += 1
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(total, list(named.values()), materialize_grads=True)
    return logprobs, dict(zip(named, gradients, strict=True)), rerouted


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_given_experts_equal_a_forward_pass_that_is_written_out(
    models: dict[str, Path], name: str, layout: str
) -> None:
    groups = with_routes(GROUPS, made_up_routes)
    plain = learner(models[name], replays=False)
    with plain.policy.own_attention():
        expected, gradient, rerouted = reference(plain.policy.model, groups)
    done, logprobs, replayed = results(learner(models[name], **LAYOUTS[layout]), groups)
    for row, wanted in zip(logprobs, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-5)
    largest = max(float(value.abs().max()) for value in gradient.values())
    for key, value in gradient.items():
        torch.testing.assert_close(replayed[key], value, rtol=1e-3, atol=1e-5 * largest)
    assert any(float(value.abs().max()) > 1e-3 for key, value in gradient.items() if key.endswith("gate.weight"))
    assert done.rerouted == pytest.approx(rerouted)
    assert done.rerouted > done.replayed / 3
    live = learner(models[name], replays=False).logprobs(groups, 1.0)
    assert max(abs(a - b) for x, y in zip(live, expected, strict=True) for a, b in zip(x, y, strict=True)) > 0.01


def test_tokens_without_experts_are_routed_by_the_model(models: dict[str, Path]) -> None:
    """A response that says none, and one whose last tokens came from its environment."""
    replaying = learner(models["mixtral"], share_prompts="never")
    [group] = ragged_groups(prompts=(4,), responses=3, longest=9, seed=3)
    with replaying.policy.own_attention():
        [live] = with_live_routes([group], replaying.policy.model)
    [routed] = with_routes([group], made_up_routes)
    read, tokens = 5, len(group.prompt_ids) + len(group.responses[1].token_ids) - 1
    unread = [UNKNOWN_EXPERT] * (WIDTH * (tokens - read))
    cut = replace(live.responses[1], routes=[*live.responses[1].routes[: read * WIDTH], *unread])
    mixed = replace(group, responses=(routed.responses[0], cut, group.responses[2]))
    of_model, of_mixed = replaying.logprobs([group], 1.0), replaying.logprobs([mixed], 1.0)
    assert list(of_mixed[0]) != pytest.approx(list(of_model[0]), abs=1e-3)
    for row in (1, 2):
        assert list(of_mixed[row]) == pytest.approx(list(of_model[row]), abs=1e-5)
    done = replaying.accumulate([mixed], ones, 1.0)
    assert 0 < done.replayed < sum(len(response.token_ids) for response in group.responses)
    assert replaying.accumulate([group], ones, 1.0).replayed == 0


def test_what_environments_wrote_is_replayed_and_not_counted(models: dict[str, Path]) -> None:
    replaying = learner(models["qwen3_moe"])
    [group] = with_routes(ragged_groups(prompts=(4,), responses=1, longest=9, seed=4), made_up_routes)
    [response] = group.responses
    masked = replace(response, policy_mask=[at % 2 == 0 for at in range(len(response.token_ids))])
    done = replaying.accumulate([replace(group, responses=(masked,))], ones, 1.0)
    assert done.replayed == sum(masked.policy_mask) < len(response.token_ids)


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_experts_of_another_model_are_refused(models: dict[str, Path], packing: str) -> None:
    """More or fewer of a token, as if of other layers, and those that a layer does not have."""
    [group] = with_routes(ragged_groups(prompts=(4,), responses=1, longest=9, seed=4), made_up_routes)
    [response] = group.responses
    tokens = len(group.prompt_ids) + len(response.token_ids) - 1
    replaying = learner(models["mixtral"], packing=packing)
    for numbers in (WIDTH + 1, tokens * WIDTH * 2, tokens * WIDTH // 2, (tokens - 1) * WIDTH):
        wrong = replace(group, responses=(replace(response, routes=(1,) * numbers),))
        with pytest.raises(
            RunError, match=rf"chose {numbers} experts for {tokens} tokens, .* 4 for each token: they have different"
        ):
            replaying.logprobs([wrong], 1.0)
    for expert in (EXPERTS, 102, 40000, UNKNOWN_EXPERT - 1):
        routes = [*response.routes]
        routes[-1] = expert
        wrong = replace(group, responses=(replace(response, routes=routes),))
        with pytest.raises(RunError, match=rf"chose expert {expert}, .* has 4 experts: they have different models"):
            replaying.logprobs([wrong], 1.0)


def complete_group(group: Group) -> Group:
    """As the sampler gives it when its responses are complete."""
    prompt = GroupPrompt(Prompt(group.problem, tuple(group.prompt_ids)), 0)
    responses = dict(enumerate(group.responses))
    return GroupInProgress(cast(Any, None), None, prompt, len(responses), responses).group


def test_responses_of_a_group_get_the_experts_of_one_prompt(models: dict[str, Path]) -> None:
    """However often the sampler read it: neither the cut of a batch nor the rows of an update make a difference."""
    [group] = with_routes(ragged_groups(prompts=(6,), responses=4, longest=9, seed=3), made_up_routes)
    prompt = len(group.prompt_ids)

    def reread(response: Response, times: int) -> Response:
        """The prompt was read with other experts."""
        shifts = np.where(np.arange(len(response.routes) // WIDTH) < prompt, times, 0)[:, None, None]
        return other_routes(response, lambda routes: (routes + shifts) % EXPERTS)

    different = [reread(response, times) for times, response in enumerate(group.responses)]
    complete = complete_group(replace(group, responses=(different[0].without_routes(), *different[1:])))
    for before, after in zip(different[1:], complete.responses[1:], strict=True):
        assert after.routes[: prompt * WIDTH] == different[1].routes[: prompt * WIDTH]
        assert after.routes[prompt * WIDTH :] == before.routes[prompt * WIDTH :]
    old, gradients = [], []
    for layout in (*LAYOUTS.values(), {"token_budget": prompt + 8, "share_prompts": "always"}):
        replaying = learner(models["qwen3_moe"], **layout)
        _, logprobs, gradient = results(replaying, [complete])
        old.append([value for row in logprobs for value in row])
        gradients.append(torch.cat([value.flatten() for value in gradient.values()]))
    for values, gradient_N in zip(old, gradients, strict=True):
        assert values == pytest.approx(old[0], abs=1e-5)
        assert float((gradient_N - gradients[0]).norm() / gradients[0].norm()) < 1e-4
    new: dict[int, list[float]] = {}

    def weights(rows: Sequence[int], logprobs_RT: Tensor, _: Tensor | None = None) -> Weights:
        new.update(zip(rows, logprobs_RT.tolist(), strict=True))
        return Weights(torch.ones_like(logprobs_RT))

    replaying = learner(models["qwen3_moe"], share_prompts="always")
    whole = replaying.logprobs([complete], 1.0)
    replaying.accumulate([complete], weights, 1.0, selection=Selection.of([complete], [2, 3]))
    for row in (2, 3):
        assert new[row][: len(whole[row])] == pytest.approx(list(whole[row]), abs=1e-5)


def test_two_ranks_replay_as_one_does(models: dict[str, Path]) -> None:
    """The check of the gap, whose groups are on all ranks, and the shares of an update, whose are not."""
    groups = with_routes(GROUPS[:3], made_up_routes)
    everything = [ScoredGroup(g, ((),) * len(g.responses), (1.0,) * len(g.responses)) for g in groups]
    expected = [list(row) for row in learner(models["mixtral"]).logprobs(groups, 1.0)]
    lock = Lock()  # ranks are threads, and share torch

    class OneAtATime:
        def __init__(self) -> None:
            with lock:
                self.learner = learner(models["mixtral"])

        def logprobs(self, groups: Sequence[Group], temperature: float) -> Any:
            with lock:
                return self.learner.logprobs(groups, temperature)

    def rank(here: Ranks) -> list[list[list[float]]]:
        policy = ShardedPolicy(OneAtATime(), here)
        own = [scored.group for scored in sampled(here, everything)]
        return [[list(row) for row in policy.logprobs(some, 1.0)] for some in (whole_groups(own, here), own)]

    for passes in on_ranks(2, rank):
        for logprobs in passes:
            for row, wanted in zip(logprobs, expected, strict=True):
                assert row == pytest.approx(wanted, abs=1e-5)


EXPERT_MODELS = [name for name, architecture in BY_NAME.items() if "experts" in architecture.kinds]
REFUSED = {
    "phimoe": "PhimoeTopKRouter does not take the best of its scores",
    "llama4": "Llama4Router does not take the best of its scores",
    "jamba": "transformers names no routers of it",
}


@pytest.mark.parametrize("name", EXPERT_MODELS)
def test_every_family_is_replayed_or_refused_by_name(name: str) -> None:
    model = random_model(BY_NAME[name]).eval()
    ids = torch.tensor([[5, 7, 11, 200, 3]])

    def forward() -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(input_ids=ids).logits
        return logits

    if name in REFUSED:
        with pytest.raises(UserError, match=f"routing_replay is impossible for .*{REFUSED[name]}.* Set it to false"):
            RoutingReplay(model, forward)
        return
    with noted_choices(model) as live:
        expected = forward()
    replay = RoutingReplay(model, forward)
    layers = [router.layer for router in routers_of(model)]
    routes = torch.full((5, replay.layers, replay.choices), UNKNOWN, dtype=torch.int16)
    routes[:, layers] = torch.stack(live, 1).to(torch.int16)
    replay.begin(routes.flatten(1))
    assert torch.equal(forward(), expected)
    assert replay.end() is not None
    given = torch.stack([(torch.stack(live, 1) + 1) % EXPERTS], 1)[:, 0]
    routes[:, layers] = given.to(torch.int16)
    replay.begin(routes.flatten(1))
    with noted_choices(model) as chosen:
        assert not torch.allclose(forward(), expected, atol=1e-4)
    assert torch.equal(torch.stack(chosen, 1).sort().values, given.sort().values)
    rerouted = replay.end()
    assert rerouted is not None
    assert float(rerouted.max()) > 0


def test_a_router_whose_layer_is_not_known_is_refused_for_that() -> None:
    model = random_model(BY_NAME["mixtral"])
    model.model.blocks = model.model.layers
    del model.model.layers
    why = "the name of a router does not say of which layer it is. Set it to false"
    with pytest.raises(UserError, match=f"impossible for MixtralForCausalLM: {why}"):
        RoutingReplay(model, lambda: None)
    with pytest.raises(SamplerError, match=f"impossible for MixtralForCausalLM: {why}"):
        RouteRecorder(model)


def test_slices_of_a_row_have_the_experts_of_their_tokens() -> None:
    sequence = PackedSequence((1, 2), ((7, 8, 9), (5, 6)), (0, 1), ((3, 0, 1, 2), ()))
    batch = MicroBatch((sequence,))
    experts = np.array([4], np.uint16)
    routes = flat_routes(batch, experts)
    assert routes is not None
    assert routes.ravel().tolist() == [3, 0, 1, 2, UNKNOWN]
    inputs = replace(flat_inputs(batch, torch.device("cpu")), routes_LW=torch.from_numpy(routes))
    slices = [inputs.cut(index, 2).routes_LW for index in range(2)]
    assert [part.ravel().tolist() for part in slices if part is not None] == [[3, 0, 1], [2, UNKNOWN, UNKNOWN]]
    single = MicroBatch(
        (PackedSequence((1,), ((7, 8, 9),), (0,), ((3, 1, 2),)), PackedSequence((1,), ((5,),), (1,), ((0,),)))
    )
    padded = padded_routes(single, experts)
    assert padded is not None
    assert padded.ravel().tolist() == [3, 1, 2, 0, UNKNOWN, UNKNOWN]
    assert flat_routes(MicroBatch((replace(sequence, routes=((), ())),)), experts) is None


@pytest.mark.parametrize("name", FAMILIES)
def test_implementations_of_experts_give_the_same_numbers(models: dict[str, Path], name: str) -> None:
    _, expected, gradient = results(learner(models[name], experts="eager"), GROUPS)
    largest = max(float(value.abs().max()) for value in gradient.values())
    for experts in ("grouped_mm", "batched_mm"):
        chosen = learner(models[name], experts=experts)
        assert chosen.policy.model.config._experts_implementation == experts
        _, logprobs, other = results(chosen, GROUPS)
        for row, wanted in zip(logprobs, expected, strict=True):
            assert row == pytest.approx(wanted, abs=1e-5)
        for key, value in gradient.items():
            torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-5 * largest)
    assert learner(models[name]).policy.model.config._experts_implementation == "grouped_mm"


def test_an_implementation_that_a_model_does_not_have_is_refused(tmp_path: Path) -> None:
    model = build("llama4", tmp_path)
    with pytest.raises(UserError, match=r"learning.experts = 'grouped_mm' is impossible for Llama4ForCausalLM, whose"):
        learner(model, replays=False, experts="grouped_mm")


def test_experts_of_a_model_that_has_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"experts = 'batched_mm' is impossible for LlamaForCausalLM, which has no exp"):
        learner(build("llama", tmp_path), replays=False, experts="batched_mm")


# the sampler


def hf(folder: Path) -> HfSampler:
    return HfSampler(folder, "float32", "cpu", 64, 8, False, returns_routes=True)


def prompts_of(*lengths: int) -> list[Prompt]:
    return [Prompt(Problem(f"p{length}", (), ""), tuple(range(10, 10 + length))) for length in lengths]


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_says_the_experts_that_it_chose(models: dict[str, Path], name: str) -> None:
    replaying = learner(models[name])
    with hf(models[name]) as sampler:
        groups = list(TrajectorySampler(sampler).sample(prompts_of(3, 9), 3, SamplingParams(1.0, 6, seed=1)))
    for group in groups:
        for response in group.responses:
            with replaying.policy.own_attention():
                expected = live_routes(replaying.policy.model, [*group.prompt_ids, *response.token_ids][:-1])
            assert np.array_equal(
                np.sort(np.array(response.routes).reshape(-1, CHOICES)),
                np.sort(np.array(expected).reshape(-1, CHOICES)),
            )
    sampled = [row.sampler_logprobs for group in groups for row in group.responses]
    for row, wanted in zip(replaying.logprobs(groups, 1.0), sampled, strict=True):
        assert list(row) == pytest.approx(list(wanted), abs=1e-4)


def test_replay_takes_the_gap_of_other_experts_away(models: dict[str, Path]) -> None:
    """A sampler in bfloat16 chooses other experts for some tokens than a learner in float32."""
    model = models["qwen3_moe"]
    with HfSampler(model, "bfloat16", "cpu", 64, 64, False, returns_routes=True) as sampler:
        groups = list(TrajectorySampler(sampler).sample(prompts_of(9), 64, SamplingParams(1.0, 24, seed=1)))
    replaying = learner(model)
    live, replayed = (
        check_gap(replaying, some, 1.0) for some in ([group.without_routes() for group in groups], groups)
    )
    done = replaying.accumulate(groups, ones, 1.0)
    assert 0.0 < done.rerouted / done.replayed < 0.1
    assert replayed.mean < 0.9 * live.mean  # the rest is the number format
    assert replayed.max < live.max / 5
    assert replayed.k3 < live.k3 / 3


def test_new_weights_leave_the_experts_of_tokens_that_were_sampled(models: dict[str, Path], tmp_path: Path) -> None:
    """What is read again with new weights was sampled with the experts of the old ones."""
    other = random_model(BY_NAME["mixtral"], seed=5)
    params = SamplingParams(1.0, 8, seed=1, end_tokens=(0,))
    request = TokenRequest(0, tuple(range(10, 14)), 2, params)
    old = learner(models["mixtral"]).policy
    with hf(models["mixtral"]) as sampler:
        sampler.end_tokens = (0,)
        sampler.submit([request])
        assert sampler.receive(0.0) is None
        sampler.pause()
        folder = build("mixtral", tmp_path, seed=5)
        sampler.load(folder, 1)
        sampler.resume()
        done = sampler.receive()
    assert done is not None
    for completion in done.completions:
        ((changed, version),) = completion.version_changes
        assert version == 1
        read = [*request.token_ids, *completion.token_ids][:-1]
        chosen = np.array(completion.routes).reshape(-1, WIDTH)
        assert len(chosen) == len(read)
        before = len(request.token_ids) + changed - 1
        with old.own_attention():
            of_old = np.array(live_routes(old.model, read)).reshape(-1, WIDTH)
        of_new = np.array(live_routes(other, read)).reshape(-1, WIDTH)
        assert np.array_equal(chosen[:before], of_old[:before])
        assert np.array_equal(chosen[before:], of_new[before:])
        assert not np.array_equal(of_old[before:], of_new[before:])


def test_a_model_that_does_not_say_its_experts_is_not_sampled_from(tmp_path: Path) -> None:
    with pytest.raises(SamplerError, match="routing_replay is impossible for LlamaForCausalLM: its routers do not say"):
        hf(build("llama", tmp_path))


class NoTokenizer:
    """Nothing is decoded."""

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return ""

    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012
    all_special_ids: Sequence[int] = ()


def completion(context: int, *tokens: int, first: int) -> Completion:
    """Each position of context and tokens but the last has the experts (first + position, first + position)."""
    positions = np.arange(context + len(tokens) - 1)
    return Completion(tokens, (-1.0,) * len(tokens), "stop", 0, routes=np.repeat(first + positions, 2).tolist())


def test_the_experts_of_a_response_of_several_turns_are_those_of_when_its_tokens_were_read_first() -> None:
    decoder = TurnDecoder(NoTokenizer(), (), ())
    transcript = Transcript((1, 2), decoder)
    transcript.write(completion(2, 5, 6, first=0), 0.0)
    assert list(transcript.routes) == [0, 0, 1, 1, 2, 2]
    transcript._add([7], [0.0], policy=False)
    transcript.write(completion(5, 8, 9, first=10), 0.0)
    assert list(transcript.routes) == [0, 0, 1, 1, 2, 2, 13, 13, 14, 14, 15, 15]
    partial = transcript.partial(0, (), {})
    again = Transcript.of(partial, (1, 2), decoder)
    again._cut(3)
    assert list(again.routes) == [0, 0, 1, 1, 2, 2, 13, 13]
    again.begin_anew()
    assert not again.routes
    again.write(completion(2, 5, 6, first=20), 0.0)
    assert list(again.response("stop", None).routes) == [20, 20, 21, 21, 22, 22]
    again._add([7, 8], [0.0, 0.0], policy=False)
    assert list(again.response("stop", None).routes) == [20, 20, 21, 21, 22, 22, *[UNKNOWN_EXPERT] * 4]


def test_experts_go_with_what_is_carried_over_and_not_into_rollouts(tmp_path: Path) -> None:
    response = Response("", (5, 6), (True, True), (0.0, 0.0), "stop", 0, routes=(1, 60000, 2))
    partial = PartialResponse(1, (5,), (True,), (0.0,), routes=(3, 4))
    group = PartialGroup(Problem("p", (), ""), (1, 2), (0,), (response,), (partial,))
    write_parquet(tmp_path / "kept", [group])
    assert read_parquet(tmp_path / "kept", PartialGroup) == [group]
    whole = Group(group.problem, group.prompt_ids, (response,))
    rollouts = to_rollouts(1, [ScoredGroup(whole, ((),), (1.0,))])
    assert [len(rollout.response.routes) for rollout in rollouts] == [0]
    assert not mismatch([whole, whole])[0].responses[0].routes
