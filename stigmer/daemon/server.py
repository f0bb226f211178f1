"""The composition root: an open store, the services over it, health, reflection, and the addresses.

Owns the gRPC server. Does not own the store, the process or its signals: `lifecycle.py` does.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from stigmer import wire
from stigmer.daemon.addresses import explain_failure, parse_listen, prepare_socket
from stigmer.daemon.admin_service import AdminService
from stigmer.daemon.commit_queue import CommitQueue
from stigmer.daemon.handlers import handler_of
from stigmer.daemon.resource_service import ResourceService
from stigmer.daemon.store_service import StoreService
from stigmer.daemon.tail import Tails
from stigmer.daemon.typed_services import LARGEST_REQUEST_BYTES, Calls, TypedServices
from stigmer.daemon.watches import Presented, Watches
from stigmer.resources.verbs import Resources
from stigmer.store import Store
from stigmer.wire import Address

_READERS = 4
"""Threads that read cold parts of the log and look inside the store, so that the event loop does not."""

CALLS_MAX = 4_000
"""Calls under way at a time, tails among them; beyond that a caller gets RESOURCE_EXHAUSTED."""

_OPTIONS = (
    # Without this a second daemon binds the same port without an error, and the kernel deals out the clients.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", LARGEST_REQUEST_BYTES),
    ("grpc.max_send_message_length", LARGEST_REQUEST_BYTES),
    # A connection that sends no HTTP/2 is dropped after this time; the default is two minutes.
    ("grpc.server_handshake_timeout_ms", 10_000),
)

_logger = logging.getLogger("stigmer.daemon")


class Server:
    """Serves an open store. Create it, start it and stop it on one event loop."""

    def __init__(self, store: Store, resources: Resources, addresses: Sequence[str]) -> None:
        """Raises `InvalidArgument` where an address is not one to listen on."""
        self._addresses = [parse_listen(text) for text in addresses]
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._readers = ThreadPoolExecutor(_READERS, "stigmer-read")
        self.listen: list[str] = []
        """The addresses, with the real ports, once it listens."""
        self._sockets: list[tuple[str, int]] = []
        self._tails = Tails(store, self._readers)
        self._admin = AdminService(store, resources, self._tails, self._readers, self.listen)
        self._health = health.aio.HealthServicer()
        self._grpc = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
        queue = CommitQueue(store)
        self._store_service = StoreService(store, queue, self._tails)
        self._calls = Calls(resources, queue)
        self._watches = Watches(
            store, lambda resource: Presented(*resources.seen_by_subscribers(resource)), self._readers
        )
        typed = TypedServices(self._calls, self._watches)
        services = {
            wire.STORE_SERVICE: self._store_service,
            wire.ADMIN_SERVICE: self._admin,
            wire.RESOURCES_SERVICE: ResourceService(self._calls),
        }
        self._grpc.add_generic_rpc_handlers([handler_of(name, service) for name, service in services.items()])
        self._grpc.add_generic_rpc_handlers(typed.grpc_handlers())
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        self._services = [*services, *typed.names, health.SERVICE_NAME]
        reflection.enable_server_reflection([*self._services, reflection.SERVICE_NAME], self._grpc)

    async def start(self) -> None:
        """Listen on every address, or on none.

        Raises `AddressInUse`, or `InvalidArgument` where an address cannot be bound for another reason.
        """
        try:
            for address in self._addresses:
                self.listen.append(self._bind(address))
            await self._grpc.start()
        except BaseException:
            await self.stop(0)
            raise
        for name in ("", *self._services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def _bind(self, address: Address) -> str:
        if not address.is_unix:
            try:
                port = self._grpc.add_insecure_port(str(address))
            except RuntimeError as error:
                raise explain_failure(address) from error
            return str(Address(address.host, port, ""))
        prepare_socket(address.path)
        # The mask holds for the whole process, for a moment: what else is created then is closed to others, too.
        mask = os.umask(0o177)
        try:
            self._grpc.add_insecure_port(str(address))
        except RuntimeError as error:
            raise explain_failure(address) from error
        finally:
            os.umask(mask)
        self._sockets.append((address.path, os.lstat(address.path).st_ino))
        return str(address)

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls, wait for those under way, then cancel what is left.

        Tails end at once, and streams of commits once what was read of them is answered: their clients go on with them
        where the daemon comes back.
        """
        await self._health.enter_graceful_shutdown()
        self._store_service.end_streams("the daemon is stopping")
        self._watches.end("the daemon is stopping")
        self._admin.end_streams()
        await self._grpc.stop(grace_seconds)
        self._admin.close()
        self._readers.shutdown(wait=False)
        self._store_service.close()
        await self._calls.close()
        for path, inode in self._sockets:
            _remove_socket(path, inode)

    async def cancel_calls(self) -> None:
        """Cancel the calls that a `stop` under way still waits for, and so end it."""
        await self._grpc.stop(0)


def _remove_socket(path: str, inode: int) -> None:
    """Remove our socket; what took its place meanwhile is not ours."""
    try:
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        pass  # gRPC removed it
    except OSError as error:
        _logger.warning("cannot remove the socket %s: %s", path, error)
