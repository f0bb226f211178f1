"""The daemon as any gRPC client sees it: well-behaved ones, other languages' ones, and bad ones."""

from __future__ import annotations

import asyncio
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import stigmer.aio
from daemon.support import DaemonProcess
from stigmer import config, wire
from stigmer.client import connect
from stigmer.errors import ResourceExhausted, StigmerError
from stigmer.model import Save
from stigmer.pb import log_pb2, store_pb2

STORE = wire.methods(wire.STORE_SERVICE)
ADMIN = wire.methods(wire.ADMIN_SERVICE)
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def refused(call: object, *arguments: object) -> tuple[grpc.StatusCode, str, StigmerError | None]:
    """Make a call that fails: give its code, its message and the error in its trailing metadata."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=20)  # type: ignore[operator]
    trailing = dict(caught.value.trailing_metadata() or ())
    detail = trailing.get(wire.ERROR_DETAIL_KEY)
    return caught.value.code(), caught.value.details(), wire.error_of(detail) if detail is not None else None


@pytest.fixture(scope="module")
def channel(daemon: DaemonProcess) -> grpc.Channel:
    """A plain connection, without a client of ours."""
    with grpc.insecure_channel(daemon.address, options=UNLIMITED) as opened:
        yield opened


def test_save_and_delete_as_other_languages_call_them(channel: grpc.Channel) -> None:
    """Save and Delete do what Commit does for one event."""
    save = channel.unary_unary(STORE["save"].path)
    delete = channel.unary_unary(STORE["delete"].path)
    request = store_pb2.SaveRequest(kind="other", id="a", value=b"v", request_id="once", expected_revision=0)
    first = store_pb2.CommitResponse.FromString(save(request.SerializeToString()))
    again = store_pb2.CommitResponse.FromString(save(request.SerializeToString()))
    assert first == again
    assert first.first_revision == first.last_revision > 0
    request.request_id = "twice"
    code, _, error = refused(save, request.SerializeToString())
    assert (code, type(error).__name__) == (grpc.StatusCode.ALREADY_EXISTS, "AlreadyExists")
    wrong = store_pb2.DeleteRequest(kind="other", id="a", expected_revision=first.last_revision + 9)
    assert refused(delete, wrong.SerializeToString())[0] is grpc.StatusCode.FAILED_PRECONDITION
    deleted = delete(store_pb2.DeleteRequest(kind="other", id="a").SerializeToString())
    assert store_pb2.CommitResponse.FromString(deleted).last_revision > first.last_revision
    get = channel.unary_unary(STORE["get"].path)
    code, details, error = refused(get, store_pb2.GetRequest(kind="other", id="a").SerializeToString())
    assert (code, details) == (grpc.StatusCode.NOT_FOUND, 'other "a" not found')


def test_a_tail_tells_where_it_is(daemon: DaemonProcess, channel: grpc.Channel) -> None:
    """The first message comes at once, with the position; so does the end of one that does not follow."""
    with connect(daemon.address) as client:
        last = client.save("position", "a", b"")
    tail = channel.unary_stream(STORE["tail"].path)
    following = tail(store_pb2.TailRequest(after=last, follow=True).SerializeToString())
    first = store_pb2.TailResponse.FromString(next(following))
    assert (list(first.commits), first.through_revision) == ([], last)
    following.cancel()
    filtered = [
        store_pb2.TailResponse.FromString(message)
        for message in tail(store_pb2.TailRequest(kinds=["absent"]).SerializeToString())
    ]
    assert filtered[-1].through_revision == last
    assert not any(message.commits for message in filtered)


def test_a_tail_begins_behind_the_revision_that_was_asked_for(daemon: DaemonProcess, channel: grpc.Channel) -> None:
    """Events of the same commit that come before are left out, and the rest say their revisions."""
    commit = log_pb2.Commit(
        events=[log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="middle", id=str(n)) for n in range(3)]
    )
    done = store_pb2.CommitResponse.FromString(channel.unary_unary(STORE["commit"].path)(commit.SerializeToString()))
    request = store_pb2.TailRequest(after=done.first_revision)
    messages = list(channel.unary_stream(STORE["tail"].path)(request.SerializeToString()))
    (committed,) = store_pb2.TailResponse.FromString(messages[0]).commits
    assert [event.id for event in committed.commit.events] == ["1", "2"]
    assert list(committed.revisions) == [done.first_revision + 1, done.first_revision + 2]


def test_the_answer_to_many_gets_is_bounded(daemon: DaemonProcess, channel: grpc.Channel) -> None:
    """It ends behind the row with which it is full, and has one result at least."""
    with connect(daemon.address) as client:
        client.save_many([Save("large", f"{number}", bytes(400_000)) for number in range(10)])
        client.save("large", "huge", bytes(8 * config.MIB))
    keys = [store_pb2.GetRequest(kind="large", id=id) for id in ["absent", *map(str, range(10)), "huge"]]
    get_many = channel.unary_unary(STORE["getmany"].path)

    def found(first: int) -> list[str]:
        answer = get_many(store_pb2.GetManyRequest(keys=keys[first:]).SerializeToString(), timeout=20)
        results = store_pb2.GetManyResponse.FromString(answer).results
        return [result.resource.id or result.error.name for result in results]

    assert found(0) == ["NotFound", "0", "1", "2"]
    assert found(11) == ["huge"]
    assert found(12) == []


@pytest.mark.parametrize("name", sorted(set(STORE) | set(ADMIN)))
def test_bytes_that_are_no_message(channel: grpc.Channel, name: str) -> None:
    """A request that does not parse is the caller's fault, and the daemon lives."""
    method = STORE.get(name) or ADMIN[name]

    def call(request: bytes, timeout: float) -> object:
        if method.takes_stream:
            return list(channel.stream_stream(method.path)(iter([request]), timeout=timeout))
        if method.streams:
            return list(channel.unary_stream(method.path)(request, timeout=timeout))
        return channel.unary_unary(method.path)(request, timeout=timeout)

    # Cut off, half a group, groups inside each other deeper than protobuf goes, and text that is not UTF-8.
    deep = b"\x0b" * 101 + b"\x0c" * 101
    for junk in (
        b"\xff",
        b"\x0a\x05ab",
        b"\x0b" * 200,
        deep,
        b"\x1a\x02\xff\xff" if name in ("get", "list") else b"\x07",
    ):
        code, details, error = refused(call, junk)
        assert code is grpc.StatusCode.INVALID_ARGUMENT, details
        assert type(error).__name__ == "InvalidArgument"


def test_unknown_methods(channel: grpc.Channel) -> None:
    """A method or service that is not there is UNIMPLEMENTED."""
    for path in ("/stigmer.store.v1.Store/Nothing", "/no.such.Service/Save"):
        assert refused(channel.unary_unary(path), b"")[0] is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_over_the_limit(channel: grpc.Channel) -> None:
    """A message that is too large is refused with the limit in the text, before it is looked at."""
    code, details, _ = refused(channel.unary_unary(STORE["commit"].path), bytes(config.COMMIT_BYTES_MAX + 1))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(config.COMMIT_BYTES_MAX) in details
    # A Save that just fits becomes a commit that does not.
    request = store_pb2.SaveRequest(kind="k", id="i", value=bytes(config.COMMIT_BYTES_MAX - 12)).SerializeToString()
    code, details, error = refused(channel.unary_unary(STORE["save"].path), request)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(error, ResourceExhausted)
    assert error.limit_value in (config.COMMIT_BYTES_MAX, config.VALUE_BYTES_DEFAULT)


def test_health(channel: grpc.Channel) -> None:
    """The standard health service says that each service serves."""
    check = health_pb2_grpc.HealthStub(channel).Check
    for service in ("", wire.STORE_SERVICE, wire.ADMIN_SERVICE):
        assert check(health_pb2.HealthCheckRequest(service=service)).status == health_pb2.HealthCheckResponse.SERVING


def test_reflection(channel: grpc.Channel) -> None:
    """The standard reflection service names the services and has their files."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=wire.STORE_SERVICE),
    ]
    listed, file = stub.ServerReflectionInfo(iter(asked))
    assert {wire.STORE_SERVICE, wire.ADMIN_SERVICE, "grpc.health.v1.Health"} <= {
        service.name for service in listed.list_services_response.service
    }
    assert any(b"SaveRequest" in one for one in file.file_descriptor_response.file_descriptor_proto)


@pytest.mark.parametrize(
    "garbage",
    [
        os.urandom(4096),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(4096),
        b"",
    ],
    ids=["random", "http1", "broken http2", "nothing"],
)
def test_garbage_on_the_port(daemon: DaemonProcess, garbage: bytes) -> None:
    """Bytes that are no gRPC hurt nobody else, also while their connection stays open."""
    host, _, port = daemon.address.rpartition(":")
    bad = [socket.create_connection((host, int(port))) for _ in range(20)]
    for one in bad:
        one.sendall(garbage)
    with connect(daemon.address) as client:
        revision = client.save("garbage", "a", b"v")
        assert client.get("garbage", "a").revision == revision
    for one in bad:
        one.close()


def test_many_tails_and_gets_go_on(tmp_path: Path) -> None:
    """Followers take nothing from other callers, all of them see what is saved, and each is counted."""

    async def run(address: str) -> None:
        async with stigmer.aio.connect(address) as client:
            start = (await client.status()).revision
            tails = [client.tail(start, kinds=["many"]) for _ in range(20)]
            firsts = [asyncio.ensure_future(anext(tail)) for tail in tails]
            # A tail is known to be attached once it gives something; the saves go on until each has.
            revision = await client.save("many", "a", b"0")
            seen = await asyncio.gather(*firsts)
            assert {event.revision for event in seen} == {revision}
            assert (await client.status()).tails == 20
            seconds = [asyncio.ensure_future(anext(tail)) for tail in tails]
            for _ in range(50):
                assert (await client.get("many", "a")).revision == revision
            latest = await client.save("many", "a", b"1")
            assert {event.revision for event in await asyncio.gather(*seconds)} == {latest}
            for tail in tails:
                await tail.aclose()

    # Of its own: another's may count a tail of the test before, which was left and is not gone yet.
    with DaemonProcess(tmp_path / "data") as process:
        asyncio.run(run(process.address))


def test_more_tails_than_are_served(tmp_path: Path) -> None:
    """A tail beyond the limit is refused with the limit's name, and one that ends makes room."""

    async def run(address: str) -> None:
        async with stigmer.aio.connect(address) as client:
            revision = await client.save("k", "a", b"")
            tails = [client.tail(revision - 1) for _ in range(config.Limits().tails_max)]
            await asyncio.gather(*(anext(tail) for tail in tails))
            with pytest.raises(ResourceExhausted) as caught:
                await anext(client.tail())
            assert (caught.value.limit, caught.value.limit_value) == ("TAILS_MAX", config.Limits().tails_max)
            assert (await client.get("k", "a")).revision == revision

    with DaemonProcess(tmp_path / "data") as process:
        asyncio.run(run(process.address))
        assert process.stop() == 0


def test_a_follower_that_does_not_read(daemon: DaemonProcess, channel: grpc.Channel) -> None:
    """A follower that stopped reading costs the daemon a window, and nobody else anything."""
    with grpc.insecure_channel(daemon.address, options=(*UNLIMITED, ("grpc.use_local_subchannel_pool", 1))) as slow:
        with connect(daemon.address) as client:
            last = client.status().revision
            call = slow.unary_stream(STORE["tail"].path)(
                store_pb2.TailRequest(after=last, follow=True).SerializeToString()
            )
            next(call)
            before = _anonymous_bytes(daemon.pid)
            for number in range(100):
                client.save("slow", "a", bytes([number]) * config.MIB)
            grown = _anonymous_bytes(daemon.pid) - before
            assert grown < 60 * config.MIB
            # It gets all of it when it reads on.
            at = last
            while at < last + 100:
                at = store_pb2.TailResponse.FromString(next(call)).through_revision
        call.cancel()


def _anonymous_bytes(pid: int) -> int:
    path = Path(f"/proc/{pid}/status")
    if not path.exists():
        pytest.skip("the memory of another process is read from /proc")
    line = next(line for line in path.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_cancelled_saves(daemon: DaemonProcess) -> None:
    """A save that is cancelled was made once or not at all, and the same request id makes sure of it."""

    async def run() -> None:
        async with stigmer.aio.connect(daemon.address) as client:
            start = (await client.status()).revision
            for number in range(100):
                task = asyncio.create_task(client.save("cancel", f"{number}", b"v", request_id=f"cancel-{number}"))
                for _ in range(number % 7):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            for number in range(100):
                await client.save("cancel", f"{number}", b"v", request_id=f"cancel-{number}")
            events = [event async for event in client.tail(start, kinds=["cancel"], follow=False)]
            assert sorted(int(event.id) for event in events) == list(range(100))

    asyncio.run(run())


def test_a_thousand_saves_at_once(daemon: DaemonProcess) -> None:
    """A burst of calls on one connection is answered, each once."""

    async def run() -> None:
        async with stigmer.aio.connect(daemon.address, timeout=60) as client:
            start = (await client.status()).revision
            revisions = await asyncio.gather(*(client.save("burst", f"{number}", b"v") for number in range(1000)))
            assert sorted(revisions) == list(range(start + 1, start + 1001))

    asyncio.run(run())


def test_many_callers_at_once(daemon: DaemonProcess) -> None:
    """Callers on many threads each get the revision of their own save."""
    with connect(daemon.address, timeout=60) as client, ThreadPoolExecutor(32) as threads:
        revisions = list(threads.map(lambda number: client.save("callers", f"{number}", b"v"), range(500)))
        assert len(set(revisions)) == 500
        assert {one.id: one.revision for one in client.list("callers")} == {
            f"{number}": revision for number, revision in enumerate(revisions)
        }
