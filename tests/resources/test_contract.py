"""Messages and services are those of the contract: every name, number, type and rule of wire.txt, and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from stigmer.pb import agentic
from stigmer.resources import kinds, options

from .contract import Field, Method, contract

# What differs on purpose: beside the rule of the published messages, the kind that was meant is taken too.
WIDENED = {("environment_refs.kind", "reference_kinds"): ((52,), (52, 53))}
# And where zero is not measured, so that a timeout can be left out.
ZERO_IS_UNSET = {
    "ai.stigmer.agentic.mcpserver.v1.HttpServerConfig.timeout_seconds",
    "ai.stigmer.agentic.workflow.v1.tasks.AgentExecutionConfig.timeout",
    "ai.stigmer.agentic.workflow.v1.tasks.HttpCallTaskConfig.timeout_seconds",
}


def _modules() -> Iterator[object]:
    for module in pkgutil.iter_modules(agentic.__path__):
        yield importlib.import_module(f"{agentic.__name__}.{module.name}")


def _messages() -> dict[str, Descriptor]:
    return {one.full_name: one for module in _modules() for one in module.DESCRIPTOR.message_types_by_name.values()}


def _enums() -> dict[str, EnumDescriptor]:
    return {one.full_name: one for module in _modules() for one in module.DESCRIPTOR.enum_types_by_name.values()}


def _services() -> dict[str, ServiceDescriptor]:
    return {one.full_name: one for module in _modules() for one in module.DESCRIPTOR.services_by_name.values()}


_SCALARS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_FLOAT: "float",
}


def _type(field: FieldDescriptor) -> str:
    if options.is_map(field):
        return f"map<string,{_type(options.map_value(field))}>"
    named = field.message_type or field.enum_type
    return named.full_name if named is not None else _SCALARS[field.type]


def _rules(field: FieldDescriptor) -> tuple[tuple[str, object], ...]:
    rules = options.rules_of(field)
    if rules is None:
        return ()
    # Words for people and what only this project knows are not the contract's.
    ours = {"message", "zero_is_unset", "form_chosen_by"}
    found = {one.name: value for one, value in rules.ListFields() if one.name not in ours}
    shown = {
        name: tuple(value) if name in ("in", "reference_kinds", "owner_scopes") else value
        for name, value in found.items()
    }
    for (id, name), (published, widened) in WIDENED.items():
        if shown.get("id") == id:
            assert shown[name] == widened
            shown[name] = published
    return tuple(sorted(shown.items()))


def _field(field: FieldDescriptor) -> Field:
    oneof = field.containing_oneof.name if field.containing_oneof is not None else None
    repeated = field.is_repeated and not options.is_map(field)
    return Field(field.number, field.name, repeated, _type(field), oneof, _rules(field))


def test_every_message_is_the_contract_s() -> None:
    """Messages, and in them fields with number, name, label, type, oneof and rules, are equal both ways."""
    ours = {name: sorted(_field(field) for field in one.fields) for name, one in _messages().items()}
    theirs = {name: sorted(fields) for name, fields in contract().messages.items()}
    assert ours == theirs


def test_every_enum_is_the_contract_s() -> None:
    """Enums, and in them names and numbers, are equal both ways."""
    ours = {name: {value.name: value.number for value in one.values} for name, one in _enums().items()}
    assert ours == contract().enums


def _method(method: MethodDescriptor) -> Method:
    request, response = method.input_type.full_name, method.output_type.full_name
    return Method(request, method.client_streaming, response, method.server_streaming)


def test_every_service_is_the_contract_s() -> None:
    """Services, and in them methods with request, response and what streams, are equal both ways."""
    ours = {name: {method.name: _method(method) for method in one.methods} for name, one in _services().items()}
    assert ours == contract().services


def test_every_package_is_the_contract_s() -> None:
    """Packages are equal both ways: calls, and the names of messages in them, are found by package."""
    assert {module.DESCRIPTOR.package for module in _modules()} == set(contract().packages)


def test_zero_is_let_pass_only_where_it_stands_for_not_set() -> None:
    """Three timeouts and nothing else can be zero against their rule."""
    found = {
        field.full_name
        for message in _messages().values()
        for field in message.fields
        if (rules := options.rules_of(field)) is not None and rules.zero_is_unset
    }
    # A temperature's rule begins at zero, so zero needs no exception there.
    assert found == ZERO_IS_UNSET


def test_every_kind_has_the_contract_s_number_and_name() -> None:
    """The kinds are exactly the messages that can be stored, with their numbers in ApiResourceKind."""
    numbers = contract().enums["ai.stigmer.commons.apiresource.apiresourcekind.ApiResourceKind"]
    ours = {kind.name: kind.number for kind in kinds.all_kinds()}
    assert ours == {name: number for name, number in numbers.items() if 40 <= number < 60}
    stored = {name.rpartition(".")[2] for name, fields in contract().messages.items() if _is_resource(fields)}
    assert {kind.message_name for kind in kinds.all_kinds()} == stored


def _is_resource(fields: list[Field]) -> bool:
    return [field.name for field in sorted(fields)] == ["api_version", "kind", "metadata", "spec", "status"]


def test_every_kind_of_task_has_the_form_that_is_named_after_it() -> None:
    """The message of a task's configuration is found by the task's kind."""
    kinds_of_task = _enums()["ai.stigmer.commons.apiresource.WorkflowTaskKind"]
    for value in kinds_of_task.values:
        name = options.config_message_of(value)
        if value.number == 0:
            assert name is None
            continue
        words = value.name.removeprefix("WORKFLOW_TASK_KIND_").lower().split("_")
        assert name == f"ai.stigmer.agentic.workflow.v1.tasks.{''.join(map(str.capitalize, words))}TaskConfig"
        assert name in contract().messages


def test_every_message_field_service_and_method_has_a_comment() -> None:
    """What `explain` shows is never empty, and never only says the name again; the services are as well described."""
    from stigmer.resources.explain import comment_of

    named = list(_messages()) + [field.full_name for one in _messages().values() for field in one.fields]
    named += list(_services()) + [method.full_name for one in _services().values() for method in one.methods]
    for name in named:
        assert re.fullmatch(r"[A-Z].+[.]|[a-z]+:? .+[.]", comment_of(name)), name
