"""The kinds of resources: which there are, what each is called, and which message holds it.

Owns no table: a message with the option `stigmer.rules.v1.resource` is a kind, and the option has its facts.
The generated modules are imported at the first question, not when this module is, so that a command that asks
for no kind does not pay for them.

The store itself knows none of this: a kind that is not found here is in order and its values stay bytes.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from typing import cast

import msgspec
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from stigmer import names
from stigmer.errors import StigmerError


class Kind(msgspec.Struct, frozen=True):
    """The facts of one kind of resource."""

    name: str
    """In the store's keys and on the command line: "agent_execution"."""
    plural: str
    message_name: str
    """In the `kind` field of manifests: "AgentExecution"."""
    id_prefix: str
    number: int
    """In ApiResourceKind, which references use."""
    api_version: str
    versioned: bool
    """Whether every version is kept under its own hash."""
    message_class: type[Message]

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of the message that holds a resource of this kind."""
        return cast("Descriptor", self.message_class.DESCRIPTOR)


@functools.cache
def all_kinds() -> tuple[Kind, ...]:
    """Give every kind, in the order of their numbers."""
    from stigmer.pb import agentic

    found: list[Kind] = []
    for module_info in pkgutil.iter_modules(agentic.__path__):
        module = importlib.import_module(f"{agentic.__name__}.{module_info.name}")
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            if (kind := _kind_of(descriptor)) is not None:
                found.append(kind)
    return tuple(sorted(found, key=lambda kind: kind.number))


def _kind_of(descriptor: Descriptor) -> Kind | None:
    from stigmer.resources import options

    facts = options.kind_facts_of(descriptor)
    api_version = options.rules_of(descriptor.fields_by_name["api_version"]) if facts else None
    if facts is None or api_version is None:
        return None
    return Kind(
        name=facts.name,
        plural=facts.plural,
        message_name=descriptor.name,
        id_prefix=facts.id_prefix,
        number=facts.number,
        api_version=api_version.const,
        versioned=facts.versioned,
        message_class=GetMessageClass(descriptor),
    )


def _folded(text: str) -> str:
    return text.casefold().replace("-", "").replace("_", "")


@functools.cache
def _by_folded_name() -> dict[str, Kind]:
    return {
        _folded(name): kind
        for kind in all_kinds()
        for name in (kind.id_prefix, kind.plural, kind.message_name, kind.name)
    }


def find(text: str) -> Kind | None:
    """Give the kind that `text` names, or None.

    A kind is named by its singular, its plural, its message's name or its id prefix; upper and lower case are
    the same, and so are "_", "-" and nothing between words.
    """
    return _by_folded_name().get(_folded(text))


def near(text: str) -> str | None:
    """Give the name or plural of a kind that `text` nearly spells; None where it names a kind, or none is near."""
    if find(text) is not None:
        return None
    known = [name for kind in all_kinds() for name in (kind.name, kind.plural)]
    return next(iter(difflib.get_close_matches(text, known, 1, 0.8)), None)


def by_number(number: int) -> Kind | None:
    """Give the kind that has this number in ApiResourceKind, or None."""
    return next((kind for kind in all_kinds() if kind.number == number), None)


def store_name(text: str) -> str:
    """Give the kind as the store's keys have it: the name of a known kind, any other text as it is."""
    kind = find(text)
    return kind.name if kind is not None else text


def decode(kind: Kind | str, value: bytes) -> Message | None:
    """Parse a stored value as its kind's message; None for an unknown kind or bytes that are not one."""
    known = find(kind) if isinstance(kind, str) else kind
    if known is None:
        return None
    try:
        return known.message_class.FromString(value)
    except DecodeError:
        return None


def parsed(kind: Kind, id: str, value: bytes) -> Message:
    """Parse a stored value as its kind's message. Raises `StigmerError` where it is none."""
    try:
        return kind.message_class.FromString(value)
    except DecodeError as error:
        raise StigmerError(
            f"the value of {kind.name} {names.shown(id)} is no {kind.message_name} ({error})",
            hint=f"save one in its place, or delete it: stigmer delete {kind.name} {id}",
        ) from error
