"""Rows A2 and C7: kill -9 at every system call of starts, commits, rolls, flushes, rebuilds, recoveries, closes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from checks import check_store
from log.support import segment_files, shrink_size

from faults import tracing
from faults.children import Channel, in_child
from faults.scenario import Failed, Scenario, Turn
from faults.tracing import Begin
from faults.traffic import Model, Writers, report_of
from stigmer import config
from stigmer.config import StoreOptions
from stigmer.store import Store
from stigmer.views import page_cache

_STEPS_BEFORE = 12
_STEPS = 3
REOPEN_SECONDS_MAX = 5.0
_CHECK_EVERY = 10
"""So often all of the store is checked, each row against the log."""

_LARGE = StoreOptions(map_bytes=256 * 1024)
_SMALL = StoreOptions(map_bytes=256 * 1024, segment_bytes=config.SEGMENT_BYTES_MIN)


class Subject(NamedTuple):
    """A store in which something is about to happen."""

    directory: Path
    model: Model

    def open(self, options: StoreOptions = _LARGE) -> Store:
        """Open it."""
        return Store.open(self.directory, options)

    def take_steps(self, store: Store, channel: Channel, count: int) -> None:
        """Have its one writer take the next steps."""
        writers = Writers(store, channel, self.model)
        for number in range(self.model.next[0], self.model.next[0] + count):
            writers.take(0, number)


class Situation(NamedTuple):
    """Something that is killed at each of its system calls."""

    name: str
    prepare: Callable[[Subject], None]
    """What becomes of a store of a few commits that was left as a crash leaves it."""
    work: Callable[[Subject, Channel, Begin], None]


# --- what is there before --------------------------------------------------------------------------------


def _as_it_is(subject: Subject) -> None:
    """A crash with everything in the log and little in LMDB."""


def _nothing(subject: Subject) -> None:
    shutil.rmtree(subject.directory)


def _closed(subject: Subject) -> None:
    in_child(lambda channel: subject.open().close())


def _torn(subject: Subject) -> None:
    """One more commit, of which the end is not there."""

    def work(channel: Channel) -> None:
        store = subject.open()
        subject.take_steps(store, channel, 1)

    in_child(work)
    last = segment_files(subject.directory / "log")[-1]
    shrink_size(last, last.stat().st_size - 10)
    subject.model.note_end()


def _without_views(subject: Subject) -> None:
    shutil.rmtree(subject.directory / "views")


# --- what happens ----------------------------------------------------------------------------------------


def _open(subject: Subject, channel: Channel, begin: Begin) -> None:
    begin()
    subject.open()


def _open_in_another_boot(subject: Subject, channel: Channel, begin: Begin) -> None:
    page_cache.boot_id = lambda: "another"
    _open(subject, channel, begin)


def _commit(subject: Subject, channel: Channel, begin: Begin) -> None:
    store = subject.open()
    begin()
    subject.take_steps(store, channel, _STEPS)


def _commit_in_full_segments(subject: Subject, channel: Channel, begin: Begin) -> None:
    store = subject.open(_SMALL)
    begin()
    subject.take_steps(store, channel, _STEPS)


def _commit_and_flush(subject: Subject, channel: Channel, begin: Begin) -> None:
    store = subject.open()
    config.UNFLUSHED_ENTRIES_MAX = 1
    begin()
    subject.take_steps(store, channel, _STEPS)


def _close(subject: Subject, channel: Channel, begin: Begin) -> None:
    store = subject.open()
    subject.take_steps(store, channel, 1)
    begin()
    store.close()


def _replay(subject: Subject, channel: Channel, begin: Begin) -> None:
    store = subject.open()
    begin()
    assert store.replay().differences == 0


def _verify(subject: Subject, channel: Channel, begin: Begin) -> None:
    store = subject.open()
    begin()
    assert store.verify().differences == 0


SITUATIONS = (
    Situation("a first start", _nothing, _open),
    Situation("a start after a clean end", _closed, _open),
    Situation("a recovery of a torn tail", _torn, _open),
    Situation("a start without views", _without_views, _open),
    Situation("a start in another boot", _as_it_is, _open_in_another_boot),
    Situation("commits", _as_it_is, _commit),
    Situation("rolls", _as_it_is, _commit_in_full_segments),
    Situation("flushes", _as_it_is, _commit_and_flush),
    Situation("a close", _as_it_is, _close),
    Situation("a replay", _as_it_is, _replay),
    Situation("a verify", _as_it_is, _verify),
)


# --- the sweep -------------------------------------------------------------------------------------------


def run_sweeps(turn: Turn) -> None:
    """Sweep all situations over the calls that change something; or, where asked for fewer, some over every call."""
    if turn.amount >= len(SITUATIONS):
        for situation in SITUATIONS:
            _sweep(turn, situation, every=False)
    else:
        for situation in turn.random.sample(SITUATIONS, turn.amount):
            _sweep(turn, situation, every=True)


def _sweep(turn: Turn, situation: Situation, *, every: bool) -> None:
    base = turn.directory / "base"
    model = Model(turn, turn.random.getrandbits(32), 1)
    _prepare(situation, Subject(base, model))
    kill_at = 1
    while _kill(turn, situation, Subject(turn.directory / "data", model.copy()), base, kill_at, every=every):
        kill_at += 1
    turn.count("sweeps")
    shutil.rmtree(base, ignore_errors=True)


def _kill(turn: Turn, situation: Situation, subject: Subject, base: Path, kill_at: int, *, every: bool) -> bool:
    """Kill a copy of the store at one call; False if there are not so many."""
    if base.exists():
        shutil.copytree(base, subject.directory)
    end = tracing.run(lambda channel, begin: situation.work(subject, channel, begin), kill_at, every=every)
    where = f"{situation.name}, at call {kill_at} ({end.killed_at or 'not reached'})"
    turn.require(end.status == (-9 if end.killed_at else 0), f"{where}: it ended by itself", status=end.status)
    subject.model.note(end.messages)
    subject.model.note_end()
    try:
        _look(turn, subject, whole=kill_at % _CHECK_EVERY == 1)
    except Failed as error:
        raise Failed(f"{where}: {error}") from error
    shutil.rmtree(subject.directory)
    turn.count("kills at a system call", bool(end.killed_at))
    turn.count(f"kills in {situation.name}", bool(end.killed_at))
    return bool(end.killed_at)


def _prepare(situation: Situation, subject: Subject) -> None:
    """Make the store that a situation begins with."""

    def work(channel: Channel) -> None:
        subject.take_steps(subject.open(), channel, _STEPS_BEFORE)

    if situation.prepare is not _nothing:
        subject.model.note(in_child(work))
        subject.model.note_end()
        situation.prepare(subject)


def _look(turn: Turn, subject: Subject, *, whole: bool) -> None:
    """Open a store after a kill, compare it with the model, send what was not answered again, and go on a little."""
    model = subject.model

    def work(channel: Channel) -> None:
        started = time.process_time()  # what a busy machine gives to others does not count
        store = subject.open()
        assert time.process_time() - started < REOPEN_SECONDS_MAX
        found = report_of(store, model)
        channel.send(found)
        subject.take_steps(store, channel, _STEPS)
        channel.send(report_of(store, model, found.revision))
        if whole:
            check_store(store)
        store.close()

    messages = in_child(work)
    model.note(messages)
    turn.count("torn tails", sum("cut off" in note for message in messages for note in getattr(message, "notes", ())))


SWEEPS = Scenario(
    name="system-calls",
    rows=("A2", "C7"),
    what="kill -9 at every system call of a start, a commit, a roll, a flush, a replay, a recovery, a close",
    unit="sweeps",
    gate=len(SITUATIONS),
    chunk=1,
    soak=2 * len(SITUATIONS),
    must=("kills at a system call",),
    run=run_sweeps,
    needs=(tracing.needed,),
)
