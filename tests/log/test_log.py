"""The log as a whole: appending, rolling, and disks that fill up or fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from log.support import (
    START_NS,
    Written,
    append_groups,
    frames_in,
    header_of,
    make_log,
    open_log,
    random_groups,
    read_all,
    reopen_and_read,
    segment_files,
)


def test_revisions_are_dense_over_segments(directory: Path) -> None:
    """Segments are named by their first revision, each begins where the one before ended, in one store."""
    written = make_log(directory, random_groups(50, 60))
    following = 1
    for path in segment_files(directory):
        assert path.name == f"{following:020}.log"
        for _, header in frames_in(path):
            assert header.first_revision == following
            following += header.event_count
    assert following == written[-1].first_revision + written[-1].event_count
    headers = [header_of(path) for path in segment_files(directory)]
    assert len({header.store_id for header in headers}) == 1
    assert len({header.segment_id for header in headers}) == len(headers) > 4


def test_frames_of_a_group_share_what_was_durable_before(directory: Path) -> None:
    """`group_first` is one above what had been synced when the frame was written."""
    log = open_log(directory)
    append_groups(log, [[(b"a", 1), (b"b", 2)], [(b"c", 1)]])
    append_groups(log, [[(b"d", 1)]], sync_last=False)
    append_groups(log, [[(b"e", 1)]])
    log.abandon()
    firsts = [header.group_first for _, header in frames_in(segment_files(directory)[0])]
    assert firsts == [1, 1, 4, 5, 5]


def test_durable_revision_moves_with_sync_only(directory: Path) -> None:
    """What was appended is durable after a sync, not before."""
    log = open_log(directory)
    append_groups(log, [[(b"a", 3)]], sync_last=False)
    assert (log.durable_revision, log.next_revision) == (0, 4)
    log.sync()
    assert log.durable_revision == 3
    log.close()


def test_closing_an_empty_log_writes_nothing(directory: Path) -> None:
    """A log without events is a header, however often it is opened and closed."""
    for _ in range(3):
        open_log(directory).close()
    (path,) = segment_files(directory)
    assert path.stat().st_size == 64


def test_log_that_is_opened_and_closed_keeps_its_frames(directory: Path) -> None:
    """Clean ends between writes change neither the frames nor the order."""
    written: list[Written] = []
    for round in range(30):
        log = open_log(directory)
        assert read_all(log) == written
        assert log.last_time_ns == (START_NS + round if round else 0)
        written += append_groups(log, [[(bytes([round]) * 100, 1)]])
        log.close()
    assert reopen_and_read(directory) == written


def run(program: str, directory: Path, *wrapper: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, with `directory` as its argument."""
    tests = str(Path(__file__).parents[1])
    return subprocess.run(
        [*wrapper, sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r})\n{program}", str(directory)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


FULL_DISK = """
import resource, signal
from pathlib import Path
from log.support import *
from stigmer.errors import DiskFull

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
directory = Path(sys.argv[1])
log = open_log(directory, segment_bytes=1 << 20)
written, refused = append_groups(log, [[(b"before", 1)]]), 0
for size in range(100, 3000, 7):
    room = segment_files(directory)[-1].stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (room + size, resource.RLIM_INFINITY))
    for payload in ([b"x" * size], [b"y" * 30] * (size // 40), [b"z" * 5000]):
        before = segment_files(directory)[-1].stat().st_size
        try:
            written += append_groups(log, [[(one, 1) for one in payload]])
        except DiskFull as error:
            refused += 1
            assert segment_files(directory)[-1].stat().st_size == before, "the half-written group is still there"
            assert str(directory) in str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    written += append_groups(log, [[(b"there is room again", 1)]])
assert refused > 400, refused
assert read_all(log) == written
log.abandon()
notes = []
assert reopen_and_read(directory, notes=notes) == written
assert notes == []
"""


def test_full_disk_refuses_a_group_and_leaves_the_log_usable(directory: Path) -> None:
    """A group for which there is no room is taken back whole; the next one that fits follows the last good one."""
    done = run(FULL_DISK, directory)
    assert done.returncode == 0, done.stderr


FULL_DISK_AT_CLOSE = """
import resource, signal
from pathlib import Path
from log.support import *
from stigmer.config import StoreOptions
from stigmer.store import Store

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
directory = Path(sys.argv[1])
store = Store.open(directory, StoreOptions(map_bytes=1 << 20))
store.save("note", "n1", b"one")
(segment,) = segment_files(directory / "log")
resource.setrlimit(resource.RLIMIT_FSIZE, (segment.stat().st_size + 10, resource.RLIM_INFINITY))
store.close()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
with Store.open(directory) as again:
    assert again.get("note", "n1").value == b"one"
    assert again.recovery == ("folded revisions 1 to 1 into the views",), again.recovery
"""


def test_full_disk_at_close_costs_only_the_work_of_the_next_open(directory: Path) -> None:
    """A store closes though there is no room for seal and views, lets go of everything, and opens again."""
    done = run(FULL_DISK_AT_CLOSE, directory)
    assert done.returncode == 0, done.stderr


FAILING_SYNC = """
from stigmer.config import StoreOptions
from stigmer.errors import StigmerError, StorageFailed
from stigmer.store import Store

store = Store.open(sys.argv[1], StoreOptions(segment_bytes=4096, map_bytes=1 << 20))
acked = 0
try:
    for n in range(1, 200):
        acked = store.save("note", f"n{n}", b"x" * 200)
except StorageFailed as error:
    print(acked, "failed", error.operation)
try:
    store.save("note", "more", b"")
except StorageFailed as error:
    print("still", error.operation)
print(store.status().revision, len(store.list("note")), type(store.failure).__name__)
store.close()
"""


@pytest.mark.parametrize("call", [3, 4, 7, 20, 40])
def test_failed_fsync_is_final(directory: Path, call: int) -> None:
    """After the first fdatasync that fails nothing more is acknowledged or shown, and it is never tried again."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace = directory.parent / "trace"
    wrapper = [strace, "-f", "-qq", "-o", str(trace), "-e", "trace=fdatasync,pwritev"]
    done = run(FAILING_SYNC, directory, *wrapper, "-e", f"inject=fdatasync:error=EIO:when={call}")
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    acked = int(first.split()[0])
    assert first.endswith("failed fsync")
    assert second == "still fsync"
    assert third == f"{acked} {acked} StorageFailed"
    calls = trace.read_text().splitlines()
    failed_at = next(place for place, line in enumerate(calls) if "EIO" in line)
    behind = [line for line in calls[failed_at + 1 :] if ".log" in line or "pwritev" in line or "fdatasync" in line]
    assert behind == [], "the log was written or synced after its fsync had failed"
    assert acked > 0 or call == 3
    events = reopen_and_read(directory / "log")
    assert len(events) in (acked, acked + 1)
