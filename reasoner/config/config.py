"""The configuration of a run as pydantic models: every key, its type, its range and its unit.

Values come in layers (`reasoner.loading`): built-in defaults, preset, task file, profile, `--config`, `--set`. What is
impossible is refused here, before anything is loaded. The docstring under a field is its documentation.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from reasoner.config.consistency import CHECKS
from reasoner.errors import ConfigError
from reasoner.gro.spec.schedules import Constant, MetricSwitch, Ramp, Switch
from reasoner.gro.spec.terms import (
    KL,
    Advantage,
    Aggregation,
    Anchor,
    Best,
    Chosen,
    Clip,
    Correction,
    CustomCredit,
    CustomLink,
    Divergence,
    Evidence,
    Gamma,
    Hinge,
    Label,
    Linear,
    LogSigmoid,
    Marginal,
    One,
    Pairing,
    PassAtK,
    Ratio,
    Sigmoid,
    SoftClip,
    Source,
    Square,
    Teacher,
    Term,
    Threshold,
    Truncate,
)
from reasoner.gro.spec.validation import mistake_of_term
from reasoner.io.http_json import Url

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
DecayFactor = Annotated[float, Field(ge=0.0, lt=1.0)]
COLDEST, HOTTEST = 0.01, 2.0
"""temperatures that sample: vLLM raises lower ones to the first without an error, and refuses those above the second.
The rule is the same for transformers, so that a run can change its engine."""


def mistake_of_temperature(temperature: float) -> str:
    """What is wrong with a sampling temperature, or an empty string."""
    if temperature == 0.0 or COLDEST <= temperature <= HOTTEST:
        return ""
    return f"must be 0 (greedy) or from {COLDEST:g} to {HOTTEST:g}"


def _temperature(temperature: float) -> float:
    if wrong := mistake_of_temperature(temperature):
        raise PydanticCustomError("temperature", wrong)
    return temperature


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, no silent conversion of strings to numbers."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class PolicyConfig(Section):
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


class PromptConfig(Section):
    """`[prompt]`: how a data row becomes a prompt."""

    format: Literal["chat", "plain"] = "chat"
    """`chat`: a conversation, written with the model's chat template; `plain`: the text that `template` makes, for base
    models, with `system` and `examples` among its variables"""
    system: str = ""
    """system message; empty: none"""
    system_role: Literal["system", "user"] = "system"
    """`user`: system messages are put before the first user message, for chat templates that leave them out or refuse
    them"""
    template: str = "{{ question }}"
    """Jinja template of the user message (with `format = "plain"` of the whole text); the row's columns are its
    variables"""
    examples: list[dict[str, str]] = Field(default_factory=list)
    """worked examples put before the question as earlier turns: `{user = "...", assistant = "..."}`"""

    @model_validator(mode="after")
    def _two_turns(self) -> Self:
        for example in self.examples:
            if set(example) != {"user", "assistant"}:
                raise ValueError(f"examples: each needs exactly `user` and `assistant`, got {sorted(example)}")
        return self


class SourceConfig(Section):
    """`[data.train]`, `[data.eval]`: exactly one of `path`, `hub`, `generator`."""

    path: str | Annotated[list[str], Field(min_length=1)] | None = None
    """local file (.jsonl, .json, .csv, .tsv, .parquet), a pattern such as `shards/*.parquet`, or a list of them; in a
    task or configuration file relative to that file"""
    hub: str | None = None
    """data set id on the Hugging Face hub"""
    generator: str | None = None
    """name of a registered generator of problems, for example `gsm_symbolic`"""
    options: dict[str, Any] = Field(default_factory=dict)
    """options of the generator (difficulty), or of `datasets.load_dataset` (`name`, `revision`)"""
    split: str = "train"
    """split of a hub data set"""
    columns: dict[str, str] = Field(default_factory=dict)
    """`question` and `answer` (and any template variable) -> the field's name in the data, or a Jinja template of the
    row such as `{{ reward_model.ground_truth }}`"""
    limit: Positive | None = None
    """rows used; None: all (generators need a number)"""
    shuffle: bool = True
    """shuffle with the run's seed; `data.eval` always in the same way, so that runs with other seeds are evaluated on
    the same problems"""
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


class OfflineConfig(SourceConfig):
    """`[data.pairs]`, `[data.labelled]`, `[data.demos]`: responses that somebody else wrote."""

    per_step: Positive | None = None
    """rows per training step; None: learning.problems_per_step"""
    max_tokens: Positive = 1024
    """tokens of a prompt and its longest response together; longer rows cannot be used (`data.on_bad_row`)"""


class DataConfig(Section):
    """`[data]`: problems to train and evaluate on, and offline responses."""

    train: SourceConfig | None = None
    """problems to train on; needed by terms that read fresh groups"""
    eval: SourceConfig | None = None
    """problems to evaluate on"""
    pairs: OfflineConfig | None = None
    """preference pairs: `prompt`, `chosen`, `rejected`"""
    labelled: OfflineConfig | None = None
    """single responses with a verdict: `prompt`, `completion`, `label`"""
    demos: OfflineConfig | None = None
    """demonstrations: `prompt`, `completion`, or `messages`"""
    overlap: Literal["refuse", "drop", "allow"] = "refuse"
    """training problems that are evaluation problems, but for white space, case and punctuation: the run is refused,
    they are left out (generated ones always are, unless allowed), or they stay"""
    holdout: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """share of the problems that is held out for evaluation, in the place of `data.eval`, whatever `run.seed` is; of
    `pairs`, `labelled` and `demos`, too"""
    on_bad_row: Literal["refuse", "drop"] = "refuse"
    """rows that cannot be used (an empty answer, a missing field, a prompt that is too long): the run is refused with a
    list of them, or they are left out, and duplicates too; how many were is said"""

    @property
    def sources(self) -> dict[str, SourceConfig]:
        """The data sets that are set, by name."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: source for name, source in named.items() if isinstance(source, SourceConfig)}


class CurriculumConfig(Section):
    """`[curriculum]`: which training problems a step takes, from how past groups on them went."""

    kind: Literal["none", "pass-rate"] = "none"
    """`none`: every problem once per epoch; `pass-rate`: those that are always or never solved rest for a while, those
    that are solved about half of the time are preferred"""
    longest_rest: Positive = 8
    """epochs in a row that a problem is passed over at most"""


class SamplingConfig(Section):
    """`[sampling]`: how training responses are drawn."""

    engine: Literal["auto", "vllm", "hf"] = "auto"
    """`auto`: vllm when it can be imported, otherwise hf (transformers)"""
    mode: Literal["colocated", "server"] = "colocated"
    """`colocated`: an engine in every rank; `server`: the vLLM servers of `servers`"""
    servers: list[Url] = Field(default_factory=list)
    """addresses of vLLM servers that `reasoner serve` started, such as `http://127.0.0.1:8000`"""
    weights_folder: str | None = None
    """folder through which the servers get new weights, one that they see under the same path; None: this machine's
    memory, for servers on this machine"""
    group_size: Positive = 8
    """responses per problem"""
    temperature: Annotated[float, Field(ge=COLDEST, le=HOTTEST)] = 1.0
    """T of the sampled distribution; not 0, because a greedy group has no differences"""
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
    tensor_parallel: Positive = 1
    """GPUs over which a vLLM engine spreads the model; with several ranks, so many neighbours share an engine"""
    refills: Annotated[int, Field(ge=0)] = 0
    """dynamic sampling: times per step that groups whose rewards are all equal are dropped and replaced by fresh
    problems; 0: they stay (and cost no update)"""
    kv_cache_gib: Annotated[float, Field(gt=0.0)] = 2.0
    """GiB of KV cache (CPU only)"""
    ahead: Annotated[int, Field(ge=0, le=1)] = 0
    """1: draw the next step's responses during the update, one step off-policy, corrected for it; 0: on-policy"""

    @model_validator(mode="after")
    def _servers_with_their_mode(self) -> Self:
        if self.mode == "colocated":
            for key in ("servers", "weights_folder"):
                if getattr(self, key):
                    raise ValueError(
                        f"{key} has no effect with mode = 'colocated'; set mode = 'server', or leave it out"
                    )
            return self
        if not self.servers:
            raise ValueError("mode = 'server' needs servers: start some with `reasoner serve TASK --port 8000`")
        if self.engine == "hf":
            raise ValueError("engine = 'hf' has no servers; leave engine out, or set mode = 'colocated'")
        plain = [url.rstrip("/") for url in self.servers]
        twice = next((url for url in plain if plain.count(url) > 1), None)
        if twice:
            raise ValueError(f"servers names {twice} twice; name each server once")
        query = next((url for url in plain if "?" in url), None)
        if query:
            raise ValueError(f"servers: {query} has a query; give the address alone (a key goes into VLLM_API_KEY)")
        return self

    @model_validator(mode="after")
    def _on_policy(self) -> Self:
        for key, neutral in (("top_p", 1.0), ("top_k", 0), ("repetition_penalty", 1.0)):
            if getattr(self, key) != neutral:
                raise ValueError(
                    f"{key} must be {neutral} for training samples, got {getattr(self, key)}: it samples from another "
                    "distribution than the one whose log-probabilities are trained; use temperature"
                )
        return self


class RewardConfig(Section):
    """`[[rewards]]`: one reward source and its weight."""

    source: str
    """name of a registered reward source (`reasoner rewards list`)"""
    weight: float = 1.0
    """factor of the value in the total reward"""
    options: dict[str, Any] = Field(default_factory=dict)
    """the source's own options"""
    timeout_s: Annotated[float, Field(gt=0.0)] | None = None
    """seconds per call before the worker and everything it started is killed; None: the source's own"""
    gate: bool = False
    """not summed: where the value is 0 or below, the total reward is at most 0"""
    when: str | None = None
    """an earlier reward source: scored only where that one's value is above 0, and contributes 0 elsewhere"""
    on_failure: Literal["abstain", "zero", "drop-group", "abort"] = "abstain"
    """what a failed call does: the response has no reward, the value is 0, its group has no rewards, the run stops"""
    retries: Annotated[int, Field(ge=0)] | None = None
    """further attempts after one that raised, within `timeout_s`; None: the source's own"""
    max_calls: Annotated[int, Field(ge=0)] | None = None
    """calls per run, retries not counted; those beyond fail; None: no limit"""

    @model_validator(mode="after")
    def _gate_without_weight(self) -> Self:
        if self.gate and self.weight != type(self).model_fields["weight"].default:
            raise ValueError(
                f"weight = {self.weight} of the gate {self.source!r} would have no effect: a gate is not summed; "
                "leave weight out, or gate"
            )
        return self


class ScoringConfig(Section):
    """`[scoring]`: the workers that run reward sources."""

    workers: Positive = 2
    """worker processes that sources without workers of their own share"""
    memory_mb: Positive = 2048
    """MB of address space that one worker may take"""
    max_failure_rate: Fraction = 0.5
    """share of responses on which a source fails, in a step, above which the run stops"""
    cache: Annotated[int, Field(ge=0)] = 100_000
    """scores that are kept for equal calls; 0: none, and every call is made"""


class TermConfig(Section):
    """`[gro.terms.NAME]`: one term of the objective. `preset` fills every other key; each can be overridden."""

    preset: str = ""
    """name of the method that fills the other keys (`reasoner algorithms list`); empty: none"""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """lambda of the term, times the schedule"""
    schedule: Annotated[Constant | Ramp | Switch | MetricSwitch, Field(discriminator="kind")] = Constant()
    """factor of the weight over the run"""
    source: Source = "online"
    """which responses: fresh groups, or one of the data sets `[data.pairs]`, `[data.labelled]`, `[data.demos]`"""
    credit: Annotated[
        Advantage | Best | Marginal | PassAtK | Threshold | Label | One | Chosen | Teacher | CustomCredit,
        Field(discriminator="kind"),
    ] = Advantage()
    """how good a response was"""
    evidence: Evidence = Evidence()
    """what the policy says of it"""
    anchor: Anchor = Anchor()
    """the constant that separates pushing up from pushing down"""
    link: Annotated[
        Linear
        | Ratio
        | Clip
        | SoftClip
        | Divergence
        | Truncate
        | Gamma
        | LogSigmoid
        | Sigmoid
        | Square
        | Hinge
        | CustomLink,
        Field(discriminator="kind"),
    ] = Linear()
    """how distance from the anchor becomes weight"""
    aggregation: Aggregation = Aggregation()
    """how units are summed and normalised"""
    kl: KL = KL()
    """penalty for leaving the reference policy"""
    correction: Correction = Correction()
    """for the gap between sampler and learner"""
    pairing: Pairing = Pairing()
    """how pairs are found in a group"""
    entropy: Annotated[float, Field(ge=0.0)] = 0.0
    """coefficient of the entropy bonus, aggregated as the term"""
    mask_truncated: bool = False
    """responses cut at the length limit get no weight"""

    @property
    def term(self) -> Term:
        """The choices as the objective takes them."""
        return Term(**{each.name: getattr(self, each.name) for each in dataclasses.fields(Term)})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if found := mistake_of_term(self.term):
            raise ValueError(found)
        return self


class GroConfig(Section):
    """`[gro]`: the objective, a sum of terms."""

    preset: str = ""
    """name of the method or mixture (`reasoner algorithms list`): it fills `terms`; empty: the terms alone"""
    terms: dict[str, TermConfig] = Field(default_factory=dict)
    """the terms by name; each can be overridden: `--set gro.terms.grpo.link.high=0.28`; none: nothing is trained"""

    def reads(self, source: Source) -> bool:
        """Whether some term reads that source."""
        return any(term.source == source for term in self.terms.values())

    @property
    def needs_critic(self) -> bool:
        """Whether some term's baseline is a critic."""
        return any(config.term.needs_critic for config in self.terms.values())

    @property
    def needs_reference(self) -> bool:
        """Whether some term compares with the reference policy."""
        return any(config.term.needs_reference for config in self.terms.values())

    @property
    def needs_teacher(self) -> bool:
        """Whether some term's credit is a teacher's."""
        return any(config.term.needs_teacher for config in self.terms.values())

    @property
    def teacher_sees(self) -> str:
        """What the teacher reads before a response (`credit.sees`), the same for all terms; empty: there is none."""
        credits = (config.credit for config in self.terms.values())
        return next((credit.sees for credit in credits if isinstance(credit, Teacher)), "")


class DeepspeedConfig(Section):
    """`[learning.deepspeed]`: how DeepSpeed spreads the learner's memory (docs/scaling.md)."""

    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """what is sharded over the ranks: 1 optimiser state, 2 gradients too, 3 parameters too; 0: nothing"""
    offload_optimizer: bool = False
    """keep the optimiser's state in host memory and step there (zero_stage 1 to 3)"""
    offload_parameters: bool = False
    """keep parameters in host memory until they are used (zero_stage 3)"""
    config: str | None = None
    """JSON file with further settings for DeepSpeed; one that contradicts ours is refused"""

    @model_validator(mode="after")
    def _offload_what_is_sharded(self) -> Self:
        for key, least in (("offload_optimizer", 1), ("offload_parameters", 3)):
            if getattr(self, key) and self.zero_stage < least:
                raise ValueError(f"{key} needs zero_stage = {least} or more, got {self.zero_stage}")
        return self


class LearningConfig(Section):
    """`[learning]`: the optimiser and the memory budget of the update."""

    engine: Literal["auto", "torch", "deepspeed"] = "auto"
    """what computes gradients and steps; `auto`: torch, or deepspeed with several ranks"""
    deepspeed: DeepspeedConfig = Field(default_factory=DeepspeedConfig)
    """how DeepSpeed spreads the learner's memory"""
    problems_per_step: Positive = 8
    """problems (groups) per training step"""
    updates_per_step: Positive = 1
    """optimiser steps per pass over a batch: it is cut into that many mini-batches of whole groups"""
    epochs: Positive = 1
    """passes over a batch; the old policy's log-probabilities are computed once"""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-6
    """peak learning rate of AdamW"""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """optimiser steps of linear warm-up"""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """learning rate after the warm-up, to 0 at the last step"""
    betas: tuple[DecayFactor, DecayFactor] = (0.9, 0.999)
    """AdamW's moment decays"""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """AdamW's decoupled weight decay"""
    max_grad_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
    """gradient norm above which the gradient is scaled down; None: off"""
    max_not_finite: Positive = 3
    """training steps in a row with a loss or gradient that is not finite, each skipped, at which the run stops"""
    token_budget: Positive = 4096
    """tokens per packed micro-batch; a longer row gets one of its own"""
    logit_chunk: Positive = 256
    """response positions whose logits are in memory at once"""
    gradient_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, about a third more time"""
    packing: Literal["auto", "packed", "padded"] = "auto"
    """whether responses go through the model one after the other without padding (`packed`) or one per padded sequence;
    `auto`: packed where the model can"""
    share_prompts: Literal["auto", "always", "never"] = "auto"
    """one row holds a group's prompt once; `auto`: where it saves more than a fifth of the tokens"""
    reference: Literal["auto", "none"] = "auto"
    """reference policy: a frozen copy of the initial model where a term needs one (`auto`), or never"""


class LoraConfig(Section):
    """`[lora]`: train a low-rank adapter (2106.09685) instead of all weights."""

    rank: Positive = 16
    """inner size of the adapter's matrices"""
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    """the adapter's output is scaled by alpha / rank"""
    targets: Annotated[list[str], Field(min_length=1)] = Field(default_factory=lambda: ["all-linear"])
    """last parts of the names of linear layers (`q_proj`); `all-linear`: all but the output layer, routers, experts and
    what the kernels of a Mamba layer read themselves"""
    handover: Literal["auto", "adapter", "merged"] = "auto"
    """what the sampler gets: the `adapter` alone, or all weights with the adapter `merged` into them; `auto`: the
    adapter where the sampler can take it"""


class CriticConfig(Section):
    """`[critic]`: the value model of terms whose baseline is a critic (PPO)."""

    path: str | None = None
    """folder in Hugging Face format or hub id; None: the model that is trained"""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-5
    """peak learning rate of its AdamW; the rest is as in learning"""
    value_clip: Annotated[float, Field(gt=0.0)] | None = 0.2
    """how far a value may move from its old one before its loss is clipped (1707.06347); None: off"""


class TeacherConfig(Section):
    """`[teacher]`: the frozen model whose log-probabilities are the credit of terms with `credit.kind = "teacher"`."""

    path: str | None = None
    """folder in Hugging Face format, hub id or embedded model, with the policy's tokenizer; None: the initial model"""
    servers: list[Url] = Field(default_factory=list)
    """addresses of vLLM servers that hold it (`reasoner serve`); none: every rank loads it"""
    dtype: Literal["float32", "bfloat16"] | None = None
    """number format of its weights; None: as model.dtype"""
    template: str = "{{ message }}\n\nA reference solution, to learn from and not to mention:\n\n{{ answer }}"
    """Jinja template of the user message that a teacher who sees the solution reads (`credit.sees`); `message` is the
    policy's, `answer` the reference, and the row's columns are variables too"""


class HandoverConfig(Section):
    """`[handover]`: how it is verified that the sampler holds the trained weights."""

    check_every: Positive = 5
    """steps between comparisons of the sampler's log-probabilities with the learner's; the first is always checked"""
    max_gap: Annotated[float, Field(gt=0.0)] | None = None
    """mean absolute difference per token that stops the run; None: 1e-3 in float32, 0.1 in bfloat16"""


class EvaluationConfig(Section):
    """`[evaluation]`: before, during and after training."""

    every: Annotated[int, Field(ge=0)] = 0
    """steps between evaluations, on `data.eval` and on what is held out of offline data; 0: only before and after"""
    samples: Positive = 1
    """responses per problem (the k of avg@k, pass@k, maj@k)"""
    temperature: Annotated[float, AfterValidator(_temperature)] = 0.0
    """0: greedy; otherwise from 0.01 to 2"""
    max_tokens: Positive | None = None
    """tokens per response; None: as in sampling"""
    correct: str = ""
    """the reward source whose value decides whether a response is correct; needed where responses are sampled"""
    threshold: float = 1.0
    """value of that source from which on a response is correct: 0.8 for a judge that rarely gives full marks"""

    @model_validator(mode="after")
    def _greedy_once(self) -> Self:
        if self.temperature == 0.0 and self.samples > 1:
            raise ValueError(
                f"samples = {self.samples} at temperature 0 gives the same response every time; raise temperature"
            )
        return self


class RunConfig(Section):
    """`[run]`: length and place of the run."""

    ranks: Positive = 1
    """processes that train together, one per GPU (`--gpus`)"""
    steps: Positive = 100
    """training steps"""
    output: str = "runs"
    """folder that holds the run folders"""
    max_hours: Annotated[float, Field(gt=0.0)] | None = None
    """hours after which the run ends and can be gone on with; it saves before they are over; None: no limit"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of sampling and of shuffling the training data"""
    checkpoint_every: Positive | None = None
    """steps between checkpoints; None: as often as it takes 2% of the time. The last step has one in any case"""
    keep_last: Annotated[int, Field(ge=0)] = 2
    """newest checkpoints that are kept while the run goes, one when it is finished; 0: none is written at all, and the
    run cannot be resumed"""
    keep_best: Annotated[int, Field(ge=0)] = 1
    """checkpoints that are kept beside them: those with the best evaluations (`evaluation.every`)"""


class Config(Section):
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
    curriculum: CurriculumConfig = Field(default_factory=CurriculumConfig)
    """which training problems a step takes"""
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    """how training responses are drawn"""
    rewards: list[RewardConfig] = Field(default_factory=list)
    """reward sources and their weights"""
    scoring: ScoringConfig = Field(default_factory=ScoringConfig)
    """the workers that run reward sources"""
    gro: GroConfig = Field(default_factory=GroConfig)
    """the objective; without one the task only evaluates"""
    learning: LearningConfig = Field(default_factory=LearningConfig)
    """the optimiser and the memory budget of the update"""
    lora: LoraConfig | None = None
    """train an adapter; not set: all weights"""
    critic: CriticConfig = Field(default_factory=CriticConfig)
    """the value model of terms whose baseline is a critic"""
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    """the frozen model of terms whose credit is a teacher's"""
    handover: HandoverConfig = Field(default_factory=HandoverConfig)
    """how it is verified that the sampler holds the trained weights"""
    evaluation: EvaluationConfig | None = None
    """before, during and after training; needed by terms that read fresh groups"""
    trackers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """where the figures of a training go beside its run folder: `[trackers.tensorboard]`, with the tracker's options"""

    @property
    def online(self) -> bool:
        """Whether some term reads fresh groups."""
        return self.gro.reads("online")

    @property
    def has_sampler(self) -> bool:
        """Whether a training samples and scores: for terms that read fresh groups, or for its evaluations alone, where
        there are problems in `data.eval`, rewards, and one that decides."""
        decides = self.evaluation is not None and self.evaluation.correct != ""
        return self.online or (self.data.eval is not None and bool(self.rewards) and decides)

    @property
    def needs_initial(self) -> bool:
        """Whether the initial model is kept beside the trained one: as the reference, or as the teacher."""
        return self.gro.needs_reference or (self.gro.needs_teacher and self.teacher.path is None)

    @property
    def loads_teacher(self) -> bool:
        """Whether every rank holds a teacher that is another model."""
        return self.gro.needs_teacher and self.teacher.path is not None and not self.teacher.servers

    @property
    def conditions(self) -> dict[str, str]:
        """Reward source -> the one that it is `when`."""
        return {reward.source: reward.when for reward in self.rewards if reward.when is not None}

    @property
    def learner(self) -> Literal["torch", "deepspeed"]:
        """The engine that computes gradients and steps."""
        if self.learning.engine == "auto":
            return "torch" if self.run.ranks == 1 else "deepspeed"
        return self.learning.engine

    @property
    def optimizer_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.run.steps * self.learning.updates_per_step * self.learning.epochs

    @property
    def required_evaluation(self) -> EvaluationConfig:
        """`evaluation`, where the command needs it.

        Raises:
            ConfigError: it is not set, or does not say what is correct.
        """
        if self.evaluation is None or not self.evaluation.correct:
            raise ConfigError("evaluation.correct is needed and not set: the reward source that decides.")
        return self.evaluation

    def check_trains(self, typed: str) -> None:
        """Refuse to train on a task that only evaluates.

        Args:
            typed: what names the task on the command line (`Resolved.typed`).

        Raises:
            ConfigError: there is no method; it says how to evaluate, and how to train all the same.
        """
        if not self.gro.terms:
            raise ConfigError(
                f"task {self.task!r} only evaluates: it names no method to train with. Evaluate a model on it with "
                f"`reasoner eval {typed}`; to train on it, give it a method and training problems: "
                "--set gro.preset=grpo --set data.train.path=FILE (`reasoner algorithms list`)."
            )

    def per_step(self, source: Source) -> int:
        """Groups of a source per training step."""
        offline: OfflineConfig | None = None if source == "online" else getattr(self.data, source)
        return (offline.per_step if offline else None) or self.learning.problems_per_step

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for check in CHECKS:
            check(self)
        return self
