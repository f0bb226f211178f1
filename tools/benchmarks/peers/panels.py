"""Which works the chart of the peers shows, and in which words."""

from __future__ import annotations

from benchmarks.chart import Bar, Panel, svg
from benchmarks.peers import targets
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.run import Results
from benchmarks.peers.works import BY_NAME

_SHOWN = (
    ("one", "One save after another"),
    ("flight-64", "64 saves in flight"),
    ("bulk", "Bulk of 300-byte events"),
    ("large", "Values of 100 kB, one after another"),
    ("gets", "Gets, 32 in flight"),
    ("list", "List of 10,000"),
    ("catch-up", "Catch-up read of the log"),
    ("fan-out-10", "From save to arrival, 10 tails, p99"),
    ("replay-long", "Recording `long`, one execution"),
    ("replay-long-10", "Recording `long`, 10 at once"),
    ("unary-gets", "Unary gets, 32 in flight"),
    ("unary-saves", "Unary saves, 32 in flight"),
)
_IN_PROCESS = {"stigmer-embedded", "badger", "sqlite-blob-full", "sqlite-blob-normal"}
# Where other peers answer over a connection, what runs inside the client's own process is another matter.
_OVER_A_CONNECTION = {"gets", "list"}


def chart(results: Results) -> str:
    """Draw the chart of a run."""
    panels = []
    for name, title in _SHOWN:
        work = BY_NAME[name]
        figure = "p99_ms" if work.unit == "ms" else "rate"
        bars = []
        for entry in PEERS:
            value = targets.median(results, name, entry.name, figure)
            if value is not None and not (name in _OVER_A_CONNECTION and entry.name in _IN_PROCESS):
                is_durable = entry.is_durable or name in ("gets", "list", "catch-up", "unary-gets")
                bars.append(Bar(entry.title, value, entry.name.startswith("stigmer"), is_durable))
        bars.sort(key=lambda bar: bar.value, reverse=work.unit != "ms")
        unit = "ms, less is better" if work.unit == "ms" else work.unit.replace("/s", " a second").strip()
        if bars:
            panels.append(Panel(title.replace("`", ""), unit, bars, 1 if work.unit == "ms" else 0))
    rounds = f"medians of {results.rounds} round{'s' if results.rounds > 1 else ''}"
    subtitle = f"One Python client process on one machine: {results.machine[0]}; {rounds}"
    return svg("Stigmer and other stores at the same work", subtitle, panels)
