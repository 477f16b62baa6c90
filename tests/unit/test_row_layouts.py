"""Rows as verl, TRL and others write them: what is recognised, what `columns` says instead, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from reasoner.config import DataConfig, PromptConfig, SourceConfig
from reasoner.data.layouts.paths import MISSING, look_up
from reasoner.data.problems import Splits, load_splits
from reasoner.errors import ConfigError, DataError
from reasoner.records import Message, Problem

USER = {"role": "user", "content": "What is 2 + 2?"}
ASSISTANT = {"role": "assistant", "content": "It is 4."}
VERL: dict[str, Any] = {
    "data_source": "openai/gsm8k",
    "prompt": [USER],
    "reward_model": {"style": "rule", "ground_truth": "4"},
    "extra_info": {"split": "train", "index": 0},
}


def splits_of(
    tmp_path: Path,
    rows: Sequence[Mapping[str, Any]],
    prompt: PromptConfig = PromptConfig(),  # noqa: B008 (frozen)
    *,
    needs_answer: bool = True,
    **source: Any,
) -> Splits:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(train=SourceConfig(path=str(path), **{"shuffle": False, "duplicates": "keep", **source}))
    return load_splits(data, prompt, {}, 0, needs_answer=needs_answer)


def asked(problem: Problem) -> str:
    return problem.messages[-1].content


# Question and answer


@pytest.mark.parametrize(
    ("row", "answer", "note"),
    [
        (VERL, "4", "as rows of verl: question from prompt and answer from reward_model.ground_truth"),
        (
            {"prompt": USER["content"], "solution": 4},
            "4",
            "as rows of TRL: question from prompt and answer from solution",
        ),
        ({"prompt": [USER], "solution": "4"}, "4", "as rows of TRL"),
        ({"prompt": [USER], "answer": "4", "solution": "2 + 2 = 4"}, "4", "as rows of TRL: question from prompt."),
        ({"problem": USER["content"], "ground_truth": "4"}, "4", "by the names of their fields: question from problem"),
        (
            {"messages": [USER, ASSISTANT]},
            "It is 4.",
            "as conversations: question from messages and answer from the assistant's last message",
        ),
        ({"messages": [USER, ASSISTANT], "answer": "4"}, "4", "as conversations: question from messages."),
        ({"messages": [USER], "solution": "4"}, "4", "as conversations: question from messages and answer from"),
        ({"question": [USER, ASSISTANT]}, "It is 4.", "as conversations: answer from the assistant's"),
        ({"question": USER["content"], "solution": "4"}, "4", "by the names of their fields: answer from solution"),
    ],
)
def test_rows_are_recognised_by_their_shape_and_it_is_said(
    tmp_path: Path, row: Mapping[str, Any], answer: str, note: str
) -> None:
    splits = splits_of(tmp_path, [row, {**row, "more": None}])
    assert {(problem.messages, problem.answer) for problem in splits.train} == {
        ((Message("user", USER["content"]),), answer)
    }
    (message,) = (message for message in splits.notes if message.startswith("data.train: recognised "))
    assert note in message


def test_rows_with_our_own_names_are_taken_as_they_are_and_nothing_is_said(tmp_path: Path) -> None:
    row = {"question": "a", "answer": "1", "prompt": "b", "solution": "2", "messages": [USER, ASSISTANT]}
    splits = splits_of(tmp_path, [row])
    assert (asked(splits.train[0]), splits.train[0].answer, splits.notes) == ("a", "1", ())


def test_what_is_mapped_wins(tmp_path: Path) -> None:
    row = {**VERL, "problem": "From problem", "solution": "from solution"}
    columns = {"question": "problem", "answer": "solution"}
    splits = splits_of(tmp_path, [row], columns=columns)
    assert (asked(splits.train[0]), splits.train[0].answer, splits.notes) == ("From problem", "from solution", ())
    answer_only = splits_of(tmp_path, [{**row, "problem": None}], columns={"answer": "solution"})
    assert (asked(answer_only.train[0]), answer_only.train[0].answer) == (USER["content"], "from solution")


def test_a_template_that_names_its_fields_is_taken_at_its_word(tmp_path: Path) -> None:
    prompt = PromptConfig(template="Solve: {{ problem }}")
    splits = splits_of(tmp_path, [{"problem": "2 + 2", "prompt": "other", "answer": "4"}], prompt)
    assert (asked(splits.train[0]), splits.notes) == ("Solve: 2 + 2", ())


def test_an_answer_that_nobody_compares_with_is_not_looked_for(tmp_path: Path) -> None:
    row = {"prompt": "a", "solution": ["no", "text"], "ground_truth": {}}
    (problem,) = splits_of(tmp_path, [row], needs_answer=False).train
    assert (asked(problem), problem.answer) == ("a", "")


@pytest.mark.parametrize(
    ("row", "name", "fields"),
    [
        ({"prompt": "a", "messages": [USER], "answer": "1"}, "question", ["prompt", "messages"]),
        ({"prompt": "a", "problem": "b", "answer": "1"}, "question", ["prompt", "problem"]),
        ({"prompt": "a", "solution": "1", "ground_truth": "2"}, "answer", ["solution", "ground_truth"]),
        ({**VERL, "solution": "5"}, "answer", ["reward_model.ground_truth", "solution"]),
        ({"messages": [USER, ASSISTANT], "solution": "1"}, "answer", ["solution"]),
    ],
)
def test_what_can_be_meant_in_two_ways_is_refused_with_what_to_set(
    tmp_path: Path, row: Mapping[str, Any], name: str, fields: Sequence[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        splits_of(tmp_path, [row], on_bad_row="drop")
    assert f"data.train: the {name} can be " in str(caught.value)
    for field in fields:
        assert f"--set data.train.columns.{name}={field}" in str(caught.value)


def test_a_file_is_read_in_one_way_also_where_its_rows_differ(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "a", "solution": "1"}, {"prompt": "b", "ground_truth": "2"}]
    with pytest.raises(ConfigError, match="the answer can be solution or ground_truth"):
        splits_of(tmp_path, rows, on_bad_row="drop")
    mixed: list[dict[str, Any]] = [{**rows[0], "ground_truth": None}, {**rows[0], "prompt": [USER]}]
    kept = splits_of(tmp_path, mixed)
    assert [asked(problem) for problem in kept.train] == ["a", USER["content"]]


def test_a_row_of_another_shape_is_a_bad_row(tmp_path: Path) -> None:
    fields: list[dict[str, Any]] = [{"messages": [USER]}, {"messages": "text"}, {"other": 1}, {"messages": []}]
    rows = [{"messages": [USER, ASSISTANT]}, *fields]
    with pytest.raises(DataError, match=r"4 of 5 rows cannot be used.*\n.*line 2.*must be the assistant's, got 'user'"):
        splits_of(tmp_path, rows)


# Dotted paths


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a", 1),
        ("b.c", [2, {"d": 3}]),
        ("b.c.0", 2),
        ("b.c.-1.d", 3),
        ("e.f", 4),  # a field that is called so
        ("g.h.1", "i"),  # a text that is JSON
        ("b.c.2", MISSING),
        ("b.c.-3", MISSING),
        ("b.c.one", MISSING),
        ("a.b", MISSING),
        ("t.x", MISSING),
        ("b.", MISSING),
        ("", MISSING),
    ],
)
def test_a_dotted_path_goes_into_objects_lists_and_texts_of_json(path: str, value: Any) -> None:
    fields = {"a": 1, "b": {"c": [2, {"d": 3}]}, "e.f": 4, "g": '{"h": ["j", "i"]}', "t": "{no json"}
    assert look_up(fields, path) == value


def test_a_path_gives_the_value_as_it_is(tmp_path: Path) -> None:
    row = {"question": "a", "info": json.dumps({"tests": [{"in": "1"}], "answers": [["x"], 7]})}
    (problem,) = splits_of(tmp_path, [row], columns={"answer": "info.answers.1", "tests": "info.tests"}).train
    assert (problem.answer, problem.fields["tests"]) == ("7", [{"in": "1"}])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("reward_model.ground_thruth", "Did you mean 'reward_model.ground_truth'?"),
        ("reward.ground_truth", "Did you mean 'reward_model.ground_truth'?"),
        ("promt.0.content", "Did you mean 'prompt.0.content'?"),
        ("zzz", "It has: data_source, prompt, prompt.0, prompt.0.role, prompt.0.content, reward_model, reward_model."),
    ],
)
def test_a_path_that_no_row_has_is_one_message_with_the_nearest(tmp_path: Path, column: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        splits_of(tmp_path, [VERL] * 3, columns={"answer": column}, on_bad_row="drop")
    assert f"data.train.columns.answer = {column!r}: none of the 3 rows has it" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_that_some_rows_lack_is_a_bad_row(tmp_path: Path) -> None:
    rows = [VERL, {**VERL, "reward_model": {"style": "rule"}}]
    with pytest.raises(
        DataError, match=r"1 of 2 rows.*\n.*x\.jsonl, line 2: data\.train\.columns\.answer is 'reward_mo"
    ):
        splits_of(tmp_path, rows, columns={"answer": "reward_model.ground_truth"})


# Multiple choice

COLOURS = ["red", "green", "blue"]
LISTED = "Which one?\n\nA. red\nB. green\nC. blue"


def choice(answer: Any, **more: Any) -> dict[str, Any]:
    return {"question": "Which one?", "choices": COLOURS, "answer": answer, **more}


@pytest.mark.parametrize(
    ("rows", "answers"),
    [
        ([choice(0), choice(2)], "AC"),  # MMLU
        ([choice(1), choice(3)], "AC"),  # counted from 1, as 3 is their number
        ([choice("0"), choice("2")], "AC"),
        ([choice("B"), choice("(C)"), choice("a"), choice("B.")], "BCAB"),
        ([choice("green"), choice(" blue ")], "BC"),
        ([choice(None, answerKey="B"), choice(None, answerKey="C")], "BC"),
        ([choice("green", answer_index=1), choice("red", answer_index=0)], "BA"),
        ([choice("C", answer_index=2), choice("B", answer_index=1)], "CB"),  # MMLU-Pro
        ([choice("blue", answer_letter="C")], "C"),  # SuperGPQA
        (
            [
                {
                    "question_stem": "Which one?",
                    "choices": {"text": COLOURS, "label": ["1", "2", "3"]},
                    "answerKey": "1",
                },
                {
                    "question_stem": "Which one?",
                    "choices": {"text": COLOURS, "label": ["A", "B", "C"]},
                    "answerKey": "C",
                },
            ],
            "AC",
        ),  # ARC, OpenBookQA
        ([{**choice("B"), "choices": [{"label": x, "text": y} for x, y in zip("ABC", COLOURS, strict=True)]}], "B"),
        ([{"question": "Which one?", "options": dict(zip("ABC", COLOURS, strict=True)), "answer_idx": "B"}], "B"),
        ([{"question": "Which one?", "options": ["A)red", "B)green", "C)blue"], "correct": "C"}], "C"),  # AQuA
        ([{"question": "Which one?", "options": json.dumps(COLOURS), "answer": "B"}], "B"),  # a column of CSV
        ([{"prompt": "Which one?", "options": COLOURS, "answer": "B"}], "B"),
    ],
)
def test_multiple_choice_becomes_a_list_of_letters_and_a_letter(
    tmp_path: Path, rows: Sequence[Mapping[str, Any]], answers: str
) -> None:
    splits = splits_of(tmp_path, [{**row, "id": at} for at, row in enumerate(rows)])
    assert "".join(problem.answer for problem in splits.train) == answers
    assert {asked(problem) for problem in splits.train} == {LISTED}
    assert any("multiple choice: the options are those of " in note for note in splits.notes)


@pytest.mark.parametrize(
    ("row", "prompt", "text"),
    [
        (choice("B"), PromptConfig(template="{{ question }} {{ choices[0] }}?"), "Which one? red?"),
        (choice("B", question="Which?\n(A) red\n(B) green\n(C) blue"), PromptConfig(), None),
        (choice("B", question="Which? A) red B) green C) blue"), PromptConfig(), None),
        (
            choice("B", question=[{"role": "user", "content": LISTED}, ASSISTANT, USER]),
            PromptConfig(),
            USER["content"],
        ),
    ],
)
def test_options_that_the_prompt_has_are_not_written_again(
    tmp_path: Path, row: dict[str, Any], prompt: PromptConfig, text: str | None
) -> None:
    splits = splits_of(tmp_path, [row], prompt)
    assert (asked(splits.train[0]), splits.train[0].answer) == (text or row["question"], "B")
    assert any("where the prompt has them" in note for note in splits.notes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([choice(at) for at in (0, 1, 2, 1, 3, 3)], "answer = 1 is B as an index counted from 0, and answer = 1 is A"),
        ([choice(at) for at in (1, 2, 3, 2, 0, 1)], "answer = 1 is B as an index counted from 0, and answer = 1 is A"),
        ([choice(1), choice(2)], "'data.train.columns.answer={{ \"ABC\"[answer|int] }}'"),  # from 0 or from 1?
        ([{"question": "How many?", "choices": ["0", "1", "2"], "answer": 1}], "can be read in two ways"),
        ([choice("B", choices=["B", "A", "C"])], "answer = 'B' is A as the text of an option"),
        ([choice("B", correct="C")], "correct = 'C' is C as a letter"),
        ([choice("B", options=["one", "two"])], "--set data.train.columns.choices=options"),
    ],
)
def test_an_answer_that_can_be_read_in_two_ways_is_refused(
    tmp_path: Path, rows: Sequence[Mapping[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        splits_of(tmp_path, rows, on_bad_row="drop")
    assert message in str(caught.value)


@pytest.mark.parametrize("prompt", [PromptConfig(), PromptConfig(template="{{ question }} {{ choices[0] }}")])
@pytest.mark.parametrize("before", [[], [{"role": "system", "content": "Think."}], [USER, ASSISTANT]])
def test_options_are_written_below_the_last_message_of_a_conversation(
    tmp_path: Path, before: list[dict[str, str]], prompt: PromptConfig
) -> None:
    splits = splits_of(tmp_path, [choice("B", question=[*before, {"role": "user", "content": "Which one?"}])], prompt)
    (problem,) = splits.train
    assert [(each.role, each.content) for each in problem.messages] == [
        *((each["role"], each["content"]) for each in before),
        ("user", LISTED),
    ]
    assert problem.answer == "B"
    assert any("written below the question" in note for note in splits.notes)


def test_an_index_that_no_way_reads_does_not_say_how_the_others_are_counted(tmp_path: Path) -> None:
    splits = splits_of(tmp_path, [choice(at) for at in (0, 1, 2, -1, 9)], on_bad_row="drop")
    assert [problem.answer for problem in splits.train] == ["A", "B", "C"]


@pytest.mark.parametrize("more", [{"label": 0}, {"label": 1}, {"answer_letter": "A"}, {"correct": "red"}])
def test_an_answer_that_names_no_option_is_not_replaced_by_another_field(
    tmp_path: Path, more: Mapping[str, Any]
) -> None:
    rows = [choice("because it is red", **more), choice("because x", **more), choice(None, label=0)]
    splits = splits_of(tmp_path, rows[:2])
    assert [problem.answer for problem in splits.train] == ["because it is red", "because x"]
    assert any("the answers name none of the options in choices, although" in note for note in splits.notes)
    fewer = splits_of(tmp_path, [rows[0], *(choice(None, answer_letter=letter) for letter in "BC")], on_bad_row="drop")
    assert [problem.answer for problem in fewer.train][-2:] == ["B", "C"]


def test_an_explanation_that_was_recognised_as_the_answer_gives_way_to_a_letter(tmp_path: Path) -> None:
    row = {"question": "Which one?", "options": COLOURS, "solution": "Grass is.", "answer_idx": "B"}
    assert [problem.answer for problem in splits_of(tmp_path, [row]).train] == ["B"]


def test_a_mapped_index_stays_and_it_is_said(tmp_path: Path) -> None:
    splits = splits_of(tmp_path, [choice(None, right=1), choice(None, right=0)], columns={"answer": "right"})
    assert [(asked(each), each.answer) for each in splits.train] == [("Which one?", "1"), ("Which one?", "0")]
    (note,) = splits.notes
    assert "columns.answer gives numbers, which stay as they are" in note


def test_what_columns_say_of_the_answer_stays(tmp_path: Path) -> None:
    mapped = splits_of(tmp_path, [choice(1)], columns={"answer": "{{ 'ABC'[answer] }}"})
    assert (asked(mapped.train[0]), mapped.train[0].answer) == (LISTED, "B")
    text = splits_of(tmp_path, [choice(1)], columns={"answer": "{{ choices[answer] }}"})
    assert (asked(text.train[0]), text.train[0].answer, text.notes) == ("Which one?", "green", ())


@pytest.mark.parametrize(
    "row",
    [
        {"question": "a", "answer": "7", "options": {"temperature": 1}},
        {"question": "a", "answer": "7", "choices": ["only"]},
        {"question": "a", "answer": "7", "choices": ["red", "blue"]},
        {"question": "a", "answer": "7", "choices": [True, False]},
        {"question": "a", "answer": "7", "options": "--fast"},
    ],
)
def test_what_is_no_multiple_choice_is_left_alone(tmp_path: Path, row: Mapping[str, Any]) -> None:
    splits = splits_of(tmp_path, [row])
    assert (asked(splits.train[0]), splits.train[0].answer, splits.notes) == ("a", "7", ())


def test_an_answer_that_is_none_of_the_options_is_a_bad_row(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"1 of 4 rows.*\n.*line 3, field 'answer': 'D' is none of the 3 options, read as"
    ):
        splits_of(tmp_path, [choice("B"), choice("C"), choice("D"), {"question": "open", "answer": "7"}])


# What a template uses and a row does not have


@pytest.mark.parametrize(
    "template",
    [
        "{{ question }} {{ hint }}",
        "{{ question }} {{ hint|trim }}",
        "{{ question }} {{ hint|string }}",
        "{{ question ~ ' ' ~ hint }}",
        "{{ '%s %s' % (question, hint) }}",
        "{{ question }} {{ info.hint }}",
        "{{ [question, hint]|join(' ') }}",
        "{{ question }} {% for each in hint %}{{ each }}{% endfor %}",
    ],
)
def test_a_null_is_refused_or_written_as_nothing_and_never_as_none(tmp_path: Path, template: str) -> None:
    row = {"question": "a", "answer": "1", "hint": None, "info": {"hint": None}}
    with pytest.raises(DataError, match=r"x\.jsonl, line 1: .*'(hint|it)' is null.*data\.train\.missing=empty"):
        splits_of(tmp_path, [row], PromptConfig(template=template))
    (problem,) = splits_of(tmp_path, [row], PromptConfig(template=template), missing="empty").train
    assert asked(problem).rstrip() == "a"


@pytest.mark.parametrize("missing", ["refuse", "empty"])
def test_a_template_can_still_ask_whether_there_is_a_value(tmp_path: Path, missing: str) -> None:
    row = {"question": "a", "answer": "1", "hint": None, "tests": [None, 1]}
    template = (
        "{{ question }}{% if hint %}x{% endif %}{{ 'y' if hint is not none and hint != none }}{{ hint|default('d') }}"
        "{{ hint or 'z' }}{{ tests|tojson }}"
    ).replace(
        "{{ 'y' if hint is not none and hint != none }}", "{% if hint is not none and hint != none %}y{% endif %}"
    )
    (problem,) = splits_of(tmp_path, [row], PromptConfig(template=template), missing=missing).train
    assert asked(problem) == "adz[null, 1]"


def test_a_field_that_some_rows_lack_is_null_there_and_one_that_none_has_is_refused(tmp_path: Path) -> None:
    rows = [
        {"question": "a", "answer": "1", "info": {}},
        {"question": "b", "answer": "2", "hint": "h", "info": {"x": 1}},
    ]
    prompt = PromptConfig(template="{{ question }}:{{ hint }}:{{ info.x }}")
    with pytest.raises(DataError, match="'hint' is undefined"):
        splits_of(tmp_path, rows, prompt)
    splits = splits_of(tmp_path, rows, prompt, missing="empty", columns={"second": "info.x", "third": "{{ info.x }}"})
    assert [asked(problem) for problem in splits.train] == ["a::", "b:h:1"]
    assert [problem.fields["second"] for problem in splits.train] == [None, 1]
    assert [problem.fields["third"] for problem in splits.train] == [None, 1]
    with pytest.raises(DataError, match="'hunt' is undefined"):
        splits_of(tmp_path, rows, PromptConfig(template="{{ question }} {{ hunt }}"), missing="empty")
    with pytest.raises(DataError, match="SecurityError"):
        splits_of(tmp_path, rows, PromptConfig(template="{{ question.__class__ }}"), missing="empty")
    with pytest.raises(DataError, match=r"2 of 2 rows.*\n.*'answer': text or a number is needed, got None"):
        splits_of(tmp_path, rows, columns={"answer": "{{ info.none }}"}, missing="empty")
