"""Models and material for `scripts/gpu_check`: made on the machine, so nothing has to be brought there."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from reasoner.config import LearningConfig, LoraConfig
from reasoner.errors import ReasonerError
from reasoner.gro.weights import Weights
from reasoner.learning.torch_engine import TorchLearner
from reasoner.records import Group, Message, Problem, Prompt, Response
from reasoner.sampling.vllm.engine import VllmSampler
from reasoner.sampling.vllm.messages import StartEngine
from reasoner.trajectories.sampler import TrajectorySampler
from tests.tiny import byte_tokenizer

Dtype = Literal["float32", "bfloat16"]
BYTES = 256
"""token ids that the tokenizer has beside its special ones"""
QWEN: dict[str, Any] = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "initializer_range": 0.04,
}
TINY: dict[str, Any] = QWEN | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,  # of 32 dimensions: vLLM's CPU build takes no fewer
    "num_key_value_heads": 1,
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    "initializer_range": 0.15,
}


class FailedCheckError(ReasonerError):
    """A check found something; its message says what. The figures are kept."""


def fail_if(mistakes: Sequence[str]) -> None:
    """End a check where something was found."""
    if mistakes:
        raise FailedCheckError("; ".join(mistakes))


@dataclass
class Scene:
    """Where a check runs, and what it measured."""

    folder: Path
    device: Literal["cpu", "cuda"]
    tiny: bool = False
    """whether the models, and what goes through them, are small enough for a CPU"""
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def large(self) -> Path:
        """The model of the sizes that are timed."""
        return self.folder / "large"

    @property
    def small(self) -> Path:
        """The same with four layers."""
        return self.folder / "small"

    @property
    def dtype(self) -> Dtype:
        """Of what is timed; a CPU has it in float32, as most runs there."""
        return "bfloat16" if self.device == "cuda" else "float32"

    @property
    def on_gpu(self) -> bool:
        """Whether times and memory are judged."""
        return self.device == "cuda"

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def learner(
        self, folder: Path, dtype: Dtype | None = None, lora: LoraConfig | None = None, **learning: Any
    ) -> TorchLearner:
        """A learner of the model in `folder`."""
        config = LearningConfig.model_validate({"token_budget": 8192, "learning_rate": 1e-4} | learning)
        return TorchLearner(
            folder, device=self.device, dtype=dtype or self.dtype, config=config, total_steps=100, lora=lora
        )

    def sampler(self, folder: Path, name: str, dtype: Dtype | None = None, **start: Any) -> TrajectorySampler:
        """vLLM with the model in `folder`, and with a run's arguments."""
        values: dict[str, Any] = {
            "model": str(folder),
            "dtype": dtype or self.dtype,
            "device": self.device,
            "max_model_len": 1024,
            "max_sequences": 32 if self.tiny else 512,
            "memory_share": 0.3,
            "kv_cache_gib": 0.25,
            "trust_remote_code": False,
        }
        engine = VllmSampler(StartEngine(**values | start), self.folder / f"{name}.vllm.log")
        return TrajectorySampler(engine)

    def prompts(self, count: int, tokens: int = 40) -> list[Prompt]:
        """Prompts of random bytes."""
        return [
            Prompt(Problem(f"p{number}", (Message("user", "?"),), ""), ids(tokens, number)) for number in range(count)
        ]


def ids(count: int, seed: int) -> tuple[int, ...]:
    """Random token ids."""
    rng = random.Random(seed)
    return tuple(rng.randrange(BYTES) for _ in range(count))


def group(prompt: int, responses: Sequence[int], seed: int = 0) -> Group:
    """A group of random tokens with these lengths."""
    rows = []
    for place, length in enumerate(responses):
        tokens = ids(length, 1000 * seed + place + 1)
        rows.append(Response("", tokens, (True,) * length, (0.0,) * length, "stop", 0))
    return Group(Problem(f"g{seed}", (), ""), ids(prompt, 7 + seed), tuple(rows))


def even_weights(value: float) -> Callable[[Sequence[int], Tensor, Tensor | None], Weights]:
    """The same weight for every token."""
    return lambda rows, logprobs_RT, entropies_RT: Weights(torch.full_like(logprobs_RT, value))


def build_models(folder: Path, *, tiny: bool) -> None:
    """Random Qwen2 models with a byte tokenizer: `large` has the shape of Qwen2.5-0.5B, `small` four layers."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = byte_tokenizer()
    shape = TINY if tiny else QWEN
    for name, layers in (("large", shape["num_hidden_layers"]), ("small", min(4, shape["num_hidden_layers"]))):
        config = Qwen2Config(
            **shape | {"num_hidden_layers": layers},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)  # on the CPU: a context of this process would stay on the GPU
        with torch.no_grad():
            for parameter in (value for part, value in model.named_parameters() if part.endswith("bias")):
                parameter.normal_(0.0, 0.05)
        model.to(torch.float32 if tiny else torch.bfloat16).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
