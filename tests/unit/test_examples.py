"""Which responses before and after training are shown, and how they are cut."""

from __future__ import annotations

import pytest

from reasoner.evaluation.examples import choose_examples, shortened


def shown(before: str, after: str) -> list[tuple[str, int]]:
    """Of problems 0, 1, 2, ... whose response was right (`+`), wrong (`-`) or not judged (` `)."""
    sides = [{str(n): mark == "+" for n, mark in enumerate(side) if mark != " "} for side in (before, after)]
    return [(each.id, each.alike) for each in choose_examples(*sides)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("----++", "+++-++", [("0", 3), ("4", 2), ("3", 1)]),
        ("-----+", "-----+", [("0", 5), ("5", 1), ("1", 5)]),  # two kinds: the next of the most frequent one
        ("------", "------", [("0", 6), ("1", 6), ("2", 6)]),
        ("+-+-++-", "-+ -++-", [("3", 2), ("4", 2), ("0", 1)]),  # of four kinds, the rarest is left out
        ("+-", " +", [("1", 1)]),
        ("  ", "++", []),
        ("", "", []),
    ],
)
def test_the_most_frequent_kinds_of_change_are_shown_with_their_counts(
    before: str, after: str, expected: list[tuple[str, int]]
) -> None:
    assert shown(before, after) == expected


@pytest.mark.parametrize("most", range(11, 90))
def test_a_long_text_keeps_its_beginning_and_its_end(most: int) -> None:
    text = "He has 3 + 4 = 7 apples,\n\nbecause he counts them all one by one. The answer is 7."
    line = " ".join(text.split())
    cut = shortened(text, most)
    assert len(cut) <= most
    if most >= len(line):
        assert cut == line
        return
    begin, gap, end = cut.partition(" ... ")
    assert gap
    assert line.startswith(begin)
    assert line.endswith(end)
    assert begin
    assert end


def test_a_text_without_spaces_is_cut_all_the_same() -> None:
    assert shortened("x" * 100, 25) == "x" * 10 + " ... " + "x" * 10
    assert shortened("", 25) == shortened(" \n ", 25) == ""
