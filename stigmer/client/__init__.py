"""Clients of the daemon: `sync.py` and `aio.py`, with the methods and the values of the embedded `Store`.

    access.py         the token, TLS, and the channel
    attempts.py       which failures are tried again, how soon, and what is raised in the end
    requests.py       arguments checked and serialized
    answers.py        answers decoded
    write_stream.py   what the asyncio client's callers save, on one stream
    gets.py           what they get, in few calls
    bulk.py           `client.writer()`
    save_many.py      many commits of the blocking client

gRPC is imported by the first `connect`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stigmer import config

if TYPE_CHECKING:
    from stigmer.client.sync import Client

__all__ = ["connect"]


def connect(
    addr: str = config.ADDR_DEFAULT,
    timeout: float | None = 10.0,
    *,
    wait_for_ready: bool = False,
    token: str | None = None,
    tls: config.Tls | None = None,
) -> Client:
    """Connect to a daemon; see `stigmer.client.sync.connect`."""
    from stigmer.client import sync

    return sync.connect(addr, timeout, wait_for_ready=wait_for_ready, token=token, tls=tls)
