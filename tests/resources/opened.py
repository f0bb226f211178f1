"""Resources over a real store, for the tests of what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import stigmer
from stigmer.artifacts import Artifacts
from stigmer.model import Transacted
from stigmer.resources.verbs import Resources
from stigmer.store import Store
from stigmer.vault import Vault


class Interrupted:
    """A store in whose commits others come first: `before_transact` is called in front of each, and may write."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.before_transact: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def transact(self, operation: Callable[[Any], Any], request_id: str | None = None) -> Transacted:
        self.before_transact()
        return self._store.transact(operation, request_id)


@contextmanager
def opened(directory: Path) -> Iterator[Resources]:
    """Open the resources of a data directory; their `store` is an `Interrupted`."""
    with (
        stigmer.open(directory, durability="os") as store,
        closing(Vault.open(str(directory), None, {})) as vault,
    ):
        yield Resources(Interrupted(store), vault, Artifacts(str(directory / "artifacts")))
