"""The list of scenarios, in the order of the matrix."""

from __future__ import annotations

from faults import clocks, departures, owners
from faults.scenario import Scenario

ALL: tuple[Scenario, ...] = (owners.SCENARIO, departures.SCENARIO, clocks.SCENARIO)

BY_NAME = {scenario.name: scenario for scenario in ALL}
