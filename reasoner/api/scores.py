"""`reasoner.score`: responses under reward sources, without a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from reasoner.api.arguments import Plugin, check_plugins
from reasoner.api.frames import columns_of, to_frame, verdict
from reasoner.api.plugins import written
from reasoner.api.rows import groups_of
from reasoner.api.run import Run
from reasoner.benchmarks.rescore import load_saved, saved_path, score_in_order
from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import ConfigError
from reasoner.io.safe_text import printable
from reasoner.loading.layers import layer_of
from reasoner.loading.messages import explain
from reasoner.planning.preflight import preflight
from reasoner.plugins.manager import build_manager, reward_sources
from reasoner.plugins.reward_api import RewardSource
from reasoner.records import Component, ScoredGroup
from reasoner.scoring.composition import check_rewards
from reasoner.scoring.service import ScoringService

Reward = str | RewardSource | Mapping[str, Any]
"""a registered source's name, a function marked with `@reward`, or an entry of `[[rewards]]` as a table, whose `source`
is one or the other"""
SCORING = ScoringConfig(max_failure_rate=1.0)
"""no number of failures stops it: they are there to be looked at"""


class _Rewards(BaseModel):
    rewards: list[RewardConfig]


@dataclass(frozen=True)
class Scores:
    """Scored responses, in their order."""

    groups: tuple[ScoredGroup, ...]

    @property
    def rewards(self) -> list[float | None]:
        """The total reward of each response; None: it abstained, because a source failed."""
        return [reward for scored in self.groups for reward in scored.rewards]

    @property
    def components(self) -> list[tuple[Component, ...]]:
        """What each source said of each response: value, note, failure, seconds."""
        return [parts for scored in self.groups for parts in scored.components]

    @property
    def frame(self) -> Any:
        """A row per response: `question`, `answer`, `response`, `reward`, and per source `reward/NAME`, `note/NAME` and
        `failure/NAME`. A frame of pandas, or of polars.

        Raises:
            MissingDependencyError: neither is installed.
        """
        return to_frame(columns_of(self._rows()))

    def _rows(self) -> Iterator[dict[str, Any]]:
        for scored in self.groups:
            problem = scored.group.problem
            for response, reward, parts in zip(scored.group.responses, scored.rewards, scored.components, strict=True):
                row: dict[str, Any] = {
                    "question": problem.messages[-1].content,
                    "answer": problem.answer,
                    "response": response.text,
                    "reward": reward,
                }
                for part in parts:
                    row |= verdict(part)
                yield row

    def __len__(self) -> int:
        return sum(len(scored.rewards) for scored in self.groups)

    def __repr__(self) -> str:
        known = [reward for reward in self.rewards if reward is not None]
        mean = f", mean reward {sum(known) / len(known):.3g}" if known else ""
        failed = sum(any(part.failure for part in parts) for parts in self.components)
        return f"<Scores: {len(self)} responses{mean}{f', {failed} with a failed call' if failed else ''}>"


def score(
    responses: Iterable[Mapping[str, Any]] | Run | str | Path | Any,
    rewards: Sequence[Reward],
    *,
    plugins: Iterable[Plugin] = (),
) -> Scores:
    """Score responses as a run does: in worker processes that are killed at the deadline of a call.

        reasoner.score([{"question": "2 + 3?", "answer": "5", "response": "It is 5."}], rewards=["math", my_verifier])

    What sources print appears, and the first exception of each with the end of its traceback. Nothing that it starts is
    left when it returns. It works in any thread and inside of an event loop.

    Args:
        responses: rows, as tables or as a frame of pandas or polars (one of `Run.rollouts` is one). `response` is the
            text, `answer` the reference, `question` the prompt; `fields` or any further column is what verifiers find
            in `problem.fields`. Responses with the same `problem` (or the same question, answer and fields) that follow
            each other are a group, for sources that see groups. Or all saved responses of a run, of its folder, or of a
            file of rollouts.
        rewards: the sources.
        plugins: files and functions that register further sources.

    Raises:
        ConfigError: a reward, or an option of it, does not exist.
        UserError: a source cannot work here, a row has no response, or a function cannot be given to workers.
        ScoringError: a source with `on_failure = "abort"` failed. Other failures are in the scores, however many.
    """
    if isinstance(responses, Run | str | Path):
        path = responses.folder if isinstance(responses, Run) else saved_path(str(responses))
        batches = [[scored.group for scored in batch.groups] for batch in load_saved(path)]
    else:
        batches = [groups_of(responses)]
    entries, functions = _entries(rewards)
    given = check_plugins(plugins)
    given += [function for function in functions if not any(function is each for each in given)]
    with written(given) as files:
        manager = build_manager(files)
        check_rewards(entries, reward_sources(manager))
        preflight(entries, manager)
        with ScoringService(entries, SCORING, files, _say, fail=_say, log=_say) as service:
            return Scores(tuple(scored for groups in batches for scored in score_in_order(groups, service)))


def _say(text: str) -> None:
    print(printable(text), flush=True)  # noqa: T201


def _entries(rewards: Sequence[Reward]) -> tuple[list[RewardConfig], list[RewardSource]]:
    """The rewards as a configuration has them, and the functions among them."""
    if isinstance(rewards, str | Mapping | RewardSource) or not isinstance(rewards, Iterable):
        raise ConfigError("rewards takes a list: rewards=['math', my_verifier].")
    tables: list[dict[str, Any]] = []
    functions: list[RewardSource] = []
    for reward in rewards:
        table = dict(reward) if isinstance(reward, Mapping) else {"source": reward}
        if isinstance(source := table.get("source"), RewardSource):
            functions.append(source)
            table["source"] = source.name
        elif callable(source):
            check_plugins([source])
        tables.append(table)
    if not tables:
        raise ConfigError("rewards is empty: name at least one source (`reasoner rewards list`).")
    leaves = layer_of({"rewards": tables}, "rewards=[...]").leaves
    try:
        return _Rewards(rewards=tables).rewards, functions  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(explain(error, leaves)) from None
