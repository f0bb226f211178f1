"""What a view is: named databases and a fold.

To add a view: write a module with a class of this shape, and enter it in `projector.VIEWS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """One event, ready to be folded."""

    revision: int
    time_ns: int
    key: bytes
    kind: str
    value: bytes | None
    """None for a delete."""
    was_there: bool = False
    """Whether the resource existed before this event. Filled in by `snapshot`, which folds before all other views."""


class FoldCommit(NamedTuple):
    """One commit, ready to be folded."""

    first_revision: int
    last_revision: int
    time_ns: int
    request_id: str
    changes: list[Change]


class View(Protocol):
    """State that is folded from the log: one instance for each environment, made without arguments."""

    name: ClassVar[str]
    """The view's name, as people see it."""
    databases: ClassVar[Sequence[str]]
    """The names of its databases, each with the version of its layout: `snapshot.1`."""

    def fold(self, transaction: Transaction, databases: Databases, commits: Sequence[FoldCommit]) -> None:
        """Apply commits, in order, to the view's rows.

        A function of the rows and the commits alone. Folding commits one by one or many at a time gives the same rows.
        """


def fold_commit(commit: log_pb2.Commit, first_revision: int, time_ns: int) -> FoldCommit:
    """Make a parsed commit ready to be folded."""
    changes = [
        Change(
            revision,
            time_ns,
            key_of(kind := event.kind, event.id),
            kind,
            event.value if event.op == _SAVE else None,
        )
        for revision, event in enumerate(commit.events, first_revision)
    ]
    return FoldCommit(first_revision, first_revision + len(changes) - 1, time_ns, commit.request_id, changes)
