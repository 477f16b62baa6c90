"""JSON and TOML that somebody else wrote, read within bounds: what is too large, too deep or no number is a mistake of
the file with its place in it, not the end of the program.

Readers go down into nested values on their own stack, and so does whatever works with the result (`repr`, checksums,
messages to workers): values nested deeper than `MAX_DEPTH` are refused here, once.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from reasoner.errors import DataError

MAX_DEPTH = 100
"""levels of lists and tables in each other"""
MAX_INTEGER_BITS = 14_280
"""of an integer: Python writes no larger ones as decimals"""
MODEL_JSON_BYTES = 64 * 2**20
"""of a JSON file in a model's folder; the largest of published models are some 10 MB"""
_TOKEN = re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"(\s*+:)?|[\[\]{},]', re.DOTALL)
"""text, whether it is a key, and what opens, parts and closes"""
_TOML_TEXT = re.compile(
    r"'''.*?'''"
    r'|"""(?:\\.|[^\\])*?"""'
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'|#[^\n]*",
    re.DOTALL,
)
_LONG_KEY = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{MAX_DEPTH}}}")
"""a key of TOML with more parts than there may be levels: the parser would take minutes for one of some ten thousand"""


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, has a number that JSON does not have (NaN, 1e999), or is nested too deeply; the
            message has the place.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError(_depth_error(text)) from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and is_deep(value):
        raise ValueError(_depth_error(text))
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text.

    Raises:
        ValueError: it is not TOML, or is nested too deeply.
    """
    try:
        table = None if _LONG_KEY.search(_TOML_TEXT.sub("text", text)) else tomllib.loads(text)
    except ValueError as error:  # also of a number with too many digits
        raise ValueError(f"not TOML: {error}") from None
    except RecursionError:
        table = None
    if table is None or is_deep(table):
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    if "0x" in text or "0o" in text or "0b" in text:  # as decimals the parser refuses such integers itself
        _check_integers(table)
    return table


def _check_integers(value: Any) -> None:
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_integers(inner)
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise ValueError(f"an integer has more than {MAX_INTEGER_BITS} bits")


def read_model_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model's folder, such as `config.json`.

    Raises:
        DataError: it is not there, too large, or no JSON object.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path}: there is no such file.")
        if path.stat().st_size > MODEL_JSON_BYTES:
            raise DataError(f"{path}: has more than {MODEL_JSON_BYTES >> 20} MiB, too much for such a file of a model.")
        value = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: {error}.") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: a JSON object is needed, got {type(value).__name__}.")
    return value


def table_of(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The table under `name`; empty where something else or nothing is there."""
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def list_of(values: Mapping[str, Any], name: str) -> list[Any]:
    """The list under `name`; empty where something else or nothing is there."""
    value = values.get(name)
    return value if isinstance(value, list) else []


def is_deep(value: object) -> bool:
    """Whether lists, tuples and tables are nested in it more than `MAX_DEPTH` levels deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list | tuple)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list | tuple)
        ]
        if not level:
            return False
    return True


def _depth_error(text: str) -> str:
    """With the way to the first place that is: `answer.0.text`."""
    way: list[str | int] = []
    for token in _TOKEN.finditer(text):
        sign, string, is_key = token[0], token[1], token[2]
        if is_key and way:
            way[-1] = string
        elif sign in "[{":
            way.append(0 if sign == "[" else "")
        elif sign in "]}" and way:
            way.pop()
        elif sign == "," and way and isinstance(way[-1], int):
            way[-1] += 1
        if len(way) > MAX_DEPTH:
            break
    return f"nested more than {MAX_DEPTH} levels deep, in {'.'.join(map(str, way[:3]))}"


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is repeated")
    return table


STRICT_JSON_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_without_repeated_keys)
"""no `NaN`, no `Infinity`, no repeated key"""
