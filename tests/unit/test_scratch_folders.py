"""Which folders are removed as abandoned, and which are not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reasoner.distributed.ranks import ALONE
from reasoner.models.embedded import _new_folder
from reasoner.processes.scratch_folders import ScratchFolder, remove_abandoned

remove: Callable[[Path], None] = remove_abandoned.__wrapped__


def abandoned(place: Path, kind: str = "weights") -> Path:
    """As a killed process left it."""
    folder = place / f"reasoner-{uuid.uuid4().hex}-{kind}-abcd_123"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").write_text("x")
    return folder


def test_what_nobody_holds_is_removed(tmp_path: Path) -> None:
    folders = [abandoned(tmp_path), abandoned(tmp_path, "vllm")]
    (folders[1] / "link").symlink_to(tmp_path)
    remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_use_is_kept_whoever_looks(tmp_path: Path) -> None:
    with ScratchFolder("weights", tmp_path) as folder:
        for _ in range(2):
            remove(tmp_path)
        program = "import pathlib, reasoner.processes.scratch_folders as f; f.remove_abandoned(pathlib.Path.cwd())"
        subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
        assert folder.is_dir()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_what_only_looks_alike_is_kept(tmp_path: Path) -> None:
    run = uuid.uuid4().hex
    names = ["reasoner-notes", "reasoner-my-notes-of-today", f"reasoner-{run}", f"reasoner-{run}-weights"]
    names += [
        f"reasoner-{run[1:]}-weights-abcd_123",
        f"x-reasoner-{run}-weights-abcd_123",
        f".reasoner-{run}-a-abcd_123",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / f"reasoner-{run}-file-abcd_123").touch()
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (tmp_path / f"reasoner-{run}-link-abcd_123").symlink_to(elsewhere)
    before = sorted(tmp_path.iterdir())
    remove(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
def test_another_user_s_is_kept(tmp_path: Path) -> None:
    folder = abandoned(tmp_path)
    os.chown(folder, 54321, 54321)
    remove(tmp_path)
    assert folder.exists()


def test_where_nothing_can_be_locked_folders_are_made_and_none_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    left = abandoned(tmp_path)
    monkeypatch.setattr(fcntl, "flock", no_lock)
    with ScratchFolder("weights", tmp_path) as folder:
        remove(tmp_path)
        assert folder.is_dir()
    assert not folder.exists()
    assert left.exists()


def test_one_that_was_taken_for_abandoned_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    lock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        if not made:
            made.extend(tmp_path.iterdir())
            made[0].rmdir()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with ScratchFolder("weights", tmp_path) as folder:
        assert folder.is_dir()
        assert [folder] != made


def test_many_that_make_and_look_at_once(tmp_path: Path) -> None:
    """Each lock is of an opened folder, so threads stand for processes."""

    def use(_: int) -> bool:
        with ScratchFolder("weights", tmp_path) as folder:
            (folder / "file").touch()
            remove(tmp_path)
            return (folder / "file").exists()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(200)))
    assert list(tmp_path.iterdir()) == []


def test_who_makes_them_removes_what_was_left_there(tmp_path: Path) -> None:
    """Also in a folder of the user's own choice (`sampling.weights_folder`), and in the cache of models."""
    for name in ("weights", "models"):
        (tmp_path / name).mkdir()
    left = [abandoned(tmp_path / name) for name in ("weights", "models")]
    with ALONE.node_folder("weights", tmp_path / "weights") as folder:
        assert folder.parent == tmp_path / "weights"
    with _new_folder(tmp_path / "models" / "tiny") as folder:
        (folder / "file").touch()
    assert [path.exists() for path in left] == [False, False]
    assert (tmp_path / "models" / "tiny" / "file").exists()
    assert len(list((tmp_path / "models").iterdir())) == 1
