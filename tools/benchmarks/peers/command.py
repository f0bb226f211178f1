"""The command line of `tools/bench peers`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

import click
import msgspec

from benchmarks.markdown import NoMarkers, put_between_markers
from benchmarks.peers import catalogue, environment, panels, report, targets, works
from benchmarks.peers.run import Results, Run

_ROOT = Path(__file__).parents[3]
_RESULTS = _ROOT / "build" / "bench" / "peers.json"
_MARKERS = "peers"
_CHART = "benchmarks.svg"


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Runs of each; medians count.")
@click.option("--only", help="Only these peers, by name or first word, as stigmer,umadb; the help lists them.")
@click.option("--work", "work_names", help="Only these works, as one,bulk.")
@click.option("--quick", is_flag=True, help="Small sizes: does everything run? The figures say nothing.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=_RESULTS,
    help="Where the raw results are kept; build/bench/peers.json.",
)
@click.option("--report", "only_report", is_flag=True, help="Measure nothing: write page and chart from the results.")
@click.option(
    "--docs",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=_ROOT / "docs",
    help="Where BENCHMARKS.md is, and the chart is put; docs.",
)
@click.option(
    "--venv",
    type=click.Path(file_okay=False, path_type=Path),
    help="The environment of the peers' packages; in the user's cache.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, exists=True),
    help="Where to put the stores; where temporary files go.",
)
@click.option(
    "--traffic",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=_ROOT / "tests" / "data" / "traffic",
    help="The folder of the recordings.",
)
def peers(
    rounds: int,
    only: str | None,
    work_names: str | None,
    quick: bool,
    json_path: Path,
    only_report: bool,
    docs: Path,
    venv: Path | None,
    directory: str | None,
    traffic: Path,
) -> None:
    """The same work through stigmer and other stores.

    A whole run (no --only, --work or --quick) also writes docs/BENCHMARKS.md and its chart.
    """
    if only_report:
        _write_page(_load(json_path), docs)
        return
    entries = _entries(only)
    chosen = _works(work_names)
    directory_of_peers = venv or environment.default_directory()
    python = badger_program = None
    try:
        if any(entry.is_packaged for entry in entries):
            python = environment.prepare(directory_of_peers, _say)
    except environment.CannotInstall as error:
        raise click.ClickException(str(error)) from error
    if any(entry.module == "badger" for entry in entries):
        badger_program = environment.build_badger(directory_of_peers, _say)
    missing = {entry.name: how for entry in entries if (how := environment.missing(entry, badger_program)) is not None}
    for name, how in missing.items():
        _say(f"{name}: not found on this machine. {how}")
    present = [entry for entry in entries if entry.name not in missing]

    def keep(results: Results) -> None:
        results.missing = missing
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")

    run = Run(present, chosen, rounds, quick, directory, traffic, python, badger_program, _say, keep)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        results = run.run()
    except KeyboardInterrupt:
        _say("stopped; the results of whole rounds are kept")
        sys.exit(130)
    _say(f"results: {json_path}")
    print(report.markdown(results, _CHART))
    if results.failures:
        raise click.ClickException("these failed, so no page was written:\n  " + "\n  ".join(results.failures))
    if only is None and work_names is None and not quick:
        _write_page(results, docs)


def _write_page(results: Results, docs: Path) -> None:
    page = docs / "BENCHMARKS.md"
    try:
        put_between_markers(page, _MARKERS, report.markdown(results, _CHART))
    except (OSError, NoMarkers) as error:
        raise click.ClickException(str(error)) from error
    (docs / _CHART).write_text(panels.chart(results), encoding="utf-8")
    _say(f"written: {page}, {docs / _CHART}; targets reached: {targets.reached_of(targets.lines(results))}")


def _load(path: Path) -> Results:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}; measure first: tools/bench peers") from error
    except msgspec.DecodeError as error:
        raise click.ClickException(f"{path} has no results in it: {error}") from error


def _entries(names: str | None) -> list[catalogue.Entry]:
    if names is None:
        return list(catalogue.PEERS)
    try:
        return catalogue.select(names.split(","))
    except LookupError as error:
        known = ", ".join(entry.name for entry in catalogue.PEERS)
        raise click.BadParameter(
            f"there is no peer {error.args[0]!r}; there are {known}", param_hint="--only"
        ) from None


def _works(names: str | None) -> list[works.Work]:
    if names is None:
        return list(works.WORKS)
    for name in names.split(","):
        if name not in works.BY_NAME:
            known = ", ".join(works.BY_NAME)
            raise click.BadParameter(f"there is no work {name!r}; there are {known}", param_hint="--work")
    return [work for work in works.WORKS if work.name in names.split(",")]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
