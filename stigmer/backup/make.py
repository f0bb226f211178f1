"""Making a backup, or bringing the one that is there up to date.

Invariants:
- What the present manifest names stays whole until the next one is there: its files are appended to, or replaced by
  files that hold the same and were damaged; those it does not name are removed afterwards.
- Every frame that is copied was verified, in the copy.
- Two segments of the same id have the same bytes, as far as both go: a store only appends to a segment, and whoever
  writes one anew gives it another id.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from stigmer.artifacts import Artifacts
from stigmer.backup import manifest as manifests
from stigmer.backup.manifest import ArtifactEntry, Manifest, SecretsEntry, SegmentEntry
from stigmer.errors import (
    BackupDirectoryError,
    CorruptArtifact,
    CorruptBackup,
    CorruptLog,
    DiskFull,
    NotFound,
    StorageFailed,
)
from stigmer.log import files
from stigmer.log import format as fmt
from stigmer.log.files import read_at
from stigmer.log.segment import FrameScan, Segment, crc_of, read_header, read_seal
from stigmer.model import BackupPoint, FoldProgress, ProgressCallback, SegmentInfo
from stigmer.version import VERSION

SECRETS_FILE = "secrets.keys"
"""In the data directory."""

_CHUNK_BYTES = 1024 * 1024
_NOT_OURS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR})


class Made(NamedTuple):
    """What came of it."""

    manifest: Manifest
    bytes_copied: int
    bytes: int
    """Of everything that the manifest names."""
    notes: list[str]
    """Sentences about copies that had gone bad."""


def make(
    directory: str,
    point: BackupPoint,
    check_hold: Callable[[], None],
    progress: ProgressCallback | None = None,
) -> Made:
    """Make a backup of a point in a directory, which is absent, empty, or has a backup of the same store.

    `check_hold` is called before the manifest is written; it raises where artifacts may have been removed meanwhile.
    Raises
    `CorruptLog` or `CorruptArtifact` where the store is damaged, `BackupDirectoryError` where the directory cannot be
    used, `DiskFull` and `StorageFailed`; the backup that was there is then still what it was.
    """
    directory = os.path.abspath(directory)
    try:
        _prepare(directory, point)
        with manifests.in_use(directory, "stigmer backup", writing=True):
            return _Making(directory, point, progress).run(check_hold)
    except OSError as error:
        path = error.filename or directory
        if error.errno in files.FULL:
            raise DiskFull(directory) from error
        if error.errno in _NOT_OURS:
            raise BackupDirectoryError(
                directory, f"cannot be used: {error.strerror} ({path})", hint="make it accessible, or choose another"
            ) from error
        raise StorageFailed(path, "back up to", error.strerror or str(error)) from error


def _prepare(directory: str, point: BackupPoint) -> None:
    """Make the directory ours, or refuse it."""
    source = os.path.realpath(point.data_dir)
    target = os.path.realpath(directory)
    if os.path.commonpath((source, target)) in (source, target):
        raise BackupDirectoryError(
            directory, f"cannot take a backup of {point.data_dir}, for one is in the other", hint="choose another"
        )
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if not manifests.is_backup(directory):
        if set(os.listdir(directory)) - {f"{manifests.README}.new"}:
            raise BackupDirectoryError(
                directory, "is neither empty nor a backup", hint="choose another directory for the backup"
            )
        manifests.write_readme(directory)
        files.sync_name(directory)


class _Kept(NamedTuple):
    """How far a copy is whole."""

    offset: int
    revision: int
    """That comes next."""
    crc: int


class _Making:
    """One run."""

    def __init__(self, directory: str, point: BackupPoint, progress: ProgressCallback | None) -> None:
        self._directory = directory
        self._point = point
        self._progress = progress
        self._log = os.path.join(directory, manifests.LOG)
        self._source = os.path.join(point.data_dir, "log")
        self._notes: list[str] = []
        self._total = sum(info.bytes for info in point.segments)
        self._done = 0
        self._copied = 0
        self._last_event_at: datetime | None = None

    def run(self, check_hold: Callable[[], None]) -> Made:
        before = self._before()
        known = {entry.name: entry for entry in before.segments} if before is not None else {}
        if before is not None and before.last_event_at is not None:
            self._last_event_at = before.last_event_at
        os.makedirs(self._log, mode=0o700, exist_ok=True)
        segments = [self._segment(info, known.get(info.name)) for info in self._point.segments]
        files.sync_directory(self._log)
        artifacts = self._artifacts(before)
        secrets = self._secrets()
        files.sync_directory(self._directory)
        check_hold()
        manifest = Manifest(
            store_id=self._point.store_id,
            revision=segments[-1].last_revision,
            made_at=datetime.now(UTC).replace(microsecond=0),
            last_event_at=self._last_event_at,
            version=VERSION,
            master_key=self._point.master_key,
            segments=segments,
            artifacts=artifacts,
            secrets=secrets,
        )
        manifests.write(self._directory, manifest)
        self._remove_old_secrets(secrets)
        size = sum(entry.bytes for entry in segments) + sum(entry.bytes for entry in artifacts)
        size += secrets.bytes if secrets is not None else 0
        return Made(manifest, self._copied, size, self._notes)

    def _before(self) -> Manifest | None:
        """Give the manifest of the backup that is there, if it is one that this one can continue."""
        if not os.path.exists(os.path.join(self._directory, manifests.MANIFEST)):
            return None
        try:
            before = manifests.read(self._directory)
        except CorruptBackup as error:
            # Whose the files are, their headers say; that they are whole is looked at frame by frame.
            self._notes.append(f"{error.problem}: {error.path}; every file was checked anew")
            return None
        if before.store_id != self._point.store_id:
            raise BackupDirectoryError(
                self._directory,
                f"has a backup of another store ({before.store_id})",
                hint="choose another directory; a restored store is another one, too",
            )
        names = {info.name for info in self._point.segments}
        for entry in before.segments:
            if entry.name not in names:
                raise self._diverged(entry.first_revision)
        return before

    def _diverged(self, revision: int) -> BackupDirectoryError:
        return BackupDirectoryError(
            self._directory,
            f"has another history of this store from revision {revision} on",
            hint="keep it, and choose another directory for this backup",
        )

    # --- segments ----------------------------------------------------------------------------------------

    def _segment(self, info: SegmentInfo, known: SegmentEntry | None) -> SegmentEntry:
        """Have a segment in the backup, up to its size at the point."""
        source = Segment(self._source, read_header(os.path.join(self._source, info.name)))
        if source.header.store_id.hex() != self._point.store_id:
            raise CorruptLog(source.path, 0, info.first_revision, "the segment is from another store")
        if known is not None and (known.segment_id != source.header.segment_id.hex() or known.bytes > info.bytes):
            raise self._diverged(info.first_revision)
        source_fd = source.open()
        try:
            return self._copy(info, source, source_fd, known)
        finally:
            os.close(source_fd)

    def _copy(self, info: SegmentInfo, source: Segment, source_fd: int, known: SegmentEntry | None) -> SegmentEntry:
        path = os.path.join(self._log, info.name)
        target = Segment(self._log, source.header)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        replaced = ""
        try:
            kept = self._kept(fd, target, info, known)
            if kept is None:
                # The copy went bad. It is replaced as a whole, so that nothing is worse if the store's is bad too.
                self._notes.append(f"the copy of {info.name} was damaged, and was made anew")
                replaced = path + ".new"
                fresh = os.open(replaced, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                os.close(fd)
                fd = fresh
                kept = self._begin(fd, target)
            crc = kept.crc
            if known is None or known.bytes != info.bytes or replaced:
                crc = self._append(source, source_fd, fd, kept, info.bytes)
                os.fsync(fd)
                self._check_new(fd, target, source, source_fd, info, kept)
            if replaced:
                os.rename(replaced, path)
        finally:
            os.close(fd)
        return SegmentEntry(
            name=info.name,
            segment_id=source.header.segment_id.hex(),
            first_revision=info.first_revision,
            last_revision=info.last_revision or info.first_revision - 1,
            bytes=info.bytes,
            crc32c=manifests.shown(crc),
        )

    def _kept(self, fd: int, target: Segment, info: SegmentInfo, known: SegmentEntry | None) -> _Kept | None:
        """Give how far the copy that is there is whole; None where the part that belongs to the backup is damaged."""
        size = os.fstat(fd).st_size
        header = fmt.encode_segment_header(target.header)
        known_bytes = known.bytes if known is not None else 0
        if size < known_bytes:
            return None
        if known is None and read_at(fd, len(header), 0) != header:
            os.ftruncate(fd, 0)
            return self._begin(fd, target)
        os.ftruncate(fd, min(size, info.bytes))
        offset, revision = len(header), info.first_revision
        if known is not None:
            if manifests.shown(crc_of(fd, known_bytes)) != known.crc32c:
                return None
            offset, revision = known.bytes, known.last_revision + 1
        # A backup that was interrupted may have brought more.
        scan = FrameScan(fd, target, offset, revision)
        for _offset, frame, _stored in scan:
            self._note_time(frame)
        os.ftruncate(fd, scan.offset)
        self._advance(scan.offset)
        return _Kept(scan.offset, scan.revision, crc_of(fd, scan.offset))

    def _begin(self, fd: int, target: Segment) -> _Kept:
        header = fmt.encode_segment_header(target.header)
        self._write(fd, header, 0)
        self._advance(len(header))
        return _Kept(len(header), target.first_revision, fmt.crc32c(0, header))

    def _append(self, source: Segment, source_fd: int, fd: int, kept: _Kept, end: int) -> int:
        """Copy what lies behind what is there, up to an offset; give the CRC of the whole file."""
        offset, _revision, crc = kept
        while offset < end:
            try:
                data = read_at(source_fd, min(_CHUNK_BYTES, end - offset), offset)
            except files.Unreadable as error:
                raise self._unreadable(source, source_fd, kept, error) from error
            if not data:
                break  # the check finds it
            self._write(fd, data, offset)
            crc = fmt.crc32c(crc, data)
            offset += len(data)
            self._advance(len(data))
        return crc

    def _unreadable(self, source: Segment, source_fd: int, kept: _Kept, error: OSError) -> CorruptLog:
        """Give the error for the first frame of the store's segment that the disk cannot read."""
        scan = FrameScan(source_fd, source, kept.offset, kept.revision)
        with suppress(OSError):
            for _ in scan:
                pass
        return CorruptLog(source.path, scan.offset, scan.revision, f"cannot be read: {error.strerror}")

    def _check_new(
        self,
        fd: int,
        target: Segment,
        source: Segment,
        source_fd: int,
        info: SegmentInfo,
        kept: _Kept,
    ) -> None:
        """Check the frames that were copied, and the seal of a segment that is full. Raises `CorruptLog`."""
        offset, revision, _crc = kept
        scan = FrameScan(fd, target, offset, revision)
        for _offset, frame, _stored in scan:
            self._note_time(frame)
        problem = scan.problem
        expected = (info.last_revision or info.first_revision - 1) + 1
        if problem is None and (scan.offset, scan.revision) != (info.bytes, expected):
            problem = f"it ends at revision {scan.revision - 1}; {expected - 1} was durable"
        if problem is None and info.sealed:
            found = read_seal(fd, target)
            if found is None or crc_of(fd, found[0]) != found[2].segment_crc:
                problem = "the segment's checksum does not match its seal"
        if problem is None:
            return
        again = FrameScan(source_fd, source, offset, revision, info.bytes)
        for _ in again:
            pass
        if again.problem is None and again.offset != scan.offset:
            raise StorageFailed(target.path, "copy to", "what was written is not what is read back")
        raise CorruptLog(source.path, scan.offset, scan.revision, problem)

    def _note_time(self, frame: fmt.FrameHeader) -> None:
        if frame.event_count:
            self._last_event_at = datetime.fromtimestamp(frame.time_ns / 1e9, UTC)

    # --- artifacts and secrets ---------------------------------------------------------------------------

    def _artifacts(self, before: Manifest | None) -> list[ArtifactEntry]:
        """Have every artifact in the backup, and keep those that it had."""
        source = Artifacts(os.path.join(self._point.data_dir, "artifacts"))
        target = Artifacts(os.path.join(self._directory, manifests.ARTIFACTS))
        sizes: dict[str, int] = {}
        had = {entry.key: entry.bytes for entry in before.artifacts} if before is not None else {}
        keys = source.keys()
        for key in sorted({*keys, *had}):
            found = self._artifact(key, source, target, is_in_store=key in keys)
            if found is not None:
                sizes[key] = found
            elif key in had:
                self._notes.append(f"the copy of artifact {key} was damaged, and the store has it no more")
        return [ArtifactEntry(key, size) for key, size in sorted(sizes.items())]

    def _artifact(self, key: str, source: Artifacts, target: Artifacts, *, is_in_store: bool) -> int | None:
        """Have an artifact in the backup; give its size, or None where nobody has it."""
        try:
            return len(target.get(key))
        except (NotFound, CorruptArtifact):
            if not is_in_store:
                return None
        try:
            content = source.get(key)
        except NotFound:
            return None  # a removal was under way at the point, so nothing names it
        target.put(content)
        self._copied += len(content)
        return len(content)

    def _secrets(self) -> SecretsEntry | None:
        """Copy the keys of secrets, after the log: those that it needs were there before."""
        try:
            with open(os.path.join(self._point.data_dir, SECRETS_FILE), "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return None
        crc = manifests.shown(fmt.crc32c(0, content))
        name = manifests.SECRETS_PREFIX + crc
        path = os.path.join(self._directory, name)
        if not _has(path, content):
            os.close(files.create(path, content))
            self._copied += len(content)
        return SecretsEntry(name, len(content), crc)

    def _remove_old_secrets(self, secrets: SecretsEntry | None) -> None:
        """Remove the keys of the backup before: what was deleted since is not to be kept alive."""
        kept = secrets.name if secrets is not None else ""
        for name in os.listdir(self._directory):
            if name.startswith(manifests.SECRETS_PREFIX) and name != kept:
                os.unlink(os.path.join(self._directory, name))
        files.sync_directory(self._directory)

    # --- bytes -------------------------------------------------------------------------------------------

    def _write(self, fd: int, data: bytes, offset: int) -> None:
        files.write_at(fd, (data,), offset)
        self._copied += len(data)

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(FoldProgress("copy", min(self._done, self._total), self._total))


def _has(path: str, content: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read() == content
    except OSError:
        return False
