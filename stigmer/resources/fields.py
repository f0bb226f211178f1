"""Serialized messages taken apart and put together by their fields, without parsing what is inside.

A status is reported several times a second and is mostly what it was, so its fields are moved as bytes. Unknown fields
and unknown enum numbers stay as they came. The format is https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from stigmer.codec import varint
from stigmer.errors import InvalidArgument

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


def split(message: bytes) -> dict[int, list[bytes]]:
    """Give the fields of a serialized message by their numbers: each occurrence with its tag, in their order.

    Raises `InvalidArgument` where the bytes are no message.
    """
    found: dict[int, list[bytes]] = {}
    for number, start, _, end in _fields(message):
        found.setdefault(number, []).append(message[start:end])
    return found


def join(fields: Mapping[int, Sequence[bytes]]) -> bytes:
    """Put occurrences of fields together, in the order of their numbers."""
    return b"".join(occurrence for number in sorted(fields) for occurrence in fields[number])


def content(fields: Mapping[int, Sequence[bytes]], number: int) -> bytes:
    """Give what is in a field that holds a message, a string or bytes; empty where it is not there.

    Occurrences are put together, which is what protobuf does with those of a message.
    """
    return b"".join(part[start:] for part in fields.get(number, ()) for _, _, start, _ in _fields(part))


def integer(fields: Mapping[int, Sequence[bytes]], number: int) -> int:
    """Give the number in a field that holds a varint; 0 where it is not there."""
    occurrences = fields.get(number)
    if not occurrences:
        return 0
    occurrence = occurrences[-1]
    _, at = _read_varint(occurrence, 0)
    return _read_varint(occurrence, at)[0]


def of_bytes(number: int, held: bytes) -> bytes:
    """Give one occurrence of a field that holds a message, a string or bytes."""
    return varint(number << 3 | _BYTES) + varint(len(held)) + held


def of_integer(number: int, held: int) -> bytes:
    """Give one occurrence of a field that holds an unsigned integer; nothing where that is 0, as in proto3."""
    return varint(number << 3 | _VARINT) + varint(held) if held else b""


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Give number, start of the tag, start of the content, and end of each field."""
    at, size = 0, len(message)
    while at < size:
        start = at
        tag, at = _read_varint(message, at)
        kind = tag & 7
        inside = at
        if kind == _VARINT:
            _, at = _read_varint(message, at)
        elif kind == _BYTES:
            length, inside = _read_varint(message, at)
            at = inside + length
        elif kind in _FIXED_BYTES:
            at += _FIXED_BYTES[kind]
        else:
            raise _no_message(start)
        if at > size or tag >> 3 == 0:
            raise _no_message(start)
        yield tag >> 3, start, inside, at


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
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
