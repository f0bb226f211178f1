"""`tools/bench peers`: what it makes of results, and that it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import pytest
from benchmarks import chart, markdown
from benchmarks.peers import catalogue, panels, report, targets, works
from benchmarks.peers.command import peers
from benchmarks.peers.run import Results
from click.testing import CliRunner

TOOLS = Path(__file__).parents[2] / "tools"
PAGE = "# Title\n\nBefore.\n\n<!-- peers:begin -->\nold\n<!-- peers:end -->\n\nAfter.\n"


def results() -> Results:
    """Make up what a run of three rounds might have measured."""
    made = Results(["2 cores", "Python"], "2026-01-01T00:00:00+00:00", 3, False)
    made.sync_us, made.loop_ms = [100.0, 200.0, 150.0], [80.0]
    made.figures = {
        "one": {
            "stigmer-daemon": [{"rate": 1_000.0}, {"rate": 900.0}, {"rate": 5_000.0}],
            "umadb": [{"rate": 1_200.0}],
            "etcd": [{"rate": 1_000.0}],
            "jetstream-default": [{"rate": 4_000.0}],
        },
        "fan-out-10": {"stigmer-daemon": [{"p50_ms": 2.0, "p99_ms": 4.5}]},
        "replay-long": {
            "stigmer-embedded": [{"rate": 900.0, "log_bytes": 300.0, "final_bytes": 1_000.0}],
            "sqlite-json-full": [{"rate": 180.0}],
        },
    }
    for rounds_of_peer in made.figures.values():
        for name in rounds_of_peer:
            made.versions[name], made.durability[name], made.bulk_how[name] = "1.2", "fsync before the answer", ""
    made.missing = {"redis": "Install it."}
    return made


def test_what_is_written_around_the_markers_stays(tmp_path: Path) -> None:
    """Only what is between the markers is replaced, and as often as one likes."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    for text in ("new", "    newer\n"):
        markdown.put_between_markers(page, "peers", text)
    assert page.read_text() == PAGE.replace("\nold\n", "\n\n    newer\n\n")


@pytest.mark.parametrize("marker", ["<!-- peers:begin -->", "<!-- peers:end -->"])
def test_a_page_without_a_marker_is_left_alone(tmp_path: Path, marker: str) -> None:
    """Without both markers nothing is written."""
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace(marker, ""))
    with pytest.raises(markdown.NoMarkers):
        markdown.put_between_markers(page, "peers", "new")
    assert page.read_text() == PAGE.replace(marker, "")


def test_tables_have_medians_and_a_dash_for_what_a_peer_cannot_do() -> None:
    """A cell is the median of the rounds; a peer without a work has a dash; each says what is durable."""
    text = report.markdown(results(), "chart.svg")
    assert "| stigmer, daemon | on disk | 1,000 |" in text
    assert "| NATS JetStream, default | before it is on disk | 4,000 |" in text
    assert "| stigmer, daemon | on disk | 2.00, 4.50 |" in text
    assert "| `long` | 0 kB | 1 kB | 0.30 x |" in text
    assert "Redis: not found on this machine. Install it." in text
    made = results()
    assert report.cell(made, works.BY_NAME["one"], catalogue.BY_NAME["redis"]) == "-"


def test_targets_say_reached_not_reached_and_not_measured() -> None:
    """A target is judged by the medians, against the best of the others."""
    by_text = {line.text: line for line in targets.lines(results())}
    to_umadb = by_text["one save after another, durable, to UmaDB"]
    assert (to_umadb.measured, to_umadb.reached) == ("0.83 x", False)
    to_etcd = by_text["one save after another, durable, to etcd"]
    assert (to_etcd.measured, to_etcd.reached) == ("1.00 x", True)
    assert by_text["`long`, embedded, one execution, to SQLite with JSON text"].reached is True
    assert by_text["bytes in the log for `long`, to the final value"].reached is True
    assert by_text["save to arrival with 10 tails, idle machine, p99"].reached is True
    assert by_text["list of 10,000, to etcd"].reached is None


def test_every_target_is_of_a_work_that_its_peers_do() -> None:
    """No target waits for a figure that no run can have."""
    for target in targets.RATIOS:
        for name in target.others:
            work = works.BY_NAME[target.other_work or target.work]
            assert work.is_for(name, catalogue.BY_NAME[name].load()), (target.text, name)
        assert works.BY_NAME[target.work].is_for(target.mine, catalogue.BY_NAME[target.mine].load())


def test_the_chart_is_well_formed_and_shows_what_was_measured() -> None:
    """The chart is XML, has a panel for each work that was measured, and hatches what is not durable."""
    drawn = panels.chart(results())
    root = ElementTree.fromstring(drawn)
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "One save after another" in words
    assert "4,000" in words
    assert "List of 10,000" not in words
    assert "In process: recording long" in words
    hatched = [element for element in root.iter() if element.get("fill") == "url(#other)"]
    assert len(hatched) == 1


def test_titles_in_a_chart_are_escaped() -> None:
    """A title with a bracket in it breaks nothing."""
    drawn = chart.svg("a < b", "c & d", [chart.Panel("e < f", "g", [chart.Bar("h & i", 0.0, True, True)])])
    ElementTree.fromstring(drawn)


def test_report_makes_page_and_chart_from_saved_results(tmp_path: Path) -> None:
    """`--report` measures nothing, and writes what the run would have written."""
    (tmp_path / "BENCHMARKS.md").write_text(PAGE)
    saved = tmp_path / "saved.json"
    saved.write_bytes(msgspec.json.encode(results()))
    done = CliRunner().invoke(peers, ["--report", "--json", str(saved), "--docs", str(tmp_path)])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "BENCHMARKS.md").read_text()
    assert page.startswith("# Title\n\nBefore.")
    assert "![Stigmer and other stores at the same work](benchmarks.svg)" in page
    ElementTree.fromstring((tmp_path / "benchmarks.svg").read_text())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "nobody"], "there is no peer 'nobody'; there are stigmer-daemon"),
        (["--work", "nothing"], "there is no work 'nothing'; there are one"),
        (["--rounds", "0"], "--rounds"),
        (["--report", "--json", "/nowhere/results.json"], "measure first: tools/bench peers"),
    ],
)
def test_bad_options_say_what_is_wrong(arguments: list[str], says: str) -> None:
    """An option that makes no sense ends the command before anything is measured."""
    done = CliRunner().invoke(peers, arguments)
    assert done.exit_code != 0
    assert says in done.output


# One work for each thing that a peer can do; the others differ in numbers alone.
SMOKE = "one,flight-64,bulk,gets,list,catch-up,fan-out-10,unary-saves,replay-tools,replay-chat-10"


def test_a_smoke_run_needs_nothing_installed(tmp_path: Path) -> None:
    """SQLite and stigmer do every work of theirs, leave nothing behind, and the run writes its results."""
    saved = tmp_path / "results.json"
    stores = tmp_path / "stores"
    stores.mkdir()
    command = [sys.executable, "-m", "benchmarks", "peers", "--quick", "--only", "sqlite,stigmer", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--work", SMOKE, "--json", str(saved), "--directory", str(stores)],
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(saved.read_text())["figures"]
    entries = catalogue.select(["sqlite", "stigmer"])
    for name in SMOKE.split(","):
        able = {entry.name for entry in entries if works.BY_NAME[name].is_for(entry.name, entry.load())}
        assert set(figures[name]) == able
    assert not list(stores.iterdir())


def test_a_failure_is_told_and_the_run_fails(tmp_path: Path) -> None:
    """A peer that cannot do its work has no figure, and the run says so and does not end well."""
    command = [sys.executable, "-m", "benchmarks", "peers", "--quick", "--only", "stigmer-embedded", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--work", "replay-chat", "--traffic", str(tmp_path), "--json", str(tmp_path / "results.json")],
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert done.returncode == 1
    assert "FAILED" in done.stderr
    assert "these failed, so no page was written" in done.stderr
