"""Tails: every follower of the log that the daemon serves.

A tail is a cursor over the log and nothing more. Behind, it reads files, on a thread where they may be cold; caught
up, it waits for the horizon to move. So followers cost the writer nothing but one wake-up of the event loop per group.

Invariants:
- No queue per follower: what a slow one has not taken yet stays in the log, and at most one message is under way.
- Nothing above the horizon is ever sent.
- A tail that ends because the daemon stops says UNAVAILABLE, so that its client goes on elsewhere or later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future

from stigmer import codec, config, wire
from stigmer.daemon import splice
from stigmer.daemon.handlers import Context
from stigmer.errors import ResourceExhausted, Unavailable
from stigmer.log.format import Frame
from stigmer.pb import log_pb2, store_pb2
from stigmer.store import Store


class Tails:
    """The followers being served, and their wake-up."""

    def __init__(self, store: Store, readers: Executor, count_max: int) -> None:
        self._store = store
        self._count_max = count_max
        self._readers = readers
        self._loop = asyncio.get_running_loop()
        self._store_id = store.store_id
        # Below: touched on the event loop only, but for `count`, which the writer's thread looks at.
        self.count = 0
        self._moved = asyncio.Event()
        self._ending: str | None = None
        self._unsubscribe: Callable[[], None] = store.horizon.subscribe(self._on_horizon)

    def end(self, reason: str) -> None:
        """End every tail, and each new one, with `Unavailable` for this reason."""
        self._ending = reason
        self._unsubscribe()
        self._wake()

    def _on_horizon(self) -> None:
        # On the writer's thread, after the horizon has moved. A tail counts itself before it looks at the horizon, so
        # one that is not seen here sees the new horizon there.
        if self.count:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def serve(self, request: store_pb2.TailRequest, context: Context) -> None:
        """Serve one tail to its end."""
        if self.count >= self._count_max:
            raise ResourceExhausted(
                f"{self.count} tails are being served, the most that one daemon serves",
                limit="TAILS_MAX",
                limit_value=self._count_max,
                hint="end some, or start the daemon with a larger --tails-max",
            )
        self.count += 1
        try:
            self._store.check_tail(request.after, request.kinds, request.prefix)
            last = self._store.visible_revision
            await context.send_initial_metadata(((wire.STORE_ID_KEY, self._store_id),))
            await self._follow(_Reader(self._store, request, self._readers), None if request.follow else last, context)
        finally:
            self.count -= 1

    async def _follow(self, reader: _Reader, until: int | None, context: Context) -> None:
        """Send what there is, then what comes; `until` a revision, or for ever."""
        try:
            # The first message is sent even when there is nothing to tell: the follower learns that it is attached.
            is_told = False
            while True:
                # Taken before the horizon is looked at, so that a move after the look is not missed.
                moved = self._moved
                if self._ending is not None:
                    raise Unavailable(self._ending)
                horizon = until if until is not None else self._store.horizon.revision
                if reader.through_revision < horizon:
                    message = await reader.read(horizon)
                    if message is not None:
                        is_told = True
                        await context.write(message)
                    if reader.through_revision < horizon:
                        continue
                if not is_told or (until is not None and reader.is_ahead_of_follower):
                    is_told = True
                    await context.write(reader.position())
                if until is not None:
                    return
                await moved.wait()
        finally:
            reader.close()


class _Reader:
    """Reads the log for one tail and makes the messages."""

    def __init__(self, store: Store, request: store_pb2.TailRequest, readers: Executor) -> None:
        self._after: int = request.after
        self._kinds = frozenset(request.kinds)
        self._prefix: str = request.prefix
        self._readers = readers
        self.through_revision: int = request.after
        """What was read so far."""
        self._told_revision: int = request.after
        self._untold_bytes = 0
        # The cursor belongs to whoever reads: a thread while `_reading` is not done, else the event loop.
        self._cursor = store.cursor(request.after)
        self._reading: Future[bytes | None] | None = None

    @property
    def is_ahead_of_follower(self) -> bool:
        """Whether more was read than the follower was told of, because no event passed the filter."""
        return self._told_revision < self.through_revision

    async def read(self, horizon: int) -> bytes | None:
        """Read on, up to the horizon at most. Gives a message, or None where no event passed the filter."""
        if self._cursor.is_near_end():
            return self._next(horizon)
        self._reading = self._readers.submit(self._next, horizon)
        return await asyncio.wrap_future(self._reading)

    def position(self) -> bytes:
        """Give a message without events: how far the log was read."""
        self._told_revision = self.through_revision
        self._untold_bytes = 0
        return splice.tail_response((), self.through_revision)

    def close(self) -> None:
        """Close the cursor, as soon as no thread reads with it."""
        if self._reading is None:
            self._cursor.close()
        else:
            self._reading.add_done_callback(lambda _: self._cursor.close())

    def _next(self, horizon: int) -> bytes | None:
        frames = self._cursor.read(horizon, config.PAGE_BYTES_MAX)
        if not frames:
            # Nothing is kept between here and the horizon.
            self.through_revision = horizon
            return None
        commits = [commit for commit in map(self._commit_of, frames) if commit is not None]
        self.through_revision = frames[-1].first_revision + frames[-1].event_count - 1
        self._untold_bytes += sum(len(frame.payload) for frame in frames)
        # A follower whose filter lets little through is told its position now and then, so that it does not have to
        # go through all of it again when it resumes.
        if not commits and self._untold_bytes < config.PAGE_BYTES_MAX:
            return None
        self._told_revision = self.through_revision
        self._untold_bytes = 0
        return splice.tail_response(commits, self.through_revision)

    def _commit_of(self, frame: Frame) -> bytes | None:
        """Give a frame's `CommittedEvents`, or None where no event passes the filter."""
        if not self._kinds and not self._prefix and frame.first_revision > self._after:
            return splice.committed_events(frame.first_revision, frame.time_ns, frame.payload)
        commit = codec.decode_commit(frame.payload)
        wanted = [
            (frame.first_revision + index, event)
            for index, event in codec.matching(commit, self._kinds, self._prefix)
            if frame.first_revision + index > self._after
        ]
        if not wanted:
            return None
        if len(wanted) == len(commit.events):
            return splice.committed_events(frame.first_revision, frame.time_ns, frame.payload)
        part = log_pb2.Commit(events=(event for _, event in wanted), request_id=commit.request_id)
        return splice.committed_events(
            frame.first_revision, frame.time_ns, part.SerializeToString(), [revision for revision, _ in wanted]
        )
