"""The list of scenarios, in the order of the matrix."""

from __future__ import annotations

from faults import damage, torn
from faults.scenario import Scenario

ALL: tuple[Scenario, ...] = (
    torn.UNSYNCED,
    damage.FLIPS,
    damage.REGIONS,
)

BY_NAME = {scenario.name: scenario for scenario in ALL}
