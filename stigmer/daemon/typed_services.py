"""The platform's typed services: requests and answers as bytes, every method by the same few ways.

Knows no kind and no message: what a method does is in `stigmer.resources`, as a call that reads, writes or follows.

Invariants:
- What waits for a disk, or may take long, runs on a thread; the event loop has what is quick.
- A write is carried out by the store's writer, in the order in which it was queued; a caller that goes away stops
  waiting, and its write is carried out all the same, with what comes after it: keys and artifacts are cleared away.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc

from stigmer import wire
from stigmer.daemon.commit_queue import CommitQueue
from stigmer.daemon.handlers import Boundary, Context, Handler
from stigmer.daemon.store_service import INLINE_BYTES_MAX
from stigmer.daemon.watches import Watches
from stigmer.errors import NotFound, StigmerError
from stigmer.resources.creation import not_found
from stigmer.resources.methods import Follows, Method, Reads, Writes, all_methods
from stigmer.resources.verbs import ATTEMPTS, RETRIED, UNDECIDED, Resources, Write

T = TypeVar("T")

_REQUEST_BYTES_MAX = {"push": wire.LARGEST_MESSAGE_BYTES}
"""Of the methods that take larger requests than the others."""


class Calls:
    """Carries out calls of resources: on the event loop where that is quick, else on threads of its own."""

    def __init__(self, resources: Resources, queue: CommitQueue) -> None:
        self.resources = resources
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(2, "stigmer-resources")
        self._preparing = ThreadPoolExecutor(2, "stigmer-writes")
        self._writes: set[asyncio.Task[Any]] = set()
        """Under way. The event loop itself does not keep them."""

    async def _prepare(self, prepare: Callable[[], Write], *, is_quick: bool) -> Write:
        # On threads of their own: a push takes long, and lists do not wait for it.
        return prepare() if is_quick else await self._loop.run_in_executor(self._preparing, prepare)

    async def do(self, work: Callable[[], T], *, is_quick: bool) -> T:
        """Do some work."""
        return work() if is_quick else await self._loop.run_in_executor(self._threads, work)

    async def write(
        self, prepare: Callable[[], Write], context: Context, request_id: str = "", *, is_quick: bool
    ) -> Any:
        """Carry a write out: prepare it, have it decided and made durable, make its answer.

        The request id may be given, or be in the call's metadata.
        """
        request_id = request_id or request_id_of(context)
        first = prepare() if is_quick else None
        if first is not None and first.is_quick and first.undo is None:
            # Nothing comes after it that a caller who goes away could leave undone.
            return await self._write(prepare, first, request_id, is_quick=is_quick)
        writing = self._loop.create_task(self._write(prepare, first, request_id, is_quick=is_quick))
        self._writes.add(writing)
        writing.add_done_callback(self._writes.discard)
        return await asyncio.shield(writing)

    async def _write(
        self, prepare: Callable[[], Write], write: Write | None, request_id: str, *, is_quick: bool
    ) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            write = write or await self._prepare(prepare, is_quick=is_quick)
            try:
                done = await self._queue.transact(write.operation, request_id, write.size)
            except StigmerError as error:
                if write.undo is not None and not isinstance(error, UNDECIDED):
                    await self.do(write.undo, is_quick=False)
                if isinstance(error, RETRIED) and attempt < ATTEMPTS:
                    write = None
                    continue
                raise
            plain = write.is_quick and not done.is_repeat and write.size <= INLINE_BYTES_MAX
            return await self.do(functools.partial(self.resources.answer, write, done), is_quick=plain)
        raise AssertionError("unreachable: the last attempt raises")

    async def close(self) -> None:
        """Wait for writes that are under way though nobody waits for them any more, and let go of the threads."""
        if self._writes:
            await asyncio.wait(self._writes)
        self._threads.shutdown(wait=False)
        self._preparing.shutdown(wait=False)


class TypedServices:
    """Answers the calls of the typed services."""

    def __init__(self, calls: Calls, watches: Watches, boundary: Boundary) -> None:
        self._calls = calls
        self._boundary = boundary
        self._watches = watches
        self.names = sorted({method.service for method in all_methods()})
        """Their full names."""

    def grpc_handlers(self) -> list[grpc.GenericRpcHandler]:
        """Give the handlers of all the services."""
        by_service: dict[str, dict[str, Handler]] = {}
        for method in all_methods():
            by_service.setdefault(method.service, {})[method.name] = self._handler(method)
        return [grpc.method_handlers_generic_handler(name, methods) for name, methods in by_service.items()]

    def _handler(self, method: Method) -> Handler:
        if method.streams:

            async def follow(request: bytes, context: Context) -> None:
                call = method.call(self._calls.resources, request)
                assert isinstance(call, Follows)
                try:
                    await self._watches.serve(call.kind.name, call.id, context)
                except NotFound as error:
                    raise not_found(call.kind, call.id) from error

            return self._boundary.streaming(method.path, follow)

        async def answer(request: bytes, context: Context) -> bytes:
            is_small = len(request) <= INLINE_BYTES_MAX
            call = await self._calls.do(lambda: method.call(self._calls.resources, request), is_quick=is_small)
            if isinstance(call, Writes):
                answered: bytes = await self._calls.write(call.prepare, context, is_quick=call.is_quick and is_small)
                return answered
            assert isinstance(call, Reads)
            read = await self._calls.do(call.read, is_quick=call.is_quick)
            if read.next_page_token:
                context.set_trailing_metadata(((wire.NEXT_PAGE_TOKEN_KEY, read.next_page_token),))
            return read.message

        request_bytes_max = _REQUEST_BYTES_MAX.get(method.name, wire.REQUEST_BYTES_MAX)
        return self._boundary.unary(method.path, answer, request_bytes_max)


def request_id_of(context: Context) -> str:
    """Give the request id in a call's metadata; empty where there is none."""
    for key, value in context.invocation_metadata() or ():
        if key == wire.REQUEST_ID_KEY:
            return value if isinstance(value, str) else value.decode("latin-1")
    return ""
