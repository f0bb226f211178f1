"""The list of scenarios, in the order of the matrix."""

from __future__ import annotations

from faults import damage, lost_writes, torn
from faults.scenario import Scenario

ALL: tuple[Scenario, ...] = (
    torn.UNSYNCED,
    lost_writes.LOST_WRITES,
    damage.FLIPS,
    damage.REGIONS,
)

BY_NAME = {scenario.name: scenario for scenario in ALL}
