"""Whether a run fits, how long its sequences can be, and what to change: for `reasoner plan` and every run's start."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from pydantic import ValidationError

from reasoner.config import Config
from reasoner.gro.spec.terms import SOURCES
from reasoner.models.size import ModelSize, find_size
from reasoner.planning.memory.learner import moment_bytes
from reasoner.planning.memory.needs import TIGHT, Need, check_memory, describe_memory, needs
from reasoner.planning.memory.sampler import VLLM as VLLM_BYTES
from reasoner.planning.memory.sampler import cache_bytes, cache_token_bytes, published_bytes, sampler_bytes
from reasoner.planning.memory.tokens import longest_row, longest_sequence, micro_batch_tokens, share_tokens
from reasoner.processes.machine import GIB, Machine, describe_handover
from reasoner.sampling.factory import merge_reason

FitVerdict = Literal["fits", "tight", "does not fit", "not known"]
Changes = Mapping[str, Any]
"""dotted key -> value"""
TILE = 2048
"""tokens of an MLP's tile where one is proposed: enough for a GPU to be busy"""
_LONGEST = 2**20
"""tokens of a context beyond which nothing is looked for"""


@dataclass(frozen=True)
class RunEstimate:
    """A run, its models and the machine."""

    config: Config
    model: ModelSize
    critic: ModelSize
    machine: Machine
    engine: str
    """`vllm`, `hf`, or another where no engine of this machine samples"""
    teacher: ModelSize | None = None
    """a model that is loaded beside the policy; None: there is none"""

    @cached_property
    def needs(self) -> tuple[Need, ...]:
        """By moment."""
        return needs(self.config, self.model, self.critic, self.machine, self.engine, teacher=self.teacher)

    def there(self, need: Need) -> float | None:
        """Bytes that are free for it; None: not known."""
        return self.machine.free.get(need.where)

    def verdict(self, need: Need) -> FitVerdict:
        """Whether a moment fits. vLLM does not start where its cache cannot hold the longest sequence."""
        there = self.there(need)
        if there is None:
            return "not known"
        drawing = need.when == "while sampling" and self.engine == "vllm"
        if need.total > there or (drawing and self.cached_sequences < 1):
            return "does not fit"
        return "fits" if need.total <= TIGHT * there else "tight"

    @property
    def verdicts(self) -> list[FitVerdict]:
        """Of every moment."""
        return [self.verdict(need) for need in self.needs]

    @property
    def excess(self) -> float:
        """By how many bytes the moments miss what is free, summed."""
        missing = max(0.0, 1.0 - self.cached_sequences) * GIB if self.engine == "vllm" else 0.0
        over = (need.total - TIGHT * there for need in self.needs if (there := self.there(need)) is not None)
        return missing + sum(max(0.0, excess) for excess in over)

    @property
    def cached_sequences(self) -> float:
        """Sequences of full length that vLLM's KV cache holds."""
        per_sequence = longest_sequence(self.config) * cache_token_bytes(self.config, self.model)
        cache = cache_bytes(self.config, self.model, self.machine, self.engine)
        return cache / per_sequence if per_sequence else math.inf

    @property
    def micro_batches(self) -> int:
        """Of a rank in a pass over a batch, at most."""
        at_once = micro_batch_tokens(self.config) * self.config.learning.sequence_parallel
        return max(1, -(-share_tokens(self.config) // max(1, at_once)))

    def changed(self, changes: Changes) -> RunEstimate | None:
        """The same with other settings; None: they contradict each other."""
        values = json.loads(self.config.model_dump_json())
        for key, value in changes.items():
            section = values
            *parents, last = key.split(".")
            for parent in parents:
                section[parent] = section.get(parent) or {}
                section = section[parent]
            section[last] = value
        try:
            config = Config.model_validate_json(json.dumps(values))
        except ValidationError:
            return None
        model = self.model
        if self.config.lora is None and config.lora is not None:
            model = model.with_adapter(config.lora)
        return replace(self, config=config, model=model)

    @property
    def decided(self) -> RunEstimate:
        """With `learning.gradient_checkpointing = "auto"` decided: off where every moment whose memory is known fits
        without it."""
        if self.config.learning.gradient_checkpointing != "auto":
            return self
        without = self._recomputing(False)
        return without if set(without.verdicts) <= {"fits", "not known"} else self._recomputing(True)

    def _recomputing(self, on: bool) -> RunEstimate:
        learning = self.config.learning.model_copy(update={"gradient_checkpointing": on})
        return replace(self, config=self.config.model_copy(update={"learning": learning}))

    @cached_property
    def longest_context(self) -> tuple[int, str]:
        """Tokens of the longest prompt and response that a rank can hold, and what ends it."""
        most = self.model.context or _LONGEST
        low, high = 0, most + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._too_long(middle) else (middle, high)
        if low == most:
            return low, "the positions that the model knows" if self.model.context else "nothing longer was looked for"
        return low, self._too_long(low + 1)

    @cached_property
    def doubling(self) -> Changes:
        """The least invasive settings with which twice the longest context fits; empty: there are none, or memory is
        not what ends it."""
        tokens, _ = self.longest_context
        if not tokens or 2 * tokens > (self.model.context or _LONGEST):
            return {}
        return self._with_context(2 * tokens).advice or {}

    def _with_context(self, tokens: int) -> RunEstimate:
        """The same with prompts and responses of so many tokens together."""
        sampling = self.config.sampling
        prompt = min(sampling.max_prompt_tokens, max(1, tokens - 1))
        lengths = {"max_prompt_tokens": prompt, "max_tokens": tokens - prompt}
        offline: dict[str, Any] = {
            source: section.model_copy(update={"max_tokens": tokens})
            for source in SOURCES
            if (section := getattr(self.config.data, source, None)) and self.config.gro.reads(source)
        }
        sections = {
            "sampling": sampling.model_copy(update=lengths),
            "data": self.config.data.model_copy(update=offline),
        }
        return replace(self, config=self.config.model_copy(update=sections))

    def _too_long(self, tokens: int) -> str:
        """What a context of so many tokens does not fit into; empty: nothing."""
        other = self._with_context(tokens)
        for need in other.needs:
            there = self.there(need)
            if there is not None and need.total > there:
                return f"{need.where} {need.when}"
        return "vLLM's KV cache" if self.engine == "vllm" and other.cached_sequences < 1 else ""

    @cached_property
    def advice(self) -> Changes | None:
        """The least invasive settings with which every moment fits; empty: it does already; None: there are none."""
        if not self.excess:
            return {}
        ladders = list(_ladders(self))
        for ladder in ladders:
            for step in ladder:
                if (other := self.changed(step)) and not other.excess:
                    return step
        together, _ = self._together(ladders)
        return self._quantized() if together is None else together

    def _quantized(self) -> Changes | None:
        """An adapter beside a base model of 4 bits, with what it takes beside it; None: that does not fit either."""
        for step in _quantizations(self):
            if other := self.changed(step):
                ladders = [ladder for ladder in _ladders(other) if ladder and "learning.engine" not in ladder[0]]
                rest, _ = other._together(ladders) if other.excess else ({}, other)
                if rest is not None:
                    return _merged([step, rest])
        return None

    def _together(self, ladders: Sequence[Sequence[Changes]]) -> tuple[Changes | None, RunEstimate]:
        """Several settings, each as far as it must, and none that is not needed; None: they are not enough. And the
        estimate with those that helped."""
        taken: list[Changes] = []
        current = self
        for ladder in ladders:
            for step in ladder:
                other = self.changed(_merged([*taken, step]))
                if other and not other.excess:
                    return self._without_needless([*taken, step]), other
            last = self.changed(_merged([*taken, ladder[-1]])) if ladder else None
            if last and last.excess < current.excess:
                taken, current = [*taken, ladder[-1]], last
        return None, current

    def _without_needless(self, taken: list[Changes]) -> Changes:
        for step in list(taken):
            fewer = [change for change in taken if change is not step]
            other = self.changed(_merged(fewer))
            if other and not other.excess:
                taken = fewer
        return _merged(taken)

    def advise(self) -> str:
        """What to do, in a sentence."""
        if self.advice is None:
            return (
                "No setting makes it fit: take a smaller model, more or larger GPUs, or end other programs "
                "(docs/scaling.md)."
            )
        if not self.advice:
            return "Nothing must change."
        settings = ", ".join(f"{key} = {json.dumps(value)}" for key, value in self.advice.items())
        return " ".join(filter(None, (f"Set {settings} (docs/scaling.md).", self.unquantized_shortfall)))

    @property
    def unquantized_shortfall(self) -> str:
        """What keeps the settings before a base model of 4 bits from being enough; empty: that is not advised."""
        if not self.advice or "lora.quantization" not in self.advice:
            return ""
        _, least = self._together(list(_ladders(self)))
        over = max(least.needs, key=lambda need: need.total - (least.there(need) or math.inf))
        there = least.there(over) or 0.0
        return (
            f"Without weights of fewer bits nothing fits: with an adapter and all other settings at their smallest it "
            f"takes {over.total / GIB:.1f} GiB of {over.where} {over.when} ({over.parts}), of {there / GIB:.1f}."
        )

    @property
    def checkpoint_bytes(self) -> int:
        """Of one: what is trained, in float32, and AdamW's two moments, of the policy and of the critic."""
        critic = self.critic.parameters if self.config.gro.needs_critic else 0
        return round((4 + moment_bytes(self.config)) * (self.model.trained + critic))

    @property
    def disk_bytes(self) -> int:
        """The trained model, and the checkpoints that are kept while another one is written."""
        run, tasks = self.config.run, (self.config, *self.config.evaluated.values())
        best = run.keep_best if any(task.evaluation and task.evaluation.every for task in tasks) else 0
        checkpoints = run.keep_last + best + 1 if run.keep_last else 0
        return 4 * self.model.parameters + checkpoints * self.checkpoint_bytes

    def check(self) -> tuple[str, ...]:
        """Warnings of what will be tight.

        Raises:
            UserError: what is certain to be needed is not there.
        """
        return check_memory(self.needs, self.machine.free, self.advise())

    @property
    def facts(self) -> dict[str, str]:
        """What the start of a run says."""
        facts = {"memory": describe_memory(self.needs, self.machine.free), "longest context": self.described_context}
        return facts | ({"hand-over": self.described_handover} if self.described_handover else {})

    @property
    def described_handover(self) -> str:
        """How the weights would get into the sampler; empty: there is none, or the machine is not this one."""
        if not self.config.has_sampler or self.machine.planned:
            return ""
        size = published_bytes(self.config, self.model, self.engine, self.machine.device)
        sampling = self.config.sampling
        files = describe_handover(size, sampling.weights_folder)
        if sampling.servers and sampling.weights_folder is None:
            return f"{files}, to servers that see it; by HTTP pull to others"
        if self._may_stay_on_gpu:
            return f"on the GPU (CUDA IPC) if the trial at the first one passes; else {files}"
        return files

    @property
    def _may_stay_on_gpu(self) -> bool:
        """Whether learner and engine would hand weights over on the GPU that they share, where it lets them."""
        config = self.config
        if self.machine.device != "cuda" or self.engine != "vllm" or config.sampling.tensor_parallel > 1:
            return False
        alone = config.lora is not None and not merge_reason(config, "vllm", "cuda")
        return not alone and config.sampling.max_staleness <= 1

    @property
    def described_context(self) -> str:
        """`longest_context` in words."""
        tokens, by = self.longest_context
        if not tokens:
            return f"none: already the shortest does not fit ({by})"
        more = ", ".join(f"{key} = {json.dumps(value)}" for key, value in self.doubling.items())
        return (
            f"about {tokens:,} tokens of prompt and response (limit: {by}{f'; twice that with {more}' if more else ''})"
        )


def find_estimate(config: Config, machine: Machine, engine: str) -> RunEstimate:
    """An estimate from the models' configurations: no weight is read, converted or downloaded.

    Raises:
        UserError: there is no such model.
    """
    trusted = config.model.trust_remote_code
    model = find_size(config.model.path, config.lora, trusted)
    critic = find_size(config.critic.path, None, trusted) if config.critic.path else model
    teacher = find_size(config.teacher.path, None, trusted) if config.loads_teacher and config.teacher.path else None
    return RunEstimate(config, model, critic, machine, engine, teacher).decided


def _merged(changes: Sequence[Changes]) -> Changes:
    """All of them; ZeRO 3, which takes no tiles, is worth more than they are."""
    merged = {key: value for change in changes for key, value in change.items()}
    if merged.get("learning.deepspeed.zero_stage") == 3:
        merged.pop("learning.mlp_tile", None)
    return merged


def _ladders(estimate: RunEstimate) -> Iterator[list[Changes]]:
    """Settings that take less memory, those that cost least first; in each the mildest value first."""
    config, gpu = estimate.config, estimate.machine.device == "cuda"
    budget, least = config.learning.token_budget, max(1, longest_row(config))
    halves = [budget >> shift for shift in range(1, budget.bit_length()) if budget >> shift >= least]
    yield [{"learning.token_budget": value} for value in dict.fromkeys([*halves, *([least] if least < budget else [])])]
    yield from _recomputation(estimate)
    if gpu and config.sampling.lookahead:
        yield [{"sampling.max_staleness": 1 if config.sampling.over_sample else 0}]
    if estimate.engine == "vllm":
        yield _cache_sizes(estimate)
    if gpu:
        yield from _spread(estimate)
    if gpu and config.learner == "torch" and config.learning.optimizer == "adamw":
        yield [{"learning.optimizer": "adamw-8bit"}]
    if config.lora is None:
        yield [{"lora.rank": 16}]


def _recomputation(estimate: RunEstimate) -> Iterator[list[Changes]]:
    """Of layers, then of their MLPs in tiles; then what layers recompute from waits in host memory."""
    learning, recompute = estimate.config.learning, {"learning.gradient_checkpointing": True}
    if not learning.gradient_checkpointing:
        yield [recompute]
    if learning.mlp_tile is None and not estimate.model.experts:
        yield [recompute | {"learning.mlp_tile": TILE}]
    if estimate.machine.device == "cuda" and not learning.offload_activations:
        yield [recompute | {"learning.offload_activations": True}]


def _quantizations(estimate: RunEstimate) -> Iterator[Changes]:
    """An adapter beside frozen weights of 4 bits, which vLLM gets alone; then also vLLM's weights in 8 bits."""
    config = estimate.config
    if estimate.machine.device != "cuda" or estimate.engine != "vllm" or estimate.model.experts:
        return
    changes: dict[str, Any] = {} if config.lora else {"lora.rank": 16}
    changes |= {"model.dtype": "bfloat16"} if config.model.dtype == "float32" else {}
    for name, term in config.gro.terms.items():
        if term.term.is_corrected_when_stale and term.correction.kind == "none":
            changes[f"gro.terms.{name}.correction.kind"] = "truncate"
    yield changes | {"lora.quantization": "nf4"}
    yield changes | {"lora.quantization": "nf4", "sampling.quantization": "fp8"}


def _spread(estimate: RunEstimate) -> Iterator[list[Changes]]:
    """Over ranks and into host memory, and other numbers."""
    config = estimate.config
    stage = max(1, config.learning.deepspeed.zero_stage)
    if config.learner == "deepspeed":
        yield [{"learning.deepspeed.zero_stage": higher} for higher in range(stage + 1, 4)]
        yield _shared_rows(estimate)
    if config.model.dtype == "float32":
        yield [{"model.dtype": "bfloat16"}]
    zero: dict[str, Any] = {"learning.engine": "deepspeed", "learning.deepspeed.offload_optimizer": True}
    if not config.learning.deepspeed.offload_optimizer:
        yield [zero | {"learning.deepspeed.zero_stage": stage}]
    if not config.learning.deepspeed.offload_parameters:
        yield [zero | {"learning.deepspeed.zero_stage": 3, "learning.deepspeed.offload_parameters": True}]


def _shared_rows(estimate: RunEstimate) -> list[Changes]:
    """Numbers of neighbouring ranks that can share a row, beyond those that do."""
    config, heads = estimate.config, estimate.model.heads
    more = range(config.learning.sequence_parallel + 1, config.run.ranks + 1)
    possible = [count for count in more if config.run.ranks % count == 0 and heads and heads % count == 0]
    return [{"learning.sequence_parallel": count} for count in possible]


def _cache_sizes(estimate: RunEstimate) -> list[Changes]:
    """Sizes of vLLM's cache that hold a sequence at least: smaller ones, or any where it holds none."""
    config, machine = estimate.config, estimate.machine
    one = longest_sequence(config) * cache_token_bytes(config, estimate.model)
    if machine.device == "cpu":
        least = math.ceil(100 * one / GIB) / 100
        sizes = [config.sampling.kv_cache_gib / 2**shift for shift in range(1, 8)]
        larger = [size for size in sizes if size > least] if estimate.cached_sequences >= 1 else []
        return [{"sampling.kv_cache_gib": size} for size in [*larger, max(0.01, least)]]
    fixed = sum(sampler_bytes(config, estimate.model, "vllm", "cuda").values()) + VLLM_BYTES["cuda"] + one
    smallest = math.ceil(100 * fixed / machine.gpu_bytes)
    now = math.ceil(100 * config.sampling.memory_share)
    shares = range(now - 1 if estimate.cached_sequences >= 1 else 99, smallest - 1, -1)
    return [{"sampling.memory_share": share / 100} for share in shares if 0 < share < 100]
