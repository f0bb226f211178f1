"""What callers send, parsed, with a bound on the memory that this takes.

A message in memory can be 75 times its serialized size: two bytes make an empty message inside another. So a large
request's fields are counted before protobuf has it, and a small one cannot hold more of them than are taken.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from stigmer import config, fields
from stigmer.errors import InvalidArgument, ResourceExhausted
from stigmer.fields import Bytes

_M = TypeVar("_M", bound=Message)

_FIELD_BYTES_MIN = 2
_DEPTH_MAX = 100
"""Of messages inside each other, as protobuf itself takes them."""


def parsed(cls: type[_M], data: bytes, field: str = "request") -> _M:
    """Parse bytes as a message.

    Raises `InvalidArgument` naming `field` where they are none, and `ResourceExhausted` where they hold more than
    `config.REQUEST_FIELDS_MAX` fields, those of messages inside counted.
    """
    if len(data) > config.REQUEST_FIELDS_MAX * _FIELD_BYTES_MIN:
        _check_count(cast("Descriptor", cls.DESCRIPTOR), data, field)
    try:
        return cls.FromString(data)
    except DecodeError as error:
        raise InvalidArgument(field, f"is not a serialized {cls.DESCRIPTOR.full_name} ({error})") from error


def _check_count(descriptor: Descriptor, data: bytes, field: str) -> None:
    try:
        left = _count_down(descriptor, memoryview(data), config.REQUEST_FIELDS_MAX, _DEPTH_MAX)
    except InvalidArgument:
        return  # protobuf says what is wrong, and it ends there as well
    if left < 0:
        raise ResourceExhausted(
            f"the {field} of {len(data)} bytes has more than {config.REQUEST_FIELDS_MAX} fields",
            limit="REQUEST_FIELDS_MAX",
            limit_value=config.REQUEST_FIELDS_MAX,
            hint="send less at a time",
        )


def _count_down(descriptor: Descriptor, message: Bytes, left: int, depth: int) -> int:
    """Take the fields of a message, and of those inside it, from a number; it is negative where that was too small."""
    known = _messages_in(descriptor)
    for number, has_length, start, end in fields.each(message):
        left -= 1
        if has_length and depth and start < end and (inside := known.get(number)) is not None:
            left = _count_down(inside, message[start:end], left, depth - 1)
        if left < 0:
            break
    return left


@functools.cache
def _messages_in(descriptor: Descriptor) -> Mapping[int, Descriptor]:
    """Give the types of the fields that hold messages, by their numbers."""
    return {field.number: field.message_type for field in descriptor.fields if field.message_type is not None}
