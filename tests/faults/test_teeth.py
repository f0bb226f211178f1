"""Teeth: every bug planted on purpose is caught, in less than a minute, by the scenario that is there for it.

The minute is one of computing: what a busy machine gives to others does not count.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from faults import bugs, turns
from faults.bugs import Bug
from faults.scenarios import BY_NAME

SECONDS = 60.0
TURN_SECONDS_MAX = 600.0
"""By the clock; a turn that takes longer hangs."""
FEWEST = 8


def seconds_computed() -> float:
    """Give the time of a processor that processes which have ended and were started here took, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.timeout(2 * TURN_SECONDS_MAX)
@pytest.mark.parametrize("bug", bugs.BUGS.values(), ids=lambda bug: bug.name)
def test_caught(bug: Bug, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    if reason := BY_NAME[bug.scenario].lacks():
        pytest.skip(reason)
    before = seconds_computed()
    seed = 0
    while (computed := seconds_computed() - before) < SECONDS:
        seed += 1
        outcome = turns.run(bug.scenario, seed, bug.amount, tmp_path, bug=bug.name, timeout=TURN_SECONDS_MAX)
        if outcome.caught:
            record_property("tally", {"turns until it was caught": seed})
            return
        assert not outcome.failure, f"it was not caught, but the harness failed\n{outcome.failure}"
    pytest.fail(f"not caught in {computed:.0f} s of computing, in {seed} turns")


def test_there_are_enough() -> None:
    assert len(bugs.BUGS) >= FEWEST
