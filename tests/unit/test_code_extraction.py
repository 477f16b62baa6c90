"""Where the program of a response is."""

from __future__ import annotations

import pytest

from reasoner_rewards.code.extraction import program_in

LABELS = ("python", "py", "python3", "")


def fenced(program: str, label: str = "python") -> str:
    return f"```{label}\n{program}\n```"


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (fenced("x = 1"), "x = 1"),
        (f"First:\n{fenced('a')}\nBetter:\n{fenced('b')}\nDone.", "b"),
        (f"{fenced('x = 1')}\nIt prints:\n{fenced('1', 'text')}", "x = 1"),
        (fenced("x = 1", "") + "\n" + fenced("ls", "bash"), "x = 1"),
        (fenced("x = 1", "Python"), "x = 1"),
        (f"   {fenced('x = 1')}   ", "x = 1"),
        (f"<think>{fenced('draft')}</think>{fenced('final')}", "final"),
        (fenced("    return 1"), "    return 1"),
        (fenced(""), ""),
    ],
)
def test_the_last_fenced_block_with_a_label_that_counts(text: str, program: str) -> None:
    assert program_in(text, "fenced", LABELS) == (program, "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("print(1)", "there is no fenced block"),
        (fenced("ls", "bash"), "there is no fenced block"),
        ("", "there is no fenced block"),
        (f"{fenced('x = 1')}\nand\n```python\nx = 2", "the last fenced block is not closed"),
        (f"<think>{fenced('x = 1')}", "the think block is not closed"),
        (f"<think>{fenced('x = 1')}</think> 42", "there is no fenced block"),
    ],
)
def test_no_program(text: str, why: str) -> None:
    assert program_in(text, "fenced", LABELS) == (None, f"no program: {why}")


def test_all_of_the_response_by_option() -> None:
    assert program_in("<think>hm</think>x = 1\n", "all", LABELS) == ("x = 1\n", "")
    assert program_in(" \n", "all", LABELS) == (None, "no program: there is no answer")
