"""How many of the learner's tokens the responses of a group have in common beyond their prompt.

    scripts/shared_prefixes.py RUN...

Packing writes the prompt of a group once. Responses that begin alike share more: what all of a group begin with, or, as
a tree, what any of them begin with; the last column is what packing makes of it, which leaves short pieces and groups
where it saves little as they are. Groups whose rewards are all equal are left out: they are not trained on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby, takewhile
from operator import attrgetter
from pathlib import Path

from reasoner.distributed.sharding import rows_by_group
from reasoner.io.parquet import read_parquet
from reasoner.learning.batching.packing import pack
from reasoner.learning.batching.prefix_tree import PrefixTree
from reasoner.records import Group, Rollout

Tokens = tuple[int, ...]
WHOLE = 10**9
"""a budget that holds every group"""


def common(rows: Sequence[Tokens]) -> int:
    """The number of tokens that all begin with.

    >>> common([(1, 2, 3), (1, 2), (1, 2, 4)])
    2
    """
    return sum(1 for _ in takewhile(lambda column: len({*column}) == 1, zip(*rows, strict=False)))


def tokens_of(run: Path) -> tuple[int, int, int, int]:
    """Tokens with shared prompts, with what all responses of a group begin with, with every common beginning once, and
    as packing has it."""
    apart = of_all = of_tree = packed = 0
    for file in sorted(run.glob("rollouts/step-*.parquet")):
        for _, members in groupby(read_parquet(file, Rollout), key=attrgetter("problem.id")):
            rollouts = [*members]
            if len({rollout.reward for rollout in rollouts}) < 2:
                continue
            group = Group(rollouts[0].problem, rollouts[0].prompt_ids, tuple(each.response for each in rollouts))
            prompt, responses = len(group.prompt_ids), [tuple(response.token_ids) for response in group.responses]
            rows = [response[:-1] for response in responses]
            written = sum(map(len, rows))
            apart += prompt + written
            of_all += prompt + written - (len(rows) - 1) * common(rows)
            of_tree += prompt + PrefixTree.of(responses, least=1).tokens
            packed += sum(batch.tokens for batch in pack(rows_by_group([group]), WHOLE, "always"))
    return apart, of_all, of_tree, packed


def main() -> None:
    print("| run | tokens, prompts shared | what all begin with | a tree | as packed |\n|---|---|---|---|---|")
    for run in map(Path, sys.argv[1:]):
        apart, *others = tokens_of(run)
        saved = [f"{100 * (of - apart) / apart:+.1f}%" if apart else "" for of in others]
        print(f"| {run.name} | {apart:,} | {' | '.join(saved)} |")


if __name__ == "__main__":
    main()
