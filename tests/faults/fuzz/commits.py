"""Target: what clients commit, from the bytes of a Write message to the rows of the views and the answers of a tail.

Where we read or write messages by hand, protobuf's own parser says what is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from flows.support import TRAFFIC, execution
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from stigmer import codec, commits, names, parsing, wire
from stigmer.cli import recordings
from stigmer.daemon import splice
from stigmer.daemon.commit_queue import Settle
from stigmer.daemon.handlers import Boundary
from stigmer.daemon.refusals import Refusals
from stigmer.daemon.write_streams import WriteStreams
from stigmer.decision import Ticket
from stigmer.errors import InvalidArgument, ResourceExhausted
from stigmer.model import Committed, Delete, Op, Revision, Save
from stigmer.pb import log_pb2, store_pb2
from stigmer.views import snapshot
from stigmer.views.keys import parts_of
from stigmer.views.projector import VIEWS
from stigmer.views.view import Change, number, prepare

from .targets import is_safe_to_show

READERS = ("stigmer.codec", "stigmer.commits", "stigmer.names", "stigmer.daemon", "stigmer.views", "stigmer.wire")
TOKENS = (
    b"\x0a\x00",
    b"\x0a\x80\x00",
    b"\x0a\xff\xff\xff\xff\x07",
    b"\x8a\x00",
    b"\x0b\x0c",
    b"\x08\x01",
    b"\x08\x02",
    b"\x12\x04note",
    b"\x1a\x02n1",
    b"\x1a\x02..",
    b"\x22\x00",
    b"\x28\x00",
    b"\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x12\x05agent",
    "\u202e".encode(),
    "\u00a0".encode(),
    b"\xed\xa0\x80",
    b"\0",
)

_VALUE_BYTES_MAX = 4096
_TIME_NS = 1_767_225_600_000_000_000


def one(data: bytes) -> None:
    """Read bytes as every request of the store, as a Write message, and as a commit."""
    _check_requests(data)
    _check_stream(data)
    for payload in [data, *_cut(data)]:
        prepared = _checked(payload)
        if prepared is not None:
            _check_changes(prepared)
            _check_views(prepared)
            _check_tail(prepared)


def seeds() -> Iterator[bytes]:
    """Give messages of every sort of commit."""
    save = log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="note", id="n1", value=b"hello")
    unusual = log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="a.b-c_D", id="\u00e9 \u4e2d", expected_revision=7)
    delete = log_pb2.Event(op=log_pb2.Event.OP_DELETE, kind="note", id="n1", expected_revision=(1 << 64) - 1)
    large = log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="note", id="n" * 256, value=bytes(_VALUE_BYTES_MAX + 1))
    refused = log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="note", id="a/b")
    made = [
        log_pb2.Commit(events=[save]),
        log_pb2.Commit(events=[save, delete, unusual, save], request_id="request-1"),
        log_pb2.Commit(events=[large]),
        log_pb2.Commit(events=[save, refused]),
        log_pb2.Commit(),
    ]
    yield b""
    for commit in made:
        yield store_pb2.WriteRequest(commits=[commit]).SerializeToString()
    yield store_pb2.WriteRequest(commits=made).SerializeToString()
    yield store_pb2.ListRequest(kind="note", prefix="n", limit=3, page_token="x").SerializeToString()
    yield store_pb2.TailRequest(after=3, kinds=["note"], prefix="n").SerializeToString()
    update = next(recordings.frames(str(TRAFFIC / "agent-run-chat.binpb.zst")))
    run = log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="agent_execution", id="x", value=update)
    yield store_pb2.WriteRequest(commits=[log_pb2.Commit(events=[run, save])]).SerializeToString()
    long_text = execution(session_id="s" * 300).SerializeToString()
    long_run = log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="agent_execution", id="y", value=long_text)
    whole = log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="note", id="n2", value=bytes(_VALUE_BYTES_MAX))
    yield store_pb2.WriteRequest(commits=[log_pb2.Commit(events=[long_run, whole])]).SerializeToString()


def _check_requests(data: bytes) -> None:
    for service in (wire.STORE_SERVICE, wire.ADMIN_SERVICE, wire.RESOURCES_SERVICE):
        for method in wire.methods(service).values():
            try:
                parsing.parsed(method.request, data)
            except InvalidArgument as error:
                wire.detail_of(error)


# --- the messages of a stream ------------------------------------------------------------------------------


def _envelope() -> type[Message]:
    """Make the class of a Write message whose commits are bytes, which need not be commits."""
    file = descriptor_pb2.FileDescriptorProto(name="envelope.proto", package="fuzz", syntax="proto3")
    field = store_pb2.WriteRequest.DESCRIPTOR.fields_by_name["commits"]
    message = file.message_type.add(name="Envelope")
    message.field.add(name="commits", number=field.number, type=12, label=3)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("fuzz.Envelope"))


_Envelope = _envelope()


def _cut(data: bytes) -> list[bytes]:
    """Cut a Write message as the daemon does and as protobuf does: what the first takes, the second takes."""
    known: Any = None
    try:
        known = _Envelope.FromString(data)
        known.DiscardUnknownFields()
    except DecodeError:
        pass
    try:
        found = splice.commits_of(data)
    except InvalidArgument:
        assert known is None or known.SerializeToString() != data, "a Write message was refused"
        return []
    assert known is not None, "what is no message was taken"
    assert found == list(known.commits)
    return found


class _Answers:
    """What a stream is written to, and where its requests come from."""

    def __init__(self) -> None:
        self.answers: list[store_pb2.WriteResponse] = []

    def peer(self) -> str:
        return "a test"

    async def write(self, message: bytes) -> None:
        self.answers.append(store_pb2.WriteResponse.FromString(message))


async def _messages(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def _check_stream(data: bytes) -> None:
    """Each commit of a stream is answered once, in its order: with its revisions, or with what is wrong with it."""
    last = 0
    expected: list[int] = []

    async def submit(payload: bytes, settle: Settle) -> None:
        nonlocal last
        expected.append(0)
        ticket = Ticket(commits.parsed(payload, _VALUE_BYTES_MAX), settle, None)
        ticket.committed = Committed(Revision(last + 1), Revision(last + len(ticket.changes)))
        expected[-1] = last = ticket.committed.last_revision
        settle(ticket)

    async def serve() -> tuple[list[store_pb2.WriteResponse], str | None]:
        context: Any = _Answers()
        store: Any = None  # is asked for room only where a commit is refused for want of it
        try:
            await WriteStreams(store, submit, Boundary(Refusals())).serve(_messages(data, data), context)
        except InvalidArgument as error:
            return context.answers, error.field
        return context.answers, None

    answers, refused = _loop().run_until_complete(serve())
    assert refused in (None, "request")
    assert [revision for answer in answers for revision in answer.last_revisions] == expected
    numbers = [refusal.number for answer in answers for refusal in answer.refusals]
    assert numbers == [place for place, revision in enumerate(expected, 1) if not revision]
    assert not any(answer.first_revisions for answer in answers)
    for answer in answers:
        for refusal in answer.refusals:
            assert isinstance(wire.error_from(refusal.error), InvalidArgument | ResourceExhausted)


_loops: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    if not _loops:
        _loops.append(asyncio.new_event_loop())
    return _loops[0]


# --- one commit --------------------------------------------------------------------------------------------


def _checked(payload: bytes) -> commits.Prepared | None:
    try:
        prepared = commits.parsed(payload, _VALUE_BYTES_MAX)
    except (InvalidArgument, ResourceExhausted) as error:
        detail = wire.detail_of(error)
        assert type(wire.error_of(detail)) is type(error)
        assert is_safe_to_show(str(error)), "an error would reach a terminal with control characters"
        return None
    assert prepared.payload is payload, "a commit is not kept as it came"
    return prepared


def _check_changes(prepared: commits.Prepared) -> None:
    """What was taken follows the grammar, is what protobuf reads, and is taken again when it is made here."""
    commit = codec.decode_commit(prepared.payload)
    assert len(commit.events) == len(prepared.changes)
    names.check_request_id(commit.request_id)
    again: list[Save | Delete] = []
    for event, change in zip(commit.events, prepared.changes, strict=True):
        names.check_kind(event.kind)
        names.check_id(event.id)
        assert parts_of(change.key) == (event.kind, event.id)
        assert change.key.count(b"/") == 1
        assert (change.value is None) == (event.op == log_pb2.Event.OP_DELETE)
        assert (change.value or b"") == event.value
        expected = event.expected_revision if event.HasField("expected_revision") else None
        assert change.expected_revision == expected
        if change.value is None:
            again.append(Delete(event.kind, event.id, expected))
        else:
            again.append(Save(event.kind, event.id, change.value, expected))
    made = commits.made(again, prepared.request_id or None, _VALUE_BYTES_MAX)
    assert made.changes == prepared.changes
    assert (made.request_id, made.conditional) == (prepared.request_id, prepared.conditional)
    commit.DiscardUnknownFields()
    assert codec.decode_commit(made.payload) == commit
    assert prepare(commit) == prepared.changes


def _check_views(prepared: commits.Prepared) -> None:
    """Every view folds what was taken, and the row of a resource is what protobuf reads of it."""
    fold = number(prepared.changes, prepared.request_id, 300, _TIME_NS, len(prepared.payload))
    for view in [view() for view in VIEWS]:
        folded = view.fold(_nothing, [fold])
        if folded:
            view.take(folded)
    for place, change in enumerate(prepared.changes):
        assert (change.revision, change.time_ns) == (300 + place, _TIME_NS)
        if change.value is not None:
            _check_row(change)
        for term, qualifier in change.terms or ():
            # With a NUL, a revision and an id behind it, it is the key of a row.
            assert len(term) + 1 + 8 + names.ID_BYTES_MAX <= 511
            assert len(qualifier) <= 511
            assert term.count(b"\0") == 2


def _nothing(database: str, key: bytes) -> None:
    return None


def _check_row(change: Change) -> None:
    row = snapshot.message_of(change)
    kind, id = parts_of(change.key)
    message = store_pb2.Resource(
        revision=change.revision,
        created_revision=change.created_revision,
        created_at_ns=change.created_at_ns,
        updated_at_ns=change.time_ns,
        kind=kind,
        id=id,
        value=change.value or b"",
    )
    assert store_pb2.Resource.FromString(row) == message
    assert snapshot.resource_of(kind, row) == codec.resource_from(message)
    listed = store_pb2.ListResponse.FromString(splice.list_response([row, row], id))
    assert (list(listed.resources), listed.next_page_token) == ([message, message], id)


def _check_tail(prepared: commits.Prepared) -> None:
    """A tail gives the commit's own bytes on, which a client reads as its events."""
    first = (1 << 64) - 1 - len(prepared.changes)
    written = splice.committed_events(first, _TIME_NS, prepared.payload)
    answer = store_pb2.TailResponse.FromString(splice.tail_response([written], first))
    events = list(codec.events_of(answer.commits, 0))
    assert [(event.revision, event.kind, event.id) for event in events] == [
        (first + place, *parts_of(change.key)) for place, change in enumerate(prepared.changes)
    ]
    for event, change in zip(events, prepared.changes, strict=True):
        assert (event.op is Op.SAVE) == (change.value is not None)
        assert (event.value or b"") == (change.value or b"")
