"""docs/trackers.md says of every tracker exactly the options that it has, and its plugin works."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from reasoner.monitoring.tracking import check_trackers
from reasoner.plugins.manager import build_manager, trackers
from reasoner.plugins.options import field_documents
from reasoner.plugins.tracker_api import TrackedRun

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "trackers.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
KINDS = trackers(build_manager())


def test_every_tracker_has_a_section() -> None:
    assert list(SECTIONS) == list(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_options_are_those_of_the_tracker(name: str) -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in SECTIONS[name].splitlines() if "|" in line
    ]
    shown = {cells[0].strip("`"): (cells[2], cells[3]) for cells in rows[2:]}
    options = KINDS[name].options
    documents = field_documents(options)
    expected = {
        key: ("unset" if field.default is None else f"`{json.dumps(field.default)}`", documents[key])
        for key, field in options.model_fields.items()
    }
    assert shown == expected


def test_the_example_is_accepted() -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    check_trackers(tomllib.loads(block)["trackers"], KINDS)


def test_the_plugin_works_as_printed(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "diary.py").write_text(code)
    kind = trackers(build_manager([str(tmp_path / "diary.py")]))["diary"]
    options = kind.options()
    assert kind.preflight(options) == "diary.txt"
    diary = kind.open(TrackedRun(tmp_path, "sums", {}, 1), options)
    diary.step(1, {"reward/mean": 0.5})
    diary.evaluation(1, {"evaluation/avg@1": 0.5})
    diary.finish("finished")
    assert (tmp_path / "diary.txt").read_text().splitlines() == [
        "1 0.5",
        "evaluation after 1 {'evaluation/avg@1': 0.5}",
        "finished",
    ]
