"""Messages as a person reads them: plain data, YAML, JSON; and the few facts that a table shows.

Owns how values look: fields by their own names, whole numbers as numbers, times as RFC 3339, enums by name, bytes as
base64. What is not set is left out. Manifests read all of it back to the same message.

Secrets are replaced by `MASK` unless the caller asks for them. Which fields hold secrets is said beside the fields in
the proto sources. Fields that this code does not know are not shown.
"""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from stigmer.resources import options
from stigmer.resources.options import MASK

# Controls that JSON lets pass and a terminal obeys; characters that hide or turn round what is beside them.
_UNSAFE = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

_WHOLE_MAX = 2**53

__all__ = ["MASK", "Summary", "as_dict", "json_text", "summary", "yaml_text"]


def as_dict(message: Message, *, show_secrets: bool = False) -> dict[str, Any]:
    """Give a message as dicts, lists and scalars that JSON and YAML can hold, in the order of the fields' numbers."""
    return _message(message, masking=not show_secrets, all_secret=False)


def _message(message: Message, *, masking: bool, all_secret: bool) -> dict[str, Any]:
    flagged = options.is_flagged(message)
    shown: dict[str, Any] = {}
    for field, value in message.ListFields():
        # A message or map that is secret as a whole: inside, every field that can be secret is.
        inside = all_secret or options.secret_of(field) == options.ALWAYS_SECRET
        if masking and options.hides(field, flagged=flagged, all_secret=all_secret):
            shown[field.name] = MASK
        elif options.is_map(field):
            value_field = options.map_value(field)
            shown[field.name] = {
                str(key): _value(value_field, value[key], masking=masking, all_secret=inside) for key in sorted(value)
            }
        elif field.is_repeated:
            shown[field.name] = [_value(field, entry, masking=masking, all_secret=inside) for entry in value]
        else:
            shown[field.name] = _value(field, value, masking=masking, all_secret=inside)
    return shown


def _value(field: FieldDescriptor, value: Any, *, masking: bool, all_secret: bool) -> Any:
    if field.message_type is not None:
        match field.message_type.full_name:
            case "google.protobuf.Struct":
                return _struct(value)
            case "google.protobuf.Timestamp":
                return _time(value)
            case _:
                return _message(value, masking=masking, all_secret=all_secret)
    if field.enum_type is not None:
        named = options.enum_of(field).values_by_number.get(value)
        return named.name if named is not None else value
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode("ascii")
    return value


def _time(timestamp: Any) -> Any:
    try:
        return timestamp.ToJsonString()
    except ValueError:
        # Before the year 1 or after 9999: RFC 3339 has no text for it, and what is stored must still be seen.
        return {"seconds": timestamp.seconds, "nanos": timestamp.nanos}


def _struct(struct: Any) -> dict[str, Any]:
    return {key: _struct_value(struct.fields[key]) for key in sorted(struct.fields)}


def _struct_value(value: Any) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return _struct(value.struct_value)
        case "list_value":
            return [_struct_value(entry) for entry in value.list_value.values]
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                return str(number)  # JSON has no such number
            # Beyond this a double no longer holds every whole number, and its digits would say too much.
            return int(number) if number.is_integer() and abs(number) <= _WHOLE_MAX else number
        case "null_value" | None:
            return None
        case kind:
            return getattr(value, kind)


# --- text ----------------------------------------------------------------------------------------------


def json_text(data: object, *, indent: int | None = 2) -> str:
    """Give plain data as JSON, without a line feed at the end; on one line with `indent=None`."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    return _escaped(text)


def _escaped(text: str) -> str:
    # All of these stand inside double quotes, where JSON and YAML have the same escape for them.
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def yaml_text(data: object) -> str:
    """Give plain data as one YAML document in block style, long texts as literal blocks; ends with a line feed."""
    import io

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = sys.maxsize  # lines are broken where the text has them, nowhere else
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump(_styled(data), stream)
    text = stream.getvalue()
    # A scalar alone is a document with its end marked; in a map such a line is somebody's text.
    return _escaped(text if isinstance(data, Mapping | list) else text.removesuffix("...\n"))


def _styled(data: object) -> object:
    """Choose the style of each string: as it is, as a literal block, or in double quotes with escapes.

    All of it is new, so that nothing is there twice: what a person reads has no anchors.
    """
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

    if isinstance(data, Mapping):
        return {_styled(key): _styled(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_styled(value) for value in data]
    if not isinstance(data, str) or data.isprintable():
        return data
    return LiteralScalarString(data) if _fits_block(data) else DoubleQuotedScalarString(data)


def _fits_block(text: str) -> bool:
    """Say whether a literal block can hold a text exactly and be read well: several printable lines."""
    lines = text.split("\n")
    return (
        len(lines) > 1
        and bool(lines[0])
        and not text.endswith("\n\n")
        and all(line.isprintable() and not line.endswith(" ") for line in lines)
    )


# --- tables --------------------------------------------------------------------------------------------


class Summary(msgspec.Struct, frozen=True):
    """What a table shows of a resource. Empty where there is nothing to show."""

    name: str
    slug: str
    org: str
    phase: str
    """The name of the phase, for kinds whose status has one."""


def summary(message: Message) -> Summary:
    """Give what a table shows of a resource."""
    resource: Any = message
    metadata = resource.metadata
    status = resource.status
    phase_field = status.DESCRIPTOR.fields_by_name.get("phase")
    phase = ""
    if phase_field is not None and (number := status.phase):
        named = options.enum_of(phase_field).values_by_number.get(number)
        phase = named.name if named is not None else str(number)
    return Summary(metadata.name, metadata.slug, metadata.org, phase)
