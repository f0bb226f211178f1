"""Makes messages that are valid, and breaks one rule of them: from the descriptors, always the same ones.

A valid message has what its rules demand and nothing else, so that what is found in it after a rule was broken
is that rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from stigmer.pb import rules_pb2
from stigmer.resources import options, paths

# What is no rule by itself: the name and the words of one, an exception to one, and the choice of a form.
_NO_RULES = ("id", "message", "zero_is_unset", "form_chosen_by")
_TEXTS = ("", "x", "https://example.com/mcp", "1.0.0", "a" * 64)


class Case(NamedTuple):
    """One rule of one field."""

    message: str
    field: str
    rule: str
    """The name of the option."""

    def __str__(self) -> str:
        return f"{self.message.rpartition('.')[2]}.{self.field}-{self.rule}"


def rules_of(field: FieldDescriptor) -> rules_pb2.FieldRules:
    """Give the rules of a field; no rules where it has none."""
    return options.rules_of(field) or rules_pb2.FieldRules()


def cases(messages: Iterator[Descriptor]) -> Iterator[Case]:
    """Give every rule of every field of some messages."""
    for message in messages:
        for field in message.fields:
            for option, _value in rules_of(field).ListFields():
                if option.name not in _NO_RULES:
                    yield Case(message.full_name, field.name, option.name)


def name_of(field: FieldDescriptor, rule: str) -> str:
    """Give the name that a violation of a rule has."""
    rules = rules_of(field)
    if rule in ("reference_kinds", "owner_scopes"):
        return rules.id
    # What is empty is missing, and of what is missing nothing else is said.
    return "required" if rules.required and rule == "min_len" and rules.min_len == 1 else rule


# --- valid messages ------------------------------------------------------------------------------------


def valid(message: Descriptor) -> Any:
    """Give a valid message."""
    made = GetMessageClass(message)()
    for field in message.fields:
        _make_valid(made, field)
    return made


def _make_valid(message: Any, field: FieldDescriptor) -> None:
    rules = rules_of(field)
    value = getattr(message, field.name)
    if options.is_map(field):
        if rules.required:
            value["key"] = "value"
    elif field.is_repeated:
        for _ in range(max(rules.min_items, int(rules.required))):
            value.add().CopyFrom(valid(field.message_type))
    elif field.message_type is not None:
        if rules.required:
            put(message, field)
    elif field.enum_type is not None:
        if rules.required:
            setattr(message, field.name, options.enum_of(field).values[1].number)
    elif field.type == FieldDescriptor.TYPE_STRING:
        setattr(message, field.name, _valid_text(field, rules))
    elif field.type == FieldDescriptor.TYPE_BYTES:
        setattr(message, field.name, b"x" if rules.required else b"")
    elif rules.gte > 0 and not rules.zero_is_unset:
        setattr(message, field.name, int(rules.gte))


def _valid_text(field: FieldDescriptor, rules: rules_pb2.FieldRules) -> str:
    from stigmer.resources import field_rules

    texts = (*_TEXTS, "x" * rules.min_len, rules.const, *getattr(rules, "in"))
    kept = [rule.holds for rule in field_rules.of_value(field, rules)]
    return next(text for text in texts if all(holds(text) for holds in kept) and (text or not rules.required))


def put(message: Any, field: FieldDescriptor) -> Any:
    """Put a valid message into a field, at the end of a list or at a key of a map; gives it as it is in there."""
    if options.is_map(field):
        inside = getattr(message, field.name)["key"]
    else:
        inside = getattr(message, field.name)
        inside = inside.add() if field.is_repeated else inside
    inside.SetInParent()
    if (form := options.form_of(message, field)) is not None:
        inside.update(json_format.MessageToDict(valid(options.descriptor_of(form)), preserving_proto_field_name=True))
    elif not inside.DESCRIPTOR.full_name.startswith("google.protobuf."):
        inside.CopyFrom(valid(inside.DESCRIPTOR))
        if scopes := rules_of(field).owner_scopes:
            inside.owner_scope = scopes[0]
        if kinds := rules_of(field).reference_kinds:
            inside.kind = kinds[0]
    return inside


# --- broken ones ---------------------------------------------------------------------------------------


def break_rule(message: Any, field: FieldDescriptor, rule: str) -> paths.Path:
    """Break one rule of a valid message; gives the path at which it is broken."""
    rules = rules_of(field)
    match rule:
        case "required":
            message.ClearField(field.name)
        case "min_len":
            setattr(message, field.name, "x" * (rules.min_len - 1))
        case "max_len":
            setattr(message, field.name, "x" * (rules.max_len + 1))
        case "pattern" | "const" | "in" | "uri":
            setattr(message, field.name, "not this\n")
        case "gte":
            # Zero is no number here where it stands for "not set", nor where the field is required.
            setattr(message, field.name, -1)
        case "lte":
            setattr(message, field.name, int(rules.lte) + 1)
        case "defined_only":
            setattr(message, field.name, 99)
        case "min_items":
            del getattr(message, field.name)[rules.min_items - 1 :]
        case "reference_kinds":
            entries = getattr(message, field.name)
            put(message, field)
            put(message, field).kind = next(kind for kind in (40, 43) if kind not in rules.reference_kinds)
            return (field.name, len(entries) - 1, "kind")
        case "owner_scopes":
            scopes = (scope for scope in (1, 2, 3) if scope not in rules.owner_scopes)
            getattr(message, field.name).owner_scope = next(scopes)
            return (field.name, "owner_scope")
        case _:
            raise AssertionError(f"a rule that nothing here can break: {rule}")
    return (field.name,)


# --- messages inside of others -------------------------------------------------------------------------


class Within(NamedTuple):
    """Where a message can be in a valid one of another type."""

    root: Descriptor
    fields: tuple[FieldDescriptor, ...]
    """The way from the root to it; none where it is the root itself."""

    def build(self) -> tuple[Any, Any, paths.Path]:
        """Give a valid root, the message inside of it, and the path from the one to the other."""
        root = inside = valid(self.root)
        path: paths.Path = ()
        for field in self.fields:
            entries = getattr(inside, field.name)
            inside = put(inside, field)
            path += (field.name,)
            if options.is_map(field):
                path += ("key",)
            elif field.is_repeated:
                path += (len(entries) - 1,)
        return root, inside, path


def places(roots: Iterator[Descriptor]) -> dict[str, Within]:
    """Give for each type of message that can be in one of the roots the shortest way to it."""
    found: dict[str, Within] = {}
    waiting = deque(Within(root, ()) for root in roots)
    while waiting:
        place = waiting.popleft()
        message: Any = place.fields[-1] if place.fields else place.root
        if place.fields:
            message = options.map_value(message).message_type if options.is_map(message) else message.message_type
        if message is None or message.full_name in found or message.full_name.startswith("google.protobuf."):
            continue
        found[message.full_name] = place
        waiting += (Within(place.root, (*place.fields, f)) for f in message.fields if f.message_type is not None)
    return found


def as_task(form: Message, kind: int, task: Descriptor) -> Any:
    """Give a workflow's task of a kind, with a form as its configuration."""
    made = valid(task)
    made.kind = kind
    made.task_config.Clear()
    made.task_config.update(json_format.MessageToDict(form, preserving_proto_field_name=True))
    return made
