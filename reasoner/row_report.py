"""What is wrong with rows of the data, collected, so that one message names all of them.

reading, rendering, tokenising --RowError--> RowReport --settle--> one refusal, or notes on what was left out
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from reasoner.errors import DataError

Policy = Literal["refuse", "drop"]

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
        self.detail = f", {where}: {complaint}" if where else f": {complaint}"
        super().__init__(place + self.detail)


@dataclass
class _Section:
    """What is known of one source."""

    kept: int = 0
    named: list[RowError] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    seen: dict[bytes, str] = field(default_factory=dict)
    """digest of what a row says -> its place"""
    repeated: list[tuple[str, str]] = field(default_factory=list)
    """places of the first rows that say the same as an earlier one, and of those"""
    repetitions: int = 0

    @property
    def bad(self) -> int:
        return self.kinds.total()


class RowReport:
    """Collects what is wrong with the rows of the sources that a command reads (`data.on_bad_row`)."""

    def __init__(self, policy: Policy = "refuse") -> None:
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
        if len(of_source.repeated) < NAMED:
            of_source.repeated.append((place, earlier))
        return self._policy == "drop"

    def settle(self) -> tuple[str, ...]:
        """Sentences on what was left out and what is worth knowing.

        Raises:
            DataError: there are bad rows and the policy refuses them, or leaves them out and nothing is left.
        """
        refused = [
            _refusal(section, each, self._policy)
            for section, each in self._sections.items()
            if each.bad and (self._policy == "refuse" or not each.kept)
        ]
        if refused:
            drop = "Mend these rows, or leave them out: --set data.on_bad_row=drop."
            some_are_good = all(each.kept for each in self._sections.values() if each.bad)
            raise DataError("\n".join(refused + ([drop] if some_are_good and self._policy == "refuse" else [])))
        return tuple(note for section, each in self._sections.items() for note in self._notes(section, each))

    def _notes(self, section: str, each: _Section) -> Iterator[str]:
        rows = each.kept + each.bad
        if each.bad:
            examples = "; ".join(str(error).rstrip(".") for error in each.named[:1])
            yield (
                f"{section}: {each.bad:,} of {rows:,} rows cannot be used and were left out: {_counted(each.kinds)} "
                f"(the first: {examples})."
            )
        if each.repetitions:
            place, earlier = each.repeated[0]
            first = f"the first is {place}, as {earlier}"
            if self._policy == "drop":
                yield f"{section}: {each.repetitions:,} rows repeat an earlier one and were left out ({first})."
            else:
                yield (
                    f"{section}: {each.repetitions:,} of {rows:,} rows repeat an earlier one ({first}); to leave them "
                    "out: --set data.on_bad_row=drop."
                )
        yield from each.notes

    def _of(self, section: str) -> _Section:
        return self._sections.setdefault(section, _Section())


def _refusal(section: str, each: _Section, policy: Policy) -> str:
    """The bad rows of one source: the first ones named, the others counted."""
    rows = each.kept + each.bad
    left = ": nothing is left" if policy == "drop" else ""
    lines = [f"{section}: {each.bad:,} of {rows:,} rows cannot be used{left}."]
    lines += [
        f"  {error.place}: the same" if error.detail == before.detail else f"  {error}"
        for before, error in zip([_NOTHING, *each.named], each.named, strict=False)
    ]
    rest = each.kinds - Counter(error.kind for error in each.named)
    if rest:
        lines.append(f"  and {rest.total():,} more: {_counted(rest)}")
    if each.repetitions:
        lines.append(f"  {each.repetitions:,} others repeat an earlier row")
    return "\n".join(lines)


_NOTHING = RowError("", "", "")


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
