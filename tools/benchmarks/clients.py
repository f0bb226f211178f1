"""`tools/bench clients`: the asyncio client against a daemon on a Unix socket.

One client process; values of 300 random bytes, durability fsync; each figure is the median of the rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

import stigmer.aio
from benchmarks.machine import Row, describe, print_table, rate
from benchmarks.processes import Commands
from stigmer.client.aio import Client

_KEYS = 10_000


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Runs of each work; the median counts.")
def clients(rounds: int) -> None:
    """Saves and gets of the asyncio client: one after another, and many in flight."""
    for line in describe():
        print(line)
    print()
    with tempfile.TemporaryDirectory() as scratch:
        commands = Commands(Path(scratch))
        with commands.daemon():
            print_table(asyncio.run(_measure(commands.address, rounds)))


async def _measure(address: str, rounds: int) -> list[Row]:
    value = os.urandom(300)
    rows = []
    async with stigmer.aio.connect(address) as client:

        async def save(number: int) -> None:
            await client.save("note", f"n{number % _KEYS:08d}", value)

        async def get(number: int) -> None:
            await client.get("note", f"n{number % 500:08d}")

        for callers, each in ((1, 500), (64, 200), (1_000, 20)):
            seconds = await _median_seconds(save, callers, each, rounds)
            rows.append(Row(_named("saves", callers), rate(callers * each, seconds)))
        for callers, each in ((1, 500), (32, 300)):
            seconds = await _median_seconds(get, callers, each, rounds)
            rows.append(Row(_named("gets", callers), rate(callers * each, seconds)))
        rows.append(Row("save_many of 20,000", rate(20_000, await _save_many(client, value, rounds))))
    return rows


def _named(work: str, callers: int) -> str:
    return f"{work}, one after another" if callers == 1 else f"{work}, {callers:,} in flight"


async def _median_seconds(call: Callable[[int], Awaitable[None]], callers: int, each: int, rounds: int) -> float:
    async def caller(first: int) -> None:
        for number in range(each):
            await call(first + number * callers)

    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        await asyncio.gather(*map(caller, range(callers)))
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


async def _save_many(client: Client, value: bytes, rounds: int) -> float:
    changes = [stigmer.Save("note", f"n{number % _KEYS:08d}", value) for number in range(20_000)]
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        await client.save_many(changes)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
