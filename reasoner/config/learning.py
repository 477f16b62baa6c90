"""Sections on the models that are trained and their optimiser: `[model]`, `[learning]`, `[lora]`, `[critic]`,
`[teacher]`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from reasoner.config.section import Positive, Section
from reasoner.io.http_json import Url

DecayFactor = Annotated[float, Field(ge=0.0, lt=1.0)]


class PolicyConfig(Section):
    """`[model]`: the model that is trained."""

    path: str
    """Model to train: a folder in Hugging Face format, a hub id, or an embedded model such as
    `embedded:smollm2-135m-instruct`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the weights, for training and for sampling."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that holds the model; `auto` takes cuda if there is a GPU."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments passed to the chat template, for example `{enable_thinking = false}`. A template that writes today's
    date (with `strftime_now`) writes that of the run's first start, `{strftime_now = "2026-11-30"}`, which a run adds
    to its own configuration."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _check_date(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        date = kwargs.get("strftime_now", "2000-01-01")
        try:
            datetime.fromisoformat(date)
        except (TypeError, ValueError):
            raise ValueError(
                f"strftime_now is the date that the chat template writes, such as '2026-11-30'; got {date!r}"
            ) from None
        return kwargs


class DeepspeedConfig(Section):
    """`[learning.deepspeed]`: how DeepSpeed spreads the learner's memory (docs/scaling.md)."""

    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """What ZeRO shards over the ranks: 0 nothing, 1 the optimiser state, 2 also the gradients, 3 also the
    parameters."""
    offload_optimizer: bool = False
    """Keep the optimiser state in host memory and step there (zero_stage 1 to 3)."""
    offload_parameters: bool = False
    """Keep parameters in host memory until they are used (zero_stage 3)."""
    config: str | None = None
    """JSON file with further DeepSpeed settings; one that contradicts this configuration is refused."""

    @model_validator(mode="after")
    def _offload_what_is_sharded(self) -> Self:
        for key, least in (("offload_optimizer", 1), ("offload_parameters", 3)):
            if getattr(self, key) and self.zero_stage < least:
                raise ValueError(f"{key} needs zero_stage = {least} or more, got {self.zero_stage}")
        return self


class LearningConfig(Section):
    """`[learning]`: the optimiser and the memory budget of the update."""

    engine: Literal["auto", "torch", "deepspeed"] = "auto"
    """Engine that computes gradients and optimiser steps; `auto` takes torch with one rank and deepspeed with
    several."""
    deepspeed: DeepspeedConfig = Field(default_factory=DeepspeedConfig)
    """How DeepSpeed spreads the learner's memory."""
    problems_per_step: Positive = 8
    """Problems (groups) per training step."""
    updates_per_step: Positive = 1
    """Optimiser steps per pass over a step's batch, which is cut into that many mini-batches of whole groups."""
    epochs: Positive = 1
    """Passes over a step's batch. The old policy's log-probabilities are computed once, before the first."""
    optimizer: Literal["adamw", "adamw-8bit", "paged-adamw-8bit"] = "adamw"
    """Optimiser: AdamW with float32 moments, or with moments of 8 bits in blocks (2110.02861), 2 bytes a weight instead
    of 8; `paged-adamw-8bit` lets CUDA move them to host memory where a GPU is full. The last two need bitsandbytes and
    the torch engine, and round each step."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-6
    """Peak learning rate of AdamW."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps of linear warm-up."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up; `linear` and `cosine` reach 0 at the last step."""
    betas: tuple[DecayFactor, DecayFactor] = (0.9, 0.999)
    """Decay factors of AdamW's first and second moments."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
    """Gradient norm above which the gradient is scaled down to it; `none` never scales."""
    max_not_finite: Positive = 3
    """Training steps in a row with a loss or gradient that is not finite after which the run stops; each of them is
    skipped."""
    token_budget: Positive = 4096
    """Tokens per packed micro-batch. It bounds memory and does not change the gradient; a longer row gets a micro-batch
    of its own."""
    router_loss: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the load-balancing loss of a mixture of experts: the mean, over the responses of a data source that an
    update learns from, of E * sum_e f_e * P_e, with the share f of a response's tokens that an expert got and its mean
    probability P (2101.03961, per response as in 2412.19437); 0 leaves routers to the objective alone."""
    routing_replay: bool = False
    """Have a mixture of experts choose, in the policy's forward passes, the experts that the sampler chose (rollout
    routing replay, R3, 2510.11370), with weights from the router's own scores. The sampler must say them: vLLM on CUDA,
    or transformers."""
    experts: Literal["auto", "eager", "batched_mm", "grouped_mm"] = "auto"
    """How the experts of a mixture are computed, as transformers names it: `grouped_mm` multiplies sorted tokens by
    one expert after the other, `batched_mm` copies an expert's weights for every token, `eager` is the model's own
    loop. `auto` takes `grouped_mm` where the model can."""
    sequence_parallel: Positive = 1
    """Neighbouring ranks that put every packed row through the model together, each a slice of it
    (DeepSpeed-Ulysses, 2309.14509): for responses whose activations one device cannot hold. A row then has
    `token_budget` tokens for each of them. The number divides `run.ranks` and the model's attention heads."""
    logit_chunk: Positive | None = None
    """Response positions whose logits are in memory at once; `none` takes 256 on a CPU and, on a GPU, as many as fill a
    fiftieth of its memory. It bounds memory and does not change the gradient."""
    gradient_checkpointing: bool | Literal["auto"] = False
    """Recompute activations in the backward pass, which takes less memory and about a third more time; `auto` does so
    where the estimate at the start says that they would not fit."""
    offload_activations: bool = False
    """Keep the input of every recomputed layer in host memory until the backward pass needs it; for a GPU, with
    `gradient_checkpointing = true`. It changes no number."""
    mlp_tile: Positive | None = None
    """Tokens that go through a layer's MLP at once, computed again in the backward pass; `none` takes all tokens of a
    micro-batch. It bounds memory and does not change the gradient; experts are not tiled. Not with DeepSpeed's
    zero_stage 3."""
    packing: Literal["auto", "packed", "padded"] = "auto"
    """How responses share a forward pass: `packed` one after the other without padding, `padded` one per padded row;
    `auto` packs where the model supports it."""
    share_prompts: Literal["auto", "always", "never"] = "auto"
    """Whether a group's prompt is computed once for all its responses; `auto` does so where it saves more than a fifth
    of the tokens. What responses begin with is shared with it, where that saves another fifth."""


class LoraConfig(Section):
    """`[lora]`: train a low-rank adapter (2106.09685) instead of all weights."""

    rank: Positive = 16
    """Inner size of the adapter's matrices."""
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    """Scale of the adapter: its output is multiplied by alpha / rank."""
    targets: Annotated[list[str], Field(min_length=1)] = Field(default_factory=lambda: ["all-linear"])
    """Linear layers that get an adapter, by the last part of their names (`q_proj`). `all-linear` takes all except the
    output layer, routers, experts and the layers whose weights a Mamba kernel reads directly."""
    handover: Literal["auto", "adapter", "merged"] = "auto"
    """What each hand-over (weight sync) sends to the sampler: the `adapter` alone, or all weights with the adapter
    `merged` into them; `auto` sends the adapter where the sampler supports it. vLLM servers add it to their own copy
    of the same model."""
    quantization: Literal["nf4"] | None = None
    """Number format of the frozen linear layers in the learner: `nf4`, 4 bits in blocks (QLoRA, 2305.14314), needs
    bitsandbytes; `none` keeps that of the model. The sampler then gets the adapter alone, and a saved model has it
    merged into the original weights."""


class TeacherConfig(Section):
    """`[teacher]`: the frozen model whose log-probabilities are the credit of terms with `credit.kind = "teacher"`."""

    path: str | None = None
    """Teacher: a folder in Hugging Face format, a hub id or an embedded model, with the tokenizer of the policy; `none`
    takes the initial model."""
    servers: list[Url] = Field(default_factory=list)
    """Addresses of vLLM servers that hold the teacher (`reasoner serve`); without any, every rank loads it."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Number format of the teacher's weights; `none` takes `model.dtype`."""
    template: str = "{{ message }}\n\nA reference solution, to learn from and not to mention:\n\n{{ answer }}"
    """Jinja template of the user message for a teacher that sees the solution (`credit.sees`). Its variables are
    `message`, the policy's own message, `answer`, the reference answer, and the columns of the row."""


class CriticConfig(Section):
    """`[critic]`: the value model of terms whose baseline is a critic (PPO)."""

    path: str | None = None
    """Initial weights of the critic: a folder in Hugging Face format or a hub id; `none` takes the model that is
    trained."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-5
    """Peak learning rate of the critic's AdamW; its other settings are those of `[learning]`."""
    value_clip: Annotated[float, Field(gt=0.0)] | None = 0.2
    """Distance that a value may move from its old one before its loss is clipped (1707.06347); `none` never clips."""
