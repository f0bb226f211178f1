"""Small logs of known content, and damage done to their files, for the tests of the log."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from stigmer.log import format as fmt
from stigmer.log.lineages import Entry
from stigmer.log.log import Log
from stigmer.log.recovery import Watermark

SEGMENT_BYTES = 4096
SECTOR_BYTES = 512
PAGE_BYTES = 4096
START_NS = 1_767_225_600_000_000_000


class Written(NamedTuple):
    """A frame that was appended."""

    first_revision: int
    event_count: int
    payload: bytes


Group = Sequence[tuple[bytes, int]]
"""Payloads with their event counts, synced together."""


# --- making and reading ----------------------------------------------------------------------------------


def open_log(
    directory: Path,
    watermark: Watermark | None = None,
    notes: list[str] | None = None,
    segment_bytes: int = SEGMENT_BYTES,
    check_bytes: int = 1 << 30,
) -> Log:
    """Open a log that rolls early."""
    return Log.open(
        str(directory),
        segment_bytes=segment_bytes,
        check_bytes=check_bytes,
        watermark=watermark,
        notes=[] if notes is None else notes,
    )


def random_groups(seed: int, groups: int, payload_bytes_max: int = 300, frames_max: int = 4) -> list[Group]:
    """Make groups of one to several frames of one to three events; some payloads are empty."""
    source = random.Random(seed)
    return [
        [
            (source.randbytes(source.randint(0, payload_bytes_max)), source.randint(1, 3))
            for _ in range(source.randint(1, frames_max))
        ]
        for _ in range(groups)
    ]


def append_groups(log: Log, groups: Sequence[Group], sync_last: bool = True) -> list[Written]:
    """Append groups, each synced; give their frames."""
    written = []
    for place, group in enumerate(groups):
        revision = log.next_revision
        log.append([Entry(*one) for one in group], max(START_NS, log.last_time_ns) + 1)
        for payload, event_count in group:
            written.append(Written(revision, event_count, payload))
            revision += event_count
        if sync_last or place < len(groups) - 1:
            log.sync()
    return written


def make_log(directory: Path, groups: Sequence[Group], sealed: bool = False) -> list[Written]:
    """Make a log of these groups, ended by a crash, or `sealed` by a clean close."""
    log = open_log(directory)
    written = append_groups(log, groups)
    log.close() if sealed else log.abandon()
    return written


def read_all(log: Log, after: int = 0, bytes_max: int = 1 << 20) -> list[Written]:
    """Read every frame from the one that holds `after + 1` on."""
    cursor = log.cursor(after)
    try:
        found = []
        while frames := cursor.read(log.next_revision - 1, bytes_max):
            found += [Written(frame.first_revision, frame.event_count, frame.payload) for frame in frames]
            last = frames[-1]
            if last.first_revision + last.event_count == log.next_revision:
                break
        return found
    finally:
        cursor.close()


def reopen_and_read(
    directory: Path, watermark: Watermark | None = None, notes: list[str] | None = None, check_bytes: int = 1 << 30
) -> list[Written]:
    """Open a log, read all of it and leave it as a crash would."""
    log = open_log(directory, watermark, notes, check_bytes=check_bytes)
    try:
        return read_all(log)
    finally:
        log.abandon()


def last_revision(frames: Sequence[Written]) -> int:
    return frames[-1].first_revision + frames[-1].event_count - 1 if frames else 0


def watermark_of(directory: Path, revision: int) -> Watermark:
    """The watermark of views that have applied the log up to a revision."""
    return Watermark(header_of(segment_files(directory)[0]).store_id, revision)


def segment_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.log"))


def torn_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.torn"))


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its bytes and its time of change."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


def header_of(segment: Path) -> fmt.SegmentHeader:
    header = fmt.decode_segment_header(segment.read_bytes(), str(segment))
    assert header is not None
    return header


def frames_in(segment: Path) -> list[tuple[int, fmt.FrameHeader]]:
    """Offset and header of every frame of an undamaged segment, seals included."""
    data = segment.read_bytes()
    salt = fmt.salt_of(header_of(segment).segment_id)
    found = []
    offset = fmt.SEGMENT_HEADER_SIZE
    while offset < len(data):
        header = fmt.decode_frame_header(data, offset, offset, salt)
        assert header is not None
        found.append((offset, header))
        offset += fmt.FRAME_HEADER_SIZE + header.payload_size
    return found


# --- a disk and its cache --------------------------------------------------------------------------------


class PageCache:
    """What the disk has of each file, as long as the test lasts: pages that were written reach it at a sync.

    A sync that fails brings none, and takes them for clean, as the kernel does: a later one brings only pages that were
    written since.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = False
        self._disk: dict[int, bytearray] = {}
        self._dirty: dict[int, set[int]] = {}
        pwrite = os.pwrite

        def write(fd: int, data: bytes, offset: int) -> int:
            written = pwrite(fd, data, offset)
            pages = range(offset // PAGE_BYTES, -(-(offset + written) // PAGE_BYTES))
            self._dirty.setdefault(os.fstat(fd).st_ino, set()).update(pages)
            return written

        monkeypatch.setattr(os, "pwrite", write)
        monkeypatch.setattr(os, "fdatasync", self._sync)
        monkeypatch.setattr(os, "fsync", self._sync)

    def _sync(self, fd: int) -> None:
        state = os.fstat(fd)
        if stat.S_ISDIR(state.st_mode):
            return
        dirty = self._dirty.pop(state.st_ino, set())
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        disk = self._disk.setdefault(state.st_ino, bytearray())
        disk[state.st_size :] = bytes(max(state.st_size - len(disk), 0))
        for page in dirty:
            data = os.pread(fd, PAGE_BYTES, page * PAGE_BYTES)
            disk[page * PAGE_BYTES : page * PAGE_BYTES + len(data)] = data

    def lose(self, directory: Path) -> None:
        """Make the files of a directory what the disk has of them."""
        for path in directory.iterdir():
            path.write_bytes(self._disk.get(path.stat().st_ino, b""))


# --- damage ----------------------------------------------------------------------------------------------


def shrink_size(path: Path, size_bytes: int) -> None:
    """Cut a file short."""
    os.truncate(path, size_bytes)


def flip_bit(path: Path, bit: int) -> None:
    """Turn one bit of a file over; a second time turns it back."""
    fd = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(fd, 1, bit // 8)[0]
        os.pwrite(fd, bytes((byte ^ 1 << bit % 8,)), bit // 8)
    finally:
        os.close(fd)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Put bytes over those of a file."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def zero_region(path: Path, offset: int, size_bytes: int) -> None:
    """Make a part of a file zeros."""
    overwrite(path, offset, bytes(size_bytes))


def append_garbage(path: Path, data: bytes) -> None:
    """Put bytes behind the end of a file."""
    with path.open("ab") as file:
        file.write(data)


def set_version(segment: Path, version: int) -> None:
    """Make a segment's header one of another format version, with a correct checksum."""
    header = bytearray(segment.read_bytes()[: fmt.SEGMENT_HEADER_SIZE])
    header[8:12] = version.to_bytes(4, "little")
    header[60:64] = fmt.crc32c(0, bytes(header[:60])).to_bytes(4, "little")
    overwrite(segment, 0, bytes(header))


def set_flags(segment: Path, offset: int, flags: int) -> None:
    """Make the frame at an offset one with other flags, with a correct checksum."""
    salt = fmt.salt_of(header_of(segment).segment_id)
    header = fmt.decode_frame_header(segment.read_bytes(), offset, offset, salt)
    assert header is not None
    overwrite(segment, offset, fmt.encode_frame_header(header._replace(flags=flags), offset, salt))


def spoil(monkeypatch: pytest.MonkeyPatch, path: Path, offset: int, size_bytes: int = SECTOR_BYTES) -> None:
    """Make a part of a file one that the disk cannot read any more: what is before it is given, then EIO."""
    pread, inode = os.pread, path.stat().st_ino

    def read(fd: int, size: int, at: int) -> bytes:
        if os.fstat(fd).st_ino == inode and at < offset + size_bytes and offset < at + size:
            if at >= offset:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            size = offset - at
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", read)


def copy_log(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))
