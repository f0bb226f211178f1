"""The blocking client: the methods of the embedded `Store`, answered by a daemon.

It is thread-safe. Errors are those of `stigmer.errors`, never gRPC's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

import grpc

from stigmer import codec, config, names, wire
from stigmer.client import answers, attempts, requests
from stigmer.client.access import Access
from stigmer.client.attempts import Attempts
from stigmer.client.resources import RemoteResources
from stigmer.client.save_many import Attempt, SaveMany
from stigmer.config import Tls
from stigmer.errors import Closed, NotFound, OutcomeUnknown, StigmerError, Unavailable
from stigmer.model import (
    BackupPoint,
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
Messages = list[bytes]

_LOOK_SECONDS = 10.0
"""How long one look for a daemon that was lost takes."""
_SECONDS_LEFT_MIN = 0.001
"""What `Attempts` gives when nothing is left."""


def connect(
    addr: str = config.ADDR_DEFAULT,
    timeout: float | None = 10.0,
    *,
    wait_for_ready: bool = False,
    token: str | None = None,
    tls: Tls | None = None,
) -> Client:
    """Connect to the daemon at `HOST:PORT` or `unix:PATH`.

    `timeout`, in seconds, bounds each call, with the attempts it takes while the daemon is restarted; None: no bound.
    Raises `Unavailable` at once where no daemon is there, or, with `wait_for_ready`, when none has come in that time.

    `token` is what the daemon asks for, and `tls` turns TLS on; a Unix socket takes neither. Raises `Unauthenticated`
    where the token is not the daemon's.
    """
    client = Client(addr, timeout, token, tls)
    try:
        client._attach(wait_for_ready)
    except BaseException:
        client.close()
        raise
    return client


class Client:
    """A connection to a daemon. Made by `connect`."""

    def __init__(self, addr: str, timeout: float | None, token: str | None = None, tls: Tls | None = None) -> None:
        requests.check_timeout(timeout)
        self._address = wire.parse_address(addr)
        self._access = Access(self._address, token, tls)
        self._timeout = timeout
        self._request_ids = requests.RequestIds()
        self._closed = threading.Event()
        self._channel = self._access.channel()
        self._store: dict[str, Callable[..., Any]] = self._methods(wire.STORE_SERVICE)
        self._admin: dict[str, Callable[..., Any]] = self._methods(wire.ADMIN_SERVICE)
        self._typed: dict[str, Callable[..., Any]] = self._methods(wire.RESOURCES_SERVICE)
        self.resources = RemoteResources(self._call_typed, self._request_ids)
        """Resources of the platform's kinds, by id or slug, with what the daemon knows of them."""
        # Written once, by `_attach`, before anybody else has the client.
        self._store_id = ""

    def _methods(self, service: str) -> dict[str, Callable[..., Any]]:
        methods: dict[str, Callable[..., Any]] = {}
        for name, method in wire.methods(service).items():
            made: Callable[..., Any]
            if method.takes_stream:
                made = self._channel.stream_stream(method.path)
            else:
                made = (self._channel.unary_stream if method.streams else self._channel.unary_unary)(method.path)
            methods[name] = self._access.with_token(made)
        return methods

    def _attach(self, wait_for_ready: bool) -> None:
        answer = self._call(self._admin["status"], b"", can_wait=wait_for_ready)
        self._store_id = answers.status(answer).store_id

    # --- resources ---

    def save(
        self,
        kind: str,
        id: str,
        value: object,
        expected_revision: int | None = None,
        request_id: str | None = None,
    ) -> Revision:
        """Save one resource; gives the revision of the event, once it is durable and visible."""
        return self.commit([Save(kind, id, value, expected_revision)], request_id=request_id).last_revision

    def delete(
        self, kind: str, id: str, expected_revision: int | None = None, request_id: str | None = None
    ) -> Revision:
        """Delete one resource; raises `NotFound` where there is none."""
        return self.commit([Delete(kind, id, expected_revision)], request_id=request_id).last_revision

    def commit(self, changes: Sequence[Save | Delete], request_id: str | None = None) -> Committed:
        """Make changes as one atomic commit."""
        chosen = request_id or self._request_ids.next()
        payload = requests.commit(changes, chosen)
        return answers.committed(self._call(self._store["commit"], payload, request_id=chosen))

    def save_many(self, changes: Iterable[Save | Delete]) -> Revisions:
        """Make each change as a commit of its own, in their order; give their revisions, once all are durable.

        Each has its own precondition and error: where some fail the others stand, and `BatchFailed` says which is
        which. The client's timeout is for each few megabytes of them.
        """
        return revisions_of(SaveMany(self._request_ids, self._write, self._commit_alone).run(changes))

    def _commit_alone(self, payload: bytes, request_id: str) -> bytes:
        return self._call(self._store["commit"], payload, request_id=request_id)

    def _write(self, attempt: Attempt) -> None:
        """Run attempts at a stream of commits until one succeeds; each is given what begins a stream."""
        tries = Attempts(self._address, self._timeout, can_wait=True)

        def begin(messages: Messages) -> Iterable[bytes]:
            answered: Iterable[bytes] = self._begin(self._store["write"], iter(messages), tries)
            return answered

        self._tried(lambda: attempt(begin), tries)

    def get(self, kind: str, id: str) -> Resource:
        """Give a resource; raises `NotFound` where there is none."""
        return codec.resource_of(self._call(self._store["get"], requests.get(*requests.check_key((kind, id)))))

    def get_many(self, keys: Iterable[tuple[str, str]]) -> FoundResources:
        """Give the resources under many (kind, id), None where there is none; each as it was during the call."""
        wanted = [requests.check_key(key) for key in keys]
        found: FoundResources = []
        while len(found) < len(wanted):
            asked = wanted[len(found) : len(found) + config.GET_KEYS_MAX]
            for answer in self._get_some(asked):
                if isinstance(answer, StigmerError) and not isinstance(answer, NotFound):
                    raise answer
                found.append(answer if isinstance(answer, Resource) else None)
        return found

    def _get_some(self, keys: Sequence[tuple[str, str]]) -> Sequence[Resource | StigmerError]:
        """Get the first of some keys: as many as one answer holds."""
        try:
            return answers.get_many(self._call(self._store["getmany"], requests.get_many(keys)))
        except StigmerError as error:
            if not attempts.is_unimplemented(error.__cause__):
                raise
        try:
            return [self.get(*keys[0])]
        except NotFound as error:
            return [error]

    def list(self, kind: str, prefix: str = "", limit: int | None = None, page_token: str | None = None) -> Page:
        """Give the resources of a kind in the order of their ids: all of them, or up to `limit`."""
        requests.check_list(kind, prefix, limit, page_token)
        found: Resources = []
        token = page_token or ""
        while True:
            left = None if limit is None else limit - len(found)
            token = self._list_call(requests.list_call(kind, prefix, left, token), found)
            if not token or len(found) == limit:
                return Page(found, token or None)

    def _list_call(self, request: bytes, found: Resources) -> str:
        taken = len(found)

        def read() -> str:
            del found[taken:]  # of an attempt that broke off
            token = ""
            for message in self._begin(self._store["list"], request, tries):
                token = answers.list_page(message, found)
            return token

        tries = Attempts(self._address, self._timeout, can_wait=True)
        return self._tried(read, tries)

    def count(self) -> dict[str, int]:
        """Give the number of resources of each kind."""
        return answers.count(self._call(self._store["count"], b""))

    # --- the log ---

    def tail(
        self,
        after: int = 0,
        kinds: Collection[str] | None = None,
        prefix: str | None = None,
        follow: bool = True,
    ) -> Iterator[Event]:
        """Give the events behind revision `after`: those there are, then, if `follow`, those that come.

        A restart of the daemon is not seen: the tail goes on at the next revision. Closing the iterator, or the client,
        ends it.
        """
        requests.check_revision(after, "after", 0)
        return self._tail(after, requests.TailFilter(kinds, prefix, follow))

    def _tail(self, after: int, asked: requests.TailFilter) -> Iterator[Event]:
        failures = 0
        while True:
            call = self._begin(self._store["tail"], asked.request(after), None)
            try:
                self._check_store(call)
                for message in call:
                    response = store_pb2.TailResponse.FromString(message)
                    yield from codec.events_of(response.commits, after)
                    after = response.through_revision
                    failures = 0
                if not asked.follow:
                    return
            except grpc.RpcError as error:
                self._raise_if_closed(error)
                if not attempts.is_passing(error):
                    raise attempts.typed(error, self._address) from error
            finally:
                call.cancel()
            self._pause(attempts.backoff_seconds(failures))
            failures += 1
            self._wait_for_daemon(asked.follow)

    def _check_store(self, call: Any) -> None:
        for key, value in call.initial_metadata() or ():
            if key == wire.STORE_ID_KEY and value != self._store_id:
                raise attempts.wrong_store(self._address, self._store_id, value)

    def _wait_for_daemon(self, for_ever: bool) -> None:
        while True:
            try:
                self.status()
                return
            except OutcomeUnknown:
                if not for_ever:
                    raise

    # --- the platform's services ---

    def call(self, path: str, request: bytes, request_id: str | None = None) -> bytes:
        """Call a unary method of the platform's services by its path, such as `/PACKAGE.SERVICE/create`.

        Request and answer are serialized. It may be sent again while the daemon is restarted; it is applied once.
        """
        chosen = request_id or self._request_ids.next()
        names.check_request_id(chosen)
        method = self._access.with_token(self._channel.unary_unary(path), (wire.REQUEST_ID_KEY, chosen))
        return self._call(method, request, request_id=chosen)

    def subscribe(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float | None = None,
        told: Callable[[bool], None] | None = None,
    ) -> Iterator[bytes]:
        """Follow what a `subscribe` of the platform's services sends: serialized states, to the last one.

        A restart of the daemon is waited for, and then the state of that moment comes, perhaps once more; `told` is
        called with False when the daemon is lost and with True when it is there again. Raises `NotFound` where there
        is no such resource, or none any more, and `DeadlineExceeded` after `timeout` seconds in all.
        """
        method = self._access.with_token(self._channel.unary_stream(path))
        tries = Attempts(self._address, timeout, can_wait=True)
        while True:
            call = self._begin(method, request, tries)
            try:
                yield from call
                return
            except grpc.RpcError as error:
                self._raise_if_closed(error)
                if not attempts.is_passing(error):
                    raise attempts.typed(error, self._address) from error
                lost = error
            finally:
                call.cancel()
            if told is not None:
                told(False)
            self._wait_for_same_store(tries, lost)
            if told is not None:
                told(True)

    def _wait_for_same_store(self, tries: Attempts, lost: grpc.RpcError) -> None:
        """Wait until the daemon is there again, which must serve the store that it served before."""
        failures = 0
        while True:
            left = tries.seconds_left
            if left is not None and left <= _SECONDS_LEFT_MIN:
                raise tries.timed_out(lost) from lost
            delay = attempts.backoff_seconds(failures)
            self._pause(delay if left is None else min(delay, left))
            failures += 1
            look = Attempts(self._address, min(_LOOK_SECONDS, left or _LOOK_SECONDS), can_wait=True)
            try:
                found = answers.status(self._call_within(look, self._admin["status"], b"")).store_id
            except OutcomeUnknown:
                continue
            if found != self._store_id:
                raise attempts.wrong_store(self._address, self._store_id, found)
            return

    def _call_typed(self, name: str, request: bytes, request_id: str | None) -> bytes:
        return self._call(self._typed[name], request, request_id=request_id)

    # --- a look inside ---

    def status(self) -> Status:
        """Give the store's status, with the daemon's addresses and tails."""
        return answers.status(self._call(self._admin["status"], b""))

    def segments(self) -> Sequence[SegmentInfo]:
        """Give the files of the log."""
        return answers.segments(self._call(self._admin["segments"], b""))

    def frame(self, revision: int) -> FrameInfo:
        """Give the commit that holds a revision, as it lies on disk; raises `NotFound` where there is none."""
        requests.check_revision(revision, "revision", 1)
        return answers.frame(
            self._call(self._admin["frame"], store_pb2.FrameRequest(revision=revision).SerializeToString())
        )

    def replay(self, progress: ProgressCallback | None = None) -> FoldReport:
        """Have the views folded anew from the log, compared and swapped in; takes as long as it takes."""
        return self._fold("replay", progress)

    def verify(self, progress: ProgressCallback | None = None, *, quick: bool = False) -> FoldReport:
        """Have the views compared with a fold of the log, or, if `quick`, checksums; takes as long as it takes."""
        return self._fold("verify", progress, store_pb2.VerifyRequest(quick=quick).SerializeToString())

    def _fold(self, name: str, progress: ProgressCallback | None, request: bytes = b"") -> FoldReport:
        call = self._begin(self._admin[name], request, None)
        try:
            for message in call:
                told = answers.fold(message)
                if isinstance(told, FoldReport):
                    return told
                if progress is not None:
                    progress(told)
        except grpc.RpcError as error:
            self._raise_if_closed(error)
            raise attempts.typed(error, self._address) from error
        finally:
            call.cancel()
        raise StigmerError(f"the daemon at {self._address} ended the {name} without a report")

    @contextmanager
    def hold_for_backup(self) -> Iterator[tuple[BackupPoint, Callable[[], None]]]:
        """Give what a backup is made of; until the block ends, the daemon removes nothing that it needs.

        With a check that raises `Unavailable` where the daemon did not last so long.
        """
        call = self._begin(self._admin["backup"], b"", None)
        try:
            try:
                point = answers.backup_point(next(call))
            except grpc.RpcError as error:
                self._raise_if_closed(error)
                raise attempts.typed(error, self._address) from error

            def check() -> None:
                if not call.is_active():
                    raise Unavailable(
                        f"the daemon at {self._address} ended while the backup was being made",
                        hint="run the same command again; what was copied is not copied again",
                    )

            yield point, check
        finally:
            call.cancel()

    # --- calls ---

    def _call(
        self, method: Callable[..., bytes], request: bytes, *, request_id: str | None = None, can_wait: bool = True
    ) -> bytes:
        return self._call_within(
            Attempts(self._address, self._timeout, can_wait=can_wait, request_id=request_id), method, request
        )

    def _call_within(self, tries: Attempts, method: Callable[..., bytes], request: bytes) -> bytes:
        return self._tried(
            lambda: method(request, timeout=tries.seconds_left, wait_for_ready=tries.wait_for_ready), tries
        )

    def _tried(self, attempt: Callable[[], _T], tries: Attempts) -> _T:
        """Run attempts until one succeeds, or the failure is one to raise."""
        while True:
            if self._closed.is_set():
                raise Closed("client")
            try:
                return attempt()
            except grpc.RpcError as error:
                self._raise_if_closed(error)
                delay = tries.failed(error)
            except ValueError as error:  # what gRPC raises on a closed channel
                self._raise_if_closed(error)
                raise
            self._pause(delay)

    def _begin(self, method: Callable[..., Any], request: bytes | Iterator[bytes], tries: Attempts | None) -> Any:
        """Begin a call that answers with a stream."""
        try:
            if tries is None:
                return method(request)
            return method(request, timeout=tries.seconds_left, wait_for_ready=tries.wait_for_ready)
        except ValueError as error:
            self._raise_if_closed(error)
            raise

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise Closed("client")

    def _raise_if_closed(self, error: Exception) -> None:
        if self._closed.is_set():
            raise Closed("client") from error

    def close(self) -> None:
        """End the connection and every call on it. Closing twice is fine."""
        self._closed.set()
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
