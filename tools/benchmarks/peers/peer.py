"""What a peer is; the values that go into it; and a server as a process of its own on a free port."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

KEYS = 10_000
"""Values are saved under this many keys, one after the other."""

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 2.0
"""Its directory is thrown away, so a server that is slow to end, as UmaDB is, need not end well."""

Pair = tuple[str, bytes]


class PeerFailed(Exception):
    """A peer did not start, or did not do what it was asked to; the message says which."""


class Peer(Protocol):
    """A store under measurement. A peer has those of the methods below `check` that it can do; the rest are absent.

    Each is a coroutine, or, where `is_blocking`, a plain function that the works call from threads.
    """

    durability: str
    """When it acknowledges, in a few words."""
    is_blocking: bool
    is_concurrent: bool
    """Whether it takes several saves at a time from one client process."""

    def version(self) -> str:
        """Give the version of the server, or of the library that is the store. Called after `start`."""
        ...

    async def start(self, directory: Path) -> None:
        """Start a fresh server with its data in this directory, and connect to it."""
        ...

    async def stop(self) -> None:
        """Disconnect, and end the server if it was started. Called also after a `start` that failed."""
        ...

    async def check(self, events: int, keys: int, last: Pair) -> None:
        """Raise `PeerFailed` unless the store has this many events, or keys, and the last value saved."""
        ...

    # save(key, value): one durable save.
    # save_bulk(pairs): very many saves, in the quickest way; `bulk_how` says in a few words which that is.
    # get(key) -> bytes: read one value.
    # list_all() -> int: read every key and value in one go; gives how many.
    # read_log() -> ReadLog: read every event and its value from the first to the last, in order.
    # tails(count, arrived): start followers of new events; `arrived(tail, value)` is called with each value each gets.
    # unary_save(key, value), unary_get(key): a call of its own each, prepared by unary_requests(pairs, value_bytes).
    # prepare(message), update(execution, prepared): one update of a recording; see `works.replay`.
    # timed_saves(...), timed_gets(...): where the store has no client in Python and runs the loops itself.


class ReadLog(NamedTuple):
    """What a reader of the whole log had in its hands."""

    events: int
    value_bytes: int


def pairs_of(count: int, value_bytes: int, first: int = 0) -> list[Pair]:
    """Make saves numbered from `first`: random bytes, behind the number that `number_of` finds."""
    source = random.Random(first)
    return [
        (key_of(number), number.to_bytes(8, "big") + source.randbytes(value_bytes - 8))
        for number in range(first, first + count)
    ]


def key_of(number: int) -> str:
    """Give the key that save number `number` is saved under."""
    return f"n{number % KEYS:08d}"


def number_of(value: bytes) -> int:
    """Give the number of the save that made a value."""
    return int.from_bytes(value[:8], "big")


def expect(what: str, found: object, expected: object) -> None:
    """Raise `PeerFailed` where something is not what it must be after the work."""
    if found != expected:
        raise PeerFailed(f"{what}: {_shown(found)}, expected {_shown(expected)}; the peer lost or changed work")


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes {value[:12].hex()}..."
    return str(value)


def in_chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Cut a sequence into pieces of this size."""
    return [items[start : start + size] for start in range(0, len(items), size)]


async def shared_out(chunks: Sequence[Any], workers: int, do: Callable[[Any], Any]) -> None:
    """Do something asynchronous with each chunk, so many at a time."""
    rest = iter(chunks)

    async def work() -> None:
        for chunk in rest:
            await do(chunk)

    await asyncio.gather(*(work() for _ in range(workers)))


def free_port() -> int:
    """Give a port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Version(NamedTuple):
    """What a command says about its version."""

    text: str

    @classmethod
    def of(cls, *command: str) -> Version:
        """Run a command and keep the first line it prints."""
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return cls((done.stdout or done.stderr).splitlines()[0])

    def word(self, place: int) -> str:
        """Give one word of it."""
        return self.text.split()[place].removeprefix("v").removesuffix(",")


class ServerProcess:
    """A server that this process started. It writes to a file in its directory, and is ended by its process id."""

    def __init__(self, command: Sequence[str | Path], directory: Path, **environ: str) -> None:
        """Start it; `directory` is there already."""
        self._log = directory / "server.out"
        self._name = Path(command[0]).name
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, **environ},
            )

    async def until_listening(self, port: int) -> None:
        """Wait until it accepts connections. Raises `PeerFailed` where it ends before, or never does."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            if self._process.poll() is not None:
                raise PeerFailed(f"{self._name} ended with code {self._process.returncode}: {self._last_words()}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                if time.monotonic() > deadline:
                    raise PeerFailed(f"{self._name} does not listen: {self._last_words()}") from None
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return

    def stop(self) -> None:
        """End it, with force where it does not end by itself."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-500:].strip() or "it printed nothing"
