import contextlib
import io
import math
import os
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from reasoner.evaluation.examples import Example
from reasoner.evaluation.metrics import Criterion, Evaluation, estimate, summarise
from reasoner.evaluation.training_gate import judge_gate
from reasoner.monitoring import lines
from reasoner.monitoring.alarms import Warned
from reasoner.monitoring.choose import open_view
from reasoner.monitoring.format import Trend, _squeeze, duration, interval, number, sparkline, thirds
from reasoner.monitoring.live import LiveView
from reasoner.monitoring.metrics import METRICS, find, headline, sources, terms
from reasoner.monitoring.plain import PlainView
from reasoner.monitoring.step_metrics import idle_metrics
from reasoner.monitoring.summary import as_text, print_summary
from reasoner.monitoring.timer import StepTimeline, Timeline, Timer, joined
from reasoner.monitoring.view import Summary, View
from reasoner.records import Component, Group, Message, Problem, Response, ScoredGroup

STEPS = 12
WARNED = Warned(
    5, "entropy collapse", "entropy fell from 0.72 to 0.08 nats per token: the policy hardly explores any more", "Try x"
)
FACTS = {
    "task": "math-gsm8k, profile laptop",
    "model": "SmolLM2-135M-Instruct, 134.5M parameters, float32 (embedded)",
    "engine": "vllm 0.32.0 on cpu (auto: it can be imported)",
    "rewards": "math x 1.0, boxed_format x 0.5",
    "method": "grpo",
}
CONTROL = re.compile("\x1b\\[[0-9;?]*[A-Za-z]")


def metrics(step: int) -> dict[str, float]:
    rng = random.Random(step)
    boxed = min(0.9, 0.05 + 0.08 * step) + rng.uniform(-0.03, 0.03)
    math_ = rng.uniform(0.0, 0.04)
    return {
        "reward/mean": math_ + 0.5 * boxed,
        "reward/std": 0.3,
        "reward/math/mean": math_,
        "reward/math/failed": 0.0,
        "reward/boxed_format/mean": boxed,
        "reward/boxed_format/failed": 0.0,
        "reward/abstained": 0.0,
        "groups/no_credit": 0.25,
        "response/length_mean": 80.0 - step,
        "response/finished": 0.4 + 0.03 * step,
        "response/entropy": 0.9 / step,
        "gap/mean": 1.2e-5,
        "time/sample": 28.0,
        "time/score_wait": 0.2,
        "score/seconds": 3.1,
        "time/update": 11.0,
        "time/handover": 1.6,
        "time/check": 0.0,
        "time/total": 41.0,
        "update/applied": 1.0,
        "term/grpo/weight": 1.0,
        "term/grpo/loss": -0.01,
        "tokens_per_s/sample": 74.0,
        "memory/rss_gib": 5.3,
    }


def offline(step: int) -> dict[str, float]:
    """The metrics of a run without a sampler."""
    return {
        "term/dpo/weight": 1.0,
        "term/dpo/loss": 0.7 - 0.05 * step,
        "term/dpo/accuracy": 0.5 + 0.04 * step,
        "term/dpo/margin": 0.1 * step,
        "term/dpo/pairs": 8.0,
        "update/applied": 1.0,
        "time/update": 11.0,
        "time/total": 12.0,
        "memory/rss_gib": 5.3,
    }


def evaluation(right: int, boxed: int, problems: int = 48) -> Evaluation:
    return summarise([_scored(i, i < right, i < boxed) for i in range(problems)], 1, Criterion("math"))


def _scored(index: int, right: bool, boxed: bool) -> ScoredGroup:
    problem = Problem(f"p:{index}", (Message("user", "?"),), "4")
    length = 40 if boxed else 96
    response = Response("4", (1,) * length, (True,) * length, (-1.0,) * length, "stop" if boxed else "length", 0)
    components = (
        Component("math", 1.0, float(right), {"extracted": "4" if boxed else None}),
        Component("boxed_format", 0.5, float(boxed)),
    )
    return ScoredGroup(Group(problem, (1,), (response,)), (components,), (right + 0.5 * boxed,))


def summary(steps: int = STEPS, after: Evaluation | None = None) -> Summary:
    return Summary(
        task="math-gsm8k",
        correct="math",
        history=[metrics(step) for step in range(1, steps + 1)],
        warnings=[WARNED],
        evaluations=(evaluation(1, 4), after or evaluation(2, 40)),
        examples=(),
        gate=None,
        set_up_s=52.0,
        evaluation_s=80.0,
        total_s=52.0 + 80.0 + 41.0 * steps + 3.0,
        run_folder=Path("runs/20250131-120000-math-gsm8k"),
        model_folder=Path("runs/20250131-120000-math-gsm8k/model"),
        next_commands={"Evaluate it again": "reasoner eval math-gsm8k --set model.path=" + "x" * 70},
    )


def play(view: View, pause: Callable[[], None] = lambda: None) -> None:
    """A whole run's events."""
    with view:
        view.started(FACTS, STEPS)
        for done in range(0, 49, 16):
            view.stage("evaluation", done, 48)
            pause()
        view.evaluated("before training", evaluation(1, 4))
        for step in range(1, STEPS + 1):
            for done in range(0, 33, 8):
                view.stage("sampling", done, 32)
                pause()
            view.stage("update", 0, 0)
            pause()
            view.step(step, STEPS, metrics(step), warnings(step))
        view.message("the model is saved")
        view.finished(summary())


def warnings(step: int) -> list[Warned]:
    return [WARNED] if step >= WARNED.step else []


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_every_metric_of_the_demo_is_in_the_table() -> None:
    for name in metrics(1):
        assert find(name).unit
    assert find("reward/my/own/mean").name == "reward/<source>/mean"
    assert sources(metrics(1)) == ["math", "boxed_format"]
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_metrics_of_terms_go_by_any_name_that_a_term_has() -> None:
    assert find("term/raft->grpo/pairs").name == "term/<term>/pairs"
    assert find("term/my/own/loss").name == "term/<term>/loss"
    assert terms(["term/dpo/loss", "reward/mean", "term/sft/loss", "term/dpo/margin"]) == ["dpo", "sft"]


def test_the_headline_is_the_rewards_and_without_fresh_groups_how_the_terms_do() -> None:
    assert headline(metrics(1)) == ["reward/mean", "reward/math/mean", "reward/boxed_format/mean"]
    assert headline(offline(1)) == ["term/dpo/loss", "term/dpo/accuracy", "term/dpo/margin"]


@pytest.mark.parametrize(
    "name", ["reward/math/max", "response/lenght_mean", "reward/<source>/other", "term/grpo/los", "term/loss", ""]
)
def test_an_unknown_metric_is_refused(name: str) -> None:
    with pytest.raises(KeyError, match="there is no metric"):
        find(name)


def test_numbers_are_short_and_in_their_unit() -> None:
    assert [number(v, "share") for v in (0.254, 0.0251, 0.0, 1.0)] == ["25%", "2.5%", "0%", "100%"]
    assert number(1234.4, "tokens") == "1,234 tokens"
    assert number(1.234e-5, "nats") == "1.23e-05"
    assert number(math.nan, "share") == "nan"
    assert interval(0.125, 0.05912, 0.2471, "share") == "12.5% [5.9, 24.7]"
    assert interval(0.104, -0.021, 0.229, "share", signed=True) == "+10.4 [-2.1, +22.9]"
    assert interval(-0.00001, None, None, "reward", signed=True) == "+0.00"
    assert [duration(s) for s in (0.44, 9.96, 59.6, 365, 3723)] == ["0.4 s", "10.0 s", "1:00", "6:05", "1:02:03"]


@settings(deadline=None)
@given(
    values=st.lists(st.floats(-1e9, 1e9) | st.just(math.nan) | st.just(math.inf), max_size=200),
    width=st.integers(1, 60),
)
def test_a_trend_is_squeezed_as_the_series_is(values: list[float], width: int) -> None:
    trend = Trend(values)
    points, expected = trend.points(width), _squeeze(values, width)
    assert len(points) == len(expected)
    for point, mean in zip(points, expected, strict=True):
        assert point == pytest.approx(mean) if math.isfinite(mean) else math.isnan(point)
    if values:
        assert str((trend.first, trend.last)) == str((values[0], values[-1]))


@pytest.mark.parametrize("value", [0.1, 1e-8, 1 / 3, 123456.7])
def test_a_trend_that_does_not_move_is_flat(value: float) -> None:
    assert set(sparkline(Trend([value] * 997).points(24), 24)) == {"▄"}


def test_a_drawing_of_the_live_view_reads_no_step_but_the_last() -> None:
    """It is drawn several times a second."""

    class Counted(dict[str, float]):
        reads = 0

        def __getitem__(self, key: str) -> float:
            Counted.reads += 1
            return super().__getitem__(key)

        def get(self, key: str, default: Any = None) -> Any:
            Counted.reads += 1
            return super().get(key, default)

    reads = []
    for steps in (10, 1000):
        view = LiveView(Console(file=io.StringIO(), width=120), ascii_only=False)
        view.resumed([Counted(metrics(step)) for step in range(1, steps + 1)], [evaluation(1, 4)] * steps, steps)
        Counted.reads = 0
        view.render()
        reads.append(Counted.reads)
    assert reads[0] == reads[1]


def test_sparklines() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 7], 8, ascii_only=True) == "_@"
    assert sparkline([3, 3], 8) == "▄▄"
    assert sparkline([0, math.nan, 1], 8) == "▁ █"
    assert sparkline([math.nan], 8) == " "
    assert sparkline([], 8) == ""
    assert len(sparkline(list(range(100)), 24)) == 24


def test_thirds_tell_a_rise_from_noise() -> None:
    assert thirds([0.0, 0.1, 0.0, 0.5, 0.6, 0.9, 1.0, 0.9, 1.0])[2] == "rose"
    assert thirds([1.0, 0.9, 1.0, 0.5, 0.6, 0.1, 0.0, 0.1, 0.0])[2] == "fell"
    assert thirds([0.0, 0.5, 0.2, 0.1, 0.4, 0.2, 0.3, 0.1, 0.5])[2] == "within noise"
    assert thirds([0.0, 0.0, 1.0, 1.0]) == (0.0, 1.0, "too few steps")
    assert thirds([0.0, math.nan, 0.0, 0.0, 1.0, 1.0, 1.0])[:2] == (0.0, 1.0)
    assert thirds([])[2] == "too few steps"


def test_plain_lines_say_everything_without_control_codes() -> None:
    stream, log = io.StringIO(), io.StringIO()
    view = open_view(stream, lambda text: log.writelines(f"{text}\n"))
    play(view)
    text = stream.getvalue()
    assert "\x1b" not in text + log.getvalue()
    assert "engine   vllm 0.32.0" in text
    assert "evaluation before training: 48 problems, 1 response each" in text
    assert re.search(r"^step  7/12  reward 0\.\d+, math 0\.\d+, boxed_format .*left about 3:25$", text, re.MULTILINE)
    assert text.count("\nstep ") == STEPS
    assert text.count("WARNING at step 5: entropy fell from 0.72") == 1
    assert "any more.\n  Try x.\nstep  6/12" in text
    assert "the model is saved" in text
    assert "Where the time went" in text
    assert re.search(r"^waiting for scores +\| 2\.4 s", text, re.MULTILINE)
    assert "Scoring took 37 s in workers; all but the wait overlapped with sampling." in text


def test_a_quiet_stage_speaks_up_at_most_every_ten_seconds() -> None:
    clock, written = Clock(), list[str]()
    view = PlainView(written.append, ascii_only=True, clock=clock)
    for second in range(26):
        clock.now = float(second)
        view.stage("sampling", second, 32)
    clock.now = 40.0
    view.stage("update", 0, 0)
    assert written == ["  sampling 10/32", "  sampling 20/32", "  update ..."]


def test_what_must_not_happen_is_said() -> None:
    bad = metrics(3) | {"reward/math/failed": 0.5, "reward/abstained": 0.25, "update/applied": 0.0}
    line = lines.step(3, 12, [bad])
    assert line.endswith("math FAILED in 50% of its calls, 25% of the responses ABSTAINED, update NOT APPLIED")
    assert lines.alerts(metrics(3)) == []


def test_a_metric_that_is_missing_is_left_out() -> None:
    bare = {name: value for name, value in metrics(1).items() if not name.startswith(("gap/", "time/"))}
    line = lines.step(1, 12, [bare])
    assert "gap" not in line
    assert "left" not in line


def test_a_terminal_gets_the_live_view_and_the_log_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    terminal, log = Terminal(), io.StringIO()
    play(open_view(terminal, lambda text: log.writelines(f"{text}\n")))
    assert "\x1b[" in terminal.getvalue()
    assert "\x1b" not in log.getvalue()
    assert log.getvalue().count("\nstep ") == STEPS


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    play(open_view(terminal, lambda text: None))
    assert "\x1b" not in terminal.getvalue()


def test_an_output_without_unicode_gets_none() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    view = open_view(stream, lambda text: None)
    view.message("Aufgabe für später")
    play(view)
    stream.flush()
    assert b"Aufgabe f\\xfcr" in raw.getvalue()


def frame(
    columns: int, history: int, of: Callable[[int], dict[str, float]] = metrics, ascii_only: bool = False
) -> list[str]:
    """The live block after some steps with an evaluation before the first and after every third."""
    console = Console(width=columns, height=40, force_terminal=True, color_system=None, file=io.StringIO())
    view = LiveView(console, ascii_only)
    view.stage("sampling", 24, 32)
    for step in range(1, history + 1):
        if step == 1:
            view.started({}, STEPS)
        if of is metrics and step % 3 == 1:
            view.evaluated("", evaluation(step, 40))
        view.step(step, STEPS, of(step), warnings(step))
    with console.capture() as captured:
        console.print(view.render())
    return [line.rstrip() for line in CONTROL.sub("", captured.get()).splitlines()]


LIVE = """\
step       ━━━━━━━━━━━━━━            7/12 0:00:00 left about 3:25
sampling   ━━━━━━━━━━━━━━━━━━       24/32
last step  sampling 68%, update 27%, hand-over 4%
! since step 5: entropy fell from 0.72 to 0.08 nats per token: the policy hardl…
                           now         first   trend
──────────────────────────────────────────────────────
reward                   0.306         0.088   ▁▃▃▄▆██
math                     0.006         0.034   ▇█▅▁▆▇▁
boxed_format             0.599         0.108   ▁▃▃▅▆▇█
eval accuracy              15%          2.1%   ▁▅█
length               73 tokens     79 tokens   █▇▆▅▃▂▁
finished                   61%           43%   ▁▂▃▅▆▇█
entropy                  0.129           0.9   █▄▃▂▁▁▁
no-credit groups           25%           25%   ▄▄▄▄▄▄▄
gap                    1.2e-05       1.2e-05   ▄▄▄▄▄▄▄
speed              74 tokens/s   74 tokens/s   ▄▄▄▄▄▄▄
memory                 5.3 GiB       5.3 GiB   ▄▄▄▄▄▄▄"""


def test_the_live_block_at_80_columns() -> None:
    assert "\n".join(frame(80, 7)) == LIVE


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_live_block_fits(columns: int, ascii_only: bool) -> None:
    def busy(step: int) -> dict[str, float]:
        long = {"reward/a_name_that_is_far_too_long_for_a_table/mean": 0.5, "memory/device_gib": 71.3}
        return metrics(step) | long | {"reward/math/failed": 0.25, "tokens_per_s/sample": 123456.0}

    block = frame(columns, STEPS, busy, ascii_only)
    assert max(map(len, block)) <= columns
    text = "\n".join(block)
    for part in (
        "12/12",
        "24/32",
        "! math FAILED in 25%",
        "! since step 5: entropy fell",
        "123,456 tokens/s",
        "71.3 GiB",
    ):
        assert part in text, part
    assert "a_name_that_is" in text
    assert ("trend" in text) == (columns > 60)
    if ascii_only:
        assert "…" not in text


def test_the_live_block_before_the_first_step_has_no_table() -> None:
    (line,) = frame(80, 0)
    assert re.fullmatch(r"sampling   ━{18}\s+24/32", line)


def test_the_summary_fits_80_columns_and_copies_paths_whole() -> None:
    text = as_text(summary(), ascii_only=False)
    command = "reasoner eval math-gsm8k --set model.path=" + "x" * 70
    assert f"\n  {command}" in text
    assert max(len(line) for line in text.splitlines() if command not in line) <= 80
    flat = " ".join(text.split())
    assert flat.startswith(
        "Accuracy on the 48 evaluation problems went from 2.1% before training to 4.2% after it: +2.1 points (95% "
        "interval +0.0 to +6.2), within noise: this run does not show a change. (math decides what is right.)"
    )
    assert "In the evaluation, reward and boxed_format rose; math stayed within noise." in flat
    assert "Over the training steps, reward and boxed_format rose; math stayed within noise." in flat
    assert re.search(r"sampling\W+5:36\W+54%", flat)
    assert re.search(r"rest of the steps\W+2\.4 s", flat)
    assert re.search(r"everything else\W+3\.0 s", flat)
    assert "runs/20250131-120000-math-gsm8k/model" in flat
    assert "- Warning at step 5: entropy fell from 0.72 to 0.08 nats per token" in flat


def test_the_summary_at_60_columns_keeps_names_and_changes() -> None:
    console = Console(width=60, color_system=None, file=io.StringIO(), force_terminal=False)
    print_summary(console, summary(), ascii_only=False)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert re.search(r"^boxed_format\s+0\.08\s+0\.83\s+\+0\.75 \[\+0\.62, \+0\.88\]", text, re.MULTILINE)
    assert max(len(line.rstrip()) for line in text.splitlines() if "xxx" not in line) <= 60


def test_a_real_gain_is_called_more_than_noise() -> None:
    flat = " ".join(as_text(summary(after=evaluation(20, 40)), ascii_only=True).split())
    assert flat.startswith("Accuracy on the 48 evaluation problems rose from 2.1% ")
    assert "more than noise. (math decides what is right.)" in flat
    assert flat.isascii()
    lost = replace(summary(), evaluations=(evaluation(20, 40), evaluation(1, 40)))
    assert as_text(lost, ascii_only=True).split("\n")[1].startswith("Accuracy on the 48 evaluation problems fell from")


def test_the_summary_shows_responses_before_and_after_training() -> None:
    long = "He counts the apples one by one, " * 20
    examples = [
        Example(
            "Tom has 3 apples and buys 4. " * 12,
            "7",
            long,
            "3 + 4 = 7\n\nSo \\boxed{7} [/bold] é",
            False,
            True,
            47,
            128,
        ),
        Example("And 1 + 1?", "", "", "2", True, True, 1, 1),
    ]
    text = as_text(replace(summary(), examples=examples), ascii_only=False)
    shown = text[text.index("Responses to evaluation problems") : text.index("Evaluation on")]
    rows = shown.splitlines()
    assert max(map(len, rows)) <= 80
    assert "1. wrong before, right after: 47 of 128 problems" in rows
    assert "2. right before and after: 1 of 1 problem" in rows
    assert "   after   right  3 + 4 = 7 So \\boxed{7} [/bold] é" in rows
    assert "   before  right  (nothing)" in rows
    before = shown[shown.index("   before  wrong") : shown.index("   after   right")]
    assert before.count("\n") == 2
    assert " ... " in " ".join(before.split())
    assert shown.index("(answer: 7)") < shown.index("before  wrong")
    assert as_text(replace(summary(), examples=examples), ascii_only=True).isascii()
    assert "Responses to" not in as_text(summary(), ascii_only=False)


def test_the_summary_has_the_gate_and_its_warning() -> None:
    never = judge_gate([_scored(n, False, True) for n in range(8)], Criterion("math"), demonstrations=False)
    flat = " ".join(as_text(replace(summary(), gate=never), ascii_only=False).split())
    assert f"- {never.sentence} - {never.advice} " in flat
    assert "Before training" not in as_text(summary(), ascii_only=False)


def test_a_summary_of_a_single_step_works() -> None:
    text = as_text(summary(steps=1), ascii_only=False)
    assert "reward, math and boxed_format had too few steps to tell" in " ".join(text.split())


def test_an_evaluation_without_verdicts_is_said() -> None:
    nothing = replace(evaluation(0, 0), estimates=())
    text = " ".join(as_text(summary(after=nothing), ascii_only=False).split())
    assert "Accuracy (math) could not be compared" in text


def test_the_summary_with_colours_is_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    console = Console(width=80, height=40, force_terminal=True, file=io.StringIO())
    view = LiveView(console, ascii_only=False)
    view.finished(summary())
    assert isinstance(console.file, io.StringIO)
    plain = "\n".join(line.rstrip() for line in Text.from_ansi(console.file.getvalue()).plain.splitlines())
    assert as_text(summary(), ascii_only=False).strip() in plain


def offline_summary() -> Summary:
    history = [offline(step) for step in range(1, STEPS + 1)]
    return replace(summary(), history=history, evaluations=None, evaluation_s=0.0, total_s=52.0 + 12.0 * STEPS)


def test_a_run_without_a_sampler_is_summed_up_by_its_terms() -> None:
    text = as_text(offline_summary(), ascii_only=False)
    flat = " ".join(text.split())
    assert "Accuracy" not in text
    assert "Evaluation on" not in text
    assert "Over the training steps, dpo loss fell; dpo accuracy and dpo margin rose." in flat
    assert "Training over 12 steps" in flat
    assert re.search(r"update\W+2:12\W+67%", flat)


def test_a_run_without_a_sampler_shows_its_terms_while_it_runs() -> None:
    line = lines.step(2, STEPS, [offline(1), offline(2)])
    assert line == "step  2/12  dpo loss 0.6, dpo accuracy 58%, dpo margin 0.2, took 12 s, left about 2:00"
    block = "\n".join(frame(80, 7, offline))
    assert re.search(r"dpo accuracy\s+78%\s+54%\s+▁", block)
    assert "reward" not in block


def held_out(loss: float, right: float) -> Evaluation:
    """Of 40 pairs, with the loss of each around the mean."""
    pairs = {f"pairs:{n}": loss + 0.002 * (n % 5) for n in range(40)}
    accuracy = {name: float(n < 40 * right) for n, name in enumerate(pairs)}
    figures = (
        estimate("term/dpo/loss", "number", pairs, 1),
        estimate("term/dpo/accuracy", "share", accuracy, 1),
    )
    return Evaluation(0, 0, 0, figures, rows=40)


def test_held_out_rows_have_lines_a_summary_and_a_place_in_the_live_view() -> None:
    before, after = held_out(0.69, 0.5), held_out(0.52, 0.9)
    message = lines.evaluation("before training", before)
    assert message.splitlines()[0] == "evaluation before training: 40 held-out rows"
    assert "  held-out dpo loss    0.694 [0.693, 0.695]" in message
    made = replace(offline_summary(), correct="", evaluations=(before, after))
    text = as_text(made, ascii_only=False)
    flat = " ".join(text.split())
    assert "Accuracy" not in flat
    assert "On held-out rows, dpo loss fell; dpo accuracy rose." in flat
    assert "Evaluation on 40 held-out rows" in flat
    assert re.search(r"\ndpo accuracy\W+50\.0%\W+90\.0%", text)  # whole, in 80 columns
    assert re.search(r"\ndpo loss\W+0\.694\W+0\.524\W+0\.170 \[", text)
    assert max(len(line) for line in text.splitlines() if "model.path" not in line) <= 80
    console = Console(width=80, height=40, file=io.StringIO())
    view = LiveView(console, ascii_only=False)
    view.evaluated("before training", before)
    view.evaluated("after step 2", after)
    view.step(1, STEPS, offline(1), ())
    with console.capture() as shown:
        console.print(view.render())
    assert re.search(r"held-out dpo loss\s+0\.524\s+0\.694", shown.get())
    assert "eval accuracy" not in shown.get()


def test_how_many_problems_are_judged_is_said_where_not_all_are() -> None:
    whole = evaluation(20, 40)
    assert lines.size(whole) == "48 problems, 1 response each"
    scored = [_scored(n, n < 20, True) for n in range(48)]
    inapplicable = Component("math", 1.0, None)
    scored[24:] = [replace(each, components=((inapplicable, each.components[0][1]),)) for each in scored[24:]]
    part = summarise(scored, 1, Criterion("math"))
    assert lines.size(part) == "48 problems (24 of them judged), 1 response each"
    flat = " ".join(as_text(summary(after=part), ascii_only=False).split())
    assert flat.startswith(
        "Accuracy on the 24 of 48 evaluation problems rose from 4.2% before training to 83.3% after it: +79.2 points"
    )


def demo() -> None:
    """`python tests/unit/test_monitoring.py`: a run's events with pauses, to look at."""
    play(open_view(sys.stdout, lambda text: None), pause=lambda: time.sleep(0.1))


if __name__ == "__main__":
    demo()


def test_a_run_goes_on_when_nobody_reads_what_it_shows() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log: list[str] = []
    stream = os.fdopen(writer, "w", encoding="utf-8")
    with open_view(stream, log.append) as view:
        view.message("interrupted: to go on from step 1")
        view.message("and more")
    assert log == ["interrupted: to go on from step 1", "and more"]
    with contextlib.suppress(BrokenPipeError):  # what it held back
        stream.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.now = 100.0
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_a_timeline_knows_who_worked_when(clock: Clock) -> None:
    """One inside the other, two at a time, across the end of a step."""
    timeline = Timeline()
    timer = Timer(timeline)
    ahead = timeline("sampler")
    with timer("handover"):
        clock.now = 101.0
    ahead.__enter__()
    with timeline("environment"):
        clock.now = 102.0
        with timeline("environment"):
            clock.now = 103.0
        clock.now = 104.0
    with timer("sample"):  # the learner waits
        clock.now = 106.0
    with timer("update"), timer("check"):
        clock.now = 110.0
    first = timer.timeline(1)
    assert first == StepTimeline(
        1,
        10.0,
        {
            "sampler": ((1.0, 10.0),),
            "environment": ((1.0, 4.0),),
            "learner": ((6.0, 10.0),),
            "handover": ((0.0, 1.0),),
        },
    )
    assert idle_metrics(first, True) == pytest.approx({"idle/learner": 0.6, "idle/sampler": 0.1})
    assert idle_metrics(first, False) == pytest.approx({"idle/learner": 0.6})
    clock.now = 112.0  # an evaluation between the steps
    with timeline("scoring"):
        clock.now = 115.0
    second = Timer(timeline)
    clock.now = 117.0
    ahead.__exit__(None, None, None)
    with second("checkpoint"):
        clock.now = 119.0
    result = second.timeline(2)
    assert result.lanes == {"sampler": ((0.0, 2.0),), "checkpoint": ((2.0, 4.0),)}
    assert (result.seconds, result.busy("sampler"), result.busy("learner")) == (4.0, 0.5, 0.0)
    assert Timer(timeline).timeline(3).lanes == {}


def test_many_calls_are_one_span_and_what_is_inside_another_does_not_shorten_it(clock: Clock) -> None:
    timeline = Timeline()
    timer = Timer(timeline)
    for _ in range(1000):
        with timeline("environment"):
            clock.now += 0.01
        clock.now += 0.001
    (span,) = timer.timeline(1).lanes["environment"]
    assert span == pytest.approx((0.0, 10.999))
    assert joined([(0.0, 9.0), (1.0, 2.0), (9.001, 10.0)], 0.0, 10.0) == ((0.0, 10.0),)
    with pytest.raises(ValueError, match="without a timeline"):
        Timer().timeline(1)


def test_where_the_last_step_went_is_one_line() -> None:
    waited = metrics(3) | {"idle/sampler": 0.317, "idle/learner": 0.731}
    assert lines.whereabouts(waited) == "sampling 68%, update 27%, hand-over 4%; idle: sampler 32%, learner 73%"
    assert lines.whereabouts(metrics(3)) == "sampling 68%, update 27%, hand-over 4%"
    assert lines.whereabouts({}) == ""
    (line,) = [line for line in frame(80, 3, lambda step: waited) if line.startswith("last step")]
    assert line == "last step  sampling 68%, update 27%, hand-over 4%; idle: sampler 32%, learner 7…"


def test_calls_of_tools_have_their_place() -> None:
    turns = metrics(3) | {"tools/calls": 0.25, "tools/malformed": 0.5, "tools/failed": 0.0}
    assert "calls 0.25, malformed calls 50%, failed results 0%, finished" in lines.step(3, 12, [turns])
    block = "\n".join(frame(80, 3, lambda step: turns))
    assert re.search(r"^calls +0\.25 +0\.25", block, flags=re.MULTILINE)
    assert re.search(r"^malformed calls +50% +50%", block, flags=re.MULTILINE)
