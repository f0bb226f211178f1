"""The asyncio client's commits, which travel together on one stream however many callers make them.

A caller's commit is queued; a task sends what is queued, and whatever is queued while it sends goes in its next
message. So a lone commit goes at once, and a thousand go in a few messages, with no option and no delay.

Invariants:
- Commits are sent in the order in which they were put, and answered in that order.
- Each has its own answer, its own deadline, and its own request id. One that is cancelled or too late touches no other.
- A stream that breaks is replaced by a new one, on which every unanswered commit is sent again, in order, with its
  request id: the store applies it once.
- About `bytes_max` bytes are queued or unanswered; who comes then waits, before anything of the commit is serialized.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import grpc

from stigmer import config
from stigmer.client import answers, attempts, requests
from stigmer.client.attempts import Attempts
from stigmer.client.deadlines import Deadlines
from stigmer.errors import Closed, OutcomeUnknown, StigmerError
from stigmer.model import Committed, Delete, Save
from stigmer.wire import Address


class Write:
    """A commit on its way; `future` gets its answer."""

    __slots__ = ("__weakref__", "event_count", "future", "payload", "request_id", "size", "tries", "was_sent")

    def __init__(self, payload: bytes, event_count: int, request_id: str, tries: Attempts) -> None:
        self.payload = payload
        self.event_count = event_count
        self.request_id = request_id
        self.tries = tries
        self.size = len(payload) + config.COMMIT_OVERHEAD_BYTES
        self.future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self.was_sent = False

    def settle(self, answer: Committed | StigmerError) -> None:
        """Give the caller the answer, unless it is there no more."""
        if self.future.done():
            return
        if isinstance(answer, StigmerError):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)


class WriteStream:
    """The commits of one client, or of one of its bulk writers."""

    def __init__(
        self,
        address: Address,
        timeout: float | None,
        bytes_max: int,
        begin: Callable[[bool], Any],
        commit_alone: Callable[[bytes, Attempts], Awaitable[bytes]],
    ) -> None:
        """`begin` begins the call, waiting for the daemon or not; `commit_alone` makes a call for one commit."""
        self._address = address
        self._timeout = timeout
        self._bytes_max = bytes_max
        self._begin = begin
        self._commit_alone = commit_alone
        self._deadlines = Deadlines(self._time_out)
        self._bytes = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Callers that wait until less is unanswered, the first in front."""
        self._queued: deque[Write] = deque()
        self._sent: deque[Write] = deque()
        """On the stream that is open, and unanswered."""
        self._answered = 0
        """On the stream that is open."""
        self._alone: dict[asyncio.Task[None], Write] = {}
        self._has_work = asyncio.Event()
        """Something for the sender: a commit, or the end of its stream."""
        self._sender: asyncio.Task[None] | None = None
        self._is_supported = True
        self._is_closed = False
        self._failures = 0
        """Streams that broke one after the other, without an answer between them."""
        self._broken_by: grpc.RpcError | None = None

    async def put(self, changes: Sequence[Save | Delete], request_id: str) -> Write:
        """Queue changes as one commit, waiting while too much is unanswered."""
        tries = Attempts(self._address, self._timeout, can_wait=True, request_id=request_id)
        try:
            if (self._waiting or self._bytes >= self._bytes_max) and not self._is_closed:
                await self._wait_for_room(tries)
            if self._is_closed:
                raise Closed("client")
            write = Write(requests.commit(changes, request_id), len(changes), request_id, tries)
            self._bytes += write.size
        finally:
            # Whoever was let in, and perhaps did not go in, lets in the next.
            self._let_next_in()
        self._deadlines.watch(write)
        if not self._is_supported:
            self._send_alone(write)
            return write
        self._queued.append(write)
        self._has_work.set()
        if self._sender is None:
            self._sender = asyncio.create_task(self._run())
        return write

    async def put_many(
        self, changes: Iterable[Save | Delete], request_ids: requests.RequestIds
    ) -> list[Committed | StigmerError]:
        """Make each change as a commit of its own and give their answers, once all have one."""
        futures: list[asyncio.Future[Committed]] = []
        try:
            gone: OutcomeUnknown | None = None
            for change in changes:
                try:
                    if gone is not None:
                        raise gone
                    futures.append((await self.put([change], request_ids.next())).future)
                except StigmerError as error:
                    if isinstance(error, OutcomeUnknown):
                        gone = error  # there is no room because nobody answers: the others do not wait for it as long
                    refused: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
                    refused.set_exception(error)
                    futures.append(refused)
            found = await asyncio.gather(*futures, return_exceptions=True)
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return [_no_bug(answer) for answer in found]

    async def close(self) -> None:
        """End the stream and answer every caller."""
        self._is_closed = True
        tasks = [*self._alone, *([self._sender] if self._sender is not None else [])]
        for task in tasks:
            task.cancel()
        unanswered = [*self._sent, *self._alone.values(), *self._queued]
        await asyncio.gather(*tasks, return_exceptions=True)
        self._deadlines.close()
        for write in unanswered:
            write.settle(_closed(write))
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)  # it finds that the stream is closed

    # --- room ---

    async def _wait_for_room(self, tries: Attempts) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(tries.seconds_left):
                await waiter
        except TimeoutError:
            raise tries.timed_out(self._broken_by) from self._broken_by
        finally:
            waiter.cancel()

    def _let_next_in(self) -> None:
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        if self._waiting and self._bytes < self._bytes_max:
            # One at a time: how much it adds is known only once it has.
            self._waiting.popleft().set_result(None)

    def _forget(self, write: Write) -> None:
        self._bytes -= write.size

    def _time_out(self, write: Write) -> None:
        # It stays where it is: what was sent will be answered, what is queued is left out.
        write.settle(write.tries.timed_out(self._broken_by))

    # --- the sender's task ---

    async def _run(self) -> None:
        while self._is_supported:
            if not self._queued:
                self._has_work.clear()
                await self._has_work.wait()
            ended_by = await self._serve_stream()
            await self._carry_on(ended_by)

    async def _serve_stream(self) -> Exception | None:
        """Send and receive on one stream until it ends; give what ended it."""
        call = self._begin(self._failures > 0)
        self._answered = 0
        receiver = asyncio.create_task(self._receive(call))
        receiver.add_done_callback(lambda _: self._has_work.set())
        try:
            while not receiver.done():
                self._has_work.clear()
                message = self._next_message()
                if message:
                    await call.write(message)
                else:
                    await self._has_work.wait()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # it has ended, and the receiver is told why
        except asyncio.CancelledError:
            call.cancel()
            receiver.cancel()
            raise
        return await receiver

    def _next_message(self) -> bytes:
        """Take what is queued, as far as one message goes; give the message, empty where nothing is queued."""
        payloads: list[bytes] = []
        size = 0
        while self._queued:
            write = self._queued[0]
            if payloads and size + write.size > config.WRITE_MESSAGE_BYTES:
                break
            self._queued.popleft()
            if write.future.done():  # cancelled, or too late
                self._forget(write)
                continue
            write.was_sent = True
            payloads.append(write.payload)
            size += write.size
            self._sent.append(write)
        self._let_next_in()
        return requests.write(payloads)

    async def _receive(self, call: Any) -> Exception | None:
        try:
            async for message in call:
                self._take_answers(message)
        except Exception as error:  # also of an answer that is none: nobody is left without a word
            return error
        return None

    def _take_answers(self, message: bytes) -> None:
        found = answers.write(message, self._answered, (write.event_count for write in self._sent))
        self._answered += len(found)
        self._failures = 0
        self._broken_by = None
        for answer in found:
            write = self._sent.popleft()
            if isinstance(answer, OutcomeUnknown) and not write.future.done():
                # Not the commit's fault, and perhaps gone in a moment: the others do not wait for that.
                self._send_alone(write)
                continue
            self._forget(write)
            write.settle(answer)
        self._let_next_in()

    async def _carry_on(self, ended_by: Exception | None) -> None:
        """Decide what becomes of the commits that a stream left unanswered."""
        unanswered = []
        for write in self._sent:
            if write.future.done():
                self._forget(write)
            else:
                unanswered.append(write)
        self._sent.clear()
        if attempts.is_unimplemented(ended_by):
            self._is_supported = False
            for write in [*unanswered, *self._queued]:
                self._send_alone(write)
            self._queued.clear()
            return
        if ended_by is not None and not (isinstance(ended_by, grpc.RpcError) and attempts.is_passing(ended_by)):
            for write in unanswered:
                self._forget(write)
                write.settle(write.tries.error_of(ended_by))
            self._let_next_in()
            return
        self._broken_by = ended_by
        self._queued.extendleft(reversed(unanswered))
        if self._queued:
            delay = attempts.backoff_seconds(self._failures)
            self._failures += 1
            await asyncio.sleep(delay)

    # --- in a call of its own ---

    def _send_alone(self, write: Write) -> None:
        write.was_sent = True
        task = asyncio.create_task(self._finish_alone(write))
        self._alone[task] = write
        task.add_done_callback(self._alone.pop)

    async def _finish_alone(self, write: Write) -> None:
        try:
            write.settle(answers.committed(await self._commit_alone(write.payload, write.tries)))
        except StigmerError as error:
            write.settle(error)
        finally:
            self._forget(write)
            self._let_next_in()


def _no_bug(answer: Committed | BaseException) -> Committed | StigmerError:
    if isinstance(answer, Committed | StigmerError):
        return answer
    raise answer


def _closed(write: Write) -> StigmerError:
    closed = Closed("client")
    return attempts.of_request(closed, write.request_id) if write.was_sent else closed
