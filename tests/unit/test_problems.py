"""Sources to problems, and the stream of training problems."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoner.config import DataConfig, PromptConfig, SourceConfig
from reasoner.data.decontamination import normal_text
from reasoner.data.problems import Cursor, Splits, Stream, load_splits, open_template
from reasoner.errors import ConfigError, DataError, ReasonerError
from reasoner.models.hub import hub_reachable
from reasoner.records import Message, Problem
from reasoner_tasks.generators import gsm_symbolic
from tests.sources import load_problems

PLAIN = PromptConfig()
ROWS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(20)]


def sums(count: int, seed: int, *, largest: int = 10) -> Iterator[Mapping[str, Any]]:
    """Sums that repeat from seed to seed: seed s starts at s."""
    for n in range(seed, seed + count):
        yield {"question": f"{n} + {largest}", "answer": n + largest}


def jsonl(path: Path, rows: list[Any] = ROWS) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(source: SourceConfig, prompt: PromptConfig = PLAIN, seed: int = 0) -> list[Problem]:
    return load_problems(source, prompt, {"sums": sums}, seed)


def test_a_row_becomes_a_problem(tmp_path: Path) -> None:
    prompt = PromptConfig(
        system="Be brief.", template="Q: {{ question | trim }}", examples=[{"user": "1+1", "assistant": "2"}]
    )
    path = jsonl(tmp_path / "add.jsonl", [{"question": " 2+3 ", "answer": 5, "level": [1, None]}])
    assert load(SourceConfig(path=path), prompt) == [
        Problem(
            "add:0",
            (
                Message("system", "Be brief."),
                Message("user", "1+1"),
                Message("assistant", "2"),
                Message("user", "Q: 2+3"),
            ),
            "5",
            {"question": " 2+3 ", "answer": 5, "level": [1, None]},
        )
    ]


def test_compressed_files_blank_lines_and_ids(tmp_path: Path) -> None:
    path = tmp_path / "more.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(json.dumps(row) for row in ROWS[:2]) + "\n\n" + json.dumps(ROWS[2]))
    problems = load(SourceConfig(path=str(path), shuffle=False))
    assert [(p.id, p.answer) for p in problems] == [("more:0", "0"), ("more:1", "2"), ("more:2", "4")]


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"problem": "2+3", "solution": "5"}])
    source = SourceConfig(path=path, columns={"question": "problem", "answer": "solution"})
    assert (load(source)[0].messages[-1].content, load(source)[0].answer) == ("2+3", "5")


def test_the_shuffle_is_seeded_and_the_limit_takes_from_it(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl")
    every = [p.id for p in load(SourceConfig(path=path), seed=3)]
    assert sorted(every, key=lambda name: int(name.split(":")[1])) == [f"x:{n}" for n in range(20)]
    assert [p.id for p in load(SourceConfig(path=path, limit=5), seed=3)] == every[:5]
    assert [p.id for p in load(SourceConfig(path=path), seed=4)] != every
    assert [p.id for p in load(SourceConfig(path=path, shuffle=False, limit=2), seed=3)] == ["x:0", "x:1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"data\.train: .*x\.jsonl holds no rows"),
        ('{"question": "a", "answer": "b"}\n{"question": ', r"x\.jsonl, line 2: not JSON: .*one JSON object per line"),
        ("\n\n[1, 2]\n", r"x\.jsonl, line 3: a JSON object is needed, got list '\[1, 2\]'"),
        ('{"question": "a", "answer": NaN}', r"line 1: not JSON: NaN is not a JSON value"),
        (
            '{"question": "a"}',
            r"line 1: the field 'answer' is missing\. The row has: question\..*columns\.answer=FIELD",
        ),
        ('{"answer": "a"}', r"line 1: prompt.template does not fit: 'question' is undefined\. The row has: answer"),
        ('{"question": "a", "answer": "  "}', r"line 1, field 'answer': it is empty"),
        ('{"question": "", "answer": "1"}', r"line 1, field 'question': it is empty"),
        ('{"question": "a", "answer": null}', r"field 'answer': text or a number is needed, got None"),
        ('{"question": "a", "answer": true}', r"field 'answer': text or a number is needed, got True"),
    ],
)
def test_malformed_files_are_refused_with_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises((DataError, ConfigError), match=message):
        load(SourceConfig(path=str(path)))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no data file /.*none\.jsonl"):
        load(SourceConfig(path=str(tmp_path / "none.jsonl")))
    with pytest.raises(DataError, match=r"x\.parq: a data file ends in .*Did you mean .\.parquet"):
        load(SourceConfig(path=str(tmp_path / "x.parq")))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps(ROWS).encode())[:-12])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz: cannot be read after line 0"):
        load(SourceConfig(path=str(cut)))
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b'{"question": "\xe9"}')
    with pytest.raises(DataError, match="not UTF-8"):
        load(SourceConfig(path=str(latin)))


def test_a_column_that_the_rows_do_not_have_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl")
    with pytest.raises(ConfigError, match=r"question = 'problem': none of the 20 rows has it.*answer.*columns=\{\}'"):
        load(SourceConfig(path=path, columns={"question": "problem"}))


def test_templates_are_sandboxed_and_complain_with_the_row(tmp_path: Path) -> None:
    source = SourceConfig(path=jsonl(tmp_path / "x.jsonl"))
    with pytest.raises(DataError, match=r"line 1: prompt\.template does not fit: 'hint' is undefined"):
        load(source, PromptConfig(template="{{ question }} {{ hint }}"))
    with pytest.raises(DataError, match=r"line 1: prompt\.template fails: SecurityError"):
        load(source, PromptConfig(template="{{ question.__class__.__mro__ }}"))
    with pytest.raises(DataError, match="gives an empty message"):
        load(source, PromptConfig(template="{% if false %}{{ question }}{% endif %}"))
    with pytest.raises(ConfigError, match=r"prompt.template, line 2"):
        open_template(PromptConfig(template="{{ question }}\n{% if %}"))


def test_generators_get_count_seed_and_options() -> None:
    source = SourceConfig(generator="sums", limit=3, seed=5, options={"largest": 7}, shuffle=False)
    assert [(p.id, p.answer) for p in load(source)] == [("sums-5:0", "12"), ("sums-5:1", "13"), ("sums-5:2", "14")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SourceConfig(generator="sum", limit=1), "no such generator. Did you mean 'sums'"),
        (SourceConfig(generator="sums", limit=1, options={"large": 1}), "no such option. Did you mean 'largest'"),
        (SourceConfig(generator="sums", limit=1, options={"largest": "7"}), "options.largest = '7': .*valid integer"),
    ],
)
def test_generators_are_checked(source: SourceConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(source)


def test_a_generator_that_stops_early_or_gives_no_json_is_refused() -> None:
    def few(count: int, seed: int) -> Iterator[Mapping[str, Any]]:
        yield {"question": "a", "answer": "b"}

    def odd(count: int, seed: int) -> Iterator[Mapping[str, Any]]:
        yield {"question": "a", "answer": "b", "extra": {1, 2}}

    with pytest.raises(DataError, match="asked for 2 problems, got 1"):
        load_problems(SourceConfig(generator="few", limit=2), PLAIN, {"few": few}, 0)
    with pytest.raises(DataError, match="row 0, field 'extra': not a JSON value"):
        load_problems(SourceConfig(generator="odd", limit=1), PLAIN, {"odd": odd}, 0)


def test_generated_training_problems_that_are_evaluation_problems_are_left_out() -> None:
    train, held_out = SourceConfig(generator="sums", limit=5), SourceConfig(generator="sums", limit=3, seed=4)
    splits = load_splits(DataConfig(train=train, eval=held_out), PLAIN, {"sums": sums}, 0)
    assert {p.answer for p in splits.train} == {"10", "11", "12", "13"}
    assert splits.notes == ("data.train: 1 of 5 problems are also evaluation problems and were left out.",)
    allowed = load_splits(DataConfig(train=train, eval=held_out, overlap="allow"), PLAIN, {"sums": sums}, 0)
    assert len(allowed.train) == 5


def test_problems_of_a_file_that_are_evaluation_problems_are_refused_unless_dropped_or_allowed(tmp_path: Path) -> None:
    written = [{**row, "question": str(row["question"]).replace("What is", "what  is").rstrip("?")} for row in ROWS]
    train = SourceConfig(path=jsonl(tmp_path / "train.jsonl"), shuffle=False)
    test = SourceConfig(path=jsonl(tmp_path / "test.jsonl", written[:4]), shuffle=False)

    def splits(overlap: Literal["refuse", "drop", "allow"], held_out: SourceConfig = test) -> Splits:
        return load_splits(DataConfig(train=train, eval=held_out, overlap=overlap), PLAIN, {}, 0)

    with pytest.raises(DataError) as caught:
        splits("refuse")
    assert str(caught.value).splitlines() == [
        "data.train: 4 of 20 problems are also evaluation problems, apart from white space, case and punctuation; the "
        "evaluation would measure memorisation.",
        "  train:0 is test:0: What is 0 + 0?",
        "  train:1 is test:1: What is 1 + 1?",
        "  train:2 is test:2: What is 2 + 2?",
        "Leave them out of the training with --set data.overlap=drop, or keep them with data.overlap=allow.",
    ]
    dropped = splits("drop")
    assert [problem.id for problem in dropped.train] == [f"train:{n}" for n in range(4, 20)]
    assert len(splits("allow").train) == 20
    assert "measures memory" in splits("allow").notes[0]
    with pytest.raises(DataError, match="nothing is left to train on"):
        splits("drop", train)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What is 3+4?", "what  is 3 + 4", True),
        ("It\u2019s \u201cnew\u201d \u2014 really\uff1f", 'it\'s "new" - REALLY', True),
        ("Find $x$.", "Find x", True),
        ("What is 3+4?", "What is 3-4?", False),
        ("What is 3/4?", "What is 3*4?", False),
        ("Add 1.5", "Add 15", False),
        ("Sort 1, 2, 3", "Sort 12, 3", False),
        ("f(x, y)", "f(x), y", False),
    ],
)
def test_problems_are_compared_by_what_they_ask(one: str, other: str, same: bool) -> None:
    assert (normal_text(one) == normal_text(other)) is same


def test_a_source_that_is_not_configured_gives_no_problems(tmp_path: Path) -> None:
    held_out = SourceConfig(path=jsonl(tmp_path / "test.jsonl", ROWS[:3]))
    splits = load_splits(DataConfig(eval=held_out), PLAIN, {}, 0)
    assert (splits.train, len(splits.eval), splits.notes) == ((), 3, ())
    splits = load_splits(DataConfig(train=held_out), PLAIN, {}, 0)
    assert (len(splits.train), splits.eval, splits.notes) == (3, (), ())


def test_gsm_symbolic_gives_different_numeric_problems_without_instructions() -> None:
    rows = list(gsm_symbolic(300, 1))
    assert rows == list(gsm_symbolic(300, 1))
    assert len({row["question"] for row in rows}) == 300
    assert all(float(row["answer"]) == float(row["answer"]) for row in rows)
    assert not any("final answer" in row["question"] for row in rows)
    shared = {row["question"] for row in rows} & {row["question"] for row in gsm_symbolic(300, 2)}
    assert len(shared) < 10  # by chance alone: the templates have few values in places


def test_rows_of_a_hub_data_set(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    jsonl(tmp_path / "set" / "test.jsonl", ROWS[:3])
    source = SourceConfig(
        hub=str(tmp_path / "set"), split="test", options={"cache_dir": str(tmp_path / "cache")}, shuffle=False
    )
    assert [(p.id, p.answer) for p in load(source)] == [("set-test:0", "0"), ("set-test:1", "2"), ("set-test:2", "4")]


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that refuses connections, for a process that never asked before."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub_reachable.cache_clear()
    yield
    hub_reachable.cache_clear()


@pytest.mark.usefixtures("no_hub")
def test_a_hub_that_cannot_be_reached_is_said_at_once() -> None:
    with pytest.raises(
        DataError, match=r"'nobody/nothing', split 'train': .*cannot be reached.*--set data\.train\.path=FILE"
    ):
        load(SourceConfig(hub="nobody/nothing"))


def problems(count: int) -> list[Problem]:
    return [Problem(f"p:{n}", (Message("user", str(n)),), str(n)) for n in range(count)]


def stream_of(count: int, per_step: int, seed: int | None) -> Stream[Problem]:
    return Stream(problems(count), per_step, seed, section="data.train", key="learning.problems_per_step")


def test_an_epoch_sees_no_problem_twice_and_each_has_its_own_order() -> None:
    stream = stream_of(11, 3, seed=7)
    epochs = [[p.id for step in range(1, 4) for p in stream.at(3 * epoch + step)] for epoch in range(20)]
    assert stream.steps_per_epoch == 3
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20
    assert {name for epoch in epochs for name in epoch} == {f"p:{n}" for n in range(11)}


def test_the_order_of_an_epoch_is_made_once_and_is_the_one_that_saved_runs_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    class Counted(random.Random):
        def shuffle(self, x: Any) -> None:
            made.append(len(x))
            super().shuffle(x)

    expected = []
    for epoch in range(3):
        order = list(range(20))
        random.Random(f"7:{epoch}").shuffle(order)
        expected += [f"p:{index}" for index in order]
    monkeypatch.setattr("reasoner.data.problems.random.Random", Counted)
    stream = stream_of(20, 2, seed=7)
    cursor = Cursor(stream_of(20, 2, seed=7))
    assert [problem.id for step in range(1, 31) for problem in stream.at(step)] == expected
    assert [problem.id for _ in range(30) for problem in cursor.take(2)] == expected
    assert made == [20] * 6  # three epochs each: no step shuffles beside the first of an epoch


def test_a_stream_of_anything_names_its_own_key() -> None:
    stream = Stream(["a", "b"], 1, None, section="data.pairs", key="data.pairs.per_step")
    assert stream.at(2) == ("b",)
    with pytest.raises(DataError, match=r"data\.pairs has 2 rows to train on and data\.pairs\.per_step is 3"):
        Stream(["a", "b"], 3, None, section="data.pairs", key="data.pairs.per_step")


def test_the_stream_without_a_seed_keeps_the_order() -> None:
    stream = stream_of(4, 2, seed=None)
    assert [[p.id for p in stream.at(step)] for step in (1, 2, 3)] == [["p:0", "p:1"], ["p:2", "p:3"], ["p:0", "p:1"]]


def test_the_stream_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "from reasoner.data.problems import Stream; from reasoner.records import Problem\n"
        "problems = [Problem(str(n), (), '') for n in range(50)]\n"
        "print([p.id for p in Stream(problems, 5, 1, section='data.train', key='learning.problems_per_step').at(13)])"
    )
    orders = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(orders) == 1


def test_too_few_problems_and_step_zero_are_refused() -> None:
    with pytest.raises(
        ReasonerError, match=r"data\.train has 2 rows to train on and learning\.problems_per_step is 3: lower it"
    ):
        stream_of(2, 3, seed=0)
    with pytest.raises(ValueError, match="counted from 1"):
        stream_of(3, 3, seed=0).at(0)


@settings(max_examples=150, deadline=None)
@given(size=st.integers(1, 12), rounds=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), max_size=25))
def test_every_problem_comes_once_per_epoch_whatever_a_step_takes(size: int, rounds: list[list[int]]) -> None:
    """Steps of one or several takes: the first, and refills of any size."""
    cursor, order = Cursor(stream_of(size, 1, seed=3)), list[str]()
    for counts in rounds:
        step: list[str] = []
        for count in counts:
            found = [problem.id for problem in cursor.take(count, step)]
            assert len(found) == min(count, size - len(step))
            step += found
        assert len(set(step)) == len(step)
        order += step
        cursor.mark()
        state = json.loads(json.dumps(cursor.state()))
        cursor = Cursor(stream_of(size, 1, seed=3))  # a run that is interrupted after every step
        cursor.restore(state)
    for first in range(0, len(order) - size + 1, size):
        assert sorted(order[first : first + size]) == sorted(f"p:{n}" for n in range(size))


@pytest.mark.parametrize("seed", [None, 5])
def test_steps_of_equal_size_take_the_streams_order(seed: int | None) -> None:
    """As `at` has it, as long as they fill the epochs; one that does not fill goes on with the next one."""
    stream = stream_of(12, 3, seed)
    cursor = Cursor(stream)
    assert [cursor.take(3) for _ in range(12)] == [stream.at(step) for step in range(1, 13)]
    odd = Cursor(stream_of(5, 2, seed=None))
    taken = [[problem.id for problem in odd.take(4)] for _ in range(3)]
    # p:4, which fills no step alone, is not lost
    assert taken == [["p:0", "p:1", "p:2", "p:3"], ["p:4", "p:0", "p:1", "p:2"], ["p:3", "p:4", "p:0", "p:1"]]
    twice = Cursor(stream_of(5, 4, seed=None))
    first = [problem.id for problem in twice.take(4)]
    assert [problem.id for problem in twice.take(3, first)] == ["p:4"]  # the step has all others


def test_a_problem_that_a_step_has_already_is_put_off_and_not_lost() -> None:
    stream = stream_of(6, 4, seed=11)
    first, second = ([problem.id for problem in stream.epoch(epoch)] for epoch in (0, 1))
    assert set(second[:2]) & set(first[4:])  # the step that goes on with the second epoch has one of them already
    cursor = Cursor(stream)
    steps = [[problem.id for problem in cursor.take(4)] for _ in range(3)]
    others = [name for name in second if name not in first[4:]]
    assert steps == [first[:4], first[4:] + others[:2], [name for name in second if name not in others[:2]]]
    assert steps[2][0] == second[0]  # whose turn was first


def test_the_evaluation_problems_are_the_same_for_every_seed_of_the_run(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"question": str(n), "answer": str(n)} for n in range(40)])
    config = DataConfig(
        train=SourceConfig(path=path, limit=10), eval=SourceConfig(path=path, limit=10), overlap="allow"
    )
    splits = [load_splits(config, PLAIN, {}, seed) for seed in (0, 1, 2)]
    assert len({tuple(problem.id for problem in each.eval) for each in splits}) == 1
    assert [problem.id for problem in splits[0].eval] != [f"x:{n}" for n in range(10)]  # shuffled all the same
    assert len({tuple(problem.id for problem in each.train) for each in splits}) == 3
