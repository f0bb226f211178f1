"""What the daemon refuses: how much of it, by status code, and a line in its log for each cause, once in a while.

A refusal is of a call, or of one commit of a stream: who makes it has not shown who they are, or a limit is reached.
That something is not there, or has another revision, is an answer like any other.

Invariants:
- A cause takes at most one line in `log_seconds`, however much is refused, and each refusal is counted in some line.
  The causes are the limits and the two ways of not having the token: no caller can make another one.
- Of what callers choose, a line has the method and their address, escaped and cut, and perhaps the name of a resource;
  no metadata, and no value.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from stigmer import config, names, wire
from stigmer.errors import ResourceExhausted, StigmerError, Unauthenticated

_logger = logging.getLogger("stigmer.daemon")


class Refusals:
    """Counts and logs. Belongs to one event loop."""

    def __init__(self, log_seconds: float = config.REFUSALS_LOG_SECONDS) -> None:
        self._log_seconds = log_seconds
        self._loop = asyncio.get_running_loop()
        self.counts: dict[str, int] = {}
        """Since the start, by the name of the status code."""
        self._quiet: dict[str, _Quiet] = {}
        """The causes of which a line was written not long ago."""

    def note(self, error: StigmerError, path: str, peer: Callable[[], str]) -> None:
        """Take notice of an error that a call, or a commit of a stream, ends with: most are no refusals.

        `path` is the method's; `peer` gives the caller's address, and is called for refusals only.
        """
        if isinstance(error, ResourceExhausted):
            cause = error.limit or type(error).__name__
        elif isinstance(error, Unauthenticated):
            cause = error.message
        else:
            return
        status = wire.status_of(error)
        self.counts[status] = self.counts.get(status, 0) + 1
        refusal = _Refusal(status, error.message, peer(), path)
        quiet = self._quiet.get(cause)
        if quiet is None:
            _logger.warning("refused: %s", refusal)
            self._be_quiet(cause)
        else:
            quiet.count += 1
            quiet.last = refusal

    def close(self) -> None:
        """Log what is not logged yet."""
        for cause in list(self._quiet):
            self._quiet[cause].timer.cancel()
            self._tell_rest(cause)

    def _be_quiet(self, cause: str) -> None:
        self._quiet[cause] = _Quiet(self._loop.call_later(self._log_seconds, self._end_quiet, cause))

    def _end_quiet(self, cause: str) -> None:
        if self._tell_rest(cause):
            self._be_quiet(cause)

    def _tell_rest(self, cause: str) -> bool:
        quiet = self._quiet.pop(cause)
        if quiet.count:
            _logger.warning("refused %d more like the last; the newest: %s", quiet.count, quiet.last)
        return quiet.count > 0


class _Refusal(NamedTuple):
    status: str
    message: str
    peer: str
    path: str

    def __str__(self) -> str:
        return f"{self.status}: {self.message} (from {names.shown(self.peer)}, for {names.shown(self.path)})"


class _Quiet:
    """A cause of which no line is written for a while."""

    def __init__(self, timer: asyncio.TimerHandle) -> None:
        self.timer = timer
        self.count = 0
        """What was refused since."""
        self.last: _Refusal | None = None
