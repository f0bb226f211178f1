"""What the verbs ask of a store: the state that an operation decides on, and what is read outside of one.

The embedded store has all of it. Only the shape is known here, so that this package opens nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from google.protobuf.message import Message

from stigmer.model import Event, Resource, Transacted


class Found(Protocol):
    """A resource as an operation finds it."""

    @property
    def value(self) -> bytes:
        """Its bytes, as they are stored."""

    @property
    def revision(self) -> int:
        """Of its last event; 0 where the operation itself has just saved it."""


class State(Protocol):
    """What the commit that is decided will see, and where it says what is to change."""

    @property
    def time_ns(self) -> int:
        """The time that the commit will have, in nanoseconds since 1970."""

    def get(self, kind: str, id: str) -> Found | None:
        """Give a resource, or None."""

    def find_ids(self, kind: str, index_name: str, text: str, qualifier: str | None = None) -> Sequence[str]:
        """Give the ids that an index has under a text, oldest first; with a qualifier (of a slug: the organization)."""

    def save(self, kind: str, id: str, value: bytes | Message) -> None:
        """Let the commit save a resource."""

    def delete(self, kind: str, id: str, expected_revision: int | None = None) -> None:
        """Let the commit delete a resource; the log keeps the revision of its last event, where that is given."""


class IndexEntry(Protocol):
    """A resource that an index has under a text."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def qualifier(self) -> str:
        """Of a slug, the organization."""


class IndexedPage(Protocol):
    """A part of what an index finds."""

    @property
    def rows(self) -> Sequence[bytes]:
        """Serialized `stigmer.store.v1.Resource`, in the order asked for."""

    @property
    def next_page_token(self) -> str:
        """Where to go on; empty at the end."""

    @property
    def total(self) -> int:
        """How many there are in all."""


Where = tuple[str, tuple[str, ...]]
"""A condition: an index, and the texts of which a resource must have one."""


class ResourceStore(Protocol):
    """The part of a store that resources need."""

    def get(self, kind: str, id: str) -> Resource:
        """Give a resource, or raise `NotFound`."""

    def find_ids(self, kind: str, index_name: str, text: str, qualifier: str | None = None) -> Sequence[IndexEntry]:
        """Give what an index has under a text, oldest first; with a qualifier (of a slug: the organization)."""

    def list_indexed(
        self, kind: str, where: Sequence[Where], limit: int, page_token: str = "", *, bytes_max: int
    ) -> IndexedPage:
        """Give the resources of a kind for which every condition holds, newest first; in no more than so many bytes."""

    def transact(self, operation: Callable[[Any], Any], request_id: str | None = None) -> Transacted:
        """Make a commit that an operation decides."""

    def events_between(self, first_revision: int, last_revision: int) -> Sequence[Event]:
        """Give the events of a few revisions."""
