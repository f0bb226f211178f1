"""The results of a run as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.markdown import table, verdict
from benchmarks.peers import targets
from benchmarks.peers.catalogue import FLOOR, PEERS, Entry
from benchmarks.peers.run import Results
from benchmarks.peers.works import BY_NAME, Work

_TABLES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Saves, values of 300 bytes, a second", ("one", "flight-64", "flight-1000", "bulk", "large")),
    ("Reads, a second", ("gets", "list", "catch-up")),
    (
        "From save to arrival, p50 and p99 in ms, of saves one after another with a pause",
        ("fan-out-1", "fan-out-10", "fan-out-100"),
    ),
    ("Unary calls of a plain gRPC client, a second", ("unary-saves", "unary-gets", "unary-one")),
    ("Recordings, one execution, updates a second", ("replay-chat", "replay-tools", "replay-long")),
    ("Recordings, 10 executions at once, updates a second", ("replay-chat-10", "replay-tools-10", "replay-long-10")),
)


def markdown(results: Results, chart: str) -> str:
    """Write the results of a run; `chart` is the name of the picture beside the page."""
    parts = [
        _facts(results),
        f"![Stigmer and other stores at the same work]({chart})",
        _targets(results),
        *(_table(results, title, works) for title, works in _TABLES),
        _log_sizes(results),
        _peers(results),
    ]
    return "\n\n".join(part for part in parts if part)


def _facts(results: Results) -> str:
    lines = [
        *results.machine,
        f"measured {results.started_at}; medians of {results.rounds} round{'s' if results.rounds > 1 else ''}"
        + (", sizes of a smoke run" if results.is_quick else ""),
    ]
    if results.sync_us:
        lines.append(
            f"before each round: write and fdatasync of 1 KiB {_span(results.sync_us)} us; "
            f"a loop of a million additions {_span(results.loop_ms)} ms"
        )
    return "\n".join("    " + line for line in lines)


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def _targets(results: Results) -> str:
    lines = targets.lines(results)
    rows = [
        (
            line.text,
            line.target,
            line.measured or "-",
            verdict(line.reached),
        )
        for line in lines
    ]
    return f"Targets reached: {targets.reached_of(lines)} of those measured.\n\n" + table(
        ["stigmer's figure", "target", "measured", ""], rows
    )


def _table(results: Results, title: str, names: Sequence[str]) -> str:
    works = [BY_NAME[name] for name in names if results.figures.get(name)]
    rows = [
        [entry.title, _acknowledged(entry), *(cell(results, work, entry) for work in works)]
        for entry in PEERS
        if any(entry.name in results.figures[work.name] for work in works)
    ]
    if not rows:
        return ""
    return f"**{title}**\n\n" + table(["", "a save is acknowledged", *(work.title for work in works)], rows)


def _acknowledged(entry: Entry) -> str:
    if entry.name == FLOOR:
        return "-"
    return "on disk" if entry.is_durable else "before it is on disk"


def cell(results: Results, work: Work, entry: Entry) -> str:
    """Write what a peer did at a work."""
    if work.unit == "ms":
        p50 = targets.median(results, work.name, entry.name, "p50_ms")
        p99 = targets.median(results, work.name, entry.name, "p99_ms")
        return "-" if p50 is None or p99 is None else f"{p50:.2f}, {p99:.2f}"
    rate = targets.median(results, work.name, entry.name)
    return "-" if rate is None else f"{rate:,.0f}"


def _log_sizes(results: Results) -> str:
    rows = []
    for name in ("replay-chat", "replay-tools", "replay-long"):
        sizes = {
            figure: targets.median(results, name, "stigmer-embedded", figure) for figure in ("log_bytes", "final_bytes")
        }
        if sizes["log_bytes"] is not None and sizes["final_bytes"]:
            ratio = sizes["log_bytes"] / sizes["final_bytes"]
            kilobytes = [f"{size / 1e3:,.0f} kB" for size in sizes.values() if size is not None]
            rows.append([f"`{name.removeprefix('replay-')}`", *kilobytes, f"{ratio:.2f} x"])
    if not rows:
        return ""
    return "**Stigmer's log after a recording**\n\n" + table(
        ["", "log on disk", "final value", "log to final value"], rows
    )


def _peers(results: Results) -> str:
    rows = [
        [entry.title, results.versions[entry.name], results.durability[entry.name], results.bulk_how[entry.name] or "-"]
        for entry in PEERS
        if entry.name in results.versions
    ]
    text = "**What was measured**\n\n" + table(["", "version", "durability", "bulk"], rows)
    for name, how in results.missing.items():
        title = next(entry.title for entry in PEERS if entry.name == name)
        text += f"\n\n{title}: not found on this machine. {how}"
    return text
