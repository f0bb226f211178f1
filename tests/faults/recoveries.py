"""Row A7: kill -9 in the middle of a recovery, and of the recovery from that, and so on, five deep."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from log.support import torn_files

from faults import tracing
from faults.children import Channel
from faults.kills import KILLS_PER_STORE, Killed
from faults.scenario import Scenario, Turn
from faults.tracing import Begin
from stigmer.config import StoreOptions
from stigmer.store import Store
from stigmer.views import page_cache

DEPTH = 5
_CALLS_AT_FIRST = 30
"""How many system calls a start is taken to make, until one of its kind has come to its end."""


def run_recoveries(turn: Turn) -> None:
    """Leave stores in a mess, kill the starts that clear it up, and look what is there at the end."""
    while turn.tally["kills in a recovery"] < turn.amount:
        killed = Killed(turn, str(turn.directory / "data"))
        calls: Counter[str] = Counter()
        for _ in range(KILLS_PER_STORE):
            killed.cycle("writing")
            _recover(turn, killed.directory, calls)
            if turn.tally["kills in a recovery"] >= turn.amount:
                break
        killed.cycle("answers")
        killed.finish()
        turn.count("torn tails", len(torn_files(Path(killed.directory, "log"))))
        shutil.rmtree(killed.directory)


def _recover(turn: Turn, directory: str, calls: Counter[str]) -> None:
    """Begin to open a store again and again, killed at a system call each time."""
    for depth in range(DEPTH):
        mess = turn.random.choices(("as it is", "in another boot", "without views"), (5, 3, 2))[0]
        boot = f"boot {turn.random.getrandbits(32)}"

        def work(channel: Channel, begin: Begin, mess: str = mess, boot: str = boot) -> None:
            if mess == "in another boot":
                page_cache.boot_id = lambda: boot
            begin()
            Store.open(directory, StoreOptions(map_bytes=256 * 1024))

        if mess == "without views":
            shutil.rmtree(f"{directory}/views", ignore_errors=True)
        end = tracing.run(work, turn.random.randint(1, calls[mess] or _CALLS_AT_FIRST))
        if not end.killed_at:
            turn.require(end.status == 0, "a start ended by itself", status=end.status, messages=end.messages)
            calls[mess] = end.calls
            return
        turn.count("kills in a recovery")
        turn.count(f"starts {mess}")
        turn.count("recoveries killed five times", depth == DEPTH - 1)


RECOVERIES = Scenario(
    name="recoveries",
    rows=("A7",),
    what="kill -9 at any system call of a recovery, five deep: torn tails, views of another boot, no views",
    unit="kills in a recovery",
    gate=1_000,
    chunk=150,
    soak=3_000,
    must=("torn tails", "recoveries killed five times", "starts in another boot", "starts without views"),
    run=run_recoveries,
    needs=(tracing.needed,),
)
