"""Views whose files are lost, cut, exchanged, edited, or have bits turned over: what they say is never wrong.

LMDB is C and has no checksums: on a damaged page it may end the process. So a damaged store is opened in a forked
child, which tells what it reads; what it should read is known here. The log is whole, so in the end everything is.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import lmdb
from checks import check_store
from views.support import data_file, edit

from faults.bugs import bug
from faults.children import Channel, Child
from faults.logs import quick_folder
from faults.scenario import Scenario, Turn
from faults.split import split
from stigmer.config import StoreOptions
from stigmer.errors import CorruptLog, CorruptView, NotFound
from stigmer.log.format import crc32c
from stigmer.log.recovery import list_segments
from stigmer.model import Delete, Save
from stigmer.pb.agentic import agentexecution_pb2
from stigmer.store import Store
from stigmer.views import checksums, generations, snapshot
from stigmer.views.generations import Generation
from stigmer.views.view import shown_key

OPTIONS = StoreOptions(segment_bytes=4096, map_bytes=1 << 20)
_PAGE_BYTES = 4096
_SECTOR_BYTES = 512
_KINDS = ("note", "task", "agent_execution")
_CHECKS_EVERY = 20
_HANGS_SECONDS = 60.0

State = dict[str, list[int]]
"""kind/id -> revision and CRC-32 of the value."""


class Model(NamedTuple):
    """A store that was made, and what it has."""

    directory: Path
    """Closed clean."""
    killed: Path
    """As a kill would have left it, with everything flushed: no file says what LMDB's file should be."""
    state: State
    gone: list[str]
    """kind/id of resources that there were."""

    def put(self, directory: Path, *, is_clean: bool) -> Model:
        """Give a copy of it in a directory."""
        shutil.copytree(self.directory if is_clean else self.killed, directory)
        return self._replace(directory=directory)


def _value(source: random.Random, kind: str) -> bytes:
    if kind != "agent_execution":
        return source.randbytes(source.choice((0, 5, 60, 300, 5000)))
    message = agentexecution_pb2.AgentExecution()
    message.spec.session_id = source.choice(("ses-1", "ses-2", "ses-3"))
    message.status.phase = source.randint(1, 5)
    message.status.error = "e" * source.choice((0, 10, 200))
    return message.SerializeToString()


def make(directory: Path, seed: int, commits: int = 120) -> Model:
    """Make a store of resources that come, change and go."""
    source = random.Random(seed)
    state: State = {}
    gone: list[str] = []
    with Store.open(directory, OPTIONS) as store:
        for number in range(commits):
            changes: list[Save | Delete] = []
            for _ in range(source.randint(1, 3)):
                kind, id = source.choice(_KINDS), f"{source.randrange(commits)}"
                if f"{kind}/{id}" in {f"{change.kind}/{change.id}" for change in changes}:
                    continue
                if f"{kind}/{id}" in state and source.random() < 0.3:
                    changes.append(Delete(kind, id))
                else:
                    changes.append(Save(kind, id, _value(source, kind)))
            committed = store.commit(changes, f"r{number}" if source.random() < 0.5 else None)
            for place, change in enumerate(changes):
                key = f"{change.kind}/{change.id}"
                if isinstance(change, Save):
                    state[key] = [committed.first_revision + place, crc32(change.value)]  # type: ignore[arg-type]
                else:
                    del state[key]
                    gone.append(key)
            if number % 40 == 20:
                store._writer.flush()
        store._writer.flush()
        killed = directory.with_name(f"{directory.name}-killed")
        shutil.copytree(directory, killed)
    return Model(directory, killed, state, [key for key in gone if key not in state])


def _read(store: Store, model: Model) -> dict[str, State]:
    """Read everything in every way."""
    listed: State = {}
    indexed: State = {}
    for kind in _KINDS:
        for resource in store.list(kind).resources:
            listed[f"{kind}/{resource.id}"] = [resource.revision, crc32(resource.value)]
    for row in store.list_indexed("agent_execution").rows:
        resource = snapshot.resource_of("agent_execution", row)
        indexed[f"agent_execution/{resource.id}"] = [resource.revision, crc32(resource.value)]
    got: State = {}
    for key in [*model.state, *model.gone]:
        try:
            resource = store.get(*key.split("/"))
        except NotFound:
            continue
        got[key] = [resource.revision, crc32(resource.value)]
    return {"Get": got, "List": listed, "List by an index": indexed}


def _reader(model: Model, *, check: bool, before_reading: bool = False) -> Callable[[Channel], None]:
    """Give the work of a child that opens a store and tells what it reads, until all of it could be read."""

    def work(channel: Channel) -> None:
        logging.disable(logging.CRITICAL)
        try:
            store = Store.open(model.directory, OPTIONS)
        except CorruptLog as error:
            channel.send(
                (
                    "refused",
                    str(error),
                )
            )
            return
        channel.send(
            (
                "open",
                store.recovery,
                store.status().generation,
            )
        )
        if before_reading:
            channel.wait()
        while True:
            try:
                channel.send(
                    (
                        "read",
                        _read(store, model),
                        store.count(),
                    )
                )
                break
            except CorruptView as error:
                channel.send(
                    (
                        "error",
                        str(error),
                    )
                )
            for thread in threading.enumerate():
                if thread.name == "stigmer-repair":
                    thread.join()
        if check:
            check_store(store)
        store.close()
        channel.send(("end",))

    return work


class _Outcome(NamedTuple):
    refused: str
    notes: tuple[str, ...]
    errors: int
    is_dead: bool


def open_and_compare(turn: Turn, model: Model, *, check: bool = False) -> _Outcome:
    """Open a store in a child, and require that nothing that it gives out is wrong."""
    notes: tuple[str, ...] = ()
    refused, errors, is_dead = "", 0, True
    with Child(_reader(model, check=check)) as child:
        while not child.is_at_end:
            messages = child.receive(_HANGS_SECONDS)
            if not messages and not child.is_at_end:
                turn.count("processes that hung")
                child.kill()
            for words in messages:
                if words[0] == "refused":
                    refused, is_dead = words[1], False
                elif words[0] == "open":
                    notes = words[1]
                elif words[0] == "error":
                    errors += 1
                elif words[0] == "read":
                    _compare(turn, model, words[1], words[2])
                else:
                    is_dead = False
        status = child.wait()
    turn.require(status < 0 if is_dead else status == 0, "the reader failed", status=status)
    turn.count("processes that died", is_dead)
    return _Outcome(refused, notes, errors, is_dead)


def _compare(turn: Turn, model: Model, read: dict[str, State], counts: dict[str, int]) -> None:
    for how, found in read.items():
        wanted = model.state
        if how == "List by an index":
            wanted = {key: one for key, one in wanted.items() if key.startswith("agent_execution/")}
        wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        turn.require(
            not wrong, f"{how} gives what is wrong", keys=wrong[:3], found=[found.get(key) for key in wrong[:3]]
        )
        turn.count("rows compared", len(found))
    wanted_counts = {kind: sum(key.startswith(f"{kind}/") for key in model.state) for kind in _KINDS}
    turn.require(counts == {kind: count for kind, count in wanted_counts.items() if count}, "Count is wrong")


# --- bits turned over ----------------------------------------------------------------------------------------------


def _damage_many(turn: Turn) -> None:
    split(turn, lambda part, _number: _damage_some(part))


def _damage_some(turn: Turn) -> None:
    with quick_folder(turn.directory) as folder:
        for first in range(0, turn.amount, 100):
            made = make(folder / "made", turn.random.getrandbits(32), turn.random.choice((20, 120)))
            for fault in range(first, min(first + 100, turn.amount)):
                is_clean = fault % 4 == 0
                model = made.put(folder / "data", is_clean=is_clean)
                _damage(turn, data_file(model.directory))
                outcome = open_and_compare(turn, model, check=fault % _CHECKS_EVERY == 0)
                turn.count("damages")
                is_found = any("is not used" in note for note in outcome.notes)
                if is_clean:
                    turn.require(is_found, "damage behind a clean end is not found", notes=outcome.notes)
                    turn.count("damages behind a clean end")
                if is_found:
                    turn.count("damages found by the open")
                elif outcome.errors:
                    turn.count("damages told as an error")
                elif not outcome.is_dead:
                    turn.count("damages without an effect")
                shutil.rmtree(model.directory)
            shutil.rmtree(made.directory)
            shutil.rmtree(made.killed)


def _damage(turn: Turn, path: Path) -> None:
    """Turn one bit over; now and then lose a sector, or put one page in the place of another."""
    data = path.read_bytes()
    pages = len(data) // _PAGE_BYTES
    offset = turn.random.randrange(len(data))
    damaged = bytearray(data)
    kind = turn.random.random()
    if kind < 0.9:
        damaged[offset] ^= 1 << turn.random.randrange(8)
        turn.count("bits turned over")
    elif kind < 0.95:
        offset -= offset % _SECTOR_BYTES
        damaged[offset : offset + _SECTOR_BYTES] = bytes(_SECTOR_BYTES)
        turn.count("sectors lost")
    else:
        offset -= offset % _PAGE_BYTES
        other = turn.random.randrange(pages) * _PAGE_BYTES
        damaged[offset : offset + _PAGE_BYTES] = data[other : other + _PAGE_BYTES]
        turn.count("pages in the place of others")
    if damaged == data:
        damaged[offset] ^= 1
    path.write_bytes(damaged)


DAMAGE = Scenario(
    name="views-damaged",
    rows=("B7",),
    what="bits, sectors, pages of LMDB's file are wrong: no read gives a wrong value, or misses one; it is mended",
    unit="damages",
    gate=2250,
    chunk=200,
    soak=4000,
    must=(
        "bits turned over",
        "rows compared",
        "damages behind a clean end",
        "damages found by the open",
        "damages without an effect",
    ),
    run=_damage_many,
)


# --- lost, cut, exchanged ------------------------------------------------------------------------------------------


def _lose(turn: Turn) -> None:
    with quick_folder(turn.directory) as folder:
        seed = turn.random.getrandbits(32)
        made = make(folder / "made", seed)
        other = make(folder / "other", seed + 1)
        behind = make(folder / "behind", seed + 2, 30)
        ahead = behind.put(folder / "ahead", is_clean=True)
        with Store.open(ahead.directory, OPTIONS) as store:
            store.save("note", "more", b"")
        for fault in range(turn.amount):
            lose = _LOSSES[fault % len(_LOSSES)]
            source = behind if lose is _put_one_ahead else made
            model = source.put(folder / "data", is_clean=turn.random.random() < 0.5)
            before = _log_of(model.directory)
            another = ahead.directory if lose is _put_one_ahead else turn.random.choice((other.directory, other.killed))
            lose(turn, model.directory, another)
            outcome = open_and_compare(turn, model, check=fault % _CHECKS_EVERY == 0)
            turn.count("losses")
            turn.require(not outcome.is_dead, "the process died", loss=lose.__name__)
            if lose is _put_one_ahead:
                turn.require("log" in outcome.refused, "views ahead of the log were not refused")
                turn.require(_log_of(model.directory) == before, "the log was changed")
                turn.count("refusals")
            else:
                turn.require(not outcome.refused, "the store did not open", loss=lose.__name__, error=outcome.refused)
                turn.count("folded again", any("folded revisions 1 to" in note for note in outcome.notes))
            shutil.rmtree(model.directory)


def _log_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "log").iterdir()}


def _remove_all(turn: Turn, directory: Path, _other: Path) -> None:
    shutil.rmtree(directory / "views")


def _remove_generation(turn: Turn, directory: Path, _other: Path) -> None:
    shutil.rmtree(data_file(directory).parent)


def _remove_file(turn: Turn, directory: Path, _other: Path) -> None:
    data_file(directory).unlink()


def _empty_file(turn: Turn, directory: Path, _other: Path) -> None:
    data_file(directory).write_bytes(b"")


def _put_garbage(turn: Turn, directory: Path, _other: Path) -> None:
    data_file(directory).write_bytes(turn.random.randbytes(turn.random.randrange(1, 50_000)))


def _cut(turn: Turn, directory: Path, _other: Path) -> None:
    path = data_file(directory)
    os.truncate(path, turn.random.randrange(path.stat().st_size))


def _put_others(turn: Turn, directory: Path, other: Path) -> None:
    shutil.rmtree(directory / "views")
    shutil.copytree(other / "views", directory / "views")


def _put_one_ahead(turn: Turn, directory: Path, ahead: Path) -> None:
    _put_others(turn, directory, ahead)


def _put_others_file(turn: Turn, directory: Path, other: Path) -> None:
    shutil.copy(data_file(other), data_file(directory))


def _make_old(turn: Turn, directory: Path, _other: Path) -> None:
    edit(directory, lambda opened, transaction: transaction.put(b"schema", b"0 older", db=opened["meta"]))


def _spoil_mark(turn: Turn, directory: Path, _other: Path) -> None:
    (data_file(directory).parent / "clean").write_bytes(turn.random.randbytes(turn.random.randrange(60)))


def _spoil_lock(turn: Turn, directory: Path, _other: Path) -> None:
    (data_file(directory).parent / "lock.mdb").write_bytes(turn.random.randbytes(turn.random.randrange(9000)))


_LOSSES = (
    _remove_all,
    _remove_generation,
    _remove_file,
    _empty_file,
    _put_garbage,
    _cut,
    _put_others,
    _put_others_file,
    _put_one_ahead,
    _make_old,
    _spoil_mark,
    _spoil_lock,
)

LOSSES = Scenario(
    name="views-lost",
    rows=("B6", "B9"),
    what="views are lost, cut, garbage, another store's, of another layout, ahead of the log: folded again or refused",
    unit="losses",
    gate=120,
    chunk=60,
    soak=600,
    must=("rows compared", "refusals", "folded again"),
    run=_lose,
)


# --- rows that differ quietly ----------------------------------------------------------------------------------------

_EDITS_EACH = 10


def _edit(turn: Turn) -> None:
    with quick_folder(turn.directory) as folder:
        made = make(folder / "made", turn.random.getrandbits(32), 60)
        for first in range(0, turn.amount, _EDITS_EACH):
            directory = folder / "data"
            shutil.copytree(made.directory, directory)
            wanted = _edit_rows(turn, directory, min(_EDITS_EACH, turn.amount - first))
            with Store.open(directory, OPTIONS) as store:
                report = store.verify()
            named = {example.rpartition(": ")[0] for example in report.examples}
            turn.require(named == wanted, "verify does not name what was edited", named=named, edited=wanted)
            turn.require(report.differences == len(wanted), "verify counts something else", report=report)
            turn.count("edits", len(wanted))
            shutil.rmtree(directory)


def _edit_rows(turn: Turn, directory: Path, number: int) -> set[str]:
    """Change, remove and invent rows, with checksums that are right; give them as verify names them."""
    names = set()

    def change(opened: dict[str, Any], transaction: lmdb.Transaction) -> None:
        rows = [
            (name, key, row)
            for name, database in opened.items()
            if name not in ("meta", "requests_order.1")
            for key, row in transaction.cursor(db=database)
        ]
        for name, key, row in turn.random.sample(rows, number):
            kind = turn.random.choice(("changed", "removed", "invented"))
            if kind == "invented":
                key = key[:-1] + bytes((key[-1] ^ 0x40,))
                if transaction.get(key, db=opened[name]) is not None:
                    kind = "changed"
            payload = row[4:]
            if kind == "removed":
                transaction.delete(key, db=opened[name])
            else:
                payload = payload[:-1] + bytes((payload[-1] ^ 1,)) if payload else b"x"
                transaction.put(key, struct.pack("<I", crc32c(crc32c(0, key), payload)) + payload, db=opened[name])
            turn.count(f"rows {kind}")
            names.add(f"{name.partition('.')[0].partition('_')[0]}: {shown_key(key)}")

    edit(directory, change)
    return names


EDITS = Scenario(
    name="views-edited",
    rows=("B10",),
    what="rows differ from the log under checksums that are right: verify finds each and names its key",
    unit="edits",
    gate=1000,
    chunk=500,
    soak=5000,
    must=("rows changed", "rows removed", "rows invented"),
    run=_edit,
)


# --- bugs ----------------------------------------------------------------------------------------------------------


@bug("row-not-checked", "the checksum of a row is not looked at", scenario="views-damaged", amount=100)
def _plant_row_not_checked() -> None:
    snapshot.verified = lambda key, row: row[4:]
    checksums._is_whole = lambda name, key, row: True


@bug("clean-mark-believed", "views are believed for their mark of a clean end", scenario="views-damaged", amount=20)
def _plant_clean_mark_believed() -> None:
    generations.blocks.check = lambda path, mark: True


@bug("rows-not-counted", "nobody counts the rows of views", scenario="views-damaged", amount=300)
def _plant_rows_not_counted() -> None:
    Generation.check_rows = lambda self: None  # type: ignore[method-assign]


@bug("views-of-another-store", "nobody looks whose the views are", scenario="views-lost", amount=24)
def _plant_views_of_another_store() -> None:
    usable = generations._usable

    def anybodys(generation: Generation, revision: int | None) -> bytes:
        usable(generation, revision)
        log = Path(generation.directory).parent.parent / "log"
        return list_segments(str(log))[0].header.store_id

    generations._usable = anybodys
