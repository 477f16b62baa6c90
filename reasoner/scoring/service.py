"""Scores groups of responses: the main process's side of a reward path that cannot hang."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import ConfigError, ScoringError
from reasoner.records import Group, ScoredGroup
from reasoner.scoring.cache import Cache
from reasoner.scoring.reward_table import RewardTable
from reasoner.scoring.score_call import ScoreCall, Shared
from reasoner.scoring.statistics import SourceStatistics, Tally
from reasoner.scoring.workers.protocol import Plan, Traits, dump_plan, load_start
from reasoner.workers.host_process import HostProcess
from reasoner.workers.lines import CANCEL


class ScoringService:
    """Runs the configured reward sources in worker processes with deadlines. Leaving the context ends all of them.

    `rewards` are those of all problems, or by task: then each group is scored by those of its own (`Problem.part`).

    It uses neither signals nor asyncio, so it works in any thread and inside an event loop. One `score` call at a time:
    the next one cancels what is left of the one before.

    `say` takes what is worth knowing, each once: that a source leaves its worker changed, that the host was stopped.
    `fail` takes the first failure of every source that raised, with the end of its traceback; `log` what the sources
    print.

    Raises:
        ConfigError: a plugin, a reward source or one of its options is wrong.
        ScoringError: the host did not start.
    """

    def __init__(
        self,
        rewards: Sequence[RewardConfig] | Mapping[str, Sequence[RewardConfig]],
        scoring: ScoringConfig,
        plugins: Sequence[str] = (),
        say: Callable[[str], None] = lambda text: None,
        *,
        fail: Callable[[str], None] = lambda text: None,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        by_task = rewards if isinstance(rewards, Mapping) else {"": rewards}
        table = RewardTable.of(by_task)
        self._sources = table.names
        self._tally = Tally(self._sources)
        self._running: ScoreCall | None = None
        self._host = HostProcess(
            "scoring",
            "reasoner.scoring.workers.host",
            dump_plan(Plan(table.rewards, scoring, tuple(plugins), os.getpid())),
        )
        try:
            traits = _start_host(self._host)
        except BaseException:
            self.close()
            raise
        self._shared = Shared(
            table,
            traits,
            scoring.max_failure_rate,
            self._host,
            Cache(scoring.cache),
            say=say,
            fail=fail,
            log=log,
        )

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        """Yield each group as soon as all its responses are scored, in the order of completion.

        Groups are pulled one by one and handed to the workers at once, so that scoring overlaps with an iterator that
        samples. A source of granularity `batch` keeps groups back until a batch is full or no group follows.

        Raises:
            ScoringError: a source failed in more than `max_failure_rate` of its calls, or once and its `on_failure` is
                `abort`, or the scoring host died.
        """
        call = self._begin()
        try:
            for group in groups:
                call.submit(group)
                yield from call.completed()
            call.close_intake()
            yield from call.completed()
            while call.open:
                call.wait()
                yield from call.completed()
        finally:
            self._finish(call)

    def statistics(self) -> Mapping[str, SourceStatistics]:
        """Calls, spared calls, failures and seconds by source (with several tasks `math of math-gsm8k`): of the running
        `score` call, or of the last one."""
        return self._tally.statistics()

    def left_behind(self) -> Mapping[str, Sequence[str]]:
        """By source, what its calls left behind in their workers, each once; sources that left nothing are absent."""
        return self._shared.left

    def state(self) -> dict[str, Any]:
        """Calls made of each source, against `max_calls`; JSON values."""
        return {"made": {source: self._shared.made[index] for index, source in enumerate(self._sources)}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._shared.made = Counter({index: state["made"][source] for index, source in enumerate(self._sources)})

    def save_scores(self, path: Path) -> None:
        """Keep the cache."""
        self._shared.cache.save(path)

    def load_scores(self, path: Path) -> None:
        """Go on with a kept cache."""
        self._shared.cache.load(path)

    def close(self) -> None:
        """End the host, its workers and everything that they started; safe to call twice."""
        self._host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin(self) -> ScoreCall:
        if self._host.closed:
            raise ScoringError("the scoring service is closed; make a new one")
        if self._running is not None:
            self._host.send(CANCEL + b"\n")
        self._tally = Tally(self._sources)
        self._running = ScoreCall(self._shared, self._tally)
        return self._running

    def _finish(self, call: ScoreCall) -> None:
        if self._running is call:
            self._running = None
            if call.open:
                self._host.send(CANCEL + b"\n")


def _start_host(host: HostProcess) -> tuple[Traits, ...]:
    line = host.first_line()
    if line is None:
        raise ScoringError(f"the scoring host did not start: it {host.obituary()}")
    try:
        answer = load_start(line)
    except ValueError as error:
        raise ScoringError(f"the scoring host did not start: {error}; got {line[:200]!r}") from error
    if isinstance(answer, str):
        raise ConfigError(answer)
    return tuple(answer)
