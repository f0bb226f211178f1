"""Payloads as they were committed, from frames as they are stored.

Owns the payloads that the cursors of a log share, and the way back from a delta to the whole payload at the beginning
of its chain. Nothing is decoded twice by one that reads in order: each base is still here when its delta comes.

Invariants: what is given has the size and the checksum that its frame declares; no more is read for one payload than
the bound in docs/FORMAT.md; a chain that is not whole raises `CorruptLog`, naming the frame that is to blame.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from stigmer import config
from stigmer.errors import CorruptLog
from stigmer.log import compression, delta
from stigmer.log import format as fmt
from stigmer.log.files import Unreadable, read_at
from stigmer.log.segment import INDEX_SPACING_BYTES, Segment


class Decoded(NamedTuple):
    """A payload as it was committed."""

    payload: bytes
    crc: int
    depth: int
    """How many deltas lead to it from a whole payload."""


class StoredFrame(NamedTuple):
    """A frame whose stored bytes have the right checksum."""

    offset: int
    header: fmt.FrameHeader
    stored: bytes


class _Pool:
    """Payloads up to a number of bytes, those to be forgotten first in front."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[int, Decoded] = OrderedDict()
        self._bytes = 0

    def keep(self, revision: int, decoded: Decoded) -> int:
        """Keep a payload; give the last revision that was forgotten for it, 0 where none was."""
        before = self._kept.pop(revision, None)
        if before is not None:
            self._bytes -= len(before.payload)
        self._kept[revision] = decoded
        self._bytes += len(decoded.payload)
        last = 0
        # The last one stays however large it is: what follows is probably a delta against it.
        while self._bytes > self._bytes_max and len(self._kept) > 1:
            evicted, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest.payload)
            last = max(last, evicted)
        return last

    def find(self, revision: int) -> Decoded | None:
        """Give a payload, which is then the last to be forgotten."""
        found = self._kept.get(revision)
        if found is not None:
            self._kept.move_to_end(revision)
        return found

    def put_in_front(self, revision: int) -> None:
        """Have a payload, if it is here, forgotten before others."""
        if revision in self._kept:
            self._kept.move_to_end(revision, last=False)


class Payloads:
    """Payloads that were read or written lately, by their first revision. Any thread."""

    def __init__(self, bytes_max: int, evicted_revision: int) -> None:
        """Keep so many bytes of payloads stored as deltas, half as many of others; none up to `evicted_revision`."""
        # Guards what follows; nothing else is taken, and nothing is read or decoded, while it is held.
        self._lock = threading.Lock()
        self._deltas = _Pool(bytes_max)
        # Apart from them: most are never a base, and to read one again costs little, where a delta costs its chain.
        self._wholes = _Pool(bytes_max // 2)
        self.evicted_revision = evicted_revision
        """Every payload above it that this process stored as a delta is here."""

    def keep(self, revision: int, decoded: Decoded, base_revision: int = 0) -> None:
        """Keep a payload; its base, which a reader in order needs no more, is forgotten before others."""
        with self._lock:
            self._deltas.put_in_front(base_revision)
            self._wholes.put_in_front(base_revision)
            if decoded.depth:
                self.evicted_revision = max(self.evicted_revision, self._deltas.keep(revision, decoded))
            else:
                self._wholes.keep(revision, decoded)

    def find(self, revision: int, crc: int) -> Decoded | None:
        """Give a payload that is here and has this checksum."""
        with self._lock:
            found = self._deltas.find(revision) or self._wholes.find(revision)
            return found if found is not None and found.crc == crc else None

    def of(self, frame: StoredFrame, segment: Segment, fd: int) -> bytes:
        """Give the payload of a frame of a segment, which `fd` reads. Raises `CorruptLog`."""
        header = frame.header
        if not header.flags:
            # Only where there are deltas can it be the base of one.
            if segment.saved_bytes and header.payload_size >= config.DELTA_BYTES_MIN:
                self.keep(header.first_revision, Decoded(frame.stored, header.payload_crc, 0))
            return frame.stored
        head, _ = _head_of(frame, segment)
        found = self.find(header.first_revision, head.crc)
        if found is None:
            found = self._decode(frame, segment, fd)
            self.keep(header.first_revision, found, head.base_revision)
        return found.payload

    def _decode(self, frame: StoredFrame, segment: Segment, fd: int) -> Decoded:
        """Go back from a frame to a payload that is here or is stored whole, then apply the deltas in order."""
        blocks = _Blocks(segment, fd)
        deltas: list[tuple[StoredFrame, fmt.EncodedHead, int]] = []
        at = frame
        while True:
            if not at.header.flags:
                decoded = Decoded(at.stored, at.header.payload_crc, 0)
                break
            head, head_size = _head_of(at, segment)
            if at.header.flags == fmt.CODEC_ZSTD:
                decoded = Decoded(_decompressed(at, head, head_size, segment), head.crc, 0)
                break
            deltas.append((at, head, head_size))
            if len(deltas) > config.CHAIN_FRAMES_MAX:
                raise _damage(segment, frame, f"its chain has more than {config.CHAIN_FRAMES_MAX} deltas")
            kept = self.find(head.base_revision, head.base_crc)
            if kept is not None:
                decoded = kept
                break
            at = blocks.base_of(at, head)
        for at, head, head_size in reversed(deltas):
            if head.base_crc != decoded.crc:
                raise _damage(segment, at, f"its base, revision {head.base_revision}, is not the one it was made of")
            if head.depth != decoded.depth + 1:
                raise _damage(segment, at, f"it is delta {head.depth} of its chain, its base {decoded.depth}")
            try:
                payload = delta.decode(decoded.payload, at.stored[head_size:], head.size)
            except ValueError as error:
                raise _damage(segment, at, str(error)) from error
            decoded = Decoded(payload, head.crc, head.depth)
        # What leads there was read whole and links up by its checksums, so the last result speaks for all.
        if fmt.crc32c(0, decoded.payload) != decoded.crc:
            raise _damage(segment, frame, "the checksum of the decoded payload does not match")
        return decoded


class _Blocks:
    """Finds frames of a segment by their first revision, remembering the last stretch of headers that it read."""

    def __init__(self, segment: Segment, fd: int) -> None:
        self._segment = segment
        self._fd = fd
        self._start = -1
        self._data = b""
        self._frames: dict[int, tuple[int, fmt.FrameHeader]] = {}
        self._damage: CorruptLog | None = None

    def base_of(self, frame: StoredFrame, head: fmt.EncodedHead) -> StoredFrame:
        """Read the frame against which another one is stored. Raises `CorruptLog`."""
        segment, revision = self._segment, head.base_revision
        if not segment.first_revision <= revision < frame.header.first_revision:
            raise _damage(segment, frame, f"its base, revision {revision}, is not before it in this segment")
        self._read_block(*segment.near(revision))
        found = self._frames.get(revision)
        if found is None:
            if self._damage is not None:
                raise self._damage
            raise _damage(segment, frame, f"its base, revision {revision}, is not where a frame begins")
        offset, header = found
        at = offset - self._start + fmt.FRAME_HEADER_SIZE
        stored = self._data[at : at + header.payload_size]
        problem = "the payload's checksum does not match"
        if len(stored) < header.payload_size:
            try:
                stored = read_at(self._fd, header.payload_size, offset + fmt.FRAME_HEADER_SIZE)
            except Unreadable as error:
                problem = f"cannot be read: {error.strerror}"
        base = StoredFrame(offset, header, stored)
        if len(stored) < header.payload_size or fmt.crc32c(0, stored) != header.payload_crc:
            raise _damage(segment, base, f"{problem}, and revision {frame.header.first_revision} is stored against it")
        return base

    def _read_block(self, revision: int, start: int) -> None:
        """Read the headers from an entry of the index up to the next entry, or as far as they are whole."""
        if start == self._start:
            return
        segment = self._segment
        # Frames between two entries begin no further than this from the first of them.
        size = min(INDEX_SPACING_BYTES + fmt.FRAME_HEADER_SIZE, segment.size - start)
        data = read_at(self._fd, size, start, in_part=True)
        self._start, self._data, self._frames, self._damage = start, data, {}, None
        at = 0
        while at + fmt.FRAME_HEADER_SIZE <= len(data):
            header = fmt.decode_frame_header(data, at, start + at, segment.salt)
            if header is None or header.first_revision != revision:
                self._damage = CorruptLog(segment.path, start + at, revision, "the frame's header is damaged")
                return
            fmt.check_flags(header, segment.path)
            if header.event_count:
                self._frames[revision] = (start + at, header)
            at += fmt.FRAME_HEADER_SIZE + header.payload_size
            revision += header.event_count
        if len(data) < size:
            self._damage = CorruptLog(segment.path, start + at, revision, "cannot be read, or lies behind what cannot")


def _head_of(frame: StoredFrame, segment: Segment) -> tuple[fmt.EncodedHead, int]:
    """Read what stands before an encoded payload, and check that it can be true."""
    found = fmt.decode_encoded_head(frame.header.flags, frame.stored)
    if found is None:
        raise _damage(segment, frame, "the encoded payload is cut short")
    head, _ = found
    if head.size > config.COMMIT_BYTES_MAX:
        raise _damage(segment, frame, f"the payload would have {head.size} bytes; {config.COMMIT_BYTES_MAX} at most")
    if frame.header.flags == fmt.CODEC_DELTA and not 1 <= head.depth <= config.CHAIN_FRAMES_MAX:
        raise _damage(
            segment, frame, f"it is delta {head.depth} of its chain; there are {config.CHAIN_FRAMES_MAX} at most"
        )
    return found


def _decompressed(frame: StoredFrame, head: fmt.EncodedHead, head_size: int, segment: Segment) -> bytes:
    try:
        return compression.decompress(frame.stored[head_size:], head.size)
    except ValueError as error:
        raise _damage(segment, frame, str(error)) from error


def _damage(segment: Segment, frame: StoredFrame, problem: str) -> CorruptLog:
    return CorruptLog(segment.path, frame.offset, frame.header.first_revision, problem)
