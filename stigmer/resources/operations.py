"""What is done with resources over a store: find one by what a person calls it, apply manifests.

Works on anything that has a store's `get`, `list` and `commit` (`ResourceStore`): the embedded store and the
synchronous client have the same ones.

- A resource is created where its slug is free in its organization, else configured: id, slug, organization and
  status stay as they are stored, the rest of the metadata and the spec come from the manifest.
- One call is one commit: all of it or nothing. Each change is made on condition that the resource is still what
  the plan was made from; where it is not, the plan is made anew, a few times.
- A manifest that changes nothing makes no event.
- What a newer client stored and this code does not know (unknown fields) stays.

Slugs are found by listing the kind. Nothing here starts anything or makes resources that no manifest names.
"""

from __future__ import annotations

import difflib
import enum
import itertools
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import msgspec
from google.protobuf.message import Message

from stigmer import codec, names
from stigmer.errors import Conflict, InvalidArgument, NotFound
from stigmer.model import Committed, Delete, Page, Resource, Save
from stigmer.resources import identity, kinds, manifests
from stigmer.resources.kinds import Kind
from stigmer.resources.manifests import Manifest

APPLY_ATTEMPTS = 5
"""How often a plan is made anew when somebody else changed a resource in between."""
SYSTEM_ACTOR = "system"
_PAGE_LENGTH = 500
_CANDIDATES_MAX = 5_000
"""Among how many names a close one is searched for a hint."""


class ResourceStore(Protocol):
    """The part of a store that resources need."""

    def get(self, kind: str, id: str) -> Resource:
        """Give a resource, or raise `NotFound`."""
        ...

    def list(self, kind: str, *, prefix: str = "", limit: int | None = None, page_token: str | None = None) -> Page:
        """Give some resources of a kind, in the order of their ids."""
        ...

    def commit(self, changes: Sequence[Save | Delete], *, request_id: str | None = None) -> Committed:
        """Make all changes or none."""
        ...


class Outcome(enum.StrEnum):
    """What applying a manifest does."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"


class Applied(msgspec.Struct, frozen=True):
    """What became of one manifest."""

    kind: str
    id: str
    slug: str
    outcome: Outcome
    revision: int
    """Of the event that was made; where nothing changed, of the last one."""


class Planned(msgspec.Struct, frozen=True):
    """What applying one manifest would do."""

    kind: Kind
    id: str
    slug: str
    outcome: Outcome
    message: Message
    """The resource as it would be stored."""
    stored: Resource | None
    """What is stored now; None where the resource would be created."""


# --- finding -------------------------------------------------------------------------------------------


def find(store: ResourceStore, kind: Kind | str, ref: str, org: str | None = None) -> Resource:
    """Give the resource of a kind that `ref` names: its id, else its slug; with `org`, only of that organization.

    A kind that is not one of the platform's has ids only. Raises `NotFound` with close names in its hint, and
    `InvalidArgument` where resources of several organizations have the slug.
    """
    known = kinds.find(kind) if isinstance(kind, str) else kind
    name = known.name if known is not None else str(kind)
    try:
        resource = store.get(name, ref)
        if known is None or org is None or _org_of(known, resource) == org:
            return resource
    except NotFound:
        pass
    matches: list[tuple[str, Resource]] = []
    candidates: list[str] = []
    for resource in _every(store, name):
        metadata = _metadata_of(known, resource)
        if metadata is None:
            candidates.append(resource.id)
        elif org is None or metadata.org == org:
            candidates += (metadata.slug, resource.id)
            if metadata.slug == ref:
                matches.append((metadata.org, resource))
        if known is None and len(candidates) >= _CANDIDATES_MAX:
            break
    if len(matches) > 1:
        raise _ambiguous(name, ref, matches)
    if matches:
        return matches[0][1]
    if known is None and not candidates and (meant := kinds.near(name)):
        raise NotFound(name, ref, hint=f"did you mean the kind {meant}? see the kinds: stigmer kinds")
    raise NotFound(name, ref, hint=_not_found_hint(known.plural if known else name, ref, candidates))


def _every(store: ResourceStore, kind: str) -> Iterator[Resource]:
    token: str | None = None
    while True:
        page = store.list(kind, limit=_PAGE_LENGTH, page_token=token)
        yield from page.resources
        token = page.next_page_token
        if token is None:
            return


def _metadata_of(kind: Kind | None, resource: Resource) -> Any:
    """Give the metadata of a stored resource; None where its bytes are not its kind's message."""
    message: Any = kinds.decode(kind, resource.value) if kind is not None else None
    return message.metadata if message is not None else None


def _org_of(kind: Kind, resource: Resource) -> str:
    metadata = _metadata_of(kind, resource)
    return str(metadata.org) if metadata is not None else ""


def _ambiguous(kind: str, slug: str, matches: Sequence[tuple[str, Resource]]) -> InvalidArgument:
    where = ", ".join(f"{names.shown(org) if org else 'no organization'} ({one.id})" for org, one in matches)
    return InvalidArgument(
        "ref",
        f"several {kind} resources have the slug {names.shown(slug)}: {where}",
        hint="name one by its id, or give the organization",
    )


def _not_found_hint(plural: str, ref: str, candidates: Sequence[str]) -> str:
    close = difflib.get_close_matches(ref, candidates[:_CANDIDATES_MAX], 3)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{meant}see what is there: stigmer list {plural}"


# --- applying ------------------------------------------------------------------------------------------


def apply(
    store: ResourceStore,
    wanted: Sequence[Manifest],
    now_ns: int,
    *,
    random: Callable[[int], bytes] = secrets.token_bytes,
    request_id: str | None = None,
) -> list[Applied]:
    """Make the resources what the manifests say, in one commit; give what became of each, in the same order.

    `now_ns` is the time that new ids and the audit carry. Raises `Conflict` where others kept changing the same
    resources, and whatever the store raises.
    """
    for attempt in itertools.count(1):
        planned = plan(store, wanted, now_ns, random=random)
        changed = [one for one in planned if one.outcome is not Outcome.UNCHANGED]
        if not changed:
            return [_applied(one, _revision_of(one)) for one in planned]
        try:
            committed = store.commit([_change(one) for one in changed], request_id=request_id)
        except Conflict:
            if attempt == APPLY_ATTEMPTS:
                raise
            continue
        revisions = iter(range(committed.first_revision, committed.last_revision + 1))
        return [
            _applied(one, _revision_of(one) if one.outcome is Outcome.UNCHANGED else next(revisions)) for one in planned
        ]
    raise AssertionError("unreachable: counting has no end")


def plan(
    store: ResourceStore,
    wanted: Sequence[Manifest],
    now_ns: int,
    *,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> list[Planned]:
    """Give what `apply` would do, in the order of the manifests; changes nothing.

    Raises `ManifestError` where two manifests are of the same resource, and `InvalidArgument` where several stored
    resources have the slug of one.
    """
    if problems := list(manifests.duplicates(wanted)):
        raise manifests.ManifestError(problems)
    stored = {kind.name: _Stored(store, kind) for kind in {one.kind for one in wanted}}
    return [_plan_one(manifest, stored[manifest.kind.name], now_ns, random) for manifest in wanted]


class _Stored:
    """The resources of a kind as they are now, by id and by organization and slug."""

    def __init__(self, store: ResourceStore, kind: Kind) -> None:
        self.by_id: dict[str, tuple[Resource, Message]] = {}
        self.by_slug: dict[tuple[str, str], list[str]] = {}
        for resource in _every(store, kind.name):
            message: Any = kinds.decode(kind, resource.value)
            if message is None:
                continue
            self.by_id[resource.id] = resource, message
            self.by_slug.setdefault((message.metadata.org, message.metadata.slug), []).append(resource.id)

    def match(self, manifest: Manifest) -> tuple[Resource, Message] | None:
        """Give what is stored of a manifest's resource: found by its id, else by its slug."""
        metadata = manifest.metadata
        if metadata.id in self.by_id:
            return self.by_id[metadata.id]
        ids = self.by_slug.get((metadata.org, manifest.slug), [])
        if len(ids) > 1:
            matches = [(metadata.org, self.by_id[id][0]) for id in ids]
            raise _ambiguous(manifest.kind.name, manifest.slug, matches)
        return self.by_id[ids[0]] if ids else None


def _plan_one(manifest: Manifest, stored: _Stored, now_ns: int, random: Callable[[int], bytes]) -> Planned:
    found = stored.match(manifest)
    if found is None:
        return _plan_create(manifest, now_ns, random)
    resource, current = found
    message = _configured(current, manifest.message)
    metadata = message.metadata
    if codec.value_bytes(message) == codec.value_bytes(current):
        return Planned(manifest.kind, resource.id, metadata.slug, Outcome.UNCHANGED, message, resource)
    _mark_updated(message.status.audit.spec_audit, now_ns)
    return Planned(manifest.kind, resource.id, metadata.slug, Outcome.CONFIGURED, message, resource)


def _plan_create(manifest: Manifest, now_ns: int, random: Callable[[int], bytes]) -> Planned:
    message: Any = manifest.kind.message_class()
    message.CopyFrom(manifest.message)
    message.ClearField("status")
    metadata = message.metadata
    metadata.slug = manifest.slug
    if not metadata.id:
        metadata.id = identity.mint_id(manifest.kind, now_ns, random(identity.ULID_RANDOM_BYTES))
    for info in (message.status.audit.spec_audit, message.status.audit.status_audit):
        _mark_updated(info, now_ns)
        info.created_by.CopyFrom(info.updated_by)
        info.created_at.CopyFrom(info.updated_at)
        info.event = "created"
    return Planned(manifest.kind, metadata.id, metadata.slug, Outcome.CREATED, message, None)


def _mark_updated(info: Any, now_ns: int) -> None:
    info.updated_by.Clear()
    info.updated_by.id = SYSTEM_ACTOR
    info.updated_at.FromNanoseconds(now_ns)
    info.event = "updated"


def _configured(current: Message, wanted: Message) -> Any:
    """Give the stored message with the manifest's spec and metadata; identity and status as stored."""
    message: Any = type(current)()
    message.CopyFrom(current)
    source: Any = type(wanted)()
    source.CopyFrom(wanted)
    for name in ("id", "slug", "org"):
        setattr(source.metadata, name, getattr(message.metadata, name))
    if message.HasField("status"):
        source.status.CopyFrom(message.status)
    else:
        source.ClearField("status")
    _replace(message, source)
    return message


def _replace(target: Any, source: Any) -> None:
    """Make the known fields of `target` those of `source`; unknown ones stay, in the messages inside too."""
    rest = type(source)()
    rest.CopyFrom(source)
    for field in target.DESCRIPTOR.fields:
        inside = field.message_type is not None and not field.is_repeated
        if inside and target.HasField(field.name) and source.HasField(field.name):
            _replace(getattr(target, field.name), getattr(source, field.name))
            rest.ClearField(field.name)
        else:
            target.ClearField(field.name)
    target.MergeFrom(rest)


def _change(planned: Planned) -> Save:
    expected = planned.stored.revision if planned.stored is not None else 0
    return Save(planned.kind.name, planned.id, planned.message, expected_revision=expected)


def _revision_of(planned: Planned) -> int:
    return planned.stored.revision if planned.stored is not None else 0


def _applied(planned: Planned, revision: int) -> Applied:
    return Applied(planned.kind.name, planned.id, planned.slug, planned.outcome, revision)
