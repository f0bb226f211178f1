"""A stored resource as a person sees it: a row, a record, a YAML document.

Owns what is shown beside the message itself. A value is the message of its kind where that can be read; else it stays
bytes: of a known kind they are `undecodable`, of another they are in base64.
"""

from __future__ import annotations

import base64
import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stigmer import names
from stigmer.cli.output import rfc3339, yaml_text
from stigmer.cli.references import Reference
from stigmer.cli.units import age, size, visible
from stigmer.errors import InvalidArgument, NotFound
from stigmer.resources import kinds, present

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from stigmer.cli.sources import Source
    from stigmer.model import Event, Resource
    from stigmer.resources.kinds import Kind

HEADERS = ("ID", "NAME", "REVISION", "UPDATED")
HEADERS_WIDE = ("ID", "NAME", "SLUG", "ORG", "PHASE", "SIZE", "REVISION", "UPDATED", "CREATED")
ABSENT = "-"

LOOKED_AT_MAX = 500
"""Among so many of the newest resources of a kind a close name is looked for."""
LOOKED_AT_IDS_MAX = 100
"""The same, of a kind that is not the platform's, whose values come with every look."""


def value_shown(kind: str, value: bytes, show_secrets: bool) -> dict[str, object]:
    """Give the part of a record that shows a value: the message, that it is none, or the bytes."""
    known = _known(kind)
    if known is None:
        return {"value": base64.b64encode(value).decode("ascii")}
    message = kinds.decode(known, value)
    if message is None:
        return {"undecodable": f"{len(value)} bytes"}
    return {"value": present.as_dict(message, show_secrets=show_secrets)}


def event_value_shown(source: Source, event: Event) -> dict[str, object]:
    """Give the part of a record that shows the value of an event."""
    value = source.stored_or_revealed(event.kind, event.id, event.value)
    return value_shown(event.kind, value, source.show_secrets)


def _known(kind: str) -> Kind | None:
    """Give the kind whose name in the store is exactly this; None where it is no known one."""
    found = kinds.find(kind)
    return found if found is not None and found.name == kind else None


def _message(resource: Resource) -> Message | None:
    known = _known(resource.kind)
    return None if known is None else kinds.decode(known, resource.value)


def find(source: Source, reference: Reference) -> Resource:
    """Give the resource that a reference names: by its id, or its slug where the kind is one of the platform's.

    Secrets in it are readable. Raises `NotFound` with close names in its hint, and `InvalidArgument` where several
    organizations have the slug.
    """
    kind, text, org = reference
    known = _known(kind)
    if known is None:
        try:
            return source.store.get(kind, text)
        except NotFound as error:
            raise _no_such_bytes(source, kind, text) from error
    try:
        return source.resources.find(kind, text, org)
    except InvalidArgument as error:
        if error.field != "org":
            raise
        raise InvalidArgument("--org", error.problem, hint="choose one with --org ORG, or give its id") from error
    except NotFound as error:
        raise _no_such_resource(source, known, text, org) from error


def _no_such_bytes(source: Source, kind: str, id: str) -> NotFound:
    candidates = [resource.id for resource in source.store.list(kind, limit=LOOKED_AT_IDS_MAX)]
    if not candidates and (meant := kinds.near(kind)):
        return NotFound(kind, id, hint=f"did you mean the kind {meant}? see the kinds: stigmer kinds")
    return NotFound(kind, id, hint=f"{_meant(id, candidates)}see what is there: stigmer list {kind}")


def _no_such_resource(source: Source, kind: Kind, text: str, org: str) -> NotFound:
    # One page, whose size is bounded in bytes too.
    listed = source.resources.list(kind.name, limit=LOOKED_AT_MAX).resources
    facts = [
        (one.id, present.summary(message)) for one in listed if (message := kinds.decode(kind, one.value)) is not None
    ]
    if not org:
        candidates = [*dict.fromkeys(known.slug for _, known in facts), *(one.id for one in listed)]
        return NotFound(
            kind.name, text, hint=f"{_meant(text, candidates)}see what is there: stigmer list {kind.plural}"
        )
    problem = f'{kind.name} "{text}" not found in organization {names.shown(org)}'
    elsewhere = dict.fromkeys(known.org for id, known in facts if text in (id, known.slug))
    if elsewhere:
        where = visible(", ".join(other or "none" for other in elsewhere))
        hint = f"there is one of another organization: {where}"
    else:
        inside = [(id, known.slug) for id, known in facts if known.org == org]
        candidates = [*dict.fromkeys(slug for _, slug in inside), *(id for id, _ in inside)]
        hint = f"{_meant(text, candidates)}see what is there: stigmer list {kind.plural} -o wide"
    return NotFound(kind.name, text, message=problem, hint=hint)


def _meant(text: str, candidates: Sequence[str]) -> str:
    close = difflib.get_close_matches(text, candidates, 3)
    return f"did you mean {visible(' or '.join(close))}? " if close else ""


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
