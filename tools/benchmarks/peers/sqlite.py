"""SQLite in the process itself, one table, one transaction for each save.

A value is kept as a BLOB as it came, or, for recordings, as protobuf's JSON in a TEXT column. There is one writer:
SQLite has one at a time, and ten connections that wait for each other were no quicker than one that takes the updates
as they come.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Pair, expect, in_chunks

_PER_TRANSACTION = 1_000
_SAVE = "INSERT INTO resources VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET value = excluded.value"


class Sqlite:
    """A database in WAL mode with BLOB or JSON values and synchronous FULL or NORMAL."""

    is_blocking = True
    is_concurrent = False
    bulk_how = f"{_PER_TRANSACTION:,} a transaction"
    replays_in_threads = False

    def __init__(self, column: str, synchronous: str) -> None:
        self._column = column
        self._synchronous = synchronous
        self.durability = (
            "fsync before the answer" if synchronous == "FULL" else "not on disk until the next checkpoint"
        )
        self._database: sqlite3.Connection | None = None

    def version(self) -> str:
        """Give the version of the library."""
        return sqlite3.sqlite_version

    async def start(self, directory: Path) -> None:
        """Make the database."""
        kind = "BLOB" if self._column == "BLOB" else "TEXT"
        self._database = sqlite3.connect(directory / "peers.sqlite", isolation_level=None, check_same_thread=False)
        self._run("PRAGMA journal_mode = WAL")
        self._run(f"PRAGMA synchronous = {self._synchronous}")
        self._run(f"CREATE TABLE resources (id TEXT PRIMARY KEY, value {kind} NOT NULL)")

    async def stop(self) -> None:
        """Close it."""
        if self._database is not None:
            self._database.close()

    async def check(self, events: int, keys: int, last: Pair) -> None:
        """Compare the number of rows and the last value."""
        expect("rows", self._one("SELECT count(*) FROM resources"), keys)
        expect(f"value of {last[0]}", self.get(last[0]), last[1])

    def save(self, key: str, value: bytes) -> None:
        """Save one, in a transaction of its own."""
        self._run(_SAVE, (key, value))

    def save_bulk(self, pairs: Sequence[Pair]) -> None:
        """Make transactions of many saves."""
        assert self._database is not None
        for chunk in in_chunks(pairs, _PER_TRANSACTION):
            self._run("BEGIN IMMEDIATE")
            self._database.executemany(_SAVE, chunk)
            self._run("COMMIT")

    def get(self, key: str) -> bytes:
        """Read one."""
        return self._one("SELECT value FROM resources WHERE id = ?", (key,))  # type: ignore[no-any-return]

    def list_all(self) -> int:
        """Read all rows, in the order of their keys."""
        assert self._database is not None
        return len(self._database.execute("SELECT id, value FROM resources ORDER BY id").fetchall())

    # --- recordings ---

    def prepare(self, message: bytes) -> Any:
        """Take an update as it came, or parse it: a store of JSON gets messages, so parsing is no part of its work."""
        if self._column == "BLOB":
            return message
        from stigmer.pb.agentic.agentexecution_pb2 import AgentExecutionUpdateStatusInput

        return AgentExecutionUpdateStatusInput.FromString(message)

    def begin(self, executions: Sequence[str]) -> None:
        """Make the rows that are updated."""
        for execution in executions:
            self._run(_SAVE, (execution, b"" if self._column == "BLOB" else "{}"))

    def update(self, execution: str, prepared: Any) -> None:
        """Save what an execution sent, in a transaction of its own."""
        if self._column == "JSON":
            from google.protobuf.json_format import MessageToJson

            prepared = MessageToJson(prepared, indent=None)
        self._run("UPDATE resources SET value = ? WHERE id = ?", (prepared, execution))

    def check_execution(self, execution: str, message: bytes) -> None:
        """Compare what is kept of an execution with the last thing it sent."""
        kept = self._one("SELECT value FROM resources WHERE id = ?", (execution,))
        if self._column == "JSON":
            from google.protobuf.json_format import Parse

            last = self.prepare(message)
            expect(f"value of {execution}", Parse(kept, type(last)()) == last, True)
        else:
            expect(f"value of {execution}", kept, message)

    def _run(self, statement: str, values: Sequence[Any] = ()) -> None:
        assert self._database is not None
        self._database.execute(statement, values)

    def _one(self, statement: str, values: Sequence[Any] = ()) -> Any:
        assert self._database is not None
        return self._database.execute(statement, values).fetchone()[0]


PEER = Sqlite
