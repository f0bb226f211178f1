"""The commit path: one thread that decides, appends, syncs, folds and publishes, a group at a time.

Owns the queue of commits, the writer's thread, and with it the active segment and the views' write transaction. The
steps of a group are the methods of `Writer` from `_decide` to `_publish`, in that order. Between groups, and when there
has been nothing to do for a while, the thread flushes what the views have in memory.

Invariants: an answer is given after the group is durable (as far as the store was asked to make it) and in the
views; after a failed write or fsync nothing more is answered with success; what one commit does to another's
preconditions follows the order of revisions, within a group as well.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from stigmer import config
from stigmer.config import Durability, StoreOptions
from stigmer.decision import Base, Decision, Sink, Ticket
from stigmer.errors import (
    Closed,
    CorruptView,
    DiskFull,
    ResourceExhausted,
    StigmerError,
    StorageFailed,
    Unavailable,
)
from stigmer.horizon import Horizon
from stigmer.log.lineages import Entry
from stigmer.log.log import Log
from stigmer.views.generations import Generation
from stigmer.views.requests import Requests
from stigmer.views.view import Change, Databases, FoldCommit, Transaction, lookup_in

_logger = logging.getLogger("stigmer")

_SLOW_SYNC_SECONDS = 1.0


class Writer:
    """The thread that writes. `_lock` guards the queue's fields; nothing else is taken while it is held."""

    def __init__(self, log: Log, generation: Generation, horizon: Horizon, options: StoreOptions) -> None:
        """Write to this log and fold into this generation, moving the horizon."""
        # Constant after construction.
        self._log = log
        self._horizon = horizon
        self._durability = options.durability
        self._value_bytes_max = options.value_bytes_max
        self._queue_bytes_max = options.queue_bytes_max
        self._thread = threading.Thread(target=self._run_to_end, name="stigmer-writer", daemon=True)
        self._ended = threading.Event()
        # Guarded by `_lock`.
        self._lock = threading.Lock()
        self._not_empty = threading.Condition(self._lock)
        self._not_full = threading.Condition(self._lock)
        self._queue: deque[Ticket] = deque()
        self._queue_bytes = 0
        self._work: deque[_Work] = deque()
        self._when_room: list[Callable[[], None]] = []
        self._closing = False
        self.failure: StigmerError | None = None
        # The writer's own; replaced by `use`. Readers look at `projector` and find one or the other.
        self.generation = generation
        self.projector = generation.projector
        self._behind: list[FoldCommit] = []  # in the log, but not in the views: damaged, with a disk too full to repair
        self._flush_at: float | None = None  # when what is in the views' memory has to be flushed; None: nothing is
        self._cannot_flush = False
        self.rebuild: Callable[[], None] | None = None

    def use(self, generation: Generation) -> None:
        """Serve from another generation from now on. Only on the writer's thread."""
        self.generation = generation
        self.projector = generation.projector
        if self._behind and generation.projector.checkpoint >= self._behind[-1].last_revision:
            self._behind = []

    def start(self) -> None:
        """Start the thread."""
        self.generation.checkpoint_if_due(self.fail)  # of what opening had to fold
        self._thread.start()

    # --- any thread --------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket, *, wait: bool, wake: bool = True) -> None:
        """Queue a commit. Where the queue is full, wait, or raise `ResourceExhausted`.

        Without `wake` a writer that has nothing to do is left alone until `wake` is called: whoever has more commits
        at hand makes them one group that way.
        """
        size = ticket.size + config.COMMIT_OVERHEAD_BYTES
        with self._lock:
            while self._queue_bytes and self._queue_bytes + size > self._queue_bytes_max:
                if not wait:
                    raise ResourceExhausted(
                        f"{self._queue_bytes} bytes of writes are waiting for the disk; with these there would be more "
                        f"than {self._queue_bytes_max}",
                        limit="QUEUE_BYTES_MAX",
                        limit_value=self._queue_bytes_max,
                        hint="send fewer at a time, or try again in a moment",
                    )
                self._raise_if_ended()
                self._not_full.wait()
            self._raise_if_ended()
            # Before the append: an interrupt behind it must not leave a queue of which the writer does not know. And
            # all: an interrupted `notify` leaves a waiter that is none, and the next one would wake that.
            if wake and not self._queue:
                self._not_empty.notify_all()
            self._queue.append(ticket)
            self._queue_bytes += size

    def wake(self) -> None:
        """Have the writer take what was queued without waking it."""
        with self._lock:
            if self._queue:
                self._not_empty.notify_all()

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once, from whatever thread, when there is more room in the queue, or no commit is taken any more.

        The callback must be quick, and try again: others may have been quicker.
        """
        with self._lock:
            if self._queue and self.failure is None:
                self._when_room.append(callback)
                return
        callback()

    def run(self, function: Callable[[], None]) -> None:
        """Run a function on the writer's thread, between two groups; wait for it and raise what it raises.

        When it returns or raises, the function does not run any more, even where the wait was interrupted.
        """
        work = _Work(function)
        try:
            with self._lock:
                self._raise_if_ended()
                self._not_empty.notify_all()
                self._work.append(work)
            work.done.wait()
        except BaseException:
            with self._lock:
                if work in self._work:
                    self._work.remove(work)
            if work.is_taken:
                work.done.wait()
            raise
        if work.error is not None:
            raise work.error

    def flush(self) -> None:
        """Have what the views have in memory put into LMDB, and wait; not where the disk had no room a moment ago."""
        if not self._cannot_flush or self._must_flush():
            self.run(self._flush_or_fail)

    def close(self) -> None:
        """Answer what is queued, then end the thread."""
        with self._lock:
            self._closing = True
            self._not_empty.notify_all()
            self._not_full.notify_all()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            # Not `join`: after one that was interrupted, Python 3.11 takes the thread for ended.
            self._ended.wait()

    def fail(self, error: StigmerError) -> None:
        """Stop for good: nothing is acknowledged any more, whatever waits gets the error."""
        with self._lock:
            if self.failure is not None:
                return
            self.failure = error
            rest, works = list(self._queue), list(self._work)
            self._queue.clear()
            self._work.clear()
            self._queue_bytes = 0
            waiting = self._take_waiting()
            self._not_empty.notify_all()
            self._not_full.notify_all()
        _logger.critical("%s", error)
        self._tell(waiting)
        for work in works:
            work.finish(error)
        self._answer(_failed(rest, error))
        self._horizon.close(error)

    def _raise_if_ended(self) -> None:
        if self.failure is not None:
            # One error for many callers: each would leave its frames, and what they hold, in the traceback.
            raise self.failure.with_traceback(None)
        if self._closing:
            raise Closed

    # --- the writer's thread -----------------------------------------------------------------------------

    def _run_to_end(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self._stop_for(error)
        finally:
            self._ended.set()

    def _stop_for(self, error: BaseException) -> StorageFailed:
        """Stop for a bug, or for want of memory: the state of log and views is not known, as after a failed disk."""
        _logger.error("the writer stopped", exc_info=error)
        failed = StorageFailed(self._log.directory, "commit to", repr(error))
        self.fail(failed)
        return failed

    def _run(self) -> None:
        while True:
            with self._lock:
                while not (self._queue or self._work or self._closing or self.failure or self._must_flush()):
                    self._not_empty.wait(None if self._flush_at is None else self._flush_at - time.monotonic())
                if self.failure is not None:
                    return
                if self._closing and not (self._queue or self._work):
                    break
                work = self._work.popleft() if self._work else None
                if work is not None:
                    work.is_taken = True
                group = self._take_group() if work is None else []
                waiting = self._take_waiting() if group else []
            if work is not None:
                work.run()
                self._show()
                continue
            self._tell(waiting)
            try:
                if group:
                    self._write_group(group)
                    group = []  # all of it is answered, whatever becomes of the flush
                if self._must_flush():
                    self._flush()
                    self._show()
            except StigmerError as error:
                self._answer(_failed(group, error))
                self.fail(error)
            except BaseException as error:
                self._answer(_failed(group, self._stop_for(error)))
        try:
            self.projector.flush()
        except (CorruptView, ResourceExhausted) as error:
            _logger.warning("the views are left behind the log, and are mended at the next open: %s", error)
        except StigmerError as error:
            self.fail(error)

    def _must_flush(self) -> bool:
        flush_at = self._flush_at  # once: the writer may set it to None while another thread asks
        if flush_at is None:
            return False
        # Where the disk was too full for it, it is tried again with the next group, and when the time has come.
        return (self.projector.is_full and not self._cannot_flush) or time.monotonic() >= flush_at

    def _flush_or_fail(self) -> None:
        try:
            self._flush()
        except StigmerError as error:
            self.fail(error)

    def flush_now(self) -> None:
        """Put what the views have in memory into LMDB. Only on the writer's thread.

        Raises `CorruptView` or `DiskFull`, and `StorageFailed`, after which the writer stops.
        """
        try:
            self.projector.flush()
        except StorageFailed as error:
            self.fail(error)
            raise

    def _flush(self) -> bool:
        """Put what the views have in memory into LMDB; False if it cannot be for now: the disk is too full, mostly."""
        try:
            try:
                self.projector.flush()
            except CorruptView as error:
                self._fold_again(error)
        except ResourceExhausted as error:
            if not self._cannot_flush:
                _logger.error("the views cannot be written: %s", error)
            self._cannot_flush = True
            self._flush_at = time.monotonic() + config.UNFLUSHED_SECONDS_MAX
            return False
        if self._cannot_flush:
            _logger.warning("the views can be written again")
        self._cannot_flush = False
        self._flush_at = None
        self.generation.checkpoint_if_due(self.fail)
        return True

    def _take_group(self) -> list[Ticket]:
        group: list[Ticket] = []
        size = 0
        while self._queue and size < config.GROUP_BYTES_MAX:
            ticket = self._queue.popleft()
            size += ticket.size
            self._queue_bytes -= ticket.size + config.COMMIT_OVERHEAD_BYTES
            group.append(ticket)
        if not self._queue:
            self._queue_bytes = 0  # an interrupted `submit` may not have counted its commit
        self._not_full.notify_all()
        return group

    def _take_waiting(self) -> list[Callable[[], None]]:
        waiting, self._when_room = self._when_room, []
        return waiting

    def _tell(self, waiting: list[Callable[[], None]]) -> None:
        for callback in waiting:
            try:
                callback()
            except Exception:
                # As with sinks: a bug of whoever waits, such as a loop that is closed.
                _logger.exception("one who waits for room was not told of it")

    def _write_group(self, group: list[Ticket]) -> None:
        """Take a group all the way. Raises only what is final."""
        if (self._behind and not self._fold([])) or (self.projector.is_full and not self._flush()):
            self._refuse(group)
            return
        try:
            decision = self._decide(group)
        except DiskFull as error:  # no room to fold damaged views again
            self._answer(_failed(group, error))
            return
        commits = decision.commits
        if commits:
            try:
                self._log.append([_entry_of(ticket) for ticket in decision.accepted], commits[0].time_ns)
            except ResourceExhausted as error:
                _logger.error("%s", error)
                _failed(decision.pending, error)
                self._answer(group)
                return
            if self._durability is Durability.FSYNC:
                self._sync()
            if not self._fold(commits):
                _failed(decision.pending, _not_visible(self.generation.directory))
                self._answer(group)
                return
        self._publish(group)

    def _refuse(self, group: list[Ticket]) -> None:
        """Answer a group while the disk is too full for the views to take what is in the log."""
        in_log = {commit.request_id for commit in self._behind}
        directory = self.generation.directory
        view = self.projector.view(Requests)

        def work(transaction: Transaction, databases: Databases) -> None:
            lookup = lookup_in(transaction, databases)
            for ticket in group:
                request_id = ticket.request_id
                if request_id and request_id in in_log:
                    _failed([ticket], _not_visible(directory))
                    continue
                if request_id:
                    with suppress(CorruptView):  # with a disk this full, it cannot be mended now
                        ticket.committed = view.committed(lookup, request_id)
                ticket.is_repeat = ticket.committed is not None
                if not ticket.is_repeat:
                    _failed([ticket], DiskFull(directory))

        self.projector.environment.read(work)
        self._answer(group)

    def _decide(self, group: list[Ticket]) -> Decision:
        """Number the commits that may be appended; answer the others in their tickets.

        Where they come to more than a group may have, the last ones are taken out of the group, for the next one.
        """
        try:
            return self._decide_once(group)
        except CorruptView as error:
            self._fold_again(error)
            return self._decide_once(group)

    def _decide_once(self, group: list[Ticket]) -> Decision:
        # Times never go back, so that a time finds one place in the log.
        time_ns = max(time.time_ns(), self._log.last_time_ns)

        def work(transaction: Transaction, databases: Databases) -> tuple[Decision, int]:
            base = Base(self.projector, transaction, databases, time_ns)
            decision = Decision(self.projector, base, self._log.next_revision, self._value_bytes_max)
            for place, ticket in enumerate(group):
                # A small report of a large execution becomes a large commit, which nobody knew when it was queued.
                if decision.size >= config.GROUP_BYTES_MAX:
                    return decision, place
                decision.take(ticket)
            return decision, len(group)

        decision, decided = self.projector.environment.read(work)
        self._put_back(group, decided)
        return decision

    def _put_back(self, group: list[Ticket], first: int) -> None:
        """Leave what is in a group from a place on to the next group."""
        rest = group[first:]
        if not rest:
            return
        with self._lock:
            failure = self.failure
            if failure is None:
                del group[first:]
                self._queue.extendleft(reversed(rest))
                self._queue_bytes += sum(ticket.size + config.COMMIT_OVERHEAD_BYTES for ticket in rest)
        if failure is not None:
            raise failure

    def _sync(self) -> None:
        started = time.monotonic()
        self._log.sync()
        took = time.monotonic() - started
        if took > _SLOW_SYNC_SECONDS:
            _logger.warning("slow disk: an fsync of the log took %.1f s", took)

    def _fold(self, commits: list[FoldCommit]) -> bool:
        """Fold commits, and first those that damaged views could not take; False if the disk is too full to repair."""
        pending = self._behind + commits
        try:
            self.projector.fold(pending)
        except CorruptView as error:
            try:
                self._fold_again(error)
            except DiskFull as full:
                _logger.error("the views cannot be folded again: %s", full)
                self._behind = pending
                return False
        self._behind = []
        if self._flush_at is None:
            self._flush_at = time.monotonic() + config.UNFLUSHED_SECONDS_MAX
        return True

    def _fold_again(self, error: CorruptView) -> None:
        """Replace views that were found damaged. Readers of other rows are served from them meanwhile."""
        _logger.error("%s; the views are folded again from the log", error)
        if self.rebuild is None:
            raise error
        self.rebuild()

    def _publish(self, group: list[Ticket]) -> None:
        if self.failure is not None:
            raise self.failure
        moved = self._advance()
        self._answer(group)
        if moved:
            self._horizon.wake()

    def _show(self) -> None:
        """Let readers see what a new generation has that the one before, on a full disk, could not take."""
        if self.failure is None and self._advance():
            self._horizon.wake()

    def _advance(self) -> bool:
        revision = self.projector.checkpoint
        moved = revision > self._horizon.revision
        if moved:
            self._horizon.advance(revision)
        return moved

    def _answer(self, tickets: Iterable[Ticket]) -> None:
        by_sink: dict[Sink, list[Ticket]] = {}
        for ticket in tickets:
            by_sink.setdefault(ticket.sink, []).append(ticket)
        for sink, theirs in by_sink.items():
            try:
                sink(theirs)
            except Exception:
                # A bug of whoever takes the answers, such as a loop that is closed. Others wait for theirs.
                _logger.exception("the answers to %d commits were not taken", len(theirs))


class _Work:
    """A function to be run on the writer's thread."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self.done = threading.Event()
        self.is_taken = False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self.error = error
        self.done.set()

    def finish(self, error: BaseException) -> None:
        self.error = error
        self.done.set()


def _entry_of(ticket: Ticket) -> Entry:
    """Give a commit to the log; a large one is probably like the last one about the same resource."""
    payload, changes = ticket.payload, ticket.changes
    likeness = None
    if len(payload) >= config.DELTA_BYTES_MIN:
        likeness = max(changes, key=_value_size).key
    return Entry(payload, len(changes), likeness)


def _value_size(change: Change) -> int:
    return len(change.value or b"")


def _failed(tickets: list[Ticket], error: StigmerError) -> list[Ticket]:
    """Put an error into tickets; those that were refused already keep their own."""
    for ticket in tickets:
        if ticket.error is None:
            ticket.committed = None
            ticket.error = error
    return tickets


def _not_visible(directory: str) -> Unavailable:
    return Unavailable(
        f"the write is in the log, but the disk is too full for the views: {directory}",
        hint="free some space, then repeat the write with the same request id",
    )
