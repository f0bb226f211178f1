"""A disk that is full: filled and freed under a store that goes on, and full when one is opened.

The first runs on an ext4 of its own in a loop device, of a size that is known; the second by strace, which refuses from
the Nth call on whatever would need room, for each N until an open comes to its end untouched.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from checks import check_store
from log.support import segment_files

from faults import needs
from faults.children import Channel, Child, in_child
from faults.scenario import Scenario, Turn
from faults.strace import Strace
from stigmer import config
from stigmer.config import StoreOptions
from stigmer.errors import DiskFull, StigmerError
from stigmer.store import Store

OPTIONS = StoreOptions(segment_bytes=16 * 1024, map_bytes=1 << 20)
_DISK_BYTES = 24 << 20
_BLOCK_BYTES = 4096
_KIND = "note"
_IDS = 8
_FILLS_OF_A_LIFE = 10
_SAVES_MAX = 400
_CHECKS_EVERY = 5


@contextmanager
def small_disk(directory: Path, size_bytes: int) -> Iterator[Path]:
    """Give the folder of an ext4 file system of this size, in a file in a directory."""
    image, folder = directory / "image", directory / "mounted"
    image.touch()
    os.truncate(image, size_bytes)
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, env=_path())
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True, env=_path())
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, env=_path())


def _path() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


def _fill(path: Path, left_bytes: int) -> None:
    """Have a file take all of the disk's room but this much."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        # What was freed a moment ago may come back while this goes on.
        for size in (1 << 20, _BLOCK_BYTES):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(fd, os.fstat(fd).st_size, size)
        os.ftruncate(fd, max(0, os.fstat(fd).st_size - left_bytes))
    finally:
        os.close(fd)


def _value(number: int) -> bytes:
    return b"%d " % number * (1 + crc32(b"%d" % number) % 600)


def _number_in(value: bytes) -> int:
    return int(value.split(b" ", 1)[0])


# --- filled and freed ----------------------------------------------------------------------------------------------


def _life(folder: Path, seed: int, first: int, fills: int) -> Callable[[Channel], None]:
    """Give the work of a child under whose store the disk fills and has room again, so often."""

    def work(channel: Channel) -> None:
        logging.disable(logging.CRITICAL)
        config.UNFLUSHED_EVENTS_MAX = 30
        source = random.Random(seed)
        numbers = itertools.count(first)
        filler = folder / "filler"
        store = Store.open(folder / "data", OPTIONS)
        channel.send(("open", {row.id: _number_in(row.value) for row in store.list(_KIND).resources}, store.recovery))
        acked: dict[str, int] = {}
        for _ in range(fills):
            _fill(filler, source.choice((0, 1, 3, 9)) * _BLOCK_BYTES)
            refused = 0
            for number in itertools.islice(numbers, _SAVES_MAX):
                id = f"{source.randrange(_IDS)}"
                channel.send(("try", id, number))
                try:
                    store.save(_KIND, id, _value(number))
                except DiskFull as error:
                    channel.send(("refused", id, number, str(error)))
                    refused += 1
                    for known, last in acked.items():
                        assert _number_in(store.get(_KIND, known).value) == last, "a full disk keeps reads"
                    if refused > 2:
                        break
                else:
                    channel.send(("acked", id, number))
                    acked[id] = number
            assert refused, "the disk is never full"
            os.unlink(filler)
            number = next(numbers)
            channel.send(("try", "0", number))
            store.save(_KIND, "0", _value(number))  # without a restart
            channel.send(("acked", "0", number))
            acked["0"] = number
        # Its last end is with a disk that is full, or not; closed, or killed.
        if source.random() < 0.5:
            _fill(filler, source.choice((0, 1, 5)) * _BLOCK_BYTES)
            with suppress(DiskFull):
                channel.send(("try", "1", number := next(numbers)))
                store.save(_KIND, "1", _value(number))
                channel.send(("acked", "1", number))
        channel.send(("last", next(numbers)))
        if source.random() < 0.5:
            store.close()

    return work


def _fill_and_free(turn: Turn) -> None:
    with small_disk(turn.directory, _DISK_BYTES) as folder:
        acked: dict[str, int] = {}
        pending: dict[str, int] = {}
        first = 0
        life = 0
        while turn.tally["fills"] < turn.amount:
            fills = min(_FILLS_OF_A_LIFE, turn.amount - turn.tally["fills"])
            with Child(_life(folder, turn.random.getrandbits(32), first, fills)) as child:
                for event, *words in child.rest():
                    if event == "open":
                        _compare(turn, words[0], acked, pending)
                        pending = {}
                    elif event == "try":
                        pending[words[0]] = words[1]
                    elif event == "refused":
                        del pending[words[0]]
                        turn.require(str(folder / "data") in words[2], "the error does not name the directory")
                        turn.count("writes refused")
                    elif event == "acked":
                        acked[words[0]] = pending.pop(words[0])
                        turn.count("operations")
                    else:
                        first = words[0]
                turn.require(child.wait() == 0, "the process died", status=child.status)
            turn.count("fills", fills)
            _open_while_full(turn, folder)
            life += 1
            if life % _CHECKS_EVERY == 0:
                in_child(lambda channel: _check(folder / "data"))


def _check(directory: Path) -> None:
    with Store.open(directory, OPTIONS) as store:
        check_store(store)


def _compare(turn: Turn, found: dict[str, int], acked: dict[str, int], pending: dict[str, int]) -> None:
    for id in acked.keys() | found.keys() | pending.keys():
        is_right = found.get(id) == acked.get(id) or (id in pending and found.get(id) == pending[id])
        turn.require(is_right, "not what was acknowledged", id=id, found=found.get(id), acked=acked.get(id))
    acked.clear()
    acked.update(found)


def _open_while_full(turn: Turn, folder: Path) -> None:
    """Open a store on a disk that is full: it opens, or says so and has changed nothing; then make room."""
    filler = folder / "filler"
    _fill(filler, turn.random.choice((0, 0, 1, 4, 70)) * _BLOCK_BYTES)

    def work(channel: Channel) -> None:
        logging.disable(logging.CRITICAL)
        try:
            with Store.open(folder / "data", OPTIONS) as store:
                store.list(_KIND)
            channel.send("opened")
        except DiskFull as error:
            channel.send(str(error))

    for said in in_child(work):
        turn.count(f"opens on a full disk that were {'let in' if said == 'opened' else 'refused'}")
        turn.require(said == "opened" or str(folder / "data") in said, "the error does not name the directory")
    filler.unlink()


FILLS = Scenario(
    name="full-disk",
    rows=("A10", "A11"),
    what="the disk fills and has room again under a store, and is full when it is opened: refused, read, and gone on",
    unit="fills",
    gate=100,
    chunk=50,
    soak=1000,
    must=("operations", "writes refused", "opens on a full disk that were refused"),
    run=_fill_and_free,
    needs=(needs.loop_device,),
)


# --- full from the Nth call on ---------------------------------------------------------------------------------------

_NEEDS_ROOM = "pwrite64,pwritev,writev,mkdir,ftruncate,rename,fsync,fdatasync"


class _Situation(NamedTuple):
    name: str
    prepare: Callable[[Path], None]


def _torn(directory: Path) -> None:
    with segment_files(directory / "log")[-1].open("ab") as file:
        file.write(b"half a frame" * 9)


_SITUATIONS = (
    _Situation("nothing there", shutil.rmtree),
    _Situation("left by a kill", lambda directory: None),
    _Situation("with a torn tail", _torn),
    _Situation("without views", lambda directory: shutil.rmtree(directory / "views")),
)


def _never_sealed(directory: Path) -> None:
    """Make a store as a kill leaves it: some of it flushed, some not."""

    def work(channel: Channel) -> None:
        store = Store.open(directory, OPTIONS)
        for number in range(60):
            store.save(_KIND, f"{number % _IDS}", _value(number))
            if number == 40:
                store._writer.flush()

    in_child(work)


def _open_and_go_on(directory: Path) -> Callable[[Channel], None]:
    """Give the work of a child that opens a store, saves, folds it again and closes it, as far as it gets."""

    def work(channel: Channel) -> None:
        logging.disable(logging.CRITICAL)
        channel.send("ready")
        channel.wait()
        try:
            store = Store.open(directory, OPTIONS)
            store.save(_KIND, "more", b"1 ")
            channel.send("saved")
            store.replay()
            store._writer.flush()
            store.close()
            channel.send("done")
        except StigmerError as error:
            channel.send(f"{type(error).__name__}: {error}")

    return work


def _full_from_each_call(turn: Turn) -> None:
    before = turn.directory / "before"
    _never_sealed(before)
    order = list(_SITUATIONS)
    turn.random.shuffle(order)
    for fault in range(turn.amount):
        situation = order[fault % len(order)]
        directory = turn.directory / "data"
        shutil.copytree(before, directory)
        situation.prepare(directory)
        call = fault // len(order) + 1
        with Child(_open_and_go_on(directory)) as child:
            child.receive()
            expression = f"inject={_NEEDS_ROOM}:error=ENOSPC:when={call}+"
            with Strace(child.pid, turn.directory / "trace", expression) as strace:
                child.go_on()
                said = child.rest()
                turn.require(child.wait() == 0, "the process died", situation=situation.name, call=call)
                hits = sum(one.is_injected for one in strace.calls())
        turn.count("opens")
        turn.count("calls that found no room", hits)
        last = said[-1]
        kind = last.partition(":")[0]
        turn.count(f"ended with {kind}")
        # An fsync that finds no room says nothing of what it has written: that is a failure of the storage.
        turn.require(
            kind in ("done", "DiskFull", "StorageFailed"), "another error", situation=situation.name, error=last
        )
        if kind == "DiskFull":
            turn.require(str(directory) in last, "the error does not name the directory", error=last)
        _check_after(turn, directory, situation, is_saved="saved" in said)
        shutil.rmtree(directory)


def _check_after(turn: Turn, directory: Path, situation: _Situation, *, is_saved: bool) -> None:
    def work(channel: Channel) -> None:
        logging.disable(logging.CRITICAL)
        with Store.open(directory, OPTIONS) as store:
            channel.send({row.id: _number_in(row.value) for row in store.list(_KIND).resources})
            assert store.verify().differences == 0

    found = in_child(work)[0]
    wanted = {} if situation.prepare is shutil.rmtree else {f"{number % _IDS}": number for number in range(52, 60)}
    if is_saved or "more" in found:
        wanted["more"] = 1
    turn.require(found == wanted, "what was there is lost", situation=situation.name, found=found)


FULL_FROM = Scenario(
    name="full-from-a-call",
    rows=("A11",),
    what="from the Nth call on there is no room, in an open, a roll, a rebuild, a flush, a close: nothing is lost",
    unit="opens",
    gate=120,
    chunk=80,
    soak=600,
    must=("calls that found no room", "ended with DiskFull", "ended with done"),
    run=_full_from_each_call,
    needs=(needs.strace,),
)
