"""The list of scenarios, in the order of the matrix."""

from __future__ import annotations

from faults import (
    clocks,
    connections,
    damage,
    departures,
    kills,
    linearizable,
    lost_writes,
    out_of_memory,
    owners,
    power,
    places,
    recoveries,
    stops,
    system_calls,
    tails,
    torn,
)
from faults.scenario import Scenario

ALL: tuple[Scenario, ...] = (
    kills.KILLS,
    system_calls.SWEEPS,
    recoveries.RECOVERIES,
    out_of_memory.OUT_OF_MEMORY,
    stops.STOPS,
    stops.PAUSES,
    power.POWER_CUTS,
    torn.UNSYNCED,
    lost_writes.LOST_WRITES,
    damage.FLIPS,
    damage.REGIONS,
    linearizable.EMBEDDED,
    tails.TAILS,
    connections.DEADLINES,
    connections.CUTS,
    connections.LOSSES,
    owners.SCENARIO,
    departures.SCENARIO,
    clocks.SCENARIO,
    places.SCENARIO,
)

BY_NAME = {scenario.name: scenario for scenario in ALL}
