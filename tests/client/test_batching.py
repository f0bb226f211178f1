"""The asyncio client puts what is called at the same time into few messages, and nobody's call suffers by another's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from daemon.support import DaemonProcess

import stigmer.aio
from stigmer import config
from stigmer.client import answers, attempts, connect, requests
from stigmer.client.bulk import BulkWriter
from stigmer.errors import (
    AlreadyExists,
    BatchFailed,
    Closed,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    StigmerError,
    Unavailable,
)
from stigmer.model import Delete, Save
from stigmer.pb import store_pb2
from stigmer.store import Store


def run(work: Awaitable[None]) -> None:
    """Run a test's coroutine, for four minutes at most."""

    async def bounded() -> None:
        async with asyncio.timeout(240):
            await work

    asyncio.run(bounded())


@asynccontextmanager
async def impatient(address: str, timeout: float) -> AsyncIterator[stigmer.aio.Client]:
    """A client with a short timeout that has saved k/a, though this machine may be busy for longer than that."""
    async with stigmer.aio.connect(address, timeout=timeout) as client:
        saved = False
        while not saved:
            with contextlib.suppress(OutcomeUnknown):
                saved = bool(await client.save("k", "a", b"1", request_id="first"))
        yield client


@pytest.fixture
def address(tmp_path: Path) -> str:
    """An address that stays the same over restarts."""
    return f"unix:{tmp_path}/s"


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of commits in each message that is sent."""
    sent: list[int] = []
    write = requests.write

    def counted(payloads: list[bytes]) -> bytes:
        if payloads:
            sent.append(len(payloads))
        return write(payloads)

    monkeypatch.setattr(requests, "write", counted)
    return sent


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of keys in each GetMany that is asked."""
    sent: list[int] = []
    get_many = requests.get_many

    def counted(keys: Iterator[tuple[str, str]]) -> bytes:
        asked = list(keys)
        sent.append(len(asked))
        return get_many(asked)

    monkeypatch.setattr(requests, "get_many", counted)
    return sent


# --- saves ---


def test_a_thousand_saves_in_few_messages(daemon: DaemonProcess, kind: str, messages: list[int]) -> None:
    """Saves made together are answered each with its own revision, in the order in which they were made."""

    async def work() -> None:
        async with stigmer.aio.connect(daemon.address, timeout=60) as client:
            start = (await client.status()).revision
            revisions = await asyncio.gather(*(client.save(kind, f"{number}", b"v") for number in range(1000)))
            assert revisions == list(range(start + 1, start + 1001))
            assert sum(messages) == 1000
            assert len(messages) < 20

    run(work())


def test_a_lone_save_is_not_held_back(daemon: DaemonProcess, kind: str, messages: list[int]) -> None:
    """Saves one after the other are a message each, on one stream."""

    async def work() -> None:
        async with stigmer.aio.connect(daemon.address) as client:
            for number in range(20):
                await client.save(kind, "a", b"%d" % number)
        assert messages == [1] * 20

    run(work())


def test_a_message_is_bounded(daemon: DaemonProcess, kind: str, messages: list[int]) -> None:
    """Large values are spread over messages, and one larger than a message goes alone."""

    async def work() -> None:
        async with stigmer.aio.connect(daemon.address) as client:
            values = [bytes(100_000)] * 10 + [bytes(1_000_000), b"small"]
            await asyncio.gather(*(client.save(kind, f"{number}", value) for number, value in enumerate(values)))
        assert messages == [2] * 5 + [1, 1]

    run(work())


def test_each_call_has_its_own_error(daemon: DaemonProcess, kind: str) -> None:
    """Calls that are refused take nothing from those beside them."""

    async def work() -> None:
        async with stigmer.aio.connect(daemon.address) as client:
            there = await client.save(kind, "there", b"")
            calls: list[Awaitable[object]] = [client.save(kind, "a", b"")]
            calls += [client.save(kind, "there", b"", expected_revision=0), client.delete(kind, "absent")]
            calls += [client.save(kind, "a/b", b""), client.save(kind, "b", b"")]
            calls += [client.commit([Save(kind, "c", b""), Save(kind, "d", b"")])]
            found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one).__name__ for one in found] == [
            *("int", "AlreadyExists", "NotFound", "InvalidArgument", "int", "Committed")
        ]
        exists = found[1]
        assert isinstance(exists, AlreadyExists)
        assert (exists.id, exists.actual_revision) == ("there", there)
        assert (found[0], found[4]) == (there + 1, there + 2)
        assert (found[5].first_revision, found[5].last_revision) == (there + 3, there + 4)  # type: ignore[attr-defined]

    run(work())


def test_a_cancelled_save_takes_no_other_with_it(daemon: DaemonProcess, kind: str) -> None:
    """Whether it was sent or not; those beside it are answered."""

    async def work() -> None:
        async with stigmer.aio.connect(daemon.address) as client:
            await client.status()
            tasks = [asyncio.create_task(client.save(kind, f"{number}", b"v")) for number in range(300)]
            for number in range(0, 300, 3):
                if number % 10 == 0:
                    await asyncio.sleep(0)
                tasks[number].cancel()
            await asyncio.wait(tasks)
            kept = {f"{number}": task.result() for number, task in enumerate(tasks) if number % 3}
            assert len(set(kept.values())) == 200
            assert await client.save(kind, "last", b"") > max(kept.values())
            found = {one.id: one.revision for one in await client.list(kind)}
            assert kept.items() <= found.items()

    run(work())


def test_each_call_has_its_own_deadline(tmp_path: Path, address: str) -> None:
    """A daemon that stands still: each is told after its own time, with the request id that finds out the rest."""

    async def work(process: DaemonProcess) -> None:
        loop = asyncio.get_running_loop()
        async with impatient(address, 0.5) as client:
            process.signal(signal.SIGSTOP)

            async def late(call: Awaitable[object]) -> tuple[StigmerError, float]:
                begun = loop.time()
                with pytest.raises(DeadlineExceeded) as caught:
                    await call
                return caught.value, loop.time() - begun

            first = [asyncio.create_task(late(client.save("k", f"b{number}", b"2"))) for number in range(3)]
            reads = [asyncio.create_task(late(client.get("k", "a"))) for _ in range(5)]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            second = [asyncio.create_task(late(client.save("k", f"c{number}", b"2"))) for number in range(3)]
            told = await asyncio.gather(*first, *second)
            for error, took in [*told, *await asyncio.gather(*reads)]:
                assert took > 0.4, error
            process.signal(signal.SIGCONT)
            request_ids = [error.request_id for error, _ in told if isinstance(error, DeadlineExceeded)]
            assert len(set(request_ids)) == 6
            assert all(request_id in str(error.hint) for request_id, (error, _) in zip(request_ids, told, strict=True))
        async with stigmer.aio.connect(address, timeout=60) as patient:
            ids = ["b0", "b1", "b2", "c0", "c1", "c2"]
            for id, request_id in zip(ids, request_ids, strict=True):
                await patient.save("k", id, b"2", request_id=request_id)
            events = [event.id async for event in patient.tail(follow=False)]
            assert sorted(events) == ["a", *ids]

    with DaemonProcess(tmp_path / "data", address) as process:
        run(work(process))


def test_kills_in_the_middle_of_a_stream(tmp_path: Path, address: str) -> None:
    """Every save is answered and applied once, however often the daemon is killed under them."""
    count = 10_000
    revisions: dict[str, int] = {}
    wanted = asyncio.Event()

    async def save(client: stigmer.aio.Client, gate: asyncio.Semaphore, number: int) -> None:
        async with gate:
            revisions[f"{number}"] = await client.save("k", f"{number}", os.urandom(200))
        wanted.set()

    async def work() -> None:
        process = await asyncio.to_thread(DaemonProcess, tmp_path / "data", address)
        async with stigmer.aio.connect(address, timeout=60) as client:
            gate = asyncio.Semaphore(200)
            tasks = [asyncio.create_task(save(client, gate, number)) for number in range(count)]
            for kill in range(1, 5):
                while len(revisions) < kill * count // 5:
                    wanted.clear()
                    await wanted.wait()
                assert not all(task.done() for task in tasks)
                with process:
                    await asyncio.to_thread(process.kill)
                process = await asyncio.to_thread(DaemonProcess, tmp_path / "data", address)
            with process:
                await asyncio.gather(*tasks)
                assert await asyncio.to_thread(process.stop) == 0

    run(work())
    with Store.open(tmp_path / "data") as store:
        assert {event.id: event.revision for event in store.tail(follow=False)} == revisions
        assert len(revisions) == count == store.status().revision


def test_a_daemon_that_does_not_come_back(tmp_path: Path, address: str) -> None:
    """Every call is told so in its time, with its request id; a client's next call is not held up by the dead ones."""

    async def work(process: DaemonProcess) -> None:
        async with impatient(address, 0.5) as client:
            process.kill()
            found: list[object] = [DeadlineExceeded("")]
            while any(isinstance(error, DeadlineExceeded) for error in found):  # this machine was busy for too long
                saves = [client.save("k", f"{number}", b"") for number in range(20)]
                gets = [client.get("k", "a") for _ in range(20)]
                found = await asyncio.gather(*saves, *gets, return_exceptions=True)
            for number, error in enumerate(found):
                assert isinstance(error, Unavailable), error
                assert "(tried for 0.5 s)" in error.message
                assert bool(error.request_id) is (number < 20)
            assert len({error.request_id for error in found[:20] if isinstance(error, Unavailable)}) == 20
            with pytest.raises(BatchFailed) as failed:
                await client.save_many(Save("k", f"{number}", bytes(100_000)) for number in range(200))
            assert len(failed.value.failures) == 200
            assert all(isinstance(error, OutcomeUnknown) for error in failed.value.failures.values())

    with DaemonProcess(tmp_path / "data", address) as process:
        run(work(process))


def test_save_many_while_the_daemon_is_killed(tmp_path: Path, address: str) -> None:
    """The blocking client's, too, is applied once and answered."""
    process = DaemonProcess(tmp_path / "data", address)
    with connect(address, timeout=60) as client:

        def changes() -> Iterator[Save]:
            nonlocal process
            for number in range(300):
                if number % 100 == 50:
                    # What was sent before has been answered, or is sent by a thread of gRPC's own.
                    with process:
                        process.kill()
                    process = DaemonProcess(tmp_path / "data", address)
                yield Save("k", f"{number}", bytes(50_000))

        revisions = client.save_many(changes())
        with process:
            assert [event.revision for event in client.tail(follow=False)] == revisions == list(range(1, 301))
            assert process.stop() == 0


def test_a_stream_that_is_lost_while_a_message_is_sent() -> None:
    """What grpc.aio calls an internal error then is a lost connection; one that the daemon tells of is not."""
    nothing = grpc.aio.Metadata()
    lost = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, "Internal error from Core")
    bug = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, "Write failed inside the daemon")
    assert attempts.is_passing(lost)
    assert not attempts.is_passing(bug)


# --- floods ---


def memory_of(pid: int) -> int:
    """Give the bytes that a process holds for itself."""
    path = Path(f"/proc/{pid}/status")
    if not path.exists():
        pytest.skip("the memory of a process is read from /proc")
    line = next(line for line in path.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_a_flood_is_bounded(tmp_path: Path) -> None:
    """A thousand large saves at once cost neither side more than its bounds, and another client is answered."""
    value = os.urandom(256 * config.KIB)

    async def work(process: DaemonProcess) -> None:
        async with (
            stigmer.aio.connect(process.address, timeout=60) as client,
            stigmer.aio.connect(process.address, timeout=60) as other,
        ):
            await client.save("k", "a", b"v")
            await other.get("k", "a")
            before = memory_of(process.pid), memory_of(os.getpid())
            flood = asyncio.gather(*(client.save("k", f"{number % 8}", value) for number in range(1000)))
            gets, most = 0, (0, 0)
            while not flood.done():
                await other.get("k", "a")
                gets += 1
                now = memory_of(process.pid) - before[0], memory_of(os.getpid()) - before[1]
                most = max(most[0], now[0]), max(most[1], now[1])
            assert len(set(await flood)) == 1000
            assert gets > 5
            assert most[0] < 120 * config.MIB
            assert most[1] < 120 * config.MIB

    with DaemonProcess(tmp_path / "data") as process:
        run(work(process))
        assert process.stop() == 0


# --- gets ---


def test_gets_travel_together(daemon: DaemonProcess, kind: str, batches: list[int]) -> None:
    """Each get has its own resource or its own error."""

    async def work() -> None:
        async with stigmer.aio.connect(daemon.address) as client:
            await client.save_many([Save(kind, f"{number}", b"%d" % number) for number in range(500)])
            found = await asyncio.gather(
                *(client.get(kind, f"{number}") for number in range(600)), return_exceptions=True
            )
            assert [one.value for one in found[:500]] == [b"%d" % number for number in range(500)]  # type: ignore[union-attr]
            assert [one.id for one in found[500:] if isinstance(one, NotFound)] == [f"{n}" for n in range(500, 600)]
            assert batches
            assert sum(batches) + 2 == 600
            assert len(batches) < 5
            batches.clear()
            for number in range(10):
                await client.get(kind, f"{number}")
            assert batches == []

    run(work())


def test_gets_of_large_values_travel_together(daemon: DaemonProcess, kind: str) -> None:
    """What does not fit into one answer is asked for again."""

    async def work() -> None:
        async with stigmer.aio.connect(daemon.address) as client:
            values = [bytes([number]) * 900_000 for number in range(10)]
            await client.save_many([Save(kind, f"{number}", value) for number, value in enumerate(values)])
            found = await asyncio.gather(*(client.get(kind, f"{number}") for number in range(10)))
            assert [one.value for one in found] == values

    run(work())


def test_a_get_sees_what_was_saved_before(daemon: DaemonProcess, kind: str) -> None:
    """A get that begins after a save was answered sees it, however many others are under way."""

    async def one(client: stigmer.aio.Client, id: str) -> None:
        for _ in range(30):
            revision = await client.save(kind, id, b"v")
            assert (await client.get(kind, id)).revision == revision

    async def work() -> None:
        async with stigmer.aio.connect(daemon.address, timeout=60) as client:
            await asyncio.gather(*(one(client, f"{number}") for number in range(50)))

    run(work())


def test_cancelled_gets(daemon: DaemonProcess, kind: str) -> None:
    """A get that is cancelled takes no other with it."""

    async def work() -> None:
        async with stigmer.aio.connect(daemon.address) as client:
            revision = await client.save(kind, "a", b"v")
            tasks = [asyncio.create_task(client.get(kind, "a")) for _ in range(200)]
            for number in range(0, 200, 2):
                if number % 20 == 0:
                    await asyncio.sleep(0)
                tasks[number].cancel()
            await asyncio.wait(tasks)
            assert {task.result().revision for task in tasks[1::2]} == {revision}
            assert (await client.get(kind, "a")).revision == revision

    run(work())


# --- the end ---


def test_close_with_calls_under_way(tmp_path: Path, address: str) -> None:
    """Every call ends: what was sent may have been made, what was not says that the client is closed."""

    async def work(process: DaemonProcess) -> None:
        client = stigmer.aio.connect(address, timeout=60)
        await client.save("k", "a", b"")
        process.signal(signal.SIGSTOP)
        saves = [asyncio.create_task(client.save("k", f"{number}", bytes(100_000))) for number in range(300)]
        gets = [asyncio.create_task(client.get("k", "a")) for _ in range(20)]
        await asyncio.sleep(0)
        while not any(one.was_sent for one in client._writes._sent):
            await asyncio.sleep(0)
        await client.close()
        ended = await asyncio.gather(*saves, *gets, return_exceptions=True)
        process.signal(signal.SIGCONT)
        assert {type(error) for error in ended[:300]} == {Closed, OutcomeUnknown}
        assert all(isinstance(error, Closed) or error.request_id for error in ended[:300])  # type: ignore[union-attr]
        assert {type(error) for error in ended[300:]} == {Closed}
        for call in (client.save, client.get, client.delete):
            with pytest.raises(Closed):
                await call("k", "a", *([b""] if call == client.save else []))
        with pytest.raises(BatchFailed, match="the client is closed"):
            await client.save_many([Save("k", "a", b"")])
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with DaemonProcess(tmp_path / "data", address) as process:
        run(work(process))


# --- a daemon of an older version ---


@asynccontextmanager
async def older_daemon(real: str, without: set[str]) -> AsyncIterator[str]:
    """A daemon that does not know some methods: it passes the others on to a real one."""
    async with grpc.aio.insecure_channel(real) as channel:

        def forward(path: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
            async def handle(request: bytes, context: Any) -> bytes:
                try:
                    return await channel.unary_unary(path)(request)  # type: ignore[no-any-return]
                except grpc.aio.AioRpcError as error:
                    await context.abort(error.code(), error.details(), tuple(error.trailing_metadata()))
                    raise

            return handle

        class Forward(grpc.GenericRpcHandler):
            def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
                if details.method.rpartition("/")[2] in without:
                    return None
                return grpc.unary_unary_rpc_method_handler(forward(details.method))

        server = grpc.aio.server()
        server.add_generic_rpc_handlers([Forward()])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield f"127.0.0.1:{port}"
        await server.stop(None)


def test_a_daemon_that_lacks_the_streams(daemon: DaemonProcess, kind: str) -> None:
    """Calls go one by one, with the same answers and errors."""

    def blocking(address: str) -> None:
        with connect(address, timeout=60) as client:
            with pytest.raises(BatchFailed) as caught:
                client.save_many([Save(kind, "x", b"x"), Delete(kind, "absent"), Save(kind, "y", b"y")])
            assert isinstance(caught.value.failures[1], NotFound)
            assert [one and one.value for one in client.get_many([(kind, "x"), (kind, "no")])] == [b"x", None]

    async def work() -> None:
        async with older_daemon(daemon.address, {"Write", "GetMany"}) as address:
            async with stigmer.aio.connect(address, timeout=60) as client:
                for _ in range(2):
                    saves = [client.save(kind, f"{number}", b"%d" % number) for number in range(50)]
                    assert len(set(await asyncio.gather(*saves))) == 50
                with pytest.raises(NotFound):
                    await client.delete(kind, "absent")
                gets = await asyncio.gather(*(client.get(kind, f"{number}") for number in range(50)))
                assert [one.value for one in gets] == [b"%d" % number for number in range(50)]
                assert await client.get_many([(kind, "absent")]) == [None]
                async with client.writer() as writer:
                    await writer.save(kind, "written", b"")
                assert writer.acknowledged == 1
            await asyncio.to_thread(blocking, address)

    run(work())


# --- the writer ---


def test_a_writer(daemon: DaemonProcess, kind: str, messages: list[int]) -> None:
    """What was written is all there, in order, when the block ends; progress is told on the way."""
    told: list[tuple[int, int]] = []

    def progress(writer: BulkWriter) -> None:
        told.append((writer.written, writer.acknowledged))

    async def work() -> None:
        async with stigmer.aio.connect(daemon.address, timeout=60) as client:
            async with client.writer(progress=progress) as writer:
                for number in range(2_000):
                    await writer.save(kind, f"{number}", b"v")
                await writer.flush()
                assert (writer.written, writer.acknowledged, writer.failed) == (2_000, 2_000, 0)
                await writer.delete(kind, "0")
                await writer.commit([Save(kind, "a", b""), Save(kind, "b", b"")])
            assert writer.acknowledged == 2_002
            assert (await client.count())[kind] == 2_001
            events = [event.id async for event in client.tail(kinds=[kind], follow=False)]
            assert events == [*(f"{number}" for number in range(2_000)), "0", "a", "b"]

    run(work())
    assert len(messages) < 100
    assert told == sorted(told)
    assert told[-1] == (2_002, 2_002)


def test_a_writer_with_many_callers_has_one_stream(daemon: DaemonProcess, kind: str) -> None:
    """Also where they come together, before there is one; and in the order in which they came."""

    async def body() -> None:
        # Not connected yet: the first of them does that.
        client = stigmer.aio.connect(daemon.address)
        begun: list[bool] = []
        begin = client._begin_stream
        client._begin_stream = lambda wait: begun.append(wait) or begin(wait)  # type: ignore[method-assign,func-returns-value]
        async with client.writer() as writer:
            await asyncio.gather(*(writer.save(kind, f"{number}", b"v") for number in range(100)))
        saved = [event.id async for event in client.tail(kinds=[kind], follow=False)]
        await client.close()
        assert saved == [f"{number}" for number in range(100)]
        assert len(begun) == 1

    run(body())


def test_a_writer_waits_while_too_much_is_in_flight(daemon: DaemonProcess, kind: str) -> None:
    """No more than the bound, and one commit, is unanswered at any time."""
    most = 0

    async def work() -> None:
        nonlocal most
        async with (
            stigmer.aio.connect(daemon.address, timeout=60) as client,
            client.writer(max_bytes_in_flight=50_000) as writer,
        ):
            for number in range(200):
                await writer.save(kind, f"{number}", bytes(10_000))
                most = max(most, writer.written - writer.acknowledged)

    run(work())
    assert 1 < most <= 6


def test_a_writer_tells_which_commits_failed(daemon: DaemonProcess, kind: str) -> None:
    """The others stand; a flush tells of each failure once."""

    async def work() -> None:
        async with stigmer.aio.connect(daemon.address, timeout=60) as client:
            await client.save(kind, "there", b"")
            async with client.writer() as writer:
                for number in range(10):
                    await writer.save(kind, "there" if number in (3, 7) else f"{number}", b"", expected_revision=0)
                with pytest.raises(InvalidArgument):
                    await writer.save(kind, "a/b", b"")
                with pytest.raises(BatchFailed) as caught:
                    await writer.flush()
                assert [(place, type(error)) for place, error in caught.value.failures.items()] == [
                    (3, AlreadyExists),
                    (7, AlreadyExists),
                ]
                assert caught.value.message.startswith("2 of 10 commits failed; the first, number 3: ")
                await writer.flush()
            assert (await client.count())[kind] == 9
            with pytest.raises(BatchFailed):
                async with client.writer() as writer:
                    await writer.delete(kind, "absent")

    run(work())


def test_a_writer_over_a_kill(tmp_path: Path, address: str) -> None:
    """A load goes on where the daemon comes back, with nothing lost or doubled."""
    count = 2_000

    async def work() -> None:
        process = await asyncio.to_thread(DaemonProcess, tmp_path / "data", address)
        async with stigmer.aio.connect(address, timeout=60) as client, client.writer() as writer:
            for number in range(count):
                if number == count // 2:
                    with process:
                        await asyncio.to_thread(process.kill)
                    process = await asyncio.to_thread(DaemonProcess, tmp_path / "data", address)
                await writer.save("k", f"{number}", os.urandom(500))
            with process:
                await writer.flush()
                events = [event.id async for event in client.tail(follow=False)]
                assert events == [f"{number}" for number in range(count)]

    run(work())


def test_a_stream_that_answers_what_was_not_asked() -> None:
    """Answers that belong to no commit are an error, and never a wrong answer."""
    for response in (
        store_pb2.WriteResponse(answered=3, last_revisions=[1]),
        store_pb2.WriteResponse(answered=2, last_revisions=[1, 2]),
    ):
        with pytest.raises(StigmerError, match="had their turn"):
            answers.write(response.SerializeToString(), 0, [1])
