"""`reasoner.score`: responses under reward sources, without a run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from reasoner.api.arguments import Plugin, check_plugins
from reasoner.api.frames import columns_of, to_frame, verdict
from reasoner.api.plugins import written
from reasoner.api.run import Run
from reasoner.cases import make_response
from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import ConfigError, UserError, nearest
from reasoner.plugins import build_manager, reward_sources
from reasoner.preflight import preflight
from reasoner.records import Component, Group, Message, Problem, ScoredGroup
from reasoner.rescore import load_saved, score_in_order
from reasoner.rewards_api import RewardSource
from reasoner.scoring.compose import check_rewards
from reasoner.scoring.service import ScoringService
from reasoner.settings.layers import layer_of
from reasoner.settings.messages import explain

_log = logging.getLogger(__name__)

Reward = str | RewardSource | Mapping[str, Any]
"""a registered source's name, a function marked with `@reward`, or an entry of `[[rewards]]` as a table, whose `source`
is one or the other"""
KNOWN = ("question", "answer", "response", "fields", "finish_reason", "tokens", "problem", "sample")
"""columns of a row; of others a problem's fields are made"""
OF_SCORES = ("step", "policy_version", "reward", "credit", "dropped", "token_ids", "token_logprobs", "token_weights")
"""columns of a frame of `Run.rollouts` that say nothing of the problem; nor do those that begin with one of"""
OF_SOURCES = ("reward/", "note/", "failure/")
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

    Nothing that it starts is left when it returns. It works in any thread and inside of an event loop.

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
    batches = _batches(responses)
    entries, functions = _entries(rewards)
    given = check_plugins(plugins)
    given += [function for function in functions if not any(function is each for each in given)]
    with written(given) as files:
        check_rewards(entries, reward_sources(build_manager(files)))
        preflight(entries, files)
        with ScoringService(entries, SCORING, files, _log.warning) as service:
            return Scores(tuple(scored for groups in batches for scored in score_in_order(groups, service)))


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


def _batches(responses: Any) -> list[list[Group]]:
    """The responses as groups, with no problem twice in a batch."""
    if isinstance(responses, Run | str | Path):
        path = responses.folder if isinstance(responses, Run) else Path(responses)
        return [[scored.group for scored in batch.groups] for batch in load_saved(path)]
    groups: list[Group] = []
    for _, rows in groupby(enumerate(_rows(responses)), key=lambda numbered: _problem_key(*numbered)):
        numbered = list(rows)
        first, row = numbered[0]
        fields = _fields(row)
        question, answer = str(row.get("question", "")), str(row.get("answer", ""))
        fields = {"question": question, "answer": answer, **fields}
        problem = Problem(f"responses:{first}", (Message("user", question),), answer, fields)
        found = tuple(
            make_response(each["response"], finish_reason=each.get("finish_reason", "stop"), tokens=each.get("tokens"))
            for _, each in numbered
        )
        groups.append(Group(problem, (0,), found))
    if not groups:
        raise UserError("there are no responses to score.")
    return [groups]


def _rows(responses: Any) -> Iterator[Mapping[str, Any]]:
    if hasattr(responses, "to_dicts"):  # polars
        responses = responses.to_dicts()
    elif hasattr(responses, "to_dict") and not isinstance(responses, Mapping):  # pandas
        responses = responses.to_dict("records")
    if isinstance(responses, Mapping) or not isinstance(responses, Iterable):
        raise UserError("responses takes a list of rows: [{'question': ..., 'answer': ..., 'response': ...}].")
    for number, row in enumerate(responses):
        if not isinstance(row, Mapping):
            raise UserError(
                f"response {number}: must be a row such as {{'question': ..., 'answer': ..., 'response': ...}}, got "
                f"{type(row).__name__}."
            )
        if not isinstance(row.get("response"), str):
            got = (
                f"got {type(row['response']).__name__}" if "response" in row else f"it has: {', '.join(map(str, row))}"
            )
            raise UserError(
                f"response {number}: the column 'response' must be text;{nearest('response', map(str, row))} {got}."
            )
        yield row


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    rest = {
        name: value
        for name, value in row.items()
        if name not in (*KNOWN, *OF_SCORES) and not str(name).startswith(OF_SOURCES)
    }
    return {**rest, **(row.get("fields") or {})}


def _problem_key(number: int, row: Mapping[str, Any]) -> object:
    if row.get("problem") is not None:
        return row.get("step"), row["problem"]
    return row.get("question"), row.get("answer"), repr(_fields(row))
