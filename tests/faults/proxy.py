"""A bad network: what goes through it is delayed, goes in small pieces, and is cut off in the middle of a message."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

_PIECE_BYTES = 64 * 1024


class Proxy:
    """Listens on a port of its own and passes bytes on to a Unix socket, until it cuts every connection."""

    def __init__(self, upstream: Path, chance: random.Random, cuts: int) -> None:
        """Cut so many times, each time after some bytes; then `is_done` is set and nothing is cut any more."""
        self._upstream = upstream
        self._chance = chance
        self._cuts_left = cuts
        self._open: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.is_done = asyncio.Event()
        self._bytes_left = self._bytes_to_next()

    async def listen(self) -> str:
        """Begin to listen; give the address."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return f"127.0.0.1:{port}"

    def close(self) -> None:
        """Listen no more and cut what is open."""
        if self._server is not None:
            self._server.close()
        self._abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_reader, to_writer = await asyncio.open_unix_connection(str(self._upstream))
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, to_writer}
        pumps = [asyncio.create_task(self._pump(reader, to_writer)), asyncio.create_task(self._pump(to_reader, writer))]
        self._pumps.update(pumps)
        for pump in pumps:
            pump.add_done_callback(self._pumps.discard)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for one in (writer, to_writer):
            self._open.discard(one)
            one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(_PIECE_BYTES):
                if self._cuts_left and len(piece) >= self._bytes_left:
                    writer.write(piece[: self._bytes_left])
                    await writer.drain()
                    self._cut()
                    return
                self._bytes_left -= len(piece)
                if self._chance.random() < 0.05:
                    await asyncio.sleep(self._chance.uniform(0, 0.02))
                size = self._chance.choice((len(piece), len(piece), 1_000, 100))
                for begin in range(0, len(piece), max(size, 1)):
                    writer.write(piece[begin : begin + size])
                    await writer.drain()
        except OSError:
            pass

    def _cut(self) -> None:
        self._cuts_left -= 1
        self._bytes_left = self._bytes_to_next()
        self._abort()
        if not self._cuts_left:
            self.is_done.set()

    def _abort(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    def _bytes_to_next(self) -> int:
        return self._chance.choice((100, 2_000, 20_000)) + self._chance.randint(0, 5_000)
