"""Rows A15 and A16: a daemon that is told to stop, and one that is stood still for a while, under load."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from checks import check_store
from daemon.support import DaemonProcess, DidNotStart
from daemon.writers import Writer, check_alive, check_all, follow
from log.support import frames_in, segment_files

import stigmer.aio
from faults.scenario import Failed, Scenario, Turn
from stigmer.config import DRAIN_SECONDS, StoreOptions
from stigmer.errors import LogLocked, Unavailable
from stigmer.log.format import FLAG_SEAL
from stigmer.model import Event
from stigmer.store import Store

_WRITERS = 8
_OPTIONS = StoreOptions(segment_bytes=64 * 1024)
_END_SECONDS_MAX = 60.0
"""A daemon that takes longer to end hangs. How many took longer than they should is counted."""
_SHORT_PAUSES_MAX = 5
"""A turn of more has a long one behind these."""
_DEADLINE_SECONDS = 0.5
"""Of writers that are to give up while the daemon stands still, and try again."""


class Load:
    """Clients that write, and one that follows, through all that is done to the daemon."""

    def __init__(self, turn: Turn, deadline_seconds: float) -> None:
        self.turn = turn
        self.data_dir = turn.directory / "data"
        self.address = f"unix:{turn.directory / 'socket'}"
        self._deadline_seconds = deadline_seconds
        self._writers = [Writer(number) for number in range(_WRITERS)]
        self._seen: list[Event] = []
        self._tasks = [
            *(asyncio.create_task(self._write(writer)) for writer in self._writers),
            asyncio.create_task(follow(self.address, self._seen)),
        ]

    async def _write(self, writer: Writer) -> None:
        while True:
            with suppress(Unavailable):  # to connect took longer than a call may
                await writer.write(self.address, self._deadline_seconds)

    def daemon(self) -> Awaitable[DaemonProcess]:
        """Start a daemon; not on the loop, in which the clients are."""
        return asyncio.to_thread(DaemonProcess, self.data_dir, self.address, store=_OPTIONS)

    async def answers(self, count: int) -> None:
        """Wait until so many more commits are answered."""
        wanted = self.answered + count
        while self.answered < wanted:
            check_alive(self._tasks)
            await asyncio.sleep(0.001)  # the clients are in this loop; this only lets them

    @property
    def answered(self) -> int:
        """How many commits were."""
        return sum(len(writer.acked) for writer in self._writers)

    @property
    def unknown(self) -> int:
        """How many calls ended without an answer."""
        return sum(writer.unknown for writer in self._writers)

    def under_way(self) -> int:
        """How many commits are sent and not answered."""
        return sum(writer.sent not in writer.acked for writer in self._writers)

    async def end(self) -> None:
        """End the clients, once the daemon has ended, and compare what they saw with what is in the store."""
        check_alive(self._tasks)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.turn.count("operations", self.answered)
        with Store.open(self.data_dir) as store:
            assert store.recovery == (), f"after a clean end: {store.recovery}"
            check_all(self._writers, self._seen, check_store(store))


def _under_load(work: Callable[[Load], Awaitable[None]], deadline_seconds: float) -> Callable[[Turn], None]:
    async def run(turn: Turn) -> None:
        load = Load(turn, deadline_seconds)
        await work(load)
        await load.end()

    return lambda turn: asyncio.run(run(turn))


# --- told to stop ----------------------------------------------------------------------------------------


async def _stop_often(load: Load) -> None:
    for _ in range(load.turn.amount):
        with await load.daemon() as daemon:
            async with stigmer.aio.connect(load.address, timeout=60.0, wait_for_ready=True) as client:
                recovery = (await client.status()).recovery
            load.turn.require(not recovery, "a start after a clean end had something to do", recovery=recovery)
            await load.answers(load.turn.random.randint(1, 300))
            await _stop(load, daemon)


async def _stop(load: Load, daemon: DaemonProcess) -> None:
    number = load.turn.random.choice((signal.SIGTERM, signal.SIGINT))
    load.turn.count("commits under way at a stop", load.under_way())
    started = time.monotonic()
    daemon.signal(number)
    status = await asyncio.to_thread(daemon.wait, _END_SECONDS_MAX)
    seconds = time.monotonic() - started
    load.turn.require(status == 0, "a daemon that was told to stop did not end well", status=status)
    load.turn.require(_is_sealed(load.data_dir), "a daemon that was told to stop left the log without a seal")
    load.turn.count("stops")
    load.turn.count(f"stops by {number.name}")
    load.turn.count(f"stops that took more than {DRAIN_SECONDS:.0f} s", seconds > DRAIN_SECONDS)


def _is_sealed(data_dir: Path) -> bool:
    return bool(frames_in(segment_files(data_dir / "log")[-1])[-1][1].flags & FLAG_SEAL)


STOPS = Scenario(
    name="stops",
    rows=("A15",),
    what="SIGTERM and SIGINT under load: answers what is under way, seals the log, and the next start is a clean one",
    unit="stops",
    gate=6,
    chunk=8,
    soak=100,
    must=("commits under way at a stop", "stops by SIGTERM", "stops by SIGINT", "operations"),
    run=_under_load(_stop_often, 60.0),
)


# --- stood still -----------------------------------------------------------------------------------------


async def _pause_often(load: Load) -> None:
    with await load.daemon() as daemon:
        for _ in range(load.turn.amount):
            await load.answers(load.turn.random.randint(20, 200))
            await _pause(load, daemon)
        await load.answers(100)
        await _stop(load, daemon)


async def _pause(load: Load, daemon: DaemonProcess) -> None:
    turn = load.turn
    under_way, unknown = load.under_way(), load.unknown
    is_long = turn.amount > _SHORT_PAUSES_MAX and turn.tally["pauses"] == _SHORT_PAUSES_MAX
    seconds = 30.0 if is_long else turn.random.uniform(0.1, 0.5)
    daemon.signal(signal.SIGSTOP)
    try:
        end = time.monotonic() + seconds
        _refused(load, daemon.pid)
        if turn.tally["pauses"] == 0:
            await _refused_daemon(load)
        # Until clients have given up on calls whose outcome they do not know, and the time is over.
        while time.monotonic() < end or (under_way and load.unknown == unknown):
            await asyncio.sleep(0.01)
    finally:
        daemon.signal(signal.SIGCONT)
    turn.count("pauses")
    turn.count("commits under way at a pause", under_way)
    turn.count("calls without an answer", load.unknown - unknown)


def _refused(load: Load, pid: int) -> None:
    """Try to open the store that a daemon, which stands still, has."""
    try:
        Store.open(load.data_dir).close()
    except LogLocked as error:
        load.turn.require(error.pid == pid, "the owner is another", pid=error.pid)
        load.turn.count("second owners refused")
        return
    raise Failed("there was a second owner")


async def _refused_daemon(load: Load) -> None:
    try:
        with await asyncio.to_thread(DaemonProcess, load.data_dir):
            raise Failed("there was a second daemon")
    except DidNotStart as error:
        load.turn.require("LogLocked" in error.stderr, "it did not start for another reason", stderr=error.stderr)
        load.turn.count("second owners refused")


PAUSES = Scenario(
    name="pauses",
    rows=("A16",),
    what="SIGSTOP for a while, then SIGCONT: nothing is lost, and nobody else becomes the owner",
    unit="pauses",
    gate=5,
    chunk=10,
    soak=20,
    must=("commits under way at a pause", "calls without an answer", "second owners refused", "operations"),
    run=_under_load(_pause_often, _DEADLINE_SECONDS),
)
