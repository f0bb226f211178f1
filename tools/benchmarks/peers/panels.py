"""Which works the chart of the peers shows, and in which words."""

from __future__ import annotations

from benchmarks.chart import Bar, Panel, svg
from benchmarks.peers import targets
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.run import Results
from benchmarks.peers.works import BY_NAME

_IN_PROCESS = {entry.name for entry in PEERS if entry.is_in_process}
_SERVERS = {entry.name for entry in PEERS} - _IN_PROCESS

# What runs inside the client's own process has no connection in the way, so it is compared with its like.
_SHOWN = (
    ("one", "One save after another", _SERVERS),
    ("flight-64", "64 saves in flight", _SERVERS),
    ("bulk", "Bulk of 300-byte events", _SERVERS),
    ("large", "Values of 100 kB, one after another", _SERVERS),
    ("gets", "Gets, 32 in flight", _SERVERS),
    ("catch-up", "Catch-up read of the log", _SERVERS),
    ("list", "List of 10,000", _SERVERS),
    ("fan-out-10", "From save to arrival, 10 tails, p99", _SERVERS),
    ("unary-saves", "Unary saves, 32 in flight", _SERVERS),
    ("unary-gets", "Unary gets, 32 in flight", _SERVERS),
    ("one", "In process: one save after another", _IN_PROCESS),
    ("flight-64", "In process: 64 saves in flight", _IN_PROCESS),
    ("bulk", "In process: bulk of 300-byte events", _IN_PROCESS),
    ("gets", "In process: gets", _IN_PROCESS),
    ("replay-long", "In process: recording long", _IN_PROCESS),
    ("replay-long-10", "In process: recording long, 10 at once", _IN_PROCESS),
)
_OF_SAVES = {"one", "flight-64", "bulk", "large", "fan-out-10", "unary-saves", "replay-long", "replay-long-10"}


def chart(results: Results) -> str:
    """Draw the chart of a run."""
    panels = []
    for name, title, shown in _SHOWN:
        work = BY_NAME[name]
        figure = "p99_ms" if work.unit == "ms" else "rate"
        bars = []
        for entry in PEERS:
            value = targets.median(results, name, entry.name, figure)
            if value is not None and entry.name in shown:
                is_durable = entry.is_durable or name not in _OF_SAVES
                bars.append(Bar(entry.title, value, entry.name.startswith("stigmer"), is_durable))
        bars.sort(key=lambda bar: bar.value, reverse=work.unit != "ms")
        unit = "ms, less is better" if work.unit == "ms" else work.unit.replace("/s", " a second").strip()
        if bars:
            panels.append(Panel(title, unit, bars, 1 if work.unit == "ms" else 0))
    rounds = f"medians of {results.rounds} round{'s' if results.rounds > 1 else ''}"
    subtitle = f"One Python client process on one machine: {results.machine[0]}; {rounds}"
    return svg("Stigmer and other stores at the same work", subtitle, panels)
