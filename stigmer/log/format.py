"""The bytes of segments, frames and seals (docs/FORMAT.md, format version 1).

Owns the layout and the checksums. No I/O and no state: bytes in, values out. `None` means that the bytes are not a
whole, valid thing of the asked kind; what that implies is decided in `recovery` and `cursor`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

import google_crc32c

from stigmer.errors import NewerFormat

FORMAT_VERSION = 1
SEGMENT_SUFFIX = ".log"

crc32c: Callable[[int, bytes], int] = google_crc32c.extend
"""CRC-32C of bytes, continued from the CRC of the bytes before them (0: none)."""

_U32 = struct.Struct("<I")

# --- segment header --------------------------------------------------------------------------------------

_SEGMENT_MAGIC = b"STGMRLOG"
_SEGMENT = struct.Struct("<8sII16s16sQI")
SEGMENT_HEADER_SIZE = _SEGMENT.size + 4


class SegmentHeader(NamedTuple):
    """The first 64 bytes of a segment."""

    store_id: bytes
    segment_id: bytes
    first_revision: int
    created_s: int


_CREATED_S_MAX = (1 << 32) - 1


def created_s(time_s: float) -> int:
    """Give a time, in seconds since 1970, as a segment's header holds it: the nearest to it, where it does not fit."""
    return min(max(int(time_s), 0), _CREATED_S_MAX)


def segment_name(first_revision: int) -> str:
    """Give the file name of the segment that begins at a revision."""
    return f"{first_revision:020d}{SEGMENT_SUFFIX}"


def encode_segment_header(header: SegmentHeader) -> bytes:
    """Give the 64 bytes of a segment header."""
    body = _SEGMENT.pack(_SEGMENT_MAGIC, FORMAT_VERSION, 0, *header)
    return body + _U32.pack(crc32c(0, body))


def decode_segment_header(data: bytes, path: str) -> SegmentHeader | None:
    """Read a segment header; None if it is not one or is damaged. Raises `NewerFormat` naming `path`."""
    if len(data) < SEGMENT_HEADER_SIZE:
        return None
    body = data[: _SEGMENT.size]
    magic, version, _reserved, store_id, segment_id, first_revision, created_s = _SEGMENT.unpack(body)
    if magic != _SEGMENT_MAGIC or _U32.unpack_from(data, _SEGMENT.size)[0] != crc32c(0, body):
        return None
    if version > FORMAT_VERSION:
        raise NewerFormat(path, version, FORMAT_VERSION)
    return SegmentHeader(store_id, segment_id, first_revision, created_s)


# --- frame header ----------------------------------------------------------------------------------------

FRAME_MAGIC = b"\xf7SGF"
_FRAME = struct.Struct("<4sIIIQQqIQ")
_FRAME_BODY_SIZE = _FRAME.size
FRAME_HEADER_SIZE = _FRAME_BODY_SIZE + 4

FLAG_SEAL = 0x1
FLAG_SAVED = 0x2
CODEC_DELTA = 0x10
CODEC_ZSTD = 0x20
CODEC_NAMES = {0: "none", CODEC_DELTA: "delta", CODEC_ZSTD: "zstd"}
_FLAGS_KNOWN = frozenset({0, FLAG_SEAL, FLAG_SEAL | FLAG_SAVED, CODEC_DELTA, CODEC_ZSTD})


class FrameHeader(NamedTuple):
    """What stands before a payload."""

    flags: int
    payload_size: int
    event_count: int
    first_revision: int
    group_first: int
    """Everything below this revision was durable when the frame was written."""
    time_ns: int
    payload_crc: int


class Frame(NamedTuple):
    """A commit read from the log."""

    first_revision: int
    event_count: int
    time_ns: int
    payload: bytes
    """As it was committed, however it is stored."""


def salt_of(segment_id: bytes) -> int:
    """Give the value from which the checksums of a segment's frame headers start."""
    return crc32c(0, segment_id)


def encode_frame_header(header: FrameHeader, offset: int, salt: int) -> bytes:
    """Give the 56 bytes of a header for a frame at `offset` of the segment with that salt."""
    flags, size, count, first, group_first, time_ns, payload_crc = header
    body = _FRAME.pack(FRAME_MAGIC, flags, size, count, first, group_first, time_ns, payload_crc, offset)
    return body + _U32.pack(crc32c(salt, body))


def decode_frame_header(data: bytes, at: int, offset: int, salt: int) -> FrameHeader | None:
    """Read the header at `data[at:]`, which lies at `offset` of the segment with that salt.

    None if it is cut short, damaged, or belongs to another place.
    """
    end = at + _FRAME_BODY_SIZE
    if len(data) < end + 4:
        return None
    body = data[at:end]
    magic, flags, size, count, first, group_first, time_ns, payload_crc, own_offset = _FRAME.unpack(body)
    if magic != FRAME_MAGIC or own_offset != offset or _U32.unpack_from(data, end)[0] != crc32c(salt, body):
        return None
    return FrameHeader(flags, size, count, first, group_first, time_ns, payload_crc)


def check_flags(header: FrameHeader, path: str) -> None:
    """Raise `NewerFormat` where a header, whole as it is, has flags that this version does not know together."""
    if header.flags not in _FLAGS_KNOWN:
        raise NewerFormat(path, FORMAT_VERSION + 1, FORMAT_VERSION)


# --- encoded payloads ------------------------------------------------------------------------------------

_DELTA = struct.Struct("<QIIII")
_COMPRESSED = struct.Struct("<II")
ENCODED_HEAD_SIZE_MAX = max(_DELTA.size, _COMPRESSED.size)


class EncodedHead(NamedTuple):
    """What stands at the beginning of a payload that is not stored as it was committed."""

    size: int
    """Of the payload as it was committed."""
    crc: int
    """Of the payload as it was committed."""
    base_revision: int = 0
    """The first revision of the frame against which a delta is stored; 0 where the payload is compressed alone."""
    base_crc: int = 0
    """Of the base's payload as it was committed."""
    depth: int = 0
    """How many deltas have to be applied to get the payload."""


def encode_delta_head(head: EncodedHead) -> bytes:
    """Give the bytes that stand before the body of a delta."""
    return _DELTA.pack(head.base_revision, head.base_crc, head.size, head.crc, head.depth)


def encode_compressed_head(head: EncodedHead) -> bytes:
    """Give the bytes that stand before a payload that is compressed alone."""
    return _COMPRESSED.pack(head.size, head.crc)


def decode_encoded_head(flags: int, stored: bytes) -> tuple[EncodedHead, int] | None:
    """Read what stands before the body of a payload that is stored with a codec, and how long it is.

    None where the bytes are too few, or the flags name no codec.
    """
    if flags == CODEC_DELTA and len(stored) >= _DELTA.size:
        base_revision, base_crc, size, crc, depth = _DELTA.unpack_from(stored)
        return EncodedHead(size, crc, base_revision, base_crc, depth), _DELTA.size
    if flags == CODEC_ZSTD and len(stored) >= _COMPRESSED.size:
        return EncodedHead(*_COMPRESSED.unpack_from(stored)), _COMPRESSED.size
    return None


def saved_by(header: FrameHeader, stored: bytes) -> int:
    """Give by how many bytes a payload is shorter than it was committed. `stored` may be its beginning only."""
    found = decode_encoded_head(header.flags, stored)
    return 0 if found is None else max(found[0].size - header.payload_size, 0)


# --- seal ------------------------------------------------------------------------------------------------

_SEAL_HEAD = struct.Struct("<IIq")
_SEAL_ENTRY = struct.Struct("<QQ")
_SEAL_SAVED = struct.Struct("<Q")
_SEAL_TRAILER = struct.Struct("<I4s")
_SEAL_MAGIC = b"SEAL"
SEAL_TRAILER_SIZE = _SEAL_TRAILER.size


class Seal(NamedTuple):
    """What a seal says of the segment before it."""

    segment_crc: int
    first_time_ns: int
    entries: list[tuple[int, int]]
    """Pairs of revision and offset, ascending."""
    saved_bytes: int = 0
    """By how much the payloads are shorter than they were committed."""


def seal_flags(seal: Seal) -> int:
    """Give the flags of the frame that holds a seal."""
    return FLAG_SEAL | FLAG_SAVED if seal.saved_bytes else FLAG_SEAL


def encode_seal(seal: Seal) -> bytes:
    """Give the payload of a seal, as its flags say."""
    parts = [_SEAL_HEAD.pack(seal.segment_crc, len(seal.entries), seal.first_time_ns)]
    parts.extend(_SEAL_ENTRY.pack(revision, offset) for revision, offset in seal.entries)
    if seal.saved_bytes:
        parts.append(_SEAL_SAVED.pack(seal.saved_bytes))
    size = FRAME_HEADER_SIZE + sum(map(len, parts)) + SEAL_TRAILER_SIZE
    parts.append(_SEAL_TRAILER.pack(size, _SEAL_MAGIC))
    return b"".join(parts)


def decode_seal(payload: bytes, flags: int) -> Seal | None:
    """Read the payload of a seal with these flags; None if its sizes do not agree."""
    saved_size = _SEAL_SAVED.size if flags & FLAG_SAVED else 0
    if len(payload) < _SEAL_HEAD.size + saved_size + SEAL_TRAILER_SIZE:
        return None
    segment_crc, entries, first_time_ns = _SEAL_HEAD.unpack_from(payload)
    end = _SEAL_HEAD.size + entries * _SEAL_ENTRY.size
    if len(payload) != end + saved_size + SEAL_TRAILER_SIZE:
        return None
    saved_bytes = _SEAL_SAVED.unpack_from(payload, end)[0] if saved_size else 0
    return Seal(segment_crc, first_time_ns, list(_SEAL_ENTRY.iter_unpack(payload[_SEAL_HEAD.size : end])), saved_bytes)


def seal_size(trailer: bytes) -> int | None:
    """Give the size of the seal, header and payload, whose last eight bytes these are; None if they are not."""
    if len(trailer) != SEAL_TRAILER_SIZE:
        return None
    size, magic = _SEAL_TRAILER.unpack(trailer)
    return size if magic == _SEAL_MAGIC and size > FRAME_HEADER_SIZE else None
