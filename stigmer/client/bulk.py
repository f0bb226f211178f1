"""`client.writer()`: very many commits of one caller, sent on without waiting for each answer.

    async with client.writer() as writer:
        for id, value in source:
            await writer.save("note", id, value)
    # here all of them are durable, or `BatchFailed` was raised

`save`, `delete` and `commit` return when the commit is queued, and wait only while more than `max_bytes_in_flight` is
unanswered. Commits are made in the order of the calls, on a stream of the writer's own, so that other calls of the
client do not stand behind them. Each has the client's timeout, from the moment it is queued.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType

from stigmer.client.requests import RequestIds
from stigmer.client.write_stream import WriteStream
from stigmer.errors import BatchFailed, InvalidArgument, StigmerError
from stigmer.model import Committed, Delete, Save

_FAILURES_KEPT = 100


class BulkWriter:
    """Made by `client.writer()`; to be used in an `async with`, which flushes at its end."""

    def __init__(
        self,
        open_stream: Callable[[int], Awaitable[WriteStream]],
        request_ids: RequestIds,
        max_bytes_in_flight: int,
        progress: Callable[[BulkWriter], None] | None,
    ) -> None:
        """`progress` is called, with the writer, whenever some commits were answered."""
        if max_bytes_in_flight < 1:
            raise InvalidArgument("max_bytes_in_flight", f"must be at least 1, not {max_bytes_in_flight}")
        self._open_stream = open_stream
        self._request_ids = request_ids
        self._bytes_max = max_bytes_in_flight
        self._progress = progress
        self._stream: WriteStream | None = None
        self._opening = asyncio.Lock()
        self._written = 0
        self._acknowledged = 0
        self._failed = 0
        self._failures: dict[int, StigmerError] = {}
        self._all_answered = asyncio.Event()
        self._is_telling = False

    @property
    def written(self) -> int:
        """How many commits were queued."""
        return self._written

    @property
    def acknowledged(self) -> int:
        """How many of them are durable and visible."""
        return self._acknowledged

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return self._failed

    async def save(
        self,
        kind: str,
        id: str,
        value: object,
        expected_revision: int | None = None,
        request_id: str | None = None,
    ) -> None:
        """Queue the Save of one resource."""
        await self.commit([Save(kind, id, value, expected_revision)], request_id)

    async def delete(
        self, kind: str, id: str, expected_revision: int | None = None, request_id: str | None = None
    ) -> None:
        """Queue the Delete of one resource."""
        await self.commit([Delete(kind, id, expected_revision)], request_id)

    async def commit(self, changes: Sequence[Save | Delete], request_id: str | None = None) -> None:
        """Queue changes as one atomic commit. Raises at once what is wrong with the arguments."""
        if self._stream is None:
            async with self._opening:  # callers that come together open one stream
                if self._stream is None:
                    self._stream = await self._open_stream(self._bytes_max)
        write = await self._stream.put(changes, request_id or self._request_ids.next())
        write.future.add_done_callback(functools.partial(self._take_answer, self._written))
        self._written += 1
        self._all_answered.clear()

    async def flush(self) -> None:
        """Wait until everything queued has its answer; raises `BatchFailed` where some failed since the last flush.

        Its `failures` are counted from the writer's first commit, which is 0.
        """
        while self._acknowledged + self._failed < self._written:
            await self._all_answered.wait()
        if self._failures:
            failures, self._failures = self._failures, {}
            raise BatchFailed(failures, self._written, None, self._failed) from next(iter(failures.values()))

    def _take_answer(self, number: int, future: asyncio.Future[Committed]) -> None:
        error = future.exception()
        if error is None:
            self._acknowledged += 1
        else:
            self._failed += 1
            if isinstance(error, StigmerError) and len(self._failures) < _FAILURES_KEPT:
                self._failures[number] = error
        if self._acknowledged + self._failed == self._written:
            self._all_answered.set()
        if self._progress is not None and not self._is_telling:
            # Once for all that were answered together.
            self._is_telling = True
            asyncio.get_running_loop().call_soon(self._tell, self._progress)

    def _tell(self, progress: Callable[[BulkWriter], None]) -> None:
        self._is_telling = False
        progress(self)

    async def __aenter__(self) -> BulkWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Flush; after an exception, end at once: what was not answered by then may have been made or not."""
        try:
            if error is None:
                await self.flush()
        finally:
            if self._stream is not None:
                await self._stream.close()
