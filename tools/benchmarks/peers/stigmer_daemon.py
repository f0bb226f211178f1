"""Stigmer through its daemon, on TCP, by the asyncio client."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Pair, ReadLog, ServerProcess, expect, free_port, in_chunks

KIND = "note"
_PER_COMMIT = 1_000


class StigmerDaemon:
    """A daemon of this checkout."""

    durability = "fsync before the answer"
    is_blocking = False
    is_concurrent = True
    bulk_how = f"`client.writer()`, {_PER_COMMIT:,} events a commit"

    def __init__(self) -> None:
        self._server: ServerProcess | None = None
        self._client: Any = None
        self._tails: list[asyncio.Task[None]] = []
        self._unary: Any = None

    def version(self) -> str:
        """Give the version of this checkout."""
        import stigmer

        return stigmer.__version__

    async def start(self, directory: Path) -> None:
        """Start a daemon and connect."""
        import stigmer.aio

        port = free_port()
        self.address = f"127.0.0.1:{port}"
        command = [sys.executable, "-m", "stigmer", "daemon", "--listen", self.address]
        self._server = ServerProcess(command, directory, STIGMER_DATA_DIR=str(directory / "data"))
        await self._server.until_listening(port)
        self._client = await stigmer.aio.connect(self.address, timeout=120, wait_for_ready=True)

    async def stop(self) -> None:
        """Disconnect and stop the daemon."""
        for task in self._tails:
            task.cancel()
        await asyncio.gather(*self._tails, return_exceptions=True)
        if self._unary is not None:
            await self._unary.close()
        if self._client is not None:
            await self._client.close()
        if self._server is not None:
            self._server.stop()

    async def check(self, events: int, keys: int, last: Pair) -> None:
        """Compare the last revision, the number of resources and the last value."""
        expect("last revision", (await self._client.status()).revision, events)
        expect("resources", (await self._client.count()).get(KIND, 0), keys)
        expect(f"value of {last[0]}", (await self._client.get(KIND, last[0])).value, last[1])

    async def save(self, key: str, value: bytes) -> None:
        """Save one."""
        await self._client.save(KIND, key, value)

    async def save_bulk(self, pairs: Sequence[Pair]) -> None:
        """Send commits of many events, without waiting for each answer."""
        from stigmer import Save

        async with self._client.writer() as writer:
            for chunk in in_chunks(pairs, _PER_COMMIT):
                await writer.commit([Save(KIND, key, value) for key, value in chunk])

    async def get(self, key: str) -> bytes:
        """Read one."""
        resource = await self._client.get(KIND, key)
        return resource.value  # type: ignore[no-any-return]

    async def list_all(self) -> int:
        """Read all resources."""
        return len(await self._client.list(KIND))

    async def read_log(self) -> ReadLog:
        """Read all events."""
        events = value_bytes = 0
        async for event in self._client.tail(follow=False):
            events += 1
            value_bytes += len(event.value)
        return ReadLog(events, value_bytes)

    async def tails(self, count: int, arrived: Callable[[int, bytes], None]) -> None:
        """Follow the log so many times."""

        after = (await self._client.status()).revision

        async def follow(tail: int) -> None:
            async for event in self._client.tail(after=after):
                arrived(tail, event.value)

        self._tails = [asyncio.create_task(follow(tail)) for tail in range(count)]

    # --- calls as any gRPC client makes them, without the batching of stigmer's own ---

    async def unary_requests(self, pairs: Sequence[Pair], value_bytes: int) -> None:
        """Serialize the requests, and open a channel of their own."""
        from benchmarks.peers.unary import Unary

        self._unary = Unary(self.address, KIND, pairs)

    async def unary_save(self, key: str, value: bytes) -> None:
        """Save one, in a call of its own."""
        await self._unary.save(key)

    async def unary_get(self, key: str) -> bytes:
        """Read one, in a call of its own; gives the serialized answer."""
        return await self._unary.get(key)  # type: ignore[no-any-return]


PEER = StigmerDaemon
