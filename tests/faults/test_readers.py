"""Row C4: what killed readers leave behind in LMDB."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from faults.children import Channel, Child
from stigmer.store import Store

_READERS = 200
_ROUNDS = 30


def test_readers_that_were_killed_hold_nothing_back(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Their slots are free after the next open, and the pages they looked at are used again."""

    def read(channel: Channel) -> None:
        store = Store.open(tmp_path)
        _write(store)
        environment = store._writer.projector.environment
        held = [environment.begin() for _ in range(_READERS)]
        channel.send(store.status().views_readers)
        channel.wait()
        os._exit(len(held))

    with Child(read) as child:
        (readers,) = child.receive()
        assert readers >= _READERS
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    with Store.open(tmp_path) as store:
        assert store.status().views_readers < 10
        _write(store)
        size_bytes = store.status().views_bytes
        for _ in range(_ROUNDS):
            _write(store)
        assert store.status().views_bytes < 4 * size_bytes  # without the pages of the killed, 15 times as much
    record_property("tally", {"readers killed": _READERS})


def _write(store: Store) -> None:
    """Write every row anew, and let the pages of the rows before go, as far as it is the store that holds them."""
    for number in range(20):
        store.save("note", f"n{number}", os.urandom(4096))
    store._writer.flush()
    checkpointer = store._writer.generation._checkpointer
    assert checkpointer is not None
    store._writer.run(checkpointer.take_now)
