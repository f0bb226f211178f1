"""The folds: rows of every view as a function of the log, however it is cut into batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from stigmer import codec, config
from stigmer.errors import CorruptView
from stigmer.model import Committed
from stigmer.pb import store_pb2
from stigmer.views import counts, snapshot
from stigmer.views.counts import Counts
from stigmer.views.index import Index
from stigmer.views.projector import VIEWS, Projector
from stigmer.views.requests import Requests
from stigmer.views.snapshot import Snapshot
from stigmer.views.view import Databases, FoldCommit, Lookup, Transaction, lookup_in
from views.support import MAP_BYTES, START_NS, Change, fold_commits, random_commits, rows

OpenProjector = Callable[..., Projector]


@pytest.fixture
def open_projector(tmp_path: Path) -> Iterator[OpenProjector]:
    """Opens projectors in directories of their own, and closes them at the end."""
    opened: list[Projector] = []

    def open_one(name: str = "views", map_bytes: int = MAP_BYTES, views: Sequence[Any] = VIEWS) -> Projector:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        opened.append(Projector(str(directory), map_bytes, views))
        return opened[-1]

    yield open_one
    for projector in opened:
        projector.environment.close()


def in_batches(commits: list[FoldCommit], source: random.Random) -> Iterator[list[FoldCommit]]:
    while commits:
        size = source.choice([1, 2, 3, 10, 50])
        yield commits[:size]
        commits = commits[size:]


@pytest.mark.parametrize("kept", [1, 3, 10, config.REQUEST_IDS_KEPT])
def test_any_batching_gives_the_same_rows(
    open_projector: OpenProjector, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """Folding one by one, all at once, or in any batches, with flushes and reopenings anywhere, is all the same."""
    monkeypatch.setattr(config, "REQUEST_IDS_KEPT", kept)
    for seed in range(8):
        commits = random_commits(seed, 120)
        one_by_one = open_projector(f"{seed}-single")
        for commit in fold_commits(commits):
            one_by_one.fold([commit])
            one_by_one.flush()
        expected = rows(one_by_one)
        assert len(expected["requests_order.1"]) <= kept
        at_once = open_projector(f"{seed}-all")
        at_once.fold(fold_commits(commits))
        assert rows(at_once) == expected
        for batching in range(3):
            name = f"{seed}-{batching}"
            projector = open_projector(name)
            for place, batch in enumerate(in_batches(fold_commits(commits), random.Random(batching))):
                projector.fold(batch)
                if place % 3 == 2:
                    projector.flush()
                if place % 5 == 4:
                    projector.flush()
                    projector.environment.close()
                    projector = open_projector(name)
            assert rows(projector) == expected


def test_oldest_request_ids_are_forgotten(open_projector: OpenProjector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the ids the last so many commits are remembered; one that came again stands for its later commit."""
    monkeypatch.setattr(config, "REQUEST_IDS_KEPT", 3)
    projector = open_projector()
    change: list[Change] = [("note", "a", b"")]
    view = projector.view(Requests)

    def found() -> dict[str, Committed | None]:
        return projector.environment.read(
            lambda transaction, databases: {id: view.committed(lookup_in(transaction, databases), id) for id in "abcd"}
        )

    for flushes in (False, True):
        projector.fold(fold_commits([(change, id) for id in ("a", "b", "", "a", "c", "")], projector.checkpoint))
        if flushes:
            projector.flush()
        after = projector.checkpoint - 6
        expected = {"a": 4, "b": 2, "c": 5}
        assert found() == {id: Committed(after + at, after + at) for id, at in expected.items()} | {"d": None}
    projector.fold(fold_commits([(change, "d")], projector.checkpoint))
    projector.flush()
    assert {id: one and one.last_revision for id, one in found().items()} == {"a": 10, "b": None, "c": 11, "d": 13}


@pytest.mark.parametrize("kind", ["n", "agent_execution", "k" * 64])
@pytest.mark.parametrize("id_size", [1, 6, 127, 128, 255, 256])
@pytest.mark.parametrize("value_size", [0, 1, 127, 128, 16_383, 16_384, 300_000])
def test_row_decoded_by_places_is_what_parsing_gives(kind: str, id_size: int, value_size: int) -> None:
    """Decoding a row by the places of its fields gives the resource that protobuf's parser gives."""
    id = ("é" * (id_size // 2) + "x" * (id_size % 2))[:id_size]
    message = store_pb2.Resource(
        revision=1 << 40,
        created_revision=7,
        created_at_ns=-5,
        updated_at_ns=START_NS,
        kind=kind,
        id=id,
        value=b":" * value_size,
    ).SerializeToString()
    assert snapshot.resource_of(kind, message) == codec.resource_of(message)


@pytest.mark.parametrize("value", [b"", b"v", b"x" * 127, b"x" * 128, b"\xff" * 16_384, bytes(3_000_000)])
@pytest.mark.parametrize("id", ["a", "é" * 128, "x" * 127, "x" * 128])
def test_snapshot_row_is_protobufs_own_serialization(open_projector: OpenProjector, value: bytes, id: str) -> None:
    """The canonical row parses as a `Resource` and is what protobuf makes of that message, byte for byte."""
    projector = open_projector(map_bytes=1 << 26)
    for kind in ("n", "k" * 64):
        after = projector.checkpoint
        projector.fold(fold_commits([([(kind, id, b"first")], ""), ([(kind, id, value)], "")], after))
        key = f"{kind}/{id}".encode()
        message = snapshot.verified(key, dict(rows(projector)["snapshot.1"])[key])
        expected = store_pb2.Resource(
            kind=kind,
            id=id,
            value=value,
            revision=after + 2,
            created_revision=after + 1,
            created_at_ns=START_NS + after,
            updated_at_ns=START_NS + after + 1,
        )
        assert store_pb2.Resource.FromString(message) == expected
        assert message == expected.SerializeToString(deterministic=True)


def test_damaged_snapshot_row_is_refused(open_projector: OpenProjector) -> None:
    """A row with any bit wrong, cut anywhere, or under another key is not given out."""
    projector = open_projector()
    projector.fold(fold_commits([([("note", "n1", b"some value")], "")]))
    ((key, row),) = rows(projector)["snapshot.1"]
    assert snapshot.verified(key, row) == row[4:]
    damaged = [row[:size] for size in range(len(row))]
    damaged += [
        row[: bit // 8] + bytes((row[bit // 8] ^ 1 << bit % 8,)) + row[bit // 8 + 1 :] for bit in range(len(row) * 8)
    ]
    for one in damaged:
        with pytest.raises(CorruptView, match="the row of 'note/n1' is damaged"):
            snapshot.verified(key, one)
    with pytest.raises(CorruptView):
        snapshot.verified(b"note/n2", row)


def test_counts_follow_saves_and_deletes(open_projector: OpenProjector) -> None:
    """A kind counts its resources, not its events, and goes when it has none; changes in one commit cancel out."""
    projector = open_projector()
    steps: list[tuple[list[Change], dict[str, int]]] = [
        ([("note", "a", b""), ("note", "b", b""), ("task", "a", b"")], {"note": 2, "task": 1}),
        ([("note", "a", b"again")], {"note": 2, "task": 1}),
        ([("note", "a", None), ("note", "a", b""), ("note", "a", None)], {"note": 1, "task": 1}),
        ([("new", "x", b""), ("new", "x", None), ("task", "a", None)], {"note": 1}),
        ([("note", "b", None)], {}),
    ]
    for changes, expected in steps:
        projector.fold(fold_commits([(changes, "")], projector.checkpoint))
        for _ in range(2):
            found = projector.read(Counts, lambda view: dict(view.memory), counts.read)
            assert found == expected
            projector.flush()


def test_memory_is_looked_at_while_nothing_is_folded(open_projector: OpenProjector) -> None:
    """What a reader selects, from one view or several, it selects at the moment in which its transaction began."""
    projector = open_projector()
    assert projector.read_across(lambda one: one is projector and one._moment.locked(), lambda *read: read[2])
    assert projector.read(Index, lambda view: projector._moment.locked(), lambda *read: read[2])
    assert not projector._moment.locked()


class Failing:
    """A view that fails when it folds, or behind a row that it has put."""

    name: ClassVar[str] = "failing"
    databases: ClassVar[Sequence[str]] = ("failing.1",)

    def __init__(self) -> None:
        self.memory: dict[bytes, bytes] = {}
        self.fails_to = ""

    @property
    def unflushed(self) -> int:
        return len(self.memory)

    def fold(self, lookup: Lookup, commits: Sequence[FoldCommit]) -> dict[bytes, bytes]:
        if self.fails_to == "fold":
            raise ZeroDivisionError
        return {b"key": b"row"}

    def take(self, folded: dict[bytes, bytes]) -> None:
        self.memory.update(folded)

    def forget(self) -> None:
        self.memory = {}

    def flush(self, transaction: Transaction, databases: Databases) -> None:
        for key, row in self.memory.items():
            transaction.put(key, row, db=databases["failing.1"])
        if self.fails_to == "flush":
            raise ZeroDivisionError


def test_failing_view_leaves_nothing_of_the_fold(open_projector: OpenProjector) -> None:
    """Memory of all views and the checkpoint change together; after a failure the same commits can be folded."""
    projector = open_projector(views=(*VIEWS, Failing))
    commits = fold_commits(random_commits(1, 20))
    failing = projector.views[-1]
    assert isinstance(failing, Failing)
    projector.fold(commits[:10])
    before = rows(projector)
    failing.fails_to = "fold"
    with pytest.raises(ZeroDivisionError):
        projector.fold(commits[10:])
    assert rows(projector) == before
    assert projector.checkpoint == commits[9].last_revision
    failing.fails_to = ""
    projector.fold(commits[10:])
    after = rows(projector)
    straight = open_projector("straight", views=(*VIEWS, Failing))
    straight.fold(fold_commits(random_commits(1, 20)))
    assert rows(straight) == after


def test_failing_flush_leaves_everything_in_memory(open_projector: OpenProjector) -> None:
    """Rows of all views and the checkpoint are one transaction; readers of memory see no difference."""
    projector = open_projector(views=(*VIEWS, Failing))
    commits = fold_commits(random_commits(1, 20))
    failing = projector.views[-1]
    assert isinstance(failing, Failing)
    projector.fold(commits[:10])
    before = rows(projector)
    projector.fold(commits[10:])
    memory = memories(projector)
    failing.fails_to = "flush"
    with pytest.raises(ZeroDivisionError):
        projector.flush()
    assert memories(projector) == memory
    assert (projector.flushed, projector.checkpoint) == (commits[9].last_revision, commits[-1].last_revision)
    assert before == projector.environment.read(
        lambda transaction, databases: {
            name: list(transaction.cursor(db=database)) for name, database in databases.items()
        }
    )
    failing.fails_to = ""
    straight = open_projector("straight", views=(*VIEWS, Failing))
    straight.fold(fold_commits(random_commits(1, 20)))
    assert rows(projector) == rows(straight)


def memories(projector: Projector) -> list[Any]:
    """Give a copy of what every view has in memory, in one form."""
    found: list[Any] = []
    for view in projector.views:
        if isinstance(view, Index):
            memory = view.memory
            entries = {term: dict(places) for term, places in memory.entries.items()}
            found.append((entries, dict(memory.sizes), dict(memory.resources)))
        else:
            found.append(dict(projector.view(type(view)).memory))  # type: ignore[attr-defined]
    return found


def messages(projector: Projector, start: bytes, after: bytes) -> list[tuple[bytes, bytes]]:
    return projector.read(
        Snapshot,
        lambda view: view.in_memory(start, after),
        lambda transaction, databases, changes: list(snapshot.messages(transaction, databases, changes, start, after)),
    )


def test_reads_of_memory_and_lmdb_are_what_a_flush_gives(open_projector: OpenProjector) -> None:
    """Keys saved, deleted and saved again, some in LMDB and some in memory, read as they do once all is flushed."""
    for seed in range(20):
        commits = fold_commits(random_commits(seed, 30))
        mixed, flushed = open_projector(f"{seed}-mixed"), open_projector(f"{seed}-flushed")
        for place, commit in enumerate(commits):
            for projector in (mixed, flushed):
                projector.fold([commit])
            flushed.flush()
            if place % 10 == 3:
                mixed.flush()
            for start in (b"note/", b"task/", b"x/", b"note/c", b"none/"):
                for after in (b"", b"note/b", b"note/c", b"x/f"):
                    assert messages(mixed, start, after) == messages(flushed, start, after)
        for key in (b"note/a", b"note/b", b"x/c", b"x/none"):
            one, other = (each.view(Snapshot).get(each.environment, key) for each in (mixed, flushed))
            assert one == other


def test_fold_takes_only_what_follows(open_projector: OpenProjector) -> None:
    """Commits that do not begin behind the checkpoint are refused, those before it as well as those beyond it."""
    projector = open_projector()
    commits = fold_commits(random_commits(2, 6))
    projector.fold(commits[:3])
    for wrong in (commits[:3], commits[2:], commits[4:]):
        with pytest.raises(CorruptView, match="cannot be folded onto it"):
            projector.fold(wrong)
    projector.fold([])
    projector.fold(commits[3:])
    projector.flush()
    projector.environment.close()
    assert open_projector().checkpoint == commits[-1].last_revision


def test_flush_into_a_map_that_has_to_grow(open_projector: OpenProjector) -> None:
    """A flush for which the map is too small is done again in a larger one, with the same rows."""
    commits = random_commits(3, 2000)
    small, large = open_projector("small", 64 * 1024), open_projector("large", 1 << 26)
    for projector in (small, large):
        for batch in in_batches(fold_commits(commits), random.Random(3)):
            projector.fold(batch)
            projector.flush()
        projector.fold(fold_commits([([("big", "x", bytes(5_000_000))], "")], projector.checkpoint))
    assert rows(small) == rows(large)
