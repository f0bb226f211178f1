"""What the writing verbs do to a state: create, configure, delete. Everything here runs inside an operation.

- A resource is created where its id and its slug are free; else that is refused.
- Configuring keeps id, slug, organization and status as they are stored; the rest of the metadata and the spec are the
  caller's. What a newer client stored and this code does not know (unknown fields) stays.
- What hangs on a resource is deleted before it, in the same commit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from stigmer import codec, config, fields, names
from stigmer.errors import ResourceExhausted
from stigmer.fields import Bytes
from stigmer.resources import creation, kinds, special
from stigmer.resources.creation import Creation, Random
from stigmer.resources.kinds import Kind
from stigmer.resources.sealing import Sealer
from stigmer.resources.state import Found, State
from stigmer.vault import KeyId

_GONE_MAX = config.COMMIT_EVENTS_MAX


class Written(NamedTuple):
    """A resource as a verb left it."""

    kind: Kind
    id: str
    value: bytes
    """As it is stored now; of a deleted one, as it was."""
    is_changed: bool = True
    revision: int = 0
    """Where nothing changed: of the last event."""
    before: bytes | None = None
    """The value that there was, None for a resource that was created."""


Retire = Callable[[str, str], Sequence[KeyId]]
"""Takes the keys of a resource out of use, and gives them."""


class Gone(NamedTuple):
    """A resource that a delete takes away."""

    kind_name: str
    id: str
    value: bytes
    is_target: bool
    """It was asked for; the others hang on it."""
    keys: Sequence[KeyId]
    """Of its secrets: nothing is sealed with them any more, and they are to be destroyed."""


def create(state: State, kind: Kind, draft: Message, sealer: Sealer, random: Random) -> Written:
    """Create a resource whose id and slug are in `draft`. Raises `AlreadyExists`, and what a special finds wrong."""
    message: Any = type(draft)()
    message.CopyFrom(draft)
    its = special.of(kind.name)
    creation.check_free(state, kind, message.metadata, slug_is_unique=its.slug_is_unique)
    if its.complete is not None:
        its.complete(Creation(state, kind, message, random))
    sealer.seal(message, None)
    creation.mark_created(message, state.time_ns)
    id = message.metadata.id
    value = codec.value_bytes(message)
    state.save(kind.name, id, value)
    return Written(kind, id, value)


def configure(
    state: State, kind: Kind, id: str, wanted: Message, sealer: Sealer, random: Random, *, only_if_changed: bool
) -> Written:
    """Give a stored resource spec and metadata of `wanted`. Raises `NotFound`, and what a special finds wrong."""
    found = state.get(kind.name, id)
    if found is None:
        raise creation.not_found(kind, id)
    current: Any = kinds.parsed(kind, id, found.value)
    message = _configured(current, wanted)
    its = special.of(kind.name)
    if its.configured is not None:
        its.configured(Creation(state, kind, message, random), current)
    sealer.seal(message, current)
    if only_if_changed and codec.value_bytes(message) == codec.value_bytes(current):
        return Written(kind, id, found.value, is_changed=False, revision=found.revision, before=found.value)
    creation.mark_updated(message.status.audit.spec_audit, state.time_ns)
    value = codec.value_bytes(message)
    state.save(kind.name, id, value)
    return Written(kind, id, value, before=found.value)


def delete(state: State, kind: Kind, id: str, retire: Retire) -> list[Gone]:
    """Delete a resource and what hangs on it; give all of it, in the order of the commit. Raises `NotFound`."""
    found = state.get(kind.name, id)
    if found is None:
        raise creation.not_found(kind, id)
    gone = list(itertools.islice(_delete(state, kind.name, id, found, retire, is_target=True), _GONE_MAX + 1))
    if len(gone) > _GONE_MAX:
        raise ResourceExhausted(
            f"more than {_GONE_MAX} resources hang on {kind.name} {names.shown(id)}, too many for one commit",
            limit="COMMIT_EVENTS_MAX",
            limit_value=_GONE_MAX,
            hint="delete some of what hangs on it first, such as its sessions",
        )
    return gone


def _delete(state: State, kind_name: str, id: str, found: Found, retire: Retire, *, is_target: bool) -> Iterator[Gone]:
    for child_kind, index_name in special.of(kind_name).children:
        for child_id in state.find_ids(child_kind, index_name, id):
            child = state.get(child_kind, child_id)
            if child is not None:
                yield from _delete(state, child_kind, child_id, child, retire, is_target=False)
    # With the revision, so that what it was can be found in the log when the request is repeated.
    state.delete(kind_name, id, found.revision or None)
    yield Gone(kind_name, id, found.value, is_target, retire(kind_name, id))


def _configured(current: Message, wanted: Message) -> Any:
    """Give the stored message with the caller's spec and metadata; identity and status as stored."""
    stored: Any = current
    message: Any = type(wanted)()
    message.CopyFrom(wanted)
    for name in ("id", "slug", "org"):
        setattr(message.metadata, name, getattr(stored.metadata, name))
    message.ClearField("status")
    if stored.HasField("status"):
        message.status.CopyFrom(stored.status)
    # To merge is to append: what the caller sent of such fields is there already, and must not be there twice.
    message.MergeFromString(_left_out(stored.DESCRIPTOR, codec.value_bytes(stored), codec.value_bytes(message)))
    return message


def _left_out(descriptor: Descriptor, stored: Bytes, given: Bytes) -> bytes:
    """Give the unknown fields of a stored message that a given one does not have, in the messages inside too."""
    mine, theirs = fields.split(stored), fields.split(given)
    left_out: list[Bytes] = []
    for number, occurrences in mine.items():
        field = descriptor.fields_by_number.get(number)
        if field is None:
            left_out += () if number in theirs else occurrences
        elif field.message_type is not None and not field.is_repeated and number in theirs:
            inside = _left_out(field.message_type, fields.content(mine, number), fields.content(theirs, number))
            left_out += (fields.of_bytes(number, inside),) if inside else ()
    return b"".join(left_out)
