"""The kinds of exercises of the generator `stdin_exercises`, one row each."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

WORDS = (
    *("apple", "bridge", "candle", "dolphin", "engine", "forest", "garden", "harbor", "island", "jungle", "kitten"),
    *("lemon", "level", "mirror", "noon", "number", "orange", "pepper", "quartz", "radar", "river", "silver"),
    *("tunnel", "umbrella", "valley", "window", "yellow", "zebra"),
)
DrawInput = Callable[[Random], str]


@dataclass(frozen=True, slots=True)
class ExerciseNumbers:
    """What an exercise is drawn with; its texts name these in braces."""

    n: str
    """name of a variable"""
    k: int
    """an integer from 2 to 99"""
    d: int
    """one from 2 to 9"""
    word: str
    letter: str


@dataclass(frozen=True, slots=True)
class ExerciseKind:
    """A kind of exercise. Inputs and outputs are without their last line end."""

    name: str
    level: int
    question: str
    program: str
    """a solution"""
    solve: Callable[[str, ExerciseNumbers], str]
    """input to output, written without the program"""
    draw_input: DrawInput


def draw_numbers(draw: Random) -> ExerciseNumbers:
    """The numbers and words of one exercise."""
    return ExerciseNumbers(
        draw.choice("nxamk"), draw.randint(2, 99), draw.randint(2, 9), draw.choice(WORDS), draw.choice("aeilnor")
    )


def _ints(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def _numbers_after_count(text: str) -> list[int]:
    return _ints(text.partition("\n")[2])


def _integers(count: int, low: int = -50, high: int = 200) -> DrawInput:
    return lambda draw: " ".join(str(draw.randint(low, high)) for _ in range(count))


def _count_and_list(low: int = -50, high: int = 150) -> DrawInput:
    """A line with the number of integers, and one with the integers."""

    def drawn(draw: Random) -> str:
        numbers = [str(draw.randint(low, high)) for _ in range(draw.randint(1, 8))]
        return f"{len(numbers)}\n{' '.join(numbers)}"

    return drawn


def _word(draw: Random) -> str:
    return draw.choice(WORDS)


def _phrase(draw: Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 5)))


def _brackets(draw: Random) -> str:
    text = "".join(draw.choice("()") for _ in range(2 * draw.randint(1, 3)))
    return text if draw.random() < 0.5 else "(" * draw.randint(0, 2) + "()" * draw.randint(1, 3)


def _lines(values: list[int]) -> str:
    return "\n".join(map(str, values))


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _is_balanced(text: str) -> bool:
    while "()" in text:
        text = text.replace("()", "")
    return not text


def _shift_letters(text: str, by: int) -> str:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    return text.translate(str.maketrans(alphabet, alphabet[by:] + alphabet[:by]))


def _runs(text: str) -> str:
    runs: list[list[str]] = []
    for letter in text:
        if runs and runs[-1][0] == letter:
            runs[-1].append(letter)
        else:
            runs.append([letter])
    return "".join(f"{run[0]}{len(run)}" for run in runs)


def _in_order(values: list[int], without: int) -> str:
    left: list[int] = []
    for value in values:
        if value != without:
            bisect.insort(left, value)
    return " ".join(map(str, left)) or "none"


_LIST = "The first line holds a number n, the second line n integers. "
_READ_LIST = "input()\nvalues = [int(word) for word in input().split()]\n"

KINDS = (
    # a line in, a line out
    ExerciseKind(
        "add",
        1,
        "Read an integer {n} and print {n} + {k}.",
        "{n} = int(input())\nprint({n} + {k})",
        lambda text, of: str(int(text) + of.k),
        _integers(1),
    ),
    ExerciseKind(
        "subtract",
        1,
        "Read an integer {n} and print {n} - {k}.",
        "{n} = int(input())\nprint({n} - {k})",
        lambda text, of: str(int(text) - of.k),
        _integers(1),
    ),
    ExerciseKind(
        "multiply",
        1,
        "Read an integer {n} and print {n} * {k}.",
        "{n} = int(input())\nprint({n} * {k})",
        lambda text, of: str(int(text) * of.k),
        _integers(1),
    ),
    ExerciseKind(
        "remainder",
        1,
        "Read an integer {n} and print the remainder of {n} divided by {k}.",
        "{n} = int(input())\nprint({n} % {k})",
        lambda text, of: str(int(text) - int(text) // of.k * of.k),
        _integers(1, 0, 400),
    ),
    ExerciseKind(
        "linear",
        1,
        "Read an integer {n} and print {d} times {n}, plus {k}.",
        "{n} = int(input())\nprint({d} * {n} + {k})",
        lambda text, of: str(int(text) * of.d + of.k),
        _integers(1),
    ),
    ExerciseKind(
        "sum_plus",
        1,
        "Read two integers from one line and print their sum plus {k}.",
        "a, b = map(int, input().split())\nprint(a + b + {k})",
        lambda text, of: str(sum(_ints(text)) + of.k),
        _integers(2),
    ),
    ExerciseKind(
        "product_minus",
        1,
        "Read two integers from one line and print their product minus {k}.",
        "a, b = map(int, input().split())\nprint(a * b - {k})",
        lambda text, of: str(math.prod(_ints(text)) - of.k),
        _integers(2),
    ),
    ExerciseKind(
        "greet",
        1,
        "Read a word and print {word}, a space, and the word.",
        'word = input()\nprint("{word}", word)',
        lambda text, of: f"{of.word} {text}",
        _word,
    ),
    ExerciseKind(
        "repeat",
        1,
        "Read a word and print it {d} times in a row, without spaces, followed by {word}.",
        'word = input()\nprint(word * {d} + "{word}")',
        lambda text, of: "".join([text] * of.d) + of.word,
        _word,
    ),
    ExerciseKind(
        "longer_than",
        1,
        "Read a text and print yes if it has more than {d} characters, otherwise print no.",
        'text = input()\nprint("yes" if len(text) > {d} else "no")',
        lambda text, of: "yes" if text[of.d :] else "no",
        _phrase,
    ),
    ExerciseKind(
        "count_letter",
        1,
        "Read a text and print how often the letter {letter} occurs in it, plus {k}.",
        'text = input()\nprint(text.count("{letter}") + {k})',
        lambda text, of: str(sum(letter == of.letter for letter in text) + of.k),
        _phrase,
    ),
    ExerciseKind(
        "compare",
        1,
        "Read an integer {n}. Print big if {n} is greater than {k}, otherwise print small.",
        '{n} = int(input())\nprint("big" if {n} > {k} else "small")',
        lambda text, of: ("small", "big")[int(text) > of.k],
        _integers(1, -20, 120),
    ),
    # loops
    ExerciseKind(
        "sum_of_list",
        2,
        _LIST + "Print the sum of the integers that are greater than {k}.",
        _READ_LIST + "print(sum(value for value in values if value > {k}))",
        lambda text, of: str(sum(filter(of.k.__lt__, _numbers_after_count(text)))),
        _count_and_list(),
    ),
    ExerciseKind(
        "count_multiples",
        2,
        _LIST + "Print how many of the integers are multiples of {d}.",
        _READ_LIST + "print(sum(value % {d} == 0 for value in values))",
        lambda text, of: str(
            len([value for value in _numbers_after_count(text) if abs(value) // of.d * of.d == abs(value)])
        ),
        _count_and_list(),
    ),
    ExerciseKind(
        "sorted_without",
        2,
        _LIST + "Print the integers other than {k} from smallest to largest, separated by spaces; print none if there "
        "are no others.",
        _READ_LIST + "print(*sorted(value for value in values if value != {k}) or ['none'])",
        lambda text, of: _in_order(_numbers_after_count(text), of.k),
        _count_and_list(0, 99),
    ),
    ExerciseKind(
        "count_up",
        2,
        "Read an integer n and print the first n positive multiples of {k}, one per line.",
        "n = int(input())\nfor i in range(1, n + 1):\n    print(i * {k})",
        lambda text, of: _lines(list(range(of.k, int(text) * of.k + 1, of.k))),
        _integers(1, 1, 9),
    ),
    ExerciseKind(
        "count_down",
        2,
        "Read an integer n that is at least {d} and print the integers from n down to {d}, one per line.",
        "n = int(input())\nfor i in range(n, {d} - 1, -1):\n    print(i)",
        lambda text, of: _lines(sorted(range(of.d, int(text) + 1), reverse=True)),
        _integers(1, 9, 25),
    ),
    ExerciseKind(
        "replace_vowels",
        2,
        "Read a text and print it with every vowel (a, e, i, o, u) replaced by {d}.",
        'text = input()\nprint("".join("{d}" if letter in "aeiou" else letter for letter in text))',
        lambda text, of: text.translate(str.maketrans("aeiou", str(of.d) * 5)),
        _phrase,
    ),
    ExerciseKind(
        "reverse_words",
        2,
        "Read a line of words and print the words in reverse order, separated by spaces, followed by {word}.",
        'words = input().split()\nprint(*reversed(words), "{word}")',
        lambda text, of: " ".join([*text.split()[::-1], of.word]),
        _phrase,
    ),
    ExerciseKind(
        "digit_sum",
        2,
        "Read a positive integer and print the sum of its digits, times {k}.",
        "number = input()\nprint(sum(int(digit) for digit in number) * {k})",
        lambda text, of: str(of.k * sum(text.count(str(digit)) * digit for digit in range(10))),
        _integers(1, 1, 99999),
    ),
    # an algorithm of a few lines
    ExerciseKind(
        "gcd",
        3,
        "Read two positive integers from one line and print their greatest common divisor plus {k}.",
        "a, b = map(int, input().split())\nwhile b:\n    a, b = b, a % b\nprint(a + {k})",
        lambda text, of: str(math.gcd(*_ints(text)) + of.k),
        _integers(2, 1, 200),
    ),
    ExerciseKind(
        "primes",
        3,
        "Read an integer n and print how many prime numbers there are from {d} to n, both included.",
        "n = int(input())\ncount = 0\nfor i in range({d}, n + 1):\n"
        "    if all(i % j for j in range(2, i)):\n        count += 1\nprint(count)",
        lambda text, of: str(sum(map(_is_prime, range(of.d, int(text) + 1)))),
        _integers(1, 2, 120),
    ),
    ExerciseKind(
        "fizz",
        3,
        "Read an integer n. For each i from 1 to n print one line: {word} if i is a multiple of {d}, otherwise i.",
        'n = int(input())\nfor i in range(1, n + 1):\n    print("{word}" if i % {d} == 0 else i)',
        lambda text, of: "\n".join(of.word if i / of.d == i // of.d else str(i) for i in range(1, int(text) + 1)),
        _integers(1, 1, 20),
    ),
    ExerciseKind(
        "in_base",
        3,
        "Read a positive integer and print it in base {d}.",
        'n = int(input())\ndigits = ""\nwhile n:\n    digits = str(n % {d}) + digits\n    n //= {d}\nprint(digits)',
        lambda text, of: "".join(
            str(int(text) // of.d**place % of.d) for place in range(20, -1, -1) if of.d**place <= int(text)
        ),
        _integers(1, 1, 500),
    ),
    ExerciseKind(
        "caesar",
        3,
        "Read a text of lower-case letters and spaces. Print it with every letter moved {d} places forward in the "
        "alphabet (after z comes a); spaces stay.",
        'text = input()\nprint("".join(c if c == " " else chr((ord(c) - 97 + {d}) % 26 + 97) for c in text))',
        lambda text, of: _shift_letters(text, of.d),
        _phrase,
    ),
    ExerciseKind(
        "palindrome",
        3,
        "Read a text. Print {word} if it reads the same backwards when spaces are left out, otherwise print {d}.",
        'text = input().replace(" ", "")\nprint("{word}" if text == text[::-1] else {d})',
        lambda text, of: of.word if [*text.replace(" ", "")] == [*reversed(text.replace(" ", ""))] else str(of.d),
        lambda draw: draw.choice(("noon", "radar", "level", "never odd or even", _phrase(draw), _word(draw))),
    ),
    ExerciseKind(
        "runs",
        3,
        "Read a word and print it run by run: each letter with the number of times it is repeated there (aab gives "
        "a2b1), then a space and {word}.",
        'text = input()\nout = ""\ni = 0\nwhile i < len(text):\n    j = i\n'
        "    while j < len(text) and text[j] == text[i]:\n        j += 1\n"
        '    out += text[i] + str(j - i)\n    i = j\nprint(out, "{word}")',
        lambda text, of: f"{_runs(text)} {of.word}",
        lambda draw: "".join(draw.choice("abc") * draw.randint(1, 4) for _ in range(draw.randint(1, 5))),
    ),
    ExerciseKind(
        "brackets",
        3,
        "Read a text of round brackets. Print {word} if they are balanced, otherwise print {d}.",
        'depth = 0\nright = True\nfor c in input():\n    depth += 1 if c == "(" else -1\n'
        "    right = right and depth >= 0\n"
        'print("{word}" if right and depth == 0 else {d})',
        lambda text, of: of.word if _is_balanced(text) else str(of.d),
        _brackets,
    ),
    ExerciseKind(
        "most_frequent",
        3,
        _LIST + "Print the integer that occurs most often (of several the smallest), plus {k}.",
        _READ_LIST + "best = min(values, key=lambda value: (-values.count(value), value))\nprint(best + {k})",
        lambda text, of: str(Counter(sorted(_numbers_after_count(text))).most_common(1)[0][0] + of.k),
        _count_and_list(0, 4),
    ),
)
LEVELS = tuple(sorted({kind.level for kind in KINDS}))
