"""Run folders that anybody may have made: whatever stands in the place of a file of theirs, every command ends soon with
what it can show, or with one line that names the file."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.main import get_command

from reasoner import __main__, rescore
from reasoner.cli import score as score_command
from reasoner.cli.app import app
from reasoner.codec import read_parquet, to_json, write_parquet
from reasoner.errors import DataError, UserError
from reasoner.evals.folder import Planned, reopen
from reasoner.records import Component, Failure, Rollout
from reasoner.runs.changes import load_resumed
from reasoner.runs.find import find_run
from reasoner.runs.folder import open_run
from reasoner.runs.resume import find_place
from tests.made_up import made_up_run

DEADLINE_S = 5
"""of a command; the slowest takes a fraction of a second"""
BUILT = get_command(app)
"""once: it takes as long as a command"""
FAR_AWAY = "the secret of another folder"
STEP = "rollouts/step-000001.parquet"
CHECKPOINT = "checkpoints/step-000002"

Damage = Callable[[Path], None]
Command = Callable[..., tuple[int, str, str]]


class HangsError(BaseException):
    """No `Exception`, which the code under test may catch."""


@contextmanager
def deadline() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise HangsError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, which is damaged and put back again, and another one."""
    output = tmp_path_factory.mktemp("strangers") / "runs"
    run = made_up_run(output, steps=2, problems=1, size=2, every=1, end=RuntimeError("it died")).rename(output / "bad")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors"):
        (run / "model" / name).write_text("{}")
    with open_run(output, "task", "", {}, identity={"engine": "hf"}, reserve_bytes=0) as other:
        shutil.copy(other.folder / "identity.json", run / "identity.json")
        for step in (1, 2):
            other.commit(step, {"reward/mean": 0.5}, [])
        with other.saving_checkpoint() as folder:
            (folder / "state.json").write_text("{}")
    shutil.copytree(other.checkpoints.folder, run / "checkpoints", dirs_exist_ok=True)
    shutil.rmtree(other.folder)
    shutil.copytree(run, output / "good")
    (output.parent / "outside").write_text(FAR_AWAY)
    return output


@pytest.fixture
def reasoner(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `reasoner ARGUMENTS` beside `runs/`: exit code, output, errors. It must end in time and without traceback."""
    monkeypatch.chdir(made.parent)
    monkeypatch.setattr(__main__, "app", BUILT)
    monkeypatch.setattr(score_command, "ScoringService", lambda *arguments: nullcontext())
    nothing = rescore.Comparison((), 0, 0, (), "")
    monkeypatch.setattr(rescore, "rescore", lambda *arguments: nothing)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reasoner", *arguments])
        with deadline(), pytest.raises(SystemExit) as ended:
            __main__.main()
        printed = capsys.readouterr()
        assert FAR_AWAY not in printed.out + printed.err, "it followed a link"
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@contextmanager
def damaged(path: Path, damage: Damage) -> Iterator[None]:
    """The file is kept aside meanwhile; `damage` finds it there still."""
    aside = path.parents[len(path.parents) - 1 - path.parts.index("runs")] / "aside"
    path.rename(aside)
    if aside.is_file():
        shutil.copy(aside, path)
    try:
        damage(path)
        yield
    finally:
        remove(path)
        aside.rename(path)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def instead(make: Damage) -> Damage:
    def damage(path: Path) -> None:
        remove(path)
        make(path)

    return damage


def content(data: bytes) -> Damage:
    return instead(lambda path: path.write_bytes(data) and None)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def bound_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(here)


IRREGULAR: Mapping[str, Damage] = {
    "pipe": instead(os.mkfifo),
    "folder": instead(Path.mkdir),
    "loop": instead(lambda path: path.symlink_to(path.name)),
    "link to a device": instead(lambda path: path.symlink_to("/dev/zero")),
    "link to a terminal": instead(lambda path: path.symlink_to("/dev/tty")),
    "link out": instead(lambda path: path.symlink_to(Path.cwd() / "outside")),
    "socket": instead(bound_socket),
    "sparse": instead(sparse),
}
"""what no run writes; each is refused"""
CONTENT: Mapping[str, Damage] = {
    "empty": content(b""),
    "not UTF-8": content(b'{"a": "\xff\xfe"}\n'),
    "zeros": content(b"\0" * 2**20 + b"\n"),
    "brackets": content(b"[" * 2**20 + b"\n"),
    "closed brackets": content(b"[" * 500 + b"]" * 500 + b"\n"),
    "objects": content(b'{"a":' * 2**15 + b"\n"),
    "no keys": content(b"{}\n"),
    "a number": content(b"1e999\n"),
    "a long number": content(b"9" * 10_000 + b"\n"),
    "half a pair": content(b'{"a": "\\ud800"}\n'),
}
FILES = (
    *("status.json", "config.toml", "environment.json", "metrics.jsonl", "evaluations.jsonl", "warnings.jsonl"),
    *("starts.jsonl", "rollouts", STEP, "model/tokenizer.json", "identity.json", ".lock"),
)
SHOWN = FILES[:7]
"""those without which there is no report of a run"""
SHOW = ("runs", "show", "runs/bad")
MARKDOWN = ("report", "runs/bad", "--format", "md", "--output", "-")
PAGE = ("report", "runs/bad", "--output", "-")
SCORE = ("score", "runs/bad")
EXPORT = ("export", "runs/bad", "--to", "exported")


def readers(file: str) -> list[tuple[str, ...]]:
    """The commands that come near the file, but for `runs list` and `runs show`."""
    if file in SHOWN:
        return [("runs", "compare", "runs/good", "runs/bad"), MARKDOWN, *([SCORE] if file == "config.toml" else [])]
    return {"rollouts": [PAGE, SCORE], "model": [PAGE, EXPORT]}.get(file.partition("/")[0], [])


@pytest.mark.parametrize("damage", [*IRREGULAR, *CONTENT])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_one_line_of_error(made: Path, reasoner: Command, file: str, damage: str) -> None:
    if file == "rollouts" and damage not in IRREGULAR:
        pytest.skip("a folder has no content")
    with damaged(made / "bad" / file, (IRREGULAR | CONTENT)[damage]):
        code, listed, _ = reasoner("runs", "list")
        assert (code, "good" in listed) == (0, True)
        for command in (SHOW, *readers(file)):
            code, printed, said = reasoner(*command)
            remove(Path("exported"))
            assert code == 0 or said.startswith("error: "), (command, said)
            assert said.count("\n") == (code != 0) or command == SCORE, (command, said)
            if code == 0 and file in SHOWN and (file, command) != ("warnings.jsonl", SHOW):
                assert damage == "empty", (command, printed)
        if file in SHOWN and damage in IRREGULAR and file != "warnings.jsonl":
            assert f"notreadable:bad:runs/bad/{file}" in "".join(listed.split())
