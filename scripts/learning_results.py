"""What bench_learning.py finds: lines of a file, and the page that is written from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from scripts.harness import spread
from scripts.learning_clock import first_passing

Side = Literal["ours", "trl"]
SIDES: tuple[Side, ...] = ("ours", "trl")
NAMES: Mapping[Side, str] = {"ours": "reasoner", "trl": "TRL"}


@dataclass(frozen=True, slots=True)
class Learnt:
    """One side with one seed: a line of the results."""

    side: Side
    seed: int
    setting: str
    """hash of what both sides are given: results of different settings are not mixed"""
    start_s: float
    """seconds until the first step began: imports, loading, the sampler's start"""
    ends_s: tuple[float, ...]
    """seconds from the start of the process to the end of each step"""
    right: tuple[float, ...]
    """share of right responses of each step's samples"""
    tokens: int
    """sampled in all steps"""
    before: float
    """greedy accuracy of the initial model on the held-out problems"""
    after: float
    """of the weights after equal time"""
    others: float
    """share of the processor that other processes took meanwhile"""

    def passing(self, window: int, target: float) -> int | None:
        """The step whose running mean is the first above the target."""
        return first_passing(self.right, window, target)

    def passing_s(self, window: int, target: float) -> float | None:
        """Seconds until then."""
        step = self.passing(window, target)
        return None if step is None else self.ends_s[step - 1]

    @property
    def step_s(self) -> float:
        """Seconds of a step in the middle of their order."""
        begins = (self.start_s, *self.ends_s[:-1])
        return median(end - begin for begin, end in zip(begins, self.ends_s, strict=True))


def read(file: Path, setting: str) -> list[Learnt]:
    """The results with that setting so far."""
    if not file.exists():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        Learnt(**{**row, "ends_s": tuple(row["ends_s"]), "right": tuple(row["right"])})
        for row in rows
        if row["setting"] == setting
    ]


def add(file: Path, learnt: Learnt) -> None:
    """One more line of results."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(learnt)) + "\n")


def page(done: Sequence[Learnt], setting: Mapping[str, Any]) -> str:
    """The page.

    Args:
        setting: what both sides were given.
    """
    window, target, mark = setting["window"], setting["target"], setting["mark_s"] / 60
    pairs = [
        (ours, trl)
        for ours in done
        if ours.side == "ours"
        for trl in done
        if (trl.side, trl.seed) == ("trl", ours.seed)
    ]
    lines = [
        "# Time to accuracy",
        "",
        "`scripts/bench_learning`: one-step word problems as `reasoner run math-gsm8k --profile laptop` trains on, "
        f"next to TRL {setting['trl']} `GRPOTrainer`, in turns on the same machine. Both have the same model, problems "
        "in the same order, prompts (equal token by token), verifiers, "
        f"{setting['problems_per_step']} problems x {setting['group_size']} responses of up to "
        f"{setting['max_tokens']} tokens a step at temperature {setting['temperature']:g}, GRPO with clip "
        f"{setting['clip']:g} and no KL term, AdamW with learning rate {setting['learning_rate']:g}. Ours samples with "
        "vLLM, TRL with transformers: its vLLM modes need CUDA. Seconds count from the start of each process, with "
        "imports, loading and our check of the sampler, without evaluation."
        + (f" TRL's further settings: `{json.dumps(setting['trl_options'])}`." if setting["trl_options"] else ""),
        "",
        f"**Time until the mean share of right training samples over the last {window} steps passes {target:.0%}:** "
        f"{_verdict(pairs, setting)}",
        "",
        f"| seed | | until the first step | a step | steps to {target:.0%} | **time to {target:.0%}** | "
        f"accuracy before | **after {mark:g} min** | other work |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in sorted(done, key=lambda learnt: (learnt.seed, learnt.side)):
        step, seconds = each.passing(window, target), each.passing_s(window, target)
        reached = f"{step} | **{seconds:.0f} s**" if seconds is not None else f"- | not in {each.ends_s[-1]:.0f} s"
        lines.append(
            f"| {each.seed} | {NAMES[each.side]} | {each.start_s:.0f} s | {each.step_s:.1f} s | {reached} | "
            f"{each.before:.1%} | **{each.after:.1%}** | {each.others:.0%} |"
        )
    lines += [
        "",
        f"Accuracy: greedy, on {setting['held_out']} problems of held-out kinds of stories, with the weights of the "
        f"last step that ended within {mark:g} minutes. Other work: share of the processor that other processes took "
        "meanwhile.",
    ]
    if pairs:
        gains = [ours.after - trl.after for ours, trl in pairs]
        lines.append(
            f"After {mark:g} minutes ours is {100 * fmean(gains):+.1f} points from TRL's on average "
            f"({', '.join(f'{100 * gain:+.1f}' for gain in gains)})."
        )
    return "\n".join(lines)


def _verdict(pairs: Sequence[tuple[Learnt, Learnt]], setting: Mapping[str, Any]) -> str:
    """The ratio of the times, and of what it is made of."""
    if not pairs:
        return "no seed is finished on both sides."
    window, target = setting["window"], setting["target"]
    ratios, bounds = [], []
    for ours, trl in pairs:
        mine, theirs = ours.passing_s(window, target), trl.passing_s(window, target)
        if mine is not None and theirs is not None:
            ratios.append(mine / theirs)
        elif mine is not None:
            bounds.append(mine / trl.ends_s[-1])
    steps = spread([ours.step_s / trl.step_s for ours, trl in pairs], ".2f")
    parts = []
    if len(ratios) == 1:
        parts.append(f"{ratios[0]:.2f} of TRL's with one seed")
    elif ratios:
        parts.append(f"{spread(ratios, '.2f')} of TRL's (median and range over {len(ratios)} seeds)")
    parts += [f"below {bound:.2f} with one where TRL did not pass it" for bound in bounds]
    if missing := len(pairs) - len(ratios) - len(bounds):
        parts.append(f"not passed by ours with {missing} of {len(pairs)} seeds")
    return f"{'; '.join(parts)}. One step alone takes {steps} of TRL's."
