"""The responses behind a loss or gradient that is not finite.

They are remembered while an optimiser step is put together, and named when it fails.

Axes: R responses of a micro-batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reasoner.distributed.ranks import Ranks
from reasoner.errors import RunError
from reasoner.records import NonFiniteResponse, ScoredGroup

Numbers = NDArray[np.floating[Any]]


@dataclass(slots=True)
class StepTrace:
    """What went into one optimiser step, micro-batch by micro-batch."""

    parts: list[tuple[Sequence[int], Numbers, Numbers]] = field(default_factory=list)

    def add(self, rows: Sequence[int], outputs_RT: Tensor, weights_RT: Tensor) -> None:
        """Remember a micro-batch: its rows of the batch, what the model gave, what the loss multiplied it with."""
        self.parts.append((rows, outputs_RT.detach().cpu().numpy(), weights_RT.detach().cpu().numpy()))

    def join(self, ranks: Ranks, finite: bool) -> None:
        """Add what other ranks put together: on the first one, which writes it down; where the step was not `finite`
        on all, which stop together."""
        own = self.parts if ranks.leads_row else []  # of neighbours that share rows, who put the same together, one
        of_ranks = ranks.gather_first(own) if finite else ranks.gather(own)
        self.parts = [part for parts in of_ranks for part in parts]

    def nonfinite(
        self, model: Literal["policy", "critic"], source: str, groups: Sequence[ScoredGroup]
    ) -> tuple[NonFiniteResponse, ...]:
        """The responses with a value that is not finite; where there is none, all.

        Args:
            groups: the whole batch, whose responses the rows count.
        """
        responses = [
            (scored.group, response, reward)
            for scored in groups
            for response, reward in zip(scored.group.responses, scored.rewards, strict=True)
        ]
        broken = []
        for rows, outputs_RT, weights_RT in self.parts:
            for row, outputs_T, weights_T in zip(rows, outputs_RT, weights_RT, strict=True):
                group, response, reward = responses[row]
                length = len(response.token_ids)
                broken.append(
                    NonFiniteResponse(
                        model,
                        source,
                        group.problem,
                        group.prompt_ids,
                        response.without_routes(),
                        reward,
                        outputs_T[:length],
                        weights_T[:length],
                    )
                )
        return tuple([response for response in broken if not _finite(response.outputs, response.weights)] or broken)


def explain(nonfinite: Sequence[NonFiniteResponse]) -> str:
    """Where the numbers went wrong, in one sentence."""
    output = {"policy": "log-probabilities", "critic": "values"}
    parts = []
    for model in dict.fromkeys(response.model for response in nonfinite):
        own = [response for response in nonfinite if response.model == model]
        outputs = sum(not _finite(response.outputs) for response in own)
        weights = sum(not _finite(response.weights) for response in own)
        if outputs:
            parts.append(f"the {model}'s {output[model]} of {_counted(outputs)} are not finite")
        elif weights:
            parts.append(f"the objective's weights of {_counted(weights)} are not finite")
        else:
            parts.append(f"the {model} overflows in the backward pass: {output[model]} and weights are finite")
    return "; ".join(parts)


def stop_after(
    history: Sequence[Mapping[str, float]], limit: int, nonfinite: Sequence[NonFiniteResponse], evidence: Path
) -> None:
    """Stop when each of the last `limit` training steps skipped an optimiser step because it was not finite.

    Args:
        history: the metrics of every step so far.
        suspects: the responses of the last one.
        evidence: the file that holds them.

    Raises:
        RunError: it is time to look at the responses.
    """
    last = history[-limit:]
    if len(last) < limit or not all(m.get("update/not_finite") or m.get("critic/not_finite") for m in last):
        return
    raise RunError(
        f"the loss or the gradient was not finite in {limit} step{'s' if limit > 1 else ''} in a row "
        f"(learning.max_not_finite = {limit}); those updates were skipped, so the weights are as they were before. In "
        f"the last one, {explain(nonfinite)}. The responses, with tokens, weights and log-probabilities: {evidence}. "
        "What helps: a lower learning.learning_rate, learning.max_grad_norm = 1.0, model.dtype = 'float32'; where only "
        "some responses are not finite, read those (docs/troubleshooting.md)"
    )


def _counted(responses: int) -> str:
    return f"{responses} response{'' if responses == 1 else 's'}"


def _finite(*values: Sequence[float]) -> bool:
    return all(np.isfinite(row).all() for row in values)
