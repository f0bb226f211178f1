"""What a valid message is: the rules that stand beside its fields, checked by walking its descriptor.

Owns no rule. The rules are options in the proto sources; their meaning is that of protovalidate, which the
platform's published messages use:

- `required`: a message is there; a scalar is not zero or empty; a list or map is not empty. Where it is broken,
  the field's other rules are not looked at.
- Rules of strings (length, pattern, `in`, `const`, URI) hold for the empty string too.
- Rules of numbers hold for zero too, but not where the field says that zero stands for "not set": a timeout
  left out is in order although it is "at least 1".
- Messages inside are checked where they are there; lists and maps entry by entry.
- A Struct whose form another field chooses (the configuration of a workflow's task) is checked as that message.
  Fields that the form does not know are let pass here: they may come from a newer client.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from stigmer import names
from stigmer.pb import rules_pb2
from stigmer.resources import messages, options, paths

_WELL_KNOWN = "google.protobuf."
# RFC 3986: a scheme, then the characters that a URI may have.
_is_uri = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+").fullmatch


class Violation(msgspec.Struct, frozen=True):
    """A rule that a message breaks."""

    path: str
    """Such as `spec.mcp_servers[0].name`."""
    rule: str
    """The rule's name: that of the option, such as `min_len`, or the contract's own id for it."""
    problem: str
    value: str
    """What is there, shortened and escaped; empty where nothing is."""
    parts: paths.Path

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def check(message: Message) -> list[Violation]:
    """Give every rule that a message breaks, in the order of its fields; an empty list for a valid one."""
    return list(_check_message(message, ()))


def _violation(path: paths.Path, rule: str, problem: str, value: object = None) -> Violation:
    shown = "" if value is None else names.shown(str(value))
    return Violation(paths.text(path), rule, problem, shown, path)


def _check_message(message: Message, path: paths.Path) -> Iterator[Violation]:
    for field in options.descriptor_of(message).fields:
        rules = options.rules_of(field)
        inner = _inner_message(field)
        if rules is None and (inner is None or not _has_rules(inner)):
            continue
        value = getattr(message, field.name)
        there = message.HasField(field.name) if field.has_presence else bool(value)
        here = (*path, field.name)
        if rules is not None:
            if rules.required and not there:
                yield _violation(here, "required", "is required")
                continue
            yield from _check_rules(field, rules, value, there, here)
            if there and (form := options.form_of(message, field)) is not None:
                yield from _check_form(form, value, here)
        if inner is not None and there and _has_rules(inner):
            for entry_path, entry in _entries(field, value, here):
                yield from _check_message(entry, entry_path)


def _inner_message(field: FieldDescriptor) -> Descriptor | None:
    inner = options.map_value(field).message_type if options.is_map(field) else field.message_type
    return None if inner is None or inner.full_name.startswith(_WELL_KNOWN) else inner


@functools.cache
def _has_rules(message: Descriptor) -> bool:
    """Say whether a message, or any that it can hold, has a rule; the others need no walk."""
    seen: set[str] = set()
    waiting = [message]
    while waiting:
        one = waiting.pop()
        if one.full_name in seen:
            continue
        seen.add(one.full_name)
        for field in one.fields:
            if options.rules_of(field) is not None:
                return True
            if (inner := _inner_message(field)) is not None:
                waiting.append(inner)
    return False


def _entries(field: FieldDescriptor, value: Any, path: paths.Path) -> Iterator[tuple[paths.Path, Message]]:
    """Give the messages in a field, each with its path."""
    if options.is_map(field):
        for key in sorted(value):
            yield (*path, key if isinstance(key, str) else str(key)), value[key]
    elif field.is_repeated:
        for index, entry in enumerate(value):
            yield (*path, index), entry
    else:
        yield path, value


def _check_rules(
    field: FieldDescriptor, rules: rules_pb2.FieldRules, value: Any, there: bool, path: paths.Path
) -> Iterator[Violation]:
    if field.is_repeated:
        if rules.HasField("min_items") and len(value) < rules.min_items:
            yield _violation(path, "min_items", f"needs at least {rules.min_items}, has {len(value)}")
        if rules.reference_kinds:
            for index, reference in enumerate(value):
                yield from _check_choice(reference, "kind", rules.reference_kinds, rules, (*path, index))
    elif field.message_type is not None:
        if there and rules.owner_scopes:
            yield from _check_choice(value, "owner_scope", rules.owner_scopes, rules, path)
    elif field.enum_type is not None:
        if rules.defined_only and value not in field.enum_type.values_by_number:
            yield _violation(path, "defined_only", f"{value} is no value of {field.enum_type.name}", value)
    elif isinstance(value, str):
        yield from _check_string(rules, value, path)
    elif rules.HasField("gte") or rules.HasField("lte"):
        yield from _check_number(rules, value, path)


def _check_choice(
    message: Message, name: str, allowed: Any, rules: rules_pb2.FieldRules, path: paths.Path
) -> Iterator[Violation]:
    """Check that an enum field of a message is one of the values that the field around the message allows."""
    number = getattr(message, name)
    if number in allowed:
        return
    by_number = options.enum_of(options.descriptor_of(message).fields_by_name[name]).values_by_number
    found = by_number[number].name if number in by_number else str(number)
    now = f"it is {found}" if number else "it is not set"
    yield _violation((*path, name), rules.id, f"{rules.message}; {now}", found)


def _check_string(rules: rules_pb2.FieldRules, value: str, path: paths.Path) -> Iterator[Violation]:
    if rules.HasField("min_len") and len(value) < rules.min_len:
        problem = f"must have at least {_characters(rules.min_len)}, has {len(value)}"
        yield _violation(path, "min_len", problem if value else f"must not be empty ({problem})", value)
    if rules.HasField("max_len") and len(value) > rules.max_len:
        problem = f"must have at most {_characters(rules.max_len)}, has {len(value)}"
        yield _violation(path, "max_len", problem, value)
    if rules.pattern and not _pattern(rules.pattern).search(value):
        problem = f"{names.shown(value)} does not match the pattern {rules.pattern}"
        yield _violation(path, "pattern", problem, value)
    if rules.HasField("const") and value != rules.const:
        now = f"is {names.shown(value)}" if value else "is not set"
        yield _violation(path, "const", f"must be {names.shown(rules.const)}, {now}", value)
    allowed = getattr(rules, "in")  # a keyword of Python, so it cannot be written as an attribute
    if allowed and value not in allowed:
        wanted = ", ".join(one or '""' for one in allowed)
        yield _violation(path, "in", f"must be one of {wanted}; is {names.shown(value)}", value)
    if rules.uri and not _is_uri(value):
        problem = f"must be a URI such as https://example.com/path, is {names.shown(value)}"
        yield _violation(path, "uri", problem, value)


def _characters(count: int) -> str:
    return "1 character" if count == 1 else f"{count} characters"


@functools.cache
def _pattern(pattern: str) -> re.Pattern[str]:
    # Elsewhere "$" is the end of the text alone; in Python also the place before a last newline.
    return re.compile(re.sub(r"(?<!\\)\$", r"\\Z", pattern))


def _check_number(rules: rules_pb2.FieldRules, value: float, path: paths.Path) -> Iterator[Violation]:
    if rules.zero_is_unset and not value:
        return
    # Written so that NaN, which compares false with everything, breaks both.
    if rules.HasField("gte") and not value >= rules.gte:
        yield _violation(path, "gte", f"must be at least {rules.gte:.10g}, is {value:.10g}", f"{value:.10g}")
    if rules.HasField("lte") and not value <= rules.lte:
        yield _violation(path, "lte", f"must be at most {rules.lte:.10g}, is {value:.10g}", f"{value:.10g}")


def _check_form(form: Message, struct: Any, path: paths.Path) -> Iterator[Violation]:
    """Check a Struct as the message that it has the form of, the forms inside of it too."""
    problems = messages.Problems(unknown_fields=False)
    messages.fill(form, messages.node_of_struct(struct), path, problems)
    wrong = {problem.path for problem in problems.found}
    for problem in problems.found:
        yield _violation(problem.path, "form", problem.text)
    for violation in _check_message(form, path):
        if violation.parts not in wrong:
            yield violation
