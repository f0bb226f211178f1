"""Logs that are cut, flipped, emptied and robbed of files, and what a repair makes of them."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from forking import run
from log.support import SECTOR_BYTES, contents, flip_bit, frames_in, segment_files, shrink_size, spoil, zero_region

from stigmer.config import StoreOptions
from stigmer.errors import CorruptLog, DataDirectoryError, InvalidArgument, LogLocked, StorageFailed
from stigmer.log.repair import Lost
from stigmer.model import Event, Save
from stigmer.repair import LOST_KIND, Repaired, repair
from stigmer.store import Store

SMALL = StoreOptions(segment_bytes=12 * 1024)
SEED = 20_260_201


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """Give a data directory that was closed clean, of several segments with deltas in them, and its events."""
    data = tmp_path_factory.mktemp("made") / "data"
    chance = random.Random(SEED)
    text = chance.randbytes(4500)
    with Store.open(data, SMALL) as store:
        for number in range(30):
            size = chance.choice((10, 700, 4500))
            store.commit(
                [Save("note", f"n{place}", text[:size] + b"%d" % number) for place in range(chance.choice((1, 1, 3)))]
            )
        assert len(store.segments()) >= 4
        assert store.status().log_saved_bytes
        events = list(store.tail(0, follow=False))
    return data, events


@pytest.fixture
def data(made: tuple[Path, list[Event]], tmp_path: Path) -> Path:
    """Give a copy of that directory."""
    return Path(shutil.copytree(made[0], tmp_path / "data"))


def opens(data: Path) -> bool:
    """Say whether a copy of a data directory opens."""
    copy = data.with_name("tried")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(data, copy)
    try:
        Store.open(copy, SMALL).close()
    except CorruptLog:
        return False
    return True


def check_repaired(data: Path, events: list[Event], lost: list[Lost]) -> None:
    """Check that a store has every event but the lost ones, a word in the place of each of those, and goes on."""
    gone = {revision for one in lost for revision in range(one.first, one.last + 1)}
    for goes_on in (True, False):
        with Store.open(data, SMALL) as store:
            found = list(store.tail(0, follow=False))
            assert [event.revision for event in found] == list(range(1, len(found) + 1))
            times = [event.time_ns for event in found]
            assert times == sorted(times), "a time finds one place in the log"
            report = store.verify()
            assert (report.differences, report.examples) == (0, [])
            for event, was in zip(found, events, strict=False):
                if event.revision in gone:
                    assert (event.kind, event.op) == (LOST_KIND, "save")
                    first, last = map(int, event.id.split("-"))
                    assert first <= event.revision <= last
                    assert f"Revisions {first} to {last} were damaged" in event.value.decode()
                else:
                    assert event == was
            assert len(found) >= max(gone, default=0)
            if goes_on:
                assert store.save("note", "more", b"x") == len(found) + 1
                events = [*events[: len(found)], store.events_between(len(found) + 1, len(found) + 1)[0]]


def repair_all(data: Path, events: list[Event]) -> Repaired:
    """Have a damaged log examined, then repaired; check both."""
    before = contents(data / "log")
    views = contents(data / "views" / "1") if (data / "views" / "1").exists() else {}
    seen = repair(str(data), [])
    if seen.lost:
        assert not seen.is_whole
        assert contents(data / "log") == before, "without being asked, it changes nothing"
        if views:
            assert contents(data / "views" / "1")["data.mdb"] == views["data.mdb"]
        done = repair(str(data), seen.lost)
        assert (done.lost, [str(one.error) for one in done.damages]) == (
            seen.lost,
            [str(one.error) for one in seen.damages],
        )
    else:
        done = seen
    assert done.is_whole
    if done.kept is not None:
        kept = {path.name: path.read_bytes() for path in Path(done.kept).iterdir()}
        changed = {name: data_ for name, (data_, _) in before.items() if (data / "log" / name).read_bytes() != data_}
        assert kept == changed, "the originals of what was written anew are kept"
    check_repaired(data, events, done.lost)
    again = repair(str(data), [])
    assert (again.is_whole, again.damages) == (True, [])
    return done


def test_a_whole_log_needs_no_repair(made: tuple[Path, list[Event]], data: Path) -> None:
    """It says so, and changes nothing."""
    before = contents(data / "log")
    found = repair(str(data), [])
    assert (found.is_whole, found.damages, found.notes, found.kept) == (True, [], [], None)
    assert contents(data / "log") == before
    assert found.revision == len(made[1])
    with pytest.raises(InvalidArgument, match="not what is lost, which is nothing"):
        repair(str(data), [Lost(1, 2)])


def test_flipped_bits_anywhere(made: tuple[Path, list[Event]], tmp_path: Path) -> None:
    """What one damage takes is its frame, and what is stored as what is new in that; all else keeps its revision."""
    source, events = made
    chance = random.Random(SEED)
    losses = 0
    for number in range(60):
        data = Path(shutil.copytree(source, tmp_path / f"{number}"))
        segment = chance.choice(segment_files(data / "log"))
        bit = chance.randrange(segment.stat().st_size * 8)
        flip_bit(segment, bit)
        is_open = opens(data)
        done = repair_all(data, events)
        assert is_open == (not done.damages), (segment, bit)
        losses += bool(done.lost)
        shutil.rmtree(data)
    assert losses > 40


def test_a_flipped_header_bit_loses_the_segment_and_no_more(made: tuple[Path, list[Event]], data: Path) -> None:
    """The id in the header is what tells frames from other bytes; the segments before and behind are whole."""
    segments = segment_files(data / "log")
    flip_bit(segments[1], 20 * 8)
    done = repair_all(data, made[1])
    assert done.lost == [Lost(int(segments[1].stem), int(segments[2].stem) - 1)]


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_missing_segment(made: tuple[Path, list[Event]], data: Path, place: int) -> None:
    """Its revisions are lost, those of the last one as far as the views had them."""
    segments = segment_files(data / "log")
    first = int(segments[place].stem)
    last = int(segments[place + 1].stem) - 1 if place >= 0 else len(made[1])
    segments[place].unlink()
    assert not opens(data)
    done = repair_all(data, made[1])
    assert done.lost == [Lost(first, last)]


def test_a_segment_cut_short_anywhere(made: tuple[Path, list[Event]], tmp_path: Path) -> None:
    """What is behind the cut is lost up to the next segment, or to what the views had."""
    source, events = made
    chance = random.Random(SEED + 1)
    for number in range(40):
        data = Path(shutil.copytree(source, tmp_path / f"{number}"))
        segment = chance.choice(segment_files(data / "log"))
        shrink_size(segment, chance.randrange(segment.stat().st_size))
        is_open = opens(data)
        done = repair_all(data, events)
        assert is_open == (not done.damages)
        assert done.revision >= len(events)
        shutil.rmtree(data)


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_lost_seal_costs_no_commit(made: tuple[Path, list[Event]], data: Path, how: str) -> None:
    """A segment without its seal does not open, is written anew with a new one, and nothing has to be accepted."""
    segment = segment_files(data / "log")[1]
    offset, _header = frames_in(segment)[-1]
    if how == "missing":
        shrink_size(segment, offset)
    else:
        flip_bit(segment, (offset + 70) * 8)
    assert not opens(data)
    done = repair_all(data, made[1])
    assert (len(done.damages), done.lost) == (1, [])


@pytest.mark.parametrize("seed", range(12))
def test_a_sector_that_the_disk_cannot_read(
    made: tuple[Path, list[Event]], data: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """An open names the place, and a repair goes round it: neither takes it for an unfinished write."""
    chance = random.Random(f"{SEED} {seed}")
    segment = chance.choice(segment_files(data / "log"))
    sector = chance.randrange(-(-segment.stat().st_size // SECTOR_BYTES))
    spoil(monkeypatch, segment, sector * SECTOR_BYTES)
    with pytest.raises(CorruptLog, match="cannot be read: Input/output error") as caught:
        Store.open(data, SMALL)
    assert caught.value.path == str(segment)
    done = repair_all(data, made[1])
    assert done.damages
    first = done.damages[0].error
    assert (first.path, first.offset) == (caught.value.path, caught.value.offset)
    assert first.offset < (sector + 1) * SECTOR_BYTES


def test_damage_in_many_places_at_once(made: tuple[Path, list[Event]], tmp_path: Path) -> None:
    """Each is named, and what lies between them stays."""
    source, events = made
    chance = random.Random(SEED + 2)
    for number in range(10):
        data = Path(shutil.copytree(source, tmp_path / f"{number}"))
        for segment in segment_files(data / "log"):
            for _ in range(3):
                zero_region(segment, chance.randrange(64, segment.stat().st_size - 8), 8)
        done = repair_all(data, events)
        assert len(done.lost) > 2
        shutil.rmtree(data)


def test_what_is_stored_against_a_lost_frame_is_lost_with_it(made: tuple[Path, list[Event]], data: Path) -> None:
    """A delta without its base is named with the revision that it was stored against."""
    for segment in segment_files(data / "log"):
        for offset, header in frames_in(segment):
            bases = [h for _, h in frames_in(segment) if h.flags & 0x10]
            if header.flags == 0 and header.payload_size > 4000 and bases:
                flip_bit(segment, (offset + 70) * 8)
                done = repair_all(data, made[1])
                assert [one.error.problem for one in done.damages if "is stored as what is new in" in one.error.problem]
                return
    pytest.fail("the log has no delta")


def test_an_unfinished_write_is_cut_off_and_kept(made: tuple[Path, list[Event]], data: Path) -> None:
    """As at any open, and nothing has to be accepted for it."""
    with Store.open(data, SMALL) as store:
        held = Path(shutil.copytree(data, data.with_name("crashed")))
        store.save("note", "late", b"x")
        torn = segment_files(data / "log")[-1].read_bytes()
    last = segment_files(held / "log")[-1]
    last.write_bytes(torn[:-3])
    found = repair(str(held), [])
    assert found.is_whole
    assert found.damages == []
    assert "cut off" in found.notes[0]
    assert [path.name.endswith(".torn") for path in (held / "log").glob("*.torn")] == [True]
    check_repaired(held, made[1], [])


def test_views_of_another_store_prove_nothing(made: tuple[Path, list[Event]], data: Path, tmp_path: Path) -> None:
    """What they have was never in this log, and so is not lost: no open believes them, and no repair."""
    with Store.open(tmp_path / "other", SMALL) as other:
        for number in range(len(made[1]) + 50):
            other.save("note", f"n{number}", b"")
    shutil.rmtree(data / "views")
    shutil.copytree(tmp_path / "other" / "views", data / "views")
    last = segment_files(data / "log")[-1]
    shrink_size(last, last.stat().st_size - 1)  # a seal that is torn, as a kill in a close leaves it
    done = repair(str(data), [])
    assert (done.is_whole, done.damages, done.lost) == (True, [], [])
    assert done.revision == len(made[1])
    check_repaired(data, made[1], [])


def test_views_that_cannot_be_removed_leave_the_repair_unfinished(
    made: tuple[Path, list[Event]], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would show what is lost, so the directory stays marked until they are gone."""
    segment = segment_files(data / "log")[1]
    flip_bit(segment, frames_in(segment)[1][0] * 8)
    lost = repair(str(data), []).lost
    assert lost
    unlink = os.unlink

    def refused(path, *arguments, **options):
        if os.path.basename(path) == "data.mdb":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refused)
        with pytest.raises(StorageFailed):
            repair(str(data), lost)
    with pytest.raises(DataDirectoryError, match="not finished"):
        Store.open(data, SMALL)
    assert repair(str(data), []).is_whole
    check_repaired(data, made[1], lost)


def test_views_behind_a_link_do_not_outlive_a_repair(made: tuple[Path, list[Event]], data: Path) -> None:
    """Whoever keeps them on another disk sees what the log says, too."""
    (data / "views").rename(data.with_name("elsewhere"))
    (data / "views").symlink_to(data.with_name("elsewhere"))
    segment = segment_files(data / "log")[1]
    flip_bit(segment, frames_in(segment)[1][0] * 8)
    done = repair(str(data), repair(str(data), []).lost)
    assert done.lost
    assert os.listdir(data.with_name("elsewhere")) == []
    check_repaired(data, made[1], done.lost)


def test_only_what_is_lost_can_be_accepted(data: Path) -> None:
    """Less, more, or something else is refused with what it would have to be."""
    segment = segment_files(data / "log")[1]
    offset, header = frames_in(segment)[0]
    flip_bit(segment, (offset + 60) * 8)
    (lost,) = repair(str(data), []).lost
    before = contents(data / "log")
    for wrong in (
        [Lost(1, 10_000)],
        [Lost(lost.first, lost.last + 1)],
        [lost, lost],
        [Lost(lost.first - 1, lost.last)],
    ):
        with pytest.raises(InvalidArgument, match=f"which is {lost.first}..{lost.last}"):
            repair(str(data), wrong)
    assert contents(data / "log") == before
    assert header.first_revision == lost.first


def test_what_only_a_person_can_mend(made: tuple[Path, list[Event]], data: Path, tmp_path: Path) -> None:
    """A file that is no segment, one of another store, one under a wrong name: each is named, with what to do."""
    segments = segment_files(data / "log")
    with Store.open(tmp_path / "other", SMALL) as store:
        for number in range(3):
            store.save("note", "n", b"%d" % number * 5000)
        others = segment_files(tmp_path / "other" / "log")
    for name, content, problem in (
        ("notes.log", b"x", "not the name of a segment"),
        ("00000000000000009999.log", segments[0].read_bytes(), "is named so"),
        (others[-1].name, others[-1].read_bytes(), "from another store"),
    ):
        path = data / "log" / name
        was = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        with pytest.raises(CorruptLog, match=problem) as caught:
            repair(str(data), [])
        assert caught.value.path == str(path)
        path.unlink() if was is None else path.write_bytes(was)
    with Store.open(data, SMALL), pytest.raises(LogLocked):
        repair(str(data), [])
    with pytest.raises(DataDirectoryError, match="has no log"):
        repair(str(tmp_path), [])
    assert made


_KILLED = """
import os, signal, sys
from stigmer.log.repair import Lost
from stigmer.repair import repair

countdown = int(sys.argv[1])

def counted(function):
    def call(*arguments, **named):
        global countdown
        countdown -= 1
        if countdown < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call

lost = [Lost(*map(int, text.split(".."))) for text in sys.argv[3:]]
for name in ("fsync", "rename", "unlink", "mkdir", "link", "rmdir"):
    setattr(os, name, counted(getattr(os, name)))
repair(sys.argv[2], lost)
os._exit(0)
"""


def test_a_repair_killed_anywhere_is_finished_by_the_next(made: tuple[Path, list[Event]], tmp_path: Path) -> None:
    """Until it has ended no store opens, so nobody reads what was accepted as lost; the next one finds the rest."""
    source, events = made
    broken = Path(shutil.copytree(source, tmp_path / "broken"))
    for segment in segment_files(broken / "log")[1:3]:
        flip_bit(segment, (frames_in(segment)[0][0] + 60) * 8)
    lost = repair(str(broken), []).lost
    assert len(lost) >= 2
    kills = 0
    while True:
        data = Path(shutil.copytree(broken, tmp_path / f"{kills}"))
        done = run(_KILLED, kills, data, *lost)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        if (data / "UNFINISHED").exists():
            with pytest.raises(DataDirectoryError, match="a repair of it was not finished"):
                Store.open(data, SMALL)
        left = repair(str(data), [])
        if left.lost:
            assert set(left.lost) <= set(lost)
            repair(str(data), left.lost)
        assert not os.path.exists(data / "UNFINISHED")
        check_repaired(data, events, lost)
        shutil.rmtree(data)
        if done.returncode == 0:
            break
        kills += 1
    assert kills > 10
