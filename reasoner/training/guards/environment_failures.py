"""Environments that fail on too many responses: `environment.max_failure_rate`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from reasoner.config import EnvironmentConfig
from reasoner.errors import SamplerError
from reasoner.records import Group

MIN_RESPONSES = 8
"""responses below which a share of failures says too little to stop a run"""


def check_failures(groups: Iterable[Group], environment: EnvironmentConfig | None) -> None:
    """Judge all responses of a step or of an evaluation, those of all ranks, so that all ranks end together.

    Raises:
        SamplerError: the environment failed on too many.
    """
    everything = list(groups)
    responses = sum(len(group.responses) for group in everything)
    deque(limit_failures(everything, responses, environment), maxlen=0)


def limit_failures(groups: Iterable[Group], total: int, environment: EnvironmentConfig | None) -> Iterator[Group]:
    """The groups, until it is certain that the environment fails on too many of their responses.

    Args:
        total: responses in all groups, those to come included.
        environment: None: there is none, and no response has failed.

    Raises:
        SamplerError: it does.
    """
    most = environment.max_failure_rate * total if environment and total >= MIN_RESPONSES else total
    failed = 0
    for group in groups:
        for sample, response in enumerate(group.responses):
            failure = response.failure
            failed += failure is not None
            if environment and failure and failed > most:
                raise SamplerError(
                    f"the environment failed on at least {failed} of {total} responses, more than "
                    f"environment.max_failure_rate = {environment.max_failure_rate:g}. Problem {group.problem.id}, "
                    f"response {sample}: {failure.source}: {failure.kind}: {failure.message}"
                )
        yield group
