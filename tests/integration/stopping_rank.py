"""A plugin with which rank 1 does not get through its first update: as RANK_ONE has it, it sleeps, or it raises."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from reasoner.gro.weights import Weights
    from reasoner.training.update import Objective

_RANK, _WHAT = os.environ.get("RANK", ""), os.environ["RANK_ONE"]
"""RANK is this process's: the launcher has none, and hosts of workers, which a rank starts later, do not get it"""


def never_comes() -> None:
    while True:
        time.sleep(0.1)


def stop_updates() -> None:
    """For ranks: launcher and hosts execute this file, too, and would take seconds to import the learner."""
    from reasoner.distributed import ranks
    from reasoner.training.update import Objective

    weigh = Objective.__call__

    def stopping(
        objective: Objective, rows: Sequence[int], logprobs_RT: Tensor, entropies_RT: Tensor | None
    ) -> Weights:
        """Where the other rank waits in a collective of DeepSpeed's."""
        if _WHAT == "sleeps":
            ranks.PATIENCE = timedelta(seconds=4)
            ranks.share_patience()
        if _RANK == "1":
            if _WHAT == "raises":
                raise ZeroDivisionError("only here")
            never_comes()
        return weigh(objective, rows, logprobs_RT, entropies_RT)

    Objective.__call__ = stopping  # type: ignore[assignment, method-assign]


if _RANK:
    stop_updates()
