"""Messages put together from, or cut into, bytes that are already serialized.

Owns the few places where a message is written or read by hand: the answers of List, Get and Tail from the rows of the
view and the payloads of the log, and the commits of a Write. None is decoded, which is what makes them cheap. The field
numbers are those of proto/stigmer/pb/store.proto, and a test parses what comes out with the generated classes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from stigmer import config
from stigmer.codec import varint
from stigmer.errors import InvalidArgument, ResourceExhausted

Result = tuple[bytes, bool]
"""The bytes of a `Resource`, or of an `ErrorDetail`; which of the two is said by whether it is an error."""

_VARINT = 0
_FIXED64 = 1
_LENGTH = 2


def _tag(field: int, wire_type: int) -> bytes:
    return varint(field << 3 | wire_type)


_LIST_RESOURCES = _tag(1, _LENGTH)
_LIST_NEXT_PAGE_TOKEN = _tag(2, _LENGTH)

_GET_MANY_RESULTS = _tag(1, _LENGTH)
_RESULT_RESOURCE = _tag(1, _LENGTH)
_RESULT_ERROR = _tag(2, _LENGTH)

_WRITE_COMMITS = _tag(1, _LENGTH)[0]

_TAIL_COMMITS = _tag(1, _LENGTH)
_TAIL_THROUGH_REVISION = _tag(2, _VARINT)

_COMMITTED_FIRST_REVISION = _tag(1, _VARINT)
_COMMITTED_TIME_NS = _tag(2, _FIXED64)
_COMMITTED_COMMIT = _tag(3, _LENGTH)
_COMMITTED_REVISIONS = _tag(4, _LENGTH)

_LENGTH_SHIFT_MAX = 28
"""A length has at most five bytes of seven bits: messages are smaller than 2 GiB."""

_sfixed64 = struct.Struct("<q").pack


def _list_head(size: int) -> bytes:
    return _LIST_RESOURCES + varint(size)


# Most rows are small, and there are many in a page.
_LIST_HEADS_PREPARED = 2048
_LIST_HEADS = [_list_head(size) for size in range(_LIST_HEADS_PREPARED)]


def list_response(rows: Iterable[bytes], next_page_token: str) -> bytes:
    """Write a `ListResponse` of serialized resources."""
    parts: list[bytes] = []
    for row in rows:
        size = len(row)
        parts += (_LIST_HEADS[size] if size < _LIST_HEADS_PREPARED else _list_head(size), row)
    if next_page_token:
        token = next_page_token.encode()
        parts += (_LIST_NEXT_PAGE_TOKEN, varint(len(token)), token)
    return b"".join(parts)


def get_many_response(results: Iterable[Result]) -> bytes:
    """Write a `GetManyResponse` of serialized resources, and errors as serialized details."""
    parts: list[bytes] = []
    for body, is_error in results:
        head = (_RESULT_ERROR if is_error else _RESULT_RESOURCE) + varint(len(body))
        parts += (_GET_MANY_RESULTS, varint(len(head) + len(body)), head, body)
    return b"".join(parts)


def commits_of(request: bytes) -> list[bytes]:
    """Cut a `WriteRequest` into the bytes of its commits.

    Raises `InvalidArgument` where it holds anything else, `ResourceExhausted` where it holds too many.
    """
    commits: list[bytes] = []
    at, end = 0, len(request)
    while at < end:
        if request[at] != _WRITE_COMMITS:
            raise _not_a_write(at, "is no field of it")
        start = at + 1
        size = shift = 0
        while True:
            if start == end or shift > _LENGTH_SHIFT_MAX:
                raise _not_a_write(at, "has no length")
            byte = request[start]
            start += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if size > end - start:
            raise _not_a_write(at, f"has {end - start} bytes, not {size}")
        at = start + size
        if len(commits) == config.WRITE_COMMITS_MAX:
            raise ResourceExhausted(
                f"the message has more than {config.WRITE_COMMITS_MAX} commits",
                limit="WRITE_COMMITS_MAX",
                limit_value=config.WRITE_COMMITS_MAX,
                hint="put fewer into one message of the stream",
            )
        commits.append(request[start:at])
    return commits


def _not_a_write(offset: int, problem: str) -> InvalidArgument:
    return InvalidArgument(
        "request", f"is not a serialized stigmer.store.v1.WriteRequest (what begins at byte {offset} {problem})"
    )


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
