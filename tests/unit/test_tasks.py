"""Task files as they are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasoner.errors import ConfigError, UserError
from reasoner.tasks import find_task, read_toml


def test_a_registered_task_goes_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "adding.toml"
    path.write_text('title = "Sums"\n[profiles.small]\n[profiles.large]\n')
    task = find_task("adding", {"adding": path})
    assert (task.name, task.title, list(task.profiles), task.origin) == (
        "adding",
        "Sums",
        ["small", "large"],
        "task adding",
    )
    assert not task.is_complete


def test_a_file_goes_by_its_stem_and_a_complete_one_by_its_own_task(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('title = "Mine"\n')
    assert (find_task(own, {}).name, find_task(str(own), {}).origin) == ("own", str(own))
    complete = tmp_path / "config.toml"
    complete.write_text('task = "adding"\nprofile = "small"\n')
    assert (find_task(complete, {}).name, find_task(complete, {}).is_complete) == ("adding", True)


def test_what_is_not_there_or_not_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no task 'addin'. Did you mean 'adding'\? See `reasoner tasks list`"):
        find_task("addin", {"adding": tmp_path})
    with pytest.raises(UserError, match=r"cannot read .*nope.toml: No such file"):
        find_task("./nope.toml", {})
    (tmp_path / "latin.toml").write_bytes(b'title = "\xe9"')
    with pytest.raises(ConfigError, match=r"latin.toml: not UTF-8 text: byte 9"):
        read_toml(tmp_path / "latin.toml")
    (tmp_path / "odd.toml").write_text("profiles = 3\n")
    with pytest.raises(ConfigError, match=r"profiles must be tables, one \[profiles.NAME\] for each; got 3"):
        _ = find_task(tmp_path / "odd.toml", {}).profiles
