import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasoner import records
from reasoner.errors import DataError
from reasoner.io.parquet import read_parquet, write_parquet
from reasoner.io.serialization import from_json, read_jsonl, to_json, write_jsonl
from reasoner.records import (
    Batch,
    Component,
    EnvironmentReport,
    Failure,
    Group,
    Message,
    Mismatched,
    NonFiniteResponse,
    Observation,
    Problem,
    Prompt,
    Receipt,
    Response,
    Rollout,
    SamplingParams,
    Score,
    ScoredGroup,
    ToolCall,
    ToolDescription,
    Turn,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
INT32 = st.integers(-(2**31), 2**31 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=2)


def tuples(inner: st.SearchStrategy[Any], most: int = 2) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(inner, max_size=most).map(tuple)


FAILURE = st.builds(Failure, TEXT, st.sampled_from(["timeout", "crash", "error", "invalid"]), TEXT, FINITE)
CALL = st.builds(ToolCall, TEXT, OBJECT, TEXT)
TURN = st.builds(
    Turn, st.sampled_from(["assistant", "tool", "user"]), INT64, INT64, TEXT, tuples(CALL), TEXT, TEXT, FINITE
)
REPORT = st.builds(EnvironmentReport, st.none() | FINITE, OBJECT, tuples(FINITE), st.none() | FAILURE)


@st.composite
def responses(draw: st.DrawFn) -> Response:
    length = draw(st.integers(1, 3))
    return Response(
        text=draw(TEXT),
        token_ids=tuple(draw(INT32) for _ in range(length)),
        policy_mask=tuple(draw(st.booleans()) for _ in range(length)),
        sampler_logprobs=tuple(draw(FLOAT32) for _ in range(length)),
        finish_reason=draw(st.sampled_from(["stop", "length"])),
        policy_version=draw(INT64),
        version_changes=draw(tuples(st.tuples(INT64, INT64))),
        turns=draw(tuples(TURN)),
        report=draw(st.none() | REPORT),
    )


MESSAGE = st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), TEXT, TEXT)
OBSERVATION = st.builds(
    Observation, tuples(MESSAGE), st.booleans(), st.none() | FINITE, OBJECT, tuples(TEXT), tuples(FINITE)
)
PROBLEM = st.builds(Problem, TEXT, tuples(MESSAGE), TEXT, OBJECT)
GROUP = st.builds(Group, PROBLEM, tuples(INT32), tuples(responses()))
COMPONENT = st.builds(Component, TEXT, FINITE, st.none() | FINITE, OBJECT, TEXT, st.none() | FAILURE, FINITE)
SCORED = st.builds(ScoredGroup, GROUP, tuples(tuples(COMPONENT)), tuples(st.none() | FINITE))
LOGPROBS = st.none() | tuples(tuples(FLOAT32))
MISMATCHED = st.builds(Mismatched, tuples(GROUP), tuples(tuples(FLOAT32)))
RECORD = st.one_of(
    MESSAGE,
    CALL,
    TURN,
    OBSERVATION,
    REPORT,
    st.builds(ToolDescription, TEXT, TEXT, OBJECT),
    PROBLEM,
    st.builds(Prompt, PROBLEM, tuples(INT64)),
    st.builds(SamplingParams, FINITE, INT64, tuples(TEXT), INT64),
    responses(),
    GROUP,
    st.builds(Score, FINITE, OBJECT, TEXT),
    FAILURE,
    COMPONENT,
    SCORED,
    MISMATCHED,
    st.builds(
        Batch,
        groups=tuples(SCORED),
        old_logprobs=LOGPROBS,
        reference_logprobs=LOGPROBS,
        teacher_logprobs=LOGPROBS,
        values=LOGPROBS,
        greedy_rewards=st.none() | tuples(st.none() | FINITE),
        mismatched=st.none() | MISMATCHED,
        temperature=FINITE,
    ),
    st.builds(
        Rollout,
        INT64,
        PROBLEM,
        tuples(INT32),
        INT64,
        responses(),
        tuples(COMPONENT),
        st.none() | FINITE,
        st.none() | FINITE,
        st.none() | tuples(FINITE),
    ),
    st.builds(Receipt, INT64, TEXT, INT64, FINITE),
)
on_disk = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def response(**changes: Any) -> Response:
    plain = Response("so \\boxed{4}", (5, 6), (True, True), (-0.1, -0.2), "stop", 3)
    return replace(plain, **changes)


def rollout(**changes: Any) -> Rollout:
    problem = Problem("p:1", (Message("user", "2+2?"),), "4")
    plain = Rollout(1, problem, (1, 2), 0, response(), (Component("math", 1.0, 1.0),), 1.0, 0.5)
    return replace(plain, **changes)


def test_the_strategies_cover_every_record() -> None:
    declared = {t for t in vars(records).values() if isinstance(t, type) and t.__module__ == records.__name__}
    covered = {Message, Problem, Prompt, SamplingParams, Response, Group, Score, Failure, Component, ScoredGroup}
    turns = {ToolCall, Turn, Observation, EnvironmentReport, ToolDescription}
    begun = {records.PartialGroup, records.PartialResponse}  # test_partial_responses, test_prefetch
    assert declared == covered | turns | begun | {Batch, Mismatched, Rollout, NonFiniteResponse, Receipt}


def test_a_batch_with_every_field_set_loses_nothing(tmp_path: Path) -> None:
    batch = Batch(
        groups=(),
        old_logprobs=((-1.0,),),
        reference_logprobs=((-2.0,),),
        teacher_logprobs=((-2.5,),),
        values=((0.5,),),
        greedy_rewards=(1.0, None),
        mismatched=Mismatched((), ((-3.0,),)),
        temperature=0.7,
    )
    assert [each.name for each in dataclasses.fields(Batch) if getattr(batch, each.name) == each.default] == []
    assert from_json(to_json(batch), Batch) == batch
    write_parquet(tmp_path / "x.parquet", [Batch(()), batch])
    assert read_parquet(tmp_path / "x.parquet", Batch) == [Batch(()), batch]


@on_disk
@given(record=RECORD)
def test_json_lines_lose_nothing(tmp_path: Path, record: Any) -> None:
    write_jsonl(tmp_path / "x.jsonl", [record, record])
    back = read_jsonl(tmp_path / "x.jsonl", type(record))
    assert back == [record, record]
    assert repr(back[0]) == repr(record)  # also -0.0 and int against float


@on_disk
@given(record=RECORD)
def test_parquet_loses_nothing(tmp_path: Path, record: Any) -> None:
    write_parquet(tmp_path / "x.parquet", [record, record])
    back = read_parquet(tmp_path / "x.parquet", type(record))
    assert back == [record, record]
    assert repr(back[0]) == repr(record)


@on_disk
@given(values=st.lists(st.floats(width=32), min_size=1, max_size=4))
def test_parquet_keeps_every_bit_of_a_float_nan_and_infinity_included(tmp_path: Path, values: list[float]) -> None:
    given_response = Response("", (0,) * len(values), (True,) * len(values), tuple(values), "stop", 0)
    write_parquet(tmp_path / "x.parquet", [given_response])
    (back,) = read_parquet(tmp_path / "x.parquet", Response)
    assert np.asarray(back.sampler_logprobs).tobytes() == np.asarray(given_response.sampler_logprobs).tobytes()
    assert list(map(repr, back.sampler_logprobs)) == list(map(repr, values))


def test_json_lines_refuse_what_json_has_not(tmp_path: Path) -> None:
    good, bad = Score(0.5), Score(math.nan)
    with pytest.raises(DataError, match=r"line 2: a Score cannot be written as JSON"):
        write_jsonl(tmp_path / "x.jsonl", [good, bad])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="set is not a JSON value"):
        to_json(Score(0.5, {"seen": {1}}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"role": "user", "content": "x"', "Invalid JSON"),
        ('{"role": "user"}', "field content: Field required"),
        ('{"role": "user", "content": 3}', "field content: Input should be a valid string, got 3"),
        ('{"role": "bot", "content": "x"}', "field role: Input should be 'system'"),
        ('{"role": "user", "content": "x", "weight": 1}', "field weight: Unexpected"),
        ("", "Field required|valid|length|should"),
        ('{"role": "user", "content": "x"}, {"role": "user", "content": "y"}', "at most 1"),
    ],
)
def test_a_malformed_line_is_named_with_its_field(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(to_json(Message("user", "fine")) + "\n" + line + "\n")
    with pytest.raises(DataError, match=rf"x\.jsonl, line 2, Message: .*({message})"):
        read_jsonl(path, Message)


def test_a_nested_field_is_named_and_a_refused_value_too(tmp_path: Path) -> None:
    text = to_json(rollout())
    with pytest.raises(DataError, match=r"field problem\.messages\.0\.content"):
        from_json(text.replace('"content": "2+2?"', '"content": null'), Rollout)
    with pytest.raises(DataError, match="one mask entry"):
        from_json(text.replace('"token_ids": [5, 6]', '"token_ids": [5]'), Rollout)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read: No such file"):
        read_jsonl(tmp_path / "none.jsonl", Score)
    with pytest.raises(DataError, match=r"none\.parquet cannot be read: No such file"):
        read_parquet(tmp_path / "none.parquet", Score)


def test_a_parquet_file_cut_short_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(path, [rollout()])
    whole = path.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cannot be read as Parquet"):
            read_parquet(path, Rollout)


def test_other_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(path, [Message("user", "x")])
    with pytest.raises(DataError, match="column 'role' does not belong to Score"):
        read_parquet(path, Score)
    pq.write_table(pa.table({"role": ["user"]}), path)
    with pytest.raises(DataError, match="column 'content' of Message is missing"):
        read_parquet(path, Message)
    pq.write_table(pa.table({"role": ["user"], "content": [1]}), path)
    with pytest.raises(DataError, match="column 'content' of Message must be string, got int64"):
        read_parquet(path, Message)
    pq.write_table(pa.table({"role": ["bot"], "content": ["x"]}), path)
    with pytest.raises(DataError, match=r"row 1, Message: field role: must be one of .*got 'bot'"):
        read_parquet(path, Message)


def test_a_file_that_was_written_before_a_record_inside_had_a_field_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(path, [rollout(), rollout(step=2)])
    table = pq.read_table(path)

    def without(name: str, *left_out: str) -> pa.Table:
        kept = [{key: value for key, value in row.items() if key not in left_out} for row in table[name].to_pylist()]
        type_ = pa.struct([each for each in table.schema.field(name).type if each.name not in left_out])
        column = pa.array(kept, type_)
        return table.set_column(table.schema.get_field_index(name), pa.field(name, type_, False), column)

    pq.write_table(without("response", "version_changes", "turns", "report"), path)
    assert read_parquet(path, Rollout) == [rollout(), rollout(step=2)]
    pq.write_table(without("response", "text"), path)
    with pytest.raises(DataError, match="column 'response' of Rollout must be struct"):
        read_parquet(path, Rollout)
    messages = [[{"role": "user", "content": "2+2?"}]] * 2
    inner = pa.struct([pa.field("role", pa.string(), False), pa.field("content", pa.string(), False)])
    problem = pa.struct(
        [
            pa.field("messages", pa.list_(pa.field("item", inner, False)), False) if each.name == "messages" else each
            for each in table.schema.field("problem").type
        ]
    )
    old = [row | {"messages": message} for row, message in zip(table["problem"].to_pylist(), messages, strict=True)]
    at = table.schema.get_field_index("problem")
    pq.write_table(table.set_column(at, pa.field("problem", problem, False), pa.array(old, problem)), path)
    assert read_parquet(path, Rollout) == [rollout(), rollout(step=2)]


def as_python_wrote(path: Path) -> None:
    """Make the file one of those in which every number was Python's: int64 and double, also for tokens."""
    table = pq.read_table(path)

    def wide(type_: pa.DataType) -> pa.DataType:
        if pa.types.is_list(type_):
            return pa.list_(pa.field("item", wide(type_.value_type), False))
        if pa.types.is_struct(type_):
            return pa.struct([pa.field(each.name, wide(each.type), each.nullable) for each in type_])
        return {pa.int32(): pa.int64(), pa.float32(): pa.float64()}.get(type_, type_)

    schema = pa.schema([pa.field(each.name, wide(each.type), each.nullable) for each in table.schema])
    assert schema != table.schema
    pq.write_table(pa.Table.from_pylist(table.to_pylist(), schema=schema), path)


def test_rollouts_whose_numbers_took_eight_bytes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    written = [rollout(), rollout(step=2, weights=(0.1, 1e-300), response=response(token_ids=(7, 2**31 - 1)))]
    write_parquet(path, written)
    as_python_wrote(path)
    assert read_parquet(path, Rollout) == written
    assert read_parquet(path, Rollout, [1]) == written[1:]
    rows = pq.read_table(path).to_pylist()
    rows[1]["response"]["token_ids"][0] = 2**31
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    with pytest.raises(DataError, match=r"x\.parquet cannot be read as Parquet: Integer value 2147483648 not in range"):
        read_parquet(path, Rollout)


def test_tokens_are_read_from_where_their_rows_are(tmp_path: Path) -> None:
    """Rows with and without weights, of other lengths, taken in any order from one column."""
    path = tmp_path / "x.parquet"
    lengths = (3, 1, 4, 2)
    written = [
        rollout(
            step=step,
            prompt_ids=(),
            response=response(
                token_ids=range(10 * step, 10 * step + length),
                policy_mask=[at % 2 == 0 for at in range(length)],
                sampler_logprobs=[-0.1 * at for at in range(length)],
            ),
            weights=None if step % 2 else [0.1 * at for at in range(length)],
        )
        for step, length in enumerate(lengths)
    ]
    write_parquet(path, written)
    assert read_parquet(path, Rollout) == written
    assert read_parquet(path, Rollout, [3, 0]) == [written[3], written[0]]
    back = read_parquet(path, Rollout, [2])[0]
    assert not np.asarray(back.response.token_ids).flags.writeable


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (rollout(step=2**63), "row 2, field step"),
        (
            rollout(components=(Component("m", 1.0, 1.0, {"x": math.inf}),)),
            r"row 2: field components\[\].parts: .*JSON",
        ),
        (rollout(reward="high"), "row 2, field reward"),
        (rollout(response=None), "row 2: 'NoneType' object has no attribute 'text'"),
    ],
)
def test_parquet_names_the_row_and_field_that_it_cannot_store(tmp_path: Path, bad: Rollout, message: str) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(DataError, match=message):
        write_parquet(path, [rollout(), bad])
    assert list(tmp_path.iterdir()) == []


HALVES = ("\ud800", "x\udfffy", "\udc00\ud800", "\ud83d \ude00")
WHOLE = ("\U0001f600", "\\ud800", "\x00", "\u202e abc", "é" * 10_000)


@pytest.mark.parametrize("text", [*HALVES, *WHOLE])
def test_text_that_no_file_holds_is_written_as_its_escape_and_other_text_as_it_is(tmp_path: Path, text: str) -> None:
    """Wherever in a record it is, and a file that was written is a file that can be read."""
    expected = text.encode("utf-8", "backslashreplace").decode()
    assert (expected == text) is (text in WHOLE)

    def made(text: str) -> Rollout:
        parts = {text: [text, {"inner": text}]}
        failure = Failure(text, "error", text, 0.0)
        component = Component(text, 1.0, None, parts, text, failure)
        return rollout(response=response(text=text), components=(component,), problem=Problem(text, (), text, parts))

    write_parquet(tmp_path / "x.parquet", [made(text)])
    write_jsonl(tmp_path / "x.jsonl", [made(text)])
    write_parquet(tmp_path / "y.parquet", [SamplingParams(1.0, 1, (text,))])
    assert read_parquet(tmp_path / "x.parquet", Rollout) == [made(expected)]
    assert read_jsonl(tmp_path / "x.jsonl", Rollout) == [made(expected)]
    assert read_parquet(tmp_path / "y.parquet", SamplingParams)[0].stop == (expected,)
    assert json.loads(to_json({text: text}, indent=2)) == {expected: expected}


def test_nothing_to_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to write"):
        write_parquet(tmp_path / "x.parquet", [])
    write_jsonl(tmp_path / "x.jsonl", [])
    assert read_jsonl(tmp_path / "x.jsonl", Score) == []


def test_the_old_file_stays_when_a_new_one_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [Score(1.0)])
    with pytest.raises(DataError):
        write_jsonl(path, [Score(2.0), Score(math.inf)])
    assert read_jsonl(path, Score) == [Score(1.0)]


def test_a_file_from_before_a_field_has_its_default(tmp_path: Path) -> None:
    """As JSON does it. A field without a default must be there."""
    path = tmp_path / "x.parquet"
    row = rollout(dropped=True, weights=(0.5, 0.5))
    write_parquet(path, [row])
    pq.write_table(pq.read_table(path).drop_columns(["dropped"]), path)
    assert read_parquet(path, Rollout) == [replace(row, dropped=False)]
    assert from_json(to_json(row).replace(', "dropped": true', ""), Rollout) == replace(row, dropped=False)
    pq.write_table(pq.read_table(path).drop_columns(["credit"]), path)
    with pytest.raises(DataError, match="column 'credit' of Rollout is missing"):
        read_parquet(path, Rollout)
