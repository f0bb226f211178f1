"""What a scenario is: some faults put in from a seed, what happened counted, what must hold checked.

A scenario is a function that takes a `Turn`: it puts in `turn.amount` faults, each chosen by `turn.random`, checks
after each what must hold, and counts in `turn.tally` what the faults met. The gate runs each once at its gate figure
with a fixed seed, a soak runs turns with new seeds until its time is over, and a seeded bug has to be caught by one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


class Failed(Exception):
    """A promise was broken. Says which, and what was seen."""


class Tally(Counter[str]):
    """What was counted, by what it is: `kills`, `torn tails`, `operations`. Names are plural and in plain words."""

    def missing(self, names: tuple[str, ...]) -> list[str]:
        """Give those of the names that were never counted: the faults missed, and the run says nothing."""
        return [name for name in names if not self[name]]


@dataclass
class Turn:
    """One run of a scenario: everything that it depends on."""

    seed: int
    amount: int
    """How many faults to put in, in the scenario's unit."""
    directory: Path
    """An empty folder on a real disk, of this turn alone; removed after it, unless it failed."""
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def count(self, name: str, number: int = 1) -> None:
        """Count something that happened."""
        self.tally[name] += number

    def require(self, condition: object, what: str, **seen: object) -> None:
        """Raise `Failed` unless a promise holds; `seen` goes into the message."""
        if not condition:
            details = ", ".join(f"{name} {value!r}" for name, value in seen.items())
            raise Failed(f"{what}: {details}" if details else what)


@dataclass(frozen=True)
class Scenario:
    """A kind of fault."""

    name: str
    rows: tuple[str, ...]
    """Those of the matrix in docs/FAULTS.md that it holds."""
    what: str
    """One sentence for who reads the list."""
    unit: str
    """What an amount counts, as it is counted in the tally."""
    gate: int
    """How many in the gate."""
    chunk: int
    """How many in one turn of a soak: some seconds' worth."""
    soak: int
    """How many in a full soak. The scenario that is furthest from its own number gets the next turn."""
    must: tuple[str, ...]
    """What must have been counted at the end, or the faults did not hit and the run does not count."""
    run: Callable[[Turn], None]
    needs: tuple[Callable[[], str], ...] = ()
    """Each gives why this machine cannot run it, or ""."""

    def lacks(self) -> str:
        """Say why this machine cannot run it; "" if it can."""
        return "; ".join(reason for need in self.needs if (reason := need()))


def lines(tally: Mapping[str, int], seconds: float) -> list[str]:
    """Show counts, one on a line; operations also as a rate."""
    shown = [f"  {number:>12,}  {name}" for name, number in sorted(tally.items())]
    if operations := tally.get("operations"):
        shown.append(f"  {operations / max(seconds, 0.001):>12,.0f}  operations per second")
    return shown
