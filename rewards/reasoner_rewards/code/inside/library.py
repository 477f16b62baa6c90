"""Values of the standard library that are plain: numbers and moments that cannot change, as `codec.py` writes them."""

from __future__ import annotations

import sys

if __package__:
    from reasoner_rewards.code.inside.codec import MAX_DIGITS, CodecError, NotPlainError, numbers_of, text_of
else:
    from codec import (  # type: ignore[import-not-found, no-redef]
        MAX_DIGITS,
        CodecError,
        NotPlainError,
        numbers_of,
        text_of,
    )

TYPE_CHECKING = False  # as in codec.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


_CLOCK = "hour", "minute", "second", "microsecond", "fold"
_LIBRARY: dict[str, dict[str, tuple[str, Callable[[Any], list[Any]]]]] = {
    "decimal": {"Decimal": ("D", lambda value: [_short(str(value))])},
    "fractions": {
        "Fraction": ("Q", lambda value: [_short(f"{part:x}") for part in (value.numerator, value.denominator)])
    },
    "datetime": {
        "date": ("date", lambda value: [value.year, value.month, value.day]),
        "time": ("time", lambda value: [*(getattr(value, part) for part in _CLOCK), _zone(value)]),
        "datetime": (
            "datetime",
            lambda value: [*(getattr(value, part) for part in ("year", "month", "day", *_CLOCK)), _zone(value)],
        ),
        "timedelta": ("timedelta", lambda value: _parts_of_delta(value)),
        "timezone": ("timezone", lambda value: _parts_of_delta(value.utcoffset(None))),
    },
}
"""the value types of modules that a program may not have imported: tag and parts of a value"""


def kind_of(kind: Any) -> tuple[str, Callable[[Any], list[Any]]] | None:
    """Of exactly this type; a class that only says that it comes from there is none."""
    name = _LIBRARY.get(kind.__module__, {}).get(kind.__name__) if isinstance(kind.__module__, str) else None
    if name is None or getattr(sys.modules.get(kind.__module__), kind.__name__, None) is not kind:
        return None
    return name


def _parts_of_delta(delta: Any) -> list[int]:
    return [delta.days, delta.seconds, delta.microseconds]


def _zone(value: Any) -> Any:
    """Of a time: as a timezone, None for none."""
    zone = value.tzinfo
    if zone is None:
        return None
    if type(zone) is not sys.modules["datetime"].timezone:
        raise NotPlainError(f"not a plain value: a time in {type(zone).__name__}")
    return _parts_of_delta(zone.utcoffset(None))


def _short(text: str) -> str:
    if len(text) > MAX_DIGITS:
        raise CodecError(f"a number of more than {MAX_DIGITS} digits")
    return text


def _digits(parts: list[Any]) -> list[str]:
    if any(type(part) is not str for part in parts):
        raise CodecError("digits are needed")
    return [_short(part) for part in parts]


def _decimal(parts: list[Any]) -> Any:
    from decimal import Decimal, InvalidOperation

    try:
        return Decimal(_short(text_of(parts)))
    except InvalidOperation as error:
        raise CodecError(f"no number: {error}") from None


def _fraction(parts: list[Any]) -> Any:
    from fractions import Fraction

    numerator, denominator = (int(part, 16) for part in _digits(parts))
    if denominator < 1:
        raise CodecError("no fraction")
    return Fraction(numerator, denominator)


def _delta(parts: list[Any]) -> Any:
    import datetime

    return datetime.timedelta(*numbers_of(parts, (int,), 3))


def _moment(kind: str, parts: list[Any]) -> Any:
    import datetime

    *numbers, fold, zone = parts
    place = None if zone is None else datetime.timezone(_delta(zone))
    make: Any = datetime.time if kind == "time" else datetime.datetime
    return make(*numbers_of(numbers, (int,), 4 if kind == "time" else 7), tzinfo=place, fold=fold)


def _date(parts: list[Any]) -> Any:
    import datetime

    return datetime.date(*numbers_of(parts, (int,), 3))


def _timezone(parts: list[Any]) -> Any:
    import datetime

    return datetime.timezone(_delta(parts))


def encode(value: Any) -> list[Any]:
    """A value of one of these types as JSON data."""
    kind = kind_of(type(value))
    assert kind is not None
    return [kind[0], *kind[1](value)]


_DECODERS: dict[str, Callable[[list[Any]], Any]] = {
    "D": _decimal,
    "Q": _fraction,
    "date": _date,
    "time": lambda parts: _moment("time", parts),
    "datetime": lambda parts: _moment("datetime", parts),
    "timedelta": _delta,
    "timezone": _timezone,
}


def decode(tag: str, parts: list[Any]) -> Any:
    """The value of JSON data; a ValueError or TypeError where it is none."""
    return _DECODERS[tag](parts)
