r"""The reward source `choice`: 1.0 if the letter that a response settles on is the reference's.

    boxed      the last `\boxed{...}`: `B`, `(B)`, `B.`, `B) Paris`
    statement  the sentence after the last "answer is" or "answer:", up to a "not": the letters that stand alone in it
    letter     the last line in which a letter stands alone: all letters that do

The strategies are tried in the order of the option. One whose marker is present decides, even when it finds no letter,
unless a statement follows a box that holds a formula and no letter;
one that finds two different letters has found no answer. Linear in the length of the text.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from reasoner import Problem, Response, Score, after_thinking, reward
from reasoner_rewards.answer_text import reference_text
from reasoner_rewards.extraction import after_last_box, final_answer

Strategy = Literal["boxed", "statement", "letter"]

MAX_STATEMENT_CHARS = 400
"""characters after "answer is" that are looked at"""

_STATEMENT = re.compile(r"\banswer(?:\s+is\b\s*:?|[*_]{0,2}\s?[:=])[\s*_]{0,8}", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)|,?\s(?:because|since|as|so|which)\b|\bnot\b|n['’]t\b", re.IGNORECASE)
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}")
_DRESSED = re.compile(r"[\s$*_`'\"]*[(\[]?\s*(\w)\s*(?:[)\].:][)\].:]*(?:\s.*)?)?[\s$*_`'\"]*", re.DOTALL)


class ChoiceOptions(BaseModel):
    """Options of `choice`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    letters: str = Field(default="ABCDE", min_length=2)
    """the letters (or digits) that name the choices; their case counts"""
    extract: tuple[Strategy, ...] = Field(default=("boxed", "statement", "letter"), min_length=1)
    """how a letter is found, in this order"""

    @field_validator("letters")
    @classmethod
    def _distinct(cls, letters: str) -> str:
        if not letters.isalnum() or len(set(letters)) != len(letters):
            raise ValueError("one different letter or digit per choice is needed, without separators")
        return letters


def _reference_letter(problem: Problem, options: ChoiceOptions) -> str:
    """The reference's letter."""
    wanted = _marked_letter(reference_text(problem), options.letters)
    if wanted is None:
        index = problem.answer.strip()
        hint = (
            f" For an index, counted from 0: columns.answer = \"{{{{ '{options.letters}'[answer|int] }}}}\"."
            if index.isdecimal()
            else " Map the data to letters, or set the option 'letters'."
        )
        raise ValueError(
            f"problem {problem.id!r}: the reference answer must be one of the letters {options.letters}, "
            f"got {problem.answer[:80]!r}.{hint}"
        )
    return wanted


def _reads(problem: Problem, options: ChoiceOptions) -> tuple[str, str]:
    return "letter", _reference_letter(problem, options)


@reward("choice", timeout_s=2.0, reads=_reads)
def choice(problem: Problem, response: Response, *, options: ChoiceOptions) -> Score:
    """1.0 if the letter that the response settles on is the reference's, else 0.0.

    Only what follows the thinking counts. How the letter is found: see the module (`choice.py`). A text that
    names several letters as its answer has none, so hedging earns nothing, and "the answer is not B" names none.
    `extract=["boxed"]` is the strict choice for training: a policy that must say which letter is its answer cannot be
    paid for one that its text happens to end with.

    Parts: `extracted`, the letter or null; `method`, the strategy that decided; `reference`.

    Raises:
        ValueError: the reference names none of the letters (the problem is broken, not the response).
    """
    wanted = _reference_letter(problem, options)
    letter, method, note = _extract_letter(response.text, options)
    if letter is not None and letter != wanted:
        note = "a different letter"
    return Score(float(letter == wanted), {"extracted": letter, "method": method, "reference": wanted}, note)


def _extract_letter(text: str, options: ChoiceOptions) -> tuple[str | None, Strategy | Literal["none"], str]:
    """The letter, what found it, and why there is none."""
    answer = after_thinking(text)
    if answer is None:
        return None, "none", "the think block is not closed"
    for strategy in options.extract:
        letters = _LETTERS_OF[strategy](answer, options.letters)
        if strategy == "boxed" and letters == set() and "statement" in options.extract:
            later = _statement(after_last_box(answer), options.letters)
            strategy, letters = ("statement", later) if later else (strategy, letters)
        if letters is not None:
            distinct = sorted(letters)
            if len(distinct) == 1:
                return distinct[0], strategy, ""
            return None, strategy, f"several letters: {', '.join(distinct)}" if distinct else "no letter of the choices"
    return None, "none", "no letter is found"


def _boxed_letters(text: str, letters: str) -> set[str] | None:
    boxed = final_answer(text, "strict")
    if boxed.method != "boxed":
        return None
    letter = _marked_letter(boxed.answer or "", letters)
    return {letter} if letter else _lone_letters(boxed.answer or "", letters) if "," in (boxed.answer or "") else set()


def _statement(text: str, letters: str) -> set[str] | None:
    end = None
    for match in _STATEMENT.finditer(text):
        end = match.end()
    if end is None:
        return None
    rest = text[end : end + MAX_STATEMENT_CHARS]
    stop = _SENTENCE_END.search(rest)
    return _lone_letters(_TEXT.sub(r" \1 ", rest[: stop.start()] if stop else rest), letters)


def _letter(text: str, letters: str) -> set[str] | None:
    return next((found for line in reversed(text.split("\n")) if (found := _lone_letters(line, letters))), None)


_LETTERS_OF = {"boxed": _boxed_letters, "statement": _statement, "letter": _letter}


def _marked_letter(text: str, letters: str) -> str | None:
    """The letter that a text is or begins with, in brackets, dots or emphasis."""
    match = _DRESSED.fullmatch(_TEXT.sub(r"\1", text))
    return match[1] if match and match[1] in letters else None


def _lone_letters(text: str, letters: str) -> set[str]:
    """The letters that are no part of a word, number or formula; the words "A" and "I" are not letters."""
    pattern = rf"(?<![\w'’\\-])(?:(?![AI]\s+(?!(?:is|was|and|or)\b)[a-z])[{letters}])(?![\w'’]|-\w|\.\d)"
    return set(re.findall(pattern, text))
