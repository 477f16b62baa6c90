"""Saved responses scored again with other rewards, next to what they got.

    rollouts --by file and step--> batches of groups --score--> the same groups, scored anew --compare--> Comparison

Credit is that of the first term that reads online groups, recomputed from the old and the new rewards alike, per step
as in a run. Evaluation responses have none.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby
from pathlib import Path
from statistics import fmean

from reasoner.config import Config, SamplingConfig
from reasoner.errors import DataError, UserError
from reasoner.evaluation.metrics import Criterion, listed_criteria, pass_rates
from reasoner.gro.spec.registry import Algorithms
from reasoner.gro.spec.terms import Term
from reasoner.io.bounded_files import SMALL_BYTES, is_folder, is_there, read_bytes
from reasoner.io.parquet import read_parquet
from reasoner.io.serialization import read_jsonl
from reasoner.loading import Resolved, load_config
from reasoner.records import Batch, Component, Group, Rollout, ScoredGroup
from reasoner.runs.find import find_run
from reasoner.scoring.base import CaseProgress, Scorer, verdict_text

CONFIG = "config.toml"
SUFFIXES = (".parquet", ".jsonl")


@dataclass(frozen=True, slots=True)
class SavedBatch:
    """The saved responses of one step, or of one evaluation."""

    step: int
    training: bool
    """False: of an evaluation, which gives no credit"""
    groups: tuple[ScoredGroup, ...]
    """as they were scored"""


@dataclass(frozen=True, slots=True)
class RescoredResponse:
    """One response under the old and the new rewards."""

    step: int
    training: bool
    problem: str
    sample: int
    """index of the response in its group, from 0"""
    old: float | None
    """total reward; None: abstained"""
    new: float | None
    old_values: Mapping[str, float | None]
    """value by reward source, before weighting; None: not applicable, or failed"""
    new_values: Mapping[str, float | None]
    old_credit: float | None
    """None: an evaluation, or the credit cannot be recomputed"""
    new_credit: float | None
    note: str
    """what the new verdicts say of it"""

    @property
    def size(self) -> float:
        """How far the total reward moved; infinite where only one of them abstained."""
        if self.old is None or self.new is None:
            return 0.0 if self.old is self.new else float("inf")
        return abs(self.new - self.old)


@dataclass(frozen=True, slots=True)
class ComponentChange:
    """One reward source, or the total, over all responses."""

    name: str
    old_mean: float | None
    """over the responses that have a value; None: none has one"""
    new_mean: float | None
    changed: int
    """responses with another value, or with one where there was none"""


@dataclass(frozen=True, slots=True)
class Correctness:
    """How many responses are correct, as a mean over the groups that both scorings judged."""

    correct: str
    """what makes a response correct: `math`"""
    old: float
    """share of the correct responses"""
    new: float
    groups: int
    """judged by both"""


@dataclass(frozen=True, slots=True)
class Rescoring:
    """All responses, scored again."""

    changes: tuple[RescoredResponse, ...]
    groups: int
    reordered: int
    """groups in which some pair of responses compares differently: better, equal, worse, or not to compare because one
    abstained"""
    components: tuple[ComponentChange, ...]
    no_credit: str
    """why credit was not recomputed; empty: it was"""
    correctness: Correctness | None = None
    """None: nothing decides what is correct, or no group was judged by both"""
    failures: Mapping[str, int] = field(default_factory=dict)
    """failed calls by reward source, in the new scoring"""

    @property
    def credits(self) -> int:
        """Responses with an old and a new credit."""
        return sum(change.old_credit is not None and change.new_credit is not None for change in self.changes)

    @property
    def turned(self) -> int:
        """Responses whose credit has another sign; 0 counts as a sign of its own."""
        return sum(
            _sign(change.old_credit) != _sign(change.new_credit)
            for change in self.changes
            if change.old_credit is not None and change.new_credit is not None
        )

    def largest(self, count: int) -> list[RescoredResponse]:
        """The responses whose reward moved most, largest first."""
        moved = [change for change in self.changes if change.size > 0]
        return sorted(moved, key=lambda change: -change.size)[:count]


def saved_path(name: str) -> Path:
    """The folder or file of rollouts that a user means: what is there of that name, else the run that begins so.

    Raises:
        UserError: there is neither, or several runs begin so.
    """
    path = Path(name).expanduser()
    return path if is_there(path) or path.suffix in SUFFIXES else find_run(name)


def load_saved(path: Path) -> list[SavedBatch]:
    """The responses of a run folder, or of one file of rollouts (.parquet or .jsonl).

    Raises:
        UserError: there is no such folder or file, or it holds no rollouts.
        DataError: a file is not what it should be.
    """
    files = _files(path)
    return [batch for file in files for batch in _batches(file, _read(file))]


def config_for(
    path: Path, config_files: Sequence[Path], sets: Sequence[str] = (), plugins: Sequence[str] = ()
) -> Resolved:
    """The configuration of the run that the responses are of, with `config_files` and `sets` laid over it.

    Raises:
        UserError: the run's configuration is not there, or the result is not a configuration.
        DataError: it cannot be read.
    """
    folders = [path] if path.is_dir() else [path.parent, path.parent.parent]
    own = next((folder / CONFIG for folder in folders if is_there(folder / CONFIG)), None)
    if own is not None:
        read_bytes(own, SMALL_BYTES)  # no link, no pipe: what names a configuration on the command line may be a link
        return load_config(own, config_files=config_files, sets=sets, plugins=plugins)
    if not config_files:
        raise UserError(
            f"there is no {CONFIG} beside {path}, which would name its rewards: give a task file or a complete "
            "configuration with --config FILE."
        )
    return load_config(config_files[0], config_files=config_files[1:], sets=sets, plugins=plugins)


def rescore(
    batches: Sequence[SavedBatch], scorer: Scorer, config: Config, algorithms: Algorithms, progress: CaseProgress
) -> Rescoring:
    """Score all batches again and compare.

    Raises:
        ScoringError: a source fails too often.
    """
    name, term = _first_online(config, algorithms)
    reason = _no_credit_reason(batches, term)
    criteria = _criteria(config)
    rates: list[tuple[float, float]] = []
    changes: list[RescoredResponse] = []
    reordered = done = 0
    failures: dict[str, int] = {}
    for batch in batches:
        fresh = score_in_order([scored.group for scored in batch.groups], scorer)
        done += sum(len(scored.rewards) for scored in fresh)
        progress(done)
        old_credits = new_credits = None
        if batch.training and term is not None and not reason:
            old_credits = _credits(name, term, batch.groups, config.sampling)
            new_credits = _credits(name, term, fresh, config.sampling)
        changes += _changes(batch, fresh, old_credits, new_credits)
        reordered += sum(
            _order(old.rewards) != _order(new.rewards) for old, new in zip(batch.groups, fresh, strict=True)
        )
        rates += _rates(criteria, batch.groups, fresh)
        for part in (part for scored in fresh for row in scored.components for part in row):
            if part.failure is not None:
                failures[part.source] = failures.get(part.source, 0) + 1
    groups = sum(len(batch.groups) for batch in batches)
    correctness = _correctness(listed_criteria(criteria), rates) if rates else None
    return Rescoring(tuple(changes), groups, reordered, _components(changes), reason, correctness, failures)


def _criteria(config: Config) -> dict[str, Criterion]:
    """What makes a response correct, by task; empty: nothing does."""
    if config.mixture or config.also:
        return Criterion.of_tasks(config)
    return {config.task: Criterion.of(config)} if config.evaluation else {}


def _rates(
    criteria: Mapping[str, Criterion], before: Sequence[ScoredGroup], after: Sequence[ScoredGroup]
) -> Iterator[tuple[float, float]]:
    """Shares of correct responses in each group that was judged both times."""
    for name, criterion in criteria.items():
        old, new = (
            pass_rates([group for group in groups if len(criteria) == 1 or group.group.problem.part == name], criterion)
            for groups in (before, after)
        )
        yield from ((rate, new[problem]) for problem, rate in old.items() if problem in new)


def _correctness(correct: str, rates: Sequence[tuple[float, float]]) -> Correctness:
    old, new = (fmean(column) for column in zip(*rates, strict=True))
    return Correctness(correct, old, new, len(rates))


def score_in_order(groups: Sequence[Group], scorer: Scorer) -> tuple[ScoredGroup, ...]:
    """The groups scored, in their order; each problem has one.

    Raises:
        ScoringError: a source fails too often.
    """
    by_problem = {scored.group.problem.id: scored for scored in scorer.score(groups)}
    return tuple(by_problem[group.problem.id] for group in groups)


def _files(path: Path) -> list[Path]:
    if is_folder(path):
        files = sorted((path / "rollouts").glob("*.parquet"))
        if not files:
            raise UserError(f"{path} has no saved responses: there is no {path / 'rollouts'}/*.parquet.")
        return files
    if not is_there(path):
        raise UserError(f"there is no file {path.absolute()}.")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is not a file of rollouts, which ends in {' or '.join(SUFFIXES)}.")
    return [path.resolve()]


def _read(file: Path) -> list[Rollout]:
    rollouts = read_parquet(file, Rollout) if file.suffix == ".parquet" else read_jsonl(file, Rollout)
    if not rollouts:
        raise DataError(f"{file} holds no rollouts.")
    return rollouts


def _batches(file: Path, rollouts: Sequence[Rollout]) -> Iterator[SavedBatch]:
    for (step, training), rows in groupby(rollouts, key=lambda rollout: (rollout.step, rollout.training)):
        by_problem: dict[str, list[Rollout]] = {}
        for row in rows:
            by_problem.setdefault(row.problem.id, []).append(row)
        for id_, group in by_problem.items():
            if [row.sample for row in group] != list(range(len(group))):
                raise DataError(
                    f"{file}, step {step}: the samples of problem {id_!r} must be counted from 0 without gaps, got "
                    f"{[row.sample for row in group]}."
                )
        yield SavedBatch(step, training, tuple(_group(group) for group in by_problem.values()))


def _group(rows: Sequence[Rollout]) -> ScoredGroup:
    first = rows[0]
    group = Group(first.problem, first.prompt_ids, tuple(row.response for row in rows))
    return ScoredGroup(group, tuple(row.components for row in rows), tuple(row.reward for row in rows))


def _first_online(config: Config, algorithms: Algorithms) -> tuple[str, Term | None]:
    for name, configured in config.gro.terms.items():
        if configured.source == "online":
            return name, algorithms.bind(configured.term)
    return "", None


def _no_credit_reason(batches: Sequence[SavedBatch], term: Term | None) -> str:
    """What is missing to recompute credit; empty: nothing. Run folders keep rewards, not annotations."""
    training = [batch for batch in batches if batch.training]
    sizes = [{len(scored.rewards) for scored in batch.groups} for batch in training]
    if term is None:
        return "no term reads online groups"
    if not training:
        return "these are responses of evaluations"
    if term.needs_critic:
        return "it needs a critic's values, which are not saved"
    if term.needs_teacher:
        return "it needs a teacher's log-probabilities, which are not saved"
    if term.needs_greedy:
        return "it needs the rewards of greedy responses, which are not saved"
    if term.kl.coefficient > 0.0 and term.kl.place == "reward":
        return "its KL penalty needs the reference policy, whose log-probabilities are not saved"
    if any(len(lengths) > 1 for lengths in sizes):
        return "the groups have different sizes"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    return ""


def _credits(name: str, term: Term, groups: Sequence[ScoredGroup], sampling: SamplingConfig) -> tuple[float, ...]:
    """(R,) as the update stage computes it; 0 in the groups that `sampling.refills` drops before it."""
    from reasoner.training.update import ActiveTerm, Prepared

    kept = tuple(scored for scored in groups if scored.informative or not sampling.refills)
    if not kept:
        return (0.0,) * sum(len(scored.rewards) for scored in groups)
    values = iter(Prepared.of(Batch(kept), [ActiveTerm(name, term, 1.0)], sampling.max_tokens).credits)
    return tuple(
        next(values) if scored.informative or not sampling.refills else 0.0 for scored in groups for _ in scored.rewards
    )


def _changes(
    batch: SavedBatch,
    fresh: Sequence[ScoredGroup],
    old_credits: Sequence[float] | None,
    new_credits: Sequence[float] | None,
) -> Iterator[RescoredResponse]:
    row = 0
    for old, new in zip(batch.groups, fresh, strict=True):
        for sample in range(len(old.rewards)):
            before, after = old.components[sample], new.components[sample]
            yield RescoredResponse(
                step=batch.step,
                training=batch.training,
                problem=old.group.problem.id,
                sample=sample,
                old=old.rewards[sample],
                new=new.rewards[sample],
                old_values={part.source: part.value for part in before},
                new_values={part.source: part.value for part in after},
                old_credit=None if old_credits is None else old_credits[row],
                new_credit=None if new_credits is None else new_credits[row],
                note="; ".join(_notes(before, after)),
            )
            row += 1


def _notes(before: Sequence[Component], after: Sequence[Component]) -> Iterator[str]:
    """What the sources say whose verdict is another one now."""
    old = {part.source: part for part in before}
    for part in after:
        former = old.get(part.source)
        if former is None or (former.value, former.failure is None) != (part.value, part.failure is None):
            note = part.note or (former.note and f"no longer: {former.note}" if former else "")
            verdict_before = verdict_text(former) if former else "-"
            yield f"{part.source} {verdict_before} -> {verdict_text(part)}{f' ({note})' if note else ''}"
        elif former.weight != part.weight:
            yield f"{part.source} {verdict_text(part)}, weight {former.weight:g} -> {part.weight:g}"
    for source in old.keys() - {part.source for part in after}:
        yield f"{source} {verdict_text(old[source])} -> -"


def _order(rewards: Sequence[float | None]) -> list[int | None]:
    """How each pair of responses compares: 1 better, 0 equal, -1 worse, None where one abstained."""
    return [None if a is None or b is None else (a > b) - (a < b) for a, b in combinations(rewards, 2)]


def _components(changes: Sequence[RescoredResponse]) -> tuple[ComponentChange, ...]:
    names = dict.fromkeys(name for change in changes for name in (*change.old_values, *change.new_values))
    rows = [
        _component(name, [(change.old_values.get(name), change.new_values.get(name)) for change in changes])
        for name in names
    ]
    return (*rows, _component("total", [(change.old, change.new) for change in changes]))


def _component(name: str, pairs: Sequence[tuple[float | None, float | None]]) -> ComponentChange:
    changed = sum(old != new for old, new in pairs)
    return ComponentChange(name, _mean([old for old, _ in pairs]), _mean([new for _, new in pairs]), changed)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _sign(value: float | None) -> int | None:
    return None if value is None else (value > 0) - (value < 0)
