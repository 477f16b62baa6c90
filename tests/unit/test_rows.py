"""Sources of several files, columns that are templates, conversations in a column, and rows that cannot be used."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from reasoner.config import DataConfig, PromptConfig, SourceConfig
from reasoner.data.decontamination import hold_out, question_key
from reasoner.data.problems import Splits, load_held_out, load_splits
from reasoner.data.prompts import templates
from reasoner.data.row_report import NAMED, RowError, RowReport
from reasoner.errors import ConfigError, DataError
from reasoner.records import Message, Problem
from tests.sources import load_problems

PLAIN = PromptConfig()
ROWS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(40)]


def jsonl(path: Path, rows: Sequence[object] = ROWS) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def load(source: SourceConfig, prompt: PromptConfig = PLAIN, **more: Any) -> list[Problem]:
    return load_problems(source, prompt, {}, 0, **more)


def source(path: str | list[str], **more: Any) -> SourceConfig:
    return SourceConfig(path=path, shuffle=False, **more)


def ids(problems: Sequence[Problem]) -> list[str]:
    return [problem.id for problem in problems]


# Several files


def test_files_patterns_and_shards_are_one_source_and_each_has_its_own_ids(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        jsonl(tmp_path / f"shard-{number}.jsonl", ROWS[2 * number : 2 * number + 2])
    extra = jsonl(tmp_path / "extra.jsonl", ROWS[6:7])
    shards = ["shard-0:0", "shard-0:1", "shard-1:0", "shard-1:1", "shard-2:0", "shard-2:1"]
    assert ids(load(source(str(tmp_path / "shard-*.jsonl")))) == shards
    assert ids(load(source([extra, str(tmp_path / "shard-*.jsonl")]))) == ["extra:0", *shards]
    assert ids(load(source(str(tmp_path / "**/shard-[01].jsonl")))) == shards[:4]


def test_files_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    files = [jsonl(tmp_path / "data" / name / "train.jsonl", ROWS[n : n + 1]) for n, name in enumerate("ab")]
    assert ids(load(source(files))) == ["a/train:0", "b/train:0"]
    (tmp_path / "data" / "a" / "train.csv").write_text("question,answer\nq,1\n")
    both = [files[0], str(tmp_path / "data" / "a" / "train.csv")]
    assert ids(load(source(both))) == ["train.jsonl:0", "train.csv:0"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    assert ids(load(source(jsonl(tmp_path / "a[1].jsonl", ROWS[:1])))) == ["a[1]:0"]


def test_files_that_are_missing_or_named_twice_are_refused(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", ROWS[:1])
    with pytest.raises(DataError, match=r"data\.train\.path: no file matches .*b-\*\.jsonl"):
        load(source(str(tmp_path / "b-*.jsonl")))
    with pytest.raises(DataError, match=r"data\.train\.path names .*a\.jsonl twice"):
        load(source([file, str(tmp_path / "*.jsonl")]))
    (tmp_path / "b.jsonl").symlink_to(file)
    for again in (tmp_path / ".." / tmp_path.name / "a.jsonl", tmp_path / "b.jsonl"):
        with pytest.raises(DataError, match=r"data\.train\.path names .*a\.jsonl twice"):
            load(source([file, str(again)]))
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(DataError, match=r"there is no data file .*c\.jsonl"):
        load(source([file, str(tmp_path / "c.jsonl")]))


# Columns that are templates, conversations in a column

VERL: dict[str, Any] = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "user", "content": "What is 2 + 2?"}],
    "reward_model": {"style": "rule", "ground_truth": "4"},
    "extra_info": {"split": "train", "index": 0},
}


@pytest.mark.parametrize(
    ("template", "row", "answer"),
    [
        ("{{ reward_model.ground_truth }}", VERL, "4"),
        ("{{ reward_model['ground_truth'] }}", VERL, "4"),
        ("{{ choices[answer] }}", {"choices": ["red", "blue"], "answer": 1}, "blue"),
        ("{{ choices[answer|int] }}", {"choices": ["red", "blue"], "answer": "1"}, "blue"),
        ("{{ 'ABCD'[answer] }}", {"answer": 2}, "C"),
        ("{{ 'ABCD'[answer | int] }}", {"answer": "2"}, "C"),
        (
            "{{ choices.text[choices.label.index(key)] }}",
            {"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "key": "B"},
            "b",
        ),
        ("{{ solution.split('####')[-1]|trim }}", {"solution": "so\n#### 7"}, "7"),
        ("{% for n in numbers %}{{ n }};{% endfor %}", {"numbers": [1, 2]}, "1;2;"),
        (" {{ n }} ", {"n": 4}, "4"),
        ("{{- n -}}", {"n": 4}, "4"),
        ("{# the number #}{{ n }}", {"n": 4}, "4"),
        ("{{ a['}}'] }}", {"a": {"}}": 4}}, "4"),
    ],
)
def test_a_reference_is_looked_up_by_a_template(
    tmp_path: Path, template: str, row: Mapping[str, Any], answer: str
) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"question": "?", **row}])
    assert load(source(path, columns={"answer": template}))[0].answer == answer


def test_a_lookup_gives_the_value_as_it_is_and_a_calculation_text(tmp_path: Path) -> None:
    row = {"question": "?", "answer": "1", "info": {"tests": [{"in": "1"}, None], "n": 2}}
    columns = {
        "tests": "{{ info.tests }}",
        "first": "{{ info.tests[0] }}",
        "more": "{{ info.n + 1 }}",
        "question": "info",
    }
    columns["question"] = "{{ question }}!"
    (problem,) = load(source(jsonl(tmp_path / "x.jsonl", [row]), columns=columns))
    assert {name: problem.fields[name] for name in columns} == {
        "tests": [{"in": "1"}, None],
        "first": {"in": "1"},
        "more": "3",
        "question": "?!",
    }


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ reward.truth }}", r"x\.jsonl, line 1: data\.train\.columns\.answer does not fit: 'reward' is undefined"),
        (
            "{{ reward_model.truth }}",
            r"line 1: .* does not fit: 'dict object' has no attribute 'truth'\. The row has: q",
        ),
        ("{{ choices[9] }}", r"line 1: .* does not fit: .*no element 9"),
        ("{{ choices.index }}", r"line 1: .*columns\.answer fails: it gives a builtin_function_or_method; write row\["),
        ("{{ choices.__class__ }}", r"line 1: .*columns\.answer fails"),
        ("{{ choices|first|int / 0 }}", r"line 1: .*columns\.answer fails: ZeroDivisionError"),
        ("{{ reward_model }}", r"line 1, field 'answer': text or a number is needed, got \{'ground_truth': '4'\}"),
        ("{{ nothing }}", r"line 1, field 'answer': text or a number is needed, got None"),
    ],
)
def test_templates_that_do_not_fit_are_refused_with_row_and_column(tmp_path: Path, template: str, message: str) -> None:
    row = {"question": "?", "choices": ["a"], "reward_model": {"ground_truth": "4"}, "nothing": None}
    with pytest.raises(DataError, match=message):
        load(source(jsonl(tmp_path / "x.jsonl", [row]), columns={"answer": template}))


def test_what_is_no_template_or_does_not_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"question": "?"}])
    with pytest.raises(ConfigError, match=r"data\.train\.columns\.answer = '\{\{ a b \}\}': not a Jinja template"):
        load(source(path, columns={"answer": "{{ a b }}"}))
    monkeypatch.setattr(templates, "SECONDS", 1)
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(ConfigError, match=r"columns\.answer fails on .*x\.jsonl, line 1: it takes longer"):
        load(source(path, columns={"answer": loops}))


def test_rows_of_verl_and_trl_load_with_a_line_of_columns(tmp_path: Path) -> None:
    verl = source(
        jsonl(tmp_path / "verl.jsonl", [VERL]),
        columns={"question": "prompt", "answer": "{{ reward_model.ground_truth }}"},
    )
    trl = source(
        jsonl(
            tmp_path / "trl.jsonl",
            [
                {"prompt": "What is 2 + 2?", "solution": "4"},
                {"prompt": [{"role": "system", "content": "Be brief."}, VERL["prompt"][0]], "solution": 4},
            ],
        ),
        columns={"question": "prompt", "answer": "solution"},
    )
    user = Message("user", "What is 2 + 2?")
    assert [(problem.messages, problem.answer) for problem in (*load(verl), *load(trl))] == [
        ((user,), "4"),
        ((user,), "4"),
        ((Message("system", "Be brief."), user), "4"),
    ]


def test_what_the_prompt_section_does_not_do_to_messages_is_said(tmp_path: Path) -> None:
    rows = [VERL, {"prompt": "Text?", "reward_model": {"ground_truth": "1"}}]
    columns = {"question": "prompt", "answer": "{{ reward_model.ground_truth }}"}
    data = DataConfig(train=source(jsonl(tmp_path / "x.jsonl", rows), columns=columns))
    prompt = PromptConfig(system="Be brief.")
    splits = load_splits(data, prompt, {}, 0)
    assert [len(problem.messages) for problem in splits.train] == [1, 2]
    assert splits.notes == (
        "data.train: 1 of 2 prompts are messages, which are taken as they are: prompt.system does not apply to them.",
    )
    assert load_splits(data, PLAIN, {}, 0).notes == ()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], r"field 'question': a list of \{role, content\} messages is needed, got '\[\]'"),
        ([{"role": "user"}], r"field 'question', message 1: an object with role and content is needed"),
        ([{"role": "human", "content": "a"}], r"message 1: role = 'human' is none of system, user, assistant"),
        ([{"role": "user", "content": [{"type": "image"}]}], r"message 1: content must be text"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], r"from 'assistant'"),
    ],
)
def test_messages_of_another_shape_are_refused(tmp_path: Path, prompt: object, message: str) -> None:
    with pytest.raises(DataError, match=rf"x\.jsonl, line 1.*{message}"):
        load(source(jsonl(tmp_path / "x.jsonl", [{"question": prompt, "answer": "1"}])))


# Rows that cannot be used


def bad_rows() -> list[object]:
    rows: list[object] = [dict(row) for row in ROWS]
    rows[3] = {"question": "?", "answer": " "}
    rows[5] = '{"question": "a", "answer": NaN}'
    rows[7] = {"question": "b"}
    rows[8] = {"answer": "1"}
    rows[11] = {"question": "c", "answer": ["1"]}
    rows[13] = rows[17] = rows[19] = {"question": "?", "answer": ""}
    rows[23] = "[]"
    rows[30] = ROWS[2]
    return rows


def test_all_bad_rows_are_named_at_once_the_first_five_and_the_others_by_kind(tmp_path: Path) -> None:
    data = DataConfig(train=SourceConfig(path=jsonl(tmp_path / "x.jsonl", bad_rows())))
    with pytest.raises(DataError) as caught:
        load_splits(data, PLAIN, {}, 3)
    first, *named, more, advice = str(caught.value).splitlines()
    assert first == "data.train: 10 of 40 rows cannot be used."
    assert len(named) == NAMED
    where = [line.split("x.jsonl, ")[1].split(":")[0].split(",")[0] for line in named]
    assert where == ["line 6", "line 24", "line 4", "line 8", "line 9"]  # what is malformed is known first
    assert more == (
        "  and 5 more: 3 with an empty field 'answer', 1 whose field 'answer' is neither text nor a number, "
        "1 that repeat an earlier one"
    )
    assert advice == "Correct these rows, or leave them out: --set data.on_bad_row=drop."


def test_dropped_rows_are_counted_and_repeated_ones_go_too(tmp_path: Path) -> None:
    data = DataConfig(train=source(jsonl(tmp_path / "x.jsonl", bad_rows())), on_bad_row="drop")
    splits = load_splits(data, PLAIN, {}, 0)
    gone = {3, 5, 7, 8, 11, 13, 17, 19, 23, 30}
    assert ids(splits.train) == [f"x:{n}" for n in range(40) if n not in gone]
    bad, repeated = splits.notes
    assert bad.startswith("data.train: 9 of 40 rows cannot be used and were left out: 4 with an empty field 'answer', ")
    assert "(the first: " in bad
    assert repeated == (
        f"data.train: rows that repeat an earlier one and were left out: 1 (the first: {tmp_path}/x.jsonl, line 31, "
        f"as {tmp_path}/x.jsonl, line 3)."
    )


NEAR: Sequence[object] = (
    {"question": "What is 0 + 0?", "answer": "1"},  # the same question with another answer is no repetition
    {"question": "what is 0 + 0?", "answer": "0"},
    {"question": "What is 0 + 0? ", "answer": "0"},
)


def test_rows_that_repeat_others_are_refused_unless_they_are_dropped_or_kept(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [*ROWS[:2], ROWS[0], *NEAR, ROWS[1]])
    data = DataConfig(train=source(path))
    with pytest.raises(DataError) as caught:
        load_splits(data, PLAIN, {}, 0)
    assert str(caught.value).splitlines() == [
        "data.train: 2 of 7 rows cannot be used.",
        f"  {path}, line 3: it repeats {path}, line 1.",
        f"  {path}, line 7: it repeats {path}, line 2.",
        "Correct these rows, or leave them out: --set data.train.duplicates=drop (or keep them: =keep).",
    ]
    for changes in ({"on_bad_row": "drop"}, {"train": source(path, duplicates="drop")}):
        dropped = load_splits(data.model_copy(update=changes), PLAIN, {}, 0)
        assert ids(dropped.train) == ["x:0", "x:1", "x:3", "x:4", "x:5"]
        assert "rows that repeat an earlier one and were left out: 2 (the first: " in dropped.notes[0]
    kept = load_splits(DataConfig(train=source(path, duplicates="keep"), on_bad_row="drop"), PLAIN, {}, 0)
    assert len(kept.train) == 7
    assert kept.notes[0].endswith("to leave them out: --set data.train.duplicates=drop.")
    own = DataConfig(train=source(path, on_bad_row="drop", duplicates="refuse"))
    with pytest.raises(DataError, match="2 of 7 rows cannot be used"):
        load_splits(own, PLAIN, {}, 0)
    with pytest.raises(DataError, match=r"data\.eval: 2 of 7 .*(?s:.*)data\.eval\.duplicates=drop"):
        load_splits(
            DataConfig(train=source(jsonl(tmp_path / "y.jsonl")), eval=source(path), overlap="allow"), PLAIN, {}, 0
        )


def test_without_an_answer_rows_are_duplicates_where_all_their_fields_are(tmp_path: Path) -> None:
    """The verifier reads the tests: other tests make another problem, and an answer is what it is compared with."""
    rows = [{"question": "f?", "tests": tests} for tests in (["f(1)"], ["f(2)"], ["f(1)"])]
    data = DataConfig(train=source(jsonl(tmp_path / "x.jsonl", rows), duplicates="drop"))
    assert ids(load_splits(data, PLAIN, {}, 0, needs_answer=False).train) == ["x:0", "x:1"]
    answered = DataConfig(
        train=source(jsonl(tmp_path / "y.jsonl", [{**row, "answer": "1"} for row in rows]), duplicates="drop")
    )
    assert ids(load_splits(answered, PLAIN, {}, 0).train) == ["y:0"]


@pytest.mark.parametrize(
    ("field", "repeats"),
    [
        *(
            (name, True)
            for name in ("id", "idx", "ID", "uid", "task_id", "problem_idx", "rowindex", "__index_level_0__")
        ),
        *((name, False) for name in ("correct_idx", "answer_id", "instruction_ids", "ids", "valid", "tests", "key")),
    ],
)
def test_fields_that_number_the_rows_do_not_tell_two_problems_apart(tmp_path: Path, field: str, repeats: bool) -> None:
    """Near misses: fields that a verifier may compare with."""
    rows = [{"question": "f?", "tests": ["f(1)"], field: number} for number in (1, 2)]
    data = DataConfig(train=source(jsonl(tmp_path / "x.jsonl", rows), duplicates="drop"))
    train = load_splits(data, PLAIN, {}, 0, needs_answer=False).train
    assert ids(train) == (["x:0"] if repeats else ["x:0", "x:1"])


@pytest.mark.parametrize(("duplicates", "left"), [(None, 6), ("keep", 6), ("drop", 2), ("refuse", 0)])
def test_what_a_generator_gives_again_is_kept_unless_it_is_said(duplicates: Any, left: int) -> None:
    """Also where bad rows are dropped."""

    def two(count: int, seed: int) -> Iterator[Mapping[str, Any]]:
        yield from ({"question": f"{n % 2}?", "answer": "1"} for n in range(count))

    data = DataConfig(train=SourceConfig(generator="two", limit=6, duplicates=duplicates), on_bad_row="drop")
    if not left:
        with pytest.raises(DataError, match=r"4 of 6 rows cannot be used"):
            load_splits(data, PLAIN, {"two": two}, 0)
        return
    splits = load_splits(data, PLAIN, {"two": two}, 0)
    assert len(splits.train) == left
    assert "rows that repeat an earlier one" in splits.notes[0]


def test_equal_complaints_are_written_once_and_where_every_row_is_bad_nothing_can_be_left_out(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"question": "?", "result": "1"}] * 7)
    for policy in ("refuse", "drop"):
        data = DataConfig(train=source(path), on_bad_row=policy)
        with pytest.raises(DataError) as caught:
            load_splits(data, PLAIN, {}, 0)
        first, complaint, *same, more = str(caught.value).splitlines()
        assert first.startswith("data.train: 7 of 7 rows cannot be used")
        assert "the field 'answer' is missing. The row has: question, result." in complaint
        assert same == [f"  {path}, line {n}: the same" for n in (2, 3, 4, 5)]
        assert more == "  and 2 more: 2 without the field 'answer'"


def test_with_a_limit_bad_rows_are_replaced_by_the_next_ones(tmp_path: Path) -> None:
    data = DataConfig(train=source(jsonl(tmp_path / "x.jsonl", bad_rows()), limit=4), on_bad_row="drop")
    assert ids(load_splits(data, PLAIN, {}, 0).train) == ["x:0", "x:1", "x:2", "x:4"]


def test_an_answer_is_needed_only_where_a_source_compares_with_it(tmp_path: Path) -> None:
    rows = [{"question": "a", "tests": ["x"]}, {"question": "b", "answer": None}, {"question": "c", "answer": "1"}]
    path = jsonl(tmp_path / "x.jsonl", rows)
    with pytest.raises(DataError, match="2 of 3 rows cannot be used"):
        load(source(path))
    assert [problem.answer for problem in load(source(path), needs_answer=False)] == ["", "", "1"]
    with pytest.raises(DataError, match="text or a number is needed"):
        load(source(jsonl(tmp_path / "y.jsonl", [{"question": "a", "answer": {}}])), needs_answer=False)


# A share that is held out


def split(path: str, seed: int = 0, share: float = 0.1, prompt: PromptConfig = PLAIN, **more: Any) -> Splits:
    return load_splits(DataConfig(train=SourceConfig(path=path, **more), holdout=share), prompt, {}, seed)


def test_a_share_is_held_out_whatever_the_seed_and_the_order_of_the_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl")
    first, other = split(path, seed=1), split(path, seed=2)
    assert (len(first.train), len(first.eval)) == (36, 4)
    assert first.eval == other.eval
    assert ids(first.train) != ids(other.train)
    assert set(ids(first.train)) == set(ids(other.train))
    assert not set(ids(first.train)) & set(ids(first.eval))
    turned = jsonl(tmp_path / "turned.jsonl", random.Random(1).sample(ROWS, len(ROWS)))
    assert {p.messages for p in split(turned).eval} == {p.messages for p in first.eval}
    assert load_held_out(DataConfig(train=SourceConfig(path=path), holdout=0.1), PLAIN, {}) == first.eval


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_problems_that_ask_the_same_are_on_one_side_and_are_evaluated_once(tmp_path: Path, share: float) -> None:
    again = [{**row, "question": f" {str(row['question']).upper()} ", "answer": "x"} for row in ROWS[::2]]
    path = jsonl(tmp_path / "x.jsonl", [*ROWS, *again, *ROWS[::3]])
    splits = split(path, share=share, duplicates="keep")
    asked = [{question_key(problem) for problem in side} for side in (splits.train, splits.eval)]
    assert asked[0].isdisjoint(asked[1])
    assert len(asked[1]) == len(splits.eval) == 40 * share
    assert len(asked[0]) == 40 * (1 - share)


def test_at_least_one_problem_is_held_out_and_one_is_left(tmp_path: Path) -> None:
    assert len(split(jsonl(tmp_path / "x.jsonl", ROWS[:3]), share=0.01).eval) == 1
    with pytest.raises(ConfigError, match=r"data\.holdout = 0\.9 of the 1 rows of data\.train leaves nothing"):
        split(jsonl(tmp_path / "y.jsonl", ROWS[:1]), share=0.9)


def test_the_limit_counts_both_sides_and_what_is_held_out_does_not_depend_on_the_seed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl")
    limited = [split(path, seed=seed, limit=20) for seed in (1, 2)]
    assert [(len(each.train), len(each.eval)) for each in limited] == [(18, 2)] * 2
    assert limited[0].eval == limited[1].eval


def test_a_share_is_by_problem_and_changes_little_when_rows_are_added() -> None:
    problems = [Problem(str(n), (Message("user", f"{n}?"),), "") for n in range(200)]
    few, more = (set(ids(hold_out(problems[:count], lambda p: p, 0.1)[1])) for count in (180, 200))
    assert (len(few), len(more)) == (18, 20)
    assert len(few & more) >= 14


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([("user", "Why?")], [("system", "S"), ("user", "why")], True),
        ([("user", "1+1"), ("assistant", "2"), ("user", "Why?")], [("user", "Why?")], True),
        (
            [("user", "a"), ("assistant", "b"), ("user", "Why?")],
            [("user", "c"), ("assistant", "d"), ("user", "Why?")],
            False,
        ),
        ([("user", "a"), ("assistant", "b"), ("user", "Why?")], [("user", "Why?")], False),
    ],
)
def test_conversations_are_the_same_but_for_system_message_and_worked_examples(
    one: list[tuple[Literal["system", "user", "assistant"], str]],
    other: list[tuple[Literal["system", "user", "assistant"], str]],
    same: bool,
) -> None:
    examples = (Message("user", "1+1"), Message("assistant", "2"))
    keys = [
        question_key(Problem("p", tuple(Message(role, text) for role, text in turns), ""), examples)
        for turns in (one, other)
    ]
    assert (keys[0] == keys[1]) is same


def test_neither_evaluation_data_nor_a_share_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.eval is needed .* --set data\.holdout=0\.05"):
        load_held_out(DataConfig(), PLAIN, {})


def test_bad_rows_are_told_before_that_nothing_is_left_to_train_on(tmp_path: Path) -> None:
    """They are the reason, and lowering `data.holdout` would not help."""
    train = source(
        jsonl(tmp_path / "x.jsonl", [{"question": "1 + 1?", "answer": "2"}, {"question": "", "answer": "3"}])
    )
    with pytest.raises(DataError, match="1 of 2 rows cannot be used"):
        load_splits(DataConfig(train=train, holdout=0.1), PLAIN, {}, 0)
    with pytest.raises(ConfigError, match=r"of the 1 rows of data\.train leaves nothing .* are held out together"):
        load_splits(DataConfig(train=train, holdout=0.1, on_bad_row="drop"), PLAIN, {}, 0)


# Each source has its own policies


def test_each_source_says_what_becomes_of_its_bad_and_long_rows(tmp_path: Path) -> None:
    rows = jsonl(tmp_path / "x.jsonl", bad_rows())
    good = source(jsonl(tmp_path / "good.jsonl"))
    data = DataConfig(train=source(rows, on_bad_row="drop"), eval=good, overlap="allow")
    splits = load_splits(data, PLAIN, {}, 0)
    assert (len(splits.train), len(splits.eval)) == (30, 40)
    with pytest.raises(DataError) as caught:
        load_splits(data.model_copy(update={"eval": source(rows)}), PLAIN, {}, 0)
    assert str(caught.value).startswith("data.eval: 10 of 40 rows cannot be used.")
    assert str(caught.value).endswith("leave them out: --set data.on_bad_row=drop.")
    own = data.model_copy(update={"eval": source(rows, on_bad_row="refuse"), "on_bad_row": "drop"})
    with pytest.raises(DataError, match=r"leave them out: --set data\.eval\.on_bad_row=drop\.$"):
        load_splits(own, PLAIN, {}, 0)


def test_the_first_three_rows_that_were_left_out_are_named(tmp_path: Path) -> None:
    rows = [*ROWS[:3], *[{"question": "?", "answer": ""}] * 5, *ROWS[:3], *ROWS[:3]]
    data = DataConfig(train=source(jsonl(tmp_path / "x.jsonl", rows), on_bad_row="drop"))
    bad, repeated = load_splits(data, PLAIN, {}, 0).notes
    assert [n for n in range(1, 15) if f"line {n}," in bad] == [4, 5, 6]
    assert "5 of 14 rows cannot be used and were left out" in bad
    assert repeated.startswith("data.train: rows that repeat an earlier one and were left out: 6 (the first: ")
    assert repeated.count(", as ") == 3


@pytest.mark.parametrize(
    ("policies", "kept", "advice"),
    [
        ({}, None, "--set data.on_bad_row=drop."),
        ({"too_long": "drop"}, 2, ""),
        ({"on_bad_row": "drop"}, 2, ""),
        ({"on_bad_row": "drop", "too_long": "refuse"}, None, "--set data.train.too_long=drop."),
    ],
)
def test_a_row_that_is_too_long_has_a_policy_of_its_own(
    policies: dict[str, Any], kept: int | None, advice: str
) -> None:
    report = RowReport()
    report.follow("data.train", source("x.jsonl", **policies))
    report.keep("data.train", 2)
    report.add("data.train", RowError("line 1", "700 tokens.", "with a long prompt", too_long=True))
    if kept is None:
        with pytest.raises(DataError) as caught:
            report.settle()
        assert str(caught.value).endswith(advice)
    else:
        assert report.settle() == (
            "data.train: 1 of 3 rows cannot be used and were left out: 1 with a long prompt (the first: line 1: 700 "
            "tokens).",
        )
        report.add("data.train", RowError("line 2", "it is empty.", "that is empty"))
        if policies == {"too_long": "drop"}:
            with pytest.raises(DataError, match=r"data\.train: 1 of 4 rows cannot be used\.\n  line 2: it is empty"):
                report.settle()


def test_what_is_wrong_with_a_row_is_the_same_on_another_rank() -> None:
    error = pickle.loads(pickle.dumps(RowError("line 1", "long.", "that is long", where="field 'a'", too_long=True)))
    assert (str(error), error.kind, error.too_long) == ("line 1, field 'a': long.", "that is long", True)
