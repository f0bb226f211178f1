"""The horizon: the last revision that followers may see, and those who wait for it to move.

It moves only after a group is durable (as far as the store was asked to make it) and in the views. Followers wait on
it; none has a queue here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from stigmer.errors import StigmerError

_logger = logging.getLogger("stigmer")


class Horizon:
    """A revision that only grows, until it is closed.

    `_condition` guards the fields; nothing else is taken while it is held. Callbacks run without it.
    """

    def __init__(self, revision: int) -> None:
        """Start at a revision."""
        self._condition = threading.Condition(threading.Lock())
        self.revision = revision
        self._end: StigmerError | None = None
        self._callbacks: tuple[Callable[[], None], ...] = ()
        self._waiting = 0

    def advance(self, revision: int) -> None:
        """Move to a revision. Those who wait are woken by `wake`, so that the answers to writers can go first."""
        self.revision = revision

    def wake(self) -> None:
        """Wake everybody who waits."""
        if self._waiting:
            with self._condition:
                self._condition.notify_all()
        self._call_back()

    def close(self, end: StigmerError) -> None:
        """Stop moving; who waits, now or later, gets this error."""
        with self._condition:
            if self._end is None:
                self._end = end
            self._condition.notify_all()
        self._call_back()

    def wait_past(self, revision: int) -> int:
        """Wait until the horizon is past a revision and give it. Raises what `close` was given."""
        with self._condition:
            self._waiting += 1
            try:
                while self.revision <= revision:
                    if self._end is not None:
                        raise self._end.with_traceback(None)  # one error for many callers
                    self._condition.wait()
            finally:
                self._waiting -= 1
        return self.revision

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have a quick function called, on the writer's thread, after each move and at the end; give its removal."""
        with self._condition:
            self._callbacks = (*self._callbacks, callback)

        def unsubscribe() -> None:
            with self._condition:
                self._callbacks = tuple(one for one in self._callbacks if one is not callback)

        return unsubscribe

    def _call_back(self) -> None:
        for callback in self._callbacks:
            try:
                callback()
            except Exception:
                # A bug of the follower, such as a loop that is closed. It must not stop the writer.
                _logger.exception("a follower was not told that the horizon has moved")
