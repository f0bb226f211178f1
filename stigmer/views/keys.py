"""The key `kind/id` under which views keep a resource.

`names` lets neither part hold a "/", so a key stands for one pair only, and a kind's keys lie together in the order
of their ids' bytes.
"""

from __future__ import annotations


def key_of(kind: str, id: str) -> bytes:
    """Give the key of a resource."""
    return f"{kind}/{id}".encode()


def range_of(kind: str, prefix: str) -> bytes:
    """Give the bytes with which the keys of a kind's ids that start with `prefix` begin."""
    return f"{kind}/{prefix}".encode()


def parts_of(key: bytes) -> tuple[str, str]:
    """Give the kind and the id of a key."""
    kind, _, id = key.decode().partition("/")
    return kind, id
