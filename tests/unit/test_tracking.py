"""Trackers: which there are, what they are told, and that none of them can harm a run. Their libraries: integration."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict

from reasoner.errors import ConfigError, MissingDependencyError, UserError
from reasoner.evaluation.metrics import Estimate, Evaluation
from reasoner.io.redaction import without_secrets
from reasoner.loading import load_config, to_toml
from reasoner.monitoring.tracking import Trackers, check_trackers, preflight_trackers
from reasoner.planning.preflight import ready
from reasoner.plugins.events import Events
from reasoner.plugins.hookspecs import hookimpl
from reasoner.plugins.importing import PluginError
from reasoner.plugins.manager import build_manager, trackers
from reasoner.plugins.tracker_api import TrackedRun, TrackerKind

BUILT_IN = trackers(build_manager())


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: str = "km"


class Notebook:
    """A tracker that notes what it is told and fails at what it is told to fail at."""

    def __init__(self, fails_at: str = "") -> None:
        self.fails_at = fails_at
        self.noted: list[Any] = []

    def open(self, run: TrackedRun, options: Options) -> Notebook:
        self._note("open", run, options)
        return self

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._note("step", step, metrics)

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        self._note("evaluation", step, figures)

    def finish(self, state: str) -> None:
        self._note("finish", state)

    def _note(self, what: str, *values: Any) -> None:
        if what == self.fails_at:
            raise ValueError(f"no more room for {what}")
        self.noted.append((what, *values))


def kind(notebook: Notebook, preflight: Callable[[Any], str] = lambda options: f"in {options.unit}") -> TrackerKind:
    return TrackerKind("a notebook", Options, preflight, notebook.open)


def told(kinds: Mapping[str, TrackerKind], first_step: int = 1) -> list[str]:
    """Follow a short run; what was reported."""
    message: list[str] = []
    configured: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    events = Events(build_manager(), message.append, {"trackers": Trackers(configured, kinds, message.append)})
    settings = {"task": "sums", "judge": {"api_key": "sk-very-secret"}}
    events.emit("run_started", folder=Path("runs/x-sums"), settings=settings, first_step=first_step)
    figure = Estimate("avg@1", "share", 0.5, 0.1, 0.9, "none", {})
    events.emit("evaluation_finished", step=0, evaluation=Evaluation(2, 1, 0, (figure,)))
    for step in (first_step, first_step + 1):
        events.emit("step_finished", step=step, metrics={"reward/mean": 0.5})
    events.emit("run_finished", folder=Path("runs/x-sums"), state="finished")
    return message


def test_a_tracker_is_told_settings_metrics_evaluations_and_the_end() -> None:
    notebook = Notebook()
    assert told({"own": kind(notebook)}, first_step=7) == []
    run = TrackedRun(Path("runs/x-sums"), "sums", {"task": "sums", "judge": {"api_key": "***"}}, 7)
    assert notebook.noted == [
        ("open", run, Options()),
        ("evaluation", 0, {"evaluation/avg@1": 0.5}),
        ("step", 7, {"reward/mean": 0.5}),
        ("step", 8, {"reward/mean": 0.5}),
        ("finish", "finished"),
    ]


@pytest.mark.parametrize("where", ["open", "evaluation", "step", "finish"])
def test_one_that_raises_is_reported_once_and_harms_nobody(where: str) -> None:
    bad, good = Notebook(fails_at=where), Notebook()
    assert told({"bad": kind(bad), "good": kind(good)}) == [
        f"tracker bad failed and gets no further figures: ValueError: no more room for {where}. The run continues; "
        "metrics.jsonl has everything."
    ]
    assert [what for what, *_ in good.noted] == ["open", "evaluation", "step", "step", "finish"]


def test_unknown_trackers_and_options_are_refused_with_the_nearest_name() -> None:
    check_trackers({"tensorboard": {}, "wandb": {"mode": "offline"}}, BUILT_IN)
    with pytest.raises(ConfigError, match=r"trackers\.wand: there is no tracker 'wand'\. Did you mean 'wandb'\?"):
        check_trackers({"wand": {}}, BUILT_IN)
    with pytest.raises(ConfigError, match=r"trackers\.wandb: the tracker has no option 'modes'\. Did you mean 'mode'"):
        check_trackers({"wandb": {"modes": "offline"}}, BUILT_IN)
    with pytest.raises(ConfigError, match=r"trackers\.wandb: the tracker, option 'mode': Input should be 'online' or"):
        check_trackers({"wandb": {"mode": "of"}}, BUILT_IN)


def test_trackers_are_configured_like_anything_else() -> None:
    sets = ["trackers.tensorboard={}", "trackers.wandb.mode=offline"]
    resolved = load_config("math-gsm8k", "laptop", sets=sets)
    assert resolved.config.trackers == {"tensorboard": {}, "wandb": {"mode": "offline"}}
    assert resolved.origins["trackers.wandb.mode"] == "--set"
    assert tomllib.loads(to_toml(resolved.config))["trackers"] == resolved.config.trackers
    with pytest.raises(ConfigError, match="there is no tracker 'tensorbord'"):
        load_config("math-gsm8k", "laptop", sets=["trackers.tensorbord={}"])


def test_a_library_that_is_missing_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = load_config("math-gsm8k", "laptop", sets=["trackers.wandb.mode=offline"])
    message = ready(resolved).preflights["tracker wandb"]
    assert message.startswith("offline, project reasoner, wandb ")
    assert "tracker wandb" not in ready(resolved, training=False).preflights

    def missing(name: str) -> str:
        raise __import__("importlib.metadata").metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    for name in BUILT_IN:
        with pytest.raises(UserError, match=f"tracker '{name}' cannot work here: {name} is not installed: `pip inst"):
            preflight_trackers({name: {}}, BUILT_IN)


def test_wandb_online_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wandb.login", lambda prompt, verify: False)
    with pytest.raises(UserError, match=r"set WANDB_API_KEY, run `wandb login`, or .* trackers\.wandb\.mode=offline"):
        preflight_trackers({"wandb": {}}, BUILT_IN)
    monkeypatch.setattr("wandb.login", lambda prompt, verify: True)
    assert preflight_trackers({"wandb": {}}, BUILT_IN)["wandb"].startswith("online, project reasoner")


def test_what_a_plugin_registers_is_a_tracker_or_refused(tmp_path: Path) -> None:
    head = "from reasoner import hookimpl\n@hookimpl\ndef register_trackers():\n    return "
    (tmp_path / "bad.py").write_text(f"{head}{{'own': open}}\n")
    with pytest.raises(PluginError, match=r"bad\.py: register_trackers failed: TypeError: 'own' must be a TrackerKind"):
        trackers(build_manager([str(tmp_path / "bad.py")]))
    (tmp_path / "twice.py").write_text(f"from reasoner.plugins.manager import *\n{head}trackers(build_manager())\n")
    with pytest.raises(PluginError, match="tracker 'tensorboard' is registered twice: 'event files in the run folder'"):
        trackers(build_manager([str(tmp_path / "twice.py")]))


def test_a_preflight_of_a_tracker_may_ask_for_a_package() -> None:
    def missing(options: Options) -> str:
        raise MissingDependencyError(f"pip install {options.unit}")

    with pytest.raises(UserError, match="tracker 'own' cannot work here: pip install km"):
        preflight_trackers({"own": {}}, {"own": kind(Notebook(), missing)})
    with pytest.raises(UserError, match="tracker 'own': preflight failed: AttributeError: "):
        preflight_trackers({"own": {}}, {"own": kind(Notebook(), lambda options: options.units)})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"api_key": "x", "hf_token": "y", "password": ""}, {"api_key": "***", "hf_token": "***", "password": ""}),
        ({"max_tokens": 5, "stop_token": 7, "key_value": "k"}, {"max_tokens": 5, "stop_token": 7, "key_value": "k"}),
        (
            {"api_key_env": "JUDGE_KEY", "headers_env": {"Authorization": "SCORER_TOKEN"}},
            {"api_key_env": "JUDGE_KEY", "headers_env": {"Authorization": "SCORER_TOKEN"}},
        ),
        ({"url": "https://me:pw@host:8/v1?key=1"}, {"url": "https://***@host:8/v1?***"}),
        ({"rewards": [{"rubric": "say sk-12345678"}]}, {"rewards": [{"rubric": "say ***"}]}),
        ({"stop": ("a", "b"), "template": "{{ question }}"}, {"stop": ["a", "b"], "template": "{{ question }}"}),
    ],
)
def test_secrets_do_not_leave(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    assert without_secrets(settings, {"SOME_API_KEY": "sk-12345678", "HOME": "/root", "SHORT_KEY": "a"}) == expected


def test_what_a_plugin_draws_at_an_event_changes_no_draw_of_the_run() -> None:
    """With several ranks only the first one's plugins are told, and credits may draw on all of them."""

    class Dice:
        @hookimpl
        def step_finished(self) -> None:
            draws()
            random.seed(1)
            torch.manual_seed(1)
            raise ZeroDivisionError("odd")

    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    manager, message = build_manager(), list[str]()
    manager.register(Dice(), name="dice")
    for events in (Events(manager, message.append), Events(None, message.append)):
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)
        expected = [draws(), draws()]
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)
        result = [draws()]
        events.emit("step_finished", step=1, metrics={})
        assert [*result, draws()] == expected
    assert message == ["dice: step_finished failed: ZeroDivisionError: odd"]
