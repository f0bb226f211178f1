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
from stigmer.errors import CorruptView, DiskFull, StigmerError, StorageFailed
from stigmer.log import files
from stigmer.views import checkpoint, generations
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
        sync = Environment.sync

        def slowly(environment: Environment) -> None:
            if Path(environment.directory).parent != views:
                return sync(environment)
            self.note(environment)
            version = len(self._versions) - 1
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


def new_generation(views: Path) -> Generation:
    """Make a generation that serves and has nothing yet."""
    generation = generations.create(str(views), MAP_BYTES)
    generation.serve(STORE, nothing)
    return generation


def in_another_boot(views: Path, monkeypatch: pytest.MonkeyPatch, notes: list[str] | None = None) -> Generation | None:
    """Give the generation that is used once the machine has started again."""
    with monkeypatch.context() as patch:
        patch.setattr(generations, "boot_id", lambda: "another")
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


@pytest.mark.parametrize("seed", range(4))
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
            checkpointer.take(must_not_fail)
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
                "the machine stopped while generation 1 of the views was in use; "
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
    assert generation.environment.use().map_bytes >= 4 * MAP_BYTES
    assert cuts > 40 and behind > 20 and in_background > 5 and reopened > 2
    disk.let_sync.set()
    generation.remove()
