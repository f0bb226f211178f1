"""Between the values of `stigmer.model` and the messages of `stigmer.pb`: one place for the store and the clients.

Owns no state and does no I/O. What is stored or sent is decided by the messages; this module only turns one form
into the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from google.protobuf.message import DecodeError, Message

from stigmer import config, names
from stigmer.errors import InvalidArgument
from stigmer.model import Delete, Event, Op, Resource, Save
from stigmer.pb import log_pb2, store_pb2

_SAVE = log_pb2.Event.OP_SAVE
_DELETE = log_pb2.Event.OP_DELETE
_OP_SAVE, _OP_DELETE = Op.SAVE, Op.DELETE

_LARGE_BYTES = 64 * config.KIB
"""From this size on, a value is not handed to protobuf."""
_EVENTS_TAG, _VALUE_TAG = b"\x0a", b"\x22"
"""Of `Commit.events` and `Event.value`."""


def varint(number: int) -> bytes:
    """Write an unsigned integer as protobuf does (https://protobuf.dev/programming-guides/encoding/#varints)."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def value_bytes(value: object) -> bytes:
    """Give the bytes of a value: bytes as they are, a protobuf message serialized."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, Message):
        # Deterministic, so that the same message saved twice is the same value (maps have no order of their own).
        return value.SerializeToString(deterministic=True)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise InvalidArgument("value", f"must be bytes or a protobuf message, not {type(value).__name__}")


def _set_expected(event: log_pb2.Event, expected: int) -> None:
    if isinstance(expected, bool) or not isinstance(expected, int) or not 0 <= expected < 1 << 64:
        raise InvalidArgument("expected_revision", f"{expected!r} is not a revision")
    event.expected_revision = expected


def _not_a_change(change: object, index: int) -> InvalidArgument:
    if not isinstance(change, Save | Delete):
        return InvalidArgument(f"changes[{index}]", f"must be Save or Delete, not {type(change).__name__}")
    field = "id" if isinstance(change.kind, str) else "kind"
    return InvalidArgument(field, f"must be a string, not {type(getattr(change, field)).__name__}")


def encode_commit(changes: Sequence[Save | Delete], request_id: str | None) -> tuple[bytes, list[bytes | None]]:
    """Serialize changes as a `Commit`, names checked; give with it the value of each save, None for a delete.

    Raises `InvalidArgument` naming the field.
    """
    if not changes:
        raise InvalidArgument("changes", "must not be empty")
    if request_id is not None:
        if not isinstance(request_id, str):
            raise InvalidArgument("request_id", f"must be a string, not {type(request_id).__name__}")
        names.check_request_id(request_id)
    commit = log_pb2.Commit(request_id=request_id)
    add = commit.events.add
    values: list[bytes | None] = []
    for index, change in enumerate(changes):
        try:
            kind, id, expected = change.kind, change.id, change.expected_revision
            names.check(kind, id)
            event = add()
            event.kind = kind
            event.id = id
            if isinstance(change, Save):
                event.op = _SAVE
                value = change.value
                if type(value) is not bytes:
                    value = value_bytes(value)
                values.append(value)
                if len(value) < _LARGE_BYTES or len(changes) > 1:
                    event.value = value
            else:
                event.op = _DELETE
                values.append(None)
            if expected is not None:
                _set_expected(event, expected)
        except InvalidArgument as error:
            if len(changes) == 1:
                raise
            raise InvalidArgument(f"changes[{index}].{error.field}", error.problem) from error
        except (AttributeError, TypeError) as error:
            raise _not_a_change(change, index) from error
    if len(values) == 1 and values[0] is not None and len(values[0]) >= _LARGE_BYTES:
        return _with_value(commit, values[0]), values
    return commit.SerializeToString(), values


def _with_value(commit: log_pb2.Commit, value: bytes) -> bytes:
    """Serialize a commit of one save whose value is large and was left out, into the bytes that protobuf would make.

    Protobuf would copy the value three times, which takes longer than all the rest of a save.
    """
    event = commit.events[0]
    behind = log_pb2.Event()
    if event.HasField("expected_revision"):
        behind.expected_revision = event.expected_revision
        event.ClearField("expected_revision")
    size = len(value)
    parts = (event.SerializeToString(), _VALUE_TAG, varint(size), value, behind.SerializeToString())
    commit.ClearField("events")
    return b"".join((_EVENTS_TAG, varint(sum(map(len, parts))), *parts, commit.SerializeToString()))


def commit_payload(changes: Sequence[Save | Delete], request_id: str | None) -> bytes:
    """Serialize changes as a `Commit`, names checked. Raises `InvalidArgument` naming the field."""
    return encode_commit(changes, request_id)[0]


def decode_commit(payload: bytes) -> log_pb2.Commit:
    """Parse a serialized `Commit`. Raises `InvalidArgument` where the bytes are not one."""
    try:
        return log_pb2.Commit.FromString(payload)
    except DecodeError as error:
        raise InvalidArgument("commit", f"is not a serialized stigmer.log.v1.Commit ({error})") from error


def resource_of(message: bytes) -> Resource:
    """Decode a serialized `stigmer.store.v1.Resource`."""
    return resource_from(store_pb2.Resource.FromString(message))


def resource_from(m: store_pb2.Resource) -> Resource:
    """Turn a `stigmer.store.v1.Resource` into the `Resource` that callers get."""
    # The revisions go in as they are: calling the NewType for each of many rows would cost as much as reading it.
    return Resource(
        m.kind,
        m.id,
        m.value,
        m.revision,  # type: ignore[arg-type]
        m.created_revision,  # type: ignore[arg-type]
        m.created_at_ns,
        m.updated_at_ns,
    )


def matching(
    commit: log_pb2.Commit, kinds: Collection[str] | None, prefix: str | None
) -> Iterator[tuple[int, log_pb2.Event]]:
    """Give the events of a commit that pass a tail's filter, each with its place in the commit."""
    for index, event in enumerate(commit.events):
        if kinds and event.kind not in kinds:
            continue
        if prefix and not event.id.startswith(prefix):
            continue
        yield index, event


def event_of(event: log_pb2.Event, revision: int, time_ns: int) -> Event:
    """Turn one event of a commit into the `Event` that a tail gives."""
    op = _OP_SAVE if event.op == _SAVE else _OP_DELETE
    expected = event.expected_revision if event.HasField("expected_revision") else None
    return Event(revision, op, event.kind, event.id, event.value, time_ns, expected)  # type: ignore[arg-type]


def events_of(committed: Iterable[store_pb2.CommittedEvents], after: int) -> Iterator[Event]:
    """Give the events of a tail's answer whose revision is above `after`."""
    for one in committed:
        revisions = one.revisions or range(one.first_revision, one.first_revision + len(one.commit.events))
        for revision, event in zip(revisions, one.commit.events, strict=True):
            if revision > after:
                yield event_of(event, revision, one.time_ns)
