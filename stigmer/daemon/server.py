"""The composition root: an open store, the services over it, health, reflection, and the addresses.

Owns the gRPC server. Does not own the store, the process or its signals: `lifecycle.py` does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc  # type: ignore[import-untyped]

from stigmer import config, wire
from stigmer.config import Limits
from stigmer.daemon.access import Access
from stigmer.daemon.addresses import explain_failure, parse_listen, room_for_socket
from stigmer.daemon.admin_service import AdminService
from stigmer.daemon.commit_queue import CommitQueue
from stigmer.daemon.gate import Gate
from stigmer.daemon.handlers import Boundary
from stigmer.daemon.refusals import Refusals
from stigmer.daemon.resource_service import ResourceService
from stigmer.daemon.store_service import StoreService
from stigmer.daemon.tail import Tails
from stigmer.daemon.typed_services import Calls, TypedServices
from stigmer.daemon.watches import Presented, Watches
from stigmer.errors import AddressInUse, InvalidArgument
from stigmer.resources.verbs import Resources
from stigmer.store import Store
from stigmer.wire import Address, path_text

_READERS = 4
"""Threads that read cold parts of the log and look inside the store, so that the event loop does not."""

_logger = logging.getLogger("stigmer.daemon")


class _Handlers:
    """Takes the handlers of gRPC's own services, which expect a server."""

    def __init__(self) -> None:
        self.generic: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self.generic.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Do nothing: the same handlers once more."""


class Server:
    """Serves an open store. Create it, start it and stop it on one event loop.

    It is two gRPC servers, one for TCP and one for sockets in the file system. Only calls over TCP have to show a
    token, and what others do there takes no call and no connection from those who may use the sockets.
    """

    def __init__(
        self,
        store: Store,
        resources: Resources,
        addresses: Sequence[str],
        limits: Limits | None = None,
        access: Access | None = None,
        own_socket: Address | None = None,
    ) -> None:
        """Raises `InvalidArgument` where an address is not one to listen on.

        The server also listens on `own_socket`, and goes on without it where that cannot be.
        """
        self._access = access or Access()
        self._addresses = [parse_listen(text) for text in addresses]
        self._access.check_reach(self._addresses)
        self._own_socket = own_socket
        self._limits = limits = (limits or Limits()).checked()
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._readers = ThreadPoolExecutor(_READERS, "stigmer-read")
        self.listen: list[str] = []
        """The addresses, with the real ports, once it listens."""
        self._sockets: list[tuple[str, int]] = []
        self._renewals: asyncio.Task[None] | None = None
        self._refusals = Refusals()
        boundary = Boundary(self._refusals)
        self._tails = Tails(store, self._readers, limits.tails_max)
        self._admin = AdminService(
            store, resources, self._access, self._tails, self._refusals, self._readers, self.listen
        )
        self._health = health.aio.HealthServicer()
        queue = CommitQueue(store)
        self._store_service = StoreService(store, queue, self._tails, boundary)
        self._calls = Calls(resources, queue)
        self._watches = Watches(
            store,
            lambda resource: Presented(*resources.seen_by_subscribers(resource)),
            self._readers,
            limits.subscribers_max,
        )
        typed = TypedServices(self._calls, self._watches, boundary)
        services = {
            wire.STORE_SERVICE: self._store_service,
            wire.ADMIN_SERVICE: self._admin,
            wire.RESOURCES_SERVICE: ResourceService(self._calls),
        }
        self._services = [*services, *typed.names, health.SERVICE_NAME]
        found = _Handlers()
        found.generic += [boundary.handler_of(name, service) for name, service in services.items()]
        found.generic += typed.grpc_handlers()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, found)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer([*self._services, reflection.SERVICE_NAME]), found
        )
        count = len(self._addresses) + (own_socket is not None)
        self._tcp = self._make(Gate(found.generic, boundary, limits.calls_max, self._access), count)
        self._local = self._make(Gate(found.generic, boundary, limits.calls_max, None), count)

    def _make(self, gate: Gate, address_count: int) -> grpc.aio.Server:
        options = _options(self._limits, address_count, is_remote=self._access.speaks_tls)
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((gate,))
        return server

    async def start(self) -> None:
        """Listen on every address, or on none.

        Raises `AddressInUse`, or `InvalidArgument` where an address cannot be bound for another reason.
        """
        try:
            for address in self._addresses:
                self.listen.append(self._bind(address))
            if self._own_socket is not None:
                self._bind_own_socket(self._own_socket)
            await self._local.start()
            await self._tcp.start()
        except BaseException:
            await self.stop(0)
            raise
        self._renewals = asyncio.create_task(self._access.follow_renewals())
        for name in ("", *self._services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def _bind(self, address: Address) -> str:
        if not address.is_unix:
            try:
                tls = self._access.server_credentials()
                if tls is None:
                    port = self._tcp.add_insecure_port(str(address))
                else:
                    port = self._tcp.add_secure_port(str(address), tls)
            except RuntimeError as error:
                raise explain_failure(address) from error
            return str(Address(address.host, port, ""))
        with room_for_socket(address.path):
            # The mask holds for the whole process, for a moment: what else is created then is closed to others, too.
            mask = os.umask(0o177)
            try:
                self._local.add_insecure_port(str(address))
            except RuntimeError as error:
                raise explain_failure(address) from error
            finally:
                os.umask(mask)
            self._sockets.append((address.path, os.lstat(address.path).st_ino))
        return path_text(str(address))

    def _bind_own_socket(self, address: Address) -> None:
        try:
            self.listen.append(self._bind(address))
        except (AddressInUse, InvalidArgument) as error:
            _logger.warning("no socket in the data directory: %s", error.message)

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls, wait for those under way, then cancel what is left.

        Tails end at once, and streams of commits once what was read of them is answered: their clients go on with them
        where the daemon comes back.
        """
        if self._renewals is not None:
            self._renewals.cancel()
        await self._health.enter_graceful_shutdown()
        self._store_service.end_streams("the daemon is stopping")
        self._watches.end("the daemon is stopping")
        self._admin.end_streams()
        await self._stop_calls(grace_seconds)
        self._admin.close()
        self._readers.shutdown(wait=False)
        self._store_service.close()
        await self._calls.close()
        self._refusals.close()
        for path, inode in self._sockets:
            _remove_socket(path, inode)

    async def cancel_calls(self) -> None:
        """Cancel the calls that a `stop` under way still waits for, and so end it."""
        await self._stop_calls(0)

    async def _stop_calls(self, grace_seconds: float) -> None:
        await asyncio.gather(self._tcp.stop(grace_seconds), self._local.stop(grace_seconds))


def _options(limits: Limits, address_count: int, *, is_remote: bool) -> list[tuple[str, int]]:
    """Give gRPC's options for one of the servers."""
    options = [
        # Without this a second daemon binds the same port without an error, and the kernel deals out the clients.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.request_bytes_max),
        # Answers are bounded by what makes them.
        ("grpc.max_send_message_length", -1),
        # Between the two, gRPC would refuse by chance.
        ("grpc.max_metadata_size", limits.metadata_bytes_max),
        ("grpc.absolute_max_metadata_size", limits.metadata_bytes_max),
        ("grpc.max_allowed_incoming_connections", _connections_max(limits, address_count)),
        ("grpc.max_concurrent_streams", limits.connection_calls_max),
        ("grpc.max_connection_idle_ms", round(limits.idle_seconds * 1000)),
        ("grpc.server_handshake_timeout_ms", round(limits.handshake_seconds * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", round(limits.ping_interval_seconds * 1000)),
        # gRPC would want two hours between the pings of a connection without a call.
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if is_remote:
        # On one machine the end of a process is the end of its connections.
        options += [
            ("grpc.keepalive_time_ms", config.PEER_SILENCE_SECONDS * 1000),
            ("grpc.keepalive_timeout_ms", config.PEER_ANSWER_SECONDS * 1000),
            # Of the pings that gRPC sends to measure the way, behind one of which that of the keepalive waits.
            ("grpc.http2.ping_timeout_ms", config.PEER_ANSWER_SECONDS * 1000),
        ]
    return options


def _connections_max(limits: Limits, address_count: int) -> int:
    """Give how many connections each address takes, so that all of them leave files for the log and its readers."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return limits.connections_max
    free = files - min(config.FILES_RESERVED + limits.tails_max, files // 2)
    return max(1, min(limits.connections_max, free // max(1, address_count)))


def _remove_socket(path: str, inode: int) -> None:
    """Remove our socket; what took its place meanwhile is not ours."""
    try:
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        pass  # gRPC removed it
    except OSError as error:
        _logger.warning("cannot remove the socket %s: %s", path, error)
