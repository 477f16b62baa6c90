"""Nothing is imported from the working directory, whatever lies there and whichever process looks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasoner.errors import RunError
from reasoner.processes.child_python import boot_command, module_command
from reasoner.sampling.server import serve as serving
from reasoner.sampling.vllm import process as vllm_process
from reasoner.sampling.vllm.messages import StartEngine
from reasoner.sampling.vllm.process import EngineProcess
from tests.integration.test_ranks import SSH
from tests.integration.test_run import TASK
from tests.tiny import build_tiny_model

ROOT = Path(__file__).parents[2]
REASONER = Path(sys.executable).with_name("reasoner")
POISONED = ("statistics", "random", "json", "signal", "typing", "torch", "vllm", "pluggy", "sitecustomize", "evil")
"""modules of Python, of what is installed, and of nobody"""
FAILS_ON_RANKS = "import os\nif 'RANK' in os.environ:\n    raise ZeroDivisionError('only ranks')\n"
START = StartEngine("serve", "float32", "cpu", 64, 4, 0.4, 0.1, False)


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: each of its modules says in `imported` that it was."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    for name in POISONED:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'imported')!r}, 'a').write({name + ' '!r})\n")
    installed = folder / "evil-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[reasoner]\nevil = evil\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


def imported(folder: Path) -> str:
    file = folder / "imported"
    return file.read_text() if file.exists() else ""


def reasoner(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(REASONER), *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_python_would_import_it(stranger: Path) -> None:
    subprocess.run([sys.executable, "-m", "this"], capture_output=True, check=False)
    subprocess.run([sys.executable, "-c", "import statistics"], capture_output=True, check=False)
    assert imported(stranger)


def test_by_the_scoring_host_and_what_looks_for_leftovers(stranger: Path) -> None:
    """A plugin of several modules is found all the same."""
    done = reasoner("plugins", "check", str(ROOT / "plugins" / "names-unit" / "names_unit" / "__init__.py"))
    assert (done.returncode, imported(stranger)) == (0, ""), done.stdout + done.stderr


def test_by_launchers_on_other_machines_and_their_ranks(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = stranger / "programs"
    programs.mkdir()
    (programs / "ssh").write_text(SSH)
    (programs / "ssh").chmod(0o755)
    (stranger / "hosts").write_text("localhost slots=2\n")
    (stranger / "fails.py").write_text(FAILS_ON_RANKS)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (stranger / "data.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    task = TASK.format(model=build_tiny_model(stranger.with_name("tiny")), data="data.jsonl")
    (stranger / "task.toml").write_text(task.replace('"letters"', '"exact"'))
    done = reasoner("run", "task.toml", "--hostfile", "hosts", "--plugin", "fails.py", "--set", "model.device=cpu")
    assert "only ranks" in done.stderr, done.stdout + done.stderr
    assert imported(stranger) == ""


def test_by_a_vllm_and_what_it_starts(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_process, "_HOST_MODULE", "tests.unit.fake_hosts")
    host = EngineProcess(StartEngine("spawn", "float32", "cpu", 64, 4, 0.4, 0.1, False), stranger / "log")
    host.close()
    assert "spawned" in (stranger / "log").read_text()
    assert imported(stranger) == ""


def test_by_a_server(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_MODULE", "tests.unit.fake_hosts")  # which cannot be started like this
    with pytest.raises(RunError, match="vLLM ended with exit code 1"):
        serving.serve(START, "127.0.0.1", 0, print)
    assert imported(stranger) == ""


def test_a_child_imports_from_where_its_parent_does(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether `python -m` or `python -c` started it: then the working directory is first, or an empty name."""
    elsewhere = str(stranger.parent)
    monkeypatch.setattr(sys, "path", [str(stranger), "", elsewhere, *sys.path])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", object())
    path = boot_command("reasoner.leftovers")[4:]
    assert path[0] == elsewhere
    assert not {"", str(stranger)} & set(path)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # a script: the user's own folder, or PYTHONPATH
    assert boot_command("reasoner.leftovers")[4] == str(stranger)
    assert module_command("reasoner", "node")[1:] == ["-P", "-m", "reasoner", "node"]
