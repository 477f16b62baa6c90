"""A few responses before and after training, chosen by what changed, so that one sees what was learnt.

Every problem that was judged in both evaluations is of one of four kinds: wrong before and right after, right in both,
wrong in both, right before and wrong after. The most frequent kind is shown first, with how many there are of it: what
is shown is what is typical, not what is best. The first response to a problem stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EXAMPLES = 3
TURN_MARK = ("\u27e6", "\u27e7")
"""what stands around a message that came back to the policy, where a response with turns is one line"""


@dataclass(frozen=True, slots=True)
class Example:
    """A problem with a response before training and one after it."""

    question: str
    """the last message of the conversation"""
    answer: str
    """the reference"""
    before: str
    after: str
    right_before: bool
    right_after: bool
    alike: int
    """problems of which both responses were judged as here"""
    problems: int
    """problems that were judged before and after"""

    @property
    def kind(self) -> str:
        """`wrong before, right after: 47 of 128 problems`."""
        before, after = ("right" if right else "wrong" for right in (self.right_before, self.right_after))
        how = f"{before} before and after" if before == after else f"{before} before, {after} after"
        return f"{how}: {self.alike} of {self.problems} problem{'' if self.problems == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class ChosenProblem:
    """A problem that is shown."""

    id: str
    alike: int
    """as `Example.alike`"""


def choose_examples(before: Mapping[str, bool], after: Mapping[str, bool]) -> list[ChosenProblem]:
    """The first problem of each of the most frequent kinds; where there are fewer kinds than examples, the next ones of
    the most frequent kinds.

    Args:
        before: problem id -> whether its response is right; those without a verdict are left out.
        after: the same, in the evaluation after training.

    >>> [each.id for each in choose_examples({"a": False, "b": False, "c": True}, {"a": True, "b": True, "c": True})]
    ['a', 'c', 'b']
    """
    kinds: dict[tuple[bool, bool], list[str]] = {}
    for name in before:
        if name in after:
            kinds.setdefault((before[name], after[name]), []).append(name)
    ranked = sorted(kinds.values(), key=len, reverse=True)
    rounds = (
        ChosenProblem(names[number], len(names))
        for number in range(EXAMPLES)
        for names in ranked
        if number < len(names)
    )
    return list(rounds)[:EXAMPLES]


def shortened(text: str, most: int) -> str:
    """One line of at most `most` characters: the beginning and the end, where the answer stands, cut between words.

    >>> shortened("He has 3 + 4 = 7 apples because he counts them all. The answer is 7.", 40)
    'He has 3 + 4 = 7 ... The answer is 7.'
    """
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    gap = " ... "
    head = (most - len(gap)) // 2
    tail = most - len(gap) - head
    begin, end = line[:head], line[-tail:]
    if line[head] != " ":
        begin = begin.rpartition(" ")[0] or begin
    if line[-tail - 1] != " ":
        end = end.partition(" ")[2] or end
    return f"{begin.rstrip()}{gap}{end.lstrip()}"
