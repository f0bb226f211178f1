"""NATS JetStream: one stream on files, a subject for each key, by the asyncio client `nats-py`."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Pair, ReadLog, ServerProcess, Version, expect, free_port, in_chunks

_STREAM = "notes"
_SUBJECT = "note."
_PENDING_MAX = 1_000


class JetStream:
    """A server with one stream, which keeps every message, synced before the answer or every two minutes."""

    is_blocking = False
    is_concurrent = True
    bulk_how = f"`publish_async`, {_PENDING_MAX:,} pending"

    def __init__(self, always: bool) -> None:
        self.durability = "fsync before the answer (`sync_interval: always`)" if always else "synced every 2 minutes"
        self._always = always
        self._server: ServerProcess | None = None
        self._connection: Any = None
        self._stream: Any = None
        self._command = Path(sys.executable).parent / "nats-server"

    def version(self) -> str:
        """Give the version of the server."""
        return Version.of(str(self._command), "--version").word(-1)

    async def start(self, directory: Path) -> None:
        """Start the server, connect, and make the stream."""
        import nats

        port = free_port()
        settings = [f"store_dir: {str(directory / 'data')!r}"] + (["sync_interval: always"] if self._always else [])
        configuration = directory / "nats.conf"
        configuration.write_text(f"listen: 127.0.0.1:{port}\njetstream {{\n" + "\n".join(settings) + "\n}\n")
        self._server = ServerProcess([self._command, "--config", configuration], directory)
        await self._server.until_listening(port)
        self._connection = await nats.connect(f"nats://127.0.0.1:{port}")
        self._stream = self._connection.jetstream(publish_async_max_pending=_PENDING_MAX, timeout=60)
        await self._stream.add_stream(name=_STREAM, subjects=[_SUBJECT + ">"], storage="file", allow_direct=True)

    async def stop(self) -> None:
        """Disconnect and stop the server."""
        if self._connection is not None:
            await self._connection.close()
        if self._server is not None:
            self._server.stop()

    async def check(self, events: int, keys: int, last: Pair) -> None:
        """Compare the number of messages, that of subjects, and the last value."""
        state = (await self._stream.stream_info(_STREAM, subjects_filter=">")).state
        expect("messages", state.messages, events)
        expect("subjects", len(state.subjects), keys)
        expect(f"value of {last[0]}", await self.get(last[0]), last[1])

    async def save(self, key: str, value: bytes) -> None:
        """Publish one message and wait until the stream has it."""
        await self._stream.publish(_SUBJECT + key, value)

    async def save_bulk(self, pairs: Sequence[Pair]) -> None:
        """Publish without waiting for each answer."""
        answers: list[Any] = []
        for chunk in in_chunks(pairs, _PENDING_MAX):
            answers += [await self._stream.publish_async(_SUBJECT + key, value) for key, value in chunk]
        for answer in answers:
            await answer

    async def get(self, key: str) -> bytes:
        """Read the last message of a subject."""
        message = await self._stream.get_last_msg(_STREAM, _SUBJECT + key, direct=True)
        return message.data  # type: ignore[no-any-return]

    async def read_log(self) -> ReadLog:
        """Read all messages with an ordered consumer."""
        expected = (await self._stream.stream_info(_STREAM)).state.messages
        found = value_bytes = 0
        all_here = asyncio.Event()

        async def count(message: Any) -> None:
            nonlocal found, value_bytes
            found += 1
            value_bytes += len(message.data)
            if found == expected:
                all_here.set()

        subscription = await self._stream.subscribe(_SUBJECT + ">", cb=count, ordered_consumer=True)
        await all_here.wait()
        await subscription.unsubscribe()
        return ReadLog(found, value_bytes)

    async def tails(self, count: int, arrived: Callable[[int, bytes], None]) -> None:
        """Start so many ordered consumers of new messages."""

        async def take(tail: int, message: Any) -> None:
            arrived(tail, message.data)

        for tail in range(count):
            take_of_tail = functools.partial(take, tail)
            await self._stream.subscribe(_SUBJECT + ">", cb=take_of_tail, ordered_consumer=True, deliver_policy="new")


PEER = JetStream
