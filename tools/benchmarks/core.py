"""`tools/bench core`: the embedded store, and its commands as whole processes.

Each figure is the median of five runs in one process, durability fsync, values of random bytes. A store of many
events is filled by commits of 1,000.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click

import stigmer
from benchmarks.machine import Row, describe, median_seconds, print_table, rate, resident_mib
from benchmarks.processes import Commands
from stigmer.model import Save
from stigmer.store import Store

_KEYS = 10_000
_PER_COMMIT = 1_000


@click.command()
@click.option(
    "--events", "sizes", type=int, multiple=True, help="Sizes of store to open and replay (1 and 10 million)."
)
@click.option("--rounds", default=5, show_default=True, help="Runs of each work; the median counts.")
@click.option("--directory", type=click.Path(file_okay=False, exists=True), help="Where to put the stores.")
def core(sizes: tuple[int, ...], rounds: int, directory: str | None) -> None:
    """Saves, commits, gets, lists, tails, replay, open, memory, and the commands' own time."""
    for line in describe():
        print(line)
    print()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        for measured in _all(Path(scratch), sizes or (1_000_000, 10_000_000), rounds):
            rows.append(measured)
            print(f"  {measured.work}: {measured.figure}", file=sys.stderr, flush=True)
    print_table(rows)


def _all(scratch: Path, sizes: tuple[int, ...], rounds: int) -> Iterator[Row]:
    with stigmer.open(scratch / "small") as store:
        yield from _writes(store, rounds)
        yield from _reads(store, rounds)
    for size in sizes:
        yield from _size(scratch / f"size-{size}", size, rounds)
    yield from _processes(scratch, rounds)


# --- one process -------------------------------------------------------------------------------------------


def _writes(store: Store, rounds: int) -> Iterator[Row]:
    value = os.urandom(300)
    ids = [f"n{number:08d}" for number in range(_KEYS)]

    def one_caller() -> None:
        for number in range(2_000):
            store.save("note", ids[number], value)

    seconds_one = median_seconds(one_caller, rounds) / 2_000
    yield Row("saves of 300 bytes, one caller", rate(1, seconds_one))

    def caller(first: int) -> None:
        for number in range(first, first + 250):
            store.save("note", ids[number % _KEYS], value)

    def callers() -> None:
        threads = [threading.Thread(target=caller, args=(first * 151,)) for first in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    seconds_many = median_seconds(callers, rounds) / (64 * 250)
    yield Row("saves of 300 bytes, 64 callers", rate(1, seconds_many), "8 x one caller")
    yield Row("  times one caller", f"{seconds_one / seconds_many:.1f}", "8")

    random.seed(1)
    commits = [[Save("note", random.choice(ids), value) for _ in range(_PER_COMMIT)] for _ in range(100)]

    def bulk(part: list[list[Save]]) -> None:
        for commit in part:
            store.commit(commit)

    seconds = median_seconds(lambda: bulk(commits), rounds) / 100_000
    yield Row("commits of 1,000 events of 300 bytes, one caller", rate(1, seconds, " events/s"), "150,000 events/s")

    def bulk_by_four() -> None:
        threads = [threading.Thread(target=bulk, args=(commits[first::4],)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    seconds = median_seconds(bulk_by_four, rounds) / 100_000
    yield Row("commits of 1,000 events of 300 bytes, 4 callers", rate(1, seconds, " events/s"), "150,000 events/s")

    large = os.urandom(100_000)

    def large_values() -> None:
        for number in range(200):
            store.save("blob", ids[number % 20], large)

    seconds = median_seconds(large_values, rounds) / 200
    yield Row("saves of 100 kB, one caller", f"{rate(1, seconds)} ({0.1 / seconds:,.0f} MB/s)")


def _reads(store: Store, rounds: int) -> Iterator[Row]:
    ids = [resource.id for resource in store.list("note")]

    def gets() -> None:
        for id in ids:
            store.get("note", id)

    yield Row("gets", rate(len(ids), median_seconds(gets, rounds)), "200,000/s")
    seconds = median_seconds(lambda: store.list("note"), rounds)
    yield Row(f"list of {len(ids):,}", rate(len(ids), seconds, " rows/s"), "500,000 rows/s")


def _size(directory: Path, size: int, rounds: int) -> Iterator[Row]:
    value = os.urandom(300)
    name = f"{size // 1_000_000} million events" if size >= 1_000_000 else f"{size:,} events"
    with stigmer.open(directory) as store:
        started = time.perf_counter()
        for first in range(0, size, _PER_COMMIT):
            store.commit([Save("note", f"n{number % 1_000_000:08d}", value) for number in range(first, first + 1000)])
        seconds = time.perf_counter() - started
        yield Row(f"{name}: fill", rate(size, seconds, " events/s"))
        status = store.status()
        yield Row(f"{name}: log, views", f"{status.log_bytes / 2**20:,.0f} MiB, {status.views_bytes / 2**20:,.0f} MiB")
        started = time.perf_counter()
        events = sum(1 for _ in store.tail(follow=False))
        seconds = time.perf_counter() - started
        assert events == size
        yield Row(f"{name}: tail catch-up", rate(size, seconds, " events/s"), "500,000 events/s")
        started = time.perf_counter()
        report = store.replay()
        seconds = time.perf_counter() - started
        assert report.differences == 0
        yield Row(f"{name}: replay, with comparison", rate(size, seconds, " events/s"), "250,000 events/s")
        total, own = resident_mib(os.getpid())
        yield Row(f"{name}: resident memory of this process", f"{total:,.0f} MiB, {own:,.0f} MiB its own")

    def open_and_close() -> None:
        stigmer.open(directory).close()

    yield Row(f"{name}: open after a clean end, and close", f"{median_seconds(open_and_close, rounds):.3f} s", "0.5 s")
    yield Row(f"{name}: open after kill -9", f"{_open_after_kill(directory, rounds):.3f} s", "0.5 s")


_KILLED = """
import os, signal, sys, stigmer
store = stigmer.open(sys.argv[1])
for number in range(20_000):
    store.save("note", f"n{number:08d}", b"x" * 300) if number % 10 == 0 else None
os.kill(os.getpid(), signal.SIGKILL)
"""


def _open_after_kill(directory: Path, rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        subprocess.run([sys.executable, "-c", _KILLED, str(directory)], check=False)
        started = time.perf_counter()
        store = stigmer.open(directory)
        taken.append(time.perf_counter() - started)
        store.close()
    return sorted(taken)[len(taken) // 2]


# --- whole processes ---------------------------------------------------------------------------------------


def _processes(scratch: Path, rounds: int) -> Iterator[Row]:
    commands = Commands(scratch)
    seconds = median_seconds(lambda: commands.run("--help"), rounds)
    yield Row("stigmer --help, as a process", f"{seconds:.3f} s", "0.15 s")
    with commands.daemon():
        with stigmer.connect(commands.address) as client:
            client.save("note", "n1", b"hello")
            pid = client.status().pid
        seconds = median_seconds(lambda: commands.run("get", "note", "n1"), rounds)
        yield Row("stigmer get, as a process", f"{seconds:.3f} s", "0.4 s")
        total, own = resident_mib(pid)
        yield Row("daemon, idle: resident memory", f"{total:,.0f} MiB, {own:,.0f} MiB its own", "100 MiB")
