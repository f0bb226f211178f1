"""What a kind and its fields are: types, rules and comments, from the descriptors; and an example of each kind.

The comments are those of the proto sources, which tools/gen_proto keeps in stigmer/pb/comments.json. The examples are
files beside this one (examples/), written to be read; a test applies them.
"""

from __future__ import annotations

import difflib
import functools
import json
import textwrap
from importlib import resources
from typing import cast

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from stigmer import names
from stigmer.errors import InvalidArgument
from stigmer.resources import options
from stigmer.resources.kinds import Kind

_SCALAR_TYPES = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_STRING: "string",
}
_WELL_KNOWN_TYPES = {
    "google.protobuf.Struct": "map of anything",
    "google.protobuf.Timestamp": "time (RFC 3339)",
}
_TEXT_WIDTH = 100


class FieldExplained(msgspec.Struct, frozen=True):
    """One field, as its message shows it."""

    name: str
    type: str
    """Such as `string`, `list of SubAgent`, `map of string to EnvironmentValue`."""
    comment: str
    rules: tuple[str, ...]
    """Each a few words, such as `required`, `at least 10 characters`."""
    either: str = ""
    """The name of the choice that the field is one of, where only one of several can be given."""


class Explained(msgspec.Struct, frozen=True):
    """What there is to know of a kind, or of the field at a path in it."""

    kind: str
    path: str
    """Empty for the kind itself."""
    type: str
    comment: str
    rules: tuple[str, ...]
    fields: tuple[FieldExplained, ...]
    """Of the message, or of the messages in a list or map; empty for scalars."""
    values: tuple[str, ...]
    """The names that an enum has; empty for all else."""
    forms: dict[str, str]
    """Where another field chooses the form: its value -> what that form is."""


def explain(kind: Kind, path: str = "") -> Explained:
    """Explain a kind, or the field at a path such as `spec.mcp_servers.stdio`.

    Fields of the messages in a list or map follow without an index. The configuration of a workflow's task has one more
    step, the kind of the task: `spec.tasks.task_config.WORKFLOW_TASK_KIND_WAIT`. Raises `InvalidArgument` naming
    the fields that there are.
    """
    message: Descriptor | None = kind.descriptor
    field: FieldDescriptor | None = None
    walked: list[str] = []
    comment = comment_of(kind.descriptor.full_name)
    for step in [step for step in path.split(".") if step]:
        form = _form_descriptor(field, step)
        if form is not None:
            field, message, comment = None, form, comment_of(form.full_name)
            walked.append(step)
            continue
        found = _field(message, step)
        if found is None:
            raise _no_such_field(kind, walked, step, field, message)
        field, message = found, _message_in(found)
        comment = comment_of(found.full_name)
        walked.append(found.name)
    return Explained(
        kind=kind.name,
        path=".".join(walked),
        type=_type_of(field) if field is not None else cast("Descriptor", message).name,
        comment=comment,
        rules=_rule_texts(field) if field is not None else (),
        fields=tuple(_explained(one) for one in message.fields) if _is_ours(message) and message else (),
        values=_values_of(field),
        forms={name: comment_of(form.full_name) for name, form in _forms_of(field).items()},
    )


def explain_text(explained: Explained) -> str:
    """Give an explanation as text for a terminal; ends with a line feed."""
    title = f"{explained.kind}{'.' if explained.path else ''}{explained.path}"
    lines = [f"{title}  <{explained.type}>", ""]
    lines += textwrap.wrap(explained.comment, _TEXT_WIDTH, initial_indent="  ", subsequent_indent="  ")
    lines += [f"  - {rule}" for rule in explained.rules]
    if explained.values:
        lines += ["", "VALUES", *(f"  {value}" for value in explained.values)]
    if explained.fields:
        lines += ["", "FIELDS"]
    for field in explained.fields:
        notes = "; ".join((*field.rules, *([f"only one of {field.either}"] if field.either else [])))
        lines.append(f"  {field.name}  <{field.type}>{f'  ({notes})' if notes else ''}")
        lines += textwrap.wrap(field.comment, _TEXT_WIDTH, initial_indent="      ", subsequent_indent="      ")
    if explained.forms:
        lines += ["", "FORMS"]
        lines += [f"  {name}  {comment}" for name, comment in explained.forms.items()]
    return "\n".join(lines) + "\n"


def example(kind: Kind) -> str:
    """Give a manifest of a kind, as YAML with comments, that can be applied."""
    return (resources.files(__package__) / "examples" / f"{kind.name}.yaml").read_text(encoding="utf-8")


@functools.cache
def _comments() -> dict[str, str]:
    found: dict[str, str] = json.loads((resources.files("stigmer.pb") / "comments.json").read_bytes())
    return found


def comment_of(full_name: str) -> str:
    """Give what the proto sources say about a message or field; empty where they say nothing."""
    return _comments().get(full_name, "")


# --- walking -------------------------------------------------------------------------------------------


def _field(message: Descriptor | None, name: str) -> FieldDescriptor | None:
    if message is None or not _is_ours(message):
        return None
    return message.fields_by_name.get(name) or message.fields_by_camelcase_name.get(name)


def _message_in(field: FieldDescriptor) -> Descriptor | None:
    value = options.map_value(field) if options.is_map(field) else field
    return value.message_type


def _is_ours(message: Descriptor | None) -> bool:
    return message is not None and message.full_name not in _WELL_KNOWN_TYPES


def _forms_of(field: FieldDescriptor | None) -> dict[str, Descriptor]:
    rules = options.rules_of(field) if field is not None else None
    if field is None or rules is None or not rules.form_chosen_by:
        return {}
    chooser = cast("Descriptor", field.containing_type).fields_by_name[rules.form_chosen_by]
    return {
        value.name: options.message_type(name)
        for value in options.enum_of(chooser).values
        if (name := options.config_message_of(value)) is not None
    }


def _form_descriptor(field: FieldDescriptor | None, step: str) -> Descriptor | None:
    return _forms_of(field).get(step)


def _no_such_field(
    kind: Kind, walked: list[str], step: str, field: FieldDescriptor | None, message: Descriptor | None
) -> InvalidArgument:
    known = list(_forms_of(field)) or [one.name for one in (message.fields if _is_ours(message) and message else ())]
    where = ".".join([kind.name, *walked])
    if not known:
        return InvalidArgument("path", f"{where} has no fields, so it has no {names.shown(step)}")
    close = difflib.get_close_matches(step, known, 1)
    hint = f"did you mean {'.'.join([where, close[0]])}?" if close else f"see them: stigmer explain {where}"
    return InvalidArgument("path", f"{where} has no {names.shown(step)}; it has {', '.join(known)}", hint=hint)


# --- words ---------------------------------------------------------------------------------------------


def _explained(field: FieldDescriptor) -> FieldExplained:
    oneof = field.containing_oneof
    either = ", ".join(one.name for one in oneof.fields) if oneof is not None else ""
    return FieldExplained(field.name, _type_of(field), comment_of(field.full_name), _rule_texts(field), either)


def _type_of(field: FieldDescriptor) -> str:
    if options.is_map(field):
        return f"map of string to {_one_type(options.map_value(field))}"
    return f"list of {_one_type(field)}" if field.is_repeated else _one_type(field)


def _one_type(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return _WELL_KNOWN_TYPES.get(field.message_type.full_name, field.message_type.name)
    return options.enum_of(field).name if field.enum_type is not None else _SCALAR_TYPES[field.type]


def _values_of(field: FieldDescriptor | None) -> tuple[str, ...]:
    if field is None or field.enum_type is None:
        return ()
    # Zero stands for "not set" and is written by leaving the field out.
    return tuple(value.name for value in options.enum_of(field).values if value.number)


def _rule_texts(field: FieldDescriptor) -> tuple[str, ...]:
    rules = options.rules_of(field)
    texts: list[str] = []
    if rules is not None:
        if rules.required:
            texts.append("required")
        if rules.HasField("min_len"):
            texts.append(f"at least {rules.min_len} character{'s' if rules.min_len > 1 else ''}")
        if rules.HasField("max_len"):
            texts.append(f"at most {rules.max_len} characters")
        if rules.pattern:
            texts.append(f"matches {rules.pattern}")
        if rules.HasField("const"):
            texts.append(f"must be {names.shown(rules.const)}")
        if allowed := getattr(rules, "in"):
            texts.append(f"one of {', '.join(names.shown(one) for one in allowed)}")
        if rules.uri:
            texts.append("a URI")
        if rules.HasField("gte"):
            texts.append(f"at least {rules.gte:g}")
        if rules.HasField("lte"):
            texts.append(f"at most {rules.lte:g}")
        if rules.HasField("min_items"):
            texts.append(f"at least {rules.min_items} entr{'ies' if rules.min_items > 1 else 'y'}")
        if rules.message:
            texts.append(f"{'owner_scope' if rules.owner_scopes else 'kind'} {rules.message}")
        if rules.form_chosen_by:
            texts.append(f"its form is chosen by {rules.form_chosen_by}")
    if options.secret_of(field) == options.ALWAYS_SECRET:
        texts.append("secret")
    if options.secret_of(field) == options.SECRET_IF_FLAGGED:
        texts.append(f"secret where {options.FLAG_FIELD} is true")
    return tuple(texts)
