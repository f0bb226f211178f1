"""What the daemon takes of its callers: each limit is reached, and whoever is below it is served all the while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from http2 import GOAWAY, MAX_CONCURRENT_STREAMS, PING, PREFACE, SETTINGS, connected, frame, frames_until_end

import stigmer.aio
from daemon.support import ANY_PORT, DaemonProcess, seconds_of_cpu, until
from stigmer import config, wire
from stigmer.client import connect
from stigmer.config import Limits, StoreOptions
from stigmer.errors import InvalidArgument, ResourceExhausted, StigmerError
from stigmer.pb import log_pb2, store_pb2

STORE = wire.methods(wire.STORE_SERVICE)
ADMIN = wire.methods(wire.ADMIN_SERVICE)
FOLLOW = store_pb2.TailRequest(follow=True).SerializeToString()


def assert_serves(process: DaemonProcess) -> None:
    """The daemon answers at once on a new connection."""
    with connect(process.address, timeout=20) as client:
        client.status()


# --- messages ---


def test_the_largest_request(tmp_path: Path) -> None:
    """A message beyond `--request-max` is refused with both figures, whatever the method."""
    limit = 256 * config.KIB
    with DaemonProcess(tmp_path / "data", limits=Limits(request_bytes_max=limit)) as process:
        with connect(process.address) as client:
            client.save("k", "a", os.urandom(limit - 1_000))
            with pytest.raises(ResourceExhausted, match=str(limit)):
                client.save("k", "a", os.urandom(limit + 1_000))
        assert_serves(process)


def test_the_largest_metadata(tmp_path: Path) -> None:
    """Metadata beyond `--metadata-max` is refused, and what is below is not."""
    with (
        DaemonProcess(tmp_path / "data", limits=Limits(metadata_bytes_max=2 * config.KIB)) as process,
        grpc.insecure_channel(process.address) as channel,
    ):
        status = channel.unary_unary(ADMIN["status"].path)
        status(b"", metadata=[("x", "y" * 1_000)], timeout=20)
        with pytest.raises(grpc.RpcError) as caught:
            status(b"", metadata=[("x", "y" * 3_000)], timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2048" in caught.value.details()
        status(b"", timeout=20)


def test_commits_that_wait_for_the_disk(tmp_path: Path) -> None:
    """Beyond `--queue-max` a commit is refused with the limit's name, and those that were taken are made."""
    limit = 64 * config.KIB

    async def run(address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            commit = channel.unary_unary(STORE["commit"].path)

            async def save(number: int) -> bool:
                event = log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="k", id=f"{number}", value=os.urandom(20_000))
                call = commit(log_pb2.Commit(events=[event]).SerializeToString(), timeout=60)
                if await call.code() is grpc.StatusCode.OK:
                    return True
                detail = wire.error_of(dict(await call.trailing_metadata())[wire.ERROR_DETAIL_KEY])
                assert isinstance(detail, ResourceExhausted)
                assert (detail.limit, detail.limit_value) == ("QUEUE_BYTES_MAX", limit)
                return False

            made: list[bool] = []
            while all(made):  # until the disk was slower than they
                made += await asyncio.gather(*(save(len(made) + number) for number in range(200)))
            found = store_pb2.CountResponse.FromString(await channel.unary_unary(STORE["count"].path)(b""))
            assert found.counts["k"] == made.count(True) > 0

    with DaemonProcess(tmp_path / "data", store=StoreOptions(queue_bytes_max=limit)) as process:
        asyncio.run(run(process.address))


# --- calls ---


def test_calls_at_a_time(tmp_path: Path) -> None:
    """Beyond `--calls-max` a call over TCP is refused; one over the socket is not, and one that ends makes room."""
    limits = Limits(calls_max=8, tails_max=5, subscribers_max=2)
    with (
        DaemonProcess(tmp_path / "data", limits=limits, own_socket=True) as process,
        grpc.insecure_channel(process.address) as channel,
    ):
        # Streams of commits that are open and idle: calls that nothing else counts.
        ended = threading.Event()
        calls = [channel.stream_stream(STORE["write"].path)(waiting(ended)) for _ in range(limits.calls_max)]

        def refusal() -> StigmerError | None:
            with grpc.insecure_channel(process.address) as other:
                try:
                    other.unary_unary(ADMIN["status"].path)(b"", timeout=20)
                except grpc.RpcError as error:
                    return wire.error_of(dict(error.trailing_metadata())[wire.ERROR_DETAIL_KEY])
            return None

        try:
            until(lambda: refusal() is not None)
            found = refusal()
            assert isinstance(found, ResourceExhausted)
            assert (found.limit, found.limit_value) == ("CALLS_MAX", 8)
            assert "--calls-max" in (found.hint or "")
            with connect(process.info.listen[1]) as owner:
                assert owner.status().refused["RESOURCE_EXHAUSTED"] >= 2
        finally:
            ended.set()
        for call in calls:
            with contextlib.suppress(grpc.RpcError):
                list(call)
        until(lambda: refusal() is None)


def test_tails_at_a_time(tmp_path: Path) -> None:
    """Beyond `--tails-max` a tail is refused with the option to change."""

    async def run(address: str) -> None:
        async with stigmer.aio.connect(address) as client:
            revision = await client.save("k", "a", b"")
            tails = [client.tail(revision - 1) for _ in range(3)]
            await asyncio.gather(*map(anext, tails))
            with pytest.raises(ResourceExhausted) as caught:
                await anext(client.tail())
            assert (caught.value.limit, caught.value.limit_value) == ("TAILS_MAX", 3)
            assert "--tails-max" in (caught.value.hint or "")
            for tail in tails:
                await tail.aclose()

    with DaemonProcess(tmp_path / "data", limits=Limits(tails_max=3)) as process:
        asyncio.run(run(process.address))


def test_subscribers_at_a_time(tmp_path: Path) -> None:
    """Beyond `--subscribers-max` a subscriber is refused with the option to change."""
    path = "/ai.stigmer.agentic.agentexecution.v1.AgentExecutionQueryController/subscribe"
    with (
        DaemonProcess(tmp_path / "data", limits=Limits(subscribers_max=0)) as process,
        grpc.insecure_channel(process.address) as channel,
    ):
        with pytest.raises(grpc.RpcError) as caught:
            next(channel.unary_stream(path)(b"\x0a\x05aex-1", timeout=20))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, caught.value.details()
        detail = wire.error_of(dict(caught.value.trailing_metadata())[wire.ERROR_DETAIL_KEY])
        assert "--subscribers-max" in (detail.hint or "")


def test_calls_on_one_connection(tmp_path: Path) -> None:
    """Beyond `--connection-calls-max` a client waits with the next call; another connection does not."""
    with (
        DaemonProcess(tmp_path / "data", limits=Limits(connection_calls_max=3)) as process,
        grpc.insecure_channel(process.address) as channel,
    ):
        tails = [channel.unary_stream(STORE["tail"].path)(FOLLOW) for _ in range(3)]
        for tail in tails:
            next(tail)
        status = channel.unary_unary(ADMIN["status"].path)
        with pytest.raises(grpc.RpcError) as caught:
            status(b"", timeout=0.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert_serves(process)
        tails[0].cancel()
        status(b"", timeout=20)
        with connected(process.address) as opened:
            opened.sendall(PREFACE + frame(SETTINGS))
            kind, payload = next(frames_until_end(opened))
            told = dict(struct.iter_unpack(">HI", payload))
            assert (kind, told[MAX_CONCURRENT_STREAMS]) == (SETTINGS, 3)


def test_limits_that_contradict_each_other() -> None:
    """Followers alone may not take every call; and each limit has bounds."""
    with pytest.raises(InvalidArgument, match="calls_max: 3000 calls leave none to who writes"):
        Limits(calls_max=3_000).checked()
    for name in Limits.__struct_fields__:
        with pytest.raises(InvalidArgument, match=f"^{name}: .*out of bounds"):
            Limits(**{name: -1}).checked()
    assert Limits().checked() == Limits()


# --- connections ---


def test_connections_at_a_time(tmp_path: Path) -> None:
    """Beyond `--connections-max` a connection is closed at once; those before it, and the socket, are not touched."""
    with DaemonProcess(tmp_path / "data", limits=Limits(connections_max=5), own_socket=True) as process:
        with connect(process.address) as client, contextlib.ExitStack() as stack:
            # One of the five is the client's.
            kept = [stack.enter_context(connected(process.address)) for _ in range(4)]
            for opened in kept:
                assert opened.recv(9)
            beyond = stack.enter_context(connected(process.address))
            assert list(frames_until_end(beyond)) == []
            client.save("k", "a", b"")
            with connect(process.info.listen[1]) as own:
                own.save("k", "b", b"")
        # Room again, once they are gone.
        until(lambda: answers(process.address))


def test_a_connection_that_does_not_begin(tmp_path: Path) -> None:
    """After `--handshake-timeout` one that says nothing is closed, and so is one that says half of it."""
    with DaemonProcess(tmp_path / "data", limits=Limits(handshake_seconds=0.3)) as process:
        for said in (b"", PREFACE[:10], b"\x16\x03\x01"):
            with connected(process.address) as opened:
                opened.sendall(said)
                for _ in frames_until_end(opened):
                    pass
        until(lambda: answers(process.address))  # at last: where the machine is busy, this test is late, too


def test_a_connection_without_a_call(tmp_path: Path) -> None:
    """After `--idle-timeout` it is sent away; one with a tail is not, and a client comes back by itself."""
    with (
        DaemonProcess(tmp_path / "data", limits=Limits(idle_seconds=0.3)) as process,
        grpc.insecure_channel(process.address) as channel,
        connect(process.address) as client,
    ):
        tail = channel.unary_stream(STORE["tail"].path)(FOLLOW)
        next(tail)
        with connected(process.address) as opened:
            opened.sendall(PREFACE + frame(SETTINGS))
            kinds = [kind for kind, _ in frames_until_end(opened)]
        assert GOAWAY in kinds
        assert client.save("k", "a", b"") == 1
        assert store_pb2.TailResponse.FromString(next(tail)).through_revision == 1
        tail.cancel()


def test_a_flood_of_pings(tmp_path: Path) -> None:
    """Who pings more often than `--ping-interval-min` is told too_many_pings and sent away; others are served."""
    with DaemonProcess(tmp_path / "data", limits=Limits(ping_interval_seconds=60)) as process:
        with connected(process.address) as opened:
            opened.sendall(PREFACE + frame(SETTINGS) + frame(PING, bytes(8)) * 10)
            last = dict(frames_until_end(opened))
            assert b"too_many_pings" in last[GOAWAY]
        assert_serves(process)
    with (
        DaemonProcess(tmp_path / "data", limits=Limits(ping_interval_seconds=0.1)) as process,
        connected(process.address) as opened,
    ):
        opened.sendall(PREFACE + frame(SETTINGS))
        frames = frames_until_end(opened)
        for _ in range(5):
            opened.sendall(frame(PING, bytes(8)))
            assert next(kind for kind, _ in frames if kind in (PING, GOAWAY)) == PING
            time.sleep(0.15)  # from the moment on in which the daemon has had it, however late that was


IDLE = 5_000


def test_thousands_of_idle_connections(tmp_path: Path) -> None:
    """They take nothing from others: calls are answered as quickly as before, and the log goes on to new files."""
    if not sys.platform.startswith("linux"):
        pytest.skip("what another process has computed is read from /proc")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < IDLE + 1_000:
        pytest.skip(f"only {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (IDLE + 1_000, hard))
    try:
        store = StoreOptions(segment_bytes=64 * config.KIB)
        with (
            DaemonProcess(tmp_path / "data", store=store, limits=Limits(handshake_seconds=600)) as process,
            connect(process.address, timeout=30) as client,
            contextlib.ExitStack() as stack,
        ):

            def seconds_of_gets() -> float:
                """What they cost the daemon, which is not what a busy machine lets them wait."""
                before = seconds_of_cpu(process)
                for _ in range(300):
                    client.get("k", "a")
                return seconds_of_cpu(process) - before

            client.save("k", "a", b"v")
            before = seconds_of_gets()
            for _ in range(IDLE):
                stack.enter_context(connected(process.address))
            assert_serves(process)  # on a connection behind all of them, which have been accepted now
            assert seconds_of_gets() < 3 * before + 0.3
            for _ in range(20):
                client.save("k", "a", os.urandom(20_000))
            assert client.status().segments > 3
            assert_serves(process)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_connections_than_open_files(tmp_path: Path) -> None:
    """Where few files may be open, connections leave enough of them: the log still gets its new files."""
    few = ("sh", "-c", 'ulimit -n 128; exec "$@"', "sh")
    store = StoreOptions(segment_bytes=64 * config.KIB)
    with (
        DaemonProcess(tmp_path / "data", ANY_PORT, store=store, wrapper=few, own_socket=True) as process,
        contextlib.ExitStack() as stack,
        connect(process.info.listen[1], timeout=30) as client,
    ):
        own = process.info.listen[1].removeprefix("unix:")
        for _ in range(300):
            stack.enter_context(connected(process.address))
            beside = stack.enter_context(socket.socket(socket.AF_UNIX))
            beside.connect(own)
        for _ in range(20):
            client.save("k", "a", os.urandom(20_000))
        assert client.status().segments > 3
        assert client.verify().differences == 0
        assert process.stop() == 0


# --- how to wait ---


def waiting(ended: threading.Event) -> Iterator[bytes]:
    """Give no request, and end when the event is set."""
    ended.wait(60)
    yield from ()


def answers(address: str) -> bool:
    """Say whether a new connection is served."""
    with connected(address) as opened:
        return next(frames_until_end(opened), None) is not None
