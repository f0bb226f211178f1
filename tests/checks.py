"""What every test of a store may end with: a walk over everything that must agree."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import settings

from stigmer.model import Event
from stigmer.store import Store

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
    return events


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
