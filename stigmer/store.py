"""The embedded store: a data directory opened by one process, used by any of its threads.

Owns the life of the parts - lock, log, views, writer - and the answers to reads. How they are opened is in `opening`,
the commit path in `writer`, the bytes in `log`, the rows in `views`. The clients in `stigmer.client` have the same
methods.

Invariants: the lock is taken before anything is read and let go after everything is closed; a read sees one moment,
all of which is as durable as the store was asked to make it; what a page or a row says was verified when it was read.
"""

from __future__ import annotations

import builtins
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from stigmer import codec, commits, config, lock, names, opening, page_tokens
from stigmer.config import Durability, StoreOptions
from stigmer.decision import NOTHING, Operation, Sink, Ticket
from stigmer.errors import (
    Closed,
    CorruptView,
    DiskFull,
    InvalidArgument,
    NotFound,
    StigmerError,
)
from stigmer.horizon import Horizon
from stigmer.log.cursor import Cursor
from stigmer.model import (
    BackupPoint,
    Committed,
    Delete,
    Event,
    FoldReport,
    FrameInfo,
    IndexedPage,
    IndexEntry,
    Page,
    ProgressCallback,
    Resource,
    Revision,
    Save,
    SegmentInfo,
    Status,
    Transacted,
    revisions_of,
)
from stigmer.opening import Opened
from stigmer.pb import log_pb2
from stigmer.query import Condition, Entries, Query, Question
from stigmer.rebuild import Rebuild
from stigmer.version import VERSION
from stigmer.views import counts, snapshot
from stigmer.views.counts import Counts
from stigmer.views.environment import EnvironmentClosed
from stigmer.views.keys import checked_key_of, parts_of, range_of
from stigmer.views.projector import Projector
from stigmer.views.snapshot import Head, Snapshot
from stigmer.views.view import Change, Databases, Transaction, View
from stigmer.writer import Writer

S = TypeVar("S")
T = TypeVar("T")
V = TypeVar("V", bound=View)

_logger = logging.getLogger("stigmer")
_logger.addHandler(logging.NullHandler())  # a library says nothing unless its user asks

_LIST_BYTES = 8 * config.MIB
_TAIL_BYTES = 1 * config.MIB
_SAVE = log_pb2.Event.OP_SAVE
_DELETE = log_pb2.Event.OP_DELETE


class Mark(NamedTuple):
    """How far LMDB was when somebody looked into the memory of the views."""

    generation: int
    flushed_revision: int


class Changed(NamedTuple):
    """What `Store.changed` found."""

    changes: list[Change]
    """The last event of each key that has another one now, as it was folded. Not to be changed."""
    unsure: list[bytes]
    """Keys that are not in memory and may have changed before a flush."""
    mark: Mark


class Store:
    """An open store. Made by `Store.open`, or `stigmer.open`."""

    def __init__(self, directory: str, options: StoreOptions, held: lock.Lock, opened: Opened) -> None:
        """Put the opened parts together; use `Store.open`."""
        log = opened.log
        # Constant after construction.
        self.directory = directory
        self.options = options
        self.recovery = tuple(opened.notes)
        """What opening found and did, in sentences; empty after a clean end."""
        self.store_id = log.store_id.hex()
        self.horizon = Horizon(log.next_revision - 1)
        self._started_at_ns = time.time_ns()
        self._held = held
        self._log = log
        self._writer = Writer(log, opened.generation, self.horizon, options)
        self._rebuild = Rebuild(os.path.join(directory, "views"), options.map_bytes, log, self._writer)
        self._writer.rebuild = self._rebuild.in_place
        self._stop_syncing = threading.Event()
        self._syncer: threading.Thread | None = None
        # `_close_lock` guards these; it is held while closing.
        self._close_lock = threading.Lock()
        self._closed = False
        self._writer_ended = False

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], options: StoreOptions | None = None, command: str = "", create: bool = True
    ) -> Store:
        """Open the store in a data directory, made if it is not there (unless `create` is false).

        `command` is what a second process is told about the owner. Raises `DataDirectoryError` (`LogLocked`,
        `NewerFormat`), `CorruptLog`, `DiskFull` or `StorageFailed`, and `StigmerError` where no thread can be started.
        """
        options = (options or StoreOptions()).checked()
        directory = os.path.abspath(os.path.expanduser(os.fspath(path)))
        opening.prepare_directory(directory, create)
        held = lock.take(directory, command or "a program that embeds stigmer")
        try:
            opened = opening.open_parts(directory, options)
        except BaseException:
            held.release()
            raise
        store = cls(directory, options, held, opened)
        try:
            store._start()
        except BaseException as error:
            store.close()
            if isinstance(error, RuntimeError):
                raise StigmerError(
                    f"no thread can be started for the store in {directory}: {error}",
                    hint="raise the limit on threads or memory (ulimit -u, ulimit -v), or end what takes them",
                ) from error
            raise
        return store

    def _start(self) -> None:
        self._writer.start()
        if not self._writer.generation.is_checked:
            self._rebuild.check_in_background()
        if self.options.durability is Durability.INTERVAL:
            syncer = threading.Thread(target=self._sync_regularly, name="stigmer-syncer", daemon=True)
            syncer.start()
            self._syncer = syncer

    # --- writing -----------------------------------------------------------------------------------------

    def save(
        self, kind: str, id: str, value: object, expected_revision: int | None = None, request_id: str | None = None
    ) -> Revision:
        """Save one resource and give its revision, once it is durable and visible.

        `value` is bytes or a protobuf message. With `expected_revision` the save happens only if the resource is at
        that revision (0: only if it does not exist), else `Conflict` (`AlreadyExists`). A `request_id` that was used
        before gives the first answer and writes nothing.
        """
        return self.commit([Save(kind, id, value, expected_revision)], request_id).last_revision

    def delete(
        self, kind: str, id: str, expected_revision: int | None = None, request_id: str | None = None
    ) -> Revision:
        """Delete one resource and give the revision of that event. Raises `NotFound` where there is none."""
        return self.commit([Delete(kind, id, expected_revision)], request_id).last_revision

    def commit(self, changes: Sequence[Save | Delete], request_id: str | None = None) -> Committed:
        """Make changes as one atomic commit: all or, with an error, none."""
        done = threading.Lock()
        done.acquire()
        ticket = self._queue(changes, request_id, _release, done)
        done.acquire()
        answer = ticket.answer
        if isinstance(answer, StigmerError):
            raise answer
        return answer

    def save_many(self, changes: Iterable[Save | Delete]) -> builtins.list[Revision]:
        """Make each change as a commit of its own, in their order; give their revisions, once all are durable.

        Much quicker than one call after another. Each has its own precondition and its own error: where some fail the
        others stand, and `BatchFailed` says which is which.
        """
        answers: list[Committed | StigmerError | None] = []
        answered = threading.Semaphore(0)
        for place, change in enumerate(changes):
            answers.append(None)
            try:
                self._queue([change], None, _note, (answers, place, answered))
            except StigmerError as error:
                answers[place] = error
                answered.release()
        for _ in answers:
            answered.acquire()
        return revisions_of(answers)

    def _queue(self, changes: Sequence[Save | Delete], request_id: str | None, sink: Sink, context: Any) -> Ticket:
        """Queue changes as one commit, waiting while the queue is full."""
        ticket = Ticket(commits.made(changes, request_id, self.options.value_bytes_max), sink, context)
        self._check_process()
        self._writer.submit(ticket, wait=True)
        return ticket

    def submit(self, payload: bytes, sink: Sink, context: Any = None, *, wake: bool = True) -> None:
        """Queue a serialized `Commit`; those very bytes go into the log. Never waits.

        `sink` gets a `Ticket` with this context once the commit has its answer: on the writer's thread, in one call
        with all others of its group. Without `wake` it is left to `wake`, or to the next one, to have it carried out.
        Raises what is wrong with the commit itself, and `ResourceExhausted` where too
        much is queued.
        """
        ticket = Ticket(commits.parsed(payload, self.options.value_bytes_max), sink, context)
        self._check_process()
        self._writer.submit(ticket, wait=False, wake=wake)

    def transact(self, operation: Operation, request_id: str | None = None) -> Transacted:
        """Make a commit that is decided against the very state it will be made on.

        `operation` is called on the writer's thread with that state, a `decision.State`, in which it saves and
        deletes; what it returns is told to the caller, and a `StigmerError` that it raises refuses the commit. It
        reads nothing else, has no other effect, and is quick, for other commits wait for it. It may be called twice.
        Where it changes nothing, nothing is written.
        """
        names.check_request_id(request_id or "")
        done = threading.Lock()
        done.acquire()
        ticket = Ticket.of_operation(operation, request_id or "", 0, _release, done)
        self._check_process()
        self._writer.submit(ticket, wait=True)
        done.acquire()
        return transacted(ticket)

    def submit_operation(
        self,
        operation: Operation,
        sink: Sink,
        context: Any = None,
        *,
        request_id: str = "",
        size: int = 0,
        wake: bool = True,
    ) -> None:
        """Queue an operation, as `submit` does a commit; `size` is about what it will write, in bytes.

        What is in its ticket once it is answered, `transacted` gives or raises.
        """
        names.check_request_id(request_id)
        self._check_process()
        self._writer.submit(Ticket.of_operation(operation, request_id, size, sink, context), wait=False, wake=wake)

    def wake(self) -> None:
        """Have commits carried out that were submitted with `wake=False`, all in one group where they fit."""
        self._writer.wake()

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once, from whatever thread, when what `submit` refused for a full queue may be tried again."""
        self._writer.when_room(callback)

    # --- reading -----------------------------------------------------------------------------------------

    def get(self, kind: str, id: str) -> Resource:
        """Give a resource as it is now. Raises `NotFound`."""
        return snapshot.resource_of(kind, self.get_row(kind, id))

    def get_row(self, kind: str, id: str) -> bytes:
        """Give a resource as a serialized `stigmer.store.v1.Resource`. Raises `NotFound`."""
        key = checked_key_of(kind, id)
        while True:
            try:
                projector = self._writer.projector
                message = projector.view(Snapshot).get(projector.environment, key)
                if message is None:
                    raise NotFound(kind, id)
                return message
            except EnvironmentClosed:
                self._check_open()
            except CorruptView as error:
                self._rebuild.in_background(error)
                raise

    def get_many(self, keys: Iterable[tuple[str, str]]) -> builtins.list[Resource | None]:
        """Give the resources under many (kind, id), all as of one moment; None where there is none."""
        found: list[Resource | None] = []
        wanted = builtins.list(keys)
        for (kind, _), row in zip(wanted, self.get_rows(wanted, sys.maxsize), strict=True):
            if isinstance(row, NotFound):
                found.append(None)
            elif isinstance(row, StigmerError):
                raise row
            else:
                found.append(snapshot.resource_of(kind, row))
        return found

    def get_rows(self, keys: Sequence[tuple[str, str]], bytes_max: int) -> builtins.list[bytes | StigmerError]:
        """Give serialized resources, or what `get_row` would raise, for the first of many (kind, id).

        For as many as have `bytes_max` bytes, one more at the most, and as of one moment.
        """
        known = [_key_or_error(kind, id) for kind, id in keys]

        def select(view: Snapshot) -> list[Change | None]:
            return [view.memory.get(key) for key in known if isinstance(key, bytes)]

        def work(
            transaction: Transaction, databases: Databases, in_memory: list[Change | None]
        ) -> list[bytes | StigmerError]:
            rows: list[bytes | StigmerError] = []
            changes = iter(in_memory)
            taken = 0
            for key in known:
                if taken >= bytes_max:
                    break
                if isinstance(key, StigmerError):
                    rows.append(key)
                    continue
                try:
                    message = snapshot.message_in(transaction, databases, next(changes), key)
                except CorruptView as error:
                    rows.append(error.without_frames())
                    continue
                rows.append(NotFound(*parts_of(key)) if message is None else message)
                taken += len(message or b"")
            return rows

        rows = self._read(Snapshot, select, work)
        for row in rows:
            if isinstance(row, CorruptView):
                self._rebuild.in_background(row)
        return rows

    def heads(self, keys: Sequence[bytes]) -> builtins.list[Head | None]:
        """Give revision and creation of what is under each of many keys (`views.keys.checked_key_of`), None where
        there is nothing; as of one moment.

        Values are not looked at, so it costs the same whatever their size, and no checksum of theirs is verified.
        """

        def select(view: Snapshot) -> list[Change | None]:
            return [view.memory.get(key) for key in keys]

        def work(
            transaction: Transaction, databases: Databases, in_memory: list[Change | None]
        ) -> builtins.list[Head | None]:
            return [
                snapshot.head_in(transaction, databases, change, key)
                for key, change in zip(keys, in_memory, strict=True)
            ]

        return self._read(Snapshot, select, work, buffers=True)

    def changed(self, seen: Mapping[bytes, int], mark: Mark | None) -> Changed:
        """Find which of many keys have another last event than that of the revision at which they were seen.

        `mark` is the one that the call before gave; None at the first. Quick, for it looks into the memory of the
        views alone, a fraction of a microsecond for each key, and takes no lock. Memory has every event since the last
        flush, so a key that it does not have has not changed, unless there was a flush since `mark`: then all such
        keys are `unsure`, to be looked up with `heads`.
        """
        # Memory before the mark: a flush first counts, then replaces it. So what was in a memory that is gone here
        # shows as another mark.
        generation = self._writer.generation
        memory = generation.projector.view(Snapshot).memory
        now = Mark(generation.number, generation.projector.flushed)
        changes = [
            change for key, revision in seen.items() if (change := memory.get(key)) and change.revision != revision
        ]
        unsure = [] if now == mark else [key for key in seen if key not in memory]
        return Changed(changes, unsure, now)

    def list(self, kind: str, prefix: str = "", limit: int | None = None, page_token: str | None = None) -> Page:
        """Give the resources of a kind whose ids start with `prefix`, in the order of their ids.

        Where `limit` leaves some out, the page's `next_page_token` goes on behind them. A list of more than a few
        megabytes is read in several moments: each resource is as it was at one of them.
        """
        if limit is not None and limit < 1:
            raise InvalidArgument("limit", f"must be at least 1, not {limit}")
        rows: list[bytes] = []
        token = page_token or ""
        while True:
            more, token = self.list_rows(kind, prefix, 0 if limit is None else limit - len(rows), token, _LIST_BYTES)
            rows += more
            if not token or (limit is not None and len(rows) >= limit):
                return Page([snapshot.resource_of(kind, row) for row in rows], token or None)

    def list_rows(
        self, kind: str, prefix: str, limit: int, page_token: str, bytes_max: int
    ) -> tuple[builtins.list[bytes], str]:
        """Give one page of a list: serialized resources, and the token of the next page, "" at the end.

        A page ends after `limit` rows (0: no limit) or once it has `bytes_max` bytes; it is as of one moment.
        """
        names.check_kind(kind)
        names.check_prefix(prefix)
        start = range_of(kind, prefix)
        after = self._key_in(page_token, start) if page_token else b""

        self._check_process()
        self._flush_beyond(len(self._writer.projector.view(Snapshot).memory))

        def work(transaction: Transaction, databases: Databases, in_memory: list[Change]) -> tuple[list[bytes], bytes]:
            rows: list[bytes] = []
            taken = 0
            last = b""
            left = limit or sys.maxsize
            for key, message in snapshot.messages(transaction, databases, in_memory, start, after):
                if left == 0 or taken >= bytes_max:
                    return rows, last
                rows.append(message)
                taken += len(message)
                left -= 1
                last = key
            return rows, b""

        rows, last = self._read(Snapshot, lambda view: view.in_memory(start, after), work)
        return rows, page_tokens.token_of(self.store_id, last) if last else ""

    def find_ids(self, kind: str, index: str, text: str, qualifier: str | None = None) -> builtins.list[IndexEntry]:
        """Give the resources of a kind that an index has under a text, the oldest first; all at once, so for few.

        With `qualifier`, only entries that have this one: the slug of one organization. `views.terms` says which
        indexes there are; raises `InvalidArgument` where there is no such one.
        """
        return self._ask(Entries(kind, index, text, qualifier))

    def list_indexed(
        self,
        kind: str,
        where: Sequence[Condition] = (),
        limit: int = 0,
        page_token: str = "",
        page: int = 0,
        bytes_max: int = config.PAGE_BYTES_MAX,
        newest_first: bool = True,
    ) -> IndexedPage:
        """Give one page of the resources of a kind to which all conditions hold, in the order of their creation.

        A condition is an index and texts, of which a resource must have one: `("phase", ("1", "2"))`. Without any, all
        resources of the kind are listed. A page ends after `limit` rows (0: no limit), or before it would have
        more than `bytes_max` bytes, but not before its first row. It begins where `page_token` says; without one,
        `page` - 1 times `limit` resources are left out. A token goes on with the same conditions and order only.
        Raises `InvalidArgument`.
        """
        return self._ask(
            Query(
                self.store_id,
                kind,
                where,
                limit=limit,
                page_token=page_token,
                page=page,
                bytes_max=bytes_max,
                newest_first=newest_first,
            )
        )

    def count(self) -> dict[str, int]:
        """Give the number of resources of each kind that has any."""
        return self._read(Counts, lambda view: view.memory.copy(), counts.read)

    def tail(
        self,
        after: int = 0,
        kinds: Collection[str] | None = None,
        prefix: str | None = None,
        follow: bool = True,
    ) -> Iterator[Event]:
        """Give the events behind revision `after`, in order, each once; then, if `follow`, those to come.

        Only events of these kinds and of ids that start with `prefix`, where given. Without `follow` it ends at the
        revision that is the last one at the call. It may be resumed after any revision, in any process, at any time.
        """
        self._check_process()
        self.check_tail(after, kinds, prefix)
        return self._tail(after, frozenset(kinds or ()), prefix, None if follow else self.visible_revision)

    def check_tail(self, after: int, kinds: Collection[str] | None, prefix: str | None) -> None:
        """Raise `InvalidArgument` unless a tail could be started so."""
        for kind in kinds or ():
            names.check_kind(kind, "kinds")
        names.check_prefix(prefix or "")
        last = self.visible_revision
        if not 0 <= after <= last:
            raise InvalidArgument(
                "after",
                f"{after} is not a revision of this store, whose last one is {last}",
                hint="was the data directory replaced? start from 0 to read everything",
            )

    def _tail(self, after: int, kinds: frozenset[str], prefix: str | None, end: int | None) -> Iterator[Event]:
        cursor = self.cursor(after)
        seen = after
        try:
            while end is None or seen < end:
                upto = self.horizon.wait_past(seen) if end is None else end
                for frame in cursor.read(upto, _TAIL_BYTES):
                    commit = codec.decode_commit(frame.payload)
                    for place, event in codec.matching(commit, kinds, prefix):
                        revision = frame.first_revision + place
                        if revision > after:
                            yield codec.event_of(event, revision, frame.time_ns)
                    seen = frame.first_revision + frame.event_count - 1
        finally:
            cursor.close()

    def events_between(self, first_revision: int, last_revision: int) -> builtins.list[Event]:
        """Give the events of a few revisions that readers can see."""
        return builtins.list(self._tail(first_revision - 1, frozenset(), None, last_revision))

    def cursor(self, after: int) -> Cursor:
        """Give a cursor over the log behind a revision; read it up to `horizon.revision`."""
        return self._log.cursor(after)

    # --- a look inside -----------------------------------------------------------------------------------

    @property
    def visible_revision(self) -> int:
        """The last revision that reads show: no read has shown more, and one that begins now shows no less.

        The horizon, up to which followers are served, comes a moment later.
        """
        return self._writer.projector.visible_revision

    @property
    def failure(self) -> StigmerError | None:
        """Why the store takes no more writes, once its storage has failed."""
        return self._writer.failure

    def status(self) -> Status:
        """Describe the store."""
        generation = self._writer.generation
        checkpoint = generation.projector.checkpoint
        use = generation.environment.use()
        return Status(
            version=VERSION,
            store_id=self.store_id,
            data_dir=self.directory,
            pid=os.getpid(),
            started_at_ns=self._started_at_ns,
            durability=self.options.durability.value,
            revision=self.visible_revision,
            segments=len(self._log.segments()),
            log_bytes=self._log.size,
            log_saved_bytes=self._log.saved_bytes,
            views_bytes=use.bytes,
            views_map_bytes=use.map_bytes,
            views_readers=use.readers,
            generation=generation.number,
            checkpoints={view.name: checkpoint for view in generation.projector.views},
            resources=sum(self.count().values()),
            recovery=list(self.recovery),
        )

    def segments(self) -> Sequence[SegmentInfo]:
        """Describe the files of the log, in order."""
        return self._log.segments()

    def frame(self, revision: int) -> FrameInfo:
        """Describe the frame that holds a revision. Raises `NotFound`."""
        last = self.visible_revision
        if revision > last:
            raise NotFound("revision", str(revision), hint=f"the last one is {last}")
        return self._log.frame(revision)

    def replay(self, progress: ProgressCallback | None = None) -> FoldReport:
        """Fold the log from revision 1 into a new generation of views, compare it with the serving one, swap it in.

        Reads and writes go on meanwhile. Differences are reported; the new generation serves in any case, for the log
        is the truth. Raises `CorruptLog` where the log is damaged; then nothing is swapped.
        """
        self._check_process()
        return self._rebuild.replay(progress)

    def verify(self, progress: ProgressCallback | None = None, *, quick: bool = False) -> FoldReport:
        """Fold the log aside and compare every row of every view with it. Changes nothing.

        Where it is interrupted (by the end of the store, by what `progress` raises), the next one goes on from there.
        With `quick` nothing is folded: the checksums of every frame and every row are compared.
        """
        self._check_process()
        return self._rebuild.check(progress) if quick else self._rebuild.verify(progress)

    def backup_point(self) -> BackupPoint:
        """Give what a backup is made of: the log as it is between two groups, made durable. Writes go on at once."""
        self._check_process()
        taken: list[list[SegmentInfo]] = []

        def take() -> None:
            # Also with a durability that syncs later: a backup must not have what a power cut takes from the store.
            self._log.sync()
            taken.append(self._log.segments())

        self._writer.run(take)
        return BackupPoint(self.store_id, self.directory, taken[0])

    # --- the end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Answer what is queued, seal the log, mark the views as clean, let go of the lock. Idempotent.

        In a process forked from the one that opened the store it does nothing: the store is not that process's.
        """
        if self._held.pid != os.getpid():
            return
        with self._close_lock:
            if self._writer_ended:
                return
            self._closed = True
            # Interrupted here, the directory stays locked, for the writer may still write; close again to go on.
            self._rebuild.stop()
            self._writer.close()
            self._writer_ended = True
            clean = False
            try:
                self._stop_syncing.set()
                if self._syncer is not None:
                    self._syncer.join()
                self.horizon.close(Closed())
                clean = self._writer.failure is None and self._seal()
            finally:
                try:
                    self._log.abandon()
                    generation = self._writer.generation
                    generation.close(clean=clean and generation.projector.is_flushed)
                finally:
                    self._held.release()

    def _seal(self) -> bool:
        """Seal the log; False where the disk has no room for it, which only costs the next open some work."""
        try:
            self._log.close()
        except DiskFull as error:
            _logger.warning("the log is closed without a seal: %s", error)
            return False
        return True

    def __enter__(self) -> Store:
        """Give the store; it closes when the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    # --- inside ------------------------------------------------------------------------------------------

    def _read(
        self,
        kind: type[V],
        select: Callable[[V], S],
        work: Callable[[Transaction, Databases, S], T],
        *,
        buffers: bool = False,
    ) -> T:
        """Do some work in a read transaction, with what is selected from a view's memory at the same moment."""
        return self._read_by(lambda projector: projector.read(kind, select, work, buffers=buffers))

    def _read_by(self, reading: Callable[[Projector], T]) -> T:
        """Give what a reading finds in the generation that serves."""
        while True:
            try:
                return reading(self._writer.projector)
            except EnvironmentClosed:
                self._check_open()
            except CorruptView as error:
                self._rebuild.in_background(error)
                raise

    def _ask(self, question: Question[S, T]) -> T:
        """Have a question answered."""
        self._check_process()
        self._flush_beyond(question.unflushed(self._writer.projector))
        return self._read_by(lambda projector: projector.read_across(question.select, question.work))

    def _flush_beyond(self, unflushed: int) -> None:
        """Have the memory flushed where a list would have to look through much of it."""
        if unflushed > config.LIST_UNFLUSHED_MAX:
            with suppress(StigmerError):  # a store that takes no writes any more can still be read
                self._writer.flush()

    def _check_open(self) -> None:
        """Raise `Closed` if the store is; else a generation was replaced, and the next one is there already."""
        if self._closed:
            raise Closed from None

    def _check_process(self) -> None:
        if self._held.pid != os.getpid():
            raise StigmerError("a store cannot be used in a process forked from the one that opened it")

    def _sync_regularly(self) -> None:
        while not self._stop_syncing.wait(self.options.sync_interval_ms / 1000):
            try:
                self._log.sync()
            except StigmerError as error:
                self._writer.fail(error)
                return

    def _key_in(self, page_token: str, start: bytes) -> bytes:
        key = page_tokens.place_in(self.store_id, page_token)
        if key.startswith(b"\0"):
            raise InvalidArgument("page_token", "belongs to a list by an index, not to this one")
        try:
            kind, id = parts_of(key)
            names.check(kind, id)
        except (UnicodeDecodeError, InvalidArgument) as error:
            # Whoever knows the form of a token can make one, so its place may be anything.
            raise InvalidArgument("page_token", "is not one that this store gave out") from error
        if not key.startswith(start):
            raise InvalidArgument("page_token", f"belongs to a list of {kind} at {names.shown(id)}, not to this one")
        return key


def _key_or_error(kind: str, id: str) -> bytes | StigmerError:
    try:
        return checked_key_of(kind, id)
    except InvalidArgument as error:
        # An error that is not raised on would keep the frames of who asked, and so itself and all that was asked for.
        return error.without_frames()


def transacted(ticket: Ticket) -> Transacted:
    """Give what became of an operation whose ticket is answered. Raises the error that refused it."""
    answer = ticket.answer
    if isinstance(answer, StigmerError):
        raise answer
    return Transacted(None if answer is NOTHING else answer, ticket.told, ticket.is_repeat)


def _release(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        ticket.context.release()


def _note(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        answers, place, answered = ticket.context
        answers[place] = ticket.answer
        answered.release()
