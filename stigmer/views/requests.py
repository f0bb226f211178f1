"""The `requests` view: which commits had which request id, so that a retried write is applied once.

Remembers the last `config.REQUEST_IDS_KEPT` commits that had an id. An id that comes again after it was forgotten is
a new commit; the fold then lets the later one win.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import ClassVar

from stigmer import config
from stigmer.errors import CorruptView
from stigmer.log.format import crc32c
from stigmer.model import Committed, Revision
from stigmer.views.view import Database, Databases, FoldCommit, Transaction

DATABASE = "requests.1"
ORDER_DATABASE = "requests_order.1"

_ROW = struct.Struct("<IQQ")
_REVISIONS = struct.Struct("<QQ")
_ORDER_KEY = struct.Struct(">Q")


class Requests:
    """The view request id -> revisions of its commit."""

    name: ClassVar[str] = "requests"
    databases: ClassVar[Sequence[str]] = (DATABASE, ORDER_DATABASE)

    def fold(self, transaction: Transaction, databases: Databases, commits: Sequence[FoldCommit]) -> None:
        """Enter the commits' ids, then forget the oldest beyond the number that is kept."""
        database, order = databases[DATABASE], databases[ORDER_DATABASE]
        entered = False
        for commit in commits:
            if commit.request_id:
                key = commit.request_id.encode()
                revisions = _REVISIONS.pack(commit.first_revision, commit.last_revision)
                row = _ROW.pack(_crc(key, revisions), commit.first_revision, commit.last_revision)
                transaction.put(key, row, db=database)
                transaction.put(_ORDER_KEY.pack(commit.first_revision), key, db=order, append=True)
                entered = True
        if entered:
            self._forget(transaction, database, order)

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
                found = _lookup(transaction, database, key)
                # The id may have been used again since; then the later commit's row stays.
                if found is not None and found.first_revision == _ORDER_KEY.unpack(order_key)[0]:
                    transaction.delete(key, db=database)
                cursor.delete()


def lookup(transaction: Transaction, database: Database, request_id: str) -> Committed | None:
    """Give the revisions of the commit that had this id, if it is remembered."""
    return _lookup(transaction, database, request_id.encode())


def _lookup(transaction: Transaction, database: Database, key: bytes) -> Committed | None:
    row = transaction.get(key, db=database)
    if row is None:
        return None
    if len(row) != _ROW.size or _ROW.unpack(row)[0] != _crc(key, row[4:]):
        raise CorruptView("requests", f"the row of {key.decode(errors='replace')!r} is damaged")
    _, first_revision, last_revision = _ROW.unpack(row)
    return Committed(Revision(first_revision), Revision(last_revision))


def _crc(key: bytes, revisions: bytes) -> int:
    return crc32c(crc32c(0, key), revisions)
