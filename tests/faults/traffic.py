"""Writers in a process that is killed, and the model in one that is not.

What each writer does is a function of a seed (`Plan`), so both processes know it and only answers travel. The model
(`Model`) folds, in the parent, what must be there, from the plans and the answers alone; the child that opened the
store tells what is there: the log since the last time, and what the views show.

What is held: every acknowledged commit is in the log once, whole, at the revisions of its answer; one whose outcome
is unknown is there once or not at all, and is sent again with the same request id; nothing else is there; the views are
the fold of it; revisions agree with real time; whatever a reader or follower saw stays.
"""

from __future__ import annotations

import mmap
import random
import struct
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from checks import state_of

from faults.children import Channel
from faults.scenario import Turn
from stigmer.decision import State
from stigmer.errors import Closed, NotFound
from stigmer.model import Delete, Event, Save
from stigmer.store import Store

SHARED = "shared"
"""The kind of what all writers write."""
_COUNTER = "counter"
_IDS = tuple(f"r{number}" for number in range(5))
_SHARED_IDS = ("a", "b")
_STATUS = "status"
_LINES = b"".join(
    b"%04d the agent did step %d of its plan and wrote this line about it\n" % (n, n * n) for n in range(250)
)


class Step(NamedTuple):
    """What a writer does at once."""

    changes: tuple[Save | Delete, ...]
    """Empty: it counts the shared counter up, in an operation."""
    request_id: str
    """"": it is not sent again where its outcome is unknown."""


class Plan:
    """What one writer does, one step after the other: the same in every process."""

    def __init__(self, seed: int, writer: int) -> None:
        self._random = random.Random(f"{seed} {writer}")
        self._writer = writer
        self._steps: list[Step] = []
        self._there: set[str] = set()
        self.kind = f"own-{writer}"

    def step(self, number: int) -> Step:
        """Give a step; they are numbered from 1."""
        while len(self._steps) < number:
            self._steps.append(self._make(len(self._steps) + 1))
        return self._steps[number - 1]

    def _make(self, number: int) -> Step:
        chance = self._random.random()
        request_id = f"{self._writer}-{number}"
        if chance < 0.06:
            return Step((self._save(SHARED, self._random.choice(_SHARED_IDS), number, 0),), "")
        if chance < 0.16:
            return Step((), request_id)
        if chance < 0.26:
            value = self._head(number, 0) + _LINES[: self._random.randint(4_000, len(_LINES))]
            return Step((Save(self.kind, _STATUS, value),), request_id)
        count = self._random.randint(2, 5) if chance < 0.42 else 1
        ids = self._random.sample(_IDS, count)
        return Step(tuple(self._change(one, number, place) for place, one in enumerate(ids)), request_id)

    def _change(self, id: str, number: int, place: int) -> Save | Delete:
        if id in self._there and self._random.random() < 0.3:
            self._there.remove(id)
            return Delete(self.kind, id)
        if place and self._random.random() < 0.2:
            return self._save(SHARED, self._random.choice(_SHARED_IDS), number, place)
        is_new = id not in self._there
        self._there.add(id)
        return self._save(self.kind, id, number, place, 0 if is_new and self._random.random() < 0.5 else None)

    def _save(self, kind: str, id: str, number: int, place: int, expected_revision: int | None = None) -> Save:
        filling = self._random.randbytes(self._random.choice((0, 30, 300, 1_500)))
        return Save(kind, id, self._head(number, place) + filling, expected_revision)

    def _head(self, number: int, place: int) -> bytes:
        return b"%d %d %d " % (self._writer, number, place)


class Ack(NamedTuple):
    """A writer was answered."""

    writer: int
    number: int
    first_revision: int
    last_revision: int
    floor: int
    """The last revision that any writer had been answered with before this one sent."""


class Seen(NamedTuple):
    """A reader or follower saw what an event has made."""

    revision: int
    digest: int


class Report(NamedTuple):
    """What a store shows after it was opened."""

    events: list[Event]
    """Those of the log after the revision that was asked for."""
    revision: int
    state: dict[tuple[str, str], tuple[bytes, int]]
    counts: dict[str, int]
    notes: tuple[str, ...]


def digest_of(kind: str, id: str, value: bytes | None) -> int:
    """Give a checksum of what an event, or a read, shows."""
    return zlib.crc32(value or b"", zlib.crc32(f"{kind}/{id} {value is None}".encode()))


# --- in the child ----------------------------------------------------------------------------------------


class Shared:
    """Memory that the parent reads when the child was killed: what each writer has begun, and where the store was."""

    STAGES = ("opening", "recovering", "closing", "rolling", "writing", "syncing", "flushing", "replaying")

    def __init__(self, writers: int) -> None:
        self._writers = writers
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def begin(self, writer: int, number: int) -> None:
        """Note that a writer begins a step."""
        # Not `pack_into`, which writes zeros first: a kill in between would leave them.
        self._memory[8 * writer : 8 * writer + 8] = number.to_bytes(8, "little")

    def begun(self, writer: int) -> int:
        """Give the last step that a writer has begun in this child; 0: none."""
        return int(struct.unpack_from("<Q", self._memory, 8 * writer)[0])

    def mark(self, stage: str, is_in: bool) -> None:
        """Note that the store is in a stage, or has left it."""
        self._memory[8 * self._writers + self.STAGES.index(stage)] = is_in

    def stages(self) -> list[str]:
        """Give the stages the store was in."""
        return [stage for place, stage in enumerate(self.STAGES) if self._memory[8 * self._writers + place]]

    def clear(self) -> None:
        """Begin with the next child."""
        self._memory[:] = bytes(len(self._memory))


def report_of(store: Store, model: Model, after: int | None = None) -> Report:
    """Say what a store shows, of the log what the model has not looked at, or what comes after a revision."""
    events = list(store.tail(model.revision if after is None else after, follow=False))
    state = dict(state_of(store, set(model.kinds)))
    return Report(events, store.status().revision, state, store.count(), store.recovery)


class Writers:
    """Threads that carry out plans on a store, with a follower beside them."""

    def __init__(self, store: Store, channel: Channel, model: Model, seed: int = 0) -> None:
        self._store = store
        self._channel = channel
        self._shared = model.shared
        self._plans = model.plans
        self._seed = seed
        self._floor = 0
        self._threads: list[threading.Thread] = []

    def start(self, first: Sequence[int], last: Sequence[int] | None = None) -> None:
        """Have each writer go on from a step; up to another, or until the store is closed."""
        for writer, number in enumerate(first):
            end = None if last is None else last[writer]
            self._threads.append(threading.Thread(target=self._run, args=(writer, number, end), daemon=True))
        if last is None:
            self._threads.append(threading.Thread(target=self._follow, daemon=True))
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all have ended."""
        for thread in self._threads:
            thread.join()

    def _run(self, writer: int, number: int, last: int | None) -> None:
        choose = random.Random(f"{self._seed} {writer} {number}")
        try:
            while last is None or number <= last:
                self.take(writer, number)
                if choose.random() < 0.25:
                    self._read(choose.choice(_SHARED_IDS))
                number += 1
        except Closed:
            pass
        except BaseException as error:
            self._channel.broken(error)

    def take(self, writer: int, number: int) -> None:
        """Have a writer take a step, on this thread; tell the parent of the answer."""
        step = self._plans[writer].step(number)
        floor = self._floor
        self._shared.begin(writer, number)
        if step.changes:
            committed = self._store.commit(step.changes, request_id=step.request_id or None)
        else:
            committed = self._store.transact(lambda state: _count(state, writer, number), step.request_id).committed
            assert committed is not None
        self._channel.send(Ack(writer, number, committed.first_revision, committed.last_revision, floor))
        # Only for the check of the order; two writers may overwrite each other, and the smaller one is right as well.
        self._floor = max(self._floor, committed.last_revision)
        self._check_own(step)

    def _check_own(self, step: Step) -> None:
        """Read what was just written, where nobody else writes it."""
        for change in step.changes:
            if change.kind == SHARED:
                continue
            try:
                found: bytes | None = self._store.get(change.kind, change.id).value
            except NotFound:
                found = None
            assert found == (change.value if isinstance(change, Save) else None), f"an answered write of {change.id}"

    def _read(self, id: str) -> None:
        with suppress(NotFound):
            resource = self._store.get(SHARED, id)
            self._channel.send(Seen(resource.revision, digest_of(SHARED, id, resource.value)))

    def _follow(self) -> None:
        after = self._store.status().revision
        try:
            for event in self._store.tail(after, follow=True):
                assert event.revision == after + 1, f"a tail gave {event.revision} after {after}"
                after = event.revision
                value = event.value if event.op == "save" else None
                self._channel.send(Seen(event.revision, digest_of(event.kind, event.id, value)))
        except Closed:
            pass
        except BaseException as error:
            self._channel.broken(error)


def _count(state: State, writer: int, number: int) -> None:
    found = state.get(SHARED, _COUNTER)
    state.save(SHARED, _COUNTER, _counter_value(writer, number, b"0" if found is None else found.value))


def _counter_value(writer: int, number: int, before: bytes) -> bytes:
    return b"%d %d 0 %d" % (writer, number, int(before.split()[-1]) + 1)


# --- in the parent ---------------------------------------------------------------------------------------


class Model:
    """What must be in a store, as the parent of all that is killed knows it."""

    def __init__(self, turn: Turn, seed: int, writers: int) -> None:
        self._turn = turn
        self.plans = [Plan(seed, writer) for writer in range(writers)]
        self.kinds = [SHARED, *(plan.kind for plan in self.plans)]
        self.next = [1] * writers
        """The step that each writer takes next: the first that is not answered and not given up."""
        self.revision = 0
        """The last one that was looked at after a crash."""
        self.shared = Shared(writers)
        self._begun = [0] * writers
        self._applied: list[dict[int, tuple[int, int]]] = [{} for _ in self.plans]
        self._last_applied = [0] * writers
        self._state: dict[tuple[str, str], tuple[bytes, int]] = {}
        self._digests: list[int] = []
        self._acks: list[Ack] = []
        self._seen: list[Seen] = []

    def copy(self) -> Model:
        """Give a model that begins as this one is, and has no part in what happens to it."""
        twin = Model(self._turn, 0, 0)
        twin.plans, twin.kinds, twin.shared = self.plans, self.kinds, Shared(len(self.plans))
        twin.next, twin.revision, twin._begun = [*self.next], self.revision, [*self._begun]
        twin._applied, twin._last_applied = [{**applied} for applied in self._applied], [*self._last_applied]
        twin._state, twin._digests = {**self._state}, [*self._digests]
        twin._acks, twin._seen = [*self._acks], [*self._seen]
        return twin

    def note(self, messages: Sequence[Any]) -> None:
        """Take what a child has sent, and compare what it has reported with what must be."""
        for message in messages:
            if isinstance(message, Ack):
                due = self.next[message.writer]
                self._turn.require(message.number == due, "an answer came out of order", ack=message, due=due)
                self.next[message.writer] += 1
                self._acks.append(message)
                self._turn.count("operations")
            elif isinstance(message, Seen):
                self._seen.append(message)
            elif isinstance(message, Report):
                self._check(message)

    def note_end(self) -> int:
        """Take note that the child is gone, and get ready for the next; give how many commits were under way."""
        under_way = 0
        for writer, plan in enumerate(self.plans):
            begun = self.shared.begun(writer)
            self._begun[writer] = max(self._begun[writer], begun)
            if begun == self.next[writer]:
                under_way += 1
                if not plan.step(begun).request_id:
                    self.next[writer] += 1  # it may have been carried out, so it must not be sent again
        self.shared.clear()
        return under_way

    def _is_begun(self, writer: int, number: int) -> bool:
        return number <= max(self._begun[writer], self.shared.begun(writer))

    def _check(self, report: Report) -> None:
        require = self._turn.require
        before = self.revision
        at = 0
        while at < len(report.events):
            at += self._match(report.events, at)
        require(report.revision == self.revision, "the last revision is not that of the log", revision=report.revision)
        for ack in self._acks:
            found = self._applied[ack.writer].get(ack.number)
            require(found is not None, "an answered commit is lost", ack=ack, last_revision=self.revision)
            require(found == (ack.first_revision, ack.last_revision), "an answer was wrong", ack=ack, found=found)
            # One that was in the log when it was sent again has the answer of its first time.
            is_in_order = ack.first_revision > ack.floor or ack.first_revision <= before
            require(is_in_order, "a commit came before one that was answered before it was sent", ack=ack)
        for revision, digest in self._seen:
            require(revision <= self.revision, "what was shown is lost", revision=revision, last_revision=self.revision)
            require(
                self._digests[revision - 1] == digest, "what was shown has become something else", revision=revision
            )
        self._acks, self._seen = [], []
        require(report.state.keys() == self._state.keys(), "the views do not show the log's resources")
        for key, shown in report.state.items():
            require(shown == self._state[key], "the views show a wrong value", key=key, revision=shown[1])
        counts: dict[str, int] = {}
        for kind, _ in self._state:
            counts[kind] = counts.get(kind, 0) + 1
        require(report.counts == counts, "the counts are wrong", shown=report.counts, expected=counts)

    def _match(self, events: Sequence[Event], at: int) -> int:
        """Find whose commit begins with an event, compare it and fold it; give how many events it has."""
        writer, number = self._step_of(events[at])
        require = self._turn.require
        require(self._last_applied[writer] < number, "a commit is there twice", writer=writer, number=number)
        require(self._is_begun(writer, number), "a commit is there that was not sent", writer=writer, number=number)
        changes = [_parts(change) for change in self.plans[writer].step(number).changes]
        if not changes:
            value, _ = self._state.get((SHARED, _COUNTER), (b"0", 0))
            changes = [(SHARED, _COUNTER, _counter_value(writer, number, value))]
        found = [_shown(event) for event in events[at : at + len(changes)]]
        require(found == changes, "a commit is not whole", writer=writer, number=number, revision=self.revision + 1)
        self._last_applied[writer] = number
        self._applied[writer][number] = (self.revision + 1, self.revision + len(changes))
        for kind, id, value in changes:
            self.revision += 1
            self._digests.append(digest_of(kind, id, value))
            if value is None:
                del self._state[kind, id]
            else:
                self._state[kind, id] = (value, self.revision)
        revisions = [int(event.revision) for event in events[at : at + len(changes)]]
        require(
            revisions == [*range(self.revision - len(changes) + 1, self.revision + 1)], "there is a gap", at=revisions
        )
        return len(changes)

    def _step_of(self, event: Event) -> tuple[int, int]:
        """Give the writer of the commit that begins with an event, and the number of its step."""
        if event.op == "save":
            writer, number = event.value.split(b" ", 2)[:2]
            return int(writer), int(number)
        writer = int(event.kind.removeprefix("own-"))
        number = self._last_applied[writer] + 1
        while not self.plans[writer].step(number).request_id:
            number += 1  # one that may not have been carried out, and was not
        return writer, number


def _parts(change: Save | Delete) -> tuple[str, str, bytes | None]:
    if isinstance(change, Delete):
        return change.kind, change.id, None
    assert isinstance(change.value, bytes)
    return change.kind, change.id, change.value


def _shown(event: Event) -> tuple[str, str, bytes | None]:
    return event.kind, event.id, event.value if event.op == "save" else None
