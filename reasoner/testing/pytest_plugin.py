"""The pytest fixture `score_in_worker`, for tests of reward sources: `pytest_plugins =
["reasoner.testing.pytest_plugin"]`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import pytest

from reasoner.config import RewardConfig
from reasoner.plugins.reward_api import RewardSource
from reasoner.records import Component, Problem, Response
from reasoner.scoring.service import ScoringService
from reasoner.testing.cases import score_cases
from reasoner.testing.contract import WORKER


class ScoreInWorker(Protocol):
    """What the fixture gives."""

    def __call__(
        self,
        source: RewardSource | str,
        problem: Problem,
        response: Response,
        *,
        timeout_s: float | None = None,
        plugins: Sequence[str] = (),
        **options: Any,
    ) -> Component:
        """The source's verdict: its value, parts and note, or how it failed.

        Args:
            source: a registered source, or its name.
            problem: what was asked.
            response: what is scored.
            timeout_s: seconds for the call; None: the source's own.
            plugins: files that register it, where no installed distribution does.
            options: of the source.
        """
        ...


@pytest.fixture
def score_in_worker() -> Iterator[ScoreInWorker]:
    """Calls a source in a worker process that is killed at the deadline, as in a run; the worker ends with the test."""
    services: dict[str, ScoringService] = {}
    with ExitStack() as stack:

        def score(
            source: RewardSource | str,
            problem: Problem,
            response: Response,
            *,
            timeout_s: float | None = None,
            plugins: Sequence[str] = (),
            **options: Any,
        ) -> Component:
            name = source if isinstance(source, str) else source.name
            key = json.dumps([name, timeout_s, list(plugins), options], default=repr)
            if key not in services:
                reward = RewardConfig(source=name, options=options, timeout_s=timeout_s)
                services[key] = stack.enter_context(ScoringService([reward], WORKER, plugins))
            return score_cases(services[key], [(problem, response)])[0][0]

        yield score
