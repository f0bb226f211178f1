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
from daemon.writers import Writer, check_alive, check_all, follow

import stigmer
from stigmer.config import StoreOptions
from stigmer.model import Event

KILLS = 100
WRITERS = 16
SEED = 20_260_101
# Small, so that rolls are among what is interrupted.
OPTIONS = StoreOptions(segment_bytes=64 * 1024)


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
    check_all(writers, seen, log)
