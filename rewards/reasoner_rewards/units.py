r"""One spelling for units: `square feet`, `sq. ft.` and `\text{ft}^2` are `ft^2`, `km/hr` and `kmph` are `h^-1*km`.

A unit is a product of words with exponents, in whatever order. Words that are no unit of measurement (`red apples`,
`slices of pizza`) are kept as they are, in the singular.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

_TOKEN = re.compile(r"(/|(?<![A-Za-z])per(?![A-Za-z]))|\^\s*\{?\s*(-?[1-9])\s*\}?|([^\W\d_]+(?:['’-][^\W\d_]+)*)")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\frac\s*\{((?:[^{}]|\{[^{}]*\})*)\}\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_COMPOUNDS = {"mph": "mi/h", "kmph": "km/h", "kph": "km/h", "kmh": "km/h", "cc": "cm^3", "sqft": "ft^2", "fps": "ft/s"}
_NAMES = {
    "dollar": "usd", "$": "usd", "buck": "usd", "€": "eur", "euro": "eur", "£": "gbp", "¥": "yen", "₹": "rupee",
    "rs": "rupee", "inr": "rupee", "jpy": "yen", "cent": "cent", "¢": "cent",
    "hr": "h", "hour": "h", "minute": "min", "second": "s", "sec": "s", "day": "d", "week": "wk", "year": "yr",
    "kilometer": "km", "kilometre": "km", "centimeter": "cm", "centimetre": "cm", "millimeter": "mm",
    "millimetre": "mm", "meter": "m", "metre": "m", "foot": "ft", "feet": "ft", "inch": "in", "inche": "in",
    "yard": "yd", "mile": "mi",
    "kilogram": "kg", "kilo": "kg", "gram": "g", "milligram": "mg", "lb": "pound", "ounce": "oz", "tonne": "t",
    "liter": "l", "litre": "l", "milliliter": "ml", "millilitre": "ml", "gallon": "gal", "quart": "qt",
    "degree": "deg", "radian": "rad", "newton": "N", "joule": "J", "watt": "W", "kilowatt": "kW", "volt": "V",
    "ampere": "A", "amp": "A", "ohm": "ohm", "hertz": "Hz", "pascal": "Pa", "kw": "kW", "hz": "Hz", "yuan": "yuan",
    "people": "person", "men": "man",
    "women": "woman", "children": "child", "mice": "mouse", "unit": "unit",
}  # fmt: skip
MEASURES = frozenset(_NAMES.values()) - {"person", "man", "woman", "child", "mouse"}
"""words that name a unit of measurement or a currency"""
_PLURAL_ABBREVIATIONS = {"hrs": "h", "mins": "min", "secs": "s", "yds": "yd", "lbs": "pound", "ins": "in", "kms": "km"}
_IGNORED = frozenset({"of", "the", "a", "an", "个", "each"})
_CHINESE = {
    "厘米": "cm", "毫米": "mm", "千米": "km", "公里": "km", "米": "m", "千克": "kg", "公斤": "kg", "克": "g", "吨": "t",
    "升": "l", "毫升": "ml", "小时": "h", "分钟": "min", "秒": "s", "天": "d", "年": "yr", "度": "deg", "人": "person",
    "平方米": "m^2", "平方厘米": "cm^2", "平方千米": "km^2", "立方米": "m^3", "立方厘米": "cm^3", "元": "yuan",
}  # fmt: skip
_SYMBOL = re.compile("([kKMGTmcdunμ]?)(W|J|Pa|Hz|g|V|A|N|eV|Wh|C|F|T)")
"""an abbreviation in which the case counts: mW and MW"""


@lru_cache(maxsize=1024)
def unit_of(text: str) -> str:
    r"""The unit that a text with `\text{}`, slashes and exponents names; empty when it names none."""
    text = _TEXT.sub(r" \1 ", _FRACTION.sub(r" \1 / \2 ", text)).replace(r"\cdot", " ")
    powers: Counter[str] = Counter()
    sign, pending, last, last_power = 1, 1, "", 1
    for over, exponent, word in _TOKEN.findall(text):
        if over:
            sign = -1
        elif exponent and last:
            powers[last] += (int(exponent) - 1) * last_power
        elif word.lower() in _POWERS:
            pending = _POWERS[word.lower()]
        elif word and (word.lower() not in _IGNORED or word == "A"):
            for name, power in _factors(word):
                last, last_power = name, sign * power
                powers[last] += last_power * pending
            pending = 1
    return "*".join(f"{name}^{power}" if power != 1 else name for name, power in sorted(powers.items()) if power)


def same_unit(answer: str, reference: str) -> bool:
    """Equal, or one names more of the same thing: `slice` and `pizza*slice`, but not `m` and `m^2`."""
    if answer == reference:
        return True
    left, right = set(answer.split("*")), set(reference.split("*"))
    if any(word.partition("^")[0] in MEASURES or "^" in word for word in left ^ right):
        return False
    return left <= right or right <= left


def _factors(word: str) -> list[tuple[str, int]]:
    name = _CHINESE.get(word, word.lower())
    if name != word and "^" in name:
        return [(name.partition("^")[0], int(name[-1]))]
    if (symbol := _SYMBOL.fullmatch(word)) and name not in _NAMES.values():
        return [(symbol[1].replace("K", "k") + symbol[2], 1)]
    if symbol and symbol[1] == "M":
        return [(word, 1)]
    if name in _COMPOUNDS:
        top, _, bottom = _COMPOUNDS[name].partition("/")
        factor, _, power = top.partition("^")
        return [(factor, int(power or 1)), *([(bottom, -1)] if bottom else [])]
    return [(_singular(name), 1)]


def _singular(name: str) -> str:
    if name in _PLURAL_ABBREVIATIONS:
        return _PLURAL_ABBREVIATIONS[name]
    for candidate in (name, name.removesuffix("s"), name.removesuffix("es")):
        if candidate in _NAMES:
            return _NAMES[candidate]
    if name.endswith("ies") and len(name) > 4:
        return name[:-3] + "y"
    return name.removesuffix("s") if len(name) > 3 and not name.endswith("ss") else name
