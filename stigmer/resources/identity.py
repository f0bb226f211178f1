"""Ids and slugs: how they are made from a kind, a time, randomness and a name.

Reads no clock and no source of randomness: both are given, so that the same input makes the same identity.
"""

from __future__ import annotations

import base64
import re

from stigmer import names
from stigmer.errors import InvalidArgument
from stigmer.resources.kinds import Kind

ULID_RANDOM_BYTES = 10
_ULID_LENGTH = 26
_ULID_TIME_MAX_MS = (1 << 48) - 1
# From the digits of RFC 4648 to Crockford's (https://github.com/ulid/spec), in lower case: no i, l, o, u.
_DIGITS = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789abcdefghjkmnpqrstvwxyz")
# 26 digits are 130 bits, two more than there are; base 32 is written for multiples of 40.
_PADDING_BITS = 30
_PADDED_BYTES = 20


def ulid(time_ms: int, random: bytes) -> str:
    """Give a ULID in lower case: 48 bits of time, 80 bits of randomness, sorted by time as text.

    `time_ms` is milliseconds since 1970, `random` has `ULID_RANDOM_BYTES` bytes.
    """
    if not 0 <= time_ms <= _ULID_TIME_MAX_MS:
        raise ValueError(f"time_ms {time_ms} does not fit into 48 bits")
    if len(random) != ULID_RANDOM_BYTES:
        raise ValueError(f"a ULID has {ULID_RANDOM_BYTES} random bytes, not {len(random)}")
    number = time_ms << 80 | int.from_bytes(random)
    digits = base64.b32encode((number << _PADDING_BITS).to_bytes(_PADDED_BYTES))
    return digits[:_ULID_LENGTH].translate(_DIGITS).decode("ascii")


def mint_id(kind: Kind, time_ns: int, random: bytes) -> str:
    """Give a new id of a kind, such as `agt-01k9f3v0q2x7c4m8n5r1s6t9ab`."""
    return f"{kind.id_prefix}-{ulid(time_ns // 1_000_000, random)}"


def slug_of(name: str, slug: str = "") -> str:
    """Give the slug of a resource: its own where it has one, else one made from its name.

    From the name: lower case, spaces to "-", everything outside a-z, 0-9 and "-" dropped, runs of "-" folded,
    ends trimmed. Raises `InvalidArgument` where the name is empty, or nothing of it is left.
    """
    if not name.strip():
        raise InvalidArgument("metadata.name", "is missing: every resource has a name")
    if slug:
        return slug
    kept = re.sub(r"[^a-z0-9-]", "", name.lower().replace(" ", "-"))
    made = re.sub(r"-+", "-", kept).strip("-")
    if not made:
        raise InvalidArgument(
            "metadata.name",
            f"{names.shown(name)} leaves no slug: none of its characters is a-z, 0-9 or '-'",
            hint="give metadata.slug, or another name",
        )
    return made
