"""`length` follows the formulas of its papers and never rises against its direction."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner import Problem, Response, Score
from reasoner.errors import ConfigError
from reasoner_rewards.length import length
from tests.scored import scored


@pytest.mark.parametrize(
    ("tokens", "value"), [(1, 0.0), (16384, 0.0), (17408, -0.25), (18432, -0.5), (20480, -1.0), (20481, -1.0)]
)
def test_soft_overlong_with_the_numbers_of_the_paper(tokens: int, value: float) -> None:
    result = scored(length, "x", tokens=tokens, max_tokens=20480, cache_tokens=4096)
    assert result == Score(value, {"tokens": tokens})
    assert scored(length, "x", tokens=tokens, max_tokens=20480).value == value


@pytest.mark.parametrize(
    ("tokens", "value"), [(25, 1.5 + math.sqrt(2) / 4), (50, 1.5), (75, 1.5 - math.sqrt(2) / 4), (100, 1.0), (101, 1.0)]
)
def test_cosine(tokens: int, value: float) -> None:
    result = scored(length, "x", tokens=tokens, kind="cosine", max_tokens=100, shortest=2.0, longest=1.0).value
    assert result == pytest.approx(value, abs=1e-12)


def test_only_tokens_of_the_policy_count() -> None:
    response = Response("x", (1, 2, 3), (True, False, True), (0.0,) * 3, "stop", 0)
    result = length(Problem("p:1", (), ""), response, **length.check_options({"max_tokens": 2, "cache_tokens": 2}))
    assert result == Score(-1.0, {"tokens": 2})


def test_the_text_does_not_matter() -> None:
    values = {
        scored(length, text, tokens=90, max_tokens=100).value for text in ("", "x" * 1_000_000, "length: 1", "長")
    }
    assert values == {-0.5}


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 200), st.integers(1, 200))
def test_soft_overlong_never_rises(left: int, right: int, most: int, cache: int) -> None:
    options: dict[str, Any] = {"max_tokens": most, "cache_tokens": min(cache, most)}
    shorter, longer = (scored(length, "x", tokens=tokens, **options).value for tokens in sorted((left, right)))
    assert -1.0 <= longer <= shorter <= 0.0


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 200), st.floats(-5, 5), st.floats(-5, 5))
def test_cosine_is_monotone_between_its_bounds(left: int, right: int, most: int, first: float, last: float) -> None:
    options: dict[str, Any] = {"kind": "cosine", "max_tokens": most, "shortest": first, "longest": last}
    shorter, longer = (scored(length, "x", tokens=tokens, **options).value for tokens in sorted((left, right)))
    rising = 1 if last >= first else -1
    assert (longer - shorter) * rising >= -1e-12
    assert min(first, last) - 1e-12 <= shorter <= max(first, last) + 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10, "cache_tokens": 0}, "cache_tokens"),
        ({"max_tokens": 10, "cache_tokens": 11}, "more than max_tokens = 10"),
        ({"max_tokens": 10, "shortest": 1.0}, "belongs to 'cosine'"),
        ({"max_tokens": 10, "kind": "cosine", "shortest": 1.0}, "longest.*'cosine' needs it"),
        ({"max_tokens": 10, "kind": "cosine", "longest": 1.0}, "shortest.*'cosine' needs it"),
        (
            {"max_tokens": 10, "kind": "cosine", "shortest": 1.0, "longest": 0.0, "cache_tokens": 5},
            "belongs to 'soft_overlong'",
        ),
        ({"max_tokens": 10, "kind": "cosine", "shortest": float("nan"), "longest": 0.0}, "shortest"),
        ({"max_tokens": 10, "kind": "linear"}, "kind"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        length.check_options(options)
