"""The `snapshot` view: every resource as it is now.

Owns the row: a CRC-32C over key and message, then the `Resource` message in one canonical form (docs/FORMAT.md). Get
and List give the message's bytes out as they lie; `verified` checks the CRC first, for LMDB has no checksums.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from stigmer.errors import CorruptView
from stigmer.log.format import crc32c
from stigmer.model import Resource
from stigmer.views.view import Change, Database, Databases, FoldCommit, Transaction

DATABASE = "snapshot.1"

_CRC = struct.Struct("<I")
# Tags and values of the four fields of fixed width: revision, created_revision, created_at_ns, updated_at_ns.
_FIXED = struct.Struct("<BQBQBqBq")
_REVISION_TAG, _CREATED_REVISION_TAG, _CREATED_AT_TAG, _UPDATED_AT_TAG = 0x09, 0x11, 0x19, 0x21
_FIXED_VALUES = struct.Struct("<xQxQxqxq")
_KIND_TAG, _ID_TAG, _VALUE_TAG = b"\x2a", b"\x32", b"\x3a"
_MESSAGE = _CRC.size

_KNOWN_MAX = 32_768


class Head(NamedTuple):
    """The fields of a row that are read without parsing it."""

    revision: int
    created_revision: int
    created_at_ns: int


class Snapshot:
    """The view `kind/id` -> resource, in one environment."""

    name: ClassVar[str] = "snapshot"
    databases: ClassVar[Sequence[str]] = (DATABASE,)

    def __init__(self) -> None:
        """Start without knowing any row."""
        # The creation (revision, time) of keys folded lately, so that their rows, which may be large, need not be
        # read for it; None where the key is not there. It holds for the state after revision `_known_at`.
        self._known: dict[bytes, tuple[int, int] | None] = {}
        self._known_at = 0

    def fold(self, transaction: Transaction, databases: Databases, commits: Sequence[FoldCommit]) -> None:
        """Put the last state of each key that the commits change, and note in each change whether the key was there."""
        database = databases[DATABASE]
        # A transaction that failed and is tried again does not follow on what was noted for it.
        if commits[0].first_revision != self._known_at + 1 or len(self._known) > _KNOWN_MAX:
            self._known = {}
        known = self._known
        self._known_at = -1  # of no revision, should this stop half way
        last: dict[bytes, Change] = {}
        for commit in commits:
            for change in commit.changes:
                key = change.key
                if key in known:
                    created = known[key]
                else:
                    head = read_head(transaction, database, key)
                    created = None if head is None else (head.created_revision, head.created_at_ns)
                if created is not None:
                    change.was_there = True
                    known[key] = None if change.value is None else created
                else:
                    known[key] = None if change.value is None else (change.revision, change.time_ns)
                last[key] = change
        self._known_at = commits[-1].last_revision
        rows = []
        # In the order of the keys, neighbours fall on the same pages.
        for key in sorted(last):
            created = known[key]
            if created is None:
                transaction.delete(key, db=database)
            else:
                rows.append((key, _row(key, last[key], created)))
        with transaction.cursor(db=database) as cursor:
            cursor.putmulti(rows)


def read_head(transaction: Transaction, database: Database, key: bytes) -> Head | None:
    """Read revision and creation of the row under a key; None where there is none. The checksum is verified."""
    row = transaction.get(key, db=database)
    if row is None:
        return None
    _, revision, _, created_revision, _, created_at_ns, _, _ = _FIXED.unpack_from(verified(key, row))
    return Head(revision, created_revision, created_at_ns)


def verified(key: bytes, row: bytes) -> bytes:
    """Give the message in a row, or raise `CorruptView` where the checksum does not match."""
    message = row[_MESSAGE:]
    if len(row) < _MESSAGE or _CRC.unpack_from(row)[0] != crc32c(crc32c(0, key), message):
        raise CorruptView("snapshot", f"the row of {key.decode(errors='replace')!r} is damaged")
    return message


def resource_of(kind: str, message: bytes) -> Resource:
    """Decode a row's message, of a resource of this kind.

    By the places that the canonical form gives to its fields, in half the time that parsing takes: `codec.resource_of`
    is for messages from elsewhere.
    """
    revision, created_revision, created_at_ns, updated_at_ns = _FIXED_VALUES.unpack_from(message)
    id_at = _FIXED.size + 4 + len(kind)  # behind tag and size of the kind, the kind, tag and size of the id
    id_size = message[id_at - 1]
    if id_size > 127:
        id_size += (message[id_at] - 1) << 7
        id_at += 1
    value_at = id_at + id_size
    id = str(message[id_at:value_at], "utf-8")
    if value_at == len(message):
        value = b""
    else:
        value_at += 1
        while message[value_at] > 127:
            value_at += 1
        value = message[value_at + 1 :]
    return Resource(kind, id, value, revision, created_revision, created_at_ns, updated_at_ns)


def _row(key: bytes, last: Change, created: tuple[int, int]) -> bytes:
    value = last.value or b""
    id = key[len(last.kind) + 1 :]
    message = (
        _FIXED.pack(
            _REVISION_TAG,
            last.revision,
            _CREATED_REVISION_TAG,
            created[0],
            _CREATED_AT_TAG,
            created[1],
            _UPDATED_AT_TAG,
            last.time_ns,
        )
        + _before_id(last.kind, len(id))
        + id
        + (_BEFORE_VALUE[len(value)] if len(value) < _SIZES_PREPARED else _before_value(len(value)))
        + value
    )
    return _CRC.pack(crc32c(crc32c(0, key), message)) + message


@functools.lru_cache(maxsize=4096)
def _before_id(kind: str, id_size: int) -> bytes:
    """Give what stands between the fixed fields and the id: the kind's field, and tag and size of the id."""
    encoded = kind.encode()
    return _KIND_TAG + _varint(len(encoded)) + encoded + _ID_TAG + _varint(id_size)


def _before_value(size: int) -> bytes:
    """Give tag and size of the value; nothing for an empty one."""
    return _VALUE_TAG + _varint(size) if size else b""


def _varint(n: int) -> bytes:
    """Encode a length as protobuf does: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while n > 127:
        encoded.append(n & 127 | 128)
        n >>= 7
    encoded.append(n)
    return bytes(encoded)


# Most values are small, and looking their sizes up is quicker than encoding them.
_SIZES_PREPARED = 2048
_BEFORE_VALUE = [_before_value(size) for size in range(_SIZES_PREPARED)]
