"""How many of the learner's tokens the responses of a group have in common beyond their prompt.

    scripts/shared_prefixes.py RUN...

Packing writes the prompt of a group once. Responses that begin alike could share more: what all of a group begin with,
or, as a tree, what any of them begin with. Groups whose rewards are all equal are left out: they are not trained on.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby, takewhile
from operator import attrgetter
from pathlib import Path

from reasoner.io.parquet import read_parquet
from reasoner.records import Rollout

Tokens = tuple[int, ...]


def common(rows: Sequence[Tokens]) -> int:
    """The number of tokens that all begin with.

    >>> common([(1, 2, 3), (1, 2), (1, 2, 4)])
    2
    """
    return sum(1 for _ in takewhile(lambda column: len({*column}) == 1, zip(*rows, strict=False)))


def tree(rows: Sequence[Tokens]) -> int:
    """The number of tokens where every common beginning is written once.

    >>> tree([(1, 2, 3), (1, 2, 4), (1, 5), (6,)])  # 1, 2, 3, 4, 5, 6
    6
    """
    total, pending = 0, [[*rows]]
    while pending:
        branch = [row for row in pending.pop() if row]
        shared = len(branch[0]) if len(branch) == 1 else common(branch)
        total += shared
        children: defaultdict[int, list[Tokens]] = defaultdict(list)
        for row in branch:
            if len(row) > shared:
                children[row[shared]].append(row[shared:])
        pending += children.values()
    return total


def tokens_of(run: Path) -> tuple[int, int, int]:
    """Tokens with shared prompts, with what all responses of a group begin with, and as a tree."""
    packed = of_all = of_tree = 0
    for file in sorted(run.glob("rollouts/step-*.parquet")):
        for _, members in groupby(read_parquet(file, Rollout), key=attrgetter("problem.id")):
            group = [*members]
            if len({rollout.reward for rollout in group}) < 2:
                continue
            prompt = len(group[0].prompt_ids)
            rows = [tuple(rollout.response.token_ids)[:-1] for rollout in group]
            written = sum(map(len, rows))
            packed += prompt + written
            of_all += prompt + written - (len(rows) - 1) * common(rows)
            of_tree += prompt + tree(rows)
    return packed, of_all, of_tree


def main() -> None:
    print("| run | tokens, prompts shared | what all begin with | as a tree |\n|---|---|---|---|")
    for run in map(Path, sys.argv[1:]):
        packed, of_all, of_tree = tokens_of(run)
        saved = [f"{100 * (of - packed) / packed:+.1f}%" if packed else "" for of in (of_all, of_tree)]
        print(f"| {run.name} | {packed:,} | {saved[0]} | {saved[1]} |")


if __name__ == "__main__":
    main()
