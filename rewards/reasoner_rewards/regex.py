"""The reward source `regex`: 1.0 if a pattern is found."""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from reasoner import Problem, Response, Score, after_thinking, reward
from reasoner_rewards.answer_text import reference_text

ANSWER = "{answer}"
"""what stands for the reference answer in a pattern"""

_FLAGS = {"a": re.ASCII, "i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}


class RegexOptions(BaseModel):
    """Options of `regex`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flags: str = Field(default="", pattern="^[aimsx]*$")
    """Python's inline flags: `i` ignores case, `s` lets a dot match a line end, `m`, `x`, `a`"""
    pattern: str = Field(min_length=1)
    """in the syntax of Python's `re`; `{answer}` stands for the reference answer"""
    group: int | str | None = None
    """number or name of a group that must equal the reference answer in the last match"""
    full: bool = False
    """whether the pattern must match the whole text instead of a part of it"""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str, info: ValidationInfo) -> str:
        flags = info.data.get("flags", "")
        groups = _compile_checked(pattern.replace(ANSWER, "(?:x)"), flags).groups
        counted = _compile_checked(pattern.replace(ANSWER, "(x)"), flags).groups
        if counted - groups != pattern.count(ANSWER):
            raise ValueError(f"{ANSWER} must not stand in a character class or a comment")
        return pattern

    @field_validator("group")
    @classmethod
    def _exists(cls, group: int | str | None, info: ValidationInfo) -> int | str | None:
        if group is None or "pattern" not in info.data:
            return group
        compiled = _compile(info.data["pattern"].replace(ANSWER, "(?:x)"), info.data.get("flags", ""))
        if isinstance(group, int) and not 0 <= group <= compiled.groups:
            raise ValueError(f"the pattern has {compiled.groups} groups (0 is the whole match)")
        if isinstance(group, str) and group not in compiled.groupindex:
            raise ValueError(f"the pattern names these groups: {', '.join(compiled.groupindex) or 'none'}")
        return group


def _needs_answer(options: RegexOptions) -> bool:
    return ANSWER in options.pattern or options.group is not None


def _aspect(options: RegexOptions) -> Literal["answer", "form"]:
    return "answer" if _needs_answer(options) else "form"


@reward("regex", timeout_s=2.0, needs_answer=_needs_answer, aspect=_aspect)
def regex(problem: Problem, response: Response, *, options: RegexOptions) -> Score:
    """1.0 if the pattern is found in the response, else 0.0.

    With `full` it must match the whole text, outer white space aside. `{answer}` in the pattern stands for the
    reference answer, escaped and delimited: `5` is found neither in `15` nor in `5.2` nor in `-5`. With `group`, that
    group of the last match must equal the reference answer (under the same flags): a text that tries every candidate
    is judged by its last one. Where the reference takes part only what
    follows the thinking counts, and an unclosed block scores 0; a pattern without it sees the whole response.

    A pattern that can be found anywhere is paid for anywhere: anchor it. Python's engine backtracks, so some patterns
    take exponential time on some texts; the worker is then killed at the deadline and the call is a recorded failure.

    Parts: `match`, the (last) match, cut at 200 characters; null without one.

    Raises:
        ValueError: the reference takes part and is empty (the problem is broken, not the response).
    """
    compares = _needs_answer(options)
    text = after_thinking(response.text) if compares else response.text
    reference = reference_text(problem) if compares else ""
    if text is None:
        return Score(0.0, {"match": None}, "the think block is not closed")
    compiled = _compile(options.pattern.replace(ANSWER, _delimit(reference)), options.flags)
    match = compiled.fullmatch(text.strip()) if options.full else _search(compiled, text, options.group is not None)
    if match is None:
        return Score(0.0, {"match": None}, "the pattern is not found")
    parts = {"match": match.group()[:200]}
    if options.group is None:
        return Score(1.0, parts)
    equal = _compile(re.escape(reference), options.flags).fullmatch((match.group(options.group) or "").strip())
    return Score(float(equal is not None), parts, "" if equal else "another answer in the last match")


def _search(compiled: re.Pattern[str], text: str, last: bool) -> re.Match[str] | None:
    if not last:
        return compiled.search(text)
    final = None
    for match in compiled.finditer(text):
        final = match
    return final


def _delimit(reference: str) -> str:
    """The escaped reference where it is not a part of a longer word or number."""
    before = r"(?<!\w)(?<!\d[.,])" if reference[:1].isalnum() else ""
    sign = "(?<![-−])" if reference[:1].isdecimal() else ""
    after = r"(?!\w|[.,]\d)" if reference[-1:].isalnum() else ""
    return f"(?:{before}{sign}{re.escape(reference)}{after})"


def _compile(pattern: str, flags: str) -> re.Pattern[str]:
    return re.compile(pattern, sum(_FLAGS[letter] for letter in set(flags)))


@lru_cache(maxsize=64)  # options are read at every call
def _compile_checked(pattern: str, flags: str) -> re.Pattern[str]:
    """
    Raises:
        ValueError: the pattern is malformed, or will mean something else in a future Python.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return _compile(pattern, flags)
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from error
