"""Concurrent operations on one store, with crashes in between, checked as one history.

The embedded store is used by threads of a forked process, which is killed; the daemon by clients in a process that is
not, while the daemon is. What happened is checked at the end of the turn, over all crashes, against the log.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from checks import check_store

from faults import history
from faults.bugs import bug
from faults.forks import Forked, Tell
from faults.history import Acked, Change, Commit, Found, Key, Operation, Read, Refused, Seen, Write
from faults.journal import Full, Journal, Lane
from faults.scenario import Scenario, Turn
from faults.unsynced import Unsynced
from stigmer import config
from stigmer.config import StoreOptions
from stigmer.decision import Decision, Ticket
from stigmer.errors import Conflict, NotFound
from stigmer.model import Resource
from stigmer.store import Store
from stigmer.views.projector import Projector
from stigmer.views.requests import Requests
from stigmer.views.snapshot import Snapshot
from stigmer.views.view import Databases, FoldCommit, Transaction
from stigmer.writer import Writer

KINDS = ("alpha", "beta", "gamma")
IDS = tuple(f"id-{number}" for number in range(7))
THREADS_MAX = 12
OPERATIONS_PER_LIFE_MAX = 5_000
LANE_BYTES = 4 << 20
REMEMBERED = 16

_FILLER = random.Random(0).randbytes(16 * 1024)


def value_of(name: bytes, size: int) -> bytes:
    """Make a value that no other save has; two large ones have most bytes in common, so that deltas are stored."""
    return b"%s %d " % (name, size) + _FILLER[:size]


def abridged(value: bytes) -> bytes:
    """Give a value without its filler; one that was not saved so, as it is."""
    name, size, rest = [*value.split(b" ", 2), b"", b""][:3]
    return b"%s %s" % (name, size) if size.isdigit() and rest == _FILLER[: int(size)] else value


def abridged_log(store: Store) -> list[Commit]:
    """Give the log of a store with its values abridged."""
    return [
        commit._replace(
            changes=[
                one if one.value is None else msgspec.structs.replace(one, value=abridged(one.value))
                for one in commit.changes
            ]
        )
        for commit in history.log_of(store)
    ]


class Mix:
    """Chooses what one client does next."""

    def __init__(self, chance: random.Random, name: str) -> None:
        self.chance = chance
        self._name = name
        self._count = 0
        self._known: dict[Key, int] = {}
        self._asked: list[tuple[str, list[Change]]] = []

    def key(self) -> Key:
        """Choose a resource."""
        return KINDS[int(self.chance.random() * len(KINDS))], IDS[int(self.chance.random() * len(IDS))]

    def see(self, found: Found) -> None:
        """Remember at what revision a resource was seen."""
        self._known[found.kind, found.id] = found.revision

    def request(self) -> tuple[str, list[Change]]:
        """Make a commit, or choose an earlier one to be sent again."""
        chance = self.chance.random
        if self._asked and chance() < 0.05:
            return self.chance.choice(self._asked)
        self._count += 1
        name = f"{self._name}.{self._count}"
        if chance() < 0.7:
            keys = [self.key()]
        else:
            kind = self.key()[0]
            keys = [(kind, id) for id in self.chance.sample(IDS, self.chance.randint(2, 4))]
        changes = [self._change(key, f"{name}.{place}") for place, key in enumerate(keys)]
        self.ask(name, changes)
        return name, changes

    def ask(self, request_id: str, changes: list[Change]) -> None:
        """Remember a request, to send it again one day."""
        self._asked.append((request_id, changes))
        if len(self._asked) > REMEMBERED:
            del self._asked[self.chance.randrange(REMEMBERED)]

    def _change(self, key: Key, name: str) -> Change:
        chance = self.chance.random
        expected = None
        if chance() < 0.2:
            expected = self._known.get(key, 0)
        if chance() < 0.15:
            return Change(*key, None, expected)
        size = 0 if chance() < 0.95 else self.chance.randint(config.DELTA_BYTES_MIN, len(_FILLER))
        return Change(*key, b"%s %d" % (name.encode(), size), expected)


def full_size(changes: Sequence[Change]) -> list[Change]:
    """Give changes with the values that their abridged ones stand for."""
    return [
        one
        if one.value is None
        else msgspec.structs.replace(one, value=value_of(one.value.split()[0], int(one.value.split()[1])))
        for one in changes
    ]


def found_of(resource: Resource) -> Found:
    """Give a resource as a history has it."""
    return Found(resource.kind, resource.id, resource.revision, resource.created_revision, abridged(resource.value))


def refused_of(error: Conflict | NotFound) -> Refused:
    """Give a refusal as a history has it."""
    return Refused(error.kind, error.id, error.actual_revision if isinstance(error, Conflict) else 0)


# --- the embedded store ---


class Answered(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """The answer to the write that is the record before it."""

    ended_ns: int
    answer: Acked | Refused


_RECORD = Write | Read | Seen | Answered
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_RECORD).decode


class Client:
    """One thread's operations on an embedded store."""

    def __init__(self, store: Store, mix: Mix, lane: Lane) -> None:
        self._store = store
        self._mix = mix
        self._lane = lane

    def step(self) -> None:
        """Do something. Raises `Closed` and `Full`."""
        what = self._mix.chance.random()
        if what < 0.58:
            self._get()
        elif what < 0.64:
            self._get_many()
        elif what < 0.70:
            self._list()
        elif what < 0.75:
            self._last()
        else:
            self.write(*self._mix.request())

    def write(self, request_id: str, changes: list[Change]) -> None:
        """Commit; what it was is on record before it is begun."""
        sent = history.changes_of(full_size(changes))
        self._lane.append(_encode(Write(time.monotonic_ns(), history.NEVER, request_id, changes, None)))
        answer: Acked | Refused
        try:
            committed = self._store.commit(sent, request_id)
            answer = Acked(committed.first_revision, committed.last_revision)
        except (Conflict, NotFound) as error:
            answer = refused_of(error)
        self._lane.append(_encode(Answered(time.monotonic_ns(), answer)))

    def _get(self) -> None:
        kind, id = self._mix.key()
        begun_ns = time.monotonic_ns()
        try:
            resource = self._store.get(kind, id)
        except NotFound:
            ended_ns = time.monotonic_ns()
            found = Found(kind, id, 0)
        else:
            ended_ns = time.monotonic_ns()
            found = found_of(resource)
        self._lane.append(_encode(Read(begun_ns, ended_ns, [found])))
        self._mix.see(found)

    def _get_many(self) -> None:
        keys = list({self._mix.key() for _ in range(3)})
        begun_ns = time.monotonic_ns()
        resources = self._store.get_many(keys)
        ended_ns = time.monotonic_ns()
        found = [
            Found(*key, 0) if resource is None else found_of(resource)
            for key, resource in zip(keys, resources, strict=True)
        ]
        self._lane.append(_encode(Read(begun_ns, ended_ns, found)))

    def _list(self) -> None:
        kind = self._mix.key()[0]
        limit = self._mix.chance.choice((None, 2))
        begun_ns = time.monotonic_ns()
        page = self._store.list(kind, limit=limit)
        ended_ns = time.monotonic_ns()
        through = page.resources[-1].id if page.next_page_token else None
        self._lane.append(_encode(Read(begun_ns, ended_ns, [found_of(one) for one in page], kind, through)))

    def _last(self) -> None:
        begun_ns = time.monotonic_ns()
        revision = self._store.visible_revision
        self._lane.append(_encode(Seen(begun_ns, time.monotonic_ns(), revision, True)))


def live(
    directory: Path, seed: str, quota: int, options: StoreOptions, again: list[Write], journal: Journal, tell: Tell
) -> None:
    """Open a store and use it from several threads, which go on after they have done their part, until killed.

    With SIGTERM they end, and the store is closed. `again` are requests of earlier lives.
    """
    ending, done = threading.Event(), threading.Event()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    chance = random.Random(seed)
    # Short, so that the writer need not wait for readers, who wait for nothing; and so that they meet everywhere.
    sys.setswitchinterval(chance.choice((0.00002, 0.0001, 0.0005)))
    # Small, so that flushes fall among the operations.
    config.UNFLUSHED_ENTRIES_MAX = chance.choice((20, 100, 1_000))
    config.LIST_UNFLUSHED_MAX = chance.choice((10, 1_000))

    def use(number: int, client: Client) -> None:
        try:
            for write in again[number :: len(journal.lanes)]:
                client.write(write.request_id, write.changes)
            for _ in range(quota):
                client.step()
            done.set()
            while not ending.is_set():
                client.step()
        except Full:
            done.set()
        except Exception as error:
            tell(b"failed " + repr(error).encode())

    with Store.open(directory, options) as store:
        tell(b"open " + ";".join(store.recovery).encode())
        threads = []
        for number, lane in enumerate(journal.lanes):
            name = f"{seed}.{number}"
            client = Client(store, Mix(random.Random(name), name), lane)
            threads.append(threading.Thread(target=use, args=(number, client)))
        for thread in threads:
            thread.start()
        if chance.random() < 0.1:
            store.replay()
            tell(b"replayed")
        done.wait()
        tell(b"done")
        signal.sigwait({signal.SIGTERM})
        ending.set()
        for thread in threads:
            thread.join()


class Lives:
    """The lives of one store, each ended by a kill or a clean close, and what was done in them."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._directory = turn.directory / "data"
        self._unsynced = Unsynced(self._directory / "log")
        self.operations: list[Operation] = []
        self._again: list[Write] = []

    def lead(self, number: int, quota: int) -> None:
        """Lead one life."""
        turn, chance = self._turn, self._turn.random
        threads = chance.randint(3, THREADS_MAX)
        options = StoreOptions(segment_bytes=chance.choice((16, 64, 256)) * config.KIB)
        journal = Journal(threads, LANE_BYTES)
        seed = f"{turn.seed}.{number}"

        def work(tell: Tell) -> None:
            self._unsynced.note()
            live(self._directory, seed, quota // threads, options, self._again, journal, tell)

        with Forked(work) as forked:
            if chance.random() < 0.1:
                time.sleep(chance.uniform(0, 0.02))
                turn.count("kills while opening", forked.hear(0) is None)
                forked.kill()
            else:
                self._listen(forked)
                if chance.random() < 0.15:
                    os.kill(forked.pid, signal.SIGTERM)
                    turn.require(forked.wait() == 0, "a close failed")
                    turn.count("clean ends")
                else:
                    time.sleep(chance.uniform(0, 0.005))
                    forked.kill()
            turn.count("kills", forked.wait() == -signal.SIGKILL)
        turn.count("cuts of what was not synced", self._unsynced.lose(chance) > 0)
        self._take(journal)
        journal.close()

    def _listen(self, forked: Forked) -> None:
        """Wait until a life has done its part."""
        turn = self._turn
        while (line := forked.hear()) != b"done":
            turn.require(line is not None, "the store's process ended by itself", status=line or forked.wait())
            assert line is not None
            what, _, more = line.decode().partition(" ")
            turn.require(what != "failed", "an operation failed", error=more)
            turn.count("replays", what == "replayed")
            turn.count("torn tails", "cut off" in more)

    def _take(self, journal: Journal) -> None:
        """Take what was recorded in a life that is over."""
        turn, chance = self._turn, self._turn.random
        over_ns = time.monotonic_ns()
        writes: list[Write] = []
        for lane in journal.lanes:
            last: Write | None = None
            for record in lane:
                one = _decode(record)
                if isinstance(one, Answered):
                    assert last is not None
                    writes.append(msgspec.structs.replace(last, ended_ns=one.ended_ns, answer=one.answer))
                    last = None
                elif isinstance(one, Write):
                    last = one
                else:
                    self.operations.append(one)
            if last is not None:
                writes.append(msgspec.structs.replace(last, ended_ns=over_ns))
                turn.count("writes under way")
        turn.count("refusals", sum(isinstance(one.answer, Refused) for one in writes))
        turn.count("operations", len(self.operations) + len(writes) - turn.tally["operations"])
        self._again = [one for one in writes if chance.random() < (0.7 if one.answer is None else 0.01)]
        turn.count("requests sent again in a later life", len(self._again))
        self.operations += writes

    def check(self) -> None:
        """Check all that was done against the log."""
        with Store.open(self._directory) as store:
            log = abridged_log(store)
            self._turn.count("segments", len(store.segments()))
            if self._turn.random.random() < 0.1:
                check_store(store)
                self._turn.count("views compared with the log")
        made = {commit.request_id for commit in log}
        unknown = [one for one in self.operations if isinstance(one, Write) and one.answer is None]
        self._turn.count("unknown outcomes that were made", sum(one.request_id in made for one in unknown))
        history.check(log, self.operations)


def embedded(turn: Turn) -> None:
    """Lead lives of one store until so many operations were done, then check them all."""
    lives = Lives(turn)
    number = 0
    while turn.tally["operations"] < turn.amount:
        lives.lead(number, turn.random.randint(100, OPERATIONS_PER_LIFE_MAX))
        number += 1
    lives.check()


EMBEDDED = Scenario(
    name="linearizable",
    rows=("A1",),
    what="Threads use an embedded store that is killed: one order explains every answer, and is that of the log.",
    unit="operations",
    gate=30_000,
    chunk=60_000,
    soak=1_000_000,
    must=(
        "kills",
        "kills while opening",
        "writes under way",
        "unknown outcomes that were made",
        "refusals",
        "segments",
    ),
    run=embedded,
)


@bug(
    "answer before the fold",
    "A writer is answered once its commit is durable, but before readers see it.",
    scenario="linearizable",
    amount=8_000,
)
def answer_before_the_fold() -> None:
    """Answer the accepted commits of a group first, and those that are left in the end."""
    decide, fold, answer = Writer._decide, Writer._fold, Writer._answer
    decided: list[Decision] = []
    answered: set[int] = set()

    def deciding(self: Writer, group: list[Ticket]) -> Decision:
        decided[:] = [decide(self, group)]
        return decided[0]

    def folding(self: Writer, commits: list[FoldCommit]) -> bool:
        accepted = decided[0].accepted if decided else []
        answer(self, accepted)
        answered.update(map(id, accepted))
        return fold(self, commits)

    def answering(self: Writer, tickets: Iterable[Ticket]) -> None:
        answer(self, [ticket for ticket in tickets if id(ticket) not in answered])
        answered.clear()

    Writer._decide, Writer._fold, Writer._answer = deciding, folding, answering  # type: ignore[method-assign]


@bug(
    "half a commit is visible",
    "The events of a commit are folded one after the other.",
    scenario="linearizable",
    amount=8_000,
)
def half_a_commit_is_visible() -> None:
    """Fold each event as if it were a commit."""
    fold = Projector.fold

    def folding(self: Projector, commits: Sequence[FoldCommit]) -> None:
        for commit in commits:
            for change in commit.changes:
                one = commit._replace(first_revision=change.revision, last_revision=change.revision, changes=[change])
                fold(self, [one])

    Projector.fold = folding  # type: ignore[method-assign]


@bug(
    "memory is forgotten before the flush",
    "Readers look into LMDB for what its transaction has not committed yet.",
    scenario="linearizable",
    amount=8_000,
)
def memory_is_forgotten_before_the_flush() -> None:
    """Forget inside the transaction."""
    flush = Snapshot.flush

    def flushing(self: Snapshot, transaction: Transaction, databases: Databases) -> None:
        flush(self, transaction, databases)
        self.forget()

    Snapshot.flush = flushing  # type: ignore[method-assign]


@bug(
    "a repeat is made again",
    "Request ids are forgotten: what is sent again with the same one is applied again.",
    scenario="linearizable",
    amount=4_000,
)
def a_repeat_is_made_again() -> None:
    """Know no request of an earlier group."""
    Requests.committed = lambda self, lookup, request_id: None  # type: ignore[method-assign]
