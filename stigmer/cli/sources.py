"""Resources of the platform's kinds, wherever they come from: the daemon, or the data directory itself.

Owns the one face of both for commands that read. Without the key of the secrets, a data directory is read all the same:
what is sealed stays so, and is shown masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from stigmer import config
from stigmer.cli import backend
from stigmer.cli.invocation import Invocation
from stigmer.client.resources import Listed, RemoteResources
from stigmer.errors import DataDirectoryError, InvalidArgument
from stigmer.model import Resource

if TYPE_CHECKING:
    from stigmer.cli.backend import AnyStore
    from stigmer.resources.kinds import Kind
    from stigmer.store import Store
    from stigmer.vault import Vault

AnyResources: TypeAlias = "RemoteResources | LocalResources"


class Source(NamedTuple):
    """Where a command reads."""

    store: AnyStore
    """Any kind, bytes as they are stored."""
    resources: AnyResources
    """The platform's kinds, with readable secrets."""
    show_secrets: bool
    """Whether secrets are shown: they are asked for, and can be read."""

    def stored_or_revealed(self, kind: str, id: str, value: bytes) -> bytes:
        """Give a stored value as it is to be shown: with readable secrets where these are asked for."""
        from stigmer.resources import sealing
        from stigmer.vault import SEALED_PREFIX

        if not self.show_secrets or SEALED_PREFIX.encode() not in value or not sealing.may_hold_secrets(kind):
            return value
        return self.resources.reveal([(kind, id, value)])[0]


class LocalResources:
    """What `RemoteResources` reads, of a data directory that this process has open."""

    def __init__(self, store: Store, vault: Vault) -> None:
        from stigmer.artifacts import Artifacts
        from stigmer.resources.reading import Reading

        self._reading = Reading(store, vault, Artifacts(store.directory))  # no artifact is looked at

    def find(self, kind: str, ref: str, org: str = "") -> Resource:
        """Give the resource that has an id or a slug, in an organization where that is given."""
        return self._reading.find(_known(kind), ref, org)

    def list(
        self,
        kind: str,
        *,
        labels: Iterable[str] = (),
        tags: Iterable[str] = (),
        phase: int = 0,
        limit: int = 0,
        page_token: str = "",
    ) -> Listed:
        """Give the resources of a kind that have every label, every tag and the phase, newest first."""
        where = self._reading.conditions(labels, tags, phase)
        return Listed(*self._reading.list(_known(kind), where, limit or config.GET_KEYS_MAX, page_token))

    def reveal(self, values: Sequence[tuple[str, str, bytes]]) -> Sequence[bytes]:
        """Give stored values with their secrets readable."""
        from stigmer.resources import sealing

        return [sealing.reveal(kind, id, value, self._reading.vault) for kind, id, value in values]


def _known(kind: str) -> Kind:
    from stigmer.resources import kinds

    known = kinds.find(kind)
    assert known is not None, kind
    return known


@contextmanager
def reader(invocation: Invocation) -> Iterator[Source]:
    """Read from the daemon or, where none runs, from the data directory itself."""
    with backend.reader(invocation) as store, of_store(invocation, store) as source:
        yield source


@contextmanager
def of_store(invocation: Invocation, store: AnyStore) -> Iterator[Source]:
    """Read from a daemon that is connected, or from a store that is open."""
    # Told by what it has: to import both classes, gRPC and the storage, would double the time of a short command.
    remote: RemoteResources | None = getattr(store, "resources", None)
    if remote is not None:
        yield Source(store, remote, invocation.show_secrets)
        return
    from stigmer.vault import Vault

    store = cast("Store", store)

    show_secrets = invocation.show_secrets
    vault = Vault.without_keys(store.directory)
    if show_secrets:
        try:
            vault = Vault.open(store.directory, invocation.key_file, dict(invocation.environ))
        except (DataDirectoryError, InvalidArgument) as error:
            show_secrets = False
            invocation.say(f"secrets stay masked: {error.message}")
    try:
        yield Source(store, LocalResources(store, vault), show_secrets)
    finally:
        vault.close()
