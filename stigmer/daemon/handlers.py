"""From a service's methods to gRPC's handlers: the one boundary where errors become status codes.

A service is an object with a coroutine per method of its descriptor, named as the method in lower case, so that a
method that is missing or misspelt is noticed when the daemon starts. Requests and answers are bytes here: some are
passed on as they are, the others are parsed by the service.

A `StigmerError` is the caller's to handle and is not logged, unless it tells of damage or is a refusal (refusals.py).
Anything else is a bug: logged with its traceback once, here, while the caller gets a sentence.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from stigmer import config, wire
from stigmer.daemon.refusals import Refusals
from stigmer.errors import (
    Closed,
    CorruptArtifact,
    CorruptLog,
    CorruptView,
    ResourceExhausted,
    StigmerError,
    Unavailable,
)

Context = grpc.aio.ServicerContext[Any, Any]
Unary = Callable[[bytes, Context], Awaitable[bytes]]
Streaming = Callable[[Any, Context], Awaitable[None]]
"""Takes the request, or an iterator of the requests."""

_logger = logging.getLogger("stigmer.daemon")


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Boundary:
    """Makes handlers of the services' methods, and status codes of the errors that they end with."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals

    def told(self, path: str, error: StigmerError, peer: Callable[[], str]) -> StigmerError:
        """Give what a caller is told of an error; one that tells of damage is logged, a refusal is counted.

        `peer` gives the caller's address.
        """
        self._refusals.note(error, path, peer)
        if isinstance(error, CorruptArtifact | CorruptLog | CorruptView):
            _logger.error("%s: %s", path, error.message)
        # The store is closed when the daemon stops; to the caller it is the daemon that goes away.
        return Unavailable("the daemon is stopping") if isinstance(error, Closed) else error

    async def refuse(self, context: Context, path: str, error: StigmerError) -> None:
        """End a call with an error."""
        error = self.told(path, error, context.peer)
        # gRPC keeps what ends a call until a collection comes by.
        error = error.without_frames()
        await context.abort(
            grpc.StatusCode[wire.status_of(error)],
            wire.message_of(error),
            ((wire.ERROR_DETAIL_KEY, wire.detail_of(error)),),
        )

    def unary(self, path: str, behaviour: Unary, request_bytes_max: int = wire.REQUEST_BYTES_MAX) -> Handler:
        """Make the handler of a method with one request and one answer."""

        async def handle(request: bytes, context: Context) -> bytes:
            try:
                _check_size(request, request_bytes_max)
                return await behaviour(request, context)
            except StigmerError as error:
                await self.refuse(context, path, error)
            except Exception:
                await _report_bug(context, path)
            raise AssertionError("abort() returned")

        return grpc.unary_unary_rpc_method_handler(handle)

    def streaming(self, path: str, behaviour: Streaming) -> Handler:
        """Make the handler of a method with one request, which holds no values, and a stream of answers."""

        async def bounded(request: bytes, context: Context) -> None:
            _check_size(request, config.KEYS_REQUEST_BYTES_MAX)
            await behaviour(request, context)

        return grpc.unary_stream_rpc_method_handler(self._streaming(path, bounded))

    def handler_of(self, service: str, servicer: object) -> grpc.GenericRpcHandler:
        """Make the handler of a service of ours, named in full, from an object with its methods."""
        handlers: dict[str, Handler] = {}
        for name, method in wire.methods(service).items():
            behaviour = getattr(servicer, name)
            handler: Handler
            if method.takes_stream:
                handler = self._streaming_both_ways(method.path, behaviour)
            elif method.streams:
                handler = self.streaming(method.path, behaviour)
            else:
                has_values = _may_hold(cast("Descriptor", method.request.DESCRIPTOR), FieldDescriptor.TYPE_BYTES)
                handler = self.unary(
                    method.path, behaviour, wire.REQUEST_BYTES_MAX if has_values else config.KEYS_REQUEST_BYTES_MAX
                )
            handlers[method.name] = handler
        return grpc.method_handlers_generic_handler(service, handlers)

    def _streaming_both_ways(self, path: str, behaviour: Streaming) -> Handler:
        async def bounded(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async for request in requests:
                _check_size(request, wire.REQUEST_BYTES_MAX)
                yield request

        return grpc.stream_stream_rpc_method_handler(
            self._streaming(path, lambda requests, context: behaviour(bounded(requests), context))
        )

    def _streaming(self, path: str, method: Streaming) -> Streaming:
        async def handle(request: Any, context: Context) -> None:
            try:
                await method(request, context)
            except StigmerError as error:
                await self.refuse(context, path, error)
            except Exception:
                if context.done():  # the caller is gone: a write to it failed
                    return
                await _report_bug(context, path)

        return handle


def _check_size(request: bytes, request_bytes_max: int) -> None:
    # The server's own limit is that of the method that takes the largest requests.
    if len(request) > request_bytes_max:
        raise ResourceExhausted(
            f"the request has {len(request)} bytes; at most {request_bytes_max} are taken here",
            limit="REQUEST_BYTES_MAX",
            limit_value=request_bytes_max,
            hint="send less at a time",
        )


def _may_hold(descriptor: Descriptor, kind: int) -> bool:
    """Say whether a message of ours, none of which holds itself, has a field of a type, or one inside it has."""
    return any(
        field.type == kind or (field.message_type is not None and _may_hold(field.message_type, kind))
        for field in descriptor.fields
    )


async def _report_bug(context: Context, path: str) -> None:
    _logger.exception("%s failed", path)
    await context.abort(grpc.StatusCode.INTERNAL, f"{path} failed inside the daemon; its log has the traceback")
