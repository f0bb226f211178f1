"""Folds commits from the log into all views of one environment: into memory first, and from there into LMDB.

Owns the list of views and the checkpoint. What a fold changes becomes visible together or not at all. What is in
memory is flushed in one LMDB transaction, with the revision up to which LMDB then has everything, so that a key that
changes often is written once in a while and a crash costs the folding of what was in memory.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from stigmer import config
from stigmer.codec import decode_commit
from stigmer.errors import CorruptLog, CorruptView, InvalidArgument
from stigmer.log.cursor import Cursor
from stigmer.log.format import crc32c
from stigmer.views.counts import Counts
from stigmer.views.environment import Environment
from stigmer.views.index import Index
from stigmer.views.requests import Requests
from stigmer.views.snapshot import Snapshot
from stigmer.views.view import Databases, FoldCommit, Folded, Transaction, View, lookup_in, number, prepare

S = TypeVar("S")
T = TypeVar("T")
V = TypeVar("V", bound=View)

VIEWS: tuple[type[View], ...] = (Snapshot, Counts, Requests, Index)
"""Every view, in the order in which they fold; `snapshot` is first (see `Change.was_there`)."""

SCHEMA = 1
"""The version of the layout of `meta`."""

_CHECKPOINT_KEY = b"checkpoint"
_CHECKPOINT = struct.Struct("<IQ")
_REVISION = struct.Struct("<Q")

# So much is read of the log before it is folded: more saves little and costs memory.
_CATCH_UP_BYTES = 8 * 1024 * 1024


class Projector:
    """Folds into one environment. The writer's thread alone folds and flushes; anyone may read.

    `_moment` guards that memory and LMDB are seen as of one moment: it is held while the memory changes, and by a
    reader of more than one row while it begins its transaction and takes what it needs from memory.
    """

    def __init__(self, directory: str, map_bytes: int, views: Sequence[type[View]] = VIEWS) -> None:
        """Open the environment in a directory. Raises `CorruptView` if it is damaged or has another layout."""
        self.views: Sequence[View] = [view() for view in views]
        self._by_class: dict[type[View], Any] = {type(view): view for view in self.views}
        self.environment = Environment(directory, map_bytes, [name for view in views for name in view.databases])
        self._meta = self.environment.databases["meta"]
        self._moment = threading.Lock()
        try:
            self.flushed = self.environment.read(self._read_checkpoint)
        except BaseException:
            self.environment.close()
            raise
        self.checkpoint = self.flushed
        """The last revision folded: what readers see. Up to `flushed` it is in LMDB, beyond that in memory."""
        self._unflushed_bytes = 0
        self.folded_bytes = 0
        """The bytes of all commits folded since it was opened."""

    # --- folding and flushing ----------------------------------------------------------------------------

    @property
    def visible_revision(self) -> int:
        """The last revision that readers see: no read has shown more, and one that begins now shows no less."""
        # Not the checkpoint alone: a Get takes no lock, and may find the new memory before a fold has moved that.
        with self._moment:
            return self.checkpoint

    @property
    def is_full(self) -> bool:
        """Whether memory holds so much that it should be flushed before more is folded."""
        return (
            self.checkpoint - self.flushed >= config.UNFLUSHED_EVENTS_MAX
            or self._unflushed_bytes >= config.UNFLUSHED_BYTES_MAX
            or sum(view.unflushed for view in self.views) >= config.UNFLUSHED_ENTRIES_MAX
        )

    @property
    def is_flushed(self) -> bool:
        """Whether LMDB has everything that was folded."""
        return self.flushed == self.checkpoint

    def fold(self, commits: Sequence[FoldCommit]) -> None:
        """Fold commits that follow the checkpoint; readers see all of them at once.

        Raises `CorruptView` or `StorageFailed`, having changed nothing.
        """
        if not commits:
            return
        if commits[0].first_revision != self.checkpoint + 1:
            raise CorruptView(
                "checkpoint", f"is {self.checkpoint}; {commits[0].first_revision} cannot be folded onto it"
            )

        def work(transaction: Transaction, databases: Databases) -> list[tuple[View, Folded]]:
            lookup = lookup_in(transaction, databases)
            return [(view, folded) for view in self.views if (folded := view.fold(lookup, commits))]

        results = self.environment.read(work)
        size = sum(commit.size for commit in commits)
        self._unflushed_bytes += size
        self.folded_bytes += size
        with self._moment:
            for view, folded in results:
                view.take(folded)
            self.checkpoint = commits[-1].last_revision

    def flush(self) -> None:
        """Put what is in memory into LMDB, and the checkpoint with it, in one transaction.

        Raises `DiskFull`, `CorruptView` or `StorageFailed`, having changed nothing: readers still find it in memory.
        """
        last = self.checkpoint
        if last == self.flushed:
            return

        def work(transaction: Transaction) -> None:
            for view in self.views:
                view.flush(transaction, self.environment.databases)
            revision = _REVISION.pack(last)
            transaction.put(_CHECKPOINT_KEY, _CHECKPOINT.pack(crc32c(0, revision), last), db=self._meta)

        self.environment.write(work)
        with self._moment:
            # First, so that who finds the new memory, and no lock held, finds the new revision behind it.
            self.flushed = last
            for view in self.views:
                view.forget()
        self._unflushed_bytes = 0

    def catch_up(self, cursor: Cursor, upto_revision: int) -> Iterator[int]:
        """Fold what the cursor gives, up to a revision; give the checkpoint from time to time.

        The cursor starts at the checkpoint. What is folded is flushed as memory fills, but the last of it. Raises
        `CorruptLog` where the log is damaged or holds what is no commit.
        """
        while self.checkpoint < upto_revision:
            frames = cursor.read(upto_revision, _CATCH_UP_BYTES)
            commits = []
            for frame in frames:
                try:
                    commit = decode_commit(frame.payload)
                except InvalidArgument as error:
                    raise _not_a_commit(cursor, frame.first_revision) from error
                if len(commit.events) != frame.event_count:
                    raise _not_a_commit(cursor, frame.first_revision)
                commits.append(
                    number(prepare(commit), commit.request_id, frame.first_revision, frame.time_ns, len(frame.payload))
                )
            self.fold(commits)
            if self.is_full:
                self.flush()
            yield self.checkpoint

    # --- reading -----------------------------------------------------------------------------------------

    def view(self, kind: type[V]) -> V:
        """Give the view of a class."""
        view: V = self._by_class[kind]
        return view

    def read(
        self,
        kind: type[V],
        select: Callable[[V], S],
        work: Callable[[Transaction, Databases, S], T],
        *,
        buffers: bool = False,
    ) -> T:
        """Do some work in a read transaction, with what `select` takes from a view's memory at the same moment.

        `select` must be quick, for nothing is folded meanwhile. With `buffers` the work sees rows without a copy, and
        gives none of them out. Raises `CorruptView`, `EnvironmentClosed`.
        """
        return self.read_across(lambda projector: select(projector.view(kind)), work, buffers=buffers)

    def read_across(
        self,
        select: Callable[[Projector], S],
        work: Callable[[Transaction, Databases, S], T],
        *,
        buffers: bool = False,
    ) -> T:
        """Do some work in a read transaction, with what `select` takes from several views' memory at the same moment.

        As with `read`, `select` must be quick.
        """
        return self.environment.read_with(self._moment, lambda: select(self), work, buffers=buffers)

    # --- meta --------------------------------------------------------------------------------------------

    def meta(self) -> dict[str, str]:
        """Give the entries of `meta` that are text."""

        def work(transaction: Transaction, _databases: Databases) -> dict[str, str]:
            entries = transaction.cursor(db=self._meta)
            return {key.decode(): value.decode() for key, value in entries if key != _CHECKPOINT_KEY}

        try:
            return self.environment.read(work)
        except UnicodeDecodeError as error:
            raise CorruptView("meta", "is damaged") from error

    def set_meta(self, **entries: str) -> None:
        """Write entries of `meta`."""

        def work(transaction: Transaction) -> None:
            for key, value in entries.items():
                transaction.put(key.encode(), value.encode(), db=self._meta)

        self.environment.write(work)

    def _read_checkpoint(self, transaction: Transaction, _databases: Databases) -> int:
        row = transaction.get(_CHECKPOINT_KEY, db=self._meta)
        if row is None:
            return 0
        if len(row) != _CHECKPOINT.size or _CHECKPOINT.unpack(row)[0] != crc32c(0, row[4:]):
            raise CorruptView("checkpoint", "is damaged")
        return int(_CHECKPOINT.unpack(row)[1])


def _not_a_commit(cursor: Cursor, revision: int) -> CorruptLog:
    segment, offset = cursor.place()
    return CorruptLog(
        segment.path,
        offset,
        revision,
        "the frame before this offset is whole, but does not hold a commit of that many events",
    )
