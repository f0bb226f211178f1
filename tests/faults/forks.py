"""Processes forked from this one, which has everything imported, so that a store or a daemon is there within
milliseconds.

This process must have no other thread, and must not have used gRPC, when it forks. What a turn's process has planted
is in those that it forks, too.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from faults.scenario import Failed
from stigmer.config import StoreOptions
from stigmer.daemon.lifecycle import DaemonOptions, Started, run_daemon

_PR_SET_PDEATHSIG = 1
_FAILED = b"failed "
_FAILURE_SIZE_MAX = 3_000

Tell = Callable[[bytes], None]
"""Sends a line, without its end, to the process that forked this one."""


class Forked:
    """A function that runs in a process of its own, which is killed, at the latest, when the `with` block ends."""

    def __init__(self, work: Callable[[Tell], None]) -> None:
        """Fork. An exception of `work` becomes exit status 1, and is raised as `Failed` by `hear`."""
        self._reader, writer = os.pipe()
        self._heard = b""
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self._reader)
                _end_with_parent()
                work(lambda line: _write_line(writer, line))
                status = 0
            except BaseException as error:
                tell_failure(lambda line: _write_line(writer, line), error)
            finally:
                # Nothing of the parent's is flushed or closed here a second time.
                os._exit(status)
        os.close(writer)

    def hear(self, timeout: float | None = None) -> bytes | None:
        """Give the next line that it tells; None where it ended first, or, with `timeout` in seconds, told nothing.

        Raises `Failed` where it tells of a failure.
        """
        while b"\n" not in self._heard:
            if timeout is not None and not select.select([self._reader], [], [], timeout)[0]:
                return None
            more = os.read(self._reader, 65_536)
            if not more:
                return None
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        if line.startswith(_FAILED):
            raise Failed(json.loads(line.removeprefix(_FAILED)))
        return line

    def kill(self) -> None:
        """End it as a crash would."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> int:
        """Wait for its end; give its exit status, negative for the signal that killed it."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._reader)
        return self._status

    def __enter__(self) -> Forked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class ForkedDaemon(Forked):
    """A daemon that listens, or has been killed before it did."""

    def __init__(
        self, data_dir: Path, listen: str, store: StoreOptions, before: Callable[[], None] | None = None
    ) -> None:
        """Fork a daemon; `before` runs in its process before anything else."""
        options = DaemonOptions(str(data_dir), (listen,), store)

        def work(tell: Tell) -> None:
            def ready(started: Started) -> None:
                tell(started.info.listen[0].encode())

            os.setsid()
            if before is not None:
                before()
            run_daemon(options, ready)

        super().__init__(work)
        self.data_dir = data_dir

    def listening(self) -> str:
        """Wait until it listens; give the address. Raises `AssertionError` where it ended instead."""
        address = self.hear()
        assert address is not None, f"the daemon did not start, status {self.wait()}: {self.said()}"
        return address.decode()

    def said(self) -> str:
        """Give the end of its process log."""
        log = self.data_dir / "daemon.log"
        return log.read_text()[-2_000:] if log.exists() else ""

    def stop(self) -> int:
        """Ask it to stop; give its exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()


def warm_up() -> None:
    """Import what a daemon imports when it is run, so that those that are forked find it done."""
    import stigmer.artifacts
    import stigmer.daemon.access
    import stigmer.daemon.addresses
    import stigmer.daemon.permissions
    import stigmer.daemon.server
    import stigmer.resources.verbs
    import stigmer.store
    import stigmer.vault  # noqa: F401


def tell_failure(tell: Tell, error: BaseException) -> None:
    """Tell the process that forked this one of an exception, whichever thread has met it."""
    # Short enough to be written to a pipe in one piece.
    tell(_FAILED + json.dumps("".join(traceback.format_exception(error))[-_FAILURE_SIZE_MAX:]).encode())


def _end_with_parent() -> None:
    """Have the system kill this process when the one that forked it is gone, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _write_line(fd: int, line: bytes) -> None:
    os.write(fd, line + b"\n")
