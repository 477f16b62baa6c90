"""The tutorial of docs/rewards.md, followed literally: its files, its commands, what they print."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from reasoner.loading import load_config

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
FILES = re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
SESSIONS = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def plain(text: str) -> list[str]:
    """Lines without trailing spaces; speeds and times as #."""
    timed = re.sub(r"[\d.,]+(?= (ms|s|responses/s)\b)", "#", text)
    return [line.rstrip() for line in timed.strip().splitlines()]


def test_the_page_has_its_files_and_commands() -> None:
    assert [name for name, _ in FILES] == ["units.py", "cases.jsonl", "my.toml"]
    assert len(SESSIONS) == 2


@pytest.mark.slow
def test_every_command_prints_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES:
        Path(name).write_text(text)
    for command, expected in SESSIONS:
        words = shlex.split(command)
        assert words[0] == "reasoner"
        done = subprocess.run(
            [sys.executable, "-m", "reasoner", *words[1:]],
            capture_output=True,
            text=True,
            timeout=120,
            env={
                **os.environ,
                "COLUMNS": "80",
                "PYTHONPATH": os.pathsep.join([str(ROOT), f"{ROOT}/rewards", f"{ROOT}/tasks"]),
            },
        )
        assert plain(done.stdout) == plain(expected), done.stderr
    config = load_config("math-gsm8k", "laptop", [Path("my.toml")], (), ("units.py",)).config
    assert [(reward.source, reward.weight) for reward in config.rewards] == [("math", 1.0), ("names_unit", 0.2)]
