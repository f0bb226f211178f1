"""A daemon that is killed and started again, under clients and followers that never let go.

Clients and followers live in one process, which is not killed. What the clients did is one history over all lives of
the daemon; what the followers were shown is compared with each other at once, and with the log at the end. At each
kill, what the daemon had written and not synced may be lost, so that whoever was shown it has seen what is not there.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from checks import check_store

from faults import history
from faults.bugs import bug
from faults.children import Channel, Child
from faults.clients import Client, Mix, abridged, abridged_log, drive, drive_async, encode, operations_of
from faults.forked import Forked, a_daemon
from faults.history import NEVER, Change, Commit, Operation, Refused, Seen, Write
from faults.scenario import Failed, Scenario, Turn
from faults.unsynced import Unsynced
from stigmer import config
from stigmer.config import StoreOptions
from stigmer.daemon.lifecycle import DaemonOptions
from stigmer.daemon.tail import _Reader
from stigmer.log.cursor import Cursor
from stigmer.log.format import Frame
from stigmer.model import Event, Op
from stigmer.store import Store
from stigmer.writer import Writer

CLIENTS = 10
IMPATIENT = 2
"""Clients whose timeout is shorter than a restart: many of their writes have an unknown outcome."""
BLOCKING = 2
PROGRESS = 50
"""The clients tell of each so many records."""
LAST_ID = "id-1-last"
"""Of the last event of all: every follower's filter lets it through."""

_Filter = tuple[tuple[str, ...] | None, str | None]
FILTERS: tuple[_Filter, ...] = ((("alpha",), None), (None, "id-1"), (("alpha", "beta"), "id-"))


class Followed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one follower was shown."""

    after: int
    kinds: tuple[str, ...] | None
    prefix: str | None
    revisions: list[int]
    """Of all events, in order; empty where there was no filter, and so every one from `after` to `last`."""
    last: int


class Found(NamedTuple):
    """What the process of the clients found out."""

    records: list[list[bytes]]
    """Of each client."""
    events: list[tuple[int, Change]]
    """Every event that any follower was shown, with its revision."""
    followed: list[Followed]


class Followers:
    """Everything that followers were shown, compared with each other as it comes."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.events: dict[int, Change] = {}
        self.followed: list[Followed] = []
        self.records: list[bytes] = []
        self.ending = False

    def show(self, event: Event) -> None:
        """Take an event that a follower was shown."""
        value = abridged(event.value) if event.op is Op.SAVE else None
        change = Change(event.kind, event.id, value, event.expected_revision)
        if self.events.setdefault(event.revision, change) != change:
            raise Failed(f"revision {event.revision} was {self.events[event.revision]!r} and is {change!r}")

    async def follow(self, client: Any, after: int, asked: _Filter, *, slow: bool = False, count: int = 0) -> int:
        """Follow to the last event, or for so many events; give the revision of the last one."""
        kinds, prefix = asked
        is_filtered = asked != (None, None)
        last, revisions, begun_ns = after, list[int](), time.monotonic_ns()
        tail = client.tail(after, kinds, prefix)
        try:
            async for event in tail:
                if event.revision <= last if is_filtered else event.revision != last + 1:
                    raise Failed(f"a tail showed revision {event.revision} behind {last}")
                last = event.revision
                self.show(event)
                if is_filtered:
                    revisions.append(last)
                if not (is_filtered or slow):
                    self.records.append(encode(Seen(begun_ns, time.monotonic_ns(), last, False)))
                if slow and not self.ending and last % 8 == 0:
                    await asyncio.sleep(self.chance.uniform(0, 0.02))
                count -= 1
                if count == 0 or event.id == LAST_ID:
                    break
        finally:
            await tail.aclose()
        self.followed.append(Followed(after, kinds, prefix, revisions, last))
        return last

    async def follow_in_parts(self, client: Any) -> None:
        """Follow, stop after some events, go on behind the last one, or begin anew somewhere before."""
        last = 0
        while self.events.get(last, _NOTHING).id != LAST_ID:
            start = last if self.chance.random() < 0.7 else self.chance.randint(0, last)
            last = max(last, await self.follow(client, start, (None, None), count=self.chance.randint(1, 200)))

    def follow_blocking(self, address: str, failed: Callable[[BaseException], None]) -> None:
        """Follow from the start with the blocking client, on this thread."""
        from stigmer.client import connect

        last = 0
        try:
            with connect(address, timeout=60, wait_for_ready=True) as client:
                for event in client.tail(0):
                    if event.revision != last + 1:
                        raise Failed(f"a blocking tail showed revision {event.revision} behind {last}")
                    last = event.revision
                    self.show(event)
                    if event.id == LAST_ID:
                        break
            self.followed.append(Followed(0, None, None, [], last))
        except BaseException as error:
            failed(error)


_NOTHING = Change("", "", None)


class _Counted(list[bytes]):
    """Records of one client, which tell of the progress."""

    def __init__(self, progress: Callable[[], None]) -> None:
        super().__init__()
        self._progress = progress

    def append(self, record: bytes) -> None:
        super().append(record)
        self._progress()


async def use(address: str, seed: str, channel: Channel) -> Found:
    """Use the daemon and follow it until SIGTERM comes, then to the last event; give what was found out."""
    import stigmer.aio
    from stigmer.client import connect

    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ending.set)
    failure: asyncio.Future[None] = loop.create_future()
    done = 0

    def progress() -> None:
        nonlocal done
        done += 1  # of two threads, one may be lost, which does no harm
        if done % PROGRESS == 0:
            channel.send("progress")

    def fail(error: BaseException) -> None:
        loop.call_soon_threadsafe(lambda: failure.done() or failure.set_exception(error))

    followers = Followers(random.Random(f"{seed}.followers"))
    recorded = [_Counted(progress) for _ in range(CLIENTS + BLOCKING)]

    def client_of(number: int) -> Client:
        name = f"{seed}.{number}"
        return Client(Mix(random.Random(name), name), recorded[number], reads_at_once=False)

    def use_blocking(number: int) -> None:
        try:
            with connect(address, timeout=60, wait_for_ready=True) as connection:
                methods: dict[str, Callable[..., Any]] = {
                    "commit": connection.commit,
                    "get": connection.get,
                    "get_many": connection.get_many,
                    "list": connection.list,
                    "last": lambda: connection.status().revision,
                }
                client = client_of(number)
                while not ending.is_set():
                    drive(client.step(), methods)
        except BaseException as error:
            fail(error)

    async def use_many(number: int, connection: Any) -> None:
        async def last() -> int:
            return int((await connection.status()).revision)

        methods: dict[str, Callable[..., Awaitable[Any]]] = {
            "commit": connection.commit,
            "get": connection.get,
            "get_many": connection.get_many,
            "list": connection.list,
            "last": last,
        }
        client = client_of(number)
        while not ending.is_set():
            await drive_async(client.step(), methods)

    async with (
        stigmer.aio.connect(address, timeout=60, wait_for_ready=True) as patient,
        stigmer.aio.connect(address, timeout=60, wait_for_ready=True) as following,
    ):
        impatient = stigmer.aio.connect(address, timeout=0.2)
        threads = [threading.Thread(target=use_blocking, args=(CLIENTS + number,)) for number in range(BLOCKING)]
        threads.append(threading.Thread(target=followers.follow_blocking, args=(address, fail)))
        for thread in threads:
            thread.start()
        using = [
            asyncio.create_task(use_many(number, impatient if number < IMPATIENT else patient))
            for number in range(CLIENTS)
        ]
        tails = [
            asyncio.create_task(followers.follow(following, 0, (None, None))),
            asyncio.create_task(followers.follow(following, 0, (None, None), slow=True)),
            asyncio.create_task(followers.follow_in_parts(following)),
            *(asyncio.create_task(followers.follow(following, 0, one)) for one in FILTERS),
        ]
        # A client or follower that ends before it is told to has failed.
        waiting = asyncio.create_task(ending.wait())
        await asyncio.wait([waiting, failure, *using, *tails], return_when=asyncio.FIRST_COMPLETED)
        followers.ending = True
        ending.set()  # also for the threads, where somebody failed
        for one in (failure, *using, *tails):
            if one.done():
                one.result()
        await asyncio.gather(*using)
        for thread in threads[:BLOCKING]:
            await asyncio.to_thread(thread.join)
        last = Client(Mix(random.Random(0), ""), recorded[0], reads_at_once=False)
        await drive_async(last.write(f"{seed}.last", [Change("alpha", LAST_ID, b"last 0")]), {"commit": patient.commit})
        following_all = asyncio.gather(*tails)
        await asyncio.wait([failure, following_all], return_when=asyncio.FIRST_COMPLETED)
        if failure.done():
            failure.result()
        await following_all
        await asyncio.to_thread(threads[-1].join)
        await impatient.close()
    return Found(
        [list(one) for one in [*recorded, followers.records]], sorted(followers.events.items()), followers.followed
    )


class Lives:
    """The lives of one daemon."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.directory = turn.directory / "data"
        self._address = f"unix:{turn.directory / 's'}"
        self._unsynced = Unsynced(self.directory / "log")

    def lead(self) -> Found:
        """Start the daemon so many times, and end it, under the clients; give what they found out."""
        turn = self._turn

        def work(channel: Channel) -> None:
            channel.send(asyncio.run(use(self._address, str(turn.seed), channel)))

        with Child(work) as clients:
            for _ in range(turn.amount):
                with self._start() as daemon:
                    self._end(daemon, clients)
                turn.count("restarts")
                turn.count("cuts of what was not synced", self._unsynced.lose(turn.random) > 0)
            with self._start() as daemon:
                self._wait(daemon, clients, 2)
                os.kill(clients.pid, signal.SIGTERM)
                found = clients.rest()[-1]
                assert isinstance(found, Found)
                turn.require(daemon.stop() == 0, "the daemon did not stop")
        return found

    def _start(self) -> Forked:
        segment_bytes = self._turn.random.choice((config.SEGMENT_BYTES_MIN, 32 * config.KIB))
        options = DaemonOptions(str(self.directory), (self._address,), StoreOptions(segment_bytes=segment_bytes))
        return Forked(a_daemon(options), self._unsynced.note)

    def _end(self, daemon: Forked, clients: Child) -> None:
        """End a daemon at some moment of its life."""
        turn, chance = self._turn, self._turn.random
        if chance.random() < 0.1:
            time.sleep(chance.uniform(0, 0.08))
            daemon.kill()
            turn.count("kills around a start")
        else:
            self._wait(daemon, clients, chance.choice((0, 1, 1, 2, 5)))
            if chance.random() < 0.1:
                turn.require(daemon.stop() == 0, "the daemon did not stop")
                turn.count("clean ends")
            else:
                daemon.kill()
        turn.count("kills", daemon.wait() == -signal.SIGKILL)

    def _wait(self, daemon: Forked, clients: Child, steps: int) -> None:
        """Wait until the daemon listens, and then until the clients have come some steps further."""
        turn = self._turn
        turn.require(daemon.report().has_started, "the daemon did not start", report=daemon.report())
        while clients.receive(0):
            pass
        while steps > 0:
            steps -= len(clients.receive())
            turn.require(not clients.is_at_end, "the process of the clients ended by itself")


def check(turn: Turn, directory: Path, found: Found) -> None:
    """Check all that was done and shown against the log of a store."""
    with Store.open(directory) as store:
        log = abridged_log(store)
        turn.count("segments", len(store.segments()))
        if turn.random.random() < 0.2:
            check_store(store)
            turn.count("views compared with the log")
    operations = [one for records in found.records for one in operations_of(records, NEVER)]
    count(turn, log, operations)
    turn.count("events shown", sum(len(one.revisions) or one.last - one.after for one in found.followed))
    events = {
        revision: change for commit in log for revision, change in enumerate(commit.changes, commit.first_revision)
    }
    for revision, change in found.events:
        turn.require(events.get(revision) == change, "a tail showed what is not there", revision=revision, it=change)
    for one in found.followed:
        if one.kinds is not None or one.prefix is not None:
            expected = [
                revision
                for revision, change in events.items()
                if one.after < revision <= one.last
                and (one.kinds is None or change.kind in one.kinds)
                and change.id.startswith(one.prefix or "")
            ]
            turn.require(one.revisions == expected, "a filtered tail showed other events", tail=one)
    history.check(log, operations)


def count(turn: Turn, log: list[Commit], operations: list[Operation]) -> None:
    """Count what was done."""
    made = {commit.request_id for commit in log}
    writes = [one for one in operations if isinstance(one, Write)]
    unknown = [one for one in writes if one.answer is None]
    turn.count("operations", len(operations))
    turn.count("refusals", sum(isinstance(one.answer, Refused) for one in writes))
    turn.count("unknown outcomes", len(unknown))
    turn.count("unknown outcomes that were made", sum(one.request_id in made for one in unknown))


def tails(turn: Turn) -> None:
    """Lead the lives of a daemon and check them."""
    lives = Lives(turn)
    check(turn, lives.directory, lives.lead())


TAILS = Scenario(
    name="tails",
    rows=("D12", "D10", "A1"),
    what="followers and clients of a daemon that is killed: each revision is shown once, in order, and is in the log",
    unit="restarts",
    gate=40,
    chunk=20,
    soak=1_000,
    must=("kills", "operations", "events shown", "segments", "refusals"),
    run=tails,
)


@bug(
    "tail-woken-early",
    "followers are shown a group that is written, but neither durable nor in the views",
    scenario="tails",
    amount=10,
)
def tails_are_woken_before_the_sync() -> None:
    """Move the horizon first."""
    sync = Writer._sync

    def syncing(self: Writer) -> None:
        self._horizon.advance(self._log.next_revision - 1)
        self._horizon.wake()
        sync(self)

    Writer._sync = syncing  # type: ignore[method-assign]


class _AtBorders:
    """A cursor of a tail that does something wrong where it has come into another segment."""

    def __init__(self, cursor: Cursor, wrong: Callable[[list[Frame]], list[Frame]]) -> None:
        self._cursor = cursor
        self._wrong = wrong

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def read(self, upto_revision: int, bytes_max: int = 1 << 20) -> list[Frame]:
        before = self._cursor._segment
        frames = self._cursor.read(upto_revision, bytes_max)
        return self._wrong(frames) if before not in (None, self._cursor._segment) else frames


def _wrong_at_borders(wrong: Callable[[list[Frame]], list[Frame]]) -> None:
    make = _Reader.__init__

    def making(self: _Reader, *arguments: Any) -> None:
        make(self, *arguments)
        self._cursor = _AtBorders(self._cursor, wrong)  # type: ignore[assignment]

    _Reader.__init__ = making  # type: ignore[method-assign]


@bug(
    "tail-skips-at-a-roll",
    "a follower that goes on in the next segment is not shown a commit",
    scenario="tails",
    amount=10,
)
def a_tail_skips_a_commit() -> None:
    """Leave out one."""
    _wrong_at_borders(lambda frames: frames[1:])


@bug(
    "tail-repeats-at-a-roll",
    "a follower that goes on in the next segment is shown a commit again",
    scenario="tails",
    amount=10,
)
def a_tail_repeats_a_commit() -> None:
    """Give one twice."""
    _wrong_at_borders(lambda frames: [*frames, *frames[-1:]])
