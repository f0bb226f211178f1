"""etcd, one member, by the asyncio client `aetcd` (its generated stubs, which are its quickest way)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Pair, PeerFailed, ServerProcess, Version, expect, free_port, in_chunks, shared_out

_PER_TRANSACTION = 100
_TRANSACTIONS_IN_FLIGHT = 8
_PREFIX = b"note/"


class Etcd:
    """A cluster of one member, which syncs its log before it answers."""

    durability = "fsync before the answer"
    is_blocking = False
    is_concurrent = True
    bulk_how = f"{_PER_TRANSACTION} a transaction, {_TRANSACTIONS_IN_FLIGHT} in flight"

    def __init__(self) -> None:
        self._server: ServerProcess | None = None
        self._client: Any = None
        self._rpc: Any = None
        self._tails: list[asyncio.Task[None]] = []

    def version(self) -> str:
        """Give the version of the server."""
        return Version.of("etcd", "--version").word(-1)

    async def start(self, directory: Path) -> None:
        """Start the server and connect."""
        import aetcd.rpc

        self._rpc = aetcd.rpc
        port = free_port()
        clients, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"
        command: list[str | Path] = [
            "etcd",
            *("--name", "peer", "--data-dir", directory / "data", "--logger", "zap", "--log-level", "error"),
            *("--listen-client-urls", clients, "--advertise-client-urls", clients),
            *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
            *("--initial-cluster", f"peer={peers}"),
        ]
        self._server = ServerProcess(command, directory)
        await self._server.until_listening(port)
        options = {"grpc.max_receive_message_length": 64 * 2**20}
        self._client = aetcd.Client("127.0.0.1", port, options=options)
        await self._client.connect()
        await self._until_elected()

    async def _until_elected(self) -> None:
        for _ in range(200):
            try:
                await self._client.get(b"nothing")
                return
            except Exception:  # its own errors and gRPC's: whatever it says while there is no leader
                await asyncio.sleep(0.05)
        raise PeerFailed("etcd does not answer")

    async def stop(self) -> None:
        """Disconnect and stop the server."""
        for task in self._tails:
            task.cancel()
        await asyncio.gather(*self._tails, return_exceptions=True)
        if self._client is not None:
            await self._client.close()
        if self._server is not None:
            self._server.stop()

    async def check(self, events: int, keys: int, last: Pair) -> None:
        """Compare the number of keys, that of their versions, and the last value."""
        found = await self._range(_PREFIX, until=b"note0")
        expect("keys", len(found), keys)
        expect("saves", sum(row.version for row in found), events)
        expect(f"value of {last[0]}", await self.get(last[0]), last[1])

    async def save(self, key: str, value: bytes) -> None:
        """Put one key."""
        await self._client.kvstub.Put(self._rpc.PutRequest(key=_PREFIX + key.encode(), value=value))

    async def save_bulk(self, pairs: Sequence[Pair]) -> None:
        """Make transactions of many puts, some of them at a time."""
        rpc = self._rpc

        async def commit(chunk: Sequence[Pair]) -> None:
            puts = [
                rpc.RequestOp(request_put=rpc.PutRequest(key=_PREFIX + key.encode(), value=value))
                for key, value in chunk
            ]
            answer = await self._client.kvstub.Txn(rpc.TxnRequest(success=puts))
            expect("transaction", answer.succeeded, True)

        await shared_out(in_chunks(pairs, _PER_TRANSACTION), _TRANSACTIONS_IN_FLIGHT, commit)

    async def get(self, key: str) -> bytes:
        """Read one key."""
        (row,) = await self._range(_PREFIX + key.encode())
        return row.value  # type: ignore[no-any-return]

    async def list_all(self) -> int:
        """Read all keys in one range."""
        return len([(row.key, row.value) for row in await self._range(_PREFIX, until=b"note0")])

    async def tails(self, count: int, arrived: Callable[[int, bytes], None]) -> None:
        """Watch the prefix so many times."""

        async def follow(tail: int) -> None:
            async for event in await self._client.watch_prefix(_PREFIX):
                arrived(tail, event.kv.value)

        self._tails = [asyncio.create_task(follow(tail)) for tail in range(count)]

    async def _range(self, key: bytes, until: bytes = b"") -> Any:
        return (await self._client.kvstub.Range(self._rpc.RangeRequest(key=key, range_end=until))).kvs


PEER = Etcd
