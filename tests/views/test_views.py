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
from stigmer.views import counts, requests, snapshot
from stigmer.views.projector import VIEWS, Projector
from stigmer.views.view import Databases, FoldCommit, Transaction
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
    """Folding one by one, all at once, or in any batches, into one environment or over reopenings, is all the same."""
    monkeypatch.setattr(config, "REQUEST_IDS_KEPT", kept)
    for seed in range(8):
        commits = random_commits(seed, 120)
        one_by_one = open_projector(f"{seed}-single")
        for commit in fold_commits(commits):
            one_by_one.fold([commit])
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
                if place % 5 == 4:
                    projector.environment.close()
                    projector = open_projector(name)
            assert rows(projector) == expected


def test_oldest_request_ids_are_forgotten(open_projector: OpenProjector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the ids the last so many commits are remembered; one that came again stands for its later commit."""
    monkeypatch.setattr(config, "REQUEST_IDS_KEPT", 3)
    projector = open_projector()
    change: list[Change] = [("note", "a", b"")]
    projector.fold(fold_commits([(change, id) for id in ("a", "b", "", "a", "c", "")]))
    found = {
        id: projector.environment.read(lambda t, d, id=id: requests.lookup(t, d["requests.1"], id)) for id in "abcd"
    }
    assert found == {"a": Committed(4, 4), "b": Committed(2, 2), "c": Committed(5, 5), "d": None}
    projector.fold(fold_commits([(change, "d")], after=6))
    found = {
        id: projector.environment.read(lambda t, d, id=id: requests.lookup(t, d["requests.1"], id)) for id in "abcd"
    }
    assert found == {"a": Committed(4, 4), "b": None, "c": Committed(5, 5), "d": Committed(7, 7)}


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
        found = projector.environment.read(lambda t, d: counts.read(t, d["counts.1"]))
        assert found == expected


class Failing:
    """A view that puts a row, then fails."""

    name: ClassVar[str] = "failing"
    databases: ClassVar[Sequence[str]] = ("failing.1",)
    fails = True

    def fold(self, transaction: Transaction, databases: Databases, commits: Sequence[FoldCommit]) -> None:
        transaction.put(b"key", b"row", db=databases["failing.1"])
        if self.fails:
            raise ZeroDivisionError


def test_failing_view_leaves_nothing_of_the_fold(open_projector: OpenProjector) -> None:
    """Rows of all views and the checkpoint are one transaction; after a failure the same commits can be folded."""
    projector = open_projector(views=(*VIEWS, Failing))
    commits = fold_commits(random_commits(1, 20))
    failing = projector.views[-1]
    assert isinstance(failing, Failing)
    failing.fails = False
    projector.fold(commits[:10])
    before = rows(projector)
    failing.fails = True
    with pytest.raises(ZeroDivisionError):
        projector.fold(commits[10:])
    assert rows(projector) == before
    assert projector.checkpoint == commits[9].last_revision
    failing.fails = False
    projector.fold(commits[10:])
    after = rows(projector)
    straight = open_projector("straight", views=(*VIEWS, Failing))
    straight.views[-1].fails = False  # type: ignore[attr-defined]
    straight.fold(fold_commits(random_commits(1, 20)))
    assert rows(straight) == after


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
    projector.environment.close()
    assert open_projector().checkpoint == commits[-1].last_revision


def test_fold_into_a_map_that_has_to_grow(open_projector: OpenProjector) -> None:
    """A fold for which the map is too small is done again in a larger one, with the same rows."""
    commits = random_commits(3, 2000)
    small, large = open_projector("small", 64 * 1024), open_projector("large", 1 << 26)
    for projector in (small, large):
        for batch in in_batches(fold_commits(commits), random.Random(3)):
            projector.fold(batch)
        projector.fold(fold_commits([([("big", "x", bytes(5_000_000))], "")], projector.checkpoint))
    assert rows(small) == rows(large)
