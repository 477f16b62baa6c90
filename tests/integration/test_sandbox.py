"""Programs in every sandbox that works here: what goes in, what comes out, and how they end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import MissingDependencyError
from reasoner.processes.scratch_folders import remove_abandoned
from reasoner.records import Group, Message, Problem, Response
from reasoner.sandbox import ISOLATED, PYTHON, Limits, Outcome, Sandbox, open_sandbox
from reasoner.sandbox.backends.local import LocalSandbox
from reasoner.sandbox.base import End
from reasoner.sandbox.choose import BACKENDS, UNSANDBOXED
from reasoner.sandbox.family import ProcessFamily
from reasoner.sandbox.pipes import GATE, Pipes, ending
from reasoner.sandbox.proof import survivors
from reasoner.sandbox.scratch import Scratch
from reasoner.scoring.service import ScoringService


def working() -> list[str]:
    result = []
    for name in BACKENDS:
        try:
            open_sandbox(name)
        except MissingDependencyError:
            continue
        result.append(name)
    return result


@pytest.fixture(params=[*working(), UNSANDBOXED])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return open_sandbox(request.param)


def python(sandbox: Sandbox, source: str, stdin: bytes = b"", limits: Limits = Limits()) -> Outcome:  # noqa: B008
    return sandbox.run([PYTHON, *ISOLATED, "main.py"], {"main.py": source.encode()}, stdin, limits)


def test_a_program_reads_its_input_and_files_and_prints(sandbox: Sandbox) -> None:
    source = "import sys; print(input() + open('data/words.txt').read()); sys.exit(3)"
    files = {"main.py": source.encode(), "data/words.txt": b" world"}
    outcome = sandbox.run([PYTHON, *ISOLATED, "main.py"], files, b"hello\n", Limits())
    assert (outcome.end, outcome.code, outcome.stdout) == ("exit", 3, b"hello world\n")
    assert not outcome.ok


def test_a_signal_is_told_from_an_exit(sandbox: Sandbox) -> None:
    outcome = python(sandbox, "import os; os.kill(os.getpid(), 11)")
    assert (outcome.end, outcome.code, outcome.stderr) == ("signal", 11, b"")


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", ".", "a\0b"])
def test_a_file_stays_in_the_scratch_folder(sandbox: Sandbox, path: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        sandbox.run([PYTHON], {path: b""}, b"", Limits())


def test_lines_go_back_and_forth(sandbox: Sandbox) -> None:
    source = b"while True: print(input()[::-1], flush=True)"
    with sandbox.open([PYTHON, *ISOLATED, "main.py"], {"main.py": source}, Limits()) as session:
        for _ in range(3):
            session.send(b"abc\n")
            assert session.receive_line() == b"cba\n"
        outcome = session.outcome()
    assert outcome.stdout == b"cba\n" * 3
    assert outcome.stderr.endswith(b"EOFError: EOF when reading a line\n")


def test_what_a_program_is_told_of_the_world(sandbox: Sandbox) -> None:
    source = "import os, sys; print(sorted(os.environ), sys.flags.isolated, sys.flags.no_site, os.listdir('.'))"
    outcome = python(sandbox, source)
    assert outcome.ok
    assert outcome.stdout.endswith(b"1 1 ['main.py']\n")


def test_input_of_any_size_goes_in_while_output_comes_out(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 2**12
    source = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"
    outcome = python(sandbox, source, data, Limits(output_bytes=2 * len(data)))
    assert outcome.stdout == data[::-1]


def test_input_that_nobody_reads_is_dropped(sandbox: Sandbox) -> None:
    assert python(sandbox, "print(1)", b"x" * 2**20).stdout == b"1\n"
    closes = python(sandbox, "import os; os.close(0); print(1)", b"x" * 2**20)
    assert closes.stdout == b"1\n"


def test_output_is_cut_at_its_limit(sandbox: Sandbox) -> None:
    fits = python(sandbox, "print('x' * 99)", limits=Limits(output_bytes=100))
    assert (fits.end, len(fits.stdout)) == ("exit", 100)
    over = python(sandbox, "print('x' * 100)", limits=Limits(output_bytes=100))
    assert (over.end, over.code, len(over.stdout)) == ("output", None, 100)


def test_a_session_ends_at_the_deadline_though_nobody_looks(sandbox: Sandbox) -> None:
    source = b"import time\nprint('ready', flush=True)\ntime.sleep(60)"
    with sandbox.open([PYTHON, *ISOLATED, "main.py"], {"main.py": source}, Limits(wall_s=1.0)) as session:
        session.receive_line()
        time.sleep(1.2)
        assert session.receive_line() is None
        assert session.outcome().end == "timeout"
        session.send(b"too late\n")
        assert session.outcome() is session.outcome()


def test_a_session_that_is_left_is_killed(sandbox: Sandbox) -> None:
    mark = uuid.uuid4().hex
    source = b"import os, time\nos.fork()\nprint('ready', flush=True)\ntime.sleep(60)"
    start = time.monotonic()
    with sandbox.open([PYTHON, *ISOLATED, "main.py", mark], {"main.py": source}, Limits(wall_s=60.0)) as session:
        assert session.receive_line() == b"ready\n"
        assert list(survivors(mark))
    assert list(survivors(mark)) == []
    assert time.monotonic() - start < 30.0


def test_a_session_gives_the_last_line_without_its_end(sandbox: Sandbox) -> None:
    source = b"print('a'); print('b', end='')"
    with sandbox.open([PYTHON, *ISOLATED, "main.py"], {"main.py": source}, Limits()) as session:
        assert [session.receive_line(), session.receive_line(), session.receive_line()] == [b"a\n", b"b", None]


def test_a_line_that_does_not_come_in_its_time_ends_the_program(sandbox: Sandbox) -> None:
    """Whatever the program does about timers; what came of the line is given, and it has no end."""
    source = (
        "import time\nprint(input(), flush=True)\nprint('half', end='', flush=True)\ntime.sleep(60)\nprint(' a line')"
    )
    with sandbox.open([PYTHON, *ISOLATED, "main.py"], {"main.py": source.encode()}, Limits(wall_s=30.0)) as session:
        session.send(b"whole\n")
        assert session.receive_line(20.0) == b"whole\n"
        assert session.receive_line(0.3) == b"half"
        assert session.receive_line(0.3) is None
        outcome = session.outcome()
    assert (outcome.end, outcome.code, outcome.stdout) == ("answer", None, b"whole\nhalf")
    assert outcome.seconds < 30.0


def test_in_an_asyncio_program(sandbox: Sandbox) -> None:
    async def many() -> list[Outcome]:
        return await asyncio.gather(*(asyncio.to_thread(python, sandbox, f"print({n})") for n in range(6)))

    assert [outcome.stdout for outcome in asyncio.run(many())] == [b"%d\n" % n for n in range(6)]


def test_no_descriptor_is_left_open(sandbox: Sandbox) -> None:
    python(sandbox, "print(1)")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        python(sandbox, "print(1)")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("backend", working())
def test_a_caller_that_is_killed_leaves_nothing(backend: str) -> None:
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "tests.integration.sandbox_caller", backend, mark]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"b'ready\\n'\n"
        caller.kill()
    deadline = time.monotonic() + 10
    while list(survivors(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(survivors(mark)) == []
    remove_abandoned.__wrapped__(Path(tempfile.gettempdir()))  # the next process that makes a folder
    left = Path(tempfile.gettempdir()).glob("reasoner-*program-*/mark.txt")
    assert [path for path in left if path.read_text() == mark] == []


@pytest.mark.slow
@pytest.mark.parametrize("backend", working())
def test_in_a_worker_that_scores(backend: str) -> None:
    mark = uuid.uuid4().hex
    daemon = "import os, time\nprint(4, flush=True)\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)"
    texts = ["print(2 + 2)", "print(5)", daemon, "print(4); print('x' * 2**21)", "bytearray(2**30)", "print(2 + 2)"]
    responses = tuple(Response(text, (1, 2), (True, True), (-0.5, -0.25), "stop", 0) for text in texts)
    group = Group(Problem("p", (Message("user", "?"),), "4"), (1,), responses)
    rewards = [RewardConfig(source="prints", options={"sandbox": backend, "mark": mark})]
    plugin = str(Path(__file__).with_name("sandboxed_reward.py"))
    with ScoringService(rewards, ScoringConfig(workers=1, cache=0), [plugin]) as service:
        (scored,) = service.score([group])
    (components,) = zip(*scored.components, strict=True)
    assert [component.value for component in components] == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0], components
    workers, ends = zip(*(component.note.split() for component in components), strict=True)
    assert (ends[0], ends[3]) == ("exit", "output")
    assert len(set(workers)) == 1  # a call that leaves something behind costs its worker
    assert list(survivors(mark)) == []


@pytest.mark.parametrize("backend", working())
def test_nothing_is_typed_into_the_terminal(backend: str) -> None:
    command = [sys.executable, "-m", "tests.integration.sandbox_terminal"]
    done = subprocess.run([*command, backend], capture_output=True, text=True, check=True)
    assert done.stdout == "b''\n"


SYSTEM_PYTHON = Path(f"/usr/bin/python3.{sys.version_info.minor}")


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or not SYSTEM_PYTHON.exists() or shutil.which("setpriv") is None,
    reason="needs root, to become an ordinary user, and a Python that everybody can read",
)
def test_every_sandbox_holds_for_an_ordinary_user() -> None:
    user = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "--"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(path or ".").resolve()) for path in sys.path)
    command = [*user, str(SYSTEM_PYTHON), "-m", "tests.integration.sandbox_user"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert json.loads(done.stdout) == [54321, {name: [] for name in working()}], done.stderr


def test_a_killed_owner_s_folder_is_removed_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    living = Scratch({"x": b"y"}, 2**20)
    stale = Path(tempfile.mkdtemp(prefix=f"reasoner-{uuid.uuid4().hex}-program-"))
    (stale / "a" / "b").mkdir(parents=True)
    (stale / "a" / "link").symlink_to(tmp_path)
    (tmp_path / "kept").touch()
    remove_abandoned.__wrapped__(Path(tempfile.gettempdir()))
    assert not stale.exists()
    assert living.path.exists()
    assert (tmp_path / "kept").exists()
    living.remove()
    assert not living.path.exists()


UNDER_TMP = """
import sys
sys.base_prefix = sys.argv[1]
from reasoner.sandbox import PYTHON, open_sandbox
from reasoner.sandbox.base import Limits
assert PYTHON.startswith(sys.argv[1])
program = {"main.py": b"import os; open('written', 'w'); print(input(), os.getcwd())"}
outcome = open_sandbox(sys.argv[2]).run([PYTHON, "-I", "-S", "main.py"], program, b"hello", Limits())
print(outcome.end, outcome.code, outcome.stdout.decode(), outcome.stderr.decode())
"""


@pytest.mark.skipif(not SYSTEM_PYTHON.exists(), reason="needs a Python of the system, for another one to hand over to")
@pytest.mark.parametrize("backend", working())
def test_an_interpreter_in_the_folder_for_temporary_files(backend: str) -> None:
    """The scratch folder of bubblewrap lies elsewhere then: it would hide the interpreter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as prefix:
        python = Path(prefix, "bin", SYSTEM_PYTHON.name)
        python.parent.mkdir()
        python.write_text(f'#!/bin/sh\nexec {SYSTEM_PYTHON} "$@"\n')
        python.chmod(0o755)
        Path(prefix).chmod(0o755)
        done = subprocess.run([sys.executable, "-c", UNDER_TMP, prefix, backend], capture_output=True, text=True)
    assert done.stdout.startswith("exit 0 hello /"), done.stdout + done.stderr


class Slow(ProcessFamily):
    """A program whose first process is large and slow before it is the gate, as a copy of a large caller can be."""

    def __init__(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits, undo: ExitStack) -> None:
        super().__init__(files, limits, undo)
        source = "import os, sys, time; x = b'x' * 2**28; time.sleep(1); os.execv(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-c", source, *GATE, *program]
        pipe = subprocess.PIPE
        self._process = undo.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe))
        pipes = Pipes(self._process.stdin, self._process.stdout, self._process.stderr)
        self.begin(self._process.pid, pipes, undo)

    def finish(self, killed: bool) -> tuple[End, int]:
        return ending(self.end(self._process.wait))


def test_what_a_process_is_before_it_is_the_program_counts_for_nothing() -> None:
    """Neither its memory (256 MiB, the limit is 64) nor its seconds."""
    outcome = LocalSandbox("slow", Slow).run(["/bin/echo", "hi"], {}, b"", Limits(memory_mb=64, wall_s=0.9))
    assert (outcome.end, outcome.stdout) == ("exit", b"hi\n")
