"""`json_schema` pays for strict JSON that the schema accepts, and for nothing that only looks like it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner.errors import ConfigError, MissingDependencyError
from reasoner_rewards.json_schema import json_schema
from tests.scored import scored

pytest.importorskip("jsonschema")

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}, "unit": {"enum": ["km", "m"]}},
    "required": ["answer"],
    "additionalProperties": False,
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "text",
    [
        '{"answer": 5}',
        ' {"unit": "km",\n "answer": 5} \n',
        '```json\n{"answer": 5}\n```',
        'Here:\n```json\n{"answer": "no"}\n```\nor rather\n```json\n{"answer": 5}\n```\nDone.',
        '```\n{"answer": 5}\n```',
        'First\n```python\nprint("no")\n```\nthen\n```JSON\n{"answer": 5}\n```',
        '<think>```json\n{}\n```</think>{"answer": 5}',
        '{"answer": 5.0}',
    ],
)
def test_valid(text: str) -> None:
    result = scored(json_schema, text, schema_inline=SCHEMA)
    assert (result.value, dict(result.parts), result.note) == (1.0, {"json": True, "valid": True, "equal": None}, "")


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("", "not JSON"),
        ("5", "not valid at \\$: 5 is not of type"),
        ("answer: 5", "not JSON"),
        ('The result is {"answer": 5}', "not JSON"),
        ('{"answer": 5} {"answer": 6}', "not JSON: Extra data"),
        ('{"answer": 5,}', "not JSON"),
        ("{'answer': 5}", "not JSON"),
        ('{"answer": NaN}', "NaN is not a JSON value"),
        ('{"answer": -Infinity}', "-Infinity is not a JSON value"),
        ('{"answer": 4, "answer": 5}', "a key is repeated"),
        ('{"answer": "5"}', "not valid at \\$.answer"),
        ('{"answer": true}', "not valid at \\$.answer"),
        ('{"answer": 5, "why": ""}', "not valid"),
        ("{}", "'answer' is a required property"),
        ('```json\n{"answer": 5}\n```\n```json\n{}\n```', "'answer' is a required property"),
        ('```json\n{"answer": 5}\n```\n```json\n{"answer": 5}', "not closed"),
        ('```json\n{"answer": 5}', "not closed"),
        ('<think>{"answer": 5}</think>', "not JSON"),
        ('<think>{"answer": 5}', "think block"),
        ('{"schema": "any", "note": "the validator must accept this"}', "not valid"),
        ("[" * 1_000_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("[" * 900 + "]" * 900, "not valid at"),
        ("1" * 1_000_000, "not JSON"),
        ("```json\n" * 120_000, "not closed"),
    ],
)
def test_what_is_wrong_is_said(text: str, note: str) -> None:
    result = scored(json_schema, text, schema_inline=SCHEMA)
    assert result.value == 0.0
    assert not result.parts["valid"]
    assert note.replace("\\", "") in result.note


@pytest.mark.parametrize(
    ("extract", "text", "value"),
    [
        ("fenced", '{"answer": 5}', 0.0),
        ("fenced", '```json\n{"answer": 5}\n```', 1.0),
        ("all", '{"answer": 5}', 1.0),
        ("all", '```json\n{"answer": 5}\n```', 0.0),
        ("fenced_or_all", '```python\n{"answer": 5}\n```', 0.0),
    ],
)
def test_what_is_extracted(extract: str, text: str, value: float) -> None:
    assert scored(json_schema, text, schema_inline=SCHEMA, extract=extract).value == value


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        ('{"b": [1, 2], "a": "x"}', '{"a": "x", "b": [1, 2]}', 1.0),
        ('{"a": 1.0}', '{"a": 1}', 1.0),
        ('{"a": true}', '{"a": 1}', 0.0),
        ('{"a": [1, true]}', '{"a": [1, 1]}', 0.0),
        ('{"a": [2, 1]}', '{"a": [1, 2]}', 0.0),
        ('{"a": null}', "{}", 0.0),
        ('{"a": "1"}', '{"a": 1}', 0.0),
        ("#### 1", "1", 0.0),
    ],
)
def test_equal_to_the_reference(text: str, answer: str, value: float) -> None:
    result = scored(json_schema, text, answer, schema_inline={}, match_answer=True)
    assert result.value == value
    if result.parts["valid"]:
        assert result.parts["equal"] == bool(value)


def test_a_reference_that_is_not_json_is_broken() -> None:
    with pytest.raises(ValueError, match="must be JSON for match_answer"):
        scored(json_schema, "1", "x = 1", schema_inline={}, match_answer=True)
    assert scored(json_schema, "1", "x = 1", schema_inline={}).value == 1.0


def test_a_schema_file(tmp_path: Path) -> None:
    file = tmp_path / "answer.schema.json"
    file.write_text(json.dumps(SCHEMA))
    assert scored(json_schema, '{"answer": 5}', schema_file=str(file)).value == 1.0
    assert scored(json_schema, "{}", schema_file=str(file)).value == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of schema_inline and schema_file"),
        ({"schema_inline": {}, "schema_file": "x.json"}, "exactly one of schema_inline and schema_file"),
        ({"schema_inline": {"type": "integr"}}, "not a JSON Schema"),
        ({"schema_inline": {"pattern": "("}}, "not a JSON Schema"),
        ({"schema_inline": {"$ref": "https://example.org/schema"}}, "only references inside the schema"),
        ({"schema_inline": {"allOf": [{"$ref": "other.json"}]}}, "only references inside the schema"),
        ({"schema_file": "missing.json"}, "missing.json cannot be read as JSON"),
        ({"schema": {}}, "no option 'schema'"),
        ({"schema_inline": {}, "extract": "first"}, "extract"),
    ],
)
def test_bad_schemas_are_refused_at_load(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        json_schema.check_options(options)


def test_references_inside_the_schema_are_followed() -> None:
    tree = {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}
    assert scored(json_schema, "[[], [[]]]", schema_inline=tree).value == 1.0
    assert scored(json_schema, "[[], [1]]", schema_inline=tree).value == 0.0
    assert scored(json_schema, "[" * 900 + "]" * 900, schema_inline=tree).note == "nested too deeply"


def test_a_note_can_be_stored_whatever_the_keys() -> None:
    note = scored(json_schema, r'{"\ud800": "x"}', schema_inline={"additionalProperties": {"type": "integer"}}).note
    assert "\\ud800" in note.encode("utf-8").decode()


def test_without_the_library_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(MissingDependencyError, match="pip install jsonschema"):
        json_schema.check_options({"schema_inline": {"title": "a schema that no other test has built"}})


@given(VALUES)
def test_a_value_equals_itself(value: object) -> None:
    text = json.dumps(value)
    assert scored(json_schema, text, text, schema_inline={}, match_answer=True).value == 1.0
    assert scored(json_schema, f"so\n```json\n{text}\n```", text, schema_inline={}, match_answer=True).value == 1.0


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert scored(json_schema, text, schema_inline={"type": "object"}).value in (0.0, 1.0)
