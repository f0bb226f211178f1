"""What a valid message is: the rules that stand beside its fields, compiled once for each type of message.

Owns no rule. The rules are options in the proto sources; their meaning is that of protovalidate, which the
platform's published messages use. What a single value may be is in field_rules.py; here is where rules apply:

- `required`: a message is there; a scalar is not zero or empty; a list or map is not empty. Where it is broken,
  the field's other rules are not looked at.
- Messages inside are checked where they are there; lists and maps entry by entry.
- A Struct whose form another field chooses (the configuration of a workflow's task) is checked as that message.
  Fields that the form does not know are let pass here: they may come from a newer client.

Every report of a runner is checked, several a second and a megabyte each, and nearly all are valid. So a type's
descriptor is read once and made into *steps*, one for each field that has rules or holds messages that do. A step
reads its field and, where nothing is wrong, makes nothing but the links of a place; the path, the words and the
value are made for a rule that is broken.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeAlias, cast

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from stigmer import names
from stigmer.errors import InvalidArgument
from stigmer.pb import rules_pb2
from stigmer.resources import field_rules, messages, options, paths

VIOLATIONS_COUNTED_MAX = 100
"""How many violations are looked for where only the first is told: a message may have millions."""
FIELD_LENGTH_MAX = 400
"""How much of a path is told to a caller. It travels in headers, and keys of maps may make it any length."""

_WELL_KNOWN = "google.protobuf."
_LENGTHS = ("min_len", "max_len")


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


def check(message: Message, *, limit: int | None = None) -> list[Violation]:
    """Give the rules that a message breaks, in the order of its fields; an empty list for a valid one.

    With a `limit`, no more than the first so many are looked for.
    """
    found = _Found(limit)
    try:
        for step in _plan_of(options.descriptor_of(message)).steps:
            step(message, None, found)
    except _Enough:
        pass
    return found.violations


def require_valid(message: Message) -> None:
    """Raise `InvalidArgument` unless a message keeps every rule.

    Its `field` is the path of the first violation; its `problem` has what is wrong, the rule's name and the value,
    and how many other rules are broken.
    """
    violations = check(message, limit=VIOLATIONS_COUNTED_MAX)
    if not violations:
        return
    first = violations[0]
    problem = f"{first.problem} [{first.rule}]"
    if first.rule in _LENGTHS and first.value.strip('"'):
        # The words for other rules have the value in them.
        problem += f": {first.value}"
    if more := len(violations) - 1:
        least = "at least " if len(violations) == VIOLATIONS_COUNTED_MAX else ""
        problem += f"; {least}{more} more {'rule is' if more == 1 else 'rules are'} broken"
    path = first.path if len(first.path) <= FIELD_LENGTH_MAX else first.path[:FIELD_LENGTH_MAX] + "..."
    raise InvalidArgument(path, problem)


# --- what is found -------------------------------------------------------------------------------------

# A path from its end: the place around it, and the name, index or key in there. None is the message itself.
_Place: TypeAlias = "tuple[_Place, str | int] | None"


class _Enough(Exception):
    """As many violations were found as were asked for."""


class _Found:
    """The violations that were found so far."""

    def __init__(self, limit: int | None) -> None:
        self.violations: list[Violation] = []
        self.unreadable: set[paths.Path] = set()
        """What could not be read in its form. It is unset there, and that it is missing needs no second word."""
        self._limit = limit

    def missing(self, place: _Place) -> None:
        """Note that something required is not there."""
        self._add(_path(place), "required", "is required", "")

    def broken(self, place: _Place, rule: field_rules.Rule, value: Any) -> None:
        """Note that a value breaks a rule."""
        shown = names.shown(rule.text(value)) if rule.text is not None else ""
        self._add(_path(place), rule.name, rule.problem(value), shown)

    def unlike_form(self, problems: messages.Problems) -> None:
        """Note what could not be read in its form."""
        # The forms inside of a form are read with it, and once more when they are checked themselves.
        new = [problem for problem in problems.found if problem.path not in self.unreadable]
        for problem in new:
            self._add(problem.path, "form", problem.text, "")
        self.unreadable.update(problem.path for problem in new)

    def _add(self, path: paths.Path, rule: str, problem: str, shown: str) -> None:
        if path in self.unreadable:
            return
        self.violations.append(Violation(paths.text(path), rule, problem, shown, path))
        if len(self.violations) == self._limit:
            raise _Enough


def _path(place: _Place) -> paths.Path:
    parts: list[str | int] = []
    while place is not None:
        place, part = place
        parts.append(part)
    return tuple(reversed(parts))


# --- the plan of a message -----------------------------------------------------------------------------

_Step = Callable[[Any, _Place, _Found], None]
"""Checks one field of a message that is at a place."""


class _Plan:
    """The steps that check a message of one type."""

    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps: tuple[_Step, ...] = ()


@functools.cache
def _plan_of(message: Descriptor) -> _Plan:
    # Remembered when it is whole: another thread may ask for the same plan meanwhile.
    return _make_plan(message, {})


def _make_plan(message: Descriptor, made: dict[Descriptor, _Plan]) -> _Plan:
    """Make the plan of a message and of those that it can hold.

    `made` has every plan that was begun, so that a type may hold itself.
    """
    if message not in made:
        plan = made[message] = _Plan()
        steps = (_step(field, made) for field in message.fields)
        plan.steps = tuple(step for step in steps if step is not None)
    return made[message]


def _step(field: FieldDescriptor, made: dict[Descriptor, _Plan]) -> _Step | None:
    """Give the step for a field; None where nothing in it can be wrong."""
    rules = options.rules_of(field)
    inner = _inner_message(field)
    plan = _make_plan(inner, made) if inner is not None and _has_rules(inner) else None
    if rules is None and plan is None:
        return None
    rules = rules if rules is not None else rules_pb2.FieldRules()
    if field.is_repeated:
        return _entries_step(field, rules, plan or _Plan())
    if field.message_type is not None:
        return _message_step(field, rules, plan or _Plan())
    return _scalar_step(field, rules)


def _inner_message(field: FieldDescriptor) -> Descriptor | None:
    inner = options.map_value(field).message_type if options.is_map(field) else field.message_type
    return None if inner is None or inner.full_name.startswith(_WELL_KNOWN) else inner


@functools.cache
def _has_rules(message: Descriptor) -> bool:
    """Say whether a message, or any that it can hold, has a rule; the others need no step."""
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


def _scalar_step(field: FieldDescriptor, rules: rules_pb2.FieldRules) -> _Step:
    name, value_of, required, presence = field.name, operator.attrgetter(field.name), rules.required, field.has_presence
    of_value = tuple((rule.holds, rule) for rule in field_rules.of_value(field, rules))

    def step(message: Any, place: _Place, found: _Found) -> None:
        value = value_of(message)
        if required and not (message.HasField(name) if presence else value):
            found.missing((place, name))
            return
        for holds, rule in of_value:
            if not holds(value):
                found.broken((place, name), rule, value)

    return step


def _message_step(field: FieldDescriptor, rules: rules_pb2.FieldRules, plan: _Plan) -> _Step:
    name, value_of, required = field.name, operator.attrgetter(field.name), rules.required
    scope = _choice_step(field, "owner_scope", rules.owner_scopes, rules) if rules.owner_scopes else None
    has_form = bool(rules.form_chosen_by)

    def step(message: Any, place: _Place, found: _Found) -> None:
        # Not read before it is known to be there: reading would make one.
        if not message.HasField(name):
            if required:
                found.missing((place, name))
            return
        value, here = value_of(message), (place, name)
        if scope is not None:
            scope(value, here, found)
        if has_form and (form := options.form_of(message, field)) is not None:
            _check_form(form, value, here, found)
        for inner in plan.steps:
            inner(value, here, found)

    return step


def _entries_step(field: FieldDescriptor, rules: rules_pb2.FieldRules, plan: _Plan) -> _Step:
    name, value_of, required = field.name, operator.attrgetter(field.name), rules.required
    of_count = tuple(field_rules.of_count(rules))
    kind = _choice_step(field, "kind", rules.reference_kinds, rules) if rules.reference_kinds else None
    parts_of = _in_order if options.is_map(field) else enumerate

    def step(message: Any, place: _Place, found: _Found) -> None:
        entries, here = value_of(message), (place, name)
        if required and not entries:
            found.missing(here)
            return
        for rule in of_count:
            if not rule.holds(entries):
                found.broken(here, rule, entries)
        if kind is not None:
            for part, entry in parts_of(entries):
                kind(entry, (here, part), found)
        if steps := plan.steps:
            for part, entry in parts_of(entries):
                there = (here, part)
                for inner in steps:
                    inner(entry, there, found)

    return step


def _in_order(entries: Any) -> Iterator[tuple[str, Any]]:
    """Give keys and values of a map, so that the same message has the same first violation always."""
    for key in sorted(entries):
        yield str(key), entries[key]


def _choice_step(field: FieldDescriptor, name: str, allowed: Collection[int], rules: rules_pb2.FieldRules) -> _Step:
    """Give the step for an enum field of a message, of which the field around that message allows only some values."""
    inner = cast("Descriptor", field.message_type).fields_by_name[name]
    number_of, rule = operator.attrgetter(name), field_rules.of_choice(options.enum_of(inner), allowed, rules)

    def step(message: Any, place: _Place, found: _Found) -> None:
        if not rule.holds(number := number_of(message)):
            found.broken((place, name), rule, number)

    return step


def _check_form(form: Message, struct: Any, place: _Place, found: _Found) -> None:
    """Check a Struct as the message that it has the form of, the forms inside of it too."""
    problems = messages.Problems(unknown_fields=False)
    messages.fill(form, messages.node_of_struct(struct), _path(place), problems)
    found.unlike_form(problems)
    for step in _plan_of(options.descriptor_of(form)).steps:
        step(form, place, found)
