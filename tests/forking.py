"""Processes that are forked off one that has imported the product, so that none pays for an interpreter's start.

A process is one of its own as ever: memory, environment, directory, standard streams, signals, exit status. What it
does not show is how an interpreter starts, what it reads of the environment then, and which modules are imported when:
tests of those start an interpreter.

Three sorts of processes: the test's; one server for it, started at the first use, which has no threads; and for each
program a keeper, which waits for its end and tells the test's how it ended. Each ends when the one before it does,
however that ends, so nothing is left behind: a keeper kills its program then.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

AVAILABLE = hasattr(os, "pidfd_open")
"""Whether this system has what a keeper waits with; Linux does."""

_INT = struct.Struct("<i")


class Forked:
    """A process that runs a Python program, with the attributes and methods of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        program: str,
        *arguments: str,
        input: bytes | None = None,
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
        new_session: bool = False,
    ) -> None:
        """`program` is what would stand behind `python -c`; `input` is what it reads, from a pipe if it is not None."""
        self.args = [program, *arguments]
        self.returncode: int | None = None
        self._keeper, keepers = socket.socketpair()
        outputs = [os.pipe(), os.pipe()]
        theirs = [keepers.detach(), _input(input), *(writer for _, writer in outputs)]
        try:
            socket.send_fds(_server().control, [b"."], theirs)
        finally:
            for file in theirs:
                os.close(file)
        self.stdout, self.stderr = (os.fdopen(reader, "rb") for reader, _ in outputs)
        asked = {
            "program": program,
            "arguments": arguments,
            "environ": dict(os.environ if environ is None else environ),
            "directory": str(directory or Path.cwd()),
            "new_session": new_session,
        }
        message = json.dumps(asked).encode()
        self._keeper.sendall(_INT.pack(len(message)) + message)
        pid, ends, _, _ = socket.recv_fds(self._keeper, _INT.size, 1)
        if not ends:
            raise EOFError("the other side has ended")
        (self.pid,), (self._end,) = _INT.unpack(pid), ends

    def poll(self) -> int | None:
        """Give the exit status, negative for a signal, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and give the exit status; raises `subprocess.TimeoutExpired` after `timeout` seconds."""
        if self.returncode is None:
            if not select.select([self._keeper], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            (status,) = _INT.unpack(_read(self._keeper, _INT.size))
            self.returncode = os.waitstatus_to_exitcode(status)
            self._keeper.close()
            os.close(self._end)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            # Its keeper may have waited for it and not told yet: then its number is nobody's, or another's.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._end, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[bytes, bytes]:
        """Read what it writes up to its end; it is killed after `timeout` seconds: `subprocess.TimeoutExpired`."""
        late = threading.Event()
        until = time.monotonic() + timeout
        end = threading.Timer(timeout, lambda: (late.set(), self.kill()))
        written: list[bytes] = []
        reader = threading.Thread(target=lambda: written.append(self.stderr.read()))
        end.start()
        reader.start()
        try:
            with self.stdout:
                output = self.stdout.read()
            reader.join()
            _stop(end)  # it and this thread must not both be told of the end
            try:
                self.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                late.set()
                self.kill()
                self.wait()
        except BaseException:
            _stop(end)
            self.kill()
            raise
        finally:
            reader.join()
            self.stderr.close()
        if late.is_set():
            raise subprocess.TimeoutExpired(self.args, timeout, output, written[0])
        return output, written[0]


def run(program: str, *arguments: object, seconds_max: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, forked where that can be; it is killed after so long: `subprocess.TimeoutExpired`."""
    words = [str(argument) for argument in arguments]
    if not AVAILABLE:
        command = [sys.executable, "-c", program, *words]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds_max)
    process = Forked(program, *words)
    output, errors = process.communicate(seconds_max)
    return subprocess.CompletedProcess(process.args, process.wait(), output.decode(), errors.decode())


def _stop(timer: threading.Timer) -> None:
    """Have a timer be over, whether its time had come or not."""
    timer.cancel()
    timer.join()


def _input(content: bytes | None) -> int:
    """Give a file to read from: a pipe with something in it, or one that has nothing."""
    if content is None:
        return os.open(os.devnull, os.O_RDONLY)
    reader, writer = os.pipe()

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), open(writer, "wb") as pipe:
            pipe.write(content)

    threading.Thread(target=write, daemon=True).start()
    return reader


class _Server(NamedTuple):
    """The server of this process, which ends when its socket is closed."""

    process: subprocess.Popen[bytes]
    control: socket.socket


@functools.cache
def _server() -> _Server:
    """Start the server of this process at the first use."""
    ours, theirs = socket.socketpair()
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with theirs:
        process = subprocess.Popen(
            # -P: the folder of this file is no more in its path than in that of any program.
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=environ | {"GRPC_VERBOSITY": "NONE"},  # the command line sets it before it imports gRPC
        )
    return _Server(process, ours)


def _read(connection: socket.socket, size: int) -> bytes:
    """Read so many bytes; raises `EOFError` where the other side ended before."""
    data = connection.recv(size, socket.MSG_WAITALL)
    if len(data) != size:
        raise EOFError("the other side has ended")
    return data


# --- the server, the keepers, and the programs before they begin -----------------------------------------------------


def _import_everything() -> None:
    """Import all of the product, and what it imports only where it needs it."""
    import stigmer

    for module in pkgutil.walk_packages(stigmer.__path__, "stigmer."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    for name in ("cryptography.x509", "ruamel.yaml", "rich.progress", "uvloop"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is never collected is never written to, and so stays shared


def _serve(control: socket.socket) -> str | None:
    """Fork a keeper for each program. Returns at the end; and, in the process of a program, with what is to be run."""
    while True:
        _, files, _, _ = socket.recv_fds(control, 1, 4)
        if not files:
            return None
        if os.fork() == 0:
            control.close()
            connection, *streams = files
            return _keep(socket.socket(fileno=connection), streams)
        for file in files:
            os.close(file)
        with contextlib.suppress(ChildProcessError):  # there is none
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass  # a keeper that has ended


def _keep(connection: socket.socket, streams: list[int]) -> str:
    """Fork a program, wait for its end, and say how it ended. Returns only in the program's own process."""
    asked = json.loads(_read(connection, *_INT.unpack(_read(connection, _INT.size))))
    pid = os.fork()
    if pid == 0:
        connection.close()
        return _begin(asked, streams)
    os.setpgid(0, 0)  # who kills the group of the test's process must not end who kills the program then
    for file in streams:
        os.close(file)
    end = os.pidfd_open(pid)
    socket.send_fds(connection, [_INT.pack(pid)], [end])
    events = select.poll()
    events.register(end, select.POLLIN)
    events.register(connection, 0)  # a connection that is closed is told of without being asked for
    if end not in dict(events.poll()):
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        connection.sendall(_INT.pack(status))
    os._exit(0)


def _begin(asked: dict[str, Any], streams: list[int]) -> str:
    """Make this process what was asked for, but for the program itself, which is returned."""
    if asked["new_session"]:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, (name, mode, buffering) in enumerate((("stdin", "r", -1), ("stdout", "w", -1), ("stderr", "w", 1))):
        os.dup2(streams[number], number)
        os.close(streams[number])
        old = getattr(sys, name)
        setattr(sys, name, os.fdopen(number, mode, buffering, encoding=old.encoding, errors=old.errors, closefd=False))
    os.chdir(asked["directory"])
    os.environ.clear()
    os.environ.update(asked["environ"])
    time.tzset()
    sys.argv = ["-c", *asked["arguments"]]
    return str(asked["program"])


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test's process, which ends this one
    _import_everything()
    program = _serve(socket.socket(fileno=int(sys.argv[1])))
    if program is not None:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _main()
