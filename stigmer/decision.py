"""Decides the commits of one group, one after the other, each against what those before it will have done.

A commit either comes complete, with preconditions on what is there, or as an *operation*: a function that is called
here, with the state that its commit will see, and gives the changes. Nothing can come between what an operation reads
and what it changes, so it neither locks nor tries again.

Owns no I/O: it reads views in a transaction that the writer began, and changes nothing but the tickets it is given. A
group may be decided twice (where views had to be mended in between), and so an operation may be called twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message

from stigmer import codec, commits
from stigmer.errors import AlreadyExists, Conflict, CorruptView, NotFound, StigmerError
from stigmer.model import Committed, Delete, IndexEntry, Revision, Save
from stigmer.views import index, snapshot, terms
from stigmer.views.environment import DAMAGE
from stigmer.views.index import Index, Overlay
from stigmer.views.keys import checked_key_of, parts_of
from stigmer.views.projector import Projector
from stigmer.views.requests import Requests
from stigmer.views.snapshot import Snapshot
from stigmer.views.view import Change, Databases, FoldCommit, Lookup, Transaction, lookup_in, number

_logger = logging.getLogger("stigmer")

_NOT_NUMBERED = 1 << 62
"""Behind every revision, for changes that have none yet."""

NOTHING = Committed(Revision(0), Revision(0))
"""The answer to an operation that decided to change nothing."""


class Ticket:
    """A commit on its way, and then its answer: `committed`, or `error`."""

    __slots__ = (
        "changes",
        "committed",
        "conditional",
        "context",
        "error",
        "is_repeat",
        "operation",
        "payload",
        "request_id",
        "sink",
        "size",
        "told",
    )

    def __init__(self, prepared: commits.Prepared, sink: Sink, context: Any) -> None:
        """Take a commit that is complete; `sink` is called with the ticket once it has its answer."""
        self.payload, self.changes, self.request_id, self.conditional = prepared
        self.sink = sink
        self.context = context
        self.size = len(self.payload)
        """In bytes, as far as it is known before an operation has decided."""
        self.operation: Operation | None = None
        self.told: Any = None
        """What an operation gave to tell its caller."""
        self.is_repeat = False
        """Whether the request was carried out before, and nothing was done now."""
        self.committed: Committed | None = None
        self.error: StigmerError | None = None

    @classmethod
    def of_operation(cls, operation: Operation, request_id: str, size: int, sink: Sink, context: Any) -> Ticket:
        """Take a commit that is to be decided; `size` is about what it will come to, in bytes."""
        ticket = cls(commits.Prepared(b"", [], request_id, True), sink, context)
        ticket.operation = operation
        ticket.size = size
        return ticket

    @property
    def answer(self) -> Committed | StigmerError:
        """The answer, once it is there."""
        if self.error is not None:
            return self.error
        assert self.committed is not None
        return self.committed


Sink = Callable[[list[Ticket]], None]
"""Takes the tickets of one group that were submitted with it. Called on the writer's thread; must be quick."""


class Found(NamedTuple):
    """A resource as an operation finds it."""

    value: bytes
    revision: int
    """Of its last event; 0 where the operation itself has saved it just now."""


class State:
    """What an operation reads, and where it says what is to change.

    It reads the views, with everything on top that was accepted before in its group, and on top of that what it has
    saved and deleted itself.
    """

    def __init__(self, base: Base) -> None:
        """Let an operation begin on what there is now."""
        self.time_ns = base.time_ns
        """The time that the commit will have, in nanoseconds since 1970."""
        self.changes: list[Save | Delete] = []
        """What the operation wants, in the order in which it said so."""
        self._base = base
        self._changed: dict[bytes, Found | None] = {}
        self._terms = _Terms(base.lookup, base.overlay)

    def get(self, kind: str, id: str) -> Found | None:
        """Give a resource, or None where there is none."""
        key = checked_key_of(kind, id)
        return self._changed[key] if key in self._changed else self._base.get(kind, key)

    def find_ids(self, kind: str, index_name: str, text: str, qualifier: str | None = None) -> list[str]:
        """Give the ids of the resources that an index has under a text, oldest first.

        With a qualifier, only of entries that have this one: of a slug, those of one organization.
        """
        terms.check(kind, index_name)
        wanted = None if qualifier is None else terms.qualifier_of(qualifier)
        entries = self._base.find(terms.term_key(kind, index_name, text), self._terms.overlay())
        return [entry.id for entry in entries if wanted is None or entry.qualifier == wanted]

    def save(self, kind: str, id: str, value: bytes | Message) -> None:
        """Let the commit save a resource."""
        held = codec.value_bytes(value)
        self.changes.append(Save(kind, id, held))
        self._note(kind, checked_key_of(kind, id), held)

    def delete(self, kind: str, id: str, expected_revision: int | None = None) -> None:
        """Let the commit delete a resource; the log keeps the revision of its last event, where that is given."""
        self.changes.append(Delete(kind, id, expected_revision))
        self._note(kind, checked_key_of(kind, id), None)

    def _note(self, kind: str, key: bytes, value: bytes | None) -> None:
        self._changed[key] = None if value is None else Found(value, 0)
        # Numbered as if they were the next ones, so that they come behind all that there is.
        self._terms.add(Change(key, kind, value, None, _NOT_NUMBERED + len(self.changes)))


Operation = Callable[[State], Any]
"""Decides a commit: reads a `State`, saves and deletes in it, and gives what its caller is to be told.

It does no I/O, takes no lock and has no effect but on its state; it raises a `StigmerError` to refuse.
"""


class Base:
    """The views as they will be after the commits of a group that were accepted so far."""

    def __init__(self, projector: Projector, transaction: Transaction, databases: Databases, time_ns: int) -> None:
        """Read views in a transaction; the commits will have this time."""
        self.time_ns = time_ns
        self.lookup = lookup_in(transaction, databases)
        self._snapshot = projector.view(Snapshot)
        self._transaction = transaction
        self._databases = databases
        self._accepted: list[FoldCommit] = []
        # What they changed is entered when somebody asks: many groups hold no commit that does.
        self._entered = 0
        self._changed: dict[bytes, Found | None] = {}
        memory = projector.view(Index).memory
        self._terms = _Terms(self.lookup, lambda: memory)

    def accept(self, commit: FoldCommit) -> None:
        """Let what comes later see a commit."""
        self._accepted.append(commit)

    def get(self, kind: str, key: bytes) -> Found | None:
        """Give the resource under a key, or None."""
        self._enter()
        if key in self._changed:
            return self._changed[key]
        change = self._snapshot.memory.get(key)
        if change is not None:
            return None if change.value is None else Found(change.value, change.revision)
        message = snapshot.message_in(self._transaction, self._databases, None, key)
        if message is None:
            return None
        resource = snapshot.resource_of(kind, message)
        return Found(resource.value, resource.revision)

    def revision_of(self, key: bytes) -> int:
        """Give the revision that a key has; 0 where it is not there."""
        self._enter()
        if key in self._changed:
            found = self._changed[key]
            return 0 if found is None else found.revision
        head = self._snapshot.head(self.lookup, key)
        return 0 if head is None else head.revision

    def overlay(self) -> Overlay:
        """Give what the accepted commits did to the indexes."""
        self._enter()
        return self._terms.overlay()

    def find(self, term: bytes, overlay: Overlay) -> Iterator[IndexEntry]:
        """Give what has a term under an overlay, oldest first."""
        return index.entries_of(self._transaction, self._databases, overlay.places(term), term)

    def _enter(self) -> None:
        while self._entered < len(self._accepted):
            for change in self._accepted[self._entered].changes:
                self._changed[change.key] = None if change.value is None else Found(change.value, change.revision)
                self._terms.add(change)
            self._entered += 1


class _Terms:
    """What changes do to the indexes, worked out when somebody asks: many values are large, and never looked for."""

    def __init__(self, lookup: Lookup, below: Callable[[], Overlay]) -> None:
        self._lookup = lookup
        self._below = below
        self._overlay: Overlay | None = None
        self._waiting: list[Change] = []

    def add(self, change: Change) -> None:
        if change.kind in terms.DECLARED:
            self._waiting.append(change)

    def overlay(self) -> Overlay:
        if self._overlay is None:
            if not self._waiting:
                return self._below()
            self._overlay = Overlay(self._below())
        for change in self._waiting:
            self._overlay.fold(self._lookup, change)
        self._waiting = []
        return self._overlay


class Decision:
    """The decision about one group."""

    def __init__(self, projector: Projector, base: Base, next_revision: int, value_bytes_max: int) -> None:
        """Decide commits that follow each other from `next_revision` on."""
        self.accepted: list[Ticket] = []
        self.pending: list[Ticket] = []
        """The accepted, and those whose answer rests on one: all that this group has still to make true."""
        self.commits: list[FoldCommit] = []
        self.size = 0
        """Of what is accepted, in bytes."""
        self._requests = projector.view(Requests)
        self._base = base
        self._next_revision = next_revision
        self._value_bytes_max = value_bytes_max
        self._answered: dict[str, Committed] = {}

    def take(self, ticket: Ticket) -> None:
        """Accept a commit and number it, or put the answer into its ticket."""
        ticket.committed = ticket.error = None
        ticket.is_repeat = False
        request_id = ticket.request_id
        if request_id:
            if request_id in self._answered:
                ticket.committed = self._answered[request_id]
                ticket.is_repeat = True
                self.pending.append(ticket)
                return
            earlier = self._requests.committed(self._base.lookup, request_id)
            if earlier is not None:
                ticket.committed = earlier
                ticket.is_repeat = True
                return
        try:
            if ticket.operation is not None:
                self._operate(ticket, ticket.operation)
            if ticket.conditional:
                self._check(ticket.changes)
        except CorruptView:
            raise
        except StigmerError as error:
            ticket.error = error
            return
        if not ticket.changes:
            # It rests on what this group has still to make durable.
            ticket.committed = NOTHING
            self.pending.append(ticket)
            return
        fold = number(ticket.changes, request_id, self._next_revision, self._base.time_ns, len(ticket.payload))
        ticket.committed = Committed(Revision(fold.first_revision), Revision(fold.last_revision))
        if request_id:
            self._answered[request_id] = ticket.committed
        self._next_revision = fold.last_revision + 1
        self.size += len(ticket.payload)
        self.accepted.append(ticket)
        self.pending.append(ticket)
        self.commits.append(fold)
        self._base.accept(fold)

    def _operate(self, ticket: Ticket, operation: Operation) -> None:
        """Let an operation decide what its ticket holds."""
        state = State(self._base)
        try:
            ticket.told = operation(state)
        except (StigmerError, *DAMAGE):
            raise  # damage is mended, and then the operation is called again
        except Exception as error:
            # A bug of the operation's owner: it is refused, and the others of the group go on.
            _logger.exception("an operation failed")
            raise StigmerError(f"the operation failed inside the store: {error!r}") from error
        if state.changes:
            prepared = commits.made(state.changes, ticket.request_id, self._value_bytes_max)
            ticket.payload, ticket.changes, _, ticket.conditional = prepared
        else:
            ticket.payload, ticket.changes, ticket.conditional = b"", [], False

    def _check(self, changes: Sequence[Change]) -> None:
        """Raise unless every change's precondition holds, each after the changes before it."""
        own: dict[bytes, int] = {}
        for place, change in enumerate(changes):
            key = change.key
            now = own[key] if key in own else self._base.revision_of(key)
            if change.expected_revision is not None and change.expected_revision != now:
                if change.expected_revision == 0:
                    raise AlreadyExists(*parts_of(key), now)
                raise Conflict(*parts_of(key), change.expected_revision, now)
            if change.value is None:
                if now == 0:
                    raise NotFound(*parts_of(key))
                own[key] = 0
            else:
                own[key] = self._next_revision + place
