"""Folds commits from the log into all views of one environment.

Owns the list of views and the checkpoint. A fold is one LMDB transaction: the rows of every view and the checkpoint
become visible together or not at all.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence

from stigmer.codec import decode_commit
from stigmer.errors import CorruptLog, CorruptView, InvalidArgument
from stigmer.log.cursor import Cursor
from stigmer.log.format import crc32c
from stigmer.views.counts import Counts
from stigmer.views.environment import Environment
from stigmer.views.requests import Requests
from stigmer.views.snapshot import Snapshot
from stigmer.views.view import Databases, FoldCommit, Transaction, View, fold_commit

VIEWS: tuple[type[View], ...] = (Snapshot, Counts, Requests)
"""Every view, in the order in which they fold; `snapshot` is first (see `Change.was_there`)."""

SCHEMA = 1
"""The version of the layout of `meta`."""

_CHECKPOINT_KEY = b"checkpoint"
_CHECKPOINT = struct.Struct("<IQ")
_REVISION = struct.Struct("<Q")

# Folding many events in one transaction touches each page once; more than this saves little and costs memory.
_CATCH_UP_BYTES = 8 * 1024 * 1024


class Projector:
    """Folds into one environment. The writer's thread alone folds; anyone may read."""

    def __init__(self, directory: str, map_bytes: int, views: Sequence[type[View]] = VIEWS) -> None:
        """Open the environment in a directory. Raises `CorruptView` if it is damaged or has another layout."""
        self.views = [view() for view in views]
        self.environment = Environment(directory, map_bytes, [name for view in views for name in view.databases])
        self._meta = self.environment.databases["meta"]
        try:
            self.checkpoint = self.environment.read(self._read_checkpoint)
        except BaseException:
            self.environment.close()
            raise

    def fold(self, commits: Sequence[FoldCommit]) -> None:
        """Fold commits that follow the checkpoint, all in one transaction.

        Raises `DiskFull`, `CorruptView` or `StorageFailed`, having changed nothing.
        """
        if not commits:
            return
        if commits[0].first_revision != self.checkpoint + 1:
            raise CorruptView(
                "checkpoint", f"is {self.checkpoint}; {commits[0].first_revision} cannot be folded onto it"
            )
        last = commits[-1].last_revision

        def work(transaction: Transaction) -> None:
            for view in self.views:
                view.fold(transaction, self.environment.databases, commits)
            revision = _REVISION.pack(last)
            transaction.put(_CHECKPOINT_KEY, _CHECKPOINT.pack(crc32c(0, revision), last), db=self._meta)

        self.environment.write(work)
        self.checkpoint = last

    def catch_up(self, cursor: Cursor, upto_revision: int) -> Iterator[int]:
        """Fold what the cursor gives, up to a revision; give the checkpoint after each transaction.

        The cursor starts at the checkpoint. Raises `CorruptLog` where the log is damaged or holds what is no commit.
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
                commits.append(fold_commit(commit, frame.first_revision, frame.time_ns))
            self.fold(commits)
            yield self.checkpoint

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


def boot_id() -> str:
    """Give a name of the present boot of the machine; "" where there is none to be had."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return _darwin_boot_id() if os.uname().sysname == "Darwin" else ""


def _darwin_boot_id() -> str:
    import subprocess

    asked = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False)
    return asked.stdout.strip()
