"""The command line: what is printed, and exit codes."""

from __future__ import annotations

import contextlib
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from reasoner import __version__
from reasoner.cli.app import app
from reasoner.cli.inspect import doctor as doctor_command
from reasoner.config import Config
from reasoner.doctor.check import Diagnosis
from reasoner.errors import RunError
from reasoner.loading import Resolved, load_config
from reasoner.runs.resuming.resume import Resume
from tests.command import Cli, Outcome


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n} + 1?", "answer": n + 1}) + "\n" for n in range(9)))
    return str(path)


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version") == Outcome(0, f"reasoner {__version__}\n", "")
    text = cli("--help").out
    for name in ("run", "eval", "score", "tasks", "rewards", "plugins", "algorithms", "config", "doctor"):
        assert f"│ {name} " in text
    assert "reasoner run math-gsm8k" in text


def test_the_panels_of_help_are_the_folders_of_the_commands() -> None:
    panels: dict[object, set[str]] = {}
    for command in (command for command in app.registered_commands if not command.hidden):
        assert command.callback is not None
        panels.setdefault(command.rich_help_panel, set()).add(command.callback.__module__.split(".")[2])
    for group in app.registered_groups:
        assert group.typer_instance is not None
        first = group.typer_instance.registered_commands[0].callback
        assert first is not None
        panels.setdefault(group.rich_help_panel, set()).add(first.__module__.split(".")[2])
    assert sorted(map(sorted, panels.values())) == [["inspect"], ["results"], ["train"]]


@pytest.mark.parametrize("command", ["run", "eval", "score", "plan", "serve"])
def test_help_shows_options_whole(cli: Cli, command: str) -> None:
    """An option that is cut at 80 columns cannot be copied."""
    text = cli(command, "--help").out
    assert "--config" in text
    assert "…" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("run", "--help"),
        ("tasks", "list"),
        ("tasks", "show", "math-gsm8k"),
        ("rewards", "list"),
        ("rewards", "show", "math"),
        ("plugins", "list"),
        ("score", "--help"),
        ("plugins", "check", "--help"),
        ("rewards", "bench", "--help"),
        ("algorithms", "list"),
        ("config", "show", "math-gsm8k", "--profile", "laptop"),
    ],
)
def test_what_is_piped_has_no_colours_and_fits_80_columns(cli: Cli, arguments: tuple[str, ...]) -> None:
    outcome = cli(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert "\x1b" not in outcome.out
    assert [line for line in outcome.out.splitlines() if len(line) > 80 and "/reasoner_" not in line] == []


def test_tasks_and_rewards_are_listed(cli: Cli) -> None:
    assert "math-gsm8k" in cli("tasks", "list").out
    shown = cli("tasks", "show", "math-gsm8k").out
    assert "--profile laptop" in shown
    assert "--profile gpu" in shown
    assert "2402.03300" in shown
    listed = cli("rewards", "list").out
    assert "math" in listed
    assert "boxed_format" in listed


def test_config_show_has_each_value_and_its_origin(cli: Cli) -> None:
    lines = cli("config", "show", "math-gsm8k", "--profile", "laptop", "--set", "run.seed=3").out.splitlines()
    result = [line.split() for line in lines]
    assert ["run.seed", "3", "--set"] in result
    assert ["gro.terms.grpo.link.kind", '"clip"', "preset", "grpo"] in result
    assert ["scoring.max_failure_rate", "0.5", "default"] in result


def test_what_shows_a_task_shows_a_mixture_as_run_takes_it(cli: Cli) -> None:
    tasks = ("math-gsm8k=2", "calc=1")
    lines = [line.split() for line in cli("config", "show", *tasks, "--profile", "laptop").out.splitlines()]
    assert ["mixture.math-gsm8k.weight", "2.0", "command", "line"] in lines
    assert ["mixture.calc.environment.max_turns", "4", "task", "calc"] in lines
    shown = cli("tasks", "show", *tasks).out
    assert [line for line in shown.splitlines() if line.startswith("--profile")] == [
        "--profile laptop",
        "--profile gpu",
        "--profile small-gpu",
    ]
    parts = {"math-gsm8k, weight 2.0": 3, "calc, weight 1.0": 3, "tools calculator (tags)": 3}
    parts |= {"2000 from generator calculations": 1, "20000 from generator calculations": 2}
    assert {part: shown.count(part) for part in parts} == parts
    planned = cli("plan", *tasks, "--profile", "laptop", "--json")
    assert (planned.code, planned.err) == (0, "")
    assert json.loads(planned.out)["longest_context"] > 0


PART = """
model.path = "embedded:smollm2-135m-instruct"
data.train.path = "{name}.jsonl"
data.eval.path = "{name}-eval.jsonl"
data.overlap = "allow"
rewards = [{{ source = "math" }}]
gro.preset = "grpo"
evaluation.correct = "math"
learning.problems_per_step = 2
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "one.toml", "aime24", "--dry-run"), "mixture.aime24: the task only evaluates: data.train is not set"),
        (
            ("run", "one.toml", "two.toml", "--dry-run", "--set", "mixture.two.data.train.path=more/one.jsonl"),
            "mixture: one and two both have a problem 'one:0' in data.train",
        ),
        (
            (
                *("run", "one.toml", "two.toml", "--dry-run", "--set", "mixture.two.rewards=[{source = 'mth'}]"),
                *("--set", "mixture.two.evaluation.correct=mth"),
            ),
            "mixture.two.rewards[0].source: there is no reward source 'mth'. Did you mean 'math'?",
        ),
        (
            ("run", "one.toml", "two.toml", "--dry-run", "--set", "mixture.two.data.train.columns.answer=reward.truht"),
            "mixture.two: data.train.columns.answer = 'reward.truht': none of the 3 rows has it",
        ),
        (
            ("run", "one.toml", "two.toml", "--dry-run", "--set", "mixture.two.data.trian.limit=3"),
            "mixture.two.data.trian (--set): unknown key. Did you mean 'train'?",
        ),
        (("eval", "one.toml", "aime244"), "there is no task 'aime244'. Did you mean 'aime24'?"),
        (("eval", "one.toml", "one.toml"), "is named twice; name each task once"),
    ],
)
def test_a_mixture_or_an_evaluation_that_cannot_be_is_one_message_before_anything_is_loaded(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("something was loaded")

    for name in ("planning.rehearsal.open_tokenizer_alone", "planning.resources.resolve_model"):
        monkeypatch.setattr(f"reasoner.{name}", loaded)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more").mkdir()
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(PART.format(name=name))
        for file in (f"{name}.jsonl", f"{name}-eval.jsonl", f"more/{name}.jsonl"):
            rows = [{"question": f"{file} {n}?", "answer": "1", "reward": {"truth": "1"}} for n in range(3)]
            (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = cli(*arguments)
    assert outcome.code == 2
    text = " ".join(outcome.err.split())
    assert said in text
    assert text.count("error:") == 1
    if "truht" in said:
        assert "Did you mean 'reward.truth'?" in text


@pytest.mark.parametrize("command", [("config", "show"), ("tasks", "show"), ("plan",)], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (("math-gsm8k", "calk=2"), "Did you mean 'calc'"),
        (("math-gsm8k", "aime24"), "only evaluates"),
        (("math-gsm8k", "math-gsm8k"), "twice"),
        (("math-gsm8k", "calc=0"), "above 0"),
    ],
)
def test_a_mixture_that_cannot_be_is_one_message(
    cli: Cli, command: tuple[str, ...], tasks: tuple[str, ...], said: str
) -> None:
    outcome = cli(*command, *tasks)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in " ".join(outcome.err.split())


@pytest.mark.parametrize(
    "command", [("config", "show"), ("run", "--dry-run"), ("plan",), ("eval",), ("serve",)], ids=lambda words: words[0]
)
def test_every_command_reads_every_config_file(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "one.toml").write_text('learning.decay = "fast"\n')
    (tmp_path / "two.toml").write_text("run.steps = 7\n")
    files = ("--config", str(tmp_path / "one.toml"), "--config", str(tmp_path / "two.toml"))
    outcome = cli(*command, "math-gsm8k", "--profile", "laptop", *files)
    assert outcome.code == 2
    assert 'learning.decay = "fast"' in outcome.err
    assert "one.toml)" in "".join(outcome.err.split())


def test_config_show_toml_can_be_given_back(cli: Cli, tmp_path: Path) -> None:
    text = cli("config", "show", "math-gsm8k", "--profile", "laptop", "--set", "run.seed=3", "--toml").out
    saved = tmp_path / "config.toml"
    saved.write_text(text)
    assert tomllib.loads(text)["run"]["seed"] == 3
    assert cli("config", "show", "math-gsm8k", "--config", str(saved), "--toml").out == text


def test_user_errors_are_one_message_and_exit_2(cli: Cli) -> None:
    outcome = cli("config", "show", "math-gsm8k", "--profile", "laptop", "--set", "learning.decay=cosin")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "error: learning.decay = \"cosin\" (--set): must be one of constant, linear, cosine. Did you mean 'cosine'?\n"
    )
    assert cli("run", "math-gsm8", "--dry-run").err == (
        "error: there is no task 'math-gsm8'. Did you mean 'math-gsm8k'? See `reasoner tasks list`.\n"
    )
    assert cli("algorithms", "show", "dapoo") == Outcome(
        2, "", "error: there is no method 'dapoo'. Did you mean 'dapo'? See `reasoner algorithms list`.\n"
    )
    assert cli("run").code == 2
    assert cli("fly").code == 2


def test_a_dry_run_says_what_would_be_done_and_loads_nothing(
    cli: Cli, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("reasoner.models.embedded._convert", None)
    sets = ["--set", f"data.train.path={rows}", "--set", f"data.eval.path={rows}", "--set", "sampling.engine=hf"]
    refused = cli("run", "math-gsm8k", "--profile", "laptop", "--dry-run", *sets)
    assert (refused.code, refused.out) == (2, "")
    assert "data.train: 9 of 9 problems are also evaluation problems" in refused.err
    sets += ["--set", "data.overlap=allow"]
    outcome = cli("run", "math-gsm8k", "--profile", "laptop", "--dry-run", "--steps", "5", "--output", "my runs", *sets)
    assert (outcome.code, outcome.err) == (0, "")
    facts = " ".join(outcome.out.split())
    for fact in (
        "profile laptop (--profile)",
        "device cpu (torch sees no CUDA device)",
        "engine hf (sampling.engine)",
        "training data 9 from",
        "math x ",
        "method grpo (2402.03300)",
        "term grpo weight 1; source online; credit (R - mean) / std; evidence l; anchor old; link clip(0.2, 0.2);",
        "steps 5 of",
        "output my runs",
        "note data.train: 9 of 9 problems are also evaluation problems: the evaluation measures memory, too.",
    ):
        assert fact in facts
    assert not Path("my runs").exists()


def test_a_task_that_only_evaluates_is_not_trained_on(cli: Cli, rows: str, tmp_path: Path) -> None:
    task = tmp_path / "sums.toml"
    task.write_text(
        f'[model]\npath = "m"\n[data.eval]\npath = "{rows}"\n[[rewards]]\nsource = "math"\n'
        '[evaluation]\ncorrect = "math"\n'
    )
    for arguments in ((), ("--dry-run",)):
        outcome = cli("run", str(task), *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert "task 'sums' only evaluates: it names no method" in outcome.err
    assert "none: the task only evaluates" in cli("tasks", "show", str(task)).out


def test_a_dry_run_finds_what_is_wrong_with_the_data(cli: Cli) -> None:
    outcome = cli("run", "math-gsm8k", "--profile", "laptop", "--dry-run", "--set", "data.train.path=none/x.jsonl")
    assert outcome.code == 2
    assert "there is no data file /" in outcome.err


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for `reasoner.training.build` that hands the configuration through; no report is written."""

    @contextlib.contextmanager
    def open_trainer(resolved: Resolved, resume: Resume | None) -> Iterator[SimpleNamespace]:
        assert resume is None
        yield SimpleNamespace(config=resolved.config, run=SimpleNamespace(folder=Path("run")))

    fake = ModuleType("reasoner.training.build")
    fake.open_trainer = open_trainer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "reasoner.training.build", fake)
    monkeypatch.setattr("reasoner.cli.train.run.leaving_report", lambda: contextlib.nullcontext(lambda folder: None))
    return fake


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (RunError("the sampler died"), 1, "error: the sampler died\n"),
        (KeyboardInterrupt(), 130, ""),
        (None, 0, ""),
    ],
)
@pytest.mark.usefixtures("stages")
def test_run_passes_its_options_on_and_its_exit_codes_tell_how_it_ended(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, raised: BaseException | None, code: int, message: str
) -> None:
    seen: list[Config] = []
    gates: list[bool] = []

    def train(stages: SimpleNamespace, *, gate: bool) -> None:
        seen.append(stages.config)
        gates.append(gate)
        if raised is not None:
            raise raised

    fake = ModuleType("reasoner.pipeline")
    fake.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "reasoner.pipeline", fake)
    command = ["run", "math-gsm8k", "--profile", "laptop", "--steps", "5", "--output", "a 'b' c", "--set", "run.seed=2"]
    outcome = cli(*command)
    assert (outcome.code, outcome.err) == (code, message)
    expected = load_config("math-gsm8k", "laptop", sets=["run.steps=5", "run.output=a 'b' c", "run.seed=2"])
    assert seen == [expected.config]
    assert cli(*command, "--no-gate").code == code
    assert gates == [True, False]


def test_doctor_prints_state_detail_and_advice(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Diagnosis("torch", "ok", "2.13.0"), Diagnosis("hub", "missing", "cannot be reached", "pass local files")]
    monkeypatch.setattr(doctor_command, "examine", lambda: iter(checks))
    lines = [line.split() for line in cli("doctor").out.splitlines()]
    assert lines == [
        ["ok", "packages", "torch", "2.13.0"],
        ["missing", "hub", "cannot", "be", "reached"],
        ["->", "pass", "local", "files"],
    ]


@pytest.mark.parametrize("value", ["0.005", "1e-9", "3", "nan", "inf", "-1"])
def test_an_evaluation_refuses_a_temperature_before_anything_is_loaded(cli: Cli, value: str) -> None:
    refused = cli("eval", "math-gsm8k", "--profile", "laptop", "--temperature", value)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: evaluation.temperature = ")
    assert "must be 0 (greedy) or from 0.01 to 2" in refused.err or "must be a finite number" in refused.err
