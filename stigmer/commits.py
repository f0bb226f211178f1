"""What a commit must be before it is queued: its bytes, its changes, and the limits on both.

A commit comes as changes made in this process (`made`), or as bytes that were serialized elsewhere and go into the log
as they are (`parsed`). Either way it leaves here checked, so that the writer decides only what depends on the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stigmer import codec, config, names, parsing
from stigmer.errors import InvalidArgument, ResourceExhausted
from stigmer.model import Delete, Save
from stigmer.pb import log_pb2
from stigmer.views.keys import checked_key_of, parts_of, plain
from stigmer.views.view import Change

_SAVE = log_pb2.Event.OP_SAVE
_DELETE = log_pb2.Event.OP_DELETE


class Prepared(NamedTuple):
    """A commit that may be queued."""

    payload: bytes
    """A serialized `stigmer.log.v1.Commit`: what goes into the log."""
    changes: list[Change]
    """What it holds."""
    request_id: str
    conditional: bool
    """Whether a change depends on what is there: a delete, or one with an expected revision."""


def made(changes: Sequence[Save | Delete], request_id: str | None, value_bytes_max: int) -> Prepared:
    """Make a commit of changes. Raises `InvalidArgument` or `ResourceExhausted`."""
    payload, values = codec.encode_commit(changes, request_id)
    prepared = [
        Change(checked_key_of(kind := change.kind, change.id), plain(kind), value, change.expected_revision)
        for change, value in zip(changes, values, strict=True)
    ]
    _check_sizes(prepared, payload, value_bytes_max)
    conditional = any(change.value is None or change.expected_revision is not None for change in prepared)
    return Prepared(payload, prepared, request_id or "", conditional)


def parsed(payload: bytes, value_bytes_max: int) -> Prepared:
    """Check a commit that was serialized elsewhere. Raises `InvalidArgument` or `ResourceExhausted`."""
    _check_bytes(len(payload))
    commit = parsing.parsed(log_pb2.Commit, payload, "commit")
    _check_count(len(commit.events))
    changes, conditional = _checked_changes(commit)
    _check_sizes(changes, payload, value_bytes_max)
    return Prepared(payload, changes, commit.request_id, conditional)


def _checked_changes(commit: log_pb2.Commit) -> tuple[list[Change], bool]:
    """Give what a commit that was made elsewhere holds, and whether it is conditional. Raises `InvalidArgument`."""
    events = commit.events
    if not events:
        raise InvalidArgument("events", "must not be empty")
    names.check_request_id(commit.request_id)
    changes = []
    conditional = False
    for place, event in enumerate(events):
        try:
            kind, op, value = event.kind, event.op, event.value
            change = Change(checked_key_of(kind, event.id), kind, value)
            if op == _DELETE:
                if value:
                    raise InvalidArgument("value", "must be empty for a delete")
                change.value = None
                conditional = True
            elif op != _SAVE:
                raise InvalidArgument("op", f"must be OP_SAVE or OP_DELETE, not {op}")
            if event.HasField("expected_revision"):
                change.expected_revision = event.expected_revision
                conditional = True
        except InvalidArgument as error:
            if len(events) == 1:
                raise
            raise InvalidArgument(f"events[{place}].{error.field}", error.problem) from error
        changes.append(change)
    return changes, conditional


def _check_bytes(size: int) -> None:
    if size > config.COMMIT_BYTES_MAX:
        raise ResourceExhausted(
            f"the commit has {size} bytes; COMMIT_BYTES_MAX is {config.COMMIT_BYTES_MAX}",
            limit="COMMIT_BYTES_MAX",
            limit_value=config.COMMIT_BYTES_MAX,
            hint="make several smaller commits",
        )


def _check_count(count: int) -> None:
    if count > config.COMMIT_EVENTS_MAX:
        raise ResourceExhausted(
            f"the commit has {count} events; COMMIT_EVENTS_MAX is {config.COMMIT_EVENTS_MAX}",
            limit="COMMIT_EVENTS_MAX",
            limit_value=config.COMMIT_EVENTS_MAX,
            hint="make several smaller commits",
        )


def _check_sizes(changes: Sequence[Change], payload: bytes, value_bytes_max: int) -> None:
    _check_bytes(len(payload))
    _check_count(len(changes))
    if len(payload) <= value_bytes_max:
        return
    for change in changes:
        size = len(change.value or b"")
        if size > value_bytes_max:
            kind, id = parts_of(change.key)
            raise ResourceExhausted(
                f"the value of {kind} {names.shown(id)} has {size} bytes; value_bytes_max is {value_bytes_max}",
                limit="value_bytes_max",
                limit_value=value_bytes_max,
                hint="store a smaller value, or raise the limit: stigmer daemon --value-max",
            )
