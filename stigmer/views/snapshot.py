"""The `snapshot` view: every resource as it is now.

Owns the row: a CRC-32C over key and message, then the `Resource` message in one canonical form (docs/FORMAT.md). Get
and List give the message's bytes out as they lie; `verified` checks the CRC first, for LMDB has no checksums.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from stigmer.errors import CorruptView
from stigmer.log.format import crc32c
from stigmer.views.view import Change, Database, Databases, FoldCommit, Transaction

DATABASE = "snapshot.1"

_CRC = struct.Struct("<I")
# Tags and values of the four fields of fixed width: revision, created_revision, created_at_ns, updated_at_ns.
_HEAD = struct.Struct("<BQBQBqBq")
_HEAD_TAGS = (0x09, 0x11, 0x19, 0x21)
_KIND_TAG, _ID_TAG, _VALUE_TAG = b"\x2a", b"\x32", b"\x3a"


class Head(NamedTuple):
    """The fields of a row that are read without parsing it."""

    revision: int
    created_revision: int
    created_at_ns: int


class _Pending(NamedTuple):
    """What a key will be after the commits that are being folded."""

    last: Change
    created_revision: int
    created_at_ns: int


class Snapshot:
    """The view `kind/id` -> resource."""

    name = "snapshot"
    databases = (DATABASE,)

    def fold(self, transaction: Transaction, databases: Databases, commits: Sequence[FoldCommit]) -> None:
        """Put the last state of each key that the commits change, and note in each change whether the key was there."""
        database = databases[DATABASE]
        pending: dict[bytes, _Pending | None] = {}
        for commit in commits:
            for change in commit.changes:
                key = change.key
                if key in pending:
                    before = pending[key]
                    created = None if before is None else before[1:]
                else:
                    head = read_head(transaction, database, key)
                    created = None if head is None else head[1:]
                change.was_there = created is not None
                if change.value is None:
                    pending[key] = None
                elif created is None:
                    pending[key] = _Pending(change, change.revision, change.time_ns)
                else:
                    pending[key] = _Pending(change, created[0], created[1])
        # In the order of the keys, neighbours fall on the same pages.
        for key in sorted(pending):
            after = pending[key]
            if after is None:
                transaction.delete(key, db=database)
            else:
                transaction.put(key, _row(key, after), db=database)


def read_head(transaction: Transaction, database: Database, key: bytes) -> Head | None:
    """Read revision and creation of the row under a key; None where there is none. The checksum is verified."""
    row = transaction.get(key, db=database)
    if row is None:
        return None
    verified(key, row)
    _, revision, _, created_revision, _, created_at_ns, _, _ = _HEAD.unpack_from(row, _CRC.size)
    return Head(revision, created_revision, created_at_ns)


def verified(key: bytes, row: bytes) -> bytes:
    """Give the message in a row, or raise `CorruptView` where the checksum does not match."""
    message = row[4:]
    if _CRC.unpack_from(row)[0] != crc32c(crc32c(0, key), message):
        raise CorruptView("snapshot", f"the row of {key.decode(errors='replace')!r} is damaged")
    return message


def _row(key: bytes, pending: _Pending) -> bytes:
    change = pending.last
    value = change.value
    assert value is not None
    kind, _, id = key.partition(b"/")
    t1, t2, t3, t4 = _HEAD_TAGS
    head = _HEAD.pack(t1, change.revision, t2, pending.created_revision, t3, pending.created_at_ns, t4, change.time_ns)
    parts = [head, _KIND_TAG, _varint(len(kind)), kind, _ID_TAG, _varint(len(id)), id]
    if value:
        parts += (_VALUE_TAG, _varint(len(value)), value)
    message = b"".join(parts)
    return _CRC.pack(crc32c(crc32c(0, key), message)) + message


_SHORT_VARINTS = [bytes((n,)) for n in range(128)]


def _varint(n: int) -> bytes:
    """Encode a length as protobuf does: seven bits a byte, the lowest first."""
    if n < 128:
        return _SHORT_VARINTS[n]
    encoded = bytearray()
    while n > 127:
        encoded.append(n & 127 | 128)
        n >>= 7
    encoded.append(n)
    return bytes(encoded)
