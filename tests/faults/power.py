"""Row A3: power cuts on a real ext4, at any time: while a store opens, commits, rolls, flushes, closes.

What the journal and the syncs have not brought to the loop device is lost. Beside the store another file is synced now
and then, as on any machine, so that the journal is written at moments that the store has not chosen; and it is mounted
with different orders of data and journal, so that sizes and names come through without the bytes.
"""

from __future__ import annotations

import mmap
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import mounts, needs
from faults.bugs import bug
from faults.children import Channel, Child, pause
from faults.kills import Killed, ShortWrites, mark_stages
from faults.logs import quick_folder
from faults.mounts import Disk
from faults.scenario import Scenario, Turn
from faults.traffic import Ack, Report, Writers, report_of
from stigmer import config
from stigmer.config import StoreOptions
from stigmer.decision import Ticket
from stigmer.errors import StigmerError
from stigmer.log import files
from stigmer.store import Store
from stigmer.views import page_cache
from stigmer.views.page_cache import page_cache_id
from stigmer.writer import Writer

_WRITERS = 5
_CUTS_PER_STORE = 25
_PAUSE_SECONDS = 0.0005
_GONE = "the disk is gone"
_MOUNT_OPTIONS = ("", "nodelalloc", "data=writeback,nodelalloc", "data=writeback", "data=journal")


class _Power:
    """Whether there is power, in memory that children share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def switch(self, *, on: bool) -> None:
        """Switch it on or off."""
        self._memory[0] = on

    @property
    def is_on(self) -> bool:
        """Whether it is on."""
        return bool(self._memory[0])


class _Machine:
    """The channel of a child on a machine that can lose its power, which is no failure of the child.

    Without power nobody is answered, and a sync that was under way may say anything; so what would be sent then is not,
    and its sender goes no further.
    """

    def __init__(self, channel: Channel, power: _Power) -> None:
        self._channel = channel
        self._power = power

    def send(self, message: object) -> None:
        """Send a message, while there is power."""
        if not self._power.is_on:
            threading.Event().wait()
        self._channel.send(message)

    def broken(self, error: BaseException) -> None:
        """Tell of an exception; but not of a failed disk where there is no power."""
        is_of_disk = isinstance(error, StigmerError | OSError)
        self._channel.send(_GONE) if is_of_disk and not self._power.is_on else self._channel.broken(error)


class _SlowWrites:
    """The module `os` of a machine that takes its time over a write, and takes only a part of it.

    So the journal is often written, and the power cut, while a group is in its file in part.
    """

    def __init__(self, seed: int) -> None:
        self._short = ShortWrites(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        """Write a part, mostly."""
        written = self._short.pwrite(fd, data, offset)
        if written < len(data):
            time.sleep(_PAUSE_SECONDS)
        return written


class _Cut:
    """A store whose machine loses its power again and again, and what must be in it."""

    def __init__(self, turn: Turn, disk: Disk, number: int) -> None:
        self._turn = turn
        self._disk = disk
        self._directory = disk.path / f"data-{number}"
        self._killed = Killed(turn, str(self._directory), _WRITERS)
        self._power = _Power()
        self._power.switch(on=True)
        self._are_mounts_told_apart = " " in page_cache_id(str(disk.path))
        self.is_over = False
        """Whether its file system was damaged by a cut, and is gone."""

    def cycle(self) -> None:
        """Open it, write, and cut the power; at times kill and open it before that; then mount the disk again."""
        choose = self._turn.random
        while choose.random() < 0.15:
            self._live(is_cut=False)
            self._turn.count("kills before a cut")
        self._live(is_cut=True)

    def _live(self, *, is_cut: bool) -> None:
        choose, turn, model = self._turn.random, self._turn, self._killed.model
        how = choose.choice(("opening", "answers", "answers", "time", "closing"))
        stays = choose.random() < 0.3
        stages: list[str] = []
        with self._child() as child:
            messages: list[Any] = []
            if how == "opening":
                messages += pause(child, choose.uniform(0, 0.03))
            else:
                messages += _wait_for(child, 1, lambda message: message == "open")
                if how != "time":
                    messages += _wait_for(child, choose.randint(0, 25), lambda message: isinstance(message, Ack))
                if how == "closing":
                    child.go_on()
                messages += pause(child, choose.uniform(0, 0.008))
            for _ in range(choose.choice((0, 1, 2, 4))):
                self._sync_another()
            # Where bytes go through the journal it is the kernel that a cut in the middle of this stops, now and then.
            if is_cut and not self._disk.journals_data:
                self._write_some_pages()
                self._power.switch(on=False)
                self._disk.cut(choose.choices((mounts.NO_FLUSH, mounts.LOG_FLUSH, mounts.FLUSH), (8, 1, 1))[0])
                stages = model.shared.stages()
                if stays:
                    messages += pause(child, choose.uniform(0, 0.02))  # it finds out by itself
            messages += child.kill()
            child.wait()
        for report in (message for message in messages if isinstance(message, Report)):
            # What was synced is enough: no cut may cost the views. Three openings in a row that were killed may.
            lost = [note for note in report.notes if "is not used" in note and "times in a row" not in note]
            turn.require(not lost, "views were lost", notes=report.notes)
        self._killed.take(messages)
        under_way = model.note_end()
        if is_cut:
            turn.count("cuts")
            turn.count("cuts inside a commit", under_way > 0)
            turn.count("stores that saw their disk go", _GONE in messages)
            for stage in stages:
                turn.count(f"cuts while {stage}")
            self._mount_again()
            self._power.switch(on=True)

    def _child(self) -> Child:
        choose, model = self._turn.random, self._killed.model
        seed, power = choose.getrandbits(32), self._power
        options = StoreOptions(segment_bytes=choose.choice((4096, 4096, 16_384)), map_bytes=256 * 1024)
        entries_max = choose.choice((1, 5, 50, 500))

        def work(channel: Channel) -> None:
            machine: Any = _Machine(channel, power)
            mark_stages(model.shared)
            config.UNFLUSHED_ENTRIES_MAX = entries_max
            files.os = _SlowWrites(seed)  # type: ignore[assignment]
            try:
                store = Store.open(self._directory, options)
                machine.send("open")
                machine.send(report_of(store, model))
                Writers(store, machine, model, seed).start(model.next)
                channel.wait()
                store.close()
            except (StigmerError, OSError) as error:
                machine.broken(error)

        return Child(work)

    def _sync_another(self) -> None:
        """Have the journal written, with what the store has done up to now."""
        fd = os.open(self._disk.path / "another", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, self._turn.random.randbytes(100), 0)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _write_some_pages(self) -> None:
        """Have some of LMDB's pages written, as the kernel does with any of them at any time, and not others."""
        for path in self._directory.glob("views/*/data.mdb"):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                pages = os.fstat(fd).st_size // mmap.PAGESIZE
                for page in {
                    0,
                    1,
                    *self._turn.random.sample(range(pages), int(pages * self._turn.random.choice((0, 0.2, 0.5)))),
                }:
                    mounts.write_out(fd, page * mmap.PAGESIZE, mmap.PAGESIZE)
            finally:
                os.close(fd)

    def _mount_again(self) -> None:
        before = _names_below(self._directory)
        self._disk.unmount()
        if not self._disk.mend():
            # Nothing can be said of what was on it.
            self._turn.count("file systems that did not survive")
            self._disk.format()
            self.is_over = True
        is_new_boot = not self._are_mounts_told_apart or self._turn.random.random() < 0.5
        self._disk.mount(self._turn.random.choice(_MOUNT_OPTIONS), machine_has_begun_anew=is_new_boot)
        if self.is_over:
            return
        self._turn.count("cuts of the disk alone", not is_new_boot)
        lost = before - _names_below(self._directory)
        self._turn.count("lost directory entries", len(lost))
        self._turn.count("lost segments", sum(name.endswith(".log") for name in lost))

    def finish(self) -> None:
        """Open it a last time, look at all of it, close it, and see that it is clean after the last cut, too."""
        self._killed.finish()
        self._disk.cut()
        self._mount_again()
        if not self.is_over:
            self._killed.look()
            shutil.rmtree(self._directory)


def _wait_for(child: Child, number: int, is_one: Callable[[Any], bool]) -> list[Any]:
    """Wait until so many messages of a kind have come, or the child has ended; give all that came."""
    messages: list[Any] = []
    while sum(map(is_one, messages)) < number and not child.is_at_end:
        messages += child.receive()
    return messages


def _names_below(directory: Path) -> set[str]:
    return {str(Path(folder, name)) for folder, _, names in os.walk(directory) for name in names}


def power_cuts(turn: Turn) -> None:
    """Cut the power of stores, one after the other, each many times."""
    # What a cut takes is what the file system has not written to its device, whatever that is made of.
    with quick_folder(turn.directory) as folder:
        disk = Disk(folder)
        try:
            disk.mount()
            done = 0
            while done < turn.amount:
                cut = _Cut(turn, disk, done)
                for _ in range(min(_CUTS_PER_STORE, turn.amount - done)):
                    if not cut.is_over:
                        cut.cycle()
                        done += 1
                if not cut.is_over:
                    cut.finish()
        finally:
            disk.close()


POWER_CUTS = Scenario(
    "power-cuts",
    ("A3",),
    "the power of a real ext4 cut at random times under concurrent writers: open, commit, roll, flush, close",
    unit="cuts",
    gate=200,
    chunk=100,
    soak=10_000,
    must=(
        "cuts inside a commit",
        "cuts while opening",
        "cuts while rolling",
        "cuts while syncing",
        "lost directory entries",
        "torn tails",
        "operations",
    ),
    run=power_cuts,
    needs=(needs.loop_device,),
)


# --- bugs that it has to catch ---------------------------------------------------------------------------


@bug("ack-before-sync", "commits are answered before they are synced", scenario="power-cuts", amount=25)
def _ack_before_sync() -> None:
    real = Writer._publish

    def publish(writer: Writer, group: list[Ticket]) -> None:
        real(writer, group)
        writer._log.sync()

    Writer._sync = lambda writer: None  # type: ignore[method-assign]
    Writer._publish = publish  # type: ignore[method-assign]


@bug(
    "any-mount-of-a-boot",
    "views are believed in the same boot, whatever became of their disk",
    scenario="power-cuts",
    amount=25,
)
def _any_mount_of_a_boot() -> None:
    page_cache._mount_id = lambda directory: 1
