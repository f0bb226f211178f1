"""The asyncio client: `stigmer.aio.connect`.

    async with stigmer.aio.connect("127.0.0.1:50051") as client:
        revision = await client.save("agent", "a1", b"...")
        async for event in client.tail(after=revision):
            ...

Imports gRPC, unlike `stigmer` itself.
"""

from __future__ import annotations

import os

from stigmer import config, credentials
from stigmer.client import aio
from stigmer.client.aio import Client

__all__ = ["Client", "connect"]


def connect(
    addr: str | None = None,
    timeout: float | None = 10.0,
    *,
    wait_for_ready: bool = False,
    token: str | None = None,
    tls: config.Tls | None = None,
) -> Client:
    """Make a client of the daemon at `addr`, by default that of `STIGMER_ADDR` or 127.0.0.1:50051.

    `token` and `tls`, by default those of the environment: see `stigmer.connect`, and `stigmer.client.aio.connect`.
    """
    if addr is None:
        addr = os.environ.get("STIGMER_ADDR") or config.ADDR_DEFAULT
    if token is None:
        token = credentials.token_from(os.environ)
    if tls is None:
        tls = credentials.tls_from(os.environ)
    return aio.connect(addr, timeout, wait_for_ready=wait_for_ready, token=token, tls=tls)
