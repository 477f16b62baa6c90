"""Before anything is trained, every family of parameters is seen to reach the sampler: a real learner and a real
sampler that leaves out what the test tells it to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import printable
from typing import Any, Literal

import pytest
import torch
from transformers import AutoTokenizer

from reasoner.config import LearningConfig, LoraConfig
from reasoner.distributed.ranks import ALONE
from reasoner.errors import HandoverError
from reasoner.gro.weights import Weights
from reasoner.learning.torch_engine import TorchLearner
from reasoner.records import Message, Problem, Prompt, Receipt, SamplingParams
from reasoner.sampling.transformers import HfSampler
from reasoner.training.guards.canary import PERTURBED, Canary, _lost_families, families_of
from reasoner.training.weight_sync import gap_limit, hand_over
from reasoner.trajectories.sampler import TrajectorySampler
from tests.architectures import build

Dtype = Literal["float32", "bfloat16"]
DRAWN = SamplingParams(1.0, 8)


class Forgetful(HfSampler):
    """Reads everything and says so, and keeps the old values of parameters whose name has one of `withheld` in it."""

    withheld: tuple[str, ...] = ()
    garbles = False
    """takes the rows of every matrix in another order"""
    garbles_change_of = ""
    """takes the rows of what was added to these matrices in another order"""
    loads = 0

    def load(self, folder: Path, version: int) -> Receipt:
        self.loads += 1
        kept = {
            name: value.detach().clone()
            for name, value in self._model.named_parameters(remove_duplicate=False)
            if any(part in name for part in self.withheld)
        }
        before = {name: value.detach().clone() for name, value in self._model.named_parameters()}
        receipt = super().load(folder, version)
        with torch.no_grad():
            for name, value in self._model.named_parameters():
                if self.garbles_change_of and self.garbles_change_of in name:
                    value.copy_(before[name] + (value - before[name]).flip(0))
                if name in kept:
                    value.copy_(kept[name])
                elif self.garbles and value.dim() > 1 and "layers" in name:
                    value.copy_(value.flip(0))
        return receipt


@dataclass
class World:
    """A learner and a sampler of one model."""

    folder: Path
    learner: TorchLearner
    sampler: Forgetful
    dtype: Dtype
    params: SamplingParams = DRAWN
    handed: list[int] = field(default_factory=list)

    @property
    def canary(self) -> Canary:
        sampler, limit = TrajectorySampler(self.sampler), gap_limit(self.dtype, None)
        return Canary(self.learner, sampler, ALONE, limit, self._hand_over, self.params)

    def _hand_over(self, publisher: Any) -> Receipt:
        self.handed.append(publisher.version)
        return hand_over(publisher, self.sampler)

    @property
    def prompts(self) -> list[Prompt]:
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        texts = ["Count to ten, and say which of them are prime.", "What is 17 + 4? Answer with a number, please."]
        return [
            Prompt(Problem(text[:5], (Message("user", text),), ""), tuple(tokenizer.encode(text))) for text in texts
        ]


@contextmanager
def world(folder: Path, dtype: Dtype = "float32", lora: LoraConfig | None = None) -> Iterator[World]:
    config = LearningConfig(token_budget=512, learning_rate=1e-3)
    learner = TorchLearner(folder, device="cpu", dtype=dtype, config=config, total_steps=9, lora=lora)
    with Forgetful(folder, dtype, "cpu", 200, 64, False) as sampler:
        yield World(folder, learner, sampler, dtype)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        return root / name if (root / name).exists() else build(name, root / name)

    return folder


FAMILIES = {
    "embeddings": ("llama-untied", "embed_tokens", ["model.embed_tokens.weight"]),
    "output layer": ("llama-untied", "lm_head", ["lm_head.weight"]),
    "one projection": ("llama", "v_proj", ["self_attn.v_proj.weight"]),
    "attention biases": ("qwen2", "_proj.bias", [f"self_attn.{part}_proj.bias" for part in "qkv"]),
    "q and k norms": ("qwen3", "_norm.weight", ["self_attn.q_norm.weight", "self_attn.k_norm.weight"]),
    "last norm": ("llama", "model.norm", ["model.norm.weight"]),
    "norms of the layers": ("llama", "layernorm", ["input_layernorm.weight", "post_attention_layernorm.weight"]),
    "MLP": ("llama", "mlp", ["mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"]),
    "experts": ("gpt_oss", "experts.", ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    "sinks": ("gpt_oss", "sinks", ["self_attn.sinks"]),
    "router": ("qwen3_moe", "mlp.gate.", ["mlp.gate.weight"]),
    "recurrent layers": ("qwen3_5", "linear_attn.A_log", ["linear_attn.A_log"]),
    "convolutions": ("lfm2", "conv.conv", ["conv.conv.weight"]),
}


def test_responses_end_as_those_of_the_run_also_where_the_model_has_no_end_token(built: Callable[[str], Path]) -> None:
    with world(built("llama")) as each:
        each.sampler.end_tokens = ()
        every_second = tuple(range(0, each.sampler._model.config.vocab_size, 2))
        for params in (SamplingParams(0.5, 8, end_tokens=every_second), SamplingParams(0.5, 8, stop=tuple(printable))):
            each.params = params
            canary = each.canary
            assert canary.prove(each.prompts).startswith("the sampler takes all ")
            responses = [response for group in canary.groups for response in group.responses]
            assert "stop" in {response.finish_reason for response in responses}


def test_its_responses_are_no_longer_than_those_of_the_run(built: Callable[[str], Path]) -> None:
    """The engine may have no room for more."""
    with world(built("llama")) as each:
        each.params = SamplingParams(1.0, 2)
        canary = each.canary
        assert canary.prove(each.prompts).startswith("the sampler takes all ")
        assert {len(response.token_ids) for group in canary.groups for response in group.responses} <= {1, 2}


@pytest.mark.parametrize(
    ("family", "dtype"),
    [*((family, "float32") for family in FAMILIES), *((family, "bfloat16") for family in ("embeddings", "sinks"))],
)
def test_a_family_that_does_not_reach_the_sampler_ends_the_run_by_name(
    built: Callable[[str], Path], family: str, dtype: Dtype
) -> None:
    model, withheld, names = FAMILIES[family]
    with world(built(model), dtype) as each:
        each.sampler.withheld = (withheld,)
        with pytest.raises(
            HandoverError, match=r"does not take what it is given of|no missing family explains"
        ) as error:
            each.canary.prove(each.prompts)
    if dtype == "bfloat16" and "no missing family explains" in str(error.value):  # rounding may be a part of what lacks
        assert names[0] in str(error.value)
        return
    named = str(error.value).partition("given of ")[2].partition(": these")[0].split(", ")
    assert set(names) <= set(named)
    assert all(withheld in name for name in named)
    assert "Nothing was trained yet" in str(error.value)
    assert each.handed == [PERTURBED]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", ["llama", "gpt_oss", "qwen3_moe", "qwen3_5"])
def test_a_sampler_that_takes_everything_passes_and_ends_with_the_exact_weights(
    built: Callable[[str], Path], model: str, dtype: Dtype
) -> None:
    with world(built(model), dtype) as each:
        before = {name: value.clone() for name, value in each.learner.policy.model.state_dict().items()}
        canary = each.canary
        result = canary.prove(each.prompts)
        count = len(families_of(each.learner.trained))
        assert re.match(
            rf"the sampler takes all {count} families of parameters \(each moved \d\d tokens by .* nats\)$", result
        )
        assert each.handed == [PERTURBED, 0]
        assert each.sampler.version == 0
        after = each.learner.policy.model.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert not canary.settled
        assert canary.follow() == ""  # nothing has changed yet


def test_adapters_that_do_not_arrive_are_caught_and_told_apart(built: Callable[[str], Path]) -> None:
    lora = LoraConfig(rank=4, targets=["q_proj", "down_proj"]).model_copy(update={"handover": "merged"})
    with world(built("llama"), lora=lora) as each:
        assert re.match("the sampler takes all 2 families", each.canary.prove(each.prompts))
        each.sampler.withheld = ("down_proj",)
        with pytest.raises(HandoverError, match=r"given of adapter of mlp\.down_proj: .*lora\.handover = 'merged'"):
            each.canary.prove(each.prompts)


def test_adapters_beside_a_base_of_4_bits_are_seen_through_what_rounding_it_makes(
    built: Callable[[str], Path],
) -> None:
    """The sampler of this test takes whole weights: the original ones with the adapter, as vLLM has them."""
    with world(built("llama"), lora=LoraConfig(rank=4, quantization="nf4")) as each:
        each.learner.policy.weights._adapter_alone = False
        canary = replace(each.canary, limit=1.0, quantized=True)
        assert re.match("the sampler takes all 7 families", canary.prove(each.prompts))
        assert canary._noise > 0.02  # much more than rounding of numbers
        each.sampler.withheld = ("down_proj",)
        with pytest.raises(HandoverError, match=r"of adapter of mlp\.down_proj: .* and leave lora\.quantization"):
            canary.prove(each.prompts)
        each.sampler.withheld = ()
        each._hand_over(each.learner)
        each.sampler.garbles_change_of = "down_proj"
        with pytest.raises(HandoverError, match=r"of adapter of mlp\.down_proj: "):
            canary.prove(each.prompts)
        each.sampler.garbles_change_of = ""
        each._hand_over(each.learner)
        each.sampler.garbles_change_of = "_proj"
        with pytest.raises(HandoverError, match=r"no missing family explains|does not take what it is given of"):
            canary.prove(each.prompts)


def test_a_family_counts_as_lost_where_chance_does_not_explain_it() -> None:
    """Learner and sampler answer the same change in ways that differ by half of it."""
    families = families_of(["model.layers.0.a.weight", "model.layers.0.b.weight", "model.layers.0.c.weight"])
    noise = torch.Generator().manual_seed(0)
    effects_NF = torch.randn(64, 3, generator=noise, dtype=torch.float64)
    change_N = effects_NF.sum(1)
    other_N = 0.8 * torch.randn(64, generator=noise, dtype=torch.float64)

    def lost(*arrived: float, tokens: int = 64, other: float = 1.0) -> str:
        moved_N = effects_NF @ torch.tensor(arrived, dtype=torch.float64) + other * other_N
        without = {family: change_N[:tokens] - effects_NF[:tokens, at] for at, family in enumerate(families)}
        return "".join(family.name[0] for family in _lost_families(moved_N[:tokens], change_N[:tokens], without))

    assert lost(1.0, 1.0, 1.0) == lost(0.8, 1.3, 0.8) == ""
    assert (lost(1.0, 0.0, 1.0), lost(0.0, 1.0, 0.1), lost(0.0, 0.0, 0.0)) == ("b", "ac", "abc")
    assert lost(1.0, -1.0, 1.0) == "b"  # the other way round
    assert lost(1.0, 0.0, 1.0, other=20.0) == ""  # that may be chance
    assert lost(1.0, 0.0, 1.0, tokens=3) == ""  # nothing tells what is chance


def test_a_tied_output_layer_that_stays_behind_is_caught(built: Callable[[str], Path]) -> None:
    """As vLLM's CPU build keeps its packed copy of it: what is one parameter in the learner is two there."""
    with world(built("llama")) as each:
        model, take = each.sampler._model, each.sampler.load
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())

        def load_both(folder: Path, version: int) -> Receipt:
            receipt = take(folder, version)
            if not each.sampler.withheld:
                model.lm_head.weight.data.copy_(model.model.embed_tokens.weight)
            return receipt

        each.sampler.load = load_both  # type: ignore[method-assign]
        assert "all 11 families" in each.canary.prove(each.prompts)
        each.sampler.withheld = ("lm_head",)
        with pytest.raises(HandoverError, match=r"the sampler does not take|holds wrong weights"):
            each.canary.prove(each.prompts)


def test_a_load_that_garbles_is_caught(built: Callable[[str], Path]) -> None:
    with world(built("llama")) as each:
        each.sampler.garbles = True
        with pytest.raises(HandoverError, match=r"wrong weights after a hand-over: .* Its load garbles"):
            each.canary.prove(each.prompts)


def test_a_sampler_that_does_not_take_the_original_weights_back_is_caught(built: Callable[[str], Path]) -> None:
    with world(built("llama")) as each:
        take = each.sampler.load

        def load_once(folder: Path, version: int) -> Receipt:
            each.sampler.withheld = ("mlp",) if each.sampler.loads else ()
            return take(folder, version)

        each.sampler.load = load_once  # type: ignore[method-assign]
        with pytest.raises(HandoverError, match="differ from the learner's"):
            each.canary.prove(each.prompts)


def test_a_sampler_that_is_off_before_anything_was_handed_over_is_caught(built: Callable[[str], Path]) -> None:
    with world(built("llama")) as each:
        with torch.no_grad():
            each.sampler._model.model.norm.weight.mul_(1.1)
        with pytest.raises(HandoverError, match="differ from the learner's"):
            each.canary.prove(each.prompts)
        assert each.handed == []


@pytest.mark.parametrize("withheld", [(), ("mlp", "self_attn")])
def test_after_the_first_update_the_sampler_has_moved_as_the_learner_has(
    built: Callable[[str], Path], withheld: tuple[str, ...]
) -> None:
    with world(built("llama")) as each:
        canary = each.canary
        canary.prove(each.prompts)
        each.sampler.withheld = withheld
        learn(each.learner, canary)
        each._hand_over(each.learner)
        if withheld:
            with pytest.raises(
                HandoverError, match=r"moved the learner's log-probabilities by 1, .* by 0\.\d\d \(\+- "
            ):
                canary.follow()
        else:
            assert canary.follow().startswith("the sampler follows the learner: 1.00 of ")
            assert canary.settled
            assert canary.follow() == ""


def test_a_change_that_is_rounding_proves_nothing_and_is_compared_later(built: Callable[[str], Path]) -> None:
    with world(built("llama"), "bfloat16") as each:
        canary = each.canary
        canary.prove(each.prompts)
        each.learner._optimizer._peak = 1e-7
        learn(each.learner, canary)
        each.sampler.withheld = ("model.",)  # nothing arrives, and nothing can be seen of it yet
        each._hand_over(each.learner)
        assert canary.follow() == ""
        assert not canary.settled
        each.learner._optimizer._peak = 3e-2
        learn(each.learner, canary)
        each._hand_over(each.learner)
        with pytest.raises(HandoverError, match="does not follow the learner"):
            canary.follow()


def learn(learner: TorchLearner, canary: Canary) -> None:
    learner.accumulate(canary.groups, lambda rows, logprobs_RT, _: Weights(torch.ones_like(logprobs_RT)), 1.0)
    assert learner.step().applied


def test_families_are_what_names_tell_without_numbers() -> None:
    names = [
        *(f"model.layers.{layer}.mlp.experts.{expert}.w1.weight" for layer in range(9) for expert in range(2)),
        *(f"model.layers.{layer}.self_attn.q_proj.lora_{part}.default.weight" for layer in range(2) for part in "AB"),
        "model.norm.weight",
    ]
    families = {family.name: family.parameters for family in families_of(names)}
    assert list(families) == ["mlp.experts.*.w1.weight", "adapter of self_attn.q_proj", "model.norm.weight"]
    assert families["mlp.experts.*.w1.weight"] == tuple(
        f"model.layers.{layer}.mlp.experts.{expert}.w1.weight" for layer in (0, 4, 8) for expert in range(2)
    )
    assert len(families["adapter of self_attn.q_proj"]) == 4
