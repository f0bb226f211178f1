"""Chains of deltas in the log: what was committed comes back from anywhere, the bound holds, damage is named."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from checks import check_store

from log.support import (
    START_NS,
    Written,
    copy_log,
    flip_bit,
    frames_in,
    header_of,
    last_revision,
    open_log,
    overwrite,
    read_all,
    segment_files,
    shrink_size,
    watermark_of,
)
from stigmer import config
from stigmer.cli import recordings
from stigmer.errors import CorruptLog, DiskFull, NewerFormat
from stigmer.log import files, payloads
from stigmer.log import format as fmt
from stigmer.log.lineages import Entry
from stigmer.log.log import Log
from stigmer.log.payloads import Decoded, Payloads
from stigmer.model import Delete, Save
from stigmer.store import Store

TRAFFIC = Path(__file__).parents[1] / "data" / "traffic"


def versions(seed: int, count: int, size: int = 6000, fresh: int = 60) -> list[bytes]:
    """A value as it grows: each is the one before with some bytes changed, some put in and some appended."""
    source = random.Random(seed)
    made = [source.randbytes(size)]
    while len(made) < count:
        changed = bytearray(made[-1])
        changed[10:14] = source.randbytes(4)
        at = source.randint(0, len(changed))
        changed[at:at] = source.randbytes(fresh // 2)
        made.append(bytes(changed) + source.randbytes(fresh // 2))
    return made


def append(log: Log, entries: Sequence[Entry], per_group: int = 1) -> list[Written]:
    """Append entries in groups, each synced; give their frames."""
    written = []
    for place in range(0, len(entries), per_group):
        group = entries[place : place + per_group]
        revision = log.next_revision
        log.append(group, max(START_NS, log.last_time_ns) + 1)
        log.sync()
        for entry in group:
            written.append(Written(revision, entry.event_count, entry.payload))
            revision += entry.event_count
    return written


def interleaved(seed: int, lineages: int, count: int) -> list[Entry]:
    """Versions of several lineages in some order, and small payloads without one between them."""
    source = random.Random(seed)
    made = [
        [Entry(one, 1 + seed % 2, b"key %d" % key) for one in versions(seed + key, count)] for key in range(lineages)
    ]
    entries: list[Entry] = []
    while any(made):
        entries.append(source.choice([one for one in made if one]).pop(0))
        if source.random() < 0.3:
            entries.append(Entry(source.randbytes(source.randint(0, 200)), 2))
    return entries


def holding(written: list[Written], after: int) -> list[Written]:
    """The frames with a revision above `after`."""
    return [one for one in written if one.first_revision + one.event_count - 1 > after]


def heads_in(segment: Path) -> list[tuple[fmt.FrameHeader, fmt.EncodedHead | None]]:
    """The headers of the frames that hold events, each with that of its encoded payload."""
    data = segment.read_bytes()
    found = []
    for offset, header in frames_in(segment):
        if header.event_count:
            encoded = fmt.decode_encoded_head(header.flags, data[offset + fmt.FRAME_HEADER_SIZE :])
            found.append((header, None if encoded is None else encoded[0]))
    return found


def codecs_in(directory: Path) -> list[int]:
    """The codec of each frame that holds events."""
    return [header.flags for segment in segment_files(directory) for header, _ in heads_in(segment)]


# --- the same bytes as ever ------------------------------------------------------------------------------


@pytest.mark.parametrize("kept_bytes", [1, 20_000, 1 << 26])
@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("per_group", [1, 7])
def test_payloads_come_back_from_every_revision(
    directory: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int, reopened: bool, per_group: int
) -> None:
    """Whatever is in memory, and wherever a cursor starts, the payloads are those that were appended."""
    monkeypatch.setattr(config, "PAYLOADS_BYTES_MAX", kept_bytes)
    log = open_log(directory, segment_bytes=24_000)
    written = append(log, interleaved(1, 3, 30), per_group)
    if reopened:
        log.close()
        log = open_log(directory, segment_bytes=24_000)
    assert len(segment_files(directory)) > 1
    assert codecs_in(directory).count(fmt.CODEC_DELTA) > 60
    for after in range(0, last_revision(written) + 1, 3):
        assert read_all(log, after, 10_000) == holding(written, after)
    for one in written:
        frame = log.frame(one.first_revision)
        assert (frame.payload, frame.payload_bytes) == (one.payload, len(one.payload))
        assert frame.codec == ("none" if not frame.base_revision else "delta")
    log.close()


def test_read_counts_payloads_as_they_were_committed(directory: Path) -> None:
    """A read gives about as many bytes as it was asked for, however small they are on disk."""
    log = open_log(directory, segment_bytes=1 << 20)
    written = append(log, [Entry(one, 1, b"key") for one in versions(2, 20, 50_000)])
    cursor = log.cursor(0)
    assert len(cursor.read(last_revision(written), 120_000)) == 3
    cursor.close()
    log.close()


@pytest.mark.parametrize("seed", range(4))
def test_bases_lie_before_in_the_same_segment(directory: Path, seed: int) -> None:
    """The first payload of each lineage in a segment is whole, and each delta follows from there, one by one."""
    log = open_log(directory, segment_bytes=20_000)
    append(log, interleaved(seed, 2, 60), 1 + seed)
    log.close()
    assert len(segment_files(directory)) > 2
    depth_max = 0
    for segment in segment_files(directory):
        depths = {}
        for header, head in heads_in(segment):
            depths[header.first_revision] = 0 if head is None else head.depth
            if head is not None:
                assert header.flags == fmt.CODEC_DELTA
                assert head.depth == depths[head.base_revision] + 1
        depth_max = max(depth_max, *depths.values())
    assert depth_max > 5


def test_payload_without_likeness_or_resemblance_is_stored_as_it_is(directory: Path) -> None:
    """Nothing is encoded that was not asked for or does not pay, and the log is what it was without deltas."""
    source = random.Random(4)
    log = open_log(directory)
    same = source.randbytes(5000)
    append(log, [Entry(same, 1), Entry(same, 1), Entry(b"", 1, b"a"), Entry(b"", 1, b"a")])
    append(log, [Entry(source.randbytes(5000), 1, b"a") for _ in range(5)])
    assert log.saved_bytes == 0
    log.close()
    assert set(codecs_in(directory)) == {0}
    assert {header.flags for segment in segment_files(directory) for _, header in frames_in(segment)} == {
        0,
        fmt.FLAG_SEAL,
    }


def test_values_that_do_not_resemble_are_compared_ever_less(directory: Path) -> None:
    """The more often values were compared in vain, the longer are they not; when they do resemble, deltas are back."""
    source = random.Random(2100)
    log = open_log(directory, segment_bytes=1 << 22)
    made = versions(21, 3)
    written = append(log, [Entry(one, 1, b"once") for one in (made[0], source.randbytes(6000), made[1], made[1])])
    made = versions(22, 20)
    written += append(log, [Entry(source.randbytes(6000), 1, b"often") for _ in range(60)])
    written += append(log, [Entry(one, 1, b"often") for one in made])
    assert read_all(log) == written
    log.abandon()
    codecs = codecs_in(directory)
    delta = fmt.CODEC_DELTA
    assert codecs[:4] == [0, 0, 0, delta]
    assert codecs[4:64] == [0] * 60
    assert 5 <= codecs[64:].count(delta) < 19, "as many as if each had been compared"
    assert codecs[-5:] == [delta] * 5


def test_lineages_are_forgotten_beyond_a_number_of_bytes(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the writer keeps in memory is bounded; a lineage that was not written for long begins anew."""
    monkeypatch.setattr(config, "LINEAGES_BYTES_MAX", 15_000)
    log = open_log(directory, segment_bytes=1 << 20)
    made = [versions(seed, 4) for seed in range(3)]
    order = [0, 1, 0, 1, 2, 0, 0, 2, 1]
    written = append(log, [Entry(made[key].pop(0), 1, b"%d" % key) for key in order])
    assert read_all(log) == written
    log.abandon()
    delta = fmt.CODEC_DELTA
    assert codecs_in(directory) == [0, 0, delta, delta, 0, 0, delta, delta, 0]


def test_lineages_begin_anew_after_opening(directory: Path) -> None:
    """What an earlier process wrote is no base, so the first payload is whole, and the next ones are deltas again."""
    written: list[Written] = []
    made = versions(5, 12)
    for place in range(0, 12, 3):
        log = open_log(directory, segment_bytes=1 << 20)
        assert read_all(log) == written
        written += append(log, [Entry(one, 1, b"key") for one in made[place : place + 3]])
        log.close() if place % 2 else log.abandon()
    assert codecs_in(directory) == [0, fmt.CODEC_DELTA, fmt.CODEC_DELTA] * 4
    log = open_log(directory, segment_bytes=1 << 20)
    assert read_all(log) == written
    log.close()


def test_what_a_full_disk_took_back_is_no_base(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that was refused leaves no trace: the next payload is a delta against what is there."""
    made = versions(6, 9)
    log = open_log(directory, segment_bytes=1 << 20)
    written = append(log, [Entry(one, 1, b"key") for one in made[:3]])
    saved = log.saved_bytes

    def write_half(fd: int, buffers: Sequence[bytes], offset: int) -> int:
        os.pwrite(fd, b"".join(buffers)[:100], offset)
        raise OSError(errno.ENOSPC, "no room")

    for refused in ([made[3]], [made[4], made[5]]):
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_at", write_half)
            with pytest.raises(DiskFull):
                append(log, [Entry(one, 1, b"key") for one in refused], 2)
        assert log.saved_bytes == saved
    written += append(log, [Entry(one, 1, b"key") for one in made[6:]])
    assert read_all(log) == written
    log.abandon()
    assert [head.base_revision for _, head in heads_in(segment_files(directory)[0]) if head] == [1, 2, 3, 4, 5]
    log = open_log(directory)
    assert read_all(log) == written
    log.close()


def test_saved_bytes_are_those_that_the_files_lack(directory: Path) -> None:
    """While writing, after a crash and after a clean end, in sealed and active segments, the same number is told."""
    entries = interleaved(8, 2, 40)
    log = open_log(directory, segment_bytes=16_000)
    append(log, entries)
    told = [segment.saved_bytes for segment in log.segments()]
    assert (
        sum(told)
        == log.saved_bytes
        == sum(len(entry.payload) for entry in entries)
        - sum(header.payload_size for segment in segment_files(directory) for header, _ in heads_in(segment))
    )
    assert log.saved_bytes > log.size
    log.abandon()
    for _ in range(2):  # after a crash the frames tell, after a clean end the seal
        log = open_log(directory, segment_bytes=16_000)
        assert [segment.saved_bytes for segment in log.segments()] == told
        log.close()


@pytest.mark.parametrize("name", ["tools", "long"])
def test_recorded_runs_take_half_of_their_last_value(tmp_path: Path, name: str) -> None:
    """What a runner sends during one execution adds no more to the log than half of the execution's final size."""
    values = list(recordings.frames(str(TRAFFIC / f"agent-run-{name}.binpb.zst")))
    with Store.open(tmp_path / "data") as store:
        before = store.status().log_bytes
        for value in values:
            store.save("agent_execution", "aex-recorded", value)
        status = store.status()
        assert status.log_bytes - before <= len(values[-1]) / 2
        assert status.log_saved_bytes > sum(map(len, values)) - len(values[-1]) / 2
        assert [event.value for event in store.tail(follow=False)] == values
        assert store.verify().differences == 0
    with Store.open(tmp_path / "data") as store:
        assert store.status().log_saved_bytes == status.log_saved_bytes
        for after in (0, 1, len(values) // 2, len(values) - 2):
            assert [event.value for event in store.tail(after, follow=False)] == values[after:]
        assert store.replay().differences == 0


def test_commits_are_like_the_last_one_of_their_largest_resource(tmp_path: Path) -> None:
    """The store compares a large commit with the last one whose largest event had the same key."""
    first, second = versions(19, 4), versions(20, 4)
    with Store.open(tmp_path / "data") as store:
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            small = f"small{number}"
            store.save("note", "first", one)
            store.commit([Save("note", small, one[:100]), Save("note", "second", other), Delete("note", small)])
            store.save("note", "first", other[: config.DELTA_BYTES_MIN - 100])
        events = list(store.tail(follow=False))
        frames = {store.frame(revision).first_revision: store.frame(revision) for revision in range(1, 21)}
        assert [frame.base_revision for frame in frames.values()] == [0, 0, 0, 1, 2, 0, 6, 7, 0, 11, 12, 0]
        assert [frame.codec for frame in frames.values()] == (["none"] * 3 + ["delta", "delta", "none"] * 3)
        assert all(frame.bytes < frame.payload_bytes / 2 for frame in frames.values() if frame.depth)
        assert check_store(store) == events
        assert store.replay().differences == 0


# --- the bound -------------------------------------------------------------------------------------------


def test_a_chain_ends_with_a_compressed_payload(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many deltas the payload is written whole, compressed where that pays."""
    monkeypatch.setattr(config, "CHAIN_FRAMES_MAX", 3)
    made = [b"many words, many words, " * 300 + b"%d" % number for number in range(10)]
    log = open_log(directory, segment_bytes=1 << 20)
    written = append(log, [Entry(one, 1, b"key") for one in made], 2)
    made = versions(9, 5)
    written += append(log, [Entry(one, 1, b"random") for one in made])
    assert read_all(log) == written
    log.abandon()
    delta, whole = fmt.CODEC_DELTA, fmt.CODEC_ZSTD
    words = [0, delta, delta, delta, whole, delta, delta, delta, whole, delta]
    assert codecs_in(directory) == [*words, 0, delta, delta, delta, 0]
    log = open_log(directory, segment_bytes=1 << 20)
    assert read_all(log) == written
    assert [log.frame(revision).codec for revision in (1, 2, 5)] == ["none", "delta", "zstd"]
    assert [log.frame(revision).depth for revision in range(1, 7)] == [0, 1, 2, 3, 0, 1]
    log.close()


def test_deltas_of_a_chain_take_no_more_than_a_payload(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where deltas are large, a chain ends before they are more to read than the payload itself."""
    monkeypatch.setattr(config, "CHAIN_BYTES_MAX", 1000)
    log = open_log(directory, segment_bytes=1 << 20)
    source = random.Random(10)
    value = bytearray(source.randbytes(10_000))
    made = []
    for _ in range(40):
        at = source.randint(0, 7500)
        value[at : at + 2500] = source.randbytes(2500)
        made.append(bytes(value))
    written = append(log, [Entry(one, 1, b"key") for one in made])
    assert read_all(log) == written
    log.abandon()
    chain = chains = 0
    for (header, head), one in zip(heads_in(segment_files(directory)[0]), written, strict=True):
        chain = chain + header.payload_size if head is not None and head.depth else 0
        chains += not chain
        assert chain <= len(one.payload)
    assert chains > 4


def test_reading_one_revision_is_bounded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last revision of the longest chain costs the frames of that chain, each with an index block at most."""
    entries = []
    for one in versions(11, config.CHAIN_FRAMES_MAX + 3, 20_000, 200):
        entries += [Entry(one, 1, b"key"), Entry(bytes(3000), 1)]
    log = open_log(directory, segment_bytes=1 << 26)
    written = append(log, entries, 50)
    log.close()
    heads = heads_in(segment_files(directory)[0])
    depths = [0 if head is None else head.depth for _, head in heads][::2]
    assert depths == [*range(config.CHAIN_FRAMES_MAX + 1), 0, 1]
    last = 2 * config.CHAIN_FRAMES_MAX
    log = open_log(directory)
    reads: list[int] = []

    def read_at(fd: int, size: int, offset: int, **how: bool) -> bytes:
        data = files.read_at(fd, size, offset, **how)
        reads.append(len(data))
        return data

    monkeypatch.setattr(payloads, "read_at", read_at)
    assert log.frame(written[last].first_revision).payload == written[last].payload
    assert 1 <= len(reads) <= 2 * (config.CHAIN_FRAMES_MAX + 1)
    chain = sum(header.payload_size for header, _ in heads[: last + 1 : 2])
    assert sum(reads) <= chain + (config.CHAIN_FRAMES_MAX + 1) * (65_536 + fmt.FRAME_HEADER_SIZE)
    # The way back passes through each stretch of the file once, so it is far less in a segment of one lineage.
    assert sum(reads) < 2 * sum(fmt.FRAME_HEADER_SIZE + header.payload_size for header, _ in heads)
    reads.clear()
    assert log.frame(written[last - 2].first_revision).depth == config.CHAIN_FRAMES_MAX - 1
    log.close()


def test_reading_in_order_decodes_each_frame_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many lineages as the writer can keep are no more work to read in order than one."""
    monkeypatch.setattr(config, "LINEAGES_BYTES_MAX", 50_000)
    monkeypatch.setattr(config, "PAYLOADS_BYTES_MAX", 50_000)
    log = open_log(directory, segment_bytes=1 << 26)
    entries = interleaved(12, 6, 25)
    written = append(log, entries)
    log.close()
    log = open_log(directory)
    reads: list[int] = []

    def read_at(fd: int, size: int, offset: int, **how: bool) -> bytes:
        reads.append(size)
        return files.read_at(fd, size, offset, **how)

    monkeypatch.setattr(payloads, "read_at", read_at)
    assert read_all(log) == written
    assert reads == []
    log.close()


def test_a_live_reader_does_not_decode(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was appended a moment ago is given as it was committed; what an earlier process wrote may take a while."""
    monkeypatch.setattr(config, "PAYLOADS_BYTES_MAX", 30_000)
    made = versions(13, 14)
    log = open_log(directory, segment_bytes=1 << 20)
    append(log, [Entry(one, 1, b"key") for one in made[:4]])
    log.abandon()
    log = open_log(directory, segment_bytes=1 << 20)
    old, live = log.cursor(2), log.cursor(4)
    assert not old.is_near_end()
    assert live.is_near_end()
    append(log, [Entry(one, 1, b"key") for one in made[4:6]])
    assert live.is_near_end()
    assert live.read(6)[1].payload is made[5]
    assert live.is_near_end()
    append(log, [Entry(one, 1, b"key") for one in made[6:]])
    assert not live.is_near_end(), "its next payloads are not in memory any more"
    assert [frame.payload for frame in live.read(14)] == made[6:]
    assert [frame.payload for frame in old.read(14)] == made[2:]
    assert live.is_near_end()
    old.close()
    live.close()
    log.close()


# --- what readers keep -----------------------------------------------------------------------------------


def test_bases_that_were_used_are_forgotten_first() -> None:
    """A payload behind which the next one was read makes room before those that are still to be used."""
    for depth in (0, 1):
        # Half as much room for those that are stored whole.
        kept = Payloads(700 if depth == 0 else 350, 0)
        kept.keep(1, Decoded(bytes(100), 1, depth))
        kept.keep(2, Decoded(bytes(100), 2, depth))
        kept.keep(3, Decoded(bytes(100), 3, depth), 2)
        kept.keep(4, Decoded(bytes(100), 4, depth))
        assert [kept.find(revision, revision) is None for revision in (1, 2, 3, 4)] == [False, True, False, False]
        assert kept.evicted_revision == (2 if depth else 0)
        assert kept.find(1, 7) is None, "another payload than the one that is meant"
        kept.keep(5, Decoded(bytes(1000), 5, depth))
        assert [kept.find(revision, revision) is None for revision in (1, 3, 4, 5)] == [True, True, True, False]
        kept.keep(5, Decoded(bytes(10), 6, depth))
        assert kept.find(5, 6) is not None


def test_whole_payloads_do_not_push_deltas_out() -> None:
    """However many are read that are stored whole, what only a chain gives again stays."""
    kept = Payloads(200, 0)
    kept.keep(1, Decoded(bytes(100), 1, 1))
    for revision in range(2, 50):
        kept.keep(revision, Decoded(bytes(100), revision, 0))
    assert kept.find(1, 1) is not None
    assert kept.find(49, 49) is not None
    assert kept.find(47, 47) is None
    assert kept.evicted_revision == 0


# --- damage ----------------------------------------------------------------------------------------------


def small_chain(directory: Path) -> list[Written]:
    """Two segments of which the first holds a whole payload, two deltas, a compressed payload and a delta."""
    source = random.Random(14)
    base = source.randbytes(40) * 2 + source.randbytes(80)
    made = [
        base,
        base[:99] + b"new" + base[99:],
        base[:50] + source.randbytes(45) + base[60:],
        base * 2,
        base * 2 + b"x",
    ]
    log = open_log(directory, segment_bytes=830)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "CHAIN_FRAMES_MAX", 2)
        written = append(log, [Entry(one, 1, b"key") for one in made])
        assert len(segment_files(directory)) == 1
        written += append(log, [Entry(b"rolled", 1)] * 2)
    log.close()
    assert len(segment_files(directory)) == 2
    assert codecs_in(directory)[:5] == [0, fmt.CODEC_DELTA, fmt.CODEC_DELTA, fmt.CODEC_ZSTD, fmt.CODEC_DELTA]
    return written


def test_any_flipped_bit_is_damage_or_makes_no_difference(quick_directory: Path) -> None:
    """Wherever a chain is read from, one wrong bit in its segment gives `CorruptLog` or the payloads as ever."""
    written = small_chain(quick_directory)
    segment = segment_files(quick_directory)[0]
    refused = 0
    for bit in range(segment.stat().st_size * 8):
        flip_bit(segment, bit)
        try:
            log = open_log(quick_directory, check_bytes=0)
        except CorruptLog:
            refused += 1
        else:
            for after in (0, 2, 4):
                try:
                    assert read_all(log, after) == holding(written, after)
                except CorruptLog as error:
                    refused += error.path == str(segment)
            log.abandon()
        flip_bit(segment, bit)
    assert refused > segment.stat().st_size * 8


def test_any_flipped_bit_of_a_durable_end_is_refused_at_open(quick_directory: Path) -> None:
    """Recovery finds damage in stored deltas as in any other frame, without decoding them."""
    log = open_log(quick_directory)
    made = versions(15, 3, 200, 4)
    written = append(log, [Entry(one, 1, b"key") for one in made])
    log.abandon()
    (segment,) = segment_files(quick_directory)
    watermark = watermark_of(quick_directory, last_revision(written))
    for bit in range(fmt.SEGMENT_HEADER_SIZE * 8, segment.stat().st_size * 8, 3):
        flip_bit(segment, bit)
        with pytest.raises((CorruptLog, NewerFormat)):
            open_log(quick_directory, watermark)
        flip_bit(segment, bit)


def test_truncation_at_every_byte_leaves_a_prefix(quick_directory: Path, tmp_path: Path) -> None:
    """However much of the file a crash leaves, what is whole comes back, and the log goes on behind it."""
    log = open_log(quick_directory)
    made = versions(16, 5, 300, 10)
    written = append(log, [Entry(one, 1, b"key") for one in made], 2)
    log.abandon()
    ends = [offset for offset, _ in frames_in(segment_files(quick_directory)[0])][1:]
    size = segment_files(quick_directory)[0].stat().st_size
    ends.append(size)
    for cut in range(fmt.SEGMENT_HEADER_SIZE, size + 1):
        copy = copy_log(quick_directory, quick_directory.parent / "copy")
        shrink_size(segment_files(copy)[0], cut)
        whole = written[: sum(end <= cut for end in ends)]
        log = open_log(copy)
        assert read_all(log) == whole
        whole += append(log, [Entry(one, 1, b"key") for one in made[-2:]])
        assert read_all(log) == whole
        log.abandon()


Change = Callable[[fmt.EncodedHead], fmt.EncodedHead]


def set_stored(segment: Path, offset: int, stored: bytes, flags: int) -> None:
    """Put another payload of the same length into a frame, with correct checksums."""
    salt = fmt.salt_of(header_of(segment).segment_id)
    header = fmt.decode_frame_header(segment.read_bytes(), offset, offset, salt)
    assert header is not None
    assert header.payload_size == len(stored)
    header = header._replace(flags=flags, payload_crc=fmt.crc32c(0, stored))
    overwrite(segment, offset, fmt.encode_frame_header(header, offset, salt) + stored)


DELTA_HEAD_SIZE = 24


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda head: head._replace(base_revision=5), "base, revision 5, is not before it in this segment"),
        (lambda head: head._replace(base_revision=9), "base, revision 9, is not before it in this segment"),
        (lambda head: head._replace(base_revision=0), "base, revision 0, is not before it in this segment"),
        (lambda head: head._replace(base_revision=4), "base, revision 4, is not where a frame begins"),
        (lambda head: head._replace(base_revision=1), "base, revision 1, is not the one it was made of"),
        (lambda head: head._replace(base_crc=head.base_crc ^ 1), "base, revision 3, is not the one it was made of"),
        (lambda head: head._replace(crc=head.crc ^ 1), "checksum of the decoded payload does not match"),
        (lambda head: head._replace(size=head.size + 1), "the delta makes"),
        (lambda head: head._replace(size=2**32 - 1), "would have 4294967295 bytes"),
        (lambda head: head._replace(depth=1), "delta 1 of its chain, its base 1"),
        (lambda head: head._replace(depth=3), "delta 3 of its chain, its base 1"),
        (lambda head: head._replace(depth=0), "delta 0 of its chain; there are 256 at most"),
        (lambda head: head._replace(depth=257), "delta 257 of its chain; there are 256 at most"),
    ],
)
@pytest.mark.parametrize("warm", [False, True])
def test_delta_that_cannot_be_true_is_named(directory: Path, change: Change, problem: str, warm: bool) -> None:
    """A delta whose base, size, checksum or depth is wrong is refused, with its offset and revision."""
    log = open_log(directory, segment_bytes=1 << 20)
    made = versions(17, 3)
    append(log, [Entry(made[0], 2, b"key"), Entry(made[1], 2, b"key"), Entry(made[2], 2, b"key")])
    log.abandon()
    (segment,) = segment_files(directory)
    offset, header = frames_in(segment)[2]
    stored = segment.read_bytes()[offset + fmt.FRAME_HEADER_SIZE :]
    found = fmt.decode_encoded_head(header.flags, stored)
    assert found is not None
    set_stored(segment, offset, fmt.encode_delta_head(change(found[0])) + stored[DELTA_HEAD_SIZE:], header.flags)
    log = open_log(directory, segment_bytes=1 << 20)
    cursor = log.cursor(0 if warm else 4)
    if warm:
        assert [frame.payload for frame in cursor.read(5)] == made[:2], "what is whole is given first"
    with pytest.raises(CorruptLog, match=problem) as caught:
        cursor.read(6)
    assert (caught.value.path, caught.value.offset, caught.value.revision) == (str(segment), offset, 5)
    cursor.close()
    log.abandon()


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("in_header", [False, True])
def test_damaged_base_is_named(directory: Path, place: int, in_header: bool) -> None:
    """Where a base is damaged, it and not the delta is named, and no value is given."""
    log = open_log(directory, segment_bytes=1 << 20)
    append(log, [Entry(one, 1, b"key") for one in versions(18, 4)])
    log.abandon()
    (segment,) = segment_files(directory)
    log = open_log(directory, segment_bytes=1 << 20)
    offset = frames_in(segment)[place][0]
    flip_bit(segment, (offset + (20 if in_header else fmt.FRAME_HEADER_SIZE + 70)) * 8)
    with pytest.raises(CorruptLog, match="header is damaged" if in_header else "checksum does not match") as caught:
        log.frame(4)
    assert (caught.value.path, caught.value.offset, caught.value.revision) == (str(segment), offset, place + 1)
    log.abandon()


def test_encoded_payload_that_is_cut_short_is_named(directory: Path) -> None:
    """A frame that says it is encoded, but has no room for what that needs, is refused."""
    for flags, size in ((fmt.CODEC_DELTA, DELTA_HEAD_SIZE - 1), (fmt.CODEC_ZSTD, 7), (fmt.CODEC_ZSTD, 40)):
        log = open_log(directory)
        append(log, [Entry(bytes(size), 1)])
        log.abandon()
        segment = segment_files(directory)[-1]
        offset, _ = frames_in(segment)[-1]
        set_stored(segment, offset, b"\1" * size if size == 40 else bytes(size), flags)
        if size == 40:
            stored = fmt.encode_compressed_head(fmt.EncodedHead(100, 0)) + b"\1" * 32
            set_stored(segment, offset, stored, flags)
        log = open_log(directory)
        with pytest.raises(CorruptLog, match="compressed bytes are damaged" if size == 40 else "cut short") as caught:
            log.frame(log.next_revision - 1)
        assert caught.value.offset == offset
        log.abandon()
