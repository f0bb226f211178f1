"""`tools/bench flood`: what one client's calls take while another client asks for all it can get.

A daemon on a Unix socket, a blocking client that makes one call after another, and beside it a process that floods:
saves in bulk, a thousand saves in flight, large values, or lists. Gets are timed beside each; saves beside the one
that saves a huge value over and over.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import click

import stigmer
import stigmer.aio
from benchmarks.machine import Row, describe, print_table, resident_mib
from benchmarks.processes import Commands
from stigmer.client.aio import Client

_KEYS = 10_000
_LARGE_BYTES = 1 << 20
_HUGE_BYTES = 15 << 20
_HUGE = "one save of 15 MiB after another"
_SETTLE_SECONDS = 2.0


@click.command()
@click.option("--calls", default=2_000, show_default=True, help="Calls that are timed beside each flood.")
def flood(calls: int) -> None:
    """The delay of one client's calls beside another client's flood, and the daemon's memory."""
    for line in describe():
        print(line)
    print()
    with tempfile.TemporaryDirectory() as scratch:
        commands = Commands(Path(scratch))
        with commands.daemon():
            print_table(_measure(commands.address, calls))


def _measure(address: str, calls: int) -> list[Row]:
    with stigmer.connect(address) as client:
        client.save_many([stigmer.Save("note", f"n{number:05d}", os.urandom(300)) for number in range(_KEYS)])

        def get(number: int) -> None:
            client.get("note", f"n{number % 100:05d}")

        def save(number: int) -> None:
            client.save("small", f"s{number % 100:05d}", b"small")

        rows = []
        for name, call, floods in (("gets", get, FLOODS), ("saves", save, [_HUGE])):
            alone = _delays_ms(call, calls)
            rows.append(Row(f"{name} alone", _figures(alone)))
            for flood in floods:
                process = multiprocessing.get_context("spawn").Process(target=_run, args=(flood, address), daemon=True)
                process.start()
                try:
                    time.sleep(_SETTLE_SECONDS)  # until it floods
                    beside = _delays_ms(call, calls)
                    _, own_mib = resident_mib(client.status().pid)
                finally:
                    process.terminate()
                    process.join()
                figures = (
                    f"{_figures(beside)} ({_p99(beside) / _p99(alone):.1f} x); the daemon's memory {own_mib:.0f} MiB"
                )
                rows.append(Row(f"{name} beside {flood}", figures, "p99 at most 5 x" if call is get else ""))
    return rows


def _delays_ms(call: Callable[[int], None], calls: int) -> list[float]:
    delays = []
    for number in range(calls):
        started = time.perf_counter()
        call(number)
        delays.append((time.perf_counter() - started) * 1e3)
    return sorted(delays)


def _figures(delays: list[float]) -> str:
    return f"p50 {statistics.median(delays):.2f} ms, p99 {_p99(delays):.2f} ms"


def _p99(delays: list[float]) -> float:
    return delays[len(delays) * 99 // 100]


# --- what floods -----------------------------------------------------------------------------------------------


def _run(name: str, address: str) -> None:
    with suppress(KeyboardInterrupt):
        asyncio.run(_flood(name, address))


async def _flood(name: str, address: str) -> None:
    async with stigmer.aio.connect(address, timeout=None) as client:
        await FLOODS[name](client)


async def _bulk(client: Client) -> None:
    value = os.urandom(300)
    async with client.writer(max_bytes_in_flight=64 << 20) as writer:
        while True:
            await writer.commit([stigmer.Save("note", f"n{number:05d}", value) for number in range(1_000)])


async def _saves(client: Client) -> None:
    value = os.urandom(300)

    async def caller(number: int) -> None:
        while True:
            await client.save("note", f"n{number:05d}", value)

    await asyncio.gather(*map(caller, range(1_000)))


async def _large(client: Client) -> None:
    async def caller(number: int) -> None:
        while True:
            await client.save("blob", f"b{number}", os.urandom(_LARGE_BYTES))

    await asyncio.gather(*map(caller, range(50)))


async def _huge(client: Client) -> None:
    value = bytearray(os.urandom(_HUGE_BYTES))
    while True:
        value[-1] ^= 1
        await client.save("blob", "huge", bytes(value))


async def _lists(client: Client) -> None:
    async def caller(_number: int) -> None:
        while True:
            await client.list("note")

    await asyncio.gather(*map(caller, range(8)))


FLOODS: dict[str, Callable[[Client], Awaitable[None]]] = {
    "commits of 1,000 events": _bulk,
    "1,000 saves in flight": _saves,
    "50 saves of 1 MiB in flight": _large,
    _HUGE: _huge,
    "8 lists of 10,000 in flight": _lists,
}
