"""What every test of a store may end with: a walk over everything that must agree."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from hypothesis import settings

from stigmer import codec
from stigmer.model import Event, IndexEntry, Revision
from stigmer.store import Store
from stigmer.views.terms import ALL, term_key, terms_of
from stigmer.views.view import Databases, Transaction

deterministic = settings(derandomize=True, deadline=None, database=None)
"""Hypothesis with the same examples in every run."""


def check_store(store: Store) -> list[Event]:
    """Check that the views are the fold of the log and the tail has every revision once; give the tail's events."""
    events = list(store.tail(0, follow=False))
    assert [event.revision for event in events] == list(range(1, store.status().revision + 1))
    state = fold(events)
    assert state_of(store, {kind for kind, _ in state}) == state
    counts: dict[str, int] = {}
    for kind, _ in state:
        counts[kind] = counts.get(kind, 0) + 1
    assert store.count() == counts
    report = store.verify()
    assert (report.differences, report.examples, report.revision) == (0, [], len(events))
    check_index(store, events)
    return events


def copy_as_a_crash_leaves(store: Store, target: Path) -> None:
    """Copy the directory of an open store as it is at one moment: on the writer's thread, so nothing is flushed."""

    def copy() -> None:
        shutil.copytree(store.directory, target)

    store._writer.run(copy)


def check_index(store: Store, events: list[Event]) -> None:
    """Check that the index has what the last events of the resources say, row by row, and lists it so."""
    expected = index_of(
        (event.kind, event.id, event.value if event.op == "save" else None, event.revision) for event in events
    )
    store._writer.flush()
    entries, sizes = store._writer.projector.environment.read(index_rows)
    assert entries == expected
    assert sizes == {term: len(those) for term, those in expected.items()}
    for term, those in expected.items():
        kind, index, text = term.decode(errors="surrogateescape").split("\0")
        if index == ALL:
            page = store.list_indexed(kind)
            assert page.total == len(those)
            ids = [codec.resource_of(row).id for row in page.rows]
            assert ids == [entry.id for entry in reversed(those)][: len(ids)]
        elif term_key(kind, index, text) == term:  # no hash
            assert store.find_ids(kind, index, text) == those


def index_of(changes: Iterable[tuple[str, str, bytes | None, int]]) -> dict[bytes, list[IndexEntry]]:
    """Give what the index has after changes (kind, id, value or None for a delete, revision): by term, oldest first."""
    there: dict[tuple[str, str], tuple[int, bytes]] = {}
    for kind, id, value, revision in changes:
        if value is None:
            del there[kind, id]
        else:
            there[kind, id] = (there.get((kind, id), (revision,))[0], value)
    found: dict[bytes, list[IndexEntry]] = {}
    for (kind, id), (created_revision, value) in sorted(there.items(), key=lambda one: one[1][0]):
        for term in terms_of(kind, value):
            entry = IndexEntry(id, term.qualifier.decode(errors="surrogateescape"), Revision(created_revision))
            found.setdefault(term.key, []).append(entry)
    return found


def index_rows(
    transaction: Transaction, databases: Databases
) -> tuple[dict[bytes, list[IndexEntry]], dict[bytes, int]]:
    """Give all entries that LMDB has, by term, and all sizes, by the places of the rows' parts alone."""
    entries: dict[bytes, list[IndexEntry]] = {}
    for key, row in transaction.cursor(db=databases["index.1"]):
        kind, index, text, place = key.split(b"\0", 3)
        entry = IndexEntry(
            place[8:].decode(), row[4:].decode(errors="surrogateescape"), Revision(int.from_bytes(place[:8], "big"))
        )
        entries.setdefault(b"\0".join((kind, index, text)), []).append(entry)
    sizes = {key: int.from_bytes(row[4:], "little") for key, row in transaction.cursor(db=databases["index_sizes.1"])}
    return entries, sizes


def fold(events: list[Event]) -> dict[tuple[str, str], tuple[bytes, int]]:
    """Give what events come to: (kind, id) -> (value, revision)."""
    state: dict[tuple[str, str], tuple[bytes, int]] = {}
    for event in events:
        if event.op == "save":
            state[event.kind, event.id] = (event.value, event.revision)
        else:
            del state[event.kind, event.id]
    return state


def state_of(store: Store, kinds: set[str]) -> Mapping[tuple[str, str], tuple[bytes, int]]:
    """Give what List shows of some kinds: (kind, id) -> (value, revision); check that Get agrees and order holds."""
    state = {}
    for kind in kinds:
        resources = store.list(kind).resources
        ids = [resource.id.encode() for resource in resources]
        assert ids == sorted(set(ids))
        for resource in resources:
            assert store.get(kind, resource.id) == resource
            state[kind, resource.id] = (resource.value, int(resource.revision))
    return state
