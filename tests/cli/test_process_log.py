"""Following a file that grows and is rotated."""

from __future__ import annotations

from pathlib import Path

import pytest

from stigmer.cli import process_log


def test_following_goes_on_in_the_next_file_and_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is written in two parts is one line; what came before the rotation is read before what came after."""
    path = tmp_path / "daemon.log"
    path.write_text("one\ntw")

    def rotate() -> None:
        path.rename(tmp_path / "daemon.log.1")
        path.write_text("four\n")

    def append(text: str) -> None:
        with (tmp_path / "daemon.log").open("a") as file:
            file.write(text)

    # What happens while the follower waits, in turn.
    steps = iter([lambda: append("o\n"), lambda: (append("three\n"), rotate()), lambda: append("five\n")])
    monkeypatch.setattr("stigmer.cli.process_log.time.sleep", lambda _seconds: next(steps)())
    lines = process_log.follow_lines(str(path))
    assert [next(lines) for _ in range(5)] == ["one", "two", "three", "four", "five"]


def test_a_missing_file_is_an_error_at_once(tmp_path: Path) -> None:
    """Whoever asked has a sentence for it."""
    with pytest.raises(FileNotFoundError):
        next(process_log.follow_lines(str(tmp_path / "none")))
