"""A filter of system calls for programs: only what test programs need, and of that only what harms nobody.

It is a list of what is allowed (`system_calls.py`), so what a newer kernel adds is refused until somebody has looked at
it. Around what the sandboxes keep in by other means, it takes away most ways to attack the kernel itself, every socket
but the two ends of a `socketpair`, and all memory and disk that no limit counts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reasoner.errors import MissingDependencyError
from reasoner.sandbox.system_calls import ALLOWED, CHECKED, NEWEST, STARTING

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""machine -> column of numbers, and its number in the kernel's audit.h"""
_ALL_BITS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Argument:
    """What one argument of a call may be: one of some values, in the bits of a mask."""

    number: int
    values: Sequence[int]
    mask: int = _ALL_BITS


_NAMESPACES = 0x7E020080
"""the CLONE_NEW... flags of `clone`"""
_HUGE_PAGES = 0x40000
"""MAP_HUGETLB: pages from the machine's pool that count as nobody's memory"""
_SHARED_ANONYMOUS = 0x21
"""MAP_SHARED | MAP_ANONYMOUS: memory that stays when all but a page of it is unmapped, and then counts for nobody"""
_STREAM, _PACKETS, _SOCKET_FLAGS = 1, 5, 0o2004000
"""SOCK_STREAM, SOCK_SEQPACKET (SOCK_DGRAM could be connected to others), SOCK_CLOEXEC | SOCK_NONBLOCK"""
_UNIX_PAIR = (
    _Argument(0, [1]),
    _Argument(1, [_STREAM, _PACKETS], _ALL_BITS & ~_SOCKET_FLAGS),
    _Argument(2, [0]),
)
_IOCTLS = (0x5401, 0x540F, 0x5411, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)
"""TCGETS, TIOCGPGRP, TIOCOUTQ, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS2"""
_WATCHING_IOCTLS = (0xC0502100, 0xC0182101, 0x40082102, 0x40182103, 0xC0182103, 0x40082104)
"""SECCOMP_IOCTL_NOTIF_...: sandlock's own"""
_FCNTLS = (*range(8), 9, 36, 37, 38, 1027, 1030, 1032)
"""descriptors, flags, locks, F_GETOWN, open file locks, F_DUPFD_QUERY, F_DUPFD_CLOEXEC, F_GETPIPE_SZ; not F_SETPIPE_SZ,
F_SETOWN and F_NOTIFY (signals about others' files), F_SETLEASE (others wait for it)"""
_ADVICE = (0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 17, 18, 19, 22, 23, 25)
"""of `madvise`; not MADV_PAGEOUT (what is swapped out is not counted) and MADV_MERGEABLE"""
_PRCTLS = (1, 2, 3, 7, 8, 15, 16, 21, 23, 24, 27, 28, 29, 30, 36, 37, 38, 39, 41, 42, 47, 0x53564D41)
"""signal at the parent's end, PR_GET_DUMPABLE, kept capabilities, names, PR_GET_SECCOMP, bounding set, securebits,
slack of timers, subreaper, no new privileges, huge pages, ambient capabilities, PR_SET_VMA; not PR_SET_DUMPABLE, with
which a process hides what it has open"""
_SOCKET_OPTIONS = (2, 9, 13, 16, 20, 21, 66, 67)
"""SO_REUSEADDR, SO_KEEPALIVE, SO_LINGER, SO_PASSCRED and times to wait; not: sizes of buffers, filters"""
_MAPPINGS = (_Argument(3, [0], _HUGE_PAGES), _Argument(3, [0, 0x01, 0x20], _SHARED_ANONYMOUS))
_RULES: dict[str, tuple[int, Sequence[_Argument]]] = {
    "clone": (errno.EPERM, [_Argument(0, [0], _NAMESPACES)]),
    "clone3": (errno.ENOSYS, [_Argument(0, [])]),  # its flags are in memory; libraries then use `clone`
    "fallocate": (errno.EOPNOTSUPP, [_Argument(0, [])]),  # libraries then write
    "fcntl": (errno.EINVAL, [_Argument(1, _FCNTLS)]),
    "ioctl": (errno.ENOTTY, [_Argument(1, _IOCTLS)]),
    "madvise": (errno.EINVAL, [_Argument(2, _ADVICE)]),
    "mmap": (errno.ENOMEM, _MAPPINGS),
    "prctl": (errno.EINVAL, [_Argument(0, _PRCTLS)]),
    "setsockopt": (errno.ENOPROTOOPT, [_Argument(1, [1]), _Argument(2, _SOCKET_OPTIONS)]),
    "socket": (errno.EACCES, [_Argument(0, [])]),
    "socketpair": (errno.EACCES, _UNIX_PAIR),
}
"""call -> the error when an argument is not what it may be, and its arguments; no values: always refused"""
_STARTING_RULES = {
    "ioctl": (errno.ENOTTY, [_Argument(1, (*_IOCTLS, *_WATCHING_IOCTLS))]),
    "socket": (
        errno.EACCES,
        [_Argument(0, [1]), _Argument(1, [_STREAM], _ALL_BITS & ~_SOCKET_FLAGS), _Argument(2, [0])],
    ),
}
"""instead of these where sandlock starts programs; nothing inside can be done with its socket: `connect` is refused"""

_LOAD, _EQUAL, _ABOVE, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x54, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""offsets in the kernel's `seccomp_data`; of arguments the lower half (both machines are little-endian), which is all
that the kernel looks at of those that are checked here"""
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2


def program_filter(*, starting: bool = False) -> bytes:
    """The filter as the kernel takes it: an array of `sock_filter`.

    Args:
        starting: also allow what sandlock itself needs to start and to watch a program.

    Raises:
        MissingDependencyError: the numbers of this machine's system calls are not known.
    """
    if platform.machine() not in _ARCHITECTURES:
        known = " and ".join(_ARCHITECTURES)
        raise MissingDependencyError(f"system calls can be filtered on {known}, this is {platform.machine()}")
    column, audit = _ARCHITECTURES[platform.machine()]
    return b"".join(_instructions(column, audit, starting))


def confine_thread(rules: bytes) -> None:
    """Put a filter on this thread, and on everything that it starts from now on, for good.

    Raises:
        OSError: the kernel does not take it.
    """
    code = ctypes.create_string_buffer(rules, len(rules))
    program = _Program(len(rules) // struct.calcsize(_INSTRUCTION), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (
        (_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), ctypes.c_ulong(), ctypes.c_ulong(), ctypes.c_ulong()),
        (_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program)),
    ):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), f"a thread cannot be confined: {os.strerror(ctypes.get_errno())}")


class _Program(ctypes.Structure):
    """The kernel's `sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _instructions(column: int, audit: int, starting: bool) -> Iterator[bytes]:
    yield _code(_LOAD, _ARCHITECTURE)
    yield _code(_EQUAL, audit, 1, 0)
    yield _code(_RETURN, _KILL)
    yield _code(_LOAD, _NUMBER)
    yield _code(_ABOVE, NEWEST, 0, 1)
    yield _code(_RETURN, _ERROR | errno.ENOSYS)
    rules = {**_RULES, **_STARTING_RULES} if starting else _RULES
    for name, (error, arguments) in rules.items():
        if (number := CHECKED[name][column]) is not None:
            yield from _argument_checks(number, error, arguments)
    names = {**ALLOWED, **STARTING} if starting else ALLOWED
    for first, last in _ranges({number for pair in names.values() if (number := pair[column]) is not None}):
        yield _code(_AT_LEAST, first, 0, 2)
        yield _code(_ABOVE, last, 1, 0)
        yield _code(_RETURN, _ALLOW)
    yield _code(_RETURN, _ERROR | errno.EPERM)


def _argument_checks(number: int, error: int, arguments: Sequence[_Argument]) -> Iterator[bytes]:
    """For one system call: allow it if its arguments are what they may be."""
    checks = [code for argument in arguments for code in _check(argument, error)]
    yield _code(_EQUAL, number, 0, len(checks) + 1)
    yield from checks
    yield _code(_RETURN, _ALLOW)


def _check(argument: _Argument, error: int) -> Iterator[bytes]:
    """Go on if an argument is one of its values."""
    yield _code(_LOAD, _ARGUMENTS + 8 * argument.number)
    yield _code(_AND, argument.mask)
    for remaining in range(len(argument.values), 0, -1):
        yield _code(_EQUAL, argument.values[-remaining], remaining, 0)
    yield _code(_RETURN, _ERROR | error)


def _ranges(numbers: set[int]) -> list[tuple[int, int]]:
    """First and last of numbers that follow each other."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


_INSTRUCTION = "=HBBI"


def _code(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; the jumps skip so many instructions."""
    return struct.pack(_INSTRUCTION, operation, if_true, if_false, value)
