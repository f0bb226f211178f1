"""Write: streams of commits, each answered by itself, in the order of its stream.

Invariants:
- The daemon holds about `config.WRITE_BYTES_MAX` of a stream: it reads on only while less of it is unanswered, and a
  commit counts as unanswered until its answer was taken by the connection. So neither a flood nor a caller that does
  not read its answers costs more than that.
- A commit's bytes go to the log as they came.
- A full queue of the store holds a stream up and refuses nothing.
- A stream that breaks takes nothing back: what was queued of it is carried out.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from stigmer import config, wire
from stigmer.daemon import splice
from stigmer.daemon.commit_queue import Settle
from stigmer.daemon.handlers import Boundary, Context
from stigmer.decision import Ticket
from stigmer.errors import ResourceExhausted, StigmerError, Unavailable
from stigmer.model import Committed
from stigmer.pb import store_pb2
from stigmer.store import Store

Submit = Callable[[bytes, Settle], Awaitable[None]]
"""Gives a commit to the store's writer, or raises what is wrong with it."""
Told = Callable[[StigmerError], StigmerError]
"""Gives what the caller of a stream is told of a commit's error."""

_PATH = wire.methods(wire.STORE_SERVICE)["write"].path

_COMMITS_AT_ONCE = 32
"""After this many commits of one message, other calls have their turn."""


_ANSWERS_MAX = 4_096
"""Answers in one message; refusals are large, and clients receive at most 4 MiB."""


class WriteStreams:
    """Serves the streams of one daemon."""

    def __init__(self, store: Store, submit: Submit, boundary: Boundary) -> None:
        self._store = store
        self._submit = submit
        self._boundary = boundary
        self._streams: set[_Stream] = set()
        self._ending: str | None = None

    async def serve(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Serve one stream to its end."""
        if self._ending is not None:
            raise Unavailable(self._ending)
        stream = _Stream(self._store, self._submit, functools.partial(self._told, context.peer()))
        self._streams.add(stream)
        try:
            await stream.serve(requests, context)
        finally:
            self._streams.discard(stream)

    def _told(self, peer: str, error: StigmerError) -> StigmerError:
        return self._boundary.told(_PATH, error, lambda: peer)

    def end(self, reason: str) -> None:
        """Read no further; what was read is answered, then the streams end."""
        self._ending = reason
        for stream in self._streams:
            stream.end(Unavailable(reason))


class _Unanswered:
    """A commit that was read, and then its answer, until that was sent."""

    __slots__ = ("_changed", "_told", "answer", "event_count", "size")

    def __init__(self, size: int, changed: asyncio.Event, told: Told) -> None:
        self.size = size
        self._changed = changed
        self._told = told
        self.event_count = 0
        self.answer: Committed | store_pb2.ErrorDetail | None = None

    def settle(self, ticket: Ticket) -> None:
        """Take the answer of the store; the stream sends it once all of the group have theirs."""
        answer = ticket.answer
        if isinstance(answer, StigmerError):
            self.refuse(answer)
            return
        self.event_count = len(ticket.changes)
        self.answer = answer
        self._changed.set()

    def refuse(self, error: StigmerError) -> None:
        """Take an answer that did not need the store's writer."""
        # Not the exception, whose traceback holds on to much more.
        self.answer = wire.detail_message(self._told(error))
        self._changed.set()


class _Stream:
    """One stream: a task that reads it, and the caller of `serve`, who sends the answers."""

    def __init__(self, store: Store, submit: Submit, told: Told) -> None:
        self._store = store
        self._submit = submit
        self._told = told
        self._unanswered: deque[_Unanswered] = deque()
        self._unanswered_bytes = 0
        self._answered = 0
        self._changed = asyncio.Event()
        """Something for the sender: an answer, or the end of what is read."""
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._reading: asyncio.Task[None] | None = None
        self._is_taking = False
        self._failure: BaseException | None = None

    async def serve(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Answer until the caller has sent everything, or something is wrong; raises what is."""
        self._reading = reading = asyncio.create_task(self._read(requests))
        reading.add_done_callback(lambda _: self._changed.set())
        try:
            while True:
                # Cleared before the look, so that what changes after it is not missed.
                self._changed.clear()
                message = self._next_answers()
                if message is not None:
                    await context.write(message[0])
                    self._forget(message[1])
                elif reading.done() and not self._unanswered:
                    break
                else:
                    await self._changed.wait()
        finally:
            reading.cancel()
        if self._failure is not None:
            raise self._failure

    def end(self, error: StigmerError) -> None:
        """Read no further, and fail with this once everything is answered."""
        self._failure = self._failure or error
        # A message is taken to its end, so that each of its commits gets an answer.
        if self._reading is not None and not self._is_taking:
            self._reading.cancel()

    # --- what comes in ---

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        try:
            async for request in requests:
                self._is_taking = True
                await self._take(splice.commits_of(request))
                self._is_taking = False
                if self._failure is not None:
                    return
        except Exception as error:
            # The commits before it are answered first.
            self._failure = self._failure or error

    async def _take(self, commits: list[bytes]) -> None:
        for number, payload in enumerate(commits, 1):
            unanswered = _Unanswered(len(payload) + config.COMMIT_OVERHEAD_BYTES, self._changed, self._told)
            self._unanswered.append(unanswered)
            self._unanswered_bytes += unanswered.size
            if self._unanswered_bytes > config.WRITE_BYTES_MAX:
                self._has_room.clear()
            try:
                await self._queue(payload, unanswered.settle)
            except StigmerError as error:
                unanswered.refuse(error)
            if not self._has_room.is_set():
                await self._has_room.wait()
            if number % _COMMITS_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _queue(self, payload: bytes, settle: Settle) -> None:
        while True:
            try:
                await self._submit(payload, settle)
                return
            except ResourceExhausted as error:
                if error.limit != "QUEUE_BYTES_MAX":
                    raise
            await self._room_in_store()

    async def _room_in_store(self) -> None:
        loop = asyncio.get_running_loop()
        is_there = asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(is_there.set)

        self._store.when_room(tell)
        await is_there.wait()

    # --- what goes out ---

    def _next_answers(self) -> tuple[bytes, int] | None:
        """Give a message of all that can be answered next, and the bytes that it answers; None where nothing can."""
        response = store_pb2.WriteResponse()
        size = 0
        waiting = self._unanswered
        revisions: list[int] = []
        while waiting and (answer := waiting[0].answer) is not None and len(revisions) < _ANSWERS_MAX:
            one = waiting.popleft()
            size += one.size
            self._answered += 1
            if isinstance(answer, store_pb2.ErrorDetail):
                revisions.append(0)
                response.refusals.add(number=self._answered, error=answer)
                continue
            revisions.append(answer.last_revision)
            if answer.last_revision - answer.first_revision + 1 != one.event_count:
                response.first_revisions.add(number=self._answered, first_revision=answer.first_revision)
        if not revisions:
            return None
        response.answered = self._answered
        response.last_revisions.extend(revisions)
        return response.SerializeToString(), size

    def _forget(self, size: int) -> None:
        self._unanswered_bytes -= size
        if self._unanswered_bytes <= config.WRITE_BYTES_MAX:
            self._has_room.set()
