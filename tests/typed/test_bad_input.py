"""What no client should send, and what a newer one may: refused with the field's name, or kept as it came."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from resources.contract import contract

from typed.support import (
    API_VERSION,
    IN_PROGRESS,
    KINDS,
    METHODS,
    KindFacts,
    Method,
    Refused,
    Services,
    creatable,
    execution_of,
    make,
    message_class,
    unknown,
    wire_varint,
    workflow_execution_of,
)

CREATED = [kind for kind in KINDS if kind.name != "skill"]
EVERY_METHOD = pytest.mark.parametrize("method", METHODS, ids=str)
_FIELD = re.compile(r"[a-z_.\[\]0-9]+: \S")


@EVERY_METHOD
def test_empty_request(services: Services, method: Method) -> None:
    """Where a list needs nothing, it is in order; everywhere else it is INVALID_ARGUMENT that names a field."""
    if method.name == "list":
        assert method.response.FromString(services.send(method, b"")) is not None
        return
    with pytest.raises(Refused) as caught:
        services.send(method, b"")
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert _FIELD.match(caught.value.message), caught.value.message
    assert caught.value.detail.field in method.request.DESCRIPTOR.fields_by_name


@EVERY_METHOD
def test_bytes_that_are_no_message(services: Services, method: Method) -> None:
    """Random bytes, bytes that are cut off and text that is not UTF-8 are INVALID_ARGUMENT, and write nothing."""
    source = random.Random(str(method))
    before = services.revision
    requests = [b"\x0a\xff", b"\x0a\x02\xff\xfe", b"\xff" * 11]
    requests += (source.randbytes(size) for size in (1, 2, 10, 100, 5_000))
    for request in requests:
        if method.name == "list" and _parses(method, request):
            continue
        with pytest.raises(Refused) as caught:
            services.send(method, request)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT, (request, caught.value.message)
    assert services.revision == before


def _parses(method: Method, request: bytes) -> bool:
    try:
        method.request.FromString(request)
    except Exception:
        return False
    return True


PATHS = ["../../etc/passwd", "a/b", "/", ".", ".."]
STRANGE_IDS = [*PATHS, "a\0b", "a\nb", " a", "a ", "\u202eid", "x" * 10_000, "é" * 129]
REFERRED = [kind for kind in KINDS if kind.name not in ("agent_execution", "workflow_execution", "session")]
BY_ID = [method for method in METHODS if method.name in ("get", "delete", "subscribe")]


@pytest.mark.parametrize("method", BY_ID, ids=str)
def test_text_that_can_be_no_id(services: Services, method: Method) -> None:
    """Path characters, control characters and overlong texts are refused, and the field is named."""
    (field, *_) = method.request.DESCRIPTOR.fields
    for id in STRANGE_IDS:
        with pytest.raises(Refused, match=f"INVALID_ARGUMENT: {field.name}: "):
            services.send(method, method.request(**{field.name: id}).SerializeToString())


@pytest.mark.parametrize("method", BY_ID, ids=str)
def test_id_of_any_language(services: Services, method: Method) -> None:
    """A strange id that is one is looked for."""
    (field, *_) = method.request.DESCRIPTOR.fields
    for id in ("ünïcode", "with space", "%2e%2e", "日本", "é" * 128, "\\", "'; DROP TABLE agents"):
        with pytest.raises(Refused, match=f"{method.kind.message_name} not found: {re.escape(id)}") as caught:
            services.send(method, method.request(**{field.name: id}).SerializeToString())
        assert caught.value.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("kind", CREATED, ids=lambda kind: kind.name)
def test_identity_that_cannot_be_one(services: Services, kind: KindFacts) -> None:
    """A client's own id or slug is checked before anything is written."""
    message = creatable(services, kind.name, f"Strange {kind.name}")
    before = services.revision
    for id in STRANGE_IDS:
        message.metadata.id, message.metadata.slug = id, ""
        with pytest.raises(Refused, match=r"INVALID_ARGUMENT: metadata\.id: "):
            services.of(kind).create(message)
        if len(id) > 100:
            continue  # a slug may be long
        message.metadata.id, message.metadata.slug = "", id
        with pytest.raises(Refused, match=r"INVALID_ARGUMENT: metadata\.slug: "):
            services.of(kind).create(message)
    assert services.revision == before


@pytest.mark.parametrize("kind", REFERRED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("slug", ["../../etc", "a\0b", "x" * 10_000, "é" * 3_000, "\n"])
def test_slug_that_nothing_has(services: Services, kind: KindFacts, slug: str) -> None:
    """Any text may be asked for; the answer is one that a client can receive, however long the text was."""
    with pytest.raises(Refused, match=f"{kind.message_name} not found: ") as caught:
        services.of(kind).getByReference(slug=slug)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("request_id", ["x" * 65, "with space", "x" * 5_000])
def test_request_id_that_is_none(services: Services, request_id: str) -> None:
    """It is refused, and nothing is written."""
    before = services.revision
    with pytest.raises(Refused, match="INVALID_ARGUMENT: request_id: "):
        services.mcp_server.create(make("mcp_server", "Request Id"), request_id=request_id)
    assert services.revision == before


# --- what a newer client may send ------------------------------------------------------------------------


def _depths(message: Any) -> Iterator[Any]:
    """Give a message and those inside of it that are there, in lists and maps too."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.full_name.startswith("google.protobuf."):
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in value:
                    yield from _depths(value[key])
        elif field.is_repeated:
            for one in value:
                yield from _depths(one)
        else:
            yield from _depths(value)


def _with_unknown(message: Any, seed: int) -> Any:
    """Give a message with fields of its own in every message inside of it."""
    for number, one in enumerate(list(_depths(message))):
        one.MergeFromString(unknown(9_000 + 10 * number, 70_000, content=b"newer %d.%d" % (seed, number)))
    return message


def _unknown_of(message: Any) -> list[bytes]:
    """Give the bytes of what is unknown in a message and in each inside of it, but for the status."""
    found = []
    for one in _depths(message):
        if "audit" in one.DESCRIPTOR.fields_by_name or one.DESCRIPTOR.name.startswith("ApiResourceAudit"):
            continue
        bare = type(one)()
        bare.CopyFrom(one)
        for field, _ in one.ListFields():
            bare.ClearField(field.name)
        found.append(bare.SerializeToString())
    return found


@pytest.mark.parametrize("kind", CREATED, ids=lambda kind: kind.name)
def test_unknown_fields_are_kept(services: Services, kind: KindFacts) -> None:
    """At every depth, byte for byte, through create, get, update, apply and back; none comes twice, none is lost."""
    service = services.of(kind)
    wanted = _with_unknown(creatable(services, kind.name, f"Newer {kind.name}", labels={"a": "b"}), 1)
    wanted.ClearField("status")
    sent = _unknown_of(wanted)
    assert sum(map(len, sent)) > 100
    made = service.create(wanted)
    assert _unknown_of(made) == sent
    assert service.get(value=made.metadata.id) == made
    id = made.metadata.id
    if kind.name != "execution_context":
        for _ in range(2):
            updated = service.update(service.get(value=id))
            assert _unknown_of(updated) == sent
            assert service.get(value=id) == updated
        # A client that does not know them, and so sends none, takes none away.
        older = type(wanted)()
        older.CopyFrom(updated)
        older.DiscardUnknownFields()
        assert _unknown_of(service.update(older))[:2] == sent[:2]
        # One that has others puts them in the place of those.
        changed = type(wanted)()
        changed.CopyFrom(older)
        newer = service.update(_with_unknown(changed, 2))
        assert b"newer 2.0" in newer.SerializeToString()
        assert b"newer 1.0" not in newer.SerializeToString()
        made = newer
    if kind.name not in ("agent_execution", "workflow_execution"):
        before = services.revision
        assert service.apply(service.get(value=id)) == made
        assert services.revision == before
    field = "resource_id" if kind.name in ("environment", "execution_context", "mcp_server") else "value"
    assert service.delete(**{field: id}) == made


@pytest.mark.parametrize("kind_name", ["agent_execution", "workflow_execution"])
def test_unknown_fields_of_a_status_are_kept(services: Services, kind_name: str) -> None:
    """What a newer runner reports is stored and given back, in lists as well."""
    service = getattr(services, kind_name)
    run = service.create(creatable(services, kind_name, f"Newer status of {kind_name}"))
    id = run.metadata.id
    request = message_class(service._methods["updateStatus"].facts.request)(execution_id=id)
    request.status.phase = IN_PROGRESS
    request.status.MergeFromString(unknown(9_001))
    inner = (
        request.status.messages.add(content="hi")
        if kind_name == "agent_execution"
        else request.status.tasks.add(task_id="t1")
    )
    inner.MergeFromString(unknown(9_002))
    reported = service.updateStatus(request)
    for _ in range(2):
        assert service.updateStatus(request).status.SerializeToString().count(unknown(9_001)) == 1
    found = service.get(value=id)
    assert unknown(9_001) in reported.status.SerializeToString()
    assert found.SerializeToString().count(unknown(9_001)) == 1
    assert found.SerializeToString().count(unknown(9_002)) == 1
    listed = service.list(page_size=1).entries[0]
    assert listed == found


def test_unknown_groups_and_wrong_wire_types_are_kept(services: Services) -> None:
    """Groups, and known numbers with another wire type, are unknown fields like others."""
    group = wire_varint(9_003 << 3 | 3) + wire_varint(1 << 3) + b"\x07" + wire_varint(9_003 << 3 | 4)
    flow = services.workflow.create(make("workflow", "Groups"))
    wanted = workflow_execution_of("groups", workflow=flow.metadata.id)
    wanted.MergeFromString(group + b"\x28\x07")  # the status, as a number
    made = services.workflow_execution.create(wanted)
    assert group in made.SerializeToString()
    reported = services.workflow_execution.updateStatus(execution_id=made.metadata.id, status={"phase": IN_PROGRESS})
    assert (reported.status.phase, group in reported.SerializeToString()) == (IN_PROGRESS, True)
    updated = services.workflow_execution.update(reported)
    assert (updated.status.phase, updated.SerializeToString().count(group)) == (IN_PROGRESS, 1)


def test_enum_numbers_without_a_name_are_kept(services: Services) -> None:
    """Where no rule forbids them; where one does, the field is named."""
    agent = services.agent.create(make("agent", "Enums"))
    run = services.agent_execution.create(execution_of("enums", agent=agent.metadata.id))
    todo = {"t": {"id": "t", "content": "c", "status": 77}}
    reported = services.agent_execution.updateStatus(execution_id=run.metadata.id, status={"todos": todo})
    assert reported.status.todos["t"].status == 77
    assert services.agent_execution.get(value=run.metadata.id).status.todos["t"].status == 77
    flow = services.workflow.create(make("workflow", "Enums"))
    instance = make("workflow_instance", "Enums")
    instance.spec.workflow_id = flow.metadata.id
    instance.spec.env_refs.add(kind=999, slug="x")
    made = services.workflow_instance.create(instance)
    assert services.workflow_instance.update(made).spec.env_refs[0].kind == 999
    with pytest.raises(Refused, match=r"INVALID_ARGUMENT: status\.phase: "):
        services.agent_execution.updateStatus(execution_id=run.metadata.id, status={"phase": 77})
    instance.spec.env_refs[0].scope = 9
    with pytest.raises(Refused, match=r"INVALID_ARGUMENT: spec\.env_refs\[0\]\.scope: "):
        services.workflow_instance.create(instance)


def test_environment_references_take_both_numbers(services: Services) -> None:
    """The one of the published rule, which is a slip, and the one that was meant; no other."""
    for number in (52, 53):
        instance = make("agent_instance", f"References {number}")
        instance.spec.environment_refs.add(kind=number, slug="env")
        assert services.agent_instance.create(instance).spec.environment_refs[0].kind == number
    instance.spec.environment_refs[0].kind = 40
    with pytest.raises(Refused, match=r"INVALID_ARGUMENT: spec\.environment_refs\[0\]\.kind: "):
        services.agent_instance.create(instance)


def test_strange_keys_and_values_are_kept(services: Services) -> None:
    """Any text may be a key or a value of a map, and of a tag: they come back as they were sent, and are found."""
    strange = ["", " ", "=", "a=b", "\0", "\n", "é", "🤖", "x" * 10_000, "\u202e", "stigmer-sealed:1:x", "../.."]
    message = make("session", "Strange Keys", labels=dict(itertools.pairwise(strange)), tags=strange)
    message.spec.metadata.update(dict(itertools.pairwise(strange)))
    made = services.session.create(message)
    found = services.session.get(value=made.metadata.id)
    assert dict(found.metadata.labels) == dict(itertools.pairwise(strange)) == dict(found.spec.metadata)
    assert list(found.metadata.tags) == strange
    for tag in strange[1:]:
        assert [one.metadata.id for one in services.session.list(tags=[tag]).entries] == [made.metadata.id]
    before = services.revision
    assert services.session.apply(made) == made
    assert services.revision == before


def _nested(depth: int) -> bytes:
    """Give a serialized Struct with structs inside each other."""
    struct = b""
    for _ in range(depth):
        value = b"\x2a" + wire_varint(len(struct)) + struct
        entry = b"\x0a\x01a\x12" + wire_varint(len(value)) + value
        struct = b"\x0a" + wire_varint(len(entry)) + entry
    return struct


def test_deep_structs(services: Services) -> None:
    """As deep as protobuf takes them they are kept and listed; deeper ones are refused as what cannot be parsed."""
    agent = services.agent.create(make("agent", "Deep"))
    kept = refused = 0
    for depth in (1, 10, 25, 28, 29, 30, 31, 32, 33, 34, 50, 1_000):
        run = services.agent_execution.create(execution_of(f"deep {depth}", agent=agent.metadata.id))
        call = b"\x1a" + wire_varint(len(_nested(depth))) + _nested(depth)
        status = b"\x1a" + wire_varint(len(call)) + call
        id = run.metadata.id.encode()
        request = b"\x0a" + wire_varint(len(id)) + id + b"\x12" + wire_varint(len(status)) + status
        method = next(one for one in METHODS if str(one) == "agent_execution.updateStatus")
        try:
            services.send(method, request)
        except Refused as error:
            refused += error.code is grpc.StatusCode.INVALID_ARGUMENT
            assert services.agent_execution.get(value=run.metadata.id) == run
        else:
            kept += 1
            found = services.agent_execution.get(value=run.metadata.id)
            assert found.status.tool_calls[0].args.ByteSize() == len(_nested(depth))
            listed = services.agent_execution.listBySession(session_id=run.spec.session_id).entries
            assert [one.metadata.id for one in listed] == [run.metadata.id]
    assert (kept >= 4, kept + refused) == (True, 12)


@pytest.mark.parametrize("kind", CREATED, ids=lambda kind: kind.name)
def test_missing_spec(services: Services, kind: KindFacts) -> None:
    """The rules of a spec hold where there is one; where something of it is needed, its field is named."""
    message = kind.message_class(api_version=API_VERSION, kind=kind.message_name)
    message.metadata.CopyFrom(make(kind.name, f"Without Spec {kind.name}").metadata)
    if kind.name in ("agent_execution", "workflow_execution", "workflow_instance"):
        with pytest.raises(Refused, match="INVALID_ARGUMENT: spec"):
            services.of(kind).create(message)
    else:
        assert not services.of(kind).create(message).HasField("spec")
    message.spec.SetInParent()
    if kind.name not in ("mcp_server", "environment"):
        with pytest.raises(Refused, match="INVALID_ARGUMENT: spec"):
            services.of(kind).create(message)


@pytest.mark.parametrize("id", STRANGE_IDS)
def test_reference_to_what_can_be_no_id(services: Services, id: str) -> None:
    """The field that has it is named, and nothing is written."""
    before = services.revision
    instance = make("workflow_instance", "Refers")
    instance.spec.workflow_id = id
    for service, message, field in (
        (services.workflow_instance, instance, "workflow_id"),
        (services.agent_execution, execution_of("refers", agent=id), "agent_id"),
        (services.agent_execution, execution_of("refers", session=id), "session_id"),
        (services.workflow_execution, workflow_execution_of("refers", workflow=id), "workflow_id"),
        (services.workflow_execution, workflow_execution_of("refers", instance=id), "workflow_instance_id"),
    ):
        with pytest.raises(Refused, match=rf"INVALID_ARGUMENT: spec\.{field}: "):
            service.create(message)
    assert services.revision == before


def test_every_service_is_tried_here() -> None:
    """The tables above are made of the contract's methods, all of them."""
    assert {method.service for method in METHODS} == set(contract().services)
    assert len(METHODS) == 71
