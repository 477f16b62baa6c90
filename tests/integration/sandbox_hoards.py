"""Programs that try to hold more memory or disk than they may, where nobody counts it; each says how much it holds."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor

from reasoner.sandbox import ISOLATED, PYTHON, Limits, Sandbox

LIMITS = Limits(wall_s=10.0, cpu_s=10.0, memory_mb=96, processes=16, open_files=48, output_bytes=2**16, scratch_mb=8)
BETWEEN_LOOKS_MB = 1024
"""MiB that a program can fill before it is looked at again, on a machine that does other things"""
_MB = 2**20
_EXIT = {"x86_64": 60, "aarch64": 93}[platform.machine()]
_EPILOGUE = "\ntime.sleep(0.6)  # it is looked at meanwhile\n"
_PREAMBLE = (
    f"""
EXIT = {_EXIT}
"""
    + """
import ctypes, mmap, os, socket, sys, threading, time
MB = 2**20
libc = ctypes.CDLL(None, use_errno=True)
kept, held = [], 0
def holds(size):
    global held
    held += size
    os.write(1, b"%d\\n" % size)
def many(hoard):
    for _ in range(6):
        if os.fork() == 0:
            break
    hoard()
def leave_a_page(block):
    "Fill it, and unmap the rest of it: an object is there as long as a page of it is mapped."
    for start in range(0, 32 * MB, MB):
        block[start:start + MB] = b"x" * MB
    holds(32 * MB)
    view = ctypes.addressof(ctypes.c_char.from_buffer(block))
    libc.munmap(ctypes.c_void_p(view + 4096), ctypes.c_size_t(32 * MB - 4096))
    kept.append(block)
def until_refused(act):
    while held < 130 * MB:
        try:
            act()
        except (OSError, MemoryError):
            break
def filled(write):
    size = 0
    while True:
        try:
            size += write()
        except BlockingIOError:
            return size
"""
)

MEMORY = {
    "spliced pages": """
block = ctypes.create_string_buffer(MB)
class Vector(ctypes.Structure): _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))
def hoard():
    reader, writer = os.pipe()
    kept.append((reader, writer))
    block = mmap.mmap(-1, 16 * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = ctypes.c_char.from_buffer(block)
    for start in range(0, 16 * MB, MB):
        block[start:start + MB] = b"x" * MB
        vector = Vector(ctypes.addressof(view) + start, 4096)
        if libc.vmsplice(writer, ctypes.byref(vector), 1, 0) != 4096:
            raise OSError
    holds(16 * MB)
    del view
    block.close()
until_refused(hoard)
""",
    "shared memory that nobody maps": """
def hoard():
    leave_a_page(mmap.mmap(-1, 32 * MB))
until_refused(hoard)
""",
    "shared memory of /dev/zero": """
def hoard():
    leave_a_page(mmap.mmap(os.open("/dev/zero", os.O_RDWR), 32 * MB))
until_refused(hoard)
""",
    "pipes": """
def hoard():
    ends = os.pipe()
    kept.append(ends)
    try: libc.fcntl(ends[1], 1031, MB)
    except OSError: pass
    os.set_blocking(ends[1], False)
    holds(filled(lambda: os.write(ends[1], b"x" * 4096)))
many(lambda: until_refused(hoard))
""",
    "pairs of sockets": """
def hoard():
    ends = socket.socketpair()
    kept.append(ends)
    for end in ends:
        try: end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**30)
        except OSError: pass
        end.setblocking(False)
        holds(filled(lambda: end.send(b"x" * 2**16)))
many(lambda: until_refused(hoard))
""",
    "sockets that wait to be accepted": """
server = socket.socket(socket.AF_UNIX)
server.bind("server")
server.listen(4096)
def hoard():
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        client.connect("server")
        holds(filled(lambda: client.send(b"x" * 2**16)))
until_refused(hoard)
""",
    "files in memory": """
def hoard():
    kept.append(os.memfd_create("x"))
    for _ in range(8): holds(os.write(kept[-1], b"x" * MB))
until_refused(hoard)
""",
    "processes whose first thread has ended": """
def hoard():
    blocks = []
    for _ in range(48): blocks.append(bytearray(b"x") * MB)
    holds(48 * MB)
    time.sleep(1)
for _ in range(4):
    if os.fork() == 0:
        break
threading.Thread(target=hoard).start()
libc.syscall(EXIT, 0)
""",
}
"""these may hold what memory they may use, and what they can fill until somebody looks"""
DISK = {
    "deleted files": """
def hoard():
    kept.append(os.open("x%d" % os.getpid(), os.O_CREAT | os.O_RDWR))
    os.unlink("x%d" % os.getpid())
    for _ in range(8): holds(os.write(kept[-1], b"x" * MB))
until_refused(hoard)
""",
    "deleted files at once": """
def hoard():
    kept.append(os.open("x%d" % os.getpid(), os.O_CREAT | os.O_RDWR))
    os.unlink("x%d" % os.getpid())
    os.posix_fallocate(kept[-1], 0, 8 * MB)
    holds(8 * MB)
until_refused(hoard)
""",
    "deleted files that are mapped": """
def hoard():
    file = os.open("x", os.O_CREAT | os.O_RDWR)
    os.unlink("x")
    for _ in range(8): holds(os.write(file, b"x" * MB))
    if libc.mmap(None, ctypes.c_size_t(4096), 3, 1, file, ctypes.c_long(0)) == -1: raise OSError
    os.close(file)
libc.mmap.restype = ctypes.c_long
until_refused(hoard)
""",
    "files in a queue": """
import array
ends = socket.socketpair()
def hoard():
    file = os.open("x", os.O_CREAT | os.O_RDWR)
    os.unlink("x")
    for _ in range(8): holds(os.write(file, b"x" * MB))
    ends[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))])
    os.close(file)
until_refused(hoard)
""",
    "a folder that cannot be looked at": """
os.mkdir("d", 0o300)
def hoard():
    global number
    number += 1
    file = os.open("d/%d" % number, os.O_CREAT | os.O_RDWR)
    for _ in range(8): holds(os.write(file, b"x" * MB))
    os.close(file)
number = 0
until_refused(hoard)
""",
    "a process that cannot be looked into": """
libc.prctl(4, 0, 0, 0, 0)
def hoard():
    kept.append(os.open("x", os.O_CREAT | os.O_RDWR))
    os.unlink("x")
    for _ in range(8): holds(os.write(kept[-1], b"x" * MB))
until_refused(hoard)
""",
}


def faults(sandbox: Sandbox) -> dict[str, str]:
    """The programs that held more than they may, and how that ended."""
    limits = {**dict.fromkeys(MEMORY, LIMITS.memory_mb), **dict.fromkeys(DISK, LIMITS.scratch_mb)}
    with ThreadPoolExecutor(3) as threads:
        result = threads.map(lambda name: hoarded(sandbox, name, limits[name]), limits)
        return {name: fault for name, fault in zip(limits, result, strict=True) if fault}


def hoarded(sandbox: Sandbox, name: str, most_mb: int) -> str:
    """What is wrong with what a program could hold: more than `most_mb` for longer than nobody looked; empty: nothing.

    Raises:
        AssertionError: it did not try.
    """
    source = _PREAMBLE + {**MEMORY, **DISK}[name] + _EPILOGUE
    outcome = sandbox.run([PYTHON, *ISOLATED, "main.py"], {"main.py": source.encode()}, b"", LIMITS)
    assert not any(error in outcome.stderr for error in (b"SyntaxError", b"NameError", b"TypeError")), outcome.stderr
    held = sum(int(line) for line in outcome.stdout.split()) / _MB
    stopped = outcome.end in ("memory", "scratch", "signal")
    if held > most_mb + (BETWEEN_LOOKS_MB if stopped else 0):
        return f"held {held:.0f} MiB, allowed are {most_mb} ({outcome.end})"
    return ""
