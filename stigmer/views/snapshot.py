"""The `snapshot` view: every resource as it is now.

Owns the row: a CRC-32C over key and message, then the `Resource` message in one canonical form (docs/FORMAT.md). Get
and List give the message's bytes out as they lie; `verified` checks the CRC first, for LMDB has no checksums.
"""

from __future__ import annotations

import functools
import operator
import struct
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

from stigmer.codec import varint
from stigmer.errors import CorruptView
from stigmer.log.format import crc32c
from stigmer.model import Resource, Revision
from stigmer.views.environment import Environment
from stigmer.views.keys import parts_of
from stigmer.views.view import Change, Databases, FoldCommit, Lookup, Transaction

DATABASE = "snapshot.1"

_CRC = struct.Struct("<I")
# Tags and values of the four fields of fixed width: revision, created_revision, created_at_ns, updated_at_ns.
_FIXED = struct.Struct("<BQBQBqBq")
_REVISION_TAG, _CREATED_REVISION_TAG, _CREATED_AT_TAG, _UPDATED_AT_TAG = 0x09, 0x11, 0x19, 0x21
_FIXED_VALUES = struct.Struct("<xQxQxqxq")
_KIND_TAG, _ID_TAG, _VALUE_TAG = b"\x2a", b"\x32", b"\x3a"
_MESSAGE = _CRC.size

_KNOWN_MAX = 65_536

_key_of = operator.attrgetter("key")


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
        self.memory: dict[bytes, Change] = {}
        # The creation (revision, time) of keys folded lately, so that their rows, which may be large, need not be
        # read for it; None where the key is not there. It holds for the state after revision `_known_at`.
        self._known: dict[bytes, tuple[int, int] | None] = {}
        self._known_at = 0

    @property
    def unflushed(self) -> int:
        """How many things changed since the last flush."""
        return len(self.memory)

    def fold(self, lookup: Lookup, commits: Sequence[FoldCommit]) -> dict[bytes, Change]:
        """Give the last change of each key, having noted in each change when its key came into being."""
        # A fold that failed and is tried again does not follow on what was noted for it.
        if commits[0].first_revision != self._known_at + 1 or len(self._known) > _KNOWN_MAX:
            self._known = {}
        known = self._known
        self._known_at = -1  # of no revision, should this stop half way
        last: dict[bytes, Change] = {}
        for commit in commits:
            for change in commit.changes:
                key = change.key
                try:
                    created = known[key]
                except KeyError:
                    created = self._creation(lookup, key)
                if change.value is None:
                    change.was_there = created is not None
                    known[key] = None
                elif created is None:
                    change.created_revision = change.revision
                    change.created_at_ns = change.time_ns
                    known[key] = (change.revision, change.time_ns)
                else:
                    change.was_there = True
                    change.created_revision, change.created_at_ns = created
                    known[key] = created
                last[key] = change
        self._known_at = commits[-1].last_revision
        return last

    def _creation(self, lookup: Lookup, key: bytes) -> tuple[int, int] | None:
        head = self.head(lookup, key)
        return None if head is None else (head.created_revision, head.created_at_ns)

    def head(self, lookup: Lookup, key: bytes) -> Head | None:
        """Give revision and creation of what is under a key, None where there is nothing. Checksums are verified."""
        change = self.memory.get(key)
        if change is not None:
            return None if change.value is None else _head_of(change)
        row = lookup(DATABASE, key)
        if row is None:
            return None
        _, revision, _, created_revision, _, created_at_ns, _, _ = _FIXED.unpack_from(verified(key, row))
        return Head(revision, created_revision, created_at_ns)

    def get(self, environment: Environment, key: bytes) -> bytes | None:
        """Give the serialized `Resource` under a key, None where there is none."""
        # Memory first: what it does not have any more is in LMDB when the transaction begins.
        change = self.memory.get(key)
        if change is None:
            row = environment.get(DATABASE, key)
            return None if row is None else verified(key, row)
        environment.check_usable()
        return None if change.value is None else message_of(change)

    def in_memory(self, start: bytes, after: bytes) -> list[Change]:
        """Give what memory has of keys that begin with `start` and lie behind `after`, in no order."""
        return [change for key, change in self.memory.items() if key.startswith(start) and key > after]

    def take(self, folded: dict[bytes, Change]) -> None:
        """Make what a fold gave part of the memory."""
        self.memory.update(folded)

    def flush(self, transaction: Transaction, databases: Databases) -> None:
        """Put the rows of the keys that changed."""
        database = databases[DATABASE]
        memory = self.memory
        rows = []
        # In the order of the keys, neighbours fall on the same pages.
        for key in sorted(memory):
            change = memory[key]
            if change.value is None:
                transaction.delete(key, db=database)
            else:
                message = message_of(change)
                rows.append((key, _CRC.pack(crc32c(crc32c(0, key), message)) + message))
        with transaction.cursor(db=database) as cursor:
            cursor.putmulti(rows)

    def forget(self) -> None:
        """Begin a new memory after a flush."""
        self.memory = {}


def head_in(transaction: Transaction, databases: Databases, in_memory: Change | None, key: bytes) -> Head | None:
    """Give revision and creation of what is under a key, None where there is nothing.

    For a transaction that gives buffers: of a row in LMDB, which may be large, the first bytes are all that is read,
    so its checksum is not verified.
    """
    if in_memory is not None:
        return None if in_memory.value is None else _head_of(in_memory)
    row = transaction.get(key, db=databases[DATABASE])
    if row is None:
        return None
    if len(row) < _MESSAGE + _FIXED.size:
        raise CorruptView("snapshot", f"the row of {key.decode(errors='replace')!r} is damaged")
    revision, created_revision, created_at_ns, _ = _FIXED_VALUES.unpack_from(row, _MESSAGE)
    return Head(revision, created_revision, created_at_ns)


def _head_of(change: Change) -> Head:
    return Head(change.revision, change.created_revision, change.created_at_ns)


def message_in(transaction: Transaction, databases: Databases, in_memory: Change | None, key: bytes) -> bytes | None:
    """Give the serialized `Resource` under a key, None where there is none; `in_memory` is what memory has of it."""
    if in_memory is None:
        row = transaction.get(key, db=databases[DATABASE])
        return None if row is None else verified(key, row)
    return None if in_memory.value is None else message_of(in_memory)


def messages(
    transaction: Transaction, databases: Databases, in_memory: Sequence[Change], start: bytes, after: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """Give key and serialized `Resource` of the keys that begin with `start` and lie behind `after`, in their order.

    `in_memory` is what the view's method of that name gave for the moment of the transaction.
    """
    changes = iter(sorted(in_memory, key=_key_of))
    change = next(changes, None)
    with transaction.cursor(db=databases[DATABASE]) as cursor:
        if cursor.set_range(max(start, after)):
            for key, row in cursor.iternext():
                if not key.startswith(start):
                    break
                if key == after:
                    continue
                while change is not None and change.key < key:
                    if change.value is not None:
                        yield change.key, message_of(change)
                    change = next(changes, None)
                if change is None or change.key != key:
                    yield key, verified(key, row)
    while change is not None:
        if change.value is not None:
            yield change.key, message_of(change)
        change = next(changes, None)


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


def resource_left_by(change: Change) -> Resource | None:
    """Give the resource as a change that was folded left it, None after a delete. Its value is not copied."""
    if change.value is None:
        return None
    kind, id = parts_of(change.key)
    return Resource(
        kind,
        id,
        change.value,
        Revision(change.revision),
        Revision(change.created_revision),
        change.created_at_ns,
        change.time_ns,
    )


def message_of(change: Change) -> bytes:
    """Give the serialized `Resource` that a save left behind, in the canonical form."""
    value = change.value or b""
    id = change.key[len(change.kind) + 1 :]
    size = len(value)
    return b"".join(
        (
            _FIXED.pack(
                _REVISION_TAG,
                change.revision,
                _CREATED_REVISION_TAG,
                change.created_revision,
                _CREATED_AT_TAG,
                change.created_at_ns,
                _UPDATED_AT_TAG,
                change.time_ns,
            ),
            _before_id(change.kind, len(id)),
            id,
            _BEFORE_VALUE[size] if size < _SIZES_PREPARED else _before_value(size),
            value,
        )
    )


@functools.lru_cache(maxsize=4096)
def _before_id(kind: str, id_size: int) -> bytes:
    """Give what stands between the fixed fields and the id: the kind's field, and tag and size of the id."""
    encoded = kind.encode()
    return _KIND_TAG + varint(len(encoded)) + encoded + _ID_TAG + varint(id_size)


def _before_value(size: int) -> bytes:
    """Give tag and size of the value; nothing for an empty one."""
    return _VALUE_TAG + varint(size) if size else b""


# Most values are small, and looking their sizes up is quicker than encoding them.
_SIZES_PREPARED = 2048
_BEFORE_VALUE = [_before_value(size) for size in range(_SIZES_PREPARED)]
