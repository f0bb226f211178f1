"""What the daemon serves, as a client that asks finds it: the contract's services, but for one."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from daemon.support import ANY_PORT, DaemonProcess
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from resources.contract import contract

from typed.support import KINDS, METHODS, KindFacts, Refused, Services, creatable, make

RUNNER = "ai.stigmer.agentic.workflowrunner.v1.WorkflowRunnerServiceController"


def _ask(
    services: Services, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(services.channel)
    return next(iter(stub.ServerReflectionInfo(iter([request]), timeout=30)))


def test_reflection_tells_the_services_of_the_contract(services: Services) -> None:
    """Its 22 services and 71 methods, each with the types and streams of wire.txt, and no other of the platform's."""
    listed = _ask(services, reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {one.name for one in listed.list_services_response.service if one.name.startswith("ai.")}
    assert names == set(contract().services)
    assert (len(names), len(METHODS)) == (22, 71)
    for name in sorted(names):
        answer = _ask(services, reflection_pb2.ServerReflectionRequest(file_containing_symbol=name))
        found = {}
        for serialized in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
            for service in file.service:
                if f"{file.package}.{service.name}" == name:
                    for one in service.method:
                        sent, given = one.input_type.removeprefix("."), one.output_type.removeprefix(".")
                        found[one.name] = (sent, one.client_streaming, given, one.server_streaming)
        assert found == {key: tuple(method) for key, method in contract().services[name].items()}, name


@pytest.mark.parametrize("method", ["executeAsync", "cancelExecution", "pauseExecution", "resumeExecution", "nothing"])
def test_the_service_of_the_workflow_runner_is_not_served(services: Services, method: str) -> None:
    """It answers UNIMPLEMENTED, as gRPC does for what a server does not have."""
    with pytest.raises(grpc.RpcError) as caught:
        services.channel.unary_unary(f"/{RUNNER}/{method}")(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("token", ["Bearer dummy-local-key", "Bearer expired", "", "Basic x"])
def test_authorization_is_accepted_and_ignored(services: Services, token: str) -> None:
    """A daemon without authentication takes any client's token."""
    answer = services.session.call("list", metadata=(("authorization", token),), tags=["of-nobody"])
    assert list(answer.message.entries) == []


def test_every_address_serves_the_same(tmp_path: Path) -> None:
    """A daemon that listens on two addresses, for runners and for the command line, has one store."""
    with DaemonProcess(tmp_path / "data", ANY_PORT, ANY_PORT) as daemon:
        one, other = daemon.info.listen
        assert one != other
        with Services(one) as first, Services(other) as second:
            made = first.agent.create(make("agent", "shared"))
            assert second.agent.get(value=made.metadata.id) == made


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name != "skill"], ids=lambda kind: kind.name)
def test_kinds_are_what_the_contract_says(services: Services, kind: KindFacts) -> None:
    """Ids have the kind's prefix, the store has the message's bytes under `kind/id`, both constants are checked."""
    before = services.revision
    service = services.of(kind)
    message = creatable(services, kind.name, f"Constants {kind.name}")
    made = service.create(message)
    assert (made.api_version, made.kind) == ("agentic.stigmer.ai/v1", kind.message_name)
    assert made.metadata.id.startswith(f"{kind.id_prefix}-")
    saved = [event for commit in services.commits(before) for event in commit if event.id == made.metadata.id]
    assert [(event.kind, kind.message_class.FromString(event.value)) for event in saved] == [(kind.name, made)]
    for field, value in (("api_version", "v1"), ("kind", "Other"), ("api_version", ""), ("kind", "")):
        wrong = type(message)()
        wrong.CopyFrom(message)
        setattr(wrong, field, value)
        with pytest.raises(Refused, match=f"{field}: ") as caught:
            service.create(wrong)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    message.ClearField("metadata")
    with pytest.raises(Refused, match="metadata: ") as caught:
        service.create(message)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("scope", range(4))
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name != "skill"], ids=lambda kind: kind.name)
def test_owner_scopes_are_those_of_the_kind(services: Services, kind: KindFacts, scope: int) -> None:
    """Each kind takes the scopes that the contract lists for it, and refuses the others, naming the field."""
    message = creatable(services, kind.name, f"Scope {kind.name} {scope}")
    message.metadata.owner_scope = scope
    message.metadata.org = "acme" if scope == 2 else ""
    if scope in kind.owner_scopes:
        assert services.of(kind).create(message).metadata.owner_scope == scope
        return
    with pytest.raises(Refused, match=r"metadata\.owner_scope: ") as caught:
        services.of(kind).create(message)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
