"""The gate: every scenario, with a fixed seed, at its gate figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from faults import turns
from faults.scenario import Scenario, Tally
from faults.scenarios import ALL

SEED = 20_260_101
SECONDS_MAX = 1_200.0
"""A turn that takes longer hangs: on two cores that have nothing else to do none needs a minute."""


@pytest.mark.timeout(SECONDS_MAX + 100)
@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_gate(scenario: Scenario, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    if reason := scenario.lacks():
        pytest.skip(reason)
    outcome = turns.run(scenario.name, SEED, scenario.gate, tmp_path, timeout=SECONDS_MAX)
    record_property("tally", outcome.tally)
    assert not outcome.failure, f"{outcome.again}\n{outcome.failure}"
    assert not Tally(outcome.tally).missing(scenario.must), "the faults did not hit"
    assert outcome.tally.get(scenario.unit, 0) >= scenario.gate
