"""Durations, sizes and ages as people write and read them."""

from __future__ import annotations

import pytest

from stigmer.cli import units
from stigmer.cli.output import json_text, rfc3339, yaml_text
from stigmer.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("2m", 120), ("1.5h", 5400), (" 3 d ", 259200)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    """Spaces do not matter."""
    assert units.parse_duration(text, "--timeout") == seconds


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "0s", "1e3s", "10 parsecs", "9" * 30 + "d", "٣s\x00"])
def test_what_is_no_duration_names_the_option(text: str) -> None:
    """A number without a unit is not guessed at."""
    with pytest.raises(InvalidArgument, match=r"^--timeout: "):
        units.parse_duration(text, "--timeout")


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("4096", 4096), ("64MiB", 64 << 20), ("1g", 1 << 30), ("16 kib", 16384)]
)
def test_a_size_is_a_number_and_perhaps_a_unit(text: str, count: int) -> None:
    """Units are powers of 1024."""
    assert units.parse_size(text, "--value-max") == count


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.000000001Z", 1_000_000_001),
        ("1970-01-01 01:00:00.5+01:00", 500_000_000),
        ("2026-01-01T00:00:00Z", 1_767_225_600_000_000_000),
    ],
)
def test_a_time_is_to_the_nanosecond(text: str, time_ns: int) -> None:
    """What is printed can be typed: all nine digits count."""
    assert units.parse_time(text, "--to-time") == time_ns
    assert units.parse_time(rfc3339(time_ns), "--to-time") == time_ns


@pytest.mark.parametrize("text", ["", "yesterday", "12:00", "2026-13-01", "1767225600"])
def test_what_is_no_time_names_the_option(text: str) -> None:
    """A number is no time."""
    with pytest.raises(InvalidArgument, match=r"^--to-time: "):
        units.parse_time(text, "--to-time")


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5MiB", "1 zebibyte", "1" * 5000])
def test_what_is_no_size_names_the_option(text: str) -> None:
    """Nothing is rounded."""
    with pytest.raises(InvalidArgument, match=r"^--value-max: "):
        units.parse_size(text, "--value-max")


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0s"), (4.9, "4s"), (59, "59s"), (60, "1m"), (7200, "2h"), (86400 * 400, "400d")]
)
def test_an_age_is_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    """A clock that was set back shows no negative ages."""
    assert units.age(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (43201331, "41.2 MiB"), (1 << 50, "1024.0 TiB")],
)
def test_a_size_is_shown_in_its_largest_unit(count: int, text: str) -> None:
    """Bytes are exact, the rest has one digit."""
    assert units.size(count) == text


def test_times_have_as_many_digits_as_they_need() -> None:
    """RFC 3339 in UTC; whole seconds have no fraction."""
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
    assert rfc3339(1_500_000_000_120_000_000) == "2017-07-14T02:40:00.12Z"
    assert rfc3339(-1) == "1969-12-31T23:59:59.999999999Z"


HOSTILE = "a\x1b[2J\x07\x9b\u202eb\u2028"


def test_nothing_that_is_printed_can_steer_a_terminal() -> None:
    """Escape sequences, C1 controls and bidirectional overrides become escapes, and parsers give them back."""
    import json

    from ruamel.yaml import YAML

    assert units.visible(HOSTILE).isprintable()
    for text in (json_text({"x": HOSTILE}), yaml_text({"x": HOSTILE, "y": HOSTILE + "\nline"})):
        assert all(c.isprintable() or c == "\n" for c in text), text
    assert json.loads(json_text([HOSTILE])) == [HOSTILE]
    assert YAML(typ="safe").load(yaml_text({"x": HOSTILE})) == {"x": HOSTILE}


def test_text_of_several_lines_stays_several_lines_in_yaml() -> None:
    """A prompt can be read as it was written."""
    assert yaml_text({"x": "one\ntwo\n"}) == "x: |\n  one\n  two\n"
