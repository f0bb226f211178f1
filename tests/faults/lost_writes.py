"""Power cuts and kills at every call that changes or syncs a file, on a disk that is sure to keep only what was synced.

The store lives once, while a `Watch` looks on; then every moment of that is made again in each way, and opened. What
must be there is known from the answers and from what readers were shown by then.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple

from checks import check_store, fold, state_of
from log.support import open_log, read_all

from faults.boots import boot
from faults.bugs import bug
from faults.disk import Loss, Moment, Tree, Watch, make_again
from faults.logs import quick_folder
from faults.scenario import Scenario, Turn
from faults.split import split
from stigmer.codec import commit_payload, decode_commit
from stigmer.config import Durability, StoreOptions
from stigmer.decision import Ticket
from stigmer.errors import StigmerError
from stigmer.log import files, recovery
from stigmer.log.log import Log
from stigmer.model import Save
from stigmer.store import Store
from stigmer.views.generations import Generation
from stigmer.views.view import FoldCommit
from stigmer.writer import Writer

_LIVES = 4
"""A store is cut, opened and cut again so many times before a new one is begun."""
_GROUPS = 8
_STORE_EVERY = 8
"""So many cuts are looked at in the log alone, which is much quicker, before one with the views."""
_VIEWS_EVERY = 2
"""And fewer where the call is one for the views."""
_CHECK_EVERY = 10
"""Of those with the views, so many before one whose every row is compared."""
_SEGMENT_BYTES = 8 * 1024
_LIMIT_SECONDS = 240

_STAGES = (
    (Log, "append", "commit"),
    (Log, "sync", "commit"),
    (Log, "_roll", "roll"),
    (Log, "close", "close"),
    (recovery, "recover_last", "recovery"),
    (Generation, "serve", "use of views"),
    (Generation, "close", "close of views"),
)


class Told(NamedTuple):
    """What a store had promised when a call was made."""

    acked: int
    """The last revision that was answered."""
    seen: int
    """The last revision that a reader was shown."""
    synced: int
    """The last revision that the log said was durable."""


class Change(NamedTuple):
    """An event as it was committed."""

    op: str
    kind: str
    id: str
    value: bytes


Commit = tuple[Change, ...]


class _Base(NamedTuple):
    """What the next life begins with."""

    make: Callable[[Path], Tree | None]
    """Makes it in an empty folder, and gives what of it is durable."""
    commits: list[Commit]
    promised: int
    boot: str
    """The boot of the life before, where the machine goes on."""


def lost_writes(turn: Turn) -> None:
    """Cut the power at each call of a store's life, in each way; open what is left; have a life after that."""
    split(turn, _cut_lives)


def _cut_lives(turn: Turn, _part: int) -> None:
    while turn.tally["cuts"] < turn.amount:
        with quick_folder(turn.directory) as folder:
            durability = turn.random.choice((Durability.FSYNC, Durability.INTERVAL))
            turn.count(f"lives with durability {durability.value}")
            base = _Base(lambda _folder: None, [], 0, "")
            for life in range(_LIVES):
                if turn.tally["cuts"] < turn.amount:
                    base = _cut_life(turn, folder / str(life), base, durability)


def _cut_life(turn: Turn, folder: Path, base: _Base, durability: Durability) -> _Base:
    """Have a store live, end it at each moment, in each way; give one of these ends for the next life."""
    life = _Life(turn.random, folder / "watched", base, durability)
    life.run()
    turn.count("operations", len(life.commits) - len(base.commits))
    moments = life.watch.moments
    following, how = _following(moments, turn.random)
    following_base = base
    for place, moment in enumerate(moments):
        turn.count(f"calls in a {moment.stage}" if moment.stage else "other calls")
        for loss in (*Loss, Loss.ANY):
            left = folder / "left"
            left.mkdir()
            make = partial(_make, moment, life.root, loss, turn.random.random())
            make(left)
            found = _Opening(turn, life, moment, loss).run(left)
            turn.count("cuts" if loss is not Loss.NONE else "kills")
            turn.count(f"writes {loss.value}")
            if (place, loss) == (following, how):
                boot_id = life.boot if loss is Loss.NONE else ""
                following_base = _Base(make, life.commits[:found], life.promised(moment), boot_id)
            shutil.rmtree(left)
    return following_base


def _following(moments: list[Moment], source: random.Random) -> tuple[int, Loss]:
    """Choose the end after which the next life begins: each kind of call as often as any other."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for place, moment in enumerate(moments):
        kinds.setdefault((moment.stage, moment.call), []).append(place)
    return source.choice(kinds[source.choice(sorted(kinds))]), source.choice((Loss.NONE, Loss.NONE, *Loss))


def _make(moment: Moment, root: int, loss: Loss, seed: float, folder: Path) -> Tree | None:
    return make_again(moment, root, loss, random.Random(seed), folder)


class _Life:
    """A store that is opened, takes some groups of commits and is closed, while a `Watch` looks on."""

    def __init__(self, source: random.Random, folder: Path, base: _Base, durability: Durability) -> None:
        folder.mkdir(parents=True)
        durable = base.make(folder)
        self._source = source
        self._directory = folder / "data"
        self._durability = durability
        self._before = base.promised
        self._store: Store | None = None
        self._acked = base.promised
        self._latest: list[tuple[str, str]] = []
        self._status = source.randbytes(5_000)
        self.commits = list(base.commits)
        self.boot = base.boot
        self.watch = Watch(folder, self._tell, durable)
        self.root = self.watch.root

    @property
    def options(self) -> StoreOptions:
        """As it is opened."""
        return StoreOptions(self._durability, sync_interval_ms=30, segment_bytes=_SEGMENT_BYTES, map_bytes=1 << 20)

    def promised(self, moment: Moment) -> int:
        """Give the last revision that must be there after a cut at a moment."""
        told: Told = moment.told
        return max(told.acked, told.seen) if self._durability is Durability.FSYNC else told.synced

    def run(self) -> None:
        """Live."""
        self.boot = boot(self.boot)
        with self.watch.watching(), _stages(self.watch):
            with self.watch.stage("opening"):
                store = Store.open(self._directory, self.options)
            try:
                self._store = store
                for _ in range(_GROUPS):
                    self._write_group(store)
                    if self._source.random() < 0.15:
                        store._writer.flush()
            finally:
                store.close()

    def _write_group(self, store: Store) -> None:
        group = [self._commit() for _ in range(self._source.randint(1, 4))]
        self.commits += group
        self._latest = [(change.kind, change.id) for commit in group for change in commit]
        answered = threading.Semaphore(0)

        def take(tickets: list[Ticket]) -> None:
            for ticket in tickets:
                if isinstance(ticket.answer, StigmerError):
                    raise ticket.answer
                self._acked = max(self._acked, ticket.answer.last_revision)
                answered.release()

        for commit in group:
            store.submit(_payload(commit), take, wake=False)
        store.wake()
        for _ in group:
            assert answered.acquire(timeout=_LIMIT_SECONDS), "a commit was not answered"

    def _commit(self) -> Commit:
        source = self._source
        if source.random() < 0.4:
            self._status += source.randbytes(200)
            return (Change("save", "run", "status", self._status),)
        ids = source.sample(range(8), source.randint(1, 3))
        return tuple(Change("save", "note", f"n{one}", source.randbytes(source.randint(0, 900))) for one in ids)

    def _tell(self) -> Told:
        store = self._store
        if store is None:
            return Told(self._before, self._before, self._before)
        seen = store.horizon.revision
        with suppress(StigmerError):
            seen = max([seen, *(found.revision for found in store.get_many(self._latest) if found is not None)])
        return Told(self._acked, seen, store._log.durable_revision)


@contextmanager
def _stages(watch: Watch) -> Iterator[None]:
    """Have the watch know what the product is about."""
    with ExitStack() as stack:
        for owner, name, stage in _STAGES:
            stack.enter_context(_staged(watch, owner, name, stage))
        yield


@contextmanager
def _staged(watch: Watch, owner: Any, name: str, stage: str) -> Iterator[None]:
    real = getattr(owner, name)

    @wraps(real)
    def call(*arguments: Any, **options: Any) -> Any:
        with watch.stage(stage):
            return real(*arguments, **options)

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, real)


def _payload(commit: Commit) -> bytes:
    return commit_payload([Save(one.kind, one.id, one.value) for one in commit], None)


class _Opening:
    """What is left after a cut is opened, and compared with what was committed and what was promised."""

    def __init__(self, turn: Turn, life: _Life, moment: Moment, loss: Loss) -> None:
        self._turn = turn
        self._life = life
        self._moment = moment
        self._loss = loss

    def run(self, left: Path) -> int:
        """Open it; give how many commits it has."""
        number = self._turn.tally["cuts"] + self._turn.tally["kills"]
        has_store = number % (_VIEWS_EVERY if "views" in self._moment.stage else _STORE_EVERY) == 0
        try:
            commits = self._with_views(left, number) if has_store else self._log_alone(left)
        except (StigmerError, AssertionError) as error:
            self._require(False, f"what is left does not open as it should: {error!r}")
            raise
        known = self._life.commits
        self._require(commits == known[: len(commits)], "what is left is not what was committed")
        revision, promised = sum(map(len, commits)), self._life.promised(self._moment)
        if self._loss is Loss.NONE:
            promised = max(self._moment.told)  # whatever the durability: the system has all that was written
        self._require(revision >= promised, "what was answered, shown or synced is lost", found=revision, told=promised)
        self._turn.count("cuts that cost something", len(commits) < len(known))
        return len(commits)

    def _require(self, condition: object, what: str, **seen: object) -> None:
        moment = self._moment
        place = self._life.watch.moments.index(moment) if not condition else 0
        where = {"call": f"{place}: {moment.call} in {moment.stage or 'other'}", "writes": self._loss.value}
        self._turn.require(condition, what, **where, **seen)

    def _log_alone(self, left: Path) -> list[Commit]:
        directory = left / "data" / "log"
        if not directory.parent.is_dir():
            return []
        notes: list[str] = []
        log = open_log(directory, notes=notes, segment_bytes=_SEGMENT_BYTES)
        try:
            self._turn.count("torn tails", sum("cut off" in note for note in notes))
            return [_commit_in(written.payload) for written in read_all(log)]
        finally:
            log.abandon()

    def _with_views(self, left: Path, number: int) -> list[Commit]:
        boot(self._life.boot if self._loss is Loss.NONE else "")
        with Store.open(left / "data", self._life.options) as store:
            self._turn.count("cuts looked at with views")
            self._turn.count("torn tails", sum("cut off" in note for note in store.recovery))
            self._turn.count(
                "views of before the cut that were used", not any("views" in one for one in store.recovery)
            )
            events = list(store.tail(0, follow=False))
            cursor = store.cursor(0)
            try:
                frames = cursor.read(store.horizon.revision, 1 << 30)
            finally:
                cursor.close()
            state = fold(events)
            assert state_of(store, {kind for kind, _ in state}) == state
            store.save("note", "after", b"a cut")
            if number % _CHECK_EVERY == 0:
                check_store(store)
            return [_commit_in(frame.payload) for frame in frames]


def _commit_in(payload: bytes) -> Commit:
    return tuple(Change("save", event.kind, event.id, event.value) for event in decode_commit(payload).events)


# --- bugs ------------------------------------------------------------------------------------------------


@bug("no-directory-sync", "the names in a directory are not synced", scenario="lost-writes", amount=300)
def _no_directory_sync() -> None:
    files.sync_directory = lambda path: None


@bug("header-not-synced", "a new segment gets its name before its header is synced", scenario="lost-writes", amount=300)
def _header_not_synced() -> None:
    def create(path: str, content: bytes) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        files.write_at(fd, (content,), 0)
        files.sync_directory(os.path.dirname(path))
        return fd

    files.create = create


@bug("fold-before-sync", "readers see a group before it is synced", scenario="lost-writes", amount=300)
def _fold_before_sync() -> None:
    real = Writer._fold

    def fold_then_sync(writer: Writer, commits: list[FoldCommit]) -> bool:
        is_folded = real(writer, commits)
        writer._log.sync()
        return is_folded

    Writer._sync = lambda writer: None
    Writer._fold = fold_then_sync


@bug("tail-before-sync", "followers are woken before a group is synced", scenario="lost-writes", amount=300)
def _tail_before_sync() -> None:
    real = Writer._sync

    def sync(writer: Writer) -> None:
        writer._horizon.advance(writer._log.next_revision - 1)
        writer._horizon.wake()
        real(writer)

    Writer._sync = sync


@bug("seal-before-sync", "a segment is sealed before what is in it is synced", scenario="lost-writes", amount=300)
def _seal_before_sync() -> None:
    real = Log._seal

    def seal(log: Log) -> None:
        log.sync = lambda: None
        try:
            real(log)
        finally:
            del log.sync
        log.durable_revision = log.next_revision - 1

    Log._seal = seal


LOST_WRITES = Scenario(
    "lost-writes",
    ("A6",),
    "a disk that keeps only what was synced: power cuts at each call of a commit, a roll, a recovery and a close",
    unit="cuts",
    gate=3_000,
    chunk=1_000,
    soak=30_000,
    must=(
        "calls in a commit",
        "calls in a roll",
        "calls in a recovery",
        "calls in a close",
        "writes lost",
        "writes halved",
        "writes reordered",
        "cuts that cost something",
        "cuts looked at with views",
        "torn tails",
    ),
    run=lost_writes,
)
