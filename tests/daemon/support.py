"""A real daemon in a process of its own, for the tests of the daemon and of the clients."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec
from forking import AVAILABLE, Forked

from stigmer.config import AccessOptions, Limits, StoreOptions
from stigmer.daemon.lifecycle import DaemonInfo, DaemonOptions

ANY_PORT = "127.0.0.1:0"

_numbers = itertools.count()

PROGRAM = """
import os
import sys
import msgspec
if "STIGMER_FAULTS_BUG" in os.environ:
    from faults import bugs
    bugs.plant_from_environment()
from stigmer.daemon.lifecycle import DaemonOptions, run_daemon
from stigmer.errors import StigmerError

def ready(started):
    print(msgspec.json.encode(started.info).decode(), flush=True)

try:
    run_daemon(msgspec.json.decode(sys.argv[1], type=DaemonOptions), ready)
except StigmerError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def own_address() -> str:
    """Give an address over TCP for a daemon that comes back to it: between its lives nobody else is given it.

    On Linux all of 127.0.0.0/8 is this machine, and no port below 32768 is given out; elsewhere it is a port that is
    free now.
    """
    if sys.platform == "linux":
        host = ipaddress.IPv4Address((127 << 24) + (1 << 16) + os.getpid() % (254 << 16))
        return f"{host}:{20_000 + next(_numbers) % 10_000}"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


class DaemonProcess:
    """A daemon that is ended, whatever happens, when its `with` block ends."""

    def __init__(
        self,
        data_dir: Path,
        *listen: str,
        store: StoreOptions | None = None,
        wrapper: tuple[str, ...] = (),
        key_file: Path | None = None,
        access: AccessOptions | None = None,
        limits: Limits | None = None,
        own_socket: bool = False,
    ) -> None:
        """`wrapper` is a command that runs the daemon as its child, such as strace."""
        options = DaemonOptions(
            str(data_dir),
            listen or (ANY_PORT,),
            store or StoreOptions(),
            str(key_file) if key_file else None,
            access or AccessOptions(),
            limits or Limits(),
            own_socket,
        )
        said = msgspec.json.encode(options).decode()
        # A planted bug has to be there before modules import each other.
        if AVAILABLE and not wrapper and "STIGMER_FAULTS_BUG" not in os.environ:
            self._process: Forked | subprocess.Popen[bytes] = Forked(PROGRAM, said, new_session=True)
        else:
            self._process = subprocess.Popen(
                [*wrapper, sys.executable, "-c", PROGRAM, said],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.returncode, self.stderr = self._process.wait(), self.read_stderr()
            self._close_pipes()
            raise DidNotStart(self.returncode, self.stderr)
        self.info = msgspec.json.decode(line, type=DaemonInfo)
        self.address = self.info.listen[0]

    @property
    def pid(self) -> int:
        return self.info.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self._process.pid == self.pid:
            self._process.send_signal(number)
        else:  # what was started has started it, and waits for it
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for its end and give its exit status."""
        return self._process.wait(timeout)

    def stop(self) -> int:
        """Ask it to stop and give its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def read_stderr(self) -> str:
        """Give what it wrote there, up to its end."""
        assert self._process.stderr is not None
        return self._process.stderr.read().decode()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> DaemonProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self._process, Forked):
            self._process.kill()  # nobody else is in its session, and its number may be another's already
        elif self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if kind is not None:
            print(f"--- the daemon's stderr ---\n{self.read_stderr()}")
        self._close_pipes()


class DidNotStart(Exception):
    """The daemon ended before it listened."""

    def __init__(self, returncode: int, stderr: str) -> None:
        super().__init__(stderr)
        self.returncode = returncode
        self.stderr = stderr


def until(holds: Callable[[], bool]) -> None:
    """Ask again and again until something holds."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() < begun + 120


def seconds_of_cpu(process: DaemonProcess) -> float:
    """Give the time that a daemon has computed, in seconds; on Linux."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
