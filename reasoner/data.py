"""Problems to train and evaluate on.

    rows --columns--> renamed --shuffle, limit--> chosen --template--> Problem

Every complaint names the source, the row (a file's line) and the field.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from reasoner.config import DataConfig, PromptConfig, SourceConfig
from reasoner.errors import ConfigError, DataError
from reasoner.hookspecs import Generator
from reasoner.records import Message, Problem
from reasoner.rows import Row, read_rows, stem_of


@dataclass(frozen=True, slots=True)
class Splits:
    """What a run trains and evaluates on."""

    train: tuple[Problem, ...]
    eval: tuple[Problem, ...]
    notes: tuple[str, ...]
    """what is worth knowing about them, in sentences: problems that are in both"""


def load_splits(data: DataConfig, prompt: PromptConfig, generators: Mapping[str, Generator], seed: int) -> Splits:
    """Training and evaluation problems.

    Generated training problems that are also evaluation problems are left out; those of a file or the hub stay (the
    user chose them), and the notes say how many they are.

    Raises:
        DataError: a source is missing, empty or malformed.
        ConfigError: the template or a generator does not fit.
    """
    held_out = load_problems(data.eval, prompt, generators, seed, "data.eval")
    train = load_problems(data.train, prompt, generators, seed, "data.train")
    questions = {problem.messages for problem in held_out}
    fresh = [problem for problem in train if problem.messages not in questions]
    shared = len(train) - len(fresh)
    if not shared:
        return Splits(tuple(train), tuple(held_out), ())
    if data.train.generator is not None:
        note = f"{shared} generated training problems were left out: they are evaluation problems."
        return Splits(tuple(fresh), tuple(held_out), (note,))
    note = f"{shared} of the {len(train)} training problems are also evaluation problems."
    return Splits(tuple(train), tuple(held_out), (note,))


def load_problems(
    source: SourceConfig,
    prompt: PromptConfig,
    generators: Mapping[str, Generator],
    seed: int,
    section: str = "data.train",
) -> list[Problem]:
    """The problems of one source. Ids are `<stem>:<row>`, the same whatever `seed` and `limit` choose.

    Args:
        seed: the run's seed, for the shuffle.
        section: the configuration section that describes the source, for messages.

    Raises:
        DataError: the source is missing, empty or malformed.
        ConfigError: the template or a generator does not fit.
    """
    rows = [_renamed(row, source.columns, section) for row in read_rows(source, generators, section)]
    if not rows:
        raise DataError(f"{section}: {source.path or source.hub or source.generator} holds no rows.")
    if source.shuffle:
        random.Random(seed).shuffle(rows)
    template = compile_template(prompt)
    stem = stem_of(source)
    return [_problem(row, f"{stem}:{row.number}", prompt, template, section) for row in rows[: source.limit]]


class ProblemStream:
    """The problems of each training step. It has no state: to go on from a step, its number is enough."""

    def __init__(self, problems: Sequence[Problem], per_step: int, seed: int | None) -> None:
        """
        Args:
            per_step: problems per step.
            seed: each epoch is shuffled with (seed, epoch); None: every epoch in the given order.

        Raises:
            DataError: there are fewer problems than one step takes.
        """
        if len(problems) < per_step:
            raise DataError(
                f"data.train has {len(problems)} problems and learning.problems_per_step is {per_step}: "
                "lower it, or give more problems."
            )
        self._problems = tuple(problems)
        self._per_step = per_step
        self._seed = seed

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see no problem twice; what does not fill a step waits for the next epoch's order."""
        return len(self._problems) // self._per_step

    def at(self, step: int) -> tuple[Problem, ...]:
        """The problems of a step, counted from 1; all of them different."""
        if step < 1:
            raise ValueError(f"steps are counted from 1, got {step}")
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        order = list(range(len(self._problems)))
        if self._seed is not None:
            random.Random(f"{self._seed}:{epoch}").shuffle(order)  # a text seed: hashed by SHA-512, the same everywhere
        chosen = order[position * self._per_step : (position + 1) * self._per_step]
        return tuple(self._problems[index] for index in chosen)


def compile_template(prompt: PromptConfig) -> jinja2.Template:
    """The template of the user message, sandboxed; a variable that the row does not have is an error.

    Raises:
        ConfigError: it is not Jinja; the message has the line.
    """
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    try:
        return environment.from_string(prompt.template)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(
            f"prompt.template, line {error.lineno}: not a Jinja template: {(error.message or '').rstrip('.')}."
        ) from None


def _renamed(row: Row, columns: Mapping[str, str], section: str) -> Row:
    fields = dict(row.fields)
    for name, column in columns.items():
        if column not in row.fields:
            raise DataError(
                f"{row.place}: {section}.columns.{name} names the field {column!r}, which the row does not have. "
                f"It has: {_names(row.fields)}."
            )
        fields[name] = row.fields[column]
    return Row(row.number, row.place, fields)


def _problem(row: Row, problem_id: str, prompt: PromptConfig, template: jinja2.Template, section: str) -> Problem:
    answer = _field(row, "answer", section)
    if "question" in row.fields:
        _field(row, "question", section)
    try:
        text = template.render(dict(row.fields))
    except jinja2.UndefinedError as error:
        raise ConfigError(
            f"prompt.template does not fit {row.place}: {error.message}. The row has: {_names(row.fields)}. Change the "
            f"template, or map the field: --set {section}.columns.NAME=FIELD."
        ) from None
    except Exception as error:  # a template can raise anything: a filter on the wrong type, a forbidden attribute
        raise ConfigError(f"prompt.template fails on {row.place}: {type(error).__name__}: {error}.") from error
    if not text.strip():
        raise DataError(f"{row.place}: prompt.template gives an empty message.")
    turns = [Message("system", prompt.system)] if prompt.system else []
    for example in prompt.examples:
        turns += [Message("user", example["user"]), Message("assistant", example["assistant"])]
    return Problem(problem_id, (*turns, Message("user", text)), answer, row.fields)


def _field(row: Row, name: str, section: str) -> str:
    """The text of a field that every row must have."""
    if name not in row.fields:
        raise DataError(
            f"{row.place}: the field {name!r} is missing. The row has: {_names(row.fields)}. "
            f"If it has another name, map it: --set {section}.columns.{name}=FIELD."
        )
    value = row.fields[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{row.place}, field {name!r}: text or a number is needed, got {value!r}.")
    if not str(value).strip():
        raise DataError(f"{row.place}, field {name!r}: it is empty.")
    return str(value)


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(fields) or "no fields"
