"""Synced checkpoints: what a power cut leaves of LMDB's file is put back to one of them, and is never anything else."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stigmer import config
from stigmer.errors import DiskFull, StigmerError, StorageFailed
from stigmer.log import files
from stigmer.views import checkpoint, generations, page_cache
from stigmer.views.checkpoint import Point
from stigmer.views.environment import Environment
from stigmer.views.generations import Generation
from views.support import Change, fold_commits, rows

STORE = bytes(range(16))
PAGE_BYTES = 4096
MAP_BYTES = 64 * 1024

Rows = dict[str, list[tuple[bytes, bytes]]]


def nothing() -> None:
    """Sync no log, where there is none."""


def must_not_fail(error: StigmerError) -> None:
    raise AssertionError(error)


class Traffic:
    """Commits that save and delete some resources over and over, the same for each seed."""

    def __init__(self, seed: int, keys: int = 150) -> None:
        self._source = random.Random(seed)
        self._there: set[str] = set()
        self._keys = keys
        self.commits: list[tuple[list[Change], str]] = []

    def fold_some(self, generation: Generation) -> None:
        """Fold commits of a few events, and flush them."""
        made: list[tuple[list[Change], str]] = []
        for _ in range(self._source.randint(1, 12)):
            id = f"n{self._source.randrange(self._keys)}"
            value = None
            if id in self._there and self._source.random() < 0.3:
                self._there.discard(id)
            else:
                self._there.add(id)
                value = self._source.randbytes(self._source.choice([0, 50, 700, 3000, 9000]))
            made.append(([("note", id, value)], f"r{len(self.commits)}"))
        generation.projector.fold(fold_commits(made, generation.projector.checkpoint))
        generation.projector.flush()
        self.commits += made

    def fold_rest(self, generation: Generation) -> None:
        """Fold what a generation lacks."""
        after = generation.projector.checkpoint
        generation.projector.fold(fold_commits(self.commits[after:], after))
        generation.projector.flush()


class Disk:
    """What a power cut may leave of LMDB's file: of each page a version since the last sync that had succeeded."""

    def __init__(self, views: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._versions: list[bytes] = []
        self._synced = 0
        self.let_sync = threading.Event()
        """Syncs wait for it."""
        self.let_sync.set()
        self.syncs = threading.Event()
        """Set where one waits."""
        sync = Environment.sync

        def slowly(environment: Environment) -> None:
            if Path(environment.directory).parent != views:
                sync(environment)
            else:
                self.note(environment)
                version = len(self._versions) - 1
                self.syncs.set()
                self.let_sync.wait()
                sync(environment)
                self._synced = version

        monkeypatch.setattr(Environment, "sync", slowly)

    def note(self, environment: Environment) -> None:
        """Note what the file is now."""
        self._versions.append((Path(environment.directory) / "data.mdb").read_bytes())

    def leave(self, path: Path, source: random.Random) -> None:
        """Write a file as a power cut now may leave it."""
        versions = self._versions[self._synced :]
        size = len(source.choice(versions))
        share = source.random()
        with path.open("wb") as file:
            for offset in range(0, size, PAGE_BYTES):
                version = versions[0] if source.random() < share else source.choice(versions)
                file.write(version[offset : offset + PAGE_BYTES].ljust(PAGE_BYTES, b"\0"))


def new_generation(views: Path, map_bytes: int = MAP_BYTES) -> Generation:
    """Make a generation that serves and has nothing yet."""
    generation = generations.create(str(views), map_bytes)
    generation.serve(STORE, nothing)
    return generation


def in_another_boot(views: Path, monkeypatch: pytest.MonkeyPatch, notes: list[str] | None = None) -> Generation | None:
    """Give the generation that is used once the machine has started again."""
    with monkeypatch.context() as patch:
        patch.setattr(page_cache, "boot_id", lambda: "another")
        found = generations.open_serving(str(views), MAP_BYTES, [] if notes is None else notes)
    if found is None:
        return None
    assert found[1] == STORE
    return found[0]


def copy_for_a_cut(generation: Generation, target: Path) -> Path:
    """Copy the directory of a generation that is in use, but for LMDB's file; give the path for that one."""
    shutil.rmtree(target, ignore_errors=True)
    (target / "1").mkdir(parents=True)
    for name in ("checkpoint", "clean"):
        if (Path(generation.directory) / name).exists():
            shutil.copy(Path(generation.directory) / name, target / "1" / name)
    return target / "1" / "data.mdb"


@pytest.mark.parametrize("seed", range(3))
def test_power_cut_leaves_a_checkpoint_and_the_tail_gives_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whichever pages written since the last sync are lost, what is opened is the state of the checkpoint, exactly.

    Checkpoints are taken at once and in the background, the map grows under them, and the process is killed and goes on
    in the same boot.
    """
    source = random.Random(seed)
    traffic = Traffic(seed)
    views, cut = tmp_path / "views", tmp_path / "cut"
    disk = Disk(views, monkeypatch)
    generation = new_generation(views)
    expected: dict[int, Rows] = {0: rows(generation.projector)}
    in_background = reopened = cuts = behind = 0
    for step in range(160):
        traffic.fold_some(generation)
        expected[generation.projector.flushed] = rows(generation.projector)
        disk.note(generation.environment)
        checkpointer = generation._checkpointer
        assert checkpointer is not None
        choice = source.random()
        if choice < 0.15 and disk.let_sync.is_set():
            disk.let_sync.clear()
            disk.syncs.clear()
            checkpointer.take(must_not_fail)
            disk.syncs.wait()
            in_background += 1
        elif choice < 0.45:
            disk.let_sync.set()
            checkpointer.wait()
        elif choice < 0.5:
            disk.let_sync.set()
            checkpointer.take_now()
        elif choice < 0.55:
            disk.let_sync.set()
            checkpointer.wait()
            generation.environment.close()  # as a kill would
            found = generations.open_serving(str(views), MAP_BYTES, [])
            assert found is not None
            generation = found[0]
            assert rows(generation.projector) == expected[max(expected)]
            generation.serve(STORE, nothing)
            reopened += 1
        if step % 3 == 0:
            disk.leave(copy_for_a_cut(generation, cut), source)
            notes: list[str] = []
            restored = in_another_boot(cut, monkeypatch, notes)
            assert restored is not None, notes
            revision = restored.projector.checkpoint
            assert notes == [
                "the machine or its disk went away while generation 1 of the views was in use; "
                f"it goes on from its checkpoint, revision {revision}"
            ]
            assert rows(restored.projector) == expected[revision], f"seed {seed}, step {step}"
            restored.serve(STORE, nothing)
            traffic.fold_rest(restored)
            assert rows(restored.projector) == expected[max(expected)], f"seed {seed}, step {step}"
            restored.environment.close()
            cuts += 1
            behind += revision < max(expected)
        if not disk.let_sync.is_set() and generation.environment.use().map_bytes < 2 * generation.environment.size:
            disk.let_sync.set()  # the map is about to grow, which waits for the sync
            checkpointer.wait()
    assert generation.environment.use().map_bytes >= 4 * MAP_BYTES
    assert (cuts > 40, behind > 20, in_background > 5, reopened > 2) == (True,) * 4
    disk.let_sync.set()
    generation.remove()


def test_small_file_is_believed_only_whole() -> None:
    """Whatever is cut off it, and whichever bit is wrong, it is not taken for one."""
    point = Point(STORE, 1 << 40, "0123-45", bytes(range(256)), 7)
    data = checkpoint.encode(point)
    assert checkpoint.decode(data) == point
    for size in range(len(data)):
        assert checkpoint.decode(data[:size]) is None
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert checkpoint.decode(bytes(flipped)) is None


def left_in_use(views: Path, seed: int = 1, flushes: int = 5) -> Traffic:
    """Make a generation with a checkpoint and something behind it, and leave it as a kill would."""
    traffic = Traffic(seed)
    generation = new_generation(views)
    for _ in range(flushes):
        traffic.fold_some(generation)
    assert generation._checkpointer is not None
    generation._checkpointer.take_now()
    for _ in range(flushes):
        traffic.fold_some(generation)
    generation.environment.close()
    return traffic


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))


NOT_USED = "generation 1 of the views is not used: "


@pytest.mark.parametrize(
    ("harm", "note"),
    [
        (lambda views: damage(views / "1" / "checkpoint"), NOT_USED + "its file is damaged"),
        (lambda views: (views / "1" / "checkpoint").unlink(), None),
        (lambda views: shutil.copy(views.parent / "other" / "1" / "data.mdb", views / "1"), NOT_USED + "is not one of"),
        (lambda views: shutil.copy(views.parent / "other" / "1" / "checkpoint", views / "1"), NOT_USED + "is not one"),
        (lambda views: os.truncate(views / "1" / "data.mdb", 5 * PAGE_BYTES), NOT_USED),
        (lambda views: os.truncate(views / "1" / "data.mdb", 0), NOT_USED),
        (lambda views: (views / "1" / "data.mdb").unlink(), NOT_USED),
    ],
    ids=["damaged", "gone", "other data", "other checkpoint", "short", "empty", "no data"],
)
def test_checkpoint_that_does_not_fit_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], object], note: str | None
) -> None:
    """A checkpoint that is damaged, or of another file, is not put back: everything is folded again, and it is told."""
    left_in_use(tmp_path / "views")
    left_in_use(tmp_path / "other", seed=2)
    harm(tmp_path / "views")
    notes: list[str] = []
    assert in_another_boot(tmp_path / "views", monkeypatch, notes) is None
    assert len(notes) == (note is not None)
    assert note is None or notes[0].startswith(note)


def test_file_that_is_put_back_to_another_revision_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row with the checkpoint has to say the same revision."""
    left_in_use(tmp_path)
    point = checkpoint.read(str(tmp_path / "1"))
    assert point is not None
    (tmp_path / "1" / "checkpoint").write_bytes(checkpoint.encode(point._replace(revision=point.revision + 1)))
    notes: list[str] = []
    assert in_another_boot(tmp_path, monkeypatch, notes) is None
    assert notes == [f"{NOT_USED}is {point.revision}, its file says {point.revision + 1}"]


# --- killed while one is taken -----------------------------------------------------------------------------

_STEPS = ("fdatasync", "fsync", "rename", "unlink", "pwrite")


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Do some work in a process that is killed before its system call of that number; say whether it was."""
    pid = os.fork()
    if pid == 0:
        left = step

        def counting(call: Callable[..., object]) -> Callable[..., object]:
            def counted(*arguments: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments)

            return counted

        try:
            for name in _STEPS:
                setattr(os, name, counting(getattr(os, name)))
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("what", ["first", "another", "open", "close"])
def test_kill_at_each_step_of_taking_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """In this boot nothing is lost of what was flushed; in another one, what is used is the state of a checkpoint."""
    views, copy = tmp_path / "views", tmp_path / "copy"
    states: dict[int, Rows] = {}

    def work() -> None:
        found = generations.open_serving(str(views), MAP_BYTES, [])
        generation = found[0] if found is not None else generations.create(str(views), MAP_BYTES)
        if what == "first":
            Traffic(3).fold_some(generation)
        generation.serve(STORE, nothing)
        assert generation._checkpointer is not None
        if what == "another":
            generation._checkpointer.take_now()
        elif what == "close":
            generation.close(clean=True)

    for steps in range(100):
        shutil.rmtree(views, ignore_errors=True)
        if what != "first":
            generation = new_generation(views)
            states[0] = rows(generation.projector)
            Traffic(3).fold_some(generation)
            last = generation.projector.flushed
            states[last] = rows(generation.projector)
            generation.close(clean=what == "open")
        was_killed = killed_at(steps, work)
        for in_this_boot in (True, False):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(views, copy)
            if in_this_boot:
                found = generations.open_serving(str(copy), MAP_BYTES, [])
                opened = None if found is None else found[0]
            else:
                opened = in_another_boot(copy, monkeypatch)
            if what == "first":
                assert was_killed or opened is not None
            else:
                assert opened is not None
                assert not in_this_boot or opened.projector.checkpoint == last
                assert rows(opened.projector) == states[opened.projector.checkpoint]
            if opened is not None:
                opened.close()
        if not was_killed:
            assert steps >= 5
            return
    raise AssertionError("there was no end to it")


# --- bounds, and disks that fail ---------------------------------------------------------------------------


@pytest.fixture
def generation(tmp_path: Path) -> Iterator[Generation]:
    """A generation that serves and has nothing yet, with a map that does not grow; removed at the end."""
    made = new_generation(tmp_path / "views", 1 << 26)
    yield made
    made.remove()


def test_file_stays_bounded_under_churn(generation: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB reuses no page that a checkpoint needs, but after each checkpoint those that the one before needed."""
    monkeypatch.setattr(config, "CHECKPOINT_EVENTS", 200)
    traffic = Traffic(5)
    assert generation._checkpointer is not None
    taken: set[int] = set()
    sizes: list[int] = []
    for _ in range(600):
        traffic.fold_some(generation)
        generation.checkpoint_if_due(must_not_fail)
        generation._checkpointer.wait()
        point = checkpoint.read(generation.directory)
        assert point is not None
        taken.add(point.revision)
        sizes.append(generation.environment.size)
    assert len(taken) > 15
    assert sizes[-1] <= 1.25 * sizes[300] < 5 << 20


@pytest.mark.parametrize(
    ("name", "value"), [("CHECKPOINT_EVENTS", 50), ("CHECKPOINT_BYTES", 20_000), ("CHECKPOINT_GROWTH_BYTES", 20_000)]
)
def test_checkpoint_is_due_after_so_much(
    generation: Generation, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    """Events, bytes or the growth of the file bring one about, each by itself, and it starts the count anew."""
    traffic = Traffic(6)
    monkeypatch.setattr(config, name, value)
    checkpointer = generation._checkpointer
    assert checkpointer is not None
    for _ in range(3):
        assert not checkpointer.is_due
        for _ in range(200):
            if checkpointer.is_due:
                break
            traffic.fold_some(generation)
        generation.checkpoint_if_due(must_not_fail)
        checkpointer.wait()
        point = checkpoint.read(generation.directory)
        assert point is not None
        assert point.revision == generation.projector.flushed


def failing_sync(fd: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_failed_sync_is_final_and_the_file_is_not_believed_any_more(
    tmp_path: Path, generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync of LMDB's file nobody knows what the disk has: it is not used again, in any boot."""
    monkeypatch.setattr(config, "CHECKPOINT_EVENTS", 1)
    Traffic(7).fold_some(generation)
    failed: list[StigmerError] = []
    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_data", failing_sync)
        generation.checkpoint_if_due(failed.append)
        assert generation._checkpointer is not None
        generation._checkpointer.wait()
    (error,) = failed
    assert isinstance(error, StorageFailed)
    assert error.operation == "fsync"
    generation.checkpoint_if_due(must_not_fail)  # which takes none any more
    generation.close(clean=True)
    assert sorted(os.listdir(generation.directory)) == ["data.mdb", "lock.mdb"]
    assert generations.open_serving(str(tmp_path / "views"), MAP_BYTES, []) is None


def test_failed_sync_at_the_close_leaves_nothing_to_believe(
    tmp_path: Path, generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A close that cannot make LMDB's file durable leaves no checkpoint in it either, for no sync is tried again."""
    Traffic(10).fold_some(generation)
    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_data", failing_sync)
        with pytest.raises(StorageFailed):
            generation.close(clean=True)
    assert sorted(os.listdir(generation.directory)) == ["data.mdb", "lock.mdb"]
    assert generations.open_serving(str(tmp_path / "views"), MAP_BYTES, []) is None


def test_failed_sync_is_not_tried_again_when_the_map_has_grown(
    generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map that grows while the sync of a checkpoint fails does not bring about a second sync, which would succeed."""
    traffic = Traffic(11)
    traffic.fold_some(generation)
    checkpointer = generation._checkpointer
    assert checkpointer is not None
    failed: list[StigmerError] = []
    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_data", failing_sync)
        checkpointer.take(failed.append)
        generation.environment.before_growth()
        generation.environment._gate.run_alone(generation.environment._grow)
    assert [type(error) for error in failed] == [StorageFailed]
    with pytest.raises(StorageFailed):
        traffic.fold_some(generation)
    assert sorted(os.listdir(generation.directory)) == ["data.mdb", "lock.mdb"]


def test_failed_sync_at_the_open_leaves_no_mark_to_believe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the mark of a clean end nor a checkpoint is left where the first sync of a new owner fails."""
    made = new_generation(tmp_path)
    made.close(clean=True)
    found = generations.open_serving(str(tmp_path), MAP_BYTES, [])
    assert found is not None
    monkeypatch.setattr(files, "sync_data", failing_sync)
    with pytest.raises(StorageFailed):
        found[0].serve(STORE, nothing)
    found[0].close()
    assert sorted(os.listdir(found[0].directory)) == ["data.mdb", "lock.mdb"]


def test_full_disk_keeps_the_checkpoint_before_and_is_told_once(
    tmp_path: Path, generation: Generation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without room for the small file the one before goes on to hold; when there is room again, there is a new one."""
    monkeypatch.setattr(config, "CHECKPOINT_EVENTS", 1)
    traffic = Traffic(8)
    checkpointer = generation._checkpointer
    assert checkpointer is not None
    traffic.fold_some(generation)
    generation.checkpoint_if_due(must_not_fail)
    checkpointer.wait()
    before, expected = checkpoint.read(generation.directory), rows(generation.projector)

    def full(path: str, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, "create", full)
        for _ in range(30):
            traffic.fold_some(generation)
            generation.checkpoint_if_due(must_not_fail)
            checkpointer.wait()
        with pytest.raises(DiskFull):
            checkpointer.take_now()
    assert checkpoint.read(generation.directory) == before
    shutil.copytree(tmp_path / "views", tmp_path / "cut")
    restored = in_another_boot(tmp_path / "cut", monkeypatch)
    assert restored is not None
    assert rows(restored.projector) == expected
    restored.close()
    traffic.fold_some(generation)
    generation.checkpoint_if_due(must_not_fail)
    checkpointer.wait()
    after = checkpoint.read(generation.directory)
    assert after is not None
    assert after.revision == generation.projector.flushed
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_full_disk_on_which_nobody_knows_what_was_written_is_final(
    generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the small file cannot be looked at after a write that failed, it may name a state that is not held."""
    monkeypatch.setattr(config, "CHECKPOINT_EVENTS", 1)
    Traffic(13).fold_some(generation)
    checkpointer = generation._checkpointer
    assert checkpointer is not None

    def full(path: str, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def out_of_sight() -> tuple[int, int] | None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    failed: list[StigmerError] = []
    monkeypatch.setattr(files, "create", full)
    monkeypatch.setattr(checkpointer, "_file", out_of_sight)
    generation.checkpoint_if_due(failed.append)
    checkpointer.wait()
    assert [type(error) for error in failed] == [StorageFailed]
    assert sorted(os.listdir(generation.directory)) == ["data.mdb", "lock.mdb"]


@pytest.mark.parametrize("lacks", ["room", "a thread", "a descriptor"])
def test_checkpoint_that_could_not_be_taken_is_due_at_the_next_flush(
    generation: Generation, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    """What passes puts a checkpoint off to the next flush, not until as much again was written."""
    traffic = Traffic(12)
    checkpointer = generation._checkpointer
    assert checkpointer is not None
    monkeypatch.setattr(config, "CHECKPOINT_EVENTS", 200)
    while not checkpointer.is_due:
        traffic.fold_some(generation)

    def full(path: str, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def too_many(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        if lacks == "room":
            patch.setattr(files, "create", full)
        elif lacks == "a descriptor":
            patch.setattr(os, "open", too_many)
        else:
            patch.setattr(threading.Thread, "start", no_thread)
        generation.checkpoint_if_due(must_not_fail)
        checkpointer.wait()
    traffic.fold_some(generation)
    generation.checkpoint_if_due(must_not_fail)
    checkpointer.wait()
    point = checkpoint.read(generation.directory)
    assert point is not None
    assert point.revision == generation.projector.flushed
    assert not checkpointer.is_due


def test_full_disk_while_the_map_grows_writes_over_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map's growth ends what holds a checkpoint: until there is room for another one, nothing is written."""
    generation = new_generation(tmp_path / "views")
    traffic = Traffic(9)
    traffic.fold_some(generation)
    assert generation._checkpointer is not None
    generation._checkpointer.take_now()
    expected = rows(generation.projector)

    def full(path: str, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fold_often() -> None:
        for _ in range(100):
            traffic.fold_some(generation)

    with monkeypatch.context() as patch:
        patch.setattr(files, "create", full)
        with pytest.raises(DiskFull):
            fold_often()
        for _ in range(5):
            with pytest.raises(DiskFull):
                generation.projector.flush()
    shutil.copytree(tmp_path / "views", tmp_path / "cut")
    restored = in_another_boot(tmp_path / "cut", monkeypatch)
    assert restored is not None
    assert rows(restored.projector) == expected
    restored.close()
    generation.projector.flush()
    assert generation.projector.is_flushed
    generation.remove()
