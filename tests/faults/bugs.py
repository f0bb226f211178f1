"""Bugs, planted on purpose: the harness has to catch each, or it proves nothing.

A bug is a change to the product made while it runs, in the process of a turn and in every daemon that it starts, and
nowhere else: the product itself has no switch. `faults.scenarios` says which scenario catches which.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

VARIABLE = "STIGMER_FAULTS_BUG"
"""The environment variable that carries the name to processes that a turn starts."""


@dataclass(frozen=True)
class Bug:
    """A bug, and who has to catch it."""

    name: str
    what: str
    """What is wrong with a store that has it."""
    scenario: str
    """The name of the scenario that has to catch it."""
    amount: int
    """How many faults a turn puts in; turns go on until it is caught."""
    plant: Callable[[], None]


BUGS: dict[str, Bug] = {}


def bug(name: str, what: str, *, scenario: str, amount: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a function that plants a bug into the product, in this process."""

    def register(plant: Callable[[], None]) -> Callable[[], None]:
        assert name not in BUGS, name
        BUGS[name] = Bug(name, what, scenario, amount, plant)
        return plant

    return register


def plant_from_environment() -> None:
    """Plant the bug that the environment names, if it names one."""
    if name := os.environ.get(VARIABLE):
        from faults import scenarios  # noqa: F401 - importing the scenarios registers their bugs

        BUGS[name].plant()
