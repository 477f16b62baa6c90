"""What a run will take of memory, estimated before anything is loaded.

Legend: N parameters, H hidden, I intermediate, V vocabulary, Q and K values of a token's queries and keys in a layer, b
bytes of a number in `model.dtype`.

    learner      weights, gradient, AdamW's two moments: 16 bytes per parameter, 10 with moments of 8 bits; with
                 DeepSpeed what docs/scaling.md says. With an adapter (`[lora]`): that for its parameters; the others
                 are frozen
    reference    4 bytes per parameter, with bfloat16 2 for those of linear layers; with DeepSpeed b; none with an
                 adapter
    teacher      the same, where it is another model and no server holds it
    critic       as a learner
    sampler      its own weights, and its KV cache: 2 K b per token and layer
    published    what the sampler loads, in memory until it has: N b, or an adapter

These follow from the number formats: they are certain, and a run is refused where they do not fit. The others are
estimates:

    activations  what autograd keeps of a token in a layer: 6 H + 3 Q + 2 K + 4 I values (normalised inputs, attention
                 that keeps no scores, a gated MLP); outside of the layers 5 H, and 2 H + 3 I of gradients on their way.
                 With recomputation H per layer, and all of one layer. Times the tokens of the largest micro-batch
    logits       two chunks of them, and 4 H V of the output layer's gradient
    kept         on a CPU, what the update has freed and malloc has not given back
    holes        of an update with an adapter on a CPU: what malloc holds and nobody uses
    processes    Python with torch, scoring workers, vLLM
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from reasoner.config import Config
from reasoner.errors import UserError
from reasoner.gro.spec.terms import SOURCES
from reasoner.learning.batching.logit_chunk import choose_logit_chunk
from reasoner.learning.deepspeed.settings import deepspeed_settings
from reasoner.models.size import ModelSize
from reasoner.processes.machine import GIB, Machine
from reasoner.sampling.factory import MAX_SEQUENCES, merge_reason
from reasoner.sampling.vllm.messages import BUFFER_BYTES

PROCESS = 0.7 * GIB
"""bytes of a process that has imported torch and transformers, with its scoring workers"""
VLLM = {"cpu": 1.2 * GIB, "cuda": 2.0 * GIB}
"""bytes of vLLM beside weights and cache: of its process; on a GPU, of its forward pass and graphs"""
ASLEEP = 1.5 * GIB
"""bytes of a GPU that vLLM keeps while it sleeps: graphs and workspaces"""
CONTEXT = 0.5 * GIB
"""bytes of a GPU that a process takes by using it"""
TIGHT = 0.9
"""share of the memory above which a run that should fit is warned of"""
WIDTH = {"float32": 4, "bfloat16": 2}
"""bytes of a number"""
BUCKET = 5e8
"""elements of DeepSpeed's buffer for gradients that are being reduced, unless its file says another number"""
GATHERED = 1e9
"""parameters that ZeRO 3 keeps whole at once"""
SHARD_BYTES = float(GIB)
"""bytes of a file of published weights (`weights.SHARD_BYTES`)"""
Where = Literal["memory", "GPU memory"]
Parts = dict[str, float]
ADVICE = (
    "Take a smaller model, a smaller sampling.kv_cache_gib (CPU) or another sampling.memory_share (GPU), or end other "
    "programs (docs/scaling.md)."
)
"""what helps a run that does not train"""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that must be there at the same time, by what takes them."""

    where: Where
    when: str
    certain: Mapping[str, float]
    likely: Mapping[str, float] = field(default_factory=dict)
    """beside that"""

    @property
    def least(self) -> float:
        """What is certain."""
        return sum(self.certain.values())

    @property
    def total(self) -> float:
        """With what is likely."""
        return self.least + sum(self.likely.values())

    def times(self, ranks: int) -> Need:
        """What so many ranks need."""
        certain, likely = (
            {name: ranks * size for name, size in sizes.items()} for sizes in (self.certain, self.likely)
        )
        return replace(self, certain=certain, likely=likely)

    def beside(self, certain: Mapping[str, float], likely: Mapping[str, float]) -> Need:
        """With what is there once, however many ranks there are."""
        return replace(self, certain={**self.certain, **certain}, likely={**self.likely, **likely})

    @property
    def parts(self) -> str:
        """`learner 2.0, sampler 0.5 GiB`."""
        return ", ".join(f"{name} {size / GIB:.1f}" for name, size in {**self.certain, **self.likely}.items()) + " GiB"


@dataclass(frozen=True, slots=True)
class LearnerMemory:
    """What training takes of one rank."""

    held: Parts
    """all the time"""
    gradients: Parts
    offloaded: Parts
    """in host memory instead"""
    buffers: Parts
    """while gradients are computed"""


def needs(
    config: Config,
    model: ModelSize,
    critic: ModelSize,
    machine: Machine,
    engine: str,
    *,
    teacher: ModelSize | None = None,
    training: bool = True,
) -> tuple[Need, ...]:
    """What a run needs at the moments at which it needs most.

    Args:
        model: the policy.
        critic: the value model, where the method has one.
        engine: `vllm`, `hf`, or another where no engine of this machine samples.
        teacher: a model that is loaded beside it; None: there is none.
        training: False for an evaluation.
    """
    learner = LearnerMemory({}, {}, {}, {})
    if training:
        learner = learner_bytes(config, model, critic, teacher, machine.device)
    forward = {}
    if training:
        forward = {
            "activations": activation_bytes(config, model, machine.device),
            "logits": logit_bytes(config, model, machine.gpu_bytes),
            **learner.buffers,
        }
        if machine.device == "cpu" and config.lora is not None:
            forward["holes"] = hole_bytes(config, model)
    build = _on_cpu if machine.device == "cpu" else _on_gpu
    return tuple(build(config, model, machine, engine, learner, forward))


def _on_cpu(
    config: Config, model: ModelSize, machine: Machine, engine: str, learner: LearnerMemory, forward: Parts
) -> Iterator[Need]:
    """One memory holds everything all the time, and gets back only part of what was freed."""
    ranks = machine.ranks(config.run.ranks)
    sampler, cache = sampler_bytes(config, model, engine, "cpu"), {}
    processes = {"processes": PROCESS}
    if engine == "vllm":
        cache = {"KV cache": config.sampling.kv_cache_gib * GIB}
        processes = {"processes": PROCESS + VLLM["cpu"]}
    held = {**learner.held, **learner.offloaded, **sampler, **cache}
    if engine:
        drawn = {"KV cache": hf_cache_bytes(config, model, "cpu")} if engine == "hf" else {}
        yield Need("memory", "while sampling", held, drawn | processes).times(ranks)
    if forward:
        yield Need("memory", "in the update", {**held, **learner.gradients}, forward | processes).times(ranks)
    if forward and engine:
        kept = {"kept": sum(learner.gradients.values()) + forward["activations"] + forward.get("holes", 0.0)}
        need = Need("memory", "at the hand-over", held, kept | processes).times(ranks)
        copied = config.learner == "deepspeed" or config.lora is not None or config.model.dtype == "bfloat16"
        yield need.beside(*_published(config, model, engine, "cpu", copied=copied))


def _on_gpu(
    config: Config, model: ModelSize, machine: Machine, engine: str, learner: LearnerMemory, forward: Parts
) -> Iterator[Need]:
    """Every rank has a GPU of its own, and all ranks of a node its memory."""
    ranks = machine.ranks(config.run.ranks)
    sampler, processes = sampler_bytes(config, model, engine, "cuda"), {"processes": PROCESS}
    contexts = {"CUDA contexts": CONTEXT * (2 if engine == "vllm" else 1)}
    if engine == "vllm" and forward:
        contexts["hand-over buffer"] = float(BUFFER_BYTES)
    drawing, cache = dict(sampler), {}
    if engine == "vllm":
        processes = {"processes": PROCESS + VLLM["cpu"]}
        drawing |= {"vLLM's own": VLLM["cuda"], "KV cache": cache_bytes(config, model, machine, engine)}
    elif engine == "hf":
        cache = {"KV cache": hf_cache_bytes(config, model, "cuda")}
    if engine:
        yield Need("GPU memory", "while sampling", {**learner.held, **drawing}, cache | contexts)
    if forward:
        awake = drawing if config.sampling.lookahead else {}
        asleep = {} if awake or engine != "vllm" else {"vLLM asleep": ASLEEP}
        parts = forward | asleep | contexts
        yield Need("GPU memory", "in the update", {**learner.held, **learner.gradients, **awake}, parts)
        kept = sampler if _keeps_weights_asleep(config, engine) else {}
        update = Need("memory", "in the update", {**learner.offloaded, **kept}, processes).times(ranks)
        yield max(update, _while_loading(config, model, ranks, processes), key=lambda need: need.total)
    else:
        yield Need("memory", "while sampling", {}, processes).times(ranks)
    if forward and engine:
        handing = Need("memory", "at the hand-over", learner.offloaded, processes).times(ranks)
        yield handing.beside(*_published(config, model, engine, "cuda", copied=True))


def _while_loading(config: Config, model: ModelSize, ranks: int, processes: Parts) -> Need:
    """Weights pass through host memory. The ranks of a node take turns, but under ZeRO 3 all of them have to hold the
    whole model until DeepSpeed has spread it."""
    width = 4.0 if config.learner == "torch" else WIDTH[config.model.dtype]
    together = config.learner == "deepspeed" and config.learning.deepspeed.zero_stage == 3
    loaded = {"model, loaded": width * model.parameters * (ranks if together else 1)}
    return Need("memory", "while loading", {}, processes).times(ranks).beside(loaded, {})


def _keeps_weights_asleep(config: Config, engine: str) -> bool:
    """Whether a sampler that sleeps has its weights in host memory: transformers' always, vLLM's where what comes next
    is an adapter alone. None sleeps that samples during the update."""
    if config.sampling.lookahead:
        return False
    return engine == "hf" or (config.lora is not None and not merge_reason(config, engine, "cuda"))


def _published(config: Config, model: ModelSize, engine: str, device: str, *, copied: bool) -> tuple[Parts, Parts]:
    """What samplers load, and the file that is being put together where its numbers are not those that are trained."""
    size = published_bytes(config, model, engine, device)
    return {"published": size}, {"being written": min(SHARD_BYTES, size)} if copied else {}


def learner_bytes(
    config: Config, model: ModelSize, critic: ModelSize, teacher: ModelSize | None, device: str
) -> LearnerMemory:
    """What learner, reference, teacher and critic take of one rank."""
    size = model.trained
    held: Parts = {"weights": 4.0 * size, "optimiser": moment_bytes(config) * size}
    gradients: Parts = {"gradient": 4.0 * size}
    offloaded: Parts = {}
    buffers: Parts = {}
    if config.learner == "deepspeed":
        held, gradients, offloaded = _deepspeed_bytes(config, size)
        buffers = _deepspeed_buffers(config, model, device)
    width = 4.0 if config.learner == "torch" else WIDTH[config.model.dtype]
    if config.lora is not None:
        sharded = config.learner == "deepspeed" and config.learning.deepspeed.zero_stage == 3
        held["frozen weights"] = width * model.parameters / (config.run.ranks if sharded else 1)
    elif config.needs_initial:
        held["reference"] = _frozen_bytes(config, model, config.model.dtype)
    if teacher is not None:
        held["teacher"] = _frozen_bytes(config, teacher, config.teacher.dtype or config.model.dtype)
    if config.gro.needs_critic:
        held["critic"] = (4.0 + moment_bytes(config)) * critic.parameters
        gradients["its gradient"] = 4.0 * critic.parameters
    if config.model.dtype == "bfloat16" and config.learner == "torch":
        # Autocast casts a layer's weights once, and the backward pass keeps the casts.
        layers = model.parameters - model.embedding * (1 if model.tied else 2)
        at_once = max(1, model.layers) if config.learning.gradient_checkpointing else 1
        buffers["bfloat16 casts"] = 2.0 * layers / at_once
    return LearnerMemory(held, gradients, offloaded, buffers)


def _frozen_bytes(config: Config, model: ModelSize, dtype: str) -> float:
    """Of a model that is not trained. Torch's bfloat16 keeps float32 of what is not a linear layer."""
    if config.learner != "torch":
        return WIDTH[dtype] * model.parameters
    linear = [
        rows * columns for name, rows, columns in model.matrices if ".experts." not in name and rows != model.vocabulary
    ]
    narrow = sum(linear) if dtype == "bfloat16" else 0
    return 4.0 * model.parameters - 2.0 * narrow


def moment_bytes(config: Config) -> float:
    """Of AdamW's two moments of a weight; of 8 bits, each has a float32 scale for 256 weights."""
    return 8.0 if config.learning.optimizer == "adamw" else 2.0 * (1 + 4 / 256)


def _deepspeed_bytes(config: Config, size: int) -> tuple[Parts, Parts, Parts]:
    """On each rank: weights and optimiser, gradient, and what of them is in host memory instead."""
    settings, ranks = config.learning.deepspeed, config.run.ranks
    stage = settings.zero_stage
    weights = size * WIDTH[config.model.dtype] / (ranks if stage == 3 else 1)
    gradient = size * 4.0 / (ranks if stage >= 2 else 1)
    optimiser = size * (12.0 / ranks if stage else 8.0)  # ZeRO keeps a copy of the parameters of its own
    held, offloaded = {}, {}
    if settings.offload_optimizer:  # the gradient as the optimiser reads it, and what it is copied through
        offloaded["gradient, offloaded"] = size * (4.0 + WIDTH[config.model.dtype]) / ranks
    for name, part, away in (
        ("weights", weights, settings.offload_parameters),
        ("optimiser", optimiser, settings.offload_optimizer),
    ):
        if away:
            offloaded[f"{name}, offloaded"] = part
        else:
            held[name] = part
    return held, {"gradient": gradient}, offloaded


def _deepspeed_buffers(config: Config, model: ModelSize, device: str) -> Parts:
    """What ZeRO reduces gradients in (all of it is taken of a GPU, of a CPU what is written to; they are summed in
    float32), and what ZeRO 3 has gathered."""
    stage, width = config.learning.deepspeed.zero_stage, WIDTH[config.model.dtype]
    if stage == 0:
        return {}
    zero = deepspeed_settings(config.learning, config.model.dtype)["zero_optimization"]
    bucket = float(zero.get("reduce_bucket_size", BUCKET))
    numbers = bucket if device == "cuda" else min(bucket, model.trained)
    buffers = {"buckets": (width if width == 4 else width + 4) * numbers}
    if stage == 3:
        gathered = float(zero.get("stage3_max_live_parameters", GATHERED))
        buffers["gathered"] = width * min(gathered, model.parameters)
    return buffers


def sampler_bytes(config: Config, model: ModelSize, engine: str, device: str) -> Parts:
    """A rank's sampler weights. vLLM's CPU build holds a tied output layer packed, beside the embedding."""
    if engine not in ("vllm", "hf"):
        return {}
    packed = model.embedding if engine == "vllm" and model.tied and device == "cpu" else 0
    alone = device == "cpu" and config.run.ranks == 1  # all parts of an engine are in one memory
    parts = 1 if alone else config.sampling.tensor_parallel
    return {"sampler": float((model.parameters + packed) * WIDTH[config.model.dtype]) / parts}


def cache_token_bytes(config: Config, model: ModelSize) -> float:
    """KV cache of one token, on one of the devices that an engine has."""
    shared = min(config.sampling.tensor_parallel, model.kv_heads or 1)
    return 2.0 * model.keys * model.layers * WIDTH[config.model.dtype] / shared


def cache_bytes(config: Config, model: ModelSize, machine: Machine, engine: str) -> float:
    """vLLM's KV cache: on a GPU what its share leaves; below 0 where that is too small for the rest."""
    if machine.device == "cpu":
        return config.sampling.kv_cache_gib * GIB
    taken = sum(sampler_bytes(config, model, engine, "cuda").values()) + VLLM["cuda"]
    return config.sampling.memory_share * machine.gpu_bytes - taken


def hf_cache_bytes(config: Config, model: ModelSize, device: str) -> float:
    """Of the responses that transformers draws at once, at their full length."""
    size = config.sampling.group_size
    groups = min(max(1, MAX_SEQUENCES[device] // size), _problems_of_rank(config))
    return groups * size * longest_sequence(config) * cache_token_bytes(config, model)


def published_bytes(config: Config, model: ModelSize, engine: str, device: str) -> float:
    """The file that samplers load: all weights, or the adapter alone."""
    whole = config.lora is None or merge_reason(config, engine, device)
    numbers = model.parameters if whole else model.adapter
    return float(numbers * WIDTH[config.model.dtype])


def activation_bytes(config: Config, model: ModelSize, device: str = "cpu") -> float:
    """Of the largest micro-batch."""
    layer, stream = layer_bytes(config, model, device), _stream_width(config)
    passing = WIDTH[config.model.dtype] * (2 * model.hidden + 3 * model.intermediate) + 5 * stream * model.hidden
    layers = model.layers * layer
    if config.learning.gradient_checkpointing:  # also where it is not decided yet
        layers = model.layers * stream * model.hidden + layer
    return micro_batch_tokens(config) * (layers + passing)


def hole_bytes(config: Config, model: ModelSize) -> float:
    """What glibc's malloc keeps of an update with an adapter, beside what is in use, with recomputation or without:
    about as much as the activations of all layers. What is in use is as counted; an adapter's many small results lie
    between the large ones that are freed, and keep them from the system (docs/scaling.md has the measurement)."""
    return micro_batch_tokens(config) * model.layers * layer_bytes(config, model)


def layer_bytes(config: Config, model: ModelSize, device: str = "cpu") -> float:
    """What autograd keeps of a token in a layer.

    Of the 6 H of two normalisations, two each are their input, the normalised input, and the result. With bfloat16 the
    normalisation is in float32: under torch's autocast its input and normalised input stay so, and every linear layer
    has a bfloat16 copy of the result of its own; with DeepSpeed the normalised input is bfloat16 again. A frozen
    normalisation keeps no normalised input.
    """
    width, adapter = WIDTH[config.model.dtype], config.lora is not None
    if width == 4:
        normalised = 4.0 * (4 if adapter else 6)
    elif config.learner == "torch":
        normalised = 4.0 * (2 if adapter else 4) + 2 * 5
    else:
        normalised = 4.0 * 2 + 2 * (2 if adapter else 4)
    attention = 3 * model.queries + _key_values(config, model, device)
    return normalised * model.hidden + width * (attention + 4 * model.intermediate)


def _key_values(config: Config, model: ModelSize, device: str) -> float:
    """Keys and values that attention keeps per token. In float32 on a GPU they are as wide as queries; responses that
    share a row with their prompt have a copy of its keys and values each."""
    repeated = device == "cuda" and config.model.dtype == "float32"
    width = 2.0 * (model.queries if repeated else model.keys)
    prompt, response, size = (
        config.sampling.max_prompt_tokens,
        config.sampling.max_tokens,
        config.sampling.group_size,
    )
    if not _shares_prompts(config):
        return width
    return width * (1 + size * (prompt + response) / (prompt + size * response))


def _shares_prompts(config: Config) -> bool:
    """Whether a group of the largest lengths is one row (as `packing.worth_sharing`)."""
    sampling, sharing = config.sampling, config.learning.share_prompts
    if not config.online or sharing == "never" or config.learning.packing == "padded":
        return False
    apart = sampling.group_size * (sampling.max_prompt_tokens + sampling.max_tokens)
    return sharing == "always" or (sampling.group_size - 1) * sampling.max_prompt_tokens > 0.2 * apart


def _stream_width(config: Config) -> int:
    """Bytes of a number between the layers: autocast leaves them float32."""
    return 4 if config.learner == "torch" else WIDTH[config.model.dtype]


def logit_bytes(config: Config, model: ModelSize, gpu_bytes: float = 0.0) -> float:
    """Two chunks of float32 logits, one more with entropies, and the gradient of the output layer."""
    chunk = choose_logit_chunk(config.learning.logit_chunk, gpu_bytes, max(1, model.vocabulary))
    copies = 8 + (2 if config.model.dtype == "bfloat16" else 0)
    copies += 4 if any(term.term.needs_entropy for term in config.gro.terms.values()) else 0
    gradient = 0 if config.lora is not None else 4
    if config.model.dtype == "bfloat16":
        gradient += 2  # the weight's cast under autocast; with DeepSpeed the gradient's
    return float(copies * chunk * model.vocabulary + gradient * model.embedding)


def micro_batch_tokens(config: Config) -> int:
    """What a rank has of the largest one: the budget, its slice of a longer row or unit, or of all that there is."""
    slices = config.learning.sequence_parallel
    most = max(min(config.learning.token_budget * slices, share_tokens(config)), longest_row(config))
    return -(-most // slices)


def longest_sequence(config: Config) -> int:
    """Tokens of a prompt and its response."""
    return config.sampling.max_prompt_tokens + config.sampling.max_tokens


def longest_row(config: Config) -> int:
    """Tokens that go through the model together whatever the budget: a response with its prompt, a preference pair."""
    rows = [longest_sequence(config)] if config.online else []
    for source in SOURCES:
        if source != "online" and config.gro.reads(source):
            rows.append(getattr(config.data, source).max_tokens * (2 if source == "pairs" else 1))
    return max(rows, default=0)


def share_tokens(config: Config) -> int:
    """Tokens of one share of a batch, at most: those of a rank, or of the neighbours that share its rows."""
    total, sampling = 0, config.sampling
    shares = config.run.ranks // config.learning.sequence_parallel
    if config.online:
        prompts = 1 if _shares_prompts(config) else sampling.group_size
        group = prompts * sampling.max_prompt_tokens + sampling.group_size * sampling.max_tokens
        total += -(-config.learning.problems_per_step // shares) * group
    for source in SOURCES:
        if source != "online" and config.gro.reads(source):
            rows = -(-config.per_step(source) // shares)
            total += rows * getattr(config.data, source).max_tokens * (2 if source == "pairs" else 1)
    return total


def _problems_of_rank(config: Config) -> int:
    return -(-config.learning.problems_per_step // config.run.ranks)


def check_memory(needs: Iterable[Need], free: Mapping[str, float], advice: str = ADVICE) -> tuple[str, ...]:
    """Warnings of what will be tight.

    Args:
        free: bytes that are free now, by `Need.where`.
        advice: what to do about it.

    Raises:
        UserError: what is certain to be needed is not there.
    """
    warnings = []
    for need in needs:
        available = free.get(need.where, float("inf"))
        if need.least > available:
            raise UserError(
                f"this run cannot work here: {need.when} it needs at least {need.least / GIB:.1f} GiB of {need.where} "
                f"({need.parts}), and {available / GIB:.1f} GiB are free. {advice}"
            )
        if need.total > TIGHT * available:
            warnings.append(
                f"{need.where} will be tight {need.when}: about {need.total / GIB:.1f} GiB ({need.parts}), "
                f"{available / GIB:.1f} GiB are free. {advice}"
            )
    return tuple(warnings)


def describe_memory(needs: Iterable[Need], free: Mapping[str, float]) -> str:
    """The numbers in one line: of the moment at which most of the memory is taken, for each."""
    most = {need.where: need for need in sorted(needs, key=lambda need: need.total)}
    parts = [
        f"about {n.total / GIB:.1f} of {free[n.where] / GIB:.1f} GiB {n.where} {n.when} ({n.parts})"
        for n in most.values()
    ]
    return "; ".join(parts)
