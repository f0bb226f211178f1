"""A segment written anew from frames of another: for a restore, and for a repair.

Owns how a frame moves: its payload, revisions and time stay as they were, its place, its salt and so its header are
new. Seals are not taken over; the segment gets one at its end, which says that everything before it is durable.

Invariants: under its final name a segment is there whole or not at all; a new segment has a new id, so that no frame of
the one that it stands for is ever taken for one of its own.
"""

from __future__ import annotations

import os
import uuid

from stigmer.log import format as fmt
from stigmer.log.files import sync_directory, sync_file
from stigmer.log.segment import Segment, seal_of

_BUFFER_BYTES = 1024 * 1024


class SegmentRewriter:
    """Writes one segment under a temporary name, until it is published."""

    def __init__(self, directory: str, store_id: bytes, first_revision: int, created_s: int) -> None:
        """Begin it. A file of the temporary name is replaced."""
        header = fmt.SegmentHeader(store_id, uuid.uuid4().bytes, first_revision, created_s)
        self.segment = Segment(directory, header)
        self.segment.start_index([])
        self._directory = directory
        self._temporary = self.segment.path + ".new"
        self._time_ns = 0
        self._crc = 0
        fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(fd, "wb", _BUFFER_BYTES)
        self._write(fmt.encode_segment_header(header))

    def add(self, header: fmt.FrameHeader, stored: bytes) -> None:
        """Write the frame of a commit behind what is there. Its first revision is the segment's next one."""
        segment = self.segment
        assert header.first_revision == segment.next_revision
        offset = segment.size
        self._write(fmt.encode_frame_header(header, offset, segment.salt))
        self._write(stored)
        segment.note_frame(header.first_revision, offset, header.time_ns)
        segment.saved_bytes += fmt.saved_by(header, stored)
        segment.size = offset + fmt.FRAME_HEADER_SIZE + len(stored)
        segment.next_revision += header.event_count
        self._time_ns = header.time_ns

    def end(self) -> None:
        """Seal it, where it has a frame, and make it durable under its temporary name."""
        segment = self.segment
        if segment.next_revision > segment.first_revision:
            for part in seal_of(segment, self._crc, self._time_ns):
                self._write(part)
                segment.size += len(part)
        self._file.flush()
        sync_file(self._file.fileno())
        self._file.close()

    def publish(self) -> None:
        """Give it its final name, durably, in the place of what had that name."""
        os.rename(self._temporary, self.segment.path)
        sync_directory(self._directory)

    def discard(self) -> None:
        """Remove what was written and not published."""
        try:
            self._file.close()
        finally:
            if os.path.exists(self._temporary):
                os.unlink(self._temporary)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._crc = fmt.crc32c(self._crc, data)
