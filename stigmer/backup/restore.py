"""Restoring: a new store with the log of a backup, or with the beginning of it.

Invariants:
- The data directory was absent or empty. From the first file on to the last it is marked as unfinished.
- Every frame that is restored was verified. Commits are whole, in their order, with their revisions and times.
- The store has an id of its own (docs/OPERATIONS.md, "Restore"): what others remember of the store that was backed up
  does not hold for it.
"""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from stigmer import lock, unfinished
from stigmer.artifacts import Artifacts
from stigmer.backup import manifest as manifests
from stigmer.backup.check import frames_of, read_secrets, segment_of
from stigmer.backup.make import SECRETS_FILE
from stigmer.backup.manifest import Manifest, SegmentEntry
from stigmer.errors import (
    CorruptArtifact,
    CorruptBackup,
    DataDirectoryError,
    DiskFull,
    InvalidArgument,
    NotFound,
    StorageFailed,
)
from stigmer.log import files
from stigmer.log import format as fmt
from stigmer.log.rewrite import SegmentRewriter
from stigmer.model import FoldProgress, ProgressCallback

_OPERATION = "restore"
# What a restore that was interrupted may have left.
_OWN_NAMES = frozenset({"LOCK", unfinished.FILE, f"{unfinished.FILE}.new", "log", "artifacts"})
_OWN_SECRETS = frozenset({SECRETS_FILE, f"{SECRETS_FILE}.new"})
_NO_NAMES = frozenset({"LOCK", f"{unfinished.FILE}.new"})


class Restored(NamedTuple):
    """What came of it."""

    store_id: str
    revision: int
    """The last one of the new store."""
    manifest: Manifest
    notes: list[str]
    """Sentences: where the log was cut, and why."""
    problems: list[CorruptBackup]
    """Artifacts and keys that were damaged and so are not there; the log is."""


class Cut(NamedTuple):
    """Where a log is to end: behind the last commit up to this revision, or up to this time; None: not by it."""

    revision: int | None = None
    time_ns: int | None = None


def restore(backup: str, directory: str, cut: Cut, progress: ProgressCallback | None = None) -> Restored:
    """Make a store of a backup in a data directory that is absent or empty.

    Raises `InvalidArgument` where nothing would be left or the backup does not go so far; `CorruptBackup` where its log
    is damaged before the cut; `DataDirectoryError`, `BackupDirectoryError`, `DiskFull` or `StorageFailed`.
    """
    backup, directory = os.path.abspath(backup), os.path.abspath(directory)
    if os.path.realpath(directory).startswith(os.path.realpath(backup) + os.sep):
        raise DataDirectoryError(directory, "lies in the backup", hint="choose another with --data-dir")
    manifests.read(backup)  # so that what is no backup is left without our lock in it
    try:
        with manifests.in_use(backup, "stigmer restore"):
            manifest = manifests.read(backup)
            if cut.revision is not None and not 1 <= cut.revision <= manifest.revision:
                raise InvalidArgument(
                    "--to-revision", f"{cut.revision} is not in the backup, which has 1 to {manifest.revision}"
                )
            return _into(directory, _Restoring(backup, directory, manifest, cut, progress))
    except OSError as error:
        if error.errno in files.FULL:
            raise DiskFull(directory) from error
        raise StorageFailed(error.filename or directory, "restore to", error.strerror or str(error)) from error


def _into(directory: str, work: _Restoring) -> Restored:
    existed = os.path.isdir(directory)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    _check_empty(directory)
    files.sync_name(directory)
    held = lock.take(directory, f"stigmer {_OPERATION}")
    try:
        _check_empty(directory)
        unfinished.begin(directory, unfinished.Work(_OPERATION, f"stigmer {_OPERATION} DIR --data-dir {directory}"))
        _clear(directory)
        try:
            restored = work.run()
        except (InvalidArgument, CorruptBackup):
            # It will not go better the next time, so nothing is left behind.
            _clear(directory)
            for name in (unfinished.FILE, "LOCK"):
                os.unlink(os.path.join(directory, name))
            if not existed:
                os.rmdir(directory)
            raise
        unfinished.end(directory)
        return restored
    finally:
        held.release()


def _check_empty(directory: str) -> None:
    """Raise `DataDirectoryError` unless a directory has nothing but what a restore that was interrupted has left."""
    work = unfinished.read(directory)
    ours = _OWN_NAMES | _OWN_SECRETS if work is not None and work.operation == _OPERATION else _NO_NAMES
    if others := sorted(set(os.listdir(directory)) - ours):
        raise DataDirectoryError(
            directory,
            f"is not empty (it has {others[0]}); a restore goes into an empty one",
            hint="choose another with --data-dir, or move this one away",
        )


def _clear(directory: str) -> None:
    """Remove what a restore has brought so far, but for the mark."""
    for name in ("log", "artifacts"):
        shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
    for name in _OWN_SECRETS:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))


class _Restoring:
    """One run."""

    def __init__(
        self, backup: str, directory: str, manifest: Manifest, cut: Cut, progress: ProgressCallback | None
    ) -> None:
        self._backup = backup
        self._directory = directory
        self._log = os.path.join(directory, "log")
        self._manifest = manifest
        self._cut = cut
        self._progress = progress
        self._store_id = uuid.uuid4().bytes
        self._notes: list[str] = []
        self._done = 0
        self._total = sum(entry.bytes for entry in manifest.segments)

    def run(self) -> Restored:
        os.mkdir(self._log, 0o700)
        revision = 0
        for entry in self._manifest.segments:
            revision, is_cut = self._segment(entry, revision + 1)
            if is_cut:
                break
        if revision == 0 and self._manifest.revision:
            raise self._nothing_left()
        problems = [*self._artifacts(), *self._secrets()]
        files.sync_directory(self._directory)
        return Restored(self._store_id.hex(), revision, self._manifest, self._notes, problems)

    def _segment(self, entry: SegmentEntry, revision: int) -> tuple[int, bool]:
        """Restore a segment; give the last revision there is then, and whether the log ends here."""
        segment = segment_of(self._backup, self._manifest, entry, revision)
        rewriter = SegmentRewriter(self._log, self._store_id, revision, segment.header.created_s)
        try:
            is_cut = False
            for header, stored in frames_of(segment, entry):
                if self._is_behind(header):
                    is_cut = True
                    break
                rewriter.add(header, stored)
                self._advance(fmt.FRAME_HEADER_SIZE + len(stored))
                # What is not restored is not looked at, so damage there does no harm.
                if is_cut := rewriter.segment.next_revision - 1 == self._cut.revision:
                    break
            last = rewriter.segment.next_revision - 1
            # Only the first segment of a log may have no commit.
            if last >= revision or revision == 1:
                rewriter.end()
                rewriter.publish()
        finally:
            rewriter.discard()
        return last, is_cut

    def _is_behind(self, header: fmt.FrameHeader) -> bool:
        """Say whether a commit lies behind the cut, and note where it falls into one."""
        first, last = header.first_revision, header.first_revision + header.event_count - 1
        if self._cut.revision is not None and last > self._cut.revision:
            if first <= self._cut.revision:
                self._notes.append(
                    f"revision {self._cut.revision} is inside the commit of revisions {first} to {last}, which is made "
                    f"as a whole or not at all: the log ends at revision {first - 1}"
                )
            return True
        return self._cut.time_ns is not None and header.time_ns > self._cut.time_ns

    def _nothing_left(self) -> InvalidArgument:
        if self._cut.revision is not None:
            return InvalidArgument("--to-revision", f"nothing would be left: {self._notes[-1]}")
        assert self._cut.time_ns is not None
        shown = datetime.fromtimestamp(self._cut.time_ns // 1_000_000_000, UTC).isoformat()
        return InvalidArgument("--to-time", f"the first commit in the backup is later than {shown}")

    def _artifacts(self) -> list[CorruptBackup]:
        source = Artifacts(os.path.join(self._backup, manifests.ARTIFACTS))
        target = Artifacts(os.path.join(self._directory, "artifacts"))
        problems: list[CorruptBackup] = []
        for entry in self._manifest.artifacts:
            try:
                target.put(source.get(entry.key))
            except NotFound:
                problems.append(
                    CorruptBackup(os.path.join(self._backup, manifests.ARTIFACTS), f"{entry.key} is missing")
                )
            except CorruptArtifact as error:
                problems.append(CorruptBackup(error.path, error.problem))
        return problems

    def _secrets(self) -> list[CorruptBackup]:
        try:
            content = read_secrets(self._backup, self._manifest)
        except CorruptBackup as error:
            return [error]
        if content is not None:
            os.close(files.create(os.path.join(self._directory, SECRETS_FILE), content))
        return []

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None and self._done // 1_000_000 != (self._done - count) // 1_000_000:
            self._progress(FoldProgress("restore", min(self._done, self._total), self._total))
