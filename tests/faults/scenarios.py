"""The list of scenarios, in the order of the matrix."""

from __future__ import annotations

from faults import damage, lost_writes, torn
from faults.scenario import Scenario

ALL: tuple[Scenario, ...] = (
    torn.UNSYNCED,
    lost_writes.LOST_WRITES,
    damage.FLIPS,
    damage.REGIONS,
from faults import kills, out_of_memory, recoveries, stops, system_calls
from faults.scenario import Scenario

ALL: tuple[Scenario, ...] = (
    kills.KILLS,
    system_calls.SWEEPS,
    recoveries.RECOVERIES,
    out_of_memory.OUT_OF_MEMORY,
    stops.STOPS,
    stops.PAUSES,
from faults import linearizable, tails
from faults.scenario import Scenario

ALL: tuple[Scenario, ...] = (
    linearizable.EMBEDDED,
    tails.TAILS,
)
from faults import clocks, departures, owners
from faults.scenario import Scenario

ALL: tuple[Scenario, ...] = (owners.SCENARIO, departures.SCENARIO, clocks.SCENARIO)

BY_NAME = {scenario.name: scenario for scenario in ALL}
