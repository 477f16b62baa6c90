"""What `import reasoner` offers to programs: names, values as the command line spells them, the child, what is read."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import reasoner
from reasoner import errors
from reasoner.api import command, frames
from reasoner.api.arguments import check_plugins, settings
from reasoner.api.command import call
from reasoner.api.evaluation import EvaluationResults
from reasoner.errors import ConfigError, MissingDependencyError, OutOfTimeError, RunError, ScoringError, UserError
from reasoner.launch.launcher import RankError
from reasoner.loading import load_config
from reasoner.plugins.importing import PluginError
from reasoner.processes import caller
from tests.command import Cli
from tests.made_up import made_up_run
from tests.notebook import Cells

FOR_VERIFIERS = {
    *("Group", "Message", "Problem", "Response", "RewardSource", "Score", "ScoredGroup", "TEXT_ONLY"),
    *("after_thinking", "reward"),
}
FOR_PLUGINS = {
    *("Evaluation", "Generator", "TaskFamily", "TrackedRun", "Tracker", "TrackerKind", "hookimpl"),
    *("Algorithms", "CustomCredit", "CustomLink", "PRESETS", "Preset", "Term", "Weighted"),
}
FOR_TOOLS_AND_ENVIRONMENTS = {
    *("EnvironmentKind", "EnvironmentReport", "Observation", "Tool", "ToolCall", "ToolError", "Turn"),
    *("environment", "tool"),
}
FOR_PROGRAMS_IN_A_SANDBOX = {
    *("End", "ISOLATED", "Limits", "Outcome", "PYTHON", "Sandbox", "SandboxError", "Session", "open_sandbox"),
    "permitted_sandbox",
}
FOR_SERVICES = {"RemoteError", "STRICT_JSON_DECODER", "Service", "Url", "read_secret", "without_query"}
ERRORS = {
    *("ConfigError", "DataError", "MissingDependencyError", "OutOfTimeError", "ReasonerError", "RunError", "UserError"),
    "nearest",
}
FOR_PROGRAMS = {"EvaluationResults", "Report", "Run", "Scores", "evaluate", "open_run", "run", "score"}


def test_these_names_are_public() -> None:
    """Adding one is a decision, and taking one away breaks programs."""
    for_authors = FOR_VERIFIERS | FOR_PLUGINS | FOR_TOOLS_AND_ENVIRONMENTS | FOR_SERVICES | ERRORS
    for_authors |= FOR_PROGRAMS_IN_A_SANDBOX
    assert set(reasoner.__all__) == for_authors | FOR_PROGRAMS | {"__version__"}
    for name in reasoner.__all__:
        assert getattr(reasoner, name) is not None
        assert name in dir(reasoner)
    assert {name for name in vars(reasoner.Run) if not name.startswith("_")} == {
        *("config", "evaluations", "metrics", "model", "model_path", "name", "report", "rollouts", "state", "steps")
    }
    with pytest.raises(AttributeError, match="'reasoner' has no attribute 'runn'"):
        _ = reasoner.runn


def test_importing_it_and_reading_a_run_imports_nothing_heavy(tmp_path: Path) -> None:
    program = f"""
import json, sys
import reasoner
first = [name for name in sys.modules if name in ("torch", "transformers", "pandas") or name.startswith("reasoner.")]
from reasoner import *
run = open_run({str(made_up_run(tmp_path))!r})
run.steps, run.state, run.config
print(json.dumps([first, [name for name in ("torch", "transformers", "vllm", "datasets") if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [[], []]


CONFIG = {
    "run": {"steps": 3, "output": Path("somewhere")},
    "run.seed": np.int64(7),
    "learning": {"learning_rate": np.float32(0.5), "betas": (0.8, 0.9)},
    "model.chat_template_kwargs": {"a.b": True, "c": None},
    "rewards": [
        {"source": "math", "options": {"extract": "lenient"}},
        {"source": "regex", "options": {"pattern": '\\d"é'}},
    ],
    "prompt.system": "two\nlines",
    "gro.terms": {"grpo": {"kl": {"coefficient": 0.25, "estimator": "k3"}}},
    "evaluation": {"temperature": 0},
}


def test_values_are_what_they_are_on_the_command_line() -> None:
    config = load_config("math-gsm8k", "laptop", (), settings(CONFIG)).config
    assert (config.run.steps, config.run.output, config.run.seed) == (3, "somewhere", 7)
    assert (config.learning.learning_rate, config.learning.betas) == (0.5, (0.8, 0.9))
    assert config.model.chat_template_kwargs == {"a.b": True, "c": "none"}
    assert [(each.source, each.options) for each in config.rewards] == [
        ("math", {"extract": "lenient"}),
        ("regex", {"pattern": '\\d"é'}),
    ]
    assert config.prompt.system == "two\nlines"
    assert config.gro.terms["grpo"].kl.coefficient == 0.25
    assert config.run.max_hours is None
    assert load_config("math-gsm8k", "laptop", (), settings({"run.max_hours": None})).config.run.max_hours is None


@reasoner.reward("given")
def FUNCTION(problem: object, response: object) -> float:  # noqa: N802
    return 1.0


def test_the_later_value_of_a_key_counts() -> None:
    base = {"data": {"train": {"path": "a"}, "eval": {"path": "b"}}}
    assert settings({**base, "data.train.path": "c"}) == ['data.train.path="c"', 'data.eval.path="b"']


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"learning": {"betas": [0.9, object()]}}, r"learning\.betas\[1\] has a value of type object"),
        ({"rewards": [{"source": FUNCTION}]}, r"rewards\[0\]\.source takes a name: 'given'\. .* plugins=\[\.\.\.\]"),
        ({"rewards": [{"source": "math"}], "rewards.math.weight": 2.0}, "rewards and rewards.math.weight"),
        ({"run.steps": 3, "run": 4}, "run.steps and run, one inside the other"),
        ({1: 2}, "1 must be text, got int"),
        ([("run.steps", 3)], "must be a table such as .*, got list"),
        ("run.steps=3", "must be a table such as .*, got str"),
    ],
)
def test_what_is_no_configuration_is_refused(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(config)


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        (["a.py", lambda problem, response: 1.0], r"got <lambda> \(function\)\. Put @reward"),
        ([3], r"got 3 \(int\)\.$"),
        ("a.py", r"takes a list, got .*: write plugins=\[...\]"),
        (3, "takes a list"),
    ],
)
def test_what_is_no_plugin_is_refused(plugins: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_plugins(plugins)


def test_errors_are_those_of_the_command_line(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(config: dict[str, Any], task: str = "math-gsm8k") -> Exception:
        with pytest.raises(UserError) as raised:
            reasoner.run(task, profile="laptop", config=config)
        return raised.value

    error = refused({"learning.learning_rat": 1e-3})
    assert capsys.readouterr() == ("", "")  # it is raised, and not printed too
    assert type(error) is ConfigError
    told = cli("run", "math-gsm8k", "--profile", "laptop", "--set", "learning.learning_rat=1e-3")
    assert told.err == f"error: {error}\n"
    error = refused({}, str(tmp_path / "not_there.toml"))
    assert cli("run", str(tmp_path / "not_there.toml"), "--profile", "laptop").err == f"error: {error}\n"


UNUSED = """
from reasoner import reward
@reward("short")
def short(problem, response):
    return 1.0
"""


def test_a_function_that_no_reward_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = Cells()
    cells.run(UNUSED)
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=r"'short', and the configuration does not use it.*math, boxed_format"):
        reasoner.run("math-gsm8k", profile="laptop", plugins=[cells.namespace["short"]])
    assert list(tmp_path.iterdir()) == []
    assert not [name for name in set(sys.modules) - before if name.startswith("reasoner_plugin")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to train"),
        ({"task": "math-gsm8k", "resume": "x"}, "leave them out with resume"),
        ({"profile": "laptop", "resume": "x"}, "leave them out with resume"),
        ({"resume": "not-there"}, "there is no run 'not-there'"),
    ],
)
def test_a_run_has_a_task_or_is_resumed(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        reasoner.run(**arguments)  # type: ignore[arg-type]


Child = Any
BEFORE = """
import json, os, signal, sys, time
from pathlib import Path
from reasoner.processes.caller import answer_caller, tell_error, tell_folder
answer_caller()
"""


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    """Has `call` start a program in the place of the command line, and looks at what it leaves in this process."""

    def program(text: str) -> Path:
        monkeypatch.setattr(command, "module_command", lambda *_: [sys.executable, "-c", BEFORE + text])
        return call("run", resume="go on with {folder}")

    def process() -> list[object]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        return [environment, handlers, threading.active_count(), len(os.listdir("/proc/self/fd"))]  # noqa: PTH208

    before = process()
    yield program
    assert process() == before


def test_what_the_child_prints_appears_and_its_folder_comes_back(
    child: Child, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("FORCE_COLOR", "1")
        folder = child("""
print("step 1, é", flush=True)
print("said on the other stream", file=sys.stderr, flush=True)
print(os.environ.get("FORCE_COLOR"), os.environ.get("REASONER_CALLER"), sys.stdin.read())
tell_folder(Path("/some/folder"))
""")
    assert folder == Path("/some/folder")
    assert capsys.readouterr().out == "step 1, é\nsaid on the other stream\nNone None \n"


def test_a_child_that_ends_well_and_names_no_folder_is_an_error_that_says_why(child: Child) -> None:
    """On the second node of srun, and with --hostfile, the first rank is on another machine."""
    with pytest.raises(RunError, match=r"ended well, but .* another machine .* reasoner\.open_run\(FOLDER\)"):
        child("print('done')")


RAISED = [
    (ConfigError("no such key"), 2, ConfigError),
    (PluginError("no such key"), 2, UserError),
    (MissingDependencyError("no such key"), 2, MissingDependencyError),
    (ScoringError("no such key"), 1, ScoringError),
    (RunError("no such key"), 1, RunError),
    (OutOfTimeError("no such key"), 3, OutOfTimeError),
    (RankError("no such key", 2), 2, UserError),
    (RankError("no such key", 3), 3, OutOfTimeError),
    (RankError("no such key", 1), 1, RunError),
]


@pytest.mark.parametrize(("error", "code", "kind"), RAISED, ids=[f"{type(e).__name__} {code}" for e, code, _ in RAISED])
def test_an_error_comes_back_with_its_class_and_message(
    error: Exception, code: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller, "_answers", tmp_path / "answers")
    assert caller.tell_error(error, code)
    result = command._error(code, command._read(tmp_path / "answers"))
    assert type(result) is kind
    assert str(result) == "no such key"


@pytest.mark.parametrize(("kind", "notes"), [("RunError", ["To resume: go on with /some/folder"]), ("UserError", [])])
def test_the_childs_error_is_raised_here(child: Child, kind: str, notes: list[str]) -> None:
    with pytest.raises(getattr(errors, kind)) as result:
        child(f"""
from reasoner.errors import {kind}
tell_folder(Path("/some/folder"))
tell_error({kind}("no such key"), 1)
sys.exit(1)
""")
    assert str(result.value) == "no such key"
    assert getattr(result.value, "__notes__", []) == notes


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (
            "try: 1 / 0\nexcept ZeroDivisionError as error: tell_error(error, 1)\nsys.exit(1)",
            "a mistake in reasoner.*\n.*ZeroDiv",
        ),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "was killed by SIGKILL: by somebody, or by the system, because memory",
        ),
        ("sys.exit(130)", "was interrupted by somebody else"),
        ("sys.exit(7)", "ended with exit code 7"),
    ],
)
def test_a_child_that_ends_otherwise_is_a_failed_run(child: Child, end: str, message: str) -> None:
    with pytest.raises(RunError, match=f"(?s){message}"):
        child(end)


SAVES = """
import os
def save(*_):
    os.write(1, b"saving\\n")  # not through sys.stdout, which the interrupt may have found in the middle of a flush
    while not Path({go_on!r}).exists():
        time.sleep(0.02)
    os.write(1, b"saved\\n")
    sys.exit(130)
signal.signal(signal.SIGINT, save)
tell_folder(Path("/some/folder"))
os.write(1, b"ready\\n")
time.sleep(60)
"""


def test_an_interrupt_ends_the_child_which_saves(child: Child, tmp_path: Path) -> None:
    """A second interrupt, which arrives while it saves, changes nothing."""
    go_on, arrived = tmp_path / "go-on", threading.Semaphore(0)
    shown = {"ready": threading.Event(), "saving": threading.Event()}

    def interrupt() -> None:
        for event in shown.values():
            assert event.wait(60)
            os.kill(os.getpid(), signal.SIGINT)
            assert arrived.acquire(timeout=60)
        go_on.touch()

    def interrupted(*_: object) -> None:
        arrived.release()
        raise KeyboardInterrupt

    class Out:
        encoding = "utf-8"

        def write(self, text: str) -> None:
            message.append(text)
            for word, event in shown.items():
                if word in text:
                    event.set()

        def flush(self) -> None: ...

    message: list[str] = []
    thread = threading.Thread(target=interrupt)
    thread.start()
    handler = signal.signal(signal.SIGINT, interrupted)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", Out())
            with pytest.raises(KeyboardInterrupt) as raised:
                child(SAVES.format(go_on=str(go_on)))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "".join(message) == "ready\nsaving\nsaved\n"
    assert raised.value.__notes__ == ["To resume: go on with /some/folder"]
    thread.join()


def test_it_runs_inside_of_an_event_loop_and_in_a_thread(child: Child) -> None:
    async def cell() -> object:
        return child("tell_folder(Path('/in/a/loop'))")

    assert asyncio.run(cell()) == Path("/in/a/loop")
    result: list[Path] = []
    thread = threading.Thread(target=lambda: result.append(child("tell_folder(Path('/in/a/thread'))")))
    thread.start()
    thread.join(60)
    assert result == [Path("/in/a/thread")]


def test_what_the_child_leaves_behind_does_not_keep_it(child: Child, capsys: pytest.CaptureFixture[str]) -> None:
    child("""
import subprocess
print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
tell_folder(Path("/some/folder"))
""")
    os.kill(int(capsys.readouterr().out), signal.SIGKILL)  # it is there


def test_the_child_ends_when_the_program_is_killed(tmp_path: Path) -> None:
    """As after `kill`: the run has the time to save."""
    file = tmp_path / "said"
    text = f"""
def save(*_):
    Path({str(file)!r}).write_text("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""
    program = f"""
import sys
from reasoner.api import command
command.module_command = lambda *_: [sys.executable, "-c", {BEFORE + text!r}]
command.call("run", resume="")
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == "ready\n"
        caller.kill()
    deadline = time.monotonic() + 30
    while not (file.exists() and file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert file.read_text() == "saved"


def test_several_ranks_do_not_each_start_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"started as several ranks .* Start the program once"):
        reasoner.run("math-gsm8k", profile="laptop")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The command lines that functions start; none is started."""
    result: list[list[str]] = []

    def note(*arguments: str, resume: str) -> Path:
        result.append(list(arguments))
        return tmp_path

    monkeypatch.setattr("reasoner.api.run.call", note)
    monkeypatch.setattr("reasoner.api.evaluation.call", note)
    return result


def test_a_run_is_resumed_with_a_mended_function(asked: list[list[str]], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    folder = made_up_run(runs)
    old = runs / "plugins" / "00000000" / "short.py"
    config = (folder / "config.toml").read_text()
    plugins = f'plugins = ["{old}", "other.py"]\n'
    lines = [line for line in config.splitlines() if not line.startswith("plugins")]
    (folder / "config.toml").write_text(plugins + "\n".join(lines))
    cells = Cells()
    cells.run(UNUSED)
    reasoner.run(resume=folder, config={"run.steps": 9}, plugins=[cells.namespace["short"]], accept_changes=True)
    (words,) = asked
    assert words[:4] == ["run", "--resume", str(folder), "--accept-changes"]
    assert words[4:6] == ["--set", "run.steps=9"]
    (new,) = (runs / "plugins").glob("*/short.py")
    assert words[6:] == ["--set", f'plugins=["other.py", "{new}"]']
    assert "def short" in new.read_text()


def test_an_evaluation_compares_runs_and_models(asked: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"models": {}, "tasks": []}')
    result = reasoner.evaluate(["math-500", "aime24"], models=["BASE", tmp_path], config={"evaluation.samples": 4})
    assert asked == [
        [
            "eval",
            "--model",
            "BASE",
            "--model",
            str(tmp_path),
            "--set",
            "evaluation.samples=4",
            "--",
            "math-500",
            "aime24",
        ]
    ]
    assert result.folder == tmp_path
    reasoner.evaluate(resume=tmp_path)
    assert asked[1] == ["eval", "--resume", str(tmp_path)]
    with pytest.raises(UserError, match="name a task"):
        reasoner.evaluate()
    with pytest.raises(UserError, match="give nothing but resume"):
        reasoner.evaluate("math-500", resume=tmp_path)


def test_results_of_an_evaluation_are_frames(tmp_path: Path) -> None:
    figure = {"unit": "share", "value": 0.5, "low": 0.4, "high": 0.6}
    change = {"unit": "share", "problems": 8, "baseline": 0.5, "model": 0.75, "change": 0.25, "low": 0.0, "high": 0.5}
    results = {
        "models": {"A": "base", "B": "trained"},
        "tasks": [
            {
                "task": "math-500",
                "results": {
                    "A": {"figures": {"avg@1": figure}},
                    "B": {"figures": {"avg@1": {**figure, "value": 0.75}}},
                },
                "comparisons": [{"baseline": "A", "model": "B", "figures": {"avg@1": change}}],
            }
        ],
    }
    result = EvaluationResults(tmp_path, results)
    assert result.figures[["task", "model", "figure", "value"]].values.tolist() == [
        ["math-500", "base", "avg@1", 0.5],
        ["math-500", "trained", "avg@1", 0.75],
    ]
    (row,) = result.comparisons.to_dict("records")
    assert (row["baseline"], row["model"], row["baseline_value"], row["model_value"]) == ("base", "trained", 0.5, 0.75)
    assert row["change"] == 0.25
    assert repr(result) == f"<EvaluationResults {tmp_path}: math-500; models base, trained>"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> reasoner.Run:
    return reasoner.open_run(made_up_run(tmp_path_factory.mktemp("runs"), steps=3, every=3, problems=3))


def test_a_run_is_read_as_frames(finished: reasoner.Run) -> None:
    assert finished.metrics["step"].tolist() == [1, 2, 3]
    assert (finished.steps, finished.state, finished.config["task"]) == (3, "finished", finished.config["task"])
    evaluations = finished.evaluations
    assert set(evaluations["step"]) == {0, 3}
    assert {"figure", "value", "low", "high"} <= set(evaluations.columns)
    rollouts = finished.rollouts(2)
    assert len(rollouts) == 24
    assert set(rollouts["step"]) == {2}
    assert rollouts["problem"].nunique() == 3
    assert rollouts["sample"].tolist()[:8] == list(range(8))
    row = rollouts.iloc[0]
    assert row["tokens"] == len(row["token_ids"]) == len(row["token_logprobs"]) == len(row["token_weights"])
    assert (row["turns"], row["token_written"]) == (1, [True] * row["tokens"])
    assert {"reward/math", "note/math", "failure/math"} <= set(rollouts.columns)
    evaluated = finished.rollouts(3, evaluation=True)
    assert set(evaluated["credit"]) == {None}
    assert repr(finished) == f"<Run {finished.folder}: finished, 3 of 3 steps>"


def test_a_step_without_responses_is_refused_with_those_that_there_are(finished: reasoner.Run) -> None:
    with pytest.raises(UserError, match=r"no responses of step 9\. It has those of the steps: 1, 2, 3\."):
        finished.rollouts(9)
    with pytest.raises(UserError, match=r"evaluation after step 1\. It has those of the evaluations .*: 0, 3\."):
        finished.rollouts(1, evaluation=True)


def test_the_model_is_that_of_the_newest_step(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, steps=3)
    shutil.rmtree(folder / "model", ignore_errors=True)
    with pytest.raises(UserError, match="has no trained model"):
        _ = reasoner.Run(folder).model_path
    (newest := folder / "checkpoints" / "step-000002" / "model").mkdir(parents=True)
    assert reasoner.Run(folder).model_path == newest
    with pytest.raises(UserError, match="the weights after step 1"):
        reasoner.Run(folder).model(1)


def test_the_report_is_a_page_in_a_frame(finished: reasoner.Run, tmp_path: Path) -> None:
    report = finished.report()
    assert report.save(tmp_path / "report.html").read_text().startswith("<!doctype html>")
    shown = report._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert 'sandbox="allow-scripts"' in shown
    assert shown.count('"') == 8  # nothing of the page is outside of its attribute
    assert "html" not in repr(report)


def test_without_pandas_frames_are_of_polars(finished: reasoner.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class DataFrame(dict[str, Any]):
        def __init__(self, columns: dict[str, Any], **options: Any) -> None:
            super().__init__(columns)

    polars = ModuleType("polars")
    polars.DataFrame = DataFrame  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "polars", polars)
    monkeypatch.setattr(frames, "find_spec", lambda name: name == "polars" or None)
    assert isinstance(finished.metrics, DataFrame)
    assert finished.metrics["step"] == [1, 2, 3]
    monkeypatch.setattr(frames, "find_spec", lambda name: None)
    with pytest.raises(
        MissingDependencyError, match="need pandas or polars, and neither is installed: pip install pandas"
    ):
        _ = finished.metrics
