"""Asyncio clients that write and follow while a daemon comes and goes, and what must be in its log at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import stigmer.aio
from stigmer.errors import OutcomeUnknown
from stigmer.model import Event, Save

RESOURCES_PER_COMMIT = 3


class Writer:
    """Makes commits 1, 2, 3, ..., each of the same resources with the number as their value."""

    def __init__(self, number: int) -> None:
        self.kind = f"writer-{number}"
        self.sent = 0
        self.acked: dict[int, int] = {}  # number -> last revision
        self.unknown = 0

    async def write(self, address: str, timeout: float = 60.0) -> None:
        """Write until cancelled. A commit whose outcome is unknown is sent again with the same request id."""
        async with stigmer.aio.connect(address, timeout=timeout, wait_for_ready=True) as client:
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


def check_alive(tasks: list[asyncio.Task[None]]) -> None:
    """Raise what ended a writer or the follower, which only this test may end."""
    for task in tasks:
        if task.done():
            task.result()


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


def check_all(writers: Sequence[Writer], seen: list[Event], log: list[Event]) -> None:
    """Check that the log holds what writers were answered and nothing else, and that a tail saw it from its start."""
    # The tail may have been cut off before the very last events.
    assert seen == log[: len(seen)]
    by_kind: dict[str, list[Event]] = {writer.kind: [] for writer in writers}
    for event in log:
        by_kind[event.kind].append(event)
    for writer in writers:
        check_writer(writer, by_kind[writer.kind])
