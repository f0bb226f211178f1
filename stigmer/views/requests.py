"""The `requests` view: which commits had which request id, so that a retried write is applied once.

Remembers the last `config.REQUEST_IDS_KEPT` commits that had an id, and those not flushed yet. An id that comes again
after it was forgotten is a new commit; the fold then lets the later one win.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import ClassVar

from stigmer import config
from stigmer.errors import CorruptView
from stigmer.log.format import crc32c
from stigmer.model import Committed, Revision
from stigmer.views.view import Database, Databases, FoldCommit, Lookup, Transaction

DATABASE = "requests.1"
ORDER_DATABASE = "requests_order.1"

_ROW = struct.Struct("<IQQ")
_REVISIONS = struct.Struct("<QQ")
_ORDER_KEY = struct.Struct(">Q")


class Requests:
    """The view request id -> revisions of its commit."""

    name: ClassVar[str] = "requests"
    databases: ClassVar[Sequence[str]] = (DATABASE, ORDER_DATABASE)

    def __init__(self) -> None:
        """Start with nothing in memory."""
        # By first revision where the flush needs the order of commits, by id where one is looked up.
        self.memory: dict[int | str, str | Committed] = {}

    @property
    def unflushed(self) -> int:
        """How many things changed since the last flush."""
        return len(self.memory)

    def fold(self, lookup: Lookup, commits: Sequence[FoldCommit]) -> dict[int | str, str | Committed]:
        """Enter the commits' ids."""
        entries: dict[int | str, str | Committed] = {}
        for commit in commits:
            request_id = commit.request_id
            if request_id:
                entries[commit.first_revision] = request_id
                entries[request_id] = Committed(Revision(commit.first_revision), Revision(commit.last_revision))
        return entries

    def take(self, folded: dict[int | str, str | Committed]) -> None:
        """Make what a fold gave part of the memory."""
        self.memory.update(folded)

    def flush(self, transaction: Transaction, databases: Databases) -> None:
        """Put the ids, then forget the oldest beyond the number that is kept."""
        if not self.memory:
            return
        database, order = databases[DATABASE], databases[ORDER_DATABASE]
        rows, places = [], []
        for name, entry in self.memory.items():
            if isinstance(entry, Committed):
                assert isinstance(name, str)
                key = name.encode()
                crc = _crc(key, _REVISIONS.pack(entry.first_revision, entry.last_revision))
                rows.append((key, _ROW.pack(crc, entry.first_revision, entry.last_revision)))
            else:
                places.append((_ORDER_KEY.pack(name), entry.encode()))
        with transaction.cursor(db=database) as cursor:
            cursor.putmulti(sorted(rows))
        with transaction.cursor(db=order) as cursor:
            cursor.putmulti(places, append=True)
        self._forget(transaction, database, order)

    def forget(self) -> None:
        """Begin a new memory after a flush."""
        self.memory = {}

    def _forget(self, transaction: Transaction, database: Database, order: Database) -> None:
        excess = transaction.stat(order)["entries"] - config.REQUEST_IDS_KEPT
        if excess <= 0:
            return
        with transaction.cursor(db=order) as cursor:
            cursor.first()
            for _ in range(excess):
                order_key, key = cursor.item()
                if len(order_key) != _ORDER_KEY.size:
                    raise CorruptView("requests", "the order of the requests is damaged")
                found = _committed(key, transaction.get(key, db=database))
                # The id may have been used again since; then the later commit's row stays.
                if found is not None and found.first_revision == _ORDER_KEY.unpack(order_key)[0]:
                    transaction.delete(key, db=database)
                cursor.delete()

    def committed(self, lookup: Lookup, request_id: str) -> Committed | None:
        """Give the revisions of the commit that had this id, if it is remembered."""
        entry = self.memory.get(request_id)
        if isinstance(entry, Committed):
            return entry
        key = request_id.encode()
        return _committed(key, lookup(DATABASE, key))


def _committed(key: bytes, row: bytes | None) -> Committed | None:
    if row is None:
        return None
    if len(row) != _ROW.size or _ROW.unpack(row)[0] != _crc(key, row[4:]):
        raise CorruptView("requests", f"the row of {key.decode(errors='replace')!r} is damaged")
    _, first_revision, last_revision = _ROW.unpack(row)
    return Committed(Revision(first_revision), Revision(last_revision))


def _crc(key: bytes, revisions: bytes) -> int:
    return crc32c(crc32c(0, key), revisions)
