"""Multiple choice: the options of a row, and the letter of the right one.

    {"choices": ["red", "blue"], "answer": 1}                                       an index, as in MMLU
    {"choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "B"}   a label, as in ARC
    {"options": ["red", "blue"], "answer": "B"}                                     a letter, as in MMLU-Pro
    {"options": {"A": "red", "B": "blue"}, "answer_idx": "B"}                       as in MedQA

The answer becomes a letter, and the options are written below the question, unless `prompt.template` or the question
itself has them. All rows of a source are read in one way, which all of them decide: an index that is 0 somewhere is
counted from 0. What two ways read differently is refused.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

from reasoner.data.layouts.paths import unpacked
from reasoner.data.row_report import RowError, RowReport
from reasoner.data.rows import Row
from reasoner.errors import ConfigError

LETTERS = string.ascii_uppercase
OPTIONS = ("choices", "options")
"""fields that hold the options"""
ANSWERS = (
    "answer",
    "answerKey",
    "answer_key",
    "answer_letter",
    "answer_idx",
    "answer_index",
    "correct",
    "correct_answer",
    "correct_option",
    "label",
    "target",
)
"""fields that say which option is right"""
DEFAULT_LETTERS = 5
"""options that the reward source `choice` knows letters for, unless it is told more"""

Way = Literal["label", "letter", "text", "index from 0", "index from 1"]
_INDICES: tuple[Way, ...] = ("index from 0", "index from 1")
_WAYS: tuple[Way, ...] = ("label", "letter", "text", *_INDICES)
_LETTER = re.compile(r"[\s(\[]*([A-Za-z])[\s)\].:]*")
_PREFIX = re.compile(r"\s*[(\[]?([A-Z])[)\].:]\s*(?=\S)")


@dataclass(frozen=True, slots=True)
class _Options:
    """The options of a row."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def lines(self) -> str:
        return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, self.texts, strict=False))

    def below(self, text: str) -> str | None:
        """The text with the options below it; None: it is empty, or lists them already."""
        return None if not text.strip() or self.are_in(text) else f"{text.rstrip()}\n\n{self.lines}"

    def are_in(self, text: str) -> bool:
        """Whether the text lists them already, each after its letter."""
        pairs = zip(LETTERS, self.texts, strict=False)
        return all(re.search(rf"\b{letter}[)\].:]*\s*{re.escape(option)}", text) for letter, option in pairs)

    def index(self, value: Any, way: Way) -> int | None:
        """Which option the value names, counted from 0."""
        if isinstance(value, bool) or not isinstance(value, str | int):
            return None
        text = str(value).strip()
        if way in _INDICES:
            index = int(text) - _INDICES.index(way) if re.fullmatch("[0-9]{1,3}", text) else -1
            return index if 0 <= index < len(self.texts) else None
        if way == "letter":
            match = _LETTER.fullmatch(text)
            index = LETTERS.index(match[1].upper()) if match else len(self.texts)
            return index if index < len(self.texts) else None
        names = self.labels if way == "label" else self.texts
        return names.index(text) if names.count(text) == 1 else None


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to read one field."""

    field: str
    way: Way
    indices: Mapping[int, int]
    """row -> option, for the rows that can be read so"""

    @property
    def is_index(self) -> bool:
        return self.way in _INDICES

    def differs(self, other: _Reading) -> int | None:
        """A row that the two read differently."""
        common = self.indices.keys() & other.indices.keys()
        return next((row for row in sorted(common) if self.indices[row] != other.indices[row]), None)


@dataclass(frozen=True, slots=True)
class Choices:
    """How the rows of a source are multiple choice."""

    section: str
    field: str
    """of the options"""
    options: Mapping[int, _Options]
    """row -> its options; rows without any are not multiple choice"""
    reading: _Reading
    is_mapped: bool
    """whether `columns` says what the answer is, which stays as it is"""
    is_asked: bool
    """whether the prompt has the question"""
    in_template: bool
    """whether `prompt.template` writes the options, which is for questions that are text"""

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        section: str,
        mapped: Collection[str],
        template: Collection[str],
        report: RowReport,
        *,
        has_own_answer: bool,
    ) -> Choices | None:
        """None: the rows are no multiple choice; where they look like it, a sentence goes to the report.

        Args:
            section: the configuration section of the source (`data.train`), for messages.
            mapped: the names that `columns` has.
            template: the variables of `prompt.template`.
            has_own_answer: the field `answer` is the rows' own, none that was recognised as such.

        Raises:
            ConfigError: the options, or the answers, can be read in two ways.
        """
        field, options = _options_of(rows, section, mapped)
        if not options:
            return None
        is_mapped = "answer" in mapped
        readings = _readings(rows, options, ("answer",) if is_mapped else ANSWERS)
        chosen = [reading for reading in readings if 2 * len(reading.indices) > len(options)]
        if is_mapped:
            if chosen and all(reading.is_index for reading in chosen):
                report.note(section, _index_note(section, field))
            chosen = [reading for reading in chosen if reading.way == "letter"]
        answered = sum(rows[at].fields.get("answer") is not None for at in options)
        if not chosen:
            return None
        if has_own_answer and 2 * answered > len(options) and all(reading.field != "answer" for reading in chosen):
            report.note(section, _other_field_note(section, field, chosen[0].field))
            return None
        reading = _agreeing_reading(_strongest(chosen), rows, options, section)
        return cls(section, field, options, reading, is_mapped, "question" in template, field in template)

    def read(self, rows: Sequence[Row], report: RowReport) -> list[Row]:
        """The rows with a letter as their answer; a sentence on it goes to the report."""
        read = []
        appended = False
        for at, row in enumerate(rows):
            if at not in self.options:
                read.append(row)
                continue
            with report.collecting(self.section):
                asked = self._question(row, self.options[at])
                appended = appended or asked is not None
                values = {"question": asked} if asked is not None else {}
                if not self.is_mapped:
                    values["answer"] = self._letter(at, row)
                read.append(replace(row, fields={**row.fields, **values}))
        report.note(self.section, self._note(appended))
        return read

    def _letter(self, at: int, row: Row) -> str:
        if at in self.reading.indices:
            return LETTERS[self.reading.indices[at]]
        value, count = row.fields.get(self.reading.field), len(self.options[at].texts)
        raise RowError(
            row.place,
            f"{str(value)[:60]!r} is none of the {count} options, read as {_words(self.reading.way)}.",
            f"whose {self.reading.field!r} is none of the options",
            where=f"field {self.reading.field!r}",
        )

    def _question(self, row: Row, options: _Options) -> str | list[Any] | None:
        """The question with the options below it, of messages below the user's last one; None: it stays as it is."""
        question = row.fields.get("question")
        if isinstance(question, list):
            return _append_to_messages(question, options)  # the policy reads them whatever the template
        if not self.is_asked or self.in_template or not isinstance(question, str):
            return None
        return options.below(question)

    def _note(self, appended: bool) -> str:
        most = max(len(option.texts) for option in self.options.values())
        where = "written below the question" if appended else "where the prompt has them"
        letters = f" with letters = {LETTERS[:most]!r}" if most > DEFAULT_LETTERS else ""
        answer = "" if self.is_mapped else f"; the answer is the letter of {self.reading.field}"
        way = "" if self.is_mapped or self.reading.way == "letter" else f" ({_words(self.reading.way)})"
        return (
            f"{self.section}: multiple choice: the options are those of {self.field}, {where}{answer}{way}. The reward "
            f"source choice judges it{letters}."
        )


def _append_to_messages(messages: Sequence[Any], options: _Options) -> list[Any] | None:
    """The messages with the options below the user's last one; None: one of them lists them already, or they are no
    messages that end with the user's, which is refused where they are read."""
    texts = [message.get("content") if isinstance(message, Mapping) else None for message in messages]
    if any(isinstance(text, str) and options.are_in(text) for text in texts):
        return None
    if not messages or not isinstance(texts[-1], str) or messages[-1].get("role") != "user":
        return None
    asked = options.below(texts[-1])
    return None if asked is None else [*messages[:-1], {**messages[-1], "content": asked}]


def _index_note(section: str, field: str) -> str:
    return (
        f"{section}: {section}.columns.answer gives numbers, which stay as they are, so that the options of {field} "
        "are not written below the question. For multiple choice map it to a letter, from an index counted from 0: "
        f"--set '{section}.columns.answer={{{{ \"ABCDE\"[FIELD|int] }}}}'."
    )


def _other_field_note(section: str, field: str, other: str) -> str:
    return (
        f"{section}: the answers name none of the options in {field}, although {other} would, and stay as they are. "
        f"If {other} says which option is right, make the answer its letter: {section}.columns.answer."
    )


def _options_of(rows: Sequence[Row], section: str, mapped: Collection[str]) -> tuple[str, dict[int, _Options]]:
    """The field that holds options, and those of each row that has some."""
    columns = {}
    for name in OPTIONS:
        options = {at: choices for at, row in enumerate(rows) if (choices := _options(row.fields.get(name)))}
        if options:
            columns[name] = options
    if len(columns) > 1 and columns[OPTIONS[0]] != columns[OPTIONS[1]]:
        of_mapping = [name for name in columns if name in mapped]
        if len(of_mapping) != 1:
            raise ConfigError(
                f"{section}: the options of multiple choice can be those of choices or options. Say which: --set "
                f"{section}.columns.choices=options, or --set {section}.columns.options=choices."
            )
        columns = {of_mapping[0]: columns[of_mapping[0]]}
    return next(iter(columns.items()), ("", {}))


def _options(value: Any) -> _Options | None:
    """The options that a field holds; None: it holds none."""
    value = unpacked(value)
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {key: [item.get(key) for item in value] for key in ("text", "label")}
    labels: list[Any] = []
    if isinstance(value, dict):
        if {"text", "label"} <= value.keys():
            value, labels = value["text"], value["label"]
        elif value and all(len(key) == 1 and key in LETTERS for key in value):
            labels = sorted(key for key in value if value[key] is not None)
            value = [value[key] for key in labels]
    if not _are_texts(value) or (labels and not (_are_texts(labels) and len(labels) == len(value))):
        return None
    texts = [str(item).strip() for item in value]
    prefixes = [match[1] if (match := _PREFIX.match(text)) else "" for text in texts]
    if prefixes == [*LETTERS[: len(texts)]]:
        texts = [_PREFIX.sub("", text, count=1) for text in texts]
    return _Options(tuple(texts), tuple(str(label).strip() for label in labels))


def _are_texts(value: Any) -> bool:
    """Whether it is a list of two texts or numbers, or of more, as many as there are letters."""
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS):
        return False
    return all(isinstance(item, str | int | float) and not isinstance(item, bool) for item in value)


def _readings(rows: Sequence[Row], options: Mapping[int, _Options], fields: Sequence[str]) -> list[_Reading]:
    """What each way makes of each field, of those that it can read at all."""
    readings = []
    for field in fields:
        values = {at: rows[at].fields[field] for at in options if rows[at].fields.get(field) is not None}
        for way in _WAYS:
            read = {at: options[at].index(value, way) for at, value in values.items()}
            readings.append(_Reading(field, way, {at: index for at, index in read.items() if index is not None}))
    return [reading for reading in readings if reading.indices]


def _strongest(readings: Sequence[_Reading]) -> list[_Reading]:
    """Without the indices where a letter, a label or a text that is no number says which option is right; of indices
    without the one that cannot be: an index 0 is not counted from 1, and the number of options not from 0.

    A way is ruled out only by one that reads all its rows and more: where each reads rows that the other does not,
    some rows are broken, and none can tell which.
    """
    indexed = {reading.field for reading in readings if reading.is_index}
    names = [
        reading
        for reading in readings
        if reading.way in ("label", "letter") or (reading.way == "text" and reading.field not in indexed)
    ]
    if names:
        return names
    return [
        reading
        for reading in readings
        if not reading.is_index
        or not any(
            other.field == reading.field and other.indices.keys() > reading.indices.keys()  # more, and all of its rows
            for other in readings
        )
    ]


def _agreeing_reading(
    readings: Sequence[_Reading], rows: Sequence[Row], options: Mapping[int, _Options], section: str
) -> _Reading:
    """The one that reads most rows, where all of them read the same.

    Raises:
        ConfigError: two of them read a row differently.
    """
    for one, other in combinations(readings, 2):
        at = one.differs(other)
        if at is None:
            continue
        letters = LETTERS[one.indices[at]], LETTERS[other.indices[at]]
        value, letters_of_row = rows[at].fields[one.field], LETTERS[: len(options[at].texts)]
        raise ConfigError(
            f"{section}: which option is right can be read in two ways, such as in {rows[at].place}: {one.field} = "
            f"{value!r} is {letters[0]} as {_words(one.way)}, and {other.field} = {rows[at].fields[other.field]!r} is "
            f"{letters[1]} as {_words(other.way)}. Say which letter it is, for an index counted from 0: --set "
            f"'{section}.columns.answer={{{{ \"{letters_of_row}\"[{one.field}|int] }}}}'."
        )
    return max(readings, key=lambda reading: len(reading.indices))


def _words(way: Way) -> str:
    if way in _INDICES:
        return f"an index counted {way.removeprefix('index ')}"
    return f"{'the' if way == 'text' else 'a'} {way}{' of an option' if way != 'letter' else ''}"
