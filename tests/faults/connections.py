"""Connections that are cut, networks that lose packets, deadlines that pass: what is sent again is applied once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import history, needs, network
from faults.bugs import bug
from faults.children import Channel, Child, in_child
from faults.clients import Client, Mix, abridged_log, drive_async, operations_of
from faults.forked import Forked, a_daemon
from faults.history import NEVER, Acked, Write
from faults.proxy import Proxy
from faults.scenario import Scenario, Turn
from faults.tails import Found, check, count, use
from stigmer import config
from stigmer.client.requests import TailFilter
from stigmer.config import StoreOptions
from stigmer.daemon.lifecycle import DaemonOptions
from stigmer.decision import Decision, Ticket
from stigmer.log import files
from stigmer.store import Store

OPTIONS = StoreOptions(segment_bytes=32 * config.KIB)

# --- cut connections ---


async def _use_through_proxy(socket: Path, seed: str, cuts: int, channel: Channel) -> Found:
    """Use a daemon through a proxy until that has cut so many times."""
    proxy = Proxy(socket, random.Random(f"{seed}.proxy"), cuts)

    async def end_when_done() -> None:
        await proxy.is_done.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    ending = asyncio.create_task(end_when_done())
    try:
        found = await use(await proxy.listen(), seed, channel)
        await ending
    finally:
        proxy.close()
    return found


def cuts(turn: Turn) -> None:
    """Cut every connection so many times, under clients and followers."""
    directory, socket = turn.directory / "data", turn.directory / "s"

    def work(channel: Channel) -> None:
        channel.send(asyncio.run(_use_through_proxy(socket, str(turn.seed), turn.amount, channel)))

    found = _beside_a_daemon(turn, work)[-1]
    turn.count("cuts", turn.amount)
    check(turn, directory, found)


def _beside_a_daemon(
    turn: Turn, work: Callable[[Channel], None], prepare: Callable[[], None] = lambda: None
) -> list[Any]:
    """Do some work in a process beside a daemon that listens on the socket `s`; give what it sent."""
    listen = f"unix:{turn.directory / 's'}"
    options = DaemonOptions(str(turn.directory / "data"), (listen,), OPTIONS)
    with Forked(a_daemon(options), prepare) as daemon:
        turn.require(daemon.report().has_started, "the daemon did not start", report=daemon.report())
        sent = in_child(work)
        turn.require(daemon.stop() == 0, "the daemon did not stop")
    return sent


CUTS = Scenario(
    name="cuts",
    rows=("D15",),
    what="connections are cut, delayed and slowed: clients come back, what they sent is applied once, tails go on",
    unit="cuts",
    gate=100,
    chunk=50,
    soak=1_000,
    must=("operations", "events shown", "refusals"),
    run=cuts,
)

# --- lost packets ---


def losses(turn: Turn) -> None:
    """Have so many packets dropped between a daemon and its clients and followers."""
    network.enter_narrow()
    directory = turn.directory / "data"
    options = DaemonOptions(str(directory), ("127.0.0.1:0",), OPTIONS)
    with Forked(a_daemon(options)) as daemon:
        turn.require(daemon.report().has_started, "the daemon did not start", report=daemon.report())
        address = daemon.report().listen[0]
        with Child(lambda channel: channel.send(asyncio.run(use(address, str(turn.seed), channel)))) as clients:
            while network.dropped() < turn.amount:
                clients.receive()
                turn.require(not clients.is_at_end, "the process of the clients ended by itself")
            os.kill(clients.pid, signal.SIGTERM)
            found = clients.rest()[-1]
        turn.require(daemon.stop() == 0, "the daemon did not stop")
    turn.count("lost packets", network.dropped())
    check(turn, directory, found)


LOSSES = Scenario(
    name="losses",
    rows=("D15",),
    what="on a network of 1 Mbit/s that drops packets, what is sent is applied once, and tails show everything",
    unit="lost packets",
    gate=500,
    chunk=1_000,
    soak=10_000,
    must=("operations", "events shown"),
    run=losses,
    needs=(needs.network,),
)

# --- deadlines ---

DEADLINE_SECONDS = 0.1
HASTY_ATTEMPTS = 3
REQUESTS_AT_ONCE = 150


def _sync_slowly(seed: int) -> None:
    """Have each sync take about as long as a caller is willing to wait."""
    sync = files.sync_data
    chance = random.Random(seed)

    def slowly(fd: int) -> None:
        time.sleep(chance.choice((0, 0.5, 1.2, 2)) * DEADLINE_SECONDS)
        sync(fd)

    files.sync_data = slowly


async def _insist(address: str, seed: str, retries: int) -> list[list[bytes]]:
    """Make commits until so many were tried again; give the records of them all."""
    import stigmer.aio

    lanes: list[list[bytes]] = []
    tried_again = 0

    async def insist(number: int) -> None:
        nonlocal tried_again
        records: list[bytes] = []
        lanes.append(records)
        mix = Mix(random.Random(f"{seed}.{number}"), f"{seed}.{number}")
        client = Client(mix, records, reads_at_once=False)
        while tried_again < retries:
            request_id, changes = mix.request()
            for attempt in range(HASTY_ATTEMPTS + 1):
                before = len(records)
                connection = hasty if attempt < HASTY_ATTEMPTS else patient
                await drive_async(client.write(request_id, changes), {"commit": connection.commit})
                tried_again += attempt > 0
                if len(records) == before + 2:
                    break

    async with (
        stigmer.aio.connect(address, timeout=60) as patient,
        stigmer.aio.connect(address, timeout=60) as first,
    ):
        await first.status()
        hasty: Any = stigmer.aio.connect(address, timeout=DEADLINE_SECONDS)
        await asyncio.gather(*(insist(number) for number in range(REQUESTS_AT_ONCE)))
        await hasty.close()
    return lanes


def deadlines(turn: Turn) -> None:
    """Try so many commits again whose deadline has passed."""
    directory, address = turn.directory / "data", f"unix:{turn.directory / 's'}"

    def work(channel: Channel) -> None:
        channel.send(asyncio.run(_insist(address, str(turn.seed), turn.amount)))

    lanes = _beside_a_daemon(turn, work, lambda: _sync_slowly(turn.seed))[-1]
    with Store.open(directory) as store:
        log = abridged_log(store)
    operations = [one for records in lanes for one in operations_of(records, NEVER)]
    count(turn, log, operations)
    attempts: dict[str, list[Write]] = {}
    for one in operations:
        assert isinstance(one, Write)
        attempts.setdefault(one.request_id, []).append(one)
    for each in attempts.values():
        turn.count("retries", sum(earlier.answer is None for earlier in each[:-1]))
        turn.count(
            "retries answered with what the first had done",
            each[0].answer is None and isinstance(each[-1].answer, Acked),
        )
    history.check(log, operations)


DEADLINES = Scenario(
    name="deadlines",
    rows=("A12", "D13"),
    what="deadlines pass while a slow disk syncs: what is sent again with its request id is applied exactly once",
    unit="retries",
    gate=1_000,
    chunk=1_000,
    soak=10_000,
    must=("retries answered with what the first had done", "unknown outcomes that were made"),
    run=deadlines,
)


@bug(
    "repeat-in-group-made-again",
    "a request that comes twice while a group is synced is applied twice",
    scenario="deadlines",
    amount=300,
)
def a_repeat_in_the_same_group_is_made_again() -> None:
    """Forget what the group has had."""
    take = Decision.take

    def taking(self: Decision, ticket: Ticket) -> None:
        self._answered.clear()
        take(self, ticket)

    Decision.take = taking  # type: ignore[method-assign]


@bug(
    "tail-comes-back-too-far",
    "a follower whose connection broke goes on one revision too far",
    scenario="cuts",
    amount=40,
)
def a_tail_that_comes_back_skips_an_event() -> None:
    """Ask for more than the first time."""
    request = TailFilter.request
    asked: weakref.WeakSet[TailFilter] = weakref.WeakSet()

    def requesting(self: TailFilter, after: int) -> bytes:
        comes_back = self in asked
        asked.add(self)
        return request(self, after + (comes_back and after > 0))

    TailFilter.request = requesting  # type: ignore[method-assign]
