"""A daemon from start to end: who may start, what it leaves behind, how it stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import threading
from pathlib import Path

import grpc
import pytest

from daemon.support import ANY_PORT, PROGRAM, DaemonProcess, DidNotStart
from stigmer import config, wire
from stigmer.client import connect
from stigmer.daemon import lifecycle
from stigmer.daemon.addresses import room_for_socket
from stigmer.daemon.info import DaemonInfo, read_owner, write_daemon_info
from stigmer.daemon.lifecycle import DaemonOptions, read_daemon_info, start_detached, stop_daemon
from stigmer.errors import (
    AddressInUse,
    DataDirectoryError,
    DeadlineExceeded,
    InvalidArgument,
    LogLocked,
    OutcomeUnknown,
    StigmerError,
)
from stigmer.pb import store_pb2
from stigmer.store import Store

LIST_K = store_pb2.ListRequest(kind="k").SerializeToString()

# --- who may start ---


def test_a_second_daemon_on_the_same_directory(tmp_path: Path) -> None:
    """It is refused and told who has the directory; the first one goes on."""
    data = tmp_path / "data"
    with DaemonProcess(data) as first:
        with pytest.raises(DidNotStart) as caught:
            DaemonProcess(data)
        assert caught.value.returncode == 1
        assert "LogLocked" in caught.value.stderr
        assert f"pid {first.pid}" in caught.value.stderr
        with pytest.raises(LogLocked) as embedded:
            Store.open(data)
        assert embedded.value.pid == first.pid
        with connect(first.address) as client:
            assert client.save("k", "a", b"") == 1


def test_a_race_for_a_directory_has_one_winner(tmp_path: Path) -> None:
    """Of daemons that start together on one directory exactly one gets it."""
    started: list[DaemonProcess] = []
    refused: list[DidNotStart] = []

    def start() -> None:
        try:
            started.append(DaemonProcess(tmp_path / "data"))
        except DidNotStart as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1
    with started[0]:
        assert [error.stderr for error in refused if "LogLocked" not in error.stderr] == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_second_daemon_on_the_same_port(tmp_path: Path, host: str) -> None:
    """It is refused, rather than share the port and the clients with the first."""
    if host == "[::1]" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with DaemonProcess(tmp_path / "first", f"{host}:0") as first:
        assert first.address.startswith(host)
        with pytest.raises(DidNotStart) as caught:
            DaemonProcess(tmp_path / "second", first.address)
        assert f"AddressInUse: cannot listen on {first.address}" in caught.value.stderr
        assert read_daemon_info(str(tmp_path / "second")) is None
        with Store.open(tmp_path / "second"):
            pass  # let go of


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "example.org:1", "192.168.0.1:50051"])
def test_addresses_that_others_can_reach(tmp_path: Path, address: str) -> None:
    """Only this machine is served, and nothing is made before that is known."""
    with pytest.raises(DidNotStart) as caught:
        DaemonProcess(tmp_path / "data", address)
    assert "InvalidArgument: listen:" in caught.value.stderr
    assert "can be reached from other machines" in caught.value.stderr
    assert not (tmp_path / "data").exists()


def test_several_addresses(tmp_path: Path) -> None:
    """A daemon answers on each of its addresses, and names them all with their real ports."""
    path = tmp_path / "daemon.sock"
    with DaemonProcess(tmp_path / "data", ANY_PORT, ANY_PORT, f"unix:{path}") as process:
        assert len(set(process.info.listen)) == 3
        assert all(not address.endswith(":0") for address in process.info.listen)
        for number, address in enumerate(process.info.listen, 1):
            with connect(address) as client:
                assert client.save("k", "a", b"") == number
                assert client.status().listen == process.info.listen


# --- sockets in the file system ---


def test_a_socket_is_ours_alone_and_goes_with_the_daemon(tmp_path: Path) -> None:
    """The socket can be used by its owner only, and is removed at the end."""
    path = tmp_path / "daemon.sock"
    with DaemonProcess(tmp_path / "data", f"unix:{path}") as process:
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert process.stop() == 0
    assert not path.exists()


def test_a_socket_that_is_in_use(tmp_path: Path) -> None:
    """A second daemon does not take the first one's socket."""
    path = tmp_path / "daemon.sock"
    with DaemonProcess(tmp_path / "first", f"unix:{path}") as first:
        with pytest.raises(DidNotStart) as caught:
            DaemonProcess(tmp_path / "second", f"unix:{path}")
        assert f"AddressInUse: cannot listen on unix:{path}" in caught.value.stderr
        with connect(first.address) as client:
            assert client.save("k", "a", b"") == 1


def test_a_socket_that_a_killed_daemon_left(tmp_path: Path) -> None:
    """A stale socket is no obstacle."""
    path = tmp_path / "daemon.sock"
    with DaemonProcess(tmp_path / "data", f"unix:{path}") as first:
        first.kill()
    assert path.exists()
    with DaemonProcess(tmp_path / "data", f"unix:{path}") as second, connect(second.address) as client:
        assert client.status().pid == second.pid


def test_a_socket_that_another_is_about_to_take(tmp_path: Path) -> None:
    """Two that find no socket in the same moment do not both make it: one waits until the other has."""
    path = str(tmp_path / "s")
    refused: list[AddressInUse] = []
    looking = threading.Event()

    def take_too() -> None:
        looking.set()
        try:
            with room_for_socket(path):
                pass
        except AddressInUse as error:
            refused.append(error)

    second = threading.Thread(target=take_too)
    with socket.socket(socket.AF_UNIX) as first:
        with room_for_socket(path):
            second.start()
            assert looking.wait(30)
            second.join(0.05)
            first.bind(path)
            first.listen()
        second.join()
    assert len(refused) == 1


def test_a_file_where_the_socket_should_be(tmp_path: Path) -> None:
    """Something that is no socket is left alone, and a directory that is not there is named."""
    (tmp_path / "file").write_text("precious")
    for path, words in ((tmp_path / "file", "no socket"), (tmp_path / "none" / "s", "there is no directory")):
        with pytest.raises(DidNotStart) as caught:
            DaemonProcess(tmp_path / "data", f"unix:{path}")
        assert words in caught.value.stderr
    assert (tmp_path / "file").read_text() == "precious"


# --- what others find ---


def test_the_daemon_of_a_directory_is_found(tmp_path: Path) -> None:
    """It is found while it runs, and neither after it stopped nor after it was killed."""
    data = str(tmp_path / "data")
    assert read_daemon_info(data) is None
    with DaemonProcess(tmp_path / "data") as process:
        assert read_daemon_info(data) == process.info
        owner = read_owner(data)
        assert owner is not None
        assert owner.pid == process.pid
        process.kill()
    assert (tmp_path / "data" / "daemon.json").exists()
    assert read_daemon_info(data) is None
    with DaemonProcess(tmp_path / "data") as process:
        assert read_daemon_info(data) == process.info
        assert process.stop() == 0
    assert not (tmp_path / "data" / "daemon.json").exists()
    assert read_daemon_info(data) is None


def test_a_leftover_file_does_not_name_a_program_that_embeds_the_store(tmp_path: Path) -> None:
    """What a killed daemon wrote does not hold for who owns the directory now."""
    data = tmp_path / "data"
    with Store.open(data):
        write_daemon_info(str(data), DaemonInfo(1, ["127.0.0.1:1"], 0, "0"))
        assert read_daemon_info(str(data)) is None
        (data / "daemon.json").write_bytes(b"{}")
        assert read_daemon_info(str(data)) is None


def test_the_process_log_tells_of_start_and_end(tmp_path: Path) -> None:
    """Start, signal and end are in the log; values are not."""
    with DaemonProcess(tmp_path / "data") as process:
        with connect(process.address) as client:
            client.save("secret", "a", b"hunter2")
        assert process.stop() == 0
    log = (tmp_path / "data" / "daemon.log").read_text()
    for words in (process.address, f"pid {process.pid}", "got SIGTERM", "the log is sealed"):
        assert words in log
    assert "hunter2" not in log


# --- how it stops ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_loses_nothing_that_was_answered(tmp_path: Path, number: signal.Signals) -> None:
    """Calls under way are answered, the log is sealed, the status is 0, and each answer holds."""
    answered: list[int] = []
    enough = threading.Event()

    def save(worker: int) -> None:
        with connect(process.address, timeout=60) as client:
            client._timeout = 3  # how long each tries when the daemon is gone
            try:
                for number in range(1_000_000):
                    answered.append(client.save("load", f"{worker}-{number}", b"v" * 100))
                    if len(answered) > 200:
                        enough.set()
            except OutcomeUnknown:
                pass  # the daemon is gone

    with DaemonProcess(tmp_path / "data") as process:
        workers = [threading.Thread(target=save, args=(worker,)) for worker in range(8)]
        for worker in workers:
            worker.start()
        assert enough.wait(60)
        process.signal(number)
        assert process.wait() == 0
        for worker in workers:
            worker.join()
    with Store.open(tmp_path / "data") as store:
        assert store.status().recovery == []
        assert len(set(answered)) == len(answered)
        assert set(answered) <= {event.revision for event in store.tail(follow=False)}
        assert any(segment.last_revision >= max(answered) for segment in store.segments())


def test_followers_do_not_hold_up_a_stop(tmp_path: Path) -> None:
    """A tail that waits for what comes is told that the daemon stops, and how it may go on."""
    with DaemonProcess(tmp_path / "data") as process, grpc.insecure_channel(process.address) as channel:
        tail = channel.unary_stream(wire.methods(wire.STORE_SERVICE)["tail"].path)
        following = tail(store_pb2.TailRequest(follow=True).SerializeToString())
        next(following)
        process.signal(signal.SIGTERM)
        assert process.wait(config.DRAIN_SECONDS - 1) == 0
        with pytest.raises(grpc.RpcError) as caught:
            next(following)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_second_signal_does_not_wait_for_calls(tmp_path: Path) -> None:
    """A caller that does not end its call holds a stop up for a while; a second signal does not wait."""
    with DaemonProcess(tmp_path / "data") as process:
        with connect(process.address) as client:
            client.save("k", "a", b"v" * 15_000_000)
        with grpc.insecure_channel(process.address) as channel:
            listing = channel.unary_stream(wire.methods(wire.STORE_SERVICE)["list"].path)(LIST_K)
            listing.initial_metadata()  # begun, and not read
            process.signal(signal.SIGTERM)
            process.signal(signal.SIGINT)
            assert process.wait(config.DRAIN_SECONDS - 1) == 0
            listing.cancel()
    with Store.open(tmp_path / "data") as store:
        assert store.status().recovery == []


# --- in the background ---

BACKGROUND = (sys.executable, "-c", PROGRAM)


def options_of(data_dir: Path, *listen: str) -> list[str]:
    return [json.dumps({"data_dir": str(data_dir), "listen": listen or (ANY_PORT,)})]


def test_start_in_the_background_and_stop(tmp_path: Path) -> None:
    """It listens when the call returns, is in a session of its own, and is gone when the stop returns."""
    data = tmp_path / "data"
    info = start_detached(options_of(data), str(data), program=BACKGROUND)
    try:
        assert read_daemon_info(str(data)) == info
        assert os.getsid(info.pid) == info.pid != os.getsid(0)
        with connect(info.listen[0]) as client:
            assert client.save("k", "a", b"") == 1
    finally:
        assert stop_daemon(str(data)) == info.pid
    assert read_owner(str(data)) is None
    assert stop_daemon(str(data)) is None
    with Store.open(data) as store:
        assert store.status().recovery == []


def test_stop_without_a_descriptor_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no pidfd, the end is known by the lock."""
    data = tmp_path / "data"
    info = start_detached(options_of(data), str(data), program=BACKGROUND)
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    assert stop_daemon(str(data)) == info.pid
    assert read_owner(str(data)) is None


def test_a_start_in_the_background_that_fails_says_why(tmp_path: Path) -> None:
    """The child's own error is raised here, with its class."""
    data = tmp_path / "data"
    with DaemonProcess(tmp_path / "other") as other:
        with pytest.raises(AddressInUse):
            start_detached(options_of(data, other.address), str(data), program=BACKGROUND)
        with pytest.raises(DataDirectoryError) as locked:
            start_detached(options_of(tmp_path / "other"), str(tmp_path / "other"), program=BACKGROUND)
        assert f"in use by pid {other.pid}" in locked.value.message
    with pytest.raises(InvalidArgument) as caught:
        start_detached(options_of(data, "0.0.0.0:1"), str(data), program=BACKGROUND)
    assert caught.value.field == "listen"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirectoryError):
        start_detached(options_of(tmp_path / "file"), str(tmp_path / "file"), program=BACKGROUND)


def test_a_start_in_the_background_that_dies(tmp_path: Path) -> None:
    """A child that ends without a word is told of with its status and what it printed."""
    with pytest.raises(StigmerError, match=r"status 3: some last words"):
        start_detached(
            [], str(tmp_path / "data"), program=(sys.executable, "-c", "print('some last words'); raise SystemExit(3)")
        )


def test_a_start_in_the_background_that_takes_too_long(tmp_path: Path) -> None:
    """The wait is bounded, and says that the child goes on."""
    waiting = "import os, signal, sys; sys.stdout.flush(); signal.pause()"
    with pytest.raises(DeadlineExceeded, match=r"pid (\d+)") as caught:
        start_detached([], str(tmp_path / "data"), timeout=0.2, program=(sys.executable, "-c", waiting))
    pid = int(caught.value.message.partition("pid ")[2].partition(",")[0])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_start_in_the_background_outlives_who_waits_for_it(tmp_path: Path) -> None:
    """Nobody waits any more when it listens at last, and it serves all the same."""
    data, gate = tmp_path / "data", tmp_path / "gate"
    os.mkfifo(gate)
    slow = (sys.executable, "-c", f"open({str(gate)!r}).read()\n{PROGRAM}")
    with pytest.raises(DeadlineExceeded, match="it is still opening"):
        start_detached(options_of(data, f"unix:{tmp_path}/s"), str(data), timeout=0.2, program=slow)
    gate.write_text("")
    try:
        with connect(f"unix:{tmp_path}/s", timeout=30, wait_for_ready=True) as client:
            assert client.save("k", "a", b"") == 1
    finally:
        assert stop_daemon(str(data)) is not None
    assert "Broken pipe" not in (data / "daemon.log").read_text(encoding="utf-8")


def test_a_program_that_embeds_the_store_is_not_stopped(tmp_path: Path) -> None:
    """Only a daemon is told to stop; the owner is named."""
    with Store.open(tmp_path / "data", command="my program"), pytest.raises(StigmerError, match="my program"):
        stop_daemon(str(tmp_path / "data"))


def test_options_of_a_daemon_have_the_documented_defaults() -> None:
    """A daemon without options listens where the clients look for it."""
    assert DaemonOptions("x").listen == ("127.0.0.1:50051",)
    assert lifecycle.DaemonOptions is DaemonOptions
