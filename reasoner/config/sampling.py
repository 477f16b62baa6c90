"""Sections on responses: how they are sampled, how its weights are checked, how it is evaluated."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from reasoner.config.section import COLDEST, HOTTEST, Positive, Section, Temperature
from reasoner.io.http_json import Url


class PartSampling(Section):
    """`[mixture.sampling]`: limits of a task's prompts and responses; a task in `[[evaluation.also]]` has them too."""

    max_tokens: Positive = 256
    """Most tokens of a response."""
    max_prompt_tokens: Positive = 512
    """Most tokens of a prompt; a longer one is refused before training."""
    stop: list[str] = Field(default_factory=list)
    """Strings that end a response."""


class SamplingConfig(PartSampling):
    """`[sampling]`: how training responses are sampled."""

    engine: Literal["auto", "vllm", "hf"] = "auto"
    """Engine that samples; `auto` takes vllm if it can be imported, otherwise hf (transformers)."""
    servers: list[Url] = Field(default_factory=list)
    """Addresses of the vLLM servers that sample, started with `reasoner serve`, such as `http://127.0.0.1:8000`. With
    none, every rank has an engine of its own."""
    weights_folder: str | None = None
    """Folder through which the servers get new weights; they must see it under the same path. `none` uses shared
    memory for servers on this machine, and has others pull them over HTTP."""
    group_size: Positive = 8
    """Responses sampled per problem."""
    temperature: Annotated[float, Field(ge=COLDEST, le=HOTTEST)] = 1.0
    """Sampling temperature. Greedy decoding (0) is not allowed, because the responses of a group would not differ."""
    stop_repetition: Annotated[int, Field(ge=2)] | None = None
    """Times in a row that the same tokens, up to 64 of them, may be written before the response is ended, with finish
    reason `repetition`. A small number ends honest tables and numbers too. `none` lets such a response run on to
    `max_tokens`. Costs vLLM some speed with small models."""
    memory_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.4
    """Share of each GPU's memory that vLLM may reserve, weights and KV cache together (CUDA only)."""
    quantization: Literal["fp8"] | None = None
    """Number format of the linear layers in vLLM: `fp8`, 8 bits with a scale for each layer, rounded when the engine
    starts; `none` keeps `model.dtype`. Training needs `[lora]` with it, whose adapter is handed over alone and is not
    rounded; `reasoner eval` rounds the whole model."""
    tensor_parallel: Positive = 1
    """GPUs over which one vLLM engine spreads the model; with several ranks, that many neighbouring ranks share an
    engine."""
    refills: Annotated[int, Field(ge=0)] = 0
    """Dynamic sampling: rounds per step in which groups whose rewards are all equal are replaced by groups on other
    problems. With 0 they stay, and cost no update."""
    kv_cache_gib: Annotated[float, Field(gt=0.0)] = 2.0
    """Size of vLLM's KV cache in GiB (CPU only)."""
    max_staleness: Annotated[int, Field(ge=0)] = 0
    """Most training steps that the weights which sampled a response may be older than those that learn from it. 0 is
    on-policy. With 1, the next step's responses are sampled during the update, one step off-policy, and corrected for
    it. With more, sampling runs up to so many steps ahead, and the weights change under what is being sampled."""
    over_sample: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Share of additional groups that are being sampled: as soon as enough groups for the step are complete, the others
    are interrupted, and continued in the next step with its weights. One of the `max_staleness` steps is for that, so
    it must be at least 1."""

    @property
    def lookahead(self) -> int:
        """Training steps that sampling runs ahead of the update: all that may be stale, but for the one that a group
        needs to be continued in the next step."""
        return max(0, self.max_staleness - 1) if self.over_sample else self.max_staleness

    @model_validator(mode="after")
    def _check_servers(self) -> Self:
        if not self.servers:
            if self.weights_folder:
                raise ValueError("weights_folder has no effect without servers; set servers, or leave it out")
            return self
        if self.engine == "hf":
            raise ValueError("engine = 'hf' has no servers; leave engine or servers out")
        plain = [url.rstrip("/") for url in self.servers]
        twice = next((url for url in plain if plain.count(url) > 1), None)
        if twice:
            raise ValueError(f"servers names {twice} twice; name each server once")
        query = next((url for url in plain if "?" in url), None)
        if query:
            raise ValueError(f"servers: {query} has a query; give the address alone (a key goes into VLLM_API_KEY)")
        return self


class HandoverConfig(Section):
    """`[handover]`: how it is verified that each hand-over (weight sync) reached the sampler."""

    check_every: Positive = 5
    """Steps between comparisons of the sampler's log-probabilities with the learner's. The first step is always
    checked."""
    max_gap: Annotated[float, Field(gt=0.0)] | None = None
    """Mean absolute difference of log-probabilities per token, in nats, above which the run stops. `none` takes 1e-3
    with `model.dtype = "float32"`, 0.1 with bfloat16, and 0.3 where learner or sampler holds quantised weights
    (`lora.quantization`, `sampling.quantization`)."""


class PartEvaluation(Section):
    """`[mixture.evaluation]`: how a task is evaluated; a task in `[[evaluation.also]]` has it too."""

    every: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations, on `data.eval` and on what is held out of offline data. With 0, only before and after
    training."""
    samples: Positive = 1
    """Responses per problem (the k of avg@k, pass@k, maj@k)."""
    temperature: Temperature = 0.0
    """Sampling temperature: 0 for greedy decoding, otherwise from 0.01 to 2."""
    max_tokens: Positive | None = None
    """Most tokens of a response; `none` takes `sampling.max_tokens`."""
    correct: str = ""
    """Reward source whose value decides whether a response is correct; needed wherever responses are sampled."""
    threshold: float = 1.0
    """Least value of that source at which a response is correct; for example 0.8 for a judge that rarely gives full
    marks."""

    @model_validator(mode="after")
    def _greedy_once(self) -> Self:
        if self.temperature == 0.0 and self.samples > 1:
            raise ValueError(
                f"samples = {self.samples} at temperature 0 gives the same response every time; raise temperature"
            )
        return self
