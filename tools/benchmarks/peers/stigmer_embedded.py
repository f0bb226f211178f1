"""Stigmer in the process itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Pair, ReadLog, expect, in_chunks

_KIND = "note"
_EXECUTION = "agent_execution"
_PER_COMMIT = 1_000


class StigmerEmbedded:
    """A store opened by this process."""

    durability = "fsync before the answer"
    is_blocking = True
    is_concurrent = True
    bulk_how = f"commits of {_PER_COMMIT:,}, one after another"
    replays_in_threads = True

    def __init__(self) -> None:
        self._store: Any = None

    def version(self) -> str:
        """Give the version of this checkout."""
        import stigmer

        return stigmer.__version__

    async def start(self, directory: Path) -> None:
        """Open a new store."""
        import stigmer

        self._store = stigmer.open(directory / "data")

    async def stop(self) -> None:
        """Close it."""
        if self._store is not None:
            self._store.close()

    async def check(self, events: int, keys: int, last: Pair) -> None:
        """Compare the last revision, the number of resources and the last value."""
        expect("last revision", self._store.status().revision, events)
        expect("resources", self._store.count().get(_KIND, 0), keys)
        expect(f"value of {last[0]}", self._store.get(_KIND, last[0]).value, last[1])

    def save(self, key: str, value: bytes) -> None:
        """Save one."""
        self._store.save(_KIND, key, value)

    def save_bulk(self, pairs: Sequence[Pair]) -> None:
        """Make commits of many events."""
        from stigmer import Save

        for chunk in in_chunks(pairs, _PER_COMMIT):
            self._store.commit([Save(_KIND, key, value) for key, value in chunk])

    def get(self, key: str) -> bytes:
        """Read one."""
        return self._store.get(_KIND, key).value  # type: ignore[no-any-return]

    def list_all(self) -> int:
        """Read all resources."""
        return len(self._store.list(_KIND))

    def read_log(self) -> ReadLog:
        """Read all events."""
        events = value_bytes = 0
        for event in self._store.tail(follow=False):
            events += 1
            value_bytes += len(event.value)
        return ReadLog(events, value_bytes)

    # --- recordings ---

    def prepare(self, message: bytes) -> bytes:
        """Take an update as it came."""
        return message

    def begin(self, executions: Sequence[str]) -> None:
        """Nothing to make ready: the first save of an execution makes it."""

    def update(self, execution: str, prepared: bytes) -> None:
        """Save what an execution sent."""
        self._store.save(_EXECUTION, execution, prepared)

    def check_execution(self, execution: str, message: bytes) -> None:
        """Compare what is kept of an execution with the last thing it sent."""
        expect(f"value of {execution}", self._store.get(_EXECUTION, execution).value, message)

    def log_bytes(self) -> int:
        """Give the size of the log on disk."""
        return self._store.status().log_bytes  # type: ignore[no-any-return]


PEER = StigmerEmbedded
