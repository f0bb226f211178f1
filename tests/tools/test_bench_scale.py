"""`tools/bench scale`: what it makes of results, and that it runs."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from benchmarks import scale
from click.testing import CliRunner


def test_costs_are_compared_with_those_of_the_smallest_store() -> None:
    """A save that costs twice as much with the most events is not reached; what was not measured is a dash."""
    made = scale.Results(["2 cores"], 1)
    made.figures = {
        "10000": {"save_us": [100.0], "get_us": [5.0]},
        "10000000": {"save_us": [200.0], "get_us": [6.0], "own_bytes": [90e6]},
    }
    text = scale.markdown(made)
    assert "| a save, to its cost with 10 thousand | at most 1.5 x | 2.00 x | not reached |" in text
    assert "| a get, to its cost with 10 thousand | at most 1.5 x | 1.20 x | reached |" in text
    assert "| resident memory, its own | under 200 MB | 90 MB | reached |" in text
    assert "| open after kill -9 | under 0.5 s | - | not measured |" in text
    words = [element.text for element in ElementTree.fromstring(scale.chart(made)).iter() if element.text]
    assert "10 million" in words


def test_a_small_run_measures_everything(tmp_path: Path) -> None:
    """With ten thousand events every row has a figure, and a run of some sizes writes no page."""
    arguments = ["--events-max", "10000", "--rounds", "1", "--json", str(tmp_path / "scale.json")]
    done = CliRunner().invoke(scale.scale, [*arguments, "--docs", str(tmp_path), "--directory", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "| - |" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["scale.json"]
