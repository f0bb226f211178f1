"""kill -9 of a real daemon, again and again, under writers and a tail that never let go.

What the writers and the tail saw is recorded in this process, which is not killed.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from checks import check_store
from daemon.support import DaemonProcess

import stigmer
import stigmer.aio
from stigmer.config import StoreOptions
from stigmer.errors import OutcomeUnknown
from stigmer.model import Event, Save

KILLS = 100
WRITERS = 16
RESOURCES_PER_COMMIT = 3
SEED = 20_260_101
# Small, so that rolls are among what is interrupted.
OPTIONS = StoreOptions(segment_bytes=64 * 1024)


class Writer:
    """Makes commits 1, 2, 3, ..., each of the same resources with the number as their value."""

    def __init__(self, number: int) -> None:
        self.kind = f"writer-{number}"
        self.sent = 0
        self.acked: dict[int, int] = {}  # number -> last revision
        self.unknown = 0

    async def write(self, address: str) -> None:
        """Write until cancelled. A commit whose outcome is unknown is sent again with the same request id."""
        async with stigmer.aio.connect(address, timeout=60.0, wait_for_ready=True) as client:
            while True:
                self.sent += 1
                value = b"%d " % self.sent * 40
                changes = [Save(self.kind, f"part-{part}", value) for part in range(RESOURCES_PER_COMMIT)]
                request_id = f"{self.kind}.{self.sent}"
                while self.sent not in self.acked:
                    try:
                        committed = await client.commit(changes, request_id=request_id)
                    except OutcomeUnknown:
                        self.unknown += 1
                        continue
                    self.acked[self.sent] = committed.last_revision

    def number_of(self, value: bytes) -> int:
        return int(value.split()[0])


async def follow(address: str, seen: list[Event]) -> None:
    """Follow the log from its start until cancelled."""
    async with stigmer.aio.connect(address, timeout=60.0, wait_for_ready=True) as client:
        async for event in client.tail(0):
            seen.append(event)


async def kill_often(
    data_dir: Path, address: str, writers: list[Writer], tasks: list[asyncio.Task[None]], kills: int
) -> Counter[str]:
    """Start and kill the daemon; give counts of what the kills met."""
    chance = random.Random(SEED)
    met: Counter[str] = Counter()
    for _ in range(kills):
        check_alive(tasks)
        before = sum(len(writer.acked) for writer in writers)
        with await asyncio.to_thread(DaemonProcess, data_dir, address, store=OPTIONS) as daemon:
            # Some kills come as soon as it listens, some after it has answered a few hundred commits.
            wanted = before + chance.choice((0, 1, 20, 100, 200))
            while sum(len(writer.acked) for writer in writers) < wanted:
                check_alive(tasks)
                await asyncio.sleep(0.001)  # the writers run in this loop; this only lets them
            met["commits under way"] += sum(writer.sent not in writer.acked for writer in writers)
            await asyncio.to_thread(daemon.kill)
        met["kills"] += 1
        met["kills after an answer"] += sum(len(writer.acked) for writer in writers) > before
    return met


async def run(data_dir: Path, address: str, writers: list[Writer], seen: list[Event]) -> Counter[str]:
    """Have writers and a follower at work through all the kills and a last, quiet start; give what the kills met."""
    tasks = [asyncio.create_task(writer.write(address)) for writer in writers]
    follower = asyncio.create_task(follow(address, seen))
    met = await kill_often(data_dir, address, writers, [*tasks, follower], KILLS)
    with await asyncio.to_thread(DaemonProcess, data_dir, address, store=OPTIONS) as daemon:
        goal = [len(writer.acked) + 2 for writer in writers]
        while any(len(writer.acked) < wanted for writer, wanted in zip(writers, goal, strict=True)):
            check_alive([*tasks, follower])
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        last = max(max(writer.acked.values()) for writer in writers)
        while not seen or seen[-1].revision < last:
            check_alive([follower])
            await asyncio.sleep(0.01)
        follower.cancel()
        with suppress(asyncio.CancelledError):
            await follower
        assert await asyncio.to_thread(daemon.stop) == 0
    return met


def check_alive(tasks: list[asyncio.Task[None]]) -> None:
    """Raise what ended a writer or the follower, which only this test may end."""
    for task in tasks:
        if task.done():
            task.result()


@pytest.mark.timeout(1_500)  # half a minute on a machine at rest, several on a busy one
def test_nothing_acknowledged_is_lost_over_a_hundred_kills(tmp_path: Path) -> None:
    """Every acknowledged commit is there once, whole, at its revision; a tail from before saw every revision once."""
    writers = [Writer(number) for number in range(WRITERS)]
    seen: list[Event] = []
    met = asyncio.run(run(tmp_path / "data", f"unix:{tmp_path / 'socket'}", writers, seen))
    print(f"seed {SEED}: {dict(met)}, {len(seen)} events")

    assert met["kills"] >= KILLS
    assert met["kills after an answer"] >= KILLS // 4, "the kills came before there was anything to lose"
    assert met["commits under way"] >= KILLS, "the kills came while nothing was being written"

    with stigmer.open(tmp_path / "data", segment_bytes=OPTIONS.segment_bytes) as store:
        assert store.recovery == (), "the last end was a clean one"
        log = check_store(store)
    # The tail may have been cut off before the very last events; what it saw is the log, from its first revision on.
    assert seen == log[: len(seen)]
    by_kind: dict[str, list[Event]] = {writer.kind: [] for writer in writers}
    for event in log:
        by_kind[event.kind].append(event)
    for writer in writers:
        check_writer(writer, by_kind[writer.kind])


def check_writer(writer: Writer, events: list[Event]) -> None:
    """Check that a writer's commits are in the log once each, whole, in order, and where it was told they are."""
    commits = [events[first : first + RESOURCES_PER_COMMIT] for first in range(0, len(events), RESOURCES_PER_COMMIT)]
    numbers = []
    for commit in commits:
        number = writer.number_of(commit[0].value)
        numbers.append(number)
        assert [event.id for event in commit] == [f"part-{part}" for part in range(RESOURCES_PER_COMMIT)]
        assert {event.value for event in commit} == {commit[0].value}
        assert commit[-1].revision - commit[0].revision == RESOURCES_PER_COMMIT - 1
        if number in writer.acked:
            assert commit[-1].revision == writer.acked[number]
    # The last one may have been sent and never answered.
    assert numbers in (list(range(1, writer.sent + 1)), list(range(1, writer.sent)))
    assert set(writer.acked) <= set(numbers)
