"""A plain gRPC client of the platform's services, and messages to send with it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from stigmer.cli import recordings
from stigmer.pb.agentic import (
    agent_pb2,
    agentexecution_pb2,
    agentinstance_pb2,
    apiresource_pb2,
    environment_pb2,
    executioncontext_pb2,
    mcpserver_pb2,
    session_pb2,
    workflow_pb2,
    workflowexecution_pb2,
    workflowinstance_pb2,
)
from stigmer.resources.methods import Method, all_methods
from stigmer.store import Store
from stigmer.wire import REQUEST_ID_KEY

TRAFFIC = Path(__file__).parent.parent / "data" / "traffic"
API_VERSION = "agentic.stigmer.ai/v1"
PLATFORM, ORGANIZATION, IDENTITY = 1, 2, 3
PENDING, IN_PROGRESS, COMPLETED, FAILED, CANCELLED = 1, 2, 3, 4, 5
LIMIT_SECONDS = 240
"""A guard against hanging for ever; nothing is expected to take as long."""

UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
QUICK_TO_RETURN = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 50))

AgentStatus = agentexecution_pb2.AgentExecutionStatus
WorkflowStatus = workflowexecution_pb2.WorkflowExecutionStatus


@functools.cache
def method_of(kind: str, name: str) -> Method:
    """Find the method of a kind's services."""
    return next(method for method in all_methods() if (method.kind.name, method.name) == (kind, name))


class Client:
    """Calls methods by kind and name."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=(*UNLIMITED, *QUICK_TO_RETURN))

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()

    def call(self, kind: str, name: str, request: Any, request_id: str = "") -> Any:
        """Call a method and wait for its answer."""
        return self.begin(kind, name, request, request_id).result()

    def begin(self, kind: str, name: str, request: Any, request_id: str = "") -> Any:
        """Begin a call; give its future."""
        return self.begin_raw(kind, name, request.SerializeToString(), request_id)

    def begin_raw(self, kind: str, name: str, request: bytes, request_id: str = "") -> Any:
        """Begin a call with bytes that may be no message; give its future."""
        method = method_of(kind, name)
        call = self._channel.unary_unary(
            method.path, response_deserializer=message_class(method.response.full_name).FromString
        )
        metadata = ((REQUEST_ID_KEY, request_id),) if request_id else ()
        return call.future(request, timeout=LIMIT_SECONDS, metadata=metadata, wait_for_ready=True)

    def get(self, kind: str, id: str) -> Any:
        """Get a resource."""
        return self.call(kind, "get", method_of(kind, "get").request(value=id))

    def delete(self, kind: str, id: str) -> Any:
        """Delete a resource."""
        return self.begin_delete(kind, id).result()

    def begin_delete(self, kind: str, id: str) -> Any:
        """Begin to delete a resource; give the future."""
        return self.begin(kind, "delete", deletion(kind, id))

    def report(self, kind: str, id: str, status: Any, request_id: str = "") -> Any:
        """Report the status of an execution; give all of it."""
        return self.begin_report(kind, id, status, request_id).result()

    def begin_report(self, kind: str, id: str, status: Any, request_id: str = "") -> Any:
        """Begin to report a status; give the future."""
        return self.begin(kind, "updateStatus", report(kind, id, status), request_id)

    def subscribe(self, kind: str, id: str) -> Any:
        """Follow an execution; give the stream of its states."""
        method = method_of(kind, "subscribe")
        field = "value" if kind == "agent_execution" else "execution_id"
        call = self._channel.unary_stream(
            method.path, method.request.SerializeToString, message_class(method.response.full_name).FromString
        )
        return call(method.request(**{field: id}), timeout=LIMIT_SECONDS, wait_for_ready=True)


def message_class(full_name: str) -> Any:
    """Give the class of a message of the platform."""
    from google.protobuf import symbol_database

    return symbol_database.Default().pool.FindMessageTypeByName(full_name)._concrete_class


def deletion(kind: str, id: str) -> Any:
    """Give the request to delete a resource."""
    request = method_of(kind, "delete").request
    return request(**{"resource_id" if "resource_id" in request.DESCRIPTOR.fields_by_name else "value": id})


def report(kind: str, id: str, status: Any) -> Any:
    """Give the request to report a status."""
    return method_of(kind, "updateStatus").request(execution_id=id, status=status)


def code_of(future: Any) -> grpc.StatusCode:
    """Wait for a call and give its status."""
    return future.code()


def metadata(name: str, scope: int = 0, org: str = "") -> Any:
    """Give the metadata of a resource."""
    return apiresource_pb2.ApiResourceMetadata(name=name, owner_scope=scope, org=org)


def variables(values: Mapping[str, str], *, secret: bool = True) -> Any:
    """Give an environment's data."""
    spec = environment_pb2.EnvironmentSpec()
    for name, value in values.items():
        spec.data[name].value = value
        spec.data[name].is_secret = secret
    return spec


def agent(name: str, secrets: Mapping[str, str] | None = None) -> Any:
    """Give an agent."""
    spec = agent_pb2.AgentSpec(instructions="Answer what you are asked.", description=name)
    if secrets is not None:
        spec.env_spec.CopyFrom(variables(secrets))
    return agent_pb2.Agent(api_version=API_VERSION, kind="Agent", metadata=metadata(name, PLATFORM), spec=spec)


def instance(name: str, agent_id: str) -> Any:
    """Give an instance of an agent."""
    spec = agentinstance_pb2.AgentInstanceSpec(agent_id=agent_id)
    return agentinstance_pb2.AgentInstance(
        api_version=API_VERSION, kind="AgentInstance", metadata=metadata(name, PLATFORM), spec=spec
    )


def session(name: str, instance_id: str) -> Any:
    """Give a session."""
    spec = session_pb2.SessionSpec(agent_instance_id=instance_id, subject="A subject")
    return session_pb2.Session(api_version=API_VERSION, kind="Session", metadata=metadata(name, IDENTITY), spec=spec)


def execution(*, agent_id: str = "", session_id: str = "", name: str = "run") -> Any:
    """Give an execution of an agent."""
    spec = agentexecution_pb2.AgentExecutionSpec(agent_id=agent_id, session_id=session_id, message="Begin.")
    return agentexecution_pb2.AgentExecution(
        api_version=API_VERSION, kind="AgentExecution", metadata=metadata(name), spec=spec
    )


def environment(name: str, secrets: Mapping[str, str]) -> Any:
    """Give an environment of secrets."""
    return environment_pb2.Environment(
        api_version=API_VERSION, kind="Environment", metadata=metadata(name, IDENTITY), spec=variables(secrets)
    )


def mcp_server(name: str, secrets: Mapping[str, str]) -> Any:
    """Give an MCP server."""
    spec = mcpserver_pb2.McpServerSpec(env_spec=variables(secrets))
    spec.stdio.command = "serve"
    return mcpserver_pb2.McpServer(
        api_version=API_VERSION, kind="McpServer", metadata=metadata(name, PLATFORM), spec=spec
    )


def workflow(name: str, secrets: Mapping[str, str] | None = None) -> Any:
    """Give a workflow."""
    document = workflow_pb2.WorkflowDocument(dsl="1.0.0", namespace="tests", name=name, version="1")
    spec = workflow_pb2.WorkflowSpec(document=document)
    task = spec.tasks.add(name="wait", kind=10)
    task.task_config.update({"seconds": 1})
    if secrets is not None:
        spec.env_spec.CopyFrom(variables(secrets))
    return workflow_pb2.Workflow(api_version=API_VERSION, kind="Workflow", metadata=metadata(name, PLATFORM), spec=spec)


def workflow_instance(name: str, workflow_id: str) -> Any:
    """Give an instance of a workflow."""
    spec = workflowinstance_pb2.WorkflowInstanceSpec(workflow_id=workflow_id)
    return workflowinstance_pb2.WorkflowInstance(
        api_version=API_VERSION, kind="WorkflowInstance", metadata=metadata(name, PLATFORM), spec=spec
    )


def workflow_execution(*, workflow_id: str = "", instance_id: str = "", name: str = "run") -> Any:
    """Give an execution of a workflow."""
    spec = workflowexecution_pb2.WorkflowExecutionSpec(workflow_id=workflow_id, workflow_instance_id=instance_id)
    return workflowexecution_pb2.WorkflowExecution(
        api_version=API_VERSION, kind="WorkflowExecution", metadata=metadata(name, IDENTITY), spec=spec
    )


def execution_context(name: str, secrets: Mapping[str, str]) -> Any:
    """Give the context of an execution."""
    context = executioncontext_pb2.ExecutionContext(
        api_version=API_VERSION, kind="ExecutionContext", metadata=metadata(name)
    )
    context.spec.execution_id = "aex-of-context"
    for key, value in secrets.items():
        context.spec.data[key].value = value
        context.spec.data[key].is_secret = True
    return context


def new_execution(client: Client, kind: str, name: str = "run") -> str:
    """Create an execution of an agent or a workflow of its own; give its id."""
    if kind == "agent_execution":
        parent = client.call("agent", "apply", agent("of-executions"))
        made = client.call(kind, "create", execution(agent_id=parent.metadata.id, name=name))
    else:
        parent = client.call("workflow", "apply", workflow("of-executions"))
        made = client.call(kind, "create", workflow_execution(workflow_id=parent.metadata.id, name=name))
    return str(made.metadata.id)


def recorded(name: str) -> list[Any]:
    """Give the statuses of a recording, in order."""
    path = str(TRAFFIC / f"agent-run-{name}.binpb.zst")
    return [recordings.update_of(one, path, number).status for number, one in enumerate(recordings.frames(path))]


@contextmanager
def standing_still(store: Store) -> Iterator[None]:
    """Have a store's writer stand still while the block runs; what is queued meanwhile makes one group."""
    stands, go_on = threading.Event(), threading.Event()

    def stand() -> None:
        stands.set()
        go_on.wait()

    thread = threading.Thread(target=store._writer.run, args=(stand,))
    thread.start()
    stands.wait()
    try:
        yield
    finally:
        go_on.set()
        thread.join()
