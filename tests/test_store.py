"""The embedded store, as its docstrings promise it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import pytest
from checks import check_store
from log.support import set_version
from views.support import data_file, edit

from stigmer import config, page_tokens
from stigmer.config import Durability, StoreOptions
from stigmer.errors import (
    AlreadyExists,
    Closed,
    Conflict,
    CorruptLog,
    CorruptView,
    DataDirectoryError,
    InvalidArgument,
    LogLocked,
    NewerFormat,
    NotFound,
    ResourceExhausted,
    StigmerError,
)
from stigmer.model import Committed, Delete, Event, Op, Save
from stigmer.pb import log_pb2, store_pb2
from stigmer.store import Store
from stigmer.views.keys import checked_key_of

SMALL = StoreOptions(segment_bytes=4096, map_bytes=1 << 20)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a store can be made."""
    return tmp_path / "data"


@pytest.fixture
def store(directory: Path) -> Iterator[Store]:
    """An open, empty store, checked at the end."""
    with Store.open(directory, SMALL) as opened:
        yield opened
        with contextlib.suppress(Closed):
            check_store(opened)


def fill(store: Store, events: int = 60) -> None:
    """Write some of everything: several segments of saves, deletes and larger commits with request ids."""
    for n in range(events // 6):
        store.save("note", f"n{n % 7}", b"v%d" % n * 20)
        store.commit([Save("task", f"t{n}", b"x" * n), Save("task", f"u{n}", b"")], request_id=f"r{n}")
        store.save("note", f"gone{n}", b"soon")
        store.delete("note", f"gone{n}", request_id=f"d{n}")
        store.save("agent", "only", b"%d" % n, request_id=f"s{n}")


def everything(store: Store) -> tuple[list[Event], list[object]]:
    """Give all that a store shows: its events and its resources."""
    kinds = sorted(store.count())
    return list(store.tail(follow=False)), [resource for kind in kinds for resource in store.list(kind)]


def segments_of(directory: Path) -> list[Path]:
    return sorted((directory / "log").glob("*.log"))


# --- writing -----------------------------------------------------------------------------------------------


def test_save_then_get(store: Store) -> None:
    """A save gives the next revision, and a get shows the value, its revision and its times."""
    assert store.save("note", "n1", b"one") == 1
    assert store.save("note", "n2", b"two") == 2
    assert store.save("note", "n1", b"uno") == 3
    resource = store.get("note", "n1")
    assert (resource.kind, resource.id, resource.value) == ("note", "n1", b"uno")
    assert (resource.revision, resource.created_revision) == (3, 1)
    assert resource.created_at_ns <= store.get("note", "n2").created_at_ns <= resource.updated_at_ns


def test_delete_then_save_is_a_new_creation(store: Store) -> None:
    """After a delete there is nothing to get; a save behind it creates the resource anew."""
    store.save("note", "n1", b"one")
    assert store.delete("note", "n1") == 2
    with pytest.raises(NotFound, match='note "n1" not found'):
        store.get("note", "n1")
    store.save("note", "n1", b"again")
    assert store.get("note", "n1").created_revision == 3


@pytest.mark.parametrize("value", [b"", b"\0", b"\xff" * 5000, b"\xf7SGF" * 40, bytes(range(256)) * 300])
def test_value_comes_back_byte_for_byte(store: Store, directory: Path, value: bytes) -> None:
    """Any bytes are stored and returned as they were, now and after reopening."""
    store.save("note", "n1", value)
    assert store.get("note", "n1").value == value
    store.close()
    with Store.open(directory, SMALL) as again:
        assert again.get("note", "n1").value == value
        assert [event.value for event in again.tail(follow=False)] == [value]


def test_message_is_saved_as_its_bytes(store: Store) -> None:
    """A protobuf message is stored as its deterministic serialization."""
    message = log_pb2.Commit(request_id="x")
    store.save("note", "n1", message)
    assert store.get("note", "n1").value == message.SerializeToString(deterministic=True)


def test_expected_revision_holds_or_nothing_is_written(store: Store) -> None:
    """A save or delete on condition happens only at that revision, and the error tells the actual one."""
    store.save("note", "n1", b"one", expected_revision=0)
    with pytest.raises(AlreadyExists, match="already exists, at revision 1") as exists:
        store.save("note", "n1", b"two", expected_revision=0)
    assert (exists.value.expected_revision, exists.value.actual_revision) == (0, 1)
    for wrong in (2, 7, 2**64 - 1):
        with pytest.raises(Conflict) as conflict:
            store.save("note", "n1", b"two", expected_revision=wrong)
        assert conflict.value.actual_revision == 1
        with pytest.raises(Conflict):
            store.delete("note", "n1", expected_revision=wrong)
    with pytest.raises(Conflict, match="is not there, not at the expected revision 3"):
        store.save("note", "other", b"", expected_revision=3)
    assert store.status().revision == 1
    assert store.save("note", "n1", b"two", expected_revision=1) == 2
    assert store.delete("note", "n1", expected_revision=2) == 3
    assert store.save("note", "n1", b"three", expected_revision=0) == 4


def test_conditions_in_a_commit_see_the_changes_before_them(store: Store) -> None:
    """Within one commit each condition is checked against what the commit's earlier changes will have done."""
    committed = store.commit(
        [
            Save("note", "n1", b"one", 0),
            Save("note", "n1", b"two", 1),
            Delete("note", "n1", 2),
            Save("note", "n1", b"three", 0),
        ]
    )
    assert committed == Committed(1, 4)
    assert store.get("note", "n1").value == b"three"
    assert store.get("note", "n1").created_revision == 4
    with pytest.raises(NotFound):
        store.commit([Delete("note", "n1"), Delete("note", "n1")])
    with pytest.raises(AlreadyExists):
        store.commit([Save("note", "n2", b"", 0), Save("note", "n2", b"", 0)])


def test_commit_with_one_failing_change_leaves_nothing(store: Store) -> None:
    """A commit is written as a whole or not at all."""
    store.save("note", "n1", b"one")
    for failing in (Delete("note", "missing"), Save("note", "n1", b"", 0), Save("note", "n1", b"", 9)):
        with pytest.raises((NotFound, Conflict)):
            store.commit([Save("note", "n2", b"two"), failing, Save("note", "n3", b"three")])
    assert store.status().revision == 1
    assert [resource.id for resource in store.list("note")] == ["n1"]


def test_delete_of_nothing_leaves_nothing(store: Store) -> None:
    """Deleting what is not there is refused and leaves no event, nor does its request id count."""
    for _ in range(2):
        with pytest.raises(NotFound):
            store.delete("note", "n1", request_id="r")
    assert store.save("note", "n1", b"", request_id="r") == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ([], "changes"),
        ([Save("", "a", b"")], "kind"),
        ([Save("a b", "a", b"")], "kind"),
        ([Save("note", "", b"")], "id"),
        ([Save("note", "a/b", b"")], "id"),
        ([Save("note", "a", "text")], "value"),
        ([Save("note", "a", None)], "value"),
        ([Save("note", "a", b"", -1)], "expected_revision"),
        ([Save("note", "a", b"", True)], "expected_revision"),
        ([Save("note", "a", b"", 2**64)], "expected_revision"),
        ([Save("note", "a", b""), Delete("note", "..")], "changes[1].id"),
        (["note"], "changes[0]"),
    ],
)
def test_bad_change_is_refused_by_name_of_its_field(store: Store, changes: list[object], field: str) -> None:
    """What is wrong with a change is said by field, and nothing is written."""
    with pytest.raises(InvalidArgument) as caught:
        store.commit(changes)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert store.status().revision == 0


@pytest.mark.parametrize("request_id", ["a b", "x" * 65, "\n", "é", 7])
def test_bad_request_id_is_refused(store: Store, request_id: object) -> None:
    """A request id is visible ASCII of at most 64 characters."""
    with pytest.raises(InvalidArgument, match="request_id"):
        store.save("note", "n1", b"", request_id=request_id)  # type: ignore[arg-type]


def test_limits_are_refused_by_name(directory: Path) -> None:
    """A value, a commit and a number of events are taken up to their limits, and refused by name above them."""
    with Store.open(directory, StoreOptions(value_bytes_max=1000)) as store:
        store.save("note", "n1", bytes(1000))
        with pytest.raises(ResourceExhausted, match="value_bytes_max is 1000") as caught:
            store.save("note", "n1", bytes(1001))
        assert (caught.value.limit, caught.value.limit_value) == ("value_bytes_max", 1000)
        many = [Save("note", "n1", b"")] * config.COMMIT_EVENTS_MAX
        assert store.commit(many).last_revision == 1 + config.COMMIT_EVENTS_MAX
        with pytest.raises(ResourceExhausted, match="COMMIT_EVENTS_MAX"):
            store.commit([*many, Save("note", "n1", b"")])
        with pytest.raises(ResourceExhausted, match="COMMIT_BYTES_MAX"):
            store.commit([Save("note", "n1", bytes(config.COMMIT_BYTES_MAX))])
        assert store.status().revision == 1 + config.COMMIT_EVENTS_MAX


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: log_pb2.Commit(), "events"),
        (lambda: log_pb2.Commit(events=[log_pb2.Event(kind="note", id="a")]), "op"),
        (lambda: log_pb2.Commit(events=[log_pb2.Event(op=7, kind="note", id="a")]), "op"),
        (lambda: log_pb2.Commit(events=[log_pb2.Event(op=1, kind="note", id="a/b")]), "id"),
        (lambda: log_pb2.Commit(events=[log_pb2.Event(op=2, kind="note", id="a", value=b"x")]), "value"),
        (
            lambda: log_pb2.Commit(
                events=[log_pb2.Event(op=1, kind="note", id="a"), log_pb2.Event(op=1, kind="9", id="a")]
            ),
            "events[1].kind",
        ),
        (lambda: log_pb2.Commit(events=[log_pb2.Event(op=1, kind="note", id="a")], request_id=" "), "request_id"),
    ],
)
def test_submitted_commit_is_checked_like_one_made_here(
    store: Store, make: Callable[[], log_pb2.Commit], field: str
) -> None:
    """A serialized commit that could not have been made by `commit` is refused before it is queued."""
    with pytest.raises(InvalidArgument) as caught:
        store.submit(make().SerializeToString(), lambda tickets: None)
    assert caught.value.field == field
    with pytest.raises(InvalidArgument, match="is not a serialized"):
        store.submit(b"\xff\xff", lambda tickets: None)


def test_submitted_bytes_are_the_bytes_in_the_log(store: Store) -> None:
    """A commit is appended as it came, with fields that this version does not know."""
    payload = log_pb2.Commit(events=[log_pb2.Event(op=1, kind="note", id="a", value=b"v")]).SerializeToString()
    payload += b"\xf2\x01\x03new"  # field 30
    answered = threading.Event()
    store.submit(payload, lambda tickets: answered.set())
    assert answered.wait(60)
    assert store.frame(1).payload == payload
    assert store.get("note", "a").value == b"v"


# --- request ids -------------------------------------------------------------------------------------------


def test_same_request_id_gives_the_first_answer_and_writes_nothing(store: Store, directory: Path) -> None:
    """A repeated write is applied once, whatever it holds, at once, after reopening, and after a replay."""
    first = store.commit([Save("note", "n1", b"one"), Save("note", "n2", b"two")], request_id="r1")
    assert first == Committed(1, 2)
    assert store.commit([Save("note", "n1", b"other")], request_id="r1") == first
    assert store.delete("note", "n9", request_id="r1") == 2
    store.replay()
    assert store.save("note", "n1", b"other", request_id="r1") == 2
    store.close()
    with Store.open(directory, SMALL) as again:
        assert again.save("note", "n1", b"other", request_id="r1", expected_revision=77) == 2
        assert again.save("note", "n1", b"other", request_id="r2") == 3


def test_same_request_id_in_many_threads_is_applied_once(store: Store) -> None:
    """Whether two writes with one id meet in a group or not, both get the answer of the one that was applied."""
    with ThreadPoolExecutor(16) as pool:
        for n in range(30):
            barrier = threading.Barrier(16)

            def write(place: int, n: int = n, barrier: threading.Barrier = barrier) -> int:
                barrier.wait()
                return store.save("note", "n1", b"%d" % place, request_id=f"r{n}")

            assert set(pool.map(write, range(16))) == {n + 1}
    assert store.status().revision == 30


def test_request_id_of_a_refused_commit_is_free(store: Store) -> None:
    """A commit that was refused was not applied, so its id may be used for the corrected one."""
    store.save("note", "n1", b"one")
    with pytest.raises(Conflict):
        store.save("note", "n1", b"two", expected_revision=9, request_id="r")
    assert store.save("note", "n1", b"two", expected_revision=1, request_id="r") == 2


def test_concurrent_writers_number_densely(store: Store) -> None:
    """Commits of many threads get disjoint, consecutive revisions, in the order of each thread's own calls."""
    with ThreadPoolExecutor(8) as pool:

        def write(place: int) -> list[Committed]:
            return [
                store.commit([Save("note", f"{place}-{n}", b""), Save("note", f"{place}", b"%d" % n)])
                for n in range(40)
            ]

        answers = list(pool.map(write, range(8)))
    for theirs in answers:
        assert theirs == sorted(theirs, key=lambda one: one.first_revision)
    revisions = sorted(one.first_revision for theirs in answers for one in theirs)
    assert revisions == list(range(1, 640, 2))


def test_only_one_of_many_conditional_writers_wins(store: Store) -> None:
    """Of concurrent writers that expect the same revision exactly one succeeds, whatever group they fall into."""
    store.save("note", "n1", b"start")
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            now = store.get("note", "n1").revision

            def write(place: int, now: int = now) -> bool:
                try:
                    store.save("note", "n1", b"%d" % place, expected_revision=now)
                except Conflict:
                    return False
                return True

            assert sum(pool.map(write, range(8))) == 1


# --- reading -----------------------------------------------------------------------------------------------


def test_list_is_in_byte_order_and_of_one_kind(store: Store) -> None:
    """A list has the resources of one kind in the order of their ids' bytes, and of a kind that begins alike none."""
    ids = ["a", "b", "A", "a-1", "a.1", "é", "z", "~", "日本"]
    for id in ids:
        store.save("note", id, id.encode())
        store.save("note.x", id, b"")
        store.save("not", id, b"")
    page = store.list("note")
    assert [resource.id for resource in page] == sorted(ids, key=str.encode)
    assert [resource.id for resource in store.list("note", prefix="a")] == ["a", "a-1", "a.1"]
    assert page.next_page_token is None
    assert len(store.list("nothing")) == 0


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 11, 12, 100])
def test_pages_make_up_the_list(store: Store, limit: int) -> None:
    """Pages of any size, one behind the other, are the whole list, and only the last has no token."""
    for n in range(11):
        store.save("note", f"a{n:02}", b"x")
    store.save("note", "b", b"x")
    seen: list[str] = []
    token: str | None = None
    while True:
        page = store.list("note", prefix="a", limit=limit, page_token=token)
        seen += [resource.id for resource in page]
        token = page.next_page_token
        assert len(page) == limit or token is None
        if token is None:
            break
    assert seen == [f"a{n:02}" for n in range(11)]


def test_page_token_stands_for_a_place_that_may_be_gone(store: Store) -> None:
    """A page goes on behind the last id of the one before, though that was deleted and others came."""
    for id in "bdf":
        store.save("note", id, b"")
    page = store.list("note", limit=2)
    store.delete("note", "d")
    for id in "ace":
        store.save("note", id, b"")
    assert [resource.id for resource in store.list("note", page_token=page.next_page_token)] == ["e", "f"]


def test_bad_page_token_is_refused(store: Store, tmp_path: Path) -> None:
    """A token that was made up, changed, of another store, kind or prefix is refused as an argument."""
    for id in ("a1", "a2", "b1", "b2"):
        store.save("note", id, b"")
        store.save("task", id, b"")
    token = store.list("note", limit=1).next_page_token
    assert token is not None
    for bad in (
        "x",
        "é",
        "====",
        token[:-4],
        token + "AAAA",
        token[:6] + ("B" if token[6] == "A" else "A") + token[7:],
        "A" * 40,
    ):
        with pytest.raises(InvalidArgument, match="page_token: is not one that this store gave out"):
            store.list("note", page_token=bad)
    with pytest.raises(InvalidArgument, match="page_token: belongs to a list of note"):
        store.list("task", page_token=token)
    with pytest.raises(InvalidArgument, match="page_token: belongs to a list of note"):
        store.list("note", prefix="b", page_token=token)
    with Store.open(tmp_path / "other") as other:
        other.save("note", "a1", b"")
        with pytest.raises(InvalidArgument, match="page_token: is from another store"):
            other.list("note", page_token=token)


@pytest.mark.parametrize(
    "place", [b"", b"\xff", b"note", b"note/", b"note/a/b", b"note/\x1b[2J", b"note/\xff", b"note/" + b"x" * 257]
)
def test_page_token_whose_place_is_no_name_is_refused(store: Store, place: bytes) -> None:
    """The form of a token is no secret, so one that was made with the right checksum may hold anything."""
    store.save("note", "n1", b"")
    with pytest.raises(InvalidArgument, match="page_token: is not one that this store gave out"):
        store.list("note", page_token=page_tokens.token_of(store.store_id, place))


def test_page_token_is_written_in_one_way(store: Store) -> None:
    """Other texts that stand for the same bytes in base64 are refused."""
    for id in ("a?>", "a?>~", "b"):
        store.save("note", id, b"")
    tokens = [page_tokens.token_of(store.store_id, f"note/{id}".encode()) for id in ("a?>", "a?>~", "a\u3bff", "b")]
    others = {token.replace("-", "+").replace("_", "/") for token in tokens}
    others |= {token.rstrip("=") for token in tokens}
    others |= {token.replace("A==", "B==").replace("Q==", "R==").replace("g==", "h==") for token in tokens}
    others -= set(tokens)
    assert len(others) >= 3
    for other in others:
        with pytest.raises(InvalidArgument, match="page_token: is not one that this store gave out"):
            store.list("note", page_token=other)


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one_is_refused(store: Store, limit: int) -> None:
    """A page of nothing cannot be asked for."""
    with pytest.raises(InvalidArgument, match="limit: must be at least 1"):
        store.list("note", limit=limit)


def test_page_ends_by_bytes(store: Store) -> None:
    """A page of rows ends once it has as many bytes as were asked for, and has at least one row."""
    for n in range(5):
        store.save("note", f"n{n}", bytes(1000))
    sizes, token = [], ""
    while True:
        rows, token = store.list_rows("note", "", 0, token, 1500)
        sizes.append(len(rows))
        if not token:
            break
    assert sizes == [2, 2, 1]
    assert len(store.list_rows("note", "", 0, "", 1)[0]) == 1


def test_get_row_is_the_serialized_resource(store: Store) -> None:
    """The row that Get gives out is protobuf's own serialization of the resource."""
    store.save("note", "n1", b"value")
    message = store_pb2.Resource.FromString(store.get_row("note", "n1"))
    assert message.SerializeToString(deterministic=True) == store.get_row("note", "n1")


def test_heads_are_the_same_in_memory_and_flushed(store: Store) -> None:
    """Revision and creation are those of `get`, and None stands for what is not there."""
    fill(store)
    store.save("head", "large", bytes(300_000))
    store.save("head", "large", bytes(300_001))
    store.save("head", "gone", b"")
    store.delete("head", "gone")
    known = [(one.kind, one.id) for kind in store.count() for one in store.list(kind)]
    keys = [checked_key_of(*pair) for pair in [*known, ("head", "gone"), ("head", "absent")]]
    resources = [store.get(*pair) for pair in known]
    expected = [(one.revision, one.created_revision, one.created_at_ns) for one in resources]
    assert store.heads(keys) == [*expected, None, None]
    store._writer.flush()
    assert store.heads(keys) == [*expected, None, None]


def test_changed_tells_what_is_another_now(store: Store) -> None:
    """A change is found in memory; one that may have been flushed is found unsure, once."""
    keys = [checked_key_of("k", id) for id in "abc"]
    store.commit([Save("k", id, b"1") for id in "abc"])
    seen = dict(zip(keys, (1, 2, 3), strict=True))
    changes, unsure, mark = store.changed(seen, None)
    assert (changes, unsure) == ([], [])
    store.save("k", "a", b"2")
    store.delete("k", "b")
    changes, unsure, mark = store.changed(seen, mark)
    assert [(one.key, one.revision, one.value) for one in changes] == [(keys[0], 4, b"2"), (keys[1], 5, None)]
    assert unsure == []
    store._writer.flush()
    store.save("k", "c", b"2")
    changes, unsure, mark = store.changed(seen, mark)
    assert [(one.key, one.revision) for one in changes] == [(keys[2], 6)]
    assert unsure == keys[:2]
    _, unsure, mark = store.changed(seen, mark)
    assert unsure == []
    store.replay()
    _, unsure, mark = store.changed(seen, mark)
    assert set(keys[:2]) <= set(unsure)


def test_status_describes_the_store(store: Store, directory: Path) -> None:
    """Status gives revisions, sizes and counts that agree with the files and the lists."""
    fill(store)
    status = store.status()
    assert status.revision == 60
    assert status.log_bytes == sum(path.stat().st_size for path in segments_of(directory))
    assert status.segments == len(store.segments()) == len(segments_of(directory)) > 1
    assert status.checkpoints == {"snapshot": 60, "counts": 60, "requests": 60, "index": 60}
    assert status.resources == sum(len(store.list(kind)) for kind in ("note", "task", "agent"))
    assert status.recovery == []


def test_frame_describes_every_revision(store: Store) -> None:
    """For each revision there is the frame that holds it; beyond the last there is none."""
    fill(store)
    for event in store.tail(follow=False):
        frame = store.frame(event.revision)
        place = event.revision - frame.first_revision
        assert 0 <= place < frame.event_count
        assert log_pb2.Commit.FromString(frame.payload).events[place].id == event.id
        assert frame.time_ns == event.time_ns
        assert frame.group_first_revision <= frame.first_revision
    for revision in (0, -1, 61, 10**9):
        with pytest.raises(NotFound):
            store.frame(revision)


# --- tail --------------------------------------------------------------------------------------------------


def test_tail_from_every_revision(store: Store) -> None:
    """A tail behind any revision gives exactly the events after it, also from the middle of a commit."""
    fill(store)
    everything = list(store.tail(follow=False))
    assert [event.revision for event in everything] == list(range(1, 61))
    for after in range(61):
        assert list(store.tail(after, follow=False)) == everything[after:]


def test_tail_behind_the_end_is_refused(store: Store) -> None:
    """A revision that is not there cannot be resumed from: the data directory may be another."""
    store.save("note", "n1", b"")
    for after in (2, -1, 2**64):
        with pytest.raises(InvalidArgument, match=r"after: .* is not a revision of this store, whose last one is 1"):
            store.tail(after)


def test_tail_filters(store: Store) -> None:
    """A filtered tail gives the events of those kinds and prefixes with the revisions they have, and only them."""
    fill(store)
    everything = list(store.tail(follow=False))
    assert list(store.tail(0, ["note"], follow=False)) == [event for event in everything if event.kind == "note"]
    assert list(store.tail(7, ["task", "agent"], "u", follow=False)) == [
        event for event in everything if event.kind == "task" and event.id.startswith("u") and event.revision > 7
    ]
    assert list(store.tail(0, ["nothing"], follow=False)) == []
    for bad in ({"kinds": ["a b"]}, {"prefix": "a/"}):
        with pytest.raises(InvalidArgument):
            store.tail(0, **bad)  # type: ignore[arg-type]


def test_tail_follows_and_ends_with_closed(store: Store) -> None:
    """Followers get every event as it comes, over rolls, each once; closing the store ends them with `Closed`."""
    seen: list[list[int]] = [[], [], []]
    ended: list[BaseException] = []
    caught_up = threading.Semaphore(0)

    def follow(place: int) -> None:
        try:
            for event in store.tail(0, ["agent"] if place == 2 else None):
                seen[place].append(event.revision)
                if event.revision == 120:
                    caught_up.release()
        except Closed as error:
            ended.append(error)

    threads = [threading.Thread(target=follow, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    fill(store, 120)
    for _ in threads:
        assert caught_up.acquire(timeout=60)
    check_store(store)
    store.close()
    for thread in threads:
        thread.join(60)
    assert len(ended) == 3
    assert seen[0] == seen[1] == list(range(1, 121))
    assert seen[2] == list(range(6, 121, 6))


def test_event_of_a_delete_has_no_value(store: Store) -> None:
    """A tail shows a delete as an event of its own, with its time."""
    store.save("note", "n1", b"one")
    store.delete("note", "n1")
    saved, deleted = store.tail(follow=False)
    assert (saved.op, saved.value) == (Op.SAVE, b"one")
    assert (deleted.op, deleted.value, deleted.id) == (Op.DELETE, b"", "n1")
    assert saved.time_ns <= deleted.time_ns


# --- options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", list(Durability))
def test_every_durability_shows_what_it_acknowledged(directory: Path, durability: Durability) -> None:
    """Whatever is promised about the disk, an answered write is visible, and there after reopening."""
    options = StoreOptions(durability=durability, sync_interval_ms=1, segment_bytes=4096, map_bytes=1 << 20)
    with Store.open(directory, options) as store:
        fill(store)
        shown = everything(store)
        assert store.status().durability == durability
    with Store.open(directory, options) as store:
        assert everything(store) == shown
        assert store.recovery == ()
        check_store(store)


@pytest.mark.parametrize(
    "options",
    [
        {"sync_interval_ms": 0},
        {"segment_bytes": 4095},
        {"value_bytes_max": 0},
        {"value_bytes_max": config.COMMIT_BYTES_MAX},
        {"map_bytes": 1},
        {"open_check_bytes": -1},
    ],
)
def test_option_out_of_bounds_is_refused_before_anything_is_made(directory: Path, options: dict[str, int]) -> None:
    """An option that cannot be is named, and no directory is made."""
    with pytest.raises(InvalidArgument, match="is out of bounds") as caught:
        Store.open(directory, StoreOptions(**options))  # type: ignore[arg-type]
    assert caught.value.field in options
    assert not directory.exists()


# --- opening -----------------------------------------------------------------------------------------------


def test_reopened_store_is_the_same(directory: Path) -> None:
    """After a clean end everything is as it was, and opening has nothing to report."""
    with Store.open(directory, SMALL) as store:
        fill(store)
        shown, store_id = everything(store), store.store_id
    for _ in range(3):
        with Store.open(directory, SMALL) as store:
            assert (everything(store), store.store_id, store.recovery) == (shown, store_id, ())


def test_views_deleted_are_folded_again(directory: Path) -> None:
    """Without its views a store opens with the same content, and says that it folded them."""
    with Store.open(directory, SMALL) as store:
        fill(store)
        shown = everything(store)
    shutil.rmtree(directory / "views")
    with Store.open(directory, SMALL) as store:
        assert everything(store) == shown
        assert store.recovery == ("folded revisions 1 to 60 into the views",)
        check_store(store)


def test_views_of_an_older_moment_catch_up(directory: Path, tmp_path: Path) -> None:
    """Views that lack the last revisions get them folded at open."""
    with Store.open(directory, SMALL) as store:
        fill(store)
    shutil.copytree(directory / "views", tmp_path / "views")
    with Store.open(directory, SMALL) as store:
        store.save("note", "late", b"late")
        shown = everything(store)
    shutil.rmtree(directory / "views")
    shutil.move(tmp_path / "views", directory / "views")
    with Store.open(directory, SMALL) as store:
        assert everything(store) == shown
        assert store.recovery == ("folded revisions 61 to 61 into the views",)


def test_views_ahead_of_the_log_refuse_to_open(directory: Path, tmp_path: Path) -> None:
    """A log that lacks what the views have was cut short or exchanged: nothing is opened, nothing changed."""
    with Store.open(directory, SMALL) as store:
        store.save("note", "n1", b"one")
    shutil.copytree(directory / "log", tmp_path / "log")
    with Store.open(directory, SMALL) as store:
        store.save("note", "n2", b"two")
    shutil.rmtree(directory / "log")
    shutil.copytree(tmp_path / "log", directory / "log")
    with pytest.raises(CorruptLog, match="the log ends at revision 1, but the views have 2"):
        Store.open(directory, SMALL)
    shutil.rmtree(directory / "views")
    with Store.open(directory, SMALL) as store:
        assert [resource.id for resource in store.list("note")] == ["n1"]


def test_views_of_another_store_are_not_used(directory: Path, tmp_path: Path) -> None:
    """Views that a copy brought in from another store are folded again, whatever revision they have."""
    with Store.open(directory, SMALL) as store:
        fill(store)
        shown = everything(store)
    with Store.open(tmp_path / "other", SMALL) as other:
        fill(other, 300)
    shutil.rmtree(directory / "views")
    shutil.copytree(tmp_path / "other" / "views", directory / "views")
    with Store.open(directory, SMALL) as store:
        assert everything(store) == shown
        assert "the views were of another store" in store.recovery
        check_store(store)


def test_damaged_row_met_while_opening_is_folded_again(directory: Path, tmp_path: Path) -> None:
    """A bad row that stands in the way of folding the last revisions does not keep the store from opening."""
    with Store.open(directory, SMALL) as store:
        fill(store)
    shutil.copytree(directory / "views", tmp_path / "views")
    with Store.open(directory, SMALL) as store:
        store.save("note", "late", b"late")
        shown = everything(store)
    shutil.rmtree(directory / "views")
    shutil.move(tmp_path / "views", directory / "views")
    edit_row(directory, "counts.1", b"note", b"\0" * 12)
    with Store.open(directory, SMALL) as store:
        assert everything(store) == shown
        check_store(store)


def test_torn_tail_is_reported_by_the_store(directory: Path) -> None:
    """What opening cut off is said in `recovery` and by status."""
    with Store.open(directory, SMALL) as store:
        store.save("note", "n1", b"one")
    with segments_of(directory)[-1].open("ab") as file:
        file.write(b"unfinished")
    with Store.open(directory, SMALL) as store:
        assert len(store.recovery) == 1
        assert store.recovery[0].startswith("cut off 10 bytes of an unfinished write")
        assert store.status().recovery == list(store.recovery)
        check_store(store)


def test_newer_log_is_refused_and_its_files_left(directory: Path) -> None:
    """A store with a segment of a newer format is refused; no file of log and views changes."""
    with Store.open(directory, SMALL) as store:
        fill(store)
    set_version(segments_of(directory)[-1], 2)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files_of(directory)}
    with pytest.raises(NewerFormat):
        Store.open(directory, SMALL)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files_of(directory)} == before


def files_of(directory: Path) -> list[Path]:
    """The files of log and views that have content of their own."""
    return [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name not in ("LOCK", "lock.mdb")]


def test_create_false_makes_nothing(directory: Path) -> None:
    """Without `create` a directory that is not there, or has no store in it, is refused and left as it is."""
    with pytest.raises(DataDirectoryError, match="does not exist"):
        Store.open(directory, create=False)
    assert not directory.exists()
    directory.mkdir()
    with pytest.raises(DataDirectoryError, match="has no store in it"):
        Store.open(directory, create=False)
    assert list(directory.iterdir()) == []
    Store.open(directory).close()
    Store.open(directory, create=False).close()


def test_file_in_place_of_the_directory_is_refused(directory: Path) -> None:
    """A data directory that is a file, or lies below one, is an error of the directory."""
    directory.write_text("mine")
    with pytest.raises(DataDirectoryError, match="is not a directory"):
        Store.open(directory)
    with pytest.raises(DataDirectoryError):
        Store.open(directory / "below")
    assert directory.read_text() == "mine"


def test_symbolic_link_in_place_of_the_lock_is_not_followed(directory: Path, tmp_path: Path) -> None:
    """A LOCK that is a link to somewhere is refused, and what it points to is not written."""
    directory.mkdir()
    (tmp_path / "precious").write_text("precious")
    (directory / "LOCK").symlink_to(tmp_path / "precious")
    with pytest.raises(DataDirectoryError, match="cannot be used"):
        Store.open(directory)
    assert (tmp_path / "precious").read_text() == "precious"


def test_read_only_directory_is_refused(directory: Path) -> None:
    """A directory without write permission is refused in one sentence."""
    directory.mkdir()
    directory.chmod(0o500)
    if os.access(directory, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(DataDirectoryError, match="is not writable"):
        Store.open(directory)


def test_second_open_is_told_who_has_it(directory: Path) -> None:
    """A directory has one owner; the second is told its pid and command, in this process and in another."""
    with Store.open(directory, command="the first") as store:
        with pytest.raises(LogLocked, match=rf"is in use by pid {os.getpid()} since .* \(the first\)"):
            Store.open(directory)
        program = f"import stigmer; stigmer.open({str(directory)!r})"
        second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert f"is in use by pid {os.getpid()}" in second.stderr
        store.save("note", "n1", b"")
    Store.open(directory).close()


def test_failed_open_lets_go_of_everything(directory: Path) -> None:
    """After an open that failed the directory can be opened by whoever cures it, in the same process."""
    with Store.open(directory, SMALL) as store:
        store.save("note", "n1", b"")
    stray = directory / "log" / "stray.log"
    stray.touch()
    for _ in range(3):
        with pytest.raises(CorruptLog):
            Store.open(directory, SMALL)
    stray.unlink()
    with Store.open(directory, SMALL) as store:
        assert store.recovery == ()


# --- the end -----------------------------------------------------------------------------------------------


def test_closed_store_says_so(directory: Path) -> None:
    """Every use of a closed store raises `Closed`, and closing again does nothing."""
    store = Store.open(directory, SMALL)
    store.save("note", "n1", b"one")
    store.close()
    store.close()
    uses: list[Callable[[], object]] = [
        lambda: store.save("note", "n1", b""),
        lambda: store.delete("note", "n1"),
        lambda: store.get("note", "n1"),
        lambda: store.list("note"),
        lambda: store.count(),
        lambda: list(store.tail(1)),
        lambda: store.verify(),
        lambda: store.replay(),
    ]
    before = {path: path.stat().st_mtime_ns for path in sorted(directory.rglob("*"))}
    for use in uses:
        with pytest.raises(Closed, match="the store is closed"):
            use()
    assert {path: path.stat().st_mtime_ns for path in sorted(directory.rglob("*"))} == before


def test_close_answers_what_is_queued(directory: Path) -> None:
    """Writes under way when the store closes are either there afterwards or were told that it is closed."""
    store = Store.open(directory, SMALL)
    started = threading.Barrier(9)

    def write(place: int) -> int:
        started.wait()
        for n in range(1000):
            try:
                store.save("note", f"{place}-{n}", b"")
            except Closed:
                return n
        return 1000

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(write, place) for place in range(8)]
        started.wait()
        store.close()
        saved = [answer.result() for answer in answers]
    with Store.open(directory, SMALL) as again:
        assert again.status().revision == sum(saved)
        assert again.recovery == ()
        check_store(again)


def in_child(work: Callable[[], None]) -> int:
    """Do some work in a forked process; give 0 if it went well."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_forked_process_cannot_use_the_store(store: Store) -> None:
    """In a forked process every use of its parent's store is refused; the parent's goes on."""
    store.save("note", "n1", b"one")
    uses: list[Callable[[], object]] = [
        lambda: store.save("note", "n1", b""),
        lambda: store.get("note", "n1"),
        lambda: store.list("note"),
        lambda: store.count(),
        lambda: list(store.tail(1)),
        lambda: store.replay(),
        lambda: store.verify(),
    ]

    def work() -> None:
        for use in uses:
            with pytest.raises(StigmerError, match="forked"):
                use()

    assert in_child(work) == 0
    assert store.save("note", "n2", b"two") == 2


def test_close_in_a_forked_process_does_not_touch_the_store(store: Store, directory: Path) -> None:
    """A `with` block that ends in a forked process as well writes no seal over the parent's log and keeps its lock."""
    store.save("note", "n1", b"one")
    sizes = [path.stat().st_size for path in segments_of(directory)]
    assert in_child(store.close) == 0
    assert [path.stat().st_size for path in segments_of(directory)] == sizes
    store.save("note", "n2", b"two")
    with pytest.raises(LogLocked):
        Store.open(directory)


def test_lock_is_let_go_while_a_forked_process_lives(directory: Path) -> None:
    """A child that inherited the lock's descriptor does not keep a closed store from being opened again."""
    store = Store.open(directory, SMALL)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)  # until the parent's end is closed
        os._exit(0)
    os.close(reader)
    try:
        store.close()
        Store.open(directory, SMALL).close()
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


# --- damaged views -------------------------------------------------------------------------------------------


def edit_row(directory: Path, database: str, key: bytes, row: bytes) -> None:
    """Put a row into a view of a closed store."""

    def put(opened: dict[str, object], transaction: lmdb.Transaction) -> None:
        assert transaction.get(key, db=opened[database]) is not None
        transaction.put(key, row, db=opened[database])

    edit(directory, put)


@pytest.mark.parametrize("row", [b"", b"xyz", b"\0" * 12, b"\0" * 20, b"\xff" * 100], ids=len)
@pytest.mark.parametrize("view", ["snapshot", "counts", "requests"])
def test_damaged_row_is_never_given_out_and_mended(
    directory: Path, caplog: pytest.LogCaptureFixture, view: str, row: bytes
) -> None:
    """A row with wrong bytes or a wrong length is an error or is mended unseen; soon everything is right again."""
    with Store.open(directory, SMALL) as store:
        fill(store)
        shown = everything(store)
    database, key = {
        "snapshot": ("snapshot.1", b"agent/only"),
        "counts": ("counts.1", b"agent"),
        "requests": ("requests.1", b"r1"),
    }[view]
    edit_row(directory, database, key, row)
    caplog.set_level(logging.CRITICAL, logger="stigmer")
    with Store.open(directory, SMALL) as store:
        if view == "requests":
            assert store.save("note", "n1", b"repeated", request_id="r1") == 9
        else:
            read = (lambda: store.get("agent", "only")) if view == "snapshot" else store.count
            with pytest.raises(CorruptView, match=f"view {view}: the row of '(agent/only|agent)' is damaged"):
                read()
            for thread in threading.enumerate():
                if thread.name == "stigmer-repair":
                    thread.join()
            read()
        assert everything(store)[1] == shown[1]
        check_store(store)


def test_row_damaged_under_a_conditional_write_is_mended_first(directory: Path) -> None:
    """A write that needs a damaged row waits for the views to be folded again, and is decided by what is true."""
    with Store.open(directory, SMALL) as store:
        revision = store.save("note", "n1", b"one")
    edit_row(directory, "snapshot.1", b"note/n1", b"\0" * 60)
    with Store.open(directory, SMALL) as store:
        with pytest.raises(Conflict) as caught:
            store.save("note", "n1", b"two", expected_revision=9)
        assert caught.value.actual_revision == revision
        assert store.save("note", "n1", b"two", expected_revision=revision) == 2
        assert store.failure is None
        check_store(store)


def test_page_damaged_under_a_conditional_write_is_mended_first(directory: Path) -> None:
    """Where LMDB itself finds its file damaged, a write is decided on views that were folded again."""
    with Store.open(directory, SMALL) as store:
        for n in range(200):
            store.save("note", f"n{n:03}", b"v" * 50)
        store._writer.run(store._writer.projector.flush)
        path = data_file(directory)
        data = bytearray(path.read_bytes())
        for page in range(2 * 4096, len(data), 4096):
            data[page + 10 : page + 12] = b"\0\0"  # the flags: neither branch nor leaf
        with path.open("r+b") as file:
            file.write(data)
        assert store.save("note", "n007", b"two", expected_revision=8) == 201
        assert store.failure is None
        assert store.status().generation == 2
        assert len(store.list("note")) == 200
        check_store(store)
