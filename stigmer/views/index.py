"""The `index` view: which resources have a term, in the order of their creation, how many, and which terms each has.

Owns three databases; `terms` says what is a term. A resource's *place* among those that have a term is its
created_revision, 8 bytes big-endian, then its id. Every row begins with a CRC-32C over its key and the rest.

    index         term's key, NUL, place -> qualifier
    index_sizes   term's key -> number of entries
    index_terms   kind/id -> created_revision and terms, so that a change needs no look at the value before

Memory is an `Overlay` of these rows. The writer, which decides on what is not folded yet, lays another one over it.
Functions that read take what memory has of a term, copied at the moment in which their transaction began.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

from stigmer.errors import CorruptView
from stigmer.log.format import crc32c
from stigmer.model import IndexEntry, Revision
from stigmer.views import terms
from stigmer.views.terms import Term
from stigmer.views.view import Change, Databases, FoldCommit, Lookup, Transaction

ENTRIES_DATABASE = "index.1"
SIZES_DATABASE = "index_sizes.1"
TERMS_DATABASE = "index_terms.1"

_CRC = struct.Struct("<I")
_SIZE = struct.Struct("<Q")
_REVISION = struct.Struct(">Q")
_TERM = struct.Struct("<HH")
_SEPARATOR = b"\0"
# Behind every entry of a term, and before those of any other.
_BEHIND = b"\1"

# The terms of so many resources are kept at hand, of those that have no more than so many.
_KNOWN_MAX = 16_384
_KNOWN_TERMS_MAX = 32

Places = Mapping[bytes, bytes | None]
"""What changed of a term: place -> qualifier; None for an entry that is no more."""


class Indexed(NamedTuple):
    """What the view knows of one resource."""

    created_revision: int
    terms: tuple[Term, ...]
    """Sorted."""


class Overlay:
    """What changes come to, seen on top of the rows; or of another overlay, itself on top of the rows."""

    __slots__ = ("_below", "entries", "resources", "seen", "sizes")

    def __init__(self, below: Overlay | None = None) -> None:
        """Start with no change, over rows as `below` has changed them."""
        self._below = below
        self.entries: dict[bytes, dict[bytes, bytes | None]] = {}
        """Term's key -> place -> qualifier; None for an entry that is no more. Holds what differs from below."""
        self.sizes: dict[bytes, int] = {}
        self.resources: dict[bytes, Indexed | None] = {}
        """Key -> what is known of the resource that changed; None for one that is no more."""
        self.seen: dict[bytes, Indexed | None] = {}
        """The same for all that were looked at, whether they changed or not."""

    def change(self, lookup: Lookup, key: bytes, before: Indexed | None, after: Indexed | None) -> None:
        """Note that a resource, known as `before` until now, is known as `after` from now on."""
        self.seen[key] = after
        if before == after:
            return
        self.resources[key] = after
        id = key[key.index(b"/") + 1 :]
        # A creation and its end are two changes, so both sides have the same place.
        indexed = before or after
        assert indexed is not None
        place = _REVISION.pack(indexed.created_revision) + id
        old = {} if before is None else dict(before.terms)
        new = {} if after is None else dict(after.terms)
        for term in old.keys() - new.keys():
            self.entries.setdefault(term, {})[place] = None
            self._step(lookup, term, -1)
        for term, qualifier in new.items():
            if term not in old:
                self._step(lookup, term, 1)
            elif qualifier == old[term]:
                continue
            self.entries.setdefault(term, {})[place] = qualifier

    def _step(self, lookup: Lookup, term: bytes, step: int) -> None:
        size = self.size(lookup, term) + step
        if size < 0:
            raise CorruptView("index", f"the number of entries of {term!r} is too small")
        self.sizes[term] = size

    def places(self, term: bytes) -> dict[bytes, bytes | None]:
        """Give a copy of what changed of a term, here and below."""
        found = {} if self._below is None else self._below.places(term)
        found.update(self.entries.get(term, ()))
        return found

    def size(self, lookup: Lookup, term: bytes) -> int:
        """Give how many resources have a term."""
        size = self.size_in_memory(term)
        return stored_size(lookup, term) if size is None else size

    def size_in_memory(self, term: bytes) -> int | None:
        """Give how many resources have a term, None where the row still says it."""
        if term in self.sizes:
            return self.sizes[term]
        return None if self._below is None else self._below.size_in_memory(term)

    def resource(self, lookup: Lookup, key: bytes) -> Indexed | None:
        """Give the creation and the terms of a resource, None where there is none."""
        overlay: Overlay | None = self
        while overlay is not None:
            if key in overlay.resources:
                return overlay.resources[key]
            overlay = overlay._below
        row = lookup(TERMS_DATABASE, key)
        return None if row is None else _indexed(key, row)

    def fold(self, lookup: Lookup, change: Change) -> None:
        """Fold one numbered change of a declared kind that is not in the log yet, whose creation nobody filled in."""
        before = self.resource(lookup, change.key)
        self.change(lookup, change.key, before, _after(change, before))


class Index:
    """The view of terms and the resources that have them."""

    name: ClassVar[str] = "index"
    databases: ClassVar[Sequence[str]] = (ENTRIES_DATABASE, SIZES_DATABASE, TERMS_DATABASE)

    def __init__(self) -> None:
        """Start with nothing in memory."""
        self.memory = Overlay()
        self._entries_in_memory = 0
        # What resources folded lately have: a status that is reported often costs one parse and no look into LMDB. It
        # grows only with the memory, so it holds for the same state, whatever became of a fold.
        self._known: dict[bytes, Indexed | None] = {}

    @property
    def unflushed(self) -> int:
        """How many rows changed since the last flush."""
        return self._entries_in_memory + len(self.memory.sizes) + len(self.memory.resources)

    def fold(self, lookup: Lookup, commits: Sequence[FoldCommit]) -> Overlay | None:
        """Give what changes of the terms of declared kinds; None where nothing was looked at."""
        overlay: Overlay | None = None
        for commit in commits:
            for change in commit.changes:
                if change.kind in terms.DECLARED:
                    if overlay is None:
                        overlay = Overlay(self.memory)
                    self._fold_change(overlay, lookup, change)
        return overlay

    def _fold_change(self, overlay: Overlay, lookup: Lookup, change: Change) -> None:
        key = change.key
        if key in overlay.seen:
            before = overlay.seen[key]
        elif key in self._known:
            before = self._known[key]
        else:
            before = overlay.resource(lookup, key)
        # `snapshot` folded this change before, so both must agree on what was there.
        if (before is not None) != change.was_there or (
            before is not None and change.value is not None and before.created_revision != change.created_revision
        ):
            raise CorruptView("index", f"the terms of {key.decode()!r} do not agree with the snapshot")
        overlay.change(lookup, key, before, _after(change, before))

    def take(self, folded: Overlay) -> None:
        """Make what a fold gave part of the memory."""
        memory = self.memory
        for term, places in folded.entries.items():
            mine = memory.entries.get(term)
            if mine is None:
                memory.entries[term] = places
                self._entries_in_memory += len(places)
            else:
                before = len(mine)
                mine.update(places)
                self._entries_in_memory += len(mine) - before
        memory.sizes.update(folded.sizes)
        memory.resources.update(folded.resources)
        self._note(folded.seen)

    def _note(self, seen: Mapping[bytes, Indexed | None]) -> None:
        if len(self._known) + len(seen) > _KNOWN_MAX:
            self._known = {}
            if len(seen) > _KNOWN_MAX:
                return
        for key, indexed in seen.items():
            if indexed is not None and len(indexed.terms) > _KNOWN_TERMS_MAX:
                self._known.pop(key, None)
            else:
                self._known[key] = indexed

    def flush(self, transaction: Transaction, databases: Databases) -> None:
        """Put and delete the rows that changed."""
        memory = self.memory
        entries = {
            term + _SEPARATOR + place: qualifier
            for term, places in memory.entries.items()
            for place, qualifier in places.items()
        }
        sizes = {term: _SIZE.pack(size) if size else None for term, size in memory.sizes.items()}
        resources = {
            key: None if indexed is None else _payload(key, indexed) for key, indexed in memory.resources.items()
        }
        for name, rows in ((ENTRIES_DATABASE, entries), (SIZES_DATABASE, sizes), (TERMS_DATABASE, resources)):
            database = databases[name]
            changed = []
            # In the order of the keys, neighbours fall on the same pages.
            for key in sorted(rows):
                payload = rows[key]
                if payload is None:
                    transaction.delete(key, db=database)
                else:
                    changed.append((key, _CRC.pack(_crc(key, payload)) + payload))
            with transaction.cursor(db=database) as cursor:
                cursor.putmulti(changed)

    def forget(self) -> None:
        """Begin a new memory after a flush."""
        self.memory = Overlay()
        self._entries_in_memory = 0


def _after(change: Change, before: Indexed | None) -> Indexed | None:
    """Give what is known of a resource after a change."""
    if change.value is None:
        return None
    if change.terms is None:
        change.terms = terms.terms_of(change.kind, change.value)
    return Indexed(change.revision if before is None else before.created_revision, change.terms)


# --- reading -------------------------------------------------------------------------------------------------


def place_of(created_revision: int, id: str) -> bytes:
    """Give the place of a resource among those that have the same term."""
    return _REVISION.pack(created_revision) + id.encode()


def entry_of(place: bytes, qualifier: bytes = b"") -> IndexEntry:
    """Give the entry at a place."""
    return IndexEntry(
        place[_REVISION.size :].decode(),
        terms.shown_qualifier(qualifier),
        Revision(_REVISION.unpack_from(place)[0]),
    )


def id_at(place: bytes) -> bytes:
    """Give the bytes of the id of the resource at a place."""
    return place[_REVISION.size :]


def entries_of(
    transaction: Transaction,
    databases: Databases,
    in_memory: Places,
    term: bytes,
    *,
    behind: bytes = b"",
    newest_first: bool = False,
) -> Iterator[IndexEntry]:
    """Give the resources that have a term, in the order of their creation; of those `behind` a place, if given.

    `in_memory` is what `Overlay.places` gave for the moment of the transaction.
    """
    found = places_of(transaction, databases, in_memory, term, behind=behind, newest_first=newest_first)
    return (entry_of(place, qualifier) for place, qualifier in found)


def places_of(
    transaction: Transaction,
    databases: Databases,
    in_memory: Places,
    term: bytes,
    *,
    behind: bytes = b"",
    newest_first: bool = False,
) -> Iterator[tuple[bytes, bytes]]:
    """Give the same as places and qualifiers."""
    read = _stored_backward if newest_first else _stored_forward
    stored = read(transaction, databases, term, behind)
    if not in_memory:
        return stored
    fresh = [
        (place, qualifier)
        for place, qualifier in in_memory.items()
        if qualifier is not None and (not behind or (place < behind if newest_first else place > behind))
    ]
    fresh.sort(reverse=newest_first)
    unchanged = (entry for entry in stored if entry[0] not in in_memory)
    return heapq.merge(unchanged, fresh, reverse=newest_first)


def has_place(transaction: Transaction, databases: Databases, in_memory: Places, term: bytes, place: bytes) -> bool:
    """Say whether the resource at a place has a term; `in_memory` is as for `entries_of`."""
    if place in in_memory:
        return in_memory[place] is not None
    key = term + _SEPARATOR + place
    row = transaction.get(key, db=databases[ENTRIES_DATABASE])
    if row is None:
        return False
    _verified(key, row)
    return True


def stored_size(lookup: Lookup, term: bytes) -> int:
    """Give how many resources had a term when it was flushed."""
    row = lookup(SIZES_DATABASE, term)
    return 0 if row is None else _size_in(term, row)


def _size_in(term: bytes, row: bytes) -> int:
    payload = _verified(term, row)
    if len(payload) != _SIZE.size:
        raise _damaged(term)
    return int(_SIZE.unpack(payload)[0])


def stored_sizes(transaction: Transaction, databases: Databases) -> Iterator[int]:
    """Give how many resources had each term when it was flushed."""
    for term, row in transaction.cursor(db=databases[SIZES_DATABASE]):
        yield _size_in(term, row)


def _stored_forward(
    transaction: Transaction, databases: Databases, term: bytes, behind: bytes
) -> Iterator[tuple[bytes, bytes]]:
    start = term + _SEPARATOR
    with transaction.cursor(db=databases[ENTRIES_DATABASE]) as cursor:
        if not cursor.set_range(start + behind):
            return
        for key, row in cursor.iternext():
            if not key.startswith(start):
                return
            place = key[len(start) :]
            if place != behind:
                yield place, _verified(key, row)


def _stored_backward(
    transaction: Transaction, databases: Databases, term: bytes, behind: bytes
) -> Iterator[tuple[bytes, bytes]]:
    start = term + _SEPARATOR
    with transaction.cursor(db=databases[ENTRIES_DATABASE]) as cursor:
        # One step back from the first row that is not wanted any more; from the end, where there is none.
        found = cursor.set_range(start + behind if behind else term + _BEHIND)
        if not (cursor.prev() if found else cursor.last()):
            return
        for key, row in cursor.iterprev():
            if not key.startswith(start):
                return
            yield key[len(start) :], _verified(key, row)


# --- rows ----------------------------------------------------------------------------------------------------


def _crc(key: bytes, payload: bytes) -> int:
    return crc32c(crc32c(0, key), payload)


def _verified(key: bytes, row: bytes) -> bytes:
    payload = row[_CRC.size :]
    if len(row) < _CRC.size or _CRC.unpack_from(row)[0] != _crc(key, payload):
        raise _damaged(key)
    return payload


def _damaged(key: bytes) -> CorruptView:
    return CorruptView("index", f"the row of {key.decode(errors='backslashreplace')!r} is damaged")


def _payload(key: bytes, indexed: Indexed) -> bytes:
    """Give a resource's row without its checksum. Its terms begin with its kind, which is in the key already."""
    start = key.index(b"/") + 1
    parts = [_REVISION.pack(indexed.created_revision)]
    for term, qualifier in indexed.terms:
        parts += (_TERM.pack(len(term) - start, len(qualifier)), term[start:], qualifier)
    return b"".join(parts)


def _indexed(key: bytes, row: bytes) -> Indexed:
    payload = _verified(key, row)
    kind = key[: key.index(b"/")] + _SEPARATOR
    found = []
    at = _REVISION.size
    while at < len(payload):
        term_size, qualifier_size = _TERM.unpack_from(payload, at)
        term_at = at + _TERM.size
        at = term_at + term_size + qualifier_size
        found.append(Term(kind + payload[term_at : term_at + term_size], payload[term_at + term_size : at]))
    return Indexed(_REVISION.unpack_from(payload)[0], tuple(found))
