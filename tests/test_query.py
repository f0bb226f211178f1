"""Lists and look-ups by the indexes: order, pages, filters, totals, and what they cost."""

from __future__ import annotations

import logging
import random
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import pytest
from checks import check_store, copy_as_a_crash_leaves
from views.support import edit

from stigmer import codec, config, page_tokens
from stigmer.config import StoreOptions
from stigmer.errors import CorruptView, InvalidArgument
from stigmer.model import Delete, IndexedPage, IndexEntry, Revision, Save
from stigmer.pb.agentic import agent_pb2, agentexecution_pb2
from stigmer.query import Query
from stigmer.store import Store
from stigmer.views import index, snapshot
from stigmer.views.index import Index

SMALL = StoreOptions(segment_bytes=64 * 1024, map_bytes=1 << 20)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open store; at the end everything in it must agree."""
    with Store.open(tmp_path / "data", SMALL) as opened:
        yield opened
        check_store(opened)


def agent(slug: str = "", org: str = "", tags: Sequence[str] = (), **labels: str) -> agent_pb2.Agent:
    """Give an agent."""
    message = agent_pb2.Agent()
    message.metadata.slug = slug
    message.metadata.org = org
    message.metadata.tags.extend(tags)
    message.metadata.labels.update(labels)
    return message


def execution(session: str, phase: int, tags: Sequence[str] = ()) -> agentexecution_pb2.AgentExecution:
    """Give an execution."""
    message = agentexecution_pb2.AgentExecution()
    message.spec.session_id = session
    message.status.phase = phase  # type: ignore[assignment]
    message.metadata.tags.extend(tags)
    return message


def ids_of(rows: Sequence[bytes]) -> list[str]:
    """Give the ids of serialized resources."""
    return [codec.resource_of(row).id for row in rows]


def flush(store: Store) -> None:
    """Have everything put into LMDB."""
    store._writer.flush()


Where = list[tuple[str, tuple[str, ...]]]


# --- a plain list beside it ------------------------------------------------------------------------------------

IDS = [f"x{n}" for n in range(14)]
TEXTS = {"session": ["s1", "s2", "none"], "phase": ["1", "2", "3"], "tag": ["red", "green", "blue", "none"]}


class Lists:
    """Executions that come, change and go between the pages of lists, beside a plain dict of them."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self.source = random.Random(seed)
        self.there: dict[str, tuple[int, dict[str, list[str]]]] = {}
        self.pages = 0

    def change(self) -> None:
        """Save, change, delete or flush something."""
        what = self.source.random()
        id = self.source.choice(IDS)
        if what < 0.1:
            flush(self.store)
        elif what < 0.25 and id in self.there:
            del self.there[id]
            self.store.delete("agent_execution", id)
        else:
            session, phase = self.source.choice(["s1", "s2"]), self.source.randint(0, 3)
            tags = self.source.sample(["red", "green", "blue"], self.source.randint(0, 3))
            revision = self.store.save("agent_execution", id, execution(session, phase, tags))
            has = {"session": [session], "phase": [str(phase)] if phase else [], "tag": tags}
            self.there[id] = (self.there.get(id, (revision,))[0], has)

    def ask(self) -> Where:
        """Make up some conditions."""
        names = self.source.sample(sorted(TEXTS), self.source.choice([0, 1, 1, 2, 2, 3]))
        if self.source.random() < 0.2:
            names.append("tag")
        counts = [self.source.choice([1, 1, 2, 3]) for _ in names]
        return [
            (name, tuple(self.source.sample(TEXTS[name], count))) for name, count in zip(names, counts, strict=True)
        ]

    def expected(self, where: Where, newest_first: bool) -> list[tuple[int, str]]:
        """Give creation and id of those to which all conditions hold."""
        return sorted(
            (
                (created_revision, id)
                for id, (created_revision, has) in self.there.items()
                if all(set(texts) & set(has[name]) for name, texts in where)
            ),
            reverse=newest_first,
        )

    def list_by_tokens(self) -> None:
        """List page after page, with changes between them."""
        where, limit, newest_first = self.ask(), self.source.randint(1, 4), self.source.random() < 0.7
        token = ""
        behind: tuple[int, str] | None = None
        while True:
            expected = self.expected(where, newest_first)
            page = self.store.list_indexed(
                "agent_execution", where, limit=limit, page_token=token, newest_first=newest_first
            )
            left = [one for one in expected if behind is None or (one < behind if newest_first else one > behind)]
            assert ids_of(page.rows) == [id for _, id in left[:limit]]
            assert page.total == len(expected)
            assert (page.next_page_token != "") == (len(left) > limit)
            self.pages += token != ""
            if not page.next_page_token:
                return
            token, behind = page.next_page_token, left[limit - 1]
            if self.source.random() < 0.5:
                self.change()

    def list_by_number(self) -> None:
        """List one page by its number."""
        where, limit, newest_first = self.ask(), self.source.randint(1, 4), self.source.random() < 0.7
        number = self.source.randint(0, 4)
        expected = self.expected(where, newest_first)
        skipped = max(0, number - 1) * limit
        page = self.store.list_indexed("agent_execution", where, limit=limit, page=number, newest_first=newest_first)
        assert ids_of(page.rows) == [id for _, id in expected[skipped : skipped + limit]]
        assert page.total == len(expected)
        assert (page.next_page_token != "") == (len(expected) > skipped + limit)

    def find(self) -> None:
        """Look up one term."""
        name = self.source.choice(sorted(TEXTS))
        text = self.source.choice([*TEXTS[name], ""])
        expected = [IndexEntry(id, "", Revision(revision)) for revision, id in self.expected([(name, (text,))], False)]
        assert self.store.find_ids("agent_execution", name, text) == expected


@pytest.mark.parametrize("seed", range(12))
def test_lists_are_what_a_plain_list_gives(store: Store, seed: int) -> None:
    """Pages by token and by number, in both orders, with any filters, are right while resources come and go."""
    lists = Lists(store, seed)
    for _ in range(10):
        lists.change()
    for _ in range(150):
        lists.source.choice([lists.change, lists.list_by_tokens, lists.list_by_number, lists.find])()
    assert lists.pages > 10


# --- look-ups ------------------------------------------------------------------------------------------------


def test_slug_is_found_in_every_organization_or_in_one(store: Store) -> None:
    """A slug gives all that have it, the oldest first, and with an organization that one's only."""
    for n, org in enumerate(["acme", "", "umbrella", "o" * 300]):
        store.save("agent", f"a{n}", agent("reviewer", org))
    store.save("agent", "other", agent("other", "acme"))
    for _ in range(2):
        found = store.find_ids("agent", "slug", "reviewer")
        assert [entry.id for entry in found] == ["a0", "a1", "a2", "a3"]
        assert [entry.qualifier for entry in found[:3]] == ["acme", "", "umbrella"]
        assert [entry.created_revision for entry in found] == [1, 2, 3, 4]
        assert [entry.id for entry in store.find_ids("agent", "slug", "reviewer", "")] == ["a1"]
        assert [entry.id for entry in store.find_ids("agent", "slug", "reviewer", "umbrella")] == ["a2"]
        assert [entry.id for entry in store.find_ids("agent", "slug", "reviewer", "o" * 300)] == ["a3"]
        assert store.find_ids("agent", "slug", "reviewer", "none") == []
        assert store.find_ids("agent", "slug", "none") == store.find_ids("session", "slug", "reviewer") == []
        flush(store)


def test_lists_and_lookups_by_no_index_are_refused(store: Store) -> None:
    """A kind or an index that is not declared, or a page that cannot be, is an error and not an empty list."""
    refused: list[Callable[[], object]] = [
        lambda: store.find_ids("note", "slug", "x"),
        lambda: store.find_ids("agent", "phase", "1"),
        lambda: store.list_indexed("note"),
        lambda: store.list_indexed("agent", [("tag", ("x",)), ("session", ("x",))]),
        lambda: store.list_indexed("agent", limit=-1),
        lambda: store.list_indexed("agent", limit=1, page=-1),
        lambda: store.list_indexed("agent", page=2),
    ]
    for ask in refused:
        with pytest.raises(InvalidArgument):
            ask()


# --- pages -----------------------------------------------------------------------------------------------------


def test_page_has_no_more_than_its_bytes(store: Store) -> None:
    """A page has one resource at least, and no further one that would bring it above the bytes that are asked for."""
    for n in range(9):
        store.save("agent", f"a{n}", agent("x" * 100))
    size = len(store.get_row("agent", "a0"))
    for bytes_max, expected in ((1, 1), (size, 1), (size * 2 - 1, 1), (size * 2, 2), (size * 4, 4)):
        token, sizes = "", []
        while True:
            page = store.list_indexed("agent", bytes_max=bytes_max, page_token=token)
            sizes.append(len(page.rows))
            token = page.next_page_token
            assert page.total == 9
            if not token:
                break
        assert sizes == [expected] * (9 // expected) + [9 % expected] * (9 % expected > 0)


def test_rows_are_those_of_get(store: Store) -> None:
    """A list gives the same bytes as a get, from memory and from LMDB."""
    for n in range(3):
        store.save("agent", f"a{n}", agent("one"))
    for _ in range(2):
        rows = store.list_indexed("agent", [("slug", ("one",))]).rows
        assert rows == [store.get_row("agent", f"a{n}") for n in (2, 1, 0)]
        flush(store)


def test_token_goes_on_with_its_own_question_only(store: Store, tmp_path: Path) -> None:
    """A token of other conditions, another order, kind, list or store is refused; the size of a page may change."""
    for n in range(5):
        store.save("agent", f"a{n}", agent(f"s{n}", tags=["red", "blue"]))
    where: Where = [("tag", ("red", "blue")), ("slug", ("s1", "s2", "s3"))]
    token = store.list_indexed("agent", where, limit=1).next_page_token
    # The order in which the same is asked does not matter, nor do repetitions.
    same: Where = [("slug", ("s3", "s2", "s1", "s3")), ("tag", ("blue", "red"))]
    assert ids_of(store.list_indexed("agent", same, limit=2, page_token=token).rows) == ["a2", "a1"]
    # A token says where a page begins, whatever the number of the page.
    assert ids_of(store.list_indexed("agent", where, limit=2, page_token=token, page=9).rows) == ["a2", "a1"]
    by_id = store.list("agent", limit=1).next_page_token or ""
    bad: list[Callable[[], object]] = [
        lambda: store.list_indexed("agent", where[:1], page_token=token),
        lambda: store.list_indexed("agent", [], page_token=token),
        lambda: store.list_indexed("skill", where, page_token=token),
        lambda: store.list_indexed("agent", where, page_token=token, newest_first=False),
        lambda: store.list_indexed("agent", where, page_token=token[:-4]),
        lambda: store.list_indexed("agent", where, page_token=token.swapcase()),
        lambda: store.list_indexed("agent", where, page_token="é"),
        lambda: store.list_indexed("agent", where, page_token=by_id),
        lambda: store.list("agent", page_token=token),
    ]
    for ask in bad:
        with pytest.raises(InvalidArgument, match="page_token"):
            ask()
    with Store.open(tmp_path / "other", SMALL) as other, pytest.raises(InvalidArgument, match="from another store"):
        other.list_indexed("agent", where, page_token=token)


@pytest.mark.parametrize("behind", [b"", b"x" * 8, b"x" * 8 + b"\xff", b"x" * 8 + b"a/b", b"x" * 8 + b"y" * 257])
def test_token_whose_place_is_none_is_refused(store: Store, behind: bytes) -> None:
    """The form of a token is no secret, so one that was made with the right checksum may hold anything."""
    for n in range(2):
        store.save("agent", f"a{n}", agent(f"s{n}"))
    place = page_tokens.place_in(store.store_id, store.list_indexed("agent", limit=1).next_page_token)
    assert page_tokens.place_in(store.store_id, page_tokens.token_of(store.store_id, place)) == place
    token = page_tokens.token_of(store.store_id, place[:9] + behind)
    with pytest.raises(InvalidArgument, match="page_token: is not one that this store gave out"):
        store.list_indexed("agent", page_token=token)


def test_what_is_written_after_the_moment_of_a_page_is_not_on_it(store: Store) -> None:
    """Commits and a flush between the moment of a page and its work change nothing on it."""
    for n in range(4):
        store.save("agent_execution", f"x{n}", execution("s1", 1))
    for flushes in (False, True):
        if flushes:
            flush(store)
        queries = [
            Query(
                store.store_id,
                "agent_execution",
                where,
                limit=2,
                page_token="",
                page=0,
                bytes_max=config.PAGE_BYTES_MAX,
                newest_first=True,
            )
            for where in ([("session", ("s1",))], [("session", ("s1",)), ("phase", ("1", "2"))], [])
        ]
        for query in queries:

            def work(transaction: Any, databases: Any, selected: Any, query: Query = query) -> IndexedPage:
                rows = [store.get_row("agent_execution", f"x{n}") for n in (3, 2)]
                for n in range(4):
                    store.save("agent_execution", f"x{n}", execution("s2", 3))
                store.delete("agent_execution", "x3")
                store.save("agent_execution", "x4", execution("s1", 1))
                page = query.work(transaction, databases, selected)
                assert (page.rows, page.total) == (rows, 4)
                return page

            projector = store._writer.projector
            projector.read_across(query.select, work)
            # As it was, so that the next one finds the same.
            changes: list[Save | Delete] = [Delete("agent_execution", f"x{n}") for n in (0, 1, 2, 4)]
            store.commit([*changes, *(Save("agent_execution", f"x{n}", execution("s1", 1)) for n in range(4))])


def test_pages_are_of_one_moment_while_others_write(store: Store) -> None:
    """Two sessions that every commit swaps between two executions list one each, and both phases are full."""
    for n in range(2):
        store.save("agent_execution", f"x{n}", execution(f"s{n}", n + 1))
    stopping = threading.Event()
    failures: list[BaseException] = []

    def swap() -> None:
        try:
            n = 0
            while not stopping.is_set():
                n += 1
                changes = [Save("agent_execution", f"x{one}", execution(f"s{(one + n) % 2}", 1)) for one in range(2)]
                if n % 5 == 0:
                    changes = [Delete("agent_execution", f"x{one}") for one in range(2)] + changes
                store.commit(changes)
                if n % 7 == 0:
                    flush(store)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(400):
            for where in ([("session", ("s0",))], [("session", ("s0",)), ("phase", ("1", "2"))]):
                page = store.list_indexed("agent_execution", where)
                assert (len(page.rows), page.total) == (1, 1)
            page = store.list_indexed("agent_execution", [("session", ("s0", "s1"))])
            assert (sorted(ids_of(page.rows)), page.total) == (["x0", "x1"], 2)
            assert len(store.find_ids("agent_execution", "all", "")) == 2
    finally:
        stopping.set()
        thread.join()
    assert failures == []


# --- cost ------------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys of all rows that the index and the snapshot verify, for each is verified when it is read."""
    seen: list[bytes] = []
    for module, name in ((index, "_verified"), (snapshot, "verified")):
        original = getattr(module, name)

        def counted(key: bytes, row: bytes, original: Callable[[bytes, bytes], bytes] = original) -> bytes:
            seen.append(key)
            return original(key, row)

        monkeypatch.setattr(module, name, counted)
    return seen


def test_cost_does_not_grow_with_the_resources_of_the_kind(tmp_path: Path, reads: list[bytes]) -> None:
    """A page of 20,000 executions, of one session or one phase of them, reads as many rows as one of 100."""
    asked: dict[str, Callable[[Store, str], Any]] = {
        "first": lambda store, token: store.list_indexed("agent_execution", limit=10),
        "next": lambda store, token: store.list_indexed("agent_execution", limit=10, page_token=token),
        "session": lambda store, token: store.list_indexed("agent_execution", [("session", ("s1",))], limit=3),
        "rare and common": lambda store, token: store.list_indexed(
            "agent_execution", [("phase", ("2", "3")), ("session", ("s1",))], limit=3
        ),
        "lookup": lambda store, token: store.find_ids("agent_execution", "session", "s1"),
    }
    costs: dict[str, list[int]] = {name: [] for name in asked}
    for resources in (100, 20_000):
        with Store.open(tmp_path / f"{resources}") as store:
            for first in range(0, resources, 1_000):
                store.commit(
                    [
                        Save("agent_execution", f"x{n}", execution("s1" if n in (7, 20, 30, 40) else f"t{n}", 2))
                        for n in range(first, min(resources, first + 1_000))
                    ]
                )
            flush(store)
            token = store.list_indexed("agent_execution", limit=50).next_page_token
            for name, ask in asked.items():
                reads.clear()
                ask(store, token)
                costs[name].append(len(reads))
    assert costs == {
        "first": [1 + 11 + 10] * 2,
        "next": [1 + 11 + 10] * 2,
        "session": [1 + 4 + 3] * 2,
        # Sizes of three terms where there are two; four entries, each looked up under its phase; three rows.
        "rare and common": [2 + 4 + 4 + 3] * 2,
        "lookup": [4] * 2,
    }


def test_list_with_much_in_memory_has_it_flushed_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a list would have to copy out of the memory is bounded, for its terms and for the rows."""
    monkeypatch.setattr(config, "LIST_UNFLUSHED_MAX", 20)
    memory = store._writer.projector.view(Index)
    for n in range(21):
        store.save("agent_execution", "x", execution(f"s{n % 2}", 1))
        store.delete("agent_execution", "x")
    assert memory.unflushed > 20
    store.list_indexed("agent_execution", [("phase", ("1",))])
    assert memory.unflushed == 0
    for n in range(21):
        store.save("agent_execution", f"x{n}", execution(f"s{n}", 1))
    store.find_ids("agent_execution", "session", "s1")
    assert memory.unflushed > 20
    store.find_ids("agent_execution", "phase", "1")
    assert memory.unflushed == 0


# --- damage and older layouts ----------------------------------------------------------------------------------


PLACE = struct.pack(">Q", 1) + b"a0"


def wait_for_repair() -> None:
    """Wait until the views were folded again, where a read has found them damaged."""
    for thread in threading.enumerate():
        if thread.name == "stigmer-repair":
            thread.join()


@pytest.mark.parametrize(
    ("database", "key"), [("index.1", b"agent\0slug\0s0\0" + PLACE), ("index_sizes.1", b"agent\0slug\0s0")]
)
@pytest.mark.parametrize("row", [b"", b"\0" * 12], ids=len)
def test_damaged_row_is_an_error_and_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, database: str, key: bytes, row: bytes
) -> None:
    """A list over a damaged row raises, other lists go on, and soon all is right again."""
    with Store.open(tmp_path, SMALL) as store:
        for n in range(3):
            store.save("agent", f"a{n}", agent(f"s{n}"))
    edit(tmp_path, lambda opened, transaction: transaction.put(key, row, db=opened[database]))
    caplog.set_level(logging.CRITICAL, logger="stigmer")
    with Store.open(tmp_path, SMALL) as store:
        with pytest.raises(CorruptView, match=r"view index: the row of .*agent.*slug.*s0.* is damaged"):
            store.list_indexed("agent", [("slug", ("s0",))])
        assert store.list_indexed("agent", [("slug", ("s1",))]).total == 1
        wait_for_repair()
        assert store.list_indexed("agent", [("slug", ("s0",))]).total == 1
        check_store(store)


def test_entry_of_a_resource_that_is_not_there_is_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An entry for which the snapshot has nothing is damage as well."""
    with Store.open(tmp_path, SMALL) as store:
        store.save("agent", "a0", agent("s0"))

    def invent(opened: dict[str, Any], transaction: lmdb.Transaction) -> None:
        key = b"agent\0tag\0none\0" + PLACE[:8] + b"a9"
        for database, at, payload in (("index.1", key, b""), ("index_sizes.1", key[:14], struct.pack("<Q", 1))):
            crc = index._crc(at, payload)
            transaction.put(at, struct.pack("<I", crc) + payload, db=opened[database])

    edit(tmp_path, invent)
    caplog.set_level(logging.CRITICAL, logger="stigmer")
    with Store.open(tmp_path, SMALL) as store:
        assert [entry.id for entry in store.find_ids("agent", "tag", "none")] == ["a9"]
        with pytest.raises(CorruptView, match="which is not in the snapshot"):
            store.list_indexed("agent", [("tag", ("none",))])
        wait_for_repair()
        assert store.list_indexed("agent", [("tag", ("none",))]).rows == []
        check_store(store)


@pytest.mark.parametrize("row", [None, b"", b"\0" * 12], ids=str)
def test_damaged_terms_are_mended_by_the_write_that_needs_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, row: bytes | None
) -> None:
    """A save of a resource whose terms were lost waits for the views to be folded again; the entries are right."""
    with Store.open(tmp_path, SMALL) as store:
        store.save("agent", "a0", agent("s0"))

    def damage(opened: dict[str, Any], transaction: lmdb.Transaction) -> None:
        if row is None:
            assert transaction.delete(b"agent/a0", db=opened["index_terms.1"])
        else:
            transaction.put(b"agent/a0", row, db=opened["index_terms.1"])

    edit(tmp_path, damage)
    caplog.set_level(logging.CRITICAL, logger="stigmer")
    with Store.open(tmp_path, SMALL) as store:
        assert store.save("agent", "a0", agent("s1")) == 2
        assert store.failure is None
        assert store.find_ids("agent", "slug", "s0") == []
        assert store.find_ids("agent", "slug", "s1") == [IndexEntry("a0", "", 1)]
        check_store(store)


def test_views_from_before_the_index_are_folded_again(tmp_path: Path) -> None:
    """A data directory whose views have no index opens with one that has everything."""
    with Store.open(tmp_path, SMALL) as store:
        for n in range(5):
            store.save("agent", f"a{n}", agent(f"s{n}"))

    def as_before(opened: dict[str, Any], transaction: lmdb.Transaction) -> None:
        for name in ("index.1", "index_sizes.1", "index_terms.1"):
            transaction.drop(opened[name])
        transaction.put(b"schema", b"1 snapshot.1 counts.1 requests.1 requests_order.1", db=opened["meta"])

    edit(tmp_path, as_before)
    with Store.open(tmp_path, SMALL) as store:
        assert store.recovery == (
            "generation 1 of the views is not used: it has another layout",
            "folded revisions 1 to 5 into the views",
        )
        assert store.find_ids("agent", "slug", "s3") == [IndexEntry("a3", "", 4)]
        check_store(store)
    with Store.open(tmp_path, SMALL) as store:
        assert store.recovery == ()


def test_crash_loses_nothing_of_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was in memory when the process died, over what was flushed before, is folded again."""
    monkeypatch.setattr(config, "UNFLUSHED_SECONDS_MAX", 3600.0)
    with Store.open(tmp_path / "data", SMALL) as store:
        for n in range(8):
            store.save("agent_execution", f"x{n}", execution(f"s{n % 2}", 1))
            if n == 3:
                flush(store)
        store.delete("agent_execution", "x0")
        store.save("agent_execution", "x2", execution("s1", 3))
        copy_as_a_crash_leaves(store, tmp_path / "crashed")
        expected = store.list_indexed("agent_execution", [("session", ("s1",))])
    with Store.open(tmp_path / "crashed", SMALL) as store:
        assert store.recovery != ()
        assert store.list_indexed("agent_execution", [("session", ("s1",))]) == expected
        assert ids_of(expected.rows) == ["x7", "x5", "x3", "x2", "x1"]
        check_store(store)
