"""Page tokens: the place where a list goes on, as a text that only the store that gave it out takes back.

    token = base64url(CRC-32C of the rest, first 4 bytes of the store id, place)

What a place is, each list says for itself. One that begins with a NUL is not that of a list in the order of ids.
"""

from __future__ import annotations

import base64
import binascii

from stigmer.errors import InvalidArgument
from stigmer.log.format import crc32c

_CRC_BYTES = 4
_STORE_BYTES = 4


def token_of(store_id: str, place: bytes) -> str:
    """Give the token of a place in a list of the store with this id (32 hex digits)."""
    body = _store(store_id) + place
    return base64.urlsafe_b64encode(crc32c(0, body).to_bytes(_CRC_BYTES, "little") + body).decode()


def place_in(store_id: str, page_token: str) -> bytes:
    """Give the place that a token stands for. Raises `InvalidArgument` where this store did not give it out."""
    try:
        data = base64.b64decode(page_token.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise InvalidArgument("page_token", "is not one that this store gave out") from error
    body = data[_CRC_BYTES:]
    if len(body) < _STORE_BYTES or crc32c(0, body) != int.from_bytes(data[:_CRC_BYTES], "little"):
        raise InvalidArgument("page_token", "is not one that this store gave out")
    if body[:_STORE_BYTES] != _store(store_id):
        raise InvalidArgument("page_token", "is from another store")
    place = body[_STORE_BYTES:]
    if token_of(store_id, place) != page_token:
        # There are other ways to write the same bytes in base64, and no place has two tokens.
        raise InvalidArgument("page_token", "is not one that this store gave out")
    return place


def _store(store_id: str) -> bytes:
    return bytes.fromhex(store_id)[:_STORE_BYTES]
