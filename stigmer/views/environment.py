"""One LMDB environment: opened with care, read under a gate, written by one thread, grown when it is full.

Owns the file `data.mdb` of a generation. What is known of LMDB 0.9 and handled here:

- it has no checksums, so views put one into every row;
- reading a page behind the end of the file is SIGBUS, so the size is compared with the meta pages before opening,
  and the file is kept as long as they say;
- its lock file is sparse and written through a map, which on a full disk is SIGBUS, so it is filled before opening;
- enlarging the map needs a moment without any transaction in the process, so readers pass a gate;
- after a fork the child must not touch it;
- `writemap` would turn a full disk into SIGBUS, so it is off; `sync` is off, because the log is what is durable;
- a page of a state that a reader holds is not written over, which is what `checkpoint` is built on.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import lmdb

from stigmer.errors import CorruptView, DiskFull, StigmerError, StorageFailed
from stigmer.log import files
from stigmer.log.format import crc32c
from stigmer.views.view import Database, Databases, Transaction

S = TypeVar("S")
T = TypeVar("T")

_DATA_FILE = "data.mdb"
_LOCK_FILE = "lock.mdb"
_READERS_MAX = 4096
# A line for each reader, and room for what LMDB keeps in front of them; a file that is larger it takes as it is.
_LOCK_FILE_BYTES = _READERS_MAX * 64 + 4096
_DATABASES_MAX = 32

# The head of a meta page in LMDB 0.9 (mdb.c, MDB_page and MDB_meta), on a 64-bit machine.
_META = struct.Struct("=16xIIQQ I4x40x 40xQ QQ")
_META_MAGIC = 0xBEEFC0DE
_NO_PAGE = (1 << 64) - 1
_PAGE_BYTES_MIN = 512

_LOOK_AGAIN_SECONDS = 0.1

# With less room than this, an error of LMDB's writes is taken to mean that the disk is full: it reports EIO then.
_ROOM_BYTES_MIN = 16 * 1024 * 1024

DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.BadTxnError,
    lmdb.PanicError,
    lmdb.CursorFullError,  # pages that lead in a circle
    lmdb.PageFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
)
"""What LMDB raises when its file is not what it should be."""


_NOT_DAMAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.EROFS})
"""Errors of opening that say nothing about the file."""


class EnvironmentClosed(Exception):
    """The environment was closed, because its generation was replaced or the store closed. Never leaves the store."""


class Gate:
    """Lets many readers in; closes for a moment, once all are out.

    A reader pays for two list operations, which are atomic, and no lock: it appends to `inside`, then looks whether
    the gate is `closing`; who closes it says so, then looks whether anybody is inside. One of the two sees the other.

    The reader appends and pops by itself, as the first thing in a `try` and in its `finally`: no interrupt can come
    before either, as it can between a call and the first line of what is called.
    """

    def __init__(self) -> None:
        self.closing = False
        self.inside: list[None] = []
        # Guards nothing of its own: it is what those wait on who found the gate closing, or somebody inside.
        self._changed = threading.Condition(threading.Lock())

    def wait_outside(self) -> None:
        """For a reader inside who finds the gate closing: go out, wait until it is open, go in again."""
        try:
            self.inside.pop()
            with self._changed:
                self._changed.notify_all()
                while self.closing:
                    self._changed.wait()
        finally:
            self.inside.append(None)

    def tell(self) -> None:
        """For a reader who went out and finds the gate closing."""
        with self._changed:
            self._changed.notify_all()

    def run_alone(self, work: Callable[[], None]) -> None:
        """Wait until all are out, keep everybody out, do the work, and open again. For one thread at a time."""
        self.closing = True
        try:
            with self._changed:
                while self.inside:
                    # Looks again by itself: a reader that was interrupted may have gone without a word.
                    self._changed.wait(_LOOK_AGAIN_SECONDS)
            work()
        finally:
            with self._changed:
                self.closing = False
                self._changed.notify_all()


_forks = 0
"""How often this process is the child of a fork. An environment belongs to the process that opened it."""


def _note_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_note_fork)


class Use(NamedTuple):
    """How much of an environment is in use."""

    bytes: int
    """Of the file."""
    map_bytes: int
    """How large the file may become before the map is enlarged, which happens by itself."""
    readers: int
    """How many slots for readers have been in use."""


class Held(NamedTuple):
    """A committed state, over whose pages nothing is written until it is released."""

    transaction: Transaction
    meta_pages: bytes
    """The two first pages of the file as they are with this state: all that LMDB writes in place."""
    root_crc: int
    """Of the page at the root of this state, for which see `root_crc`."""


def data_path(directory: str) -> str:
    """Give the path of LMDB's file in a directory."""
    return os.path.join(directory, _DATA_FILE)


def root_crc(fd: int, meta_pages: bytes) -> int:
    """Give the CRC of the page in LMDB's file at the root of the state that two meta pages describe.

    Everything else is reached from there, so it tells whether pages and file belong together. 0 where there is none.
    """
    page_bytes = len(meta_pages) // 2
    newest = max((_META.unpack_from(meta_pages, at) for at in (0, page_bytes)), key=lambda meta: int(meta[7]))
    root = newest[5]
    return 0 if root == _NO_PAGE else crc32c(0, files.read_at(fd, page_bytes, root * page_bytes))


class Environment:
    """An open LMDB environment with its named databases."""

    def __init__(self, directory: str, map_bytes: int, databases: Iterable[str]) -> None:
        """Open it, made if it is not there. Raises `CorruptView` if it is damaged, `DiskFull` or `StorageFailed`."""
        self.directory = directory
        self._path = data_path(directory)
        self._forks = _forks
        self._gate = Gate()
        self._closed = False
        self._failure: StorageFailed | None = None  # why LMDB cannot be used any more
        self.before_write: Callable[[], None] = _nothing
        """Called before each write transaction; what it raises, `write` raises."""
        self.before_growth: Callable[[], None] = _nothing
        """Called before the map is enlarged, which ends every transaction, and releases what is held."""
        self._env: Any = None
        self.lacked: list[str] = []
        """Databases that were not there at the opening: all of a new environment, or those that damage hid."""
        try:
            self._open(map_bytes, databases)
        except (lmdb.Error, OSError) as error:
            code = error.errno if isinstance(error, OSError) else error.code
            if code in files.FULL:
                raise DiskFull(directory) from error
            if code in _NOT_DAMAGE:
                raise StorageFailed(self._path, "open", str(error)) from error
            raise CorruptView("environment", f"{self._path} cannot be opened: {error}") from error
        except UnicodeError as error:
            raise CorruptView("environment", f"{self._path} cannot be opened: {error}") from error

    def _open(self, map_bytes: int, databases: Iterable[str]) -> None:
        _check_file(self._path)
        _fill_lock_file(os.path.join(self.directory, _LOCK_FILE))
        try:
            self._env = lmdb.open(
                os.fsencode(self.directory),  # it would take no other letters than the locale's
                map_size=max(map_bytes, _size_of(self._path)),
                sync=False,
                metasync=False,
                writemap=False,
                max_dbs=_DATABASES_MAX,
                max_readers=_READERS_MAX,
                mode=0o600,
            )
            self.stale_readers = self._env.reader_check()
            """Slots of readers whose process had gone; freed by the opening."""
            self.databases: Databases = {name: self._open_database(name) for name in ("meta", *databases)}
            self._page_bytes: int = self._env.stat()["psize"]
            # Its own descriptor from the beginning: what goes wrong with a page meanwhile, an fsync of it will tell.
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except BaseException:
            if self._env is not None:
                self._env.close()
            raise

    def _open_database(self, name: str) -> Database:
        try:
            return self._env.open_db(name.encode(), create=False)
        except lmdb.NotFoundError:
            self.lacked.append(name)
            return self._env.open_db(name.encode())

    def use(self) -> Use:
        """Say how much of it is in use; all zeros where it is closed just now."""
        self._check_process()
        gate = self._gate
        try:
            gate.inside.append(None)
            while gate.closing:
                gate.wait_outside()
            if self._closed or self._failure is not None:
                return Use(0, 0, 0)
            info = self._env.info()
            return Use(self.size, info["map_size"], info["num_readers"])
        finally:
            gate.inside.pop()
            if gate.closing:
                gate.tell()

    @property
    def size(self) -> int:
        """The bytes of the file."""
        return _size_of(self._path)

    @property
    def wants_readers_out(self) -> bool:
        """Whether a long reader should end its transaction soon and begin anew."""
        return self._gate.closing

    def begin(self) -> Transaction:
        """Begin a read transaction; `end` it soon, in any case, on any thread."""
        self._check_process()
        gate = self._gate
        try:
            gate.inside.append(None)
            return self._begin_inside()
        except BaseException:
            gate.inside.pop()
            if gate.closing:
                gate.tell()
            raise

    def end(self, transaction: Transaction) -> None:
        """End a read transaction."""
        gate = self._gate
        try:
            transaction.abort()
        finally:
            gate.inside.pop()
            if gate.closing:
                gate.tell()

    def check_usable(self) -> None:
        """Raise `EnvironmentClosed` once it is closed, and `StigmerError` in a process forked from its own."""
        self._check_process()
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise EnvironmentClosed
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # one error for many callers

    def _check_process(self) -> None:
        if _forks != self._forks:
            raise StigmerError("a store cannot be used in a process forked from the one that opened it")

    def _begin_inside(self) -> Transaction:
        while self._gate.closing:
            self._gate.wait_outside()
        self._check_open()
        return self._env.begin()

    def read(self, work: Callable[[Transaction, Databases], T]) -> T:
        """Do some work in a read transaction. Raises `CorruptView` where LMDB finds its file damaged."""
        return self.read_with(nullcontext(), _nothing, lambda transaction, databases, _: work(transaction, databases))

    def read_with(
        self,
        moment: AbstractContextManager[object],
        select: Callable[[], S],
        work: Callable[[Transaction, Databases, S], T],
        *,
        buffers: bool = False,
    ) -> T:
        """Do some work in a read transaction, with what was selected while it began, both inside `moment`.

        With `buffers` rows are not copied: they are views of the file, which must not outlive the work. Raises
        `CorruptView` where LMDB finds its file damaged.
        """
        self._check_process()
        gate = self._gate
        transaction = None
        try:
            gate.inside.append(None)
            # Through the gate before `moment`: who waits at the gate must not keep out those who are counted inside.
            while gate.closing:
                gate.wait_outside()
            with moment:
                self._check_open()
                transaction = self._env.begin(buffers=True) if buffers else self._env.begin()
                selected = select()
            return work(transaction, self.databases, selected)
        except DAMAGE as error:
            raise CorruptView("environment", f"{self._path}: {error}") from error
        finally:
            try:
                if transaction is not None:
                    transaction.abort()
            finally:
                gate.inside.pop()
                if gate.closing:
                    gate.tell()

    def get(self, name: str, key: bytes) -> bytes | None:
        """Give the row under a key of a database, None where there is none; a short cut for `read`."""
        self._check_process()
        gate = self._gate
        transaction = None
        try:
            gate.inside.append(None)
            transaction = self._begin_inside()
            row: bytes | None = transaction.get(key, db=self.databases[name])
            return row
        except DAMAGE as error:
            raise CorruptView("environment", f"{self._path}: {error}") from error
        finally:
            try:
                if transaction is not None:
                    transaction.abort()
            finally:
                gate.inside.pop()
                if gate.closing:
                    gate.tell()

    def write(self, work: Callable[[Transaction], None]) -> None:
        """Do some work in the write transaction and commit it; only the writer's thread may.

        Where the map is full, it grows and the work is done again from the start. Raises `DiskFull`, `CorruptView` or
        `StorageFailed`, having changed nothing.
        """
        while True:
            self.before_write()
            try:
                with self._env.begin(write=True) as transaction:
                    work(transaction)
            except lmdb.MapFullError:
                self.before_growth()
                self._gate.run_alone(self._grow)
                continue
            except DAMAGE as error:
                raise CorruptView("environment", f"{self._path}: {error}") from error
            except (lmdb.Error, OSError) as error:
                # A write that was cut short LMDB reports as EIO, so the code alone does not tell.
                if getattr(error, "code", 0) in files.FULL or _room(self.directory) < _ROOM_BYTES_MIN:
                    raise DiskFull(self.directory) from error
                raise StorageFailed(self._path, "write", str(error)) from error
            self._keep_length()
            return

    def hold(self) -> Held:
        """Hold the state that was committed last; only the thread that writes may."""
        transaction = self._env.begin()
        try:
            # Both, because LMDB takes the newer of the two.
            meta_pages = files.read_at(self._fd, 2 * self._page_bytes, 0)
            return Held(transaction, meta_pages, root_crc(self._fd, meta_pages))
        except BaseException:
            transaction.abort()
            raise

    def release(self, held: Held) -> None:
        """Let go of a state; on any thread, also of one that is not held any more."""
        held.transaction.abort()

    def sync(self) -> None:
        """Make what was committed durable; on any thread. Raises `StorageFailed`, after which it never is."""
        try:
            files.sync_data(self._fd)
        except OSError as error:
            raise StorageFailed(self._path, "fsync", str(error)) from error

    def close(self) -> None:
        """Close it, once no reader is inside."""
        if _forks == self._forks and not self._closed:
            self._gate.run_alone(self._close)

    def _close(self) -> None:
        self._closed = True
        self._env.close()
        os.close(self._fd)

    def _grow(self) -> None:
        try:
            self._env.set_mapsize(self._env.info()["map_size"] * 2)
        except lmdb.Error as error:
            # The map is gone then, and with it every use of the environment.
            self._failure = StorageFailed(self._path, "enlarge the map of", str(error))
            raise self._failure from error

    def _keep_length(self) -> None:
        """Make the file as long as its meta page says.

        LMDB does not write pages that were allocated and freed in one transaction, even the last ones of the file.
        Without this a whole file would look cut short at the next open.
        """
        length = (self._env.info()["last_pgno"] + 1) * self._page_bytes
        if _size_of(self._path) < length:
            os.truncate(self._path, length)


def _nothing() -> None:
    """Select nothing, and do nothing."""


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _room(directory: str) -> int:
    state = os.statvfs(directory)
    return state.f_bavail * state.f_frsize


def _fill_lock_file(path: str) -> None:
    """Have the disk give room for all of LMDB's lock file. Only for who opens; nobody else may have it open."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        files.write_at(fd, (bytes(_LOCK_FILE_BYTES),), 0)
    finally:
        os.close(fd)


def _check_file(path: str) -> None:
    """Raise `CorruptView` unless the file, where there is one, is as long as its meta pages say."""
    size = _size_of(path)
    if size == 0:
        return
    problem = None
    with open(path, "rb") as file:
        first = file.read(_META.size)
        if len(first) < _META.size:
            problem = "is too short"
        else:
            page_bytes = _META.unpack(first)[4]
            if not _PAGE_BYTES_MIN <= page_bytes <= 1 << 16 or page_bytes & (page_bytes - 1):
                problem = "has a damaged first page"
            else:
                file.seek(page_bytes)
                metas: list[tuple[Any, ...]] = [_META.unpack(first)]
                second = file.read(_META.size)
                if len(second) == _META.size:
                    metas.append(_META.unpack(second))
                if len(metas) < 2 or any(meta[0] != _META_MAGIC for meta in metas):
                    problem = "has a damaged meta page"
                elif any((meta[6] + 1) * page_bytes > size for meta in metas):
                    problem = "was cut short"
    if problem is not None:
        raise CorruptView("environment", f"{path} {problem}")
