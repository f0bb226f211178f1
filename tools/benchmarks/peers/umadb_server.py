"""UmaDB: an event store with a server in Rust. Its client in Python is a blocking one, called from threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Pair, ReadLog, ServerProcess, Version, expect, free_port, in_chunks

_PER_APPEND = 1_000
_APPENDS_IN_FLIGHT = 4
_PER_READ = 1_000
_TYPE = "note"


class UmaDb:
    """The server of the package `umadb`, with its defaults.

    A key is a tag of the event, by which its events can be found; without tags it is quicker, and keeps a bare log.
    """

    durability = "fsync before the answer"
    is_blocking = True
    is_concurrent = True
    bulk_how = f"{_PER_APPEND:,} an append, {_APPENDS_IN_FLIGHT} in flight"

    def __init__(self, has_tags: bool) -> None:
        self._has_tags = has_tags
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
        command: list[str | Path] = [self._command, "--listen", f"127.0.0.1:{port}", "--db-path", directory / "uma.db"]
        self._server = ServerProcess(command, directory)
        await self._server.until_listening(port)
        self._client = umadb.Client(f"http://127.0.0.1:{port}", batch_size=_PER_READ)

    async def stop(self) -> None:
        """Disconnect and stop the server."""
        if self._client is not None:
            self._client.close()
        if self._server is not None:
            self._server.stop()

    async def check(self, events: int, keys: int, last: Pair) -> None:
        """Compare the last position, and the last event."""
        expect("last position", self._client.head(), events)
        # Appends in flight may overtake each other.
        behind = self._client.read(query=self._query(last[0]), backwards=True, limit=_APPENDS_IN_FLIGHT * _PER_APPEND)
        expect(f"{last[0]} is there", last[1] in [found.event.data for found in behind], True)

    def save(self, key: str, value: bytes) -> None:
        """Append one event."""
        self._client.append([self._event((key, value))])

    def save_bulk(self, pairs: Sequence[Pair]) -> None:
        """Make appends of many events."""
        chunks = iter(in_chunks(pairs, _PER_APPEND))
        lock = threading.Lock()

        def append() -> None:
            while True:
                with lock:
                    chunk = next(chunks, None)
                if chunk is None:
                    return
                self._client.append([self._event(pair) for pair in chunk])

        with ThreadPoolExecutor(_APPENDS_IN_FLIGHT) as threads:
            for done in [threads.submit(append) for _ in range(_APPENDS_IN_FLIGHT)]:
                done.result()

    def read_log(self) -> ReadLog:
        """Read all events, batch by batch."""
        events = value_bytes = 0
        response = self._client.read()
        while batch := response.next_batch():
            for found in batch:
                events += 1
                value_bytes += len(found.event.data)
        return ReadLog(events, value_bytes)

    async def tails(self, count: int, arrived: Callable[[int, bytes], None]) -> None:
        """Subscribe so many times; each has a thread, which ends with the client."""
        head = self._client.head()

        def follow(tail: int, subscription: Any) -> None:
            try:
                for found in subscription:
                    arrived(tail, found.event.data)
            except self._module.CancelledByUserError:
                pass

        for tail in range(count):
            subscription = self._client.subscribe(after=head)
            threading.Thread(target=follow, args=(tail, subscription), daemon=True).start()

    def _event(self, pair: Pair) -> Any:
        return self._module.Event(_TYPE, pair[1], [pair[0]] if self._has_tags else None)

    def _query(self, key: str) -> Any:
        if not self._has_tags:
            return None
        return self._module.Query([self._module.QueryItem(tags=[key])])


PEER = UmaDb
