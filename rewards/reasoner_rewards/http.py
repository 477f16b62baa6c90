"""The reward source `http`: a service of your own scores batches over a small, versioned JSON schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reasoner import Problem, RemoteError, Response, Score, Service, Url, read_secret, reward, without_query

VERSION = 1
"""of the schema; docs/http-reward.md is its specification"""
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
OWN_HEADERS = ("accept", "accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding")


class HttpOptions(BaseModel):
    """Options of `http`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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


class _Named(BaseModel):
    """What every entry must have: the name of its item."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    id: str


class _Answer(BaseModel):
    """What the service answers to one request. Entries are looked at one by one: a wrong one fails alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1]
    results: tuple[_Named, ...] = Field(strict=False)


def _preflight(options: HttpOptions) -> str:
    """Where the service is; the values of its headers must be there, and it must answer."""
    values = {header: read_secret(variable) for header, variable in options.headers_env.items()}
    Service(options.url, values, tuple(values.values()), 1).check_answers()
    return f"service at {without_query(options.url)}"


@reward("http", timeout_s=120.0, granularity="batch", workers=4, preflight=_preflight, needs_answer=False)
def http(
    problems: Sequence[Problem], responses: Sequence[Response], *, options: HttpOptions
) -> list[Score | RemoteError | None]:
    """What a service says: one request for up to `batch` responses, one result for each.

    An item fails alone when the service reports an error for it, has no result or several for it, or one against the
    schema. An answer that cannot be matched with the items fails all of them: another version, an unknown id.

    Parts and note: the service's own.

    Raises:
        RemoteError: the service did not deliver, or delivered something else.
    """
    values = {header: read_secret(variable) for header, variable in options.headers_env.items()}
    service = Service(options.url, values, tuple(values.values()), options.attempts)
    pairs = list(zip(problems, responses, strict=True))
    scores: list[Score | RemoteError | None] = []
    for start in range(0, len(pairs), options.batch):
        items = {str(start + index): pair for index, pair in enumerate(pairs[start : start + options.batch])}
        answer = service.post({"version": VERSION, "items": [_item(id_, *pair) for id_, pair in items.items()]})
        scores.extend(_scores(service, answer, list(items)))
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


def _scores(service: Service, answer: Any, ids: Sequence[str]) -> Iterator[Score | RemoteError | None]:
    """One per id, in their order.

    Raises:
        RemoteError: the answer cannot be matched with the items.
    """
    try:
        _Answer.model_validate(answer)
    except ValidationError as error:
        raise _against_schema(service, error) from None
    by_id: dict[str, list[Any]] = {id_: [] for id_ in ids}
    for entry in answer["results"]:
        if entry["id"] not in by_id:
            raise service.error(f"answered with a result for an unknown id, {entry['id'][:80]!r}", answer)
        by_id[entry["id"]].append(entry)
    for id_, entries in by_id.items():
        yield _score(service, id_, entries)


def _score(service: Service, id_: str, entries: Sequence[Any]) -> Score | RemoteError | None:
    """What the service says of one item, or why that is nothing."""
    if len(entries) != 1:
        return service.error(f"answered with {len(entries)} results for item {id_}, where 1 is needed", entries)
    try:
        result = _Result.model_validate(entries[0])
    except ValidationError as error:
        return _against_schema(service, error)
    if result.error is not None:
        return service.error(f"could not score item {id_}", result.error)
    return None if result.score is None else Score(result.score, service.hide(result.parts), service.hide(result.note))


def _against_schema(service: Service, error: ValidationError) -> RemoteError:
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"])) or "the answer"
    return service.error(f"answered against the schema, version {VERSION}: {place}: {first['msg']}", first["input"])
