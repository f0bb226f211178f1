"""Row A1: kill -9 of an embedded store at any time: while it opens, commits, rolls, flushes, replays, closes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from checks import check_store

from faults.bugs import bug
from faults.children import Channel, Child, in_child, pause
from faults.scenario import Scenario, Turn
from faults.traffic import Model, Shared, Writers, report_of
from stigmer import config, rebuild, writer
from stigmer.config import Durability, StoreOptions
from stigmer.decision import Ticket
from stigmer.errors import Closed
from stigmer.log import files, log, recovery, segment
from stigmer.store import Store
from stigmer.views import projector, requests
from stigmer.views.view import Databases, Transaction

WRITERS = 6
KILLS_PER_STORE = 30
"""Then the store is checked as a whole and another one begun: what is there to be read would only slow the rest."""


class ShortWrites:
    """The module `os` of a machine that often takes only a part of what is written, as the real one may.

    So there are more moments at which a group is in the file in part, and the rest of a write is written by whom that
    is left to.
    """

    def __init__(self, seed: int, kill_at: int = 0) -> None:
        """Kill the process behind write number `kill_at`, where that is one; most often that is inside a group."""
        self._random = random.Random(seed)
        self._kill_at = kill_at

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        """Write a part, mostly."""
        size = len(data)
        if size < 64 * 1024 and self._random.random() < 0.7:
            size = self._random.randint(1, size)
        written = os.pwrite(fd, data[:size], offset)
        self._kill_at -= 1
        if self._kill_at == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return written


def mark_stages(shared: Shared) -> None:
    """Have the parent see what a store is doing in this process."""
    _mark(shared, "opening", Store, "open")
    _mark(shared, "recovering", recovery, "recover_last")
    _mark(shared, "closing", Store, "close")
    _mark(shared, "rolling", log.Log, "_roll")
    _mark(shared, "writing", log.Log, "_write")
    _mark(shared, "syncing", files, "sync_data")
    _mark(shared, "flushing", projector.Projector, "flush")
    _mark(shared, "replaying", rebuild.Rebuild, "replay")


def _mark(shared: Shared, stage: str, owner: Any, name: str) -> None:
    original = getattr(owner, name)

    def marked(*arguments: Any, **named: Any) -> Any:
        shared.mark(stage, True)
        try:
            return original(*arguments, **named)
        finally:
            shared.mark(stage, False)

    setattr(owner, name, marked)


def _replay(store: Store, channel: Channel) -> None:
    try:
        while True:
            report = store.replay()
            assert not report.differences, f"the views were not the fold of the log: {report}"
    except Closed:
        pass
    except BaseException as error:
        channel.broken(error)


class Killed:
    """A store that is opened, written to and killed again and again, and what must be in it."""

    def __init__(self, turn: Turn, directory: str, writers: int = WRITERS) -> None:
        self.turn = turn
        self.directory = directory
        self.model = Model(turn, turn.random.getrandbits(32), writers)
        self._open_seconds = 0.02

    def child(self, kill_at: int = 0, enter: Callable[[Channel], Channel] | None = None) -> Child:
        """Start a process that opens the store, reports, and has writers go on until it is told to close.

        With `kill_at` it kills itself behind that write to the log, or to what it makes before. `enter` is called there
        first of all, and may give another channel.
        """
        source = random.Random(self.turn.random.getrandbits(32))
        # Small, so that rolls, flushes and the growth of LMDB's map are among what is met.
        options = StoreOptions(
            durability=source.choices((Durability.FSYNC, Durability.INTERVAL, Durability.OS), (8, 1, 1))[0],
            segment_bytes=source.choice((4096, 16_384, 65_536)),
            map_bytes=256 * 1024,
        )
        entries_max = source.choice((5, 50, 500))
        has_replay = source.random() < 0.2
        model = self.model

        def work(channel: Channel) -> None:
            if enter is not None:
                channel = enter(channel)
            mark_stages(model.shared)
            config.UNFLUSHED_ENTRIES_MAX = entries_max
            files.os = ShortWrites(source.getrandbits(32), kill_at)  # type: ignore[assignment]
            store = Store.open(self.directory, options)
            channel.send("open")
            channel.send(report_of(store, model))
            Writers(store, channel, model, source.getrandbits(32)).start(model.next)
            if has_replay:
                threading.Thread(target=_replay, args=(store, channel), daemon=True).start()
            channel.wait()
            store.close()
            channel.send("closed")

        return Child(work)

    def cycle(self, how: str | None = None) -> None:
        """Open it and kill it, at a time that is chosen at random: of all, or only `how`."""
        choose, turn = self.turn.random, self.turn
        how = how or choose.choices(("opening", "answers", "time", "closing", "writing"), (20, 35, 20, 10, 15))[0]
        started = time.monotonic()
        with self.child(choose.randint(1, 40) if how == "writing" else 0) as child:
            messages: list[Any] = []
            if how == "opening":
                messages += pause(child, choose.uniform(0, self._open_seconds * 1.2))
            else:
                while "open" not in messages and not child.is_at_end:
                    messages += child.receive()
                self._open_seconds = 0.8 * self._open_seconds + 0.2 * (time.monotonic() - started)
                if how == "writing":
                    messages += child.rest()
                elif how == "time":
                    messages += pause(child, choose.uniform(0, 0.03))
                else:
                    answers = choose.randint(0, 40)
                    while sum(map(_is_ack, messages)) < answers and not child.is_at_end:
                        messages += child.receive()
                    if how == "closing":
                        child.go_on()
                    messages += pause(child, choose.uniform(0, 0.004))
            messages += child.kill()
            status = child.wait()
        self.take(messages)
        turn.require(status == -9 or "closed" in messages, "the store ended by itself", status=status)
        if status == -9:
            self.count_kill()
        else:
            turn.count("clean ends")
        self.note_end()

    def take(self, messages: Sequence[Any]) -> None:
        """Compare what a child has sent with what must be."""
        for message in messages:
            for note in getattr(message, "notes", ()):
                self.turn.count("torn tails", "cut off" in note)
        self.model.note(messages)

    def count_kill(self) -> None:
        """Count what a kill has met."""
        self.turn.count("kills")
        for stage in self.model.shared.stages():
            self.turn.count(f"kills while {stage}")

    def note_end(self) -> None:
        """Take note that the child is gone."""
        under_way = self.model.note_end()
        self.turn.count("commits under way", under_way)
        self.turn.count("kills inside a commit", under_way > 0)

    def finish(self) -> None:
        """Open it a last time, send again what was not answered, check all of it, and close it; then it is clean."""
        model = self.model

        def work(channel: Channel) -> None:
            with Store.open(self.directory) as store:
                channel.send(report_of(store, model))
                writers = Writers(store, channel, model)
                writers.start(model.next, model.next)
                writers.join()
                check_store(store)

        self.take(in_child(work))
        self.note_end()
        self.look()

    def look(self) -> None:
        """Open it after a clean end, look at it and close it."""

        def work(channel: Channel) -> None:
            with Store.open(self.directory) as store:
                assert store.recovery == (), f"after a clean end: {store.recovery}"
                channel.send(report_of(store, self.model))

        self.take(in_child(work))


def _is_ack(message: object) -> bool:
    return hasattr(message, "floor")


def run_kills(turn: Turn) -> None:
    """Kill stores, one after the other, each many times."""
    left = turn.amount
    while left > 0:
        kills = min(left, KILLS_PER_STORE)
        directory = str(turn.directory / "data")
        killed = Killed(turn, directory)
        before = turn.tally["kills"]
        while turn.tally["kills"] - before < kills:
            killed.cycle()
        killed.finish()
        left -= kills
        shutil.rmtree(directory)


KILLS = Scenario(
    name="kills",
    rows=("A1",),
    what="kill -9 at random times under concurrent writers: open, commit, roll, flush, replay, close",
    unit="kills",
    gate=300,
    chunk=100,
    soak=10_000,
    must=(
        "kills inside a commit",
        "kills while opening",
        "kills while recovering",
        "kills while rolling",
        "kills while syncing",
        "kills while flushing",
        "kills while replaying",
        "torn tails",
        "operations",
    ),
    run=run_kills,
)


# --- bugs that it has to catch ---------------------------------------------------------------------------


@bug("ack-before-append", "commits are answered before they are in the log", scenario="kills", amount=60)
def _ack_before_append() -> None:
    original = writer.Writer._write_group

    def write_group(self: writer.Writer, group: list[Ticket]) -> None:
        decision = self._decide(list(group))
        self._answer(list(decision.accepted))
        sinks = [ticket.sink for ticket in group]
        for ticket in decision.accepted:
            ticket.sink = _no_sink
        original(self, group)
        for ticket, sink in zip(group, sinks, strict=True):
            ticket.sink = sink

    writer.Writer._write_group = write_group  # type: ignore[method-assign]


def _no_sink(tickets: list[Ticket]) -> None:
    """Take answers that were given already."""


@bug("fold-before-append", "readers see a commit before it is in the log", scenario="kills", amount=60)
def _fold_before_append() -> None:
    append, fold = log.Log.append, writer.Writer._fold

    def write_group(self: writer.Writer, group: list[Ticket]) -> None:
        decision = self._decide(group)
        if decision.commits:
            fold(self, decision.commits)
            self._advance()
            append(self._log, [writer._entry_of(ticket) for ticket in decision.accepted], decision.commits[0].time_ns)
            self._sync()
        self._publish(group)

    writer.Writer._write_group = write_group  # type: ignore[method-assign]


@bug("checkpoint-apart", "the views' checkpoint is written before the rows it speaks of", scenario="kills", amount=60)
def _checkpoint_apart() -> None:
    original = projector.Projector.flush

    def flush(self: projector.Projector) -> None:
        last = self.checkpoint
        if last != self.flushed:

            def work(transaction: Transaction) -> None:
                revision = projector._REVISION.pack(last)
                row = projector._CHECKPOINT.pack(projector.crc32c(0, revision), last)
                transaction.put(projector._CHECKPOINT_KEY, row, db=self._meta)

            self.environment.write(work)
        original(self)

    projector.Projector.flush = flush  # type: ignore[method-assign]


@bug("requests-forgotten", "a restart forgets the request ids that were flushed", scenario="kills", amount=60)
def _requests_forgotten() -> None:
    def flush(self: requests.Requests, transaction: Transaction, databases: Databases) -> None:
        """Flush nothing."""

    requests.Requests.flush = flush  # type: ignore[method-assign]


@bug("torn-frame-kept", "a frame that is not all there is taken for one", scenario="kills", amount=60)
def _torn_frame_kept() -> None:
    segment._problem_of = lambda header, payload, revision: None  # type: ignore[assignment]


@bug("torn-tail-left", "what a crash left at the end is not cut off", scenario="kills", amount=60)
def _torn_tail_left() -> None:
    recovery._cut = lambda fd, segment: "cut off nothing"  # type: ignore[assignment]
