"""The asyncio client's gets, which travel together when many callers make them.

A get goes at once, in a call of its own, while few are under way; the others wait until one of those is back and then
go together. So a lone get is not delayed, and a thousand go in a few calls.

Invariants: each get has its own answer and its own deadline, and one that is cancelled or too late touches no other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc

from stigmer import codec, config
from stigmer.client import answers, attempts, requests
from stigmer.client.attempts import Attempts
from stigmer.client.deadlines import Deadlines
from stigmer.errors import Closed, NotFound, StigmerError
from stigmer.model import Resource
from stigmer.wire import Address

_CALLS_MAX = 2
"""Calls under way at a time: while one is answered the other is asked, and what comes meanwhile is a batch."""


class _Get:
    """A get on its way; `future` gets its answer."""

    __slots__ = ("__weakref__", "future", "key", "tries")

    def __init__(self, key: tuple[str, str], tries: Attempts) -> None:
        self.key = key
        self.tries = tries
        self.future: asyncio.Future[Resource] = asyncio.get_running_loop().create_future()

    def settle(self, answer: Resource | StigmerError) -> None:
        if self.future.done():
            return
        if isinstance(answer, StigmerError):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)


class Gets:
    """The gets of one client."""

    def __init__(
        self,
        address: Address,
        timeout: float | None,
        get_alone: Callable[[bytes, Attempts], Awaitable[bytes]],
        begin_many: Callable[[bytes, Attempts, bool], Any],
    ) -> None:
        """`get_alone` makes a whole call of Get; `begin_many` begins one of GetMany, waiting for the daemon or not."""
        self._address = address
        self._timeout = timeout
        self._get_alone = get_alone
        self._begin_many = begin_many
        self._deadlines = Deadlines(self._time_out)
        self._queued: deque[_Get] = deque()
        self._calls = 0
        self._alone: list[Attempts] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_supported = True
        self._is_closed = False
        self._broken_by: grpc.RpcError | None = None

    async def get(self, kind: str, id: str) -> Resource:
        """Give one resource."""
        key = requests.check_key((kind, id))
        if self._is_closed:
            raise Closed("client")
        tries = Attempts(self._address, self._timeout, can_wait=True)
        if self._calls < _CALLS_MAX or not self._is_supported:
            request = requests.get(*key)
            self._calls += 1
            self._alone.append(tries)
            try:
                return codec.resource_of(await self._get_alone(request, tries))
            finally:
                self._calls -= 1
                self._alone.remove(tries)
                self._broken_by = tries.last_passing
                self._begin_next()
        return await self._queue(key, tries)

    async def get_many(self, keys: Iterable[tuple[str, str]]) -> list[Resource | None]:
        """Give many resources, and None where there is none."""
        if self._is_closed:
            raise Closed("client")
        futures = [self._queue(key, Attempts(self._address, self._timeout, can_wait=True)) for key in keys]
        self._begin_next()
        found: list[Resource | None] = []
        for answer in await asyncio.gather(*futures, return_exceptions=True):
            if isinstance(answer, NotFound):
                found.append(None)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found.append(answer)
        return found

    def _queue(self, key: tuple[str, str], tries: Attempts) -> asyncio.Future[Resource]:
        get = _Get(key, tries)
        self._deadlines.watch(get)
        self._queued.append(get)
        return get.future

    def _time_out(self, get: _Get) -> None:
        # Those that wait learn what the calls met that they waited for.
        met = (tries.last_passing for tries in self._alone if tries.last_passing is not None)
        get.settle(get.tries.timed_out(next(met, self._broken_by)))

    async def close(self) -> None:
        """Answer every caller."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._deadlines.close()
        while self._queued:
            self._queued.popleft().settle(Closed("client"))

    def _begin_next(self) -> None:
        while self._queued and self._calls < _CALLS_MAX and not self._is_closed:
            batch = [self._queued.popleft() for _ in range(min(len(self._queued), config.GET_KEYS_MAX))]
            self._calls += 1
            task = asyncio.create_task(self._get_together(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _get_together(self, batch: list[_Get]) -> None:
        failures = 0
        try:
            # Those that are answered, cancelled or too late need no answer any more.
            while batch := [get for get in batch if not get.future.done()]:
                try:
                    found = await self._ask(batch, failures > 0)
                    if not found:
                        raise StigmerError("an answer to GetMany holds nothing")
                except Exception as error:  # also of an answer that is none: nobody is left without a word
                    await self._carry_on(batch, error, failures)
                    failures += 1
                    continue
                failures = 0
                self._broken_by = None
                for get, answer in zip(batch, found, strict=False):
                    get.settle(answer)
        except asyncio.CancelledError:
            for get in batch:
                get.settle(Closed("client"))
            raise
        finally:
            self._calls -= 1
            self._begin_next()

    async def _ask(self, batch: list[_Get], wait_for_ready: bool) -> list[Resource | StigmerError]:
        # The last one's deadline is the call's: those before it may be up sooner.
        request = requests.get_many(get.key for get in batch)
        return answers.get_many(await self._begin_many(request, batch[-1].tries, wait_for_ready))

    async def _carry_on(self, batch: list[_Get], error: Exception, failures: int) -> None:
        """Wait a moment where the failure may pass, else answer the batch."""
        if isinstance(error, grpc.RpcError) and attempts.is_passing(error):
            self._broken_by = error
            await asyncio.sleep(attempts.backoff_seconds(failures))
        elif attempts.is_unimplemented(error):
            self._is_supported = False
            await asyncio.gather(*(self._finish_alone(get) for get in batch))
        else:
            for get in batch:
                get.settle(get.tries.error_of(error))

    async def _finish_alone(self, get: _Get) -> None:
        try:
            get.settle(codec.resource_of(await self._get_alone(requests.get(*get.key), get.tries)))
        except StigmerError as error:
            get.settle(error)
