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
from stigmer.config import COMMIT_OVERHEAD_BYTES, KIB, StoreOptions
from stigmer.errors import ResourceExhausted
from stigmer.pb import log_pb2
from stigmer.store import Store

_OPTIONS = StoreOptions(map_bytes=1 << 20, queue_bytes_max=64 * KIB)
_DELAY_SECONDS = 60
"""An fsync takes so long where nobody ends it before."""
_SLOW_SECONDS = 2.0
"""It takes so long at least, and is then told of."""
_READS = 200


def _under_a_slow_disk(directory: Path) -> Callable[[Channel], None]:
    def work(channel: Channel) -> None:
        warnings: list[str] = []

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                warnings.append(record.getMessage())

        logging.getLogger("stigmer").addHandler(Handler())
        store = Store.open(directory, _OPTIONS)
        store.save("note", "before", b"v")
        store._writer.flush()
        store.save("note", "in memory", b"v")
        channel.send("ready")
        channel.wait()
        answers: list[object] = []
        queued_bytes = refused = 0

        def commit(number: int) -> bytes:
            event = log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="note", id=f"{number:03}", value=bytes(KIB))
            return log_pb2.Commit(events=[event]).SerializeToString()

        store.submit(commit(0), answers.extend)
        while store._log.next_revision == 3:  # until it is appended, and about to be synced
            time.sleep(0.001)
        syncing_since = time.monotonic()
        for number in range(1, 1000):
            payload = commit(number)
            try:
                store.submit(payload, answers.extend)
                queued_bytes += len(payload) + COMMIT_OVERHEAD_BYTES
            except ResourceExhausted:
                refused += 1
        for _ in range(_READS):
            assert store.get("note", "before").value == store.get("note", "in memory").value == b"v"
            assert len(store.list("note", limit=2).resources) == 2
        answered_meanwhile = len(answers)
        time.sleep(max(0.0, syncing_since + _SLOW_SECONDS - time.monotonic()))
        channel.send((refused, queued_bytes, len(payload) + COMMIT_OVERHEAD_BYTES, answered_meanwhile))
        store.close()
        channel.send((len(answers), store.horizon.revision, warnings))

    return work


@pytest.mark.skipif(bool(needs.strace()), reason=needs.strace())
def test_a_slow_disk(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Gets and Lists go on, the queue has a bound, what was queued is made, and a warning tells of the disk."""
    with Child(_under_a_slow_disk(tmp_path / "data")) as child:
        child.receive()
        with Strace(child.pid, tmp_path / "trace", f"inject=fdatasync:delay_enter={_DELAY_SECONDS}s") as strace:
            child.go_on()
            ((refused, queued_bytes, commit_bytes, answered_meanwhile),) = child.receive()
            strace.let_go()
        ((answered, revision, warnings),) = child.rest()
    assert answered_meanwhile == 0, "writes were answered before the fsync was done, or reads after it"
    assert queued_bytes <= _OPTIONS.queue_bytes_max < queued_bytes + commit_bytes
    assert answered == 1000 - refused
    assert revision == 2 + answered
    assert any("slow disk: an fsync of the log took" in warning for warning in warnings)
    record_property("tally", {"reads while an fsync was under way": 3 * _READS, "writes refused": refused})
