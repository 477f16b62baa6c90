"""The generator `reasoning_gym`: problems of one dataset, with what its scorer needs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from reasoner.errors import DataError
from reasoner_gym.datasets import make
from reasoner_gym.plain import to_plain

MANY = "(any answer that the scorer accepts)"
"""the reference answer of a problem that has none of its own"""


def reasoning_gym(
    count: int,
    seed: int,
    *,
    name: str,
    config: dict[str, Any] = {},  # noqa: B006  (an option's default; it is only read)
) -> Iterator[Mapping[str, Any]]:
    """Problems of the dataset `name`: question, answer, metadata, index, config.

    They are drawn as the dataset draws them: a small one repeats itself. It draws problem i from `seed + i`, so the
    seed is spread here, and neighbouring seeds do not share their problems. `answer` is `MANY` where the dataset gives
    none. `metadata` and `config` are for the reward source, in the form of `reasoner_gym.plain`.

    Raises:
        MissingDependencyError: reasoning-gym is not installed.
        ConfigError: there is no such dataset, or it does not take the `config`.
        DataError: a problem holds something that JSON does not have.
    """
    # A text seed is hashed by SHA-512, the same everywhere; some datasets take no seed above 32 bits.
    first = random.Random(f"reasoning_gym:{seed}").randrange(2**31)
    dataset = make(name, config, seed=first, size=count)
    for index in range(count):
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
