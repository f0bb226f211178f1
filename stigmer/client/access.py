"""What a client shows to a daemon, and what it wants to be shown: the token, TLS, and the channel that comes of them.

Invariants:
- A token leaves this machine only over TLS.
- A socket in the file system needs neither, and gets neither.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from stigmer import credentials, wire
from stigmer.client import attempts
from stigmer.config import Tls
from stigmer.errors import InvalidArgument
from stigmer.wire import Address


class Access:
    """How one client gets to its daemon."""

    def __init__(self, address: Address, token: str | None, tls: Tls | None) -> None:
        """Raises `InvalidArgument` where something is not a token, or a certificate cannot be used."""
        self._address = address
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._credentials: grpc.ChannelCredentials | None = None
        if token is not None:
            credentials.check_token(token, "token")
        if address.is_unix:
            return
        if tls is not None:
            self._credentials = _channel_credentials(tls)
        if token is None:
            return
        if self._credentials is None and not address.is_local:
            raise InvalidArgument(
                "token",
                f"is not sent in the clear to {address}, which is on another machine",
                hint="turn TLS on: tls=stigmer.Tls(CA_FILE), --tls-ca FILE or STIGMER_TLS_CA",
            )
        self._metadata = ((wire.AUTHORIZATION_KEY, f"Bearer {token}"),)

    def with_token(self, method: Callable[..., Any], *metadata: tuple[str, str]) -> Callable[..., Any]:
        """Give a method of a channel that by itself shows the token, and sends what else is given here."""
        shown = self._metadata + metadata
        return functools.partial(method, metadata=shown) if shown else method

    def channel(self) -> grpc.Channel:
        """Make the connection of the blocking client."""
        target, options = attempts.target_of(self._address), attempts.channel_options(self._address)
        if self._credentials is None:
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(target, self._credentials, options)

    def aio_channel(self) -> grpc.aio.Channel:
        """Make the connection of the asyncio client, on the loop that runs now."""
        target, options = attempts.target_of(self._address), attempts.channel_options(self._address)
        if self._credentials is None:
            return grpc.aio.insecure_channel(target, options=options)
        return grpc.aio.secure_channel(target, self._credentials, options=options)


def _channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    authorities = credentials.read_authorities(tls.ca, "tls-ca")
    if tls.cert is None and tls.key is None:
        return grpc.ssl_channel_credentials(authorities)
    if tls.cert is None or tls.key is None:
        raise InvalidArgument(
            "tls-key" if tls.key is None else "tls-cert", "is missing: a certificate is shown with its key"
        )
    pair = credentials.read_pair(tls.cert, tls.key, "tls-cert", "tls-key")
    return grpc.ssl_channel_credentials(authorities, pair.key, pair.certificates)
