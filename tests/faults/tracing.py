"""Kills a forked child at its Nth system call: every one, in whatever thread, or only those that change files.

The child lets itself be traced (ptrace), and at the moment that matters puts a filter before its system calls
(seccomp), so that only the calls that count stop it, each once, before it is carried out. Unlike strace, which counts
for each thread and each kind of call apart, this counts all calls of the process in their order, and costs nothing to
start: so N can go through all of them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

from faults import needs
from faults.children import Channel, Child

_TRACE_ME, _CONTINUE, _SET_OPTIONS, _GET_EVENT_MESSAGE = 0, 7, 0x4200, 0x4201
_TRACE_CLONE, _TRACE_SECCOMP, _EXIT_KILL = 0x8, 0x80, 0x100000
_EVENT_SECCOMP = 7
_SET_NO_NEW_PRIVILEGES = 38
_FILTER_MODE, _ALL_THREADS = 1, 1
_WAIT_ALL = 0x40000000

# Calls that change a file, a directory or who holds a lock, by their numbers. A kill -9 between two of them leaves on
# the disk what a kill right before the second does.
_NUMBERS = {
    "x86_64": {
        "seccomp": 317,
        "openat": 257,
        "write": 1,
        "pwrite64": 18,
        "writev": 20,
        "pwritev": 296,
        "truncate": 76,
        "ftruncate": 77,
        "fallocate": 285,
        "fsync": 74,
        "fdatasync": 75,
        "msync": 26,
        "rename": 82,
        "renameat": 264,
        "renameat2": 316,
        "unlink": 87,
        "unlinkat": 263,
        "link": 86,
        "linkat": 265,
        "mkdir": 83,
        "mkdirat": 258,
        "rmdir": 84,
        "flock": 73,
    },
    "aarch64": {
        "seccomp": 277,
        "openat": 56,
        "write": 64,
        "pwrite64": 68,
        "writev": 66,
        "pwritev": 70,
        "truncate": 45,
        "ftruncate": 46,
        "fallocate": 47,
        "fsync": 82,
        "fdatasync": 83,
        "msync": 227,
        "renameat": 38,
        "renameat2": 276,
        "unlinkat": 35,
        "linkat": 37,
        "mkdirat": 34,
        "flock": 32,
    },
}

# Classic BPF, as seccomp runs it on a call's number and arguments.
_LOAD, _JUMP_IF, _JUMP_IF_SET, _OR, _GIVE, _GIVE_LOADED = 0x20, 0x15, 0x45, 0x44, 0x06, 0x16
_ALLOW, _TRACE = 0x7FFF0000, 0x7FF00000
_OFFSET_OF_FLAGS = 16 + 2 * 8
"""Where the low half of the third argument is, on machines that are little-endian."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


class End(NamedTuple):
    """How a traced child ended."""

    calls: int
    """How many system calls it came to, that counted."""
    killed_at: str
    """The call before which it was killed, by name or number; "" where it ended by itself."""
    status: int
    messages: list[Any]


Begin = Callable[[], None]
"""Called by the work of a child when its system calls are to count from now on, in all its threads."""


@cache
def needed() -> str:
    """Say why this machine cannot trace; "" if it can."""
    if reason := needs.linux():
        return reason
    if platform.machine() not in _NUMBERS:
        return f"needs {' or '.join(_NUMBERS)}"
    try:
        end = run(lambda channel, begin: (begin(), os.kill(os.getpid(), 0)), 1, every=True)
    except OSError as error:
        return f"cannot trace here: {error}"
    return "" if end.killed_at else f"cannot trace here: {end}"


def run(work: Callable[[Channel, Begin], object], kill_at: int = 0, *, every: bool = False) -> End:
    """Do some work in a forked child, and kill it before call number `kill_at`; 0: do not kill it.

    Calls that change something count, or with `every` all. The caller has no other child. What the work sends must fit
    into a pipe, for nobody reads it before the end.
    """
    numbers = _NUMBERS[platform.machine()]

    def traced(channel: Channel) -> None:
        _check(_libc.ptrace(_TRACE_ME, 0, None, None))
        os.kill(os.getpid(), signal.SIGSTOP)
        work(channel, lambda: _set_filter(_every() if every else _changing(), numbers["seccomp"]))

    with Child(traced) as child:
        calls, number, child.status = _follow(child.pid, kill_at)
        messages = child.rest()
        names = {number: name for name, number in numbers.items()}
        return End(calls, names.get(number, str(number)) if number >= 0 else "", child.status, messages)


def _follow(child: int, kill_at: int) -> tuple[int, int, int]:
    """Give how many calls there were, at which it was killed (-1: at none), and the exit status."""
    calls, killed_at = 0, -1
    _, status = os.waitpid(child, _WAIT_ALL)
    if not os.WIFSTOPPED(status):
        return calls, killed_at, os.waitstatus_to_exitcode(status)
    _check(_libc.ptrace(_SET_OPTIONS, child, None, _TRACE_CLONE | _TRACE_SECCOMP | _EXIT_KILL))
    _continue(child, 0)
    while True:
        pid, status = os.waitpid(-1, _WAIT_ALL)
        if not os.WIFSTOPPED(status):
            if pid == child:
                return calls, killed_at, os.waitstatus_to_exitcode(status)
            continue
        number, event = os.WSTOPSIG(status), status >> 16
        if event == _EVENT_SECCOMP:
            calls += 1
            if calls == kill_at:
                message = ctypes.c_ulong()
                _check(_libc.ptrace(_GET_EVENT_MESSAGE, pid, None, ctypes.addressof(message)))
                killed_at = message.value
                os.kill(child, signal.SIGKILL)
            else:
                _continue(pid, 0)
        elif event or number == signal.SIGSTOP:
            # A new thread begins by stopping, and nobody else sends this signal.
            _continue(pid, 0)
        else:
            _continue(pid, number)


def _continue(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it may have been killed just now
        _check(_libc.ptrace(_CONTINUE, pid, None, number or None))


def _check(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _every() -> list[tuple[int, int, int, int]]:
    return [(_LOAD, 0, 0, 0), (_OR, 0, 0, _TRACE), (_GIVE_LOADED, 0, 0, 0)]


def _changing() -> list[tuple[int, int, int, int]]:
    numbers = dict(_NUMBERS[platform.machine()])
    del numbers["seccomp"]
    openat = numbers.pop("openat")
    others = list(numbers.values())
    program = [(_LOAD, 0, 0, 0)]
    for place, number in enumerate(others):
        program.append((_JUMP_IF, len(others) - place + 4, 0, number))
    # The opening of a file counts where it may make one.
    program += [
        (_JUMP_IF, 0, 2, openat),
        (_LOAD, 0, 0, _OFFSET_OF_FLAGS),
        (_JUMP_IF_SET, 1, 0, os.O_CREAT),
        (_GIVE, 0, 0, _ALLOW),
        (_LOAD, 0, 0, 0),
        (_OR, 0, 0, _TRACE),
        (_GIVE_LOADED, 0, 0, 0),
    ]
    return program


def _set_filter(program: list[tuple[int, int, int, int]], seccomp: int) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    held = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(program), ctypes.addressof(held))
    _check(_libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _check(_libc.syscall(seccomp, _FILTER_MODE, _ALL_THREADS, head))
