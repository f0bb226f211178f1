"""Opening after a crash, and after damage: what is torn is cut off, what is corrupt is refused."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from log.support import (
    SECTOR_BYTES,
    START_NS,
    PageCache,
    Written,
    append_garbage,
    append_groups,
    contents,
    copy_log,
    flip_bit,
    frames_in,
    header_of,
    last_revision,
    make_log,
    open_log,
    random_groups,
    read_all,
    reopen_and_read,
    segment_files,
    set_flags,
    set_version,
    shrink_size,
    torn_files,
    watermark_of,
    zero_region,
)
from stigmer.errors import CorruptLog, NewerFormat, StorageFailed
from stigmer.log import format as fmt

NEW_GROUP = [(b"appended after recovery", 2), (b"", 1)]


# --- a torn tail -----------------------------------------------------------------------------------------


def append_and_read_again(directory: Path, whole: list[Written]) -> None:
    """Check that a recovered log has these frames, takes more, and has all of them when it is opened again."""
    notes: list[str] = []
    log = open_log(directory, notes=notes)
    assert read_all(log) == whole
    added = append_groups(log, [NEW_GROUP])
    assert added[0].first_revision == last_revision(whole) + 1
    assert read_all(log) == whole + added
    log.abandon()
    notes = []
    assert reopen_and_read(directory, notes=notes) == whole + added
    assert notes == []


def test_second_torn_tail_at_the_same_offset_is_kept_beside_the_first(directory: Path) -> None:
    """What was kept aside is never overwritten, as after a crash in the middle of a recovery."""
    make_log(directory, random_groups(2, 3))
    segment = segment_files(directory)[-1]
    end = segment.stat().st_size
    for garbage in (b"first", b"second", b"third"):
        append_garbage(segment, garbage)
        reopen_and_read(directory)
    kept = {path.name: path.read_bytes() for path in torn_files(directory)}
    assert kept == {
        f"{segment.name}.{end}.torn": b"first",
        f"{segment.name}.{end}.2.torn": b"second",
        f"{segment.name}.{end}.3.torn": b"third",
    }


def is_whole(segment: Path) -> bool:
    """Say whether a segment is a header and frames, each with the right checksums, to its last byte."""
    data, salt = segment.read_bytes(), fmt.salt_of(header_of(segment).segment_id)
    offset = fmt.SEGMENT_HEADER_SIZE
    while offset < len(data):
        header = fmt.decode_frame_header(data, offset, offset, salt)
        if header is None:
            return False
        payload = data[offset + fmt.FRAME_HEADER_SIZE :][: header.payload_size]
        if len(payload) < header.payload_size or fmt.crc32c(0, payload) != header.payload_crc:
            return False
        offset += fmt.FRAME_HEADER_SIZE + header.payload_size
    return True


# Each leaves an unfinished write at the end of the last segment, whose last frame begins at an offset.
UNFINISHED: dict[str, Callable[[Path, int], None]] = {
    "one byte short": lambda path, _: shrink_size(path, path.stat().st_size - 1),
    "only a header": lambda path, offset: shrink_size(path, offset + fmt.FRAME_HEADER_SIZE),
    "half a header": lambda path, offset: shrink_size(path, offset + 20),
    "payload of zeros": lambda path, offset: zero_region(path, offset + fmt.FRAME_HEADER_SIZE, 10),
    "all zeros": lambda path, offset: zero_region(path, offset, path.stat().st_size - offset),
    "last byte wrong": lambda path, _: flip_bit(path, path.stat().st_size * 8 - 1),
    "flipped length": lambda path, offset: flip_bit(path, (offset + 8) * 8 + 30),
    "zeros behind": lambda path, _: append_garbage(path, bytes(5000)),
    "garbage behind": lambda path, _: append_garbage(path, random.Random(3).randbytes(5000)),
    "a stale frame behind": lambda path, offset: append_garbage(path, path.read_bytes()[offset:]),
    "half a seal behind": lambda path, _: append_garbage(path, fmt.FRAME_MAGIC + b"\x01\0\0\0" + bytes(20)),
}


@pytest.mark.parametrize("how", UNFINISHED)
def test_repair(directory: Path, how: str) -> None:
    """Break the end, prove it broken, open, append, read again: only the last frame may be missing."""
    written = make_log(directory, [*random_groups(4, 20, 200)[:-1], [(b"the last one, to be broken", 1)]])
    segment = segment_files(directory)[-1]
    UNFINISHED[how](segment, frames_in(segment)[-1][0])
    assert not is_whole(segment)

    notes: list[str] = []
    recovered = reopen_and_read(directory, notes=notes)
    assert recovered == (written if how.endswith("behind") else written[:-1])
    assert len(notes) == 1
    assert "cut off" in notes[0]
    append_and_read_again(directory, recovered)


def test_time_does_not_go_back_over_a_torn_first_frame(directory: Path) -> None:
    """The time of the last frame is known again even where the last segment has lost all of its frames."""
    log = open_log(directory)
    append_groups(log, [[(bytes(4096), 1)], [(b"in the second segment", 1)]])
    first_time_ns = log.last_time_ns - 1
    log.abandon()
    shrink_size(segment_files(directory)[1], fmt.SEGMENT_HEADER_SIZE + 10)

    log = open_log(directory)
    assert log.next_revision == 2
    assert log.last_time_ns == first_time_ns == START_NS + 1
    log.abandon()


# --- what an fsync had not covered, out of order -----------------------------------------------------------


def lose_sectors(path: Path, start: int, source: random.Random) -> None:
    """Zero a random part of the sectors behind `start`, as where the disk wrote them in an order of its own."""
    size = path.stat().st_size
    share = source.random()
    for sector in range(start // SECTOR_BYTES * SECTOR_BYTES, size, SECTOR_BYTES):
        if source.random() < share:
            begin = max(sector, start)
            zero_region(path, begin, min(sector + SECTOR_BYTES, size) - begin)
    if source.random() < 0.2:
        shrink_size(path, source.randint(start, size))


def test_seal_lost_in_part_is_torn(quick_directory: Path, tmp_path: Path) -> None:
    """A power cut while the seal of a clean close is written costs the seal only."""
    written = make_log(quick_directory, random_groups(5, 10), sealed=True)
    original = copy_log(quick_directory, tmp_path / "original")
    start = frames_in(segment_files(original)[-1])[-1][0]
    for seed in range(200):
        copy_log(original, quick_directory)
        lose_sectors(segment_files(quick_directory)[-1], start, random.Random(seed))
        assert reopen_and_read(quick_directory, watermark_of(quick_directory, last_revision(written))) == written


@pytest.mark.parametrize("what", ["group", "groups", "seal"])
def test_what_a_failed_sync_left_in_the_cache_is_durable_before_it_is_shown(
    quick_directory: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What the next open shows of it, no power cut takes away, though the kernel takes its pages for clean."""
    shown_unsynced = 0
    for seed in range(60):
        shutil.rmtree(quick_directory, ignore_errors=True)
        with monkeypatch.context() as patch:
            cache = PageCache(patch)
            log = open_log(quick_directory, segment_bytes=64 * 1024)
            acked = append_groups(log, random_groups(seed, 5, 1500))
            if what != "seal":
                for group in random_groups(seed + 1, 1 if what == "group" else 3, 4000):
                    append_groups(log, [group], sync_last=False)
            cache.fails = True
            with pytest.raises(StorageFailed):
                log.close()
            cache.fails = False
            again = open_log(quick_directory, segment_bytes=64 * 1024)
            shown = read_all(again)
            shown_unsynced += len(shown) > len(acked)
            if what == "seal":
                shown += append_groups(again, [NEW_GROUP])
            again.abandon()
            cache.lose(quick_directory)
        notes: list[str] = []
        assert reopen_and_read(quick_directory, notes=notes) == shown, f"seed {seed}"
        assert (shown[: len(acked)], notes) == (acked, [])
    assert shown_unsynced == (0 if what == "seal" else 60)


def test_only_what_is_not_known_to_be_durable_is_written_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening after a crash writes the last group again, byte for byte, and nothing else."""
    log = open_log(directory, segment_bytes=1 << 20)
    append_groups(log, random_groups(3, 20))
    start = log.size
    append_groups(log, [[(b"a", 1), (b"b", 2)]], sync_last=False)
    end = log.size
    log.abandon()
    (segment,) = segment_files(directory)
    before = segment.read_bytes()
    written: list[tuple[int, int]] = []
    pwrite = os.pwrite

    def note(fd: int, data: bytes, offset: int) -> int:
        written.append((offset, offset + len(data)))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", note)
    open_log(directory).abandon()
    assert written == [(start, end)]
    assert segment.read_bytes() == before


def test_payload_that_holds_another_segment_is_not_taken_for_frames(directory: Path, tmp_path: Path) -> None:
    """A whole segment with higher revisions inside a value does not make a torn frame before it look durable."""
    make_log(tmp_path / "other", random_groups(6, 30), sealed=True)
    other = b"".join(path.read_bytes() for path in segment_files(tmp_path / "other"))
    assert other.count(fmt.FRAME_MAGIC) > 30
    log = open_log(directory)
    acked = append_groups(log, [[(b"acked", 1)]])
    # So that the other segment's frames come to lie at their own offsets, and only the salt tells them apart.
    begin = log.size + fmt.FRAME_HEADER_SIZE + len(b"to be torn") + fmt.FRAME_HEADER_SIZE
    append_groups(log, [[(b"to be torn", 1), (other[begin:], 1)]], sync_last=False)
    log.abandon()
    segment = segment_files(directory)[0]
    assert segment.read_bytes()[begin:4096] == other[begin:4096]
    flip_bit(segment, frames_in(segment)[1][0] * 8 + 100)
    assert reopen_and_read(directory, watermark_of(directory, 1)) == acked


def test_payload_that_holds_frames_of_its_own_segment_is_not_taken_for_frames(directory: Path) -> None:
    """Frames of this very segment, with its salt, are not valid at another offset inside a value."""
    log = open_log(directory)
    acked = append_groups(log, [[(b"acked", 1)]])
    append_groups(log, [[(bytes([n]) * 50, 1)] for n in range(10)])
    log.abandon()
    segment = segment_files(directory)[0]
    future = segment.read_bytes()
    shrink_size(segment, frames_in(segment)[1][0])  # as in a store restored from a copy

    log = open_log(directory)
    append_groups(log, [[(b"to be torn", 1), (future, 1)]], sync_last=False)
    log.abandon()
    flip_bit(segment, frames_in(segment)[1][0] * 8 + 100)
    assert reopen_and_read(directory, watermark_of(directory, 1)) == acked


# --- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [False, True])
def test_flipped_bit_without_watermark_is_torn_or_corrupt_but_never_wrong_data(
    quick_directory: Path, tmp_path: Path, sealed: bool
) -> None:
    """Without views, a wrong bit in the last segment may cost the last group, and only where no seal proves it."""
    log = open_log(quick_directory)
    before = append_groups(log, random_groups(9, 6, 150))
    group = [(b"the last group", 1), (bytes(range(100)), 2), (b"", 1)]
    written = before + append_groups(log, [group])
    log.close() if sealed else log.abandon()
    original = copy_log(quick_directory, tmp_path / "original")
    path = segment_files(quick_directory)[-1]
    data = path.read_bytes()
    certain = written if sealed else before
    torn = corrupt = 0
    for bit in range(len(data) * 8):
        flip_bit(path, bit)
        try:
            recovered = reopen_and_read(quick_directory)
        except CorruptLog:
            corrupt += 1
            flip_bit(path, bit)
            continue
        torn += 1
        assert recovered == written[: len(recovered)]
        assert len(recovered) >= len(certain)
        (kept,) = torn_files(quick_directory)
        kept.unlink()
        path.write_bytes(data)
    assert torn > 500
    assert corrupt > 5000
    assert contents(quick_directory).keys() == contents(original).keys()


@pytest.mark.parametrize("check_bytes", [0, 1 << 30])
def test_damage_in_an_older_segment_is_named_at_open_or_when_it_is_read(directory: Path, check_bytes: int) -> None:
    """A wrong bit in a sealed segment is found by the check at open, or, beyond its reach, by the first read."""
    make_log(directory, random_groups(13, 60))
    segments = segment_files(directory)
    assert len(segments) > 3
    offset, header = frames_in(segments[1])[2]
    flip_bit(segments[1], (offset + fmt.FRAME_HEADER_SIZE) * 8)
    with pytest.raises(CorruptLog, match="the payload's checksum does not match") as caught:
        reopen_and_read(directory, check_bytes=check_bytes)
    named = (caught.value.path, caught.value.offset, caught.value.revision)
    assert named == (str(segments[1]), offset, header.first_revision)


def test_whole_frames_before_damage_are_given_once_before_the_error(directory: Path) -> None:
    """A cursor that meets damage first gives what is whole, then raises, again at every further read."""
    written = make_log(directory, random_groups(14, 60))
    segments = segment_files(directory)
    offset, header = frames_in(segments[1])[2]
    flip_bit(segments[1], offset * 8 + 70)
    log = open_log(directory, check_bytes=0)
    cursor = log.cursor(0)
    frames = cursor.read(log.next_revision - 1)
    assert [frame.first_revision for frame in frames] == [
        one.first_revision for one in written if one.first_revision < header.first_revision
    ]
    for _ in range(2):
        with pytest.raises(CorruptLog) as caught:
            cursor.read(log.next_revision - 1)
        assert (caught.value.offset, caught.value.revision) == (offset, header.first_revision)
    cursor.close()
    log.abandon()


def test_log_shorter_than_the_watermark_is_refused(quick_directory: Path, tmp_path: Path) -> None:
    """A log cut anywhere below what the views have applied is refused untouched, and says how much is missing."""
    written = make_log(quick_directory, random_groups(15, 12, 100))
    original = copy_log(quick_directory, tmp_path / "original")
    path = segment_files(quick_directory)[-1]
    watermark = watermark_of(quick_directory, last_revision(written))
    data = path.read_bytes()
    for size in range(fmt.SEGMENT_HEADER_SIZE, len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(CorruptLog, match=r"durable \(the views have it\)|the log was cut short or exchanged"):
            open_log(quick_directory, watermark)
        assert path.stat().st_size == size
    path.write_bytes(data)
    assert contents(quick_directory).keys() == contents(original).keys()
    with pytest.raises(CorruptLog, match=f"but the views have {last_revision(written) + 1}"):
        open_log(quick_directory, watermark_of(quick_directory, last_revision(written) + 1))


def test_watermark_of_another_store_proves_nothing(directory: Path) -> None:
    """Views that belong to another store do not make a torn tail corrupt."""
    written = make_log(directory, [[(b"one", 1)], [(b"two", 1)]])
    segment = segment_files(directory)[0]
    shrink_size(segment, segment.stat().st_size - 1)
    watermark = watermark_of(directory, 2)._replace(store_id=bytes(16))
    assert reopen_and_read(directory, watermark) == written[:1]


def test_empty_log_under_views_is_refused(directory: Path) -> None:
    """A log directory without segments is not begun anew where views prove that there was a log."""
    make_log(directory, [[(b"one", 1)]])
    watermark = watermark_of(directory, 1)
    for path in segment_files(directory):
        path.unlink()
    with pytest.raises(CorruptLog, match="the log is empty, but the views have revision 1"):
        open_log(directory, watermark)
    assert list(directory.iterdir()) == []


# --- files that are not where they were --------------------------------------------------------------------


def refused(directory: Path, revision: int, problem: str) -> CorruptLog:
    """Check that a log does not open, for this reason, and that no file was touched."""
    before = contents(directory)
    with pytest.raises(CorruptLog, match=problem) as caught:
        open_log(directory, watermark_of(directory, revision))
    assert contents(directory) == before
    return caught.value


@pytest.fixture
def long_log(directory: Path) -> Path:
    """A log of several segments."""
    make_log(directory, random_groups(16, 60))
    assert len(segment_files(directory)) > 4
    return directory


def test_missing_segment_is_named(long_log: Path, tmp_path: Path) -> None:
    """Without any one of its segments a log is refused, and the error names what follows the gap."""
    log = open_log(long_log)
    last = log.next_revision - 1
    log.abandon()
    original = copy_log(long_log, tmp_path / "original")
    names = [path.name for path in segment_files(original)]
    for place, name in enumerate(names):
        copy_log(original, long_log)
        (long_log / name).unlink()
        if place == 0:
            error = refused(long_log, last, "the log's first segment begins at revision")
            assert error.path == str(long_log / names[1])
        elif place < len(names) - 1:
            error = refused(long_log, last, f"ends at revision {int(name[:20]) - 1}: revisions are missing")
            assert error.path == str(long_log / names[place + 1])
        else:
            refused(long_log, last, f"but the views have {last}: the log was cut short")


def test_renamed_or_copied_segment_is_refused(long_log: Path, tmp_path: Path) -> None:
    """Any segment under the number of another revision, or in the place of another, is found out by its header."""
    names = [path.name for path in segment_files(long_log)]
    original = copy_log(long_log, tmp_path / "original")
    for place, name in enumerate(names):
        problem = f"the file is named so, but begins at revision {int(name[:20])}"
        free = fmt.segment_name(int(name[:20]) + 1)
        (long_log / name).rename(long_log / free)
        assert refused(long_log, 1, problem).path == str(long_log / free)
        copy_log(original, long_log)
        shutil.copy(long_log / name, long_log / free)
        assert refused(long_log, 1, problem).path == str(long_log / free)
        copy_log(original, long_log)
        for other in names[:place] + names[place + 1 :]:
            kept = (long_log / other).read_bytes()
            shutil.copy(long_log / name, long_log / other)
            assert refused(long_log, 1, problem).path == str(long_log / other)
            (long_log / other).write_bytes(kept)


def test_segment_that_overlaps_is_refused(long_log: Path) -> None:
    """Revisions that are there twice are refused, also where every header is whole."""
    second = segment_files(long_log)[1]
    header = header_of(second)
    inside = header._replace(first_revision=header.first_revision + 1)
    (long_log / fmt.segment_name(inside.first_revision)).write_bytes(fmt.encode_segment_header(inside))
    refused(long_log, 1, "revisions are there twice")


def test_segment_of_another_store_is_refused(long_log: Path, tmp_path: Path) -> None:
    """A segment with the right name from another store is found out by its store id; the first one by all others."""
    make_log(tmp_path / "other", random_groups(16, 60))
    names = [path.name for path in segment_files(long_log)]
    for place, name in enumerate(names):
        kept = (long_log / name).read_bytes()
        shutil.copy(tmp_path / "other" / name, long_log)
        error = refused(long_log, 1, "the segment is from another store")
        assert error.path == str(long_log / names[max(place, 1)])
        (long_log / name).write_bytes(kept)


@pytest.mark.parametrize("name", ["1.log", "00000000000000000001 (copy).log", "x.log", ".log", "0" * 21 + ".log"])
def test_stray_log_file_is_refused(long_log: Path, name: str) -> None:
    """A file that ends like a segment but is not named like one stops the open instead of being passed over."""
    shutil.copy(segment_files(long_log)[0], long_log / name)
    error = refused(long_log, 1, "is not the name of a segment")
    assert error.path == str(long_log / name)


def test_unfinished_new_segment_is_removed(long_log: Path) -> None:
    """What a crash left of a segment that was being created is removed, whatever is in it."""
    expected = reopen_and_read(long_log)
    (long_log / (fmt.segment_name(10**6) + ".new")).write_bytes(b"STGMR")
    assert reopen_and_read(long_log) == expected
    assert list(long_log.glob("*.new")) == []


def test_other_files_in_the_directory_are_left_alone(long_log: Path) -> None:
    """Files that do not end like segments are neither read nor touched."""
    expected = reopen_and_read(long_log)
    (long_log / "notes.txt").write_text("mine")
    (long_log / "x.log.torn").write_text("kept")
    assert reopen_and_read(long_log) == expected
    assert (long_log / "notes.txt").read_text() == "mine"


def test_empty_file_named_like_a_segment_is_refused(long_log: Path) -> None:
    """A segment is never without its header, since it gets its name only with it: an empty one is damage."""
    name = fmt.segment_name(10**6)
    (long_log / name).touch()
    error = refused(long_log, 1, "the segment's header is damaged")
    assert (error.path, error.offset) == (str(long_log / name), 0)


# --- newer formats -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, -1])
def test_newer_segment_is_refused_and_nothing_touched(long_log: Path, place: int) -> None:
    """One segment of a newer version, first, middle or last: every file keeps its bytes and its time of change."""
    segment = segment_files(long_log)[place]
    set_version(segment, 2)
    append_garbage(segment_files(long_log)[-1], b"an unfinished write")
    (long_log / (fmt.segment_name(10**6) + ".new")).write_bytes(b"of the newer version's")
    before, changed_ns = contents(long_log), os.stat(long_log).st_mtime_ns
    with pytest.raises(NewerFormat, match=r"newer stigmer \(format 2\); this one reads up to 1"):
        open_log(long_log)
    assert contents(long_log) == before
    assert os.stat(long_log).st_mtime_ns == changed_ns


def test_frame_with_unknown_flag_is_refused_and_nothing_touched(directory: Path) -> None:
    """A frame that a newer version wrote into a segment is not taken for an unfinished write."""
    make_log(directory, random_groups(17, 5))
    segment = segment_files(directory)[-1]
    set_flags(segment, frames_in(segment)[-1][0], 0x30)
    before = contents(directory)
    with pytest.raises(NewerFormat):
        open_log(directory)
    assert contents(directory) == before


def test_whole_frames_before_one_of_a_newer_format_are_given_before_the_error(directory: Path) -> None:
    """A cursor that meets a frame it cannot read gives those before it once, then raises."""
    written = make_log(directory, random_groups(18, 60))
    segment = segment_files(directory)[1]
    offset, header = frames_in(segment)[2]
    set_flags(segment, offset, 0x40)
    log = open_log(directory, check_bytes=0)
    cursor = log.cursor(0)
    frames = cursor.read(log.next_revision - 1)
    assert len(frames) == sum(one.first_revision < header.first_revision for one in written)
    with pytest.raises(NewerFormat):
        cursor.read(log.next_revision - 1)
    cursor.close()
    log.abandon()
