"""Redis with an append-only file that is synced before each answer, by its own asyncio client with `hiredis`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Pair, ServerProcess, Version, expect, free_port, in_chunks, shared_out

_PER_TRANSACTION = 100
_TRANSACTIONS_IN_FLIGHT = 16


class Redis:
    """A server with `appendfsync always`."""

    durability = "fsync before the answer (`appendfsync always`)"
    is_blocking = False
    is_concurrent = True
    bulk_how = f"{_PER_TRANSACTION} a MULTI, {_TRANSACTIONS_IN_FLIGHT} in flight"

    def __init__(self) -> None:
        self._server: ServerProcess | None = None
        self._client: Any = None

    def version(self) -> str:
        """Give the version of the server."""
        return Version.of("redis-server", "--version").word(2).removeprefix("=")

    async def start(self, directory: Path) -> None:
        """Start the server and connect."""
        import redis.asyncio

        port = free_port()
        command: list[str | Path] = [
            "redis-server",
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--daemonize", "no"),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        ]
        self._server = ServerProcess(command, directory)
        await self._server.until_listening(port)
        self._client = redis.asyncio.Redis(host="127.0.0.1", port=port)

    async def stop(self) -> None:
        """Disconnect and stop the server."""
        if self._client is not None:
            await self._client.aclose()
        if self._server is not None:
            self._server.stop()

    async def check(self, events: int, keys: int, last: Pair) -> None:
        """Compare the number of keys, that of the commands, and the last value."""
        expect("keys", await self._client.dbsize(), keys)
        stats = await self._client.info("commandstats")
        expect("saves", stats["cmdstat_set"]["calls"], events)
        expect(f"value of {last[0]}", await self.get(last[0]), last[1])

    async def save(self, key: str, value: bytes) -> None:
        """Set one key."""
        await self._client.set(key, value)

    async def save_bulk(self, pairs: Sequence[Pair]) -> None:
        """Make transactions of many sets, some of them at a time."""

        async def commit(chunk: Sequence[Pair]) -> None:
            async with self._client.pipeline(transaction=True) as pipeline:
                for key, value in chunk:
                    pipeline.set(key, value)
                await pipeline.execute()

        await shared_out(in_chunks(pairs, _PER_TRANSACTION), _TRANSACTIONS_IN_FLIGHT, commit)

    async def get(self, key: str) -> bytes:
        """Read one key."""
        return await self._client.get(key)  # type: ignore[no-any-return]


PEER = Redis
