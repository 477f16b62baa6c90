r"""What stands around an answer in plain text: formulas that it is a part of, and denials.

`-\boxed{2}` is not 2, the last number of `3:2` or `x^2` is not 2, and "it is not 18" does not answer 18.
"""

from __future__ import annotations

import re

MOST = 400
"""characters before a number that are looked at"""

_FORMULA_BEFORE = re.compile(
    r"(?:(?<!\n)(?<!\n )[-−+/^≠≤≥±]|[0-9A-Za-z)}]\s?[*_]|[0-9]:|(?<![A-Za-z/|])<|(?<![-=A-Za-z/\"'|])>\s?|"
    r"[<≠≤≥]\s|\}\{|"
    r"\\(?:[dt]?frac[0-9]?|sqrt|cdot|times|pm|mp|ne|neq|[lg]eq?|[lg]t|sin|cos|tan|ln|log"
    r"|exp|int|sum|overline|bar)(?:_\{?[0-9a-z]+\}?)?[\s{(]*|\^\{|(?:(?<![A-Za-z])[A-Za-z]|[0-9)])(?:\\,|\()?"
    r"|\\(?:sqrt|frac)\{[^{}]*\}(?:\{[^{}]*\})?(?:\\,)?|[(\[][^()\[\]\n]{1,20},\s?\$?|\\\{|[0-9]\$?\s(?:or|and)\s\$?|"
    r"(?:[0-9A-Za-z)]|\\cdot|\\times)\s[-−+*/]\s|"
    r"(?:\bnot|n['’]t(?: be)?|\bcannot(?: be)?|\bminus|\bnegative|\bthan|\bat (?:least|most)|\bnever)\s\$?)\Z",
    re.IGNORECASE,
)
"""an expression, or a denial, that the box is a part of: `-\\boxed{2}` is not 2"""
_FORMULA_AFTER = re.compile(
    r"\s?(?:\\(?:sqrt|pi|frac|cdot|times)(?![A-Za-z])|[+/]|\^(?!\s*\{?\s*\\circ)|_[0-9{]|\*\s?[0-9A-Za-z\\(]|"
    r"[-−]\s?(?:[0-9]|[a-z](?![a-z]))|"
    r"<(?![|/a-z])|[>≠≤≥]|\\(?:ne|neq|[lg]eq?|[lg]t)(?![A-Za-z]))"
    r"|[0-9A-Za-z]|[.:][0-9]|,[0-9(]|\\,[0-9]|\}\s*\{|"
    r"\$?,?\s(?:or|and)\s(?:\$?[0-9]|\$?[a-z]\s?=|something)|\$?,\s\$?[0-9]"
    r"|\$?\s(?:hundred|thousand|million|billion|trillion|dozen)|\^?\{?\\circ\}?\s(?:plus|minus)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?:(?<![\w)\]}.])[-−])?[$€£]?(?:[0-9][0-9,]*[0-9]|[0-9])(?:\.[0-9]+)?(?:/[0-9]+)?(?:\s?\\?%)?")
_PIECE = (
    r"[0-9][0-9,]*(?:\.[0-9]+)?(?:[A-Za-z]{1,2}(?![A-Za-z]))?|\.[0-9]+|(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])|"
    r"\\?(?:sqrt|log|ln|sin|cos|tan|pi|frac|times|cdot)(?![A-Za-z])|(?:[ckm]m|ft|in)(?=\^)|[-−+/^_=<>≤≥≠()\[\]{}√:×÷π]|"
    r"(?<!\*)\*(?!\*)|"
    r"(?<=[0-9]),|(?<=[0-9)\]] )(?:and|or|to)|(?<![0-9A-Za-z])\.$"
)
_BEFORE = re.compile(rf"(?:(?:{_PIECE})[ ]?)+$")
"""the pieces of a formula that end where a number begins"""
_AFTER = re.compile(
    r"(?:[)\]}]|π|\s?[万亿千百]|\sand a half|[A-Za-z](?![A-Za-z'’])|\\?pi(?![A-Za-z])|[√^]|"
    r"\s?(?:[ckm]m|m|ft|in|cm)\^?[23]?(?![A-Za-z0-9])|"
    r"\s?(?:hundred|thousand|million|billion|trillion|dozen)(?![A-Za-z])|[0-9])+"
)
_DENIED = re.compile(
    r"[0-9]\s?[A-Za-z]+\s(?:and|or)\s$|(?:\bnot|n['’]t|\bcannot|\bnever|≠|不|大于|小于|至少|至多|超过|"
    r"\breject\w*|\bthan|\bat (?:least|most))[^.!?\n。]{0,24}$",
    re.IGNORECASE,
)
"""`3 hours and` before `8 minutes`, and denials"""


def is_part(text: str, begin: int, end: int) -> bool:
    """Whether what stands between two places is a part of a formula or a denial that goes on around it."""
    return bool(_FORMULA_BEFORE.search(text, max(0, begin - 24), begin) or _FORMULA_AFTER.match(text, end))


def last_number(text: str) -> tuple[str, str] | None:
    """The last number with the formula that it is a part of, but not the words around it, and why that is no answer."""
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    if last is None:
        return None
    begin = max(0, last.start() - MOST)
    before, after = _BEFORE.search(text, begin, last.start()), _AFTER.match(text, last.end())
    start = before.start() if before else last.start()
    end = after.end() if after else last.end()
    denied = (
        "the last number is denied, or one of several: mark the answer" if _DENIED.search(text, begin, start) else ""
    )
    return text[start:end].strip().rstrip(".,;"), denied
