"""Groups of processes that may use so much memory together: beyond it the kernel kills one, which is what an OOM is."""

from __future__ import annotations

import itertools
import os
from functools import cache
from pathlib import Path

_FOLDER = Path("/sys/fs/cgroup")
_numbers = itertools.count()


class MemoryGroup:
    """A memory cgroup, of version 1 or 2; removed when its `with` block ends, when nobody is in it any more."""

    def __init__(self, bytes_max: int) -> None:
        self._is_old = (_FOLDER / "memory").is_dir()
        parent = _FOLDER / "memory" if self._is_old else _FOLDER
        self._path = parent / f"stigmer-faults-{os.getpid()}-{next(_numbers)}"
        self._path.mkdir()
        try:
            (self._path / ("memory.limit_in_bytes" if self._is_old else "memory.max")).write_text(str(bytes_max))
        except OSError:
            self._path.rmdir()
            raise

    def enter(self) -> None:
        """Put this process into it."""
        (self._path / "cgroup.procs").write_text(str(os.getpid()))

    def kills(self) -> int:
        """Give how many processes the kernel has killed in it for want of memory."""
        events = (self._path / ("memory.oom_control" if self._is_old else "memory.events")).read_text()
        counts = dict(line.split() for line in events.splitlines())
        return int(counts.get("oom_kill", 0))

    def __enter__(self) -> MemoryGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.rmdir()


@cache
def needed() -> str:
    """Say why there can be no such group here; "" if there can."""
    try:
        with MemoryGroup(1 << 30) as group:
            group.kills()
    except OSError as error:
        return f"needs a memory cgroup: {error}"
    return ""
