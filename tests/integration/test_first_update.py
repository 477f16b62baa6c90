"""The first update of every kind of model, replayed: plain transformers, the formula of GRPO in a loop, torch's AdamW.

Nothing of the learner or of the objective is used for the replay.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor

from reasoner.config import LearningConfig
from reasoner.gro.spec.presets import PRESETS
from reasoner.learning.torch_engine import TorchLearner
from reasoner.records import Batch, ScoredGroup
from reasoner.training.update import ActiveTerm, update
from tests.architectures import build
from tests.model_trials import plain_model
from tests.ragged import make_group

pytestmark = pytest.mark.slow

LEARNING_RATE = 1e-3
"""AdamW's first step moves every parameter that has a gradient by about this much, ten times the tolerance"""
TOLERANCE = 1e-4
KINDS = {
    "dense, tied": "llama",
    "dense, untied": "llama-untied",
    "sliding window": "olmo3",
    "soft cap": "gemma2",
    "experts": "mixtral",
    "recurrent": "mamba2",
    "recurrent and attention": "qwen3_5",
    "converted names": "glm4_moe",
    "rotary embedding by length": "phi3-longrope",
    "router with a threshold": "phimoe",
    "padded by itself": "nemotron",
}


def scored_batch() -> Batch:
    """Groups of random tokens, short and long, with random rewards; one response abstains, one is partly not the
    policy's."""
    rng = random.Random(0)

    def ids(size: int) -> list[int]:
        return [rng.randrange(256) for _ in range(size)]

    groups = []
    for prompt, lengths in ((5, (3, 40, 12, 1)), (50, (6, 30, 30, 9)), (20, (25, 2, 14, 8))):
        group = make_group(f"p{prompt}", ids(prompt), [ids(length) for length in lengths])
        groups.append(ScoredGroup(group, ((),) * len(lengths), tuple(rng.random() for _ in lengths)))
    plain, abstaining, partial = groups
    abstaining = replace(abstaining, rewards=(None, *abstaining.rewards[1:]))
    first, *others = partial.group.responses
    first = replace(first, policy_mask=tuple(place % 4 != 2 for place in range(len(first.token_ids))))
    partial = replace(partial, group=replace(partial.group, responses=(first, *others)))
    return Batch((plain, abstaining, partial))


def replayed(folder: Path, batch: Batch) -> tuple[Any, dict[str, Tensor]]:
    """The model after one step of GRPO, and its parameters before it."""
    model = plain_model(folder)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.999), weight_decay=0.0)
    count = sum(reward is not None for scored in batch.groups for reward in scored.rewards)
    loss = torch.zeros(())
    for scored in batch.groups:
        valid = [reward for reward in scored.rewards if reward is not None]
        for response, reward in zip(scored.group.responses, scored.rewards, strict=True):
            if reward is None:
                continue
            credit = (reward - mean(valid)) / (stdev(valid) + 1e-4)
            written = [place for place, own in enumerate(response.policy_mask) if own]
            logprobs = logprobs_of(model, scored.group.prompt_ids, response.token_ids)
            # At the first update the ratio to the old policy is 1, inside the clip: its gradient is that of l.
            loss = loss - credit * logprobs[written].sum() / len(written) / count
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return model, before


def logprobs_of(model: Any, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """(T,) of a response, by one forward pass."""
    logits = model(torch.tensor([[*prompt, *response[:-1]]]), use_cache=False).logits[0, len(prompt) - 1 :]
    return torch.log_softmax(logits, -1)[range(len(response)), list(response)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_update_equals_its_replay(kind: str, tmp_path: Path) -> None:
    folder = build(KINDS[kind], tmp_path / "model")
    batch = scored_batch()
    config = LearningConfig(learning_rate=LEARNING_RATE, token_budget=200)
    learner = TorchLearner(folder, device="cpu", dtype="float32", config=config, total_steps=1)
    report = update({"online": batch}, [ActiveTerm("grpo", PRESETS["grpo"].term, 1.0)], learner, max_tokens=64)
    assert report.steps[0].applied
    learner.save(tmp_path / "saved")

    model, before = replayed(folder, batch)
    got = {name: value.detach() for name, value in plain_model(tmp_path / "saved").named_parameters()}
    assert got.keys() == before.keys()
    expected = {name: value.detach() for name, value in model.named_parameters()}
    for name, value in expected.items():
        difference = float((got[name] - value).abs().max())
        assert difference < TOLERANCE, f"{name} differs by {difference:.2g}"
    assert max(float((value - before[name]).abs().max()) for name, value in expected.items()) > 0.9 * LEARNING_RATE
    assert _norm(got, expected) < 1e-2 * _norm(before, expected)


def _norm(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
    """Euclidean norm of the difference of all parameters."""
    return math.sqrt(sum(float((some[name] - others[name]).square().sum()) for name in others))
