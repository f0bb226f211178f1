"""The methods of the typed services: which verb each stands for, and of which kind.

Owns no list of methods: the services are in the descriptors, a service's kind is that of its package, and a method's
name is its verb. What it does is a function from a request to a `Call`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from stigmer import fields, names, parsing
from stigmer.resources import kinds, options, rules, sealing, skills
from stigmer.resources.kinds import Kind
from stigmer.resources.verbs import Resources, Write


class Answer(NamedTuple):
    """The answer to a call that reads."""

    message: bytes
    """Serialized."""
    next_page_token: str = ""


class Reads(NamedTuple):
    """A call that reads."""

    read: Callable[[], Answer]
    is_quick: bool
    """Whether it is about one resource; else it takes as long as its answer is large."""


class Writes(NamedTuple):
    """A call that writes."""

    prepare: Callable[[], Write]
    is_quick: bool
    """Whether preparing it only takes the processor, and not for long."""


class Follows(NamedTuple):
    """A call that follows one resource."""

    kind: Kind
    id: str


Call = Reads | Writes | Follows
Verb = Callable[[Resources, Kind, "Method", Any, bytes], Call]
"""Gives the call that a request stands for; it comes as a message, and as it was sent."""


class Method(NamedTuple):
    """One method of a typed service."""

    service: str
    """The service's full name."""
    name: str
    path: str
    kind: Kind
    request: type[Message]
    response: Descriptor
    streams: bool
    verb: Verb

    def call(self, resources: Resources, request: bytes) -> Call:
        """Give what a serialized request asks for. Raises `InvalidArgument` or `ResourceExhausted`."""
        return self.verb(resources, self.kind, self, parsing.parsed(self.request, request), request)


@functools.cache
def all_methods() -> tuple[Method, ...]:
    """Give every method of the typed services."""
    return tuple(_method(service, method) for service in _services() for method in service.methods)


def method_of(kind: Kind, name: str) -> Method:
    """Give the method of a kind's services that has a name; there must be one."""
    return next(method for method in all_methods() if method.kind == kind and method.name == name)


def request_with_id(method: Method, id: str) -> Message:
    """Give the request of a method that names nothing but a resource, by its id."""
    request = method.request()
    setattr(request, _id_field(request), id)
    return request


def _services() -> list[ServiceDescriptor]:
    from stigmer.pb import agentic

    modules = (
        importlib.import_module(f"{agentic.__name__}.{one.name}") for one in pkgutil.iter_modules(agentic.__path__)
    )
    return [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]


def _method(service: ServiceDescriptor, method: MethodDescriptor) -> Method:
    package = service.full_name.rpartition(".")[0]
    kind = next(kind for kind in kinds.all_kinds() if kind.descriptor.full_name.rpartition(".")[0] == package)
    return Method(
        service.full_name,
        method.name,
        f"/{service.full_name}/{method.name}",
        kind,
        GetMessageClass(method.input_type),
        method.output_type,
        bool(method.server_streaming),
        _VERBS.get(method.name, _list),
    )


# --- verbs ---------------------------------------------------------------------------------------------


def _create(resources: Resources, kind: Kind, _method: Method, request: Any, _sent: bytes) -> Call:
    return Writes(lambda: resources.create(kind, request), _is_quick(kind, request))


def _update(resources: Resources, kind: Kind, _method: Method, request: Any, _sent: bytes) -> Call:
    return Writes(lambda: resources.update(kind, request), _is_quick(kind, request))


def _apply(resources: Resources, kind: Kind, _method: Method, request: Any, _sent: bytes) -> Call:
    return Writes(lambda: resources.apply(kind, request), _is_quick(kind, request))


def _delete(resources: Resources, kind: Kind, _method: Method, request: Any, _sent: bytes) -> Call:
    id = named_id(request)
    return Writes(lambda: resources.delete(kind, id), is_quick=True)


def _update_status(resources: Resources, kind: Kind, method: Method, request: Any, sent: bytes) -> Call:
    # Taken out of the request as it came, for to serialize a large status takes longer than all the rest.
    number = options.descriptor_of(method.request).fields_by_name["status"].number
    reported = fields.content(fields.split(sent), number)
    return Writes(lambda: resources.update_status(kind, request, reported), is_quick=True)


def _push(resources: Resources, kind: Kind, _method: Method, request: Any, _sent: bytes) -> Call:
    return Writes(lambda: skills.push(resources, kind, request), is_quick=False)


def _get(resources: Resources, kind: Kind, _method: Method, request: Any, _sent: bytes) -> Call:
    id = named_id(request)
    return Reads(lambda: Answer(resources.get(kind, id)), is_quick=True)


def _get_by_reference(resources: Resources, kind: Kind, _method: Method, request: Any, _sent: bytes) -> Call:
    return Reads(lambda: Answer(resources.get_by_reference(kind, request)), is_quick=True)


def _get_artifact(resources: Resources, _kind: Kind, method: Method, request: Any, _sent: bytes) -> Call:
    number = method.response.fields_by_name["artifact"].number
    return Reads(lambda: Answer(fields.of_bytes(number, resources.artifact(request))), is_quick=False)


def _list(resources: Resources, kind: Kind, method: Method, request: Any, _sent: bytes) -> Call:
    return Reads(lambda: _listed(resources, kind, method, request), is_quick=False)


def _listed(resources: Resources, kind: Kind, method: Method, request: Any) -> Answer:
    listed, pages = resources.list_for(kind, method.name, request)
    # Some answers count pages, others resources; all hold the resources in their one list.
    counted = {"total_pages": pages, "total_count": listed.total}
    parts: list[bytes] = []
    for field in method.response.fields:
        if field.name in counted:
            parts.append(fields.of_integer(field.number, counted[field.name]))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            parts += (fields.of_bytes(field.number, resource.value) for resource in listed.resources)
    return Answer(b"".join(parts), listed.next_page_token)


def _subscribe(resources: Resources, kind: Kind, _method: Method, request: Any, _sent: bytes) -> Call:
    return Follows(kind, named_id(request))


_VERBS: Mapping[str, Verb] = {
    "create": _create,
    "update": _update,
    "apply": _apply,
    "delete": _delete,
    "updateStatus": _update_status,
    "push": _push,
    "get": _get,
    "getByReference": _get_by_reference,
    "getArtifact": _get_artifact,
    "subscribe": _subscribe,
}
"""The others list: `list`, `listBySession`, `getByAgent` and so on."""


def _is_quick(kind: Kind, request: Message) -> bool:
    # A key for secrets is on disk before it is used.
    return not (sealing.may_hold_secrets(kind.name) and sealing.holds_secrets(request))


def named_id(request: Any) -> str:
    """Give the id that a request names, whatever it calls it. Raises `InvalidArgument` where it has none."""
    rules.require_valid(request)
    field = _id_field(request)
    id: str = getattr(request, field)
    names.check_id(id, field)
    return id


def _id_field(request: Any) -> str:
    return next(one for one in ("value", "resource_id", "execution_id") if hasattr(request, one))
