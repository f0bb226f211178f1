"""The one timer of a client's calls."""

from __future__ import annotations

import asyncio
import time

from stigmer.client.attempts import Attempts
from stigmer.client.deadlines import Deadlines
from stigmer.wire import Address

ADDRESS = Address("127.0.0.1", 1, "")


class One:
    """Somebody who waits."""

    def __init__(self, name: str, timeout: float | None) -> None:
        self.name = name
        self.tries = Attempts(ADDRESS, timeout, can_wait=True)
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


def test_each_is_told_when_its_own_time_is_up() -> None:
    """In the order of the deadlines, also where somebody with an earlier one comes later; the answered are not."""

    async def run() -> None:
        told: list[str] = []
        started = time.monotonic()
        deadlines: Deadlines[One] = Deadlines(lambda one: told.append(one.name))
        ones = [One("late", 0.6), One("early", 0.2), One("answered", 0.1), One("middle", 0.4), One("never", None)]
        for one in ones:
            deadlines.watch(one)
        ones[2].future.set_result(None)
        while len(told) < 3:
            await asyncio.sleep(0.01)
            if time.monotonic() - started < 0.2:
                assert told == []
        assert told == ["early", "middle", "late"]
        assert time.monotonic() - started >= 0.6
        deadlines.close()

    asyncio.run(run())


def test_the_answered_are_not_kept() -> None:
    """Behind one that waits long, answered ones are forgotten with all they hold, and their places in the end."""

    async def run() -> None:
        deadlines: Deadlines[One] = Deadlines(lambda one: None)
        first = One("first", 60.0)
        deadlines.watch(first)
        for _ in range(10_000):
            one = One("answered", 60.0)
            deadlines.watch(one)
            one.future.set_result(None)
        assert sum(entry.one() is not None for entry in deadlines._waiting) <= 2
        assert len(deadlines._waiting) <= 2048
        deadlines.close()

    asyncio.run(run())
