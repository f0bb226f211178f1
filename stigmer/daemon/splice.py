"""Answers put together from bytes that are already serialized.

Owns the few places where a message is written by hand: a List's answer from the rows of the view, a Tail's from the
payloads of the log. Neither is decoded, which is what makes them cheap. The field numbers are those of
proto/stigmer/pb/store.proto, and a test parses what comes out with the generated classes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

_VARINT = 0
_FIXED64 = 1
_LENGTH = 2


def varint(number: int) -> bytes:
    """Write an unsigned integer as protobuf does (https://protobuf.dev/programming-guides/encoding/#varints)."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _tag(field: int, wire_type: int) -> bytes:
    return varint(field << 3 | wire_type)


_LIST_RESOURCES = _tag(1, _LENGTH)
_LIST_NEXT_PAGE_TOKEN = _tag(2, _LENGTH)

_TAIL_COMMITS = _tag(1, _LENGTH)
_TAIL_THROUGH_REVISION = _tag(2, _VARINT)

_COMMITTED_FIRST_REVISION = _tag(1, _VARINT)
_COMMITTED_TIME_NS = _tag(2, _FIXED64)
_COMMITTED_COMMIT = _tag(3, _LENGTH)
_COMMITTED_REVISIONS = _tag(4, _LENGTH)

_sfixed64 = struct.Struct("<q").pack


def list_response(rows: Iterable[bytes], next_page_token: str) -> bytes:
    """Write a `ListResponse` of serialized resources."""
    parts: list[bytes] = []
    for row in rows:
        parts += (_LIST_RESOURCES, varint(len(row)), row)
    if next_page_token:
        token = next_page_token.encode()
        parts += (_LIST_NEXT_PAGE_TOKEN, varint(len(token)), token)
    return b"".join(parts)


def committed_events(first_revision: int, time_ns: int, commit: bytes, revisions: Sequence[int] = ()) -> bytes:
    """Write a `CommittedEvents` of a serialized commit; `revisions` where it holds some of its events only."""
    parts = [
        _COMMITTED_FIRST_REVISION,
        varint(first_revision),
        _COMMITTED_TIME_NS,
        _sfixed64(time_ns),
        _COMMITTED_COMMIT,
        varint(len(commit)),
        commit,
    ]
    if revisions:
        packed = b"".join(map(varint, revisions))
        parts += (_COMMITTED_REVISIONS, varint(len(packed)), packed)
    return b"".join(parts)


def tail_response(commits: Iterable[bytes], through_revision: int) -> bytes:
    """Write a `TailResponse` of serialized `CommittedEvents`."""
    parts: list[bytes] = []
    for commit in commits:
        parts += (_TAIL_COMMITS, varint(len(commit)), commit)
    parts += (_TAIL_THROUGH_REVISION, varint(through_revision))
    return b"".join(parts)
