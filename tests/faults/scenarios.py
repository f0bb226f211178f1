"""The list of scenarios, in the order of the matrix."""

from __future__ import annotations

from faults import linearizable, tails
from faults.scenario import Scenario

ALL: tuple[Scenario, ...] = (
    linearizable.EMBEDDED,
    tails.TAILS,
)

BY_NAME = {scenario.name: scenario for scenario in ALL}
