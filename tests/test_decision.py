"""Operations: what they see, what they leave behind, and that nothing comes between the two."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from checks import check_store, deterministic
from flows.support import standing_still
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rebuild import edit

from stigmer import config
from stigmer.decision import State, Ticket
from stigmer.errors import (
    AlreadyExists,
    Conflict,
    CorruptView,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    StigmerError,
)
from stigmer.model import Committed, Delete, Save, Transacted
from stigmer.pb.agentic import agent_pb2
from stigmer.store import Store, transacted
from stigmer.views import snapshot


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


def agent(slug: str, *tags: str) -> bytes:
    """Give a value that has terms."""
    made = agent_pb2.Agent()
    made.metadata.slug = slug
    made.metadata.tags.extend(tags)
    return made.SerializeToString()


class Group:
    """Queues commits while the writer stands still, so that they are decided in one group, in this order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.tickets: list[Ticket] = []
        self._answered = threading.Semaphore(0)

    def operate(self, operation: Callable[[State], Any], request_id: str = "") -> None:
        self._store.submit_operation(operation, self._take, request_id=request_id)
        self._note()

    def commit(self, *changes: Save | Delete, request_id: str | None = None) -> None:
        self._store._queue(changes, request_id, self._take, None)
        self._note()

    def _note(self) -> None:
        self.tickets.append(self._store._writer._queue[-1])

    def _take(self, tickets: list[Ticket]) -> None:
        self._answered.release(len(tickets))

    def answers(self) -> list[Transacted | StigmerError]:
        """Wait for all; give what they come to, in order."""
        found: list[Transacted | StigmerError] = []
        for _ in self.tickets:
            self._answered.acquire()
        for ticket in self.tickets:
            try:
                found.append(transacted(ticket))
            except StigmerError as error:
                found.append(error)
        return found


def told(answers: list[Transacted | StigmerError]) -> list[Any]:
    return [answer.told if isinstance(answer, Transacted) else type(answer) for answer in answers]


# --- what an operation sees --------------------------------------------------------------------------------


def test_an_operation_sees_its_group(store: Store) -> None:
    """What was accepted before in the same group, commits and operations, is there: values, revisions, terms."""
    store.save("agent", "old", agent("old", "t"))

    def look(state: State) -> Any:
        ids = list(state.find_ids("agent", "tag", "t"))
        found = {id: state.get("agent", id) for id in ("old", "a", "b")}
        return (
            {id: (one.value, one.revision) for id, one in found.items() if one is not None},
            ids,
            list(state.find_ids("agent", "slug", "a")),
        )

    group = Group(store)
    with standing_still(store):
        group.operate(look)
        group.commit(Save("agent", "a", agent("a", "t")))
        group.operate(look)
        group.operate(lambda state: state.save("agent", "b", agent("b", "t")))
        group.commit(Delete("agent", "old"))
        group.commit(Delete("agent", "not there"))
        group.operate(lambda state: state.save("agent", "a", agent("renamed", "t")))
        group.operate(look)
    old, a, b, renamed = agent("old", "t"), agent("a", "t"), agent("b", "t"), agent("renamed", "t")
    answers = told(group.answers())
    assert answers[0] == ({"old": (old, 1)}, ["old"], [])
    assert answers[2] == ({"old": (old, 1), "a": (a, 2)}, ["old", "a"], ["a"])
    assert answers[5] is NotFound
    assert answers[7] == ({"a": (renamed, 5), "b": (b, 3)}, ["a", "b"], [])


def test_an_operation_sees_what_it_did_itself(store: Store) -> None:
    """Its own saves and deletes are there, with no revision yet; what it creates comes behind what there was."""
    store.save("agent", "z", agent("z", "t"))
    store.save("agent", "y", agent("y", "t"))

    def operation(state: State) -> list[Any]:
        seen: list[Any] = [list(state.find_ids("agent", "tag", "t"))]
        state.save("agent", "b", agent("b", "t"))
        state.save("agent", "a", agent("a", "t"))
        seen.append(list(state.find_ids("agent", "tag", "t")))
        state.delete("agent", "b")
        state.delete("agent", "z")
        state.save("agent", "y", agent("y"))
        seen.append(list(state.find_ids("agent", "tag", "t")))
        state.save("agent", "z", agent("z", "t"))
        seen.append(list(state.find_ids("agent", "tag", "t")))
        for id in "abz":
            found = state.get("agent", id)
            seen.append(None if found is None else (found.value, found.revision))
        return seen

    done = store.transact(operation)
    assert done.told == [
        ["z", "y"],
        ["z", "y", "b", "a"],
        ["a"],
        ["a", "z"],
        (agent("a", "t"), 0),
        None,
        (agent("z", "t"), 0),
    ]
    assert done.committed == Committed(3, 8)  # type: ignore[arg-type]
    assert [entry.id for entry in store.find_ids("agent", "tag", "t")] == ["a", "z"]


def test_two_who_count_lose_nothing(store: Store) -> None:
    """Threads that read a number and save the next one, all at once, come to their sum."""

    def count(state: State) -> int:
        found = state.get("note", "n")
        number = int(found.value) if found is not None else 0
        state.save("note", "n", b"%d" % (number + 1))
        return number

    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda: seen.extend(store.transact(count).told for _ in range(50))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(400))
    assert store.get("note", "n").value == b"400"


def test_operations_that_write_much_do_not_all_share_a_group(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What operations come to ends a group as it grows, for nobody knows it before; none is lost or out of order."""
    monkeypatch.setattr(config, "GROUP_BYTES_MAX", 100_000)
    sizes: list[int] = []
    append = store._log.append

    def noted(entries: Any, time_ns: int) -> Any:
        sizes.append(sum(len(entry.payload) for entry in entries))
        return append(entries, time_ns)

    monkeypatch.setattr(store._log, "append", noted)

    def grow(state: State) -> None:
        found = state.get("note", "a")
        state.save("note", "a", (found.value if found is not None else bytes(30_000)) + b"x")

    group = Group(store)
    with standing_still(store):
        for _ in range(20):
            group.operate(grow)
        group.commit(Save("note", "b", b""))
    answers = group.answers()
    assert [answer.committed for answer in answers] == [Committed(n, n) for n in range(1, 22)]  # type: ignore[arg-type, union-attr]
    assert len(store.get("note", "a").value) == 30_020
    assert len(sizes) == 6
    assert max(sizes) < 100_000 + 40_000
    assert store._writer._queue_bytes == 0


# --- what is refused ---------------------------------------------------------------------------------------


def refuse(state: State) -> None:
    state.save("note", "a", b"refused")
    raise Conflict("note", "a", 1, 2)


def fail(state: State) -> None:
    state.save("note", "a", b"failed")
    raise ZeroDivisionError("a bug")


def too_large(state: State) -> None:
    state.save("note", "a", b"")
    state.save("note", "large", bytes(config.VALUE_BYTES_DEFAULT + 1))


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (refuse, Conflict),
        (fail, StigmerError),
        (too_large, ResourceExhausted),
        (lambda state: state.delete("note", "not there"), NotFound),
        (lambda state: (state.save("note", "a", b"x"), state.delete("note", "b"), state.delete("note", "b")), NotFound),
        (lambda state: state.save("note", "a\n", b""), InvalidArgument),
        (lambda state: (state.save("note", "a", b"x"), state.find_ids("note", "slug", "a")), InvalidArgument),
    ],
    ids=["refused", "bug", "too large", "deletes nothing", "deletes twice", "name", "index"],
)
def test_a_refused_operation_changes_nothing(
    store: Store, operation: Callable[[State], Any], error: type[StigmerError]
) -> None:
    """Whatever it had saved by then is not there, for those behind it in its group neither; they go on."""
    store.save("note", "a", b"before")
    store.save("note", "b", b"before")
    group = Group(store)
    with standing_still(store):
        group.operate(operation, "r")
        group.operate(lambda state: [state.get("note", id) for id in "ab"])
        group.operate(lambda state: state.save("note", "c", b"after"), "r")
    answers = group.answers()
    assert type(answers[0]) is error
    assert [found.value for found in told(answers)[1]] == [b"before", b"before"]
    # A request that was refused was not carried out, so its id is free.
    assert answers[2] == Transacted(Committed(3, 3), None, False)  # type: ignore[arg-type]
    assert store.status().revision == 3


def test_a_bug_is_told_and_logged(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """An operation that raises what is no error of ours is refused with one, and its traceback is in the log."""
    with pytest.raises(StigmerError, match="the operation failed inside the store: ZeroDivisionError"):
        store.transact(fail)
    assert "a bug" in caplog.text
    assert store.transact(lambda state: "alive").told == "alive"


# --- request ids and nothing to do -------------------------------------------------------------------------


def test_a_request_is_carried_out_once(store: Store) -> None:
    """The same id again calls nothing and gives the first commit, in the same group, later, and after a new start."""
    called: list[int] = []

    def operation(state: State) -> str:
        called.append(1)
        state.save("note", "a", b"%d" % len(called))
        return "told"

    group = Group(store)
    with standing_still(store):
        for _ in range(3):
            group.operate(operation, "r")
        group.commit(Save("note", "b", b""), request_id="r")
    first, *others = group.answers()
    assert first == Transacted(Committed(1, 1), "told", False)  # type: ignore[arg-type]
    assert set(others) == {Transacted(Committed(1, 1), None, True)}  # type: ignore[arg-type]
    assert store.transact(operation, "r") == others[0]
    store._writer.flush()
    assert store.transact(operation, "r") == others[0]
    assert (len(called), store.status().revision) == (1, 1)


def test_an_operation_that_changes_nothing_writes_nothing(store: Store) -> None:
    """It tells what it found, has no revision, and its request is not remembered: there is nothing to repeat."""
    done = store.transact(lambda state: state.get("note", "a"), "r")
    assert done == Transacted(None, None, False)
    assert store.status().revision == 0
    assert store.transact(lambda state: state.save("note", "a", b""), "r").committed == Committed(1, 1)  # type: ignore[arg-type]


def test_an_id_that_is_none_is_refused(store: Store) -> None:
    """A request id that cannot be one never reaches the writer."""
    for id in ("no\nid", "x" * 2000):
        with pytest.raises(InvalidArgument, match="request_id"):
            store.transact(lambda state: state.save("note", "a", b""), id)


# --- against a model ---------------------------------------------------------------------------------------

IDS = ("a", "b", "c")
TAGS = ("s", "t")

expected = st.sampled_from([None] * 6 + [0, 1, 2, 3])
tagged = st.lists(st.sampled_from(TAGS), unique=True, max_size=2)
saves = st.tuples(st.just("save"), st.sampled_from(IDS), tagged)
deletes = st.tuples(st.just("delete"), st.sampled_from(IDS))
looks = st.just(("look",))
endings = st.sampled_from([[]] * 8 + [[("refuse",)], [("fail",)]])
steps = st.builds(list.__add__, st.lists(st.one_of(saves, saves, looks, looks, deletes), max_size=4), endings)
plain = st.one_of(
    st.tuples(st.just("save"), st.sampled_from(IDS), tagged, expected),
    st.tuples(st.just("delete"), st.sampled_from(IDS), expected),
)
commits = st.tuples(
    st.sampled_from([""] * 8 + ["r1", "r2"]),
    st.one_of(
        st.tuples(st.just("operation"), steps),
        st.tuples(st.just("operation"), steps),
        st.tuples(st.just("commit"), st.lists(plain, min_size=1, max_size=3)),
    ),
)
groups = st.lists(st.tuples(st.lists(commits, min_size=1, max_size=6), st.booleans()), min_size=1, max_size=5)


class Model:
    """What a store with these commits comes to."""

    def __init__(self) -> None:
        self.resources: dict[str, tuple[list[str], int, int]] = {}
        """Id -> tags, revision, revision at which it was created."""
        self.requests: dict[str, Committed] = {}
        self.revision = 0

    def look(self, resources: dict[str, tuple[list[str], int, int]]) -> Any:
        by_age = sorted(resources, key=lambda id: resources[id][2])
        return (
            {id: (sorted(tags), revision) for id, (tags, revision, _) in resources.items()},
            {tag: [id for id in by_age if tag in resources[id][0]] for tag in TAGS},
        )

    def carry_out(self, request_id: str, commit: Any) -> Any:
        """Give what becomes of a commit: an error's class, or revisions, what is told, whether it was repeated."""
        if request_id in self.requests:
            return self.requests[request_id], None, True
        what, wanted = commit
        now = dict(self.resources)
        seen: list[Any] = []
        count = 0
        for step in wanted:
            match step:
                case ("look",):
                    seen.append(self.look(now))
                    continue
                case ("refuse",):
                    return Conflict
                case ("fail",):
                    return StigmerError
            op, id, *rest = step
            number = self.revision + count + 1
            if what == "commit":
                wants = rest[-1]
                is_at = now[id][1] if id in now else 0
                if wants is not None and wants != is_at:
                    return AlreadyExists if wants == 0 else Conflict
            if op == "delete":
                if id not in now:
                    # An operation's deletes are looked at when it has ended, so a later refusal comes first.
                    later = wanted[wanted.index(step) :] if what == "operation" else []
                    ends = next((one[0] for one in later if one[0] in ("refuse", "fail")), "")
                    return {"refuse": Conflict, "fail": StigmerError}.get(ends, NotFound)
                del now[id]
            else:
                created = now[id][2] if id in now else number
                # To the operation itself its own saves have no revision yet.
                now[id] = (rest[0], number if what == "commit" else 0, created)
            count += 1
        told = seen if what == "operation" else None
        if not count:
            return None, told, False
        if what == "operation":
            number = self.revision
            for step in wanted:
                if step[0] in ("save", "delete"):
                    number += 1
                    if step[0] == "save" and step[1] in now:
                        now[step[1]] = (now[step[1]][0], number, now[step[1]][2])
        committed = Committed(self.revision + 1, self.revision + count)  # type: ignore[arg-type]
        self.resources, self.revision = now, self.revision + count
        if request_id:
            self.requests[request_id] = committed
        return committed, told, False


def operation_of(wanted: list[Any]) -> Callable[[State], Any]:
    def operation(state: State) -> Any:
        seen = []
        for step in wanted:
            match step:
                case ("save", id, tags):
                    state.save("agent", id, agent(id, *tags))
                case ("delete", id):
                    state.delete("agent", id)
                case ("look",):
                    seen.append(looked(state))
                case ("refuse",):
                    raise Conflict("agent", "a", 1, 2)
                case ("fail",):
                    raise ZeroDivisionError
        return seen

    return operation


def looked(state: State) -> Any:
    by_tag = {tag: list(state.find_ids("agent", "tag", tag)) for tag in TAGS}
    found = {id: one for id in IDS if (one := state.get("agent", id)) is not None}
    return (
        {id: (sorted(agent_pb2.Agent.FromString(one.value).metadata.tags), one.revision) for id, one in found.items()},
        by_tag,
    )


def change_of(step: Any) -> Save | Delete:
    if step[0] == "save":
        _, id, tags, wants = step
        return Save("agent", id, agent(id, *tags), wants)
    return Delete("agent", step[1], step[2])


@settings(deterministic, max_examples=100)
@given(groups=groups)
def test_operations_and_commits_against_a_model(tmp_path_factory: pytest.TempPathFactory, groups: Any) -> None:
    """Operations and plain commits, with preconditions and request ids, in any groups, come to what a model says."""
    model = Model()
    with Store.open(tmp_path_factory.mktemp("model") / "data") as store:
        for group, flushes in groups:
            queued = Group(store)
            with standing_still(store):
                for request_id, (what, wanted) in group:
                    if what == "operation":
                        queued.operate(operation_of(wanted), request_id)
                    else:
                        queued.commit(*map(change_of, wanted), request_id=request_id or None)
            for (request_id, commit), answer in zip(group, queued.answers(), strict=True):
                wants = model.carry_out(request_id, commit)
                assert (type(answer) if isinstance(answer, StigmerError) else tuple(answer)) == wants
            assert store.transact(looked).told == model.look(model.resources)
            if flushes:
                store._writer.flush()
        check_store(store)


# --- damage and death --------------------------------------------------------------------------------------


def spoil(transaction: lmdb.Transaction, database: object) -> None:
    """Damage a row, so that its checksum tells."""
    row = transaction.get(b"note/a", db=database)
    transaction.put(b"note/a", row[:-1] + bytes((row[-1] ^ 1,)), db=database)


def test_damage_in_the_middle_is_mended(directory: Path) -> None:
    """An operation that meets a damaged row is called again on mended views, with its whole group."""
    with Store.open(directory) as store:
        store.save("note", "a", b"value")
    edit(directory, b"snapshot.1", spoil)
    called: list[str] = []

    def operation(state: State) -> bytes:
        called.append("called")
        found = state.get("note", "a")
        assert found is not None
        state.save("note", "a", found.value + b", changed")
        return found.value

    with Store.open(directory) as store:
        generation = store.status().generation
        group = Group(store)
        with standing_still(store):
            group.operate(lambda state: (called.append("first"), state.save("note", "b", b"b"))[0], "r")
            group.operate(lambda state: called.append("never"), "r")
            group.operate(operation)
            group.commit(Delete("note", "b"))
        answers = group.answers()
        assert [answer.committed for answer in answers] == [  # type: ignore[union-attr]
            Committed(2, 2),  # type: ignore[arg-type]
            Committed(2, 2),  # type: ignore[arg-type]
            Committed(3, 3),  # type: ignore[arg-type]
            Committed(4, 4),  # type: ignore[arg-type]
        ]
        assert [answer.is_repeat for answer in answers] == [False, True, False, False]  # type: ignore[union-attr]
        assert called == ["first", "called", "first", "called"]
        assert told(answers)[2] == b"value"
        assert store.get("note", "a").value == b"value, changed"
        assert store.status().generation == generation + 1
        check_store(store)


def test_a_file_in_which_lmdb_gets_lost_is_not_a_bug_of_the_operation(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What LMDB itself finds damaged while an operation reads is mended, too."""
    store.save("note", "a", b"value")
    store._writer.flush()
    generation = store.status().generation
    good = snapshot.message_in

    def lost(*arguments: Any) -> Any:
        if store._writer.generation.number == generation:
            raise lmdb.CorruptedError("located page was wrong type")
        return good(*arguments)

    monkeypatch.setattr(snapshot, "message_in", lost)
    found = store.transact(lambda state: state.get("note", "a")).told
    assert found is not None
    assert found.value == b"value"
    assert store.status().generation == generation + 1


def test_who_first_repeats_and_then_does_not(store: Store) -> None:
    """Where the first one of a request is refused when its group is decided again, the second one is carried out."""
    refused = [False, True]

    def first(state: State) -> None:
        if refused.pop(0):
            raise Conflict("note", "a", 1, 2)
        state.save("note", "a", b"first")

    def damaged(state: State) -> None:
        if refused:
            raise CorruptView("test", "is damaged")

    group = Group(store)
    with standing_still(store):
        group.operate(first, "r")
        group.operate(lambda state: state.save("note", "a", b"second"), "r")
        group.operate(damaged)
    answers = group.answers()
    assert type(answers[0]) is Conflict
    assert answers[1] == Transacted(Committed(1, 1), None, False)  # type: ignore[arg-type]
    assert store.get("note", "a").value == b"second"


PROGRAM = """
import sys
from stigmer.store import Store

def operation(state):
    found = [state.get("note", id) for id in "abc"]
    values = {int(one.value) if one is not None else 0 for one in found}
    (number,) = values
    for id in "abc":
        state.save("note", id, b"%d" % (number + 1))
    return number + 1

with Store.open(sys.argv[1]) as store:
    while True:
        print(store.transact(operation).told, flush=True)
"""


def test_an_operation_is_made_as_a_whole_or_not_at_all(directory: Path) -> None:
    """After each kill -9 all that an operation saved is there, or nothing of it, and what was answered is there."""
    acknowledged = 0
    for lines in (1, 7, 40):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(directory)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(lines):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines()
        process.stdout.close()
        process.wait()
        # A line that is whole was acknowledged, whether it was read in time or not.
        acknowledged = max([acknowledged, *(int(line) for line in rest if line)])
        with Store.open(directory) as store:
            values = {int(store.get("note", id).value) for id in "abc"}
            assert len(values) == 1
            assert values.pop() in (acknowledged, acknowledged + 1)
            check_store(store)
