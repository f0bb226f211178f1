"""From the event loop to the store's writer and back.

Invariants:
- The event loop never waits for the disk: a commit goes to the writer, and comes back through `_deliver`, by one
  wake-up of the loop for all the commits of a group.
- Commits that the loop has at hand in one turn share a group, and its fsync.
- Whoever is answered may fail; the others of its group are answered all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from stigmer.decision import Operation, Ticket
from stigmer.errors import StigmerError
from stigmer.model import Committed, Transacted
from stigmer.store import Store, transacted

_ANSWERS_AT_ONCE = 128
"""After this many answers of one group, other calls have their turn."""

_logger = logging.getLogger("stigmer.daemon")

Settle = Callable[[Ticket], None]
"""Takes a ticket that is answered, on the event loop."""


class CommitQueue:
    """Queues commits on behalf of calls. Belongs to one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._is_waking = False

    def submit(self, payload: bytes, settle: Settle) -> None:
        """Queue a serialized commit."""
        self._store.submit(payload, self._deliver, settle, wake=False)
        self._wake_soon()

    def submit_elsewhere(self, payload: bytes, settle: Settle) -> None:
        """Do the same on another thread, where checking the commit takes long."""
        try:
            self._store.submit(payload, self._deliver, settle)
            return
        except StigmerError as error:
            refusal = error
        # It waits for the event loop, and others behind it.
        raise refusal.without_frames()

    async def commit(self, submit: Callable[[Settle], Any]) -> Committed:
        """Queue a commit by a function that is given the `Settle`, and wait for its answer."""
        done: asyncio.Future[Ticket] = self._loop.create_future()
        queued = submit(_settling(done))
        if queued is not None:
            await queued
        answer = (await done).answer
        if isinstance(answer, Committed):
            return answer
        raise answer

    async def transact(self, operation: Operation, request_id: str, size: int) -> Transacted:
        """Queue an operation, and wait for its answer."""
        done: asyncio.Future[Ticket] = self._loop.create_future()
        self._store.submit_operation(
            operation, self._deliver, _settling(done), request_id=request_id, size=size, wake=False
        )
        self._wake_soon()
        return transacted(await done)

    def _wake_soon(self) -> None:
        if not self._is_waking:
            # Behind the calls that the loop has at hand already.
            self._is_waking = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._is_waking = False
        self._store.wake()

    def _deliver(self, tickets: list[Ticket]) -> None:
        # On the writer's thread, once per group.
        self._loop.call_soon_threadsafe(self._settle, tickets, 0)

    def _settle(self, tickets: list[Ticket], first: int) -> None:
        """Hand each caller its answer, on the event loop; after some of them, other calls have their turn."""
        end = first + _ANSWERS_AT_ONCE
        for ticket in tickets[first:end]:
            # Taken out, for what waits gets the ticket: it must not keep itself, and its payload, until a collection.
            settle, ticket.context = ticket.context, None
            try:
                settle(ticket)
            except Exception:
                _logger.exception("an answer was not taken")
        if end < len(tickets):
            self._loop.call_soon(self._settle, tickets, end)


def _settling(done: asyncio.Future[Ticket]) -> Settle:
    def settle(ticket: Ticket) -> None:
        if not done.done():  # else cancelled: nobody waits
            done.set_result(ticket)

    return settle
