"""Daemons in processes forked from this one, which has everything imported: a start costs milliseconds.

gRPC does not survive a fork. So the process that forks makes no call with it, and has bare HTTP/2 instead.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from types import TracebackType

import msgspec

# What a daemon imports when it starts, imported once, and said once: gRPC reads this as it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import stigmer.artifacts
import stigmer.daemon.access
import stigmer.daemon.permissions
import stigmer.daemon.server
import stigmer.resources.verbs
import stigmer.vault  # noqa: F401
from stigmer.daemon import lifecycle
from stigmer.daemon.lifecycle import DaemonOptions, Started, run_daemon
from stigmer.errors import LogLocked, StigmerError
from stigmer.resources.methods import all_methods
from stigmer.store import Store

_PR_SET_PDEATHSIG = 1


class Report(msgspec.Struct, frozen=True):
    """What a process that wants to own a directory, or addresses, tells of its start."""

    pid: int
    listen: list[str] = []
    """Where a daemon listens."""
    revision: int = 0
    """What an embedded store saved as its first act; 0 for a daemon."""
    error: str = ""
    """The class of the error for which it did not start."""
    message: str = ""
    hint: str = ""
    told_pid: int | None = None
    """Whom the error named as the owner."""

    @property
    def has_started(self) -> bool:
        """Whether it owns what it wanted."""
        return not self.error


Run = Callable[[Callable[[Report], None]], None]
"""What a forked process does: it reports its start, and returns when it is told to end."""


class Forked:
    """A process that is ended, whatever happens, when its `with` block ends."""

    def __init__(self, run: Run, prepare: Callable[[], None] = lambda: None) -> None:
        """Fork and run this, behind `prepare`; a `StigmerError` that it raises is reported."""
        assert threading.active_count() == 1, "threads do not survive a fork"
        _prepare()
        self._reports, write_end = os.pipe()
        self._status: int | None = None
        self._report: Report | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _run_to_end(run, prepare, write_end)
        os.close(write_end)

    def report(self) -> Report:
        """Wait until it has started or failed."""
        if self._report is None:
            with open(self._reports, "rb", closefd=False) as pipe:
                line = pipe.readline()
            if not line:
                raise AssertionError(f"a forked process ended without a word, with status {self.wait()}")
            self._report = msgspec.json.decode(line, type=Report)
        return self._report

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._status is None:
            self.signal(signal.SIGKILL)
            self.wait()

    def stop(self) -> int:
        """Ask it to stop, and give its exit status."""
        if self._status is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end and give its exit status, negative for a signal."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def __enter__(self) -> Forked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        os.close(self._reports)


def a_daemon(options: DaemonOptions) -> Run:
    """Give what a process does that is a daemon."""

    def run(tell: Callable[[Report], None]) -> None:
        def ready(started: Started) -> None:
            tell(Report(os.getpid(), started.info.listen))

        run_daemon(options, ready)

    return run


def an_embedded_store(data_dir: str) -> Run:
    """Give what a process does that embeds the store: it saves once, and has the directory until it is told to end."""

    def run(tell: Callable[[Report], None]) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        with Store.open(data_dir) as store:
            revision = store.save("embedded", f"{os.getpid()}", b"v")
            tell(Report(os.getpid(), revision=revision))
            signal.sigwait([signal.SIGTERM])

    return run


@cache
def _prepare() -> None:
    """Import what a daemon imports only as it begins to serve, and leave all of it out of its collections."""
    lifecycle._fast_loop()
    all_methods()
    gc.collect()
    gc.freeze()


def _end_with_parent() -> None:
    """Have the kernel kill this process when the one that forked it is gone, however that went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _run_to_end(run: Run, prepare: Callable[[], None], write_end: int) -> None:
    status = 1
    try:
        _end_with_parent()
        prepare()
        with open(write_end, "wb", buffering=0) as pipe:

            def tell(report: Report) -> None:
                pipe.write(msgspec.json.encode(report) + b"\n")

            try:
                run(tell)
                status = 0
            except StigmerError as error:
                told_pid = error.pid if isinstance(error, LogLocked) else None
                with suppress(BrokenPipeError):
                    tell(
                        Report(
                            os.getpid(),
                            error=type(error).__name__,
                            message=error.message,
                            hint=error.hint or "",
                            told_pid=told_pid,
                        )
                    )
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
