"""A filter of system calls for programs in namespaces: what no test program needs and kernels have had holes in.

The namespaces already keep a program from others; this takes away most ways to attack the kernel itself, memory that
no limit counts (`memfd_create`, System V segments), and every kind of socket but local ones.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterator

from reasoner.errors import MissingDependencyError

# name: number on x86_64, number on aarch64 (None: there is none)
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
_CLONE, _CLONE3, _SOCKET, _IOCTL = (56, 220), (435, 435), (41, 198), (16, 29)
_NEWEST = 450
"""Calls after this one are unknown here and are said not to exist; programs then do without. The second numbers that
all calls have on x86_64 (x32) are above it too."""
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""machine -> column above, and its number in the kernel's audit.h"""
_NAMESPACES = 0x7E020080
"""the CLONE_NEW... flags of `clone`"""
_AF_UNIX = 1
_TERMINAL_INPUT = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX write into the input of a terminal"""

_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENT_0, _ARGUMENT_1 = 0, 4, 16, 24
"""offsets in the kernel's `seccomp_data`; of arguments the lower half (both machines are little-endian)"""


def program_filter() -> bytes:
    """The filter as the kernel takes it: an array of `sock_filter`.

    Raises:
        MissingDependencyError: the numbers of this machine's system calls are not known.
    """
    if platform.machine() not in _ARCHITECTURES:
        known = " and ".join(_ARCHITECTURES)
        raise MissingDependencyError(f"system calls can be filtered on {known}, this is {platform.machine()}")
    column, audit = _ARCHITECTURES[platform.machine()]
    return b"".join(_instructions(column, audit))


def _instructions(column: int, audit: int) -> Iterator[bytes]:
    yield _code(_LOAD, _ARCHITECTURE)
    yield _code(_EQUAL, audit, 1, 0)
    yield _code(_RETURN, _KILL)
    yield _code(_LOAD, _NUMBER)
    yield from _refuse_if(_ABOVE, _NEWEST, errno.ENOSYS)
    yield from _refuse_if(_EQUAL, _CLONE3[column], errno.ENOSYS)  # its flags are in memory; libraries then use `clone`
    for numbers in _REFUSED.values():
        if (number := numbers[column]) is not None:
            yield from _refuse_if(_EQUAL, number, errno.EPERM)
    yield from _look_at(_CLONE[column], _ARGUMENT_0, [*_refuse_if(_ANY_BIT, _NAMESPACES, errno.EPERM)])
    refused = [_code(_EQUAL, _AF_UNIX, 1, 0), _code(_RETURN, _ERROR | errno.EACCES)]
    yield from _look_at(_SOCKET[column], _ARGUMENT_0, refused)
    refused = [code for request in _TERMINAL_INPUT for code in _refuse_if(_EQUAL, request, errno.EPERM)]
    yield from _look_at(_IOCTL[column], _ARGUMENT_1, refused)
    yield _code(_RETURN, _ALLOW)


def _look_at(number: int, argument: int, checks: list[bytes]) -> Iterator[bytes]:
    """For one system call: check an argument, and allow it if the checks let it pass."""
    yield _code(_EQUAL, number, 0, len(checks) + 2)
    yield _code(_LOAD, argument)
    yield from checks
    yield _code(_RETURN, _ALLOW)


def _refuse_if(comparison: int, value: int, error: int) -> Iterator[bytes]:
    yield _code(comparison, value, 0, 1)
    yield _code(_RETURN, _ERROR | error)


def _code(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; the jumps skip so many instructions."""
    return struct.pack("=HBBI", operation, if_true, if_false, value)
