"""The checksums of all rows of a generation, compared without folding anything; and that no row is missing.

Owns the walk. It reads in many short transactions, so the map can be enlarged and pages are freed meanwhile; a row that
changes while it is under way is looked at as it is then.

A checksum says nothing of a row that damage hides. So each row is searched for by its key as well, and rows are
counted and have to be as many as LMDB says, in databases that did not change on the way; and the numbers that views
keep of rows have to agree with that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress

from stigmer.errors import CorruptView
from stigmer.log.format import crc32c
from stigmer.views import counts, index, snapshot
from stigmer.views.environment import DAMAGE, Environment
from stigmer.views.projector import VIEWS
from stigmer.views.requests import ORDER_DATABASE
from stigmer.views.view import Databases, Transaction, shown_key

EXAMPLES_MAX = 10

_CRC = struct.Struct("<I")
_ROWS_PER_STEP = 5_000
_STEP_BYTES = 8 * 1024 * 1024
# A number and a request id, which has its own row with a checksum; they only say in which order ids are forgotten.
_WITHOUT_CHECKSUM = frozenset({ORDER_DATABASE})


def rows_of(environment: Environment) -> int:
    """Give how many rows all views have, as LMDB says."""
    names = [name for view in VIEWS for name in view.databases]

    def work(transaction: Transaction, databases: Databases) -> int:
        return sum(transaction.stat(databases[name])["entries"] for name in names)

    return environment.read(work)


def check(environment: Environment) -> None:
    """Look at all rows while nothing is written. Raises `CorruptView` for the first that is damaged or missing."""
    checksums = Checksums(environment)
    for _rows in checksums:
        if checksums.damaged:
            break
    if checksums.damaged:
        view, _, problem = checksums.examples[0].partition(": ")
        raise CorruptView(view, problem)


class Checksums:
    """Goes over all rows; iterate it, which gives the number of rows so far from time to time.

    Afterwards `rows` and `damaged` count, and `examples` has the first few, each "view: key: what is wrong".
    """

    def __init__(self, environment: Environment) -> None:
        """Start at the first row of the first view."""
        self._environment = environment
        self.rows = 0
        self.damaged = 0
        self.examples: list[str] = []
        self.total = rows_of(environment)

    def __iter__(self) -> Iterator[int]:
        self._compare_numbers()
        for view in VIEWS:
            for name in view.databases:
                walk = _Walk(view.name, name)
                while not walk.is_done:
                    transaction = self._environment.begin()
                    try:
                        self._step(transaction, walk)
                    except DAMAGE as error:
                        self._note(f"{view.name}: cannot be read: {error}")
                        return
                    finally:
                        self._environment.end(transaction)
                    yield self.rows

    def _step(self, transaction: Transaction, walk: _Walk) -> None:
        """Look at the next rows of a database."""
        if walk.state != transaction.id():
            # Of another state of the database, its rows have other numbers.
            walk.state = transaction.id()
            walk.is_counted = not walk.behind
        database = self._environment.databases[walk.name]
        cursor = transaction.cursor(db=database)
        behind = walk.behind
        is_there = cursor.set_range(behind) if behind else cursor.first()
        if is_there and behind and cursor.key() == behind:
            is_there = cursor.next()
        size = 0
        count = 0
        while is_there:
            key, row = cursor.item()
            if key <= behind:
                self._note(f"{walk.view}: {shown_key(key)}: is not in its place")
                break
            behind = key
            if not _is_whole(walk.name, key, row):
                self._note(f"{walk.view}: {shown_key(key)}: its checksum does not match")
            elif transaction.get(key, db=database) != row:
                # A key in a branch page is damaged, by which a search goes another way than a walk.
                self._note(f"{walk.view}: {shown_key(key)}: is not found")
            count += 1
            size += len(row)
            if count >= _ROWS_PER_STEP or size > _STEP_BYTES:
                break
            is_there = cursor.next()
        else:
            entries = transaction.stat(database)["entries"]
            if walk.is_counted and walk.rows + count != entries:
                self._note(f"{walk.view}: has {walk.rows + count} rows that can be found, of {entries}")
            walk.is_done = True
        if behind == walk.behind:
            walk.is_done = True
        walk.behind = behind
        walk.rows += count
        self.rows += count

    def _compare_numbers(self) -> None:
        """Compare what views keep as the number of each other's rows with what LMDB says."""

        def work(transaction: Transaction, databases: Databases) -> None:
            resources = sum(counts.read(transaction, databases, {}).values())
            entries = sum(index.stored_sizes(transaction, databases))
            for view, name, number in (
                ("snapshot", snapshot.DATABASE, resources),
                ("index", index.ENTRIES_DATABASE, entries),
            ):
                found = transaction.stat(databases[name])["entries"]
                if found != number:
                    self._note(f"{view}: has {found} rows, of {number}")

        with suppress(CorruptView):  # a damaged row, which the walk comes to
            self._environment.read(work)

    def _note(self, example: str) -> None:
        self.damaged += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(example)


class _Walk:
    """How far the walk through one database is."""

    def __init__(self, view: str, name: str) -> None:
        self.view = view
        self.name = name
        self.behind = b""
        """The key of the last row."""
        self.rows = 0
        self.state = -1
        """The number of the state of LMDB that was read last."""
        self.is_counted = True
        """Whether all rows so far were of that state."""
        self.is_done = False


def _is_whole(name: str, key: bytes, row: bytes) -> bool:
    if name in _WITHOUT_CHECKSUM:
        return len(key) == 8
    return len(row) >= _CRC.size and _CRC.unpack_from(row)[0] == crc32c(crc32c(0, key), row[_CRC.size :])
