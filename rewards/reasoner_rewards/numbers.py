r"""Reads an answer that is one number: exact, with thousands separators, currency, percent, a unit, a scale word.

Grammar, on normalised text (`normal.normalise`):

    [sign] [currency] [sign] magnitude [scale word] [percent] [unit]
    magnitude = 1,234.50 | .5 | 0.1\overline{6} | 1.5e-3 | 1.5 \times 10^{-3} | 3/4 | \frac{3}{4} | 2 3/4 | 2\frac{3}{4}

Values are `Fraction`s; nothing is rounded. What is not fully understood is not a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from reasoner_rewards.units import MEASURES, same_unit, unit_of

MAX_DIGITS = 100
"""digits of one literal"""
ROUNDED_DIGITS = 6
"""significant digits of a decimal from which on it may stand for what it rounds"""
MAX_EXPONENT = 300
"""magnitude of the exponent in scientific notation"""

_INTEGER = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.[0-9]*)?|\.[0-9]+)"
_POWER = r"(?:\{\s*(?P<braced>[+-]?[0-9]{1,4})\s*\}|(?P<bare>[+-]?[0-9]{1,4}))"
_SCIENTIFIC = (
    rf"(?P<mantissa>{_DECIMAL})(?:[eE](?P<e>[+-]?[0-9]{{1,4}})|\s*(?:\\times|\\cdot|x|\*)\s*10\s*\^\s*{_POWER})"
)
_FRACTION = (
    rf"(?:\\frac\s*\{{\s*(?P<minus>-?)\s*(?P<top>{_DECIMAL})\s*\}}\s*\{{\s*(?P<bottom>{_DECIMAL})\s*\}}"
    rf"|(?P<over>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL}))"
)
_REPEATING = r"(?P<before>[0-9]*\.[0-9]*)\\(?:overline|bar)\s*\{\s*(?P<repeated>[0-9]+)\s*\}"
_MIXED = (
    r"(?P<whole>[0-9]+)(?:\s*\\frac\s*\{\s*(?P<mixed_top>[0-9]+)\s*\}\s*\{\s*(?P<mixed_bottom>[0-9]+)\s*\}"
    r"|\s+(?:and\s+)?(?P<mixed_over>[0-9]+)\s*/\s*(?P<mixed_under>[0-9]+))"
)
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<currency>(?:US|A|C)?\\?\$|[€£¥₹]|(?:USD|EUR|GBP|INR|JPY|Rs\.?)(?=[\s0-9]))?\s*(?P<inner_sign>-?)\s*"
    rf"(?:{_SCIENTIFIC}|{_MIXED}|{_FRACTION}|{_REPEATING}|(?P<plain>{_DECIMAL}))"
    r"(?P<rest>.*)",
    re.DOTALL,
)
_WORD = r"[^\W\d_\\][^\W\d_]*\.?(?:['’-][^\W\d_]+)*(?![^\W\d_])"
_UNIT = (
    r"(?:\s*(?:\\text\s*\{[^{}0-9]*\}|\\frac\s*\{\s*\\text\s*\{[^{}0-9]*\}\s*\}\s*\{\s*\\text\s*\{[^{}0-9]*\}(?:\^\{?[23]\}?)?\s*\}"
    rf"|/|\\cdot(?![A-Za-z])|\^\s*\{{?\s*-?[1-3]\s*\}}?|{_WORD}))*"
)
_REST = re.compile(
    r"(?:\s*(?P<percent>\\?%))?(?:\s*\^\s*\{?\s*(?P<degrees>\\circ)\s*\}?\s*(?P<letter>[CF])?)?"
    rf"(?P<unit>{_UNIT})(?:\s*\\?(?P<symbol>[$€£¥₹¢]))?\s*\.?"
)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "quadrillion": 10**15, "bn": 10**9, "lakh": 10**5, "crore": 10**7, "gross": 144}  # fmt: skip
_CJK_CHANGES = re.compile("折|成|十|的|半|分之|多|几|余|以上|以下|以内|左右|不到|超过|大约")
_CJK_SCALES = {"百": 10**2, "千": 10**3, "万": 10**4, "亿": 10**8}
_SHORT_UNIT = re.compile("[kcm]m|[km]g|ml|hrs?|ft|in|oz|lbs?|mi|yds?|[ap]m|kw|hz|k?mph|sq|cu|deg|usd|eur|gbp")
_SYMBOLS = {"$": "usd", "US$": "usd", "US\\$": "usd", "€": "eur", "£": "gbp", "¥": "yen", "₹": "rupee", "¢": "cent"}
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_CJK_SCALE = re.compile("[百千万亿]+")
_LETTER_UNIT = re.compile("[smghlLNJWVAKCFTH]")
"""units of one letter, in `\\text{}` only: `\\mathrm{e}`, `\\mathrm{i}` are numbers, `\\text{M}` is a factor"""
_NOT_UNIT = re.compile(
    "or|and|to|not|than|plus|minus|times|over|by|through|until|versus|vs|either|neither|mod|below|negative|choose|"
    "(?:hal(?:f|ve)|third|quarter|fourth|(?:fif|six|seven|eigh|nin|ten|hundred|thousand|million|billion)th)s?|"
    "pi|tau|sqrt|(?:arc)?(?:sin|cos|tan|sec|csc|cot)h?|log|exp|inf|infinity|sum|frac|"
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|phi|chi|psi|omega|"
    "is|are|was|were|be|too|reject(?:ed|s)?|incorrect|wrong|false|fails?|extraneous|impossible|invalid|least|most|more|less|fewer|"
    "above|under|doubled|tripled|halved|bce?|b\\.?c\\.?e?|mille|basis|bps|ppm|zillions?|myriads?|grand|"
    "(?:eleven|twelf|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twentie|thirtie|fortie|fiftie)ths?|"
    "squared|cubed|factorial|inverse|reciprocal|power|hundred|thousand|million|billion|trillion|dozen"
)


@dataclass(frozen=True, slots=True)
class Number:
    """One number as an answer gives it."""

    value: Fraction
    """without the percent sign: 20% has the value 20"""
    percent: bool = False
    unit: str = ""
    """in the singular and lower case; empty without a unit"""
    digits: int | None = None
    """digits after the point when it is written as a decimal, else None"""


def parse_number(text: str) -> Number | None:
    """The number that a normalised answer is; None for anything else and beyond `MAX_DIGITS` and `MAX_EXPONENT`."""
    match = _NUMBER.fullmatch(text)
    if match is None or text.endswith("..") or (match["sign"] and match["inner_sign"]):
        return None
    magnitude = _magnitude(match)
    rest = _Rest.parse(match["rest"], money=bool(match["currency"]))
    if magnitude is None or rest is None:
        return None
    unit = rest.unit
    if match["currency"]:
        money = _currency(match["currency"])
        if (
            unit
            and unit_of(unit) != money
            and not match["rest"].strip().startswith(("/", "per", r"\text{ per", r"\text{per"))
        ):
            return None
        unit = money if not unit or unit_of(unit) == money else unit_of(f"{money} {match['rest']}")
    negative = "-" in (match["sign"], match["inner_sign"])
    value = (-magnitude if negative else magnitude) * rest.scale
    plain = match["plain"]
    digits = len(plain.partition(".")[2]) if plain and rest.scale == 1 else None
    return Number(value, rest.percent, unit, digits)


def same_number(answer: Number, reference: Number, tolerance: float = 0.0) -> bool:
    """Equal values with compatible units; a relative difference of up to `tolerance` is none.

    20% equals 20 (the unit left out) and 0.2 (the value). Units must agree when both name one. A decimal with six
    significant digits or more equals a value without an end, such as 1/3, that it is the correct rounding of.
    """
    if answer.unit and reference.unit and not same_unit(answer.unit, reference.unit):
        return False
    if answer.percent != reference.percent:
        plain, factor = (reference, Fraction(1, 100)) if answer.percent else (answer, Fraction(100))
        values = (answer.value, answer.value * factor)
        return not plain.unit and any(_close(value, reference.value, tolerance) for value in values)
    return _close(answer.value, reference.value, tolerance) or _rounds(answer, reference) or _rounds(reference, answer)


def _close(value: Fraction, reference: Fraction, tolerance: float) -> bool:
    return value == reference or (tolerance > 0 and abs(value - reference) <= Fraction(tolerance) * abs(reference))


def may_be_rounded(number: Number) -> bool:
    """Whether it is a decimal with enough digits, some of them after the point, to stand for what it rounds."""
    return bool(number.digits) and significant_digits(number) >= ROUNDED_DIGITS


def is_endless(value: Fraction) -> bool:
    """Whether no decimal writes it out."""
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    return rest > 1


def significant_digits(number: Number) -> int:
    """Significant digits of a decimal, 0 for anything else."""
    if number.digits is None:
        return 0
    return len(str(abs(number.value.numerator * 10**number.digits // number.value.denominator)).lstrip("0"))


def _rounds(decimal: Number, exact: Number) -> bool:
    if not may_be_rounded(decimal) or not is_endless(exact.value):
        return False
    return round(exact.value, decimal.digits) == decimal.value


@dataclass(frozen=True, slots=True)
class _Rest:
    percent: bool
    scale: int
    unit: str

    @classmethod
    def parse(cls, text: str, money: bool) -> _Rest | None:
        """What follows the magnitude; None when it is more than a scale word, a percent sign and a unit.

        Args:
            money: a currency stands before the magnitude, so that `/h` is a unit and no division.
        """
        match = _REST.fullmatch(text)
        if match is None:
            return None
        unit = match["unit"] or match["symbol"] or ""
        named = _TEXT.sub(r" \1 ", unit).split()
        scale = _SCALES.get(named[0].lower().rstrip("s"), 1) if named else 1
        if scale != 1:
            named, unit = named[1:], unit.replace(named[0], "", 1)
        elif named and unit_of(named[0]) not in MEASURES and (large := _CJK_SCALE.match(named[0])):
            scale = math.prod(_CJK_SCALES[digit] for digit in large.group())
            unit = unit.replace(large.group(), "", 1)
        if named == ["times"]:
            named, unit = [], ""
        bare = unit[: unit.find(r"\text")] if r"\text" in unit else unit
        if _changes_value(word.lower() for word in named) or not all(map(_is_unit_letter, _TEXT.findall(unit))):
            return None
        if (bare.strip() and not _names_unit(bare, money)) or re.match(r"\s*\^", unit):
            return None
        percent = match["percent"] is not None
        if named and named[0].lower() in ("percent", "percentage", "pct"):
            percent, unit = True, ""
        known_unit = "" if percent else unit_of(unit)
        return cls(percent, scale, f"deg{match['letter'] or ''}" if match["degrees"] and not known_unit else known_unit)


def may_be_unit(text: str) -> bool:
    """Whether the words of a `\\text{}` after a number leave its value as it is."""
    return not _changes_value(text.lower().split()) and _is_unit_letter(text)


def _changes_value(words: Iterable[str]) -> bool:
    return any(_NOT_UNIT.fullmatch(word.strip(".,'()\\").lower()) or _CJK_CHANGES.search(word) for word in words)


def _is_unit_letter(text: str) -> bool:
    letter = text.strip(" .")
    return len(letter) != 1 or not letter.isascii() or _LETTER_UNIT.fullmatch(letter) is not None


def _names_unit(bare: str, money: bool) -> bool:
    """Letters outside `\\text{}` are a unit, not variables: a known short one, or a word of three letters after a
    space."""
    if bare.strip() in _SYMBOLS or bare.lstrip().startswith(("/", "per ") if money else "per "):
        return True
    first = bare.lower().split()[0].strip(".'").split("/")[0].split("^")[0]
    known = _SHORT_UNIT.fullmatch(first) or not first.isascii()
    return bool(known) or (bare[0].isspace() and len(first) >= 3)


def _currency(symbol: str) -> str:
    return unit_of(_SYMBOLS.get(symbol.lstrip("\\"), symbol.rstrip(".")))


def _magnitude(match: re.Match[str]) -> Fraction | None:
    if match["mantissa"]:
        return _scientific(match["mantissa"], match["e"] or match["braced"] or match["bare"])
    if match["whole"]:
        top, bottom = match["mixed_top"] or match["mixed_over"], match["mixed_bottom"] or match["mixed_under"]
        part, whole = _quotient(top, bottom), _decimal(match["whole"])
        return whole + part if whole is not None and part is not None and part < 1 else None
    if match["top"] or match["over"]:
        quotient = _quotient(match["top"] or match["over"], match["bottom"] or match["under"])
        return -quotient if quotient is not None and match["minus"] else quotient
    if match["repeated"]:
        return _repeating(match["before"], match["repeated"])
    return _decimal(match["plain"])


def _scientific(mantissa: str, exponent: str) -> Fraction | None:
    value = _decimal(mantissa)
    if value is None or abs(int(exponent)) > MAX_EXPONENT:
        return None
    return value * Fraction(10) ** int(exponent)


def _repeating(before: str, repeated: str) -> Fraction | None:
    """`0.1` and `6` of 0.1666...: 0.1 + 6/9 of a tenth."""
    start, part = _decimal(f"0{before}0"), _decimal(repeated)
    if start is None or part is None:
        return None
    places = len(before.partition(".")[2])
    return start + part / Fraction((10 ** len(repeated) - 1) * 10**places)


def _quotient(top: str, bottom: str) -> Fraction | None:
    numerator, denominator = _decimal(top), _decimal(bottom)
    return numerator / denominator if numerator is not None and denominator else None


def _decimal(literal: str) -> Fraction | None:
    digits = literal.replace(",", "")
    if len(digits) > MAX_DIGITS:
        return None
    return Fraction(int(digits)) if digits.isdecimal() else Fraction(digits)
