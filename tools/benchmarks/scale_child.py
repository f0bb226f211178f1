"""One thing done with one store, in a process of its own: `python -m benchmarks.scale_child WORK STORE SIZE`.

Prints what it measured as JSON. `die` ends by kill -9 instead, in the middle of its work; `commit` goes on until it is
killed, and prints how many events it has committed, a line for each commit.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable

import stigmer
from benchmarks.machine import resident_mib

_VALUE_BYTES = 300
_PER_COMMIT = 1_000
_EVENTS_PER_KEY = 10
_KIND = "note"
_TOLD_EVERY = 1_000_000


def fill(store: str, size: int) -> dict[str, float]:
    """Put `size` events into a new store."""
    keys = size // _EVENTS_PER_KEY
    with stigmer.open(store) as opened:
        seconds = 0.0
        for first in range(0, size, _PER_COMMIT):
            noise = os.urandom(_PER_COMMIT * _VALUE_BYTES)
            changes = [
                stigmer.Save(_KIND, f"n{(first + place) % keys:08d}", noise[place * 300 : place * 300 + 300])
                for place in range(_PER_COMMIT)
            ]
            started = time.perf_counter()
            opened.commit(changes)
            seconds += time.perf_counter() - started
            if (first + _PER_COMMIT) % _TOLD_EVERY == 0:
                print(f"  {first + _PER_COMMIT:,} of {size:,} events", file=sys.stderr, flush=True)
        assert opened.status().revision == size
        assert opened.count() == {_KIND: keys}
    return {"fill_rate": size / seconds}


def use(store: str, size: int) -> dict[str, float]:
    """Open after a clean end, save, get, list; then look at memory and disk."""
    keys = size // _EVENTS_PER_KEY
    started = time.perf_counter()
    opened = stigmer.open(store)
    open_seconds = time.perf_counter() - started
    assert not opened.recovery, opened.recovery
    with opened:
        source = random.Random(size + opened.status().revision)
        values = [os.urandom(_VALUE_BYTES) for _ in range(500)]
        wanted = [f"n{source.randrange(keys):08d}" for _ in range(10_000)]
        for key, value in zip(wanted, values[:100], strict=False):
            opened.save(_KIND, key, value)
            opened.get(_KIND, key)
        save_us = _median_us(lambda pair: opened.save(_KIND, *pair), list(zip(wanted, values, strict=False)))
        get_us = _median_us(lambda key: opened.get(_KIND, key), wanted)
        list_us = _median_us(lambda key: opened.list(_KIND, limit=1_000), range(50))
        total, own = resident_mib(os.getpid())
        status = opened.status()
    return {
        "open_s": open_seconds,
        "save_us": save_us,
        "get_us": get_us,
        "list_ms": list_us / 1e3,
        "own_bytes": own * 2**20,
        "file_bytes": (total - own) * 2**20,
        "log_bytes": status.log_bytes,
        "views_bytes": status.views_bytes,
    }


def die(store: str, size: int) -> dict[str, float]:
    """Save a little and be killed."""
    opened = stigmer.open(store)
    for number in range(100):
        opened.save(_KIND, f"n{number:08d}", os.urandom(_VALUE_BYTES))
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def commit(store: str, size: int) -> dict[str, float]:
    """Save under random keys, until the end."""
    keys = size // _EVENTS_PER_KEY
    opened = stigmer.open(store)
    for done in itertools.count(_PER_COMMIT, _PER_COMMIT):
        noise = os.urandom(_PER_COMMIT * _VALUE_BYTES)
        opened.commit(
            [
                stigmer.Save(_KIND, f"n{random.randrange(keys):08d}", noise[place * 300 : place * 300 + 300])
                for place in range(_PER_COMMIT)
            ]
        )
        print(done, flush=True)
    return {}


def open_killed(store: str, size: int) -> dict[str, float]:
    """Open what a killed process left."""
    started = time.perf_counter()
    opened = stigmer.open(store)
    seconds = time.perf_counter() - started
    opened.close()
    return {"open_killed_s": seconds}


def replay(store: str, size: int) -> dict[str, float]:
    """Fold the log again and compare."""
    with stigmer.open(store) as opened:
        started = time.perf_counter()
        report = opened.replay()
        seconds = time.perf_counter() - started
        assert report.differences == 0, report.examples
        return {"replay_rate": opened.status().revision / seconds}


def _median_us(call: Callable[..., object], arguments: Iterable[object]) -> float:
    taken = []
    for argument in arguments:
        started = time.perf_counter_ns()
        call(argument)
        taken.append(time.perf_counter_ns() - started)
    return statistics.median(taken) / 1e3


# What opening imports is no part of opening.
importlib.import_module("stigmer.store")

WORKS = {"fill": fill, "use": use, "die": die, "commit": commit, "open-killed": open_killed, "replay": replay}

if __name__ == "__main__":
    work, store, size = sys.argv[1:]
    print(json.dumps(WORKS[work](store, int(size))))
