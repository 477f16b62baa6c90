"""The generator `instruction_problems`: easy questions with instructions on how to answer.

    level 1    one instruction: the case, the number of words or sentences, or how the answer ends
    level 2    two of them, of different kinds
    level 3    three

A question is a subject (`SUBJECTS`) and instructions in one of several wordings. Every fourth subject is held out:
`subjects = "held_out"` evaluates on questions never trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from random import Random
from typing import Any

from reasoner import ConfigError, DataError, nearest

LEVELS = (1, 2, 3)
SUBJECT_SETS = ("train", "held_out", "all")
TRIES = 1000
"""draws without a new problem after which there is no more"""
SUBJECTS: Sequence[tuple[str, str]] = (
    ("What colour is the sky?", "The sky is blue on most days of the year"),
    ("What do cows eat?", "Cows eat grass and hay on most days"),
    ("What is ice?", "Ice is water that is frozen and very cold"),
    ("Where do fish live?", "Fish live in rivers, in lakes and in the sea"),
    ("What is bread made of?", "Bread is made of flour, water and some salt"),
    ("When does the sun rise?", "The sun rises in the morning in the east"),
    ("What do bees make?", "Bees make honey and wax in their hives"),
    ("What is a piano?", "A piano is an instrument with black and white keys"),
    ("What do we use a spoon for?", "We use a spoon to eat soup and stir tea"),
    ("Where do penguins live?", "Penguins live in cold places in the far south"),
    ("What is the moon?", "The moon is a rock that circles the earth"),
    ("What do birds build?", "Birds build nests in trees and under many roofs"),
    ("What is a doctor?", "A doctor is a person who helps sick people"),
    ("What do cats like?", "Cats like to sleep in the sun all day"),
    ("What is a desert?", "A desert is a dry place with little rain"),
    ("Why do people sleep?", "People sleep because they need rest after each day"),
    ("What is a library?", "A library is a house where people borrow books"),
    ("What is milk?", "Milk is a white drink that comes from cows"),
    ("What do you do with an umbrella?", "You hold an umbrella over you when it rains"),
    ("What is a river?", "A river is water that flows to the sea"),
    ("What do teachers do?", "Teachers help children to read, write and count well"),
    ("What is snow?", "Snow is frozen water that falls in the winter"),
    ("Why do we brush our teeth?", "We brush our teeth to keep them clean and healthy"),
    ("What is a clock for?", "A clock is for telling us what time it is"),
    ("What do plants need?", "Plants need light, water and good soil to grow"),
    ("What is a bridge?", "A bridge is a way over water or a road"),
    ("What do firefighters do?", "Firefighters put out fires and help people in danger"),
    ("What is a forest?", "A forest is a large place full of trees"),
    ("What is an apple?", "An apple is a round fruit that grows on trees"),
    ("Where does rain come from?", "Rain comes from clouds high up in the sky"),
    ("What is a train?", "A train is a row of cars on rails"),
    ("What do dogs do?", "Dogs bark, run and play with people they like"),
)
"""a question, and an answer of at least eight words without a stop at its end"""
WORDS = (3, 4, 5, 6)
SENTENCES = (1, 2, 3)
ENDINGS = ("That is all.", "Have a nice day.", "I hope this helps.", "The end.")
MORE = ("It is easy to see.", "Many people know it.")
"""sentences that may follow an answer"""
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
WORDINGS: Mapping[str, Sequence[str]] = {
    "lower_case": ("Use only lower case letters.", "Write everything in lower case.", "No capital letters."),
    "words": ("Use exactly {count} words.", "Answer in {count} words.", "Your answer must have {count} words."),
    "sentences": ("Write exactly {count} sentence{s}.", "Answer in {count} sentence{s}."),
    "ends_with": ('End with the words "{text}"', 'Finish your answer with "{text}"', 'The last words must be "{text}"'),
}
CLASHING = ({"words", "sentences"}, {"words", "ends_with"})
"""instructions that are not given together: a few words leave no room for the other"""


def instruction_problems(
    count: int,
    seed: int,
    *,
    levels: list[int] = list(LEVELS),  # noqa: B006
    kinds: list[str] = list(WORDINGS),  # noqa: B006
    subjects: str = "train",
) -> Iterator[Mapping[str, Any]]:
    """Problems, all different: `question`, `answer` (one that follows the instructions), `instructions`, `level`.

    The levels take turns.

    Args:
        levels: some of 1 to 3: the number of instructions.
        kinds: some of `lower_case`, `words`, `sentences`, `ends_with`.
        subjects: `train`, `held_out` (never among those of `train`) or `all`.

    Raises:
        ConfigError: an option names something that does not exist, or a level needs more kinds.
        DataError: there are not that many different problems.
    """
    _check("levels", levels, LEVELS)
    _check("kinds", kinds, tuple(WORDINGS))
    _check("subjects", [subjects], SUBJECT_SETS)
    draw = Random(f"instruction_problems:{seed}")
    asked = _subjects(subjects)
    choices = {level: _sets_of(kinds, level) for level in levels}
    seen: set[str] = set()
    for index in range(count):
        level = levels[index % len(levels)]
        yield {**_new_problem(draw, asked, choices[level], seen), "level": level}


def _check(name: str, value: Any, allowed: Sequence[Any]) -> None:
    wrong = [item for item in value if item not in allowed] if isinstance(value, list) else [value]
    if wrong or not value:
        hint = nearest(str(wrong[0]), list(map(str, allowed))) if wrong else ""
        raise ConfigError(
            f"options.{name} of instruction_problems must be of {', '.join(map(str, allowed))}, got {value!r}.{hint}"
        )


def _subjects(subjects: str) -> list[tuple[str, str]]:
    """Every fourth subject is held out."""
    return [
        subject
        for index, subject in enumerate(SUBJECTS)
        if subjects == "all" or (index % 4 == 3) == (subjects == "held_out")
    ]


def _sets_of(kinds: Sequence[str], level: int) -> list[list[str]]:
    """The kinds that can be given together, so many of them."""
    allowed = [
        list(combination)
        for combination in combinations(kinds, level)
        if not any(pair <= set(combination) for pair in CLASHING)
    ]
    if not allowed:
        raise ConfigError(
            f"options.kinds of instruction_problems: no {level} of {', '.join(kinds)} can be given together; lower the "
            "levels, or name more kinds."
        )
    return allowed


def _new_problem(
    draw: Random, subjects: Sequence[tuple[str, str]], sets: Sequence[Sequence[str]], seen: set[str]
) -> dict[str, Any]:
    for _ in range(TRIES):
        subject, answer = draw.choice(subjects)
        kinds = draw.choice(sets)
        instructions = [_instruction(draw, kind, kinds) for kind in kinds]
        sentences = [_instruction_text(draw, item) for item in draw.sample(instructions, len(instructions))]
        question = " ".join([subject, *sentences])
        if question not in seen:
            seen.add(question)
            return {"question": question, "answer": _following(answer, instructions), "instructions": instructions}
    raise DataError(
        f"instruction_problems has only {len(seen)} different problems of these levels and kinds: lower the limit, or "
        "add some."
    )


def _instruction(draw: Random, kind: str, kinds: Sequence[str]) -> dict[str, Any]:
    """One that the others of these kinds leave room for."""
    if kind == "lower_case":
        return {"id": kind}
    if kind == "ends_with":
        ending = draw.choice(ENDINGS)
        return {"id": kind, "text": ending.lower() if "lower_case" in kinds else ending}
    if kind == "words":
        return {"id": kind, "count": draw.choice(WORDS)}
    return {"id": kind, "count": draw.choice(SENTENCES[1:] if "ends_with" in kinds else SENTENCES)}


def _instruction_text(draw: Random, instruction: Mapping[str, Any]) -> str:
    count = instruction.get("count", 0)
    wording = draw.choice(WORDINGS[instruction["id"]])
    return wording.format(count=_NUMBERS[count], s="" if count == 1 else "s", text=instruction.get("text", ""))


def _following(answer: str, instructions: Sequence[Mapping[str, Any]]) -> str:
    """An answer that follows the instructions."""
    by_kind = {instruction["id"]: instruction for instruction in instructions}
    sentences = [f"{answer}."]
    if words := by_kind.get("words"):
        sentences = [" ".join(re.sub(r"[^\w ]", "", answer).split()[: words["count"]]) + "."]
    ending = by_kind.get("ends_with")
    if several := by_kind.get("sentences"):
        sentences = [*sentences, *MORE][: several["count"] - bool(ending)]
    text = " ".join([*sentences, *([ending["text"]] if ending else [])])
    return text.lower() if "lower_case" in by_kind else text
