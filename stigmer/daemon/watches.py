"""Watches: every follower of a single resource that the daemon serves, for whatever they are to be sent of it.

A *watch* is what the event loop knows of one resource: its newest state, made into a message once, however many
subscribe. A *subscriber* is a coroutine that sends the newest message it has not sent. Of kinds and messages this
module knows nothing: `present` says of a stored resource what is sent, and whether that is the last of it.

Invariants:
- No queue per subscriber, and at most one message under way: a slow one skips to newer states. The revisions that one
  sends only grow, and the last state, or that there is none any more, is never skipped.
- No gap: a watch looks at the state itself, not at what happened to it, and it looks after every wake-up; a wake-up
  comes after every group. The first message is of the state at the subscription or of a newer one.
- A watch is of one life of a resource, told by the revision that created it. One that was deleted, and perhaps created
  again meanwhile, ends its subscribers with NOT_FOUND.
- `present` is called once for each state that a watch gets to.
- A watch goes with its last subscriber.

The way of a state: the writer wakes the loop (once, until the loop has looked, and only while anybody subscribes). A
*look* compares the revisions of all watched keys with the views' memory. Small values that changed are presented there
and then; large ones, and those that LMDB alone has, are read and presented on a thread, by one job at a time. Then the
subscribers who waited for the state get in line for a *turn* to send it.

The budget. Sending to a thousand subscribers a hundred times a second takes more than there is of the loop, and the
reports that they wait for come in over the same loop. So looks and turns are paid out of one budget, which grows with
`_LOOP_SHARE` of the time: a look costs what it took, a turn what a send is reckoned to take. The loop goes a *round*, a
look and a few turns, whenever the last one is paid off. Who is in line waits; meanwhile the state may change, and the
newest is sent when the turn comes. Turns go round, so nobody waits longer, for the final state either, than the others
take for one message each: with a thousand subscribers that is under half a second, with one it is nothing. The thread
rests between two jobs in the same measure.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import grpc.aio

from stigmer import config
from stigmer.daemon.handlers import Context
from stigmer.errors import NotFound, ResourceExhausted, StigmerError, Unavailable
from stigmer.model import Resource
from stigmer.store import Mark, Store
from stigmer.views.keys import checked_key_of
from stigmer.views.snapshot import resource_left_by

_LOOP_SHARE = 0.25
"""The share of the event loop's time that goes into looking and sending at the most; and of one thread's, for large
values."""

_SEND_SECONDS = 0.000_1
"""The loop's time for a turn: to wake a subscriber and to send a small message. Measured: 35 us where 16 follow one
another, 200 us for one alone."""
_SEND_SECONDS_PER_BYTE = 0.000_000_001
"""What each byte of the message adds to it. Measured: 0.4 ns, and as much on gRPC's own thread."""

_SAVED_SECONDS = 0.004
"""Budget that was not used is kept for as long as this, so that a few subscribers wait for no timer."""
_TIMER_SECONDS_MIN = 0.001
"""Event loops count in milliseconds; a shorter timer would spin."""

_TURNS_SECONDS_MAX = 16 * _SEND_SECONDS
"""A round gives no further turn behind so much: sends that follow one another cost a fraction of what each costs alone,
but other calls should not stand behind more of them."""
_LOOK_SECONDS_MAX = 0.001
"""A look presents small values for so long; the rest of them is left to the next one."""
_INLINE_BYTES_MAX = 16 * config.KIB
"""A value up to this size is presented on the event loop."""

_JOB_WATCHES_MAX = 256
"""A job on the thread looks for changes of so many watches at the most."""
_JOB_SECONDS = 0.002
"""A job on the thread begins no further value after this time."""


class Presented(NamedTuple):
    """What subscribers are sent of a state."""

    message: bytes
    is_final: bool
    """Whether the stream ends with it."""


Present = Callable[[Resource], Presented | None]
"""Gives what is sent of a stored resource, or None where nothing is sent of this state.

Called on the event loop or on a thread, never twice at once for one resource.
"""


class _State(NamedTuple):
    """What a watch knows of its resource."""

    revision: int
    presented: Presented | None
    """None where there is nothing to send, or nothing was read yet."""
    error: Exception | None = None
    """What the subscribers' calls end with: that the resource is gone, or why it cannot be read."""

    @property
    def is_last(self) -> bool:
        return self.error is not None or (self.presented is not None and self.presented.is_final)


class _Watch:
    """One life of a resource and those who subscribe to it. Touched on the event loop only, but for its constants."""

    def __init__(self, kind: str, id: str, key: bytes, created_revision: int) -> None:
        # Constant after construction.
        self.kind = kind
        self.id = id
        self.key = key
        self.created_revision = created_revision
        # Below: the event loop's. The revision stands still while a job has the watch, which may then read it.
        self.state = _State(0, None)
        self.subscribers: set[_Subscriber] = set()
        self.idle: dict[_Subscriber, None] = {}
        """Those who wait for a newer state, in the order in which they began to."""


class _Subscriber:
    """One call that follows a watch."""

    def __init__(self, watch: _Watch, after_revision: int) -> None:
        self.watch = watch
        self.sent_revision = after_revision
        self.turn: asyncio.Future[None] | None = None

    @property
    def has_news(self) -> bool:
        """Whether there is something that it has not sent."""
        state = self.watch.state
        if state.error is not None:
            return True
        return state.presented is not None and state.revision > self.sent_revision


class Watches:
    """The watches of one daemon. All of it runs on one event loop, but for what says otherwise."""

    def __init__(self, store: Store, present: Present, readers: Executor, count_max: int) -> None:
        """Watch resources of a store; large values are read and presented on one of the readers at a time."""
        # Constant after construction.
        self._store = store
        self._count_max = count_max
        self._present = present
        self._readers = readers
        self._loop = asyncio.get_running_loop()
        # The event loop's, but for the number of subscribers and `_is_woken`, which the writer's thread looks at, too.
        self._ending: str | None = None
        self._subscribers: set[_Subscriber] = set()
        self._watches: dict[bytes, _Watch] = {}
        # A watch whose state is not the last one is in one of these two. `_seen` has the revisions of those that looks
        # compare, as of `_mark`; `_unread` those that the thread has to read.
        self._seen: dict[bytes, int] = {}
        self._mark: Mark | None = None
        self._unread: dict[bytes, _Watch] = {}
        self._reading: asyncio.Task[None] | None = None
        self._line: deque[_Subscriber] = deque()
        # The time from which on there is budget again; the past, while there is some left.
        self._free_at = time.monotonic()
        self._timer: asyncio.Handle | None = None
        # Whether a group was published since the last look began.
        self._is_woken = False
        self._unsubscribe = store.horizon.subscribe(self._on_horizon)

    @property
    def count(self) -> int:
        """The number of subscribers being served."""
        return len(self._subscribers)

    def end(self, reason: str) -> None:
        """End every subscriber's call, and each new one, with `Unavailable` for this reason."""
        if self._ending is not None:
            return
        self._ending = reason
        self._unsubscribe()
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()
        for subscriber in self._subscribers:
            _give_turn(subscriber)

    async def serve(self, kind: str, id: str, context: Context) -> None:
        """Send a resource's state, then every later one that this subscriber gets to, up to the final one.

        Raises `NotFound` where there is no such resource, or none any more, `Unavailable` once the daemon stops, and
        `ResourceExhausted`.
        """
        if self._ending is not None:
            raise Unavailable(self._ending)
        if self.count >= self._count_max:
            raise ResourceExhausted(
                f"{self.count} subscribers are being served, the most that one daemon serves",
                limit="SUBSCRIBERS_MAX",
                limit_value=self._count_max,
                hint="end some, or start the daemon with a larger --subscribers-max",
            )
        subscriber = self._subscribe(kind, id)
        try:
            await self._follow(subscriber, context)
        finally:
            self._leave(subscriber)

    # --- subscribers -------------------------------------------------------------------------------------

    def _subscribe(self, kind: str, id: str) -> _Subscriber:
        key = checked_key_of(kind, id)
        (head,) = self._store.heads([key])
        if head is None:
            raise NotFound(kind, id)
        watch = self._watches.get(key)
        if watch is not None and watch.created_revision != head.created_revision:
            self._show(watch, _gone(watch))
            watch = None
        elif watch is not None and watch.state.is_last and watch.state.revision != head.revision:
            # Something was saved after the final state. Who waits for that still gets it, who comes now gets this.
            watch = None
        if watch is None:
            watch = self._watches[key] = _Watch(kind, id, key, head.created_revision)
            self._read_soon(watch)
        # A watch that knows an older state than this is told of the newer one by the wake-up of its group.
        subscriber = _Subscriber(watch, head.revision - 1)
        watch.subscribers.add(subscriber)
        self._subscribers.add(subscriber)
        return subscriber

    def _leave(self, subscriber: _Subscriber) -> None:
        # One that is in line stays there, and is passed over: its turn is cancelled.
        self._subscribers.discard(subscriber)
        watch = subscriber.watch
        watch.subscribers.discard(subscriber)
        watch.idle.pop(subscriber, None)
        if not watch.subscribers and self._watches.get(watch.key) is watch:
            del self._watches[watch.key]
            self._stop_looking(watch)

    async def _follow(self, subscriber: _Subscriber, context: Context) -> None:
        while True:
            if self._ending is None:
                await self._turn(subscriber)
            if self._ending is not None:
                raise Unavailable(self._ending)
            if not subscriber.has_news:
                continue  # nothing is sent of the state that came while it was in line
            revision, presented, error = subscriber.watch.state
            if isinstance(error, StigmerError):
                raise error.with_traceback(None)  # one error for many subscribers
            if error is not None:
                raise RuntimeError(f"{subscriber.watch.kind} {subscriber.watch.id} cannot be presented") from error
            assert presented is not None
            subscriber.sent_revision = revision
            try:
                await context.write(presented.message)
            except grpc.aio.InternalError:
                return  # the caller is gone; gRPC cancels this coroutine, but a write may fail before it does
            if presented.is_final:
                return

    def _turn(self, subscriber: _Subscriber) -> asyncio.Future[None]:
        """Give what is done when there is news for a subscriber, and its turn to send it."""
        subscriber.turn = self._loop.create_future()
        if subscriber.has_news:
            self._line.append(subscriber)
            self._run_soon()
        else:
            subscriber.watch.idle[subscriber] = None
        return subscriber.turn

    # --- the budget --------------------------------------------------------------------------------------

    def _on_horizon(self) -> None:
        # On the writer's thread, after the horizon has moved. A look takes the flag back before it looks, so what is
        # published while the flag is set will be seen. And a subscriber is counted before its resource is read.
        if self._subscribers and not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._timer is None:
            self._run()

    def _run_soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_soon(self._run)

    def _run(self) -> None:
        """Go one round, a look and some turns, where there is budget; then again, when there is."""
        self._timer = None
        if self._free_at <= time.monotonic():
            if self._is_woken:
                started = time.thread_time()
                self._look()
                self._spend(time.thread_time() - started)
            seconds = 0.0
            while self._line and seconds < _TURNS_SECONDS_MAX:
                subscriber = self._line.popleft()
                if _give_turn(subscriber):
                    presented = subscriber.watch.state.presented
                    size = 0 if presented is None else len(presented.message)
                    seconds += _SEND_SECONDS + size * _SEND_SECONDS_PER_BYTE
            self._spend(seconds)
        if (self._is_woken or self._line) and self._timer is None and self._ending is None:
            wait_seconds = self._free_at - time.monotonic()
            if wait_seconds > 0:
                self._timer = self._loop.call_later(max(wait_seconds, _TIMER_SECONDS_MIN), self._run)
            else:
                self._timer = self._loop.call_soon(self._run)

    def _spend(self, seconds: float) -> None:
        self._free_at = max(self._free_at, time.monotonic() - _SAVED_SECONDS) + seconds / _LOOP_SHARE

    # --- states ------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Find the watched keys that have changed.

        The writer tells nothing but that something was published. To go through the log instead would cost in
        proportion to all that is saved; this costs a fraction of a microsecond for each watched key.
        """
        self._is_woken = False
        if self._store.failure is not None:
            self.end("the daemon is stopping, because its storage has failed")
            return
        changes, unsure, self._mark = self._store.changed(self._seen, self._mark)
        if not changes and not unsure:
            return
        # Those that were shown the longest time ago come first, so that none is left out again and again.
        changes.sort(key=lambda change: self._seen[change.key])
        for key in unsure:
            self._read_soon(self._watches[key])
        until = time.monotonic() + _LOOK_SECONDS_MAX
        for change in changes:
            watch = self._watches[change.key]
            if change.value is not None and len(change.value) > _INLINE_BYTES_MAX:
                self._read_soon(watch)
            elif time.monotonic() < until:
                self._show(watch, self._state_of(watch, resource_left_by(change)))
            else:
                self._is_woken = True
                return

    def _show(self, watch: _Watch, state: _State) -> None:
        """Let a watch have a newer state, and its idle subscribers get in line."""
        watch.state = state
        if state.is_last:
            self._stop_looking(watch)
            # A final state is kept for those who subscribe while it is being sent; an error is not.
            if state.error is not None and self._watches.get(watch.key) is watch:
                del self._watches[watch.key]
        else:
            self._seen[watch.key] = state.revision
        told = [subscriber for subscriber in watch.idle if subscriber.has_news]
        for subscriber in told:
            del watch.idle[subscriber]
        if told:
            self._line.extend(told)
            self._run_soon()

    def _stop_looking(self, watch: _Watch) -> None:
        self._seen.pop(watch.key, None)
        self._unread.pop(watch.key, None)

    def _state_of(self, watch: _Watch, resource: Resource | None) -> _State:
        """Make a resource into a watch's state. On any thread."""
        if resource is None or resource.created_revision != watch.created_revision:
            return _gone(watch)
        try:
            return _State(resource.revision, self._present(resource))
        except Exception as error:
            # Damage, or a bug: for the subscribers' calls, at whose boundary it is logged.
            return _State(resource.revision, None, error)

    # --- large values, and those that are not in memory ----------------------------------------------------

    def _read_soon(self, watch: _Watch) -> None:
        self._seen.pop(watch.key, None)
        self._unread[watch.key] = watch
        if self._reading is None:
            self._reading = self._loop.create_task(self._read_on())

    async def _read_on(self) -> None:
        try:
            while self._unread:
                mark = self._mark
                watches = list(self._unread.values())[:_JOB_WATCHES_MAX]
                states, took_seconds = await self._loop.run_in_executor(self._readers, self._read, watches)
                for watch, state in zip(watches, states, strict=False):
                    if self._unread.get(watch.key) is not watch:
                        continue  # nobody subscribes to it any more
                    del self._unread[watch.key]
                    if state is not watch.state:
                        self._show(watch, state)
                    else:
                        self._seen[watch.key] = state.revision
                    if mark != self._mark and not state.is_last:
                        # A look has gone past a flush, without this watch: what it had then may be newer.
                        self._read_soon(watch)
                if states:
                    # What came meanwhile was not compared with these.
                    self._is_woken = True
                    self._run_soon()
                if self._unread:
                    await asyncio.sleep(took_seconds * (1 / _LOOP_SHARE - 1))
        finally:
            self._reading = None

    def _read(self, watches: Sequence[_Watch]) -> tuple[list[_State], float]:
        """Read the states of the first of some watches, as far as time allows, and give the seconds it took.

        On a thread. One that has not changed keeps the state it has. There is one at least.
        """
        started = time.thread_time()
        states: list[_State] = []
        try:
            heads = self._store.heads([watch.key for watch in watches])
        except StigmerError as error:
            return [_State(watch.state.revision, None, error) for watch in watches], time.thread_time() - started
        for watch, head in zip(watches, heads, strict=True):
            if states and time.thread_time() - started > _JOB_SECONDS:
                break
            if head is not None and head.revision == watch.state.revision:
                states.append(watch.state)
                continue
            try:
                states.append(self._state_of(watch, self._store.get(watch.kind, watch.id)))
            except NotFound:
                states.append(_gone(watch))
            except StigmerError as error:
                states.append(_State(watch.state.revision, None, error))
        return states, time.thread_time() - started


def _give_turn(subscriber: _Subscriber) -> bool:
    """Let a subscriber go on; False where it does not wait any more."""
    turn = subscriber.turn
    if turn is None or turn.done():
        return False
    turn.set_result(None)
    return True


def _gone(watch: _Watch) -> _State:
    return _State(watch.state.revision, None, NotFound(watch.kind, watch.id))
