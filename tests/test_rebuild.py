"""Replay, verify and the repair of views, while the store is in use."""

from __future__ import annotations

import itertools
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest
from checks import check_store
from log.support import flip_bit
from views.support import edit as edit_views

from stigmer.config import StoreOptions
from stigmer.errors import Closed, CorruptLog, StigmerError
from stigmer.log.format import crc32c
from stigmer.model import FoldProgress, FoldReport
from stigmer.store import Store
from stigmer.views import generations, page_cache
from stigmer.views.environment import Environment
from stigmer.views.view import shown_key

SMALL = StoreOptions(segment_bytes=64 * 1024, map_bytes=256 * 1024)
WRITERS = 4


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a store can be made."""
    return tmp_path / "data"


def fill(store: Store, resources: int = 50) -> None:
    for n in range(resources):
        store.save("note", f"n{n:03}", b"value %d" % n, request_id=f"r{n}")
    store.delete("note", "n000")
    for n in range(2):
        store.save("agent", f"a{n}", b"\x1a\x04\x12\x02s%d" % n)


class Traffic:
    """Threads that write and read one store without a pause until they are stopped."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stopping = threading.Event()
        self.writes = 0
        self.failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._guard, args=(place,)) for place in range(WRITERS)]

    def _guard(self, place: int) -> None:
        try:
            self._run(place)
        except BaseException as error:
            self.failures.append(error)

    def _run(self, place: int) -> None:
        n = 0
        while not self._stopping.is_set():
            n += 1
            revision = self._store.save("busy", f"{place}-{n % 20}", b"%d" % n)
            assert self._store.get("busy", f"{place}-{n % 20}").revision == revision
            assert [resource.id for resource in self._store.list("note", limit=3)] == ["n001", "n002", "n003"]
            assert self._store.count()["note"] == 49
            if n % 7 == 0:
                self._store.delete("busy", f"{place}-{n % 20}", expected_revision=revision)
            self.writes += 1

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        assert self.failures == []


@pytest.mark.parametrize("what", ["replay", "verify"])
def test_folds_again_under_traffic_without_a_difference(directory: Path, what: str) -> None:
    """While four threads write and read, folds find no difference, no read fails, and replay moves the generation."""
    with Store.open(directory, SMALL) as store:
        fill(store)
        with Traffic(store) as traffic:
            before = store.status().generation
            # Until there was traffic beside it, however slow the machine is.
            for round in itertools.count(1):
                at_least = store.status().revision
                report: FoldReport = getattr(store, what)()
                assert (report.differences, report.examples) == (0, [])
                assert at_least <= report.revision <= store.status().revision
                assert report.rows >= 49
                assert report.generation == store.status().generation
                assert (report.generation > before) == (what == "replay"), f"round {round}"
                if round >= 5 and traffic.writes > 20:
                    break
        check_store(store)
        assert generations.numbers(str(directory / "views")) == [store.status().generation]
    with Store.open(directory, SMALL) as store:
        assert store.recovery == ()
        check_store(store)


def test_tail_goes_on_over_a_replay(directory: Path) -> None:
    """A follower does not notice that the views were exchanged."""
    with Store.open(directory, SMALL) as store:
        fill(store)
        tail = store.tail()
        seen = [next(tail).revision for _ in range(10)]
        store.replay()
        store.save("note", "after", b"")
        seen += [next(tail).revision for _ in range(42)]
        assert seen == list(range(1, 53))
        tail.close()  # type: ignore[attr-defined]


def test_progress_is_told_and_ends_at_the_total(directory: Path) -> None:
    """A fold counts events, then a comparison counts rows; each ends at its total."""
    with Store.open(directory, SMALL) as store:
        fill(store)
        told: list[FoldProgress] = []
        report = store.verify(told.append)
        assert {one.phase for one in told} == {"fold", "compare"}
        assert [one.phase for one in told] == sorted((one.phase for one in told), reverse=True)
        assert (told[-1].completed, told[-1].total) == (report.rows, report.rows)
        assert max(one.completed for one in told if one.phase == "fold") == report.revision == 53


def edit(directory: Path, database: bytes, change: Callable[[lmdb.Transaction, object], None]) -> None:
    """Change rows of one database of a closed store's views."""
    edit_views(directory, lambda opened, transaction: change(transaction, opened[database.decode()]))


def forge(transaction: lmdb.Transaction, database: object) -> None:
    """Give a resource another value, under a checksum that is right for it."""
    key = b"note/n007"
    row = transaction.get(key, db=database)
    message = row[4:].replace(b"value 7", b"forged!")
    assert message != row[4:]
    transaction.put(key, struct.pack("<I", crc32c(crc32c(0, key), message)) + message, db=database)


def checked(key: bytes, payload: bytes) -> bytes:
    """Give a row with the checksum that is right for it."""
    return struct.pack("<I", crc32c(crc32c(0, key), payload)) + payload


def invent_entry(transaction: lmdb.Transaction, database: object) -> None:
    """Have an agent found by another slug than its own."""
    place = struct.pack(">Q", 52) + b"a0"
    assert transaction.delete(b"agent\0slug\0s0\0" + place, db=database)
    key = b"agent\0slug\0none\0" + place
    transaction.put(key, checked(key, b""), db=database)


def move(transaction: lmdb.Transaction, database: object) -> None:
    """Take one row away and put one that nobody wrote."""
    row = transaction.pop(b"r7", db=database)
    transaction.put(b"r7x", row, db=database)


@pytest.mark.parametrize(
    ("database", "change", "examples"),
    [
        (b"snapshot.1", forge, ["snapshot: note/n007: has another value in the view than in the log's fold"]),
        (
            b"requests.1",
            move,
            [
                "requests: r7: is in the log's fold, but not in the view",
                "requests: r7x: is in the view, but not in the log's fold",
            ],
        ),
        (
            b"counts.1",
            lambda transaction, database: transaction.delete(b"note", db=database),
            ["counts: note: is in the log's fold, but not in the view"],
        ),
        (
            b"index.1",
            invent_entry,
            [
                r"index: agent\x00slug\x00none\x00\x00\x00\x00\x00\x00\x00\x004a0: is in the view, "
                "but not in the log's fold",
                r"index: agent\x00slug\x00s0\x00\x00\x00\x00\x00\x00\x00\x004a0: is in the log's fold, "
                "but not in the view",
            ],
        ),
        (
            b"index_sizes.1",
            lambda transaction, database: transaction.put(
                b"agent\0all\0", checked(b"agent\0all\0", struct.pack("<Q", 7)), db=database
            ),
            [r"index: agent\x00all\x00: has another value in the view than in the log's fold"],
        ),
        (
            b"index_terms.1",
            lambda transaction, database: transaction.delete(b"agent/a1", db=database),
            ["index: agent/a1: is in the log's fold, but not in the view"],
        ),
    ],
)
def test_edited_row_is_named_by_verify_and_mended_by_replay(
    directory: Path, database: bytes, change: Callable[[lmdb.Transaction, object], None], examples: list[str]
) -> None:
    """Views that quietly differ from the log, checksums and all, are found; the fold of the log wins."""
    with Store.open(directory, SMALL) as store:
        fill(store)
    edit(directory, database, change)
    with Store.open(directory, SMALL) as store:
        for fold in (store.verify, store.verify, store.replay):
            report = fold()
            assert (report.differences, report.examples) == (len(examples), examples)
        assert store.get("note", "n007").value == b"value 7"
        check_store(store)


def test_many_differences_are_counted_and_some_named(directory: Path) -> None:
    """Every edited row counts, and the first ten are named."""
    with Store.open(directory, SMALL) as store:
        fill(store)
    edit(directory, b"requests.1", lambda transaction, database: transaction.drop(database, delete=False))
    with Store.open(directory, SMALL) as store:
        report = store.verify()
        assert report.differences == 50
        assert len(report.examples) == 10
        store.replay()
        check_store(store)


def test_second_fold_at_the_same_time_is_refused(directory: Path) -> None:
    """While one replay or verify runs another is refused by a clear error, and the first is not disturbed."""
    with Store.open(directory, SMALL) as store:
        fill(store)
        refused: list[StigmerError] = []

        def progress(_: FoldProgress) -> None:
            for fold in (store.replay, store.verify):
                with pytest.raises(StigmerError, match="a replay or verify is under way") as caught:
                    fold()
                refused.append(caught.value)

        assert store.replay(progress).differences == 0
        assert len(refused) > 2
        check_store(store)


@pytest.mark.parametrize("what", ["replay", "verify"])
def test_close_during_a_fold_ends_it_and_leaves_a_good_store(directory: Path, what: str) -> None:
    """A fold under way ends with `Closed` when the store closes, and nothing half-built is left."""
    store = Store.open(directory, SMALL)
    fill(store)
    under_way, ended = threading.Event(), []

    def progress(_: FoldProgress) -> None:
        under_way.set()
        while not store._rebuild._stopping:  # until `close` below has come so far
            never.wait(0.001)

    def work() -> None:
        try:
            getattr(store, what)(progress)
        except Closed as error:
            ended.append(error)

    never = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    assert under_way.wait(60)
    store.close()
    thread.join(60)
    assert len(ended) == 1
    assert len(generations.numbers(str(directory / "views"))) == 1
    with Store.open(directory, SMALL) as again:
        assert again.recovery == ()
        check_store(again)


def test_failing_progress_leaves_the_store_as_it_was(directory: Path) -> None:
    """An error of the caller's own ends the fold, drops what was built and lets the next one begin."""
    with Store.open(directory, SMALL) as store:
        fill(store)

        def progress(_: FoldProgress) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.replay(progress)
        assert generations.numbers(str(directory / "views")) == [1]
        check_store(store)


def test_replay_of_an_empty_store(directory: Path) -> None:
    """There is nothing to fold, and a new generation of nothing serves."""
    with Store.open(directory, SMALL) as store:
        report = store.replay()
        assert (report.revision, report.rows, report.differences) == (0, 0, 0)
        store.save("note", "n1", b"")
        check_store(store)


# --- verify: quick, and in several goes ------------------------------------------------------------------


class Stop(Exception):
    """Raised by a caller that has seen enough."""


def stop_at(phase: str) -> Callable[[FoldProgress], None]:
    """Give a progress callback that interrupts when a phase begins."""

    def on_progress(progress: FoldProgress) -> None:
        if progress.phase == phase:
            raise Stop

    return on_progress


@pytest.mark.parametrize("is_reopened", [False, True])
@pytest.mark.parametrize("phase", ["fold", "compare"])
def test_an_interrupted_verify_goes_on_where_it_stopped(directory: Path, phase: str, is_reopened: bool) -> None:
    """What was folded is not folded again, nothing of it is left in the end, and a difference is found all the same."""
    store = Store.open(directory, SMALL)
    fill(store)
    with pytest.raises(Stop):
        store.verify(stop_at(phase))
    assert (directory / "views" / "verify").is_dir()
    if is_reopened:
        store.close()
        edit(directory, b"counts.1", lambda transaction, database: transaction.delete(b"note", db=database))
        store = Store.open(directory, SMALL)
        assert store.recovery == ()
    store.save("note", "later", b"x")
    report = store.verify()
    assert report.resumed_revision == 53
    assert report.revision == 54
    assert report.differences == is_reopened
    assert ["counts: note: " in example for example in report.examples] == [True] * is_reopened
    assert not (directory / "views" / "verify").exists()
    assert store.verify().resumed_revision == 0
    store.close()


def test_a_verify_begins_anew_where_what_is_left_is_of_no_use(directory: Path, tmp_path: Path) -> None:
    """Of another store, another boot, another version, or damaged: it is removed, and no difference is reported."""

    def change(name: bytes) -> Callable[[lmdb.Transaction, object], None]:
        return lambda transaction, database: transaction.put(name, b"other", db=database)

    with Store.open(directory, SMALL) as store:
        fill(store)
        left = directory / "views" / "verify"
        for name in (b"store", b"page-cache", b"version", b"schema", None):
            with pytest.raises(Stop):
                store.verify(stop_at("compare"))
            if name is None:
                (left / "data.mdb").write_bytes(b"x")
            elif name == b"page-cache":
                (left / "page-cache").write_text("another")
            else:
                with lmdb.open(str(left), max_dbs=32) as environment:
                    database = environment.open_db(b"meta")
                    with environment.begin(write=True) as transaction:
                        change(name)(transaction, database)
            report = store.verify()
            assert (report.differences, report.resumed_revision) == (0, 0), name
            assert not left.exists()


def test_a_verify_of_another_boot_is_not_looked_at(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves a file in parts, in which LMDB may read where there is nothing and kill the process."""
    opened: list[bool] = []
    real = Environment.__init__

    def note(environment: Environment, path: str, *arguments: Any) -> None:
        if path.endswith("verify"):
            opened.append((Path(path) / "data.mdb").exists())
        real(environment, path, *arguments)

    monkeypatch.setattr(Environment, "__init__", note)
    with Store.open(directory, SMALL) as store:
        fill(store)
        with pytest.raises(Stop):
            store.verify(stop_at("compare"))
        monkeypatch.setattr(page_cache, "boot_id", lambda: "another")
        assert store.verify().resumed_revision == 0
    assert opened == [False, False]


_KILLED = """
import os, signal, sys
from stigmer.store import Store

def on_progress(progress):
    if progress.phase == "fold" and progress.completed > int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

Store.open(sys.argv[1]).verify(on_progress)
"""


def test_a_killed_verify_goes_on_from_what_was_flushed(directory: Path) -> None:
    """After kill -9 the same boot has what LMDB got."""
    with Store.open(directory) as store:
        for number in range(48):
            store.save("note", f"n{number % 5}", number.to_bytes() * (1 << 20))
    done = subprocess.run([sys.executable, "-c", _KILLED, str(directory), "42"], timeout=60)
    assert done.returncode == -signal.SIGKILL
    with Store.open(directory) as store:
        report = store.verify()
        assert 30 <= report.resumed_revision < 48
        assert (report.differences, report.revision) == (0, 48)


def test_a_quick_verify_looks_at_every_frame_and_row(directory: Path) -> None:
    """It counts both and folds nothing; under traffic, too, nothing is damaged."""
    with Store.open(directory, SMALL) as store:
        fill(store)
        told: list[FoldProgress] = []
        with Traffic(store) as traffic:
            for _ in range(5):
                report = store.verify(told.append, quick=True)
                assert (report.differences, report.examples) == (0, [])
        assert traffic.writes
        assert {one.phase for one in told} == {"frames", "rows"}
        store._writer.flush()
        report = store.verify(quick=True)
        assert report.frames == report.revision == store.status().revision
        assert report.rows == store.verify().rows
        assert os.listdir(directory / "views") == [str(store.status().generation)]


def test_a_quick_verify_looks_at_each_row_once(directory: Path) -> None:
    """Also where its rows take several transactions to read."""
    with Store.open(directory) as store:
        for number in range(3):
            store.save("note", f"n{number}", bytes(9 << 20))
        store._writer.flush()
        told: list[FoldProgress] = []
        report = store.verify(told.append, quick=True)
        assert report.rows == store.verify().rows
        assert [one.completed for one in told if one.phase == "rows"][:3] == [1, 2, 3]


@pytest.mark.parametrize("database", [b"snapshot.1", b"counts.1", b"requests.1", b"index.1", b"index_sizes.1"])
def test_a_quick_verify_names_a_damaged_row(directory: Path, database: bytes) -> None:
    """Of whatever view."""
    with Store.open(directory, SMALL) as store:
        fill(store)
    damaged = b""

    def damage(transaction: lmdb.Transaction, opened: object) -> None:
        nonlocal damaged
        with transaction.cursor(db=opened) as cursor:
            assert cursor.last()
            damaged, row = cursor.item()
            cursor.put(damaged, row[:-1] + bytes((row[-1] ^ 1,)))

    edit(directory, database, damage)
    with Store.open(directory, SMALL) as store:
        report = store.verify(quick=True)
        assert report.differences == 1
        view = database.decode().partition(".")[0].partition("_")[0]
        assert report.examples == [f"{view}: {shown_key(damaged)}: its checksum does not match"]


def test_a_quick_verify_names_a_damaged_frame(directory: Path) -> None:
    """With segment, offset and revision."""
    with Store.open(directory, SMALL) as store:
        fill(store)
        frame = store.frame(7)
        path = directory / "log" / frame.segment
        flip_bit(path, (frame.offset + 60) * 8)
        with pytest.raises(CorruptLog) as caught:
            store.verify(quick=True)
        assert (caught.value.path, caught.value.offset, caught.value.revision) == (str(path), frame.offset, 7)
        flip_bit(path, (frame.offset + 60) * 8)
        assert store.verify(quick=True).differences == 0


def test_writes_do_not_wait_for_a_replay_to_become_durable(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file was synced as a whole while the writer stood still; now the writer finds most of it synced."""
    synced: list[tuple[str, str]] = []
    sync = Environment.sync

    def noted(environment: Environment) -> None:
        synced.append((os.path.basename(environment.directory), threading.current_thread().name))
        sync(environment)

    with Store.open(directory, SMALL) as store:
        fill(store)
        monkeypatch.setattr(Environment, "sync", noted)
        number = str(store.replay().generation)
        monkeypatch.undo()
    threads = [thread for name, thread in synced if name == number]
    assert threads[0] == "MainThread"
    assert threads[-1] == "stigmer-writer"
