"""The service `stigmer.store.v1.Store`; the work of Tail is in `tail.py`, that of Write in `write_streams.py`.

Invariants:
- The event loop never waits for the disk: commits go through the `CommitQueue`; pages of a List are read on a thread.
- A commit's bytes go to the log as they came, and a row's bytes to the caller as they lie.
- A caller that cancels, or whose deadline passes, stops waiting; its commit is carried out all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from stigmer import config, parsing, wire
from stigmer.daemon import splice
from stigmer.daemon.commit_queue import CommitQueue, Settle
from stigmer.daemon.handlers import Boundary, Context
from stigmer.daemon.tail import Tails
from stigmer.daemon.write_streams import WriteStreams
from stigmer.errors import StigmerError
from stigmer.pb import log_pb2, store_pb2
from stigmer.store import Store

_GET_MANY = wire.methods(wire.STORE_SERVICE)["getmany"].path

INLINE_BYTES_MAX = 256 * config.KIB
"""A commit up to this size is checked on the event loop; a larger one would hold up other calls."""


class StoreService:
    """Answers the calls of `stigmer.store.v1.Store` out of an open store."""

    def __init__(self, store: Store, queue: CommitQueue, tails: Tails, boundary: Boundary) -> None:
        self._store = store
        self._queue = queue
        self._tails = tails
        self._boundary = boundary
        self._writes = WriteStreams(store, self._submit, boundary)
        # One thread each: it is the interpreter that such work waits for, and the more threads ask for it, the longer
        # the event loop, and with it every other call, stands behind them.
        self._pages = ThreadPoolExecutor(1, "stigmer-pages")
        self._large = ThreadPoolExecutor(1, "stigmer-large")
        self._loop = asyncio.get_running_loop()

    async def save(self, request: bytes, context: Context) -> bytes:
        """Save one resource."""
        if len(request) <= INLINE_BYTES_MAX:
            payload = _commit_of_save(request)
        else:
            payload = await self._loop.run_in_executor(self._large, _commit_of_save, request)
        return await self.commit(payload, context)

    async def delete(self, request: bytes, context: Context) -> bytes:
        """Delete one resource."""
        asked = parsing.parsed(store_pb2.DeleteRequest, request)
        commit = log_pb2.Commit(request_id=asked.request_id)
        event = commit.events.add(op=log_pb2.Event.OP_DELETE, kind=asked.kind, id=asked.id)
        if asked.HasField("expected_revision"):
            event.expected_revision = asked.expected_revision
        return await self.commit(commit.SerializeToString(), context)

    async def commit(self, request: bytes, context: Context) -> bytes:
        """Make the changes of a serialized commit, and answer when they are durable and visible."""
        committed = await self._queue.commit(lambda settle: self._submit(request, settle))
        return store_pb2.CommitResponse(
            first_revision=committed.first_revision, last_revision=committed.last_revision
        ).SerializeToString()

    async def write(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Make commit after commit of a stream."""
        await self._writes.serve(requests, context)

    def end_streams(self, reason: str) -> None:
        """End the tails at once, and the streams of commits once what was read of them is answered."""
        self._tails.end(reason)
        self._writes.end(reason)

    def close(self) -> None:
        """Let go of the threads."""
        self._pages.shutdown(wait=False)
        self._large.shutdown(wait=False)

    async def _submit(self, payload: bytes, settle: Settle) -> None:
        if len(payload) <= INLINE_BYTES_MAX:
            self._queue.submit(payload, settle)
        else:
            await self._loop.run_in_executor(self._large, self._queue.submit_elsewhere, payload, settle)

    async def get(self, request: bytes, context: Context) -> bytes:
        """Give one resource, as its row has it."""
        asked = parsing.parsed(store_pb2.GetRequest, request)
        return self._store.get_row(asked.kind, asked.id)

    async def getmany(self, request: bytes, context: Context) -> bytes:
        """Give many resources, as their rows have them, or as many as one answer holds."""
        asked = parsing.parsed(store_pb2.GetManyRequest, request)
        keys = [(key.kind, key.id) for key in asked.keys[: config.GET_KEYS_MAX]]
        rows = self._store.get_rows(keys, config.PAGE_BYTES_MAX)
        return splice.get_many_response(
            (wire.detail_of(self._boundary.told(_GET_MANY, row, context.peer)), True)
            if isinstance(row, StigmerError)
            else (row, False)
            for row in rows
        )

    async def list(self, request: bytes, context: Context) -> None:
        """Give the resources of a kind, page by page; each page is read when the one before was taken."""
        asked = parsing.parsed(store_pb2.ListRequest, request)
        left, page_token = asked.limit, asked.page_token
        while True:
            page, count, page_token = await self._loop.run_in_executor(
                self._pages, self._page, asked.kind, asked.prefix, left, page_token
            )
            await context.write(page)
            if asked.limit:
                left -= count
            if not page_token or (asked.limit and left == 0):
                return

    def _page(self, kind: str, prefix: str, limit: int, page_token: str) -> tuple[bytes, int, str]:
        """Read one page: its message, how many resources it holds, and the token of the next."""
        rows, next_token = self._store.list_rows(kind, prefix, limit, page_token, config.PAGE_BYTES_MAX)
        # Only the page at which the limit is reached, or none, tells the caller how to go on.
        told = next_token if len(rows) == limit else ""
        return splice.list_response(rows, told), len(rows), next_token

    async def count(self, request: bytes, context: Context) -> bytes:
        """Give the number of resources of each kind."""
        parsing.parsed(store_pb2.CountRequest, request)
        return store_pb2.CountResponse(counts=self._store.count()).SerializeToString()

    async def tail(self, request: bytes, context: Context) -> None:
        """Give the log from a revision on."""
        await self._tails.serve(parsing.parsed(store_pb2.TailRequest, request), context)


def _commit_of_save(request: bytes) -> bytes:
    asked = parsing.parsed(store_pb2.SaveRequest, request)
    commit = log_pb2.Commit(request_id=asked.request_id)
    event = commit.events.add(op=log_pb2.Event.OP_SAVE, kind=asked.kind, id=asked.id, value=asked.value)
    if asked.HasField("expected_revision"):
        event.expected_revision = asked.expected_revision
    return commit.SerializeToString()
