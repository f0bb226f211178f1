"""Stigmer's store: an event log with materialized views, embedded or behind a daemon.

store = stigmer.open("data")             # embedded: this process owns the directory
client = stigmer.connect("127.0.0.1:50051")      # the same methods, over gRPC; stigmer.aio for asyncio

revision = store.save("note", "n1", b"hello")
store.get("note", "n1").value
for event in store.tail(after=0, follow=False): ...
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from stigmer.version import VERSION as __version__

if TYPE_CHECKING:
    from stigmer.client.sync import Client
    from stigmer.config import Tls
    from stigmer.model import Committed, Delete, Event, Op, Page, Resource, Save, Status
    from stigmer.store import Store

_FROM_MODEL = frozenset({"Committed", "Delete", "Event", "Op", "Page", "Resource", "Save", "Status"})


def __getattr__(name: str) -> Any:
    """Give the values of `stigmer.model` when they are first asked for, so that the command line starts sooner."""
    import importlib

    if name in _FROM_MODEL:
        return getattr(importlib.import_module("stigmer.model"), name)
    if name == "Tls":
        return importlib.import_module("stigmer.config").Tls
    if name in ("aio", "config", "errors"):
        return importlib.import_module(f"stigmer.{name}")
    raise AttributeError(f"module 'stigmer' has no attribute {name!r}")


def open(path: str | os.PathLike[str], **options: Any) -> Store:
    """Open the store in a data directory, made if it is not there.

    `options` are those of `stigmer.config.StoreOptions`: `durability`, `segment_bytes`, ... Raises
    `stigmer.errors.DataDirectoryError`, `CorruptLog`, `DiskFull` or `StorageFailed`.
    """
    import msgspec

    from stigmer.config import StoreOptions
    from stigmer.errors import InvalidArgument
    from stigmer.store import Store

    try:
        given = msgspec.convert(options, StoreOptions)
    except msgspec.ValidationError as error:
        raise InvalidArgument("options", str(error)) from error
    unknown = options.keys() - {field.name for field in msgspec.structs.fields(StoreOptions)}
    if unknown:
        raise InvalidArgument("options", f"there is no option {', '.join(sorted(unknown))}")
    return Store.open(path, given)


def connect(
    addr: str | None = None, timeout: float = 10.0, *, token: str | None = None, tls: Tls | None = None
) -> Client:
    """Connect to a daemon; the client has the methods of the store.

    `addr` is HOST:PORT or unix:PATH, by default that of `STIGMER_ADDR` or 127.0.0.1:50051; `timeout`, in seconds, is
    for each call. `token`, by default that of `STIGMER_TOKEN` or of the file that `STIGMER_TOKEN_FILE` names, is what
    a daemon with `--auth token` asks for. `tls`, by default `Tls(STIGMER_TLS_CA, STIGMER_TLS_CERT, STIGMER_TLS_KEY)`
    where the first of them is set, turns TLS on. Raises `stigmer.errors.Unavailable` where nobody answers, and
    `Unauthenticated` where the daemon wants another token.
    """
    from stigmer import credentials
    from stigmer.client.sync import connect as connect_sync
    from stigmer.config import ADDR_DEFAULT

    return connect_sync(
        addr or os.environ.get("STIGMER_ADDR") or ADDR_DEFAULT,
        timeout=timeout,
        token=credentials.token_from(os.environ) if token is None else token,
        tls=credentials.tls_from(os.environ) if tls is None else tls,
    )


__all__ = [
    "Committed",
    "Delete",
    "Event",
    "Op",
    "Page",
    "Resource",
    "Save",
    "Status",
    "Tls",
    "__version__",
    "connect",
    "open",
]
