"""What is wrong with rows of the data, collected, so that one message names all of them.

reading, rendering, tokenising --RowError--> RowReport --settle--> one refusal, or notes on what was left out
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from reasoner.config import DuplicatePolicy, RowPolicy, SourceConfig
from reasoner.errors import DataError

NAMED = 5
"""rows that a refusal names of a source; the others are counted by kind"""
DROPPED_NAMED = 3
"""rows that were left out, and that a note names"""
DUPLICATES = "that repeat an earlier one"
"""what duplicates are counted as"""


class RowError(DataError):
    """One row cannot be used."""

    def __init__(self, place: str, complaint: str, kind: str, *, where: str = "", too_long: bool = False) -> None:
        """
        Args:
            place: of the row: `train.jsonl, line 18`.
            complaint: what is wrong, what was got, what to do, on one line.
            kind: what rows with this fault are counted as, after a number: `with an empty field 'answer'`.
            where: in the row: `field 'chosen', message 2`.
            too_long: whether nothing else is wrong with it (`too_long` of its source).
        """
        self.place, self.kind, self.too_long = place, kind, too_long
        self._made_of = (place, complaint, kind, where, too_long)
        self.detail = f", {where}: {complaint}" if where else f": {complaint}"
        super().__init__(place + self.detail)

    def __reduce__(self) -> tuple[Callable[[str, str, str, str, bool], RowError], tuple[str, str, str, str, bool]]:
        return _row_error, self._made_of  # ranks send each other what is wrong with their shares


def _row_error(place: str, complaint: str, kind: str, where: str, too_long: bool) -> RowError:
    return RowError(place, complaint, kind, where=where, too_long=too_long)


@dataclass
class _Faults:
    """Rows that cannot be used."""

    named: list[RowError] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    keys: dict[str, None] = field(default_factory=dict)
    """the keys that say so, in order"""

    def add(self, error: RowError, key: str) -> None:
        self.kinds[error.kind] += 1
        self.keys[key] = None
        if len(self.named) < NAMED:
            self.named.append(error)


@dataclass
class _Section:
    """What is known of one source."""

    on_bad_row: tuple[RowPolicy, str]
    """what becomes of its bad rows, and the key that says so"""
    too_long: tuple[RowPolicy, str]
    """the same of those that are too long"""
    duplicates: tuple[DuplicatePolicy, str]
    """the same of those that repeat an earlier one"""
    kept: int = 0
    refused: _Faults = field(default_factory=_Faults)
    dropped: _Faults = field(default_factory=_Faults)
    notes: list[str] = field(default_factory=list)
    seen: dict[bytes, str] = field(default_factory=dict)
    """digest of what a row says -> its place"""
    repeated: list[tuple[str, str]] = field(default_factory=list)
    """places of the first duplicates that are not refused, and of what they repeat"""
    repetitions: int = 0
    """how many those are"""

    @property
    def total(self) -> int:
        left_out = self.repetitions if self.duplicates[0] == "drop" else 0
        return self.kept + self.refused.kinds.total() + self.dropped.kinds.total() + left_out

    @property
    def is_refused(self) -> bool:
        return bool(self.refused.kinds or (self.dropped.kinds and not self.kept))


class RowReport:
    """Collects what is wrong with the rows of the sources that a command reads."""

    def __init__(self, policy: RowPolicy = "refuse") -> None:
        """
        Args:
            policy: for sources that have none of their own (`data.on_bad_row`).
        """
        self._default: tuple[RowPolicy, str] = (policy, "data.on_bad_row")
        self._sections: dict[str, _Section] = {}

    def follow(self, section: str, source: SourceConfig) -> None:
        """Handle the rows of a source as it says (`on_bad_row`, `too_long`, `duplicates`)."""
        of_source = self._of(section)
        if source.on_bad_row is not None:
            of_source.on_bad_row = of_source.too_long = of_source.duplicates = (
                source.on_bad_row,
                f"{section}.on_bad_row",
            )
        if source.too_long is not None:
            of_source.too_long = (source.too_long, f"{section}.too_long")
        if source.duplicates is not None or source.generator is not None:
            of_source.duplicates = (source.duplicates or "keep", f"{section}.duplicates")

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
        policy, key = of_source.too_long if error.too_long else of_source.on_bad_row
        if error.kind == DUPLICATES:
            policy, key = "refuse", of_source.duplicates[1]
        (of_source.refused if policy == "refuse" else of_source.dropped).add(error, key)

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

        Raises:
            RowError: it does, and is refused for that.
        """
        of_source = self._of(section)
        digest = hashlib.blake2b("\0".join(texts).encode("utf-8", "replace"), digest_size=16).digest()
        earlier = of_source.seen.setdefault(digest, place)
        if earlier == place:
            return False
        policy, _ = of_source.duplicates
        if policy == "refuse":
            raise RowError(place, f"it repeats {earlier}.", DUPLICATES)
        of_source.repetitions += 1
        if len(of_source.repeated) < DROPPED_NAMED:
            of_source.repeated.append((place, earlier))
        return policy == "drop"

    def settle(self) -> tuple[str, ...]:
        """Sentences on what was left out and what is worth knowing.

        Raises:
            DataError: there are rows that the policies refuse, or all of a source are left out.
        """
        refused = {section: state for section, state in self._sections.items() if state.is_refused}
        if refused:
            lines = [_refusal(section, state) for section, state in refused.items()]
            raise DataError("\n".join([*lines, *_advice(refused)]))
        return tuple(note for section, state in self._sections.items() for note in _notes(section, state))

    def _of(self, section: str) -> _Section:
        return self._sections.setdefault(section, _Section(self._default, self._default, self._default))


def _notes(section: str, state: _Section) -> Iterator[str]:
    if state.dropped.kinds:
        places = "; ".join(str(error).rstrip(".") for error in state.dropped.named[:DROPPED_NAMED])
        yield (
            f"{section}: {state.dropped.kinds.total():,} of {state.total:,} rows cannot be used and were left out: "
            f"{_count_text(state.dropped.kinds)} (the first: {places})."
        )
    if state.repetitions:
        pairs = "; ".join(f"{place}, as {earlier}" for place, earlier in state.repeated)
        what = f"{section}: rows that repeat an earlier one"
        count = f"{state.repetitions:,} (the first: {pairs})"
        if state.duplicates[0] == "drop":
            yield f"{what} and were left out: {count}."
        else:
            yield f"{what}: {count}; to leave them out: --set {section}.duplicates=drop."
    yield from state.notes


def _refusal(section: str, state: _Section) -> str:
    """The bad rows of one source: the first ones named, the others counted."""
    faults, left = (state.refused, "") if state.refused.kinds else (state.dropped, ": nothing is left")
    lines = [f"{section}: {faults.kinds.total():,} of {state.total:,} rows cannot be used{left}."]
    detail = ""
    for error in faults.named:
        lines.append(f"  {error.place}: the same" if error.detail == detail else f"  {error}")
        detail = error.detail
    rest = faults.kinds - Counter(error.kind for error in faults.named)
    if rest:
        lines.append(f"  and {rest.total():,} more: {_count_text(rest)}")
    if state.repetitions:
        lines.append(f"  rows that repeat an earlier one: {state.repetitions:,}")
    return "\n".join(lines)


def _advice(refused: Mapping[str, _Section]) -> list[str]:
    """How the rows can be left out, where something would be left then."""
    if not all(state.kept for state in refused.values()):
        return []
    alone = {section: {*state.refused.kinds} == {DUPLICATES} for section, state in refused.items()}
    keys = dict.fromkeys(
        key
        for section, state in refused.items()
        for key in ([f"{section}.duplicates"] if alone[section] else state.refused.keys)
    )
    sets = " ".join(f"--set {key}=drop" for key in keys)
    kept = " (or keep them: =keep)" if all(alone.values()) else ""
    return [f"Correct these rows, or leave them out: {sets}{kept}."]


def _count_text(kinds: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
