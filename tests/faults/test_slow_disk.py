"""Row A12: an fsync that takes long holds up those who wait for it, and nobody else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faults import needs
from faults.children import Channel, Child
from faults.strace import Strace
from stigmer.config import KIB, StoreOptions
from stigmer.errors import ResourceExhausted
from stigmer.pb import log_pb2
from stigmer.store import Store

_OPTIONS = StoreOptions(map_bytes=1 << 20, queue_bytes_max=64 * KIB)
_DELAYS = ("1200ms", "10s", "60s")
"""A machine that is busy may need more than the first for what a free one does in a tenth of it."""
_GETS = 500


def _under_a_slow_disk(directory: Path) -> Callable[[Channel], None]:
    def work(channel: Channel) -> None:
        warnings: list[str] = []

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                warnings.append(record.getMessage())

        logging.getLogger("stigmer").addHandler(Handler())
        store = Store.open(directory, _OPTIONS)
        store.save("note", "before", b"v")
        channel.send("ready")
        channel.wait()
        answers: list[object] = []
        refused = 0

        def submit(number: int) -> None:
            event = log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="note", id=f"{number}", value=bytes(KIB))
            store.submit(log_pb2.Commit(events=[event]).SerializeToString(), answers.extend)

        submit(0)
        while store._log.next_revision == 2:  # until it is appended, and about to be synced
            time.sleep(0.001)
        for number in range(1, 1000):
            try:
                submit(number)
            except ResourceExhausted:
                refused += 1
        for _ in range(_GETS):
            assert store.get("note", "before").value == b"v"
        answered_meanwhile = len(answers)
        channel.send((refused, answered_meanwhile))
        store.close()
        channel.send((len(answers), store.horizon.revision, warnings))

    return work


@pytest.mark.skipif(bool(needs.strace()), reason=needs.strace())
def test_a_slow_disk(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Gets go on, the queue has a bound, what was queued is made, and a warning says that the disk is slow."""
    for delay in _DELAYS:
        with Child(_under_a_slow_disk(tmp_path / delay)) as child:
            child.receive()
            with Strace(child.pid, tmp_path / "trace", f"inject=fdatasync:delay_enter={delay}"):
                child.go_on()
                (refused, answered_meanwhile), (answered, revision, warnings) = child.rest()
        if not answered_meanwhile:
            break
    # The queue has room for some forty commits of this size; all the others were told so at once.
    assert refused > 900
    assert answered_meanwhile == 0, "the Gets were held up until the fsync was done, however long that took"
    assert answered == 1000 - refused
    assert revision == 1 + answered
    assert any("slow disk: an fsync of the log took" in warning for warning in warnings)
    record_property("tally", {"gets while an fsync was under way": _GETS, "writes refused": refused})
