"""Saves and gets as unary calls of a plain `grpc.aio` channel, without what stigmer's client does to make them quick.

The same client, and the same bytes, for stigmer and for a server that does nothing. Does not parse the answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc.aio

from benchmarks.peers.peer import Pair
from stigmer.pb import store_pb2

SAVE = "/stigmer.store.v1.Store/Save"
GET = "/stigmer.store.v1.Store/Get"


class Unary:
    """A channel, and the serialized requests by key."""

    def __init__(self, address: str, kind: str, pairs: Sequence[Pair]) -> None:
        """Serialize a Save and a Get for each pair; no key may come twice."""
        self._channel = grpc.aio.insecure_channel(address)
        self._save = self._channel.unary_unary(SAVE)
        self._get = self._channel.unary_unary(GET)
        self._saves = {
            key: store_pb2.SaveRequest(kind=kind, id=key, value=value, request_id=f"request-{key}").SerializeToString()
            for key, value in pairs
        }
        self._gets = {key: store_pb2.GetRequest(kind=kind, id=key).SerializeToString() for key, _ in pairs}

    async def save(self, key: str) -> bytes:
        """Make the Save of a key; gives the serialized answer."""
        return await self._save(self._saves[key])  # type: ignore[no-any-return]

    async def get(self, key: str) -> bytes:
        """Make the Get of a key; gives the serialized answer."""
        return await self._get(self._gets[key])  # type: ignore[no-any-return]

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close()
