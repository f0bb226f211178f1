"""docs/FAULTS.md has every row of the matrix, every scenario and every planted bug; what the docs name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from faults import bugs
from faults.scenario import Scenario
from faults.scenarios import ALL

ROOT = Path(__file__).parents[2]
FAULTS = (ROOT / "docs" / "FAULTS.md").read_text()
GUARANTEES = (ROOT / "docs" / "GUARANTEES.md").read_text()

SECTIONS = {"A": 16, "B": 13, "C": 7, "D": 18}
ROWS = [f"{section}{number}" for section, last in SECTIONS.items() for number in range(1, last + 1)] + ["E"]

TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("row", ROWS)
def test_every_row_names_what_holds_it(row: str) -> None:
    """A line of the table begins with the row, and ends with a scenario's name or a test."""
    lines = [line for line in FAULTS.splitlines() if line.startswith(f"| {row} |")]
    assert len(lines) == 1
    held_by = lines[0].rstrip(" |").rpartition("|")[2]
    names = set(re.findall(r"`([\w/.:-]+)`", held_by))
    assert names
    assert all(TEST.fullmatch(f"`{name}`") or name in {scenario.name for scenario in ALL} for name in names), names


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_every_scenario_stands_at_its_rows(scenario: Scenario) -> None:
    assert scenario.rows
    for row in scenario.rows:
        line = next(line for line in FAULTS.splitlines() if line.startswith(f"| {row} |"))
        assert f"`{scenario.name}`" in line


@pytest.mark.parametrize("name", bugs.BUGS)
def test_every_bug_is_told_of(name: str) -> None:
    assert f"| `{name}` |" in FAULTS


@pytest.mark.parametrize("document", [FAULTS, GUARANTEES], ids=["FAULTS", "GUARANTEES"])
def test_every_test_that_is_named_is_there(document: str) -> None:
    named = TEST.findall(document)
    assert named
    for path, test in named:
        text = (ROOT / path).read_text()
        assert not test or re.search(rf"^\s*(?:async )?def {test}\(", text, re.MULTILINE), f"{path}::{test}"


def test_every_promise_names_its_tests() -> None:
    promises = re.split(r"^### ", GUARANTEES.partition("## What is not promised")[0], flags=re.MULTILINE)[1:]
    assert len(promises) == 10
    names = {f"`{scenario.name}`" for scenario in ALL}
    for promise in promises:
        held_by = promise.rpartition("Held by ")[2]
        assert TEST.search(held_by) or any(name in held_by for name in names), promise.splitlines()[0]
