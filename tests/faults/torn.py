"""Groups that were not synced when the power went: some of their sectors are on the disk, in whatever order."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from log.support import SECTOR_BYTES, Written, last_revision, open_log, read_all, segment_files, watermark_of

from faults.bugs import bug
from faults.logs import Growing, append, parts_of, quick_folder, short_chains, small_entry
from faults.scenario import Scenario, Turn
from faults.split import split
from stigmer.errors import CorruptLog
from stigmer.log import format as fmt
from stigmer.log import recovery, segment
from stigmer.log.files import read_at
from stigmer.log.segment import FrameScan, Segment

_PATTERNS_PER_LOG = 50
_LARGE_BYTES = 40_000


class _Made(NamedTuple):
    """A log as it is when the power goes."""

    acked: list[Written]
    unsynced: list[Written]
    path: Path
    """Of the segment that is written to; no other one has what was not synced."""
    synced_size: int
    offsets: list[int]
    """Where its frames begin that were not synced."""


def unsynced_groups(turn: Turn) -> None:
    """Lose, empty and exchange sectors of groups that were never synced; open; what was synced must be there."""
    split(turn, _lose_sectors)


def _lose_sectors(turn: Turn, _part: int) -> None:
    done = 0
    while done < turn.amount:
        with quick_folder(turn.directory) as folder, short_chains():
            directory = folder / "log"
            made = _make(directory, turn.random)
            whole = made.path.read_bytes()
            stale = _stale(folder / "other", turn.random, len(whole))
            fd = os.open(made.path, os.O_RDWR)
            for _ in range(min(_PATTERNS_PER_LOG, turn.amount - done)):
                data = _pattern(turn, whole, made.synced_size, stale)
                os.ftruncate(fd, len(data))
                os.pwrite(fd, data, 0)
                _check(turn, directory, made, data)
                done += 1
                turn.count("patterns")
            os.close(fd)


def _make(directory: Path, source: random.Random) -> _Made:
    """Make a log in which some groups are synced, and some behind them are not."""
    growing = [Growing(source, b"key %d" % number, source.choice((5_000, _LARGE_BYTES))) for number in range(2)]

    def group(frames_max: int) -> list[Written]:
        return append(
            log,
            [
                source.choice(growing).next() if source.random() < 0.3 else small_entry(source, 900)
                for _ in range(source.randint(1, frames_max))
            ],
        )

    acked: list[Written] = []
    log = open_log(directory, segment_bytes=source.choice((1 << 14, 1 << 30)))
    for _ in range(source.randint(1, 6)):
        acked += group(4)
        log.sync()
    if source.random() < 0.2:
        log.close()  # what is lost stands behind a seal
    else:
        log.abandon()
    # What was not synced lies in one segment: a roll syncs all before it.
    log = open_log(directory, segment_bytes=1 << 30)
    path = segment_files(directory)[-1]
    synced_size = path.stat().st_size
    unsynced = [written for _ in range(source.choice((1, 1, 2, 3))) for written in group(8)]
    log.abandon()
    offsets = [part.start for part in parts_of(directory) if part.path == path and part.start >= synced_size]
    return _Made(acked, unsynced, path, synced_size, offsets)


def _stale(directory: Path, source: random.Random, size: int) -> bytes:
    """Give what another log had where this one now has its own, as long as that."""
    log = open_log(directory, segment_bytes=1 << 30)
    while log.size < size:
        append(log, [small_entry(source, 900)])
    log.abandon()
    return segment_files(directory)[0].read_bytes()[:size]


def _pattern(turn: Turn, whole: bytes, synced_size: int, stale: bytes) -> bytes:
    """Give what is left of a file whose bytes from an offset on were not synced."""
    source = turn.random
    data = bytearray(whole)
    share = source.choice((0.02, 0.5, 0.98)) if source.random() < 0.5 else source.random()
    for sector in range(synced_size // SECTOR_BYTES * SECTOR_BYTES, len(whole), SECTOR_BYTES):
        if source.random() >= share:
            continue
        start, end = max(sector, synced_size), min(sector + SECTOR_BYTES, len(whole))
        how = source.random()
        if how < 0.6:
            data[start:end] = bytes(end - start)
        elif how < 0.8:
            data[start:end] = stale[start:end]
        else:
            at = source.randrange(0, len(whole) - SECTOR_BYTES) if len(whole) > SECTOR_BYTES else 0
            data[start:end] = whole[at : at + end - start]
    how = source.random()
    if how < 0.2:
        turn.count("files that lost their end")
        return bytes(data[: source.randint(synced_size, len(data))])
    if how < 0.3:
        # File systems give room in blocks; the size that was noted may be that of the room.
        return bytes(data) + bytes(source.randint(1, 4096))
    return bytes(data)


def _check(turn: Turn, directory: Path, made: _Made, data: bytes) -> None:
    salt = fmt.salt_of(recovery.list_segments(str(directory))[-1].header.segment_id)
    is_there = [fmt.decode_frame_header(data, offset, offset, salt) is not None for offset in made.offsets]
    turn.count("frames behind a gap", any(later and not earlier for earlier, later in itertools.pairwise(is_there)))
    has_views = turn.random.random() < 0.5
    watermark = watermark_of(directory, last_revision(made.acked)) if has_views else None
    notes: list[str] = []
    try:
        log = open_log(directory, watermark, notes, check_bytes=0)
    except CorruptLog as error:
        turn.require(False, "an unfinished write was taken for damage", problem=error.problem, offset=error.offset)
        return
    found = read_all(log)
    log.abandon()
    turn.require(len(found) >= len(made.acked), "what was synced is lost", found=len(found), synced=len(made.acked))
    turn.require(found == (made.acked + made.unsynced)[: len(found)], "the log has what was not written so")
    for note in notes:
        turn.count("torn tails", "cut off" in note)
    end = made.path.stat().st_size
    for kept in directory.glob("*.torn"):
        turn.require(kept.read_bytes() == data[end:], "what was cut off was not kept as it was", kept=kept.name)
        kept.unlink()


@bug(
    "any-later-frame", "any whole frame behind a bad one is taken for a proof of damage", scenario="unsynced", amount=50
)
def _any_later_frame() -> None:
    def later(fd: int, part: Segment, offset: int, revision: int) -> int | None:
        return segment.later_proof(fd, part, offset, -1)

    recovery.later_proof = later


@bug("kept-after-a-gap", "whole frames behind a bad one of the same group are kept", scenario="unsynced", amount=50)
def _kept_after_a_gap() -> None:
    real = FrameScan.__iter__

    def over_gaps(scan: FrameScan) -> Iterator[tuple[int, fmt.FrameHeader, bytes]]:
        while True:
            yield from real(scan)
            if scan.problem is None:
                return
            data = read_at(scan._fd, 1 << 30, 0)
            at = data.find(fmt.FRAME_MAGIC, scan.offset + 1)
            while at >= 0:
                header = fmt.decode_frame_header(data, at, at, scan._segment.salt)
                if header is not None and header.first_revision > scan.revision:
                    scan.offset, scan.revision, scan.problem = at, header.first_revision, None
                    break
                at = data.find(fmt.FRAME_MAGIC, at + 1)
            else:
                return

    FrameScan.__iter__ = over_gaps


@bug(
    "payload-without-crc",
    "the checksum of a payload is not compared when a log is opened",
    scenario="unsynced",
    amount=50,
)
def _payload_without_crc() -> None:
    real = segment._problem_of

    def problem_of(header: fmt.FrameHeader, payload: bytes, revision: int) -> str | None:
        problem = real(header, payload, revision)
        return None if problem is not None and "checksum" in problem else problem

    segment._problem_of = problem_of


UNSYNCED = Scenario(
    "unsynced",
    ("A5",),
    "sectors of groups that were never synced lost, zeroed or stale: torn, never corrupt, and nothing synced is lost",
    unit="patterns",
    gate=10_000,
    chunk=2_000,
    soak=100_000,
    must=("torn tails", "frames behind a gap", "files that lost their end"),
    run=unsynced_groups,
)
