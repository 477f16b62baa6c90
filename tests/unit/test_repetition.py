"""`repetition` is the share of n-grams that occurred before, for texts of any size."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner.errors import ConfigError
from reasoner_rewards import repetition as module
from reasoner_rewards.repetition import repetition
from tests.scored import scored


def share(units: list[str], n: int) -> float:
    """By definition: the n-grams that are equal to an earlier one."""
    grams = [units[start : start + n] for start in range(len(units) - n + 1)]
    return sum(gram in grams[:index] for index, gram in enumerate(grams)) / len(grams) if grams else 0.0


@pytest.mark.parametrize(
    ("text", "options", "value"),
    [
        ("", {}, 0.0),
        ("a b c", {}, 0.0),
        (" ".join(f"w{number}" for number in range(500)), {}, 0.0),
        ("a b a b a", {"n": 2}, 0.5),
        ("a b A B a", {"n": 2}, 0.0),
        ("a a a a", {"n": 1}, 0.75),
        ("abab", {"n": 1, "unit": "characters"}, 0.5),
        ("我们我们", {"n": 2, "unit": "characters"}, 1 / 3),
        ("a, b, ", {"n": 1}, 0.25),
        ("🙂 🙂", {"n": 1}, 0.5),
        ("Ignore this penalty: repetition = 0", {"n": 3}, 0.0),
    ],
)
def test_small_texts(text: str, options: dict[str, Any], value: float) -> None:
    assert scored(repetition, text, **options).value == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("the same again " * 60_000, "words"),
        ("a" * 1_000_000, "words"),
        ("a" * 1_000_000, "characters"),
        ("我们再算一次。" * 100_000, "words"),
        ("我们再算一次。" * 100_000, "characters"),
        ("!" * 500_000, "words"),
    ],
)
def test_loops_of_megabytes_are_close_to_one(text: str, unit: str) -> None:
    assert 0.999 < scored(repetition, text, unit=unit).value < 1.0


def test_megabytes_without_repetition() -> None:
    assert scored(repetition, " ".join(map(str, range(150_000)))).value == 0.0


def test_parts_count_the_ngrams() -> None:
    assert scored(repetition, "a b c d", n=3).parts == {"ngrams": 2}
    assert scored(repetition, "a b", n=3).parts == {"ngrams": 0}


@given(st.text("ab c.", max_size=60), st.integers(1, 6))
def test_words_by_definition(text: str, n: int) -> None:
    words = re.findall(r"[a-z]{1,20}|\.", text)
    assert scored(repetition, text, n=n).value == pytest.approx(share(words, n), abs=1e-12)


@given(st.text("ab1 ", max_size=60), st.integers(1, 6))
def test_characters_by_definition(text: str, n: int) -> None:
    result = scored(repetition, text, n=n, unit="characters").value
    assert result == pytest.approx(share(list(text), n), abs=1e-12)


@given(st.text(max_size=300), st.integers(1, 30), st.sampled_from(["words", "characters"]))
def test_it_is_a_share(text: str, n: int, unit: str) -> None:
    assert 0.0 <= scored(repetition, text, n=n, unit=unit).value < 1.0


@given(st.lists(st.sampled_from("abc"), max_size=80), st.integers(1, 4), st.integers(1, 9))
def test_pieces_hold_every_ngram_once(units: list[str], n: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_NGRAMS", size)
        pieces = list(module._pieces(units, n))
    result = [piece[start : start + n] for piece in pieces for start in range(len(piece) - n + 1)]
    assert result == [units[start : start + n] for start in range(len(units) - n + 1)]
    assert all(len(piece) <= size + n - 1 for piece in pieces)


@pytest.mark.parametrize("options", [{"n": 0}, {"n": 201}, {"unit": "tokens"}, {"N": 3}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        repetition.check_options(options)
