"""A place in the log from which frames are read, in order, as far as the caller may see.

A cursor is behind (it reads files) or caught up (it gives nothing until the log grows); it holds no queue and never
waits. Every frame it gives had its checksums verified, and its payload is the one that was committed, however it is
stored. It is used by one thread at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from stigmer.errors import CorruptLog, StigmerError
from stigmer.log import format as fmt
from stigmer.log.files import Unreadable, read_at
from stigmer.log.payloads import Payloads, StoredFrame
from stigmer.log.segment import Segment

_CHUNK_BYTES = 256 * 1024
# Reading this close to the end of the log hits what was written a moment ago, which is in the page cache.
_NEAR_END_BYTES = 4 * 1024 * 1024


class Cursor:
    """Reads frames from the one that holds revision `after + 1` on."""

    def __init__(
        self, after: int, find: Callable[[int], Segment], last: Callable[[], Segment], payloads: Payloads
    ) -> None:
        """Start behind revision `after`; `find` gives the segment that holds a revision, `last` the last one.

        `payloads`, shared with the log's other cursors, decodes what is not stored as it was committed.
        """
        self._find = find
        self._last = last
        self._payloads = payloads
        self._after = after
        self._next_revision = 0  # of the frame at `_offset`; 0 until the first read has found its place
        self._segment: Segment | None = None
        self._fd = -1
        self._offset = 0

    def read(self, upto_revision: int, bytes_max: int = 1 << 20) -> list[fmt.Frame]:
        """Give the next frames that begin at or below `upto_revision`; empty when caught up.

        Stops once their payloads exceed `bytes_max`, but gives at least one frame where there is one. The first
        frame ever given may begin before `after + 1`, in the middle of whose commit the cursor started. Raises
        `CorruptLog` where a frame is damaged, or the disk cannot read it, and `NewerFormat` where this version cannot,
        without giving the frames before it in this call twice or not at all.
        """
        if upto_revision <= self._after or self._next_revision > upto_revision:
            return []
        if self._segment is None:
            self._seek()
        frames: list[fmt.Frame] = []
        taken = 0
        while self._next_revision <= upto_revision and taken <= bytes_max:
            segment = self._segment
            assert segment is not None
            try:
                if segment.sealed and self._next_revision >= segment.next_revision:
                    self._enter(self._find(self._next_revision), None)
                    continue
                taken += self._read_chunk(segment, upto_revision, bytes_max - taken, frames)
            except (StigmerError, OSError) as error:
                if frames:
                    break  # what is whole first; the next call comes to the same place again
                if isinstance(error, Unreadable) and self._segment is not None:
                    raise self._damage(f"cannot be read: {error.strerror}") from error
                raise
        return frames

    def is_near_end(self) -> bool:
        """Say whether the next read is of bytes written a moment ago, so that it does not wait for the disk.

        Nor does it then decode a chain of deltas: what was written a moment ago is in memory as it was committed.
        """
        last = self._last()
        if last.saved_bytes and (self._next_revision or self._after + 1) <= self._payloads.evicted_revision:
            return False
        if self._segment is None:
            return self._after >= last.first_revision and last.size < _NEAR_END_BYTES
        return self._segment is last and last.size - self._offset < _NEAR_END_BYTES

    def place(self) -> tuple[Segment, int]:
        """Give the segment and the offset of the frame that is read next."""
        if self._segment is None:
            self._seek()
        assert self._segment is not None
        return self._segment, self._offset

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._segment = None
        self._next_revision = 0

    def _enter(self, segment: Segment, near: tuple[int, int] | None) -> None:
        wanted = self._next_revision
        self.close()
        try:
            self._fd = segment.open()
        except OSError:
            self._next_revision = wanted  # too many open files, perhaps: the next read goes on from here
            raise
        self._segment = segment
        self._next_revision, self._offset = near or (segment.first_revision, fmt.SEGMENT_HEADER_SIZE)

    def _seek(self) -> None:
        """Go to the frame that holds revision `after + 1`, or the next one where a file could not be opened."""
        wanted = self._next_revision or self._after + 1
        segment = self._find(wanted)
        try:
            self._enter(segment, segment.near(wanted))
            self._walk_to(wanted, segment)
        except BaseException as error:
            at = (self._offset, self._next_revision) if self._segment is segment else (segment.size, wanted)
            self.close()
            self._next_revision = wanted  # a later read must not begin on the way
            if isinstance(error, Unreadable):
                raise CorruptLog(segment.path, *at, f"cannot be read: {error.strerror}") from error
            raise

    def _walk_to(self, wanted: int, segment: Segment) -> None:
        while True:
            data = read_at(self._fd, fmt.FRAME_HEADER_SIZE, self._offset)
            header = fmt.decode_frame_header(data, 0, self._offset, segment.salt)
            if header is None or header.first_revision != self._next_revision:
                raise self._damage("the frame's header is damaged")
            if header.first_revision + header.event_count > wanted:
                return
            self._offset += fmt.FRAME_HEADER_SIZE + header.payload_size
            self._next_revision += header.event_count

    def _read_chunk(self, segment: Segment, upto_revision: int, bytes_max: int, frames: list[fmt.Frame]) -> int:
        """Take the frames that lie whole in one read of the file; give the size of their payloads."""
        base = self._offset
        data = read_at(self._fd, min(_CHUNK_BYTES, segment.size - base), base, in_part=True)
        salt, at, taken = segment.salt, 0, 0
        while self._next_revision <= upto_revision and taken <= bytes_max:
            if len(data) - at < fmt.FRAME_HEADER_SIZE:
                break
            header = fmt.decode_frame_header(data, at, base + at, salt)
            if header is None or header.first_revision != self._next_revision:
                raise self._damage("the frame's header is damaged")
            fmt.check_flags(header, segment.path)
            end = at + fmt.FRAME_HEADER_SIZE + header.payload_size
            if end > len(data):
                break
            stored = data[at + fmt.FRAME_HEADER_SIZE : end]
            if fmt.crc32c(0, stored) != header.payload_crc:
                raise self._damage("the payload's checksum does not match")
            if header.event_count:
                frames.append(self._frame(segment, header, stored))
                taken += len(frames[-1].payload)
            at = end
            self._offset = base + at
            self._next_revision += header.event_count
        if at == 0:
            taken += self._read_large(segment, data, frames)
        return taken

    def _read_large(self, segment: Segment, data: bytes, frames: list[fmt.Frame]) -> int:
        """Take one frame that does not fit into the bytes read, by its own size."""
        if len(data) < fmt.FRAME_HEADER_SIZE:
            data = read_at(self._fd, fmt.FRAME_HEADER_SIZE, self._offset)
        header = fmt.decode_frame_header(data, 0, self._offset, segment.salt)
        if header is None:
            raise self._damage("the file ends inside a frame's header")
        data = read_at(self._fd, fmt.FRAME_HEADER_SIZE + header.payload_size, self._offset)
        stored = data[fmt.FRAME_HEADER_SIZE :]
        if fmt.crc32c(0, stored) != header.payload_crc or len(stored) != header.payload_size:
            raise self._damage("the file ends inside a frame, or the payload's checksum does not match")
        taken = 0
        if header.event_count:
            frames.append(self._frame(segment, header, stored))
            taken = len(frames[-1].payload)
        self._offset += len(data)
        self._next_revision += header.event_count
        return taken

    def _frame(self, segment: Segment, header: fmt.FrameHeader, stored: bytes) -> fmt.Frame:
        payload = self._payloads.of(StoredFrame(self._offset, header, stored), segment, self._fd)
        return fmt.Frame(header.first_revision, header.event_count, header.time_ns, payload)

    def _damage(self, problem: str) -> CorruptLog:
        assert self._segment is not None
        return CorruptLog(self._segment.path, self._offset, self._next_revision, problem)
