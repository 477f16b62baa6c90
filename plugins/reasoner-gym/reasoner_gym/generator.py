"""The generator `reasoning_gym`: problems of one dataset, with what its scorer needs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

from reasoner import DataError
from reasoner_gym.datasets import make
from reasoner_gym.plain import to_plain

MANY = "(any answer that the scorer accepts)"
"""the reference answer of a problem that has none of its own"""

UNSTABLE = frozenset({"isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"})
"""datasets that draw from sets of text, whose order is another in every process unless PYTHONHASHSEED is set"""
DATED = frozenset({"time_intervals"})
"""datasets that take the day's date: the same problems on the same day"""


def reasoning_gym(
    count: int,
    seed: int,
    *,
    name: str,
    config: dict[str, Any] = {},  # noqa: B006  (an option's default; it is only read)
) -> Iterator[Mapping[str, Any]]:
    """Problems of the dataset `name`: question, answer, metadata, index, config.

    They are drawn as the dataset draws them: a small one repeats itself. It draws problem i from `seed + i`, so the
    seed is spread here, and neighbouring seeds do not share their problems. The same seed gives the same problems, but
    of an `UNSTABLE` dataset in the same process only, of a `DATED` one on the same day. `answer` is `MANY` where the
    dataset gives none. `metadata` and `config` are for the reward source, `metadata` in the form of
    `reasoner_gym.plain`.

    Raises:
        MissingDependencyError: reasoning-gym is not installed.
        ConfigError: there is no such dataset, or it does not take the `config`.
        DataError: a problem holds something that JSON does not have.
    """
    # A text seed is hashed by SHA-512, the same everywhere; some datasets take no seed above 32 bits.
    first = random.Random(f"reasoning_gym:{seed}").randrange(2**31)
    dataset = make(name, config, seed=first, size=count)
    for index in range(count):
        with drawing(first + index):
            entry = dataset[index]
        try:
            metadata = to_plain(entry["metadata"], "metadata")
        except TypeError as error:
            raise DataError(
                f"generator reasoning_gym, dataset {name!r}, problem {index}: {error}. Choose another dataset."
            ) from error
        answer = entry["answer"]
        yield {
            "question": entry["question"],
            "answer": MANY if answer is None else answer,
            "metadata": metadata,
            "index": index,
            "config": config,
        }


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """For datasets that draw from the generators of `random` and numpy themselves, or print: seeded and left as they
    were, and nothing is shown."""
    import numpy as np

    state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
