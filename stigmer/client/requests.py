"""The arguments of a client's methods, checked and serialized.

The checks are those of the embedded store, so that a wrong name is refused before it travels, with the same error.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence

from stigmer import codec, config, names
from stigmer.errors import InvalidArgument, ResourceExhausted
from stigmer.model import Delete, Save
from stigmer.pb import store_pb2

LIST_CALL_LIMIT = 10_000
"""A List is asked for in calls of at most this many: so a call's deadline does not depend on how many there are."""


_WRITE_COMMITS = b"\x0a"
"""The tag of `WriteRequest.commits`."""


class RequestIds:
    """Makes request ids that no other client makes: a random part, then a number."""

    def __init__(self) -> None:
        self._pid = 0
        self._prefix = ""
        self._numbers = itertools.count(1)

    def next(self) -> str:
        """Give an id that was not given before."""
        if self._pid != os.getpid():  # at first, and in a forked child, which must not repeat its parent's
            self._prefix = secrets.token_hex(12)
            self._pid = os.getpid()
        return f"{self._prefix}-{next(self._numbers)}"


def check_timeout(timeout: float | None) -> None:
    """Raise `InvalidArgument` unless `timeout` is a number of seconds above 0, or None for no limit."""
    if timeout is not None and not timeout > 0:
        raise InvalidArgument("timeout", f"{timeout!r} is not a number of seconds above 0")


def _check_text(text: object, field: str) -> None:
    if not isinstance(text, str):
        raise InvalidArgument(field, f"must be a string, not {type(text).__name__}")


def commit(changes: Sequence[Save | Delete], request_id: str) -> bytes:
    """Serialize a `Commit`."""
    payload = codec.commit_payload(changes, request_id)
    if len(payload) > config.COMMIT_BYTES_MAX:
        raise ResourceExhausted(
            f"the commit has {len(payload)} bytes; COMMIT_BYTES_MAX is {config.COMMIT_BYTES_MAX}",
            limit="COMMIT_BYTES_MAX",
            limit_value=config.COMMIT_BYTES_MAX,
            hint="make several smaller commits",
        )
    return payload


def get(kind: str, id: str) -> bytes:
    """Serialize a `GetRequest` of names that were checked."""
    return store_pb2.GetRequest(kind=kind, id=id).SerializeToString()


def get_many(keys: Iterable[tuple[str, str]]) -> bytes:
    """Serialize a `GetManyRequest` of names that were checked."""
    request = store_pb2.GetManyRequest()
    add = request.keys.add
    for kind, id in keys:
        key = add()
        key.kind = kind
        key.id = id
    return request.SerializeToString()


def check_key(key: tuple[str, str]) -> tuple[str, str]:
    """Give a (kind, id) back, or raise `InvalidArgument` where it is none."""
    kind, id = key
    _check_text(kind, "kind")
    _check_text(id, "id")
    names.check(kind, id)
    return kind, id


def write(payloads: Iterable[bytes]) -> bytes:
    """Put serialized commits into a `WriteRequest`, without serializing them again."""
    parts: list[bytes] = []
    for payload in payloads:
        parts += (_WRITE_COMMITS, codec.varint(len(payload)), payload)
    return b"".join(parts)


def write_messages(payloads: Iterable[bytes]) -> Iterator[bytes]:
    """Put serialized commits into as many `WriteRequest`s as they take."""
    taken: list[bytes] = []
    size = 0
    for payload in payloads:
        if taken and size + len(payload) > config.WRITE_MESSAGE_BYTES:
            yield write(taken)
            taken, size = [], 0
        taken.append(payload)
        size += len(payload)
    if taken:
        yield write(taken)


def check_list(kind: str, prefix: str, limit: int | None, page_token: str | None) -> None:
    """Raise `InvalidArgument` where an argument of `list` is not what it must be."""
    _check_text(kind, "kind")
    _check_text(prefix, "prefix")
    names.check_kind(kind)
    names.check_prefix(prefix)
    if limit is not None and limit < 1:
        raise InvalidArgument("limit", f"must be at least 1, not {limit}")
    if page_token is not None:
        _check_text(page_token, "page_token")


def list_call(kind: str, prefix: str, left: int | None, page_token: str) -> bytes:
    """Serialize the `ListRequest` of one call, of which `left` resources are wanted still; None: all there are."""
    limit = LIST_CALL_LIMIT if left is None else min(left, LIST_CALL_LIMIT)
    return store_pb2.ListRequest(kind=kind, prefix=prefix, limit=limit, page_token=page_token).SerializeToString()


class TailFilter:
    """What a tail asks for, but for where it starts."""

    def __init__(self, kinds: Collection[str] | None, prefix: str | None, follow: bool) -> None:
        """Raises `InvalidArgument` where a name is not what it must be."""
        if isinstance(kinds, str):
            raise InvalidArgument("kinds", "must be a collection of kinds, not one string")
        self._kinds = tuple(kinds or ())
        for index, kind in enumerate(self._kinds):
            _check_text(kind, f"kinds[{index}]")
            names.check_kind(kind, f"kinds[{index}]")
        self._prefix = prefix or ""
        _check_text(self._prefix, "prefix")
        names.check_prefix(self._prefix)
        self.follow = follow

    def request(self, after: int) -> bytes:
        """Serialize a `TailRequest` that starts behind revision `after`."""
        return store_pb2.TailRequest(
            after=after, kinds=self._kinds, prefix=self._prefix, follow=self.follow
        ).SerializeToString()


def check_revision(revision: int, field: str, least: int) -> None:
    """Raise `InvalidArgument` unless `revision` can be one."""
    if not isinstance(revision, int) or not least <= revision < 1 << 64:
        raise InvalidArgument(field, f"{revision!r} is not a revision")
