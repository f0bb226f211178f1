"""Records that outlive the process that makes them: memory shared with the one that forked it.

What a process has put there before it is killed is there, without a system call, so that keeping a record costs
little beside what is recorded. Each of its threads has a *lane* of its own.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

_SIZE_BYTES = 4
_ORDER = "little"


class Full(Exception):
    """A lane has no room for another record."""


class Journal:
    """Some lanes. Made before the fork, written by the child, read by the parent when the child has ended."""

    def __init__(self, lanes: int, lane_bytes: int) -> None:
        self._memory = mmap.mmap(-1, lanes * lane_bytes)
        self.lanes = [Lane(self._memory, number * lane_bytes, lane_bytes) for number in range(lanes)]

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


class Lane:
    """Records one behind the other, each behind its size. A size that is 0 ends them."""

    def __init__(self, memory: mmap.mmap, offset: int, size: int) -> None:
        self._memory = memory
        self._begin = self._next = offset
        self._end = offset + size

    def append(self, record: bytes) -> None:
        """Add a record. A kill leaves all of it, or nothing. Raises `Full`."""
        begin = self._next + _SIZE_BYTES
        end = begin + len(record)
        # Behind the record there is room for the size of the next one, which stays 0.
        if end + _SIZE_BYTES > self._end:
            raise Full
        self._memory[begin:end] = record
        self._memory[self._next : begin] = len(record).to_bytes(_SIZE_BYTES, _ORDER)
        self._next = end

    def __iter__(self) -> Iterator[bytes]:
        place = self._begin
        while size := int.from_bytes(self._memory[place : place + _SIZE_BYTES], _ORDER):
            begin = place + _SIZE_BYTES
            place = begin + size
            yield self._memory[begin:place]
