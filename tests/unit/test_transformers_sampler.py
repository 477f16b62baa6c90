"""The transformers sampler on a tiny random model."""

from __future__ import annotations

import inspect
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasoner.config import LearningConfig
from reasoner.errors import HandoverError, SamplerError
from reasoner.gro.weights import Weights
from reasoner.learning.torch_engine import TorchLearner
from reasoner.models.tensor_files import write_weights
from reasoner.records import Group, Message, Problem, Prompt, SamplingParams
from reasoner.sampling.decoding import Decoder
from reasoner.sampling.transformers import HfSampler
from reasoner.training.trainer import seed_generators
from reasoner.trajectories.sampler import TrajectorySampler
from tests import architectures, token_services
from tests.tiny import build_tiny_model

QUESTIONS = ("What is 1+1?", "Name a prime.", "How many legs do three horses and two birds have together?")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The model is tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def sampler(folder: Path) -> Iterator[HfSampler]:
    with HfSampler(folder, "float32", "cpu", 256, 8, False) as sampler:
        yield sampler


def prompts(folder: Path, questions: Sequence[str] = QUESTIONS) -> list[Prompt]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    result = []
    for index, question in enumerate(questions):
        problem = Problem(f"p{index}", (Message("user", question),), "")
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        result.append(Prompt(problem, tuple(ids)))
    return result


def reference(folder: Path, group: Group, temperature: float) -> list[list[float]]:
    """Log-probabilities of every response token by one plain forward pass per response."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    result = []
    for response in group.responses:
        ids = torch.tensor([[*group.prompt_ids, *response.token_ids]])
        with torch.no_grad():
            logprobs = (model(ids).logits[0, :-1] / temperature).log_softmax(-1)
        picked = logprobs.gather(-1, ids[0, 1:, None])[:, 0]
        result.append(picked[len(group.prompt_ids) - 1 :].tolist())
    return result


def by_problem(groups: Sequence[Group]) -> dict[str, Group]:
    return {group.problem.id: group for group in groups}


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_log_probabilities_are_those_of_the_sampled_distribution(
    sampler: HfSampler, folder: Path, temperature: float
) -> None:
    groups = list(TrajectorySampler(sampler).sample(prompts(folder), 4, SamplingParams(temperature, 24, seed=3)))
    assert {group.problem.id for group in groups} == {"p0", "p1", "p2"}
    for group in groups:
        assert len(group.responses) == 4
        for response, expected in zip(group.responses, reference(folder, group, temperature), strict=True):
            assert response.sampler_logprobs == pytest.approx(expected, abs=1e-4)


def test_the_tokens_follow_the_distribution(sampler: HfSampler, folder: Path) -> None:
    [prompt] = prompts(folder, QUESTIONS[:1])
    drawn = 4000
    [group] = TrajectorySampler(sampler).sample([prompt], drawn, SamplingParams(0.5, 1, seed=1))
    counts = torch.bincount(torch.tensor([r.token_ids[0] for r in group.responses]), minlength=260) / drawn
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        expected = (model(torch.tensor([prompt.token_ids])).logits[0, -1] / 0.5).softmax(-1)
    # total variation of an empirical distribution of 4000 draws is about 0.06 here; of another temperature 0.3
    assert 0.5 * (counts - expected).abs().sum() < 0.12


def test_a_response_ends_with_any_end_token_or_at_its_limit(sampler: HfSampler, folder: Path) -> None:
    groups = list(TrajectorySampler(sampler).sample(prompts(folder), 64, SamplingParams(1.0, 40, seed=5)))
    responses = [response for group in groups for response in group.responses]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = set(tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    assert {r.token_ids[-1] for r in responses if r.finish_reason == "stop"} == ends
    assert all(len(r.token_ids) == 40 for r in responses if r.finish_reason == "length")
    assert all(not ends & set(r.token_ids[:-1]) for r in responses)
    assert all(r.text == tokenizer.decode(r.token_ids, skip_special_tokens=True) for r in responses)


def test_a_stop_string_ends_a_response_and_is_cut_from_its_text(sampler: HfSampler, folder: Path) -> None:
    [prompt] = prompts(folder, QUESTIONS[:1])
    [group] = TrajectorySampler(sampler).sample([prompt], 64, SamplingParams(1.0, 40, stop=("k", "zz"), seed=5))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stopped = [r for r in group.responses if "k" in tokenizer.decode(r.token_ids)]
    assert stopped
    for response in stopped:
        assert response.finish_reason == "stop"
        assert "k" not in response.text
        assert tokenizer.decode(response.token_ids) == response.text + "k"
        assert "k" not in tokenizer.decode(response.token_ids[:-1])


def test_the_end_of_a_turn_ends_a_response_beside_the_models_own_end_tokens(sampler: HfSampler, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    own, turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.convert_tokens_to_ids("k")
    [prompt] = prompts(folder, QUESTIONS[:1])
    [group] = TrajectorySampler(sampler).sample([prompt], 64, SamplingParams(1.0, 40, seed=5, end_tokens=(turn_end,)))
    ended = [r for r in group.responses if turn_end in r.token_ids]
    assert ended
    for response in ended:
        assert (response.finish_reason, response.token_ids.index(turn_end)) == ("stop", len(response.token_ids) - 1)
        assert tokenizer.decode(response.token_ids[:-1]) == response.text
    assert any(r.token_ids[-1] == own and r.finish_reason == "stop" for r in group.responses)


def test_the_same_seed_gives_the_same_responses(sampler: HfSampler, folder: Path) -> None:
    first, again, other = (
        by_problem(list(TrajectorySampler(sampler).sample(prompts(folder), 3, SamplingParams(1.0, 16, seed=seed))))
        for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_temperature_zero_is_greedy_with_the_log_probabilities_of_temperature_one(
    sampler: HfSampler, folder: Path
) -> None:
    [group] = TrajectorySampler(sampler).sample(prompts(folder, QUESTIONS[:1]), 2, SamplingParams(0.0, 12))
    assert group.responses[0].token_ids == group.responses[1].token_ids
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[*group.prompt_ids, *group.responses[0].token_ids]])
    with torch.no_grad():
        best = model(ids).logits[0, len(group.prompt_ids) - 1 : -1].argmax(-1)
    assert tuple(best.tolist()) == group.responses[0].token_ids
    assert group.responses[0].sampler_logprobs == pytest.approx(reference(folder, group, 1.0)[0], abs=1e-4)


def test_a_group_comes_out_while_others_are_still_drawn(sampler: HfSampler, folder: Path) -> None:
    asked = prompts(folder)
    stream = TrajectorySampler(sampler).sample(asked, 1, SamplingParams(1.0, 170, seed=2))
    first = next(stream)
    longest = max(len(response.token_ids) for response in first.responses)
    others = [response for group in stream for response in group.responses]
    assert max(len(response.token_ids) for response in others) > longest
    assert torch.is_grad_enabled()


def test_what_it_cannot_do_is_refused_before_anything_is_drawn(sampler: HfSampler, folder: Path) -> None:
    asked = prompts(folder)
    with pytest.raises(SamplerError, match=r"problem 'p2' has \d+ tokens; with max_tokens = 180 .* 1 to 76"):
        TrajectorySampler(sampler).sample(asked, 2, SamplingParams(1.0, 180))
    with pytest.raises(SamplerError, match="temperature must be 0"):
        TrajectorySampler(sampler).sample(asked, 2, SamplingParams(0.001, 8))
    with pytest.raises(SamplerError, match="takes 512 tokens"):
        HfSampler(folder, "float32", "cpu", 513, 8, False)


def test_aborted_requests_come_with_their_prefix(sampler: HfSampler, folder: Path) -> None:
    token_services.check_aborted_requests_come_with_their_prefix(sampler, folder)


def test_requests_join_those_that_run(sampler: HfSampler) -> None:
    token_services.check_requests_join_those_that_run(sampler)


def test_a_response_that_repeats_itself_is_ended(sampler: HfSampler) -> None:
    token_services.check_a_response_that_repeats_itself_is_ended(sampler)


def test_interrupted_groups_are_continued(sampler: HfSampler, folder: Path, tmp_path: Path) -> None:
    token_services.check_interrupted_groups_are_continued(sampler, folder, tmp_path)


def test_weights_change_under_what_runs(sampler: HfSampler, folder: Path, tmp_path: Path) -> None:
    token_services.check_weights_change_under_what_runs(sampler, folder, tmp_path / "new")


@pytest.mark.parametrize("tied", [True, False])
def test_loaded_weights_are_used_and_receipted(tmp_path: Path, tied: bool) -> None:
    old = build_tiny_model(tmp_path / "old", tied=tied)
    new = build_tiny_model(tmp_path / "new", tied=tied, seed=1)
    weights = load_file(new / "model.safetensors")
    (tmp_path / "published").mkdir()
    checksum = write_weights(tmp_path / "published", weights.items())
    with HfSampler(old, "float32", "cpu", 256, 8, False) as sampler:
        receipt = sampler.load(tmp_path / "published", 5)
        assert (receipt.version, receipt.checksum, receipt.tensors) == (5, checksum, 20 if tied else 21)
        [group] = TrajectorySampler(sampler).sample(prompts(new, QUESTIONS[:1]), 2, SamplingParams(1.0, 8))
    assert [response.policy_version for response in group.responses] == [5, 5]
    for response, expected in zip(group.responses, reference(new, group, 1.0), strict=True):
        assert response.sampler_logprobs == pytest.approx(expected, abs=1e-4)


def test_weights_of_another_model_are_refused(sampler: HfSampler, folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if name != "model.norm.weight"}
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(HandoverError, match=r"model\.norm\.weight: missing, of 20"):
        sampler.load(tmp_path, 1)
    save_file(weights | {"model.norm.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(HandoverError, match=r"'model\.norm\.weight' of shape \[3\]"):
        sampler.load(tmp_path, 1)


SPECIAL = {
    "gemma2": "",  # attention scores with a soft cap
    "mistral": "",  # a window shorter than the sequences
    "qwen3_5": ", prompts of one length at a time (recurrent layers)",
    "lfm2": ", prompts of one length at a time (recurrent layers)",
    "granite4": ", prompts of one length at a time (recurrent layers)",
    "mamba2": ", prompts of one length at a time (recurrent layers)",
    "falcon_h1": ", prompts of one length at a time (recurrent layers)",
    "recurrent_gemma": ", without a cache (the model keeps its state where it cannot be repeated): slow",
}


@pytest.mark.parametrize("name", SPECIAL)
def test_prompts_of_several_lengths_give_the_log_probabilities_of_unpadded_sequences(tmp_path: Path, name: str) -> None:
    """Left padding would be read by recurrent layers, and not every cache can be repeated as attention's can."""
    model = architectures.build(name, tmp_path)
    asked = [*prompts(model), *prompts(model, ["What is eight times nine?"])]  # two lengths at least
    asked = [replace(prompt, problem=replace(prompt.problem, id=f"p{at}")) for at, prompt in enumerate(asked)]
    assert len({len(prompt.token_ids) for prompt in asked}) > 1
    eager = {"attn_implementation": "eager"}  # the one that every model was written with
    plain = AutoModelForCausalLM.from_pretrained(model, **(eager if name == "gemma2" else {})).eval()
    with HfSampler(model, "float32", "cpu", 256, 8, False) as sampler:
        assert sampler.description.endswith(f"up to 8 sequences at once{SPECIAL[name]}")
        groups = list(TrajectorySampler(sampler).sample(asked, 3, SamplingParams(1.0, 24, seed=3)))
        scored = iter(sampler.score(groups)[""])
    assert {group.problem.id for group in groups} == {"p0", "p1", "p2", "p3"}
    for group in groups:
        for response in group.responses:
            ids = torch.tensor([[*group.prompt_ids, *response.token_ids]])
            with torch.no_grad():
                logprobs = plain(ids, use_cache=False).logits[0, len(group.prompt_ids) - 1 : -1].log_softmax(-1)
            expected = logprobs.gather(-1, torch.tensor(response.token_ids)[:, None])[:, 0].tolist()
            assert response.sampler_logprobs == pytest.approx(expected, abs=2e-4)
            assert next(scored) == pytest.approx(expected, abs=2e-4)


def test_sequences_beyond_the_original_context_of_longrope_are_refused(tmp_path: Path) -> None:
    model = architectures.build("phi3-longrope", tmp_path)
    with pytest.raises(SamplerError, match=r"takes 64 tokens of this model, .* is 65: beyond its original context"):
        HfSampler(model, "float32", "cpu", 65, 8, False)
    with HfSampler(model, "float32", "cpu", 64, 8, False) as sampler:
        assert sampler.version == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_end_the_sampling(
    folder: Path, tmp_path: Path, temperature: float, value: float
) -> None:
    """The likeliest of tokens with NaN would be token 0, again and again."""
    shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = value
    save_file(weights, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with (
        HfSampler(tmp_path / "broken", "float32", "cpu", 256, 8, False) as sampler,
        pytest.raises(SamplerError, match="logits are not finite: its weights hold NaN"),
    ):
        list(TrajectorySampler(sampler).sample(prompts(folder), 1, SamplingParams(temperature, 4)))


@pytest.mark.parametrize("name", ["cache", "past_key_values", "cache_params"])
def test_the_cache_is_given_under_the_name_that_the_model_has_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """transformers 5.24 renames it; without a name every token would read the whole sequence again, and say nothing."""
    model = AutoModelForCausalLM.from_pretrained(build_tiny_model(tmp_path))
    plain, given = model.forward, []

    def forward(
        input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, **options: object
    ) -> object:
        given.append(options.pop(name))
        return plain(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=given[-1],
            **options,
        )

    parameters = [
        parameter for parameter in inspect.signature(forward).parameters.values() if parameter.name != "options"
    ]
    cache = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
    forward.__signature__ = inspect.Signature([*parameters, cache])  # type: ignore[attr-defined]
    monkeypatch.setattr(model, "forward", forward)
    decoder = Decoder(model, torch.device("cpu"))
    assert decoder.description == ""
    decoding, logits = decoder.begin([(1, 2, 3)], [2])
    decoding.next(torch.tensor([4, 5]))
    assert logits.shape[0] == 2
    assert given == [decoding.cache, decoding.cache]
    assert decoding.cache is not None


def test_sampling_and_learning_draw_nothing_from_the_generators_that_a_plugins_credit_draws_from(
    sampler: HfSampler, folder: Path
) -> None:
    """Ranks sample and learn from different shares, and a credit that draws must draw the same on all of them."""

    def drawn() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    learner = TorchLearner(folder, device="cpu", dtype="float32", config=LearningConfig(), total_steps=1)
    seed_generators(0, 1)
    expected = drawn()
    seed_generators(0, 1)
    groups = list(TrajectorySampler(sampler).sample(prompts(folder), 4, SamplingParams(1.0, 8)))
    learner.accumulate(groups, lambda rows, logprobs_RT, _: Weights(torch.ones_like(logprobs_RT)), 1.0)
    assert learner.step().applied
    assert drawn() == expected
