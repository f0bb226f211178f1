"""What a killed process had written to the log and not synced is lost, as a power cut may lose it.

kill -9 alone loses nothing that was written, for the system's memory outlives the process. So the process that is to be
killed notes, in memory shared with its parent, how much of each segment it has synced; the parent cuts off the
rest, or a part of it, before the store is opened again. Whatever was acknowledged or shown of it is then gone.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
from pathlib import Path

from stigmer.log import files
from stigmer.log import format as fmt

_ENTRY = struct.Struct("<QQ")
_COUNT = struct.Struct("<Q")
_ENTRIES = 256


class Unsynced:
    """What of the log in a directory was synced."""

    def __init__(self, directory: Path) -> None:
        """`directory` is that of the log."""
        self._directory = directory
        self._memory = mmap.mmap(-1, _COUNT.size + _ENTRIES * _ENTRY.size)
        self._kept: dict[int, int] = {}

    def note(self) -> None:
        """Note, in this process, every sync from now on. For the child, before it opens the store."""
        sync = files.sync_data

        def noted(fd: int) -> None:
            # What another thread appends during the sync may not be in it.
            size = os.fstat(fd).st_size
            sync(fd)
            count: int = _COUNT.unpack_from(self._memory)[0]
            place = _COUNT.size + count % _ENTRIES * _ENTRY.size
            _ENTRY.pack_into(self._memory, place, os.fstat(fd).st_ino, size)
            # Not `pack_into`, which writes zeros first: a kill in between would leave them.
            self._memory[: _COUNT.size] = _COUNT.pack(count + 1)

        files.sync_data = noted

    def lose(self, chance: random.Random) -> int:
        """Cut the last segment somewhere behind what was synced of it; give how many bytes are gone.

        To be called after every end of the child, also a clean one.
        """
        lost = 0
        segments = sorted(self._directory.glob("*" + fmt.SEGMENT_SUFFIX))
        if segments:
            found = segments[-1].stat()
            durable = min(self._durable(found.st_ino), found.st_size)
            keep = durable if chance.random() < 0.5 else chance.randint(durable, found.st_size)
            lost = found.st_size - keep
            os.truncate(segments[-1], keep)
            self._kept = {found.st_ino: keep}
        _COUNT.pack_into(self._memory, 0, 0)
        return lost

    def _durable(self, inode: int) -> int:
        count: int = _COUNT.unpack_from(self._memory)[0]
        for number in range(count - 1, max(count - _ENTRIES, 0) - 1, -1):
            entry = _ENTRY.unpack_from(self._memory, _COUNT.size + number % _ENTRIES * _ENTRY.size)
            if entry[0] == inode:
                return int(entry[1])
        # Not synced by the last process: it found the file so, or made it, with a header that was synced.
        return self._kept.get(inode, fmt.SEGMENT_HEADER_SIZE)
