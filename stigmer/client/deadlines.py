"""One timer for the many callers of a client, whose times are up about in the order in which they began to wait.

All calls of a client have the same timeout, so the first that waits is nearly always the first whose time is up. A
timer for each would cost more than the rest of a commit's way through the client.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from stigmer.client.attempts import Attempts

_COMPACT_MIN = 1024


class Waiting(Protocol):
    """Somebody who waits for an answer: `future` gets it."""

    future: asyncio.Future[Any]
    tries: Attempts


W = TypeVar("W", bound=Waiting)


class _Entry(NamedTuple):
    deadline: float
    # Weak, so that what was answered, and may be large, is not kept for those before it that were not.
    one: weakref.ref[Any]

    @property
    def is_answered(self) -> bool:
        one = self.one()
        return one is None or one.future.done()


class Deadlines(Generic[W]):
    """Those who wait, in the order of their deadlines, and the timer of the first."""

    def __init__(self, time_out: Callable[[W], None]) -> None:
        """`time_out` is called with each whose time is up while its future has no answer."""
        self._time_out = time_out
        self._waiting: deque[_Entry] = deque()
        self._compact_at = _COMPACT_MIN
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def watch(self, one: W) -> None:
        """Watch one, as long as somebody else refers to it."""
        left = one.tries.seconds_left
        if left is None:
            return
        waiting = self._waiting
        while waiting and waiting[0].is_answered:
            waiting.popleft()
        if len(waiting) >= self._compact_at:
            self._waiting = waiting = deque(entry for entry in waiting if not entry.is_answered)
            self._compact_at = max(_COMPACT_MIN, 2 * len(waiting))
        entry = _Entry(time.monotonic() + left, weakref.ref(one))
        place = len(waiting)
        while place and waiting[place - 1].deadline > entry.deadline:
            place -= 1
        waiting.insert(place, entry)
        if self._timer is None or entry.deadline < self._timer_at:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._waiting[0].deadline
        left = max(0.0, self._timer_at - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(left, self._look)

    def _look(self) -> None:
        self._timer = None
        while self._waiting:
            entry = self._waiting[0]
            if not entry.is_answered:
                if entry.deadline > time.monotonic():
                    self._set_timer()
                    return
                one = entry.one()
                if one is not None:
                    self._time_out(one)
            self._waiting.popleft()

    def close(self) -> None:
        """Stop the timer; whoever still waits is answered by others."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
