"""The commit path's memory: what is folded and not in LMDB yet is read, kept, flushed and found again."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checks import check_store, copy_as_a_crash_leaves

from stigmer import config
from stigmer.errors import DiskFull, StigmerError, StorageFailed
from stigmer.model import Save
from stigmer.pb import log_pb2
from stigmer.store import Store
from stigmer.writer import Ticket


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "data"


@pytest.fixture
def store(directory: Path) -> Iterator[Store]:
    """A store that is checked when the test has ended."""
    with Store.open(directory) as store:
        yield store
        check_store(store)


def comes_true(condition: Callable[[], bool]) -> bool:
    """Wait until something is so; False if it is not after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_what_is_in_memory_is_flushed_after_a_while(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that has nothing to do puts what it has in memory into LMDB, and reads stay the same."""
    monkeypatch.setattr(config, "UNFLUSHED_SECONDS_MAX", 0.2)
    projector = store._writer.projector
    may_flush, flush = threading.Event(), projector.flush

    def when_allowed() -> None:
        may_flush.wait()
        flush()

    monkeypatch.setattr(projector, "flush", when_allowed)
    store.save("note", "a", b"1")
    assert not projector.is_flushed
    assert store.get("note", "a").value == b"1"
    may_flush.set()
    assert comes_true(lambda: projector.is_flushed)
    assert store.get("note", "a").value == b"1"


def test_memory_is_flushed_under_load(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However quickly commits come, memory holds so many events at the most, or so many bytes."""
    monkeypatch.setattr(config, "UNFLUSHED_SECONDS_MAX", 3600.0)
    projector = store._writer.projector
    monkeypatch.setattr(config, "UNFLUSHED_EVENTS_MAX", 10)
    for n in range(25):
        store.save("note", f"n{n}", b"")
        store._writer.run(lambda: None)
        assert projector.checkpoint - projector.flushed < 10
    store._writer.run(projector.flush)
    monkeypatch.setattr(config, "UNFLUSHED_EVENTS_MAX", 1_000_000)
    monkeypatch.setattr(config, "UNFLUSHED_BYTES_MAX", 10_000)
    for n in range(25):
        store.save("blob", f"n{n}", bytes(3_000))
        store._writer.run(lambda: None)
        assert projector.checkpoint - projector.flushed < 4


def test_a_list_looks_through_little_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list has much that is in memory flushed first, and reads on where that cannot be done."""
    monkeypatch.setattr(config, "LIST_UNFLUSHED_MAX", 10)
    monkeypatch.setattr(config, "UNFLUSHED_SECONDS_MAX", 3600.0)
    projector = store._writer.projector
    for n in range(10):
        store.save("note", f"n{n}", b"")
    assert len(store.list("note")) == 10
    assert projector.flushed == 0
    store.save("note", "x", b"")
    assert len(store.list("note")) == 11
    assert projector.flushed == 11
    store.commit([Save("note", f"y{n}", b"") for n in range(11)])
    with monkeypatch.context() as patch:
        patch.setattr(projector.environment, "write", full)
        assert len(store.list("note")) == 22
        assert store.save("note", "z", b"") == 23
    assert len(store.list("note")) == 23


def test_what_a_crash_took_from_memory_is_folded_again(
    store: Store, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files as a kill -9 leaves them: the views lack what was in memory, and have it after the next open."""
    monkeypatch.setattr(config, "UNFLUSHED_SECONDS_MAX", 3600.0)
    for n in range(10):
        store.save("note", f"n{n % 3}", str(n).encode(), request_id=f"r{n}")
        if n == 4:
            store._writer.run(store._writer.projector.flush)
    crashed = tmp_path / "crashed"
    copy_as_a_crash_leaves(store, crashed)
    with Store.open(crashed) as again:
        assert "folded revisions 6 to 10 into the views" in again.recovery
        assert [resource.value for resource in again.list("note")] == [b"9", b"7", b"8"]
        assert again.save("note", "n1", b"4", request_id="r4") == 5
        assert again.save("note", "n1", b"7", request_id="r7") == 8
        check_store(again)


def test_close_flushes_and_marks_the_views_as_whole(directory: Path) -> None:
    """After a clean close nothing is folded again."""
    with Store.open(directory) as store:
        store.save("note", "a", b"")
    with Store.open(directory) as store:
        assert store.recovery == ()
        assert store._writer.projector.is_flushed


def full(*_: object, **__: object) -> Any:
    raise DiskFull("here")


def test_views_that_cannot_be_flushed_stop_writes_only_once_memory_is_full(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With room for the log only, reads go on; writes are refused at a bound, and retries get their answer."""
    monkeypatch.setattr(config, "UNFLUSHED_EVENTS_MAX", 5)
    monkeypatch.setattr(config, "UNFLUSHED_SECONDS_MAX", 3600.0)
    tried: list[None] = []

    def full_again(*_: object) -> None:
        tried.append(None)
        raise DiskFull("here")

    with monkeypatch.context() as patch:
        patch.setattr(store._writer.projector.environment, "write", full_again)
        for n in range(5):
            store.save("note", f"n{n}", b"", request_id=f"r{n}")
        for _ in range(5):
            store._writer.run(lambda: None)  # behind which the writer looks whether it must flush
        assert len(tried) == 1, "it is not tried over and over"
        for _ in range(3):
            with pytest.raises(DiskFull):
                store.save("note", "x", b"", request_id="rx")
        assert store.save("note", "n2", b"", request_id="r2") == 3
        assert [resource.id for resource in store.list("note")] == ["n0", "n1", "n2", "n3", "n4"]
        assert store.count() == {"note": 5}
    assert sum("the views cannot be written" in record.message for record in caplog.records) == 1
    assert store.save("note", "x", b"", request_id="rx") == 6
    assert store._writer.projector.flushed >= 5


def test_failed_flush_stops_the_store_but_takes_no_answer_back(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that was answered is not answered again when the flush behind it fails; nothing is accepted any more."""
    answers: list[tuple[int, StigmerError | None]] = []

    def sink(tickets: list[Ticket]) -> None:
        answers.extend((ticket.context, ticket.error) for ticket in tickets)

    def failing(*_: object) -> None:
        raise StorageFailed("here", "write", "no")

    monkeypatch.setattr(config, "UNFLUSHED_EVENTS_MAX", 1)
    with Store.open(directory) as store:
        monkeypatch.setattr(store._writer.projector.environment, "write", failing)
        event = log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="note", id="a", value=b"1")
        store.submit(log_pb2.Commit(events=[event]).SerializeToString(), sink, 1)
        assert comes_true(lambda: store.failure is not None)
        with pytest.raises(StorageFailed):
            store.save("note", "b", b"")
        assert answers == [(1, None)]
        assert store.get("note", "a").value == b"1"
    monkeypatch.undo()
    with Store.open(directory) as store:
        assert store.get("note", "a").value == b"1"
        check_store(store)


@pytest.fixture
def _threads_take_turns() -> Iterator[None]:
    """Have threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_threads_take_turns")
def test_reads_of_many_are_of_one_moment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one commit changes is seen together, in memory, in LMDB and while it goes from the one to the other."""
    monkeypatch.setattr(config, "UNFLUSHED_EVENTS_MAX", 7)
    keys = [("note", id) for id in "abc"]
    ended = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        last = 0
        while not ended.is_set():
            for values in (
                [resource and resource.value for resource in store.get_many(keys)],
                [resource.value for resource in store.list("note")],
            ):
                if len(values) != 3 or len(set(values)) != 1 or int(values[0] or b"0") < last:
                    wrong.append((last, values))
                last = max(int(value or b"0") for value in values)
            for id in "abc":
                single = int(store.get("note", id).value)
                if single < last:
                    wrong.append((last, id, single))
                last = single
            if sum(store.count().values()) != 4:
                wrong.append(store.count())

    store.commit([Save("note", id, b"0") for _, id in keys])
    store.save("other", "n0", b"")
    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(1, 800):
        store.commit([Save("note", id, str(n).encode()) for _, id in keys])
    ended.set()
    for reader in readers:
        reader.join()
    assert wrong == []
