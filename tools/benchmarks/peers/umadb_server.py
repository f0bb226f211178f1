"""UmaDB: an event store with a server in Rust. Its client in Python is a blocking one, called from threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Pair, ServerProcess, Version, expect, free_port, in_chunks

_PER_APPEND = 1_000
_TYPE = "note"


class UmaDb:
    """The server of the package `umadb`, with its defaults. A key is a tag of the event."""

    durability = "fsync before the answer"
    is_blocking = True
    is_concurrent = True
    bulk_how = f"{_PER_APPEND:,} an append, one after another"

    def __init__(self) -> None:
        self._server: ServerProcess | None = None
        self._client: Any = None
        self._module: Any = None
        self._command = Path(sys.executable).parent / "umadb"

    def version(self) -> str:
        """Give the version of the server."""
        return Version.of(str(self._command), "--version").word(-1)

    async def start(self, directory: Path) -> None:
        """Start the server and connect."""
        import umadb

        self._module = umadb
        port = free_port()
        command = [self._command, "--listen", f"127.0.0.1:{port}", "--db-path", directory / "uma.db"]
        self._server = ServerProcess(command, directory)
        await self._server.until_listening(port)
        self._client = umadb.Client(f"http://127.0.0.1:{port}")

    async def stop(self) -> None:
        """Disconnect and stop the server."""
        if self._client is not None:
            self._client.close()
        if self._server is not None:
            self._server.stop()

    async def check(self, events: int, keys: int, last: Pair) -> None:
        """Compare the last position, and the last event."""
        expect("last position", self._client.head(), events)
        (found,) = list(self._client.read(backwards=True, limit=1, query=self._query(last[0])))
        expect(f"value of {last[0]}", found.event.data, last[1])

    def save(self, key: str, value: bytes) -> None:
        """Append one event."""
        self._client.append([self._module.Event(_TYPE, value, [key])])

    def save_bulk(self, pairs: Sequence[Pair]) -> None:
        """Make appends of many events."""
        make = self._module.Event
        for chunk in in_chunks(pairs, _PER_APPEND):
            self._client.append([make(_TYPE, value, [key]) for key, value in chunk])

    def read_log(self) -> int:
        """Read all events, batch by batch."""
        events = 0
        response = self._client.read()
        while batch := response.next_batch():
            events += len(batch)
        return events

    async def tails(self, count: int, arrived: Callable[[bytes], None]) -> None:
        """Subscribe so many times; each has a thread, which ends with the client."""
        head = self._client.head()

        def follow(subscription: Any) -> None:
            try:
                for found in subscription:
                    arrived(found.event.data)
            except self._module.CancelledByUserError:
                pass

        for _ in range(count):
            threading.Thread(target=follow, args=(self._client.subscribe(after=head),), daemon=True).start()

    def _query(self, key: str) -> Any:
        return self._module.Query([self._module.QueryItem(tags=[key])])


PEER = UmaDb
