"""Rows C1, C2, C3 and C6: a map that is full, readers that stay, many readers, an event that cannot be folded; and B8,
a file that is cut."""

from __future__ import annotations

import faulthandler
import itertools
import logging
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from checks import check_store
from log.support import append_groups, open_log
from views.support import data_file

from faults.children import Channel, Child
from faults.damaged_views import OPTIONS as SMALL
from faults.damaged_views import Model, make, open_and_compare
from faults.logs import quick_folder
from faults.scenario import Turn
from stigmer import config
from stigmer.config import MIB, StoreOptions
from stigmer.errors import CorruptLog, CorruptView
from stigmer.model import Save
from stigmer.pb import log_pb2
from stigmer.store import Store
from stigmer.views.view import Database, Transaction

Record = Callable[[str, object], None]
_OPTIONS = StoreOptions(map_bytes=1 * MIB)


def test_map_grows_unseen_by_clients(tmp_path: Path, record_property: Record) -> None:
    """C1: from 1 MiB to 64 MiB under writers and readers; none of them meets an error."""
    source = b"\x07" * (200 * 1024)
    with Store.open(tmp_path / "data", _OPTIONS) as store:
        store.save("note", "first", b"v")
        done = threading.Event()
        reads: list[int] = []

        def read() -> None:
            count = 0
            while not done.is_set():
                assert store.get("note", "first").value == b"v"
                assert store.list("note", limit=5).resources
                count += 1
            reads.append(count)

        # Not a pool, which would wait for a reader that nobody wakes.
        readers = [threading.Thread(target=read, daemon=True) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for number in range(20):
                store.save_many([Save("note", f"{number}-{part}", source) for part in range(10)])
                store._writer.flush()
        finally:
            done.set()
            for reader in readers:
                reader.join(30)
        assert len(reads) == len(readers), "a reader failed, or waits although the map has grown"
        assert store.status().views_map_bytes >= 64 * MIB
        assert store.count() == {"note": 201}
        record_property("tally", {"MiB of the map": store.status().views_map_bytes // MIB, "reads": sum(reads)})


def test_file_of_views_stays_small_under_churn(
    tmp_path: Path, record_property: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C2: under lists all the while it grows by what changes between two synced checkpoints, and then no more."""
    monkeypatch.setattr(config, "CHECKPOINT_EVENTS", 2000)
    sizes = []
    # The map does not grow, which would end a transaction that was forgotten.
    with Store.open(tmp_path / "data", StoreOptions(map_bytes=256 * MIB)) as store:
        checkpointer = store._writer.generation._checkpointer
        assert checkpointer is not None
        done = threading.Event()

        def page_through() -> int:
            pages = 0
            while not done.is_set():
                token = None
                while not done.is_set():
                    page = store.list("note", limit=50, page_token=token)
                    pages += 1
                    token = page.next_page_token
                    if token is None:
                        break
            return pages

        with ThreadPoolExecutor(1) as pool:
            paging = pool.submit(page_through)
            try:
                for turn in range(40):
                    store.save_many([Save("note", f"{number:04}", b"%d" % turn * 400) for number in range(500)])
                    store._writer.flush()
                    checkpointer.wait()  # a slow disk gives its writer time to change more before it is taken
                    sizes.append(store.status().views_bytes)
            finally:
                done.set()
            pages = paging.result()
    assert sizes[-1] < 1.5 * sizes[len(sizes) // 2], sizes
    record_property("tally", {"flushes": len(sizes), "pages": pages, "bytes at most": sizes[-1]})


def test_two_hundred_readers_at_once(tmp_path: Path, record_property: Record) -> None:
    """C3: each of 200 threads reads at the same moment, from LMDB; none finds its places for readers taken."""
    readers = 200
    with Store.open(tmp_path / "data", _OPTIONS) as store:
        store.save_many([Save("note", f"{number}", b"v") for number in range(readers)])
        store._writer.flush()
        together = threading.Barrier(readers)
        refused: list[Exception] = []

        def read(number: int) -> bool:
            environment = store._writer.projector.environment
            try:
                transaction = environment.begin()
            except Exception as error:
                refused.append(error)
                together.abort()  # nobody need wait for this one
                return False
            try:
                together.wait(60)  # all of them hold a transaction now
            except threading.BrokenBarrierError:
                return False
            finally:
                environment.end(transaction)
            return all(store.get("note", f"{number}").value == b"v" for _ in range(20))

        with ThreadPoolExecutor(readers) as pool:
            answers = list(pool.map(read, range(readers)))
        assert not refused
        assert all(answers), "they did not come together, each with a transaction"
        used = store.status().views_readers
    assert used >= readers
    record_property("tally", {"readers": used})


_COMMIT_OF_ONE = log_pb2.Commit(events=[log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="note", id="a")])


@pytest.mark.parametrize(
    "frame",
    [(b"\xff\xff no commit", 1), (_COMMIT_OF_ONE.SerializeToString(), 2), (b"", 1)],
    ids=["no commit", "fewer events", "nothing"],
)
def test_event_that_cannot_be_folded_is_named(tmp_path: Path, frame: tuple[bytes, int]) -> None:
    """C6: a whole frame that holds no such commit stops the open, naming its revision; nothing goes on without it."""
    directory = tmp_path / "data"
    with Store.open(directory, SMALL) as store:
        for number in range(5):
            store.save("note", f"{number}", b"v")
    log = open_log(directory / "log")
    append_groups(log, [[frame], [frame]])
    log.close()
    before = {path.name: path.read_bytes() for path in (directory / "log").iterdir()}
    for _ in range(2):
        with pytest.raises(CorruptLog, match="does not hold a commit") as caught:
            Store.open(directory, SMALL)
        assert caught.value.revision == 6
        assert {path.name: path.read_bytes() for path in (directory / "log").iterdir()} == before
        shutil.rmtree(directory / "views")  # as well where everything has to be folded


@pytest.mark.parametrize("is_clean", [True, False], ids=["closed clean", "killed"])
def test_file_cut_at_every_page(tmp_path: Path, is_clean: bool, record_property: Record) -> None:
    """B8: found before LMDB looks into it: the process lives, and everything is folded again."""
    turn = Turn(1, 1, tmp_path)
    with quick_folder(tmp_path) as folder:
        made = make(folder / "made", 1, 60)
        pages = data_file(made.killed).stat().st_size // 4096
        for page in range(pages):
            model = made.put(folder / "data", is_clean=is_clean)
            os.truncate(data_file(model.directory), page * 4096)
            outcome = open_and_compare(turn, model)
            assert not outcome.is_dead
            assert page == 0 or any("is not used" in note for note in outcome.notes), (page, outcome.notes)
            shutil.rmtree(model.directory)
    assert pages > 10
    record_property("tally", {"cuts": pages, **turn.tally})


def _read_on(model: Model) -> Callable[[Channel], None]:
    """Give the work of a child that reads, and reads again once its views' file was cut."""

    def work(channel: Channel) -> None:
        logging.disable(logging.CRITICAL)
        faulthandler.disable()  # its end is no news
        store = Store.open(model.directory, SMALL)
        for _ in range(2):
            for key, _known in model.state.items():
                try:
                    row = store.get(*key.split("/"))
                except CorruptView:
                    channel.send((key, None))
                else:
                    channel.send((key, row.revision))
            channel.send(("pause", 0))
            channel.wait()

    return work


def test_file_cut_while_it_is_open(tmp_path: Path, record_property: Record) -> None:
    """B8: who reads may die (SIGBUS) or be told, but is not given what is wrong; the next open has everything."""
    turn = Turn(1, 1, tmp_path)
    died = 0
    with quick_folder(tmp_path) as folder:
        made = make(folder / "made", 2, 60)
        for page in range(0, data_file(made.killed).stat().st_size // 4096, 3):
            model = made.put(folder / "data", is_clean=True)
            with Child(_read_on(model)) as child:
                messages = []
                while ("pause", 0) not in messages:
                    messages += child.receive()
                os.truncate(data_file(model.directory), page * 4096)
                child.go_on()
                messages += itertools.takewhile(lambda message: message != ("pause", 0), child.receive())
                child.kill()
                died += child.wait() == -7
            for key, revision in messages:
                assert key == "pause" or revision in (None, model.state[key][0])
            assert not open_and_compare(turn, model).is_dead
            shutil.rmtree(model.directory)
    assert died
    record_property("tally", {"died": died, **turn.tally})


def test_many_rows_are_looked_at_while_the_store_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where views that were not closed clean are large, the open does not wait; a lost row is found all the same."""
    monkeypatch.setattr(config, "VIEWS_CHECK_ROWS_MAX", 10)
    monkeypatch.setattr(logging.getLogger("stigmer"), "disabled", True)
    made = make(tmp_path / "made", 3)
    store = Store.open(tmp_path / "made", SMALL)
    try:
        for is_damaged in (False, True):
            if is_damaged:
                environment = store._writer.projector.environment
                environment.write(_lose_first_row(made, environment.databases["snapshot.1"]))
            copied = shutil.copytree(tmp_path / "made", tmp_path / f"copy-{is_damaged}")
            with Store.open(copied, SMALL) as copy:
                assert not copy.recovery, "the open has looked at the rows"
                generation = store.status().generation
                _wait_for("stigmer-check")
                _wait_for("stigmer-repair")
                assert copy.status().generation == generation + is_damaged
                check_store(copy)
    finally:
        store.close()


def _lose_first_row(model: Model, database: Database) -> Callable[[Transaction], None]:
    def lose(transaction: Transaction) -> None:
        assert transaction.delete(min(model.state).encode(), db=database)

    return lose


def _wait_for(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join()


def test_key_in_a_branch_page_that_leads_astray_is_found(tmp_path: Path) -> None:
    """A walk passes all rows, and all are whole, but a search goes another way: so each row is searched for as well."""
    directory = tmp_path / "data"
    with Store.open(directory, SMALL) as store:
        store.save_many([Save("note", f"{number:04}", b"v" * 60) for number in range(400)])
        store._writer.flush()
        killed = shutil.copytree(directory, tmp_path / "killed")
    data = bytearray(data_file(killed).read_bytes())
    spoiled = 0
    for page in range(2 * 4096, len(data), 4096):
        if not data[page + 10] & 1:  # not a branch
            continue
        lower = int.from_bytes(data[page + 12 : page + 14], "little")
        for pointer in range(page + 16 + 2, page + lower, 2):  # the first node of a branch has no key
            node = page + int.from_bytes(data[pointer : pointer + 2], "little")
            if data[node + 8 : node + 13] == b"note/":
                data[node + 8] ^= 2  # "lote/": before every key
                spoiled += 1
                break
    assert spoiled
    data_file(killed).write_bytes(data)
    with Store.open(killed, SMALL) as store:
        assert any("is not found" in note for note in store.recovery), store.recovery
        assert all(store.get("note", f"{number:04}").value == b"v" * 60 for number in range(400))
