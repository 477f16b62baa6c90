r"""Finds the one final answer of a text, by declared strategies in a fixed order.

    boxed      the last `\boxed{...}`; boxes that only "or", "and", commas, space or list marks separate are one joint
               answer
    hashes     the line after the last `####`, as GSM8K writes it
    statement  what follows the last "answer is" or "answer:" up to the end of the sentence      (lenient only)
    formula    the last `$...$`, `\(...\)` or `\[...\]`, all of it, unless a number comes after it   (lenient only)
    number     the last number of the text                                                       (lenient only)

A strategy whose marker is present decides, even when what it finds is empty or broken: falling through to a weaker
one would reward a text for a number that it did not give as its answer. Everything here is linear in the length of
the text and never raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from reasoner import after_thinking
from reasoner_rewards.surroundings import is_part, last_number

ExtractionMode = Literal["strict", "lenient"]
Method = Literal["boxed", "hashes", "statement", "formula", "number", "text", "none"]

MAX_ANSWER_CHARS = 400
"""characters; a longer "answer" is no answer"""
MAX_JOINT_BOXES = 16
"""boxes that may together form one joint answer"""

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_BARE_CONTENT = re.compile(
    r"\s{0,15}([+-]?[0-9]+(?:[.,/][0-9]+)*|[A-Za-z](?![A-Za-z])|"
    r"\\(?:pi|infty|theta|alpha|beta|lambda|emptyset|varnothing)(?![A-Za-z]))"
)
"""what `\\boxed 7` boxes"""
_GAP = re.compile(
    r"(?:\n[ \t]*(?:[-*•]|\(?[0-9a-z]{1,2}[.)])[ \t]|"
    r"\s|[$,;.&*()\[\]\\|/]|\\(?:quad|qquad)\b|\\text\{\s*(?:and|or)\s*\}|\b[a-z](?:_\{?[0-9a-z]\}?)?\s*=|"
    r"\((?:[a-h]|[ivx]{1,4}|[0-9])\)|\b[a-h]\)|\bpart\s+[a-z0-9]\s*:?|\+|:|\}\s*\{|或者?|和|与|、|，|"
    r"\b(?:and|or|maybe|perhaps|possibly|alternatively|either|else|versus|vs|min|max|to)\b)*",
    re.IGNORECASE,
)
_MAX_GAP_CHARS = 40
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]*)")
_STATEMENT = re.compile(r"\banswers?[*_]{0,3}(?:\s+(?:is|are)\b\s*:?|\s*[:=])[*_]{0,3}\s*", re.IGNORECASE)
_FORMULA = re.compile(
    r"\$\$([^$]{1,800})\$\$|(?<![\\$])\$(?![\s$])([^$\n]{0,400}[^$\n\s\\])\$(?![0-9$])|\\\(((?:(?!\\[()]).){1,400})\\\)"
    r"|\\\[((?:(?!\\[\[\]]).){1,800})\\\]",
    re.DOTALL,
)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)|,?\s(?:because|since|as|so|which)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Extraction:
    """The final answer of a text, or why there is none."""

    answer: str | None
    """None: no final answer"""
    method: Method
    problem: str = ""
    """what is missing or broken, when there is no answer"""


def final_answer(text: str, mode: ExtractionMode) -> Extraction:
    """The final answer of a response: only what follows its thinking counts, and thinking that is not closed has
    none."""
    after = after_thinking(text)
    if after is None:
        return Extraction(None, "none", "the think block is not closed")
    extraction = _marked_answer(after)
    if extraction is None and mode == "lenient":
        extraction = _statement(after) or _last_formula_or_number(after)
    if extraction is None:
        wanted = "\\boxed{} or ####" if mode == "strict" else "\\boxed{}, ####, 'answer is', formula or number"
        return Extraction(None, "none", f"there is no {wanted} in the response")
    return _bound_length(extraction)


def reference_answer(text: str) -> Extraction:
    r"""The answer in a reference: after `####`, in `\boxed{}`, or the text as it is."""
    return _bound_length(_marked_answer(text) or Extraction(text.strip(), "text"))


@dataclass(frozen=True, slots=True)
class Box:
    r"""The last `\boxed` of a text."""

    content: str | None
    """None: its braces are missing or not closed"""
    tail: str
    """what follows it"""


def last_box(text: str) -> tuple[int, Box | None]:
    r"""The number of `\boxed` in a text, and the last one."""
    starts = _starts(text)
    if not starts:
        return 0, None
    _, end, content = _box_at(text, starts[-1])
    return len(starts), Box(content, text[end:])


def after_last_box(text: str) -> str:
    r"""What follows the last `\boxed`; empty when there is none."""
    _, box = last_box(text)
    return box.tail if box else ""


def _bound_length(extraction: Extraction) -> Extraction:
    if extraction.answer is None:
        return extraction
    if len(extraction.answer) > MAX_ANSWER_CHARS:
        return Extraction(None, extraction.method, f"the answer is longer than {MAX_ANSWER_CHARS} characters")
    if not extraction.answer.strip():
        return Extraction(None, extraction.method, "the answer is empty")
    return Extraction(extraction.answer.strip(), extraction.method)


def _marked_answer(text: str) -> Extraction | None:
    return _last_boxed(text) or _last_hashes(text)


def _starts(text: str) -> list[int]:
    return [match.start() for match in _BOX.finditer(text)]


def _last_boxed(text: str) -> Extraction | None:
    starts = _starts(text)[-MAX_JOINT_BOXES:]
    if not starts:
        return None
    begin, end, content = _box_at(text, starts[-1])
    if content is not None and is_part(text, begin, end):
        return Extraction(None, "boxed", "the last \\boxed holds a part of an expression, or what is not the answer")
    for start in reversed(starts[:-1]):  # a box inside another one: the outer one is the answer
        outer_begin, outer_end, outer = _box_at(text, start)
        if outer is None or outer_end < end:
            break
        content = content if outer.strip() == text[begin:end] else outer
        begin, end = outer_begin, outer_end
    if content is None:
        return Extraction(None, "boxed", "the last \\boxed has no closed braces")
    if not content.strip():
        return Extraction("", "boxed")
    joint = [content]
    for start in reversed([start for start in starts if start < begin]):
        earlier_begin, end, earlier = _box_at(text, start)
        if not earlier or not _only_connectives(text, end, begin):
            break
        begin = earlier_begin
        joint.append(earlier)
    distinct = dict.fromkeys(part.strip() for part in reversed(joint))
    return Extraction(", ".join(distinct), "boxed")


def _box_at(text: str, start: int) -> tuple[int, int, str | None]:
    """`(start, end, content)` of the box that starts there; braces balanced, `\\{` and `\\}` not counted."""
    box = _BOX.match(text, start)
    assert box is not None
    position = box.end()
    while position < len(text) and position < start + 16 and text[position].isspace():
        position += 1
    if not text.startswith("{", position):
        bare = _BARE_CONTENT.match(text, box.end())
        return (start, bare.end(), bare[1]) if bare else (start, position, None)
    depth, index = 0, position
    limit = min(len(text), position + 4 * MAX_ANSWER_CHARS)
    while index < limit:
        char = text[index]
        if char == "\\":
            index += 1
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return start, index + 1, text[position + 1 : index]
        index += 1
    return start, limit, None


def _only_connectives(text: str, end: int, begin: int) -> bool:
    return end <= begin <= end + _MAX_GAP_CHARS and _GAP.fullmatch(text, end, begin) is not None


def _last_hashes(text: str) -> Extraction | None:
    matches = _HASHES.findall(text)
    return Extraction(matches[-1], "hashes") if matches else None


def _statement(text: str) -> Extraction | None:
    end = None
    for match in _STATEMENT.finditer(text):
        end = match.end()
    if end is None:
        return None
    rest = text[end : end + 4 * MAX_ANSWER_CHARS]
    hidden = _FORMULA.sub(lambda formula: "x" * len(formula.group()), rest)  # a point inside a formula ends nothing
    stop = _SENTENCE_END.search(hidden)
    return Extraction((rest[: stop.start()] if stop else rest).strip("*_ \t\n"), "statement")


def _last_formula_or_number(text: str) -> Extraction | None:
    """Whichever ends last; the numbers in a formula are not looked at one by one."""
    formula = None
    for match in _FORMULA.finditer(text):
        formula = match
    number = _last_number(text if formula is None else text[formula.end() :])
    if formula is None or number is not None:
        return number
    return Extraction(next(part for part in formula.groups() if part is not None).strip().rstrip(".,;"), "formula")


def _last_number(text: str) -> Extraction | None:
    number = last_number(text)
    if number is None:
        return None
    answer, denied = number
    return Extraction(None, "number", denied) if denied else Extraction(answer, "number")
