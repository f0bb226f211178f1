"""The merge of statuses by bytes, against a plain one of messages: for whatever clients old and new have stored."""

from __future__ import annotations

from typing import Any

import pytest
from checks import deterministic
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.support import FAILED, AgentStatus, WorkflowStatus, execution, workflow_execution
from stigmer import fields
from stigmer.decision import Found
from stigmer.errors import InvalidArgument, StigmerError
from stigmer.resources import kinds, status

AUDIT, STATUS = 99, 5
TIME_NS = 1_700_000_000_123_456_000
NOW = "2023-11-14T22:13:20.123456Z"
CALLBACK_TOKEN = 10
FINAL = {3, 4, 5}

# --- a state, and statuses -------------------------------------------------------------------------------


class OneValue:
    """The state of an operation on a single resource."""

    time_ns = TIME_NS

    def __init__(self, value: bytes) -> None:
        self.value = value

    def get(self, _kind: str, _id: str) -> Found:
        return Found(self.value, 1)

    def save(self, _kind: str, _id: str, value: bytes) -> None:
        self.value = value


texts = st.sampled_from(["", "a", "b", "é"])
ids = st.sampled_from(["", "1", "2", "3"])
unknown = st.lists(
    st.sampled_from(
        [
            b"\xa2\x06\x03new",  # 100: a text
            b"\xa8\x06\x96\x01",  # 101: a number
            b"\xb1\x06abcdefgh",  # 102: eight bytes
            b"\xbd\x06abcd",  # 103: four bytes
            b"\xc3\x06\xa2\x06\x01x\xc4\x06",  # 104: a group
            b"\xa2\x06\x05newer",
        ]
    ),
    max_size=2,
)


def optionally(message: Any, name: str, value: Any) -> None:
    if value:
        setattr(message, name, value)


@st.composite
def agent_statuses(draw: Any) -> Any:
    made = AgentStatus(phase=draw(st.integers(0, 5)), callback_token=draw(st.sampled_from([b"", b"t"])))
    for name in ("error", "started_at", "completed_at"):
        optionally(made, name, draw(texts))
    for content in draw(st.lists(texts, max_size=3)):
        message = made.messages.add(content=content, type=draw(st.integers(0, 9)))
        if content == "a":
            message.metadata.update({"n": 1})
    for id in draw(st.lists(ids, max_size=3)):
        call = made.tool_calls.add(id=id, name=draw(texts), result=draw(texts))
        call.MergeFromString(b"".join(draw(unknown)))
        if draw(st.booleans()):
            call.args.update({"x": draw(texts)})
    for id in draw(st.lists(ids, max_size=3)):
        made.sub_agent_executions.add(id=id, output=draw(texts), status=draw(st.integers(0, 9)))
    for key in draw(st.lists(texts, max_size=2)):
        made.todos[key].content = draw(texts)
    made.MergeFromString(b"".join(draw(unknown)))
    if draw(st.booleans()):
        made.MergeFromString(b"\x2a\x01x")  # 5, which it had once
    return made


@st.composite
def workflow_statuses(draw: Any) -> Any:
    made = WorkflowStatus(phase=draw(st.integers(0, 5)))
    for name in ("error", "started_at", "completed_at", "temporal_workflow_id"):
        optionally(made, name, draw(texts))
    for id in draw(st.lists(ids, max_size=4)):
        task = made.tasks.add(task_id=id, task_name=draw(texts), status=draw(st.integers(0, 9)))
        task.MergeFromString(b"".join(draw(unknown)))
        if draw(st.booleans()):
            task.output.update({"x": draw(texts)})
    if draw(st.booleans()):
        made.output.update({"x": draw(texts)})
    made.MergeFromString(b"".join(draw(unknown)))
    return made


STATUSES = {"agent_execution": agent_statuses(), "workflow_execution": workflow_statuses()}
PHASES = {"agent_execution": 2, "workflow_execution": 1}


def stored_value(kind: str, of: Any) -> bytes:
    """Give an execution with a status, as this code would store it."""
    made = execution(session_id="ses") if kind == "agent_execution" else workflow_execution(workflow_id="wfl")
    made.status.CopyFrom(of)
    made.status.audit.spec_audit.event = "created"
    made.status.audit.status_audit.event = "created"
    made.status.audit.status_audit.created_by.id = "somebody"
    return bytes(made.SerializeToString())


def oddly(data: Any, kind: str, value: bytes) -> bytes:
    """Give the same message as other writers of protobuf may serialize it.

    Fields in any order, a status in two pieces, numbers that a later one replaces or with more bytes than they need,
    and fields of a type that is not theirs, which nobody reads.
    """
    resource = fields.split(value)
    parts = [part for occurrences in fields.split(fields.content(resource, STATUS)).values() for part in occurrences]
    parts = shuffled(data, parts)
    number = PHASES[kind]
    if data.draw(st.booleans()):
        parts.insert(0, fields.of_integer(number, 1))
    if data.draw(st.booleans()):
        parts.insert(0, fields.of_bytes(number, b"\x03"))  # packed, which a single number is not
    phase = fields.integer(fields.split(b"".join(parts)), number)
    if phase and data.draw(st.booleans()):
        parts.append(bytes((number << 3, phase | 0x80, 0x80, 0)))
    if data.draw(st.booleans()):
        parts.insert(0, b"\x3a\x01x" if kind == "agent_execution" else b"\x2a\x01x")  # started_at
        started = fields.text(fields.split(value_of_status(value)), 7 if kind == "agent_execution" else 5)
        parts.append(fields.of_bytes(7 if kind == "agent_execution" else 5, started))
    cut = data.draw(st.integers(0, len(parts)))
    pieces = [fields.of_bytes(STATUS, b"".join(parts[:cut])), fields.of_bytes(STATUS, b"".join(parts[cut:]))]
    rest = [part for number, found in resource.items() if number != STATUS for part in found]
    return b"".join(shuffled(data, [*rest, *pieces]))


def value_of_status(value: bytes) -> bytes:
    return fields.content(fields.split(value), STATUS)


def shuffled(data: Any, parts: list[bytes]) -> list[bytes]:
    """Give occurrences of fields in another order, those of one field in theirs."""
    order = data.draw(st.permutations(range(len(parts))))
    numbers = [next(iter(fields.split(part))) for part in parts]
    waiting: dict[int, list[bytes]] = {}
    for number, part in zip(numbers, parts, strict=True):
        waiting.setdefault(number, []).append(part)
    return [waiting[numbers[place]].pop(0) for place in order]


# --- the model -------------------------------------------------------------------------------------------


def parts_of(message: Any) -> dict[int, Any]:
    """Give what a message holds, field by field, with what is unknown in it."""
    parts: dict[int, Any] = {}
    known = message.DESCRIPTOR.fields_by_number
    for one in UnknownFieldSet(message):
        if one.field_number not in known:
            parts.setdefault(one.field_number, []).append(_unknown(one))
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            parts[field.number] = {
                key: parts_of(entry) if isinstance(entry, Message) else entry for key, entry in value.items()
            }
        elif field.is_repeated:
            parts[field.number] = [parts_of(entry) if isinstance(entry, Message) else entry for entry in value]
        else:
            parts[field.number] = parts_of(value) if isinstance(value, Message) else value
    return parts


def _unknown(field: Any) -> Any:
    if isinstance(field.data, int | bytes):
        return field.wire_type, field.data
    return field.wire_type, [(inner.field_number, _unknown(inner)) for inner in field.data]


def together(stored: list[Any], reported: list[Any], key: int, *, keeps_all: bool) -> list[Any]:
    """Bring lists of entries together by a field of theirs."""
    reported = list(reported)
    replaces = any(key not in one for one in reported)
    merged: list[Any] = []
    for entry in stored:
        if key in entry or keeps_all or not replaces:
            merged.append(dict(entry))
        else:
            # The first of those that cannot be told apart takes the first one's place, and so on.
            place = next((place for place, one in enumerate(reported) if key not in one), None)
            if place is not None:
                merged.append(dict(reported.pop(place)))
    for entry in reported:
        same = [one for one in merged if key in entry and one.get(key) == entry[key]]
        if same:
            same[-1].update(entry)
        else:
            merged.append(dict(entry))
    return merged


def merged(kind: str, stored: dict[int, Any], reported: dict[int, Any]) -> dict[int, Any]:
    """Give what a status comes to."""
    reported = {number: part for number, part in reported.items() if number != AUDIT}
    phase = reported.get(PHASES[kind], 0)
    if kind == "agent_execution":
        reported.pop(CALLBACK_TOKEN, None)
        before, now = stored.get(1, []), reported.get(1, [])
        if phase == FAILED and len(now) < len(before):
            reported[1] = before + now
            for number in (3, 4):
                if number in reported:
                    reported[number] = together(stored.get(number, []), reported[number], 1, keeps_all=True)
    elif kind == "workflow_execution" and 2 in reported:
        reported[2] = together(stored.get(2, []), reported[2], 1, keeps_all=False)
    result = stored | reported
    times = {2: 7, 3: 8, 4: 8, 5: 8} if kind == "agent_execution" else {2: 5, 3: 6, 4: 6, 5: 6}
    if phase in times:
        result.setdefault(times[phase], NOW)
    return result


# --- tests -----------------------------------------------------------------------------------------------


def merge(kind: str, state: OneValue, reported: Any) -> bytes:
    found = kinds.find(kind)
    assert found is not None
    return status.merge(state, found, "id", reported.SerializeToString()).value


def resource_of(kind: str, value: bytes) -> Any:
    message = kinds.decode(kind, value)
    assert message is not None
    return message


@pytest.mark.parametrize("kind", STATUSES)
@settings(deterministic, max_examples=300)
@given(data=st.data())
def test_the_merge_of_bytes_is_that_of_messages(kind: str, data: st.DataObject) -> None:
    """Whatever is stored and reported, in whatever form, the merge comes to what messages come to; and only once."""
    value = oddly(data, kind, stored_value(kind, data.draw(STATUSES[kind])))
    before = resource_of(kind, value)
    state = OneValue(value)
    reported = data.draw(STATUSES[kind])
    if before.status.phase in FINAL:
        with pytest.raises(StigmerError, match="does not change any more"):
            merge(kind, state, reported)
        assert state.value == value
        return
    answered = merge(kind, state, reported)
    assert answered == state.value
    after = resource_of(kind, answered)
    expected = merged(kind, parts_of(before.status), parts_of(reported))
    found = parts_of(after.status)
    del expected[AUDIT], found[AUDIT]
    assert found == expected
    assert after.status.audit.spec_audit == before.status.audit.spec_audit
    assert after.status.audit.status_audit.created_by == before.status.audit.status_audit.created_by
    assert after.status.audit.status_audit.updated_at.ToNanoseconds() == TIME_NS
    for name in ("api_version", "kind", "metadata", "spec"):
        assert getattr(after, name) == getattr(before, name)
    if after.status.phase not in FINAL:
        again = merge(kind, state, reported)
        assert len(again) == len(answered)
        assert parts_of(resource_of(kind, again)) == parts_of(after)


@pytest.mark.parametrize("kind", STATUSES)
def test_what_is_no_message_changes_nothing(kind: str) -> None:
    """A stored value that is cut short anywhere is merged as protobuf reads it, or refused as no message."""
    whole = AgentStatus(error="e") if kind == "agent_execution" else WorkflowStatus(error="e")
    whole.MergeFromString(b"\xc3\x06\xa2\x06\x01x\xc4\x06")
    value = stored_value(kind, whole)
    for end in range(len(value)):
        state = OneValue(value[:end])
        if kinds.decode(kind, state.value) is None:
            with pytest.raises(StigmerError, match=f'the value of {kind} "id" is no'):
                merge(kind, state, whole)
            assert state.value == value[:end]
        else:
            assert resource_of(kind, merge(kind, state, whole)).status.error == "e"


@pytest.mark.parametrize(
    "damaged",
    [b"\x08", b"\x0a\x05x", b"\x09x", b"\x0dx", b"\x0e", b"\x00\x01", b"\x0c", b"\x0b", b"\x0b\x14", b"\x0b" * 200],
    ids=["number", "length", "eight", "four", "type", "zero", "end", "begun", "other end", "deep"],
)
def test_fields_that_cannot_be_read(damaged: bytes) -> None:
    """Bytes that protobuf would not read are refused where they are taken apart, too."""
    with pytest.raises(InvalidArgument, match="is no serialized message"):
        fields.split(b"\x08\x01" + damaged)
