"""A log of 64 KiB, cut at every byte."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from log.support import Written, header_of, last_revision, open_log, read_all, segment_files, watermark_of

from faults.logs import mixed_log, parts_of, quick_folder
from faults.scenario import Turn
from faults.split import split
from stigmer.errors import CorruptLog
from stigmer.log import format as fmt
from stigmer.log import recovery
from stigmer.log.segment import Segment

LOG_BYTES = 64 * 1024
OPEN_EVERY = 32


@pytest.fixture
def turn(tmp_path: Path) -> Turn:
    """Counts, for tests that go through all of something and draw nothing."""
    return Turn(1, LOG_BYTES, tmp_path)


def cut_everywhere(turn: Turn, part: int) -> None:
    """Cut a log at every other byte, from the last back to the first that stands behind a segment's header."""
    with quick_folder(turn.directory) as directory:
        written = mixed_log(directory, 1, LOG_BYTES, LOG_BYTES // 2, 9_000)
        revision = last_revision(written)
        watermark = watermark_of(directory, revision)
        for path in reversed(segment_files(directory)):
            data = path.read_bytes()
            parts = [one for one in parts_of(directory) if one.path == path]
            ends = [one.end for one in parts]
            first_lost = {one.start: one.revision for one in parts}
            header = header_of(path)
            fd = os.open(path, os.O_RDWR)
            for size in range(len(data) - 1 - part, fmt.SEGMENT_HEADER_SIZE - 1, -2):
                is_whole_opening = size % OPEN_EVERY < 2
                os.ftruncate(fd, size)
                end = max(one for one in ends if one <= size)
                # With views that have all of it, or the first that is gone, the log is refused, and stays as it is.
                refusing: Callable[[], object] = partial(open_log, directory, watermark)
                if not is_whole_opening:
                    refusing = partial(recovery.recover_last, Segment(str(directory), header), first_lost[end], [])
                with pytest.raises(CorruptLog) as caught:
                    refusing()
                assert caught.value.path == str(path)
                assert os.fstat(fd).st_size == size
                turn.count("cuts refused")

                notes: list[str] = []
                if is_whole_opening:
                    open_and_read(directory, written, notes)
                    turn.count("whole openings")
                else:
                    segment = Segment(str(directory), header)
                    recovery.recover_last(segment, 0, notes)
                    whole = [one for one in written if one.first_revision < segment.next_revision]
                    assert last_revision(whole) == segment.next_revision - 1
                check_end(path, data[end:size], end, notes)
                turn.count("cuts opened")
                turn.count("torn tails", size > end)
                os.ftruncate(fd, size)
                os.pwrite(fd, data[end:size], end)
            os.close(fd)
            # The next one is cut as the last one, before this one was there.
            path.unlink()


def open_and_read(directory: Path, written: list[Written], notes: list[str]) -> None:
    """Open a log that was cut, and read all that it has."""
    log = open_log(directory, notes=notes)
    try:
        found = read_all(log)
        assert found == written[: len(found)]
        assert last_revision(found) == log.next_revision - 1
    finally:
        log.abandon()


def check_end(path: Path, torn: bytes, end: int, notes: list[str]) -> None:
    """Check that a segment ends behind its last whole frame, and that what was cut off is kept and told of."""
    assert path.stat().st_size == end
    if not torn:
        assert notes == []
        return
    kept = path.with_name(f"{path.name}.{end}.torn")
    told = f"cut off {len(torn)} bytes of an unfinished write at {path.name}, offset {end}; kept in {kept.name}"
    assert notes == [told]
    assert kept.read_bytes() == torn
    kept.unlink()


def test_a_log_cut_at_every_byte_keeps_what_is_whole(
    turn: Turn, record_property: Callable[[str, object], None]
) -> None:
    """Without views it opens with every whole frame, whatever its kind; with views that have more it is refused."""
    split(turn, cut_everywhere)
    record_property("tally", dict(turn.tally))
    assert turn.tally["cuts opened"] == turn.tally["cuts refused"] >= LOG_BYTES
    assert turn.tally["torn tails"] > LOG_BYTES * 0.99
