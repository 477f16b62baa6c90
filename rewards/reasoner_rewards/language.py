r"""The reward source `language`: whether a response is written in the script of the expected language.

Unicode knows scripts, not languages: this tells Russian from English and Chinese from Japanese with kana, but not
English from French or German, nor Russian from Bulgarian.

Maths (`$...$`, `$$...$$`, `\(...\)`, `\[...\]`), code (in backquotes) and LaTeX commands are made of Latin and Greek
letters in every language: those letters do not count there. Letters of other scripts count everywhere, so a fence
hides nothing. Digits, marks and symbols are no letters.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from reasoner import Problem, Response, Score, reward

Language = Literal[
    "ar", "bg", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hu", "hy", "id", "it", "ja",
    "ka", "ko", "mr", "nl", "no", "pl", "pt", "ro", "ru", "sr", "sv", "ta", "te", "th", "tr", "uk", "ur", "vi", "zh",
]  # fmt: skip

_SCRIPTS = {
    "ARABIC": "ar fa ur",
    "ARMENIAN": "hy",
    "BENGALI": "bn",
    "CYRILLIC": "bg ru sr uk",
    "DEVANAGARI": "hi mr",
    "GEORGIAN": "ka",
    "GREEK": "el",
    "HAN": "ja zh",
    "HANGUL": "ko",
    "HEBREW": "he",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "LATIN": "cs da de en es fi fr hu id it nl no pl pt ro sr sv tr vi",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
}
"""script -> the languages that write it"""
_NAMED_OTHERWISE = {"CJK": "HAN", "IDEOGRAPHIC": "HAN"}
_OF_FORMULAS = frozenset({"LATIN", "GREEK"})
_CLOSES = {"```": "```", "`": "`", "$$": "$$", "$": "$", r"\(": r"\)", r"\[": r"\]"}
_TOKEN = re.compile(r"(```|`|\$\$|\$|\\[()\[\]]|\n[ \t]*\n)")
_COMMAND = re.compile(r"\\[A-Za-z]+|</?\w{1,20}>")


class LanguageOptions(BaseModel):
    """Options of `language`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    expect: Language
    """ISO 639-1 code of the language"""
    min_share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """share of letters in its script from which on the score is 1"""


@reward("language", timeout_s=5.0, needs_answer=False, aspect="text")
def language(problem: Problem, response: Response, *, options: LanguageOptions) -> Score:
    """1.0 if at least `min_share` of the letters belong to the scripts of the expected language, else 0.0.

    share = letters of these scripts / letters, over the whole response, its thinking included: against the mixing of
    languages that rewarded reasoning drifts into (arXiv 2501.12948). A share over scripts, not over languages: see the
    module (`language.py`). A text without letters, or with all of them in maths and code, scores 0.

    Parts: `share`, `letters`, and `scripts`, the letters of each script.
    """
    scripts = _letters(response.text)
    letters = scripts.total()
    if not letters:
        return Score(0.0, {"share": 0.0, "letters": 0, "scripts": {}}, "there are no letters outside maths and code")
    expected = sum(scripts[script] for script, languages in _SCRIPTS.items() if options.expect in languages.split())
    share = expected / letters
    enough = share >= options.min_share
    parts = {"share": share, "letters": letters, "scripts": dict(scripts.most_common())}
    return Score(float(enough), parts, "" if enough else f"{share:.0%} of the letters")


def _letters(text: str) -> Counter[str]:
    """The letters that count, by script."""
    everywhere, outside = _count_scripts(text), _count_scripts(_prose(text))
    formulas = {script: outside[script] for script in _OF_FORMULAS}
    return +Counter({**everywhere, **formulas})


def _count_scripts(text: str) -> Counter[str]:
    scripts: Counter[str] = Counter()
    for char, count in Counter(text).items():
        script = _script(char)
        if script:
            scripts[script] += count
    return scripts


@lru_cache(maxsize=2**16)
def _script(char: str) -> str:
    """The script of a letter, by its Unicode name after compatibility normalisation; empty for anything else."""
    if not char.isalpha():
        return ""
    letter = next((part for part in unicodedata.normalize("NFKC", char) if part.isalpha()), char)
    name = unicodedata.name(letter, "UNNAMED").replace("-", " ").split()[0]
    return "" if name == "MODIFIER" else _NAMED_OTHERWISE.get(name, name)


def _prose(text: str) -> str:
    """The text without maths, code, commands and tags. What is opened and not closed is prose; maths and inline code
    end at a blank line."""
    kept: list[str] = []
    pending: list[str] = []
    closing = ""
    for piece in _TOKEN.split(text):
        if closing:
            blank = not piece.strip() and "\n" in piece and closing != "```" and _TOKEN.fullmatch(piece) is not None
            if blank:
                kept.extend((*pending, piece))
            if blank or piece == closing:
                pending, closing = [], ""
            else:
                pending.append(piece)
        elif piece in _CLOSES:
            closing = _CLOSES[piece]
        else:
            kept.append(piece)
    return _COMMAND.sub(" ", "".join(kept + pending))
