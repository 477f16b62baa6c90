"""Scores that are known already, so that equal calls are made once. The least recently used go first.

A run's checkpoints hold them: a judge may answer otherwise when it is asked again, and its calls have a price.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from reasoner.io.parquet import read_parquet, write_parquet
from reasoner.records import Response, Score

Key = tuple[int, bytes]
"""index in the configured rewards, whose options are fixed, and what the call sees (`digest`)"""


@dataclass(frozen=True, slots=True)
class Known:
    """A score as it is kept in a file."""

    reward: int
    """index in the configured rewards"""
    seen: str
    """`digest`, hexadecimal"""
    value: float | None
    """None: not applicable"""
    parts: Mapping[str, Any]
    note: str


class Cache:
    """A mapping of at most `size` scores. Failures do not belong here: the next call may succeed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._scores: OrderedDict[Key, Score | None] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._scores

    def __getitem__(self, key: Key) -> Score | None:
        self._scores.move_to_end(key)
        return self._scores[key]

    def __setitem__(self, key: Key, score: Score | None) -> None:
        self._scores[key] = score
        self._scores.move_to_end(key)
        if len(self._scores) > self.size:
            self._scores.popitem(last=False)

    def save(self, path: Path) -> None:
        """Write the scores, the least recently used first; none: no file."""
        known = [
            Known(reward, seen.hex(), None, {}, "")
            if score is None
            else Known(reward, seen.hex(), score.value, score.parts, score.note)
            for (reward, seen), score in self._scores.items()
        ]
        if known:
            write_parquet(path, known)

    def load(self, path: Path) -> None:
        """Add the scores that `save` wrote."""
        for known in read_parquet(path, Known) if path.exists() else ():
            score = None if known.value is None else Score(known.value, known.parts, known.note)
            self[known.reward, bytes.fromhex(known.seen)] = score


def digest(content: bytes, response: Response) -> bytes:
    """What a call may depend on: the problem without its name (`protocol.dump_content`), text, length and end; of a
    response with turns what was said, called and reported in them.

    Token ids and seconds are left out: different tokens may spell one text, and no two calls of a tool take as long.
    """
    seen = blake2b(content, digest_size=16)
    seen.update(json.dumps([response.text, response.finish_reason, len(response.token_ids)]).encode())
    if response.turns or response.report:
        turns = [asdict(replace(turn, first=0, end=0, seconds=0.0)) for turn in response.turns]
        report = response.report and asdict(response.report)
        seen.update(json.dumps([sum(response.policy_mask), turns, report], sort_keys=True).encode())
    return seen.digest()
