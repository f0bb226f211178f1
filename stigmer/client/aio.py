"""The asyncio client: the methods of the embedded `Store`, as coroutines, answered by a daemon.

It belongs to the event loop on which it is first used. Errors are those of `stigmer.errors`, never gRPC's. A coroutine
that is cancelled stops waiting; a write that it made may be carried out all the same.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio

from stigmer import codec, config, wire
from stigmer.client import answers, attempts, requests
from stigmer.client.access import Access
from stigmer.client.attempts import Attempts
from stigmer.client.bulk import BulkWriter
from stigmer.client.gets import Gets
from stigmer.client.write_stream import WriteStream
from stigmer.config import Tls
from stigmer.errors import Closed, OutcomeUnknown, StigmerError
from stigmer.model import (
    Committed,
    Delete,
    Event,
    FoldReport,
    FrameInfo,
    Page,
    ProgressCallback,
    Resource,
    Revision,
    Save,
    SegmentInfo,
    Status,
    revisions_of,
)
from stigmer.pb import store_pb2

_T = TypeVar("_T")
# Inside the class, `list` is the method.
Resources = list[Resource]
FoundResources = list[Resource | None]
Revisions = list[Revision]


def connect(
    addr: str = config.ADDR_DEFAULT,
    timeout: float | None = 10.0,
    *,
    wait_for_ready: bool = False,
    token: str | None = None,
    tls: Tls | None = None,
) -> Client:
    """Make a client of the daemon at `HOST:PORT` or `unix:PATH`.

    It connects when it is awaited, entered (`async with`), or first used; that raises `Unavailable` at once where no
    daemon is there, or, with `wait_for_ready`, when none has come in the time of `timeout`.

    `timeout`, in seconds, bounds each call, with the attempts it takes while the daemon is restarted; None: no bound.
    `token` is what the daemon asks for, and `tls` turns TLS on; a Unix socket takes neither.
    """
    return Client(addr, timeout, wait_for_ready, token, tls)


class Client:
    """A connection to a daemon. Made by `connect`."""

    def __init__(
        self, addr: str, timeout: float | None, wait_for_ready: bool, token: str | None = None, tls: Tls | None = None
    ) -> None:
        requests.check_timeout(timeout)
        self._address = wire.parse_address(addr)
        self._access = Access(self._address, token, tls)
        self._timeout = timeout
        self._wait_for_ready = wait_for_ready
        self._request_ids = requests.RequestIds()
        self._closed = asyncio.Event()
        # Made by `_attach`, because a channel belongs to the loop that runs when it is made.
        self._channel: grpc.aio.Channel | None = None
        self._store: dict[str, Callable[..., Any]] = {}
        self._admin: dict[str, Callable[..., Any]] = {}
        self._attaching: asyncio.Task[None] | None = None
        self._store_id = ""
        self._writes = self._make_stream(config.WRITE_BYTES_MAX)
        self._streams = weakref.WeakSet([self._writes])
        self._gets = Gets(self._address, timeout, self._get_alone, self._begin_many)

    def _methods(self, channel: grpc.aio.Channel, service: str) -> dict[str, Callable[..., Any]]:
        methods: dict[str, Callable[..., Any]] = {}
        for name, method in wire.methods(service).items():
            made: Callable[..., Any]
            if method.takes_stream:
                made = channel.stream_stream(method.path)
            else:
                made = (channel.unary_stream if method.streams else channel.unary_unary)(method.path)
            methods[name] = self._access.with_token(made)
        return methods

    async def _attached(self) -> None:
        """Connect, where that has not been done; callers that come together do it once."""
        if self._store_id:
            return
        if self._closed.is_set():
            raise Closed("client")
        # One that is done has failed, and those who waited for it are told, or gone.
        if self._attaching is None or self._attaching.done():
            self._attaching = asyncio.create_task(self._attach())
            # Looked at, so that asyncio does not report what nobody waits for any more.
            self._attaching.add_done_callback(lambda task: task.cancelled() or task.exception())
        attaching = self._attaching
        try:
            # Shielded: one caller that is cancelled does not take the connection from the others.
            await asyncio.shield(attaching)
        finally:
            if attaching.done() and self._attaching is attaching:
                self._attaching = None

    async def _attach(self) -> None:
        if self._channel is None:
            self._channel = self._access.aio_channel()
            self._store = self._methods(self._channel, wire.STORE_SERVICE)
            self._admin = self._methods(self._channel, wire.ADMIN_SERVICE)
        tries = Attempts(self._address, self._timeout, can_wait=self._wait_for_ready)
        answer = await self._tried(lambda: self._begin(self._admin["status"], b"", tries), tries)
        self._store_id = answers.status(answer).store_id

    # --- resources ---

    async def save(
        self,
        kind: str,
        id: str,
        value: object,
        expected_revision: int | None = None,
        request_id: str | None = None,
    ) -> Revision:
        """Save one resource; gives the revision of the event, once it is durable and visible."""
        committed = await self.commit([Save(kind, id, value, expected_revision)], request_id=request_id)
        return committed.last_revision

    async def delete(
        self, kind: str, id: str, expected_revision: int | None = None, request_id: str | None = None
    ) -> Revision:
        """Delete one resource; raises `NotFound` where there is none."""
        committed = await self.commit([Delete(kind, id, expected_revision)], request_id=request_id)
        return committed.last_revision

    async def commit(self, changes: Sequence[Save | Delete], request_id: str | None = None) -> Committed:
        """Make changes as one atomic commit."""
        await self._attached()
        write = await self._writes.put(changes, request_id or self._request_ids.next())
        return await write.future

    async def save_many(self, changes: Iterable[Save | Delete]) -> Revisions:
        """Make each change as a commit of its own, in their order; give their revisions, once all are durable.

        Each has its own precondition, deadline and error: where some fail the others stand, and `BatchFailed` says
        which is which.
        """
        await self._attached()
        return revisions_of(await self._writes.put_many(changes, self._request_ids))

    def writer(
        self,
        max_bytes_in_flight: int = config.WRITE_BYTES_MAX,
        progress: Callable[[BulkWriter], None] | None = None,
    ) -> BulkWriter:
        """Make a writer for very many commits; see `stigmer.client.bulk`."""
        return BulkWriter(self._open_stream, self._request_ids, max_bytes_in_flight, progress)

    async def get(self, kind: str, id: str) -> Resource:
        """Give a resource; raises `NotFound` where there is none."""
        await self._attached()
        return await self._gets.get(kind, id)

    async def get_many(self, keys: Iterable[tuple[str, str]]) -> FoundResources:
        """Give the resources under many (kind, id), None where there is none; each as it was during the call."""
        wanted = [requests.check_key(key) for key in keys]
        await self._attached()
        return await self._gets.get_many(wanted)

    async def list(self, kind: str, prefix: str = "", limit: int | None = None, page_token: str | None = None) -> Page:
        """Give the resources of a kind in the order of their ids: all of them, or up to `limit`."""
        requests.check_list(kind, prefix, limit, page_token)
        await self._attached()
        found: Resources = []
        token = page_token or ""
        while True:
            left = None if limit is None else limit - len(found)
            token = await self._list_call(requests.list_call(kind, prefix, left, token), found)
            if not token or len(found) == limit:
                return Page(found, token or None)

    async def _list_call(self, request: bytes, found: Resources) -> str:
        taken = len(found)

        async def read() -> str:
            del found[taken:]  # of an attempt that broke off
            token = ""
            async for message in self._begin(self._store["list"], request, tries):
                token = answers.list_page(message, found)
            return token

        tries = Attempts(self._address, self._timeout, can_wait=True)
        return await self._tried(read, tries)

    async def count(self) -> dict[str, int]:
        """Give the number of resources of each kind."""
        return answers.count(await self._call("count", b""))

    # --- the log ---

    def tail(
        self,
        after: int = 0,
        kinds: Collection[str] | None = None,
        prefix: str | None = None,
        follow: bool = True,
    ) -> AsyncGenerator[Event, None]:
        """Give the events behind revision `after`: those there are, then, if `follow`, those that come.

        A restart of the daemon is not seen: the tail goes on at the next revision. Closing the iterator (`aclose`), or
        the client, ends it.
        """
        requests.check_revision(after, "after", 0)
        return self._tail(after, requests.TailFilter(kinds, prefix, follow))

    async def _tail(self, after: int, asked: requests.TailFilter) -> AsyncGenerator[Event, None]:
        await self._attached()
        failures = 0
        while True:
            call = self._begin(self._store["tail"], asked.request(after), None)
            try:
                await self._check_store(call)
                async for message in call:
                    response = store_pb2.TailResponse.FromString(message)
                    for event in codec.events_of(response.commits, after):
                        yield event
                    after = response.through_revision
                    failures = 0
                if not asked.follow:
                    return
            except grpc.RpcError as error:
                self._raise_if_closed(error)
                if not attempts.is_passing(error):
                    raise attempts.typed(error, self._address) from error
            except asyncio.CancelledError as error:
                self._raise_if_closed(error)
                raise
            finally:
                call.cancel()
            await self._pause(attempts.backoff_seconds(failures))
            failures += 1
            await self._wait_for_daemon(asked.follow)

    async def _check_store(self, call: Any) -> None:
        for key, value in await call.initial_metadata() or ():
            if key == wire.STORE_ID_KEY and value != self._store_id:
                raise attempts.wrong_store(self._address, self._store_id, value)

    async def _wait_for_daemon(self, for_ever: bool) -> None:
        while True:
            try:
                await self.status()
                return
            except OutcomeUnknown:
                if not for_ever:
                    raise

    # --- a look inside ---

    async def status(self) -> Status:
        """Give the store's status, with the daemon's addresses and tails."""
        return answers.status(await self._call("status", b""))

    async def segments(self) -> Sequence[SegmentInfo]:
        """Give the files of the log."""
        return answers.segments(await self._call("segments", b""))

    async def frame(self, revision: int) -> FrameInfo:
        """Give the commit that holds a revision, as it lies on disk; raises `NotFound` where there is none."""
        requests.check_revision(revision, "revision", 1)
        request = store_pb2.FrameRequest(revision=revision).SerializeToString()
        return answers.frame(await self._call("frame", request))

    async def replay(self, progress: ProgressCallback | None = None) -> FoldReport:
        """Have the views folded anew from the log, compared and swapped in; takes as long as it takes."""
        return await self._fold("replay", progress)

    async def verify(self, progress: ProgressCallback | None = None, *, quick: bool = False) -> FoldReport:
        """Have the views compared with a fold of the log, or, if `quick`, checksums; takes as long as it takes."""
        return await self._fold("verify", progress, store_pb2.VerifyRequest(quick=quick).SerializeToString())

    async def _fold(self, name: str, progress: ProgressCallback | None, request: bytes = b"") -> FoldReport:
        await self._attached()
        call = self._begin(self._admin[name], request, None)
        try:
            async for message in call:
                told = answers.fold(message)
                if isinstance(told, FoldReport):
                    return told
                if progress is not None:
                    progress(told)
        except grpc.RpcError as error:
            self._raise_if_closed(error)
            raise attempts.typed(error, self._address) from error
        except asyncio.CancelledError as error:
            self._raise_if_closed(error)
            raise
        finally:
            call.cancel()
        raise StigmerError(f"the daemon at {self._address} ended the {name} without a report")

    # --- calls that travel together ---

    def _make_stream(self, bytes_max: int) -> WriteStream:
        return WriteStream(self._address, self._timeout, bytes_max, self._begin_stream, self._commit_alone)

    async def _open_stream(self, bytes_max: int) -> WriteStream:
        await self._attached()
        stream = self._make_stream(bytes_max)
        self._streams.add(stream)
        return stream

    def _begin_stream(self, wait_for_ready: bool) -> Any:
        return self._store["write"](wait_for_ready=wait_for_ready)

    def _begin_many(self, request: bytes, tries: Attempts, wait_for_ready: bool) -> Any:
        return self._store["getmany"](request, timeout=tries.seconds_left, wait_for_ready=wait_for_ready)

    async def _commit_alone(self, payload: bytes, tries: Attempts) -> bytes:
        return await self._tried(lambda: self._begin(self._store["commit"], payload, tries), tries)

    async def _get_alone(self, request: bytes, tries: Attempts) -> bytes:
        return await self._tried(lambda: self._begin(self._store["get"], request, tries), tries)

    # --- calls ---

    async def _call(self, name: str, request: bytes, *, request_id: str | None = None) -> bytes:
        await self._attached()
        method = self._store.get(name) or self._admin[name]
        tries = Attempts(self._address, self._timeout, can_wait=True, request_id=request_id)
        return await self._tried(lambda: self._begin(method, request, tries), tries)

    async def _tried(self, attempt: Callable[[], Awaitable[_T]], tries: Attempts) -> _T:
        """Run attempts until one succeeds, or the failure is one to raise."""
        while True:
            try:
                return await attempt()
            except grpc.RpcError as error:
                self._raise_if_closed(error)
                delay = tries.failed(error)
            except asyncio.CancelledError as error:
                self._raise_if_closed(error)
                raise
            await self._pause(delay)

    def _begin(self, method: Callable[..., Any], request: bytes, tries: Attempts | None) -> Any:
        """Begin a call."""
        if self._closed.is_set():
            raise Closed("client")
        if tries is None:
            return method(request)
        return method(request, timeout=tries.seconds_left, wait_for_ready=tries.wait_for_ready)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
        raise Closed("client")

    def _raise_if_closed(self, error: BaseException) -> None:
        # A channel that is closed cancels its calls, in a way that looks as if the caller itself was cancelled.
        if self._closed.is_set() and not _is_being_cancelled():
            raise Closed("client") from error

    async def close(self) -> None:
        """End the connection and every call on it. Closing twice is fine."""
        self._closed.set()
        await self._gets.close()
        for stream in list(self._streams):
            await stream.close()
        if self._channel is not None:
            await self._channel.close()

    def __await__(self) -> Generator[Any, None, Client]:
        yield from self._attached().__await__()
        return self

    async def __aenter__(self) -> Client:
        try:
            await self._attached()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
