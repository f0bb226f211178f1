"""Shows, at the end of a run, what the faults met."""

from __future__ import annotations

import pytest

from faults.scenario import Tally, lines

_tallies: dict[str, tuple[Tally, float]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take what a test counted, wherever it ran."""
    if report.when == "call":
        for name, value in report.user_properties:
            if name == "tally" and isinstance(value, dict):
                _tallies[report.nodeid.rpartition("::")[2]] = Tally(value), report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print it."""
    if not _tallies:
        return
    terminalreporter.section("faults")
    for name, (tally, seconds) in sorted(_tallies.items()):
        terminalreporter.write_line(f"{name}: {seconds:.1f} s")
        for line in lines(tally, seconds):
            terminalreporter.write_line(line)
