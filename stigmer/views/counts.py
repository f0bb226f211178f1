"""The `counts` view: how many resources there are of each kind."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from stigmer.errors import CorruptView
from stigmer.log.format import crc32c
from stigmer.views.view import Database, Databases, FoldCommit, Transaction

DATABASE = "counts.1"

_ROW = struct.Struct("<IQ")
_COUNT = struct.Struct("<Q")


class Counts:
    """The view kind -> number of resources."""

    name: ClassVar[str] = "counts"
    databases: ClassVar[Sequence[str]] = (DATABASE,)

    def fold(self, transaction: Transaction, databases: Databases, commits: Sequence[FoldCommit]) -> None:
        """Count up for what came into being and down for what went."""
        database = databases[DATABASE]
        steps: Counter[str] = Counter()
        for commit in commits:
            for change in commit.changes:
                if change.value is None:
                    steps[change.kind] -= change.was_there
                elif not change.was_there:
                    steps[change.kind] += 1
        for kind, step in steps.items():
            if step == 0:
                continue
            key = kind.encode()
            row = transaction.get(key, db=database)
            count = step if row is None else _count(key, row) + step
            if count:
                transaction.put(key, _ROW.pack(_crc(key, _COUNT.pack(count)), count), db=database)
            else:
                transaction.delete(key, db=database)


def read(transaction: Transaction, database: Database) -> dict[str, int]:
    """Give the number of resources of each kind that has any."""
    # The checksum is over the key as well, so it is looked at before the key is decoded.
    rows = [(key, _count(key, row)) for key, row in transaction.cursor(db=database)]
    return {key.decode(): count for key, count in rows}


def _crc(key: bytes, count: bytes) -> int:
    return crc32c(crc32c(0, key), count)


def _count(key: bytes, row: bytes) -> int:
    if len(row) != _ROW.size or _ROW.unpack(row)[0] != _crc(key, row[4:]):
        raise CorruptView("counts", f"the row of {key.decode(errors='replace')!r} is damaged")
    return int(_ROW.unpack(row)[1])
