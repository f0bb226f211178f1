"""Who may make calls: the token and the certificates that the daemon was told to use, and the guard before TCP's calls.

Invariants:
- A call without the token is refused before its request is read, so that it costs no memory.
- The comparison with the token takes as long for one wrong token as for another of its length.
- Only `grpc.health.v1.Health/Check` is answered without a token: it tells that the daemon runs.
"""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import grpc

from stigmer import config, credentials, names, wire
from stigmer.config import AccessOptions, Auth
from stigmer.credentials import Pair
from stigmer.daemon import handlers
from stigmer.daemon.handlers import Context
from stigmer.errors import InvalidArgument, Unauthenticated
from stigmer.model import AccessStatus
from stigmer.wire import Address

_OPEN_TO_ALL = "/grpc.health.v1.Health/Check"

_logger = logging.getLogger("stigmer.daemon")


class Access:
    """What callers over TCP have to show, and what they are shown."""

    def __init__(self, options: AccessOptions | None = None) -> None:
        """Read the certificates; raises `InvalidArgument` where they cannot be used. The token comes by `open`."""
        options = options or AccessOptions()
        self._options = options
        self._token: str | None = None
        self._token_path = ""
        self._pair: Pair | None = None
        self.credentials: grpc.ServerCredentials | None = None
        """For TCP; None: without TLS."""
        if options.tls_cert is None and options.tls_key is None:
            if options.tls_client_ca is not None:
                raise InvalidArgument("tls-client-ca", "needs TLS", hint="add --tls-cert FILE --tls-key FILE")
            return
        if options.tls_cert is None or options.tls_key is None:
            raise InvalidArgument(
                "tls-key" if options.tls_key is None else "tls-cert",
                "is missing: TLS takes a certificate and its key",
                hint="give both --tls-cert FILE and --tls-key FILE",
            )
        pair = credentials.read_pair(options.tls_cert, options.tls_key, "tls-cert", "tls-key")
        self._pair = pair
        ca = options.tls_client_ca
        authorities = credentials.read_authorities(ca, "tls-client-ca") if ca is not None else None
        self.credentials = grpc.ssl_server_credentials(
            [(pair.key, pair.certificates)], authorities, require_client_auth=authorities is not None
        )

    def check_reach(self, addresses: Iterable[Address]) -> None:
        """Raise `InvalidArgument` for an address that other machines reach, unless callers there have to show who they
        are, and nobody in between can listen."""
        is_closed = self._options.auth is Auth.TOKEN or self._options.tls_client_ca is not None
        if self.credentials is not None and is_closed:
            return
        for address in addresses:
            if not address.is_local:
                raise InvalidArgument(
                    "listen",
                    f"{names.shown(str(address))} can be reached from other machines, which takes TLS "
                    "(--tls-cert, --tls-key) and a token (--auth token) or certificates of clients (--tls-client-ca)",
                    hint="add these options, or listen on 127.0.0.1:PORT, [::1]:PORT or unix:PATH",
                )

    def open(self, data_dir: str) -> None:
        """Read or make the token, where one is asked for, and log how callers are let in."""
        if self._options.auth is Auth.TOKEN:
            self._token_path = self._options.token_file or os.path.join(data_dir, credentials.TOKEN_FILE)
            self._token, is_new = credentials.read_or_make_token(self._token_path, "token-file")
            if is_new:
                _logger.info("made a token: %s", self._token_path)
        if self._pair is not None and self._pair.days_left() < config.CERTIFICATE_WARNING_DAYS:
            _logger.warning("the certificate in %s ends in %.1f days", self._options.tls_cert, self._pair.days_left())

    def status(self) -> AccessStatus:
        """Say what is asked of callers, and until when the certificate holds."""
        return AccessStatus(
            str(self._options.auth),
            wire.path_text(self._token_path),
            self._pair is not None,
            self._options.tls_client_ca is not None,
            round(self._pair.valid_until.timestamp()) * 1_000_000_000 if self._pair is not None else 0,
        )

    def guarded(self, behind: Sequence[grpc.GenericRpcHandler]) -> Sequence[grpc.GenericRpcHandler]:
        """Put what callers have to show before these handlers."""
        return behind if self._token is None else (_Guard(behind, self._token),)


Details: TypeAlias = Any
"""`grpc.HandlerCallDetails`: the method's path and the metadata."""


class _Guard(grpc.GenericRpcHandler):
    """Finds the handler of a call that shows the token; one that refuses for any other."""

    def __init__(self, behind: Sequence[grpc.GenericRpcHandler], token: str) -> None:
        self._behind = tuple(behind)
        self._expected = token.encode("ascii")

    def service(self, handler_call_details: Details) -> handlers.Handler | None:
        """Give the handler of a call; called by gRPC before it reads the request."""
        if handler_call_details.method != _OPEN_TO_ALL:
            problem = self._problem(handler_call_details.invocation_metadata)
            if problem is not None:
                return _refusing(handler_call_details.method, problem)
        for handler in self._behind:
            found = handler.service(handler_call_details)
            if found is not None:
                return found
        return None

    def _problem(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
        problem = "has no token"
        for key, value in metadata or ():
            if key != wire.AUTHORIZATION_KEY:
                continue
            text = value if isinstance(value, str) else value.decode("latin-1")
            scheme, _, shown = text.partition(" ")
            if scheme.lower() == "bearer" and hmac.compare_digest(
                shown.encode("utf-8", "surrogateescape"), self._expected
            ):
                return None
            problem = "has another token than the daemon's"
        return problem


def _refusing(path: str, problem: str) -> handlers.Handler:
    async def refuse(requests: Any, context: Context) -> None:
        await handlers.refuse(context, path, Unauthenticated(f"the call {problem}"))

    # Such a handler reads the request itself, and this one does not; whatever the method takes and gives, a client
    # understands a call that ends with a status and nothing before it.
    return grpc.stream_unary_rpc_method_handler(refuse)
