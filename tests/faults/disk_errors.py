"""A disk that fails, lies, or takes half: errors injected at the system calls of a process that embeds the store.

The writers are threads of a forked child, so groups form; what was acknowledged is known to this process. What the
disk loses with a failed fsync is cut off the log's files before they are read again, so an acknowledgement that came
before its sync does not go unseen.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import re
import resource
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

from faults import needs
from faults.bugs import bug
from faults.children import Channel, Child
from faults.scenario import Scenario, Turn
from faults.strace import Call, Strace
from stigmer import config
from stigmer.config import StoreOptions
from stigmer.errors import CorruptLog, CorruptView, StigmerError
from stigmer.log import files
from stigmer.log import format as fmt
from stigmer.log.log import Log
from stigmer.store import Store

OPTIONS = StoreOptions(segment_bytes=4096, map_bytes=1 << 20)
KIND = "note"
_WRITERS = 4
_KEYS_OF_EACH = 3
_NUMBERS = 1000  # for each child
_UNFLUSHED_EVENTS_MAX = 40
_CALLS_MAX = 50
# A group has the commits of all threads at the most, and at least one write and one fsync.
_SAVES_MORE = 12
_SIZES = ((40, 1), (40, 300), (2000, 40))

_NEVER_WRITTEN = frozenset({"DiskFull"})
"""Errors that say that nothing was written."""


def value_of(id: str, number: int) -> bytes:
    """Give what save `number` puts under an id."""
    text = f"{id} {number} ".encode()
    most, times = _SIZES[crc32(text) % len(_SIZES)]
    return text * (1 + crc32(text) // 8 % most) if times == 1 else text * times


def number_in(value: bytes) -> int:
    """Give the number of the save that put a value there."""
    return int(value.split(b" ", 2)[1])


class Ledger:
    """What this process knows of what a store must have."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.acked: dict[str, int] = {}
        """Id -> number of the last save that was acknowledged."""
        self.unknown: dict[str, int] = {}
        """Id -> number of a save after that, of which nobody knows."""
        self.refused: dict[str, set[int]] = {}
        """Id -> numbers of saves of which it was said that they were not made."""

    def note(self, words: tuple[object, ...]) -> None:
        """Take what a writer tells."""
        event, id, number, *more = words
        assert isinstance(id, str)
        assert isinstance(number, int)
        if event == "try":
            self.unknown[id] = number
        elif event == "acked":
            self.acked[id] = number
            self.unknown.pop(id)
            self._turn.count("operations")
        elif more[0] in _NEVER_WRITTEN:
            self.unknown.pop(id)
            self.refused.setdefault(id, set()).add(number)
            self._turn.count("writes refused")
        else:
            self._turn.count("outcomes unknown")

    def check(self, store: Store, what: str) -> None:
        """Require that a store that was opened again has everything that was acknowledged, and nothing else."""
        found = {}
        for row in store.list(KIND).resources:
            found[row.id] = number_in(row.value)
            self._turn.require(row.value == value_of(row.id, found[row.id]), f"{what}: a wrong value", id=row.id)
        for id in self.acked.keys() | self.unknown.keys() | found.keys():
            acked, unknown, is_there = self.acked.get(id), self.unknown.get(id), found.get(id)
            self._turn.require(
                is_there == acked or (is_there is not None and is_there == unknown),
                f"{what}: not what was acknowledged",
                id=id,
                found=is_there,
                acked=acked,
                unknown=unknown,
                refused=is_there in self.refused.get(id, ()),
            )
        self.acked, self.unknown, self.refused = found, {}, {}

    def check_shown(self, shown: dict[str, int]) -> None:
        """Require that a store that has failed shows nothing but what was acknowledged."""
        for id, number in shown.items():
            self._turn.require(self.acked.get(id) == number, "what is not known to be on disk was shown", id=id)
        self._turn.require(shown.keys() == self.acked.keys(), "what was acknowledged is not shown")


def writers(
    directory: Path, seed: int, saves: int, *, is_closed: bool, limit: tuple[int, int] | None = None
) -> Callable[[Channel], None]:
    """Give the work of a child that saves so often with each of several threads, or until the store has failed.

    With `limit` (n, bytes), each n saves the log may grow only by so many bytes more, for a while.
    """

    def work(channel: Channel) -> None:
        logging.disable(logging.CRITICAL)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        # LMDB's file is larger than any limit, and what it is told of that is not what a full disk tells it.
        if limit is None:
            config.UNFLUSHED_EVENTS_MAX = _UNFLUSHED_EVENTS_MAX
        else:
            config.UNFLUSHED_SECONDS_MAX = 1e6
        store = Store.open(directory, OPTIONS)
        channel.send(("open", store.recovery))
        channel.wait()
        threads = [
            threading.Thread(target=_save, args=(store, channel, writer, seed, saves, limit))
            for writer in range(_WRITERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        shown = None
        try:
            shown = {row.id: number_in(row.value) for row in store.list(KIND).resources}
        except CorruptView:
            # Where the write that failed was one of LMDB's own first pages, it reads no more either.
            if store.failure is None:
                raise
        channel.send(("end", type(store.failure).__name__ if store.failure else "", shown))
        if is_closed:
            store.close()

    return work


def _save(store: Store, channel: Channel, writer: int, seed: int, saves: int, limit: tuple[int, int] | None) -> None:
    source = random.Random(f"{seed} {writer}")
    for step in range(saves):
        id, number = f"{writer}-{source.randrange(_KEYS_OF_EACH)}", seed * _NUMBERS + step
        if limit is not None and writer == 0 and step % limit[0] == 0:
            size = store.segments()[-1].bytes + limit[1] if step // limit[0] % 2 == 0 else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        channel.send(("try", id, number))
        try:
            store.save(KIND, id, value_of(id, number))
        except StigmerError as error:
            channel.send(("refused", id, number, type(error).__name__))
            if store.failure is not None:
                return
        else:
            channel.send(("acked", id, number))


class _Run:
    """What came of one child."""

    def __init__(self) -> None:
        self.failure = ""
        self.calls: list[Call] = []
        self.notes: tuple[str, ...] = ()

    @property
    def injected(self) -> list[Call]:
        return [call for call in self.calls if call.is_injected]


def _run(turn: Turn, ledger: Ledger, work: Callable[[Channel], None], *expressions: str) -> _Run:
    """Run a child under strace to its end."""
    run = _Run()
    with Child(work) as child:
        opened, *rest = child.receive()
        run.notes = opened[1]
        with Strace(child.pid, turn.directory / "trace", *expressions) as strace:
            child.go_on()
            for words in itertools.chain(rest, child.rest()):
                if words[0] == "end":
                    _, run.failure, shown = words
                    if shown is not None:
                        ledger.check_shown(shown)
                else:
                    ledger.note(words)
            turn.require(child.wait() == 0, "the process that embeds the store died", status=child.status)
            run.calls = strace.calls()
    return run


# --- an fsync that fails -----------------------------------------------------------------------------------------


def _fail_syncs(turn: Turn) -> None:
    directory = turn.directory / "data"
    ledger = Ledger(turn)
    for fault in range(turn.amount):
        call = fault % _CALLS_MAX + 1
        work = writers(directory, fault, call + _SAVES_MORE, is_closed=turn.random.random() < 0.5)
        run = _run(
            turn, ledger, work, f"inject=fdatasync:error=EIO:when={call}", "trace=fdatasync,fsync,pwrite64,pwritev"
        )
        turn.count("failed syncs", len(run.injected))
        turn.require(len(run.injected) <= 1, "an fsync that failed was tried again", call=call)
        if run.injected:
            turn.require(run.failure == "StorageFailed", "a failed fsync did not stop the store", call=call)
            place = run.calls.index(run.injected[0])
            behind = [one for one in run.calls[place + 1 :] if one.path.endswith((".log", ".mdb"))]
            turn.require(not behind, "something was written or synced after a failed fsync", call=call, calls=behind)
            if run.injected[0].path.endswith(".log"):
                _lose_unsynced(turn, run.calls)
        with Store.open(directory, OPTIONS) as store:
            ledger.check(store, "after a failed fsync")


_PWRITE = re.compile(r", (\d+), (\d+)$")


def _lose_unsynced(turn: Turn, calls: list[Call]) -> None:
    """Cut off what the log's files got behind their last fsync that went well."""
    written: dict[str, int] = {}
    synced: dict[str, int] = {}
    for call in calls:
        if not call.path.endswith(fmt.SEGMENT_SUFFIX):
            continue
        if call.name == "pwrite64" and (found := _PWRITE.search(call.arguments)):
            offset = int(found[2])
            synced.setdefault(call.path, offset)
            written[call.path] = max(written.get(call.path, 0), offset + call.result)
        elif call.name in ("fdatasync", "fsync") and call.result == 0 and call.path in written:
            synced[call.path] = written[call.path]
    for path, size in synced.items():
        if os.path.getsize(path) > size:
            turn.count("bytes lost with a failed sync", os.path.getsize(path) - size)
            os.truncate(path, size)


SYNC_ERRORS = Scenario(
    name="sync-errors",
    rows=("A8",),
    what="the Nth fsync fails: nothing of its group is acknowledged or shown, it is not tried again, the store stops",
    unit="failed syncs",
    gate=50,
    chunk=50,
    soak=500,
    must=("failed syncs", "operations", "outcomes unknown", "bytes lost with a failed sync"),
    run=_fail_syncs,
    needs=(needs.strace,),
)


# --- a write that fails, is interrupted, or takes half -------------------------------------------------------------

_FAULTS = ("pwrite64:error=EIO", "pwrite64:error=EINTR", "pwrite64:error=ENOSPC", "pwritev:error=EIO")


def _fail_writes(turn: Turn) -> None:
    directory = turn.directory / "data"
    ledger = Ledger(turn)
    kinds = len(_FAULTS) + 1
    first = turn.random.randrange(_CALLS_MAX * kinds)
    for fault in range(first, first + turn.amount):
        # Every call, and the next time with another kind of fault.
        call = fault % _CALLS_MAX + 1
        kind = (fault + fault // _CALLS_MAX) % kinds
        is_closed = turn.random.random() < 0.5
        if kind == len(_FAULTS):
            limit = (turn.random.randint(3, 9), turn.random.randint(1, 3000))
            run = _run(
                turn,
                ledger,
                writers(directory, fault, call + _SAVES_MORE, is_closed=is_closed, limit=limit),
                "trace=pwrite64",
            )
            turn.count("writes that were cut short", sum(_is_short(one) for one in run.calls))
            turn.require(run.failure == "", "a full disk stopped the store")
        else:
            # Writes to LMDB's file in one call with many pages are few.
            when = call % 8 + 1 if _FAULTS[kind].startswith("pwritev") else call
            expression = f"inject={_FAULTS[kind]}:when={when}"
            run = _run(turn, ledger, writers(directory, fault, call + _SAVES_MORE, is_closed=is_closed), expression)
            for one in run.injected:
                turn.count(f"{_FAULTS[kind].partition('=')[2]} in a write")
                turn.require(
                    _FAULTS[kind].endswith("EIO") == (run.failure == "StorageFailed") or one.path.endswith(".mdb"),
                    "a failed write has another end than it should",
                    fault=_FAULTS[kind],
                    failure=run.failure,
                )
        turn.count("faulty writers")
        with Store.open(directory, OPTIONS) as store:
            ledger.check(store, "after a failed write")


def _is_short(call: Call) -> bool:
    found = _PWRITE.search(call.arguments)
    return found is not None and 0 < call.result < int(found[1])


WRITE_ERRORS = Scenario(
    name="write-errors",
    rows=("A9",),
    what="the Nth write fails, is interrupted, finds no room or takes only half: nothing acknowledged is lost",
    unit="faulty writers",
    gate=60,
    chunk=50,
    soak=500,
    must=(
        "operations",
        "EIO in a write",
        "EINTR in a write",
        "ENOSPC in a write",
        "writes that were cut short",
        "writes refused",
    ),
    run=_fail_writes,
    needs=(needs.strace,),
)


# --- a disk that lies ----------------------------------------------------------------------------------------------


def _lie(turn: Turn) -> None:
    directory = turn.directory / "data"
    ledger = Ledger(turn)
    for child in itertools.count():
        if turn.tally["lies"] >= turn.amount:
            break
        call = child % _CALLS_MAX + 1
        # Few saves, so that some lies are about the last write of all.
        saves = turn.random.randint(1, call // 3 + 1)
        run = _run(
            turn,
            ledger,
            writers(directory, child, saves, is_closed=turn.random.random() < 0.5),
            f"inject=pwrite64:retval=40:when={call}",
        )
        turn.count("lies", len(run.injected))
        if run.failure:
            turn.count("lies found while writing")
        is_over = False
        is_of_log = any(".log" in one.path for one in run.injected)
        try:
            with Store.open(directory, OPTIONS) as store:
                if is_of_log and not any("cut off" in note for note in store.recovery):
                    ledger.check(store, "after a lie that nobody noticed")
                    turn.require(False, "a write that was not made went unnoticed", call=call)
                elif not is_of_log:
                    ledger.check(store, "after a lie about the views' file")
                else:
                    turn.count("lies found by the open, at the end of the log")
                    is_over = True
        except CorruptLog as error:
            turn.require(os.path.basename(error.path) in str(error), "the error does not name the file")
            turn.count("lies found by the open, before the end of the log")
            is_over = True
        if is_over:
            shutil.rmtree(directory)
            ledger = Ledger(turn)


LIES = Scenario(
    name="lies",
    rows=("A13",),
    what="the Nth write says that 40 bytes were written and writes none: found at the next open at the latest",
    unit="lies",
    gate=25,
    chunk=50,
    soak=500,
    must=("lies", "lies found by the open, at the end of the log", "lies found by the open, before the end of the log"),
    run=_lie,
    needs=(needs.strace,),
)


# --- bugs ----------------------------------------------------------------------------------------------------------


@bug("fsync-tried-again", "a failed fsync is tried again, and believed", scenario="sync-errors", amount=6)
def _plant_fsync_tried_again() -> None:
    sync = files.sync_data

    def again(fd: int) -> None:
        try:
            sync(fd)
        except OSError:
            sync(fd)

    files.sync_data = again


@bug("short-write-is-whole", "a write that took half is taken for whole", scenario="write-errors", amount=25)
def _plant_short_write_is_whole() -> None:
    def write_whole(fd: int, block: list[bytes], offset: int) -> int:
        data = b"".join(block)
        os.pwrite(fd, data, offset)
        return offset + len(data)

    files._write_whole = write_whole


@bug("half-group-left", "a group for which there was no room is left half written", scenario="write-errors", amount=25)
def _plant_half_group_left() -> None:
    take_back = Log._take_back

    def leave(self: Log, active: object, error: OSError) -> None:
        truncate = os.ftruncate
        os.ftruncate = lambda fd, size: None  # type: ignore[assignment]
        try:
            take_back(self, active, error)  # type: ignore[arg-type]
        finally:
            os.ftruncate = truncate

    Log._take_back = leave  # type: ignore[method-assign,assignment]
