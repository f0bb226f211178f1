"""What the resources' descriptors say about themselves: the options of proto/stigmer/pb/rules.proto, typed.

Owns the only code that reads options. Answers are remembered by full name: a descriptor never changes.
"""

from __future__ import annotations

import functools
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, EnumValueDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from stigmer.pb import rules_pb2

NOT_SECRET = rules_pb2.NOT_SECRET
ALWAYS_SECRET = rules_pb2.ALWAYS_SECRET
SECRET_IF_FLAGGED = rules_pb2.SECRET_IF_FLAGGED
FLAG_FIELD = "is_secret"
"""The sibling that `SECRET_IF_FLAGGED` looks at."""

MASK = "(secret, not shown)"
"""What is shown in place of a secret. It is refused where it comes back as a value."""


def _option(descriptor: Any, extension: Any) -> Any:
    # The stubs of protobuf type extensions as plain field descriptors, which their own `Extensions` then refuses.
    options = descriptor.GetOptions()
    return options.Extensions[extension] if options.HasExtension(extension) else None


@functools.cache
def rules_of(field: FieldDescriptor) -> rules_pb2.FieldRules | None:
    """Give the rules of a field, or None where it has none."""
    return cast("rules_pb2.FieldRules | None", _option(field, rules_pb2.rules))


@functools.cache
def secret_of(field: FieldDescriptor) -> int:
    """Give whether what a field holds may be shown: one of the three constants of this module."""
    return cast("int", _option(field, rules_pb2.secret) or NOT_SECRET)


def hides(field: FieldDescriptor, *, flagged: bool, all_secret: bool) -> bool:
    """Say whether what a field holds is a secret.

    `flagged` is what the sibling `is_secret` says; `all_secret`, that the message or map around it is secret as a
    whole. A field of messages is none itself: the fields in these are.
    """
    secret = secret_of(field)
    held = map_value(field) if is_map(field) else field
    return held.message_type is None and (secret == ALWAYS_SECRET or (bool(secret) and (flagged or all_secret)))


def is_flagged(message: Message | None) -> bool:
    """Say whether a message's `is_secret` is true; it is not where there is no such field."""
    return bool(getattr(message, FLAG_FIELD, False))


def kind_facts_of(message: Descriptor) -> rules_pb2.KindFacts | None:
    """Give the facts of the kind of resource that a message holds, or None where it holds none."""
    return cast("rules_pb2.KindFacts | None", _option(message, rules_pb2.resource))


def config_message_of(value: EnumValueDescriptor) -> str | None:
    """Give the full name of the message that the value of an enum chooses for a Struct beside it."""
    return cast("str | None", _option(value, rules_pb2.config_message))


def descriptor_of(message: Message | type[Message]) -> Descriptor:
    """Give the descriptor of a message; the stubs have two types for one thing, this is the one used here."""
    return cast("Descriptor", message.DESCRIPTOR)


def enum_of(field: FieldDescriptor) -> EnumDescriptor:
    """Give the enum of a field that has one."""
    return cast("EnumDescriptor", field.enum_type)


def is_map(field: FieldDescriptor) -> bool:
    """Say whether a field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def map_value(field: FieldDescriptor) -> FieldDescriptor:
    """Give the field that describes the values of a map."""
    return cast("Descriptor", field.message_type).fields_by_name["value"]


def form_of(message: Message, field: FieldDescriptor) -> Message | None:
    """Give an empty message of the form that a Struct has here, or None where it is free.

    The enum field that the rules of `field` name chooses the form; an enum value that chooses none leaves it free.
    """
    rules = rules_of(field)
    if rules is None or not rules.form_chosen_by:
        return None
    chooser = descriptor_of(message).fields_by_name[rules.form_chosen_by]
    value = enum_of(chooser).values_by_number.get(getattr(message, chooser.name))
    name = config_message_of(value) if value is not None else None
    return GetMessageClass(message_type(name))() if name is not None else None


@functools.cache
def message_type(full_name: str) -> Descriptor:
    """Give the descriptor of a form by its full name."""
    # The forms of tasks use the workflow's messages, so the workflow's module cannot import theirs.
    from stigmer.pb.agentic import workflow_tasks_pb2

    pool = cast("Any", workflow_tasks_pb2.DESCRIPTOR).pool
    return cast("Descriptor", pool.FindMessageTypeByName(full_name))
