"""A batch as the tensors that the objective reads (`reasoner.gro.inputs`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reasoner.distributed.ranks import Ranks
from reasoner.distributed.remote_tokens import fetch
from reasoner.gro.inputs import ObjectiveInputs
from reasoner.io.token_array import RemoteArray
from reasoner.records import Batch, Component, Response

ENVIRONMENT = "environment"
"""the reward source that pays out what the environment gave"""


def inputs_of(batch: Batch) -> ObjectiveInputs:
    """A batch as tensors: rewards in float64, log-probabilities in float32 as the learner gives them."""
    rewards_NG = _rewards([scored.rewards for scored in batch.groups])
    responses = batch.responses
    components = _components(batch, rewards_NG.shape)
    tasks = list(dict.fromkeys(scored.group.problem.part for scored in batch.groups))
    return ObjectiveInputs(
        rewards_NG=rewards_NG,
        valid_NG=~rewards_NG.isnan(),
        mask_RT=padded([response.policy_mask for response in responses], torch.bool),
        observed_RT=_observed(responses),
        truncated_R=torch.tensor([response.finish_reason == "length" for response in responses]),
        greedy_N=None if batch.greedy_rewards is None else _rewards([batch.greedy_rewards])[0],
        old_RT=_annotation(batch.old_logprobs),
        reference_RT=_annotation(batch.reference_logprobs),
        sampler_RT=padded([response.sampler_logprobs for response in responses], torch.float32),
        teacher_RT=_annotation(batch.teacher_logprobs),
        values_RT=_annotation(batch.values),
        components_KNG=torch.stack([values for values, _ in components]) if components else None,
        component_weights_K=torch.tensor([weight for _, weight in components], dtype=torch.float64)
        if components
        else None,
        tasks_N=torch.tensor([tasks.index(scored.group.problem.part) for scored in batch.groups])
        if len(tasks) > 1
        else None,
        **_turns(responses, [row for scored in batch.groups for row in scored.components]),
    )


def fetch_sampler_logprobs(inputs: ObjectiveInputs, batch: Batch, rows: Sequence[int], ranks: Ranks) -> None:
    """Fill in the sampler's log-probabilities of these responses, where other ranks have them."""
    assert inputs.sampler_RT is not None
    arrays = [response.sampler_logprobs for response in batch.responses]
    for row, values in fetch(rows, arrays, ranks).items():
        if isinstance(arrays[row], RemoteArray):
            inputs.sampler_RT.numpy()[row, : len(values)] = values


def _observed(responses: Sequence[Response]) -> Tensor | None:
    """(R, T) the tokens that the environment wrote; None: it wrote none."""
    if not any(response.policy_mask.count(False) for response in responses):
        return None
    return padded([~np.asarray(response.policy_mask) for response in responses], torch.bool)


def _components(batch: Batch, shape: torch.Size) -> list[tuple[Tensor, float]]:
    """(N, G) value of each reward of each task and its weight; 0 for the responses to other tasks, which it says
    nothing about."""
    groups, size = shape
    columns: dict[tuple[str, int], tuple[list[list[float]], float]] = {}
    for n, scored in enumerate(batch.groups):
        for g, row in enumerate(scored.components):
            for k, part in enumerate(row):
                key = scored.group.problem.part, k
                if key not in columns:
                    columns[key] = [[0.0] * size for _ in range(groups)], part.weight
                columns[key][0][n][g] = part.value or 0.0
    return [(torch.tensor(values, dtype=torch.float64), weight) for values, weight in columns.values()]


def _turns(responses: Sequence[Response], components: Sequence[Sequence[Component]]) -> dict[str, Tensor]:
    """The turn of every token, and what the environment gave after every turn; nothing where no reward source pays it
    out."""
    paid = [
        (_environment_weight(row), response.report.turn_rewards if response.report else ())
        for response, row in zip(responses, components, strict=True)
    ]
    if not any(weight and rewards for weight, rewards in paid):
        return {}
    return {
        "turns_RT": padded([_turn_of_tokens(response) for response in responses], torch.int64),
        "turn_rewards_RM": padded(
            [[weight * reward for reward in rewards] or [0.0] for weight, rewards in paid], torch.float64
        ),
    }


def _environment_weight(components: Sequence[Component]) -> float:
    """The factor of the environment's own reward in the total; 0 where it is not in it."""
    return sum(part.weight for part in components if part.source == ENVIRONMENT and part.value is not None)


def _turn_of_tokens(response: Response) -> NDArray[np.int64]:
    """(T,) the index among the policy's turns; that of the turn before for what the environment wrote."""
    starts = sorted({turn.first for turn in response.turns if turn.role == "assistant"} - {0})
    return np.searchsorted(starts, np.arange(len(response.token_ids)), side="right")


def _rewards(values: Sequence[Sequence[float | None]]) -> Tensor:
    return torch.tensor([[math.nan if r is None else r for r in row] for row in values], dtype=torch.float64)


def _annotation(values: tuple[Sequence[float], ...] | None) -> Tensor | None:
    return None if values is None else padded(values, torch.float32)


def padded(values: Sequence[Any], dtype: torch.dtype) -> Tensor:
    """(R, T) of rows of different lengths, right-padded with 0; NaN in rows that another rank has."""
    padded_RT = torch.zeros(len(values), max(map(len, values)), dtype=dtype)
    array_RT = padded_RT.numpy()
    for row, numbers in enumerate(values):
        array_RT[row, : len(numbers)] = np.nan if isinstance(numbers, RemoteArray) else numbers
    return padded_RT
