"""What is wrong with rows of the data, collected, so that one message names all of them.

reading, rendering, tokenising --RowError--> RowReport --settle--> one refusal, or notes on what was left out
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from reasoner.errors import DataError

BadRowPolicy = Literal["refuse", "drop"]

NAMED = 5
"""bad rows of a source that a message names; the others are counted by kind"""


class RowError(DataError):
    """One row cannot be used."""

    def __init__(self, place: str, complaint: str, kind: str, *, where: str = "") -> None:
        """
        Args:
            place: of the row: `train.jsonl, line 18`.
            complaint: what is wrong, what was got, what to do, on one line.
            kind: what rows with this fault are counted as, after a number: `with an empty field 'answer'`.
            where: in the row: `field 'chosen', message 2`.
        """
        self.place, self.kind = place, kind
        self._made_of = (place, complaint, kind, where)
        self.detail = f", {where}: {complaint}" if where else f": {complaint}"
        super().__init__(place + self.detail)

    def __reduce__(self) -> tuple[Callable[[str, str, str, str], RowError], tuple[str, str, str, str]]:
        return _row_error, self._made_of  # ranks send each other what is wrong with their shares


def _row_error(place: str, complaint: str, kind: str, where: str) -> RowError:
    return RowError(place, complaint, kind, where=where)


@dataclass
class _Section:
    """What is known of one source."""

    kept: int = 0
    named: list[RowError] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    seen: dict[bytes, str] = field(default_factory=dict)
    """digest of what a row says -> its place"""
    repeated: tuple[str, str] = ("", "")
    """places of the first row that says the same as an earlier one, and of that"""
    repetitions: int = 0

    @property
    def bad(self) -> int:
        return self.kinds.total()


class RowReport:
    """Collects what is wrong with the rows of the sources that a command reads (`data.on_bad_row`)."""

    def __init__(self, policy: BadRowPolicy = "refuse") -> None:
        self._policy = policy
        self._sections: dict[str, _Section] = {}

    @contextmanager
    def collecting(self, section: str) -> Iterator[None]:
        """A row that turns out to be bad inside is noted, and passed over.

        Args:
            section: the configuration section of its source (`data.train`).
        """
        try:
            yield
        except RowError as error:
            self.add(section, error)

    def add(self, section: str, error: RowError) -> None:
        """Note a bad row."""
        of_source = self._of(section)
        of_source.kinds[error.kind] += 1
        if len(of_source.named) < NAMED:
            of_source.named.append(error)

    def keep(self, section: str, rows: int) -> None:
        """Say how many rows of a source are used, as far as is known now."""
        self._of(section).kept = rows

    def note(self, section: str, text: str) -> None:
        """Note what is worth knowing about a source: a sentence for the plan."""
        self._of(section).notes.append(text)

    def is_repeated(self, section: str, place: str, texts: Sequence[str]) -> bool:
        """Whether a row says what an earlier one of its source says, and is to be left out for that.

        Args:
            texts: all that the row says to the training.
        """
        of_source = self._of(section)
        digest = hashlib.blake2b("\0".join(texts).encode("utf-8", "replace"), digest_size=16).digest()
        earlier = of_source.seen.setdefault(digest, place)
        if earlier == place:
            return False
        of_source.repetitions += 1
        if of_source.repetitions == 1:
            of_source.repeated = (place, earlier)
        return self._policy == "drop"

    def settle(self) -> tuple[str, ...]:
        """Sentences on what was left out and what is worth knowing.

        Raises:
            DataError: there are bad rows and the policy refuses them, or leaves them out and nothing is left.
        """
        refused = [
            self._refusal(section, each)
            for section, each in self._sections.items()
            if each.bad and (self._policy == "refuse" or not each.kept)
        ]
        if refused:
            drop = "Correct these rows, or leave them out: --set data.on_bad_row=drop."
            some_are_good = all(each.kept for each in self._sections.values() if each.bad)
            raise DataError("\n".join(refused + ([drop] if some_are_good and self._policy == "refuse" else [])))
        return tuple(note for section, each in self._sections.items() for note in self._notes(section, each))

    def _notes(self, section: str, each: _Section) -> Iterator[str]:
        rows = f"{each.bad:,} of {self._total(each):,} rows"
        if each.bad:
            first = str(each.named[0]).rstrip(".")
            yield f"{section}: {rows} cannot be used and were left out: {_counted(each.kinds)} (the first: {first})."
        if each.repetitions:
            what, (place, earlier) = f"{section}: rows that repeat an earlier one", each.repeated
            count = f"{each.repetitions:,} (the first is {place}, as {earlier})"
            if self._policy == "drop":
                yield f"{what} and were left out: {count}."
            else:
                yield f"{what}: {count}; to leave them out: --set data.on_bad_row=drop."
        yield from each.notes

    def _total(self, each: _Section) -> int:
        return each.kept + each.bad + (each.repetitions if self._policy == "drop" else 0)

    def _refusal(self, section: str, each: _Section) -> str:
        """The bad rows of one source: the first ones named, the others counted."""
        left = "" if each.kept or self._policy == "refuse" else ": nothing is left"
        lines = [f"{section}: {each.bad:,} of {self._total(each):,} rows cannot be used{left}."]
        detail = ""
        for error in each.named:
            lines.append(f"  {error.place}: the same" if error.detail == detail else f"  {error}")
            detail = error.detail
        rest = each.kinds - Counter(error.kind for error in each.named)
        if rest:
            lines.append(f"  and {rest.total():,} more: {_counted(rest)}")
        if each.repetitions:
            lines.append(f"  rows that repeat an earlier one: {each.repetitions:,}")
        return "\n".join(lines)

    def _of(self, section: str) -> _Section:
        return self._sections.setdefault(section, _Section())


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
