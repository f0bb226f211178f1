"""Forked processes that tell what they do over a pipe until they end or are killed.

A fork costs a few milliseconds where the start of a Python costs hundreds. The parent has no threads, and nothing in it
is open that must not be used on both sides of a fork. What a child has sent is there for the parent to read, whatever
became of the child; only the message in the middle of which it was killed is not.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from faults.scenario import Failed

_SIZE = struct.Struct("<I")


class Broken(NamedTuple):
    """What a child sends when its work raised."""

    error: str
    trace: str


class Channel:
    """The child's end."""

    def __init__(self, out: int, control: int) -> None:
        self._out = out
        self._control = control
        # Guards that messages of several threads do not run into each other.
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Send anything that can be pickled. Once it returns, the parent will see it."""
        body = pickle.dumps(message)
        rest = memoryview(_SIZE.pack(len(body)) + body)
        with self._lock:
            while rest:
                rest = rest[os.write(self._out, rest) :]

    def wait(self) -> None:
        """Wait until the parent says so, or is gone."""
        os.read(self._control, 1)

    def broken(self, error: BaseException) -> None:
        """Tell of an exception."""
        self.send(Broken(f"{type(error).__name__}: {error}", traceback.format_exc()))


class Child:
    """A forked process, seen from its parent."""

    def __init__(self, work: Callable[[Channel], None]) -> None:
        """Fork a process that does some work and ends."""
        self._in, out = os.pipe()
        control, self._control = os.pipe()
        self._received = b""
        self._is_at_end = False
        self.status: int | None = None
        """As `os.waitstatus_to_exitcode` gives it; None until it was waited for."""
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._in)
            os.close(self._control)
            _run(work, Channel(out, control))
        os.close(out)
        os.close(control)

    def receive(self, seconds: float | None = None) -> list[Any]:
        """Give what has come, waiting for the first of it so long; nothing at the end. Raises `Failed` for `Broken`."""
        if not self._is_at_end and select.select([self._in], [], [], seconds)[0]:
            data = os.read(self._in, 1 << 20)
            self._is_at_end = not data
            self._received += data
        messages = []
        at = 0
        while len(self._received) - at >= _SIZE.size:
            end = at + _SIZE.size + _SIZE.unpack_from(self._received, at)[0]
            if len(self._received) < end:
                break
            messages.append(pickle.loads(memoryview(self._received)[at + _SIZE.size : end]))
            at = end
        self._received = self._received[at:]
        for message in messages:
            if isinstance(message, Broken):
                raise Failed(f"in a child: {message.error}\n{message.trace}")
        return messages

    @property
    def is_at_end(self) -> bool:
        """Whether it has closed its end, or died, and all that it sent was received."""
        return self._is_at_end

    def rest(self) -> list[Any]:
        """Give all that is still to come, waiting for its end."""
        messages = []
        while not self._is_at_end:
            messages += self.receive()
        return messages

    def go_on(self) -> None:
        """End its `Channel.wait`."""
        with suppress(BrokenPipeError):
            os.write(self._control, b".")

    def kill(self) -> list[Any]:
        """Kill it; give what it sent before."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.rest()

    def wait(self) -> int:
        """Wait for its end and give its status, negative for a signal."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def end(self) -> None:
        """Kill it if it runs; let go of everything."""
        if self.status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()
        for fd in (self._in, self._control):
            os.close(fd)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _run(work: Callable[[Channel], None], channel: Channel) -> None:
    status = 1
    try:
        work(channel)
        status = 0
    except BaseException as error:
        with suppress(OSError):
            channel.broken(error)
    finally:
        os._exit(status)


def in_child(work: Callable[[Channel], None]) -> list[Any]:
    """Do some work in a forked process and wait for it; give what it sent. Raises `Failed` where it did not go well."""
    with Child(work) as child:
        messages = child.rest()
        if status := child.wait():
            raise Failed(f"a child ended with {status}")
        return messages


def pause(child: Child, seconds: float) -> list[Any]:
    """Let a child run for so long; give what it sent meanwhile."""
    messages = []
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not child.is_at_end:
        messages += child.receive(left)
    return messages
