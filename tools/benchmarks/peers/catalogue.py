"""The peers, in the order in which they are shown. Imports no peer's package: those are imported when one starts."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from benchmarks.peers.peer import Peer


class Entry(NamedTuple):
    """A peer in one setting."""

    name: str
    """On the command line; `--only` takes it, or its first word."""
    title: str
    is_durable: bool
    """Whether what it acknowledged survives a power cut."""
    module: str
    arguments: tuple[Any, ...] = ()
    is_packaged: bool = False
    """Whether its client, and perhaps its server, is a package of the peers' own environment."""
    command: str = ""
    """A command that must be on this machine."""
    is_in_process: bool = False
    """Whether it runs inside the client's process."""
    install: str = ""
    """How to get that command, in a sentence."""

    def load(self) -> type[Peer]:
        """Give the class of the peer."""
        return importlib.import_module(f"benchmarks.peers.{self.module}").PEER  # type: ignore[no-any-return]

    def make(self) -> Peer:
        """Make the peer, not started."""
        return self.load()(*self.arguments)


STIGMER = "stigmer-daemon"
EMBEDDED = "stigmer-embedded"
FLOOR = "floor"

_GO = "Install Go 1.24 or newer; the program around BadgerDB is then built by itself."
_ETCD = "Install the package `etcd-server` (Debian, Ubuntu), or put `etcd` on the PATH."
_REDIS = "Install the package `redis-server` (Debian, Ubuntu), or put `redis-server` on the PATH."

PEERS: tuple[Entry, ...] = (
    Entry(STIGMER, "stigmer, daemon", True, "stigmer_daemon"),
    Entry(EMBEDDED, "stigmer, embedded", True, "stigmer_embedded", is_in_process=True),
    Entry("umadb", "UmaDB", True, "umadb_server", (True,), is_packaged=True),
    Entry("umadb-untagged", "UmaDB, without tags", True, "umadb_server", (False,), is_packaged=True),
    Entry("etcd", "etcd", True, "etcd", is_packaged=True, command="etcd", install=_ETCD),
    Entry("jetstream-always", "NATS JetStream", True, "jetstream", (True,), is_packaged=True),
    Entry("jetstream-default", "NATS JetStream, default", False, "jetstream", (False,), is_packaged=True),
    Entry("redis", "Redis", True, "redis_server", is_packaged=True, command="redis-server", install=_REDIS),
    Entry("badger", "BadgerDB, in Go", True, "badger", is_in_process=True, command="go", install=_GO),
    Entry("sqlite-blob-full", "SQLite, BLOB", True, "sqlite", ("BLOB", "FULL"), is_in_process=True),
    Entry("sqlite-blob-normal", "SQLite, BLOB, NORMAL", False, "sqlite", ("BLOB", "NORMAL"), is_in_process=True),
    Entry("sqlite-json-full", "SQLite, JSON text", True, "sqlite", ("JSON", "FULL"), is_in_process=True),
    Entry("sqlite-json-normal", "SQLite, JSON text, NORMAL", False, "sqlite", ("JSON", "NORMAL"), is_in_process=True),
    Entry(FLOOR, "gRPC that does nothing", False, "floor"),
)

BY_NAME = {entry.name: entry for entry in PEERS}


def select(names: list[str]) -> list[Entry]:
    """Give the peers of these names or first words, in their order. Raises `LookupError` for one that is none."""
    for name in names:
        if not any(_is_named(entry, name) for entry in PEERS):
            raise LookupError(name)
    return [entry for entry in PEERS if any(_is_named(entry, name) for name in names)]


def _is_named(entry: Entry, name: str) -> bool:
    return entry.name == name or entry.name.startswith(name + "-")
