"""Backups of stores that are written to, in whatever state they are left, and stores made of them."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from checks import check_store, fold, state_of
from daemon.support import DaemonProcess
from forking import run
from log.support import flip_bit

import stigmer
from stigmer.artifacts import Artifacts
from stigmer.backup import manifest as manifests
from stigmer.backup.check import check
from stigmer.backup.make import Made, make
from stigmer.backup.restore import Cut, Restored, restore
from stigmer.config import StoreOptions
from stigmer.errors import (
    BackupDirectoryError,
    CorruptBackup,
    CorruptLog,
    DataDirectoryError,
    DiskFull,
    InvalidArgument,
    Unavailable,
)
from stigmer.log import files
from stigmer.log.rewrite import SegmentRewriter
from stigmer.model import Event, Save
from stigmer.store import Store
from stigmer.vault import Vault

SMALL = StoreOptions(segment_bytes=16 * 1024)
WRITERS = 8
ALL = Cut()


def fill(store: Store, seed: int, commits: int = 40) -> None:
    """Make commits of one to four events, with values of which the larger ones are stored as deltas."""
    chance = random.Random(seed)
    text = chance.randbytes(5000)
    for number in range(commits):
        changes = [
            Save("note", f"n{chance.randrange(5)}", text[: chance.choice((10, 900, 5000))] + b"%d" % number)
            for _ in range(chance.randint(1, 4))
        ]
        store.commit(changes)


def back_up(store: Store, directory: Path) -> Made:
    return make(str(directory), store.backup_point(), lambda: None)


def restored_events(backup: Path, directory: Path, cut: Cut = ALL) -> tuple[Restored, list[Event]]:
    """Restore, open, check everything, and give the events."""
    restored = restore(str(backup), str(directory), cut)
    assert restored.problems == []
    with Store.open(directory, SMALL, create=False) as store:
        assert [note.split()[0] for note in store.recovery] == ["folded"], "else as after a clean end"
        assert store.store_id == restored.store_id
        events = check_store(store)
    return restored, events


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Give a data directory that is not there yet."""
    return tmp_path / "data"


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Give a backup's directory that is not there yet."""
    return tmp_path / "backup"


# --- what is restored ------------------------------------------------------------------------------------


def test_every_revision_of_a_log_can_be_restored(tmp_path: Path, data: Path, backup: Path) -> None:
    """Restored to revision N, it has the events up to the last whole commit at or below N, and goes on behind them."""
    with Store.open(data, SMALL) as store:
        fill(store, 1, 25)
        events = list(store.tail(0, follow=False))
        assert len(store.segments()) > 2
        assert store.status().log_saved_bytes, "some are stored as deltas"
        back_up(store, backup)
    last_of = last_revisions(data)
    for revision in range(1, len(events) + 1):
        whole = max((last for last in last_of.values() if last <= revision), default=0)
        directory = tmp_path / f"to-{revision}"
        if not whole:
            with pytest.raises(InvalidArgument, match="nothing would be left"):
                restore(str(backup), str(directory), Cut(revision))
            assert not directory.exists()
            continue
        restored = restore(str(backup), str(directory), Cut(revision))
        assert restored.revision == whole
        assert ["inside the commit" in note for note in restored.notes] == [True] * (whole != revision)
        with Store.open(directory, SMALL, create=False) as store:
            assert list(store.tail(0, follow=False)) == events[:whole]
            assert state_of(store, {"note"}) == fold(events[:whole])
            assert store.save("note", "more", b"x") == whole + 1
            check_store(store)


def last_revisions(data: Path) -> dict[int, int]:
    """Give the last revision of the commit that holds each revision."""
    with Store.open(data, SMALL, create=False) as store:
        frames = [store.frame(revision) for revision in range(1, store.horizon.revision + 1)]
    return {number: frame.first_revision + frame.event_count - 1 for number, frame in enumerate(frames, 1)}


def test_a_restore_to_a_time_ends_with_the_last_commit_up_to_it(tmp_path: Path, data: Path, backup: Path) -> None:
    """The commit that was made at that very time is in, the next one is not."""
    with Store.open(data, SMALL) as store:
        fill(store, 2, 6)
        events = list(store.tail(0, follow=False))
        back_up(store, backup)
    times = sorted({event.time_ns for event in events})
    for number, time_ns in enumerate(times):
        for late_ns in (0, 1):
            _, found = restored_events(backup, tmp_path / f"{number}-{late_ns}", Cut(time_ns=time_ns + late_ns))
            assert found == [event for event in events if event.time_ns <= time_ns]
    with pytest.raises(InvalidArgument, match="first commit in the backup is later"):
        restore(str(backup), str(tmp_path / "none"), Cut(time_ns=times[0] - 1))


def test_a_restored_store_is_another_store(tmp_path: Path, data: Path, backup: Path) -> None:
    """It has an id of its own, and so has each of its segments: nobody takes its revisions for those of the old one."""
    with Store.open(data, SMALL) as store:
        fill(store, 3)
        store_id, events = store.store_id, list(store.tail(0, follow=False))
        token = store.list("note", limit=1).next_page_token
        back_up(store, backup)
    restored, found = restored_events(backup, tmp_path / "new")
    assert found == events
    assert restored.store_id != store_id
    with Store.open(tmp_path / "new", SMALL) as store:
        with pytest.raises(InvalidArgument, match="page_token"):
            store.list("note", page_token=token)
        with pytest.raises(BackupDirectoryError, match="of another store"):
            back_up(store, backup)


def test_a_backup_under_eight_writers_has_a_prefix_of_the_log(tmp_path: Path, data: Path, backup: Path) -> None:
    """Made of a running daemon, again and again, it is each time what the log was at one moment, in whole commits."""
    stop = threading.Event()
    acked: list[int] = []

    def write(address: str, number: int) -> None:
        with stigmer.connect(address) as client:
            count = 0
            while not stop.is_set():
                count += 1
                changes = [Save(f"w{number}", f"part-{part}", b"%d " % count * 200) for part in range(3)]
                acked.append(client.commit(changes).last_revision)

    revisions: list[int] = []
    segments = 0
    with DaemonProcess(data, store=StoreOptions(segment_bytes=64 * 1024)) as daemon:
        threads = [threading.Thread(target=write, args=(daemon.address, n)) for n in range(WRITERS)]
        for thread in threads:
            thread.start()
        try:
            with stigmer.connect(daemon.address) as client:
                while len(revisions) < 8 or segments < 3:
                    before = max(acked, default=0)
                    with client.hold_for_backup() as (point, check_hold):
                        made = make(str(backup), point, check_hold)
                    assert made.manifest.revision >= before, "what was acknowledged before it is in it"
                    segments = len(made.manifest.segments)
                    if not revisions or made.manifest.revision > revisions[-1]:
                        revisions.append(made.manifest.revision)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert daemon.stop() == 0
    assert check(str(backup)).problems == []
    with Store.open(data) as store:
        log = list(store.tail(0, follow=False))
    _, found = restored_events(backup, tmp_path / "new")
    assert found == log[: revisions[-1]]
    assert len(found) % 3 == 0


# --- making ----------------------------------------------------------------------------------------------


def test_only_what_is_new_is_copied(data: Path, backup: Path) -> None:
    """A second backup copies the bytes that came since; one of the same state copies none."""
    with Store.open(data, SMALL) as store:
        fill(store, 4)
        first = back_up(store, backup)
        assert first.bytes_copied == first.bytes == store.status().log_bytes
        assert back_up(store, backup).bytes_copied == 0
        inodes = {path.name: path.stat().st_ino for path in (backup / "log").iterdir()}
        fill(store, 5)
        second = back_up(store, backup)
        assert second.bytes_copied == second.bytes - first.bytes
        assert second.bytes == store.status().log_bytes
        assert {path.name: path.stat().st_ino for path in (backup / "log").iterdir()} | inodes == {
            path.name: path.stat().st_ino for path in (backup / "log").iterdir()
        }
    for path in (data / "log").iterdir():
        copy = (backup / "log" / path.name).read_bytes()
        assert path.read_bytes()[: len(copy)] == copy
        assert path.stat().st_ino != (backup / "log" / path.name).stat().st_ino, "a copy, not a link"


def test_artifacts_and_keys_are_in_it_and_the_master_key_is_not(tmp_path: Path, data: Path, backup: Path) -> None:
    """An artifact that is removed later stays in the backup; a key that is destroyed later does not."""
    with Store.open(data, SMALL) as store:
        store.save("note", "n", b"1")
        artifacts = Artifacts(str(data / "artifacts"))
        first, second = artifacts.put(b"one"), artifacts.put(b"two")
        vault = Vault.open(str(data), None, {})
        key = vault.key_for("environment", "e")
        sealed = key.seal(b"hush")
        back_up(store, backup)
        artifacts.remove(first)
        vault.destroy(vault.retire("environment", "e"))
        content = (data / "secrets.keys").read_bytes()
        made = back_up(store, backup)
        assert made.bytes_copied == len(content), "the keys are the only thing that changed"
        vault.close()
    assert [path.read_bytes() for path in backup.glob("secrets.keys.*")] == [content]
    assert not [
        path
        for path in backup.rglob("*")
        if "secret.key" in path.name and path.name != "secrets.keys." + path.suffix[1:]
    ]
    master = (data / "secret.key").read_bytes()
    assert all(master.split()[-1] not in path.read_bytes() for path in backup.rglob("*") if path.is_file())
    restored_events(backup, tmp_path / "new")
    found = Artifacts(str(tmp_path / "new" / "artifacts"))
    assert [found.get(key) for key in (first, second)] == [b"one", b"two"]
    assert (tmp_path / "new" / "secrets.keys").read_bytes() == content
    assert sealed


def test_no_artifact_is_removed_while_the_daemon_is_held_for_a_backup(data: Path) -> None:
    """What is collected meanwhile stays, and is collected when it is over."""
    artifacts = Artifacts(str(data / "artifacts"))
    data.mkdir()
    key = artifacts.put(b"one")
    with artifacts.hold_all():
        assert not artifacts.remove(key)
        assert artifacts.collect(lambda _: False) == []
    assert artifacts.collect(lambda _: False) == [key]


def test_a_backup_whose_daemon_ends_is_not_made(data: Path, backup: Path) -> None:
    """Artifacts may have been removed since: the check before the manifest says so."""
    with DaemonProcess(data) as daemon, stigmer.connect(daemon.address) as client:
        client.save("note", "n", b"1")
        with client.hold_for_backup() as (point, check_hold):
            check_hold()
            daemon.kill()
            wait_until_refused(check_hold)
            with pytest.raises(Unavailable, match="ended while the backup"):
                make(str(backup), point, check_hold)
    assert not (backup / manifests.MANIFEST).exists()


def wait_until_refused(check_hold: Callable[[], None]) -> None:
    """Ask until the kernel has told of the end of a process, which is a moment after it."""
    with suppress(Unavailable):
        while True:
            check_hold()


def test_a_damaged_log_fails_the_backup_and_leaves_the_one_before(tmp_path: Path, data: Path, backup: Path) -> None:
    """The error names segment, offset and revision in the store; what was restored before can be restored still."""
    with Store.open(data, SMALL) as store:
        fill(store, 6, 10)
        events = list(store.tail(0, follow=False))
        back_up(store, backup)
        before = (backup / manifests.MANIFEST).read_bytes()
        fill(store, 7, 10)
        frame = store.frame(len(events) + 3)
        flip_bit(data / "log" / frame.segment, (frame.offset + 60) * 8)
        with pytest.raises(CorruptLog) as caught:
            back_up(store, backup)
        assert caught.value.path == str(data / "log" / frame.segment)
        assert (caught.value.offset, caught.value.revision) == (frame.offset, frame.first_revision)
        flip_bit(data / "log" / frame.segment, (frame.offset + 60) * 8)
        assert (backup / manifests.MANIFEST).read_bytes() == before
        assert check(str(backup)).problems == []
        _, found = restored_events(backup, tmp_path / "new")
        assert found == events
        back_up(store, backup)
    assert check(str(backup)).problems == []


def test_a_copy_that_went_bad_is_made_anew(data: Path, backup: Path) -> None:
    """A backup compares what is there with its manifest, and mends it from the store."""
    with Store.open(data, SMALL) as store:
        fill(store, 8)
        back_up(store, backup)
        victim = sorted((backup / "log").iterdir())[1]
        flip_bit(victim, 8 * 200)
        assert [error.path for error in check(str(backup)).problems] == [str(victim)]
        made = back_up(store, backup)
        assert made.notes == [f"the copy of {victim.name} was damaged, and was made anew"]
        assert made.bytes_copied == victim.stat().st_size
    assert check(str(backup)).problems == []


def test_directories_that_are_refused(tmp_path: Path, data: Path, backup: Path) -> None:
    """A backup goes into an empty directory or a backup of the same history, and changes nothing in any other."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").write_text("x")
    with Store.open(data, SMALL) as store:
        fill(store, 9, 3)
        for target, problem in (
            (tmp_path / "other", "neither empty nor a backup"),
            (data / "backup", "one is in the other"),
            (data, "one is in the other"),
            (tmp_path, "one is in the other"),
        ):
            with pytest.raises(BackupDirectoryError, match=problem):
                back_up(store, target)
        back_up(store, backup)
        with manifests.in_use(str(backup), "somebody"), pytest.raises(BackupDirectoryError, match="in use by pid"):
            back_up(store, backup)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine"]
    assert not (data / "backup").exists()


# --- kill -9 ---------------------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from stigmer.backup.make import make
from stigmer.backup.restore import Cut, restore
from stigmer.store import Store

countdown = int(sys.argv[1])

def counted(function):
    # The process ends before one of its calls that change files, as by kill -9.
    def call(*arguments, **named):
        global countdown
        countdown -= 1
        if countdown < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call

def arm():
    for name in ("pwrite", "ftruncate", "fsync", "rename", "unlink", "mkdir", "fdatasync"):
        setattr(os, name, counted(getattr(os, name)))

if sys.argv[2] == "backup":
    store = Store.open(sys.argv[3], create=False)
    point = store.backup_point()
    arm()
    make(sys.argv[4], point, lambda: None)
else:
    arm()
    restore(sys.argv[3], sys.argv[4], Cut())
os._exit(0)
"""


def run_and_kill(countdown: int, *arguments: object) -> bool:
    """Run a backup or a restore that is killed at its n-th change of a file; say whether it was."""
    done = run(_KILLED, countdown, *arguments)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def test_a_backup_killed_anywhere_is_the_one_before(tmp_path: Path, data: Path) -> None:
    """At each of its changes of a file: what is there can be restored as it was, and the next backup goes on."""
    before = tmp_path / "before"
    with Store.open(data, SMALL) as store:
        grow(data, store, 1)
        events = list(store.tail(0, follow=False))
        back_up(store, before)
        grow(data, store, 2)
        log = list(store.tail(0, follow=False))
    kills = 0
    while run_and_kill(kills, "backup", data, shutil.copytree(before, tmp_path / f"backup-{kills}")):
        backup = tmp_path / f"backup-{kills}"
        assert check(str(backup)).problems == []
        _, found = restored_events(backup, tmp_path / f"new-{kills}")
        assert found in (events, log)
        with Store.open(data, SMALL) as store:
            back_up(store, backup)
        assert check(str(backup)).problems == []
        assert len(list(backup.glob("secrets.keys.*"))) == 1
        shutil.rmtree(backup)
        kills += 1
    assert kills > 15
    _, found = restored_events(tmp_path / f"backup-{kills}", tmp_path / "new")
    assert found == log


def grow(data: Path, store: Store, seed: int) -> None:
    """Have commits for two segments, an artifact and a key more than before."""
    fill(store, seed, 12)
    Artifacts(str(data / "artifacts")).put(b"artifact %d" % seed)
    vault = Vault.open(str(data), None, {})
    vault.key_for("environment", f"e{seed}")
    vault.close()


def test_a_first_backup_that_was_killed_is_none_and_is_continued(data: Path, backup: Path) -> None:
    """It is known for what it is, restored from by nobody, and what it had copied is not copied again."""
    with Store.open(data, SMALL) as store:
        fill(store, 11)
        total = store.status().log_bytes
    assert run_and_kill(30, "backup", data, backup)
    with pytest.raises(BackupDirectoryError, match="begun and not finished"):
        check(str(backup))
    with Store.open(data, SMALL) as store:
        assert 0 < back_up(store, backup).bytes_copied < total
    assert check(str(backup)).problems == []


def test_a_restore_killed_anywhere_opens_for_nobody_and_can_be_run_again(
    tmp_path: Path, data: Path, backup: Path
) -> None:
    """Until its very end no store opens in the directory; the same restore again makes it whole."""
    with Store.open(data, SMALL) as store:
        Artifacts(str(data / "artifacts")).put(b"one")
        Vault.open(str(data), None, {}).key_for("environment", "e")
        fill(store, 12, 4)
        events = list(store.tail(0, follow=False))
        back_up(store, backup)
    kills = 0
    while run_and_kill(kills, "restore", backup, tmp_path / f"new-{kills}"):
        directory = tmp_path / f"new-{kills}"
        kills += 1
        if directory.exists() and (directory / "log").exists():
            if not (directory / "UNFINISHED").exists():
                with Store.open(directory, SMALL) as store:
                    assert list(store.tail(0, follow=False)) == events, "all of it, or nothing"
                continue
            with pytest.raises(DataDirectoryError, match="a restore of it was not finished") as caught:
                Store.open(directory, SMALL)
            assert caught.value.hint == f"run it again: stigmer restore DIR --data-dir {directory}"
        _, found = restored_events(backup, directory)
        assert found == events
    assert kills > 10


# --- damage ----------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_any_file_of_a_backup_is_found(tmp_path: Path, data: Path, backup: Path) -> None:
    """Checking names the file; restoring what lies behind the damage is refused, and leaves nothing."""
    chance = random.Random(13)
    with Store.open(data, SMALL) as store:
        Artifacts(str(data / "artifacts")).put(b"some skill")
        Vault.open(str(data), None, {}).key_for("environment", "e")
        fill(store, 14, 10)
        back_up(store, backup)
    paths = [path for path in sorted(backup.rglob("*")) if path.is_file() and path.name not in ("LOCK", "README")]
    assert len(paths) >= 5
    for path in paths:
        for _ in range(25):
            bit = chance.randrange(path.stat().st_size * 8)
            flip_bit(path, bit)
            assert damaged(backup) == [str(path)], (path, bit)
            flip_bit(path, bit)
    victim = sorted((backup / "log").iterdir())[-1]
    flip_bit(victim, 8 * 100)
    with pytest.raises(CorruptBackup, match=victim.name):
        restore(str(backup), str(tmp_path / "new"), ALL)
    assert not (tmp_path / "new").exists()
    restored, _ = restored_events(backup, tmp_path / "new", Cut(int(victim.stem) - 1))
    assert restored.revision == int(victim.stem) - 1, "what lies before the damage can be had"


def damaged(backup: Path) -> list[str]:
    """Give the paths that checking a backup names."""
    try:
        return [error.path for error in check(str(backup)).problems]
    except CorruptBackup as error:
        return [error.path]


def test_white_space_in_a_manifest_is_no_damage(data: Path, backup: Path) -> None:
    """Its checksum is of what it says."""
    with Store.open(data, SMALL) as store:
        back_up(store, backup)
    path = backup / manifests.MANIFEST
    path.write_bytes(b"\n" + path.read_bytes())
    assert check(str(backup)).manifest.revision == 0


@pytest.mark.parametrize("what", ["segment", "artifact", "secrets"])
def test_a_missing_file_is_named(data: Path, backup: Path, what: str) -> None:
    """Each file that the manifest names has to be there."""
    with Store.open(data, SMALL) as store:
        Artifacts(str(data / "artifacts")).put(b"some skill")
        Vault.open(str(data), None, {}).key_for("environment", "e")
        fill(store, 15)
        back_up(store, backup)
    patterns = {"segment": "log/*3*.log", "artifact": "artifacts/*/*", "secrets": "secrets.keys.*"}
    victim = next(iter(sorted(backup.glob(patterns[what]))))
    victim.unlink()
    assert ["is missing" in error.problem for error in check(str(backup)).problems] == [True]


def test_a_restore_goes_on_without_an_artifact_that_is_damaged(tmp_path: Path, data: Path, backup: Path) -> None:
    """After a disaster the log counts: what else was damaged is told, and the rest is there."""
    with Store.open(data, SMALL) as store:
        Artifacts(str(data / "artifacts")).put(b"some skill")
        fill(store, 16, 3)
        events = list(store.tail(0, follow=False))
        back_up(store, backup)
    victim = next(backup.glob("artifacts/*/*"))
    flip_bit(victim, 3)
    restored = restore(str(backup), str(tmp_path / "new"), ALL)
    assert [error.path for error in restored.problems] == [str(victim)]
    with Store.open(tmp_path / "new", SMALL) as store:
        assert list(store.tail(0, follow=False)) == events


def test_a_restore_goes_into_an_empty_directory_only(tmp_path: Path, data: Path, backup: Path) -> None:
    """One that has anything in it, a store above all, is refused and stays as it is."""
    with Store.open(data, SMALL) as store:
        fill(store, 17, 3)
        back_up(store, backup)
    before = sorted(path.name for path in data.rglob("*"))
    with pytest.raises(DataDirectoryError, match="is not empty"):
        restore(str(backup), str(data), ALL)
    assert sorted(path.name for path in data.rglob("*")) == before
    with pytest.raises(DataDirectoryError, match="lies in the backup"):
        restore(str(backup), str(backup / "new"), ALL)
    (tmp_path / "empty").mkdir()
    restored_events(backup, tmp_path / "empty")
    (tmp_path / "stranger").mkdir()
    for refused in (
        lambda: restore(str(tmp_path / "stranger"), str(tmp_path / "other"), ALL),
        lambda: check(str(tmp_path / "stranger")),
    ):
        with pytest.raises(BackupDirectoryError, match="is no backup"):
            refused()
    assert os.listdir(tmp_path / "stranger") == []


def test_a_restore_takes_the_backup_that_is_there_once_nobody_makes_one(
    tmp_path: Path, data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for a backup to end does not restore by the manifest of the one before, whose keys are gone."""
    in_use = manifests.in_use
    with Store.open(data, SMALL) as store:
        fill(store, 18, 3)
        (data / "secrets.keys").write_bytes(b"some keys")
        back_up(store, backup)

        @contextmanager
        def ended_just_now(directory: str, command: str, *, writing: bool = False) -> Iterator[None]:
            if command == "stigmer restore":
                (data / "secrets.keys").write_bytes(b"other keys")
                fill(store, 19, 3)
                back_up(store, backup)
            with in_use(directory, command, writing=writing):
                yield

        monkeypatch.setattr(manifests, "in_use", ended_just_now)
        restored, events = restored_events(backup, tmp_path / "new")
        assert events == list(store.tail(0, follow=False))
    assert restored.revision == len(events)
    assert (tmp_path / "new" / "secrets.keys").read_bytes() == b"other keys"


def test_a_directory_above_that_is_closed_to_us_hinders_no_backup_and_no_restore(
    tmp_path: Path, data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a data directory that a store is opened in."""
    real = files.sync_directory

    def sync_directory(path: str) -> None:
        if path == str(tmp_path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        real(path)

    with Store.open(data, SMALL) as store:
        fill(store, 20, 3)
        backup.mkdir()
        (tmp_path / "new").mkdir()
        monkeypatch.setattr(files, "sync_directory", sync_directory)
        back_up(store, backup)
        restored_events(backup, tmp_path / "new")


def test_a_full_disk_is_named_where_a_bad_copy_is_to_be_made_anew(
    data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a descriptor that was closed twice."""
    real = os.open

    def full(path: str, flags: int, *rest: int) -> int:
        if path.endswith(".log.new"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return real(path, flags, *rest)

    with Store.open(data, SMALL) as store:
        fill(store, 21)
        back_up(store, backup)
        flip_bit(sorted((backup / "log").iterdir())[1], 8 * 200)
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", full)
            with pytest.raises(DiskFull):
                back_up(store, backup)


def test_a_segment_that_cannot_be_written_is_not_left_on_a_full_disk(tmp_path: Path) -> None:
    """What is still to be written when it is given up does not fit either."""
    rewriter = SegmentRewriter(str(tmp_path), bytes(16), 1, 0)
    device = os.open("/dev/full", os.O_WRONLY)
    os.dup2(device, rewriter._file.fileno())
    os.close(device)
    with suppress(OSError):
        rewriter.discard()
    assert os.listdir(tmp_path) == []


def test_the_manifest_says_when_and_of_what(data: Path, backup: Path) -> None:
    """Revision, the last event's time, and where the master key was, also where nothing is new."""
    with Store.open(data, SMALL) as store:
        assert back_up(store, backup).manifest.last_event_at is None
        store.save("note", "n", b"1")
        time_ns = store.get("note", "n").updated_at_ns
        for _ in range(2):
            manifest = back_up(store, backup).manifest
            assert manifest.revision == 1
            assert manifest.last_event_at is not None
            assert abs(manifest.last_event_at.timestamp() - time_ns / 1e9) < 1e-3
            assert manifest.made_at <= datetime.now(UTC)
    assert manifests.read(str(backup)) == manifest
    assert os.stat(backup).st_mode & 0o077 == 0
