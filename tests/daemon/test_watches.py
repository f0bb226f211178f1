"""Watches over real gRPC: what subscribers of single resources get, whatever the others and the writer do."""

from __future__ import annotations

import asyncio
import random
import struct
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import grpc.aio
import pytest

from stigmer import config
from stigmer.daemon import watches
from stigmer.daemon.handlers import Boundary, Context
from stigmer.daemon.refusals import Refusals
from stigmer.daemon.watches import Presented, Watches
from stigmer.errors import CorruptView, StorageFailed
from stigmer.model import Delete, Resource, Save
from stigmer.store import Store

SERVICE = "test.Watches"
PATH = f"/{SERVICE}/subscribe"
KIND = "k"
FINAL = b"final"
LARGE = bytes(config.MIB)
REVISION = struct.Struct("<Q")
LIMIT_SECONDS = 240


class Served:
    """A store, its watches behind a server, and a client's channel to it."""

    def __init__(self, store: Store, readers: ThreadPoolExecutor, subscribers_max: int) -> None:
        self.store = store
        self.watches = Watches(store, self.present, readers, subscribers_max)
        self.presented: Counter[tuple[str, int]] = Counter()
        self.threads: dict[int, int] = {}
        """Revision -> the thread that it was presented on."""
        self.gate = threading.Event()
        """While it is not set, large values are not presented."""
        self.gate.set()
        self.came: asyncio.Queue[None] = asyncio.Queue()
        """Has something for each call that was taken on in the daemon."""
        self.ended: asyncio.Queue[None] = asyncio.Queue()
        """Has something for each call that has ended in the daemon."""
        self.channel: grpc.aio.Channel

    def present(self, resource: Resource) -> Presented | None:
        """Send revision and value; what begins with FINAL is final, and of an empty value nothing is sent."""
        self.presented[resource.id, resource.revision] += 1
        self.threads[resource.revision] = threading.get_ident()
        if len(resource.value) >= len(LARGE):
            self.gate.wait(LIMIT_SECONDS)
        if resource.value == b"bug":
            raise ValueError("a bug")
        if resource.value == b"damage":
            raise CorruptView("test", "is damaged")
        if not resource.value:
            return None
        return Presented(REVISION.pack(resource.revision) + resource.value, resource.value.startswith(FINAL))

    async def serve(self, request: bytes, context: Context) -> None:
        self.came.put_nowait(None)  # taken from there once `serve` waits
        try:
            await self.watches.serve(KIND, request.decode(), context)
        finally:
            self.ended.put_nowait(None)

    async def save(self, id: str, value: bytes) -> int:
        return await asyncio.to_thread(self.store.save, KIND, id, value)

    def subscribe(self, id: str) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
        return self.channel.unary_stream(PATH)(id.encode(), timeout=LIMIT_SECONDS)

    async def revisions(self, id: str) -> list[int]:
        """Subscribe, and give the revisions that come up to the end, which must be orderly."""
        return await rest_of(self.subscribe(id))


def revision_of(message: bytes) -> int:
    return int(REVISION.unpack_from(message)[0])


async def next_of(call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> int:
    return revision_of(await call.read())


async def rest_of(call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> list[int]:
    """Read a call to its end and give the revisions; raises what it ends with."""
    revisions = []
    while (message := await call.read()) is not grpc.aio.EOF:
        revisions.append(revision_of(message))
    return revisions


async def status_of(call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> grpc.StatusCode:
    """Read a call to its end and give its status."""
    with suppress(grpc.aio.AioRpcError):
        await rest_of(call)
    return await call.code()


@asynccontextmanager
async def serving(directory: Path, subscribers_max: int) -> AsyncIterator[Served]:
    """Serve a new store; in the end, nothing is left of any watch."""
    unlimited = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    with Store.open(directory / "data") as store, ThreadPoolExecutor(4) as readers:
        served = Served(store, readers, subscribers_max)
        server = grpc.aio.server(options=unlimited)
        handler = Boundary(Refusals()).streaming(PATH, served.serve)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"subscribe": handler})])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=unlimited) as served.channel:
                yield served
        finally:
            served.watches.end("the test is over")
            await server.stop(None)
        assert_no_trace(served)


def assert_no_trace(served: Served) -> None:
    """Nothing is kept of subscribers who are gone."""
    kept = served.watches
    assert kept.count == 0
    assert (kept._watches, kept._seen, kept._unread) == ({}, {}, {})


def run(directory: Path, test: object, subscribers_max: int = 2_000) -> None:
    """Run a test's coroutine with what serves it."""

    async def with_service() -> None:
        async with asyncio.timeout(LIMIT_SECONDS), serving(directory, subscribers_max) as served:
            await test(served)  # type: ignore[operator]

    asyncio.run(with_service())


@pytest.fixture(params=["in memory", "flushed"])
def flushed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let states be found in the views' memory, or flushed into LMDB group by group."""
    if request.param == "flushed":
        monkeypatch.setattr(config, "UNFLUSHED_EVENTS_MAX", 1)


@pytest.mark.usefixtures("flushed")
@pytest.mark.parametrize("value", [b"v", LARGE[: 64 * config.KIB]], ids=["small", "large"])
def test_states_come_in_order(tmp_path: Path, value: bytes) -> None:
    """The present state comes first, then each later one that was waited for, and the final one ends the stream."""

    async def test(served: Served) -> None:
        await served.save("a", value)
        call = served.subscribe("a")
        assert await next_of(call) == 1
        for number in range(2, 30):
            await served.save("a", value)
            await served.save("other", value)
            assert await next_of(call) == 2 * number - 2
        last = await served.save("a", FINAL)
        assert await next_of(call) == last
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        assert set(served.presented.values()) == {1}

    run(tmp_path, test)


def test_a_reader_that_stops_gets_the_newest_and_the_final_state(tmp_path: Path) -> None:
    """While its window is full, states are skipped; when it reads on it gets few, in order, and the final one."""

    async def test(served: Served) -> None:
        await served.save("a", LARGE)
        slow, quick = served.subscribe("a"), served.subscribe("a")
        assert (await next_of(slow), await next_of(quick)) == (1, 1)
        for revision in range(2, 42):
            await served.save("a", LARGE)
            assert await next_of(quick) == revision
        await served.save("a", FINAL + LARGE)
        got = await rest_of(slow)
        assert got == sorted(set(got))
        assert got[-1] == 42
        assert len(got) < 20
        assert await next_of(quick) == 42
        assert await quick.read() is grpc.aio.EOF

    run(tmp_path, test)


def test_a_thousand_subscribers_of_one_resource(tmp_path: Path) -> None:
    """All of them get to the final state, each state is presented once, and no sequence goes back or repeats."""

    async def test(served: Served) -> None:
        await served.save("a", b"v")
        calls = [served.subscribe("a") for _ in range(1000)]
        firsts = await asyncio.gather(*map(next_of, calls))
        assert set(firsts) == {1}

        def save_all() -> int:
            for _ in range(500):
                served.store.save(KIND, "a", b"v" * 1000)
            return served.store.save(KIND, "a", FINAL)

        last, *sequences = await asyncio.gather(asyncio.to_thread(save_all), *map(rest_of, calls))
        assert last == 502
        for sequence in sequences:
            assert sequence == sorted(set(sequence))
            assert (sequence[0] > 1, sequence[-1]) == (True, last)
        assert set(served.presented.values()) == {1}

    run(tmp_path, test)


@pytest.mark.usefixtures("flushed")
def test_many_resources_as_the_log_has_them(tmp_path: Path) -> None:
    """Each subscriber gets some of its resource's revisions, in their order, the first and the last among them."""

    async def test(served: Served) -> None:
        ids = [f"r{number}" for number in range(200)]
        chosen = random.Random(1)

        def update() -> None:
            with ThreadPoolExecutor(8) as writers:
                for _ in range(3000):
                    value = bytes(chosen.choice((10, 1000, 30_000)))
                    writers.submit(served.store.save, KIND, chosen.choice(ids), value)

        await asyncio.to_thread(served.store.commit, [Save(KIND, id, b"v") for id in ids])
        updating = asyncio.create_task(asyncio.to_thread(update))
        calls = [served.subscribe(id) for id in ids * 2]
        firsts = await asyncio.gather(*map(next_of, calls))
        await updating
        await asyncio.to_thread(served.store.commit, [Save(KIND, id, FINAL) for id in ids])
        rests = await asyncio.gather(*map(rest_of, calls))
        revisions: dict[str, list[int]] = {id: [] for id in ids}
        for event in served.store.tail(follow=False):
            revisions[event.id].append(event.revision)
        for id, first, rest in zip(ids * 2, firsts, rests, strict=True):
            sequence = [first, *rest]
            assert sequence == sorted(set(sequence))
            assert set(sequence) <= set(revisions[id])
            assert sequence[-1] == revisions[id][-1]
        assert set(served.presented.values()) == {1}

    run(tmp_path, test)


@pytest.mark.usefixtures("flushed")
def test_a_resource_that_is_deleted(tmp_path: Path) -> None:
    """Its subscribers end with NOT_FOUND, those of others do not notice."""

    async def test(served: Served) -> None:
        await served.save("a", b"v")
        await served.save("b", b"v")
        calls, other = [served.subscribe("a") for _ in range(10)], served.subscribe("b")
        assert set(await asyncio.gather(*map(next_of, calls))) == {1}
        assert await next_of(other) == 2
        await asyncio.to_thread(served.store.delete, KIND, "a")
        assert set(await asyncio.gather(*map(status_of, calls))) == {grpc.StatusCode.NOT_FOUND}
        assert await status_of(served.subscribe("a")) is grpc.StatusCode.NOT_FOUND
        await served.save("b", FINAL)
        assert await next_of(other) == 4

    run(tmp_path, test)


def test_another_life_ends_the_subscribers_of_the_one_before(tmp_path: Path) -> None:
    """A resource that was deleted and created again between two looks is another one, also where nobody asks for it."""

    async def test(served: Served) -> None:
        await served.save("a", b"v")
        for value in (b"w", LARGE):
            call = served.subscribe("a")
            await next_of(call)
            await asyncio.to_thread(served.store.commit, [Delete(KIND, "a"), Save(KIND, "a", value)])
            assert await status_of(call) is grpc.StatusCode.NOT_FOUND

    run(tmp_path, test)


@pytest.mark.usefixtures("flushed")
def test_a_resource_that_is_deleted_and_created_at_once(tmp_path: Path) -> None:
    """Subscribers of the one before end with NOT_FOUND, new ones follow the new one."""

    async def test(served: Served) -> None:
        for _ in range(20):
            await served.save("a", b"v")
            old = served.subscribe("a")
            await next_of(old)
            commit = [Delete(KIND, "a"), Save(KIND, "a", b"w")]
            made = served.store.commit(commit)  # the loop has not looked when the next call comes in
            new = served.subscribe("a")
            assert await next_of(new) == made.last_revision
            assert await status_of(old) is grpc.StatusCode.NOT_FOUND
            last = await served.save("a", FINAL)
            assert await next_of(new) == last
            assert await status_of(new) is grpc.StatusCode.OK
            await asyncio.to_thread(served.store.delete, KIND, "a")

    run(tmp_path, test)


def test_a_subscriber_sees_what_was_saved_before_it_came(tmp_path: Path) -> None:
    """The first message is never of an older state than that at the subscription, though others are still sent that."""

    async def test(served: Served) -> None:
        await served.save("a", b"v")
        first = served.subscribe("a")
        assert await next_of(first) == 1
        served.gate.clear()
        saved = await served.save("a", LARGE)
        later = served.subscribe("a")
        for _ in range(2):
            await served.came.get()
        served.gate.set()
        assert await next_of(later) == saved

    run(tmp_path, test)


def test_a_state_that_comes_while_another_is_presented(tmp_path: Path) -> None:
    """A change that was published while a thread presented the one before is not missed."""

    async def test(served: Served) -> None:
        for id in ("a", "b"):
            await served.save(id, b"v")
        call, other = served.subscribe("a"), served.subscribe("b")
        assert (await next_of(call), await next_of(other)) == (1, 2)
        served.gate.clear()
        large = await served.save("a", LARGE)
        last = await served.save("a", FINAL)
        assert await served.save("b", FINAL) == await next_of(other)  # so the loop has looked
        served.gate.set()
        assert set(await rest_of(call)) <= {large, last}
        assert await call.code() is grpc.StatusCode.OK

    run(tmp_path, test)


@pytest.mark.usefixtures("flushed")
def test_what_is_not_there_and_what_is_final(tmp_path: Path) -> None:
    """An unknown resource is NOT_FOUND, a bad name INVALID_ARGUMENT; a final state is sent, and that is all."""

    async def test(served: Served) -> None:
        assert await status_of(served.subscribe("a")) is grpc.StatusCode.NOT_FOUND
        assert await status_of(served.subscribe("a/b")) is grpc.StatusCode.INVALID_ARGUMENT
        last = await served.save("a", FINAL)
        assert await served.revisions("a") == [last]
        both = await asyncio.gather(*(served.revisions("a") for _ in range(50)))
        assert both == [[last]] * 50

    run(tmp_path, test)


def test_a_state_behind_the_final_one(tmp_path: Path) -> None:
    """Who waits for the final state still gets it; who comes after something else was saved gets that."""

    async def test(served: Served) -> None:
        await served.save("a", b"v")
        slow = served.subscribe("a")
        assert await next_of(slow) == 1
        quick = served.subscribe("a")
        assert await next_of(quick) == 1
        for _ in range(10):  # more than the slow one's window
            revision = await served.save("a", LARGE)
            assert await next_of(quick) == revision
        final = await served.save("a", FINAL)
        assert await next_of(quick) == final
        after = await served.save("a", b"v")
        late = served.subscribe("a")
        assert await next_of(late) == after
        assert (await rest_of(slow))[-1] == final
        assert await quick.read() is grpc.aio.EOF
        assert served.watches.count == 1

    run(tmp_path, test)


def test_a_state_of_which_nothing_is_sent(tmp_path: Path) -> None:
    """It is passed over, also where it is the first one."""

    async def test(served: Served) -> None:
        await served.save("a", b"")
        reading = asyncio.create_task(served.revisions("a"))
        while not served.presented:
            await served.save("other", b"")
        await served.save("a", b"")
        last = await served.save("a", FINAL)
        assert await reading == [last]

    run(tmp_path, test)


def test_callers_that_go_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is left of a call that was cancelled while it waited, or while its window was full; it is no error."""

    async def test(served: Served) -> None:
        await served.save("a", b"v")
        await served.save("b", LARGE)
        calls = [served.subscribe(id) for id in ("a", "b") for _ in range(20)]
        await asyncio.gather(*map(next_of, calls))
        for _ in range(10):
            await served.save("b", LARGE)
        assert served.watches.count == 40
        for call in calls:
            call.cancel()
        for _ in calls:
            await served.ended.get()
        assert_no_trace(served)
        revision = await served.save("a", FINAL)
        assert await served.revisions("a") == [revision]

    run(tmp_path, test)
    assert not caplog.records


def test_a_connection_that_goes_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is left of a call whose message could not be sent to its end, and it is no error."""

    async def test(served: Served) -> None:
        await served.save("a", LARGE)
        slow, quick = served.subscribe("a"), served.subscribe("a")
        assert (await next_of(slow), await next_of(quick)) == (1, 1)
        for revision in range(2, 42):
            await served.save("a", LARGE)
            assert await next_of(quick) == revision
        await served.save("a", LARGE)
        await served.channel.close()
        for _ in (slow, quick):
            await served.ended.get()
        assert_no_trace(served)

    run(tmp_path, test)
    assert not caplog.records


def test_the_end_of_the_daemon(tmp_path: Path) -> None:
    """All subscribers end with UNAVAILABLE at once, and so does each new one."""

    async def test(served: Served) -> None:
        for id in ("a", "b"):
            await served.save(id, b"v")
        calls = [served.subscribe(id) for id in ("a", "b") for _ in range(20)]
        await asyncio.gather(*map(next_of, calls))
        served.watches.end("the daemon is stopping")
        assert set(await asyncio.gather(*map(status_of, calls))) == {grpc.StatusCode.UNAVAILABLE}
        late = served.subscribe("a")
        assert await status_of(late) is grpc.StatusCode.UNAVAILABLE
        assert await late.details() == "the daemon is stopping"

    run(tmp_path, test)


def test_storage_that_fails(tmp_path: Path) -> None:
    """All subscribers end with UNAVAILABLE, for no state will come any more."""

    async def test(served: Served) -> None:
        await served.save("a", b"v")
        calls = [served.subscribe("a") for _ in range(20)]
        await asyncio.gather(*map(next_of, calls))
        served.store._writer.fail(StorageFailed("/disk", "fsync", "a test"))
        assert set(await asyncio.gather(*map(status_of, calls))) == {grpc.StatusCode.UNAVAILABLE}
        assert await status_of(served.subscribe("a")) is grpc.StatusCode.UNAVAILABLE

    run(tmp_path, test)


def test_storage_that_has_failed_before(tmp_path: Path) -> None:
    """A subscriber who comes then is not left waiting."""

    async def test(served: Served) -> None:
        await served.save("a", b"v")
        served.store._writer.fail(StorageFailed("/disk", "fsync", "a test"))
        assert await status_of(served.subscribe("a")) is grpc.StatusCode.UNAVAILABLE

    run(tmp_path, test)


def test_what_cannot_be_presented(tmp_path: Path) -> None:
    """An error ends the calls with its status, a bug with INTERNAL; who comes again tries again."""

    async def test(served: Served) -> None:
        await served.save("a", b"v")
        for value, status in ((b"damage", grpc.StatusCode.DATA_LOSS), (b"bug", grpc.StatusCode.INTERNAL)):
            call = served.subscribe("a")
            await next_of(call)
            await served.save("a", value)
            assert await status_of(call) is status
            assert await status_of(served.subscribe("a")) is status
            await served.save("a", b"v")

    run(tmp_path, test)


def test_large_values_are_presented_on_a_thread(tmp_path: Path) -> None:
    """The event loop presents what is small; what is large does not hold it up."""

    async def test(served: Served) -> None:
        await served.save("a", b"v")
        call = served.subscribe("a")
        await next_of(call)
        small = await served.save("a", b"v")
        assert await next_of(call) == small
        large = await served.save("a", LARGE)
        assert await next_of(call) == large
        assert served.threads[small] == threading.get_ident()
        assert served.threads[large] != threading.get_ident()

    run(tmp_path, test)


def test_more_subscribers_than_are_served(tmp_path: Path) -> None:
    """One beyond the limit is refused, and one that ends makes room."""

    async def test(served: Served) -> None:
        await served.save("a", b"v")
        calls = [served.subscribe("a") for _ in range(3)]
        await asyncio.gather(*map(next_of, calls))
        assert await status_of(served.subscribe("a")) is grpc.StatusCode.RESOURCE_EXHAUSTED
        await served.ended.get()
        calls[0].cancel()
        await served.ended.get()
        assert await next_of(served.subscribe("a")) == 1

    run(tmp_path, test, subscribers_max=3)


def test_sending_is_bounded(tmp_path: Path) -> None:
    """Subscribers together are sent no more than the budget has turns for, however often the state changes."""

    async def test(served: Served) -> None:
        await served.save("a", b"v")
        calls = [served.subscribe("a") for _ in range(300)]
        await asyncio.gather(*map(next_of, calls))
        started = time.monotonic()

        def save_all() -> None:
            for _ in range(300):
                served.store.save(KIND, "a", b"v")
            served.store.save(KIND, "a", FINAL)

        _, *sequences = await asyncio.gather(asyncio.to_thread(save_all), *map(rest_of, calls))
        seconds = time.monotonic() - started + watches._SAVED_SECONDS
        assert sum(map(len, sequences)) <= seconds * watches._LOOP_SHARE / watches._SEND_SECONDS + 20

    run(tmp_path, test)
