"""Who may make calls over TCP: the token and the certificates that the daemon was told to use.

Invariants:
- The comparison with the token takes as long for one wrong token as for another of its length.
- Only `grpc.health.v1.Health/Check` is answered without a token: it tells that the daemon runs.
"""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Iterable

import grpc

from stigmer import config, credentials, names, wire
from stigmer.config import AccessOptions, Auth
from stigmer.credentials import Pair
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

    def problem(self, path: str, metadata: Iterable[tuple[str, str | bytes]]) -> Unauthenticated | None:
        """Give the error for a call over TCP that does not show the token; None where it may be made."""
        if self._token is None or path == _OPEN_TO_ALL:
            return None
        problem = "has no token"
        expected = self._token.encode("ascii")
        for key, value in metadata:
            if key != wire.AUTHORIZATION_KEY:
                continue
            text = value if isinstance(value, str) else value.decode("latin-1")
            scheme, _, shown = text.partition(" ")
            if scheme.lower() == "bearer" and hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), expected):
                return None
            problem = "has another token than the daemon's"
        return Unauthenticated(f"the call {problem}")
