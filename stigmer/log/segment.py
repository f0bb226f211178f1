"""One segment file, read: its header, its seal, its frames in order, and where a revision lies in it.

Owns no policy: what a damaged frame means is decided in `recovery` (at open) and `cursor` (later). Reads go to the
file by offset, so any number of readers share nothing.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator

from stigmer.errors import CorruptLog
from stigmer.log import format as fmt
from stigmer.log.files import read_at

INDEX_SPACING_BYTES = 64 * 1024
"""A segment's index has an entry about this often."""

_CHUNK_BYTES = 1024 * 1024


class Segment:
    """A segment as the log knows it. The writer alone changes the last one; readers see whole updates."""

    def __init__(self, directory: str, header: fmt.SegmentHeader) -> None:
        # Constant after construction.
        self.header = header
        self.name = fmt.segment_name(header.first_revision)
        self.path = os.path.join(directory, self.name)
        self.salt = fmt.salt_of(header.segment_id)
        self.first_revision = header.first_revision
        # Changed by the writer as it appends.
        self.next_revision = header.first_revision
        self.size = fmt.SEGMENT_HEADER_SIZE
        self.sealed = False
        self.first_time_ns = 0
        self.saved_bytes = 0
        self._index: list[tuple[int, int]] | None = None

    def start_index(self, entries: list[tuple[int, int]]) -> None:
        """Set the index of a segment that is being written, or whose seal was read."""
        self._index = entries

    def note_frame(self, revision: int, offset: int, time_ns: int) -> None:
        """Enter a frame that was appended into the index, if it is far enough from the last entry."""
        assert self._index is not None
        if not self._index:
            self.first_time_ns = time_ns
        elif offset - self._index[-1][1] < INDEX_SPACING_BYTES:
            return
        self._index.append((revision, offset))

    @property
    def index(self) -> list[tuple[int, int]]:
        """Pairs of revision and offset, ascending; read from the seal where it is not in memory."""
        if self._index is None:
            fd = self.open()
            try:
                found = read_seal(fd, self)
            finally:
                os.close(fd)
            if found is None:
                raise CorruptLog(self.path, self.size, self.next_revision, "the seal at its end is damaged")
            self._index = found[2].entries
        return self._index

    def near(self, revision: int) -> tuple[int, int]:
        """Give a revision at or below the asked one, and the offset of the frame that begins with it."""
        entries = self.index
        place = bisect_right(entries, (revision, 1 << 64)) - 1
        if place < 0:
            return self.first_revision, fmt.SEGMENT_HEADER_SIZE
        if entries[place][1] >= self.size:
            raise CorruptLog(self.path, self.size, self.next_revision, "the index in its seal leads behind its end")
        return entries[place]

    def open(self) -> int:
        """Give a new descriptor to read the file."""
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)


def read_header(path: str) -> fmt.SegmentHeader:
    """Read and check the header of a segment file. Raises `CorruptLog` or `NewerFormat`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = read_at(fd, fmt.SEGMENT_HEADER_SIZE, 0)
    finally:
        os.close(fd)
    named = int(os.path.basename(path).removesuffix(fmt.SEGMENT_SUFFIX))
    header = fmt.decode_segment_header(data, path)
    if header is None:
        raise CorruptLog(path, 0, named, "the segment's header is damaged")
    if header.first_revision != named:
        raise CorruptLog(path, 0, named, f"the file is named so, but begins at revision {header.first_revision}")
    return header


def read_seal(fd: int, segment: Segment) -> tuple[int, fmt.FrameHeader, fmt.Seal] | None:
    """Read the seal at the end of a file: its offset, header and content; None if the file does not end in one."""
    size = os.fstat(fd).st_size
    seal_size = fmt.seal_size(read_at(fd, fmt.SEAL_TRAILER_SIZE, size - fmt.SEAL_TRAILER_SIZE))
    if seal_size is None or seal_size > size - fmt.SEGMENT_HEADER_SIZE:
        return None
    offset = size - seal_size
    data = read_at(fd, seal_size, offset)
    header = fmt.decode_frame_header(data, 0, offset, segment.salt)
    if header is None or header.payload_size != seal_size - fmt.FRAME_HEADER_SIZE:
        return None
    fmt.check_flags(header, segment.path)
    payload = data[fmt.FRAME_HEADER_SIZE :]
    if not header.flags & fmt.FLAG_SEAL or header.event_count or fmt.crc32c(0, payload) != header.payload_crc:
        return None
    seal = fmt.decode_seal(payload, header.flags)
    return None if seal is None else (offset, header, seal)


def seal_of(segment: Segment, crc: int, time_ns: int) -> list[bytes]:
    """Give the seal, header and payload, for the end of a segment whose bytes up to there have this CRC.

    `time_ns` is that of the last frame before it.
    """
    seal = fmt.Seal(crc, segment.first_time_ns, segment.index, segment.saved_bytes)
    payload = fmt.encode_seal(seal)
    revision = segment.next_revision
    header = fmt.FrameHeader(fmt.seal_flags(seal), len(payload), 0, revision, revision, time_ns, fmt.crc32c(0, payload))
    return [fmt.encode_frame_header(header, segment.size, segment.salt), payload]


def crc_of(fd: int, size: int) -> int:
    """Give the CRC of the first `size` bytes of a file."""
    crc = 0
    for offset in range(0, size, _CHUNK_BYTES):
        crc = fmt.crc32c(crc, read_at(fd, min(_CHUNK_BYTES, size - offset), offset))
    return crc


class FrameScan:
    """Reads the frames of a file one after the other, as far as they are whole.

    When the iteration has ended, `offset` and `revision` say where, and `problem` says why: None where the file
    ends behind a whole frame. Of a frame that the disk cannot read nobody knows what it is: that is an `OSError`.
    """

    def __init__(self, fd: int, segment: Segment, offset: int, revision: int, end: int | None = None) -> None:
        """Start at the frame at `offset`, which begins with `revision`; stop at `end`, where one is given."""
        self._fd = fd
        self._segment = segment
        self._end = end
        self.offset = offset
        self.revision = revision
        self.problem: str | None = None

    def __iter__(self) -> Iterator[tuple[int, fmt.FrameHeader, bytes]]:
        """Give offset, header and payload of each frame, seals included."""
        data, base = b"", self.offset
        salt = self._segment.salt
        while self._end is None or self.offset < self._end:
            at = self.offset - base
            if len(data) - at < fmt.FRAME_HEADER_SIZE:
                data, base, at = self._read(fmt.FRAME_HEADER_SIZE), self.offset, 0
                if not data:
                    return
            header = fmt.decode_frame_header(data, at, self.offset, salt)
            if header is None:
                short = len(data) < fmt.FRAME_HEADER_SIZE
                self.problem = "the file ends inside a frame's header" if short else "the frame's header is damaged"
                return
            fmt.check_flags(header, self._segment.path)
            size = fmt.FRAME_HEADER_SIZE + header.payload_size
            if len(data) - at < size:
                data, base, at = self._read(size), self.offset, 0
            payload = data[at + fmt.FRAME_HEADER_SIZE : at + size]
            self.problem = _problem_of(header, payload, self.revision)
            if self.problem is not None:
                return
            frame_offset = self.offset
            self.offset += size
            self.revision += header.event_count
            yield frame_offset, header, payload

    def _read(self, size: int) -> bytes:
        """Read so much at the place of the next frame, and what is behind it as far as the disk gives it."""
        data = read_at(self._fd, max(size, _CHUNK_BYTES), self.offset, in_part=True)
        # Short at the end of the file, or, which raises, of what the disk can read.
        return data if len(data) >= size else read_at(self._fd, size, self.offset)


def _problem_of(header: fmt.FrameHeader, payload: bytes, revision: int) -> str | None:
    if len(payload) < header.payload_size:
        return "the file ends inside a frame"
    if header.first_revision != revision:
        return f"the frame begins at revision {header.first_revision}"
    if bool(header.event_count) == bool(header.flags & fmt.FLAG_SEAL):
        return "a seal has events" if header.event_count else "a commit has no events"
    if fmt.crc32c(0, payload) != header.payload_crc:
        return "the payload's checksum does not match"
    return None


def later_proof(fd: int, segment: Segment, offset: int, revision: int) -> int | None:
    """Find, behind `offset`, a frame header that was written after what begins with `revision` there was durable.

    Its group first says so; or its own first revision, which is not above `revision` only where what lies before it
    holds no event and is a seal, behind which nothing is written until it is durable. Gives the header's offset.
    """
    size = os.fstat(fd).st_size
    # Chunks overlap by a header, so that none is missed at a border.
    for base in range(offset, size, _CHUNK_BYTES):
        data = read_at(fd, _CHUNK_BYTES + fmt.FRAME_HEADER_SIZE, base)
        at = data.find(fmt.FRAME_MAGIC)
        while 0 <= at < _CHUNK_BYTES:
            header = fmt.decode_frame_header(data, at, base + at, segment.salt)
            if header is not None and (header.group_first > revision or header.first_revision <= revision):
                return base + at
            at = data.find(fmt.FRAME_MAGIC, at + 1)
    return None
