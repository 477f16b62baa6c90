"""Run folders that anybody may have made: whatever stands in the place of a file of theirs, every command ends soon
with what it can show, or with one line that names the file."""

from __future__ import annotations

import io
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
from types import FrameType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from reasoner import __main__
from reasoner.benchmarks import rescore
from reasoner.benchmarks.folder import reopen
from reasoner.cli.console import complain
from reasoner.cli.results import score as score_command
from reasoner.errors import DataError, UserError
from reasoner.io import parquet
from reasoner.io.parquet import read_parquet, write_parquet
from reasoner.monitoring.alarms import Warned
from reasoner.monitoring.choose import open_view
from reasoner.records import Failure, Rollout
from reasoner.runs.folder import log_to, open_run
from reasoner.runs.resuming.resume import find_place
from reasoner.runs.resuming.rules import load_resumed
from reasoner.runs.starts import read_starts
from tests.command import COMMAND
from tests.made_up import made_up_run

DEADLINE_S = 60
"""of a command; the slowest takes a fraction of a second of a machine that has nothing else to do"""
FAR_AWAY = "the secret of another folder"
STEP = "rollouts/step-000001.parquet"
CHECKPOINT = "checkpoints/step-000002"

Damage = Callable[[Path], object]
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
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        (run / "model" / name).write_text("{}")
    save_file({"weight": torch.zeros(2)}, run / "model" / "model.safetensors")
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
    """Runs `reasoner ARGUMENTS` beside `runs/`: exit code, output, errors. It must end in time, without traceback."""
    monkeypatch.chdir(made.parent)
    monkeypatch.setattr(__main__, "app", COMMAND)
    monkeypatch.setattr(score_command, "ScoringService", lambda *arguments: nullcontext())
    nothing = rescore.Rescoring((), 0, 0, (), "")
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
    return instead(lambda path: path.write_bytes(data))


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
WARNINGS = "warnings.jsonl"
FILES = (
    *("status.json", "config.toml", "environment.json", "metrics.jsonl", "evaluations.jsonl", WARNINGS),
    *("starts.jsonl", "rollouts", STEP, "model/tokenizer.json", "identity.json", ".lock", "gate.json"),
)
SHOWN = tuple(file for file in FILES[:7] if file != WARNINGS)
"""those without which a run is not shown"""
SHOW = ("runs", "show", "runs/bad")
MARKDOWN = ("report", "runs/bad", "--format", "md", "--output", "-")
PAGE = ("report", "runs/bad", "--output", "-")
SCORE = ("score", "runs/bad")
EXPORT = ("export", "runs/bad", "--to", "exported")


def readers(file: str) -> list[tuple[str, ...]]:
    """The commands that come near the file, but for `runs list` and `runs show`."""
    if file in SHOWN:
        return [("runs", "compare", "runs/good", "runs/bad"), MARKDOWN, *([SCORE] if file == "config.toml" else [])]
    others: dict[str, list[tuple[str, ...]]] = {
        WARNINGS: [MARKDOWN],
        "gate.json": [MARKDOWN],
        "rollouts": [PAGE, SCORE],
        "model": [PAGE, EXPORT],
    }
    return others.get(file.partition("/")[0], [])


@pytest.mark.parametrize(
    ("file", "damage"),
    [(file, damage) for file in FILES for damage in (*IRREGULAR, *(CONTENT if file != "rollouts" else ()))],
)
def test_a_damaged_file_is_one_line_of_error(made: Path, reasoner: Command, file: str, damage: str) -> None:
    with damaged(made / "bad" / file, {**IRREGULAR, **CONTENT}[damage]):
        code, listed, _ = reasoner("runs", "list")
        assert (code, "good" in listed) == (0, True)
        for command in (SHOW, *readers(file)):
            code, printed, message = reasoner(*command)
            remove(Path("exported"))
            assert code == 0 or message.startswith("error: "), (command, message)
            assert message.count("\n") == (code != 0) or command == SCORE, (command, message)
            if code == 0 and (file in SHOWN or (file, command) == (WARNINGS, MARKDOWN)):
                assert damage == "empty", (command, printed)
        if file in SHOWN and damage in IRREGULAR:
            assert f"notreadable:bad:runs/bad/{file}" in "".join(listed.split())


WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**40,
    1e300,
    "",
    "2025-01-01T00:00:00",
    "x" * 10_000,
    [],
    [[]],
    {},
    {"a": {}},
    ["a", 1],
)
"""values of types, sizes and shapes that nobody expects"""
Value = Any


def places(value: Value, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a JSON value are, the first one of a list only."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, each in list(inner)[:12]:
        yield from places(each, (*path, key))


def with_value(value: Value, path: tuple[Any, ...], new: Value) -> Value:
    copied = json.loads(json.dumps(value))
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return copied


@pytest.mark.parametrize("file", ["status.json", "environment.json", "metrics.jsonl", "evaluations.jsonl", WARNINGS])
def test_values_of_any_type_are_shown_or_refused(made: Path, reasoner: Command, file: str) -> None:
    path = made / "bad" / file
    first, newline, rest = path.read_text().partition("\n") if file.endswith("l") else (path.read_text(), "", "")
    value = json.loads(first)
    refused = shown = 0
    command = MARKDOWN if file in (WARNINGS, "metrics.jsonl") else SHOW
    for number, place in enumerate(places(value)):
        for wrong in (*WRONG[number % 2 :: 2], "absent"):
            changed = with_value(value, place, wrong)
            if wrong == "absent" and not isinstance(place[-1], int):
                changed = with_value(value, place[:-1], {}) if len(place) > 1 else {}
            with damaged(path, content((json.dumps(changed) + newline + rest).encode())):
                code, _, message = reasoner(*command)
            assert code == 0 or message.startswith("error: runs/bad/"), (place, wrong, message)
            assert message.count("\n") == (code != 0), (place, wrong, message)
            refused, shown = refused + (code != 0), shown + (code == 0)
    assert refused


def with_component(**changes: Any) -> Damage:
    return rewritten(lambda row: replace(row, components=(replace(row.components[0], **changes),)))


def with_response(copies: int = 1, **changes: Any) -> Damage:
    return rewritten(lambda row: replace(row, response=replace(row.response, **changes)), copies)


def with_tokens(id_: int) -> Damage:
    return rewritten(
        lambda row: replace(row, response=replace(row.response, token_ids=(id_,) * len(row.weights or ())))
    )


def with_wide_tokens(table: pa.Table) -> pa.Table:
    """As files were written before: token ids of 64 bits, and here one that no vocabulary has."""
    response = table["response"].combine_chunks()
    fields = [response.type.field(index) for index in range(response.type.num_fields)]
    columns = {field.name: response.field(field.name) for field in fields}
    at = [field.name for field in fields].index("token_ids")
    wide = pa.list_(pa.field("item", pa.int64(), False))
    columns["token_ids"] = pa.array([[2**40] * len(row) for row in columns["token_ids"].to_pylist()], wide)
    fields[at] = pa.field("token_ids", wide, False)
    inner = pa.StructArray.from_arrays(list(columns.values()), fields=fields)
    place = table.schema.get_field_index("response")
    return table.set_column(place, pa.field("response", inner.type, False), inner)


def rewritten(change: Callable[[Rollout], Rollout], copies: int = 1) -> Damage:
    """Other rollouts, written as ours are."""
    return lambda path: write_parquet(path, [change(row) for row in read_parquet(path, Rollout)] * copies)


def as_table(change: Callable[[pa.Table], pa.Table]) -> Damage:
    """Another table than `write_parquet` writes."""
    return lambda path: pq.write_table(change(pq.ParquetFile(path).read()), path)


def not_text(table: pa.Table) -> pa.Table:
    response = table["response"].combine_chunks()
    fields = [response.type.field(index) for index in range(response.type.num_fields)]
    columns = {field.name: response.field(field.name) for field in fields}
    columns["text"] = pa.Array.from_buffers(pa.string(), len(table), pa.array([b"\xff\xfe"] * len(table)).buffers())
    inner = pa.StructArray.from_arrays(list(columns.values()), fields=fields)
    return table.set_column(table.schema.get_field_index("response"), table.schema.field("response"), inner)


def with_parts(text: str) -> Damage:
    """The free-form part of a score is JSON as text."""

    def change(table: pa.Table) -> pa.Table:
        field = table.schema.field("components")
        rows = table["components"].to_pylist()
        changed = pa.array([[{**part, "parts": text} for part in row] for row in rows], field.type)
        return table.set_column(table.schema.get_field_index("components"), field, changed)

    return as_table(change)


LEFT_OUT: Mapping[str, Damage] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "damaged inside": lambda path: path.write_bytes(path.read_bytes().replace(b"PAR1", b"\xff" * 4)),
    "many numbers": rewritten(lambda row: replace(row, prompt_ids=(7,) * 10**6)),
    "one text, many times": with_response(copies=50, text="a" * 2**16),
    "too few columns": as_table(lambda table: table.drop_columns(["reward"])),
    "another type": as_table(lambda table: table.set_column(0, "step", pa.array(["1"] * len(table)))),
    "no step": as_table(lambda table: table.set_column(0, "step", pa.nulls(len(table), pa.int64()))),
    "text that is none": as_table(not_text),
    "huge tokens": as_table(with_wide_tokens),
    "parts without end": with_parts('{"a":' * 10**5),
    "deep parts": with_parts('{"a":' + "[" * 900 + "]" * 900 + "}"),
    "parts without object": with_parts("[1]"),
    "parts that are not finite": with_parts('{"a": 1e999}'),
}
"""rollout files whose responses are not shown"""
KEPT: Mapping[str, Damage] = {
    "no rows": as_table(lambda table: table.slice(0, 0)),
    "parts that are huge": with_parts('{"a": 1e200, "b": -1e308}'),
    "parts of half a pair": with_parts('{"\\ud800": "\\udfff"}'),
    "huge rewards": rewritten(lambda row: replace(row, reward=1e308, credit=-1e308)),
    "no number": rewritten(lambda row: replace(row, reward=math.nan, credit=math.inf)),
    "huge values": with_component(value=1e308, weight=math.inf, seconds=math.nan),
    "a failure for ever": with_component(failure=Failure("math", "error", "x", math.inf), value=None),
    "negative tokens": with_tokens(-1),
    "large tokens": with_tokens(2**31 - 1),
    "odd samples": rewritten(lambda row: replace(row, sample=row.sample + 7)),
}
"""odd ones that are"""


@pytest.mark.parametrize("damage", [*LEFT_OUT, *KEPT])
def test_a_damaged_rollout_file_costs_its_responses_and_no_more(
    made: Path, reasoner: Command, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "UNPACKED_BYTES", 2**22)
    with damaged(made / "bad" / STEP, {**LEFT_OUT, **KEPT}[damage]):
        code, page, message = reasoner(*PAGE)
        assert (code, message) == (0, "")
        assert (f"runs/bad/{STEP}" in page) is ("its responses are left out" in page) is (damage in LEFT_OUT)
        code, _, message = reasoner(*SCORE)
        if damage in LEFT_OUT or damage in ("no rows", "odd samples"):
            assert (code, message.startswith(f"error: runs/bad/{STEP}"), message.count("\n")) == (2, True, 1)
        else:
            assert (code, message) == (0, "")


RESUMED = (
    *("identity.json", "status.json", "config.toml", "metrics.jsonl", "evaluations.jsonl", WARNINGS, "starts.jsonl"),
    *(".lock", "log.txt", STEP, f"{CHECKPOINT}/manifest.json", f"{CHECKPOINT}/state.json"),
)


def refusal(call: Callable[[], None]) -> str:
    """Why a call is refused; empty: it is not."""
    try:
        with deadline():
            call()
    except (UserError, DataError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("damage", [*IRREGULAR, *CONTENT])
@pytest.mark.parametrize("file", RESUMED)
def test_a_damaged_run_does_not_go_on(made: Path, file: str, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything in it is changed, or goes on at an earlier place."""
    monkeypatch.chdir(made.parent)
    folder = Path("runs/bad")

    def resume() -> None:
        load_resumed(folder, [])
        with find_place(folder, 10) as place:
            place.check({"engine": "hf"})
            read_starts(folder)

    with damaged(folder.absolute() / file, {**IRREGULAR, **CONTENT}[damage]):
        before = sorted((path, path.lstat().st_size) for path in folder.rglob("*"))
        refused = refusal(resume)
        assert sorted((path, path.lstat().st_size) for path in folder.rglob("*")) == before
    if refused:
        assert refused.startswith(("--resume runs/bad", "runs/bad")) or file == "config.toml"
    else:
        assert file in (".lock", "log.txt", STEP) or damage == "empty"
        assert damage not in IRREGULAR or damage == "sparse" or (file, damage) == (STEP, "folder")


@pytest.mark.parametrize("damage", [*IRREGULAR, *CONTENT])
@pytest.mark.parametrize("file", ["plan.json", "part-A/config.toml", "part-A/evaluations.jsonl", "part-A/groups.jsonl"])
def test_a_damaged_evaluation_does_not_go_on(
    made: Path, tmp_path: Path, file: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.parent)
    folder = tmp_path / "runs" / "20260101-eval"
    shutil.copytree(made / "good", folder / "part-A")
    (folder / "part-A" / "groups.jsonl").touch()
    (folder / "plan.json").write_text('[{"name": "part-A", "letter": "A", "identity": {}}]')

    def resume() -> None:
        with reopen(str(folder)) as evaluation:
            assert evaluation.configs
            evaluation.evaluation("part-A")
            evaluation.groups(SimpleNamespace(name="part-A"))  # type: ignore[arg-type]

    assert refusal(resume) == ""
    with damaged(folder / file, {**IRREGULAR, **CONTENT}[damage]):
        refused = refusal(resume)
    if file == "part-A/config.toml":
        assert refused
    else:
        assert refused.startswith(str(folder)) or (not refused and damage == "empty")


@pytest.mark.parametrize("name", ["..", "../good", "/etc", "", "a/b", ".", "x\0"])
def test_the_parts_of_an_evaluation_are_in_its_folder(tmp_path: Path, name: str) -> None:
    plan = [{"name": name, "letter": "A", "identity": {}}]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with reopen(str(tmp_path)) as evaluation, pytest.raises(DataError, match=r"plan\.json.*is not the name of a part"):
        assert evaluation.plan


ESCAPES = "S\x1b[31m\x1b]0;t\x07\x1b]8;;http://h\x07\x9b2J\x1b]52;c;aGk=\x1b\\\x08\r\x7f\u202e\u2066[link=http://h]:smile:\ud800"
"""colours, a title, a link, the clipboard; what erases, and what turns text round; what rich would take for its own"""
NAME = ESCAPES.replace("/", "")[:-1]
"""what a folder can be called"""
CURSOR = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
OURS = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def in_every_text(value: Value) -> Value:
    """With the escapes at the end of every text that is no name of ours."""
    if isinstance(value, dict):
        return {key: in_every_text(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [in_every_text(inner) for inner in value]
    fixed = ("wilson", "bootstrap", "none", "share", "tokens", "reward", "avg@1", "math", "failed")
    is_text = isinstance(value, str) and value not in fixed and not value.startswith("20")
    return f"{value}{ESCAPES}" if is_text else value


def hostile_run(folder: Path) -> Path:
    """A run of texts that steer a terminal."""
    for name in ("status.json", "environment.json"):
        file = folder / name
        file.write_text(json.dumps(in_every_text(json.loads(file.read_text()))))
    for name in ("warnings.jsonl", "starts.jsonl", "evaluations.jsonl"):
        lines = [in_every_text(json.loads(line)) for line in (folder / name).read_text().splitlines()]
        file = folder / name
        # pydantic takes no half of a pair
        file.write_text("".join(json.dumps(line).replace("\\ud800", "") + "\n" for line in lines))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps(line | {f"reward/{ESCAPES}/mean": 0.5}) + "\n" for line in lines))
    config = (folder / "config.toml").read_text()
    quoted = json.dumps(ESCAPES.replace("\ud800", ""))
    changed = re.sub(
        '^(title|template|system) = "(?!{{ message)[^"]*"$', lambda found: f"{found[1]} = {quoted}", config, flags=re.M
    )
    assert changed != config
    (folder / "config.toml").write_text(changed)
    for file in (folder / "rollouts").glob("*.parquet"):
        rows = read_parquet(file, Rollout)
        odd = [
            replace(
                row,
                problem=replace(row.problem, id=f"{row.problem.id}{ESCAPES}", answer=ESCAPES),
                response=replace(row.response, text=ESCAPES),
                components=tuple(replace(part, note=ESCAPES, parts={ESCAPES: ESCAPES}) for part in row.components),
            )
            for row in rows
        ]
        write_parquet(file, odd)
    return folder


@pytest.mark.parametrize("colours", [False, True])
def test_no_text_of_a_run_steers_the_terminal(
    made: Path, tmp_path: Path, reasoner: Command, colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hostile_run(Path(shutil.copytree(made / "good", tmp_path / f"runs/run{NAME}")))
    monkeypatch.chdir(tmp_path)
    if colours:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    change = rescore.RescoredResponse(1, True, ESCAPES, 0, 0.0, 1.0, {}, {}, None, None, ESCAPES)
    compared = rescore.Rescoring((change,), 1, 0, (rescore.ComponentChange(ESCAPES, 0.0, 1.0, 1),), ESCAPES)
    monkeypatch.setattr(rescore, "rescore", lambda *arguments: compared)
    name = str(folder)
    commands = {
        ("runs", "list"): 0,
        ("runs", "show", name): 0,
        ("runs", "compare", name, str(made / "good")): 0,
        ("report", name, "--format", "md", "--output", "-"): 0,
        ("report", name, "--output", "-"): 0,
        ("report", name): 0,
        ("score", name): 0,
        ("config", "show", f"{name}/config.toml"): 0,
        ("config", "show", f"{name}/config.toml", "--toml"): 0,
        ("export", name, "--to", f"out{NAME}"): 0,
        ("export", f"{name}", "--to", f"out{NAME}", "--to", f"out{NAME}"): 2,  # it is there
        ("runs", "show", f"{name}/rollouts"): 2,
        ("runs", "rm", f"{name}x"): 2,
    }
    for arguments, expected in commands.items():
        code, printed, message = reasoner(*arguments)
        assert (code, "Traceback" in message) == (expected, False), message
        if colours:  # a progress line moves the cursor
            message = CURSOR.sub("", message)
            printed, coloured = OURS.sub("", printed), printed
            assert printed != coloured or arguments[0] != "runs" or code
        assert CONTROL.findall(printed + message) == [], arguments
        assert "S\\u001b[31m" in "".join((message if code else printed).split()), arguments
    card = (tmp_path / f"out{NAME}" / "README.md").read_text()
    assert CONTROL.findall(card) == []


def test_what_a_run_says_while_it_goes_steers_no_terminal(tmp_path: Path) -> None:
    """The plain view, the live view and the log, in which our own colours and cursor movements stay."""
    log = tmp_path / "log.txt"
    plain, live = io.StringIO(), io.StringIO()
    live.isatty = lambda: True  # type: ignore[method-assign]
    for stream in (plain, live):
        with open_view(stream, lambda text: log_to(log, text)) as view:
            view.started({f"a{ESCAPES}": ESCAPES}, 2)
            view.message(f"first{ESCAPES}\n\tsecond")
            view.stage(f"sampling{ESCAPES}", 1, 2)
            view.step(1, 2, {"reward/mean": 0.5, f"reward/{ESCAPES}/mean": 0.1}, [Warned(1, "x", ESCAPES, ESCAPES)])
    assert CONTROL.findall(plain.getvalue() + log.read_text()) == []
    assert "\n\tsecond" in plain.getvalue()
    assert CURSOR.search(live.getvalue())
    assert CONTROL.findall(CURSOR.sub("", live.getvalue())) == []
    assert "S\\u001b[31m" in live.getvalue()


def test_errors_and_tracebacks_steer_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    complain(UserError(f"no such thing: {ESCAPES}"))
    __main__._show_bug(ValueError, ValueError(ESCAPES), None)
    message = capsys.readouterr().err
    assert CONTROL.findall(message) == []
    assert message.count("S\\u001b[31m") == 2
