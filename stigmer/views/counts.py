"""The `counts` view: how many resources there are of each kind."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar

from stigmer.errors import CorruptView
from stigmer.log.format import crc32c
from stigmer.views.view import Databases, FoldCommit, Lookup, Transaction

DATABASE = "counts.1"

_ROW = struct.Struct("<IQ")
_COUNT = struct.Struct("<Q")


class Counts:
    """The view kind -> number of resources."""

    name: ClassVar[str] = "counts"
    databases: ClassVar[Sequence[str]] = (DATABASE,)

    def __init__(self) -> None:
        """Start with nothing in memory."""
        self.memory: dict[str, int] = {}

    @property
    def unflushed(self) -> int:
        """How many things changed since the last flush."""
        return len(self.memory)

    def fold(self, lookup: Lookup, commits: Sequence[FoldCommit]) -> dict[str, int]:
        """Count up for what came into being and down for what went."""
        steps: Counter[str] = Counter()
        for commit in commits:
            for change in commit.changes:
                if change.value is None:
                    steps[change.kind] -= change.was_there
                elif not change.was_there:
                    steps[change.kind] += 1
        return {kind: self._now(lookup, kind) + step for kind, step in steps.items() if step}

    def _now(self, lookup: Lookup, kind: str) -> int:
        if kind in self.memory:
            return self.memory[kind]
        key = kind.encode()
        row = lookup(DATABASE, key)
        return 0 if row is None else _count(key, row)

    def take(self, folded: dict[str, int]) -> None:
        """Make what a fold gave part of the memory."""
        self.memory.update(folded)

    def flush(self, transaction: Transaction, databases: Databases) -> None:
        """Put the numbers that changed; a kind of which there is nothing has no row."""
        database = databases[DATABASE]
        for kind, count in self.memory.items():
            key = kind.encode()
            if count:
                transaction.put(key, _ROW.pack(_crc(key, _COUNT.pack(count)), count), db=database)
            else:
                transaction.delete(key, db=database)

    def forget(self) -> None:
        """Begin a new memory after a flush."""
        self.memory = {}


def read(transaction: Transaction, databases: Databases, memory: Mapping[str, int]) -> dict[str, int]:
    """Give the number of resources of each kind that has any; `memory` is that of the view at the same moment."""
    # The checksum is over the key as well, so it is looked at before the key is decoded.
    rows = [(key, _count(key, row)) for key, row in transaction.cursor(db=databases[DATABASE])]
    counts = {key.decode(): count for key, count in rows}
    counts.update(memory)
    return {kind: counts[kind] for kind in sorted(counts) if counts[kind]}


def _crc(key: bytes, count: bytes) -> int:
    return crc32c(crc32c(0, key), count)


def _count(key: bytes, row: bytes) -> int:
    if len(row) != _ROW.size or _ROW.unpack(row)[0] != _crc(key, row[4:]):
        raise CorruptView("counts", f"the row of {key.decode(errors='replace')!r} is damaged")
    return int(_ROW.unpack(row)[1])
