"""Problems to train and evaluate on, and the stream of what each training step takes.

    rows --columns--> renamed --order, limit--> chosen --template--> Problem

Every complaint names the source, the row (a file's line) and the field. Rows that cannot be used are collected
(`reasoner.data.row_report`), so that one message names all of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import jinja2

from reasoner.config import DataConfig, MissingPolicy, PromptConfig, SourceConfig
from reasoner.data.decontamination import OverlapPolicy, keep_apart, once
from reasoner.data.layouts.recognise import RowReader
from reasoner.data.prompts.plain import not_one_text, plain_values
from reasoner.data.prompts.templates import FailedError, Template, UnboundedError
from reasoner.data.row_report import RowError, RowReport
from reasoner.data.row_selection import HELD_OUT_SEED, build, load_rows, ordered, split_items
from reasoner.data.rows import Row, field_names, text_field
from reasoner.data.turns import opening_of
from reasoner.errors import ConfigError, DataError
from reasoner.io.safe_text import storable
from reasoner.io.serialization import to_json
from reasoner.plugins.hookspecs import Generator
from reasoner.records import Message, Problem

T = TypeVar("T")

_NUMBERING = re.compile(
    r"((row|item|data|record|sample|example|problem|question|prompt|task|original|unique)_?)?(id|idx|index|uid|uuid)"
    r"|__index_level_\d+__",  # pandas writes the last one
    re.IGNORECASE,
)
"""names of fields that number or name a row and say nothing of the problem"""


@dataclass(frozen=True, slots=True)
class Splits:
    """What a run trains and evaluates on."""

    train: tuple[Problem, ...]
    eval: tuple[Problem, ...]
    notes: tuple[str, ...]
    """what is worth knowing about them, in sentences: problems that are in both"""


def load_splits(
    data: DataConfig,
    prompt: PromptConfig,
    generators: Mapping[str, Generator],
    seed: int,
    report: RowReport | None = None,
    *,
    needs_answer: bool = True,
) -> Splits:
    """Training and evaluation problems; none where the configuration has no source (it refuses that where a term needs
    one). Without `data.eval`, `data.holdout` of the training problems are those to evaluate on.

    Args:
        report: collects bad rows, for a caller that settles it; None: bad rows are refused or noted here.
        needs_answer: whether a row must have an answer, because a reward source compares with it.

    Raises:
        DataError: a source is missing, empty or malformed, or training problems are evaluation problems
            (`data.overlap`).
        ConfigError: the template or a generator does not fit.
    """
    rows = report or RowReport(data.on_bad_row)
    load = ProblemLoader(prompt, generators, rows, needs_answer=needs_answer)
    train: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    held_out = load.problems(data.eval, HELD_OUT_SEED, "data.eval") if data.eval is not None else ()
    if data.train is not None and data.eval is None and data.holdout is not None:
        train, held_out = load.split(data.train, seed, data.holdout)
    elif data.train is not None:
        train = load.problems(data.train, seed, "data.train")
        examples = example_turns(prompt)
        policy = overlap_policy(data, data.train)
        train, notes = keep_apart(train, _identity, held_out, "data.train", policy, examples)
    return Splits(train, held_out, notes if report else (*rows.settle(), *notes))


def load_held_out(
    data: DataConfig,
    prompt: PromptConfig,
    generators: Mapping[str, Generator],
    report: RowReport | None = None,
    *,
    needs_answer: bool = True,
) -> tuple[Problem, ...]:
    """The evaluation problems: the same ones in the same order for every `run.seed`. Arguments as in `load_splits`.

    Raises:
        DataError: the source is missing, empty or malformed.
        ConfigError: neither `data.eval` nor a share of the training problems is set, or the template or a generator
            does not fit.
    """
    if data.eval is None and (data.holdout is None or data.train is None):
        raise ConfigError(
            "data.eval is needed to evaluate and not set, for example --set data.eval.path=FILE; or hold out a share "
            "of the training problems: --set data.holdout=0.05."
        )
    wanted = data if data.eval is None else data.model_copy(update={"train": None})
    return load_splits(wanted, prompt, generators, 0, report, needs_answer=needs_answer).eval


def overlap_policy(data: DataConfig, source: SourceConfig) -> OverlapPolicy:
    """What happens to the source's problems that are evaluation problems: a generator makes some by chance, so that
    they are left out where others are refused."""
    return "drop" if source.generator is not None and data.overlap == "refuse" else data.overlap


@dataclass(frozen=True, slots=True)
class ProblemLoader:
    """Makes problems of rows."""

    prompt: PromptConfig
    generators: Mapping[str, Generator]
    report: RowReport
    """collects the rows of which none can be made"""
    needs_answer: bool = True
    """whether a row must have an answer"""

    def problems(self, source: SourceConfig, seed: int, section: str) -> tuple[Problem, ...]:
        """The problems of a source that a command uses: shuffled, the first `limit` of them.

        Raises:
            DataError: the source is missing, empty, or malformed as a whole.
            ConfigError: the template or a generator does not fit.
        """
        rows = ordered(self._rows(source, section), source, seed)
        return self._build(rows, source.limit, section, source.missing)

    def split(self, source: SourceConfig, seed: int, share: float) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
        """Problems to train on and held-out ones of the training data, each of those once; `limit` counts both.

        Raises:
            DataError, ConfigError: as `problems`.
        """
        everything = self._build(self._rows(source, "data.train"), None, "data.train", source.missing)
        examples = example_turns(self.prompt)
        train, held_out = split_items(everything, _identity, source, seed, share, examples, "data.train", self.report)
        return train, once(held_out, _identity, examples)

    def _rows(self, source: SourceConfig, section: str) -> list[Row]:
        with open_template(self.prompt) as template:
            names = template.names
        rows = load_rows(source, self.generators, section, self.report)
        return RowReader(section, source.columns, names, self.needs_answer, self.report).read(rows)

    def _build(
        self, rows: Iterable[Row], limit: int | None, section: str, missing: MissingPolicy
    ) -> tuple[Problem, ...]:
        with open_template(self.prompt, missing) as template:
            built = build(rows, limit, section, self.report, lambda row: self._problem(row, template, section), _texts)
        as_they_are = sum(isinstance(problem.fields.get("question"), list) for problem in built)
        if as_they_are and (ignored := _ignored_keys(self.prompt)):
            self.report.note(
                section,
                f"{section}: {as_they_are:,} of {len(built):,} prompts are messages, which are taken as they are: "
                f"{ignored} not apply to them.",
            )
        return tuple(built)

    def _problem(self, row: Row, template: Template, section: str) -> Problem:
        return Problem(
            row.id, conversation(row, self.prompt, template, section), self._answer(row, section), row.fields
        )

    def _answer(self, row: Row, section: str) -> str:
        value = row.fields.get("answer")
        if not self.needs_answer and (value is None or (isinstance(value, str) and not value.strip())):
            return ""
        return text_field(row, "answer", section)


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
        self._latest: tuple[int, tuple[T, ...]] = (-1, ())
        """the epoch that was asked for last, and its order: shuffling takes time that grows with the data, and is done
        once per epoch"""

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
        return self.epoch(epoch)[position * self._per_step : (position + 1) * self._per_step]

    def epoch(self, number: int) -> tuple[T, ...]:
        """All items in the order of an epoch, counted from 0."""
        if self._seed is None:
            return self._items
        if self._latest[0] != number:
            order = list(self._items)
            # a text seed: hashed by SHA-512, the same everywhere
            random.Random(f"{self._seed}:{number}").shuffle(order)
            self._latest = (number, tuple(order))
        return self._latest[1]


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
        self.mark()

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
        known, chosen = set(taken), list[Problem]()
        while len(chosen) < count and (problem := self.next(known)):
            known.add(problem.id)
            chosen.append(problem)
        return tuple(chosen)

    def observe(self, pass_rates: Mapping[str, float]) -> None:
        """Its order does not depend on how groups went."""

    @property
    def metrics(self) -> dict[str, float]:
        """It has no figures."""
        return {}

    def mark(self) -> None:
        """From now on `state` says where it is now."""
        self._marked = {"epoch": self._epoch, "position": self._position, "deferred": list(self._deferred)}

    def state(self) -> dict[str, Any]:
        """Where it was at the last `mark`, in JSON values."""
        return self._marked

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to where `state` was."""
        self._epoch, self._position, self._deferred = state["epoch"], state["position"], list(state["deferred"])
        self._order = self._stream.epoch(self._epoch)
        self.mark()


def open_template(prompt: PromptConfig, missing: MissingPolicy = "refuse") -> Template:
    """The template of the user message, sandboxed; a variable that the row does not have is an error.

    Args:
        missing: whether writing a null is an error, too, or writes nothing.

    Raises:
        ConfigError: it is not Jinja; the message has the line.
    """
    try:
        return Template(prompt.template, missing=missing)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(
            f"prompt.template, line {error.lineno}: not a Jinja template: {(error.message or '').rstrip('.')}."
        ) from None


def example_turns(prompt: PromptConfig) -> tuple[Message, ...]:
    """The worked examples of a task, as turns."""
    turns: list[Message] = []
    for example in prompt.examples:
        turns += [Message("user", example["user"]), Message("assistant", example["assistant"])]
    return tuple(turns)


def conversation(row: Row, prompt: PromptConfig, template: Template, section: str) -> tuple[Message, ...]:
    """The row's question as the policy is asked it: system message, worked examples, the template's user message; or
    the row's own messages as they are, where the question is a list of them.

    Raises:
        RowError: the question is empty, the template does not fit the row or makes an empty message of it, or the
            messages are none.
        ConfigError: the template takes more time or memory than one may.
    """
    plain = prompt.format == "plain"
    if isinstance(row.fields.get("question"), list):
        if plain:
            raise not_one_text(row.place)
        return opening_of(row, "question")
    if "question" in row.fields:
        text_field(row, "question", section)
    try:
        text = storable(template.render(plain_values(row.fields, prompt) if plain else row.fields))
    except jinja2.UndefinedError as error:
        match = re.match(r"'(\w+)' is (undefined|null)", error.message or "")
        missing = match[1] if match else "NAME"
        advice = f"Change the template, or say which field it is: --set {section}.columns.{missing}=FIELD."
        if match and match[2] == "null":
            advice = f"To write nothing in its place: --set {section}.missing=empty."
        raise RowError(
            row.place,
            f"prompt.template does not fit: {error.message}. The row has: {field_names(row.fields)}. {advice}",
            f"without {missing!r}, which prompt.template uses" if match else "that prompt.template does not fit",
        ) from None
    except UnboundedError as error:
        raise ConfigError(f"prompt.template fails on {row.place}: {error}.") from error
    except FailedError as error:
        raise RowError(row.place, f"prompt.template fails: {error}.", "on which prompt.template fails") from error
    if not text.strip():
        raise RowError(
            row.place, "prompt.template gives an empty message.", "of which prompt.template makes an empty message"
        )
    if plain:
        return (Message("user", text),)
    turns = [Message("system", prompt.system)] if prompt.system else []
    return (*turns, *example_turns(prompt), Message("user", text))


def _identity(problem: Problem) -> Problem:
    return problem


def _texts(problem: Problem) -> list[str]:
    """What makes a problem the same as another: what is asked and the reference. Without a reference a verifier reads
    other fields (tests, instructions), and any of them may tell the two apart, but for those that number the rows."""
    fields = {name: value for name, value in problem.fields.items() if not _NUMBERING.fullmatch(name)}
    reference = problem.answer or to_json(fields)
    return [*(f"{message.role}: {message.content}" for message in problem.messages), reference]


def _ignored_keys(prompt: PromptConfig) -> str:
    """The keys of the prompt that say something about a task's own questions, with a verb."""
    named = [
        f"prompt.{key}"
        for key, value in prompt
        if value != type(prompt).model_fields[key].get_default(call_default_factory=True)
    ]
    return "" if not named else f"{' and '.join(named)} {'does' if len(named) == 1 else 'do'}"
