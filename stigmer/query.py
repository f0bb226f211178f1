"""Questions to the indexes: which resources of a kind hold to some conditions, page by page.

Owns the way from conditions to rows: what is taken from the views' memory, which index is walked, how the total is
known, what a page token is bound to. A question knows no store; `Store.list_indexed` has it read.

Invariants: a page is as of one moment; a resource comes once, whatever it holds of what is asked for; the work depends
on what the page holds and, with several conditions, on the rarest of them, never on the number of resources.
"""

from __future__ import annotations

import hashlib
import heapq
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from stigmer import names, page_tokens
from stigmer.errors import CorruptView, InvalidArgument
from stigmer.model import IndexedPage, IndexEntry
from stigmer.views import index, snapshot, terms
from stigmer.views.index import Index
from stigmer.views.projector import Projector
from stigmer.views.snapshot import Snapshot
from stigmer.views.view import Change, Databases, Lookup, Transaction, lookup_in

S = TypeVar("S")
T_co = TypeVar("T_co", covariant=True)

Condition = tuple[str, Sequence[str]]
"""An index and texts, one of which a resource must have."""

_TOKEN_MARK = b"\0"
_QUESTION_BYTES = 8


class _Condition(NamedTuple):
    terms: tuple[bytes, ...]
    """Keys of terms, one of which must hold; sorted, no two the same."""
    is_disjoint: bool
    """Whether no resource can have two of them."""


class _Selected(NamedTuple):
    """What memory had at the moment of the page."""

    places: dict[bytes, index.Places]
    sizes: dict[bytes, int | None]
    changes: dict[bytes, Change]


class Question(Protocol[S, T_co]):
    """What can be asked of the views' memory and rows as of one moment."""

    def unflushed(self, projector: Projector) -> int:
        """Give how much of memory `select` has to copy."""

    def select(self, projector: Projector) -> S:
        """Take from memory what the answer needs; quick, for nothing is folded meanwhile."""

    def work(self, transaction: Transaction, databases: Databases, selected: S) -> T_co:
        """Answer."""


class Entries:
    """The question which resources have one term, the oldest first. The whole answer is one: for small sets."""

    def __init__(self, kind: str, name: str, text: str, qualifier: str | None = None) -> None:
        """Ask by an index of a kind; with `qualifier`, of entries that have this one. Raises `InvalidArgument`."""
        terms.check(kind, name)
        self._term = terms.term_key(kind, name, text)
        self._qualifier = None if qualifier is None else terms.qualifier_of(qualifier)

    def unflushed(self, projector: Projector) -> int:
        """Give how much of memory `select` has to copy."""
        return len(projector.view(Index).memory.entries.get(self._term, ()))

    def select(self, projector: Projector) -> index.Places:
        """Take from memory what the answer needs."""
        return projector.view(Index).memory.places(self._term)

    def work(self, transaction: Transaction, databases: Databases, places: index.Places) -> list[IndexEntry]:
        """Answer from memory and rows of one moment."""
        entries = index.entries_of(transaction, databases, places, self._term)
        return [entry for entry in entries if self._qualifier is None or entry.qualifier == self._qualifier]


class Query:
    """The question for a page of the resources that hold to conditions, in the order of their creation."""

    def __init__(
        self,
        store_id: str,
        kind: str,
        where: Sequence[Condition],
        *,
        limit: int,
        page_token: str,
        page: int,
        bytes_max: int,
        newest_first: bool,
    ) -> None:
        """Ask; raises `InvalidArgument` where there is no such index, or the token is one of another question."""
        if limit < 0:
            raise InvalidArgument("limit", f"must not be negative, but is {limit}")
        if page < 0 or (page > 1 and not limit):
            raise InvalidArgument("page", f"{page} is no page: they are counted from 1, and by a limit")
        self._store_id = store_id
        self._kind = kind
        self._conditions = _conditions(kind, where)
        self._terms = sorted({term for condition in self._conditions for term in condition.terms})
        self._limit = limit or sys.maxsize
        self._bytes_max = bytes_max
        self._newest_first = newest_first
        self._question = self._digest()
        self._behind = self._place_in(page_token) if page_token else b""
        # Where there is a token, it says where the page begins.
        self._skipped = 0 if page_token or page <= 1 else (page - 1) * limit

    def _digest(self) -> bytes:
        """Give what tells this question from others: all but the size of its pages."""
        asked = repr((sorted(condition.terms for condition in self._conditions), self._newest_first))
        return hashlib.sha256(asked.encode()).digest()[:_QUESTION_BYTES]

    def _place_in(self, page_token: str) -> bytes:
        start = _TOKEN_MARK + self._question
        place = page_tokens.place_in(self._store_id, page_token)
        if not place.startswith(start):
            raise InvalidArgument("page_token", "belongs to another list than this one")
        behind = place[len(start) :]
        try:
            names.check_id(index.id_at(behind).decode())
        except (UnicodeDecodeError, InvalidArgument) as error:
            raise InvalidArgument("page_token", "is not one that this store gave out") from error
        return behind

    def unflushed(self, projector: Projector) -> int:
        """Give how much of memory `select` has to copy."""
        entries = projector.view(Index).memory.entries
        changed = sum(len(entries.get(term, ())) for term in self._terms)
        return max(changed, len(projector.view(Snapshot).memory))

    def select(self, projector: Projector) -> _Selected:
        """Take from memory what the page needs."""
        memory = projector.view(Index).memory
        return _Selected(
            {term: memory.places(term) for term in self._terms},
            {term: memory.size_in_memory(term) for term in self._terms},
            projector.view(Snapshot).memory.copy(),
        )

    def work(self, transaction: Transaction, databases: Databases, selected: _Selected) -> IndexedPage:
        """Answer from memory and rows of one moment."""
        sizes = self._sizes(lookup_in(transaction, databases), selected)
        first, *others = sorted(self._conditions, key=lambda condition: sum(sizes[term] for term in condition.terms))
        # Walking from the start tells the total where the sizes do not.
        total = sum(sizes[term] for term in first.terms) if not others and first.is_disjoint else None
        if total is not None and self._skipped >= total:
            return IndexedPage([], "", total)
        rows: list[bytes] = []
        left, skipped, taken, count = self._limit, self._skipped, 0, 0
        last = b""
        is_full = has_more = False
        for place in self._walk(transaction, databases, selected, first, b"" if total is None else self._behind):
            if not all(self._holds(transaction, databases, selected, other, place) for other in others):
                continue
            count += 1
            if is_full or not self._is_on_the_way(place):
                has_more |= is_full
            elif skipped:
                skipped -= 1
            else:
                row = self._row(transaction, databases, selected, place)
                taken += len(row)
                if rows and taken > self._bytes_max:
                    is_full = has_more = True
                else:
                    rows.append(row)
                    left -= 1
                    last = place
                    is_full = left == 0 or taken >= self._bytes_max
            if has_more and total is not None:
                break
        token = page_tokens.token_of(self._store_id, _TOKEN_MARK + self._question + last) if has_more else ""
        return IndexedPage(rows, token, count if total is None else total)

    def _sizes(self, lookup: Lookup, selected: _Selected) -> dict[bytes, int]:
        return {
            term: index.stored_size(lookup, term) if size is None else size for term, size in selected.sizes.items()
        }

    def _is_on_the_way(self, place: bytes) -> bool:
        """Say whether a place lies behind the one where the page before ended."""
        if not self._behind:
            return True
        return place < self._behind if self._newest_first else place > self._behind

    def _walk(
        self, transaction: Transaction, databases: Databases, selected: _Selected, condition: _Condition, behind: bytes
    ) -> Iterator[bytes]:
        """Give the places of the resources to which a condition holds, each once."""
        walks = [
            index.places_of(
                transaction,
                databases,
                selected.places[term],
                term,
                behind=behind,
                newest_first=self._newest_first,
            )
            for term in condition.terms
        ]
        before = b""
        for place, _ in walks[0] if len(walks) == 1 else heapq.merge(*walks, reverse=self._newest_first):
            if place != before:
                yield place
            before = place

    def _holds(
        self, transaction: Transaction, databases: Databases, selected: _Selected, condition: _Condition, place: bytes
    ) -> bool:
        return any(
            index.has_place(transaction, databases, selected.places[term], term, place) for term in condition.terms
        )

    def _row(self, transaction: Transaction, databases: Databases, selected: _Selected, place: bytes) -> bytes:
        key = self._kind.encode() + b"/" + index.id_at(place)
        row = snapshot.message_in(transaction, databases, selected.changes.get(key), key)
        if row is None:
            raise CorruptView("index", f"has {key.decode(errors='replace')!r}, which is not in the snapshot")
        return row


def _conditions(kind: str, where: Sequence[Condition]) -> list[_Condition]:
    """Give the conditions as terms; where there is none, the one that holds for every resource of the kind."""
    found = []
    for name, texts in where or ((terms.ALL, ("",)),):
        terms.check(kind, name)
        keys = tuple(sorted({terms.term_key(kind, name, text) for text in texts}))
        found.append(_Condition(keys, len(keys) <= 1 or terms.is_single(kind, name)))
    return found
