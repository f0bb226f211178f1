"""Logs in which frames of every kind stand: plain, several in a group, deltas, compressed ones, seals."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from log.support import START_NS, Written, frames_in, header_of, open_log, segment_files

from stigmer import config
from stigmer.log import format as fmt
from stigmer.log.lineages import Entry
from stigmer.log.log import Log

_MEMORY = Path("/dev/shm")
_PREFIX = "stigmer-faults-"
_WORDS = (
    b"the agent read a file and ran a tool; its answer was long, and the next step of the plan came after it; "
    b"nothing was lost, for what had been acknowledged stood on the disk. "
)


@contextmanager
def quick_folder(otherwise: Path) -> Iterator[Path]:
    """Give an empty folder, in memory where there is such a place: for faults to which it is the same."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=_MEMORY if _MEMORY.is_dir() else otherwise) as made:
        mark = otherwise / f"to-{Path(made).name}"
        mark.symlink_to(made)
        yield Path(made)
        mark.unlink()


def remove_quick_folders(below: Path) -> None:
    """Remove the folders in memory of processes that worked below a folder and were killed."""
    for mark in below.rglob(f"to-{_PREFIX}*"):
        shutil.rmtree(mark.readlink(), ignore_errors=True)


class Growing:
    """A value that is committed again and again, larger each time: what becomes deltas, and at times compressed."""

    def __init__(self, source: random.Random, key: bytes, size: int) -> None:
        self._source = source
        self._key = key
        self._size = size
        self._value = self._fresh()

    def next(self) -> Entry:
        """Give it as it is after one more change."""
        at = self._source.randrange(len(self._value))
        self._value = self._value[:at] + self._source.randbytes(40) + self._value[at:] + self._source.randbytes(60)
        return Entry(self._value, self._source.randint(1, 2), self._key)

    def _fresh(self) -> bytes:
        text = _WORDS * (self._size // len(_WORDS) + 1)
        return self._source.randbytes(self._size // 4) + text[: self._size - self._size // 4]


def small_entry(source: random.Random, bytes_max: int) -> Entry:
    """Give a payload that is like no other; an empty one at times."""
    return Entry(source.randbytes(source.randint(0, bytes_max)), source.randint(1, 3))


def append(log: Log, group: Sequence[Entry]) -> list[Written]:
    """Append a group, without a sync; give its frames."""
    revision = log.next_revision
    log.append(group, max(START_NS, log.last_time_ns) + 1)
    written = []
    for entry in group:
        written.append(Written(revision, entry.event_count, entry.payload))
        revision += entry.event_count
    return written


@contextmanager
def short_chains() -> Iterator[None]:
    """Have chains of deltas end soon, so that small logs have compressed payloads too."""
    kept = config.CHAIN_FRAMES_MAX
    config.CHAIN_FRAMES_MAX = 3
    try:
        yield
    finally:
        config.CHAIN_FRAMES_MAX = kept


def mixed_log(
    directory: Path, seed: int, size: int, segment_bytes: int, entry_bytes: int, keys: int = 2
) -> list[Written]:
    """Make a log of at least so many bytes, that ends as a crash would leave it; all of it was synced."""
    source = random.Random(seed)
    written: list[Written] = []
    with short_chains():
        log = open_log(directory, segment_bytes=segment_bytes)
        growing = [Growing(source, b"key %d" % number, entry_bytes) for number in range(keys)]
        while log.size < size:
            group = [source.choice(growing).next()]
            if source.random() < 0.6:
                group.insert(source.randint(0, 1), small_entry(source, entry_bytes))
            written += append(log, group)
            log.sync()
        log.abandon()
    return written


class Part(NamedTuple):
    """A header or a frame in a segment, and how damage to it is named."""

    path: Path
    start: int
    end: int
    revision: int
    flags: int
    """Of the frame; -1 for the header of the segment."""


def parts_of(directory: Path) -> list[Part]:
    """Give all parts of an undamaged log, in order."""
    parts = []
    for path in segment_files(directory):
        parts.append(Part(path, 0, fmt.SEGMENT_HEADER_SIZE, header_of(path).first_revision, -1))
        for offset, header in frames_in(path):
            end = offset + fmt.FRAME_HEADER_SIZE + header.payload_size
            parts.append(Part(path, offset, end, header.first_revision, header.flags))
    return parts
