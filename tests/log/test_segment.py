"""One segment file, and the calls that write it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from log.support import append_groups, frames_in, make_log, open_log, random_groups, segment_files
from stigmer.errors import CorruptLog
from stigmer.log import files
from stigmer.log import format as fmt
from stigmer.log.segment import INDEX_SPACING_BYTES, Segment, crc_of, read_header, read_seal


def test_seal_says_what_is_before_it(directory: Path) -> None:
    """Every rolled segment and a closed one end in a seal with the checksum and an index of what precedes it."""
    make_log(directory, random_groups(40, 30), sealed=True)
    for path in segment_files(directory):
        segment = Segment(str(directory), read_header(str(path)))
        fd = segment.open()
        found = read_seal(fd, segment)
        assert found is not None
        offset, header, seal = found
        assert offset == frames_in(path)[-1][0]
        assert seal.segment_crc == crc_of(fd, offset) == fmt.crc32c(0, path.read_bytes()[:offset])
        assert seal.entries == [(segment.first_revision, fmt.SEGMENT_HEADER_SIZE)]
        last = frames_in(path)[-2][1]
        assert header.first_revision == header.group_first == last.first_revision + last.event_count
        assert (header.time_ns, seal.first_time_ns) == (last.time_ns, frames_in(path)[0][1].time_ns)
        os.close(fd)


@pytest.mark.parametrize("reopened", [False, True])
def test_index_leads_near_every_revision(directory: Path, reopened: bool) -> None:
    """The index has an entry about every 64 KiB, each at the start of a frame, and the nearest is never behind."""
    log = open_log(directory, segment_bytes=1 << 20)
    append_groups(log, random_groups(41, 200, 3000))
    if reopened:
        log.abandon()
        log = open_log(directory, segment_bytes=1 << 20)
    segment = log._segments[0]
    starts = {header.first_revision: offset for offset, header in frames_in(segment_files(directory)[0])}
    assert len(segment.index) >= segment.size // (2 * INDEX_SPACING_BYTES)
    for revision, offset in segment.index:
        assert starts[revision] == offset
    for revision, offset in starts.items():
        near, at = segment.near(revision)
        assert near <= revision
        assert 0 <= offset - at < INDEX_SPACING_BYTES + 3100
    log.close()


def test_index_that_leads_behind_the_end_is_named(directory: Path) -> None:
    """An offset that is none is told of as damage, with the segment."""
    segment = Segment(str(directory), fmt.SegmentHeader(b"s" * 16, b"i" * 16, 1, 0))
    segment.start_index([(1, fmt.SEGMENT_HEADER_SIZE), (5, (1 << 64) - 1)])
    segment.size = 1000
    assert segment.near(4) == (1, fmt.SEGMENT_HEADER_SIZE)
    with pytest.raises(CorruptLog, match=f"{segment.name}.*leads behind its end"):
        segment.near(5)


def test_read_allocates_no_more_than_there_is(tmp_path: Path) -> None:
    """A size may come from a frame that was cut short or made up."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDONLY)
    try:
        assert files.read_at(fd, 1 << 62, 3) == b"3456789"
        assert files.read_at(fd, 1 << 62, 10) == files.read_at(fd, 1 << 62, 99) == b""
    finally:
        os.close(fd)


def test_name_and_header_must_agree(directory: Path) -> None:
    """A segment's header is read only under its own name."""
    make_log(directory, [[(b"x", 1)]])
    path = segment_files(directory)[0]
    assert read_header(str(path)).first_revision == 1
    other = path.rename(directory / fmt.segment_name(2))
    with pytest.raises(CorruptLog, match="the file is named so, but begins at revision 1"):
        read_header(str(other))


@pytest.mark.parametrize("count", [1, 2, 1023, 1024, 1025, 5000])
def test_any_number_of_buffers_is_written_in_order(tmp_path: Path, count: int) -> None:
    """Buffers, many or large, empty ones among them, come to lie one behind the other."""
    buffers = [bytes([n % 256]) * (n % 5 * 100) for n in range(count)]
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    end = files.write_at(fd, buffers, 7)
    assert end == 7 + sum(map(len, buffers))
    assert files.read_at(fd, 10**9, 0) == bytes(7) * (end > 7) + b"".join(buffers)
    os.close(fd)


def test_created_file_is_whole_or_not_there(tmp_path: Path) -> None:
    """A new file gets its name with its content, private to its owner; a failed creation leaves nothing."""
    path = tmp_path / "made"
    os.close(files.create(str(path), b"content"))
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        files.create(str(tmp_path / "taken"), b"content")
    assert sorted(os.listdir(tmp_path)) == ["made", "taken"]
