"""Who may make calls over TCP: the token and the certificates that the daemon was told to use.

Invariants:
- The comparison with the token takes as long for one wrong token as for another of its length.
- Only `grpc.health.v1.Health/Check` is answered without a token: it tells that the daemon runs.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import logging
import os
from collections.abc import Iterable

import grpc
import msgspec

from stigmer import config, credentials, names, wire
from stigmer.config import AccessOptions, Auth
from stigmer.credentials import Pair
from stigmer.daemon.renewal import Renewed
from stigmer.errors import InvalidArgument, Unauthenticated
from stigmer.model import AccessStatus
from stigmer.wire import Address

_OPEN_TO_ALL = "/grpc.health.v1.Health/Check"

_logger = logging.getLogger("stigmer.daemon")


class _Certificates(msgspec.Struct, frozen=True):
    """What TLS takes, as it lies in the files."""

    pair: Pair
    authorities: bytes | None
    """Who signs the certificates of clients; None: they need not have any."""

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(self.pair.key, self.pair.certificates)], self.authorities)


class Access:
    """What callers over TCP have to show, and what they are shown.

    The values that are in force change on the thread of `look`, each at once, and may be read on any.
    """

    def __init__(self, options: AccessOptions | None = None) -> None:
        """Read the certificates; raises `InvalidArgument` where they cannot be used. The token comes by `open`."""
        options = options or AccessOptions()
        self._options = options
        self._token: Renewed[str] | None = None
        self._token_path = ""
        self._certificates: Renewed[_Certificates] | None = None
        cert, key, ca = options.tls_cert, options.tls_key, options.tls_client_ca
        if cert is None and key is None:
            if ca is not None:
                raise InvalidArgument("tls-client-ca", "needs TLS", hint="add --tls-cert FILE --tls-key FILE")
            return
        if cert is None or key is None:
            raise InvalidArgument(
                "tls-key" if key is None else "tls-cert",
                "is missing: TLS takes a certificate and its key",
                hint="give both --tls-cert FILE and --tls-key FILE",
            )

        def read() -> _Certificates:
            pair = credentials.read_pair(cert, key, "tls-cert", "tls-key")
            return _Certificates(pair, credentials.read_authorities(ca, "tls-client-ca") if ca is not None else None)

        paths = (cert, key) if ca is None else (cert, key, ca)
        self._certificates = Renewed("TLS", paths, read)

    @property
    def speaks_tls(self) -> bool:
        """Whether TCP takes TLS, and nothing else."""
        return self._certificates is not None

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """Make what one address of TCP needs to speak TLS; None: it does not.

        Each handshake is made with the certificates that are in force then; connections that are there stay.
        """
        certificates = self._certificates
        if certificates is None:
            return None
        shown = certificates.value

        def changed() -> grpc.ServerCertificateConfiguration | None:
            # On a thread of gRPC's, before each handshake; None: as before. Two at once may both give the new ones.
            nonlocal shown
            now = certificates.value
            if now is shown:
                return None
            shown = now
            return now.configuration()

        return grpc.dynamic_ssl_server_credentials(
            shown.configuration(),
            changed,  # type: ignore[arg-type]  # gRPC takes None; its stubs do not say so
            require_client_authentication=shown.authorities is not None,
        )

    def check_reach(self, addresses: Iterable[Address]) -> None:
        """Raise `InvalidArgument` for an address that other machines reach, unless callers there have to show who they
        are, and nobody in between can listen."""
        is_closed = self._options.auth is Auth.TOKEN or self._options.tls_client_ca is not None
        if self.speaks_tls and is_closed:
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
            if credentials.make_token(self._token_path, "token-file"):
                _logger.info("made a token: %s", self._token_path)
            read = functools.partial(credentials.read_own_token, self._token_path, "token-file")
            self._token = Renewed("the token", (self._token_path,), read)
        self._log()

    async def follow_renewals(self) -> None:
        """Take what is renewed of the files, until this is cancelled."""
        while self._token is not None or self._certificates is not None:
            # No event tells of a file on every file system, nor of one behind a link that is turned.
            await asyncio.sleep(config.RENEWAL_LOOK_SECONDS)
            if await asyncio.to_thread(self._look):
                self._log()

    def _look(self) -> bool:
        is_other = False
        for files in (self._token, self._certificates):
            if files is not None and files.look():
                _logger.info("renewed: %s", files.name)
                is_other = True
        return is_other

    def _log(self) -> None:
        asked = self.status().summary()
        if asked:
            _logger.info("TCP takes: %s", asked)
        if self._certificates is not None:
            days_left = self._certificates.value.pair.days_left()
            if days_left < config.CERTIFICATE_WARNING_DAYS:
                _logger.warning("the certificate in %s ends in %.1f days", self._options.tls_cert, days_left)

    def status(self) -> AccessStatus:
        """Say what is asked of callers, and until when the certificate holds."""
        until = self._certificates.value.pair.valid_until if self._certificates is not None else None
        return AccessStatus(
            str(self._options.auth),
            wire.path_text(self._token_path),
            self._certificates is not None,
            self._options.tls_client_ca is not None,
            round(until.timestamp()) * 1_000_000_000 if until is not None else 0,
        )

    def problem(self, path: str, metadata: Iterable[tuple[str, str | bytes]]) -> Unauthenticated | None:
        """Give the error for a call over TCP that does not show the token; None where it may be made."""
        if self._token is None or path == _OPEN_TO_ALL:
            return None
        problem = "has no token"
        expected = self._token.value.encode("ascii")
        for key, value in metadata:
            if key != wire.AUTHORIZATION_KEY:
                continue
            text = value if isinstance(value, str) else value.decode("latin-1")
            scheme, _, shown = text.partition(" ")
            if scheme.lower() == "bearer" and hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), expected):
                return None
            problem = "has another token than the daemon's"
        return Unauthenticated(f"the call {problem}")
