"""BadgerDB, in a Go program of its own that runs the loops: there is no Python in the way, which is to its advantage.

The program is built once, by `tools/bench peers`, into the folder of the peers' environment; the variable
`STIGMER_BENCH_BADGER` names it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import IO

from benchmarks.peers.peer import PeerFailed

SOURCE = Path(__file__).parent / "badger_go"
PROGRAM_VARIABLE = "STIGMER_BENCH_BADGER"
_MODULE = "github.com/dgraph-io/badger/v4"


class Badger:
    """A database with `SyncWrites`."""

    durability = "fsync before the answer (`SyncWrites`)"
    is_blocking = True
    is_concurrent = True
    loops = ("save", "save_bulk", "get", "list_all")
    bulk_how = "`WriteBatch`"

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def version(self) -> str:
        """Give the version of the module."""
        for line in (SOURCE / "go.mod").read_text().splitlines():
            if _MODULE in line:
                return line.split()[-1].removeprefix("v")
        raise PeerFailed(f"go.mod does not name {_MODULE}")

    async def start(self, directory: Path) -> None:
        """Start the program with an empty database."""
        command = [os.environ[PROGRAM_VARIABLE], str(directory / "data")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    async def stop(self) -> None:
        """Let the program end: it closes the database when nothing more is asked."""
        if self._process is not None:
            self._stream(self._process.stdin).close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    async def check(self, events: int, keys: int, last: tuple[str, bytes]) -> None:
        """Nothing: the program compares keys and the last value after each work."""

    def timed_saves(self, warming: int, count: int, in_flight: int, value_bytes: int) -> float:
        """Time saves, a transaction each."""
        return self._timed("saves", warming, count, in_flight, value_bytes)

    def timed_bulk(self, warming: int, count: int, value_bytes: int) -> float:
        """Time one batch of many saves."""
        return self._timed("bulk", warming, count, 1, value_bytes)

    def timed_gets(self, keys: int, count: int, in_flight: int, value_bytes: int) -> float:
        """Time reads of single keys."""
        return self._timed("gets", keys, count, in_flight, value_bytes)

    def timed_list(self, keys: int, count: int, value_bytes: int) -> float:
        """Time reads of all keys."""
        return self._timed("list", keys, count, 1, value_bytes)

    def _timed(self, work: str, warming: int, count: int, in_flight: int, value_bytes: int) -> float:
        assert self._process is not None
        asked = {"work": work, "warming": warming, "count": count, "in_flight": in_flight, "value_bytes": value_bytes}
        questions = self._stream(self._process.stdin)
        questions.write(json.dumps(asked) + "\n")
        questions.flush()
        line = self._stream(self._process.stdout).readline()
        if not line:
            raise PeerFailed("the program around BadgerDB ended without an answer")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerFailed(f"BadgerDB: {answer['error']}")
        return float(answer["seconds"])

    @staticmethod
    def _stream(stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream


PEER = Badger
