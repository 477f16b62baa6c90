"""Scores that are known already, so that equal calls are made once. The least recently used go first."""

from __future__ import annotations

import json
from collections import OrderedDict
from hashlib import blake2b

from reasoner.records import Response, Score

Key = tuple[int, bytes]
"""index in the configured rewards, whose options are fixed, and what the call sees (`digest`)"""


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


def digest(content: bytes, response: Response) -> bytes:
    """What a call may depend on: the problem without its name (`wire.dump_content`), text, length and end.

    The token ids are left out: different tokens may spell one text.
    """
    seen = blake2b(content, digest_size=16)
    seen.update(json.dumps([response.text, response.finish_reason, len(response.token_ids)]).encode())
    return seen.digest()
