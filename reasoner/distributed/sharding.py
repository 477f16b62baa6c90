"""The responses of a batch over the ranks: whole groups, balanced by the tokens that go through the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from reasoner.distributed.ranks import Ranks, share
from reasoner.errors import RunError
from reasoner.records import Group, Response


@dataclass(frozen=True, slots=True)
class RankShare:
    """What one rank takes of a batch that all of them hold."""

    groups: tuple[Group, ...]
    rows: tuple[int, ...]
    """index among all responses of the batch, in group order, of each response of `groups`"""

    @property
    def responses(self) -> list[Response]:
        """Those of `groups`, in group order."""
        return [response for group in self.groups for response in group.responses]


def shares_of(groups: Sequence[Group], count: int) -> list[RankShare]:
    """The share of each of `count` ranks."""
    firsts, rows = [], 0
    for group in groups:
        firsts.append(rows)
        rows += len(group.responses)
    return [
        RankShare(
            tuple(groups[n] for n in mine),
            tuple(row for n in mine for row in range(firsts[n], firsts[n] + len(groups[n].responses))),
        )
        for mine in share([_tokens(group) for group in groups], count)
    ]


def spread_logprobs(
    groups: Sequence[Group], ranks: Ranks, local: Callable[[Sequence[Group]], list[list[float]]]
) -> list[list[float]]:
    """(R)(T): every rank computes its share, and all have the whole.

    Args:
        local: gives (R)(T) of some groups, on this rank.
    """
    shares = shares_of(groups, ranks.count)
    found: list[list[float]] = [[] for group in groups for _ in group.responses]
    for each, values in zip(shares, ranks.gather(local(shares[ranks.index].groups)), strict=True):
        for row, value in zip(each.rows, values, strict=True):
            found[row] = value
    return found


def same_batch(groups: Sequence[Group], ranks: Ranks) -> None:
    """Ranks that train on different batches would wait for each other for ever, or train on a mixture.

    Raises:
        RunError: they do.
    """
    mine = hash(tuple(response.token_ids for group in groups for response in group.responses))
    if len(set(ranks.gather(mine))) > 1:
        raise RunError(
            "ranks hold different batches: something that decides about the data depends on the rank, such as a "
            "plugin that uses an unseeded random choice or the time"
        )


class LogprobModel(Protocol):
    """What gives log-probabilities."""

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[list[float]]:
        """(R)(T) log-probability of every response token."""
        ...


@dataclass(frozen=True, slots=True)
class ShardedPolicy:
    """A policy of which every rank holds a copy, and puts its share of the responses through."""

    policy: LogprobModel
    ranks: Ranks

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[list[float]]:
        return spread_logprobs(groups, self.ranks, lambda some: self.policy.logprobs(some, temperature))


def _tokens(group: Group) -> int:
    return len(group.prompt_ids) + sum(len(response.token_ids) for response in group.responses)
