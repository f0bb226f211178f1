"""What a view is: named databases, a fold into memory, and a flush of that into LMDB.

To add a view: write a module with a class of this shape, and enter it in `projector.VIEWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import msgspec

from stigmer.pb import log_pb2
from stigmer.views.keys import key_of

Transaction = Any
"""An LMDB transaction (the package has no types)."""
Database = Any
"""A named LMDB database."""
Databases = Mapping[str, Database]
"""The named databases of an environment."""

_SAVE = log_pb2.Event.OP_SAVE


class Change(msgspec.Struct, gc=False):
    """One event, ready to be folded. Afterwards, it is what the `snapshot` has of its key until it is flushed."""

    key: bytes
    kind: str
    value: bytes | None
    """None for a delete."""
    expected_revision: int | None = None
    """The precondition that its commit was accepted with."""
    revision: int = 0
    time_ns: int = 0
    # Filled in by `snapshot`, which folds before all other views.
    was_there: bool = False
    """Whether the resource existed before this event."""
    created_revision: int = 0
    created_at_ns: int = 0
    # Filled in by whoever works it out first, the writer's decision or the `index`.
    terms: tuple[Any, ...] | None = None
    """What the resource can be found by, after this event."""


class FoldCommit(NamedTuple):
    """One commit, ready to be folded."""

    first_revision: int
    last_revision: int
    time_ns: int
    request_id: str
    size: int
    """The bytes of its payload."""
    changes: Sequence[Change]


Lookup = Callable[[str, bytes], bytes | None]
"""Gives the row of a database under a key, as it was flushed."""

Folded = Any
"""What a fold of one view came to: the last state of each thing that changed. Only the view itself looks inside; a
result that is false changes nothing."""


class View(Protocol):
    """State that is folded from the log: one instance for each environment, made without arguments.

    What was folded is first in the view's memory, where readers look before they look into LMDB, and goes there with
    the next flush. A fold does not change what readers see: the projector hands what it came to back to `take`, for all
    views in one step. Nobody who reads may change the memory.
    """

    name: ClassVar[str]
    """The view's name, as people see it."""
    databases: ClassVar[Sequence[str]]
    """The names of its databases, each with the version of its layout: `snapshot.1`."""

    @property
    def unflushed(self) -> int:
        """How many rows, about, the next flush has to put or delete."""

    def fold(self, lookup: Lookup, commits: Sequence[FoldCommit]) -> Folded:
        """Give what changes with these commits, which follow what was folded before.

        A function of rows, memory and commits alone: folding commits one by one or many at a time, with flushes
        wherever they fall, gives the same rows in the end.
        """

    def take(self, folded: Folded) -> None:
        """Make what a fold gave part of the memory, and its own. Called under the projector's `_moment`."""

    def flush(self, transaction: Transaction, databases: Databases) -> None:
        """Put what is in memory into the databases. May be called again with a new transaction after a failure."""

    def forget(self) -> None:
        """Replace the memory, all of which was flushed, by an empty one. Called under the projector's `_moment`.

        Replaced, not emptied: who took it as it was before may still be reading it.
        """


def lookup_in(transaction: Transaction, databases: Databases) -> Lookup:
    """Give a lookup of rows in a transaction."""
    get = transaction.get

    def lookup(database: str, key: bytes) -> bytes | None:
        row: bytes | None = get(key, db=databases[database])
        return row

    return lookup


def prepare(commit: log_pb2.Commit) -> list[Change]:
    """Make the events of a parsed commit, which follows the rules, ready to be numbered and folded."""
    return [
        Change(
            key_of(kind := event.kind, event.id),
            kind,
            event.value if event.op == _SAVE else None,
            event.expected_revision if event.HasField("expected_revision") else None,
        )
        for event in commit.events
    ]


def number(changes: Sequence[Change], request_id: str, first_revision: int, time_ns: int, size: int) -> FoldCommit:
    """Give a commit's changes their revisions and time; `size` is that of its payload, in bytes."""
    revision = first_revision
    for change in changes:
        change.revision = revision
        change.time_ns = time_ns
        revision += 1
    return FoldCommit(first_revision, revision - 1, time_ns, request_id, size, changes)


def shown_key(key: bytes) -> str:
    """Give the key of a row as a text that can be shown."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in key.decode(errors="backslashreplace")
    )
