"""Row A14: the kernel kills a store for want of memory."""

from __future__ import annotations

import random
import shutil
from typing import Any

from faults import cgroups
from faults.cgroups import MemoryGroup
from faults.children import Channel
from faults.kills import KILLS_PER_STORE, Killed
from faults.scenario import Scenario, Turn
from faults.traffic import Ack

_MIB = 1 << 20


class _Greedy(Channel):
    """A channel of a process that takes more memory with every answer."""

    def __init__(self, channel: Channel, seed: int) -> None:
        super().__init__(channel._out, channel._control)
        self._random = random.Random(seed)
        self._taken: list[bytes] = []

    def send(self, message: object) -> None:
        super().send(message)
        if isinstance(message, Ack):
            self._taken.append(b"x" * self._random.randint(_MIB, 4 * _MIB))


def run_out_of_memory(turn: Turn) -> None:
    """Have stores run in groups with little memory, in processes that take ever more of it."""
    while (left := turn.amount - turn.tally["OOM kills"]) > 0:
        killed = Killed(turn, str(turn.directory / "data"))
        for _ in range(min(left, KILLS_PER_STORE)):
            _run_out(turn, killed)
        killed.finish()
        shutil.rmtree(killed.directory)


def _run_out(turn: Turn, killed: Killed) -> None:
    seed = turn.random.getrandbits(32)
    with MemoryGroup(turn.random.randint(64, 128) * _MIB) as group:

        def enter(channel: Channel) -> Channel:
            group.enter()
            return _Greedy(channel, seed)

        with killed.child(enter=enter) as child:
            messages: list[Any] = child.rest()
            status = child.wait()
        killed.take(messages)
        turn.require(status == -9, "the store ended by itself", status=status)
        turn.require(group.kills() == 1, "it was not killed for want of memory", kills=group.kills())
        turn.count("OOM kills")
        killed.note_end()


OUT_OF_MEMORY = Scenario(
    name="out-of-memory",
    rows=("A14",),
    what="the kernel kills the store for want of memory, in a cgroup of 64 to 128 MiB",
    unit="OOM kills",
    gate=10,
    chunk=20,
    soak=200,
    must=("kills inside a commit", "operations"),
    run=run_out_of_memory,
    needs=(cgroups.needed,),
)
