"""A `grpc.aio` server on uvloop that does nothing: what a call costs before there is a store behind it.

Its answers have the sizes of stigmer's. As a program, `python -m benchmarks.peers.floor PORT`, it is that server.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Pair, ServerProcess, expect, free_port

_SAVED_BYTES = 24
"""About what stigmer answers to a Save: two revisions, a time."""
_ROW_BYTES_MORE = 50
"""About what stigmer's answer to a Get has beside the value: kind, id, revision, times."""


class Floor:
    """The server that does nothing, and a client that makes unary calls."""

    durability = "nothing is kept"
    is_blocking = False
    is_concurrent = True

    def __init__(self) -> None:
        self._server: ServerProcess | None = None
        self._unary: Any = None

    def version(self) -> str:
        """Give the version of gRPC."""
        import grpc

        return f"grpcio {grpc.__version__}"

    async def start(self, directory: Path) -> None:
        """Start the server."""
        self._port = free_port()
        command = [sys.executable, "-m", "benchmarks.peers.floor", str(self._port)]
        self._server = ServerProcess(command, directory)
        await self._server.until_listening(self._port)

    async def stop(self) -> None:
        """Stop it."""
        if self._unary is not None:
            await self._unary.close()
        if self._server is not None:
            self._server.stop()

    async def check(self, events: int, keys: int, last: Pair) -> None:
        """Only look at the sizes of the answers: it keeps nothing."""
        expect("bytes of an answer", len(await self._unary.save(last[0])), _SAVED_BYTES)

    async def unary_requests(self, pairs: Sequence[Pair], value_bytes: int) -> None:
        """Serialize the requests, and open a channel."""
        from benchmarks.peers.unary import Unary

        self._unary = Unary(f"127.0.0.1:{self._port}", "note", pairs)

    async def unary_save(self, key: str, value: bytes) -> None:
        """Make one call."""
        await self._unary.save(key)

    async def unary_get(self, key: str) -> bytes:
        """Make one call."""
        return await self._unary.get(key)  # type: ignore[no-any-return]


PEER = Floor


async def _serve(port: int) -> None:
    import grpc.aio

    from benchmarks.peers.unary import GET, SAVE

    saved, row = bytes(_SAVED_BYTES), bytes(300 + _ROW_BYTES_MORE)

    async def save(request: bytes, context: object) -> bytes:
        return saved

    async def get(request: bytes, context: object) -> bytes:
        return row

    service, _, save_name = SAVE.lstrip("/").partition("/")
    methods = {save_name: save, GET.rpartition("/")[2]: get}
    handlers: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(None)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(int(sys.argv[1])))
