"""Before figures are believed: what the sampler says of some responses, beside a plain forward pass of the model."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

from reasoner.benchmarks.parts import BenchmarkPart
from reasoner.errors import DataError, MissingDependencyError, SamplerError, UserError
from reasoner.learning.model.policy import ModelOptions, TorchPolicy
from reasoner.models.size import ModelSize
from reasoner.processes.machine import GIB, free_memory
from reasoner.sampling.base import Sampler
from reasoner.training.weight_sync import check_gap, gap_limit

_PROMPTS, _RESPONSES, _TOKENS = 2, 2, 32
"""the shortest prompts, responses to each, and tokens of a response"""
_ROOM = 1.3
"""memory beside the weights, as a factor of them"""


def check_engine(part: BenchmarkPart, sampler: Sampler, longest: int, say: Callable[[str], None]) -> None:
    """Compare the log-probabilities of a few sampled responses with those of a plain forward pass by transformers.

    The sampler gives its memory back meanwhile. Where the model does not fit beside it, the check is skipped with a
    message.

    Args:
        longest: tokens of a prompt and its response that the engine was opened for.

    Raises:
        SamplerError: they differ by more than rounding.
        DataError: the model's folder is not complete.
    """
    config = part.config
    prompts = sorted(part.prompts, key=lambda prompt: len(prompt.token_ids))[:_PROMPTS]
    params = part.resources.turn_end.added_to(part.params)
    params = replace(params, temperature=1.0, max_tokens=min(_TOKENS, params.max_tokens))
    groups = list(sampler.sample(prompts, _RESPONSES, params))
    sampler.sleep()
    try:
        device = _device(part)
        if device is None:
            size = _bytes(part) / GIB
            say(
                f"WARNING: model {part.letter}: its log-probabilities are not compared with those of a plain forward "
                f"pass: that takes {size:.1f} GiB, and less than that is free next to the sampler"
            )
            return
        try:
            policy = _plain(part, device, longest)
        except DataError:
            raise
        except (UserError, MissingDependencyError) as error:  # quantised, say: vLLM has it, and a learner would not
            say(
                f"WARNING: model {part.letter}: its log-probabilities are not compared with those of a plain forward "
                f"pass: {error}"
            )
            return
        gap = check_gap(policy, groups, 1.0)
        del policy
        gc.collect()
        _give_back(device)
    finally:
        sampler.wake()
    limit = gap_limit(config.model.dtype, config.handover.max_gap)
    if not gap.mean <= limit:
        raise SamplerError(
            f"model {part.letter}: the log-probabilities of {sampler.name} differ from those of a plain forward pass "
            f"by {gap.mean:.2g} nats per token on average (max {gap.max:.2g}, {gap.tokens} tokens); the limit is "
            f"{limit:.2g} (handover.max_gap). Its figures would be those of another model. Set sampling.engine = "
            f"{'vllm' if sampler.name == 'hf' else 'hf'!r}, or use another version of what samples"
        )
    say(f"model {part.letter}: log-probabilities as of a plain forward pass ({gap.mean:.1g} nats per token)")


def _plain(part: BenchmarkPart, device: str, longest: int) -> TorchPolicy:
    config = part.config
    options = ModelOptions(
        device=device,
        dtype=config.model.dtype,
        token_budget=config.learning.token_budget,
        logit_chunk=config.learning.logit_chunk,
        trust_remote_code=config.model.trust_remote_code,
        autocast=False,
    )
    policy = TorchPolicy(part.resources.folder, options)
    if part.resources.decisions.engine in ("vllm", "servers"):
        policy.rotate_as_vllm(longest)
    return policy


def _device(part: BenchmarkPart) -> str | None:
    """Where the model fits now, best first: `cuda`, `cpu`; None: nowhere."""
    free = free_memory(part.resources.decisions.device)
    places = {"cuda": "GPU memory", "cpu": "memory"}
    return next((device for device, place in places.items() if _bytes(part) <= free.get(place, 0.0)), None)


def _bytes(part: BenchmarkPart) -> float:
    width = 4 if part.config.model.dtype == "float32" else 2
    return _ROOM * width * ModelSize.of(part.resources.folder).parameters


def _give_back(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
