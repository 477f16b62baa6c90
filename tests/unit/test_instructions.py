"""`instructions`: own checks both ways with near misses, and the checkers of IFEval and IFBench."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Literal

import pytest

from reasoner import Message, Problem, Response, Score
from reasoner.errors import MissingDependencyError, UserError
from reasoner_rewards import instructions as module
from reasoner_rewards.instructions import instructions, loose_variants
from reasoner_rewards.text_checks import TEXT_CHECKS, follows

BENCHMARKS = pytest.mark.skipif(importlib.util.find_spec("if_verifiable") is None, reason="if-verifiable is missing")


def score(text: str, fields: dict[str, Any], finish: Literal["stop", "length"] = "stop", **options: Any) -> Score:
    problem = Problem("p:1", (Message("user", "Do it."),), "", fields)
    response = Response(text, (1,), (True,), (0.0,), finish, 0)
    result = instructions(problem, response, **instructions.check_options(options))
    assert isinstance(result, Score)
    return result


FOLLOWED: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("lower_case", {}, ["ice is cold.", "größe 3!", "привет"], ["Ice", "iCe", "3.", "冰", "ICE IS COLD."]),
    ("upper_case", {}, ["ICE IS COLD.", "A"], ["ICe", "ice", "1 2 3", ""]),
    (
        "words",
        {"count": 3},
        ["one two three", "It's well-known, really!", " a  b\nc. ", "1 2 3"],
        ["one two", "one two three four", "", "... ... ..."],
    ),
    (
        "sentences",
        {"count": 2},
        ["It is. It was!", 'He said "No." So what?', "It costs 3.50 now. Yes.", "Wait... No!"],
        ["It is.", "It is. It was", "It is. It was. It will be.", "? !", "It is. ...", "It is.It was."],
    ),
    ("starts_with", {"text": "Well,"}, ["Well, no.", "Well,no"], ["Well,", "Well, ...", "well, no.", "So. Well, no."]),
    (
        "ends_with",
        {"text": "That is all."},
        ["No. That is all.", "No. That is all. \n"],
        ["That is all.", "... That is all.", "No. That is all", "That is all. No.", "No. that is all."],
    ),
    ("includes", {"text": "red"}, ["It is red.", "RED", "a red-hot day"], ["bored", "reds", "r e d", ""]),
    (
        "excludes",
        {"text": "red"},
        ["It is blue.", "bored", "bo\u200bredom", "r e d"],
        ["It is red.", "Red!", "", "...", "It is r\u200bed.", "r\u00ade\u2060d", "so\u200b red", "\ufeffred\u200d"],
    ),
]


@pytest.mark.parametrize(("name", "arguments", "right", "wrong"), FOLLOWED, ids=[each[0] for each in FOLLOWED])
def test_an_instruction_is_followed_or_not(
    name: str, arguments: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    assert [text for text in right if not follows(text, name, arguments)] == []
    assert [text for text in wrong if follows(text, name, arguments)] == []


def test_every_instruction_is_tried() -> None:
    assert [each[0] for each in FOLLOWED] == list(TEXT_CHECKS)


TWO = {"instructions": [{"id": "lower_case", "count": None}, {"id": "words", "count": 2}]}


def test_all_or_the_share_that_is_followed() -> None:
    assert score("so cold", TWO) == Score(1.0, {"instructions": ["lower_case", "words"], "followed": [True, True]}, "")
    half = score("so Cold", TWO)
    assert (half.value, half.parts["followed"], half.note) == (0.0, [False, True], "not followed: lower_case")
    assert score("so Cold", TWO, score="share").value == 0.5
    assert score("<think>Why NOT?</think>so cold", TWO).value == 1.0


@pytest.mark.parametrize(
    ("text", "finish", "note"),
    [
        ("so cold", "length", "not finished"),
        ("<think>so cold", "stop", "not closed"),
        ("<think>so cold</think>", "stop", "says nothing"),
        ("?!", "stop", "says nothing"),
        ("", "stop", "says nothing"),
    ],
)
def test_a_text_that_is_no_answer_follows_nothing(text: str, finish: Literal["stop", "length"], note: str) -> None:
    for mode in ("strict", "loose"):
        result = score(text, TWO, finish, mode=mode, score="share")
        assert (result.value, result.parts["followed"]) == (0.0, [False, False])
        assert note in result.note


def test_loose_tries_the_text_without_its_frame() -> None:
    text = "Sure:\n**so cold**\nAnything else?"
    assert score(text, TWO).value == 0.0
    assert score(text, TWO, mode="loose").value == 1.0
    assert score("**so cold**\nAnything else?", TWO, mode="loose").value == 1.0
    assert score("Sure\nso\ncold\nindeed\nBye", TWO, mode="loose").value == 0.0
    assert len(loose_variants("a\nb")) == 8


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "a list of instructions is needed"),
        ([], "a list of instructions is needed"),
        ([{"name": "words"}], "each needs an id"),
        ([{"id": "word", "count": 3}], "no instruction 'word'. Did you mean 'words'"),
        ([{"id": "words"}], r"'words' takes count \(int\), got {}"),
        ([{"id": "words", "count": "3"}], r"takes count \(int\)"),
        ([{"id": "words", "count": True}], r"takes count \(int\)"),
        ([{"id": "lower_case", "count": 3}], "takes no argument"),
    ],
)
def test_a_problem_without_instructions_that_can_be_read_fails_the_call(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score("a", {"instructions": value})


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "of its own" in instructions.ready({})
    monkeypatch.setattr(module, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"reasoner\[instructions\]"):
        instructions.ready({"checkers": "ifeval"})
    monkeypatch.setattr(module, "_registry", module._registry.__wrapped__)
    with pytest.raises(MissingDependencyError, match="needs if-verifiable"):
        score("a", {"instruction_id_list": ["x"], "kwargs": [{}]}, checkers="ifbench")


def asked(*instructions: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"instruction_id_list": [name for name, _ in instructions], "kwargs": [each for _, each in instructions]}


@BENCHMARKS
def test_ifeval_is_checked_strictly_and_loosely() -> None:
    fields = asked(("punctuation:no_comma", {"num_words": None}), ("startend:end_checker", {"end_phrase": "bye"}))
    assert score("so long bye", fields, checkers="ifeval").value == 1.0
    assert score("so, bye", fields, checkers="ifeval", score="share").parts["followed"] == [False, True]
    framed = "Sure, here:\nso long\nbye"
    assert score(framed, fields, checkers="ifeval").value == 0.0
    assert score(framed, fields, checkers="ifeval", mode="loose").value == 1.0
    assert score("so long bye", fields, "length", checkers="ifeval").value == 1.0  # as the benchmark has it


@BENCHMARKS
def test_ifbench_is_checked() -> None:
    fields = asked(("count:word_count_range", {"min_words": 2, "max_words": 3}))
    values = [score(text, fields, checkers="ifbench").value for text in ("a", "a b", "a b c", "a b c d")]
    assert values == [0.0, 1.0, 1.0, 0.0]


@BENCHMARKS
def test_a_checker_that_would_let_anything_pass_does_not() -> None:
    """langdetect finds no language in a text without letters, and the package then says that all is well."""
    fields = asked(("language:response_language", {"language": "de"}))
    assert [score(text, fields, checkers="ifeval").value for text in ("?!", "Das ist ein deutscher Satz.")] == [
        0.0,
        1.0,
    ]


@BENCHMARKS
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"instructions": []}, "'instruction_id_list' and 'kwargs' must be lists"),
        ({"instruction_id_list": ["a"], "kwargs": []}, "of the same length"),
        (asked(("punctuation:no_coma", {})), "no instruction .* Did you mean 'punctuation:no_comma'"),
        (asked(("startend:end_checker", {"end_phrase": None})), "needs end_phrase"),
        (asked(("startend:end_checker", {"end_phrase": "a", "x": 1})), "does not take"),
    ],
)
def test_what_the_package_would_leave_out_or_make_up_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score("a", fields, checkers="ifeval")


@BENCHMARKS
def test_data_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("nltk").data, "path", [])
    fields = asked(("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}))
    with pytest.raises(ValueError, match=r"needs data of NLTK: python -m nltk\.downloader punkt_tab"):
        score("One. Two.", fields, checkers="ifeval")
