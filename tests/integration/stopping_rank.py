"""A plugin with which rank 1 does not get through its first update: as RANK_ONE has it, it sleeps, or it raises."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import timedelta

from torch import Tensor

from reasoner.distributed import ranks
from reasoner.gro.weights import Weights
from reasoner.training.update import Objective

if "RANK" in os.environ:  # it is not there any more where this file is executed again
    os.environ["STOPPING_RANK"] = os.environ["RANK"]
_RANK, _WHAT = os.environ.get("STOPPING_RANK", ""), os.environ["RANK_ONE"]
_weigh = Objective.__call__


def never_comes() -> None:
    while True:
        time.sleep(0.1)


def stopping(objective: Objective, rows: Sequence[int], logprobs_RT: Tensor, entropies_RT: Tensor | None) -> Weights:
    """Where the other rank waits in a collective of DeepSpeed's."""
    if _WHAT == "sleeps":
        ranks.PATIENCE = timedelta(seconds=4)
        ranks.share_patience()
    if _RANK == "1":
        if _WHAT == "raises":
            raise ZeroDivisionError("only here")
        never_comes()
    return _weigh(objective, rows, logprobs_RT, entropies_RT)


Objective.__call__ = stopping  # type: ignore[assignment, method-assign]
