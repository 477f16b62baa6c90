"""The configuration of a run as pydantic models: every key, its type, its range and its unit.

Values come in layers (`reasoner.settings`): built-in defaults, preset, task file, profile, `--config`, `--set`. What is
impossible is refused here, before anything is loaded. The docstring under a field is its documentation.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reasoner.gro.terms import KL, Advantage, Aggregation, Best, Clip, Linear, Term, Threshold

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class Model(BaseModel):
    """Base of all sections: frozen, no unknown keys, no silent conversion of strings to numbers."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class PolicyConfig(Model):
    """`[model]`: the model that is trained."""

    path: str
    """folder in Hugging Face format, hub id, or `embedded:smollm2-135m-instruct`"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """number format of the weights while training and sampling"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where the model is; `auto`: cuda when there is one"""
    trust_remote_code: bool = False
    """run Python code that comes with the model"""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """arguments of the chat template, for example `{enable_thinking = false}`"""


class PromptConfig(Model):
    """`[prompt]`: how a data row becomes a conversation."""

    system: str = ""
    """system message; empty: none"""
    template: str = "{{ question }}"
    """Jinja template of the user message; the row's columns are its variables"""
    examples: list[dict[str, str]] = Field(default_factory=list)
    """worked examples put before the question as earlier turns: `{user = "...", assistant = "..."}`"""

    @model_validator(mode="after")
    def _two_turns(self) -> Self:
        for example in self.examples:
            if set(example) != {"user", "assistant"}:
                raise ValueError(f"examples: each needs exactly `user` and `assistant`, got {sorted(example)}")
        return self


class SourceConfig(Model):
    """`[data.train]`, `[data.eval]`: exactly one of `path`, `hub`, `generator`."""

    path: str | None = None
    """local JSON lines file (.jsonl, .jsonl.gz)"""
    hub: str | None = None
    """data set id on the Hugging Face hub"""
    generator: str | None = None
    """name of a registered generator of problems, for example `gsm_symbolic`"""
    options: dict[str, Any] = Field(default_factory=dict)
    """options of the generator (difficulty), or of `datasets.load_dataset` (`name`, `revision`)"""
    split: str = "train"
    """split of a hub data set"""
    columns: dict[str, str] = Field(default_factory=dict)
    """mapping: `question` and `answer` (and any template variable) to the names in the data"""
    limit: Positive | None = None
    """rows used; None: all (generators need a number)"""
    shuffle: bool = True
    """shuffle with the run's seed (evaluation takes the rows in the same order before and after)"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of a generator; training and evaluation must differ"""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        named = [key for key in ("path", "hub", "generator") if getattr(self, key) is not None]
        if len(named) != 1:
            raise ValueError(f"exactly one of path, hub, generator is needed; got {named or 'none of them'}")
        if self.generator is not None and self.limit is None:
            raise ValueError("a generator needs `limit`, the number of problems")
        return self


class DataConfig(Model):
    """`[data]`: training and evaluation problems."""

    train: SourceConfig
    """problems to train on"""
    eval: SourceConfig
    """problems to evaluate on"""


class SamplingConfig(Model):
    """`[sampling]`: how training responses are drawn."""

    engine: Literal["auto", "vllm", "hf"] = "auto"
    """`auto`: vllm when it can be imported, otherwise hf (transformers)"""
    group_size: Positive = 8
    """responses per problem"""
    temperature: Annotated[float, Field(ge=0.0)] = 1.0
    """T of the sampled distribution, above 0"""
    max_tokens: Positive = 256
    """tokens per response"""
    max_prompt_tokens: Positive = 512
    """tokens; a longer prompt is refused at the start"""
    stop: list[str] = Field(default_factory=list)
    """strings that end a response"""
    top_p: float = 1.0
    """must stay 1: the sampled distribution would not be the trained one"""
    top_k: int = 0
    """must stay 0, for the same reason"""
    repetition_penalty: float = 1.0
    """must stay 1, for the same reason"""
    memory_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.4
    """share of the GPU's memory that vLLM may hold (CUDA only)"""
    kv_cache_gib: Annotated[float, Field(gt=0.0)] = 2.0
    """GiB of KV cache (CPU only)"""

    @model_validator(mode="after")
    def _on_policy(self) -> Self:
        if self.temperature == 0.0:
            raise ValueError("temperature must be above 0 for training samples: a greedy group has no differences")
        for key, neutral in (("top_p", 1.0), ("top_k", 0), ("repetition_penalty", 1.0)):
            if getattr(self, key) != neutral:
                raise ValueError(
                    f"{key} must be {neutral} for training samples, got {getattr(self, key)}: it samples from another "
                    "distribution than the one whose log-probabilities are trained; use temperature"
                )
        return self


class RewardConfig(Model):
    """`[[rewards]]`: one reward source and its weight."""

    source: str
    """name of a registered reward source (`reasoner rewards list`)"""
    weight: float = 1.0
    """factor of the value in the total reward"""
    options: dict[str, Any] = Field(default_factory=dict)
    """the source's own options"""
    timeout_s: Annotated[float, Field(gt=0.0)] | None = None
    """seconds per call before the worker and everything it started is killed; None: the source's own"""


class ScoringConfig(Model):
    """`[scoring]`: the workers that run reward sources."""

    workers: Positive = 2
    """worker processes"""
    memory_mb: Positive = 2048
    """MB of address space that one worker may take"""
    max_failure_rate: Share = 0.5
    """share of failed calls of a source in a step above which the run stops"""


class GroConfig(Model):
    """`[gro]`: the objective. The preset fills every other key; each can be overridden."""

    preset: str
    """name of the method (`reasoner config show` prints what it stands for)"""
    source: Literal["online"]
    """which responses the term reads"""
    credit: Annotated[Advantage | Best | Threshold, Field(discriminator="kind")]
    """how good a response was"""
    evidence: Literal["token"]
    """what the policy says of it"""
    anchor: Literal["old", "none"]
    """the constant that separates pushing up from pushing down"""
    link: Annotated[Linear | Clip, Field(discriminator="kind")]
    """how distance from the anchor becomes weight"""
    aggregation: Aggregation
    """how tokens are summed and normalised"""
    kl: KL
    """penalty for leaving the reference policy, in the loss"""

    @property
    def term(self) -> Term:
        """The choices as the objective takes them."""
        return Term(
            credit=self.credit,
            anchor=self.anchor,
            link=self.link,
            aggregation=self.aggregation,
            kl=self.kl,
            source=self.source,
            evidence=self.evidence,
        )

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if isinstance(self.link, Clip):
            if not 0.0 <= self.link.low <= 1.0 or self.link.high < 0.0:
                raise ValueError(
                    f"link.low must be in [0, 1] and link.high >= 0, got {self.link.low}, {self.link.high}"
                )
            if self.link.dual is not None and self.link.dual <= 1.0:
                raise ValueError(f"link.dual must be above 1, got {self.link.dual}")
            if self.anchor != "old":
                raise ValueError("link.kind = 'clip' needs anchor = 'old': it clips the ratio to the old policy")
        if self.kl.coefficient < 0.0:
            raise ValueError(f"kl.coefficient must be >= 0, got {self.kl.coefficient}")
        if self.aggregation.length is not None and self.aggregation.length < 1:
            raise ValueError(f"aggregation.length must be at least 1 token, got {self.aggregation.length}")
        return self


class LearningConfig(Model):
    """`[learning]`: the optimiser and the memory budget of the update."""

    problems_per_step: Positive = 8
    """problems (groups) per training step"""
    updates_per_step: Positive = 1
    """optimiser steps per batch: the batch is cut into that many mini-batches of whole groups"""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-6
    """peak learning rate of AdamW"""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """optimiser steps of linear warm-up"""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """learning rate after the warm-up, to 0 at the last step"""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """AdamW's moment decays"""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """AdamW's decoupled weight decay"""
    max_grad_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
    """gradient norm above which the gradient is scaled down; None: off"""
    token_budget: Positive = 4096
    """tokens per packed micro-batch; a longer row gets one of its own"""
    logit_chunk: Positive = 256
    """response positions whose logits are in memory at once"""
    gradient_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, about a third more time"""
    share_prompts: Literal["auto", "always", "never"] = "auto"
    """one row holds a group's prompt once; `auto`: where it saves more than a fifth of the tokens"""
    reference: Literal["none", "initial"] = "none"
    """reference policy for the KL penalty: a frozen copy of the initial model, or none"""


class HandoverConfig(Model):
    """`[handover]`: how it is verified that the sampler holds the trained weights."""

    check_every: Positive = 5
    """steps between comparisons of the sampler's log-probabilities with the learner's; the first is always checked"""
    max_gap: Annotated[float, Field(gt=0.0)] | None = None
    """mean absolute difference per token that stops the run; None: 1e-3 in float32, 0.1 in bfloat16"""


class EvaluationConfig(Model):
    """`[evaluation]`: before, during and after training."""

    every: Annotated[int, Field(ge=0)] = 0
    """steps between evaluations; 0: only before and after"""
    samples: Positive = 1
    """responses per problem (the k of avg@k, pass@k, maj@k)"""
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """0: greedy"""
    max_tokens: Positive | None = None
    """tokens per response; None: as in sampling"""
    correct: str
    """the reward source whose value decides whether a response is correct"""

    @model_validator(mode="after")
    def _greedy_once(self) -> Self:
        if self.temperature == 0.0 and self.samples > 1:
            raise ValueError(
                f"samples = {self.samples} at temperature 0 gives the same response every time; raise temperature"
            )
        return self


class RunConfig(Model):
    """`[run]`: length and place of the run."""

    steps: Positive = 100
    """training steps"""
    output: str = "runs"
    """folder that holds the run folders"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of sampling, shuffling and initialisation"""


class Config(Model):
    """A complete, resolved configuration. Starting from it reproduces the run."""

    task: str
    """name of the task"""
    title: str = ""
    """one line that says what the task trains"""
    profile: str
    """the profile that was chosen"""
    plugins: list[str] = Field(default_factory=list)
    """Python files with hooks, loaded beside the installed distributions"""
    run: RunConfig = Field(default_factory=RunConfig)
    """length and place of the run"""
    model: PolicyConfig
    """the model that is trained"""
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    """how a data row becomes a conversation"""
    data: DataConfig
    """training and evaluation problems"""
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    """how training responses are drawn"""
    rewards: Annotated[list[RewardConfig], Field(min_length=1)]
    """reward sources and their weights"""
    scoring: ScoringConfig = Field(default_factory=ScoringConfig)
    """the workers that run reward sources"""
    gro: GroConfig
    """the objective"""
    learning: LearningConfig = Field(default_factory=LearningConfig)
    """the optimiser and the memory budget of the update"""
    handover: HandoverConfig = Field(default_factory=HandoverConfig)
    """how it is verified that the sampler holds the trained weights"""
    evaluation: EvaluationConfig
    """before, during and after training"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [reward.source for reward in self.rewards]
        if len(set(names)) != len(names):
            raise ValueError(f"rewards: each source may appear once, got {names}")
        if self.evaluation.correct not in names:
            raise ValueError(f"evaluation.correct = {self.evaluation.correct!r} is not among the rewards: {names}")
        _check_credit(self)
        if self.learning.problems_per_step % self.learning.updates_per_step:
            raise ValueError(
                f"learning.problems_per_step = {self.learning.problems_per_step} is not divisible by "
                f"learning.updates_per_step = {self.learning.updates_per_step}: every mini-batch holds whole groups"
            )
        if isinstance(self.gro.link, Linear) and self.gro.anchor == "old" and self.learning.updates_per_step > 1:
            raise ValueError(
                f"learning.updates_per_step = {self.learning.updates_per_step} with gro.link.kind = 'linear': without "
                "a ratio the second update would be off-policy and wrong; use 1, or gro.link.kind = 'clip'"
            )
        if self.gro.kl.coefficient > 0.0 and self.learning.reference == "none":
            raise ValueError(
                f"gro.kl.coefficient = {self.gro.kl.coefficient} needs a reference policy and learning.reference is "
                "'none'; set learning.reference = 'initial', or the coefficient to 0"
            )
        if self.learning.warmup_steps > self.run.steps * self.learning.updates_per_step:
            raise ValueError(
                f"learning.warmup_steps = {self.learning.warmup_steps} is more than the run's "
                f"{self.run.steps * self.learning.updates_per_step} optimiser steps"
            )
        train, held_out = self.data.train, self.data.eval
        if train.generator is not None and train.generator == held_out.generator and train.seed == held_out.seed:
            raise ValueError(
                f"data.train.seed and data.eval.seed are both {train.seed}: the generator would give the same "
                "problems for training and evaluation"
            )
        return self


def _check_credit(config: Config) -> None:
    credit, size = config.gro.credit, config.sampling.group_size
    compares = isinstance(credit, Best) or (
        isinstance(credit, Advantage) and (credit.baseline in ("mean", "leave-one-out") or credit.scale == "group")
    )
    if compares and size < 2:
        raise ValueError(
            f"sampling.group_size = {size} with gro.preset = {config.gro.preset!r}: its credit compares the responses "
            "of a group, which needs at least 2; raise sampling.group_size, or take gro.preset = 'reinforce'"
        )
