"""The index: what has a term is a function of the log, in memory as in LMDB, and damage is never given out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checks import deterministic, index_of, index_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stigmer.errors import CorruptView
from stigmer.model import IndexEntry
from stigmer.pb.agentic import agent_pb2, agentexecution_pb2
from stigmer.views import index
from stigmer.views.index import Index, Overlay
from stigmer.views.keys import parts_of
from stigmer.views.projector import Projector
from stigmer.views.terms import DECLARED, term_key
from stigmer.views.view import Databases, FoldCommit, Transaction, lookup_in
from views.support import MAP_BYTES, Change, fold_commits, random_commits, random_value, rows

INDEX_DATABASES = ("index.1", "index_sizes.1", "index_terms.1")


@pytest.fixture
def open_projector(tmp_path: Path) -> Iterator[Callable[[str], Projector]]:
    """Opens projectors in directories of their own, and closes them at the end."""
    opened: list[Projector] = []

    def open_one(name: str = "views") -> Projector:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        opened.append(Projector(str(directory), MAP_BYTES))
        return opened[-1]

    yield open_one
    for projector in opened:
        projector.environment.close()


@pytest.fixture
def projector(open_projector: Callable[[str], Projector]) -> Projector:
    """One projector."""
    return open_projector("views")


def agent(slug: str = "", org: str = "", *tags: str) -> bytes:
    """Give the value of an agent."""
    message = agent_pb2.Agent()
    message.metadata.slug = slug
    message.metadata.org = org
    message.metadata.tags.extend(tags)
    return message.SerializeToString()


def fold(projector: Projector, *changes: Change) -> None:
    """Fold changes as one commit."""
    projector.fold(fold_commits([(list(changes), "")], projector.checkpoint))


def model_of(commits: list[FoldCommit]) -> dict[bytes, list[IndexEntry]]:
    """Give what the index has after commits."""
    return index_of(
        (*parts_of(change.key), change.value, change.revision) for commit in commits for change in commit.changes
    )


def entries(projector: Projector, term: bytes, behind: bytes = b"", newest_first: bool = False) -> list[IndexEntry]:
    """Read the resources that have a term."""
    return projector.read(
        Index,
        lambda view: view.memory.places(term),
        lambda transaction, databases, places: list(
            index.entries_of(transaction, databases, places, term, behind=behind, newest_first=newest_first)
        ),
    )


def size(projector: Projector, term: bytes) -> int:
    """Read how many resources have a term."""
    return projector.read(
        Index,
        lambda view: view.memory,
        lambda transaction, databases, memory: memory.size(lookup_in(transaction, databases), term),
    )


def index_of_rows(projector: Projector) -> dict[bytes, list[IndexEntry]]:
    """Give what LMDB has once all is flushed; sizes must say the same."""
    projector.flush()
    found, sizes = projector.environment.read(index_rows)
    assert sizes == {term: len(those) for term, those in found.items()}
    return found


SLUG, ALL = term_key("agent", "slug", "one"), term_key("agent", "all")


def test_reads_of_memory_and_rows_are_what_the_log_says(open_projector: Callable[[str], Projector]) -> None:
    """After every commit, flushed or not, entries in both orders and behind any place, sizes and terms are right."""
    for seed in range(6):
        projector = open_projector(str(seed))
        commits = fold_commits(random_commits(seed, 60))
        every_term = [*sorted(model_of(commits)), term_key("agent", "tag", "none")]
        for place, commit in enumerate(commits):
            projector.fold([commit])
            if place % 7 == 3:
                projector.flush()
            model = model_of(commits[: place + 1])
            for term in every_term:
                expected = model.get(term, [])
                assert entries(projector, term) == expected
                assert entries(projector, term, newest_first=True) == expected[::-1]
                assert size(projector, term) == len(expected)
                if expected:
                    middle = expected[len(expected) // 2]
                    at = index.place_of(middle.created_revision, middle.id)
                    assert entries(projector, term, at) == expected[len(expected) // 2 + 1 :]
                    assert entries(projector, term, at, newest_first=True) == expected[: len(expected) // 2][::-1]
                    assert has_place(projector, term, at)
                    assert not has_place(projector, term, at + b"x")
        assert index_of_rows(projector) == model_of(commits)


def has_place(projector: Projector, term: bytes, place: bytes) -> bool:
    """Read whether the resource at a place has a term."""
    return projector.read(
        Index,
        lambda view: view.memory.places(term),
        lambda transaction, databases, places: index.has_place(transaction, databases, places, term, place),
    )


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abc"), st.integers(0, 2**32)),
        st.tuples(st.sampled_from("abc"), st.none()),
        st.sampled_from(["commit", "fold", "flush", "reopen"]),
    ),
    max_size=40,
)


@settings(deterministic, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_rows_are_the_same_however_folds_and_flushes_fall(
    steps: list[tuple[str, int | None] | str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any commits in any folds, with flushes and reopenings between, leave the rows of one fold of them all."""
    place = tmp_path_factory.mktemp("folds")
    changes: list[Change] = []
    commits: list[tuple[list[Change], str]] = []
    folded = 0
    there: set[str] = set()
    projector = Projector(str(made(place / "steps")), MAP_BYTES)
    for step in [*steps, "commit", "fold"]:
        if isinstance(step, tuple):
            id, seed = step
            if seed is not None:
                there.add(id)
                changes.append(("agent", id, random_value(random.Random(seed), "agent")))
            elif id in there:
                there.remove(id)
                changes.append(("agent", id, None))
            continue
        if step == "commit" and changes:
            commits.append((changes, ""))
            changes = []
        if step == "fold":
            projector.fold(fold_commits(commits)[folded:])
            folded = len(commits)
        if step in ("flush", "reopen"):
            projector.flush()
        if step == "reopen":
            projector.environment.close()
            projector = Projector(str(place / "steps"), MAP_BYTES)
    at_once = Projector(str(made(place / "once")), MAP_BYTES)
    at_once.fold(fold_commits(commits))
    assert index_of_rows(projector) == model_of(fold_commits(commits))
    assert rows(projector) == rows(at_once)
    projector.environment.close()
    at_once.environment.close()


def made(directory: Path) -> Path:
    """Make a directory."""
    directory.mkdir()
    return directory


@pytest.mark.parametrize(("resources", "terms_of_each"), [(0, 32), (1, 32), (3, 3), (100, 3), (100, 32)])
def test_what_is_kept_at_hand_changes_nothing(
    open_projector: Callable[[str], Projector], monkeypatch: pytest.MonkeyPatch, resources: int, terms_of_each: int
) -> None:
    """With room for the terms of few resources, or of none with many terms, the rows are the same."""
    commits = random_commits(5, 80)
    expected = model_of(fold_commits(commits))
    monkeypatch.setattr(index, "_KNOWN_MAX", resources)
    monkeypatch.setattr(index, "_KNOWN_TERMS_MAX", terms_of_each)
    projector = open_projector("views")
    for place, commit in enumerate(fold_commits(commits)):
        projector.fold([commit])
        if place % 4 == 0:
            projector.flush()
        known = projector.view(Index)._known
        assert len(known) <= resources
        assert all(len(indexed.terms) <= terms_of_each for indexed in known.values() if indexed is not None)
    assert index_of_rows(projector) == expected


def test_change_of_anything_else_writes_nothing_and_reads_nothing(projector: Projector) -> None:
    """A status that is reported again and again costs no row, and no look into LMDB."""
    execution = agentexecution_pb2.AgentExecution()
    execution.spec.session_id = "ses-1"
    execution.status.phase = agentexecution_pb2.EXECUTION_IN_PROGRESS
    execution.metadata.labels.update(dict.fromkeys("abcdefgh", "x"))
    fold(projector, ("agent_execution", "aex-1", execution.SerializeToString()))
    view = projector.view(Index)
    assert view.unflushed == 11 + 11 + 1
    projector.flush()
    assert view.unflushed == 0

    def lookup(database: str, key: bytes) -> bytes | None:
        if database in INDEX_DATABASES:
            raise AssertionError(f"{database} was read at {key!r}")
        return None

    for n in range(3):
        execution.status.messages.add(content=f"message {n}")
        (commit,) = fold_commits([([("agent_execution", "aex-1", execution.SerializeToString())], "")], n + 1)
        commit.changes[0].was_there, commit.changes[0].created_revision = True, 1
        overlay = view.fold(lookup, [commit])
        assert overlay is not None
        view.take(overlay)
        assert view.unflushed == 0
    (commit,) = fold_commits([([("note", "n", b"")], "")], 9)
    assert view.fold(lookup, [commit]) is None


def test_resource_created_again_has_a_new_place(projector: Projector) -> None:
    """A delete takes all entries away; what comes under the same id later is the newest, in one commit as well."""
    fold(projector, ("agent", "a", agent("one")), ("agent", "b", agent("one")))
    for flushes in (False, True, False):
        if flushes:
            projector.flush()
        before = projector.checkpoint
        fold(projector, ("agent", "a", None))
        assert [entry.id for entry in entries(projector, SLUG)] == ["b"]
        fold(projector, ("agent", "a", agent("one")), ("agent", "a", None), ("agent", "a", agent("one")))
        assert entries(projector, SLUG)[-1] == IndexEntry("a", "", before + 4)
        assert [entry.id for entry in entries(projector, ALL)] == ["b", "a"]
    assert index_of_rows(projector)[SLUG] == entries(projector, SLUG)
    fold(projector, ("agent", "a", None), ("agent", "b", None))
    assert index_of_rows(projector) == {}
    assert [rows(projector)[name] for name in INDEX_DATABASES] == [[], [], []]


def test_qualifier_that_changes_keeps_the_place(projector: Projector) -> None:
    """An agent that moves to another organization has its entry there, counted once."""
    fold(projector, ("agent", "a", agent("one", "acme")))
    for org, flushes in (("umbrella", False), ("acme", True), ("", True)):
        if flushes:
            projector.flush()
        fold(projector, ("agent", "a", agent("one", org)))
        assert entries(projector, SLUG) == [IndexEntry("a", org, 1)]
        assert size(projector, SLUG) == 1
    assert index_of_rows(projector)[SLUG] == [IndexEntry("a", "", 1)]


def test_longest_names_and_texts_fit_into_rows(projector: Projector) -> None:
    """Ids of 256 bytes with texts of any length, kind and index with the longest names, are rows like others."""
    id = "é" * 128
    execution = agent_pb2.Agent()
    execution.metadata.tags.extend(["t" * 96, "t" * 97, "t" * 100_000, "t\0t"])
    execution.metadata.labels["k" * 10_000] = "v" * 10_000
    execution.metadata.org = "o" * 10_000
    execution.metadata.slug = "s" * 10_000
    value = execution.SerializeToString()
    for kind in ("agent", "workflow_execution", "workflow_instance"):
        fold(projector, (kind, id, value))
    for flushes in (False, True):
        if flushes:
            projector.flush()
        for text in execution.metadata.tags:
            assert entries(projector, term_key("agent", "tag", text)) == [IndexEntry(id, "", 1)]
    assert len(entries(projector, term_key("agent", "slug", "s" * 10_000))) == 1
    fold(projector, *((kind, id, None) for kind in ("agent", "workflow_execution", "workflow_instance")))
    assert index_of_rows(projector) == {}


@pytest.mark.parametrize("seed", range(8))
def test_overlay_shows_commits_before_they_are_folded(open_projector: Callable[[str], Projector], seed: int) -> None:
    """What a decision lays over the memory, change by change, is what folding these changes gives; memory stays."""
    projector, ahead = open_projector("now"), open_projector("ahead")
    commits = fold_commits(random_commits(seed, 40))
    for each in (projector, ahead):
        again = fold_commits(random_commits(seed, 40))
        each.fold(again[:10])
        each.flush()
        each.fold(again[10:20])
    ahead.fold(fold_commits(random_commits(seed, 40))[20:])
    model, before = model_of(commits), model_of(commits[:20])

    def decide(transaction: Transaction, databases: Databases) -> None:
        lookup = lookup_in(transaction, databases)
        overlay = Overlay(projector.view(Index).memory)
        for commit in commits[20:]:
            for change in commit.changes:
                if change.kind in DECLARED:
                    overlay.fold(lookup, change)
        for term in {*model, *before}:
            places = overlay.places(term)
            assert list(index.entries_of(transaction, databases, places, term)) == model.get(term, [])
            assert overlay.size(lookup, term) == len(model.get(term, []))
        for key in {change.key for commit in commits for change in commit.changes}:
            assert overlay.resource(lookup, key) == resource(ahead, key)

    projector.environment.read(decide)
    for term in {*model, *before}:
        assert entries(projector, term) == before.get(term, [])
    assert index_of_rows(projector) == before


def put(projector: Projector, database: str, key: bytes, row: bytes | None) -> None:
    """Put a row behind the views' back; None deletes it."""

    def work(transaction: Transaction) -> None:
        if row is None:
            assert transaction.delete(key, db=projector.environment.databases[database])
        else:
            transaction.put(key, row, db=projector.environment.databases[database])

    projector.environment.write(work)


def test_damaged_rows_are_refused(projector: Projector) -> None:
    """A row of the index with any bit wrong, cut anywhere, or under another key is not given out."""
    fold(projector, ("agent", "a", agent("one", "acme")))
    stored = rows(projector)
    place = index.place_of(1, "a")
    reads: dict[str, tuple[bytes, Callable[[], object]]] = {
        "index.1": (SLUG + b"\0" + place, lambda: (entries(projector, SLUG), entries(projector, SLUG, b"", True))),
        "index_sizes.1": (SLUG, lambda: size(projector, SLUG)),
        "index_terms.1": (b"agent/a", lambda: resource(projector, b"agent/a")),
    }
    for database, (key, read) in reads.items():
        row = dict(stored[database])[key]
        expected = read()
        damaged = [row[:cut] for cut in range(len(row))]
        damaged += [
            row[: bit // 8] + bytes((row[bit // 8] ^ 1 << bit % 8,)) + row[bit // 8 + 1 :]
            for bit in range(len(row) * 8)
        ]
        damaged += [other for _, other in stored[database] if other != row]
        for one in damaged:
            put(projector, database, key, one)
            with pytest.raises(CorruptView, match="index") as caught:
                read()
            assert caught.value.view == "index"
            if database == "index.1":
                with pytest.raises(CorruptView):
                    entries(projector, SLUG, newest_first=True)
                with pytest.raises(CorruptView):
                    has_place(projector, SLUG, place)
        put(projector, database, key, row)
        assert read() == expected


def resource(projector: Projector, key: bytes) -> object:
    """Read what is known of a resource."""
    return projector.read(
        Index,
        lambda view: view.memory,
        lambda transaction, databases, memory: memory.resource(lookup_in(transaction, databases), key),
    )


def test_fold_does_not_build_on_rows_that_are_missing(open_projector: Callable[[str], Projector]) -> None:
    """Where the terms of a resource, or the number of a term, were lost, a change is refused and not folded wrong."""
    for database, key in (("index_terms.1", b"agent/a"), ("index_sizes.1", SLUG)):
        projector = open_projector(database)
        fold(projector, ("agent", "a", agent("one")))
        projector.flush()
        put(projector, database, key, None)
        projector.environment.close()
        again = open_projector(database)
        before = rows(again)
        for value in (agent("two"), None):
            with pytest.raises(CorruptView, match="index"):
                fold(again, ("agent", "a", value))
        assert again.checkpoint == 1
        assert rows(again) == before


@pytest.mark.parametrize("created_again", [False, True])
def test_fold_does_not_build_on_the_terms_of_an_earlier_resource(
    open_projector: Callable[[str], Projector], created_again: bool
) -> None:
    """A row of terms that a delete should have taken away is not taken for that of what came under the id later."""
    projector = open_projector("views")
    fold(projector, ("agent", "a", agent("one")))
    row = dict(rows(projector)["index_terms.1"])[b"agent/a"]
    fold(projector, ("agent", "a", None))
    if created_again:
        fold(projector, ("agent", "a", agent("one")))
    projector.flush()
    put(projector, "index_terms.1", b"agent/a", row)
    projector.environment.close()
    again = open_projector("views")
    with pytest.raises(CorruptView, match="do not agree with the snapshot"):
        fold(again, ("agent", "a", agent("two")))
