"""The reward source `exact`: 1.0 if the answer is the reference answer, letter by letter."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from pydantic import BaseModel, ConfigDict

from reasoner import Problem, Response, Score, after_thinking, reward
from reasoner_rewards.answer_text import reference_text
from reasoner_rewards.extraction import final_answer

NormaliseStep = Literal["case", "space", "punctuation"]
ExactExtract = Literal["all", "last_line", "boxed"]

_SIGN = re.compile(r"(?<![\w])[-−–—﹣－](?=[.,]?\d)")
_MARK = re.compile(r"[^\w\s]|_")
_VALUED = frozenset("%‰")


class ExactOptions(BaseModel):
    """Options of `exact`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    normalise: tuple[NormaliseStep, ...] = ("case", "space", "punctuation")
    """what does not count: case, the kind and amount of white space, punctuation without a value"""
    extract: ExactExtract = "all"
    """what is compared: the whole answer, its last line, or its final box"""


def _reference_text(problem: Problem, options: ExactOptions) -> tuple[str, frozenset[NormaliseStep]]:
    """The reference as it is compared, and the steps that both sides go through."""
    wanted = reference_text(problem)
    steps: frozenset[NormaliseStep] = frozenset(options.normalise)
    if not normalised(wanted, steps):
        steps -= {"punctuation"}
    return normalised(wanted, steps), steps


def _reads(problem: Problem, options: ExactOptions) -> tuple[str, str]:
    return "text", _reference_text(problem, options)[0]


@reward("exact", timeout_s=5.0, reads=_reads)
def exact(problem: Problem, response: Response, *, options: ExactOptions) -> Score:
    r"""1.0 if the answer equals the reference answer after normalisation, else 0.0.

    The answer is what follows the thinking (`all`), the last line of it that is not blank (`last_line`), or
    its final `\boxed{}` (`boxed`; several boxes joined by "or" are one answer, and wrong). Nothing is searched for: an
    answer among other text is not equal to it, so listing candidates earns nothing.

    Both sides go through the same steps, white space at the ends aside. `case` ignores case. `space` takes any run of
    white space as one space. `punctuation` drops punctuation, except where it carries a value: a sign before a number,
    a mark between two digits (`3.5`, `1/2`), `%`; a reference of punctuation alone is compared with it.

    Parts: `extracted` and `reference`, as compared, cut at 200 characters.

    Raises:
        ValueError: the reference is empty (the problem is broken, not the response).
    """
    reference, steps = _reference_text(problem, options)
    answer, missing = _extract(response.text, options.extract)
    if missing:
        return Score(0.0, {"extracted": None, "reference": reference[:200]}, missing)
    candidate = normalised(answer, steps)
    equal = candidate == reference
    return Score(
        float(equal), {"extracted": candidate[:200], "reference": reference[:200]}, "" if equal else "a different text"
    )


def normalised(text: str, steps: frozenset[NormaliseStep]) -> str:
    """The text as it is compared."""
    text = unicodedata.normalize("NFC", text)
    if "case" in steps:
        text = unicodedata.normalize("NFC", text.casefold())
    if "punctuation" in steps:
        text = _MARK.sub(_keep_mark, _SIGN.sub("-", text))
    return " ".join(text.split()) if "space" in steps else text.strip()


def _keep_mark(mark: re.Match[str]) -> str:
    char, text = mark.group(), mark.string
    before, after = text[mark.start() - 1 : mark.start()], text[mark.end() : mark.end() + 1]
    if char in _VALUED or not unicodedata.category(char).startswith("P"):
        return char
    if after.isdigit() and (before.isdigit() or (char in "-." and not before.isalpha())):
        return char
    return ""


def _extract(text: str, extract: ExactExtract) -> tuple[str, str]:
    """The answer, and why there is none."""
    answer = after_thinking(text)
    if answer is None:
        return "", "the think block is not closed"
    if extract == "boxed":
        extraction = final_answer(answer, "strict")
        if extraction.method != "boxed":
            return "", "there is no \\boxed{} in the response"
        return extraction.answer or "", extraction.problem
    answer = answer.strip()
    if not answer:
        return "", "there is no answer"
    return answer.rpartition("\n")[2] if extract == "last_line" else answer, ""
