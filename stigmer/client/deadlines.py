"""One timer for the many callers of a client, whose times are up in the order in which they began to wait.

All calls of a client have the same timeout, so the first that waits is the first whose time is up. A timer for each
would cost more than the rest of a commit's way through the client.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from stigmer.client.attempts import Attempts


class Waiting(Protocol):
    """Somebody who waits for an answer: `future` gets it."""

    future: asyncio.Future[Any]
    tries: Attempts


W = TypeVar("W", bound=Waiting)


class Deadlines(Generic[W]):
    """Those who wait, the first in front, and the timer of the first."""

    def __init__(self, time_out: Callable[[W], None]) -> None:
        """`time_out` is called with each whose time is up while its future has no answer."""
        self._time_out = time_out
        self._waiting: deque[W] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, one: W) -> None:
        """Watch one whose time is up no sooner than that of those before."""
        waiting = self._waiting
        while waiting and waiting[0].future.done():
            waiting.popleft()
        left = one.tries.seconds_left
        if left is None:
            return
        waiting.append(one)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(left, self._look)

    def _look(self) -> None:
        self._timer = None
        while self._waiting:
            first = self._waiting[0]
            if not first.future.done():
                if not first.tries.is_over:
                    left = first.tries.seconds_left
                    assert left is not None
                    self._timer = asyncio.get_running_loop().call_later(left, self._look)
                    return
                self._time_out(first)
            self._waiting.popleft()

    def close(self) -> None:
        """Stop the timer; whoever still waits is answered by others."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
