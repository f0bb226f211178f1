"""The gate before every call: whether its caller may make it, and whether there is room for it.

Invariants:
- A call that is refused here is refused before its request is read, so that it costs no memory.
- Who may not make calls takes none of the room of those who may.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import grpc

from stigmer.daemon.handlers import Boundary, Context, Handler
from stigmer.errors import ResourceExhausted, StigmerError

Details: TypeAlias = Any
"""`grpc.HandlerCallDetails`: the method's path and the metadata."""


class Guard(Protocol):
    """Says who may make calls."""

    def problem(self, path: str, metadata: Iterable[tuple[str, str | bytes]]) -> StigmerError | None:
        """Give the error for a call that may not be made; None where it may."""


class Gate(grpc.GenericRpcHandler):
    """Finds the handler of a call that is let in; one that refuses for any other. Belongs to one event loop.

    gRPC can bound the calls by itself, too, but does not tell us of it, nor the caller which limit it was.
    """

    def __init__(
        self, behind: Sequence[grpc.GenericRpcHandler], boundary: Boundary, calls_max: int, guard: Guard | None
    ) -> None:
        """`guard` None lets everybody in."""
        self._behind = tuple(behind)
        self._boundary = boundary
        self._calls_max = calls_max
        self._guard = guard
        self._under_way = 0

    def service(self, handler_call_details: Details) -> Handler | None:
        """Give the handler of a call; called by gRPC in the call's own task, before it reads the request."""
        path = handler_call_details.method
        if self._guard is not None:
            problem = self._guard.problem(path, handler_call_details.invocation_metadata or ())
            if problem is not None:
                return self._refusing(path, problem)
        if self._under_way >= self._calls_max:
            return self._refusing(path, self._no_room())
        for handler in self._behind:
            found = handler.service(handler_call_details)
            if found is not None:
                self._count_until_its_end()
                return found
        return None

    def _count_until_its_end(self) -> None:
        call = asyncio.current_task()
        assert call is not None
        self._under_way += 1
        call.add_done_callback(self._on_end)

    def _on_end(self, _: object) -> None:
        self._under_way -= 1

    def _no_room(self) -> ResourceExhausted:
        return ResourceExhausted(
            f"{self._under_way} calls are under way, the most that one daemon takes at a time",
            limit="CALLS_MAX",
            limit_value=self._calls_max,
            hint="try again in a moment, end some, or start the daemon with a larger --calls-max",
        )

    def _refusing(self, path: str, problem: StigmerError) -> Handler:
        async def refuse(requests: Any, context: Context) -> None:
            await self._boundary.refuse(context, path, problem)

        # Such a handler reads the request itself, and this one does not; whatever the method takes and gives, a client
        # understands a call that ends with a status and nothing before it.
        return grpc.stream_unary_rpc_method_handler(refuse)
