"""The summary at the end of a run: what changed, by how much beyond noise, where the time went, what to do next."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite, nan
from textwrap import fill

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reasoner.evaluation.examples import TURN_MARK, Example, shortened
from reasoner.evaluation.metrics import Criterion, Difference, Evaluation, compare, is_held_out, task_of
from reasoner.evaluation.training_gate import TrainingGate
from reasoner.io.terminal import SafeConsole
from reasoner.monitoring.alarms import Warned
from reasoner.monitoring.format import Direction, duration, interval, sparkline, thirds
from reasoner.monitoring.lines import figure, label, size
from reasoner.monitoring.metrics import headline
from reasoner.monitoring.view import Summary

WIDTH = 80
SIGNIFICANT = 0.05
"""corrected p-value below which a change is more than noise, where several tasks are compared"""
TREND = 20
"""characters"""
_UNBOUNDED = 1000
"""columns in which any table fits"""

_MARGIN = 18
"""columns before a response: what it is, and whether it is right"""
_RAGGED = 8
"""columns of a line that may stay empty because a word does not fit"""

_CAME_BACK = f"{TURN_MARK[0]}[^{TURN_MARK[1]}]*{TURN_MARK[1]}?"
"""what a tool or the environment said in a response with turns"""
_FAILED = f"{TURN_MARK[0]}[^{TURN_MARK[1]}:]* failed: [^{TURN_MARK[1]}]*{TURN_MARK[1]}?"

PHASES = {
    "time/sample": "sampling",
    "time/score_wait": "waiting for scores",
    "time/update": "update",
    "time/handover": "hand-over",
    "time/check": "log-probability check",
    "time/checkpoint": "checkpoints",
}

REST, ELSE = "rest of the steps", "everything else"

SAID: Mapping[Direction, str] = {
    "rose": "rose",
    "fell": "fell",
    "within noise": "stayed within noise",
    "too few steps": "had too few steps to tell",
}


def print_summary(console: Console, summary: Summary, ascii_only: bool) -> None:
    """Print the summary; readable at 80 columns."""
    differences = compare(*summary.evaluations) if summary.evaluations else []
    console.print()
    accuracy, *others = verdicts(summary.correct, summary.history, summary.evaluations) or [""]
    if summary.evaluations and (summary.evaluations[1].samples or summary.evaluations[1].tasks):
        console.print(Text(fill(accuracy, console.width), style="bold"), end="\n\n")
    else:
        others = [line for line in (accuracy, *others) if line]
    for line in (*others, *gate_lines(summary.gate), *_warnings(summary.warnings)):
        console.print(Text(fill(line, console.width, initial_indent="- ", subsequent_indent="  ")))
    for text in _examples(summary.examples, console.width, ascii_only):
        console.print(text)
    if summary.evaluations:
        table = _evaluation_table(*summary.evaluations, differences, ascii_only, bounds=True)
        if console.measure(table, options=console.options.update(width=_UNBOUNDED)).maximum > console.width:
            table = _evaluation_table(*summary.evaluations, differences, ascii_only, bounds=False)
        console.print(table)
    console.print(_training_table(summary.history, ascii_only))
    console.print(_time_table(summary, ascii_only))
    worked = sum(metrics.get("score/seconds", 0.0) for metrics in summary.history)
    if worked >= 1.0:
        console.print(f"Scoring took {duration(worked)} in workers; all but the wait overlapped with sampling.")
    console.print()
    for name, value in _places(summary):
        # Paths and commands stay on one line: they are there to be copied.
        console.print(Text(f"{name}:", style="bold"))
        console.print(Text(f"  {value}"), soft_wrap=True)


def gate_lines(gate: TrainingGate | None) -> list[str]:
    """What the gate before training found, in sentences."""
    return [] if gate is None else [*gate.sentence.splitlines(), *gate.advice.splitlines()]


def _examples(examples: Sequence[Example], width: int, ascii_only: bool) -> Iterable[Text]:
    """Responses before and after training; each takes two lines at most, its beginning and its end."""
    if examples:
        yield Text("\nResponses to evaluation problems, before and after training", style="bold")
    for number, example in enumerate(examples, 1):
        yield Text(f"{number}. {example.kind}")
        reference = f" (answer: {shortened(example.answer, 40)})" if example.answer else ""
        right = {True: ("right", "green"), False: ("wrong", "red")}
        for name, text, (verdict, style) in (
            ("problem", f"{shortened(example.question, 3 * (width - _MARGIN) - len(reference))}{reference}", ("", "")),
            ("before", example.before, right[example.right_before]),
            ("after", example.after, right[example.right_after]),
        ):
            shown = shortened(text, 2 * (width - _MARGIN - _RAGGED)) if verdict else text
            for mark, plain in zip(TURN_MARK, "[]", strict=True) if ascii_only else ():
                shown = shown.replace(mark, plain)
            shown = shown.encode("ascii", "replace").decode() if ascii_only else shown
            margin = f"   {name:<8}{verdict:<7}"
            folded = fill(shown or "(nothing)", width, initial_indent=margin, subsequent_indent=" " * _MARGIN)
            response = Text(folded.removeprefix(margin))
            response.highlight_regex(_CAME_BACK, "cyan")
            response.highlight_regex(_FAILED, "red")
            yield Text(margin, style=style) + response


def as_text(summary: Summary, ascii_only: bool) -> str:
    """The summary without colours, 80 columns wide."""
    buffer = io.StringIO()
    console = SafeConsole(buffer, width=WIDTH, plain=True)
    print_summary(console, summary, ascii_only)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def verdicts(
    correct: str, history: Sequence[Mapping[str, float]], evaluations: tuple[Evaluation, Evaluation] | None
) -> list[str]:
    """What a run achieved, in plain sentences.

    Args:
        correct: what makes a response correct (`Summary.correct`).
        history: the metrics of every step.
        evaluations: before and after training.
    """
    differences = compare(*evaluations) if evaluations else ()
    return [
        *(_accuracies(correct, evaluations[1], differences) if evaluations else []),
        *_group_sentence("In the evaluation", ((_short(d.name), _direction(d)) for d in differences if _is_reward(d))),
        *_group_sentence(
            "On held-out rows", ((_short(d.name), _direction(d)) for d in differences if is_held_out(d.name))
        ),
        *_group_sentence("Over the training steps", _training(history)),
    ]


def _warnings(warnings: Sequence[Warned]) -> Iterable[str]:
    """The first of each kind, with how often it came again."""
    for name in dict.fromkeys(warned.name for warned in warnings):
        first, *later = (warned for warned in warnings if warned.name == name)
        repeats = f" and {len(later)} more time{'s' if len(later) > 1 else ''}" if later else ""
        yield f"Warning at step {first.step}{repeats}: {first.what}."


def _accuracies(correct: str, after: Evaluation, differences: Sequence[Difference]) -> Iterable[str]:
    """One sentence, and with several tasks another one for each of them."""
    if after.samples:
        own = [difference for difference in differences if not task_of(difference.name)[0]]
        yield _accuracy(_criterion(after) if after.tasks else correct, after, own)
    for name, task in after.tasks.items():
        of_task = [
            replace(difference, name=task_of(difference.name)[1])
            for difference in differences
            if task_of(difference.name)[0] == name
        ]
        yield f"{name}: {_accuracy(_criterion(task), task, of_task)}"


def _criterion(evaluation: Evaluation) -> str:
    if not evaluation.correct:
        return "the reward of each task"
    return str(Criterion(evaluation.correct, evaluation.threshold))


def _accuracy(correct: str, after: Evaluation, differences: Sequence[Difference]) -> str:
    """`Accuracy on the 128 evaluation problems rose from 28.1% before training to 57.0% after it: ...`"""
    name = f"avg@{after.samples}"
    difference_ = next((difference for difference in differences if difference.name == name), None)
    if difference_ is None:
        return f"Accuracy ({correct}) could not be compared: no problem has a verdict before and after."
    judged = (
        f"{difference_.problems} of {after.problems}"
        if difference_.problems < after.problems
        else str(difference_.problems)
    )
    plural = "" if after.problems == 1 else "s"
    within_noise = difference_.within_noise if difference_.holm is None else difference_.holm >= SIGNIFICANT
    direction = "went" if within_noise else "rose" if difference_.change > 0 else "fell"
    bounds = "" if difference_.low is None or difference_.high is None else _bounds(difference_.low, difference_.high)
    noise = "within noise: this run does not show a change" if within_noise else "more than noise"
    if difference_.holm is not None:
        noise = f"p = {difference_.holm:.2g} after Holm's correction for the tasks, {noise}"
    samples = f", {after.samples} responses each" if after.samples > 1 else ""
    change = f"{100 * difference_.change:+.1f} points{bounds}, {noise}"
    return (
        f"Accuracy on the {judged} evaluation problem{plural} {direction} from {100 * difference_.before:.1f}% before "
        f"training to {100 * difference_.after:.1f}% after it: {change}. ({correct} decides what is right{samples}.)"
    )


def _bounds(low: float, high: float) -> str:
    return f" (95% interval {100 * low:+.1f} to {100 * high:+.1f})"


def _group_sentence(where: str, named: Iterable[tuple[str, Direction]]) -> list[str]:
    """`Where, a and b rose; c stayed within noise.`"""
    by_direction: dict[Direction, list[str]] = {}
    for name, direction in named:
        by_direction.setdefault(direction, []).append(name)
    parts = [f"{_join_names(names)} {SAID[direction]}" for direction, names in by_direction.items()]
    return [f"{where}, {'; '.join(parts)}."] if parts else []


def _join_names(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _training(history: Sequence[Mapping[str, float]]) -> Iterable[tuple[str, Direction]]:
    return ((label(name), thirds(_column(history, name))[2]) for name in _headline(history))


def _direction(difference: Difference) -> Direction:
    if difference.within_noise:
        return "within noise"
    return "rose" if difference.change > 0 else "fell"


def _is_reward(difference: Difference) -> bool:
    return task_of(difference.name)[1].startswith("reward")


def _short(name: str) -> str:
    """A figure, under a title that says what is held out."""
    return figure(name).removeprefix("held-out ")


def _headline(history: Sequence[Mapping[str, float]]) -> list[str]:
    return headline(dict.fromkeys(name for metrics in history for name in metrics))


def _column(history: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [metrics.get(name, nan) for metrics in history]


def _table(title: str, ascii_only: bool) -> Table:
    style = box.ASCII2 if ascii_only else box.SIMPLE_HEAD
    return Table(
        title=f"\n{title}", title_justify="left", title_style="bold", box=style, show_edge=False, pad_edge=False
    )


def _evaluation_table(
    before: Evaluation, after: Evaluation, differences: Sequence[Difference], ascii_only: bool, bounds: bool
) -> Table:
    """`bounds`: whether there is room for the intervals of before and after beside that of the change."""
    measured = size(after)
    table = _table(f"Evaluation{f' on {measured}' if measured else ''} [95% interval]", ascii_only)
    table.add_column("", overflow="fold")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right", no_wrap=True)
    for difference in differences:
        old, new = before.find(difference.name), after.find(difference.name)
        if old is not None and new is not None:
            table.add_row(
                _short(difference.name),
                *(interval(e.value, *((e.low, e.high) if bounds else (None, None)), e.unit) for e in (old, new)),
                interval(difference.change, difference.low, difference.high, difference.unit, signed=True),
                style=None if difference.within_noise else "bold",
            )
    return table


def _training_table(history: Sequence[Mapping[str, float]], ascii_only: bool) -> Table:
    names = _headline(history)
    title = "Training reward" if "reward/mean" in names else "Training"
    table = _table(f"{title} over {len(history)} steps", ascii_only)
    table.add_column("", overflow="fold")
    for column in ("first third", "last third"):
        table.add_column(column, justify="right")
    table.add_column("every step")
    table.add_column("")
    for name in names:
        values = _column(history, name)
        first, last, direction = thirds(values)
        table.add_row(label(name), f"{first:.3f}", f"{last:.3f}", sparkline(values, TREND, ascii_only), direction)
    return table


def time_by_phase(
    history: Sequence[Mapping[str, float]], set_up_s: float, evaluation_s: float, total_s: float
) -> dict[str, float]:
    """Where the time of a run went, seconds by phase, in the order in which it is shown; the sum is `total_s`."""
    parts = {"set-up": set_up_s}
    for name, phase in PHASES.items():
        if any(name in metrics for metrics in history):
            parts[phase] = _total(history, name)
    parts[REST] = max(0.0, _total(history, "time/total") - sum(parts.values()) + set_up_s)
    parts["evaluation"] = evaluation_s
    parts[ELSE] = max(0.0, total_s - sum(parts.values()))
    return {phase: seconds for phase, seconds in parts.items() if seconds > 0.0}


def _total(history: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(value for metrics in history if isfinite(value := metrics.get(name, nan)))


def _time_table(summary: Summary, ascii_only: bool) -> Table:
    parts = time_by_phase(summary.history, summary.set_up_s, summary.evaluation_s, summary.total_s)
    table = _table("Where the time went", ascii_only)
    table.add_column("")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    for phase, seconds in parts.items():
        table.add_row(phase, duration(seconds), f"{100 * seconds / summary.total_s:.0f}%")
    table.add_row("total", duration(summary.total_s), "", style="bold")
    return table


def _places(summary: Summary) -> Iterable[tuple[str, str]]:
    yield "Run folder", str(summary.run_folder)
    yield "Trained model", str(summary.model_folder)
    yield from summary.next_commands.items()
