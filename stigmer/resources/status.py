"""updateStatus: what a runner reports of an execution, merged into what is stored.

The merge runs inside an operation, many times a second, over statuses of up to a megabyte that are mostly what they
were; so fields are moved as bytes (`fields.py`) and parsed only where two lists have to be brought together.

- What the report has replaces what is stored, field by field; what it leaves out stays.
- A finished execution does not change any more.
- Tasks of a workflow are brought together by their ids. Those without one cannot be told apart: as a whole they take
  the place of those that are stored. So the same report again, however often, changes nothing but the audit.
- A failure that reports fewer messages than there are adds its own and takes nothing away: it comes from a runner that
  has lost what it had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from stigmer import fields
from stigmer.errors import InvalidArgument, StigmerError
from stigmer.fields import Bytes, Fields
from stigmer.resources import creation, kinds
from stigmer.resources.kinds import Kind
from stigmer.resources.state import State
from stigmer.resources.writing import Written

IN_PROGRESS, COMPLETED, FAILED, CANCELLED = 2, 3, 4, 5
FINAL = frozenset((COMPLETED, FAILED, CANCELLED))
_PHASE_NAMES = {COMPLETED: "COMPLETED", FAILED: "FAILED", CANCELLED: "CANCELLED"}

_STATUS, _AUDIT = 5, 99
"""The numbers of the status in a resource and of the audit in a status."""


class Report(msgspec.Struct, frozen=True):
    """Which fields of a kind's status a runner reports, by their numbers."""

    phase: int
    started_at: int
    completed_at: int
    not_reported: frozenset[int]
    """Kept as stored, whatever a report has in them."""
    keyed: dict[str, str]
    """Lists whose entries are brought together by a field of theirs, always."""
    keyed_where_failed: dict[str, str]
    """The same, in a failure that reports fewer messages than there are."""
    appended_where_failed: str = ""
    """The list of messages; those of such a failure are added."""


REPORTS = {
    "agent_execution": Report(
        phase=2,
        started_at=7,
        completed_at=8,
        not_reported=frozenset((10, _AUDIT)),
        keyed={},
        keyed_where_failed={"tool_calls": "id", "sub_agent_executions": "id"},
        appended_where_failed="messages",
    ),
    "workflow_execution": Report(
        phase=1,
        started_at=5,
        completed_at=6,
        not_reported=frozenset((_AUDIT,)),
        keyed={"tasks": "task_id"},
        keyed_where_failed={},
    ),
}


def phase_of(kind_name: str, value: bytes) -> int:
    """Give the phase of an execution from its stored value."""
    status = fields.split(fields.content(fields.split(value), _STATUS))
    return fields.integer(status, REPORTS[kind_name].phase)


def merge(state: State, kind: Kind, id: str, reported: Bytes) -> Written:
    """Merge a serialized status into the stored execution. Raises `NotFound`; `StigmerError` where it has ended."""
    found = state.get(kind.name, id)
    if found is None:
        raise creation.not_found(kind, id)
    try:
        value = _merged(kind, id, found.value, reported, state.time_ns)
    except (InvalidArgument, DecodeError):
        kinds.parsed(kind, id, found.value)  # says what is wrong with it
        raise
    state.save(kind.name, id, value)
    return Written(kind, id, value, before=found.value)


def _merged(kind: Kind, id: str, value: bytes, reported: Bytes, now_ns: int) -> bytes:
    report = REPORTS[kind.name]
    resource = fields.split(value)
    stored = fields.split(fields.content(resource, _STATUS))
    _check_not_finished(kind, id, fields.integer(stored, report.phase))
    given = fields.split(reported)
    for number in report.not_reported:
        given.pop(number, None)
    _bring_together(kind, report, stored, given)
    stored |= given
    _fill_in_times(report, stored, given, now_ns)
    stored[_AUDIT] = [fields.of_bytes(_AUDIT, _audit(bytes(fields.content(stored, _AUDIT)), now_ns))]
    resource[_STATUS] = fields.of_message(_STATUS, stored)
    return fields.join(resource)


def _check_not_finished(kind: Kind, id: str, phase: int) -> None:
    if phase in FINAL:
        raise StigmerError(
            f"{kind.message_name} {id} has ended ({_PHASE_NAMES[phase]}) and does not change any more",
            hint="create a new execution to run it again",
        )


def _bring_together(kind: Kind, report: Report, stored: Fields, given: Fields) -> None:
    """Replace in `given` the lists that do not simply replace the stored ones."""
    numbers = _numbers(kind)
    keyed = report.keyed
    keeps_all = False
    if report.appended_where_failed and fields.integer(given, report.phase) == FAILED:
        messages = numbers[report.appended_where_failed]
        if len(given.get(messages, ())) < len(stored.get(messages, ())):
            given[messages] = stored[messages] + given.get(messages, [])
            keyed = keyed | report.keyed_where_failed
            keeps_all = True
    for name, key in keyed.items():
        number = numbers[name]
        if number in given:
            given[number] = _by_key(kind, name, key, stored.get(number, ()), given[number], keeps_all=keeps_all)


def _by_key(
    kind: Kind, name: str, key: str, stored: Sequence[Bytes], given: Sequence[Bytes], *, keeps_all: bool
) -> list[Bytes]:
    """Bring two lists of messages together: what has the key of a stored entry changes it, field by field.

    Entries without a key take the places of such entries that are stored, unless all are to be kept.
    """
    status: Any = GetMessageClass(_status(kind))

    def key_of(occurrence: Bytes) -> str:
        return next((getattr(entry, key) for entry in getattr(status.FromString(bytes(occurrence)), name)), "")

    number = _numbers(kind)[name]
    rest = {place: (key_of(occurrence), occurrence) for place, occurrence in enumerate(given)}
    unnamed = [place for place, (its_key, _) in rest.items() if not its_key and not keeps_all]
    replaces_unnamed = bool(unnamed)
    merged: list[Bytes] = []
    at: dict[str, int] = {}
    for occurrence in stored:
        its_key = key_of(occurrence)
        if its_key:
            at[its_key] = len(merged)
        elif replaces_unnamed:
            if not unnamed:
                continue
            _, occurrence = rest.pop(unnamed.pop(0))
        merged.append(occurrence)
    for its_key, occurrence in rest.values():
        if its_key in at:
            both = _fields_in(merged[at[its_key]], number) | _fields_in(occurrence, number)
            merged[at[its_key]] = fields.of_bytes(number, fields.join(both))
            continue
        if its_key:
            at[its_key] = len(merged)
        merged.append(occurrence)
    return merged


def _fields_in(occurrence: Bytes, number: int) -> Fields:
    return fields.split(fields.content({number: [occurrence]}, number))


def _status(kind: Kind) -> Descriptor:
    return cast("Descriptor", kind.descriptor.fields_by_name["status"].message_type)


def _numbers(kind: Kind) -> dict[str, int]:
    return {field.name: field.number for field in _status(kind).fields}


def _fill_in_times(report: Report, stored: Fields, given: Fields, now_ns: int) -> None:
    """Write down when an execution began or ended, where the runner that says so leaves it out."""
    phase = fields.integer(given, report.phase)
    if phase == IN_PROGRESS:
        number = report.started_at
    elif phase in FINAL:
        number = report.completed_at
    else:
        return
    if not fields.text(stored, number):
        stored[number] = [fields.of_bytes(number, creation.rfc3339(now_ns).encode())]


def _audit(audit: bytes, now_ns: int) -> bytes:
    from stigmer.pb.agentic import apiresource_pb2

    message = apiresource_pb2.ApiResourceAudit.FromString(audit)
    creation.mark_updated(message.status_audit, now_ns)
    return message.SerializeToString(deterministic=True)
