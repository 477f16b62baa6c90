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


SHOWN = "f(3)\nprint(f(4))"
DEFINED = "def f(n):\n    return n"


@pytest.mark.parametrize(
    ("text", "program"),
    [
        # a block of sample output after a labelled program
        (f"{fenced('print(1)')}\nIt prints:\n{fenced('1', '')}", "print(1)"),
        (f"{fenced('1', '')}\nis what it prints:\n{fenced('print(1)')}", "print(1)"),
        (
            f"{fenced('print(1)', 'py')}\n{fenced('1', '')}\n{fenced('print(2)', 'python')}\n{fenced('2', '')}",
            "print(2)",
        ),
        # only unlabelled ones
        (f"{fenced('a = 1', '')}\n{fenced('b = 2', '')}", "b = 2"),
        # a session in the interpreter is no program
        (f"{fenced('print(1)')}\n{fenced('>>> print(1)' + chr(10) + '1')}", "print(1)"),
        # without names, the last one, whatever it is
        (f"{fenced(DEFINED)}\n{fenced(SHOWN)}", SHOWN),
    ],
)
def test_the_last_block_in_the_tasks_language(text: str, program: str) -> None:
    assert program_in(text, "fenced", LABELS)[0] == program


@pytest.mark.parametrize(
    ("blocks", "chosen"),
    [
        ((DEFINED, SHOWN), 0),
        ((DEFINED, "# usage\nresult = f(3)\nprint(result)"), 0),
        ((DEFINED, SHOWN, ">>> f(3)\n3", "assert f(3) == 3"), 0),
        ((DEFINED, "def test_f():\n    assert f(3) == 3\ntest_f()"), 0),
        ((DEFINED, "def main():\n    f = 3"), 0),
        ((DEFINED, "def f(n):\n    return n + 1"), 1),
        ((DEFINED, "f = lambda n: n + 1"), 1),
        ((DEFINED, "from operator import neg as f"), 1),
        ((DEFINED, "if True:\n    def f(n): pass"), 1),
        ((DEFINED, "try:\n    import fast as f\nexcept ImportError:\n    f = None"), 1),
        # it was meant to be better, and is broken
        ((DEFINED, "def f(n)\n    return n + 1"), 1),
        ((DEFINED, "    return n + 1"), 1),
        # nobody defines it
        ((SHOWN, "print(1)"), 1),
        (("def g(): pass", SHOWN), 1),
    ],
)
def test_blocks_that_only_use_the_program_are_not_taken_for_it(blocks: tuple[str, ...], chosen: int) -> None:
    for label in ("python", ""):
        text = "\n\n".join(fenced(block, label) for block in blocks)
        program, note = program_in(text, "fenced", LABELS, {"f"})
        assert program == blocks[chosen]
        assert (f"block {chosen + 1} of {len(blocks)}" in note) is (chosen < len(blocks) - 1)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        # in a list, or indented otherwise
        ("1. Do this:\n\n   ```python\n   for x in y:\n       z\n   ```\n", "for x in y:\n    z"),
        ("- ```python\n  x = 1\n\n  y = 2\n  ```", "x = 1\n\ny = 2"),
        ("\t```python\n\tx = 1\n\t```", "x = 1"),
        ("    ```python\nif x:\n    y\n    ```", "if x:\n    y"),  # the fence alone is indented
        ("  ```python\n      return 1\n  ```", "    return 1"),
        # tildes, longer fences, and what does not close them
        ("~~~python\nx = 1\n~~~", "x = 1"),
        ("~~~~ python\nx = '''\n~~~\n```\n'''\n~~~~~", "x = '''\n~~~\n```\n'''"),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''"),
        # labels as they are written elsewhere
        ("``` python title='a.py'\nx = 1\n```", "x = 1"),
        ("```{.python .numberLines}\nx = 1\n```", "x = 1"),
        ("```python:main.py\nx = 1\n```", "x = 1"),
        ("```PY\r\nx = 1\r\n```\r\n", "x = 1\r"),
        # inline code opens no block
        ("```x = 2``` is\n```python\nx = 1\n```", "x = 1"),
    ],
)
def test_fences_as_markdown_has_them(text: str, program: str) -> None:
    assert program_in(text, "fenced", LABELS) == (program, "")


@pytest.mark.parametrize(
    "text",
    [
        "```python\nx = 1\n~~~",
        "````python\nx = 1\n```",
        f"{fenced('x = 1')}\n~~~python\nx = 2",
        f"{fenced('x = 1')}\nIt prints\n```\n1",
        "```python\nx = 1\n``` and more",
    ],
)
def test_a_fence_that_is_not_closed_in_kind_is_open(text: str) -> None:
    assert program_in(text, "fenced", LABELS) == (None, "no program: the last fenced block is not closed")


def test_labels_by_option() -> None:
    text = f"{fenced('x = 1')}\n{fenced('x = 2', 'sage')}\n{fenced('x = 3', '')}"
    assert program_in(text, "fenced", ("sage",)) == ("x = 2", "")
    assert program_in(text, "fenced", ("",)) == ("x = 3", "")
    assert program_in(text, "fenced", ("ruby",)) == (None, "no program: there is no fenced block")


@pytest.mark.parametrize(
    "block",
    [
        f"{'-' * 16_000}1",
        f"{'(' * 8_000}{')' * 8_000}",
        f"x{'.x' * 8_000}",
        f"{'[' * 8_000}",
        f"{'lambda: ' * 2_000}1",
        f"x = {'1+' * 8_000}1",
        "\n".join(f"{' ' * depth}if x:" for depth in range(120)) + " pass",
        "x = 1\n" * 200_000,
        "\0",
    ],
)
def test_a_block_that_is_hard_to_parse_is_a_program_like_any(block: str) -> None:
    for label in ("python", ""):
        text = f"{fenced(DEFINED, label)}\n{fenced(block, label)}"
        assert program_in(text, "fenced", LABELS, {"f"})[0] in (block, DEFINED)
