"""Nodes into protobuf messages, with every problem named: where it is, what was expected, what was there.

Owns the form that values have in manifests: fields by their own or their camelCase name, enums by name or number,
bytes as base64, timestamps as RFC 3339, null for what is not set. Nothing is turned from one type into another: a
number where a string is expected is a problem that says to quote it, for `1.10` would else become "1.1".

Rules are not checked here (rules.py).
"""

from __future__ import annotations

import base64
import binascii
import difflib
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from stigmer import names
from stigmer.resources import options, paths
from stigmer.resources.documents import Node, Shape

_FLOAT_TYPES = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
_FIELDS_SHOWN_MAX = 12


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a node."""

    path: paths.Path
    line: int
    text: str


class Problems:
    """What was found wrong so far, and the line of every value that was looked at."""

    def __init__(self, *, unknown_fields: bool = True, masks: bool = True) -> None:
        self.unknown_fields = unknown_fields
        """Whether a field that the message does not have is a problem."""
        self.masks = masks
        """Whether the text that stands for a secret is a problem; else it is taken as the secret."""
        self.found: list[Problem] = []
        self._lines: dict[paths.Path, int] = {}

    def add(self, path: paths.Path, line: int, text: str) -> None:
        """Note a problem."""
        self.found.append(Problem(path, line, text))

    def see(self, path: paths.Path, line: int) -> None:
        """Remember the line of a value."""
        self._lines[path] = line

    def line_of(self, path: paths.Path) -> int:
        """Give the line of a value; where it is not there, that of what it would be in."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 0)


class _Wrong(Exception):
    """A single value is wrong; the text says how."""


def fill(message: Message, node: Node, path: paths.Path, problems: Problems) -> None:
    """Set the fields of a message from a node; what is wrong is added to `problems` and left unset."""
    known = _fields_by_name(options.descriptor_of(message))
    if node.shape is not Shape.MAP:
        descriptor = options.descriptor_of(message)
        wanted = f"expected {describe(descriptor)}, got {got(node, secret=_has_secret(descriptor))}"
        problems.add(path, problems.line_of(path) or node.line, wanted)
        return
    seen: set[str] = set()
    forms: list[tuple[FieldDescriptor, Node, paths.Path]] = []
    for key, value in node.fields:
        field = known.get(key.text)
        here = (*path, field.name if field is not None else key.text)
        problems.see(here, key.line)
        if field is None:
            if problems.unknown_fields:
                problems.add(here, key.line, _unknown_field(options.descriptor_of(message), key.text))
            continue
        if field.name in seen:
            problems.add(here, key.line, "is given twice")
            continue
        seen.add(field.name)
        if value.shape is Shape.NULL:
            continue
        if (other := _other_of_oneof(message, field)) is not None:
            problems.add(here, key.line, f"cannot be given together with {other}: only one of them can be")
            continue
        _fill_field(message, field, value, here, problems)
        forms.append((field, value, here))
    # The field that chooses the form may come after the one that has it.
    for field, value, here in forms:
        if (form := options.form_of(message, field)) is not None:
            fill(form, value, here, problems)


def _other_of_oneof(message: Message, field: FieldDescriptor) -> str | None:
    oneof = field.containing_oneof
    return message.WhichOneof(oneof.name) if oneof is not None else None


def _fill_field(message: Message, field: FieldDescriptor, node: Node, path: paths.Path, problems: Problems) -> None:
    target = getattr(message, field.name)
    if options.is_map(field):
        _fill_map(target, field, node, path, problems)
    elif field.is_repeated:
        _fill_list(target, field, node, path, problems)
    elif field.message_type is not None:
        # So that `{}` is there, though nothing is in it.
        target.SetInParent()
        _fill_message(target, node, path, problems)
    elif not problems.masks and _is_mask(field, node):
        is_bytes = field.type == FieldDescriptor.TYPE_BYTES
        setattr(message, field.name, options.MASK.encode() if is_bytes else options.MASK)
    else:
        try:
            setattr(message, field.name, _scalar(field, node))
        except _Wrong as wrong:
            problems.add(path, problems.line_of(path), str(wrong))


def _fill_map(target: Any, field: FieldDescriptor, node: Node, path: paths.Path, problems: Problems) -> None:
    value_field = options.map_value(field)
    if node.shape is not Shape.MAP:
        wanted = _describe_type(value_field)
        found = got(node, secret=_has_secret(value_field.message_type))
        problems.add(path, problems.line_of(path), f"expected a map of names to {wanted}, got {found}")
        return
    seen: set[str] = set()
    for key, value in node.fields:
        here = (*path, key.text)
        problems.see(here, key.line)
        if key.text in seen:
            problems.add(here, key.line, "is given twice")
        elif value_field.message_type is not None:
            _fill_message(target[key.text], value, here, problems)
        else:
            try:
                target[key.text] = _scalar(value_field, value)
            except _Wrong as wrong:
                problems.add(here, key.line, str(wrong))
        seen.add(key.text)


def _fill_list(target: Any, field: FieldDescriptor, node: Node, path: paths.Path, problems: Problems) -> None:
    if node.shape is not Shape.LIST:
        wanted = f"expected a list (each entry {_describe_type(field)}), got {got(node)}"
        problems.add(path, problems.line_of(path), wanted)
        return
    for index, entry in enumerate(node.entries):
        here = (*path, index)
        problems.see(here, entry.line)
        if field.message_type is not None:
            _fill_message(target.add(), entry, here, problems)
        else:
            try:
                target.append(_scalar(field, entry))
            except _Wrong as wrong:
                problems.add(here, entry.line, str(wrong))


def _fill_message(message: Any, node: Node, path: paths.Path, problems: Problems) -> None:
    well_known = _WELL_KNOWN.get(message.DESCRIPTOR.full_name, fill)
    well_known(message, node, path, problems)


# --- well-known types ----------------------------------------------------------------------------------


def _fill_struct(struct: Any, node: Node, path: paths.Path, problems: Problems) -> None:
    if node.shape is not Shape.MAP:
        problems.add(path, problems.line_of(path), f"expected a map, got {got(node)}")
        return
    for key, value in node.fields:
        here = (*path, key.text)
        problems.see(here, key.line)
        if key.text in struct.fields:
            problems.add(here, key.line, "is given twice")
        else:
            _fill_value(struct.fields[key.text], value, here, problems)


def _fill_value(value: Any, node: Node, path: paths.Path, problems: Problems) -> None:
    match node.shape:
        case Shape.MAP:
            value.struct_value.SetInParent()
            _fill_struct(value.struct_value, node, path, problems)
        case Shape.LIST:
            value.list_value.SetInParent()
            for index, entry in enumerate(node.entries):
                here = (*path, index)
                problems.see(here, entry.line)
                _fill_value(value.list_value.values.add(), entry, here, problems)
        case Shape.NUMBER:
            try:
                value.number_value = _exact_float(node)
            except _Wrong as wrong:
                problems.add(path, node.line, str(wrong))
        case Shape.BOOL:
            value.bool_value = _is_true(node)
        case Shape.NULL:
            value.null_value = 0
        case Shape.STRING:
            value.string_value = node.text


def _fill_timestamp(timestamp: Any, node: Node, path: paths.Path, problems: Problems) -> None:
    problem = f"expected a time such as 2025-11-03T12:00:00Z, got {got(node)}"
    if node.shape is Shape.STRING:
        try:
            timestamp.FromJsonString(node.text)
            return
        except ValueError:
            pass
    problems.add(path, problems.line_of(path), problem)


_WELL_KNOWN: dict[str, Callable[[Any, Node, paths.Path, Problems], None]] = {
    "google.protobuf.Struct": _fill_struct,
    "google.protobuf.Timestamp": _fill_timestamp,
}


def node_of_struct(struct: Any) -> Node:
    """Give the node that a Struct would be read from; it has no lines."""
    return Node(Shape.MAP, 0, fields=tuple((_string(key), _node_of(struct.fields[key])) for key in struct.fields))


def _string(text: str) -> Node:
    return Node(Shape.STRING, 0, text)


def _node_of(value: Any) -> Node:
    match value.WhichOneof("kind"):
        case "struct_value":
            return node_of_struct(value.struct_value)
        case "list_value":
            return Node(Shape.LIST, 0, entries=tuple(_node_of(entry) for entry in value.list_value.values))
        case "number_value":
            number = value.number_value
            return Node(Shape.NUMBER, 0, str(int(number)) if number.is_integer() else repr(number))
        case "bool_value":
            return Node(Shape.BOOL, 0, "true" if value.bool_value else "false")
        case "string_value":
            return _string(value.string_value)
        case _:
            return Node(Shape.NULL, 0)


# --- scalars -------------------------------------------------------------------------------------------


def _scalar(field: FieldDescriptor, node: Node) -> Any:
    """Give the value of a scalar field. Raises `_Wrong`."""
    if _is_mask(field, node):
        raise _Wrong(
            "is the text that stands for a secret, not the secret; "
            "write the secret itself, or get the resource with --show-secrets"
        )
    if field.enum_type is not None:
        return _enum_number(field, node)
    expected = _describe_type(field)
    wrong = _Wrong(f"expected {expected}, got {got(node, secret=bool(options.secret_of(field)))}")
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if node.shape is not Shape.BOOL:
            raise wrong
        return _is_true(node)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if node.shape is not Shape.STRING:
            raise _Wrong(f"{wrong}{_quoting_hint(field, node)}")
        return _bytes(node) if field.type == FieldDescriptor.TYPE_BYTES else node.text
    if node.shape is not Shape.NUMBER:
        hint = "; write it without quotes" if _looks_like_number(node) else ""
        raise _Wrong(f"{wrong}{hint}")
    if field.cpp_type in _FLOAT_TYPES:
        return _float(node)
    return _whole_number(field, node, wrong)


def _is_mask(field: FieldDescriptor, node: Node) -> bool:
    return bool(options.secret_of(field)) and node.text == options.MASK


def _quoting_hint(field: FieldDescriptor, node: Node) -> str:
    if node.shape not in (Shape.NUMBER, Shape.BOOL, Shape.NULL):
        return ""
    if options.secret_of(field) or not node.text:
        return "; put it in quotes"
    return f'; put it in quotes: "{node.text[:40]}"'


def _looks_like_number(node: Node) -> bool:
    return node.shape is Shape.STRING and node.text.isascii() and node.text.isdigit()


def _is_true(node: Node) -> bool:
    return node.text.lower() == "true"


def _bytes(node: Node) -> bytes:
    try:
        return base64.b64decode("".join(node.text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _Wrong("expected bytes as base64, got other text") from error


def _whole_number(field: FieldDescriptor, node: Node, wrong: _Wrong) -> int:
    try:
        # Base 0 would refuse "007", which is the number 7 in YAML.
        number = int(node.text, 0) if node.text[:2] in ("0x", "0o") else int(node.text)
    except ValueError:
        raise wrong from None
    signed = field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
    bits = 32 if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if not low <= number <= high:
        raise _Wrong(f"{node.text[:40]} is out of range: {low} to {high}")
    return number


def _float(node: Node) -> float:
    text = node.text
    try:
        # Python's words for the two lack YAML's dot.
        number = float(int(text, 0)) if text[:2] in ("0x", "0o") else float(re.sub(r"\.(?=[in])", "", text.lower()))
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _Wrong(f"{text[:40]} is not a number that can be kept")
    return number


def _exact_float(node: Node) -> float:
    """Give the number of a free form, which is a double; a whole number that a double cannot hold is refused."""
    number = _float(node)
    text = node.text
    if len(text) > 15 and text.lstrip("+-").isdigit() and int(text[:400]) != int(number):
        raise _Wrong(f"{text[:40]} is too large to be kept exactly; put it in quotes")
    return number


def _enum_number(field: FieldDescriptor, node: Node) -> int:
    if node.shape is Shape.NUMBER:
        # A number without a name is in order here: rules say where it is not.
        return _whole_number_of_enum(node)
    values = options.enum_of(field).values_by_name
    # Zero stands for "not set" and is written by leaving the field out.
    every = [name for name, value in values.items() if value.number]
    if node.shape is not Shape.STRING:
        raise _Wrong(f"expected one of {', '.join(every)}, got {got(node)}")
    if node.text in values:
        return values[node.text].number
    folded = {name.casefold(): name for name in every}
    close = difflib.get_close_matches(node.text.casefold(), folded, 1, 0.5)
    # WORKFLOW_TASK_KIND_SET: what people write of such names is their end.
    close = [name for name in folded if name.endswith("_" + node.text.casefold())] or close
    if close:
        raise _Wrong(f"{names.shown(node.text)} is no {options.enum_of(field).name}; did you mean {folded[close[0]]}?")
    raise _Wrong(f"{names.shown(node.text)} is not one of {', '.join(every)}")


def _whole_number_of_enum(node: Node) -> int:
    try:
        number = int(node.text)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 31:
        raise _Wrong(f"expected the name or number of an enum's value, got {got(node)}")
    return number


@functools.cache
def _has_secret(message: Descriptor | None) -> bool:
    """Say whether what stands where such a message should be may be a secret: that alone, as people write it."""
    return message is not None and any(options.secret_of(field) for field in message.fields)


# --- words for problems --------------------------------------------------------------------------------


def got(node: Node, *, secret: bool = False) -> str:
    """Say what a node is, in words; of a secret only its type."""
    match node.shape:
        case Shape.STRING:
            return "a string" if secret else f"the string {names.shown(node.text)}"
        case Shape.NUMBER:
            return "a number" if secret else f"the number {node.text[:40]}"
        case Shape.BOOL:
            return "true or false" if secret else node.text.lower()
        case Shape.NULL:
            return "nothing"
        case Shape.LIST:
            return "a list"
        case Shape.MAP:
            return "a map"


@functools.cache
def describe(message: Descriptor) -> str:
    """Say what a message is, in words: its name and its fields, those that exclude each other with a bar."""
    words: list[str] = []
    for field in message.fields:
        if field.containing_oneof is not None and words and field != field.containing_oneof.fields[0]:
            words[-1] += f" | {field.name}"
        else:
            words.append(field.name)
    if len(words) > _FIELDS_SHOWN_MAX:
        words = [*words[:_FIELDS_SHOWN_MAX], "..."]
    return f"a message ({message.name}: {', '.join(words)})"


_SCALAR_WORDS = {
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_STRING: "a string",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
}


def _describe_type(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return describe(field.message_type)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return "bytes as base64"
    return _SCALAR_WORDS.get(field.cpp_type, "a whole number")


def _unknown_field(message: Descriptor, name: str) -> str:
    known = [field.name for field in message.fields]
    close = difflib.get_close_matches(name.casefold(), known, 1, 0.6)
    if name == "<<":
        hint = "merge keys are not part of YAML 1.2; write the fields out, or use an alias for the whole value"
    elif close:
        hint = f"did you mean {close[0]}?"
    else:
        hint = f"{message.name} has: {', '.join(known)}"
    return f"unknown field; {hint}"


@functools.cache
def _fields_by_name(message: Descriptor) -> dict[str, FieldDescriptor]:
    return {name: field for field in message.fields for name in (field.camelcase_name, field.name)}
