"""The reward source `http`: a service of your own scores batches over a small, versioned JSON schema."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reasoner import Problem, Response, Score, reward
from reasoner_rewards.remote import Service, Url, secret, shown

VERSION = 1
"""of the schema; docs/http-reward.md is its specification"""
MAX_NAMED = 5
"""items that an error message names"""
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
OWN_HEADERS = ("accept", "connection", "content-length", "content-type", "host", "transfer-encoding")


class HttpOptions(BaseModel):
    """Options of `http`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    url: Url
    """where batches are posted to"""
    headers_env: dict[str, str] = {}
    """header -> environment variable that holds its value: `{ Authorization = "SCORER_TOKEN" }`"""
    attempts: int = Field(default=3, gt=0)
    """requests at most, for one batch: again on status 429 and 5xx and when the connection fails"""
    batch: int = Field(default=64, gt=0)
    """responses per request at most"""

    @field_validator("headers_env")
    @classmethod
    def _may_be_sent(cls, headers_env: dict[str, str]) -> dict[str, str]:
        for header in headers_env:
            if not TOKEN.fullmatch(header) or header.lower() in OWN_HEADERS:
                raise ValueError(f"{header!r} is not a header that can be set")
        return headers_env


class _Result(BaseModel):
    """One entry of `results`: a score, null for "not applicable", or an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str
    score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    parts: dict[str, Any] = Field(default_factory=dict)
    note: str = ""
    error: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if ("score" in self.model_fields_set) == (self.error is not None):
            raise ValueError("either 'score' (a number or null) or 'error' (a text) is needed")
        return self


class _Answer(BaseModel):
    """What the service answers to one request."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1]
    results: tuple[_Result, ...] = Field(strict=False)


def _preflight(options: HttpOptions) -> str:
    """Where the service is; the values of its headers must be there."""
    for variable in options.headers_env.values():
        secret(variable)
    return f"service at {shown(options.url)}"


@reward("http", timeout_s=120.0, granularity="batch", workers=4, preflight=_preflight)
def http(problems: Sequence[Problem], responses: Sequence[Response], *, options: HttpOptions) -> list[Score | None]:
    """What a service says: one request for up to `batch` responses, one result for each.

    An answer counts only as a whole: a wrong version, an id that is missing, unknown or there twice, a score that is
    not finite, or an unknown key fails the call. So does an item for which the service reports an error, because a
    batch cannot fail in part; a service that can judge some of it only answers `null` (not applicable) for the others.

    Parts and note: the service's own.

    Raises:
        RemoteError: the service did not deliver, or delivered something else; the message names the responses.
    """
    values = {header: secret(variable) for header, variable in options.headers_env.items()}
    service = Service(options.url, values, tuple(values.values()), options.attempts)
    pairs = list(zip(problems, responses, strict=True))
    scores: list[Score | None] = []
    for start in range(0, len(pairs), options.batch):
        items = {str(start + index): pair for index, pair in enumerate(pairs[start : start + options.batch])}
        answer = service.post({"version": VERSION, "items": [_item(id_, *pair) for id_, pair in items.items()]})
        scores.extend(_scores(service, answer, items))
    return scores


def _item(id_: str, problem: Problem, response: Response) -> dict[str, Any]:
    return {
        "id": id_,
        "problem": {
            "id": problem.id,
            "messages": [{"role": message.role, "content": message.content} for message in problem.messages],
            "answer": problem.answer,
            "fields": dict(problem.fields),
        },
        "response": {
            "text": response.text,
            "finish_reason": response.finish_reason,
            "tokens": sum(response.policy_mask),
        },
    }


def _scores(service: Service, answer: Any, items: Mapping[str, tuple[Problem, Response]]) -> Iterator[Score | None]:
    try:
        results = _Answer.model_validate(answer).results
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the answer"
        what = f"answered against the schema, version {VERSION}: {place}: {first['msg']}"
        raise service.error(what, first["input"]) from None
    times = Counter(result.id for result in results)
    faults = {
        "results are missing for": [id_ for id_ in items if id_ not in times],
        "there are several results for": [id_ for id_ in times if times[id_] > 1],
        "there are results for unknown": [id_ for id_ in times if id_ not in items],
    }
    for fault, ids in faults.items():
        if ids:
            raise service.error(f"answered with wrong ids: {fault} {_named(ids)}", _named(list(times)))
    failed = [f"{result.id} ({items[result.id][0].id})" for result in results if result.error is not None]
    if failed:
        errors = [result.error for result in results if result.error is not None]
        raise service.error(f"could not score {len(failed)} of {len(items)}: {_named(failed)}", errors[0])
    by_id = {result.id: result for result in results}
    for id_ in items:
        result = by_id[id_]
        yield None if result.score is None else Score(result.score, result.parts, result.note)


def _named(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - MAX_NAMED} more" if len(ids) > MAX_NAMED else ""
    return ", ".join(id_[:80] for id_ in ids[:MAX_NAMED]) + more
