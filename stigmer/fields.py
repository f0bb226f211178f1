"""Serialized messages taken apart and put together by their fields, without parsing what is inside.

A status is reported several times a second and is mostly what it was, so its fields are moved as bytes. Unknown fields
and unknown enum numbers stay as they came. The format is https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from stigmer.codec import varint
from stigmer.errors import InvalidArgument

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_GROUPS_MAX = 100
"""Groups inside each other, as protobuf itself takes them; only unknown fields are any."""


Bytes = bytes | memoryview
"""What is taken apart is not copied: parts of it are views of it."""
Fields = dict[int, list[Bytes]]
"""The occurrences of each field, by its number."""


def split(message: Bytes) -> Fields:
    """Give the fields of a serialized message by their numbers: each occurrence with its tag, in their order.

    Raises `InvalidArgument` where the bytes are no message.
    """
    view = memoryview(message)
    found: Fields = {}
    for number, _, start, _, end in _fields(message):
        found.setdefault(number, []).append(view[start:end])
    return found


def each(message: Bytes) -> Iterator[tuple[int, bool, int, int]]:
    """Give of each field its number, whether it has a length, and where its content starts and ends.

    Raises `InvalidArgument` where the bytes are no message, when it comes there.
    """
    for number, kind, _, inside, end in _fields(message):
        yield number, kind == _BYTES, inside, end


def join(fields: Mapping[int, Sequence[Bytes]]) -> bytes:
    """Put occurrences of fields together, in the order of their numbers."""
    return b"".join(occurrence for number in sorted(fields) for occurrence in fields[number])


def content(fields: Mapping[int, Sequence[Bytes]], number: int) -> Bytes:
    """Give what is in a field that holds a message; empty where it is not there.

    Occurrences are put together, which is what protobuf does with those of a message.
    """
    found = _contents(fields, number)
    return found[0] if len(found) == 1 else b"".join(found)


def text(fields: Mapping[int, Sequence[Bytes]], number: int) -> bytes:
    """Give what is in a field that holds a string or bytes; empty where it is not there. The last occurrence counts."""
    return bytes(next(reversed(_contents(fields, number)), b""))


def integer(fields: Mapping[int, Sequence[Bytes]], number: int) -> int:
    """Give the number in a field that holds a varint; 0 where it is not there. The last occurrence counts."""
    for occurrence in reversed(fields.get(number, ())):
        tag, at = _read_varint(occurrence, 0)
        if tag & 7 == _VARINT:
            return _read_varint(occurrence, at)[0]
    return 0


def _contents(fields: Mapping[int, Sequence[Bytes]], number: int) -> list[Bytes]:
    """Give what is in each occurrence that has a length; to protobuf, another kind of one is an unknown field."""
    return [
        part[inside:] for part in fields.get(number, ()) for _, kind, _, inside, _ in _fields(part) if kind == _BYTES
    ]


def of_bytes(number: int, held: Bytes) -> bytes:
    """Give one occurrence of a field that holds a message, a string or bytes."""
    return b"".join((varint(number << 3 | _BYTES), varint(len(held)), held))


def of_message(number: int, fields: Mapping[int, Sequence[Bytes]]) -> list[Bytes]:
    """Give one occurrence of a field that holds the message of these fields, in pieces for `join`."""
    inside = [occurrence for inner in sorted(fields) for occurrence in fields[inner]]
    return [varint(number << 3 | _BYTES) + varint(sum(map(len, inside))), *inside]


def of_integer(number: int, held: int) -> bytes:
    """Give one occurrence of a field that holds an unsigned integer; nothing where that is 0, as in proto3."""
    return varint(number << 3 | _VARINT) + varint(held) if held else b""


def _fields(message: Bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Give number, wire type, start of the tag, start of the content, and end of each field."""
    at, size = 0, len(message)
    while at < size:
        start = at
        tag, inside = _read_varint(message, at)
        kind = tag & 7
        if kind == _BYTES:
            length, inside = _read_varint(message, inside)
            at = inside + length
        else:
            at = _end_of(message, tag, inside, 0)
        if at > size or tag >> 3 == 0:
            raise _no_message(start)
        yield tag >> 3, kind, start, inside, at


def _end_of(message: Bytes, tag: int, at: int, depth: int) -> int:
    """Give the end of the field whose tag ends at `at`."""
    kind = tag & 7
    if kind == _VARINT:
        return _read_varint(message, at)[1]
    if kind == _BYTES:
        length, at = _read_varint(message, at)
        return at + length
    if kind in _FIXED_BYTES:
        return at + _FIXED_BYTES[kind]
    if kind != _GROUP or depth == _GROUPS_MAX:
        raise _no_message(at)
    while True:
        inner, at = _read_varint(message, at)
        if inner & 7 == _GROUP_END:
            if inner >> 3 != tag >> 3:
                raise _no_message(at)
            return at
        at = _end_of(message, inner, at, depth + 1)


def _read_varint(message: Bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    start = at
    while at < len(message):
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            break
    raise _no_message(start)


def _no_message(at: int) -> InvalidArgument:
    return InvalidArgument("message", f"is no serialized message: the field at byte {at} cannot be read")
