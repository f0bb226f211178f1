"""A daemon from start to end; one in the background; and how to stop one.

Invariants:
- The data directory is locked before an address is taken, and the store is closed (which seals the log) after the last
  call was answered or cancelled.
- `DATA/daemon.json` is there only while the daemon listens, unless it was killed.
- A failed storage ends the daemon: calls are refused, and `run_daemon` raises the failure.

gRPC and the store are imported when a daemon is run, so that asking for one, or stopping one, costs little.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from stigmer import config, wire
from stigmer.config import AccessOptions, Limits, StoreOptions
from stigmer.daemon.info import (
    DaemonInfo,
    check_access,
    read_daemon_info,
    read_owner,
    remove_daemon_info,
    unusable_file,
    wait_until_free,
    write_daemon_info,
)
from stigmer.daemon.process_log import ProcessLog
from stigmer.errors import DataDirectoryError, DeadlineExceeded, StigmerError
from stigmer.log import files
from stigmer.model import Status

if TYPE_CHECKING:
    from stigmer.daemon.access import Access
    from stigmer.daemon.server import Server
    from stigmer.resources.verbs import Resources
    from stigmer.store import Store

__all__ = ["DaemonInfo", "DaemonOptions", "Started", "read_daemon_info", "run_daemon", "start_detached", "stop_daemon"]

_READY_FD_VARIABLE = "STIGMER_READY_FD"
_READY = b"R"
_FAILED = b"E"

_POLL_MILLISECONDS_MAX = (1 << 31) - 1

_FAILURE_GRACE_SECONDS = 1.0
"""How long a daemon whose storage failed lets its last answers go out."""

_SWITCH_SECONDS = 0.0005
"""How long a thread of the daemon keeps the interpreter while another waits for it. Python's default of 5 ms is many
times what a call takes, and the event loop would stand behind each thread that reads a page or folds."""

_logger = logging.getLogger("stigmer.daemon")


class DaemonOptions(msgspec.Struct, frozen=True):
    """What a daemon can be told."""

    data_dir: str
    listen: tuple[str, ...] = (config.ADDR_DEFAULT,)
    store: StoreOptions = StoreOptions()
    key_file: str | None = None
    """Holds the master key of secrets; None: `secret.key` in the data directory."""
    access: AccessOptions = AccessOptions()
    limits: Limits = Limits()
    own_socket: bool = False
    """Listen on `run/stigmer.sock` in the data directory, too."""
    command: str = "stigmer daemon"
    """Shown to a second process that wants the data directory."""


class Started(msgspec.Struct, frozen=True):
    """A daemon that has begun to listen: what a banner tells."""

    info: DaemonInfo
    status: Status
    seconds: float
    """Since `run_daemon` was called."""
    access: str
    """What callers over TCP have to show; empty where that is nothing."""


# --- running -----------------------------------------------------------------------------------------------


def run_daemon(options: DaemonOptions, ready: Callable[[Started], None]) -> None:
    """Run a daemon until SIGTERM or SIGINT; `ready` is called once, when it listens.

    Belongs on the main thread of a process of its own. A second signal cancels the calls that are still under way; a
    third kills. Raises `LogLocked`, `AddressInUse`, `InvalidArgument` and what else opening a store raises before it
    listens, and `StorageFailed` when the storage failed.
    """
    begun = time.monotonic()
    # Whatever this process makes is for its user alone, also where a library makes it.
    os.umask(0o077)
    # gRPC writes a line to stderr for every handshake that fails, which is something that anybody can have it do.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.setswitchinterval(_SWITCH_SECONDS)
    waiting_parent = _WaitingParent()
    try:
        _refuse_slow_protobuf()
        _allow_many_files()
        _check_threads()
        process_log = ProcessLog()
        try:
            _open_and_serve(options, ready, waiting_parent, process_log, begun)
        finally:
            process_log.close()
    except StigmerError as error:
        waiting_parent.tell_failure(error)
        raise


def _open_and_serve(
    options: DaemonOptions,
    ready: Callable[[Started], None],
    waiting_parent: _WaitingParent,
    process_log: ProcessLog,
    begun: float,
) -> None:
    from stigmer.artifacts import Artifacts
    from stigmer.daemon.access import Access
    from stigmer.daemon.addresses import own_socket, parse_listen
    from stigmer.daemon.permissions import close_to_others
    from stigmer.resources.verbs import Resources
    from stigmer.store import Store
    from stigmer.vault import Vault

    # Refused before a data directory is made.
    options.limits.checked()
    access = Access(options.access)
    access.check_reach([parse_listen(address) for address in options.listen])
    with Store.open(options.data_dir, options.store, command=options.command) as store:
        data_dir = store.directory
        try:
            process_log.attach(data_dir)
        except OSError as error:
            raise unusable_file(data_dir, error) from error
        close_to_others(data_dir)
        access.open(data_dir)

        def on_listening(listen: list[str]) -> None:
            status = store.status()
            info = DaemonInfo(os.getpid(), listen, status.started_at_ns, status.version)
            write_daemon_info(data_dir, info)
            _logger.info(
                "stigmer %s, pid %d: %s at revision %d, listening on %s",
                info.version,
                info.pid,
                data_dir,
                status.revision,
                ", ".join(listen),
            )
            asked = access.status().summary()
            waiting_parent.tell_ready(info)
            ready(Started(info, status, time.monotonic() - begun, asked))

        try:
            with (
                closing(Vault.open(data_dir, options.key_file, os.environ)) as vault,
                asyncio.Runner(loop_factory=_fast_loop()) as runner,
            ):
                resources = Resources(store, vault, Artifacts(os.path.join(data_dir, "artifacts")))
                socket = own_socket(data_dir) if options.own_socket else None
                make = functools.partial(_server, store, resources, options, access, socket)
                runner.run(_serve(store, resources, make, on_listening))
            if store.failure is not None:
                raise store.failure
        except BaseException as error:
            _logger.critical("stopped: %s", error if isinstance(error, StigmerError) else repr(error))
            raise
        finally:
            remove_daemon_info(data_dir)
    _logger.info("stopped; the log is sealed")


def _server(
    store: Store, resources: Resources, options: DaemonOptions, access: Access, socket: wire.Address | None
) -> Server:
    from stigmer.daemon.server import Server

    return Server(store, resources, options.listen, options.limits, access, socket)


async def _serve(
    store: Store, resources: Resources, make: Callable[[], Server], on_listening: Callable[[list[str]], None]
) -> None:
    """Serve until a signal comes or the storage fails."""
    # What is there now stays to the end: no collection has to walk over it, with every call waiting.
    gc.collect()
    gc.freeze()
    loop = asyncio.get_running_loop()
    told_to_stop, told_to_hurry, failed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def on_signal(number: int) -> None:
        _logger.info("got %s", signal.Signals(number).name)
        if not told_to_stop.is_set():
            told_to_stop.set()
            return
        told_to_hurry.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    def on_horizon() -> None:
        if store.failure is not None:
            loop.call_soon_threadsafe(failed.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    unsubscribe = store.horizon.subscribe(on_horizon)
    server = make()
    await server.start()
    on_listening(server.listen)
    clearing = asyncio.create_task(asyncio.to_thread(_clear_away, resources))
    on_horizon()  # it may have failed before it was watched
    await _first_of(told_to_stop, failed)
    unsubscribe()
    stopping = asyncio.create_task(server.stop(_FAILURE_GRACE_SECONDS if failed.is_set() else config.DRAIN_SECONDS))
    hurrying = asyncio.create_task(told_to_hurry.wait())
    await asyncio.wait((stopping, hurrying), return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        await server.cancel_calls()
    hurrying.cancel()
    await stopping
    await clearing
    # Closed while the loop still runs: what is queued is answered into it, even where nobody waits any more.
    await asyncio.to_thread(store.close)


def _clear_away(resources: Resources) -> None:
    """Finish what the daemon before had begun to clear away. What cannot be is tried again at the next start."""
    try:
        resources.clear_away_rests()
    except StigmerError as error:
        _logger.warning("not everything that is no longer needed could be removed: %s", error)


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    make: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return make


def _allow_many_files() -> None:
    """Raise the limit of open files as far as is allowed: a connection is a file, and so is a segment being read.

    Raises `StigmerError` where it stays so low that gRPC, which cannot do without, would end the process.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # "unlimited" is more than some systems allow; then what there is has to do
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < config.FILES_MIN:
        raise StigmerError(
            f"only {soft} files may be open at a time; a daemon takes {config.FILES_MIN} at least",
            hint="raise the limit of open files: ulimit -n 4096",
        )


def _check_threads() -> None:
    """Raise `StigmerError` where so few threads can be started that gRPC would end the process, and not say why."""
    done = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(config.THREADS_MIN):
            thread = threading.Thread(target=done.wait)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise StigmerError(
            f"only {len(started)} threads can be started; a daemon takes {config.THREADS_MIN} at least",
            hint="raise the limit of processes and threads: ulimit -u, or pids.max of the control group",
        ) from error
    finally:
        done.set()
        for thread in started:
            thread.join()


def _refuse_slow_protobuf() -> None:
    """Refuse protobuf's pure-Python form: it recurses without a bound on what a client sends (CVE-2025-4565)."""
    from google.protobuf.internal import api_implementation

    if api_implementation.Type() == "python":
        raise StigmerError(
            "protobuf runs in its pure-Python form, which is not safe to serve with",
            hint="unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install a protobuf wheel for this platform",
        )


class _WaitingParent:
    """The process that started this one in the background and waits, at the other end of a pipe, for it to listen."""

    def __init__(self) -> None:
        given = os.environ.pop(_READY_FD_VARIABLE, None)
        self._fd = int(given) if given is not None else -1
        if self._fd >= 0:
            os.set_inheritable(self._fd, False)

    def tell_ready(self, info: DaemonInfo) -> None:
        self._tell(_READY + msgspec.json.encode(info))

    def tell_failure(self, error: StigmerError) -> None:
        self._tell(_FAILED + wire.detail_of(error))

    def _tell(self, message: bytes) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            # No buffer, which would be written once more at the close.
            with open(fd, "wb", buffering=0) as pipe:
                pipe.write(message)
        except BrokenPipeError:
            pass  # it waits no longer


# --- in the background -------------------------------------------------------------------------------------


def start_detached(
    arguments: Sequence[str],
    data_dir: str,
    timeout: float = 60.0,
    program: Sequence[str] = (sys.executable, "-m", "stigmer", "daemon"),
) -> DaemonInfo:
    """Start a daemon in a session of its own and wait until it listens.

    `arguments` are options of `stigmer daemon` and must lead to `data_dir`; what it prints goes to
    `DATA/daemon.out`. `timeout` is in seconds. Raises the error for which it could not start, and `DeadlineExceeded`
    where it is still opening the store; then it goes on.
    """
    try:
        files.make_directories(data_dir)
        out_path = os.path.join(data_dir, "daemon.out")
        out = os.open(out_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        taken = isinstance(error, FileExistsError | NotADirectoryError)
        problem = "is not a directory" if taken else f"cannot be used: {error.strerror}"
        raise DataDirectoryError(data_dir, problem, hint="choose another with --data-dir") from error
    out_begin = os.fstat(out).st_size
    reader, writer = os.pipe()
    try:
        try:
            process = subprocess.Popen(
                [*program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                pass_fds=(writer,),
                env={**os.environ, _READY_FD_VARIABLE: str(writer)},
            )
        finally:
            os.close(writer)
        message = _read_until_closed(reader, timeout)
        if message is None:
            raise DeadlineExceeded(
                f"the daemon, pid {process.pid}, does not listen after {timeout:g} s; it is still opening {data_dir}",
                hint=f"it goes on; see {os.path.join(data_dir, 'daemon.log')} and `stigmer daemon status`",
            )
        if message.startswith(_READY):
            return msgspec.json.decode(message[1:], type=DaemonInfo)
        process.wait()
        if message.startswith(_FAILED):
            raise wire.error_of(message[1:])
        said = os.pread(out, 4096, out_begin).decode(errors="replace").strip()
        raise StigmerError(
            f"the daemon ended with status {process.returncode}: {said or 'it said nothing'}", hint=f"see {out_path}"
        )
    finally:
        os.close(reader)
        os.close(out)


def _read_until_closed(fd: int, timeout: float) -> bytes | None:
    """Read a pipe to its end; None where that takes longer than `timeout` seconds."""
    deadline = time.monotonic() + timeout
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    message = b""
    while True:
        if not poll.poll(_milliseconds(deadline - time.monotonic())):
            return None
        part = os.read(fd, 65536)
        if not part:
            return message
        message += part


def _milliseconds(seconds: float) -> float:
    """Give a time as `poll` takes it, which is three weeks at the most."""
    return min(max(0.0, seconds) * 1000, _POLL_MILLISECONDS_MAX)


def stop_daemon(data_dir: str, timeout: float = 30.0) -> int | None:
    """Tell the daemon of a data directory to stop and wait until it has; gives its pid, or None where none runs.

    `timeout` is in seconds. Raises `DeadlineExceeded` where it still runs then, and `StigmerError` where the owner of
    the directory is no daemon that listens: a program that embeds the store is not ours to stop.
    """
    check_access(data_dir)
    owner = read_owner(data_dir)
    if owner is None:
        return None
    with _ExitWatch(owner.pid, data_dir) as watch:
        # Asked after the watch was begun: a pid that was given to another process meanwhile is not signalled.
        info = read_daemon_info(data_dir)
        if info is None or info.pid != owner.pid:
            if read_owner(data_dir) is None:
                return None
            raise StigmerError(
                f"data directory {data_dir} is in use by pid {owner.pid} ({owner.command or 'embedded'}), "
                "which is no daemon that listens",
                hint=f"end that process itself; if it is a daemon that is starting, try again: kill {owner.pid}",
            )
        watch.terminate()
        if not watch.wait(timeout):
            raise DeadlineExceeded(
                f"the daemon, pid {owner.pid}, has not stopped after {timeout:g} s",
                hint=f"kill -9 {owner.pid} loses nothing that was acknowledged",
            )
    return owner.pid


class _ExitWatch:
    """Waits for a process that is not our child: by its pidfd, or where there is none by the lock it holds."""

    def __init__(self, pid: int, data_dir: str) -> None:
        self._pid = pid
        self._data_dir = data_dir
        self._pidfd = -1

    def __enter__(self) -> _ExitWatch:
        if hasattr(os, "pidfd_open"):
            try:
                self._pidfd = os.pidfd_open(self._pid)
            except OSError:
                pass  # gone, or a kernel without them
        return self

    def __exit__(self, *_: object) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)

    def terminate(self) -> None:
        try:
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            else:
                os.kill(self._pid, signal.SIGTERM)
        except ProcessLookupError:
            pass

    def wait(self, timeout: float) -> bool:
        """Wait for the end, at most `timeout` seconds; tells whether it came."""
        if self._pidfd >= 0:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            return bool(poll.poll(_milliseconds(timeout)))
        # The thread is left behind where the time is up: a lock cannot be waited for with a limit.
        waiter = threading.Thread(target=wait_until_free, args=(self._data_dir,), daemon=True)
        waiter.start()
        waiter.join(timeout)
        return not waiter.is_alive()
