"""Views on which LMDB ends the process are not opened for ever."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from stigmer.store import Store
from stigmer.views import checksums

TRIES = 3


def use_in_a_process_that_is_killed(directory: Path, *, while_opening: bool) -> None:
    """Open a store in a process of its own that ends like one that meets a damaged page."""
    pid = os.fork()
    if pid == 0:
        try:
            if while_opening:
                checksums.check = lambda _environment: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
            store = Store.open(directory)
            store.save("note", f"n{store.status().revision}", b"value")
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == -signal.SIGKILL


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Of a store that was killed."""
    use_in_a_process_that_is_killed(tmp_path / "data", while_opening=False)
    return tmp_path / "data"


def test_views_that_end_the_process_are_folded_again(directory: Path) -> None:
    """After so many opens that the process did not outlive, the views are not touched again, and all is there."""
    for _ in range(TRIES):
        use_in_a_process_that_is_killed(directory, while_opening=True)
    with Store.open(directory) as store:
        assert any("3 times in a row the process ended" in note for note in store.recovery)
        assert store.get("note", "n0").value == b"value"
    with Store.open(directory) as store:
        assert store.recovery == ()


def test_an_open_that_comes_to_its_end_is_a_new_beginning(directory: Path) -> None:
    """Kills after the open say nothing of the views, and those before it count only in a row."""
    for _ in range(3):
        for _ in range(TRIES - 1):
            use_in_a_process_that_is_killed(directory, while_opening=True)
        use_in_a_process_that_is_killed(directory, while_opening=False)
    with Store.open(directory) as store:
        assert not any("in a row" in note for note in store.recovery)
        assert len(store.list("note").resources) == 4
