"""The embedded store and both clients do the same: same values, same errors with the same facts."""

from __future__ import annotations

from typing import Any

import pytest

from stigmer import config
from stigmer.errors import AlreadyExists, BatchFailed, Conflict, InvalidArgument, NotFound, ResourceExhausted
from stigmer.model import Committed, Delete, FoldProgress, FoldReport, Op, Save
from stigmer.pb import log_pb2, store_pb2

VALUE_BYTES_MAX = 2 * 1024 * 1024


def last_revision(store: Any) -> int:
    return int(store.status().revision)


@pytest.mark.parametrize("value", [b"", b"\0", b"value", b"\xff" * 1000, bytes(VALUE_BYTES_MAX)])
def test_what_was_saved_is_got(store: Any, kind: str, value: bytes) -> None:
    """A value comes back byte for byte, with the revision that Save gave."""
    revision = store.save(kind, "a", value)
    found = store.get(kind, "a")
    assert (found.kind, found.id, found.value) == (kind, "a", value)
    assert found.revision == found.created_revision == revision == last_revision(store)
    assert found.created_at_ns == found.updated_at_ns > 0


def test_other_forms_of_a_value(store: Any, kind: str) -> None:
    """A protobuf message is saved as its serialized bytes, a bytearray as bytes."""
    message = store_pb2.GetRequest(kind="k", id="i")
    store.save(kind, "message", message)
    store.save(kind, "bytearray", bytearray(b"abc"))
    assert store.get(kind, "message").value == message.SerializeToString()
    assert store.get(kind, "bytearray").value == b"abc"
    with pytest.raises(InvalidArgument) as caught:
        store.save(kind, "text", "text")
    assert caught.value.field == "value"


def test_save_again_keeps_the_creation(store: Any, kind: str) -> None:
    """A second Save moves the revision and leaves the creation."""
    first = store.save(kind, "a", b"1")
    second = store.save(kind, "a", b"2")
    found = store.get(kind, "a")
    assert second == first + 1
    assert (found.value, found.revision, found.created_revision) == (b"2", second, first)
    assert found.updated_at_ns >= found.created_at_ns


def test_delete(store: Any, kind: str) -> None:
    """A deleted resource is not found, can not be deleted again, and starts anew when saved."""
    store.save(kind, "a", b"1")
    deleted = store.delete(kind, "a")
    assert deleted == last_revision(store)
    for call in (lambda: store.get(kind, "a"), lambda: store.delete(kind, "a")):
        with pytest.raises(NotFound) as caught:
            call()
        assert (caught.value.kind, caught.value.id) == (kind, "a")
        assert caught.value.message == f'{kind} "a" not found'
    again = store.save(kind, "a", b"2")
    assert store.get(kind, "a").created_revision == again


def test_expected_revision(store: Any, kind: str) -> None:
    """A write on a condition that does not hold writes nothing and says what there is."""
    revision = store.save(kind, "a", b"1", expected_revision=0)
    with pytest.raises(AlreadyExists) as exists:
        store.save(kind, "a", b"2", expected_revision=0)
    assert (exists.value.kind, exists.value.id) == (kind, "a")
    assert (exists.value.expected_revision, exists.value.actual_revision) == (0, revision)
    for call in (
        lambda: store.save(kind, "a", b"2", expected_revision=revision + 7),
        lambda: store.delete(kind, "a", expected_revision=revision + 7),
    ):
        with pytest.raises(Conflict) as conflict:
            call()
        assert type(conflict.value) is Conflict
        assert (conflict.value.expected_revision, conflict.value.actual_revision) == (revision + 7, revision)
        assert conflict.value.hint
    assert last_revision(store) == revision
    assert store.save(kind, "a", b"2", expected_revision=revision) == revision + 1
    assert store.delete(kind, "a", expected_revision=revision + 1) == revision + 2


def test_commit_is_all_or_nothing(store: Any, kind: str) -> None:
    """The changes of a commit have consecutive revisions, or there are none."""
    before = last_revision(store)
    done = store.commit([Save(kind, "a", b"1"), Save(kind, "b", b"2"), Delete(kind, "a")])
    assert done == Committed(before + 1, before + 3)
    with pytest.raises(Conflict):
        store.commit([Save(kind, "c", b"3"), Save(kind, "b", b"4", expected_revision=1)])
    assert [one.id for one in store.list(kind)] == ["b"]
    assert last_revision(store) == before + 3
    with pytest.raises(InvalidArgument) as caught:
        store.commit([])
    assert caught.value.field == "changes"


def test_save_many(store: Any, kind: str) -> None:
    """Each change is a commit of its own, in their order, each with its revision."""
    before = last_revision(store)
    revisions = store.save_many([Save(kind, f"{number:04}", b"v") for number in range(1_500)] + [Delete(kind, "0000")])
    assert revisions == list(range(before + 1, before + 1_502))
    assert [one.id for one in store.list(kind)] == [f"{number:04}" for number in range(1, 1_500)]
    assert store.frame(before + 2).event_count == 1
    assert store.save_many([]) == []
    assert store.save_many(iter([Save(kind, "a", b"")])) == [before + 1_502]


def test_save_many_of_large_values(store: Any, kind: str) -> None:
    """Values that are more than one message takes arrive whole and in order."""
    before = last_revision(store)
    values = [bytes([number]) * 1_500_000 for number in range(12)]
    assert store.save_many([Save(kind, "same", value) for value in values]) == list(range(before + 1, before + 13))
    assert [event.value for event in store.tail(before, follow=False)] == values


def test_save_many_where_some_fail(store: Any, kind: str) -> None:
    """What fails has its own error at its own place; the others stand, before and behind it."""
    first = store.save(kind, "there", b"1")
    changes: list[Any] = [
        Save(kind, "a", b""),
        Save(kind, "there", b"2", expected_revision=0),
        Save(kind, "b", b""),
        Save(kind, "a/b", b""),
        Delete(kind, "absent"),
        Save(kind, "large", bytes(VALUE_BYTES_MAX + 1)),
        Save(kind, "there", b"3", expected_revision=first),
        Save(kind, "text", "text"),
        "no change",
        Save(kind, "c", b""),
    ]
    with pytest.raises(BatchFailed) as caught:
        store.save_many(changes)
    assert {place: type(error) for place, error in caught.value.failures.items()} == {
        1: AlreadyExists,
        3: InvalidArgument,
        4: NotFound,
        5: ResourceExhausted,
        7: InvalidArgument,
        8: InvalidArgument,
    }
    assert [error.field for error in caught.value.failures.values() if isinstance(error, InvalidArgument)] == [
        *("id", "value", "changes[0]")
    ]
    exists = caught.value.failures[1]
    assert isinstance(exists, AlreadyExists)
    assert (exists.id, exists.actual_revision) == ("there", first)
    assert caught.value.revisions == [
        *(first + 1, None, first + 2, None, None, None, first + 3, None, None, first + 4),
    ]
    assert caught.value.failure_count == 6
    assert caught.value.message.startswith("6 of 10 commits failed; the first, number 1: ")
    assert [one.id for one in store.list(kind)] == ["a", "b", "c", "there"]


def test_get_many(store: Any, kind: str) -> None:
    """Resources come in the order of the keys, None where there is none, as often as they are asked for."""
    store.save_many([Save(kind, f"{number}", b"%d" % number) for number in range(2_500)])
    keys = [(kind, f"{number}") for number in range(2_510)]
    found = store.get_many(keys)
    assert [one and one.value for one in found] == [b"%d" % number for number in range(2_500)] + [None] * 10
    assert found[7] == store.get(kind, "7")
    assert store.get_many([]) == []
    assert store.get_many(iter([(kind, "1"), (kind, "1"), ("absent", "1")])) == [found[1], found[1], None]
    with pytest.raises(InvalidArgument) as caught:
        store.get_many([(kind, "1"), (kind, "a/b")])
    assert caught.value.field == "id"


def test_get_many_of_large_values(store: Any, kind: str) -> None:
    """Values that are more than one answer takes come whole and in order."""
    values = [bytes([number]) * 600_000 for number in range(12)]
    store.save_many([Save(kind, f"{number}", value) for number, value in enumerate(values)])
    found = store.get_many([(kind, f"{number}") for number in [*range(12), 99]])
    assert [one and one.value for one in found] == [*values, None]


def test_a_request_id_that_was_used_for_another_commit(store: Any, kind: str) -> None:
    """The first answer is given as it was, whatever the second commit holds."""
    first = store.commit([Save(kind, "a", b""), Save(kind, "b", b"")], request_id=f"{kind}-r")
    assert store.commit([Save(kind, "a", b"")], request_id=f"{kind}-r") == first
    assert store.commit([Save(kind, "a", b"")] * 3, request_id=f"{kind}-r") == first


def test_a_request_id_applies_once(store: Any, kind: str) -> None:
    """The same request id again gets the first answer and writes nothing."""
    first = store.save(kind, "a", b"1", request_id=f"{kind}-1")
    assert store.save(kind, "a", b"2", request_id=f"{kind}-1") == first
    assert store.get(kind, "a").value == b"1"
    deleted = store.delete(kind, "a", request_id=f"{kind}-2")
    assert store.delete(kind, "a", request_id=f"{kind}-2") == deleted


def test_list(store: Any, kind: str) -> None:
    """A List is in the order of the ids' bytes, by prefix, and can be taken in pages."""
    ids = ["a", "a1", "a2", "b", "B", "é", "z~"]
    for id in ids:
        store.save(kind, id, id.encode())
    store.save(kind + "x", "a", b"another kind")
    ordered = sorted(ids, key=str.encode)
    whole = store.list(kind)
    assert [one.id for one in whole] == ordered
    assert [one.value for one in whole] == [id.encode() for id in ordered]
    assert whole.next_page_token is None
    assert list(whole) == [store.get(kind, id) for id in ordered]
    assert [one.id for one in store.list(kind, "a")] == ["a", "a1", "a2"]
    assert [one.id for one in store.list(kind, prefix="none")] == []
    assert len(store.list("nothing")) == 0

    paged: list[str] = []
    token = None
    while True:
        page = store.list(kind, limit=3, page_token=token)
        assert len(page) <= 3
        paged += [one.id for one in page]
        token = page.next_page_token
        if token is None:
            break
    assert paged == ordered
    assert store.list(kind, limit=len(ids)).next_page_token is None


def test_list_of_many_pages(store: Any, kind: str) -> None:
    """What does not fit in one page or one message is listed all the same."""
    values = {f"{number:03}": bytes([number]) * 300_000 for number in range(20)}
    store.commit([Save(kind, id, value) for id, value in values.items()])
    assert {one.id: one.value for one in store.list(kind)} == values
    limited = store.list(kind, limit=12)
    assert [one.id for one in limited] == sorted(values)[:12]
    assert [one.id for one in store.list(kind, page_token=limited.next_page_token)] == sorted(values)[12:]


def test_list_of_many_resources(store: Any, kind: str) -> None:
    """A List is not cut at the number of resources that a client asks for at a time."""
    count = 12_345
    store.commit([Save(kind, f"{number:06}", b"") for number in range(count)])
    assert [one.id for one in store.list(kind)] == [f"{number:06}" for number in range(count)]
    limited = store.list(kind, limit=11_000)
    assert len(limited) == 11_000
    assert len(store.list(kind, page_token=limited.next_page_token)) == count - 11_000


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": -1}, "limit"),
        ({"page_token": "x"}, "page_token"),
        ({"prefix": "/"}, "prefix"),
    ],
)
def test_list_refuses(store: Any, kind: str, arguments: dict[str, Any], field: str) -> None:
    """A List that makes no sense names the argument."""
    with pytest.raises(InvalidArgument) as caught:
        store.list(kind, **arguments)
    assert caught.value.field == field


def test_count(store: Any, kind: str) -> None:
    """Count follows saves and deletes."""
    store.commit([Save(kind, "a", b""), Save(kind, "b", b"")])
    assert store.count()[kind] == 2
    store.delete(kind, "a")
    assert store.count()[kind] == 1
    store.delete(kind, "b")
    assert kind not in store.count()


def test_tail(store: Any, kind: str) -> None:
    """A tail gives each event behind a revision, once, in order, up to the one that is the last now."""
    start = last_revision(store)
    store.save(kind, "a", b"1")
    store.commit([Save(kind, "b", b"2"), Save(kind, "c", b"3"), Delete(kind, "a")])
    events = list(store.tail(start, follow=False))
    assert [(event.revision - start, event.op, event.id, event.value) for event in events] == [
        (1, Op.SAVE, "a", b"1"),
        (2, Op.SAVE, "b", b"2"),
        (3, Op.SAVE, "c", b"3"),
        (4, Op.DELETE, "a", b""),
    ]
    assert {event.kind for event in events} == {kind}
    assert len({event.time_ns for event in events[1:]}) == 1
    # From the middle of the commit, too.
    for after in range(start, start + 5):
        assert list(store.tail(after, follow=False)) == events[after - start :]


def test_tail_with_a_filter(store: Any, kind: str) -> None:
    """Kinds and a prefix choose events; their revisions stay what they are."""
    start = last_revision(store)
    other = kind + "x"
    store.commit([Save(kind, "a1", b""), Save(other, "a1", b""), Save(kind, "b1", b""), Save(kind, "a2", b"")])
    store.save(other, "b1", b"")

    def seen(**arguments: Any) -> list[tuple[int, str, str]]:
        return [
            (event.revision - start, event.kind, event.id) for event in store.tail(start, follow=False, **arguments)
        ]

    assert seen(kinds=[kind]) == [(1, kind, "a1"), (3, kind, "b1"), (4, kind, "a2")]
    assert seen(prefix="b") == [(3, kind, "b1"), (5, other, "b1")]
    assert seen(kinds={kind, other}, prefix="a") == [(1, kind, "a1"), (2, other, "a1"), (4, kind, "a2")]
    assert seen(kinds=["absent"]) == []
    assert [event.revision - start for event in store.tail(start + 1, [kind], "a", follow=False)] == [4]


def test_tail_of_more_than_a_page(store: Any, kind: str) -> None:
    """A tail over several messages and segments misses nothing."""
    start = last_revision(store)
    for number in range(12):
        store.save(kind, f"{number}", bytes([number]) * 400_000)
    events = list(store.tail(start, follow=False))
    assert [event.revision for event in events] == list(range(start + 1, start + 13))
    assert [event.value[:1] for event in events] == [bytes([number]) for number in range(12)]


def test_tail_follows(store: Any, kind: str) -> None:
    """A tail that follows gives what is saved after it began, and ends when it is closed."""
    events = store.tail(last_revision(store), kinds=[kind])
    for number in range(5):
        revision = store.save(kind, "a", bytes([number]))
        event = next(events)
        assert (event.revision, event.value) == (revision, bytes([number]))
    events.close()


def test_tail_beyond_the_end(store: Any) -> None:
    """A tail from a revision that is not there yet is refused, naming it and the last one."""
    last = last_revision(store)
    with pytest.raises(InvalidArgument) as caught:
        next(store.tail(last + 1))
    assert caught.value.field == "after"
    assert str(last) in caught.value.message
    assert str(last + 1) in caught.value.message


@pytest.mark.parametrize(
    ("kind", "id", "field"),
    [
        ("", "a", "kind"),
        ("k/", "a", "kind"),
        ("1k", "a", "kind"),
        ("k" * 65, "a", "kind"),
        ("k", "", "id"),
        ("k", "a/b", "id"),
        ("k", "..", "id"),
        ("k", "\x1b[2J", "id"),
        ("k", "\ud800", "id"),
        ("k", "\u202e", "id"),
        ("k", " a", "id"),
        ("k", "i" * 257, "id"),
    ],
)
def test_names_are_refused(store: Any, kind: str, id: str, field: str) -> None:
    """A name outside the grammar is refused by every method, with the same field and problem."""
    problems = set()
    for call in (
        lambda: store.save(kind, id, b""),
        lambda: store.delete(kind, id),
        lambda: store.commit([Save(kind, id, b"")]),
        lambda: store.get(kind, id),
    ):
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert caught.value.field == field
        problems.add(caught.value.problem)
    assert len(problems) == 1


def test_an_unusual_id(store: Any, kind: str) -> None:
    """Ids are any printable text, and are told apart byte by byte."""
    composed, decomposed = "\u00e9", "e\u0301"
    store.save(kind, composed, b"1")
    store.save(kind, decomposed, b"2")
    assert store.get(kind, composed).value == b"1"
    assert store.get(kind, decomposed).value == b"2"
    with pytest.raises(NotFound) as caught:
        store.get(kind, "日本語 ☕")
    assert caught.value.id == "日本語 ☕"


def test_a_value_over_the_limit(store: Any, kind: str) -> None:
    """A value that is too large is refused with the limit's name and size."""
    with pytest.raises(ResourceExhausted) as caught:
        store.save(kind, "a", bytes(VALUE_BYTES_MAX + 1))
    assert (caught.value.limit, caught.value.limit_value) == ("value_bytes_max", VALUE_BYTES_MAX)


def test_a_commit_over_the_limit(store: Any, kind: str) -> None:
    """A commit that is too large is refused with the limit's name and size."""
    value = bytes(VALUE_BYTES_MAX)
    with pytest.raises(ResourceExhausted) as caught:
        store.commit([Save(kind, f"{number}", value) for number in range(32)])
    assert (caught.value.limit, caught.value.limit_value) == ("COMMIT_BYTES_MAX", config.COMMIT_BYTES_MAX)


def test_a_look_inside(store: Any, kind: str) -> None:
    """Status, segments and frame agree with each other and with what was written."""
    revision = store.commit([Save(kind, "a", b"1"), Save(kind, "b", b"2")]).first_revision
    status = store.status()
    assert status.revision == revision + 1
    assert set(status.checkpoints.values()) == {revision + 1}
    assert status.durability == "fsync"
    assert status.resources == sum(store.count().values())
    segments = store.segments()
    assert status.segments == len(segments)
    assert segments[-1].last_revision == revision + 1
    for wanted in (revision, revision + 1):
        frame = store.frame(wanted)
        assert (frame.first_revision, frame.event_count) == (revision, 2)
        assert frame.segment == segments[-1].name
        assert [event.id for event in log_pb2.Commit.FromString(frame.payload).events] == ["a", "b"]


def test_a_frame_that_is_not_there(store: Any) -> None:
    """A revision that no frame holds is not found."""
    last = last_revision(store)
    with pytest.raises(NotFound) as caught:
        store.frame(last + 1)
    assert (caught.value.kind, caught.value.id) == ("revision", str(last + 1))


@pytest.mark.parametrize("name", ["verify", "replay"])
def test_folds(store: Any, kind: str, name: str) -> None:
    """Verify and replay find that the views are the fold of the log, and tell how far they are."""
    store.save(kind, "a", b"1")
    told: list[FoldProgress] = []
    before = store.status().generation
    report = getattr(store, name)(told.append)
    assert isinstance(report, FoldReport)
    assert (report.differences, report.examples) == (0, [])
    assert report.revision == last_revision(store)
    assert store.status().generation == report.generation == before + (1 if name == "replay" else 0)
    assert store.get(kind, "a").value == b"1"
    assert all(one.completed <= one.total for one in told)
