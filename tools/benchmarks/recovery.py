"""`tools/bench recovery`: how soon a daemon answers after the power was cut.

A store is filled on a disk of its own, an ext4 in a file. While a process commits events of random keys as fast as it
can, the disk is shut down as a power cut would, and mounted again with nothing in the page cache. A daemon is started
that sees the id of another boot; the time runs from its start to its first answers. At the end, the same without views.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click

import stigmer
from benchmarks import disk
from benchmarks.machine import Row, describe, print_table
from benchmarks.scale import run_child, start_child
from stigmer.errors import Unavailable

_EVENT_BYTES = 2_500
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
# The power is cut when so many events were committed since the start, and then some: behind a checkpoint, in the
# middle of the next.
_EVENTS_BEFORE_CUT = 300_000
_EVENTS_MORE_MAX = 300_000
_SECONDS_MAX = 5.0
_POLL_SECONDS = 0.005


class Start(NamedTuple):
    """What one start of the daemon took, and found."""

    get_seconds: float
    save_seconds: float
    folded: int
    notes: list[str]


@click.command()
@click.option("--events", default=10_000_000, show_default=True, type=click.IntRange(10_000), help="Size of the store.")
@click.option("--cuts", default=5, show_default=True, type=click.IntRange(1), help="Power cuts; the median counts.")
@click.option("--directory", type=click.Path(file_okay=False, exists=True), help="Where to put the disk (15 GiB).")
def recovery(events: int, cuts: int, directory: str | None) -> None:
    """The start of a daemon after power cuts under load, and a fold of everything beside it."""
    reason = disk.why_not()
    if reason is not None:
        raise click.ClickException(f"the power cannot be cut here: {reason}")
    for line in describe():
        print(line)
    print()
    with (
        tempfile.TemporaryDirectory(prefix="stigmer-recovery-", dir=directory) as scratch,
        disk.Disk(Path(scratch), events * _EVENT_BYTES + (4 << 30)) as mounted,
    ):
        print_table(_measure(mounted, events, cuts))


def _measure(mounted: disk.Disk, events: int, cuts: int) -> list[Row]:
    store = mounted.path / "store"
    run_child("fill", store, events)
    _say(f"filled with {events:,} events")
    clean = _start(mounted, store)
    _say(f"after a clean end: {clean}")
    starts = []
    for _ in range(cuts):
        _cut_under_load(mounted, store, events)
        starts.append(_start(mounted, store))
        _say(f"after a cut: {starts[-1]}")
    sizes = f"{_mib(store / 'log'):,.0f} MiB, {_mib(store / 'views'):,.0f} MiB"
    shutil.rmtree(store / "views")
    whole = _start(mounted, store)
    _say(f"without views: {whole.get_seconds:.1f} s")
    gets = sorted(start.get_seconds for start in starts)
    return [
        Row("events at the beginning", f"{events:,}"),
        Row("log, views at the end", sizes),
        Row("start after a clean end, cold: first get, first save", _shown(clean)),
        Row(
            f"start after a power cut: first get (median of {cuts}; least, most)",
            f"{median(gets):.2f} s ({gets[0]:.2f}, {gets[-1]:.2f})",
            f"{_SECONDS_MAX:.0f} s",
        ),
        Row(
            "start after a power cut: first save (median)",
            f"{median(start.save_seconds for start in starts):.2f} s",
            f"{_SECONDS_MAX:.0f} s",
        ),
        Row(
            "  revisions folded (median; most)",
            f"{median(start.folded for start in starts):,.0f} ({max(start.folded for start in starts):,})",
        ),
        Row("start without views, cold: all folded; first get, first save", _shown(whole)),
    ]


def _shown(start: Start) -> str:
    return f"{start.get_seconds:.2f} s, {start.save_seconds:.2f} s"


def _cut_under_load(mounted: disk.Disk, store: Path, events: int) -> None:
    wanted = _EVENTS_BEFORE_CUT + random.randrange(_EVENTS_MORE_MAX)
    child = start_child("commit", store, events)
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= wanted:
                break
        mounted.cut()
    finally:
        child.kill()
        child.communicate()
    mounted.lift()
    mounted.mount()


def _start(mounted: disk.Disk, store: Path) -> Start:
    """Start a daemon with a cold cache and in another boot; stop it again."""
    mounted.lift()
    mounted.mount()
    socket = Path(tempfile.mkdtemp()) / "socket"
    try:
        started = time.perf_counter()
        with _daemon(store, socket) as client:
            client.get("note", "n00000000")
            get_seconds = time.perf_counter() - started
            client.save("note", "n00000000", b"")
            save_seconds = time.perf_counter() - started
            notes = client.status().recovery
    finally:
        shutil.rmtree(socket.parent)
    folded = 0
    for note in notes:
        found = re.match(r"folded revisions (\d+) to (\d+)", note)
        if found is not None:
            folded = int(found[2]) - int(found[1]) + 1
    return Start(get_seconds, save_seconds, folded, notes)


@contextmanager
def _daemon(store: Path, socket: Path) -> Iterator[stigmer.Client]:
    boot = socket.with_name("boot")
    boot.write_text(f"{uuid.uuid4()}\n")
    daemon = [sys.executable, "-m", "stigmer", "-q", "--data-dir", str(store), "daemon", "--listen", f"unix:{socket}"]
    script = f'mount --bind "$0" {_BOOT_ID} && exec "$@"'
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, str(boot), *daemon], stdout=subprocess.DEVNULL
    )
    try:
        with _client(process, socket) as client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _client(process: subprocess.Popen[bytes], socket: Path) -> stigmer.Client:
    while True:
        if process.poll() is not None:
            raise click.ClickException(f"the daemon ended with code {process.returncode}; see above")
        if socket.exists():
            try:
                return stigmer.connect(f"unix:{socket}", timeout=60.0)
            except Unavailable:
                pass
        time.sleep(_POLL_SECONDS)


def _mib(directory: Path) -> float:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file()) / 2**20


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
