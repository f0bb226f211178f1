"""Which failures are tried again, how soon, and what is raised in the end: the same for both clients.

A call fails for a moment when the daemon is restarted. Reads can be repeated, and so can writes, because every write
has a request id that the store applies at most once. So whatever comes back as UNAVAILABLE is tried again until the
client's timeout. Only a client that was never connected is told at once that nobody is there.

Knows gRPC's errors and raises none of them; does not wait itself, but says for how long.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterable
from typing import Any

import grpc

from stigmer import config, errors, wire
from stigmer.errors import StigmerError, Unavailable
from stigmer.wire import Address

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", wire.LARGEST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", wire.LARGEST_MESSAGE_BYTES),
    # A daemon that is restarted is found again soon.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Each client has a connection of its own: a new one does not inherit another one's wait before it tries again.
    ("grpc.use_local_subchannel_pool", 1),
    # The daemon is on this machine; a proxy for the web has no part in it.
    ("grpc.enable_http_proxy", 0),
)


def channel_options(address: Address) -> tuple[tuple[str, Any], ...]:
    """Give gRPC's options for the connection to an address."""
    if address.is_local:
        return CHANNEL_OPTIONS  # the end of a process is the end of its connections
    return (
        *CHANNEL_OPTIONS,
        # A network that is gone tells nobody: a tail would wait for ever, and calls to the last second of their time.
        ("grpc.keepalive_time_ms", config.PEER_SILENCE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", config.PEER_ANSWER_SECONDS * 1000),
        # Of the pings that gRPC sends to measure the way, behind one of which that of the keepalive waits.
        ("grpc.http2.ping_timeout_ms", config.PEER_ANSWER_SECONDS * 1000),
        # A tail may have nothing to send for days, and is pinged all the same.
        ("grpc.http2.max_pings_without_data", 0),
    )


_BACKOFF_SECONDS_FIRST = 0.02
_BACKOFF_SECONDS_MAX = 1.0

_TOO_LARGE = re.compile(r"larger than max \(([0-9]+) vs\. ([0-9]+)\)")
_NOBODY_THERE = ("failed to connect", "connection refused", "dns resolution", "no such file", "address lookup failed")
_TLS_PROBLEMS = (
    (
        "certificate_verify_failed",
        "shows a certificate that is not trusted",
        "name who signed it with --tls-ca, STIGMER_TLS_CA or tls=; the host must be one of its names",
    ),
    (
        "wrong_version_number",
        "does not speak TLS",
        "leave out --tls-ca, STIGMER_TLS_CA or tls=, or ask for another address",
    ),
    ("handshake", "and this client do not agree on TLS", "see --tls-ca, --tls-cert and --tls-key"),
    (
        "socket closed",
        "ended the connection at once",
        "it may want TLS (--tls-ca), or a certificate of this client that it trusts (--tls-cert, --tls-key)",
    ),
)
"""What gRPC says when it cannot connect to somebody who is there, what it means, and what to do about it."""
_REASON = re.compile(r"[A-Z]+_[A-Z_]+: (?P<reason>[^:]+)(: OK)?$")

_LOST_WHILE_SENDING = "Internal error from Core"
"""What grpc.aio says, under INTERNAL, where a stream is lost while a message is being sent on it."""


def target_of(address: Address) -> str:
    """Give the name by which gRPC knows an address."""
    return f"unix:{os.path.abspath(address.path)}" if address.is_unix else str(address)


def _detail_of(error: grpc.RpcError) -> StigmerError | None:
    metadata: Iterable[tuple[str, Any]] = error.trailing_metadata() or ()  # type: ignore[assignment]  # pairs in fact
    for key, value in metadata:
        if key == wire.ERROR_DETAIL_KEY:
            return wire.error_of(value)
    return None


def _is_lost(error: grpc.RpcError) -> bool:
    code = error.code()
    if code is grpc.StatusCode.INTERNAL:
        return error.details() == _LOST_WHILE_SENDING
    return code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def is_passing(error: grpc.RpcError) -> bool:
    """Say whether a failure may be gone the next time: the daemon was not there, or went away."""
    if not _is_lost(error):
        return False
    # A failed storage stays failed, and the daemon with it, until a person has looked at it.
    return not isinstance(_detail_of(error), errors.StorageFailed)


def is_unimplemented(error: BaseException | None) -> bool:
    """Say whether a daemon of an older version does not know the method."""
    return isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNIMPLEMENTED


def typed(error: grpc.RpcError, address: Address, request_id: str | None = None) -> StigmerError:
    """Make the exception that tells a caller of ours about a failure."""
    found = _detail_of(error) or _from_status(error, address)
    return _with_request_id(found, request_id)


def _with_request_id(error: StigmerError, request_id: str | None) -> StigmerError:
    if isinstance(error, errors.OutcomeUnknown):
        error.request_id = request_id
        if error.hint is None and request_id is not None:
            error.hint = retry_hint(request_id)
    return error


def retry_hint(request_id: str) -> str:
    """Say what to do about a write whose outcome is unknown."""
    return f"it may have been applied or not: the same write with request_id={request_id!r} applies once"


def _from_status(error: grpc.RpcError, address: Address) -> StigmerError:
    """Make an exception of a status that did not come from our services but from gRPC."""
    code, details = error.code(), error.details() or ""
    if _is_lost(error):
        unagreed = _tls_problem(details, address) if "failed to connect" in details else None
        if unagreed is not None:
            return unagreed
        if any(words in details.lower() for words in _NOBODY_THERE):
            return Unavailable(
                f"no daemon at {address}", hint="start one with `stigmer daemon --detach`, or set STIGMER_ADDR"
            )
        return Unavailable(f"lost the daemon at {address}: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded(f"the daemon at {address} did not answer in time")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        too_large = _TOO_LARGE.search(details)
        if too_large is not None:
            return errors.ResourceExhausted(
                f"the message has {too_large[1]} bytes; at most {too_large[2]} are allowed",
                limit="COMMIT_BYTES_MAX",
                limit_value=int(too_large[2]),
            )
        return errors.ResourceExhausted(f"the daemon at {address} refused the call: {details}")
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return errors.Unauthenticated(f"the daemon at {address} refused the call: {details}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return StigmerError(
            f"what answers at {address} is no stigmer daemon, or one of another version: {details}",
            hint="set STIGMER_ADDR to the daemon's address",
        )
    return StigmerError(f"the daemon at {address} failed: {details}")


def _tls_problem(details: str, address: Address) -> Unavailable | None:
    for words, problem, hint in _TLS_PROBLEMS:
        if words in details.lower():
            reason = _REASON.search(details)
            told = f" ({reason['reason']})" if reason is not None and words == "certificate_verify_failed" else ""
            return Unavailable(f"the daemon at {address} {problem}{told}", hint=hint)
    return None


def of_request(error: StigmerError, request_id: str) -> StigmerError:
    """Make the error of one commit out of that of the stream on which it was sent."""
    if isinstance(error, errors.Closed):
        message = "the client was closed before the answer came"
        return errors.OutcomeUnknown(message, request_id=request_id, hint=retry_hint(request_id))
    if isinstance(error, errors.OutcomeUnknown):
        return type(error)(error.message, request_id=request_id, hint=retry_hint(request_id))
    return error


class Attempts:
    """The attempts of one call: how long is left, and what to do about a failure."""

    def __init__(
        self, address: Address, timeout: float | None, *, can_wait: bool, request_id: str | None = None
    ) -> None:
        """`can_wait`: whether it is worth waiting for the daemon, because it was there before."""
        self._address = address
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._timeout = timeout
        self._can_wait = can_wait
        self._request_id = request_id
        self._count = 0
        self.last_passing: grpc.RpcError | None = None
        """The last failure after which the call was tried again."""

    @property
    def seconds_left(self) -> float | None:
        """What is left of the timeout, for the next attempt's deadline."""
        return None if self._deadline is None else max(0.001, self._deadline - time.monotonic())

    @property
    def wait_for_ready(self) -> bool:
        """Whether the next attempt waits for the connection, rather than fail where there is none."""
        return self._can_wait and self._count > 0

    def failed(self, error: grpc.RpcError) -> float:
        """Take note of a failure: give the seconds to wait before the next attempt, or raise what it means."""
        if is_passing(error) and self._can_wait:
            self.last_passing = error
            delay = backoff_seconds(self._count)
            self._count += 1
            left = self.seconds_left
            if left is None or delay < left:
                return delay
        elif error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and self.last_passing is not None:
            pass  # it passed while waiting for the daemon to come back: that it is gone says more
        else:
            raise self.error_of(error) from error
        raise self.timed_out(self.last_passing) from self.last_passing

    def timed_out(self, broken_by: grpc.RpcError | None) -> StigmerError:
        """Make the error of a call whose time is up; `broken_by` is the failure that kept it from an answer, if any."""
        if broken_by is None:
            late = errors.DeadlineExceeded(f"the daemon at {self._address} did not answer in time")
            return _with_request_id(late, self._request_id)
        found = self.error_of(broken_by)
        if isinstance(found, errors.Closed):  # of the daemon's store, which to the caller is the daemon
            found = Unavailable(f"the daemon at {self._address} is stopping", request_id=self._request_id)
        if self._timeout is not None:
            found.args = (f"{found.message} (tried for {self._timeout:g} s)",)
        return found

    def error_of(self, error: Exception | None) -> StigmerError:
        """Make the exception that tells the caller about a failure for which the call is not tried again."""
        if isinstance(error, grpc.RpcError):
            return typed(error, self._address, self._request_id)
        return StigmerError(f"the daemon at {self._address} failed: {error}")


def backoff_seconds(count: int) -> float:
    """Give the wait before attempt `count + 2`: twice as long each time, up to a second, and never quite the same."""
    longest: float = min(_BACKOFF_SECONDS_MAX, _BACKOFF_SECONDS_FIRST * 2 ** min(count, 16))
    return longest * random.uniform(0.5, 1.0)


def wrong_store(address: Address, expected: str, found: str) -> StigmerError:
    """Make the error of a tail that finds another store where it left one."""
    return StigmerError(
        f"the daemon at {address} now serves another store ({found}), not the one being followed ({expected})",
        hint="its revisions are not those of the other: read it anew, and follow it from there",
    )
