"""Pairs of a chosen and a rejected response of one group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from reasoner.gro.spec.terms import Pairing


def mine(spec: Pairing, rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
    """(P, 2) rows (index into the R = N G responses) of the chosen and the rejected response of every pair.

    best-worst: a group's best and its worst response (the first of equals). correct-incorrect: every response of at
    least `correct` with every one below, up to `most` per group, taken so that both sides vary. Only pairs whose
    rewards differ by more than `margin`; abstained responses are in none.

    >>> rewards_NG, valid_NG = torch.tensor([[0.0, 1.0, 0.2], [1.0, 1.0, 0.0]]), torch.ones(2, 3, dtype=torch.bool)
    >>> mine(Pairing("best-worst"), rewards_NG, valid_NG).tolist()
    [[1, 0], [3, 5]]
    >>> mine(Pairing("correct-incorrect", most=8, correct=1.0), rewards_NG, valid_NG).tolist()
    [[1, 0], [1, 2], [3, 5], [4, 5]]
    >>> mine(Pairing("correct-incorrect", most=8, correct=1.0, margin=0.9), rewards_NG, valid_NG).tolist()
    [[1, 0], [3, 5], [4, 5]]

    Args:
        spec: the rule and its numbers.
        rewards_NG: total rewards; those that are not valid may hold anything.
        valid_NG: bool; responses that count.
    """
    size = rewards_NG.shape[1]
    pairs = [
        (n * size + chosen, n * size + rejected)
        for n, (rewards, valid) in enumerate(zip(rewards_NG.tolist(), valid_NG.tolist(), strict=True))
        for chosen, rejected in _of_group(spec, [r if v else None for r, v in zip(rewards, valid, strict=True)])
    ]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def _of_group(spec: Pairing, rewards: Sequence[float | None]) -> Iterator[tuple[int, int]]:
    known = {place: reward for place, reward in enumerate(rewards) if reward is not None}
    if not known:
        return
    if spec.rule == "best-worst":
        candidates = [(max(known, key=known.__getitem__), min(known, key=known.__getitem__))]
    else:
        good = [place for place, reward in known.items() if reward >= spec.correct]
        bad = [place for place, reward in known.items() if reward < spec.correct]
        diagonal = sorted((g + b, g, b) for g in range(len(good)) for b in range(len(bad)))
        candidates = [(good[g], bad[b]) for _, g, b in diagonal]
    far = (pair for pair in candidates if known[pair[0]] - known[pair[1]] > spec.margin)
    yield from islice(far, spec.most)


def pairs_of_row(pairs_P2: Tensor) -> dict[int, list[int]]:
    """The pairs that each response is in, by its row.

    >>> pairs_of_row(torch.tensor([[1, 0], [1, 2]]))
    {1: [0, 1], 0: [0], 2: [1]}
    """
    by_row: dict[int, list[int]] = {}
    for pair, rows in enumerate(pairs_P2.tolist()):
        for row in rows:
            by_row.setdefault(row, []).append(pair)
    return by_row


def units(rows: int, pairs_P2: Tensor) -> list[int]:
    """(R,) a number per response, the same for responses that pairs connect: they need each other's forward.

    >>> units(5, torch.tensor([[1, 0], [1, 2]]))
    [1, 1, 1, 3, 4]

    Args:
        rows: R, the responses of the batch.
        pairs_P2: rows of the chosen and the rejected response of each pair.
    """
    leader = list(range(rows))

    def find(row: int) -> int:
        while leader[row] != row:
            row = leader[row] = leader[leader[row]]
        return row

    for chosen, rejected in pairs_P2.tolist():
        leader[find(rejected)] = find(chosen)
    return [find(row) for row in range(rows)]
