"""The list of scenarios, in the order of the matrix."""

from __future__ import annotations

from faults import (
    clocks,
    connections,
    damage,
    damaged_views,
    departures,
    disk_errors,
    full_disk,
    kills,
    linearizable,
    lost_writes,
    out_of_memory,
    owners,
    places,
    power,
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
    disk_errors.SYNC_ERRORS,
    disk_errors.WRITE_ERRORS,
    disk_errors.LIES,
    full_disk.FILLS,
    full_disk.FULL_FROM,
    damage.FLIPS,
    damage.REGIONS,
    damaged_views.LOSSES,
    damaged_views.DAMAGE,
    damaged_views.EDITS,
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
