"""What is damaged in a log, what is lost with it, and the log written anew without that.

Owns the search for what is whole behind a damage, and the naming of what is lost. Which revisions are lost follows
from frames and segments that are whole, before it and behind it, and from what was known to be durable. Nothing is
guessed, and `examine` changes nothing.

Invariants of `rewrite`: only segments with damage are written anew, each whole or not at all; their originals are kept
in a folder beside the log; a commit that is whole keeps its payload, revisions and time; in the place of every lost
revision there is an event that says so, so the log stays dense.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from stigmer.errors import CorruptLog
from stigmer.log import format as fmt
from stigmer.log.files import Unreadable, read_at, sync_directory
from stigmer.log.recovery import Watermark
from stigmer.log.rewrite import SegmentRewriter
from stigmer.log.segment import FrameScan, Segment, crc_of, later_proof, read_header, read_seal
from stigmer.model import FoldProgress, ProgressCallback

_CHUNK_BYTES = 1024 * 1024
# Of a segment whose header is damaged: it can be neither checked nor read.
_NO_ID = bytes(16)
_NEVER_NS = (1 << 63) - 1
_UNREADABLE = "cannot be read"
# The kernel reads a file by pages, and gives nothing of one that lies behind a place that the disk cannot read.
_PAGE_BYTES = 4096

Filler = Callable[[int, int], Sequence[tuple[bytes, int]]]
"""Gives the payloads, with their event counts, that stand for lost revisions, of which the first and last are given."""


class Lost(NamedTuple):
    """Revisions that cannot be read any more."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}..{self.last}"


class Damage(NamedTuple):
    """One place that is damaged."""

    error: CorruptLog
    lost: Lost | None
    """None where no commit is: a seal, for one."""


class Torn(NamedTuple):
    """An unfinished write at the end of the log."""

    offset: int
    bytes: int


class _Part(NamedTuple):
    """A segment, or in its place a gap."""

    segment: Segment
    is_there: bool
    is_readable: bool
    limit: int | None
    """The first revision of the next one; None for the last."""


class _Damaged(NamedTuple):
    """A segment that is to be written anew."""

    part: _Part
    time_ns: int | None
    """Of the last whole commit before it; None where there is none."""


class Examination(NamedTuple):
    """What was found."""

    damages: list[Damage]
    lost: list[Lost]
    """All that is lost, in order, those that touch as one."""
    torn: Torn | None
    revision: int
    """The last one of the log as it would be after a repair."""
    store_id: bytes
    first_time_ns: int
    """Of the first commit that is whole; where none is, behind all times."""
    known: int
    """The last revision that views of this store prove to have been durable; 0 where there are none."""
    damaged: list[_Damaged]


def examine(directory: str, watermark: Watermark | None, progress: ProgressCallback | None = None) -> Examination:
    """Read a whole log and find everything that is damaged; `watermark` is what the views prove to have been durable.

    Raises `CorruptLog` for what cannot be repaired but by hand, with a hint, and `NewerFormat`.
    """
    parts, store_id = _parts(directory)
    known = watermark.revision if watermark is not None and watermark.store_id == store_id else 0
    damages: list[Damage] = []
    damaged: list[_Damaged] = []
    torn: Torn | None = None
    revision = 0
    first_time_ns = _NEVER_NS
    time_ns: int | None = None
    for number, part in enumerate(parts, 1):
        found_before, time_before_ns = len(damages), time_ns
        for piece in _pieces(part, known):
            if isinstance(piece, Damage):
                damages.append(piece)
                revision = piece.lost.last if piece.lost is not None else revision
            elif isinstance(piece, Torn):
                torn = piece
            else:
                revision = piece[0].first_revision + piece[0].event_count - 1
                time_ns = piece[0].time_ns
                first_time_ns = min(first_time_ns, time_ns)
        if len(damages) > found_before:
            damaged.append(_Damaged(part, time_before_ns))
        if progress is not None:
            progress(FoldProgress("examine", number, len(parts)))
    return Examination(damages, _merged(damages), torn, revision, store_id, first_time_ns, known, damaged)


def rewrite(directory: str, kept: str, examination: Examination, filler: Filler) -> None:
    """Write the damaged segments anew, with what is whole in them; the originals go to the folder `kept`.

    A crash in between leaves each of them either as it was or repaired; examined again, the rest is found.
    """
    os.makedirs(kept, mode=0o700)
    rewriters: list[SegmentRewriter] = []
    try:
        for damaged in examination.damaged:
            rewriters.append(_rewritten(directory, examination, damaged, filler))
            if (part := damaged.part).is_there:
                _keep(part.segment.path, os.path.join(kept, part.segment.name))
        sync_directory(kept)
        sync_directory(os.path.dirname(directory))
        for rewriter in rewriters:
            rewriter.publish()
    finally:
        for rewriter in rewriters:
            rewriter.discard()


def _rewritten(directory: str, examination: Examination, damaged: _Damaged, filler: Filler) -> SegmentRewriter:
    part, time_ns = damaged
    header = part.segment.header
    rewriter = SegmentRewriter(directory, examination.store_id, header.first_revision, header.created_s)
    try:
        for piece in _pieces(part, examination.known):
            if isinstance(piece, Torn):
                break
            if isinstance(piece, Damage):
                # What stands for a loss has the time of the commit before it, for times never go back.
                if time_ns is None:
                    time_ns = min(header.created_s * 1_000_000_000, examination.first_time_ns)
                revision = piece.lost.first if piece.lost is not None else 0
                for payload, event_count in filler(*piece.lost) if piece.lost is not None else ():
                    crc = fmt.crc32c(0, payload)
                    rewriter.add(
                        fmt.FrameHeader(0, len(payload), event_count, revision, revision, time_ns, crc), payload
                    )
                    revision += event_count
            else:
                time_ns = piece[0].time_ns
                rewriter.add(*piece)
        rewriter.end()
    except BaseException:
        rewriter.discard()
        raise
    return rewriter


def _keep(path: str, copy: str) -> None:
    """Keep a file under another name: its name is about to be another's."""
    try:
        os.link(path, copy)
    except OSError:
        shutil.copyfile(path, copy)
        fd = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# --- segments --------------------------------------------------------------------------------------------


def _parts(directory: str) -> tuple[list[_Part], bytes]:
    """Give the segments in order, with what is missing before them, and the id of their store."""
    segments: list[tuple[Segment, bool]] = []
    for name in sorted(os.listdir(directory)):
        stem = name.removesuffix(fmt.SEGMENT_SUFFIX)
        if stem == name:
            continue
        path = os.path.join(directory, name)
        if len(stem) != 20 or not stem.isdecimal():
            raise CorruptLog(path, 0, 0, "is not the name of a segment", hint=f"move the file away: mv {path} /tmp/")
        segments.append(_segment(directory, path, int(stem)))
    readable = [segment for segment, is_readable in segments if is_readable]
    if not readable:
        raise CorruptLog(directory, 0, 1, "no segment is there whose header is whole", hint="restore from a backup")
    store_ids = [segment.header.store_id for segment in readable]
    store_id = max(store_ids, key=store_ids.count)
    parts: list[_Part] = []
    revision = 1
    for place, (segment, is_readable) in enumerate(segments):
        if is_readable and segment.header.store_id != store_id:
            raise CorruptLog(
                segment.path, 0, segment.first_revision, "the segment is from another store", hint="move the file away"
            )
        following = segments[place + 1][0].first_revision if place + 1 < len(segments) else None
        if segment.first_revision > revision:
            gap = Segment(directory, segment.header._replace(segment_id=_NO_ID, first_revision=revision))
            parts.append(_Part(gap, False, False, segment.first_revision))
        parts.append(_Part(segment, True, is_readable, following))
        # What it ends with is seen when it is read; where the next one begins is what counts here.
        revision = following if following is not None else revision
    return parts, store_id


def _segment(directory: str, path: str, first_revision: int) -> tuple[Segment, bool]:
    try:
        header = read_header(path)
    except (CorruptLog, Unreadable) as error:
        if isinstance(error, CorruptLog) and "named so" in error.problem:
            raise CorruptLog(path, 0, first_revision, error.problem, hint="give the file its name back") from error
        created_s = fmt.created_s(os.stat(path).st_mtime)
        return Segment(directory, fmt.SegmentHeader(_NO_ID, _NO_ID, first_revision, created_s)), False
    return Segment(directory, header), True


# --- frames ----------------------------------------------------------------------------------------------


def _pieces(part: _Part, watermark: int) -> Iterator[tuple[fmt.FrameHeader, bytes] | Damage | Torn]:
    """Give what is in a segment, in order: commits that are whole and can be decoded, and what is not."""
    segment = part.segment
    path, first = segment.path, segment.first_revision
    if not part.is_readable:
        # Without the id in its header no frame can be told from anything else.
        last = part.limit - 1 if part.limit is not None else max(watermark, first)
        problem = "the segment's header is damaged" if part.is_there else "the segment is missing"
        yield Damage(CorruptLog(path, 0, first, problem), Lost(first, last))
        return
    fd = segment.open()
    try:
        lost: list[Lost] = []
        for piece in _frames(fd, part, watermark):
            if isinstance(piece, Torn):
                yield piece
                return
            if isinstance(piece, Damage):
                if piece.lost is not None:
                    lost.append(piece.lost)
                yield piece
                continue
            offset, header, stored = piece
            base = _base_of(header, stored)
            if base is not None and any(one.first <= base <= one.last for one in lost):
                gone = Lost(header.first_revision, header.first_revision + header.event_count - 1)
                lost.append(gone)
                problem = f"the frame is stored as what is new in revision {base}, which is lost"
                yield Damage(CorruptLog(path, offset, gone.first, problem), gone)
            else:
                yield header, stored
    finally:
        os.close(fd)


def _base_of(header: fmt.FrameHeader, stored: bytes) -> int | None:
    if header.flags != fmt.CODEC_DELTA:
        return None
    found = fmt.decode_encoded_head(header.flags, stored)
    return found[0].base_revision if found is not None else None


def _frames(fd: int, part: _Part, watermark: int) -> Iterator[tuple[int, fmt.FrameHeader, bytes] | Damage | Torn]:
    """Give each commit that is whole with its offset, each damage with what is lost by it, and a torn end."""
    segment, limit = part.segment, part.limit
    offset, revision = fmt.SEGMENT_HEADER_SIZE, segment.first_revision
    is_damaged = False
    while True:
        scan = FrameScan(fd, segment, offset, revision)
        for frame_offset, header, stored in _as_far_as_readable(scan):
            if limit is not None and header.first_revision + header.event_count > limit:
                raise CorruptLog(
                    segment.path,
                    frame_offset,
                    header.first_revision,
                    f"revisions from {limit} on are there twice, here and in the next segment",
                    hint="move the segment away that is too much",
                )
            if header.event_count:
                yield frame_offset, header, stored
        revision = scan.revision
        if scan.problem is None:
            break
        error = CorruptLog(segment.path, scan.offset, revision, scan.problem)
        if limit is None and revision > watermark and _is_torn(fd, segment, scan):
            yield Torn(scan.offset, os.fstat(fd).st_size - scan.offset)
            return
        found = _next_header(fd, segment, scan.offset + 1, revision)
        if found is None:
            known = limit - 1 if limit is not None else max(watermark, revision)
            yield Damage(error, Lost(revision, known) if known >= revision else None)
            return
        offset, is_damaged = found[0], True
        yield Damage(error, Lost(revision, found[1] - 1) if found[1] > revision else None)
        revision = found[1]
    known = limit - 1 if limit is not None else watermark
    if revision <= known:
        problem = f"the segment ends at revision {revision - 1}; {known} was durable"
        yield Damage(CorruptLog(segment.path, scan.offset, revision, problem), Lost(revision, known))
    elif limit is not None and not is_damaged and not _is_sealed(fd, segment):
        yield Damage(CorruptLog(segment.path, scan.offset, revision, "the seal at its end is damaged"), None)


def _as_far_as_readable(scan: FrameScan) -> Iterator[tuple[int, fmt.FrameHeader, bytes]]:
    """Have a frame that the disk cannot read be a problem like others."""
    try:
        yield from scan
    except Unreadable as error:
        scan.problem = f"{_UNREADABLE}: {error.strerror}"


def _is_torn(fd: int, segment: Segment, scan: FrameScan) -> bool:
    """Say whether the frame at which a scan stopped is an unfinished write; where the disk cannot read, it is not."""
    if scan.problem is None or scan.problem.startswith(_UNREADABLE):
        return False
    try:
        return later_proof(fd, segment, scan.offset + 1, scan.revision) is None
    except Unreadable:
        return False


def _is_sealed(fd: int, segment: Segment) -> bool:
    try:
        found = read_seal(fd, segment)
        return found is not None and crc_of(fd, found[0]) == found[2].segment_crc
    except Unreadable:
        return False


def _read_around(fd: int, size: int, offset: int) -> bytes:
    """Read as `read_at` does, with zeros in the place of what the disk cannot read, up to the end of its page."""
    with suppress(Unreadable):
        return read_at(fd, size, offset)
    parts: list[bytes] = []
    end = offset + size
    while offset < end:
        step = min(_PAGE_BYTES - offset % _PAGE_BYTES, end - offset)
        part = b""
        with suppress(Unreadable):
            part = read_at(fd, step, offset, in_part=True)
        parts.append(part.ljust(step, b"\0"))
        offset += step
    return b"".join(parts)


def _next_header(fd: int, segment: Segment, offset: int, revision: int) -> tuple[int, int] | None:
    """Find the next frame header from an offset on that is whole; give its offset and its first revision."""
    size = os.fstat(fd).st_size
    for base in range(offset, size, _CHUNK_BYTES):
        data = _read_around(fd, min(_CHUNK_BYTES + fmt.FRAME_HEADER_SIZE, size - base), base)
        at = data.find(fmt.FRAME_MAGIC)
        while 0 <= at < _CHUNK_BYTES:
            header = fmt.decode_frame_header(data, at, base + at, segment.salt)
            if header is not None and header.first_revision >= revision:
                return base + at, header.first_revision
            at = data.find(fmt.FRAME_MAGIC, at + 1)
    return None


def _merged(damages: Sequence[Damage]) -> list[Lost]:
    merged: list[Lost] = []
    for damage in damages:
        if damage.lost is None:
            continue
        if merged and damage.lost.first == merged[-1].last + 1:
            merged[-1] = Lost(merged[-1].first, damage.lost.last)
        else:
            merged.append(damage.lost)
    return merged
