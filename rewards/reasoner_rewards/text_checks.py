"""What an instruction asks of a text, checked: case, numbers of words and sentences, how it begins and ends.

    lower_case, upper_case          every letter is
    words, sentences: count         exactly so many
    starts_with, ends_with: text    with that text, and with something else beside it
    includes, excludes: text        it is in the text as a word or words, in any case; or is not

A text that says nothing follows none of them: silence is in lower case and has no word too many.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reasoner import nearest
from reasoner_rewards.answer_text import says_something

_WORD = re.compile(r"\w+(?:['’\-]\w+)*")
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)")


@dataclass(frozen=True, slots=True)
class TextCheck:
    """The check of one kind of instruction."""

    holds: Callable[..., bool]
    """`(text, argument)`, or `(text)` where it has none"""
    argument: Mapping[str, type] = field(default_factory=dict)
    """the name of its argument with its type; empty: it has none"""


def read_text_checks(problem_id: str, value: Any) -> list[tuple[str, dict[str, Any]]]:
    """The instructions of a problem: each a name of `TEXT_CHECKS` and its arguments.

    Raises:
        ValueError: they are no list of tables `{ id = ..., ... }`, or one is unknown or has other arguments.
    """
    place = f"problem {problem_id!r}, field 'instructions'"
    if not isinstance(value, list) or not value:
        raise ValueError(f"{place}: a list of instructions is needed, got {str(value)[:200]}")
    return [_read(place, entry) for entry in value]


def _read(place: str, entry: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), str):
        raise ValueError(f'{place}: each needs an id, as in {{"id": "words", "count": 3}}, got {str(entry)[:200]}')
    name = entry["id"]
    if name not in TEXT_CHECKS:
        raise ValueError(
            f"{place}: there is no instruction {name!r}.{nearest(name, TEXT_CHECKS)} These are checked here: "
            f"{', '.join(TEXT_CHECKS)}; those of IFEval and IFBench with the option 'checkers'."
        )
    # in Parquet all entries have the same keys, and null stands where one has none
    arguments = {key: argument for key, argument in entry.items() if key != "id" and argument is not None}
    wanted = TEXT_CHECKS[name].argument
    if arguments.keys() != wanted.keys() or any(type(arguments[key]) is not kind for key, kind in wanted.items()):
        needs = ", ".join(f"{key} ({kind.__name__})" for key, kind in wanted.items()) or "no argument"
        raise ValueError(f"{place}: {name!r} takes {needs}, got {arguments}")
    return name, arguments


def follows(text: str, name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a text follows an instruction."""
    return says_something(text) and TEXT_CHECKS[name].holds(text.strip(), *arguments.values())


def _lower_case(text: str) -> bool:
    return text == text.lower() != text.upper()


def _upper_case(text: str) -> bool:
    return text == text.upper() != text.lower()


def _words(text: str, count: int) -> bool:
    return len(_WORD.findall(text)) == count


def _sentences(text: str, count: int) -> bool:
    *sentences, rest = _SENTENCE_END.split(text)
    return not rest.strip() and len(sentences) == count and all(map(_WORD.search, sentences))


def _starts_with(text: str, beginning: str) -> bool:
    return text.startswith(beginning) and says_something(text.removeprefix(beginning))


def _ends_with(text: str, ending: str) -> bool:
    return text.endswith(ending) and says_something(text.removesuffix(ending))


def _includes(text: str, wanted: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text, re.IGNORECASE) is not None


def _excludes(text: str, unwanted: str) -> bool:
    """Neither as it is written nor as it is seen, without the characters that are not: a zero-width space hides no
    word, and does not join two."""
    return not _includes(text, unwanted) and not _includes(_visible(text), _visible(unwanted))


def _visible(text: str) -> str:
    return "".join(char for char in text if unicodedata.category(char) != "Cf")


TEXT_CHECKS: Mapping[str, TextCheck] = {
    "lower_case": TextCheck(_lower_case),
    "upper_case": TextCheck(_upper_case),
    "words": TextCheck(_words, {"count": int}),
    "sentences": TextCheck(_sentences, {"count": int}),
    "starts_with": TextCheck(_starts_with, {"text": str}),
    "ends_with": TextCheck(_ends_with, {"text": str}),
    "includes": TextCheck(_includes, {"text": str}),
    "excludes": TextCheck(_excludes, {"text": str}),
}
