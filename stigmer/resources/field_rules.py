"""When a value keeps a rule of its field, and the words for one that does not.

Owns the meaning of each single rule of proto/stigmer/pb/rules.proto but `required`, which is about the field and
not its value (rules.py):

- Rules of strings (length, pattern, `in`, `const`, URI) hold for the empty string too.
- Rules of numbers hold for zero too, but not where the field says that zero stands for "not set": a timeout
  left out is in order although it is "at least 1".

`holds` is called for every value of every message and makes no words; `problem` is called for what is wrong.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from stigmer import names
from stigmer.pb import rules_pb2
from stigmer.resources import options

# RFC 3986: a scheme, then the characters that a URI may have.
_is_uri = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+").fullmatch


class Rule(NamedTuple):
    """One rule of one field: when a value keeps it, and the words for one that does not."""

    name: str
    holds: Callable[[Any], object]
    problem: Callable[[Any], str]
    text: Callable[[Any], str] | None = str
    """The value as text; None where it is not shown."""


def of_value(field: FieldDescriptor, rules: rules_pb2.FieldRules) -> Iterator[Rule]:
    """Give the rules of a scalar field's value."""
    if field.enum_type is not None:
        if rules.defined_only:
            enum = options.enum_of(field)
            yield Rule(
                "defined_only",
                frozenset(enum.values_by_number).__contains__,
                lambda value: f"{value} is no value of {enum.name}",
            )
    elif field.type == FieldDescriptor.TYPE_STRING:
        yield from _string_rules(rules)
    else:
        yield from _number_rules(rules)


def _string_rules(rules: rules_pb2.FieldRules) -> Iterator[Rule]:
    if rules.HasField("min_len"):
        least = rules.min_len
        yield Rule("min_len", lambda value: len(value) >= least, functools.partial(_too_short, least))
    if rules.HasField("max_len"):
        most = rules.max_len
        yield Rule(
            "max_len",
            lambda value: len(value) <= most,
            lambda value: f"must have at most {_characters(most)}, has {len(value)}",
        )
    if rules.pattern:
        pattern = rules.pattern
        yield Rule(
            "pattern",
            _pattern(pattern).search,
            lambda value: f"{names.shown(value)} does not match the pattern {pattern}",
        )
    if rules.HasField("const"):
        only = rules.const
        yield Rule(
            "const",
            lambda value: value == only,
            lambda value: f"must be {names.shown(only)}, {f'is {names.shown(value)}' if value else 'is not set'}",
        )
    if allowed := frozenset(getattr(rules, "in")):  # a keyword of Python, so it cannot be written as an attribute
        wanted = ", ".join(one or '""' for one in getattr(rules, "in"))
        yield Rule(
            "in",
            allowed.__contains__,
            lambda value: f"must be one of {wanted}; is {names.shown(value)}",
        )
    if rules.uri:
        yield Rule(
            "uri",
            _is_uri,
            lambda value: f"must be a URI such as https://example.com/path, is {names.shown(value)}",
        )


def _too_short(least: int, value: str) -> str:
    problem = f"must have at least {_characters(least)}, has {len(value)}"
    return problem if value else f"must not be empty ({problem})"


def _characters(count: int) -> str:
    return "1 character" if count == 1 else f"{count} characters"


@functools.cache
def _pattern(pattern: str) -> re.Pattern[str]:
    # Elsewhere "$" is the end of the text alone; in Python also the place before a last newline.
    return re.compile(re.sub(r"(?<!\\)\$", r"\\Z", pattern))


def _number_rules(rules: rules_pb2.FieldRules) -> Iterator[Rule]:
    # Both are written so that NaN, which compares false with everything, breaks them.
    unset = rules.zero_is_unset
    if rules.HasField("gte"):
        least = rules.gte
        yield Rule(
            "gte",
            lambda value: value >= least or (unset and not value),
            lambda value: f"must be at least {_number(least)}, is {_number(value)}",
            _number,
        )
    if rules.HasField("lte"):
        most = rules.lte
        yield Rule(
            "lte",
            lambda value: value <= most or (unset and not value),
            lambda value: f"must be at most {_number(most)}, is {_number(value)}",
            _number,
        )


def _number(value: float) -> str:
    return f"{value:.10g}"


def of_count(rules: rules_pb2.FieldRules) -> Iterator[Rule]:
    """Give the rules of a list's or map's number of entries."""
    if rules.HasField("min_items"):
        least = rules.min_items
        yield Rule(
            "min_items",
            lambda entries: len(entries) >= least,
            lambda entries: f"needs at least {least}, has {len(entries)}",
            None,
        )


def of_choice(enum: EnumDescriptor, allowed: Collection[int], rules: rules_pb2.FieldRules) -> Rule:
    """Give the rule for an enum's number in a message, of which the field around the message allows only some."""

    def text(number: int) -> str:
        value = enum.values_by_number.get(number)
        return value.name if value is not None else str(number)

    def problem(number: int) -> str:
        return f"{rules.message}; {f'it is {text(number)}' if number else 'it is not set'}"

    return Rule(rules.id, frozenset(allowed).__contains__, problem, text)
