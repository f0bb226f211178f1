"""The lock on a data directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stigmer import lock
from stigmer.errors import DataDirectoryError, LogLocked

HOLDER = """
import sys, stigmer.lock
held = stigmer.lock.take(sys.argv[1], "the holder")
print("held", flush=True)
sys.stdin.read()
"""


def holder(directory: Path) -> subprocess.Popen[bytes]:
    """Start a process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_lock_has_one_owner_at_a_time(tmp_path: Path) -> None:
    """Whoever comes second is told who came first; after that one lets go, it may."""
    held = lock.take(str(tmp_path), "first")
    assert lock.is_held(str(tmp_path))
    for _ in range(3):
        with pytest.raises(LogLocked, match=rf"is in use by pid {os.getpid()} since .* \(first\)") as caught:
            lock.take(str(tmp_path), "second")
        assert (caught.value.pid, caught.value.command) == (os.getpid(), "first")
    held.release()
    held.release()
    assert not lock.is_held(str(tmp_path))
    lock.take(str(tmp_path), "second").release()
    owner = lock.owner(str(tmp_path))
    assert owner is not None
    assert (owner.pid, owner.command) == (os.getpid(), "second")


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    """The lock of a process that was killed is free, though what it wrote is still there."""
    with holder(tmp_path) as process:
        with pytest.raises(LogLocked, match=f"pid {process.pid}"):
            lock.take(str(tmp_path), "me")
        process.send_signal(signal.SIGKILL)
    owner = lock.owner(str(tmp_path))
    assert owner is not None
    assert owner.pid == process.pid
    assert not lock.is_held(str(tmp_path))
    lock.take(str(tmp_path), "me").release()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 10_000, b'{"pid": "x"}', b'{"pid":1}'])
def test_unreadable_owner_does_not_matter(tmp_path: Path, content: bytes) -> None:
    """What is written in the file only informs: the lock is the kernel's."""
    (tmp_path / "LOCK").write_bytes(content)
    assert lock.owner(str(tmp_path)) is None
    held = lock.take(str(tmp_path), "me")
    (tmp_path / "LOCK").write_bytes(content)
    with pytest.raises(LogLocked, match="is in use by another process") as caught:
        lock.take(str(tmp_path), "second")
    assert caught.value.pid is None
    held.release()


def test_owner_that_has_not_signed_yet_is_not_confused_with_the_one_before(tmp_path: Path) -> None:
    """Between taking the lock and writing so, the file still names who had it before, and was killed."""
    with holder(tmp_path) as killed:
        killed.send_signal(signal.SIGKILL)
    content = (tmp_path / "LOCK").read_bytes()
    held = lock.take(str(tmp_path), "the next")
    (tmp_path / "LOCK").write_bytes(content)
    with pytest.raises(LogLocked, match="is in use by another process") as caught:
        lock.take(str(tmp_path), "second")
    assert caught.value.pid is None
    held.release()


def test_place_that_cannot_hold_a_lock_is_refused(tmp_path: Path) -> None:
    """A LOCK that is a directory or a link, or a directory that is missing, is an error of the data directory."""
    (tmp_path / "a" / "LOCK").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "LOCK").symlink_to("LOCK")
    for name in ("a", "b", "missing"):
        with pytest.raises(DataDirectoryError, match="cannot be used"):
            lock.take(str(tmp_path / name), "me")
        assert not lock.is_held(str(tmp_path / name))


FORKER = """
import os, sys, stigmer.lock
held = stigmer.lock.take(sys.argv[1], "the holder")
if os.fork():
    sys.stdin.read()
else:
    print("forked", flush=True)
    sys.stdin.read()
"""


def test_child_of_a_killed_owner_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A process that the owner had forked lives on after a kill -9 of the owner, without the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", FORKER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"forked\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        lock.take(str(tmp_path), "the next").release()
    finally:
        process.stdin.close()  # which ends the child
        process.stdout.close()
