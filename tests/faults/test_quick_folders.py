"""Folders in memory go with the turn that made them, however its processes end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from faults.children import Channel, Child
from faults.logs import quick_folder, remove_quick_folders


def test_what_a_killed_process_had_in_memory_is_removed(tmp_path: Path) -> None:
    """Nothing is left behind by a part of a turn that is killed because another one has failed."""

    def work(channel: Channel) -> None:
        with quick_folder(tmp_path) as folder:
            channel.send(str(folder))
            os.kill(os.getpid(), signal.SIGKILL)

    with Child(work) as child:
        (folder,) = child.rest()
    assert Path(folder).is_dir()
    remove_quick_folders(tmp_path)
    assert not Path(folder).exists()


def test_a_folder_that_was_used_to_the_end_leaves_nothing(tmp_path: Path) -> None:
    """Neither itself nor the mark by which it would be found."""
    with quick_folder(tmp_path) as folder:
        assert folder.is_dir()
    assert not folder.exists()
    assert list(tmp_path.iterdir()) == []
