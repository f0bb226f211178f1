"""Teeth: every bug planted on purpose is caught, in less than a minute, by the scenario that is there for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faults import bugs, turns
from faults.bugs import Bug
from faults.scenarios import BY_NAME

SECONDS = 60.0
FEWEST = 8


@pytest.mark.parametrize("bug", bugs.BUGS.values(), ids=lambda bug: bug.name)
def test_caught(bug: Bug, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    if reason := BY_NAME[bug.scenario].lacks():
        pytest.skip(reason)
    started = time.monotonic()
    seed = 0
    while (left := SECONDS - (time.monotonic() - started)) > 0:
        seed += 1
        outcome = turns.run(bug.scenario, seed, bug.amount, tmp_path, bug=bug.name, timeout=left)
        if outcome.caught:
            record_property("tally", {"turns until it was caught": seed})
            return
        assert not outcome.failure, f"it was not caught, but the harness failed\n{outcome.failure}"
    pytest.fail(f"not caught within {SECONDS:.0f} s, in {seed} turns")


def test_there_are_enough() -> None:
    assert len(bugs.BUGS) >= FEWEST
