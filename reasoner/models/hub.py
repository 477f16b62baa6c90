"""Whether the Hugging Face hub can be reached, found out once and in seconds.

Left alone, the client libraries retry with growing pauses: half a minute of silence for a machine without a network.
Nothing here downloads; `models.py` and `data.py` do.
"""

from __future__ import annotations

import functools
import os

from reasoner.errors import MissingDependencyError

PROBE_TIMEOUT_S = 5.0


@functools.cache
def hub_reachable() -> bool:
    """Whether the hub answers at all (any status) within five seconds; asked once per process.

    When it does not, the client libraries are told to stay offline from now on: they use what they have cached and fail
    at once otherwise.

    Raises:
        MissingDependencyError: `huggingface_hub` is not installed.
    """
    try:
        from huggingface_hub import constants, get_session
    except ImportError as error:
        raise MissingDependencyError(
            "the Hugging Face hub needs huggingface_hub; install it with `pip install 'reasoner[train,data]'`"
        ) from error
    if not constants.HF_HUB_OFFLINE:
        try:
            get_session().head(constants.ENDPOINT, timeout=PROBE_TIMEOUT_S)
        except Exception:  # every transport has its own errors; all of them mean that nobody answered
            _stay_offline()
    return not constants.HF_HUB_OFFLINE


def offline_fact() -> str:
    """That the hub was asked and did not answer, for the facts of a run; empty: it did, or nobody asked."""
    from_cache = hub_reachable.cache_info().currsize and not hub_reachable()
    return (
        "cannot be reached: models and data are those of the local cache, as old as they may be" if from_cache else ""
    )


def _stay_offline() -> None:
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that are not imported yet, and for child processes
    constants.HF_HUB_OFFLINE = True
