"""Opening: which segments there are, whether they are whole, and where the log ends.

Owns the rule that tells an unfinished write from damage (docs/FORMAT.md, "Torn or corrupt"). An unfinished write at
the end is cut off, kept aside and reported. Damage raises `CorruptLog` before any file has been changed.

What is not known to be durable is written again before it is synced: where a sync failed in a process before, the
kernel takes its pages for clean, shows them to every reader, and would sync nothing.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from stigmer.errors import CorruptLog
from stigmer.log import format as fmt
from stigmer.log.files import Unreadable, read_at, sync_data, sync_directory, sync_file, write_at
from stigmer.log.segment import FrameScan, Segment, crc_of, later_proof, read_header, read_seal

_CHUNK_BYTES = 1024 * 1024


class Watermark(NamedTuple):
    """What surviving views prove: every revision up to this one was durable in the store of that id."""

    store_id: bytes
    revision: int


class End(NamedTuple):
    """Where the last segment ends, and what its writer must know to go on."""

    crc: int
    """Of the whole file."""
    time_ns: int
    """Of the last frame."""
    is_sealed: bool
    """Whether the file ends in a seal."""


def list_segments(directory: str) -> list[Segment]:
    """Give the segments of a directory in order, headers checked."""
    segments: list[Segment] = []
    for name in sorted(os.listdir(directory)):
        stem = name.removesuffix(fmt.SEGMENT_SUFFIX)
        if stem == name:
            continue
        path = os.path.join(directory, name)
        if len(stem) != 20 or not stem.isdecimal():
            raise CorruptLog(
                path, 0, 0, "is not the name of a segment", hint="move the file out of the log's directory"
            )
        try:
            segment = Segment(directory, read_header(path))
        except Unreadable as error:
            raise CorruptLog(path, 0, int(stem), f"cannot be read: {error.strerror}") from error
        if segments and segment.header.store_id != segments[0].header.store_id:
            raise CorruptLog(
                path,
                0,
                segment.first_revision,
                "the segment is from another store",
                hint="move the file away",
            )
        segments.append(segment)
    if segments and segments[0].first_revision != 1:
        raise CorruptLog(
            segments[0].path, 0, 1, f"the log's first segment begins at revision {segments[0].first_revision}"
        )
    return segments


def remove_unfinished(directory: str) -> None:
    """Remove segments whose creation a crash cut short."""
    for name in os.listdir(directory):
        if name.endswith(fmt.SEGMENT_SUFFIX + ".new"):
            os.unlink(os.path.join(directory, name))


def check_sealed(segments: list[Segment], check_bytes: int) -> int:
    """Check every segment but the last: sealed, and followed by its successor; the last ones byte for byte.

    `check_bytes` says how much, counted from the end of the log, is read and compared with the seals' checksums. Gives
    the time of the last frame in them, 0 where there is none.
    """
    time_ns = 0
    for segment, following in itertools.pairwise(segments):
        fd = segment.open()
        try:
            segment.size = os.fstat(fd).st_size
            with _naming(fd, segment):
                found = read_seal(fd, segment)
            if found is None:
                raise _damage_in(fd, segment, "the seal at its end is damaged")
            _offset, header, seal = found
        finally:
            os.close(fd)
        segment.sealed = True
        segment.next_revision = header.first_revision
        segment.first_time_ns = seal.first_time_ns
        segment.saved_bytes = seal.saved_bytes
        time_ns = header.time_ns
        if segment.next_revision != following.first_revision:
            kind = "missing" if segment.next_revision < following.first_revision else "there twice"
            raise CorruptLog(
                following.path,
                0,
                segment.next_revision,
                f"the segment before it ends at revision {segment.next_revision - 1}: revisions are {kind}",
                hint="put the missing segment back, or restore the log from a backup",
            )
    for segment in reversed(segments[:-1]):
        if check_bytes <= 0:
            break
        check_bytes -= segment.size
        check_bytes_of(segment)
    return time_ns


def check_bytes_of(segment: Segment) -> None:
    """Compare a sealed segment with the checksum in its seal. Raises `CorruptLog` naming the frame."""
    fd = segment.open()
    try:
        with _naming(fd, segment):
            found = read_seal(fd, segment)
            is_whole = found is not None and crc_of(fd, found[0]) == found[2].segment_crc
        if not is_whole:
            raise _damage_in(fd, segment, "the segment's checksum does not match its seal")
    finally:
        os.close(fd)


def _damage_in(fd: int, segment: Segment, otherwise: str) -> CorruptLog:
    """Give the error for the first frame that is not whole or cannot be read, or for the segment where all are."""
    scan = FrameScan(fd, segment, fmt.SEGMENT_HEADER_SIZE, segment.first_revision)
    try:
        for _ in scan:
            pass
    except Unreadable as error:
        return CorruptLog(segment.path, scan.offset, scan.revision, f"cannot be read: {error.strerror}")
    return CorruptLog(segment.path, scan.offset, scan.revision, scan.problem or otherwise)


@contextmanager
def _naming(fd: int, segment: Segment) -> Iterator[None]:
    """Have a segment that the disk cannot read be damage with a place. It is never an unfinished write."""
    try:
        yield
    except Unreadable as error:
        raise _damage_in(fd, segment, f"cannot be read: {error.strerror}") from error


def recover_last(segment: Segment, watermark: int, notes: list[str]) -> End:
    """Find the end of the last segment, cut a torn tail off, and make what is left durable.

    Fills in the segment's size, next revision and index. Sentences about what was done go to `notes`.
    """
    fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        with _naming(fd, segment):
            return _from_seal(fd, segment, watermark) or _from_frames(fd, segment, watermark, notes)
    finally:
        os.close(fd)


def _from_seal(fd: int, segment: Segment, watermark: int) -> End | None:
    """Take the seal's word where the file ends in one and the bytes before it have its checksum."""
    found = read_seal(fd, segment)
    if found is None:
        return None
    offset, header, seal = found
    crc = crc_of(fd, offset)
    if crc != seal.segment_crc:
        return None
    segment.size = os.fstat(fd).st_size
    segment.next_revision = header.first_revision
    segment.first_time_ns = seal.first_time_ns
    segment.saved_bytes = seal.saved_bytes
    segment.start_index(seal.entries)
    _check_watermark(segment, watermark)
    # A kill may have come between the writing of the seal and its sync, or the sync may have failed, and frames are
    # about to be written behind it. What is before the seal was durable when it was written.
    _write_again(fd, offset, segment.size)
    sync_file(fd)
    return End(fmt.crc32c(crc, read_at(fd, segment.size - offset, offset)), header.time_ns, True)


def _from_frames(fd: int, segment: Segment, watermark: int, notes: list[str]) -> End:
    """Walk all frames; cut the file at the first that is not whole, if it is torn."""
    segment.start_index([])
    time_ns = 0
    unproven: deque[tuple[int, int]] = deque()  # first revision and offset of frames that no later one calls durable
    scan = FrameScan(fd, segment, fmt.SEGMENT_HEADER_SIZE, segment.first_revision)
    for offset, header, stored in scan:
        time_ns = header.time_ns
        unproven.append((header.first_revision, offset))
        while unproven and unproven[0][0] < header.group_first:
            unproven.popleft()
        if header.event_count:
            segment.saved_bytes += fmt.saved_by(header, stored)
            segment.note_frame(header.first_revision, offset, time_ns)
    segment.next_revision = scan.revision
    segment.size = scan.offset
    if scan.problem is not None:
        _check_torn(fd, segment, scan, watermark)
        notes.append(_cut(fd, segment))
    _check_watermark(segment, watermark)
    # What was written but not synced before a crash is about to be shown, so it has to be durable first.
    if unproven:
        _write_again(fd, unproven[0][1], segment.size)
    sync_data(fd)
    return End(crc_of(fd, segment.size), time_ns, False)


def _write_again(fd: int, start: int, end: int) -> None:
    """Write bytes that are in a file once more, so that the next sync has to bring them to the disk."""
    for offset in range(start, end, _CHUNK_BYTES):
        write_at(fd, (read_at(fd, min(_CHUNK_BYTES, end - offset), offset),), offset)


def _check_torn(fd: int, segment: Segment, scan: FrameScan, watermark: int) -> None:
    """Raise `CorruptLog` unless the frame at which the scan stopped can be an unfinished write."""
    problem = scan.problem or ""
    if scan.revision <= watermark:
        raise CorruptLog(segment.path, scan.offset, scan.revision, f"{problem}, and it was durable (the views have it)")
    later = later_proof(fd, segment, scan.offset + 1, scan.revision)
    if later is not None:
        raise CorruptLog(
            segment.path,
            scan.offset,
            scan.revision,
            f"{problem}, and it was durable (the frame at offset {later} was written after it had been synced)",
        )


def _check_watermark(segment: Segment, watermark: int) -> None:
    if segment.next_revision <= watermark:
        raise CorruptLog(
            segment.path,
            segment.size,
            segment.next_revision,
            f"the log ends at revision {segment.next_revision - 1}, but the views have {watermark}: "
            "the log was cut short or exchanged",
            hint="put the missing part of the log back from a backup; or, to accept the log as it is, move views/ away",
        )


def _cut(fd: int, segment: Segment) -> str:
    """Cut the file at the segment's size, after a copy of what is cut off was made; give a sentence about it."""
    size = os.fstat(fd).st_size
    torn = read_at(fd, size - segment.size, segment.size)
    kept = f"{segment.path}.{segment.size}.torn"
    copies = 1
    while os.path.exists(kept):
        copies += 1
        kept = f"{segment.path}.{segment.size}.{copies}.torn"
    copy = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(copy, "wb", closefd=False) as file:
            file.write(torn)
        os.fsync(copy)
    except BaseException:
        os.unlink(kept)  # half a copy helps nobody, and each open on a full disk would leave one more
        raise
    finally:
        os.close(copy)
    sync_directory(os.path.dirname(segment.path))
    os.ftruncate(fd, segment.size)
    sync_data(fd)
    return (
        f"cut off {len(torn)} bytes of an unfinished write at {segment.name}, offset {segment.size}; "
        f"kept in {os.path.basename(kept)}"
    )
