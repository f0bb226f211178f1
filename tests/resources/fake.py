"""A store in memory with what resources need of one: preconditions, pages, revisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stigmer import codec
from stigmer.errors import AlreadyExists, Conflict, NotFound
from stigmer.model import Committed, Delete, Page, Resource, Revision, Save


class FakeStore:
    """Keeps resources in a dict. `before_commit` is called in front of every commit: it may change things."""

    def __init__(self, *, page_length: int = 1000) -> None:
        self.resources: dict[tuple[str, str], Resource] = {}
        self.revision = 0
        self.commits: list[Sequence[Save | Delete]] = []
        self.page_length = page_length
        self.before_commit: Callable[[FakeStore], None] = lambda _store: None

    def get(self, kind: str, id: str) -> Resource:
        if (kind, id) not in self.resources:
            raise NotFound(kind, id)
        return self.resources[kind, id]

    def list(self, kind: str, *, prefix: str = "", limit: int | None = None, page_token: str | None = None) -> Page:
        found = [one for key, one in sorted(self.resources.items()) if key[0] == kind and one.id.startswith(prefix)]
        rest = [one for one in found if one.id > (page_token or "")]
        length = min(limit or self.page_length, self.page_length)
        page = rest[:length]
        return Page(page, page[-1].id if len(rest) > length else None)

    def commit(self, changes: Sequence[Save | Delete], *, request_id: str | None = None) -> Committed:
        assert changes, "a commit without changes"
        self.before_commit(self)
        for change in changes:
            stored = self.resources.get((change.kind, change.id))
            actual = stored.revision if stored is not None else 0
            if change.expected_revision not in (None, actual):
                if change.expected_revision == 0:
                    raise AlreadyExists(change.kind, change.id, actual)
                raise Conflict(change.kind, change.id, change.expected_revision, actual)
        first = self.revision + 1
        for change in changes:
            assert isinstance(change, Save)
            self.save(change.kind, change.id, codec.value_bytes(change.value))
        self.commits.append(changes)
        return Committed(Revision(first), Revision(self.revision))

    def save(self, kind: str, id: str, value: bytes) -> None:
        """Save behind the back of whoever is looking."""
        self.revision += 1
        revision = Revision(self.revision)
        self.resources[kind, id] = Resource(kind, id, value, revision, revision, 0, 0)
