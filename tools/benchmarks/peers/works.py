"""What is measured: sizes, loops, timing, and the check afterwards that nothing was dropped.

A work is done on a fresh store by one client process: it makes ready, warms up in the same way as it then measures,
times the work alone, and compares what the store has with what was put in.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers.peer import KEYS, Pair, Peer, PeerFailed, ReadLog, expect, number_of, pairs_of

Figures = dict[str, float]
"""What was measured: `rate`, or `p50_ms` and `p99_ms`; beside them `log_bytes` and `final_bytes` of a recording."""

VALUE_BYTES = 300
LARGE_BYTES = 100_000
_ARRIVAL_SECONDS_MAX = 60.0
_WARMING_SAVES_MIN, _WARMING_SAVES_MAX = 20, 60


class Context(NamedTuple):
    """What a work is told beside its peer."""

    size: int
    """How many saves, gets, events or updates."""
    traffic: Path
    """The folder of the recordings."""


class Work(NamedTuple):
    """Something that is measured."""

    name: str
    title: str
    unit: str
    method: str
    """What a peer must have to do it."""
    run: Callable[[Any, Context], Awaitable[Figures]]
    size: int
    size_quick: int
    is_concurrent: bool = False
    only: tuple[str, ...] = ()
    """Where only some peers are asked, which."""
    without: tuple[str, ...] = ()
    """Peers that could, and are not asked: it would say nothing new, or take too long."""
    is_for_recordings: bool = False

    def is_for(self, name: str, peer: type[Peer]) -> bool:
        """Say whether a peer does this work."""
        if name in self.without or (self.only and name not in self.only):
            return False
        if self.is_concurrent and not peer.is_concurrent:
            return False
        loops_itself = getattr(peer, "loops", ())
        return hasattr(peer, self.method) or self.method in loops_itself


# --- saves ---------------------------------------------------------------------------------------------------


async def _saves(peer: Any, context: Context, in_flight: int, value_bytes: int = VALUE_BYTES) -> Figures:
    warming = max(in_flight, min(200, context.size // 10))
    if hasattr(peer, "timed_saves"):
        return {"rate": context.size / peer.timed_saves(warming, context.size, in_flight, value_bytes)}
    pairs = pairs_of(warming + context.size, value_bytes)
    await _calls(peer, peer.save, pairs[:warming], in_flight)
    seconds = await _calls(peer, peer.save, pairs[warming:], in_flight)
    await _check(peer, pairs)
    return {"rate": context.size / seconds}


async def _bulk(peer: Any, context: Context) -> Figures:
    warming = min(10_000, context.size // 10)
    if hasattr(peer, "timed_bulk"):
        return {"rate": context.size / peer.timed_bulk(warming, context.size, VALUE_BYTES)}
    pairs = pairs_of(warming + context.size, VALUE_BYTES)
    await _done(peer.save_bulk(pairs[:warming]))
    started = _now_it_counts()
    await _done(peer.save_bulk(pairs[warming:]))
    seconds = time.perf_counter() - started
    await _check(peer, pairs)
    return {"rate": context.size / seconds}


async def _check(peer: Peer, pairs: Sequence[Pair]) -> None:
    await peer.check(len(pairs), min(len(pairs), KEYS), pairs[-1])


# --- reads ---------------------------------------------------------------------------------------------------


async def _gets(peer: Any, context: Context, in_flight: int) -> Figures:
    if hasattr(peer, "timed_gets"):
        return {"rate": context.size / peer.timed_gets(KEYS, context.size, in_flight, VALUE_BYTES)}
    pairs = await _filled(peer, KEYS)
    read: list[bytes] = []

    if peer.is_blocking:

        def keep(key: str, value: bytes) -> None:
            read.append(peer.get(key))
    else:

        async def keep(key: str, value: bytes) -> None:  # type: ignore[misc]
            read.append(await peer.get(key))

    # Spread over the keys: neighbours in flight are not neighbours on disk.
    wanted = [pairs[number * 7919 % len(pairs)] for number in range(context.size)]
    await _calls(peer, keep, wanted[: min(500, context.size)], in_flight)
    read.clear()
    seconds = await _calls(peer, keep, wanted, in_flight if peer.is_concurrent else 1)
    expect("values read", sorted(map(number_of, read)), sorted(number_of(value) for _, value in wanted))
    return {"rate": context.size / seconds}


async def _list(peer: Any, context: Context) -> Figures:
    if hasattr(peer, "timed_list"):
        return {"rate": KEYS * context.size / peer.timed_list(KEYS, context.size, VALUE_BYTES)}
    await _filled(peer, KEYS)
    expect("rows listed", await _done(peer.list_all()), KEYS)
    seconds = 0.0
    for _ in range(context.size):
        started = _now_it_counts()
        rows = await _done(peer.list_all())
        seconds += time.perf_counter() - started
        expect("rows listed", rows, KEYS)
    return {"rate": KEYS * context.size / seconds}


async def _catch_up(peer: Any, context: Context) -> Figures:
    await _filled(peer, context.size)
    everything = ReadLog(context.size, context.size * VALUE_BYTES)
    expect("what was read", await _done(peer.read_log()), everything)
    started = _now_it_counts()
    found = await _done(peer.read_log())
    seconds = time.perf_counter() - started
    expect("what was read", found, everything)
    return {"rate": context.size / seconds}


async def _filled(peer: Any, count: int) -> list[Pair]:
    pairs = pairs_of(count, VALUE_BYTES)
    await _done(peer.save_bulk(pairs))
    await _check(peer, pairs)
    return pairs


# --- a call each ---------------------------------------------------------------------------------------------


async def _unary(peer: Any, context: Context, call: str, in_flight: int) -> Figures:
    warming = max(in_flight, min(200, context.size // 10))
    pairs = pairs_of(warming + context.size, VALUE_BYTES)
    await peer.unary_requests(pairs, VALUE_BYTES)
    if call == "save":
        await _calls(peer, peer.unary_save, pairs[:warming], in_flight)
        seconds = await _calls(peer, peer.unary_save, pairs[warming:], in_flight)
        await _check(peer, pairs)
        return {"rate": context.size / seconds}
    if hasattr(peer, "save_bulk"):
        await peer.save_bulk(pairs)
    answers: list[bytes] = []

    async def keep(key: str, value: bytes) -> None:
        answers.append(await peer.unary_get(key))

    await _calls(peer, keep, pairs[:warming], in_flight)
    answers.clear()
    seconds = await _calls(peer, keep, pairs[warming:], in_flight)
    expect("answers", len([answer for answer in answers if len(answer) > VALUE_BYTES]), context.size)
    return {"rate": context.size / seconds}


# --- followers -----------------------------------------------------------------------------------------------


async def _fan_out(peer: Any, context: Context, tails: int, pause_seconds: float) -> Figures:
    """Save one after another with a pause between, so that nothing queues; time each until each follower has it."""
    sent: dict[int, float] = {}
    delays: list[float] = []
    last = [-1] * tails
    lock = threading.Lock()

    def arrived(tail: int, value: bytes) -> None:
        now = time.perf_counter()
        number = number_of(value)
        with lock:  # followers may be threads
            last[tail] = number
            if number in sent:
                delays.append(now - sent[number])

    async def has_come(number: int, seconds: float) -> bool:
        deadline = time.perf_counter() + seconds
        while min(last) < number and time.perf_counter() < deadline:
            await asyncio.sleep(0.01)
        return min(last) >= number

    await peer.tails(tails, arrived)
    pairs = pairs_of(_WARMING_SAVES_MAX + context.size, VALUE_BYTES)
    # Some followers may begin a little later: saved until one save has come to all of them, and a few times more.
    came = number = 0
    while came < _WARMING_SAVES_MIN:
        if number == _WARMING_SAVES_MAX:
            raise PeerFailed(f"{tails} tails: of {number} saves {came} came to all of them")
        await _done(peer.save(*pairs[number]))
        came += await has_come(number, 2.0)
        number += 1
    for key, value in pairs[number : number + context.size]:
        await asyncio.sleep(pause_seconds)
        number = number_of(value)
        sent[number] = time.perf_counter()
        await _done(peer.save(key, value))
    await has_come(number, _ARRIVAL_SECONDS_MAX)
    expect("events that arrived", len(delays), tails * context.size)
    delays.sort()
    return {"p50_ms": _percentile(delays, 50) * 1e3, "p99_ms": _percentile(delays, 99) * 1e3}


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Give the smallest value that is not exceeded by this much of all."""
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


# --- recordings ----------------------------------------------------------------------------------------------


async def replay(peer: Any, context: Context, recording: str, executions: int) -> Figures:
    """Save every update of a recording, for one execution, or the same for several at once."""
    from stigmer.cli.recordings import frames

    path = context.traffic / f"agent-run-{recording}.binpb.zst"
    messages = list(itertools.islice(frames(str(path)), context.size or None))
    ids = [f"aex-{number:02d}" for number in range(executions)]
    prepared = [peer.prepare(message) for message in messages]
    peer.begin(["aex-warm", *ids])
    for update in prepared[:20]:
        peer.update("aex-warm", update)
    log_bytes = peer.log_bytes() if hasattr(peer, "log_bytes") else 0

    def play(id: str) -> None:
        for update in prepared:
            peer.update(id, update)

    if executions > 1 and peer.replays_in_threads:
        seconds = _in_threads([partial(play, id) for id in ids])
    else:
        started = _now_it_counts()
        for update in prepared:
            for id in ids:
                peer.update(id, update)
        seconds = time.perf_counter() - started
    for id in ids:
        peer.check_execution(id, messages[-1])
    figures = {"rate": executions * len(messages) / seconds}
    if hasattr(peer, "log_bytes"):
        figures["log_bytes"] = peer.log_bytes() - log_bytes
        figures["final_bytes"] = executions * len(messages[-1])
    return figures


# --- loops ---------------------------------------------------------------------------------------------------


async def _calls(peer: Peer, call: Callable[..., Any], pairs: Sequence[Pair], in_flight: int) -> float:
    """Make a call for each pair, so many at a time; gives the seconds it took."""
    shares = [pairs[first::in_flight] for first in range(min(in_flight, len(pairs)))]
    if peer.is_blocking:

        def share_of_thread(share: Sequence[Pair]) -> None:
            for key, value in share:
                call(key, value)

        if in_flight > 1:
            return _in_threads([partial(share_of_thread, share) for share in shares])
        started = _now_it_counts()
        share_of_thread(pairs)
        return time.perf_counter() - started

    async def share_of_task(share: Sequence[Pair]) -> None:
        for key, value in share:
            await call(key, value)

    started = _now_it_counts()
    if in_flight > 1:
        await asyncio.gather(*map(share_of_task, shares))
    else:
        await share_of_task(pairs)
    return time.perf_counter() - started


def _in_threads(works: Sequence[Callable[[], None]]) -> float:
    """Run each in a thread of its own, all from the same moment; gives the seconds until the last one is through."""
    failures: list[BaseException] = []
    ready = threading.Barrier(len(works) + 1)

    def run(work: Callable[[], None]) -> None:
        ready.wait()
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    started = _now_it_counts()
    ready.wait()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if failures:
        raise failures[0]
    return seconds


def _now_it_counts() -> float:
    """Give the time from which is measured; what was made ready until now is kept out of the collector's way.

    A client that has hundreds of thousands of values lying about to save is the benchmark's doing, not the work's.
    """
    gc.collect()
    gc.freeze()
    return time.perf_counter()


async def _done(answer: Any) -> Any:
    """Wait for what a method gave, where it is a coroutine."""
    return await answer if asyncio.iscoroutine(answer) else answer


# --- all of them ---------------------------------------------------------------------------------------------

_DAEMON = ("stigmer-daemon",)
_UNTAGGED = "umadb-untagged"
_JSON = ("sqlite-json-full", "sqlite-json-normal")


def _recording(recording: str, executions: int, count: int) -> Work:
    many = "one execution" if executions == 1 else f"{executions} at once"
    name = f"replay-{recording}" if executions == 1 else f"replay-{recording}-{executions}"
    run = partial(replay, recording=recording, executions=executions)
    return Work(name, f"`{recording}`, {many}", "updates/s", "prepare", run, 0, count, is_for_recordings=True)


WORKS: tuple[Work, ...] = (
    Work("one", "one save after another", "/s", "save", partial(_saves, in_flight=1), 2_000, 60, without=_JSON),
    Work(
        *("flight-64", "64 in flight", "/s", "save", partial(_saves, in_flight=64), 19_200, 256),
        is_concurrent=True,
    ),
    Work(
        *("flight-1000", "1,000 in flight", "/s", "save", partial(_saves, in_flight=1_000), 40_000, 2_000),
        is_concurrent=True,
        only=_DAEMON,
    ),
    Work("bulk", "bulk of 300-byte events", "events/s", "save_bulk", _bulk, 60_000, 2_000, without=_JSON),
    Work(
        *("large", "100 kB, one after another", "/s", "save"),
        *(partial(_saves, in_flight=1, value_bytes=LARGE_BYTES), 400, 10),
        without=(*_JSON, _UNTAGGED),
    ),
    Work("gets", "gets, 32 in flight", "/s", "get", partial(_gets, in_flight=32), 16_000, 320, without=_JSON),
    Work("list", "list of 10,000", "rows/s", "list_all", _list, 5, 1, without=_JSON),
    Work(
        *("catch-up", "catch-up read of the log", "events/s", "read_log", _catch_up, 200_000, 2_000),
        without=("jetstream-always",),
    ),
    *(
        Work(
            *(f"fan-out-{tails}", f"{tails} tail{'s' if tails > 1 else ''}", "ms", "tails"),
            *(partial(_fan_out, tails=tails, pause_seconds=pause), count, 5),
            without=(_UNTAGGED,),
        )
        for tails, pause, count in ((1, 0.02, 300), (10, 0.02, 300), (100, 0.1, 50))
    ),
    *(
        Work(
            *(f"unary-{call}s", f"unary {call}s, 32 in flight", "/s", f"unary_{call}"),
            *(partial(_unary, call=call, in_flight=32), 9_600, 320),
            is_concurrent=True,
        )
        for call in ("save", "get")
    ),
    Work(
        "unary-one",
        "unary gets, one after another",
        "/s",
        "unary_get",
        partial(_unary, call="get", in_flight=1),
        2_000,
        60,
    ),
    *(_recording(recording, executions, 12) for executions in (1, 10) for recording in ("chat", "tools", "long")),
)

BY_NAME = {work.name: work for work in WORKS}
