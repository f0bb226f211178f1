"""A plain client of the platform's services, as other programs have one, and messages to send.

Knows nothing of the daemon but its address: methods and types come from the contract's wire.txt, calls go over a
channel of gRPC's own.
"""

from __future__ import annotations

import functools
import importlib
import io
import pkgutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from resources.contract import Method as ContractMethod
from resources.contract import contract

from stigmer import wire
from stigmer.model import Event
from stigmer.pb import agentic, store_pb2
from stigmer.wire import ERROR_DETAIL_KEY, NEXT_PAGE_TOKEN_KEY, REQUEST_ID_KEY

for _module in pkgutil.iter_modules(agentic.__path__):
    importlib.import_module(f"{agentic.__name__}.{_module.name}")

TIMEOUT_SECONDS = 240
API_VERSION = "agentic.stigmer.ai/v1"
PLATFORM, ORGANIZATION, IDENTITY = 1, 2, 3
PENDING, IN_PROGRESS, COMPLETED, FAILED, CANCELLED = 1, 2, 3, 4, 5
ROOM = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""The options of a client that takes and sends messages of any size."""


@functools.cache
def message_class(full_name: str) -> Any:
    """Give the class of a message that wire.txt names."""
    return GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(full_name))


class KindFacts(NamedTuple):
    """A row of the contract's table of kinds."""

    number: int
    name: str
    message_name: str
    id_prefix: str
    owner_scopes: tuple[int, ...]

    @property
    def message_class(self) -> Any:
        return message_class(f"ai.stigmer.agentic.{self.package}.v1.{self.message_name}")

    @property
    def package(self) -> str:
        return self.name.replace("_", "")


ANY = (0, 1, 2, 3)
KINDS = tuple(
    KindFacts(*row)
    for row in (
        (40, "agent", "Agent", "agt", (1, 2)),
        (41, "agent_execution", "AgentExecution", "aex", (0,)),
        (42, "session", "Session", "ses", (2, 3)),
        (43, "skill", "Skill", "skl", (1, 2)),
        (44, "mcp_server", "McpServer", "mcp", ANY),
        (45, "agent_instance", "AgentInstance", "ain", ANY),
        (50, "workflow", "Workflow", "wfl", (1, 2)),
        (51, "workflow_instance", "WorkflowInstance", "win", ANY),
        (52, "workflow_execution", "WorkflowExecution", "wex", (2, 3)),
        (53, "environment", "Environment", "env", (2, 3)),
        (54, "execution_context", "ExecutionContext", "exec", (0,)),
    )
)
"""Typed here as the contract has them, not taken from the sources that they are compared with."""
KIND = {kind.name: kind for kind in KINDS}


class Method(NamedTuple):
    """A method of the contract."""

    service: str
    name: str
    facts: ContractMethod

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"

    @property
    def kind(self) -> KindFacts:
        return next(kind for kind in KINDS if kind.package == self.service.split(".")[3])

    @property
    def request(self) -> Any:
        return message_class(self.facts.request)

    @property
    def response(self) -> Any:
        return message_class(self.facts.response)

    def __str__(self) -> str:
        return f"{self.kind.name}.{self.name}"


METHODS = tuple(
    Method(service, name, facts) for service, methods in contract().services.items() for name, facts in methods.items()
)


class Refused(Exception):
    """A call failed."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        self.message: str = error.details()
        super().__init__(f"{self.code.name}: {self.message}")
        detail = dict(error.trailing_metadata() or ()).get(ERROR_DETAIL_KEY)
        self.detail = store_pb2.ErrorDetail.FromString(detail) if detail is not None else store_pb2.ErrorDetail()


class Answer(NamedTuple):
    """An answer with what came beside it."""

    message: Any
    next_page_token: str


class Service:
    """The methods of one kind: `services.agent.create(message)`."""

    def __init__(self, channel: grpc.Channel, kind: KindFacts) -> None:
        self._channel = channel
        self._methods = {method.name: method for method in METHODS if method.kind == kind}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(request: Any = None, /, request_id: str = "", metadata: Sequence[Any] = (), **fields: Any) -> Any:
            return self.call(name, request, request_id=request_id, metadata=metadata, **fields).message

        return call

    def call(
        self, name: str, request: Any = None, /, request_id: str = "", metadata: Sequence[Any] = (), **fields: Any
    ) -> Answer:
        """Call a method with a message, or with the fields of one; raises `Refused`."""
        method = self._methods[name]
        request = method.request(**fields) if request is None else request
        sent = (*metadata, *(((REQUEST_ID_KEY, request_id),) if request_id else ()))
        try:
            answer, call = self._channel.unary_unary(method.path).with_call(
                request.SerializeToString(), timeout=TIMEOUT_SECONDS, metadata=sent
            )
        except grpc.RpcError as error:
            raise Refused(error) from None
        trailing = dict(call.trailing_metadata() or ())
        return Answer(method.response.FromString(answer), trailing.get(NEXT_PAGE_TOKEN_KEY, ""))


class Services:
    """The typed services of a daemon, each under its kind's name; and the log, to look at what was written."""

    agent: Service
    agent_execution: Service
    session: Service
    skill: Service
    mcp_server: Service
    agent_instance: Service
    workflow: Service
    workflow_instance: Service
    workflow_execution: Service
    environment: Service
    execution_context: Service

    def __init__(self, address: str, options: Sequence[tuple[str, Any]] = ()) -> None:
        self.channel = grpc.insecure_channel(address, options=options)
        for kind in KINDS:
            setattr(self, kind.name, Service(self.channel, kind))

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def of(self, kind: KindFacts) -> Service:
        """Give the service of a kind."""
        service: Service = getattr(self, kind.name)
        return service

    def send(self, method: Method, request: bytes) -> bytes:
        """Send bytes to a method, and give the first of its answer; raises `Refused`."""
        try:
            if method.facts.response_streams:
                stream = self.channel.unary_stream(method.path)(request, timeout=TIMEOUT_SECONDS)
                first: bytes = next(iter(stream))
                stream.cancel()
                return first
            answer: bytes = self.channel.unary_unary(method.path)(request, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            raise Refused(error) from None
        return answer

    def commits(self, after: int = 0) -> list[list[Event]]:
        """Give what is in the log behind a revision, commit by commit."""
        tail = self.channel.unary_stream(wire.methods(wire.STORE_SERVICE)["tail"].path)
        found = []
        for sent in tail(store_pb2.TailRequest(after=after).SerializeToString(), timeout=TIMEOUT_SECONDS):
            for one in store_pb2.TailResponse.FromString(sent).commits:
                found.append(list(_events(one)))
        return found

    def save(self, kind: str, id: str, message: Message) -> None:
        """Save what no typed call would: as the store takes it."""
        save = self.channel.unary_unary(wire.methods(wire.STORE_SERVICE)["save"].path)
        request = store_pb2.SaveRequest(kind=kind, id=id, value=message.SerializeToString())
        save(request.SerializeToString(), timeout=TIMEOUT_SECONDS)

    @property
    def revision(self) -> int:
        """The last revision of the store."""
        status = self.channel.unary_unary(wire.methods(wire.ADMIN_SERVICE)["status"].path)
        answer = status(store_pb2.StatusRequest().SerializeToString(), timeout=TIMEOUT_SECONDS)
        return int(store_pb2.StatusResponse.FromString(answer).revision)


def _events(committed: store_pb2.CommittedEvents) -> Iterator[Event]:
    from stigmer import codec

    for place, event in enumerate(committed.commit.events):
        yield codec.event_of(event, committed.first_revision + place, committed.time_ns)


def names_of(commit: Sequence[Event]) -> list[tuple[str, str, str]]:
    """Give what the events of a commit did, to which kind and id."""
    return [(str(event.op), event.kind, event.id) for event in commit]


def unknown(*numbers: int, content: bytes = b"from a newer client") -> bytes:
    """Give fields that no message has, serialized: of bytes, and as a varint, a fixed32 and a fixed64."""
    written = b""
    for number in numbers or (9001,):
        for wire_type, value in (
            (2, wire_varint(len(content)) + content),
            (0, b"\x05"),
            (5, b"abcd"),
            (1, b"abcdefgh"),
        ):
            written += wire_varint(number << 3 | wire_type) + value
            number += 1
    return written


def wire_varint(number: int) -> bytes:
    """Write a number as protobuf does."""
    out = b""
    while number >= 0x80:
        out += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return out + bytes((number,))


# --- messages ------------------------------------------------------------------------------------------

_SCOPES = {kind.name: ORGANIZATION if ORGANIZATION in kind.owner_scopes else 0 for kind in KINDS}


def make(kind_name: str, name: str, **metadata: Any) -> Any:
    """Give a valid message of a kind; what it refers to may not exist."""
    kind = KIND[kind_name]
    message = kind.message_class(api_version=API_VERSION, kind=kind.message_name)
    message.metadata.name = name
    message.metadata.owner_scope = _SCOPES[kind_name]
    message.metadata.org = "acme" if message.metadata.owner_scope == ORGANIZATION else ""
    for field, value in metadata.items():
        if field in ("labels", "annotations"):
            getattr(message.metadata, field).update(value)
        elif field == "tags":
            message.metadata.tags.extend(value)
        else:
            setattr(message.metadata, field, value)
    spec = message.spec
    if kind_name == "agent":
        spec.instructions = "Answer what you are asked, in one sentence."
    elif kind_name == "agent_execution":
        spec.message = "hello"
    elif kind_name == "session":
        spec.agent_instance_id = "ain-none"
    elif kind_name == "mcp_server":
        spec.stdio.command = "server"
    elif kind_name == "agent_instance":
        spec.agent_id = "agt-none"
    elif kind_name == "workflow":
        document = spec.document
        document.dsl, document.namespace, document.name, document.version = "1.0.0", "tests", "flow", "0.1.0"
        task = spec.tasks.add(name="set", kind=1)
        task.task_config.update({"variables": {"a": "1"}})
    elif kind_name == "workflow_instance":
        spec.workflow_id = "wfl-none"
    elif kind_name == "environment":
        spec.data["REGION"].value = "eu"
    elif kind_name == "execution_context":
        spec.execution_id = "aex-none"
    elif kind_name == "skill":
        spec.skill_md = "# Skill"
    return message


def execution_of(name: str, *, agent: str = "", session: str = "", **metadata: Any) -> Any:
    """Give an agent execution."""
    message = make("agent_execution", name, **metadata)
    message.spec.agent_id, message.spec.session_id = agent, session
    return message


def workflow_execution_of(name: str, *, workflow: str = "", instance: str = "", **metadata: Any) -> Any:
    """Give a workflow execution."""
    message = make("workflow_execution", name, **metadata)
    message.spec.workflow_id, message.spec.workflow_instance_id = workflow, instance
    message.spec.SetInParent()
    return message


def creatable(services: Services, kind_name: str, name: str, **metadata: Any) -> Any:
    """Give a message that can be created: what it refers to is made."""
    message = make(kind_name, name, **metadata)
    if kind_name == "agent_execution":
        message.spec.agent_id = services.agent.create(make("agent", f"{name} agent")).metadata.id
    elif kind_name in ("workflow_instance", "workflow_execution"):
        message.spec.workflow_id = services.workflow.create(make("workflow", f"{name} flow")).metadata.id
    return message


def zip_of(files: dict[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Give a zip with these files."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return written.getvalue()


def skill_zip(text: str = "# Skill\n\nDo it.", **files: bytes) -> bytes:
    """Give the artifact of a skill."""
    return zip_of({"SKILL.md": text, **files})
