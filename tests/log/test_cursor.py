"""Cursors: every frame once, from anywhere, however the log grows."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from log.support import (
    START_NS,
    Written,
    append_groups,
    frames_in,
    last_revision,
    open_log,
    random_groups,
    read_all,
    segment_files,
    shrink_size,
)
from stigmer.errors import CorruptLog, NotFound


def holding(written: list[Written], after: int) -> list[Written]:
    """The frames with a revision above `after`."""
    return [one for one in written if one.first_revision + one.event_count - 1 > after]


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("bytes_max", [0, 700, 1 << 20])
def test_cursor_from_every_revision_gives_exactly_the_frames(directory: Path, reopened: bool, bytes_max: int) -> None:
    """Behind any revision a cursor gives the frame that holds the next and all after it, over many segments."""
    log = open_log(directory)
    written = append_groups(log, random_groups(20, 50))
    if reopened:
        log.close()
        log = open_log(directory)
    assert len(segment_files(directory)) > 4
    for after in range(last_revision(written) + 1):
        assert read_all(log, after, bytes_max) == holding(written, after)
    log.close()


def test_read_stops_at_the_revision_it_may_see(directory: Path) -> None:
    """A read gives only frames that lie at or below the given revision, and goes on from there at the next."""
    log = open_log(directory)
    written = append_groups(log, random_groups(21, 50))
    cursor = log.cursor(0)
    seen: list[int] = []
    for upto in range(last_revision(written) + 1):
        frames = cursor.read(upto)
        seen += [frame.first_revision for frame in frames]
        assert seen == [one.first_revision for one in written if one.first_revision <= upto]
        assert cursor.read(upto) == []
    cursor.close()
    log.close()


def test_read_stops_by_bytes_but_gives_at_least_one_frame(directory: Path) -> None:
    """A read of few bytes gives one frame at a time, also where a frame is larger than a read of the file."""
    log = open_log(directory, segment_bytes=1 << 22)
    sizes = [0, 100, 300_000, 10, 262_144 - 56, 262_144, 5, 1_000_000]
    written = append_groups(log, [[(random.Random(size).randbytes(size), 1)] for size in sizes])
    cursor = log.cursor(0)
    found = []
    while frames := cursor.read(log.next_revision - 1, 0):
        found += [Written(frame.first_revision, frame.event_count, frame.payload) for frame in frames]
    assert found == written
    assert read_all(log) == written
    cursor.close()
    log.close()


def test_cursors_follow_over_rolls_while_the_log_grows(directory: Path) -> None:
    """Cursors on other threads that read as far as was synced see every frame once while the log rolls on."""
    log = open_log(directory)
    groups = random_groups(22, 150)
    grown = threading.Condition()
    synced = 0
    done = False
    found: list[list[Written]] = [[], [], []]
    failures: list[BaseException] = []

    def follow(place: int) -> None:
        cursor = log.cursor(0)
        seen = 0
        try:
            while True:
                with grown:
                    while not (synced > seen or done):
                        grown.wait()
                    upto = synced
                    if seen == upto:
                        return
                for frame in cursor.read(upto, 500 * place):
                    found[place].append(Written(frame.first_revision, frame.event_count, frame.payload))
                    seen = frame.first_revision + frame.event_count - 1
        except BaseException as error:
            failures.append(error)
        finally:
            cursor.close()

    threads = [threading.Thread(target=follow, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    written: list[Written] = []
    for group in groups:
        written += append_groups(log, [group])
        with grown:
            synced = log.durable_revision
            grown.notify_all()
    with grown:
        done = True
        grown.notify_all()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert found == [written] * 3
    assert len(segment_files(directory)) > 10
    log.close()


def test_cursor_reads_on_behind_a_seal_in_the_middle(directory: Path) -> None:
    """Seals of clean closes inside a segment are passed over, and are no frames to a reader."""
    written: list[Written] = []
    for round in range(20):
        log = open_log(directory)
        written += append_groups(log, random_groups(30 + round, 1, 100, 2))
        log.close()
    seals = sum(not header.event_count for path in segment_files(directory) for _, header in frames_in(path))
    assert seals >= 20
    log = open_log(directory)
    for after in range(last_revision(written) + 1):
        assert read_all(log, after) == holding(written, after)
    log.close()


def test_closed_cursor_starts_again_where_it_was_made(directory: Path) -> None:
    """Closing lets go of the file; a read after it begins anew behind the revision the cursor was made for."""
    log = open_log(directory)
    written = append_groups(log, random_groups(23, 20))
    cursor = log.cursor(3)
    first = cursor.read(log.next_revision - 1)
    cursor.close()
    cursor.close()
    assert cursor.read(log.next_revision - 1) == first
    assert len(first) == len(holding(written, 3))
    cursor.close()
    log.close()


def test_frame_of_every_revision(directory: Path) -> None:
    """Each revision leads to its frame, with its place in the file, its group and its payload."""
    log = open_log(directory)
    groups = random_groups(24, 40)
    written = append_groups(log, groups)
    placed = {header.first_revision: (path.name, offset) for path in segment_files(directory)
              for offset, header in frames_in(path) if header.event_count}  # fmt: skip
    group_first = 1
    group_of = {}
    for group in groups:
        revision = group_first
        for _, event_count in group:
            group_of[revision] = group_first
            revision += event_count
        group_first = revision
    for one in written:
        for revision in range(one.first_revision, one.first_revision + one.event_count):
            frame = log.frame(revision)
            assert (frame.first_revision, frame.event_count, frame.payload) == one
            assert (frame.segment, frame.offset) == placed[one.first_revision]
            assert frame.group_first_revision == group_of[one.first_revision]
            assert (frame.bytes, frame.flags) == (56 + len(one.payload), 0)
            assert frame.time_ns > START_NS
    for missing in (0, -1, log.next_revision):
        with pytest.raises(NotFound):
            log.frame(missing)
    log.close()


def test_file_cut_short_under_an_open_log_is_damage(directory: Path) -> None:
    """A segment that somebody truncates while it is read gives `CorruptLog`, never half a frame."""
    log = open_log(directory)
    append_groups(log, random_groups(25, 30))
    path = segment_files(directory)[1]
    frames = frames_in(path)
    offset, header = frames[len(frames) // 2]
    for size in (offset + 56 + header.payload_size - 1, offset + 56, offset + 20, offset):
        shrink_size(path, size)
        cursor = log.cursor(header.first_revision - 1)
        with pytest.raises(CorruptLog) as caught:
            cursor.read(log.next_revision - 1)
        assert (caught.value.path, caught.value.offset) == (str(path), offset)
        cursor.close()
    log.abandon()
