"""Problems to train and evaluate on, and the stream of what each training step takes.

    rows --template--> Problem

Every complaint names the source, the row (a file's line) and the field.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import jinja2

from reasoner.config import DataConfig, PromptConfig, SourceConfig
from reasoner.errors import ConfigError, DataError
from reasoner.hookspecs import Generator
from reasoner.overlap import Policy, keep_apart
from reasoner.plain_renderer import plain_values
from reasoner.records import Message, Problem
from reasoner.rows import Row, field_names, load_rows, stem_of, text_field
from reasoner.templates import FailedError, Template, UnboundedError

T = TypeVar("T")

HELD_OUT_SEED = 0
"""of the shuffle of evaluation problems, whatever `run.seed` is: runs with other seeds are evaluated on the same"""


@dataclass(frozen=True, slots=True)
class Splits:
    """What a run trains and evaluates on."""

    train: tuple[Problem, ...]
    eval: tuple[Problem, ...]
    notes: tuple[str, ...]
    """what is worth knowing about them, in sentences: problems that are in both"""


def load_splits(data: DataConfig, prompt: PromptConfig, generators: Mapping[str, Generator], seed: int) -> Splits:
    """Training and evaluation problems; none where the configuration has no source (it refuses that where a term needs
    one).

    Raises:
        DataError: a source is missing, empty or malformed, or training problems are evaluation problems
            (`data.overlap`).
        ConfigError: the template or a generator does not fit.
    """
    held_out = load_held_out(data.eval, prompt, generators) if data.eval is not None else []
    if data.train is None:
        return Splits((), tuple(held_out), ())
    train = load_problems(data.train, prompt, generators, seed, "data.train")
    fresh, notes = keep_apart(train, lambda problem: problem, held_out, "data.train", overlap_policy(data, data.train))
    return Splits(fresh, tuple(held_out), notes)


def load_held_out(source: SourceConfig, prompt: PromptConfig, generators: Mapping[str, Generator]) -> list[Problem]:
    """The evaluation problems: the same ones in the same order for every `run.seed`.

    Raises:
        DataError: the source is missing, empty or malformed.
        ConfigError: the template or a generator does not fit.
    """
    return load_problems(source, prompt, generators, HELD_OUT_SEED, "data.eval")


def overlap_policy(data: DataConfig, source: SourceConfig) -> Policy:
    """What happens to the source's problems that are evaluation problems: a generator makes some by chance, so that
    they are left out where others are refused."""
    return "drop" if source.generator is not None and data.overlap == "refuse" else data.overlap


def load_problems(
    source: SourceConfig,
    prompt: PromptConfig,
    generators: Mapping[str, Generator],
    seed: int,
    section: str = "data.train",
) -> list[Problem]:
    """The problems of one source. Ids are `<stem>:<row>`, the same whatever `seed` and `limit` choose.

    Args:
        seed: for the shuffle.
        section: the configuration section that describes the source, for messages.

    Raises:
        DataError: the source is missing, empty or malformed.
        ConfigError: the template or a generator does not fit.
    """
    rows = load_rows(source, generators, seed, section)
    stem = stem_of(source)
    with open_template(prompt) as template:
        return [
            Problem(
                f"{stem}:{row.number}",
                conversation(row, prompt, template, section),
                text_field(row, "answer", section),
                row.fields,
            )
            for row in rows
        ]


class Stream(Generic[T]):
    """Problems or offline groups in the order in which a run takes them. It has no state: to go on from a step of the
    same size as all others, its number is enough; `Cursor` goes through it in steps of any size."""

    def __init__(self, items: Sequence[T], per_step: int, seed: int | None, *, section: str, key: str) -> None:
        """
        Args:
            per_step: items per step.
            seed: each epoch is shuffled with (seed, epoch); None: every epoch in the given order.
            section: the configuration section that describes the source (`data.train`), for messages.
            key: the configuration key that `per_step` comes from (`learning.problems_per_step`), for messages.

        Raises:
            DataError: there are fewer items than one step takes.
        """
        if len(items) < per_step:
            raise DataError(
                f"{section} has {len(items)} rows to train on and {key} is {per_step}: lower it, or give more rows."
            )
        self._items = tuple(items)
        self._per_step = per_step
        self._seed = seed

    @property
    def size(self) -> int:
        """Items in all."""
        return len(self._items)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see no item twice; what does not fill a step waits for the next epoch's order."""
        return len(self._items) // self._per_step

    def at(self, step: int) -> tuple[T, ...]:
        """The items of a step, counted from 1; all of them different."""
        if step < 1:
            raise ValueError(f"steps are counted from 1, got {step}")
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        return tuple(self.epoch(epoch)[position * self._per_step : (position + 1) * self._per_step])

    def epoch(self, number: int) -> list[T]:
        """All items in the order of an epoch, counted from 0."""
        order = list(range(len(self._items)))
        if self._seed is not None:
            # a text seed: hashed by SHA-512, the same everywhere
            random.Random(f"{self._seed}:{number}").shuffle(order)
        return [self._items[index] for index in order]


class Cursor:
    """A position in a stream of problems. Every problem is taken once per epoch, however many are asked for at a time:
    a step that the rest of an epoch does not fill goes on with the next epoch."""

    def __init__(self, stream: Stream[Problem]) -> None:
        self._stream = stream
        self._epoch = self._position = 0
        self._order = stream.epoch(0)
        self._by_id = {problem.id: problem for problem in self._order}
        self._deferred: list[str] = []
        """ids of problems that the step had already when it came to them in the next epoch; the next step takes them"""

    @property
    def epoch(self) -> int:
        """Counted from 0."""
        return self._epoch

    def next(self, taken: Collection[str]) -> Problem | None:
        """The next problem that the step does not have yet; None: it has all of them.

        Args:
            taken: ids of those that the step has.
        """
        for id_ in self._deferred:
            if id_ not in taken:
                self._deferred.remove(id_)
                return self._by_id[id_]
        while len(taken) < self._stream.size:
            if self._position == len(self._order):
                self._epoch, self._position = self._epoch + 1, 0
                self._order = self._stream.epoch(self._epoch)
            problem = self._order[self._position]
            self._position += 1
            if problem.id not in taken:
                return problem
            if problem.id not in self._deferred:
                self._deferred.append(problem.id)
        return None

    def take(self, count: int, taken: Collection[str] = ()) -> tuple[Problem, ...]:
        """The next `count` problems that the step does not have yet, all of them different; fewer where there are no
        more."""
        known, found = set(taken), list[Problem]()
        while len(found) < count and (problem := self.next(known)):
            known.add(problem.id)
            found.append(problem)
        return tuple(found)

    def state(self) -> dict[str, Any]:
        """Where it is, in JSON values."""
        return {"epoch": self._epoch, "position": self._position, "deferred": list(self._deferred)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to where `state` was."""
        self._epoch, self._position, self._deferred = state["epoch"], state["position"], list(state["deferred"])
        self._order = self._stream.epoch(self._epoch)


def open_template(prompt: PromptConfig) -> Template:
    """The template of the user message, sandboxed; a variable that the row does not have is an error.

    Raises:
        ConfigError: it is not Jinja; the message has the line.
    """
    try:
        return Template(prompt.template)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(
            f"prompt.template, line {error.lineno}: not a Jinja template: {(error.message or '').rstrip('.')}."
        ) from None


def conversation(row: Row, prompt: PromptConfig, template: Template, section: str) -> tuple[Message, ...]:
    """The row's question as the policy is asked it: system message, worked examples, the template's user message.

    Raises:
        DataError: the question is empty, or the template makes an empty message of it.
        ConfigError: the template does not fit the row, or takes more time or memory than one may.
    """
    if "question" in row.fields:
        text_field(row, "question", section)
    plain = prompt.format == "plain"
    try:
        text = template.render(plain_values(row.fields, prompt) if plain else row.fields)
    except jinja2.UndefinedError as error:
        found = re.match(r"'(\w+)' is undefined", error.message or "")
        missing = found[1] if found else "NAME"
        raise ConfigError(
            f"prompt.template does not fit {row.place}: {error.message}. The row has: {field_names(row.fields)}. "
            f"Change the template, or say which field it is: --set {section}.columns.{missing}=FIELD."
        ) from None
    except (FailedError, UnboundedError) as error:
        raise ConfigError(f"prompt.template fails on {row.place}: {error}.") from error
    if not text.strip():
        raise DataError(f"{row.place}: prompt.template gives an empty message.")
    if plain:
        return (Message("user", text),)
    turns = [Message("system", prompt.system)] if prompt.system else []
    for example in prompt.examples:
        turns += [Message("user", example["user"]), Message("assistant", example["assistant"])]
    return (*turns, Message("user", text))
