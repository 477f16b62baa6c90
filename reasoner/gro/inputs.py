"""What the objective reads, over one batch of one source."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reasoner.gro.spec.terms import Tokens


@dataclass(frozen=True, slots=True)
class ObjectiveInputs:
    """Rewards and annotations of a batch: everything but the log-probabilities under the policy being trained.

    Axes: N groups, G responses of a group, R = N G responses in group order, T tokens right-padded, K rewards. Padding
    and entries that are not valid may hold anything, NaN included.
    """

    rewards_NG: Tensor
    """Total reward of every response."""
    valid_NG: Tensor
    """Bool; False where the response abstained."""
    mask_RT: Tensor
    """Bool; True for tokens that the policy wrote: those that terms read."""
    truncated_R: Tensor | None = None
    """Bool; True for responses that were cut at the length limit."""
    greedy_N: Tensor | None = None
    """Reward of a greedy response to each problem; NaN where it abstained."""
    old_RT: Tensor | None = None
    """Log-probabilities under the policy before the first optimiser step on the batch; None: there was none yet."""
    reference_RT: Tensor | None = None
    """Log-probabilities under the reference policy."""
    teacher_RT: Tensor | None = None
    """Log-probabilities under the teacher."""
    sampler_RT: Tensor | None = None
    """Log-probabilities as the sampler reported them; NaN in rows that another rank puts through the model."""
    values_RT: Tensor | None = None
    """The critic's value of the state before each token."""
    components_KNG: Tensor | None = None
    """The value of each reward."""
    component_weights_K: Tensor | None = None
    """The factor of each reward in the total."""
    turns_RT: Tensor | None = None
    """Int64; the turn of the policy that wrote each token, from 0; anything for other tokens. None: each response is
    one turn."""
    turn_rewards_RM: Tensor | None = None
    """What the environment gave after each of at most M turns, as a part of the total reward, right-padded with 0."""
    tasks_N: Tensor | None = None
    """Which task of a mixture each group is of, as a number; None: there is one task."""
    observed_RT: Tensor | None = None
    """Bool; True for tokens that the environment wrote; None: it wrote none."""

    def reading(self, tokens: Tokens) -> ObjectiveInputs:
        """The inputs of a term that reads these tokens: they are those of the mask.

        >>> written_RT = torch.tensor([[True, False, True]])
        >>> one, valid = torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool)
        >>> inputs = ObjectiveInputs(one, valid, written_RT, observed_RT=~written_RT)
        >>> inputs.reading("observed").mask_RT
        tensor([[False,  True, False]])
        """
        if tokens == "written":
            return self
        observed_RT = torch.zeros_like(self.mask_RT) if self.observed_RT is None else self.observed_RT
        return replace(self, mask_RT=observed_RT)

    @property
    def valid_R(self) -> Tensor:  # noqa: N802  axes in names
        """(R,) `valid_NG`, flat."""
        return self.valid_NG.flatten()

    @property
    def lengths_R(self) -> Tensor:  # noqa: N802
        """(R,) tokens that the policy wrote."""
        return self.mask_RT.sum(dim=1)

    def needed(self, name: str, why: str) -> Tensor:
        """An annotation that must be there.

        Raises:
            ValueError: it is not.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ValueError(f"{why} needs {name}, and the batch was not annotated with it")
        return value


def masked(values_RT: Tensor, mask_RT: Tensor) -> Tensor:
    """The values, 0 where the mask is False. `where`, not a product: padding may hold anything, and 0 * inf is NaN.

    >>> masked(torch.tensor([[-1.0, torch.nan]]), torch.tensor([[True, False]]))
    tensor([[-1.,  0.]])
    """
    return torch.where(mask_RT, values_RT, torch.zeros_like(values_RT))
