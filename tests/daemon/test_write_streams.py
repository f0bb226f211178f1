"""Write as any gRPC client sees it: answers in order, bad commits, bad streams, callers that do not read."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from daemon.support import DaemonProcess
from stigmer import config, wire
from stigmer.artifacts import Artifacts
from stigmer.client import connect
from stigmer.config import StoreOptions
from stigmer.daemon.commit_queue import Settle
from stigmer.daemon.server import Server
from stigmer.daemon.write_streams import _Stream
from stigmer.pb import log_pb2, store_pb2
from stigmer.resources.verbs import Resources
from stigmer.store import Store
from stigmer.vault import Vault

WRITE = wire.methods(wire.STORE_SERVICE)["write"].path
SAVE = log_pb2.Event.OP_SAVE


def commit(id: str, value: bytes = b"v", *, kind: str = "k", request_id: str = "", events: int = 1) -> log_pb2.Commit:
    """Give a commit of so many Saves of one resource."""
    event = log_pb2.Event(op=SAVE, kind=kind, id=id, value=value)
    return log_pb2.Commit(events=[event] * events, request_id=request_id)


def message(*commits: log_pb2.Commit) -> bytes:
    return store_pb2.WriteRequest(commits=commits).SerializeToString()


def write(channel: grpc.Channel, *messages: bytes) -> list[store_pb2.WriteResponse]:
    """Send messages, then read all answers."""
    call = channel.stream_stream(WRITE)(iter(messages), timeout=60)
    return [store_pb2.WriteResponse.FromString(answer) for answer in call]


def memory_of(pid: int) -> int:
    """Give the bytes that a process holds for itself."""
    path = Path(f"/proc/{pid}/status")
    if not path.exists():
        pytest.skip("the memory of another process is read from /proc")
    line = next(line for line in path.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@pytest.fixture
def channel(daemon: DaemonProcess) -> Iterator[grpc.Channel]:
    """A plain connection of its own, without a client of ours."""
    with grpc.insecure_channel(daemon.address, options=(("grpc.use_local_subchannel_pool", 1),)) as opened:
        yield opened


def test_answers_come_in_the_order_of_the_stream(daemon: DaemonProcess, channel: grpc.Channel) -> None:
    """Commits are numbered over the messages, and their revisions follow each other."""
    with connect(daemon.address) as client:
        before = client.status().revision
    messages = [
        message(),
        message(commit("a")),
        message(*(commit(f"{number}", events=2) for number in range(500))),
        message(commit("large", bytes(1024 * 1024)), commit("small")),
    ]
    answers = write(channel, *messages)
    revisions = [revision for answer in answers for revision in answer.last_revisions]
    assert revisions == [before + 1, *range(before + 3, before + 1003, 2), before + 1002, before + 1003]
    answered = 0
    for answer in answers:
        answered += len(answer.last_revisions)
        assert answer.answered == answered
        assert answer.last_revisions
    assert len(answers) < 500 / 4


def test_a_bad_commit_between_good_ones(daemon: DaemonProcess, channel: grpc.Channel) -> None:
    """What is wrong with a commit is told under its number, and the others stand."""
    good, again = commit("good", kind="bad"), commit("again", kind="bad")
    exists = commit("good", kind="bad")
    exists.events[0].expected_revision = 0
    garbage = b"\x0a\x02\xff\xff"
    request = message(good, commit("a/b", kind="bad")) + garbage + message(exists, log_pb2.Commit(), again)
    answers = write(channel, request)
    revisions = [revision for answer in answers for revision in answer.last_revisions]
    refusals = [refusal for answer in answers for refusal in answer.refusals]
    assert [bool(revision) for revision in revisions] == [True, False, False, False, False, True]
    assert [(refusal.number, refusal.error.name) for refusal in refusals] == [
        (2, "InvalidArgument"),
        (3, "InvalidArgument"),
        (4, "AlreadyExists"),
        (5, "InvalidArgument"),
    ]
    assert refusals[2].error.actual_revision == revisions[0]
    with connect(daemon.address) as client:
        assert [one.id for one in client.list("bad")] == ["again", "good"]


@pytest.mark.parametrize("junk", [b"\x12\x00", b"\xff\xff", b"\x0a\x05ab"])
def test_a_message_that_is_none(channel: grpc.Channel, junk: bytes) -> None:
    """What came before it is answered, then the stream ends with what is wrong."""
    call = channel.stream_stream(WRITE)(iter([message(commit("before"), commit("before")), junk]), timeout=60)
    assert store_pb2.WriteResponse.FromString(next(call)).answered == 2
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_first_revision_of_a_request_that_was_another(channel: grpc.Channel) -> None:
    """Where it does not follow from the commit's own events, it is told."""
    first, second = commit("r", request_id="many", events=3), commit("r", request_id="many")
    answers = write(channel, message(first, second, commit("r", request_id="one")))
    revisions = [revision for answer in answers for revision in answer.last_revisions]
    assert revisions == [revisions[0], revisions[0], revisions[0] + 1]
    assert [(told.number, told.first_revision) for answer in answers for told in answer.first_revisions] == [
        (2, revisions[0] - 2)
    ]


def test_the_largest_commit(channel: grpc.Channel) -> None:
    """A commit of the largest size fits into a message; one that is larger is refused with the limit."""
    few = config.COMMIT_BYTES_MAX // 4 - 100
    largest = log_pb2.Commit(
        events=[log_pb2.Event(op=SAVE, kind="k", id=f"{number}", value=bytes(few)) for number in range(4)]
    )
    largest.request_id = "r" * min(64, config.COMMIT_BYTES_MAX - largest.ByteSize() - 2)
    assert config.COMMIT_BYTES_MAX - 1000 < largest.ByteSize() <= config.COMMIT_BYTES_MAX
    answers = write(channel, message(largest))
    assert [len(answer.last_revisions) for answer in answers] == [1]
    assert not answers[0].refusals
    largest.events.add(op=SAVE, kind="k", id="more", value=bytes(1000))
    (answer,) = write(channel, message(largest))
    assert answer.refusals[0].error.limit == "COMMIT_BYTES_MAX"


def test_a_stream_that_breaks(daemon: DaemonProcess, channel: grpc.Channel) -> None:
    """What was read of it is carried out, and the daemon goes on."""
    sent = threading.Event()

    def messages() -> Iterator[bytes]:
        yield message(commit("first", kind="breaks"))
        sent.wait()
        yield message(*(commit(f"{number}", kind="breaks", request_id=f"breaks-{number}") for number in range(100)))

    call = channel.stream_stream(WRITE)(messages(), timeout=60)
    next(call)
    sent.set()
    call.cancel()
    # The same request ids find out what became of them: each was made once, or is made now.
    write(channel, message(*(commit(f"{n}", kind="breaks", request_id=f"breaks-{n}") for n in range(100))))
    with connect(daemon.address) as client:
        events = [event.id for event in client.tail(kinds=["breaks"], follow=False)]
        assert sorted(events) == sorted(["first", *(f"{number}" for number in range(100))])


def test_a_daemon_that_stops_does_not_wait_for_a_stream(tmp_path: Path) -> None:
    """An open stream is ended, once what was read of it is answered."""
    with DaemonProcess(tmp_path / "data") as process, grpc.insecure_channel(process.address) as channel:
        ended = threading.Event()

        def messages() -> Iterator[bytes]:
            yield message(*(commit(f"{number}") for number in range(100)))
            ended.wait()

        call = channel.stream_stream(WRITE)(messages(), timeout=60)
        assert store_pb2.WriteResponse.FromString(next(call)).answered
        begun = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - begun < config.DRAIN_SECONDS
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "the daemon is stopping"
        ended.set()


def test_a_caller_that_does_not_read_its_answers(daemon: DaemonProcess, channel: grpc.Channel) -> None:
    """It costs the daemon a bounded amount, and nobody else anything; it gets all of them when it reads on."""
    refused = message(*(commit("/" * 200) for _ in range(1_000)))  # its answers are larger than itself
    count = 400  # far more than the windows of a connection hold, which grow where the machine is slow
    taken = threading.Semaphore(0)

    def messages() -> Iterator[bytes]:
        for _ in range(count):
            yield refused
            taken.release()

    with connect(daemon.address) as other:
        before = memory_of(daemon.pid)
        call = channel.stream_stream(WRITE)(messages(), timeout=120)
        sent = 0
        while taken.acquire(timeout=1):
            sent += 1
        assert sent < count, "the daemon read everything"
        assert memory_of(daemon.pid) - before < 80 * config.MIB
        revision = other.save("unread", "a", b"v")
        assert other.get("unread", "a").revision == revision
        answered = 0
        for answer in call:
            answered = store_pb2.WriteResponse.FromString(answer).answered
        assert answered == count * 1_000


def test_a_message_of_many_commits_is_taken_as_far_as_there_is_room() -> None:
    """What is unanswered is bounded within a message, too: the rest of it waits for answers to go out."""
    settles: list[Settle] = []

    async def submit(payload: bytes, settle: Settle) -> None:
        settles.append(settle)

    async def requests() -> AsyncIterator[bytes]:
        yield b"\x0a\x00" * config.WRITE_COMMITS_MAX

    async def serve() -> int:
        unused: Any = None
        stream = asyncio.create_task(_Stream(unused, submit, unused).serve(requests(), unused))
        taken = -1
        while taken < len(settles):
            taken = len(settles)
            await asyncio.sleep(0.05)
        stream.cancel()
        await asyncio.wait([stream])
        return taken

    assert asyncio.run(serve()) == config.WRITE_BYTES_MAX // config.COMMIT_OVERHEAD_BYTES + 1


def test_a_full_queue_holds_a_stream_up(tmp_path: Path) -> None:
    """Where more comes than the disk takes, streams wait for it, and nothing is refused."""
    streams, each = 4, 100
    refusals: list[None] = []

    class Watched(Store):
        def when_room(self, callback: Callable[[], None]) -> None:
            refusals.append(None)
            super().when_room(callback)

    async def send(channel: grpc.aio.Channel, number: int) -> list[store_pb2.WriteResponse]:
        commits = [commit(f"{number}-{place}", bytes(10_000)) for place in range(each)]
        answers = channel.stream_stream(WRITE)(iter([message(*commits)]), timeout=60)
        return [store_pb2.WriteResponse.FromString(answer) async for answer in answers]

    async def run(store: Store) -> None:
        vault = Vault.open(store.directory, None, {})
        server = Server(store, Resources(store, vault, Artifacts(str(tmp_path / "artifacts"))), ["127.0.0.1:0"])
        await server.start()
        async with grpc.aio.insecure_channel(server.listen[0]) as channel:
            for answers in await asyncio.gather(*(send(channel, number) for number in range(streams))):
                assert answers[-1].answered == each
                assert not any(answer.refusals for answer in answers)
        await server.stop(0)

    with Watched.open(tmp_path / "data", StoreOptions(queue_bytes_max=64 * config.KIB)) as store:
        asyncio.run(run(store))
        assert store.status().resources == streams * each
    assert refusals, "the queue was never full"
