"""The key `kind/id` under which views keep a resource.

`names` lets neither part hold a "/", so a key stands for one pair only, and a kind's keys lie together in the order
of their ids' bytes.
"""

from __future__ import annotations

from stigmer import names

_KEYS_REMEMBERED_MAX = 32_768

# The keys of names that were checked lately, by kind and id. A resource that changes often is checked once, and its key
# is one object wherever it is looked up.
_remembered: dict[str, dict[str, bytes]] = {}
_remembered_count = 0


def key_of(kind: str, id: str) -> bytes:
    """Give the key of a resource."""
    # Not an f-string: what an enumeration's member formats as need not be the string that it is.
    return "/".join((kind, id)).encode()


def checked_key_of(kind: str, id: str) -> bytes:
    """Give the key of a resource whose names may be anything. Raises `InvalidArgument`."""
    try:
        return _remembered[kind][id]
    except KeyError:
        return _remember(kind, id)


def plain(text: str) -> str:
    """Give a text as a `str` itself, where it is of a class of its own, such as an enumeration's member."""
    return text if type(text) is str else str.__str__(text)


def _remember(kind: str, id: str) -> bytes:
    global _remembered_count
    names.check(kind, id)
    key = key_of(kind, id)
    if _remembered_count >= _KEYS_REMEMBERED_MAX:
        # Replaced, not emptied, for other threads are reading it; one that forgets too much or too little is no harm.
        _start_anew()
    _remembered.setdefault(plain(kind), {})[plain(id)] = key
    _remembered_count += 1
    return key


def _start_anew() -> None:
    global _remembered, _remembered_count
    _remembered, _remembered_count = {}, 0


def range_of(kind: str, prefix: str) -> bytes:
    """Give the bytes with which the keys of a kind's ids that start with `prefix` begin."""
    return "/".join((kind, prefix)).encode()


def parts_of(key: bytes) -> tuple[str, str]:
    """Give the kind and the id of a key."""
    kind, _, id = key.decode().partition("/")
    return kind, id
