"""A turn's faults shared out to processes, so that a scenario that only computes has every core."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack

from faults.children import Channel, Child
from faults.scenario import Turn

_PROCESSES = 2


def split(turn: Turn, run: Callable[[Turn, int], None], parts: int = _PROCESSES) -> None:
    """Run a part of a turn in each of some processes, with its number; count what they counted.

    Each part has a seed of its own that follows from the turn's, and its share of the amount. Raises `Failed` where
    one of them does not end well.
    """
    with ExitStack() as stack:
        children = []
        for number in range(parts):
            directory = turn.directory / f"part-{number}"
            directory.mkdir()
            seed = random.Random(f"{turn.seed} {number}").getrandbits(32)
            share = turn.amount * (number + 1) // parts - turn.amount * number // parts
            children.append(stack.enter_context(Child(_work(run, Turn(seed, share, directory), number))))
        for child in children:
            for tally in child.rest():
                turn.tally.update(tally)
            turn.require(child.wait() == 0, "a part of the turn ended early", status=child.wait())


def _work(run: Callable[[Turn, int], None], part: Turn, number: int) -> Callable[[Channel], None]:
    def work(channel: Channel) -> None:
        try:
            run(part, number)
        finally:
            channel.send(dict(part.tally))

    return work
