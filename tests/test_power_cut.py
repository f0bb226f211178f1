"""A store after a power cut: its views go on from a synced checkpoint, and only the tail of the log is folded."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from checks import check_store, copy_as_a_crash_leaves

from stigmer import config
from stigmer.config import Durability, StoreOptions
from stigmer.errors import CorruptLog, StorageFailed
from stigmer.log import files
from stigmer.model import Save
from stigmer.store import Store
from stigmer.views import checkpoint, page_cache

EVENTS = 100


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take checkpoints often, and flush where a test says so, however long it takes."""
    monkeypatch.setattr(config, "UNFLUSHED_SECONDS_MAX", 3600.0)
    monkeypatch.setattr(config, "CHECKPOINT_EVENTS", EVENTS)


@contextmanager
def in_another_boot(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the machine started again."""
    with monkeypatch.context() as patch:
        patch.setattr(page_cache, "boot_id", lambda: "another")
        yield


def fill(store: Store, commits: int) -> None:
    """Save some resources over and over, flushing now and then."""
    for number in range(commits):
        store.commit([Save("note", f"n{(number + place) % 40}", b"%d" % number * 100) for place in range(3)])
        if number % 7 == 6:
            store._writer.flush()


def taken(store: Store) -> int:
    """Give the revision of the last checkpoint, once none is under way."""
    generation = store._writer.generation
    assert generation._checkpointer is not None
    generation._checkpointer.wait()
    point = checkpoint.read(generation.directory)
    return -1 if point is None else point.revision


def cut(store: Store, target: Path) -> Path:
    """Copy the directory of an open store: what is left of it where everything that was written reached the disk."""
    taken(store)  # no checkpoint is written while it is copied
    copy_as_a_crash_leaves(store, target)
    return target


@pytest.mark.parametrize("durability", list(Durability))
def test_only_what_came_after_the_checkpoint_is_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    """In another boot the store opens from its last checkpoint, says so, and has everything that the log has."""
    with Store.open(tmp_path / "data", StoreOptions(durability=durability)) as store:
        fill(store, 100)
        revision, last = taken(store), store.status().revision
        # A power cut must not leave views that are ahead of the log, whenever the log is synced otherwise.
        assert last > store._log.durable_revision >= revision > EVENTS or durability is not Durability.OS
        copy = cut(store, tmp_path / "copy")
    with in_another_boot(monkeypatch), Store.open(copy) as again:
        assert again.recovery == (
            "the machine or its disk went away while generation 1 of the views was in use; "
            f"it goes on from its checkpoint, revision {revision}",
            f"folded revisions {revision + 1} to {last} into the views",
        )
        assert last - revision <= 2 * EVENTS
        check_store(again)
        fill(again, 40)
        check_store(again)


def test_power_cuts_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes on from a checkpoint that is later than the one before, and nothing is lost."""
    directory, before = tmp_path / "0", -1
    for number in range(6):
        with monkeypatch.context() as patch:
            patch.setattr(page_cache, "boot_id", lambda number=number: f"boot {number}")
            with Store.open(directory) as store:
                assert len(store.recovery) in ((0,) if number == 0 else (1, 2))
                revision = taken(store)
                assert revision > before
                before = revision
                check_store(store)
                fill(store, 50)
                directory = cut(store, tmp_path / f"{number + 1}")


def test_views_after_a_replay_go_on_from_a_checkpoint_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generation that a replay swaps in has one from its first moment on."""
    with Store.open(tmp_path / "data") as store:
        fill(store, 60)
        store.replay()
        assert taken(store) == store.status().revision
        copy = cut(store, tmp_path / "copy")
    assert os.listdir(copy / "views") == ["2"]
    with in_another_boot(monkeypatch), Store.open(copy) as again:
        assert len(again.recovery) == 1
        check_store(again)


def test_checkpoint_that_is_ahead_of_the_log_refuses_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that ends before a checkpoint, which it was durable up to, was cut short or exchanged."""
    with Store.open(tmp_path / "data") as store:
        fill(store, 5)
        shutil.copytree(tmp_path / "data" / "log", tmp_path / "earlier")
        fill(store, 60)
        copy = cut(store, tmp_path / "copy")
        revision = taken(store)
    shutil.rmtree(copy / "log")
    (tmp_path / "earlier").rename(copy / "log")
    with in_another_boot(monkeypatch), pytest.raises(CorruptLog, match=f"but the views have {revision}"):
        Store.open(copy)


def test_failed_sync_of_the_views_stops_the_store_and_they_are_folded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as final as one of the log, and the same boot does not believe what the page cache has of the views."""
    sync_data = files.sync_data

    def failing(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".mdb"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync_data(fd)

    store = Store.open(tmp_path / "data")
    fill(store, 5)

    def fill_and_wait() -> None:
        fill(store, 100)
        taken(store)
        store.save("note", "last", b"")

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_data", failing)
        with pytest.raises(StorageFailed):
            fill_and_wait()
    assert isinstance(store.failure, StorageFailed)
    last = store.status().revision
    store.close()
    with Store.open(tmp_path / "data") as again:
        written = again.status().revision
        assert written >= last
        assert again.recovery == (f"folded revisions 1 to {written} into the views",)
        check_store(again)


def test_kill_in_the_same_boot_folds_only_what_was_not_flushed(tmp_path: Path) -> None:
    """While the boot lasts LMDB's file is used as it is, and has more than its checkpoint."""
    with Store.open(tmp_path / "data") as store:
        fill(store, 60)
        store._writer.flush()
        assert taken(store) < (flushed := store._writer.projector.flushed)
        copy = cut(store, tmp_path / "copy")
        assert flushed == store.status().revision
    with Store.open(copy) as again:
        assert again.recovery == ()
        check_store(again)
