"""The reward source `json_schema`: 1.0 if a response is JSON that a schema accepts."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from reasoner import STRICT_JSON_DECODER, MissingDependencyError, Problem, Response, Score, after_thinking, reward
from reasoner_rewards.fences import blocks

JsonExtract = Literal["fenced_or_all", "fenced", "all"]
LABELS = ("", "json")
"""of the fenced blocks that may be JSON"""


class JsonSchemaOptions(BaseModel):
    """Options of `json_schema`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_inline: dict[str, Any] | None = None
    """the JSON Schema itself"""
    schema_file: str | None = Field(default=None, validate_default=True)
    """a file that holds it; read once, relative to the working directory"""
    extract: JsonExtract = "fenced_or_all"
    """what must be JSON: the last fenced block, the whole response, or the block if there is one"""
    match_answer: bool = False
    """whether it must also equal the reference answer, read as JSON"""

    @field_validator("schema_inline")
    @classmethod
    def _is_schema(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None:
            _validator(schema)
        return schema

    @field_validator("schema_file")
    @classmethod
    def _one_of_both(cls, file: str | None, info: ValidationInfo) -> str | None:
        if "schema_inline" in info.data and (file is None) == (info.data["schema_inline"] is None):
            raise ValueError("exactly one of schema_inline and schema_file is needed")
        if file is not None:
            _validator(_schema_of(file))
        return file


def _prepare() -> None:
    """Import jsonschema once for all workers."""
    _library()


def _aspect(options: JsonSchemaOptions) -> Literal["answer", "form"]:
    return "answer" if options.match_answer else "form"


@reward(
    "json_schema",
    timeout_s=5.0,
    prepare=_prepare,
    needs_answer=lambda options: options.match_answer,
    aspect=_aspect,
)
def json_schema(problem: Problem, response: Response, *, options: JsonSchemaOptions) -> Score:
    """1.0 if the response is JSON and valid under the schema (and, with `match_answer`, the reference), else 0.0.

    Looked at is what follows the thinking: its last fenced block that is labelled `json` or not labelled, or
    all of it. A last block that is broken decides: no earlier one is searched. There is no partial credit, because a
    policy would settle for the easy fields. JSON is read strictly: `NaN`, `Infinity` and repeated keys are refused
    (`{"answer": 1, "answer": 2}` would name two answers). Numbers are equal by value (`1` and `1.0`), the order of
    keys does not matter, `true` is not `1`. `format` is an annotation and not checked.

    Parts: `json`, whether it was read; `valid`; `equal`, null without `match_answer` or when it is not valid.

    Assumption: the schema does not accept what is trivial to write (`{}`); close objects (`additionalProperties =
    false`) and demand their fields (`required`).

    Raises:
        ValueError: the reference is not JSON (the problem is broken, not the response).
    """
    wanted = _reference(problem) if options.match_answer else None
    text, missing = _extract(response.text, options.extract)
    if missing:
        return _score(note=missing)
    try:
        value = STRICT_JSON_DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        return _score(note=f"not JSON: {_error_text(error)}")
    try:
        schema = options.schema_inline if options.schema_file is None else _schema_of(options.schema_file)
        fault = _fault(_validator(schema), value)
    except RecursionError:
        fault = "nested too deeply"
    if fault or not options.match_answer:
        return _score(json=True, valid=not fault, note=fault)
    try:
        equal = _library().Draft202012Validator({"const": wanted}).is_valid(value)
    except RecursionError:
        equal = False
    return _score(json=True, valid=True, equal=equal, note="" if equal else "not the reference's value")


def _score(*, json: bool = False, valid: bool = False, equal: bool | None = None, note: str = "") -> Score:
    return Score(float(not note), {"json": json, "valid": valid, "equal": equal}, note)


def _extract(text: str, extract: JsonExtract) -> tuple[str, str]:
    """What must be JSON, and why there is nothing."""
    answer = after_thinking(text)
    if answer is None:
        return "", "the think block is not closed"
    texts = list(blocks(answer, LABELS)) if extract != "all" else []
    if not texts:
        return (answer, "") if extract != "fenced" else ("", "there is no fenced JSON block")
    return ("", "the last fenced block is not closed") if texts[-1] is None else (texts[-1], "")


def _error_text(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]


def _fault(validator: Any, value: Any) -> str:
    error = next(validator.iter_errors(value), None)
    if error is None:
        return ""
    # a key may hold half a surrogate pair ("\\ud800"), which no file can store
    return f"not valid at {error.json_path[:200]}: {error.message[:200]}".encode("utf-8", "backslashreplace").decode()


@lru_cache(maxsize=64)  # the responses of a group share their reference
def _reference_json(answer: str) -> Any:
    return STRICT_JSON_DECODER.decode(answer)


def _reference(problem: Problem) -> Any:
    try:
        return _reference_json(problem.answer)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"problem {problem.id!r}: the reference answer must be JSON for match_answer: {_error_text(error)}; "
            f"got {problem.answer[:80]!r}."
        ) from error


def _validator(schema: Any) -> Any:
    """
    Raises:
        ValueError: it is not a JSON Schema, or refers to something outside itself.
    """
    try:
        return _build_schema(json.dumps(schema, allow_nan=False))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not a JSON Schema: {str(error)[:200]}") from error


@lru_cache(maxsize=16)  # one per configured source; options are read at every call
def _build_schema(text: str) -> Any:
    from referencing import Registry

    library, schema = _library(), json.loads(text)
    of_draft = library.validators.validator_for(schema, default=library.Draft202012Validator)
    try:
        of_draft.check_schema(schema)
    except library.SchemaError as error:
        raise ValueError(f"not a JSON Schema: at {error.json_path}: {error.message[:200]}") from error
    outside = next((target for target in _targets(schema) if not target.startswith("#")), None)
    if outside is not None:
        raise ValueError(f"it refers to {outside!r}; only references inside the schema ('#/$defs/...') are followed")
    # an empty registry: what a schema refers to is never fetched
    return of_draft(schema, registry=Registry())


@lru_cache(maxsize=16)
def _schema_of(file: str) -> Any:
    """
    Raises:
        ValueError: it cannot be read, or is not JSON.
    """
    try:
        return STRICT_JSON_DECODER.decode(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {_error_text(error)}") from error


def _targets(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            else:
                yield from _targets(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _targets(value)


def _library() -> Any:
    try:
        return importlib.import_module("jsonschema")
    except ImportError as error:
        raise MissingDependencyError(
            "reward source 'json_schema' needs jsonschema, which is not installed; `pip install jsonschema`."
        ) from error
