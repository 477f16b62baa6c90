"""Rows as verl, TRL and others write them, recognised by their fields where a task does not say which these are.

    question   `prompt` (text or messages), `problem` or `messages`
    answer     `reward_model.ground_truth`, `solution`, `ground_truth`, or the assistant's last message

A field called `question` or `answer`, or what `columns` makes one of, comes before all of them. Where two fields can be
meant, none is taken. Multiple choice: see `choices.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reasoner.data.layouts.choices import Choices
from reasoner.data.layouts.paths import MISSING, look_up
from reasoner.data.row_report import RowReport
from reasoner.data.rows import Row
from reasoner.data.turns import last_turn
from reasoner.errors import ConfigError

QUESTIONS = ("prompt", "problem", "question_stem", "messages")
"""fields that hold what is asked, of text or messages"""
ANSWERS = ("reward_model.ground_truth", "solution", "ground_truth")
"""fields that hold the reference"""
_LAST = "the assistant's last message"


@dataclass(frozen=True, slots=True)
class RowReader:
    """Finds question and answer in the rows of a source."""

    section: str
    """the configuration section of the source (`data.train`), for messages"""
    mapped: Collection[str]
    """the names that `columns` has"""
    template: Collection[str]
    """the variables of `prompt.template`"""
    needs_answer: bool
    """whether a row must have an answer"""
    report: RowReport = field(repr=False)

    def read(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with `question` and `answer`, as far as they are recognised; a sentence on it goes to the report.

        Raises:
            ConfigError: two fields can be meant, or an answer can be read in two ways.
        """
        question = self._pick_candidate("question", rows, QUESTIONS) if "question" in self.template else None
        asked = question or "question"
        turns = [_value(row, asked) for row in rows]
        last = [_LAST] if any(map(_ends_with_answer, turns)) else []
        answer = self._pick_candidate("answer", rows, ANSWERS, last) if self.needs_answer else None
        names = {"question": question, "answer": answer}
        paths = {name: path for name, path in names.items() if path is not None}
        if paths:
            pairs = " and ".join(f"{name} from {path}" for name, path in paths.items())
            self.report.note(self.section, f"{self.section}: recognised {_kind(paths)}: {pairs}.")
            rows = self._rename(rows, paths, asked)
        choices = Choices.of(
            rows, self.section, self.mapped, self.template, self.report, has_own_answer="answer" not in paths
        )
        return list(rows) if choices is None else choices.read(rows, self.report)

    def _pick_candidate(
        self, name: str, rows: Sequence[Row], candidates: Sequence[str], others: Sequence[str] = ()
    ) -> str | None:
        """The candidate that some row has; None: it is no other than the name itself, or there is none.

        Raises:
            ConfigError: there are two.
        """
        if name in self.mapped or any(_is_there(_value(row, name)) for row in rows):
            return None
        present = [path for path in candidates if any(_is_there(_value(row, path)) for row in rows)] + [*others]
        if len(present) > 1:
            fields = [path for path in present if path != _LAST]
            raise ConfigError(
                f"{self.section}: the {name} can be {' or '.join(present)}. Say which of the fields it is: "
                f"{' or '.join(f'--set {self.section}.columns.{name}={path}' for path in fields)}."
            )
        return present[0] if present else None

    def _rename(self, rows: Sequence[Row], paths: Mapping[str, str], asked: str) -> list[Row]:
        """The rows with what was found under our names; a message that is the answer is no part of the question."""
        renamed = []
        for row in rows:
            with self.report.collecting(self.section):
                values = {name: _value(row, path) for name, path in paths.items() if path != _LAST}
                turns = _value(row, asked)
                if paths.get("answer") == _LAST and turns is not None:
                    values |= {"answer": last_turn(row, asked)[1], "question": turns[:-1]}
                elif asked == "messages" and _ends_with_answer(turns):
                    values["question"] = turns[:-1]
                present = {name: value for name, value in values.items() if value is not None}
                renamed.append(replace(row, fields={**row.fields, **present}))
        return renamed


def _kind(paths: Mapping[str, str]) -> str:
    """What the rows look like."""
    if paths.get("answer") == "reward_model.ground_truth":
        return "as rows of verl"
    if paths.get("question") == "messages" or paths.get("answer") == _LAST:
        return "as conversations"
    return "as rows of TRL" if paths.get("question") == "prompt" else "by the names of their fields"


def _value(row: Row, path: str) -> Any:
    value = look_up(row.fields, path)
    return None if value is MISSING else value


def _is_there(value: Any) -> bool:
    return value is not None and value not in ("", [])


def _ends_with_answer(value: Any) -> bool:
    """Whether it is a conversation whose last message is the assistant's."""
    last = value[-1] if isinstance(value, list) and value else None
    return isinstance(last, dict) and last.get("role") == "assistant"
