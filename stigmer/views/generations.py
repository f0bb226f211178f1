"""Generations: one build of all views each, in a folder of its own; one of them serves.

Owns `views/` and the rules for using what is there: the views of another store or of another layout are not used but
folded again, and those that LMDB may have lost in part in a power cut are first put back to their synced checkpoint.
Whether LMDB's file is whole is told by the files beside it, before LMDB looks into it. A generation becomes the serving
one with its first synced checkpoint; whatever else is in the directory is removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from stigmer import config
from stigmer.errors import CorruptView, DiskFull, StigmerError, StorageFailed
from stigmer.log import files
from stigmer.version import VERSION
from stigmer.views import blocks, checkpoint, checksums
from stigmer.views.checkpoint import Checkpointer, Progress
from stigmer.views.environment import DAMAGE, Environment, data_path
from stigmer.views.page_cache import page_cache_id
from stigmer.views.projector import SCHEMA, VIEWS, Projector
from stigmer.views.view import Transaction, shown_key

_CLEAN_FILE = "clean"
_ASIDE = "verify"
_PAGE_CACHE_FILE = "page-cache"

# There while a generation is being opened, with a byte for each time that this was begun and has not come to its end.
_TRIES_FILE = "tries"
_TRIES_MAX = 3

_EXAMPLES_MAX = 10
# A comparison tells how far it is, and lets the writer in, this often.
_ROWS_PER_STEP = 10_000
_STEP_BYTES = 8 * 1024 * 1024


class Generation:
    """One build of all views."""

    def __init__(self, views_directory: str, number: int, map_bytes: int, name: str | None = None) -> None:
        """Open it, made if it is not there, in the folder of its number, or of that name. Raises `CorruptView`."""
        self.number = number
        self.directory = os.path.join(views_directory, name or str(number))
        self._clean_path = os.path.join(self.directory, _CLEAN_FILE)
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        self.is_checked = False
        """Whether the opening found that LMDB's file is what it was, or that its rows are whole and all there."""
        if self.is_clean:
            with _storage_of(self.directory, "read"):
                self.is_checked = blocks.check(data_path(self.directory), self._mark())
        self.projector = Projector(self.directory, map_bytes)
        self._checkpointer: Checkpointer | None = None  # from when it serves

    @property
    def environment(self) -> Environment:
        """Its LMDB environment."""
        return self.projector.environment

    def serve(self, store_id: bytes, sync_log: Callable[[], None]) -> None:
        """Make it the one that serves, in use in this page cache, with a synced checkpoint of what it has.

        Durable when it returns, so that no later power cut can leave the mark of an earlier clean end, or an earlier
        checkpoint, over pages that have changed. `sync_log` makes the log durable; the checkpoints need it to be.
        Raises `DiskFull`, `CorruptView` or `StorageFailed`.
        """
        sync_log()
        if self.projector.meta().get("serving") != "1":
            self.projector.set_meta(schema=_schema(), store=store_id.hex(), serving="1")
        with _storage_of(self.directory, "make durable"):
            files.sync_directory(os.path.dirname(self.directory))
        checkpointer = Checkpointer(self.environment, store_id, page_cache_id(self.directory), self._progress, sync_log)
        try:
            checkpointer.take_now()
            # Only now: until then nothing was written, and the mark was true.
            with _storage_of(self._clean_path, "remove"):
                self._remove_mark()
        except StorageFailed:
            with suppress(OSError):
                self._remove_mark()
            raise
        self._checkpointer = checkpointer

    def checkpoint_if_due(self, fail: Callable[[StigmerError], None]) -> None:
        """Begin a synced checkpoint of what was flushed, where it is time for one; only the writer's thread may.

        It goes on in the background, where `fail` is told an error after which nothing more may be written.
        """
        if self._checkpointer is not None and self._checkpointer.is_due:
            self._checkpointer.take(fail)

    def _progress(self) -> Progress:
        return Progress(self.projector.flushed, self.projector.folded_bytes)

    def _remove_mark(self) -> None:
        if self.is_clean:
            os.unlink(self._clean_path)
            files.sync_directory(self.directory)

    @property
    def is_clean(self) -> bool:
        """Whether it was closed clean and not used since: then the file is whole, whatever became of the machine."""
        return os.path.exists(self._clean_path)

    def _mark(self) -> bytes:
        with open(self._clean_path, "rb") as file:
            return file.read()

    def check_rows(self) -> None:
        """Look at all rows, unless they were or are many. Raises `CorruptView` where one is damaged or missing."""
        if self.is_checked or checksums.rows_of(self.environment) > config.VIEWS_CHECK_ROWS_MAX:
            return
        checksums.check(self.environment)
        self.is_checked = True

    def close(self, *, clean: bool = False) -> None:
        """Close it; `clean` says that all rows belong to a log that was sealed."""
        try:
            if self._checkpointer is not None:
                self._checkpointer.wait()
                clean = clean and self._checkpointer.failure is None
            if clean:
                # The mark is a file of its own, made after the sync: LMDB could not order it behind its own pages.
                self._sync()
                os.close(files.create(self._clean_path, blocks.checksums_of(data_path(self.directory))))
                checkpoint.remove(self.directory)
        except OSError as error:
            if error.errno not in files.FULL:
                raise StorageFailed(self._clean_path, "create", str(error)) from error
        finally:
            self.environment.close()

    def _sync(self) -> None:
        try:
            self.environment.sync()
        except StorageFailed as error:
            if self._checkpointer is not None:
                self._checkpointer.disown(error)
            raise

    def keep(self) -> None:
        """Close it so that, while its page cache lasts, `aside` finds it as it is now."""
        try:
            self.projector.flush()
        finally:
            self.environment.close()

    def remove(self) -> None:
        """Close it and delete its files."""
        if self._checkpointer is not None:
            self._checkpointer.wait()
        self.environment.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def _storage_of(path: str, operation: str) -> Iterator[None]:
    """Have an `OSError` be `DiskFull` or `StorageFailed`."""
    try:
        yield
    except OSError as error:
        if error.errno in files.FULL:
            raise DiskFull(path) from error
        raise StorageFailed(path, operation, str(error)) from error


class _Unusable(Exception):
    """Why a generation that is there cannot be used. Never leaves this module."""


def numbers(views_directory: str) -> list[int]:
    """Give the numbers of the generations that are there, the largest first."""
    if not os.path.isdir(views_directory):
        return []
    return sorted((int(name) for name in os.listdir(views_directory) if name.isdecimal()), reverse=True)


def open_serving(views_directory: str, map_bytes: int, notes: list[str]) -> tuple[Generation, bytes] | None:
    """Open the generation that serves, if there is one that can be used: it, and the id of its store.

    Where there is one that cannot be used, a sentence about it goes to `notes`.
    """
    for number in numbers(views_directory):
        try:
            directory = os.path.join(views_directory, str(number))
            revision = _make_whole(directory)
            _count_try(directory)
            generation = Generation(views_directory, number, map_bytes)
        except (_Unusable, CorruptView) as error:
            _note(notes, number, error)
            continue
        try:
            store_id = _usable(generation, revision)
            generation.check_rows()
            _forget_tries(directory)
        except (_Unusable, CorruptView) as error:
            _note(notes, number, error)
            generation.close()
            continue
        except BaseException:
            generation.close()
            raise
        if revision is not None:
            notes.append(
                f"the machine or its disk went away while generation {number} of the views was in use; "
                f"it goes on from its checkpoint, revision {revision}"
            )
        return generation, store_id
    return None


def _note(notes: list[str], number: int, error: _Unusable | CorruptView) -> None:
    reason = error.problem if isinstance(error, CorruptView) else str(error)
    if reason:
        notes.append(f"generation {number} of the views is not used: {reason}")


def _make_whole(directory: str) -> int | None:
    """Make sure that LMDB's file is one state; give its revision where it was put back to a checkpoint.

    Raises `CorruptView`, `DiskFull`, `StorageFailed`, and `_Unusable` for a build that never served.
    """
    with _storage_of(directory, "put views back in"):
        if os.path.exists(os.path.join(directory, _CLEAN_FILE)):
            return None
        point = checkpoint.read(directory)
        if point is None:
            raise _Unusable("")  # an unfinished build, or one that was given up: no news
        if point.page_cache and point.page_cache == page_cache_id(directory):
            return None
        checkpoint.put_back(directory, point)
        return point.revision


def _count_try(directory: str) -> None:
    """Count that a generation is being opened; raise `_Unusable` where that has not come to its end several times.

    On a damaged page LMDB may end the process, which, once, nobody can tell from a kill. The count is not made durable:
    what ended with the machine was not ended by a page.
    """
    with _storage_of(directory, "write in"), _as_far_as_there_is_room():
        fd = os.open(os.path.join(directory, _TRIES_FILE), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            tries = os.fstat(fd).st_size
            if tries >= _TRIES_MAX:
                raise _Unusable(f"{tries} times in a row the process ended while it was being opened")
            os.write(fd, b".")
        finally:
            os.close(fd)


@contextmanager
def _as_far_as_there_is_room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in files.FULL:
            raise


def _forget_tries(directory: str) -> None:
    with suppress(OSError):
        os.unlink(os.path.join(directory, _TRIES_FILE))


def _usable(generation: Generation, revision: int | None) -> bytes:
    meta = generation.projector.meta()
    if meta.get("serving") != "1":
        raise _Unusable("")  # an unfinished build, no news
    if meta.get("schema") != _schema():
        raise _Unusable("it has another layout")
    if lacked := generation.environment.lacked:
        raise _Unusable(f"it has lost {', '.join(lacked)}")
    if revision is not None and generation.projector.checkpoint != revision:
        raise CorruptView("checkpoint", f"is {generation.projector.checkpoint}, its file says {revision}")
    try:
        return bytes.fromhex(meta["store"])
    except (KeyError, ValueError) as error:
        raise _Unusable("it does not say whose it is") from error


def create(views_directory: str, map_bytes: int) -> Generation:
    """Start a new, empty generation with a number that was not used."""
    with _storage_of(views_directory, "create a folder in"):
        os.makedirs(views_directory, mode=0o700, exist_ok=True)
        number = _make_next(views_directory)
    try:
        made = Generation(views_directory, number, map_bytes)
        made.is_checked = True  # there is nothing in it yet
        return made
    except BaseException:
        shutil.rmtree(os.path.join(views_directory, str(number)), ignore_errors=True)
        raise


def aside(views_directory: str, map_bytes: int, store_id: bytes, last_revision: int) -> Generation:
    """Give the generation that a verify builds: that of one that was interrupted, where it can be gone on with.

    It can if it is of this store and of no later revision, and was built by this version in this page cache: nothing
    of it was synced. It never serves, and is not removed when a store is opened.
    """
    directory = os.path.join(views_directory, _ASIDE)
    wanted = {"schema": _schema(), "store": store_id.hex(), "version": VERSION}
    if _is_in_its_page_cache(directory):
        try:
            found = Generation(views_directory, 0, map_bytes, _ASIDE)
        except CorruptView:
            _forget_tries(directory)
        else:
            try:
                is_known = found.projector.meta() == wanted and not found.environment.lacked
                if is_known and found.projector.checkpoint <= last_revision:
                    return found
            except CorruptView:
                pass
            found.environment.close()
    remove_aside(views_directory)
    with _storage_of(directory, "create"):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        with open(os.path.join(directory, _PAGE_CACHE_FILE), "w", encoding="ascii") as file:
            file.write(page_cache_id(directory))
        made = Generation(views_directory, 0, map_bytes, _ASIDE)
    try:
        made.projector.set_meta(**wanted)
    except BaseException:
        made.remove()
        raise
    return made


def _is_in_its_page_cache(directory: str) -> bool:
    """Say whether what is never synced is whole, before LMDB looks at it: a file in parts can kill the process."""
    try:
        with open(os.path.join(directory, _PAGE_CACHE_FILE), encoding="ascii", errors="replace") as file:
            return file.read() == page_cache_id(directory) != ""
    except FileNotFoundError:
        return False


def remove_aside(views_directory: str) -> None:
    """Remove what a verify that was interrupted has left."""
    shutil.rmtree(os.path.join(views_directory, _ASIDE), ignore_errors=True)


def _make_next(views_directory: str) -> int:
    while True:
        taken = numbers(views_directory)
        number = (taken[0] if taken else 0) + 1
        try:
            os.mkdir(os.path.join(views_directory, str(number)), mode=0o700)
        except FileExistsError:
            continue  # a replay and a repair that began at the same time
        return number


def remove_others(views_directory: str, kept: int) -> None:
    """Delete every generation but one."""
    for number in numbers(views_directory):
        if number != kept:
            shutil.rmtree(os.path.join(views_directory, str(number)), ignore_errors=True)


def remove_all(views_directory: str) -> None:
    """Delete every generation, durably, with what a verify that was interrupted has left. Raises `OSError`."""
    if not os.path.isdir(views_directory):
        return
    for name in (*map(str, numbers(views_directory)), _ASIDE):
        directory = os.path.join(views_directory, name)
        if os.path.isdir(directory):
            shutil.rmtree(directory)
    files.sync_directory(views_directory)


def remove_unfinished(views_directory: str) -> None:
    """Delete what never came to serve, or was given up, so that builds which are cut short do not pile up.

    Those that served stay until there is another one: they may have what a damaged log has lost.
    """
    for number in numbers(views_directory):
        directory = os.path.join(views_directory, str(number))
        if not any(os.path.exists(os.path.join(directory, name)) for name in (checkpoint.FILE, _CLEAN_FILE)):
            shutil.rmtree(directory, ignore_errors=True)


def _schema() -> str:
    return " ".join([str(SCHEMA), *(name for view in VIEWS for name in view.databases)])


class Comparison:
    """Compares every row of every view of two generations, each as of one moment.

    Construct it while both have the same checkpoint; then iterate, which gives the number of rows compared so far
    from time to time. Afterwards `rows` and `differences` count, and `examples` shows the first few. A file in which
    LMDB gets lost is a difference like others: it is what replay is there to replace.
    """

    def __init__(self, serving: Generation, fresh: Generation, damage: CorruptView | None = None) -> None:
        """Take a read transaction of both; `damage` is what was found while the first was made ready for it."""
        self._sides = (serving.environment, fresh.environment)
        self._transactions: list[Transaction] = []
        self.rows = 0
        self.differences = 0
        self.examples: list[str] = []
        if damage is not None:
            self.differences += 1
            self.examples.append(f"{damage.view}: {damage.problem}")
        try:
            for environment in self._sides:
                self._transactions.append(environment.begin())
            self.total = self._rows_of_serving()
        except BaseException:
            self.close()
            raise

    def _rows_of_serving(self) -> int:
        databases = self._sides[0].databases
        names = [name for view in VIEWS for name in view.databases]
        try:
            return sum(self._transactions[0].stat(databases[name])["entries"] for name in names)
        except DAMAGE:
            return 0  # the comparison comes to the same place

    @property
    def must_stop(self) -> bool:
        """Whether the writer waits to enlarge the map, for which no transaction may be open."""
        return any(environment.wants_readers_out for environment in self._sides)

    def __iter__(self) -> Iterator[int]:
        """Compare; give the number of rows compared so far every few thousand."""
        for view in VIEWS:
            for name in view.databases:
                try:
                    yield from self._compare(view.name, name)
                except DAMAGE as error:
                    self.differences += 1
                    self.examples.append(f"{view.name}: cannot be read: {error}")
                    return

    def _compare(self, view: str, name: str) -> Iterator[int]:
        left, right = (
            iter(transaction.cursor(db=environment.databases[name]))
            for transaction, environment in zip(self._transactions, self._sides, strict=True)
        )
        a, b = next(left, None), next(right, None)
        size = 0
        while row := a or b:
            if a == b:
                a, b = next(left, None), next(right, None)
            elif b is None or (a is not None and a[0] < b[0]):
                assert a is not None
                self._note(view, a[0], "is in the view, but not in the log's fold")
                a = next(left, None)
            elif a is None or b[0] < a[0]:
                self._note(view, b[0], "is in the log's fold, but not in the view")
                b = next(right, None)
            else:
                self._note(view, a[0], "has another value in the view than in the log's fold")
                a, b = next(left, None), next(right, None)
            self.rows += 1
            size += len(row[1])
            if self.rows % _ROWS_PER_STEP == 0 or size > _STEP_BYTES:
                size = 0
                yield self.rows

    def _note(self, view: str, key: bytes, what: str) -> None:
        self.differences += 1
        if len(self.examples) < _EXAMPLES_MAX:
            self.examples.append(f"{view}: {shown_key(key)}: {what}")

    def close(self) -> None:
        """End the transactions."""
        for transaction, environment in zip(self._transactions, self._sides, strict=False):
            environment.end(transaction)
        self._transactions = []
