"""Every command that the product prints: it parses with the real command line, and names what is there."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer import Context
from typer.exceptions import TyperException
from typer.main import get_command

from reasoner.cli.app import app
from reasoner.errors import UserError
from reasoner.loading import load_config, to_toml
from reasoner.report.model_card import model_card
from reasoner.runs.checksums import identify
from reasoner.runs.find import find_run
from reasoner.runs.folder import open_run
from reasoner.runs.model import RunModel
from reasoner.runs.reader import read_run
from reasoner.runs.resuming.resume import find_place
from reasoner.runs.resuming.rules import load_resumed
from reasoner.sampling.server.compatibility import ServerRequirements
from tests.command import Cli

ROOT = Path(__file__).resolve().parents[2]
GROUPS = "run|eval|score|serve|runs|report|export|tasks|rewards|plugins|algorithms|config|plan|doctor"
COMMAND = re.compile(rf"reasoner (?:{GROUPS})\b[^\n`|;(),#]*")
COMMAND_LINE = get_command(app)
HOLE = "1"
"""in the place of what an f-string puts in: a number, a name, and nothing that is an option"""


def printed() -> Iterator[tuple[str, str]]:
    """Every command in a string of the code; of docstrings those with arguments: they are the examples of `--help`."""
    for path in sorted(file for folder in ("reasoner", "rewards", "tasks") for file in (ROOT / folder).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if not re.search(r"reasoner[\s\"']", source):
            continue  # no string of it can have a command, not even one that is put together from two lines
        texts = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant | ast.JoinedStr)]
        parts = {id(part) for node in texts if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in texts:
            if id(node) not in parts:
                for found in COMMAND.findall(_text(node)):
                    yield f"{path.relative_to(ROOT).as_posix()}:{node.lineno}", found


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else HOLE for part in node.values)
    return ""


def parse(command: str) -> dict[str, Any]:
    """The parameters of a command line, as the real command line takes them.

    Raises:
        TyperException: there is no such command or option, or something is missing.
    """
    name, *arguments = shlex.split(command)
    assert name == "reasoner"
    found: object = COMMAND_LINE
    context = Context(found, info_name="reasoner")  # type: ignore[arg-type]
    while hasattr(found, "commands"):
        if not arguments:
            return {}
        child = found.commands.get(arguments[0])
        if child is None:
            raise TyperException(f"no such command: {arguments[0]}")
        found, arguments = child, arguments[1:]
    context = found.make_context("reasoner", arguments, parent=context)  # type: ignore[attr-defined]
    return dict(context.params)


def sample(command: str) -> str:
    """With a value in the place of N and RUN, and without `...`."""
    words = [word.rstrip(".:") if word != "..." else "" for word in command.split()]
    return " ".join(HOLE if re.fullmatch(r"[A-Z][A-Z_]*", word) else word for word in words if word)


COMMANDS = sorted({(where.partition(":")[0], sample(found)) for where, found in printed()})


@pytest.mark.parametrize(("where", "command"), COMMANDS)
def test_a_command_in_a_message_parses(where: str, command: str) -> None:
    """A command without arguments, and an option at the end, are named alone: these need only be there."""
    words = command.split()
    alone = (words[-1].startswith("--") or not any(word.startswith("-") for word in words)) and len(words) <= 3
    try:
        parse(command)
    except TyperException as error:
        incomplete = type(error).__name__ in ("MissingParameter", "BadOptionUsage")
        if not (alone and incomplete):
            raise


@pytest.mark.parametrize(
    "wrong", ["reasoner run t --modle X", "reasoner rusn list", "reasoner export --to X", "reasoner runs sow X"]
)
def test_a_command_that_does_not_parse_is_noticed(wrong: str) -> None:
    with pytest.raises(TyperException):
        parse(wrong)


TASK = """
model.path = "{model}"
data.train.path = "{model}/train.jsonl"
data.eval.path = "{model}/eval.jsonl"
sampling = {{group_size = 4, max_tokens = 12}}
rewards = [{{source = "math"}}]
evaluation.correct = "math"
{method}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A task of one's own, in a folder with a space, with two profiles, of which none is chosen by itself."""
    folder = tmp_path / "my tasks"
    folder.mkdir()
    for name in ("train", "eval"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": f"{name}?", "answer": "1"}) + "\n")
    task = folder / "letters-task.toml"
    task.write_text(TASK.format(model=tmp_path, method='gro.preset = "grpo"\n[profiles.small]\n[profiles.large]\n'))
    return task


def check(text: str) -> set[str]:
    """The commands in a text, by name: each parses, and its task, run or configuration is there."""
    seen = set()
    for command in COMMAND.findall(text):
        parameters = parse(re.sub(r"\bN\b", HOLE, command.replace("KEY=VALUE", "run.steps=9")).rstrip("."))
        seen.add(" ".join(command.split()[1:3]) if command.split()[1] == "runs" else command.split()[1])
        task = parameters.get("task")
        for each in ([task] if isinstance(task, str) else []) + [*(parameters.get("tasks") or ())]:
            load_config(each, parameters.get("profile"), parameters.get("config") or ())
        for name in ("run", "resume"):
            if isinstance(run := parameters.get(name), str):
                assert read_run(find_run(run)).folder.is_dir()
    return seen


def test_the_commands_of_a_run_of_ones_own_task_work(own: Path, tmp_path: Path, cli: Cli) -> None:
    resolved = load_config(own, "small", sets=["run.steps=4"])
    identity = identify({}, {}, (), "hf")
    output = tmp_path / "all my runs"
    with (
        suppress(RuntimeError),
        open_run(
            output, resolved.config.task, to_toml(resolved.config), {"steps": ""}, identity=identity, reserve_bytes=0
        ) as run,
    ):
        run.commit(1, {"reward/mean": 0.0}, [])
        with run.saving_checkpoint() as checkpoint:
            (checkpoint / "model").mkdir()
        raise RuntimeError("broken")
    saved = read_run(run.folder)
    for _ in range(2):  # then without a checkpoint
        assert check(cli("runs", "show", str(run.folder)).out) >= {"run", "report"}
        (run.folder / "checkpoints" / "step-000001" / "manifest.json").unlink(missing_ok=True)
    assert check(
        model_card(saved, RunModel(1, run.folder), "mine").replace(
            "training/config.toml", "'" + str(run.folder / "config.toml") + "'"
        )
    ) == {"run"}
    with pytest.raises(UserError) as refused:
        load_resumed(run.folder, ["run.seed=7"])
    assert check(str(refused.value)) == {"run"}
    with pytest.raises(UserError) as refused:
        find_place(run.folder, 4).__enter__()
    assert check(str(refused.value)) == {"run"}
    with pytest.raises(UserError) as refused:
        find_place(run.folder, 0).__enter__()
    assert check(str(refused.value)) == {"run"}


def test_the_commands_before_there_is_a_run_name_the_task_by_its_file(own: Path) -> None:
    resolved = load_config(own, "small")
    command = ServerRequirements.by(resolved.config, None, 100, resolved.typed).command
    assert command.endswith("letters-task.toml' --profile small")
    assert check(command) == {"serve"}
    own.write_text(TASK.format(model=own.parents[1], method=""))
    with pytest.raises(UserError) as refused:
        load_config(own).config.check_trains(load_config(own).typed)
    assert check(str(refused.value)) == {"eval", "algorithms"}
    assert load_config("math-gsm8k", "laptop", plugins=()).typed == "math-gsm8k --profile laptop"


def test_run_takes_the_model_that_messages_tell_to_pass(own: Path, cli: Cli) -> None:
    message = cli("run", str(own), "--profile", "small", "--model", "embedded:nothing", "--dry-run").err
    assert "embedded:nothing" in message
    assert "there is no such embedded model" in message
