"""Damage to a log that was durable: single bits, and regions as whole as disks lose them."""

from __future__ import annotations

import itertools
import mmap
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from log.support import Written, last_revision, open_log, read_all, segment_files, torn_files, watermark_of

from faults.bugs import bug
from faults.logs import Part, mixed_log, parts_of, quick_folder
from faults.scenario import Failed, Scenario, Turn
from faults.split import split
from stigmer.errors import CorruptLog
from stigmer.log import format as fmt
from stigmer.log import recovery
from stigmer.log.recovery import Watermark
from stigmer.log.segment import FrameScan, Segment

LOG_BYTES = 64 * 1024
_OPEN_EVERY = 64
_READ_EVERY = 64
_SECTOR, _PAGE, _BLOCK = 512, 4096, 64 * 1024

Place = tuple[str, int, int]
"""The path, offset and revision that an error names."""


# --- single bits -----------------------------------------------------------------------------------------


def flips(turn: Turn) -> None:
    """Turn bits of a log of two segments over, one at a time: all of them, if there are to be as many."""
    with quick_folder(turn.directory) as folder:
        original, written = _small_log(folder, turn.seed)
        parts = parts_of(original)
        for part in parts:
            turn.count(f"parts that are {_kind_of(part)}")
        total = sum(part.end - part.start for part in parts) * 8
        turn.require(len(segment_files(original)) == 2 and total >= LOG_BYTES * 8, "the log is not the one wanted")
        bits = range(total) if turn.amount >= LOG_BYTES * 8 else sorted(turn.random.sample(range(total), turn.amount))

        def some(part: Turn, number: int) -> None:
            flipping = _Flipping(part, Path(shutil.copytree(original, folder / str(number))), written)
            flipping.run(bits[number::2])

        split(turn, some, 2)


def _small_log(folder: Path, seed: int) -> tuple[Path, list[Written]]:
    """Make a log that is little larger than it has to be: each bit costs the checking of all before it."""
    for attempt in itertools.count():
        directory = folder / f"original-{attempt}"
        written = mixed_log(directory, seed + attempt, LOG_BYTES, LOG_BYTES // 2, 14_000, keys=1)
        flags = {part.flags for part in parts_of(directory)}
        size = sum(path.stat().st_size for path in segment_files(directory))
        if size < LOG_BYTES + 2_000 and fmt.CODEC_ZSTD in flags:
            return directory, written
    raise AssertionError("there is no end to attempts")


def _kind_of(part: Part) -> str:
    if part.flags < 0:
        return "segment headers"
    return "seals" if part.flags & fmt.FLAG_SEAL else f"frames of codec {fmt.CODEC_NAMES[part.flags]}"


class _Flipping:
    """Flips bits of one copy of a log."""

    def __init__(self, turn: Turn, directory: Path, written: list[Written]) -> None:
        self._count, self._require = turn.count, turn.require
        self._directory = directory
        self._written = written
        self._watermark = watermark_of(directory, last_revision(written))
        self._parts = parts_of(directory)
        # As opening makes them before it looks at what the segments hold.
        self._segments = recovery.list_segments(str(directory))

    def run(self, bits: Sequence[int]) -> None:
        """Flip bits, counted from the beginning of the log; check what opening, and for some what reading says."""
        maps = {part.path: _mapped(part.path) for part in self._parts}
        for number, (bit, part) in enumerate(self._placed(bits)):
            bytes_, mask = maps[part.path], 1 << bit % 8
            bytes_[bit // 8] ^= mask
            try:
                self._check(part, number)
            except CorruptLog as error:
                found = (error.path, error.offset, error.revision)
            else:
                raise Failed(f"bit {bit} of {part.path.name} is wrong, and the log opens")
            expected = (str(part.path), part.start, part.revision)
            self._require(found == expected, "damage is named wrong", bit=bit, found=found, expected=expected)
            self._count("flips")
            if number % _READ_EVERY == 0:
                self._read(bytes_, bit, mask)
            bytes_[bit // 8] ^= mask
        for one in maps.values():
            one.close()
        with closing(_Opened(self._directory, self._watermark)) as opened:
            self._require(read_all(opened.log) == self._written, "the log changed under a check")

    def _placed(self, bits: Sequence[int]) -> Iterator[tuple[int, Part]]:
        """Give each bit within its file, with the part in which it lies."""
        parts = iter(self._parts)
        part, before = next(parts), 0
        for bit in bits:
            while bit - before >= (part.end - part.start) * 8:
                before += (part.end - part.start) * 8
                part = next(parts)
            yield part.start * 8 + bit - before, part

    def _check(self, part: Part, number: int) -> None:
        """Do what opening does, but for files that have not changed; for some bits all of it."""
        if number % _OPEN_EVERY == 0:
            self._count("whole openings")
            open_log(self._directory, self._watermark).abandon()
        elif part.flags < 0:
            recovery.list_segments(str(self._directory))
        elif part.path.name == self._segments[0].name:
            recovery.check_sealed(self._segments, 1 << 30)
        else:
            last = self._segments[-1]
            recovery.recover_last(Segment(str(self._directory), last.header), self._watermark.revision, [])

    def _read(self, bytes_: mmap.mmap, bit: int, mask: int) -> None:
        """Read the log with a cursor where the bit turned while it was open; it gives what was written, or nothing."""
        bytes_[bit // 8] ^= mask
        with closing(_Opened(self._directory, self._watermark)) as opened:
            bytes_[bit // 8] ^= mask
            found: list[Written] = []
            cursor = opened.log.cursor(0)
            try:
                while frames := cursor.read(opened.log.next_revision - 1, 10_000):
                    found += [Written(frame.first_revision, frame.event_count, frame.payload) for frame in frames]
                    if last_revision(found) == opened.log.next_revision - 1:
                        break
                self._count("reads that the wrong bit did not concern")
            except CorruptLog:
                self._count("reads refused")
            finally:
                cursor.close()
            self._require(found == self._written[: len(found)], "a reader was given something wrong", bit=bit)


class _Opened:
    """An open log that closes like others."""

    def __init__(self, directory: Path, watermark: Watermark | None) -> None:
        self.log = open_log(directory, watermark, check_bytes=0)

    def close(self) -> None:
        self.log.abandon()


def _mapped(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


@bug("header-without-crc", "the checksum of a frame's header is not compared", scenario="flips", amount=5_000)
def _header_without_crc() -> None:
    def decode(data: bytes, at: int, offset: int, salt: int) -> fmt.FrameHeader | None:
        if data[at : at + 4] != fmt.FRAME_MAGIC or len(data) - at < fmt.FRAME_HEADER_SIZE:
            return None
        _magic, flags, size, count, first, group_first, time_ns, payload_crc, _ = fmt._FRAME.unpack_from(data, at)
        return fmt.FrameHeader(flags, size, count, first, group_first, time_ns, payload_crc)

    fmt.decode_frame_header = decode


@bug(
    "last-of-the-views-torn",
    "the last revision that the views have may be torn: it is cut off before the log is refused",
    scenario="flips",
    amount=2_000,
)
def _last_of_the_views_torn() -> None:
    check = recovery._check_torn

    def checking(fd: int, segment: Segment, scan: FrameScan, watermark: int) -> None:
        check(fd, segment, scan, watermark - 1)

    recovery._check_torn = checking


FLIPS = Scenario(
    "flips",
    ("B1",),
    "single wrong bits in a log that was durable: each is refused and named, none is read",
    unit="flips",
    gate=LOG_BYTES * 8,
    chunk=60_000,
    soak=1_000_000,
    must=(
        "whole openings",
        "reads refused",
        "parts that are frames of codec delta",
        "parts that are frames of codec zstd",
        "parts that are seals",
    ),
    run=flips,
)


# --- regions ---------------------------------------------------------------------------------------------


def regions(turn: Turn) -> None:
    """Make regions of a log of some segments zeros, bytes of another log, or exchange two of them."""
    split(turn, _lose_regions)


def _lose_regions(turn: Turn, _part: int) -> None:
    with quick_folder(turn.directory) as folder:
        directory = folder / "log"
        written = mixed_log(directory, turn.seed, 3 * _BLOCK, _BLOCK + _BLOCK // 8, 9_000)
        mixed_log(folder / "other", turn.seed + 1, 3 * _BLOCK, _BLOCK, 9_000)
        stale = b"".join(path.read_bytes() for path in segment_files(folder / "other"))
        watermark = watermark_of(directory, last_revision(written))
        whole = {path: path.read_bytes() for path in segment_files(directory)}
        files = {path: os.open(path, os.O_RDWR) for path in whole}
        while turn.tally["regions"] < turn.amount:
            damaged, how = _damaged(turn.random, whole, stale)
            changed = {path: data for path, data in damaged.items() if data != whole[path]}
            if not changed:
                continue
            for path, data in changed.items():
                os.pwrite(files[path], data, 0)
            _check_region(turn, directory, watermark, written, changed)
            for path in changed:
                os.pwrite(files[path], whole[path], 0)
            for torn in torn_files(directory):
                torn.unlink()
            turn.count("regions")
            turn.count(f"regions {how}")
        for fd in files.values():
            os.close(fd)
        turn.require({path: path.read_bytes() for path in directory.iterdir()} == whole, "opening changed a file")


def _check_region(
    turn: Turn, directory: Path, watermark: Watermark, written: list[Written], changed: dict[Path, bytes]
) -> None:
    try:
        open_log(directory, watermark).abandon()
    except CorruptLog as error:
        # Under the header of another store's segment nobody can tell which of the two is the wrong one.
        is_named = error.path in map(str, changed) or "another store" in error.problem
        turn.require(is_named, "damage is named in another file", found=error.path, damaged=sorted(changed))
    else:
        raise Failed(f"a region of {sorted(path.name for path in changed)} is wrong, and the log opens")
    if turn.random.random() > 0.05:
        return
    found: list[Written] = []
    try:
        # As where the damage lies further back than opening looks, or came later.
        with closing(_Opened(directory, None)) as opened:
            found = read_all(opened.log)
    except CorruptLog:
        turn.count("reads refused")
    turn.require(found == written[: len(found)], "a reader was given something wrong")


def _damaged(source: random.Random, whole: dict[Path, bytes], stale: bytes) -> tuple[dict[Path, bytes], str]:
    """Give what files hold after one region was lost, and how it was."""
    path = source.choice(list(whole))
    data = whole[path]
    size = min(source.choice((_SECTOR, _PAGE, _BLOCK)), len(data))
    offset = source.randrange(0, len(data) - size + 1, _SECTOR)
    how = source.choice(("zeroed", "stale", "swapped"))
    if how == "zeroed":
        return {path: _with(data, offset, bytes(size))}, how
    if how == "stale":
        at = offset if source.random() < 0.5 else source.randrange(0, len(stale) - size, _SECTOR)
        return {path: _with(data, offset, stale[at : at + size])}, how
    other = source.choice([one for one in whole if len(whole[one]) >= size])
    at = source.randrange(0, len(whole[other]) - size + 1, _SECTOR)
    first, second = data[offset : offset + size], whole[other][at : at + size]
    damaged = {path: _with(data, offset, second)}
    damaged[other] = _with(damaged.get(other, whole[other]), at, first)
    return damaged, how


def _with(data: bytes, offset: int, part: bytes) -> bytes:
    return data[:offset] + part + data[offset + len(part) :]


REGIONS = Scenario(
    "regions",
    ("B3",),
    "sectors, pages and blocks of 64 KiB of a durable log zeroed, stale or swapped: refused, never read",
    unit="regions",
    gate=10_000,
    chunk=2_000,
    soak=100_000,
    must=("regions zeroed", "regions stale", "regions swapped", "reads refused"),
    run=regions,
)
