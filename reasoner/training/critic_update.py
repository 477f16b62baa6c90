"""The critic's half of PPO's update: a clipped regression of values on returns (1707.06347).

    L = 1/2 mean_t max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)

The mean is over the tokens of a mini-batch, fixed before any forward, so the gradient does not depend on how the batch
is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.distributed.sharding import Selection
from reasoner.gro.credit import returns_and_advantages
from reasoner.gro.inputs import ObjectiveInputs, masked
from reasoner.gro.spec.terms import Advantage, Term
from reasoner.gro.weights import Weights
from reasoner.learning.learner import StepResult, WeightFunction
from reasoner.records import Group, NonFiniteResponse, ScoredGroup
from reasoner.training.guards.nonfinite import StepTrace


class Critic(Protocol):
    """A value model and its optimiser."""

    def values(self, groups: Sequence[Group]) -> Sequence[Sequence[float]]:
        """(R)(T) value of the state before each token, without gradient."""
        ...

    def accumulate(
        self, groups: Sequence[Group], weights: WeightFunction, *, selection: Selection | None = None
    ) -> object:
        """Add the gradient of `- sum w V` over the responses selected of the batch `groups`."""
        ...

    def step(self) -> StepResult:
        """One optimiser step."""
        ...


@dataclass(frozen=True, slots=True)
class CriticReport:
    """The result of the critic's update on one batch."""

    loss: float
    """The loss, mean over the optimiser steps."""
    explained_variance: float
    """1 - Var(return - value) / Var(return) over tokens, before the update; 0 where the returns are all equal."""
    grad_norm: float
    """The norm of the gradient of the last optimiser step, before clipping."""
    steps: tuple[StepResult, ...]
    """The optimiser steps, one per mini-batch and pass."""
    nonfinite: tuple[NonFiniteResponse, ...]
    """The responses of the steps whose loss or gradient was not finite."""

    @property
    def metrics(self) -> dict[str, float]:
        """Its rows of the metrics table."""
        return {
            "critic/loss": self.loss,
            "critic/explained_variance": self.explained_variance,
            "critic/grad_norm": self.grad_norm,
            "critic/not_finite": float(sum(not step.finite for step in self.steps)),
        }


def update_critic(
    critic: Critic,
    term: Term,
    inputs: ObjectiveInputs,
    groups: Sequence[ScoredGroup],
    minis: Sequence[Sequence[int]],
    value_clip: float | None,
    ranks: Ranks = ALONE,
) -> CriticReport:
    """One optimiser step per mini-batch.

    Args:
        term: the term whose credit the values serve: its discount, trace and KL in the reward.
        inputs: the whole batch, with old values.
        groups: the whole batch.
        minis: rows of each mini-batch, whole groups.
        value_clip: how far a value may move before its loss is clipped; None: off.
        ranks: those that the critic spreads a batch over.
    """
    assert isinstance(term.credit, Advantage)
    returns_RT, _ = returns_and_advantages(term.credit, term.kl, inputs)
    old_RT = inputs.needed("values_RT", "a critic")
    counted_RT = inputs.mask_RT & inputs.valid_R[:, None]
    plain = [scored.group for scored in groups]
    losses: list[float] = []
    steps: list[StepResult] = []
    nonfinite: list[NonFiniteResponse] = []
    for rows in minis:
        regression = _Regression(rows, returns_RT, old_RT, counted_RT, value_clip)
        critic.accumulate(plain, regression, selection=Selection.of(plain, rows, ranks=ranks))
        regression.join(ranks)
        steps.append(critic.step())
        losses.append(regression.loss)
        regression.seen.join(ranks, steps[-1].finite)
        nonfinite += [] if steps[-1].finite else regression.seen.nonfinite("critic", "online", groups)
    return CriticReport(
        loss=sum(losses) / len(losses),
        explained_variance=explained_variance(old_RT.to(returns_RT)[counted_RT], returns_RT[counted_RT]),
        grad_norm=steps[-1].grad_norm,
        steps=tuple(steps),
        nonfinite=tuple(nonfinite),
    )


class _Regression:
    """The weight function of one mini-batch."""

    def __init__(
        self, rows: Sequence[int], returns_RT: Tensor, old_RT: Tensor, counted_RT: Tensor, clip: float | None
    ) -> None:
        self._returns_RT, self._old_RT, self._counted_RT = returns_RT, old_RT, counted_RT
        self._clip = clip
        self._tokens = max(int(counted_RT[list(rows)].sum()), 1)
        self.loss = 0.0
        self.seen = StepTrace()

    def join(self, ranks: Ranks) -> None:
        """Combine the losses of all ranks, each of which weighed its share of the mini-batch."""
        self.loss = sum(ranks.gather_shares(self.loss))

    def __call__(self, rows: Sequence[int], values_RT: Tensor, _: Tensor | None = None) -> Weights:
        width = values_RT.shape[1]
        leaf_RT = values_RT.detach().requires_grad_()
        counted_RT = self._counted_RT[rows, :width].to(leaf_RT.device)
        returns_RT, old_RT = (values[rows, :width].to(leaf_RT) for values in (self._returns_RT, self._old_RT))
        with torch.enable_grad():
            loss = value_loss(leaf_RT, old_RT, returns_RT, counted_RT, self._clip) / self._tokens
            (gradient_RT,) = torch.autograd.grad(loss, leaf_RT)
        weights_RT = masked(-gradient_RT, counted_RT)
        self.loss += float(loss.detach())
        self.seen.add(rows, values_RT, weights_RT)
        return Weights(weights_RT)


def value_loss(values_RT: Tensor, old_RT: Tensor, returns_RT: Tensor, counted_RT: Tensor, clip: float | None) -> Tensor:
    """1/2 sum over counted tokens of the clipped squared error, (1707.06347) as the module's first lines have it.

    A value of 1 that has moved there from 0, to a return of 2: with a clip of 0.2 the error is that of 0.2.

    >>> one_RT, counted_RT = torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool)
    >>> value_loss(one_RT, 0 * one_RT, 2 * one_RT, counted_RT, clip=None)  # 1/2 (1 - 2)^2
    tensor(0.5000)
    >>> value_loss(one_RT, 0 * one_RT, 2 * one_RT, counted_RT, clip=0.2)  # 1/2 (0.2 - 2)^2
    tensor(1.6200)

    Args:
        values_RT: V, differentiable.
        old_RT: V when the batch arrived.
        returns_RT: R.
        counted_RT: bool; tokens that the policy wrote, of valid responses.
        clip: how far a value may move; None: off.
    """
    error_RT = (values_RT - returns_RT).square()
    if clip is not None:
        near_RT = old_RT + (values_RT - old_RT).clamp(-clip, clip)
        error_RT = torch.maximum(error_RT, (near_RT - returns_RT).square())
    return masked(error_RT, counted_RT).sum() / 2


def explained_variance(values_S: Tensor, returns_S: Tensor) -> float:
    """1 - Var(return - value) / Var(return); 0 where returns do not vary.

    >>> returns_S = torch.tensor([0.0, 1.0])
    >>> explained_variance(returns_S, returns_S), explained_variance(torch.zeros(2), returns_S)
    (1.0, 0.0)
    >>> explained_variance(torch.zeros(2), torch.ones(2))
    0.0
    """
    variance = float(returns_S.var(correction=0)) if returns_S.numel() else 0.0
    return 1.0 - float((returns_S - values_S).var(correction=0)) / variance if variance > 0.0 else 0.0
