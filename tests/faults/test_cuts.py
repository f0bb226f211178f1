"""A log of 64 KiB, cut at every byte."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from log.support import Written, last_revision, open_log, read_all, segment_files, watermark_of

from faults.logs import mixed_log, parts_of, quick_folder
from faults.scenario import Turn
from faults.split import split
from stigmer.errors import CorruptLog
from stigmer.log import format as fmt

LOG_BYTES = 64 * 1024
READ_EVERY = 16


@pytest.fixture
def turn(tmp_path: Path) -> Turn:
    """Counts, for tests that go through all of something and draw nothing."""
    return Turn(1, LOG_BYTES, tmp_path)


def cut_everywhere(turn: Turn, part: int) -> None:
    """Cut a log at every other byte, from the last back to the first that stands behind a segment's header."""
    with quick_folder(turn.directory) as directory:
        written = mixed_log(directory, 1, LOG_BYTES, LOG_BYTES // 2, 9_000)
        watermark = watermark_of(directory, last_revision(written))
        for path in reversed(segment_files(directory)):
            data = path.read_bytes()
            ends = [one.end for one in parts_of(directory) if one.path == path]
            fd = os.open(path, os.O_RDWR)
            for size in range(len(data) - 1 - part, fmt.SEGMENT_HEADER_SIZE - 1, -2):
                os.ftruncate(fd, size)
                # With views that have all of it, the log is refused, and stays as it is.
                with pytest.raises(CorruptLog) as caught:
                    open_log(directory, watermark)
                assert caught.value.path == str(path)
                assert os.fstat(fd).st_size == size
                turn.count("cuts refused")

                end = max(one for one in ends if one <= size)
                check_cut(directory, path, data[end:size], end, written, is_read=size % READ_EVERY < 2)
                turn.count("cuts opened")
                turn.count("torn tails", size > end)
                os.ftruncate(fd, size)
                os.pwrite(fd, data[end:size], end)
            os.close(fd)
            # The next one is cut as the last one, before this one was there.
            path.unlink()


def check_cut(directory: Path, path: Path, torn: bytes, end: int, written: list[Written], *, is_read: bool) -> None:
    """Open a log that lost its end; it has every whole frame, tells what was cut off, and keeps that aside."""
    notes: list[str] = []
    log = open_log(directory, notes=notes)
    try:
        if is_read:
            found = read_all(log)
            assert found == written[: len(found)]
            assert last_revision(found) == log.next_revision - 1
    finally:
        log.abandon()
    assert path.stat().st_size == end
    kept = path.with_name(f"{path.name}.{end}.torn")
    if torn:
        told = f"cut off {len(torn)} bytes of an unfinished write at {path.name}, offset {end}; kept in {kept.name}"
        assert notes == [told]
        assert kept.read_bytes() == torn
        kept.unlink()
    else:
        assert notes == []
        assert not kept.exists()


def test_a_log_cut_at_every_byte_keeps_what_is_whole(
    turn: Turn, record_property: Callable[[str, object], None]
) -> None:
    """Without views it opens with every whole frame, whatever its kind; with views that have more it is refused."""
    split(turn, cut_everywhere)
    record_property("tally", dict(turn.tally))
    assert turn.tally["cuts opened"] == turn.tally["cuts refused"] >= LOG_BYTES
    assert turn.tally["torn tails"] > LOG_BYTES * 0.99
