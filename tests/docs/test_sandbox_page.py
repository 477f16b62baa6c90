"""What docs/code.md says of the sandbox: its example runs, its limits and names are those of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from reasoner.errors import MissingDependencyError
from reasoner.sandbox import Limits, open_sandbox
from reasoner.sandbox.backends.http import _DIALECTS
from reasoner.sandbox.base import End
from reasoner.sandbox.choose import BACKENDS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "code.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## The sandbox\n") : PAGE.index("## Tasks\n")]


def _works() -> bool:
    try:
        open_sandbox()
    except MissingDependencyError:
        return False
    return True


@pytest.mark.skipif(not _works(), reason="no sandbox works here")
def test_the_example_runs() -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", SECTION, flags=re.MULTILINE | re.DOTALL)
    exec(compile(example, "docs/code.md", "exec"), {})


def test_the_limits_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+)\b", SECTION, flags=re.MULTILINE)
    named = {name: int(number) * (2**20 if name == "output_bytes" else 1) for name, number in rows}
    assert named == {field.name: field.default for field in fields(Limits)}


def test_ends_backends_and_services_are_named() -> None:
    for name in (*BACKENDS, *_DIALECTS, *set(get_args(End)) - {"exit", "signal"}):
        assert f"`{name}`" in SECTION or f"/{name}`" in SECTION, name
