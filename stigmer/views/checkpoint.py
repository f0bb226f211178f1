"""Synced checkpoints: states of LMDB's file that a power cut leaves, and to which it can be put back.

LMDB runs without fsync, so after a power cut its file is a mixture of pages of many transactions. But it never writes
over a page of a state that a reader holds. So a state is *held* when it was committed, the file is synced in the
background, and the state's two meta pages, all that LMDB changes in place, are kept in a small file beside it. Putting
them back makes the file what it was, whatever has been written since.

Invariants, of a generation that serves:

- every page of the state that the small file names is durable, and is held from before the file names it until the
  file names another one, durably;
- the log is durable up to that state's revision;
- after a failed fsync of LMDB's file the small file is gone: what that file has is not believed any more.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from stigmer import config
from stigmer.errors import CorruptView, DiskFull, ResourceExhausted, StigmerError, StorageFailed
from stigmer.log import files
from stigmer.log.format import crc32c
from stigmer.views import environment
from stigmer.views.environment import Environment, Held

_logger = logging.getLogger("stigmer")

FILE = "checkpoint"

_MAGIC = b"STGMRCKP"
_VERSION = 1
_HEAD = struct.Struct("<8sIIQ16sIII")
_CRC = struct.Struct("<I")
_META_BYTES_MAX = 2 << 16
_READ_BYTES = 1 << 20
_READ_SHARE = 4


class Point(NamedTuple):
    """What the small file says."""

    store_id: bytes
    revision: int
    """The last one that the rows have."""
    page_cache: str
    """The id of the page cache in which it was written: while that lasts, it has all that came later."""
    meta_pages: bytes
    """The first two pages of LMDB's file."""
    root_crc: int
    """What `environment.root_crc` gives for them: for LMDB's file to be known again."""


def encode(point: Point) -> bytes:
    """Give the bytes of the small file."""
    page_cache = point.page_cache.encode()
    sizes = (len(page_cache), len(point.meta_pages))
    head = _HEAD.pack(_MAGIC, _VERSION, 0, point.revision, point.store_id, point.root_crc, *sizes)
    body = head + page_cache + point.meta_pages
    return body + _CRC.pack(crc32c(0, body))


def decode(data: bytes) -> Point | None:
    """Read the bytes of the small file; None if they are damaged, or of another version."""
    if len(data) < _HEAD.size + _CRC.size or _CRC.unpack_from(data, len(data) - _CRC.size)[0] != crc32c(0, data[:-4]):
        return None
    magic, version, _reserved, revision, store_id, root_crc, page_cache_size, meta_size = _HEAD.unpack_from(data)
    page_cache_end = _HEAD.size + page_cache_size
    if magic != _MAGIC or version != _VERSION or len(data) != page_cache_end + meta_size + _CRC.size:
        return None
    page_cache = data[_HEAD.size : page_cache_end].decode("ascii", "replace")
    return Point(store_id, revision, page_cache, data[page_cache_end : -_CRC.size], root_crc)


def read(directory: str) -> Point | None:
    """Read the small file of a generation; None where there is none. Raises `CorruptView` if it is damaged."""
    try:
        with open(os.path.join(directory, FILE), "rb") as file:
            data = file.read(_HEAD.size + _META_BYTES_MAX)
    except FileNotFoundError:
        return None
    point = decode(data)
    if point is None:
        raise CorruptView("checkpoint", "its file is damaged")
    return point


def put_back(directory: str, point: Point) -> None:
    """Make LMDB's file, which nobody has open, what it was at a checkpoint; durable when it returns.

    May be interrupted and done again. Raises `CorruptView` where that file is not there or another one, or `OSError`.
    """
    path = environment.data_path(directory)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CorruptView("environment", f"{path} is not there") from error
    try:
        if environment.root_crc(fd, point.meta_pages) != point.root_crc:
            raise CorruptView("checkpoint", "is not one of the file that is there")
        files.write_at(fd, (point.meta_pages,), 0)
        files.sync_data(fd)
    except BaseException:
        os.close(fd)
        raise
    # The fold of the tail reads pages all over a file of which a power cut has left nothing in memory.
    reader = threading.Thread(target=_read_ahead, args=(fd,), name="stigmer-reader", daemon=True)
    try:
        reader.start()
    except RuntimeError:  # no more threads: it takes longer
        os.close(fd)


def _read_ahead(fd: int) -> None:
    """Have the page cache read a file, from its beginning, and close it; no more than the machine has room for."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    buffer = [bytearray(_READ_BYTES)]
    try:
        for offset in range(0, min(os.fstat(fd).st_size, memory_bytes // _READ_SHARE), _READ_BYTES):
            os.preadv(fd, buffer, offset)
    except OSError:
        pass  # who needs what is there finds out
    finally:
        os.close(fd)


def remove(directory: str) -> None:
    """Remove the small file, if it is there. Raises `OSError`."""
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, FILE))


class Progress(NamedTuple):
    """How far a generation is."""

    revision: int
    """The last one that is in LMDB."""
    folded_bytes: int
    """Of all commits folded since it was opened."""


class Checkpointer:
    """Takes the synced checkpoints of one generation, one at a time.

    All methods are for the thread that writes to it; what `take` begins goes on on a thread of its own.
    """

    def __init__(
        self,
        environment: Environment,
        store_id: bytes,
        page_cache: str,
        progress: Callable[[], Progress],
        sync_log: Callable[[], None],
    ) -> None:
        """`sync_log` makes the log durable as far as it is written, on any thread; it may raise `StorageFailed`."""
        # Constant after construction.
        self._environment = environment
        self._path = os.path.join(environment.directory, FILE)
        self._store_id = store_id
        self._page_cache = page_cache
        self._progress = progress
        self._sync_log = sync_log
        self._idle = threading.Event()  # set while none is under way
        self._idle.set()
        # Belong to the thread that takes one, while one is under way, else to the writing thread.
        self._written = self._file()  # the small file, as this process left or found it
        self._held: Held | None = None  # the state that it names
        self._is_missed = False  # whether the last one could not be taken, for want of something that passes
        self.failure: StigmerError | None = None
        # The writing thread's own.
        self._is_lost = False  # whether a write might go over pages of the state that the small file names
        self._begun = progress()  # where the last one was begun,
        self._begun_bytes = environment.size  # and how large LMDB's file was
        environment.before_write = self._before_write
        environment.before_growth = self._before_growth

    @property
    def is_due(self) -> bool:
        """Whether so much has changed since the last one that there should be another, or that one was missed."""
        progress = self._progress()
        return (
            self._is_missed
            or progress.revision - self._begun.revision >= config.CHECKPOINT_EVENTS
            or progress.folded_bytes - self._begun.folded_bytes >= config.CHECKPOINT_BYTES
            or self._environment.size - self._begun_bytes >= config.CHECKPOINT_GROWTH_BYTES
        )

    def take_now(self) -> None:
        """Take one, and wait until it is durable.

        Raises `ResourceExhausted` (`DiskFull`, or for too many open files); `StorageFailed`, after which none is taken.
        """
        self.wait()
        if self.failure is not None:
            # A sync that succeeds after one that failed proves nothing.
            raise self.failure.with_traceback(None)
        held = self._begin()
        try:
            self._make_durable(held, self._begun.revision)
        except StorageFailed as error:
            self.disown(error)
            raise
        self._is_lost = False

    def take(self, fail: Callable[[StigmerError], None]) -> None:
        """Begin to take one, unless one is under way; `fail` is told what is final, on whatever thread."""
        if not self._idle.is_set() or self.failure is not None:
            return
        held = self._begin()
        self._idle.clear()
        thread = threading.Thread(
            target=self._run, args=(held, self._begun.revision, fail), name="stigmer-checkpointer", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            self._environment.release(held)
            self._miss(error)
            self._idle.set()

    def wait(self) -> None:
        """Wait until none is under way."""
        self._idle.wait()

    def _before_growth(self) -> None:
        """Have the map enlarged, which ends all transactions: then nothing is held any more."""
        self.wait()
        self._is_lost = True

    def _before_write(self) -> None:
        if self._is_lost:
            self.take_now()

    def _begin(self) -> Held:
        self._begun = self._progress()
        self._begun_bytes = self._environment.size
        return self._environment.hold()

    def _run(self, held: Held, revision: int, fail: Callable[[StigmerError], None]) -> None:
        try:
            self._make_durable(held, revision)
        except ResourceExhausted as error:
            self._miss(error)
        except StigmerError as error:
            self.disown(error)
            fail(error)
        finally:
            self._idle.set()

    def _miss(self, error: Exception) -> None:
        """Leave the one before in force; the next flush tries again."""
        if not self._is_missed:
            _logger.error("no synced checkpoint of the views can be written: %s", error)
        self._is_missed = True

    def _make_durable(self, held: Held, revision: int) -> None:
        """Sync, have the small file name the state, durably, and let go of the one before."""
        try:
            self._sync_log()
            self._environment.sync()
            point = Point(self._store_id, revision, self._page_cache, held.meta_pages, held.root_crc)
            self._write(encode(point))
        except BaseException:
            self._environment.release(held)
            raise
        before, self._held = self._held, held
        if before is not None:
            self._environment.release(before)
        if self._is_missed:
            _logger.warning("synced checkpoints of the views can be written again")
        self._is_missed = False

    def _write(self, content: bytes) -> None:
        try:
            os.close(files.create(self._path, content))
        except OSError as error:
            # Where only the sync of the directory failed, the disk may have either of two.
            if self._is_as_before():
                if error.errno in files.FULL:
                    raise DiskFull(self._environment.directory) from error
                if error.errno in files.EXHAUSTED:
                    raise ResourceExhausted(f"{self._path}: {error.strerror}", limit="open files") from error
            raise StorageFailed(self._path, "write", str(error)) from error
        self._written = self._file()

    def _is_as_before(self) -> bool:
        """Say whether a write that failed has left the small file alone."""
        try:
            return self._file() == self._written
        except OSError:
            return False

    def _file(self) -> tuple[int, int] | None:
        """Tell the small file from one in its place, without opening it; None where there is none."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def disown(self, error: StigmerError) -> None:
        """See to it that the next open does not believe LMDB's file, of which nobody knows what the disk has.

        Only while none is under way, or on its thread.
        """
        self.failure = error
        with suppress(OSError):
            os.unlink(self._path)
            files.sync_directory(self._environment.directory)
