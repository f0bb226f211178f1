"""What is indexed: per kind, which fields of its values; and the terms that one value has.

Owns the table `DECLARED` and the form of a term's key. A value is read with a message class that has the indexed fields
and no others, made here from their numbers, so that this room needs no generated code of the platform and protobuf's
parser passes over all else in C.

- Terms are a function of kind and value alone. They are sorted: a map's entries, which protobuf writes in any order,
  give the same terms in any order.
- Every value of a declared kind has the term of the index `all`, even bytes that are no message: they are a resource.
- A term's key fits into an LMDB key together with a revision and an id, whatever the value holds.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import itertools
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from stigmer.errors import InvalidArgument

ALL = "all"
"""The index of all resources of a kind; its one term has the empty text."""

TEXT_BYTES_MAX = 96
"""A longer text stands in a term as its hash."""
TEXTS_MAX = 1_000
"""Of a field that may have many values, the first so many are indexed: one resource must not fill the memory."""

_SEPARATOR = b"\0"
_HASHED = b"\1"

_FieldProto = descriptor_pb2.FieldDescriptorProto


class Form(enum.Enum):
    """What a field holds."""

    TEXT = "string"
    TEXTS = "repeated string"
    PAIRS = "map<string, string>"
    NUMBER = "enum"


class Path(NamedTuple):
    """The way to a field."""

    name: str
    """As the platform's messages call it: "spec.session_id"."""
    numbers: tuple[int, ...]
    """The numbers of the fields on the way."""
    form: Form = Form.TEXT


class Term(NamedTuple):
    """What a resource can be found by."""

    key: bytes
    """Kind, index and text: `term_key`."""
    qualifier: bytes = b""
    """What tells apart those that have the term; the organization, for a slug."""


_METADATA = {
    "slug": Path("metadata.slug", (3, 2)),
    "tag": Path("metadata.tags", (3, 8), Form.TEXTS),
    "label": Path("metadata.labels", (3, 6), Form.PAIRS),
}
_WITHOUT_SLUG = {name: path for name, path in _METADATA.items() if name != "slug"}
_SKILL = Path("metadata.id", (3, 3))

QUALIFIED = {"slug": Path("metadata.org", (3, 4))}
"""The indexes whose terms have a qualifier, and of which field."""

DECLARED: Mapping[str, Mapping[str, Path]] = {
    "agent": _METADATA,
    "agent_execution": _METADATA
    | {"session": Path("spec.session_id", (4, 1)), "phase": Path("status.phase", (5, 2), Form.NUMBER)},
    "session": _METADATA | {"agent_instance": Path("spec.agent_instance_id", (4, 1))},
    "skill": _METADATA,
    "mcp_server": _METADATA,
    "agent_instance": _METADATA | {"agent": Path("spec.agent_id", (4, 1))},
    "workflow": _METADATA,
    "workflow_instance": _METADATA | {"workflow": Path("spec.workflow_id", (4, 1))},
    "workflow_execution": _METADATA
    | {
        "workflow": Path("spec.workflow_id", (4, 6)),
        "workflow_instance": Path("spec.workflow_instance_id", (4, 1)),
        "phase": Path("status.phase", (5, 1), Form.NUMBER),
    },
    "environment": _METADATA,
    "execution_context": _METADATA,
    # Both hold whole `Skill` messages. A slug is that of the skill itself.
    "skill_version": _WITHOUT_SLUG | {"skill": _SKILL, "artifact": Path("status.artifact_storage_key", (5, 2))},
    "skill_tag": _WITHOUT_SLUG | {"skill": _SKILL},
}
"""Kind -> index -> the field. Every kind here has the index `all` as well."""


def term_key(kind: str, index: str, text: str | bytes = "") -> bytes:
    """Give the key of a term: kind, index and text, with a NUL between; the text is short and holds no NUL."""
    return _prefix(kind, index) + _short(text.encode() if isinstance(text, str) else text)


def qualifier_of(text: str) -> str:
    """Give what the entry of a term has as qualifier for this text: the text, where it is not too long."""
    return shown_qualifier(_short(text.encode()))


def shown_qualifier(qualifier: bytes) -> str:
    """Give a qualifier as text."""
    return qualifier.decode(errors="surrogateescape")


def check(kind: str, index: str) -> None:
    """Raise `InvalidArgument` unless resources of this kind can be found by this index."""
    if kind not in DECLARED:
        raise InvalidArgument("kind", f"{kind!r} has no indexes", hint="list it by its ids")
    if index != ALL and index not in DECLARED[kind]:
        known = ", ".join(sorted((ALL, *DECLARED[kind])))
        raise InvalidArgument("index", f"{kind!r} has no index {index!r}; it has {known}")


def is_single(kind: str, index: str) -> bool:
    """Say whether a resource of this kind has one term of this index at the most."""
    return index == ALL or DECLARED[kind][index].form in (Form.TEXT, Form.NUMBER)


def terms_of(kind: str, value: bytes) -> tuple[Term, ...]:
    """Give the terms of a value, sorted; none for a kind that is not declared."""
    if kind not in DECLARED:
        return ()
    reader = _readers()[kind]
    found = {Term(term_key(kind, ALL))}
    try:
        message = reader.message_class.FromString(value)
    except DecodeError:
        return tuple(found)
    for prefix, texts_in, qualifier_in in reader.indexes:
        qualifier = b"" if qualifier_in is None else _short(qualifier_in(message))
        for text in texts_in(message):
            found.add(Term(prefix + _short(text), qualifier))
    return tuple(sorted(found))


@functools.cache
def _prefix(kind: str, index: str) -> bytes:
    return kind.encode() + _SEPARATOR + index.encode() + _SEPARATOR


def _short(text: bytes) -> bytes:
    """Give a text as it is, or a mark and its hash where it is too long or could be taken for something else."""
    if len(text) <= TEXT_BYTES_MAX and _SEPARATOR not in text and not text.startswith(_HASHED):
        return text
    return _HASHED + hashlib.sha256(text).hexdigest().encode()


# --- reading values ------------------------------------------------------------------------------------------


class _Reader(NamedTuple):
    """How the values of one kind are read."""

    message_class: type[Message]
    indexes: list[tuple[bytes, Callable[[Any], Iterable[bytes]], Callable[[Any], bytes] | None]]
    """The start of the terms' keys, what gives the texts of a message, and what gives their qualifier."""


@functools.cache
def _readers() -> dict[str, _Reader]:
    """Make the message classes of all kinds, in a pool of their own: the platform's may be in the process as well."""
    file = _FieldFile()
    for kind, paths in DECLARED.items():
        needed = [*paths.values(), *(QUALIFIED[index] for index in paths if index in QUALIFIED)]
        for path in needed:
            file.enter(kind, path)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.proto.SerializeToString())
    return {
        kind: _Reader(
            GetMessageClass(pool.FindMessageTypeByName(f"{file.proto.package}.{kind}")),
            [
                (_prefix(kind, index), _texts(path), _field(QUALIFIED[index]) if index in QUALIFIED else None)
                for index, path in paths.items()
            ],
        )
        for kind, paths in DECLARED.items()
    }


class _FieldFile:
    """A description of messages that have the fields entered and no others.

    A field is called `f` and its number. Texts are declared as bytes, so that one that is not UTF-8 does not hide the
    others; a map as what it is on the wire, repeated entries.
    """

    def __init__(self) -> None:
        self.proto = descriptor_pb2.FileDescriptorProto(
            name="stigmer/terms.proto", package="stigmer.terms", syntax="proto2"
        )
        self._messages: dict[str, descriptor_pb2.DescriptorProto] = {}
        pair = self._message("Pair")
        for number in (1, 2):
            self._field(pair, number, _FieldProto.TYPE_BYTES)

    def enter(self, kind: str, path: Path) -> None:
        """Enter a field of a kind, and the messages on the way to it."""
        message = self._message(kind)
        *outer, last = path.numbers
        for number in outer:
            inner = self._message(f"{message.name}_{number}")
            self._field(message, number, _FieldProto.TYPE_MESSAGE, inner.name)
            message = inner
        if path.form is Form.PAIRS:
            self._field(message, last, _FieldProto.TYPE_MESSAGE, "Pair", repeated=True)
        elif path.form is Form.NUMBER:
            self._field(message, last, _FieldProto.TYPE_INT32)
        else:
            self._field(message, last, _FieldProto.TYPE_BYTES, repeated=path.form is Form.TEXTS)

    def _message(self, name: str) -> descriptor_pb2.DescriptorProto:
        if name not in self._messages:
            self._messages[name] = self.proto.message_type.add(name=name)
        return self._messages[name]

    def _field(
        self,
        message: descriptor_pb2.DescriptorProto,
        number: int,
        type: _FieldProto.Type.ValueType,
        message_name: str = "",
        *,
        repeated: bool = False,
    ) -> None:
        if any(field.number == number for field in message.field):
            return
        field = message.field.add(name=f"f{number}", number=number, type=type)
        field.label = _FieldProto.LABEL_REPEATED if repeated else _FieldProto.LABEL_OPTIONAL
        if message_name:
            field.type_name = f".{self.proto.package}.{message_name}"


def _field(path: Path) -> Callable[[Any], Any]:
    return operator.attrgetter(".".join(f"f{number}" for number in path.numbers))


def _texts(path: Path) -> Callable[[Any], Iterable[bytes]]:
    """Give a function from a message to the texts that a field of it has; what is empty or zero is none."""
    field = _field(path)

    def text(message: Any) -> Iterable[bytes]:
        found = field(message)
        return (found,) if found else ()

    def number(message: Any) -> Iterable[bytes]:
        found = field(message)
        return (b"%d" % found,) if found else ()

    def texts(message: Any) -> Iterable[bytes]:
        return filter(None, itertools.islice(field(message), TEXTS_MAX))

    def pairs(message: Any) -> Iterable[bytes]:
        # Of entries with the same key the last one counts, as in a map.
        last = {pair.f1: pair.f2 for pair in itertools.islice(field(message), TEXTS_MAX)}
        return [b"%b=%b" % pair for pair in last.items()]

    return {Form.TEXT: text, Form.NUMBER: number, Form.TEXTS: texts, Form.PAIRS: pairs}[path.form]
