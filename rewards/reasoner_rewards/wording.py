r"""Whether letters are words or variables: `Paris` and `\text{odd}` are words, `mgh` and `R - r` are formulas.

Words are compared without case. Variables are not: `mgh` is not `Mgh`, and `a-b` is `-b+a`.
"""

from __future__ import annotations

import re

from reasoner_rewards.normal import words

_LETTERS = re.compile(r"[^\W\d_](?:[^\W\d_]|[ .,'’&-])*")
_RUN = re.compile(r"[^\W\d_]+")
_VOWEL = re.compile("[aeiouy]")
_SHORT = frozenset({
    "yes", "no", "odd", "one", "two", "six", "ten", "zero", "red", "all", "any", "none", "both", "true", "even",
    "max", "min", "left", "right", "up", "down", "top", "east", "west", "win", "tie", "draw", "day", "dog", "cat",
    "man", "boy", "girl", "mom", "dad", "son", "sun", "mon", "tue", "wed", "thu", "fri", "sat", "not", "the", "is",
    "are", "of", "to", "at", "in", "on", "it", "and", "or", "may", "june", "july", "spring", "never", "less",
    "more", "equal",
})  # fmt: skip
_CONSONANTS = re.compile("[bcdfghjklmnpqrstvwxz]{4}")


def is_words(text: str) -> bool:
    """Whether a normalised answer holds nothing but letters, and these are words."""
    bare = words(text)
    if _LETTERS.fullmatch(bare) is None:
        return False
    runs = _RUN.findall(bare)
    if r"\text" in text and not (len(runs) == 1 and len(runs[0]) == 1):
        return True
    # beside a word, `old` and `ice` are words too: as a product of letters, `ice is water` would equal `is water ice`
    return any(map(_is_word, runs)) and all(_is_word(run) or len(run) <= 2 + run.islower() for run in runs)


def _is_word(run: str) -> bool:
    if not run.isascii():
        return True
    name = run.lower()
    if name in _SHORT:
        return True
    vowels = len(_VOWEL.findall(name))
    if len(run) == 3:
        return run[0].isupper() and run[1:].islower() and bool(vowels)  # a name: Bob, Amy
    if len(run) < 3 or _CONSONANTS.search(name) or not vowels:
        return False
    return not run.isupper() or vowels * 4 >= len(run)
