"""A stored resource as a person sees it: a row, a record, a YAML document.

Owns what is shown beside the message itself. A value is the message of its kind where that can be read; else it stays
bytes: of a known kind they are `undecodable`, of another they are in base64.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from stigmer.cli.output import rfc3339, yaml_text
from stigmer.cli.references import Reference
from stigmer.cli.units import age, size
from stigmer.errors import InvalidArgument, NotFound
from stigmer.resources import kinds, present

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from stigmer.cli.backend import AnyStore
    from stigmer.model import Resource
    from stigmer.resources.kinds import Kind

HEADERS = ("ID", "NAME", "REVISION", "UPDATED")
HEADERS_WIDE = ("ID", "NAME", "SLUG", "ORG", "PHASE", "SIZE", "REVISION", "UPDATED", "CREATED")
ABSENT = "-"


def value_shown(kind: str, value: bytes, show_secrets: bool) -> dict[str, object]:
    """Give the part of a record that shows a value: the message, that it is none, or the bytes."""
    known = _known(kind)
    if known is None:
        return {"value": base64.b64encode(value).decode("ascii")}
    message = kinds.decode(known, value)
    if message is None:
        return {"undecodable": f"{len(value)} bytes"}
    return {"value": present.as_dict(message, show_secrets=show_secrets)}


def _known(kind: str) -> Kind | None:
    """Give the kind whose name in the store is exactly this; None where it is no known one."""
    found = kinds.find(kind)
    return found if found is not None and found.name == kind else None


def _message(resource: Resource) -> Message | None:
    known = _known(resource.kind)
    return None if known is None else kinds.decode(known, resource.value)


def find(store: AnyStore, reference: Reference) -> Resource:
    """Give the resource that a reference names, by its id or slug. Raises `NotFound` with close names in its hint."""
    try:
        return store.get(reference.kind, reference.text)
    except (NotFound, InvalidArgument):
        pass  # no id, or not even the form of one; what knows slugs costs more to import
    from stigmer.resources import operations

    return operations.find(store, reference.kind, reference.text)


def row_of(resource: Resource, now: float, *, wide: bool) -> tuple[object, ...]:
    """Give a resource's row in a table, with `HEADERS` or `HEADERS_WIDE`; `now` is seconds since 1970."""
    message = _message(resource)
    facts = present.summary(message) if message is not None else None
    name = facts.name if facts is not None else f"({size(len(resource.value))})"
    updated = age(now - resource.updated_at_ns / 1e9)
    if not wide:
        return resource.id, name or ABSENT, resource.revision, updated
    slug, org, phase = (facts.slug, facts.org, facts.phase) if facts is not None else ("", "", "")
    created = age(now - resource.created_at_ns / 1e9)
    return (
        resource.id,
        name or ABSENT,
        slug or ABSENT,
        org or ABSENT,
        phase or ABSENT,
        size(len(resource.value)),
        resource.revision,
        updated,
        created,
    )


def record_of(resource: Resource, show_secrets: bool) -> dict[str, object]:
    """Give a resource as an object: its message, or what is known of bytes that are none."""
    message = _message(resource)
    if message is not None:
        return present.as_dict(message, show_secrets=show_secrets)
    return _metadata(resource) | value_shown(resource.kind, resource.value, show_secrets)


def yaml_of(resource: Resource, show_secrets: bool) -> str:
    """Give a resource as a YAML document, its revision in a comment above where the message has no place for it."""
    message = _message(resource)
    if message is None:
        return yaml_text(record_of(resource, show_secrets))
    comment = f"# revision {resource.revision}, updated {rfc3339(resource.updated_at_ns)}\n"
    return comment + yaml_text(present.as_dict(message, show_secrets=show_secrets))


def _metadata(resource: Resource) -> dict[str, object]:
    return {
        "kind": resource.kind,
        "id": resource.id,
        "revision": resource.revision,
        "created_revision": resource.created_revision,
        "created_at": rfc3339(resource.created_at_ns),
        "updated_at": rfc3339(resource.updated_at_ns),
        "size": len(resource.value),
    }
