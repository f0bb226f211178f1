"""A disk that keeps what was synced, and may lose, halve or reorder the rest.

A `Watch` stands between the product and the operating system while the product runs: it looks at a folder before and
after each call that changes something there, and remembers which bytes of which file a sync has covered, and which
names in which folder. Every such moment can then be made again as a power cut would have left it: what was synced is
there, of all else whatever a `Loss` chooses. A name is durable once its folder was synced, bytes once their file was.
Nothing is promised beyond that, as by no file system, so sectors and names come and go each for itself.

What LMDB writes goes past Python; it is seen at the next call, and its syncs are those of `Environment.sync`.
"""

from __future__ import annotations

import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from stigmer.views.environment import Environment

SECTOR_BYTES = 512

_NOT_KEPT = frozenset({"LOCK", "lock.mdb"})
"""Files that say nothing after a restart of the machine."""

Names = dict[str, int]
Tree = dict[int, bytes | Names]
"""What is under each inode: bytes, or the inodes of names."""


class Loss(Enum):
    """What becomes of what was not synced."""

    NONE = "kept"
    """It is all there, and still not synced: the process was killed, and the machine goes on."""

    ALL = "lost"
    """It is gone."""
    HALF = "halved"
    """All before the call is there, and half of what the call does; where it makes a name, the name without bytes."""
    ANY = "reordered"
    """Each sector, each size and each name is there or not, as chance has it."""


class Moment(NamedTuple):
    """A call, and what the folder was before and after it."""

    call: str
    stage: str
    target: int
    """The inode that was written or synced; 0 for others."""
    durable: Tree
    """What was durable when the call began."""
    before: Tree
    after: Tree
    told: Any
    """What the watched program had told by then, as its owner has it from `Watch.tell`."""


_CHANGING = ("open", "pwrite", "write", "ftruncate", "truncate", "rename", "unlink", "rmdir", "mkdir", "link")
_SYNCING = ("fsync", "fdatasync")
_OPEN_CHANGES = os.O_CREAT | os.O_TRUNC


class Watch:
    """Watches a folder."""

    def __init__(self, root: Path, tell: Callable[[], Any], durable: Tree | None = None) -> None:
        """Watch under a folder, of which all is durable, or what `make_again` gave.

        `tell` gives what goes with each moment; it is called before the call is made.
        """
        self._root = root
        self._tell = tell
        self._kept: Tree = {}
        self._durable = self._look() if durable is None else durable
        self._lock = threading.RLock()
        self._stages = threading.local()
        self.moments: list[Moment] = []

    @property
    def root(self) -> int:
        """The inode of the folder."""
        return self._root.stat().st_ino

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Say what this thread is about while the block runs; stages may lie in one another, the innermost counts."""
        outer = getattr(self._stages, "name", "")
        self._stages.name = name
        try:
            yield
        finally:
            self._stages.name = outer

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Watch the calls of this process while the block runs."""
        real = {name: getattr(os, name) for name in (*_CHANGING, *_SYNCING)}
        real_sync = Environment.sync

        def sync_environment(environment: Environment) -> None:
            path = os.path.join(environment.directory, "data.mdb")
            self._sync("LMDB sync", os.stat(path).st_ino, lambda: real_sync(environment))

        for name in _CHANGING:
            setattr(os, name, self._changing(name, real[name]))
        for name in _SYNCING:
            setattr(os, name, self._syncing(name, real[name]))
        Environment.sync = sync_environment
        try:
            yield self
        finally:
            Environment.sync = real_sync
            for name, function in real.items():
                setattr(os, name, function)

    def _changing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not (arguments[1] & _OPEN_CHANGES):
                return real(*arguments, **options)
            with self._lock:
                told, before = self._tell(), self._look()
                result = real(*arguments, **options)
                after = self._look()
                if after != before:
                    target = os.fstat(arguments[0]).st_ino if isinstance(arguments[0], int) else 0
                    self._note(name, target, before, after, told)
                return result

        return call

    def _syncing(self, name: str, real: Callable[[int], None]) -> Callable[[int], None]:
        def call(fd: int) -> None:
            self._sync(name, os.fstat(fd).st_ino, lambda: real(fd))

        return call

    def _sync(self, name: str, target: int, work: Callable[[], None]) -> None:
        with self._lock:
            told, before = self._tell(), self._look()
            work()
            if target in before:
                self._note(name, target, before, before, told)
                # As of the beginning: what another thread wrote meanwhile need not be among it.
                self._durable = {**self._durable, target: before[target]}

    def _note(self, call: str, target: int, before: Tree, after: Tree, told: Any) -> None:
        stage = getattr(self._stages, "name", "")
        self.moments.append(Moment(call, stage, target, self._durable, before, after, told))

    def _look(self) -> Tree:
        tree: Tree = {}
        self._look_into(str(self._root), tree)
        for inode, content in tree.items():
            if self._kept.get(inode) == content:
                tree[inode] = self._kept[inode]  # so that what stays the same is in memory once
        self._kept = tree
        return tree

    def _look_into(self, folder: str, tree: Tree) -> None:
        names: Names = {}
        tree[os.stat(folder).st_ino] = names
        with os.scandir(folder) as entries:
            for entry in entries:
                state = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(state.st_mode):
                    self._look_into(entry.path, tree)
                elif entry.name in _NOT_KEPT:
                    continue
                else:
                    with open(entry.path, "rb", buffering=0) as file:
                        tree[state.st_ino] = file.read()
                names[entry.name] = state.st_ino


def make_again(moment: Moment, root: int, loss: Loss, source: random.Random, folder: Path) -> Tree | None:
    """Make in an empty folder what the end of the process at a moment leaves of the watched one, whose inode is `root`.

    Gives what of it is durable; None where all is, for it was read from the disk.
    """
    cut = _Cut(moment, loss, source)
    cut.make(root, folder)
    return cut.durable() if loss is Loss.NONE else None


class _Cut:
    def __init__(self, moment: Moment, loss: Loss, source: random.Random) -> None:
        self._moment = moment
        self._loss = loss
        self._source = source
        self._share = source.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        self._made: dict[int, int] = {}

    def durable(self) -> Tree:
        """Give what is durable of what was made; what is durable and has gone from there gets an inode below 0."""

        def made(inode: int) -> int:
            return self._made.setdefault(inode, -1 - len(self._made))

        return {
            made(inode): content
            if isinstance(content, bytes)
            else {name: made(target) for name, target in content.items()}
            for inode, content in self._moment.durable.items()
        }

    def make(self, inode: int, folder: Path) -> None:
        self._made[inode] = folder.stat().st_ino
        for name, target in self._names(inode).items():
            path = folder / name
            if self._is_folder(target):
                path.mkdir()
                self.make(target, path)
            else:
                path.write_bytes(self._bytes(target))
                self._made[target] = path.stat().st_ino

    def _is_folder(self, inode: int) -> bool:
        moment = self._moment
        return any(isinstance(tree.get(inode), dict) for tree in (moment.after, moment.before, moment.durable))

    def _names(self, inode: int) -> Names:
        moment = self._moment
        durable = _names_in(moment.durable, inode)
        if self._loss is Loss.ALL:
            return durable
        if self._loss in (Loss.HALF, Loss.NONE):
            return _names_in(moment.after, inode)
        now = _names_in(moment.after, inode)
        chosen: Names = {}
        for name in sorted(durable.keys() | now.keys()):
            target = (now if self._source.random() < self._share else durable).get(name)
            if target is not None:
                chosen[name] = target
        return chosen

    def _bytes(self, inode: int) -> bytes:
        moment = self._moment
        durable = _bytes_in(moment.durable, inode)
        if self._loss is Loss.ALL:
            return durable
        before, after = _bytes_in(moment.before, inode), _bytes_in(moment.after, inode)
        if self._loss is Loss.NONE:
            return after
        if self._loss is Loss.HALF:
            if moment.target == inode:
                return _half(durable if after == before else before, after)
            return durable if moment.target == 0 else before
        return self._mixed(durable, after)

    def _mixed(self, durable: bytes, now: bytes) -> bytes:
        """Take each sector as it was synced or as it is now, and a size of either or between them."""
        if durable == now:
            return now
        source = self._source
        least, most = sorted((len(durable), len(now)))
        size = source.choice((len(durable), len(now), source.randint(least, most)))
        data = bytearray(size)
        for start in range(0, size, SECTOR_BYTES):
            part = (now if source.random() < self._share else durable)[start : start + SECTOR_BYTES]
            data[start : min(start + len(part), size)] = part[: size - start]
        return bytes(data)


def _half(old: bytes, new: bytes) -> bytes:
    """Give a file of which the first half of what changed is there."""
    if len(new) < len(old):
        return new  # a size changes at once
    start = next((place for place, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    middle = start + (len(new) - start) // 2
    return new[:middle] + old[middle:]


def _names_in(tree: Tree, inode: int) -> Names:
    found = tree.get(inode, {})
    assert isinstance(found, dict)
    return found


def _bytes_in(tree: Tree, inode: int) -> bytes:
    found = tree.get(inode, b"")
    assert isinstance(found, bytes)
    return found
