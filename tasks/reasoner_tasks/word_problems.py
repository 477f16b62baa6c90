"""The generator `word_problems`: arithmetic word problems in five levels, with worked solutions.

    level 1    one step, small numbers
    level 2    one step, larger numbers
    level 3    two steps
    level 4    three steps, and a number that is not needed
    level 5    rates, fractions, percent

A problem is a sentence frame (`word_frames.py`) with names, things and numbers put in; numbers are drawn until every
step of the solution is a whole number of at least 1. About a quarter of the frames of every level, and of every
operation of levels 1 and 2, is held out: `frames = "held_out"` evaluates on kinds of stories never trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from random import Random
from typing import Any

from reasoner import ConfigError, DataError
from reasoner_tasks.word_frames import FRAMES, LEVELS, PARTS, PEOPLE, THINGS, Frame, plural

FRAME_SETS = ("train", "held_out", "all")
TRIES = 1000
"""draws without a new problem after which there is no more"""
_OPERATIONS = {
    "+": Fraction.__add__,
    "-": Fraction.__sub__,
    "*": Fraction.__mul__,
    "/": Fraction.__truediv__,
}


def word_problems(
    count: int,
    seed: int,
    *,
    levels: list[int] = list(LEVELS),  # noqa: B006
    frames: str = "train",
) -> Iterator[Mapping[str, Any]]:
    r"""Problems, all different: `question`, `answer` (a whole number), `solution`, `level`, `frame`.

    The levels take turns. `solution` is a worked solution that ends with the answer as `\boxed{...}`: a demonstration.

    Args:
        levels: some of 1 to 5.
        frames: `train`, `held_out` (never among those of `train`) or `all`.

    Raises:
        ConfigError: `levels` or `frames` names none, or one that does not exist.
        DataError: there are not that many different problems.
    """
    _check_levels(levels)
    _check_frames(frames)
    draw = Random(f"word_problems:{seed}")
    seen: set[str] = set()
    for index in range(count):
        level = levels[index % len(levels)]
        yield _new_problem(draw, level, frames_of(level, frames), seen)


def _check_levels(levels: object) -> None:
    if not isinstance(levels, list) or not levels:
        raise ConfigError(
            f"options.levels of word_problems must be a list of some of {list(LEVELS)}, such as levels = [1, 2]; got "
            f"{levels!r}."
        )
    for level in levels:
        if isinstance(level, bool) or not isinstance(level, int):
            raise ConfigError(f"options.levels of word_problems: {level!r} is not a whole number; got {levels!r}.")
        if level not in LEVELS:
            near = min(max(level, LEVELS[0]), LEVELS[-1])
            raise ConfigError(
                f"options.levels of word_problems: there is no level {level}, the nearest is {near}. The levels are "
                f"{LEVELS[0]} (easiest) to {LEVELS[-1]} (hardest); got {levels!r}."
            )


def _check_frames(frames: object) -> None:
    if frames not in FRAME_SETS:
        near = get_close_matches(str(frames), FRAME_SETS, 1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"options.frames of word_problems must be one of {', '.join(FRAME_SETS)}, got {frames!r}.{meant}"
        )


def frames_of(level: int, frames: str) -> list[Frame]:
    """The frames of a level that are in the set `train`, `held_out` or `all`."""
    return [
        frame
        for frame in FRAMES
        if level in frame.ranges and (frames == "all" or frame.held_out == (frames == "held_out"))
    ]


def _new_problem(draw: Random, level: int, frames: Sequence[Frame], seen: set[str]) -> dict[str, Any]:
    for _ in range(TRIES):
        problem = _fill(draw, draw.choice(frames), level)
        if problem is not None and problem["question"] not in seen:
            seen.add(problem["question"])
            return problem
    raise DataError(
        f"word_problems has only {len(seen)} different problems of these levels: lower the limit, or add levels."
    )


def _fill(draw: Random, frame: Frame, level: int) -> dict[str, Any] | None:
    """A problem of the frame; None: with the numbers drawn a step is not a whole number of at least 1."""
    numbers = {letter: draw.choice(values) for letter, values in frame.ranges[level].items()}
    words = _words(draw, numbers)
    sentences = []
    for step in frame.steps:
        terms = [str(numbers.get(term, term)) for term in step.expression.split()]
        result = _evaluate(terms)
        if result.denominator != 1 or result < 1:
            return None
        numbers[step.target] = int(result)
        calculation = f"{' '.join(terms)} = {result}"
        sentences.append(step.sentence.format(**numbers, **words | _nouns(words, int(result)), sum=calculation))
    answer = numbers[frame.steps[-1].target]
    return {
        "question": frame.question.format(**words, **numbers),
        "answer": str(answer),
        "solution": f"{' '.join(sentences)} The answer is \\boxed{{{answer}}}.",
        "level": level,
        "frame": frame.name,
    }


def _evaluate(terms: Sequence[str]) -> Fraction:
    """Numbers and operators in turn, from left to right."""
    result = Fraction(terms[0])
    for operator, number in zip(terms[1::2], terms[2::2], strict=True):
        result = _OPERATIONS[operator](result, Fraction(number))
    return result


def _words(draw: Random, numbers: Mapping[str, int]) -> dict[str, str]:
    person, other = draw.sample(PEOPLE, 2)
    thing = draw.choice(THINGS)
    container = draw.choice(thing.containers)
    words = {
        "name": person.name,
        "he": person.he,
        "He": person.he.capitalize(),
        "him": person.him,
        "his": person.his,
        "other": other.name,
        "thing": thing.name,
        "things": plural(thing.name),
        "box": container,
        "boxes": plural(container),
    }
    return words | ({"part": PARTS[numbers["k"]]} if numbers.get("k") in PARTS else {})


def _nouns(words: Mapping[str, str], count: int) -> dict[str, str]:
    """The nouns after a number in a solution: 1 apple, 2 apples."""
    return {"things": words["thing"], "boxes": words["box"], "s": ""} if count == 1 else {"s": "s"}
