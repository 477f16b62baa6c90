"""The built-in trackers with their real libraries, offline: what a run told them can be read back."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NAME = "20260101-120000-sums"
FOLLOW = """
import json, sys
from pathlib import Path

import psutil

from reasoner.evaluation.metrics import Estimate, Evaluation
from reasoner.plugins.events import Events
from reasoner.plugins.manager import build_manager, trackers
from reasoner.monitoring.tracking import Trackers, preflight_trackers

folder, configured, said = Path(sys.argv[1]), json.loads(sys.argv[2]), []
settings = {"task": "sums", "run": {"seed": 3}, "judge": {"api_key": "sk-very-secret"}}
estimate = Estimate("avg@1", "share", 0.5, 0.1, 0.9, "none", {})


def part(first, last, state):
    manager = build_manager()
    kinds = trackers(manager)
    preflight_trackers(configured, kinds)
    events = Events(manager, said.append, {"trackers": Trackers(configured, kinds, said.append)})
    events.emit("run_started", folder=folder, settings=settings, first_step=first)
    if first == 1:
        events.emit("evaluation_finished", step=0, evaluation=Evaluation(2, 1, 0, (estimate,)))
    for step in range(first, last + 1):
        events.emit("step_finished", step=step, metrics={"reward/mean": step / 8, "gap/max": float("nan")})
    events.emit("run_finished", folder=folder, state=state)


part(1, 3, "interrupted")
part(3, 4, "finished")
print(json.dumps({"said": said, "left": [child.name() for child in psutil.Process().children(recursive=True)]}))
"""
REWARDS = [(1, 0.125), (2, 0.25), (3, 0.375), (4, 0.5)]


@dataclass(frozen=True)
class Followed:
    folder: Path
    """of the run"""
    trackio: Path


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """A run of three steps that was interrupted and went on from its third, followed by all trackers at once."""
    top = tmp_path_factory.mktemp("tracked")
    result = Followed(top / NAME, top / "trackio")
    result.folder.mkdir()
    configured = {"tensorboard": {}, "wandb": {"project": "sums", "mode": "offline"}, "trackio": {"project": "sums"}}
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FOLLOW, str(result.folder), json.dumps(configured)],
        capture_output=True,
        text=True,
        env={**os.environ, **nowhere, "TRACKIO_DIR": str(result.trackio), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"said": [], "left": []}  # and nothing else was printed
    return result


@pytest.mark.slow
def test_tensorboard_shows_each_step_once(followed: Followed) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(followed.folder / "tensorboard"))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("reward/mean")] == REWARDS
    assert [(each.step, each.value) for each in events.Scalars("evaluation/avg@1")] == [(0, 0.5)]
    texts = {tag: [each.tensor_proto.string_val[0] for each in events.Tensors(tag)] for tag in events.Tags()["tensors"]}
    assert b'"seed": 3' in texts["settings/text_summary"][0]
    assert b"secret" not in texts["settings/text_summary"][0]
    assert texts["state/text_summary"][-1] == b"finished"


@pytest.mark.slow
def test_wandb_has_both_parts_under_one_id(followed: Followed) -> None:
    parts = sorted((followed.folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(parts) == 2
    told: list[tuple[int, Any]] = []
    for path, exit_code, state in zip(parts, (1, 0), ("interrupted", "finished"), strict=True):
        records = list(_wandb_records(path))
        (run,) = [each.run for each in records if each.WhichOneof("record_type") == "run"]
        assert (run.run_id, run.project) == (NAME, "sums")
        config = {each.key: each.value_json for each in run.config.update}
        assert (json.loads(config["run"]), config["judge"]) == ({"seed": 3}, '{"api_key":"***"}')
        for record in records:
            if record.WhichOneof("record_type") == "history":
                items = {_name(item): json.loads(item.value_json) for item in record.history.item}
                told.append((items["step"], items.get("reward/mean", items.get("evaluation/avg@1"))))
        summaries = [each.summary.update for each in records if each.WhichOneof("record_type") == "summary"]
        assert json.dumps(state) in [
            item.value_json for update in summaries for item in update if _name(item) == "state"
        ]
        assert [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"] == [exit_code]
    assert told == [(0, 0.5), *REWARDS[:3], *REWARDS[2:]]


@pytest.mark.slow
def test_trackio_has_one_run(followed: Followed) -> None:
    script = (
        "import json\nfrom trackio.sqlite_storage import SQLiteStorage as storage\n"
        f"logs, alerts = storage.get_logs('sums', {NAME!r}), storage.get_alerts('sums')\n"
        "print(json.dumps([storage.get_runs('sums'), [[each['step'], each.get('reward/mean')] for each in logs],"
        f" [each['title'] for each in alerts], storage.get_run_config('sums', {NAME!r})]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TRACKIO_DIR": str(followed.trackio)},
    )
    runs, logs, alerts, config = json.loads(done.stdout)
    assert runs == [NAME]
    assert [tuple(log) for log in logs] == [(0, None), *REWARDS[:3], *REWARDS[2:]]
    assert sorted(alerts) == ["run finished", "run interrupted"]
    assert (config["run"], config["judge"]) == ({"seed": 3}, {"api_key": "***"})


def _name(item: Any) -> str:
    return item.key or item.nested_key[0]  # type: ignore[no-any-return]


def _wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run: protobufs in the blocks of a LevelDB log, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, position, whole = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if (left := 2**15 - position % 2**15) < 7:
            position += left  # no room for a record's header in this block
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + 7])
        whole += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # the whole record, or its last part
            record: Any = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record
