"""The checksums of all rows of a generation, compared without folding anything.

Owns the walk. It reads in many short transactions, so the map can be enlarged and pages are freed meanwhile; a row that
changes while it is under way is looked at as it is then.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from stigmer.log.format import crc32c
from stigmer.views.environment import DAMAGE, Environment
from stigmer.views.projector import VIEWS
from stigmer.views.requests import ORDER_DATABASE
from stigmer.views.view import Transaction, shown_key

EXAMPLES_MAX = 10

_CRC = struct.Struct("<I")
_ROWS_PER_STEP = 5_000
_STEP_BYTES = 8 * 1024 * 1024
# A number and a request id, which has its own row with a checksum; they only say in which order ids are forgotten.
_WITHOUT_CHECKSUM = frozenset({ORDER_DATABASE})


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
        self.total = environment.read(
            lambda transaction, databases: sum(
                transaction.stat(databases[name])["entries"] for view in VIEWS for name in view.databases
            )
        )

    def __iter__(self) -> Iterator[int]:
        for view in VIEWS:
            for name in view.databases:
                behind: bytes | None = b""
                while behind is not None:
                    transaction = self._environment.begin()
                    try:
                        behind = self._step(transaction, view.name, name, behind)
                    except DAMAGE as error:
                        self._note(f"{view.name}: cannot be read: {error}")
                        return
                    finally:
                        self._environment.end(transaction)
                    yield self.rows

    def _step(self, transaction: Transaction, view: str, name: str, behind: bytes) -> bytes | None:
        """Look at the next rows; give the last key, or None where there are no more."""
        cursor = transaction.cursor(db=self._environment.databases[name])
        is_there = cursor.set_range(behind) if behind else cursor.first()
        if is_there and behind and cursor.key() == behind:
            is_there = cursor.next()
        size = 0
        count = 0
        while is_there:
            key, row = cursor.item()
            if not _is_whole(name, key, row):
                self._note(f"{view}: {shown_key(key)}: its checksum does not match")
            self.rows += 1
            count += 1
            size += len(row)
            if count >= _ROWS_PER_STEP or size > _STEP_BYTES:
                return bytes(key)
            is_there = cursor.next()
        return None

    def _note(self, example: str) -> None:
        self.damaged += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(example)


def _is_whole(name: str, key: bytes, row: bytes) -> bool:
    if name in _WITHOUT_CHECKSUM:
        return len(key) == 8
    return len(row) >= _CRC.size and _CRC.unpack_from(row)[0] == crc32c(crc32c(0, key), row[_CRC.size :])
