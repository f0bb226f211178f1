"""Clients while the daemon is restarted, killed, stopped for a while, replaced, or not there."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemon.support import DaemonProcess

import stigmer.aio
from stigmer import config, wire
from stigmer.client import connect
from stigmer.client.sync import Client
from stigmer.errors import (
    AlreadyExists,
    Closed,
    DeadlineExceeded,
    InvalidArgument,
    OutcomeUnknown,
    StigmerError,
    Unavailable,
)
from stigmer.model import Event
from stigmer.store import Store


@pytest.fixture
def address(tmp_path: Path) -> str:
    """An address that stays the same over restarts."""
    return f"unix:{tmp_path}/s"


@pytest.fixture
def free_port() -> Iterator[str]:
    """A port on which nobody listens, and which nobody else is given meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def impatient(address: str, timeout: float) -> Client:
    """Connect with a short timeout, though this machine may be busy with something else for longer."""
    while True:
        with contextlib.suppress(OutcomeUnknown):
            return connect(address, timeout)


# --- nobody there ---


def test_no_daemon_is_told_at_once(free_port: str) -> None:
    """A connection that is refused does not wait for the timeout, and says what to do."""
    begun = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        connect(free_port, timeout=60)
    assert time.monotonic() - begun < 20
    assert caught.value.message == f"no daemon at {free_port}"
    assert caught.value.hint == "start one with `stigmer daemon --detach`, or set STIGMER_ADDR"


def test_no_daemon_is_told_at_once_by_the_asyncio_client(free_port: str, address: str) -> None:
    """However the client is used first: awaited, entered, or called."""

    async def run() -> None:
        for where in (free_port, address):
            with pytest.raises(Unavailable, match=f"^no daemon at {where}$"):
                await stigmer.aio.connect(where, timeout=60)
            with pytest.raises(Unavailable, match=f"^no daemon at {where}$"):
                async with stigmer.aio.connect(where, timeout=60):
                    pass
            client = stigmer.aio.connect(where, timeout=60)
            for call in (client.status(), client.save("k", "i", b""), anext(client.tail()), client.list("k")):
                with pytest.raises(Unavailable, match=f"^no daemon at {where}$"):
                    await call
            await client.close()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_waiting_for_a_daemon_that_does_not_come(free_port: str) -> None:
    """A client that was told to wait says for how long it did."""
    with pytest.raises(Unavailable) as caught:
        connect(free_port, timeout=0.3, wait_for_ready=True)
    assert caught.value.message == f"no daemon at {free_port} (tried for 0.3 s)"


def test_a_connection_that_failed_while_nobody_waited_is_tried_again(tmp_path: Path, address: str) -> None:
    """What was so when the last caller went away is no answer for the next one."""

    async def follow() -> None:
        async with asyncio.timeout(60):
            client = stigmer.aio.connect(address, timeout=0.5, wait_for_ready=True)
            waiting = asyncio.ensure_future(client.count())
            await asyncio.sleep(0)
            attaching = client._attaching
            assert attaching is not None
            waiting.cancel()
            await asyncio.wait([waiting, attaching])
            assert isinstance(attaching.exception(), Unavailable)
            with DaemonProcess(tmp_path / "data", address):
                assert await client.count() == {}
                await client.close()

    asyncio.run(follow())


def test_waiting_for_a_daemon_that_comes(tmp_path: Path, address: str) -> None:
    """A client that was told to wait is there when the daemon is."""
    found: list[int] = []

    def wait() -> None:
        with connect(address, timeout=60, wait_for_ready=True) as client:
            found.append(client.status().pid)

    waiting = threading.Thread(target=wait)
    waiting.start()
    with DaemonProcess(tmp_path / "data", address) as process:
        # One that comes now does not inherit the other's wait before it tries again.
        with connect(address) as client:
            assert client.status().pid == process.pid
        waiting.join()
        assert found == [process.pid]


@pytest.mark.parametrize(("addr", "field"), [("nonsense", "addr"), ("", "addr"), ("h:99999", "addr")])
def test_an_address_that_is_none(addr: str, field: str) -> None:
    """An address is refused before anything is tried."""
    for make in (connect, stigmer.aio.connect):
        with pytest.raises(InvalidArgument) as caught:
            make(addr)
        assert caught.value.field == field


def test_the_address_from_the_environment(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """A client that is told no address takes that of the environment."""
    monkeypatch.setenv("STIGMER_ADDR", address)
    with pytest.raises(Unavailable, match=f"^no daemon at {address}$"):
        stigmer.connect()

    async def run() -> None:
        with pytest.raises(Unavailable, match=f"^no daemon at {address}$"):
            await stigmer.aio.connect()

    asyncio.run(run())


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_is_none(timeout: float, address: str) -> None:
    """A timeout is a number of seconds above 0."""
    for make in (connect, stigmer.aio.connect):
        with pytest.raises(InvalidArgument, match=r"^timeout: "):
            make(address, timeout)


def test_something_else_answers(tmp_path: Path) -> None:
    """A gRPC server that is no daemon of ours is told of as such."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with pytest.raises(StigmerError, match="no stigmer daemon"):
        connect(f"127.0.0.1:{port}")
    other.stop(None).wait()


# --- there and gone ---


def test_a_call_rides_through_a_restart(tmp_path: Path, address: str) -> None:
    """A client that was connected waits for the daemon to come back, with every kind of call."""
    with DaemonProcess(tmp_path / "data", address) as first, connect(address, timeout=60) as client:
        client.save("k", "a", b"1")
        first.kill()
        answers: list[object] = []
        calls = [
            lambda: client.save("k", "b", b"2"),
            lambda: client.get("k", "a").value,
            lambda: len(client.list("k", "a")),
            lambda: [event.id for event in client.tail(0, prefix="a", follow=False)],
        ]
        threads = [threading.Thread(target=lambda call=call: answers.append(call())) for call in calls]
        for thread in threads:
            thread.start()
        with DaemonProcess(tmp_path / "data", address):
            for thread in threads:
                thread.join()
            assert sorted(map(str, answers)) == sorted(["2", "b'1'", "1", "['a']"])


def test_a_daemon_that_does_not_come_back(tmp_path: Path, address: str) -> None:
    """After the timeout the error says what is unknown, and how to make sure."""
    with DaemonProcess(tmp_path / "data", address) as process, impatient(address, 0.5) as client:
        process.kill()
        error = told(lambda: client.save("k", "b", b"2"))
        assert "(tried for 0.5 s)" in error.message
        assert error.request_id
        assert error.hint
        assert told(lambda: client.get("k", "a")).request_id is None
        told(lambda: list(client.tail(follow=False)))


def told(call: Callable[[], object]) -> Unavailable:
    """Make a call that is told that nobody is there; where this machine was busy for too long, it finds nobody out."""
    while True:
        try:
            with pytest.raises(Unavailable) as caught:
                call()
            return caught.value
        except DeadlineExceeded:
            continue


def test_a_save_that_was_not_answered_in_time(tmp_path: Path, address: str) -> None:
    """The same request id finds out what became of it, and applies it once."""
    with DaemonProcess(tmp_path / "data", address) as process, impatient(address, 0.3) as client:
        with connect(address, timeout=60) as patient:
            patient.save("k", "a", b"1")
        process.signal(signal.SIGSTOP)
        with pytest.raises(DeadlineExceeded) as caught:
            client.save("k", "b", b"2")
        process.signal(signal.SIGCONT)
        request_id = caught.value.request_id
        assert request_id is not None
        assert request_id in str(caught.value.hint)
        with connect(address, timeout=60) as patient:
            assert patient.save("k", "b", b"2", request_id=request_id) == 2
            assert [event.id for event in patient.tail(follow=False)] == ["a", "b"]


def test_a_closed_client(tmp_path: Path, address: str) -> None:
    """Calls on a closed client, and tails that wait while it is closed, say that it is closed."""
    with DaemonProcess(tmp_path / "data", address):
        client = connect(address)
        client.save("k", "a", b"")
        tail = client.tail()
        next(tail)
        ended: list[BaseException] = []

        def follow() -> None:
            try:
                next(tail)
            except StigmerError as error:
                ended.append(error)

        following = threading.Thread(target=follow)
        following.start()
        client.close()
        following.join()
        assert [type(error) for error in ended] == [Closed]
        for call in (
            client.status,
            lambda: client.get("k", "a"),
            lambda: client.list("k"),
            lambda: next(client.tail()),
        ):
            with pytest.raises(Closed, match="the client is closed"):
                call()
        client.close()

        async def run() -> None:
            other = stigmer.aio.connect(address)
            tail = other.tail()
            await anext(tail)
            following = asyncio.ensure_future(anext(tail))
            await asyncio.sleep(0)
            await other.close()
            with pytest.raises(Closed):
                await following
            with pytest.raises(Closed):
                await other.get("k", "a")
            await other.close()

        asyncio.run(run())


# --- tails ---

KILLS = 6


def save_until(address: str, stop: threading.Event, progress: threading.Semaphore, revisions: list[int]) -> None:
    """Save, over every restart, until told to stop; the last save has the id "end"."""
    with connect(address, timeout=60) as client:
        for number in range(1_000_000):
            if stop.is_set():
                break
            revisions.append(client.save("k", f"{number}", b"v" * 50))
            progress.release()
        revisions.append(client.save("k", "end", b""))


async def follow_to_end(address: str, seen: list[Event]) -> None:
    async with stigmer.aio.connect(address, timeout=60) as client, contextlib.aclosing(client.tail()) as tail:
        async for event in tail:
            seen.append(event)
            if event.id == "end":
                return


def test_a_tail_over_kills_and_restarts(tmp_path: Path, address: str) -> None:
    """Followers see every revision once and in order while the daemon is killed and stopped again and again."""
    seen: dict[str, list[Event]] = {"sync": [], "aio": [], "filtered": []}
    acked: list[int] = []
    stop, progress = threading.Event(), threading.Semaphore(0)

    def follow(name: str, prefix: str | None) -> None:
        with connect(address, timeout=60) as client:
            for event in client.tail(prefix=prefix):
                seen[name].append(event)
                if event.id == "end" or (prefix and stop.is_set()):
                    return

    chance = random.Random(1)
    process = DaemonProcess(tmp_path / "data", address)
    threads = [
        threading.Thread(target=follow, args=("sync", None)),
        threading.Thread(target=lambda: asyncio.run(follow_to_end(address, seen["aio"]))),
        threading.Thread(target=follow, args=("filtered", "e")),
        threading.Thread(target=save_until, args=(address, stop, progress, acked)),
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(process)
        for thread in threads:
            thread.start()
        for kill in range(KILLS):
            for _ in range(chance.randrange(20, 200)):
                assert progress.acquire(timeout=60)
            if kill % 3 == 2:
                assert process.stop() == 0
            else:
                process.kill()
            process = stack.enter_context(DaemonProcess(tmp_path / "data", address))
        stop.set()
        for thread in threads:
            thread.join()
        assert process.stop() == 0
    with Store.open(tmp_path / "data") as store:
        truth = list(store.tail(follow=False))
    assert [event.revision for event in truth] == list(range(1, len(truth) + 1))
    assert seen["sync"] == truth
    assert seen["aio"] == truth
    assert seen["filtered"] == [event for event in truth if event.id == "end"]
    # Each save was applied once, with the revision that its caller was told.
    assert [event.revision for event in truth] == acked


def test_a_tail_that_finds_another_store(tmp_path: Path, address: str) -> None:
    """A follower does not go on in a store whose revisions mean something else."""
    with DaemonProcess(tmp_path / "one", address) as first, connect(address, timeout=60) as client:
        client.save("k", "a", b"")
        tail = client.tail()
        next(tail)
        first.kill()
        with DaemonProcess(tmp_path / "two", address) as second:
            with connect(address) as other:
                for number in range(5):
                    other.save("k", f"{number}", b"")
            with pytest.raises(StigmerError, match="another store"):
                next(tail)
            assert second.stop() == 0


def test_a_tail_of_the_asyncio_client_that_finds_another_store(tmp_path: Path, address: str) -> None:
    """So does one of the asyncio client."""

    async def run(first: DaemonProcess) -> None:
        async with stigmer.aio.connect(address, timeout=60) as client:
            await client.save("k", "a", b"")
            tail = client.tail()
            await anext(tail)
            first.kill()
            with DaemonProcess(tmp_path / "two", address):
                with connect(address) as other:
                    for number in range(5):
                        other.save("k", f"{number}", b"")
                with pytest.raises(StigmerError, match="another store"):
                    await anext(tail)

    with DaemonProcess(tmp_path / "one", address) as first:
        asyncio.run(run(first))


def test_an_interrupt_ends_a_waiting_tail(tmp_path: Path, address: str) -> None:
    """Ctrl-C reaches a tail that waits for what comes, and leaves the client usable."""
    with DaemonProcess(tmp_path / "data", address) as process, connect(address) as client:
        client.save("k", "a", b"")
        tail = client.tail()
        next(tail)
        timer = threading.Timer(0.2, signal.raise_signal, args=(signal.SIGINT,))

        def wait() -> None:
            timer.start()
            next(tail)

        with pytest.raises(KeyboardInterrupt):
            wait()
        timer.join()
        with pytest.raises(AlreadyExists):
            client.save("k", "a", b"", expected_revision=0)
        assert process.stop() == 0


# --- another machine ---


class _Network:
    """Passes bytes on between clients and a daemon, until it loses all of the connections that it has then."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = host, int(port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._losses = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def lose(self) -> None:
        """Pass nothing more on of what is open, and tell nobody."""
        self._losses += 1

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            pair = client, socket.create_connection(self._upstream)
            self._open += pair
            for come, go in (pair, pair[::-1]):
                self._threads.append(threading.Thread(target=self._pass_on, args=(come, go, self._losses)))
                self._threads[-1].start()

    def _pass_on(self, come: socket.socket, go: socket.socket, losses: int) -> None:
        with contextlib.suppress(OSError):
            while piece := come.recv(65536):
                if losses == self._losses:
                    go.sendall(piece)
            if losses == self._losses:
                go.shutdown(socket.SHUT_WR)

    def __enter__(self) -> _Network:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_network_that_is_gone_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A tail of a daemon on another machine goes on by a new connection; it does not wait for one that is dead."""
    monkeypatch.setattr(wire.Address, "is_local", property(lambda _: False))
    monkeypatch.setattr(config, "PEER_SILENCE_SECONDS", 1)
    monkeypatch.setattr(config, "PEER_ANSWER_SECONDS", 1)
    with (
        DaemonProcess(tmp_path / "data", limits=config.Limits(ping_interval_seconds=0.1)) as process,
        connect(process.address) as beside,
        _Network(process.address) as network,
    ):
        beside.save("k", "before", b"v")

        def see(event: Event) -> bool:
            if event.id == "before":
                network.lose()
                beside.save("k", "after", b"v")
            return event.id == "after"

        async def follow() -> bool:
            async with asyncio.timeout(50), stigmer.aio.connect(network.address) as client:
                async for event in client.tail():
                    if see(event):
                        return True
            return False

        if kind == "asyncio":
            assert asyncio.run(follow())
        else:
            with connect(network.address) as client:
                ending = threading.Timer(50, client.close)
                ending.start()
                assert any(see(event) for event in client.tail())
                ending.cancel()
