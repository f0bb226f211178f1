"""The append log: one order of commits over many segment files.

Owns the directory, the active segment and the numbering. One thread appends and syncs (the writer); any number of
cursors read. What the store asks of a log is this class's public methods: append, sync, cursors, bounds. Nothing
above it knows that there are files.

Invariants: `append` writes whole groups, numbered densely from `next_revision`; after a failure that is not "disk
full" the log takes nothing more; `durable_revision` moves only after a successful sync.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from stigmer import config
from stigmer.errors import CorruptLog, DataDirectoryError, DiskFull, NotFound, ResourceExhausted, StorageFailed
from stigmer.log import files, recovery
from stigmer.log import format as fmt
from stigmer.log.cursor import Cursor
from stigmer.log.lineages import Entry, Lineages
from stigmer.log.payloads import Payloads
from stigmer.log.recovery import Watermark
from stigmer.log.segment import FrameScan, Segment, seal_of
from stigmer.model import FrameInfo, SegmentInfo

# A file where a folder should be, or one that somebody else made: nothing is wrong with the disk.
_NOT_OURS = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM})


_FRAMES_PER_STEP = 10_000


class Log:
    """An open log. Made by `Log.open`."""

    def __init__(self, directory: str, segments: list[Segment], end: recovery.End, segment_bytes: int) -> None:
        # Constant after construction.
        self.directory = directory
        self.store_id = segments[0].header.store_id
        self._segment_bytes = segment_bytes
        self._payloads = Payloads(config.PAYLOADS_BYTES_MAX, segments[-1].next_revision - 1)
        # Replaced, never changed, by the writer at a roll: a reader that took the list may go on with it.
        self._segments = segments
        # The rest is the writer's own, but for `durable_revision` under `_sync_lock`.
        active = segments[-1]
        self._fd = os.open(active.path, os.O_RDWR | os.O_CLOEXEC)
        self._crc = end.crc
        self._sealed_size = active.size if end.is_sealed else 0  # the size at which the file ended in a seal
        self.last_time_ns = end.time_ns
        self.durable_revision = active.next_revision - 1
        self._lineages = Lineages(config.LINEAGES_BYTES_MAX, self._payloads)
        self._failure: StorageFailed | None = None
        # Taken by whoever syncs (the writer, or the syncer of durability `interval`) against a roll or close.
        self._sync_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        directory: str,
        *,
        segment_bytes: int,
        check_bytes: int,
        watermark: Watermark | None,
        notes: list[str],
    ) -> Log:
        """Open the log in a directory, made if it has none; recover its end.

        Sentences about what recovery did go to `notes`. Raises `CorruptLog` or `NewerFormat`, having changed nothing.
        """
        try:
            if not os.path.isdir(directory):
                os.mkdir(directory, 0o700)
            # Also of one that was there: a kill may have come between its making and the sync of its name.
            files.sync_directory(os.path.dirname(directory))
            segments = recovery.list_segments(directory)
            if not segments:
                if watermark is not None and watermark.revision:
                    raise CorruptLog(
                        directory,
                        0,
                        1,
                        f"the log is empty, but the views have revision {watermark.revision}",
                        hint="put the log back from a backup; or, to begin anew, move views/ away",
                    )
                first = _create_segment(directory, uuid.uuid4().bytes, 1)
                os.close(first[1])
                segments = [first[0]]
            time_ns = recovery.check_sealed(segments, check_bytes)
            revision = watermark.revision if watermark and watermark.store_id == segments[0].header.store_id else 0
            end = recovery.recover_last(segments[-1], revision, notes)
            # The last segment may have lost all its frames, so its own end does not tell what time it was.
            end = end._replace(time_ns=max(end.time_ns, time_ns))
            recovery.remove_unfinished(directory)
            # A kill may have come between the naming of the last segment and the sync of its name.
            files.sync_directory(directory)
            return cls(directory, segments, end, segment_bytes)
        except OSError as error:
            if error.errno in files.FULL:
                raise DiskFull(directory) from error
            if error.errno in _NOT_OURS:
                where = error.filename or directory
                raise DataDirectoryError(
                    os.path.dirname(directory),
                    f"cannot be used: {error.strerror} ({where})",
                    hint="make it accessible, or move it away",
                ) from error
            raise StorageFailed(directory, "open", str(error)) from error

    # --- bounds ------------------------------------------------------------------------------------------

    @property
    def next_revision(self) -> int:
        """The revision that the next event gets."""
        return self._segments[-1].next_revision

    @property
    def size(self) -> int:
        """The bytes of all segments."""
        return sum(segment.size for segment in self._segments)

    @property
    def saved_bytes(self) -> int:
        """How many more bytes all segments would have, if every payload were stored as it was committed."""
        return sum(segment.saved_bytes for segment in self._segments)

    def segments(self) -> list[SegmentInfo]:
        """Describe the segments, in order."""
        return [
            SegmentInfo(
                name=segment.name,
                first_revision=segment.first_revision,
                last_revision=segment.next_revision - 1 if segment.next_revision > segment.first_revision else 0,
                bytes=segment.size,
                saved_bytes=segment.saved_bytes,
                sealed=segment.sealed,
                created_at_ns=segment.header.created_s * 1_000_000_000,
            )
            for segment in self._segments
        ]

    # --- writing -----------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry], time_ns: int) -> None:
        """Append a group of commits. Not durable before `sync`.

        The first event gets `next_revision`. A payload that resembles the last one of its likeness is stored as a delta
        against it. Raises `ResourceExhausted` (`DiskFull`, or for too many open files), leaving the log as it was, or
        `StorageFailed`, after which the log must not be used.
        """
        self._raise_if_failed()
        active = self._segments[-1]
        if active.size >= self._segment_bytes and active.next_revision > active.first_revision:
            self._roll()
            active = self._segments[-1]
        offset, revision = active.size, active.next_revision
        group_first = self.durable_revision + 1
        group = self._lineages.group()
        buffers: list[bytes] = []
        placed: list[tuple[int, int]] = []
        saved_bytes = 0
        for entry in entries:
            flags, data, crc = group.store(entry, revision)
            header = fmt.FrameHeader(flags, len(data), entry.event_count, revision, group_first, time_ns, crc)
            placed.append((revision, offset))
            buffers.append(fmt.encode_frame_header(header, offset, active.salt))
            buffers.append(data)
            offset += fmt.FRAME_HEADER_SIZE + len(data)
            revision += entry.event_count
            saved_bytes += len(entry.payload) - len(data)
        self._write(active, buffers)
        self._lineages.settle(group)
        for frame_revision, frame_offset in placed:
            active.note_frame(frame_revision, frame_offset, time_ns)
        active.saved_bytes += saved_bytes
        active.size = offset
        active.next_revision = revision
        self.last_time_ns = time_ns

    def sync(self) -> None:
        """Make everything appended durable. Raises `StorageFailed`, after which the log must not be used."""
        with self._sync_lock:
            self._raise_if_failed()
            revision = self.next_revision - 1
            if revision > self.durable_revision:
                self._sync_file()
                self.durable_revision = revision

    def close(self) -> None:
        """Seal the active segment, make it durable and let go of it."""
        try:
            if self._segments[-1].next_revision > 1:
                self._seal()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the active segment as it is, after a failure."""
        with self._sync_lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _write(self, active: Segment, buffers: list[bytes]) -> None:
        try:
            files.write_at(self._fd, buffers, active.size)
        except OSError as error:
            self._take_back(active, error)
        for buffer in buffers:
            self._crc = fmt.crc32c(self._crc, buffer)

    def _take_back(self, active: Segment, error: OSError) -> None:
        """Cut a half-written group off and raise `DiskFull`; for any other failure raise `StorageFailed`."""
        if error.errno not in files.FULL:
            raise self._failed(active.path, "write", error) from error
        try:
            os.ftruncate(self._fd, active.size)
        except OSError as second:
            raise self._failed(active.path, "truncate", second) from error
        # The caller will say that nothing was written, so whole frames of the group must not come back either.
        with self._sync_lock:
            self._sync_file()
        raise DiskFull(self.directory) from error

    def _sync_file(self) -> None:
        try:
            files.sync_data(self._fd)
        except OSError as error:
            raise self._failed(self._segments[-1].path, "fsync", error) from error

    def _failed(self, path: str, operation: str, error: OSError) -> StorageFailed:
        self._failure = StorageFailed(path, operation, str(error))
        return self._failure

    def _raise_if_failed(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def _seal(self) -> None:
        """Make everything durable, then write a seal that says so, durable itself, unless there is one already."""
        self.sync()
        active = self._segments[-1]
        if active.size == self._sealed_size:
            return
        parts = seal_of(active, self._crc, self.last_time_ns)
        self._write(active, parts)
        active.size += sum(map(len, parts))
        with self._sync_lock:
            self._sync_file()
        self._sealed_size = active.size

    def _roll(self) -> None:
        """Seal the active segment and start the next."""
        active = self._segments[-1]
        self._seal()
        try:
            segment, fd = _create_segment(self.directory, self.store_id, active.next_revision)
        except OSError as error:
            if error.errno in files.FULL:
                raise DiskFull(self.directory) from error
            if error.errno in files.EXHAUSTED:
                # Nothing is wrong with the disk, and the next append tries again.
                raise ResourceExhausted(
                    f"no segment can be created in {self.directory}: {error.strerror}",
                    limit="open files",
                    hint="close some files, or allow more of them (ulimit -n); writes resume by themselves",
                ) from error
            raise self._failed(self.directory, "create a segment in", error) from error
        with self._sync_lock:
            os.close(self._fd)
            self._fd = fd
        self._crc = fmt.crc32c(0, fmt.encode_segment_header(segment.header))
        self._sealed_size = 0
        active.sealed = True
        self._lineages.clear()
        self._segments = [*self._segments, segment]

    # --- reading -----------------------------------------------------------------------------------------

    def cursor(self, after: int) -> Cursor:
        """Give a cursor that reads from revision `after + 1` on."""
        return Cursor(after, self._segment_of, lambda: self._segments[-1], self._payloads)

    def check(self) -> Iterator[tuple[int, int]]:
        """Compare every checksum of every segment, as far as it is written at the call; decode nothing.

        Gives, from time to time, the last revision looked at and the number of frames so far. Raises `CorruptLog`.
        """
        frames = 0
        for segment in self._segments:
            end, is_sealed = segment.size, segment.sealed
            fd = segment.open()
            try:
                scan = FrameScan(fd, segment, fmt.SEGMENT_HEADER_SIZE, segment.first_revision, end)
                for _offset, header, _stored in scan:
                    frames += header.event_count > 0
                    if frames % _FRAMES_PER_STEP == 0:
                        yield scan.revision - 1, frames
            except files.Unreadable as error:
                raise CorruptLog(
                    segment.path, scan.offset, scan.revision, f"cannot be read: {error.strerror}"
                ) from error
            finally:
                os.close(fd)
            if scan.problem is not None or scan.offset != end:
                problem = scan.problem or f"a frame ends at {scan.offset}, behind what was written"
                raise CorruptLog(segment.path, scan.offset, scan.revision, problem)
            if is_sealed:
                recovery.check_bytes_of(segment)
            yield scan.revision - 1, frames

    def frame(self, revision: int) -> FrameInfo:
        """Describe the frame that holds a revision. Raises `NotFound`, or `CorruptLog` if it is damaged."""
        if not 1 <= revision < self.next_revision:
            raise NotFound("revision", str(revision), hint=f"the last one is {self.next_revision - 1}")
        cursor = self.cursor(revision - 1)
        try:
            segment, offset = cursor.place()
            frame = cursor.read(revision, 0)[0]
            fd = segment.open()
            try:
                data = files.read_at(fd, fmt.FRAME_HEADER_SIZE + fmt.ENCODED_HEAD_SIZE_MAX, offset)
            finally:
                os.close(fd)
            header = fmt.decode_frame_header(data, 0, offset, segment.salt)
        finally:
            cursor.close()
        assert header is not None, "the cursor has just checked it"
        encoded = fmt.decode_encoded_head(header.flags, data[fmt.FRAME_HEADER_SIZE :])
        head = encoded[0] if encoded is not None else fmt.EncodedHead(header.payload_size, header.payload_crc)
        return FrameInfo(
            segment=segment.name,
            offset=offset,
            bytes=fmt.FRAME_HEADER_SIZE + header.payload_size,
            first_revision=header.first_revision,
            event_count=header.event_count,
            group_first_revision=header.group_first,
            time_ns=header.time_ns,
            flags=header.flags,
            payload_crc32c=header.payload_crc,
            codec=fmt.CODEC_NAMES[header.flags],
            payload_bytes=head.size,
            base_revision=head.base_revision,
            depth=head.depth,
            payload=frame.payload,
        )

    def _segment_of(self, revision: int) -> Segment:
        segments = self._segments
        place = bisect_right(segments, revision, key=lambda segment: segment.first_revision) - 1
        return segments[max(place, 0)]


def _create_segment(directory: str, store_id: bytes, first_revision: int) -> tuple[Segment, int]:
    """Create a segment durably; give it with a descriptor to write it."""
    header = fmt.SegmentHeader(store_id, uuid.uuid4().bytes, first_revision, fmt.created_s(time.time()))
    segment = Segment(directory, header)
    segment.start_index([])
    return segment, files.create(segment.path, fmt.encode_segment_header(header))
