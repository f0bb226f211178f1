"""A resource on its way into being: identity, audit, uniqueness; and what comes into being with it.

Runs inside an operation, so everything it reads is what the commit will be made on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from stigmer import names
from stigmer.errors import AlreadyExists, NotFound
from stigmer.model import to_datetime
from stigmer.resources import identity, kinds
from stigmer.resources.kinds import Kind
from stigmer.resources.state import State

SYSTEM_ACTOR = "system"
CREATED = "created"
"""The event in the audit of a resource that nobody has configured since."""
API_VERSION = "agentic.stigmer.ai/v1"

Random = Callable[[int], bytes]


class Creation:
    """Makes resources in a state. `message` is the one that was asked for; a special may complete it."""

    def __init__(self, state: State, kind: Kind, message: Any, random: Random) -> None:
        self.state = state
        self.kind = kind
        self.message = message
        self.random = random

    def mint_id(self, kind: Kind) -> str:
        """Give a new id of a kind."""
        return identity.mint_id(kind, self.state.time_ns, self.random(identity.ULID_RANDOM_BYTES))

    def find(self, kind_name: str, id: str) -> Any:
        """Give another resource as a message, or None where there is none."""
        found = self.state.get(kind_name, id)
        return None if found is None else kinds.parsed(named(kind_name), id, found.value)

    def need(self, kind_name: str, id: str, field: str) -> Any:
        """Give another resource, which a field names, as a message. Raises `NotFound`, `InvalidArgument`."""
        names.check_id(id, field)
        found = self.find(kind_name, id)
        if found is None:
            raise not_found(named(kind_name), id)
        return found

    def along(self, kind_name: str, name: str, scope: int, org: str) -> Any:
        """Begin another resource of the same commit: give its message, with identity; `save` it when it is complete.

        Its slug is made of its name, and of its id too where the slug is taken.
        """
        kind = named(kind_name)
        message: Any = kind.message_class(api_version=API_VERSION, kind=kind.message_name)
        metadata = message.metadata
        metadata.name = name
        metadata.id = self.mint_id(kind)
        metadata.owner_scope = scope
        metadata.org = org
        metadata.slug = identity.slug_of(name)
        if holder_of_slug(self.state, kind, metadata.slug, org) is not None:
            metadata.slug += f"-{metadata.id[-6:]}"
        return message

    def save(self, kind_name: str, message: Any) -> None:
        """Save a resource that was begun by `along`."""
        mark_created(message, self.state.time_ns)
        self.state.save(kind_name, message.metadata.id, message)


def named(kind_name: str) -> Kind:
    """Give a kind that is known to be one."""
    kind = kinds.find(kind_name)
    assert kind is not None, kind_name
    return kind


def not_found(kind: Kind, ref: str, *, hint: str | None = None) -> NotFound:
    """Make the error for a resource that is not there, in the words that the platform's clients look for."""
    return NotFound(kind.name, ref, message=f"{kind.message_name} not found: {ref}", hint=hint)


def holder_of_slug(state: State, kind: Kind, slug: str, org: str) -> str | None:
    """Give the id of the resource that has a slug in an organization, or None where it is free."""
    return next(iter(state.find_ids(kind.name, "slug", slug, org)), None)


def check_free(state: State, kind: Kind, metadata: Any, *, slug_is_unique: bool) -> None:
    """Raise `AlreadyExists` where the id, or the slug in its organization, is taken."""
    there = state.get(kind.name, metadata.id)
    if there is not None:
        raise AlreadyExists(kind.name, metadata.id, there.revision)
    if not slug_is_unique:
        return
    holder = holder_of_slug(state, kind, metadata.slug, metadata.org)
    if holder is not None:
        found = state.get(kind.name, holder)
        where = f" in organization {names.shown(metadata.org)}" if metadata.org else ""
        raise AlreadyExists(
            kind.name,
            metadata.slug,
            found.revision if found is not None else 0,
            message=f"{kind.message_name} {names.shown(metadata.slug)} already exists{where}: {holder}",
        )


def check_identity(metadata: Any) -> None:
    """Raise `InvalidArgument` where an id or a slug that a client gave cannot be one."""
    if metadata.id:
        names.check_id(metadata.id, "metadata.id")
    if metadata.slug:
        # Of any length: it is no key, and one that is made of a long name comes back from the client.
        names.check_characters(metadata.slug, "metadata.slug")


def mark_created(message: Message, now_ns: int) -> None:
    """Write into the audit that a resource was created now."""
    resource: Any = message
    audit = resource.status.audit
    info = audit.spec_audit
    mark_updated(info, now_ns)
    info.created_by.CopyFrom(info.updated_by)
    info.created_at.CopyFrom(info.updated_at)
    info.event = CREATED
    audit.status_audit.CopyFrom(info)


def mark_updated(info: Any, now_ns: int) -> None:
    """Write into one half of an audit that it was changed now."""
    info.updated_by.Clear()
    info.updated_by.id = SYSTEM_ACTOR
    info.updated_at.FromNanoseconds(now_ns)
    info.event = "updated"


def rfc3339(time_ns: int) -> str:
    """Give a time as RFC 3339 in UTC, to the microsecond."""
    return to_datetime(time_ns).isoformat(timespec="microseconds").replace("+00:00", "Z")
