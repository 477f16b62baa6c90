"""Programs that try to get out of a sandbox, to stay, or to fill the machine: real ones, in every sandbox there is.

Those that only touch what the test put there also run without a sandbox, where each must do harm: a program that
harms nothing anywhere would prove nothing.
"""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from reasoner.sandbox import Limits, Sandbox, family, open_sandbox, running, usage
from reasoner.sandbox.choose import UNSANDBOXED
from reasoner.sandbox.system_calls import STARTING
from tests.integration import sandbox_hoards
from tests.integration.sandbox_world import CANARY_ATTACKS, World, attack, touched, world
from tests.integration.test_sandbox import working


def _is_on(setting: Path) -> bool:
    """A number of which the first bit is set."""
    return setting.exists() and int(setting.read_text()) % 2 == 1


KERNEL = tuple(int(number) for number in platform.release().split("-")[0].split(".")[:2])
LIMITS = Limits(wall_s=10.0, cpu_s=5.0, memory_mb=128, processes=12, open_files=32, output_bytes=2**16, scratch_mb=8)
SHORT = Limits(wall_s=0.6, cpu_s=5.0, memory_mb=128, processes=12, scratch_mb=8)
SETTINGS = Path("/proc/sys/net")
UNKNOWN = {
    *({"attribute by a newer call"} if KERNEL < (6, 13) else ()),
    *({"multipath TCP"} if not _is_on(SETTINGS / "mptcp" / "enabled") else ()),
    *({"TCP fast open"} if not _is_on(SETTINGS / "ipv4" / "tcp_fastopen") else ()),
}
"""attacks that this kernel does not know, or that are turned off"""
PATIENCE_S = 10.0
"""seconds after a deadline in which a program must be gone, on a machine that does other things"""


@pytest.fixture(params=working())
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return open_sandbox(request.param)


@pytest.fixture
def around() -> Iterator[World]:
    with world() as made:
        yield made


def test_nothing_around_is_touched(sandbox: Sandbox, around: World) -> None:
    assert touched(sandbox, around, LIMITS) == []


@pytest.mark.parametrize("name", [name for name in CANARY_ATTACKS if name not in UNKNOWN])
def test_without_a_sandbox_it_would_be(around: World, name: str) -> None:
    outcome = attack(open_sandbox(UNSANDBOXED), CANARY_ATTACKS[name], around, Limits())
    assert around.harm() != [], outcome


LOOKS = {
    "files": "open(world['file']).read()",
    "environment": "dict(os.environ)",
    "environments": "[open(f'/proc/{pid}/environ').read() for pid in (world['parent'], os.getppid())]",
    "descriptors": "[os.read(number, 100) for number in range(3, 64)]",
    "home": "'home ' + str(os.listdir(world['home']))",
    "checkout": "open(world['repository'] + '/pyproject.toml').read()",
    "by descriptor": "os.open('..', os.O_DIRECTORY) and open(f'/proc/self/fd/3/{world[\"file\"]}').read()",
}
"""expressions that show the secret of the test, or what is around"""


def test_nothing_around_is_read(sandbox: Sandbox, around: World) -> None:
    lines = [f"tries({look!r})" for look in LOOKS.values()]
    shown = attack(sandbox, "\n".join([*lines, "print('all tried')"]), around, LIMITS).stdout.decode()
    assert shown.endswith("all tried\n")
    assert around.secret not in shown
    assert "[project]" not in shown
    assert "home" not in shown or "'.pyenv']" in shown


CALLS = {
    "mount": (165, "b'none', b'.', b'tmpfs', 0, 0"),
    "unshare": (272, "0x10000000"),
    "clone with a namespace": (56, "0x10000000 | 17, 0, 0, 0, 0"),
    "setns": (308, "os.open('.', 0), 0"),
    "chroot": (161, "b'.'"),
    "pivot_root": (155, "b'.', b'.'"),
    "bpf": (321, "0, ctypes.create_string_buffer(64), 64"),
    "keyctl": (250, "0, -3, 1"),
    "add_key": (248, "b'user', b'a', b'b', 1, -3"),
    "io_uring_setup": (425, "8, ctypes.create_string_buffer(120)"),
    "userfaultfd": (323, "1"),
    "perf_event_open": (298, "ctypes.create_string_buffer(128), 0, -1, -1, 0"),
    "process_vm_readv": (310, "os.getppid(), 0, 0, 0, 0, 0"),
    "memfd_create": (319, "b'x', 0"),
    "mq_open": (240, "b'x', 0x42, 0o600, 0"),
    "kexec_load": (246, "0, 0, 0, 0"),
    "sethostname": (170, "b'x', 1"),
    "settimeofday": (164, "ctypes.create_string_buffer(16), 0"),
    "open_tree": (428, "-100, b'.', 1"),
    "fsopen": (430, "b'tmpfs', 0"),
    "mknod": (133, "b'device', 0o20666, 0x103"),
    "iopl": (172, "3"),
    "inotify_init1": (294, "0"),
    "fanotify_init": (300, "0x200, 0"),
    "io_setup": (206, "8, ctypes.byref(ctypes.c_ulong())"),
    "flags of a file": (16, "os.open('main.py', 0), 0x40086602, ctypes.byref(ctypes.c_long(0x40))"),
    "file_setattr": (469, "-100, b'main.py', ctypes.byref((ctypes.c_uint64 * 3)(0x40)), 24, 0"),
    "lease": (72, "os.open('main.py', 0), 1024, 0"),
    "huge pages": (9, "0, ctypes.c_size_t(2**21), 3, 0x40022, -1, 0"),
    "seccomp": (317, "1, 0, ctypes.byref(rules)"),
    "landlock_create_ruleset": (444, "ctypes.byref(ctypes.c_uint64(1)), ctypes.c_size_t(8), 0"),
    "a call of tomorrow": (600, "0"),
}
"""system call -> its number on x86_64, and arguments with which it would succeed for some user"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
def test_the_kernel_is_not_at_its_service(sandbox: Sandbox, around: World) -> None:
    calls = "\n".join(
        f"print({name!r}, 'worked' if libc.syscall({number}, {arguments}) >= 0 else 'refused')"
        for name, (number, arguments) in CALLS.items()
    )
    rules = (
        "class Rules(ctypes.Structure): _fields_ = (('length', ctypes.c_ushort), ('code', ctypes.c_void_p))\n"
        "allow = ctypes.create_string_buffer(bytes.fromhex('060000000000ff7f'))\n"
        "rules = Rules(1, ctypes.addressof(allow))"
    )
    outcome = attack(sandbox, f"{rules}\n{calls}", around, LIMITS)
    assert outcome.stdout.decode().splitlines() == [f"{name} refused" for name in CALLS], outcome
    assert around.harm() == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
def test_what_sandlock_itself_needs_is_not_for_programs(sandbox: Sandbox, around: World) -> None:
    numbers = {name: pair[0] for name, pair in STARTING.items()}
    source = f"""
libc = ctypes.CDLL(None, use_errno=True)
for name, number in {numbers}.items():
    print(name, libc.syscall(number, 0, 0, 0, 0, 0, 0), ctypes.get_errno(), flush=True)
"""
    lines = attack(sandbox, source, around, LIMITS).stdout.decode().splitlines()
    assert {name for name in numbers if f"{name} -1 {errno.EPERM}" not in lines} <= {"bind"}, lines


def test_it_cannot_become_anybody_else_or_open_devices(sandbox: Sandbox, around: World) -> None:
    source = """
def opens(path):
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDWR))
        return True
devices = [f'/dev/{name}' for name in ('mem', 'kmsg', 'sda', 'vda', 'ptmx', 'tty', 'pts/0', 'fuse', 'kvm', 'net/tun')]
privileges = ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)  # PR_GET_NO_NEW_PRIVS
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
ctypes.CDLL(None).capget(header, data)
limit = 'as it was'
with contextlib.suppress(OSError, ValueError):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
    limit = 'raised'
print(json.dumps([privileges, [data[0], data[1], data[3], data[4]], limit, [each for each in devices if opens(each)]]))
"""
    outcome = attack(sandbox, source, around, LIMITS)
    assert json.loads(outcome.stdout) == [1, [0, 0, 0, 0], "as it was", []], outcome


BOMBS: dict[str, tuple[str, set[str]]] = {
    "processes": ("while True:\n    with contextlib.suppress(OSError): os.fork()", {"timeout", "cpu", "processes"}),
    "processes of their own session": (
        "while True:\n    with contextlib.suppress(OSError):\n        if os.fork(): os._exit(0)\n        os.setsid()",
        {"exit", "timeout", "cpu", "processes"},
    ),
    "threads": (
        "while True:\n    with contextlib.suppress(RuntimeError):"
        " threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        {"exit", "timeout", "cpu", "processes", "memory", "signal"},
    ),
    "memory": ("blocks = []\nwhile True: blocks.append(bytearray(2**20))", {"exit", "memory", "signal"}),
    "memory of many": (
        "for _ in range(3): os.fork()\nblock = bytearray(60 * 2**20)\ntime.sleep(60)",
        {"memory", "signal", "timeout"},  # sandlock kills the processes that would take more, and leaves the others
    ),
    "mapped memory": (
        "import mmap\nkept = []\n"
        "while True:\n    kept.append(mmap.mmap(-1, 2**22, flags=34)); kept[-1].write(b'x' * 2**22)",
        {"exit", "memory", "signal"},
    ),
    "one file": (
        "with open('x', 'wb') as file:\n    while True: file.write(b'x' * 2**20)",
        {"exit", "scratch", "signal"},
    ),
    "a file with a hole": ("os.truncate(os.open('x', os.O_CREAT | os.O_WRONLY), 2**40)", {"exit", "signal"}),
    "many files": (
        "count = 0\nwhile True:\n    with open(str(count), 'wb') as file: file.write(b'x' * 2**20)\n    count += 1",
        {"exit", "scratch", "signal"},
    ),
    "empty files": ("count = 0\nwhile True:\n    open(str(count), 'wb').close()\n    count += 1", {"scratch"}),
    "folders in folders": (
        "for _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')\nos.chmod('.', 0)",
        {"exit", "scratch"},
    ),
    "standard output": ("while True: os.write(1, b'x' * 2**16)", {"output"}),
    "standard error": ("while True: os.write(2, b'x' * 2**16)", {"output"}),
    "both": ("while True: os.write(1, b'x' * 999), os.write(2, b'x' * 999)", {"output"}),
    "open files": (
        "kept = []\nwhile True: kept.append(open('main.py'))",
        {"exit"},
    ),
    "CPU seconds of many": ("for _ in range(2): os.fork()\nwhile True: pass", {"timeout", "cpu"}),
}
"""what is filled or used up -> a program, and the ways in which it may end"""


@pytest.mark.parametrize("name", BOMBS)
def test_no_bomb_goes_far(sandbox: Sandbox, around: World, name: str) -> None:
    source, ends = BOMBS[name]
    memory = psutil.virtual_memory().available
    limits = SHORT if "timeout" in ends else LIMITS
    outcome = attack(sandbox, source, around, limits)
    assert outcome.end in ends, (outcome, outcome.stderr)
    assert len(outcome.stdout) + len(outcome.stderr) <= limits.output_bytes
    assert outcome.seconds < limits.wall_s + PATIENCE_S
    assert memory - psutil.virtual_memory().available < 4 * 2**30
    assert around.harm() == []


STAYERS = {
    "children": "os.fork() or time.sleep(60)",
    "children of children": "os.fork() or os.fork() or time.sleep(60)",
    "a daemon": "os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); time.sleep(60)",
    "a daemon with no pipes": "os.fork() and os._exit(0); os.setsid(); os.closerange(0, 3); time.sleep(60)",
    "a thread": "threading.Thread(target=time.sleep, args=(60,)).start()",
    "no pipes": "[os.close(number) for number in (0, 1, 2)]; time.sleep(60)",
    "no signals": "[signal.signal(n, signal.SIG_IGN) for n in {*range(1, 32)} - {9, 19}]; time.sleep(60)",
    "an alarm": "signal.signal(14, lambda *_: time.sleep(60)); signal.alarm(1); time.sleep(60)",
    "a stopped process": "os.kill(os.getpid(), signal.SIGSTOP)",
    "an end that waits": "import atexit; atexit.register(time.sleep, 60)",
    "its parent killed": "os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)",
    "everybody killed": "os.kill(-1, signal.SIGKILL); time.sleep(60)",
}
"""programs, or parts of them, that mean to stay"""


def test_nothing_stays(sandbox: Sandbox, around: World) -> None:
    """All at the same time, from threads of their own."""
    with ThreadPoolExecutor(len(STAYERS)) as threads:
        outcomes = list(threads.map(lambda source: attack(sandbox, source, around, SHORT), STAYERS.values()))
    assert max(outcome.seconds for outcome in outcomes) < SHORT.wall_s + PATIENCE_S
    for name in ("no pipes", "no signals", "a stopped process"):  # alone: docs/code.md, threads of one process
        assert attack(sandbox, STAYERS[name], around, SHORT).end == "timeout"
    assert around.harm() == []


HOARDS = [*sandbox_hoards.MEMORY, *sandbox_hoards.DISK]


def test_nobody_holds_more_than_is_counted(sandbox: Sandbox) -> None:
    assert sandbox_hoards.faults(sandbox) == {}


BOUNDED = {"pipes", "pairs of sockets"}
"""what these can hold is for the machine's settings to say"""


@pytest.mark.parametrize("name", [name for name in HOARDS if name not in BOUNDED])
def test_where_nothing_is_refused_or_counted_it_is_held(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its filter, and with the looks of a sandbox that counts only what everybody counts."""
    if name == "a folder that cannot be looked at" and os.geteuid() == 0:
        pytest.skip("root can look at it")
    monkeypatch.setattr(running, "buffered", lambda pids: 0)
    monkeypatch.setattr(family, "deleted_bytes", lambda pids, folder: 0.0)
    monkeypatch.setattr(usage, "_threads", lambda pid: [f"/proc/{pid}"])
    most = sandbox_hoards.LIMITS.memory_mb if name in sandbox_hoards.MEMORY else sandbox_hoards.LIMITS.scratch_mb
    assert "held" in sandbox_hoards.hoarded(open_sandbox(UNSANDBOXED), name, most)
