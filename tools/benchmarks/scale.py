"""`tools/bench scale`: what the embedded store costs with 10 thousand events in it, and with 10 million.

One store for each size, values of 300 random bytes, ten events a key. The sizes take turns, round after round, each
measured in a process of its own (`scale_child`); a replay of each happens once. Medians count.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import click
import msgspec

from benchmarks import machine
from benchmarks.chart import Bar, Panel, svg
from benchmarks.markdown import NoMarkers, put_between_markers, table, verdict

_SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
_ROOT = Path(__file__).parents[2]
_CHART = "scale.svg"
_MIB = 2**20
_SAVE_RATIO_MAX = 1.5
_OPEN_SECONDS_MAX = 0.5
_OWN_BYTES_MAX = 200_000_000


class Results(msgspec.Struct):
    """What one run measured; kept as JSON."""

    machine: list[str]
    rounds: int
    figures: dict[str, dict[str, list[float]]] = {}
    """By size and figure, one for each time it was measured."""


class _Figure(NamedTuple):
    """A row of the table and a panel of the chart."""

    name: str
    title: str
    unit: str
    scale: float
    digits: int


_FIGURES = (
    _Figure("save_us", "save, one after another (median)", "us", 1, 0),
    _Figure("get_us", "get (median)", "us", 1, 1),
    _Figure("list_ms", "list, a page of 1,000", "ms", 1, 2),
    _Figure("open_s", "open after a clean end", "s", 1, 3),
    _Figure("open_killed_s", "open after kill -9", "s", 1, 3),
    _Figure("fill_rate", "fill, commits of 1,000", "events/s", 1, 0),
    _Figure("replay_rate", "replay, with comparison", "events/s", 1, 0),
    _Figure("log_bytes", "log on disk", "MiB", 1 / _MIB, 1),
    _Figure("views_bytes", "views on disk", "MiB", 1 / _MIB, 1),
    _Figure("own_bytes", "resident memory, its own", "MiB", 1 / _MIB, 0),
    _Figure("file_bytes", "resident memory, pages of LMDB's file", "MiB", 1 / _MIB, 0),
)


@click.command()
@click.option("--events-max", type=click.IntRange(10_000), default=_SIZES[-1], show_default=True, help="Largest size.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Runs of each; medians count.")
@click.option("--directory", type=click.Path(file_okay=False, exists=True), help="Where to put the stores (6 GiB).")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=_ROOT / "build" / "bench" / "scale.json",
    help="Where the raw results are kept; build/bench/scale.json.",
)
@click.option("--report", "only_report", is_flag=True, help="Measure nothing: write page and chart from the results.")
@click.option(
    "--docs",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=_ROOT / "docs",
    help="Where BENCHMARKS.md is, and the chart is put; docs.",
)
def scale(events_max: int, rounds: int, directory: str | None, json_path: Path, only_report: bool, docs: Path) -> None:
    """What a store costs as it grows: 10 thousand to 10 million events.

    A run with all sizes also writes docs/BENCHMARKS.md and its chart.
    """
    if only_report:
        try:
            results = msgspec.json.decode(json_path.read_bytes(), type=Results)
        except (OSError, msgspec.DecodeError) as error:
            raise click.ClickException(f"{json_path}: {error}; measure first: tools/bench scale") from error
        _write_page(results, docs)
        return
    sizes = [size for size in _SIZES if size <= events_max]
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="stigmer-scale-", dir=directory) as scratch:
            results = _measure(Path(scratch), sizes, rounds)
    except KeyboardInterrupt:
        _say("stopped; nothing is kept")
        sys.exit(130)
    json_path.parent.mkdir(parents=True, exist_ok=True)
    json_path.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
    _say(f"results: {json_path}")
    print(markdown(results))
    if len(sizes) == len(_SIZES):
        _write_page(results, docs)


def _measure(scratch: Path, sizes: Sequence[int], rounds: int) -> Results:
    results = Results(machine.describe(), rounds)
    started = time.monotonic()

    def do(size: int, work: str) -> None:
        answer = run_child(work, scratch / f"{size}", size)
        for name, value in answer.items():
            results.figures.setdefault(str(size), {}).setdefault(name, []).append(value)
        shown = ", ".join(f"{name} {value:,.4g}" for name, value in answer.items())
        _say(f"[{time.monotonic() - started:,.0f} s] {size:,} events: {work}: {shown or 'done'}")

    for size in sizes:
        do(size, "fill")
    for round_number in range(rounds):
        for place in range(len(sizes)):
            size = sizes[(place + round_number) % len(sizes)]
            do(size, "use")
            do(size, "die")
            do(size, "open-killed")
    for size in sizes:
        do(size, "replay")
    return results


def start_child(work: str, store: Path, size: int) -> subprocess.Popen[str]:
    """Have one thing done with a store in a process of its own, whose answers come on its stdout."""
    environ = {**os.environ, "PYTHONPATH": str(_ROOT / "tools")}
    command = [sys.executable, "-m", "benchmarks.scale_child", work, str(store), str(size)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)


def run_child(work: str, store: Path, size: int) -> dict[str, Any]:
    """Have one thing done with a store in a process of its own, to its end; give what it measured."""
    child = start_child(work, store, size)
    try:
        out, _ = child.communicate()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if work == "die" and child.returncode == -signal.SIGKILL:
        return {}
    if child.returncode != 0:
        raise click.ClickException(f"{work} with {size:,} events ended with code {child.returncode}; see above")
    return json.loads(out)  # type: ignore[no-any-return]


# --- what came of it -----------------------------------------------------------------------------------------


def markdown(results: Results) -> str:
    """Write the results."""
    sizes = _sizes(results)
    rows = [
        [f"{figure.title}, {figure.unit}", *(_shown(results, size, figure) for size in sizes)] for figure in _FIGURES
    ]
    facts = [
        *results.machine,
        f"medians of {results.rounds} round{'s' if results.rounds > 1 else ''}; fill and replay once",
    ]
    parts = [
        "\n".join("    " + line for line in facts),
        f"![What a store costs as it grows]({_CHART})",
        table(["", *(_named(size) for size in sizes)], rows),
        _targets(results),
    ]
    return "\n\n".join(parts)


def _targets(results: Results) -> str:
    first, last = _sizes(results)[0], _sizes(results)[-1]
    rows: list[list[str]] = []

    def line(text: str, target: str, value: float | None, most: float, shown: str) -> None:
        rows.append([text, target, shown, verdict(None if value is None else value <= most)])

    for name, text in (("save_us", "a save"), ("get_us", "a get")):
        small, large = _median(results, first, name), _median(results, last, name)
        ratio = None if small is None or large is None else large / small
        shown = "-" if ratio is None else f"{ratio:.2f} x"
        line(f"{text}, to its cost with {_named(first)}", f"at most {_SAVE_RATIO_MAX} x", ratio, _SAVE_RATIO_MAX, shown)
    for name, text in (("open_s", "open after a clean end"), ("open_killed_s", "open after kill -9")):
        seconds = _median(results, last, name)
        shown = "-" if seconds is None else f"{seconds:.3f} s"
        line(text, f"under {_OPEN_SECONDS_MAX} s", seconds, _OPEN_SECONDS_MAX, shown)
    own = _median(results, last, "own_bytes")
    shown = "-" if own is None else f"{own / 1e6:,.0f} MB"
    line("resident memory, its own", f"under {_OWN_BYTES_MAX / 1e6:.0f} MB", own, _OWN_BYTES_MAX, shown)
    return table([f"with {_named(last)}", "target", "measured", ""], rows)


def chart(results: Results) -> str:
    """Draw a panel for each figure, a bar for each size."""
    panels = []
    for figure in _FIGURES:
        values = {size: _median(results, size, figure.name) for size in _sizes(results)}
        bars = [
            Bar(_named(size), value * figure.scale, True, True) for size, value in values.items() if value is not None
        ]
        if bars:
            title = figure.title[0].upper() + figure.title[1:]
            panels.append(Panel(title, figure.unit.replace("/s", " a second"), bars, figure.digits))
    subtitle = f"The embedded store, durable saves of 300 bytes, on {results.machine[0]}"
    return svg("What a store costs as it grows", subtitle, panels, foot="ten events a key")


def _write_page(results: Results, docs: Path) -> None:
    try:
        put_between_markers(docs / "BENCHMARKS.md", "scale", markdown(results))
    except (OSError, NoMarkers) as error:
        raise click.ClickException(str(error)) from error
    (docs / _CHART).write_text(chart(results), encoding="utf-8")
    _say(f"written: {docs / 'BENCHMARKS.md'}, {docs / _CHART}")


def _sizes(results: Results) -> list[int]:
    return sorted(map(int, results.figures))


def _median(results: Results, size: int, name: str) -> float | None:
    values = results.figures.get(str(size), {}).get(name)
    return statistics.median(values) if values else None


def _shown(results: Results, size: int, figure: _Figure) -> str:
    value = _median(results, size, figure.name)
    return "-" if value is None else f"{value * figure.scale:,.{figure.digits}f}"


def _named(size: int) -> str:
    return f"{size // 1_000_000} million" if size >= 1_000_000 else f"{size // 1_000} thousand"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
