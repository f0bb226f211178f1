"""An embedded store, used by many threads of a process that is killed, again and again: all of it is one history.

What the threads did is checked at the end of the turn, over all crashes, against the log. What was written and not
synced is lost at a kill, more often than not.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from checks import check_store

from faults import history
from faults.bugs import bug
from faults.children import Channel, Child, pause
from faults.clients import Client, Mix, abridged_log, drive, operations_of
from faults.history import Operation, Refused, Write
from faults.journal import Full, Journal
from faults.scenario import Scenario, Turn
from faults.unsynced import Unsynced
from stigmer import config
from stigmer.config import StoreOptions
from stigmer.decision import Decision, Ticket
from stigmer.store import Store
from stigmer.views.projector import Projector
from stigmer.views.requests import Requests
from stigmer.views.snapshot import Snapshot
from stigmer.views.view import Databases, FoldCommit, Transaction
from stigmer.writer import Writer

THREADS_MAX = 12
OPERATIONS_PER_LIFE_MAX = 3_000
LANE_BYTES = 4 << 20


def live(
    directory: Path,
    seed: str,
    quota: int,
    options: StoreOptions,
    again: list[Write],
    journal: Journal,
    channel: Channel,
) -> None:
    """Open a store and use it from several threads, which go on after they have done their part, until killed.

    With SIGTERM they end, and the store is closed. `again` are requests of earlier lives.
    """
    ending, done = threading.Event(), threading.Event()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    chance = random.Random(seed)
    # Short, so that the writer need not wait for readers, who wait for nothing; and so that they meet everywhere.
    sys.setswitchinterval(chance.choice((0.0001, 0.0005, 0.001)))
    # Small, so that flushes fall among the operations.
    config.UNFLUSHED_ENTRIES_MAX = chance.choice((20, 100, 1_000))
    config.LIST_UNFLUSHED_MAX = chance.choice((10, 1_000))

    def use(number: int, client: Client, methods: dict[str, Callable[..., Any]]) -> None:
        try:
            for write in again[number :: len(journal.lanes)]:
                drive(client.write(write.request_id, write.changes), methods)
            for _ in range(quota):
                drive(client.step(), methods)
            done.set()
            while not ending.is_set():
                drive(client.step(), methods)
        except Full:
            done.set()
        except Exception as error:
            channel.broken(error)

    with Store.open(directory, options) as store:
        channel.send(("open", store.recovery))
        methods: dict[str, Callable[..., Any]] = {
            "commit": store.commit,
            "get": store.get,
            "get_many": store.get_many,
            "list": store.list,
            "last": lambda: store.visible_revision,
        }
        threads = []
        for number, lane in enumerate(journal.lanes):
            name = f"{seed}.{number}"
            client = Client(Mix(random.Random(name), name), lane, reads_at_once=True)
            threads.append(threading.Thread(target=use, args=(number, client, methods)))
        for thread in threads:
            thread.start()
        if chance.random() < 0.1:
            store.replay()
            channel.send(("replayed", ()))
        done.wait()
        channel.send(("done", ()))
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

        def work(channel: Channel) -> None:
            self._unsynced.note()
            live(self._directory, seed, quota // threads, options, self._again, journal, channel)

        with Child(work) as child:
            if chance.random() < 0.1:
                told = pause(child, chance.uniform(0, 0.01)) + child.kill()
                turn.count("kills while opening", not told)
            else:
                self._listen(child)
                if chance.random() < 0.15:
                    os.kill(child.pid, signal.SIGTERM)
                    child.rest()
                    turn.require(child.wait() == 0, "a close failed")
                    turn.count("clean ends")
                else:
                    pause(child, chance.uniform(0, 0.005))
                    child.kill()
            turn.count("kills", child.wait() == -signal.SIGKILL)
        turn.count("cuts of what was not synced", self._unsynced.lose(chance) > 0)
        self._take(journal)
        journal.close()

    def _listen(self, child: Child) -> None:
        """Wait until a life has done its part."""
        turn = self._turn
        while True:
            for what, notes in child.receive():
                turn.count("replays", what == "replayed")
                turn.count("torn tails", any("cut off" in note for note in notes))
                if what == "done":
                    return
            turn.require(not child.is_at_end, "the store's process ended by itself")

    def _take(self, journal: Journal) -> None:
        """Take what was recorded in a life that is over."""
        turn, chance = self._turn, self._turn.random
        over_ns = time.monotonic_ns()
        done = [one for lane in journal.lanes for one in operations_of(lane, over_ns)]
        self.operations += done
        writes = [one for one in done if isinstance(one, Write)]
        turn.count("writes under way", sum(one.answer is None for one in writes))
        turn.count("refusals", sum(isinstance(one.answer, Refused) for one in writes))
        turn.count("operations", len(done))
        self._again = [one for one in writes if chance.random() < (0.7 if one.answer is None else 0.01)]
        turn.count("requests sent again in a later life", len(self._again))

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
    what="threads use an embedded store that is killed: one order explains every answer, and is that of the log",
    unit="operations",
    gate=20_000,
    chunk=50_000,
    soak=1_000_000,
    must=("kills", "writes under way", "unknown outcomes that were made", "refusals", "segments"),
    run=embedded,
)


@bug(
    "answer-before-fold",
    "a writer is answered once its commit is durable, but before readers see it",
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
    "half-a-commit-visible",
    "the events of a commit are folded one after the other",
    scenario="linearizable",
    amount=8_000,
)
def half_a_commit_is_visible() -> None:
    """Fold each event as if it were a commit, and the request at the end."""
    fold = Projector.fold

    def folding(self: Projector, commits: Sequence[FoldCommit]) -> None:
        for commit in commits:
            for change in commit.changes:
                time.sleep(0)  # another thread has its turn, as it may have anywhere
                revision = change.revision
                fold(
                    self,
                    [commit._replace(first_revision=revision, last_revision=revision, request_id="", changes=[change])],
                )
        requests = self.view(Requests)
        requests.take(requests.fold(lambda database, key: None, commits))

    Projector.fold = folding  # type: ignore[method-assign]


@bug(
    "memory-forgotten-early",
    "readers look into LMDB for what its transaction has not committed yet",
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
    "repeat-made-again",
    "request ids are forgotten: what is sent again with the same one is applied again",
    scenario="linearizable",
    amount=4_000,
)
def a_repeat_is_made_again() -> None:
    """Know no request of an earlier group."""
    Requests.committed = lambda self, lookup, request_id: None  # type: ignore[method-assign]
