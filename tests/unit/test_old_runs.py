"""A run of an earlier version (`cases/old-run`, cut short): it is read, and what it cannot be used for is said.

It was made before the modules moved into packages, so its files name none of them.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from reasoner.benchmarks.rescore import load_saved
from reasoner.errors import ConfigError
from reasoner.loading import load_config
from reasoner.runs.reader import read_run
from reasoner.runs.resuming.rules import load_resumed
from tests.command import Cli


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).parent / "cases" / "old-run", tmp_path / "old-run"))


def refused_keys(message: str) -> list[str]:
    """Every line must say what became of its keys, and be short."""
    lines = [re.sub(r" \(.*?\): ", " (config.toml): ", line, count=1) for line in message.splitlines()]
    assert [line for line in lines if "): no longer there, " not in line or len(line) > 300] == []
    return [key for line in lines for key in line.partition(" (")[0].split(", ")]


def test_an_old_run_is_shown_and_reported(cli: Cli, old: Path) -> None:
    run = read_run(old)
    assert (run.state, len(run.metrics), [each.step for each in run.evaluations]) == ("finished", 3, [0, 3])
    shown, reported = cli("runs", "show", str(old)), cli("report", str(old), "--format", "md")
    assert (shown.code, shown.err, reported.code, reported.err) == (0, "", 0, "")
    assert "finished: 3 of 3 steps" in shown.out
    assert "| accuracy (avg@1) | 28.1% [21.1, 36.5] | 37.5% [29.6, 46.1] |" in (old / "report.md").read_text()


def test_old_rollouts_are_read(old: Path) -> None:
    (batch,) = load_saved(old / "rollouts" / "step-000001.parquet")
    (scored,) = batch.groups
    assert len(scored.group.responses) == len(scored.rewards) == 8
    assert [part.source for part in scored.components[0]] == ["math", "boxed_format"]


def test_an_old_configuration_is_refused_with_what_changed_and_loads_without_it(old: Path) -> None:
    config = old / "config.toml"
    with pytest.raises(ConfigError) as refused:
        load_config(config)
    with pytest.raises(ConfigError) as not_resumed:
        load_resumed(old, [])
    keys = refused_keys(str(refused.value))
    assert refused_keys(str(not_resumed.value)) == keys
    assert {"sampling.top_p", "sampling.top_k", "sampling.repetition_penalty"} <= set(keys)
    for key in keys:
        section, _, name = key.rpartition(".")
        text = re.sub(rf"(^\[{section}\]\n(?:[^\[\n].*\n|\n)*?){name} = .*\n", r"\1", config.read_text(), flags=re.M)
        assert text != config.read_text(), key
        config.write_text(text)
    resolved, changes = load_resumed(old, [])
    assert (resolved.config.task, resolved.config.gro.preset, list(changes)) == ("math-gsm8k", "grpo", [])
