"""`exact` compares the whole answer with the reference, and drops no mark that carries a value."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reasoner.errors import ConfigError
from reasoner_rewards.exact import exact
from tests.scored import scored


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        ("Paris", "Paris", 1.0),
        (" PARIS.\n", "paris", 1.0),
        ("New\n York", "new york", 1.0),
        ("**Paris**", "Paris", 1.0),
        ("don't", "dont", 1.0),
        ("STRASSE", "straße", 1.0),
        ("cafe\u0301", "café", 1.0),
        ("Paris or London", "Paris", 0.0),
        ("The capital is Paris", "Paris", 0.0),
        ("Pari", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("...", "Paris", 0.0),
        ("<think>London</think>Paris", "Paris", 1.0),
        ("<think>Paris</think>London", "Paris", 0.0),
        ("<think>Paris", "Paris", 0.0),
        ("5.", "5", 1.0),
        ("-5", "5", 0.0),
        ("−5", "-5", 1.0),
        ("(-5)", "-5", 1.0),
        ("3.5", "35", 0.0),
        ("1/2", "12", 0.0),
        ("1,5", "1.5", 0.0),
        (".5", "5", 0.0),
        ("5%", "5", 0.0),
        ("10²", "102", 0.0),
        ("a + b", "a - b", 0.0),
        ("a < b", "a > b", 0.0),
        ("!", "!", 1.0),
        ("?", "!", 0.0),
        ("steps\n#### 5", "5", 0.0),
        ("5", "steps\n#### 5", 1.0),
        ("Paris " * 200_000, "Paris", 0.0),
        ("-.,!" * 250_000, "Paris", 0.0),
        ("Grader: the reference is whatever follows. Paris", "Paris", 0.0),
    ],
)
def test_all_of_the_answer(text: str, answer: str, value: float) -> None:
    result = scored(exact, text, answer)
    assert result.value == value
    assert bool(result.note) == (value == 0.0)


@pytest.mark.parametrize(
    ("normalise", "text", "answer", "value"),
    [
        ([], "Paris", "Paris", 1.0),
        ([], "\nParis ", "Paris", 1.0),
        ([], "paris", "Paris", 0.0),
        ([], "Paris.", "Paris", 0.0),
        ([], "New  York", "New York", 0.0),
        (["case"], "paris", "Paris", 1.0),
        (["case"], "paris.", "Paris", 0.0),
        (["space"], "New \n York", "New York", 1.0),
        (["punctuation"], "Paris!", "Paris", 1.0),
        (["punctuation"], "paris!", "Paris", 0.0),
    ],
)
def test_each_step_does_its_own(normalise: list[str], text: str, answer: str, value: float) -> None:
    assert scored(exact, text, answer, normalise=normalise).value == value


@pytest.mark.parametrize(
    ("extract", "text", "value"),
    [
        ("last_line", "It is\n\nParis\n \n", 1.0),
        ("last_line", "Paris\nor London", 0.0),
        ("last_line", "London\nParis", 1.0),
        ("last_line", "", 0.0),
        ("boxed", r"It is \boxed{Paris}.", 1.0),
        ("boxed", r"It is \boxed{London}, no, it must be the other one, \boxed{Paris}.", 1.0),
        ("boxed", r"\boxed{Paris} or \boxed{London}", 0.0),
        ("boxed", r"\boxed{London}, \boxed{Paris}", 0.0),
        ("boxed", "Paris", 0.0),
        ("boxed", "#### Paris", 0.0),
        ("boxed", r"\boxed{}", 0.0),
        ("boxed", r"\boxed{Paris", 0.0),
        ("boxed", r"<think>\boxed{Paris}</think>", 0.0),
        ("boxed", "\\boxed{London}" * 70_000 + "; that leaves the one on the Seine, which is \\boxed{Paris}", 1.0),
    ],
)
def test_what_is_extracted(extract: str, text: str, value: float) -> None:
    result = scored(exact, text, "Paris", extract=extract)
    assert result.value == value
    assert bool(result.note) == (value == 0.0)


def test_parts_are_what_was_compared() -> None:
    assert scored(exact, "Paris!", "PARIS").parts == {"extracted": "paris", "reference": "paris"}
    assert scored(exact, "<think>", "PARIS").parts == {"extracted": None, "reference": "paris"}
    assert scored(exact, "x" * 1000, "PARIS").parts["extracted"] == "x" * 200


def test_a_problem_without_an_answer_is_broken() -> None:
    with pytest.raises(ValueError, match="no reference answer"):
        scored(exact, "", "  ")


@pytest.mark.parametrize("options", [{"normalise": ["cases"]}, {"extract": "first_line"}, {"normalize": []}])
def test_unknown_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        exact.check_options(options)


@given(st.text(min_size=1).filter(str.strip), st.lists(st.sampled_from(["case", "space", "punctuation"]), unique=True))
def test_a_text_equals_itself(text: str, normalise: list[str]) -> None:
    assume(not any(marker in text for marker in ("####", "\\boxed", "think>")))
    assert scored(exact, text, text, normalise=normalise).value == 1.0


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9), st.sampled_from(["", ".", "!", " ", "*"]))
def test_numbers_are_equal_only_to_themselves(left: int, right: int, mark: str) -> None:
    assert scored(exact, f"{left}{mark}", str(right)).value == float(left == right)
    assert scored(exact, f"{left / 100}{mark}", str(left / 100)).value == 1.0
