"""Files that are renewed while the daemon runs: certificates, keys, tokens.

Invariants:
- What was read last and could be used stays in force until the files hold something else that can be.
- A problem is logged once, and only where it is still there at the second look: a certificate and its key are not
  replaced in one moment, nor is a file written in one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Generic, TypeVar

from stigmer.errors import InvalidArgument

T = TypeVar("T")

_logger = logging.getLogger("stigmer.daemon")


class Renewed(Generic[T]):
    """What some files hold together, read again once they are others. `look` belongs to one thread at a time."""

    def __init__(self, name: str, paths: tuple[str, ...], read: Callable[[], T]) -> None:
        """Read the files; raises what `read` raises, `InvalidArgument` where they cannot be used.

        `name` is what the log calls them.
        """
        self.name = name
        self._paths = paths
        self._read = read
        self._seen = self._identities()
        """Of what is in force."""
        self._problem = ""
        """Of the files as the last look found them."""
        self._told = ""
        """The problem that was logged."""
        self.value = read()

    def look(self) -> bool:
        """Take what the files hold now, where it is something else that can be used; says whether it did."""
        # Before the files are read: what is changed behind this is seen at the next look.
        found = self._identities()
        if found == self._seen:
            self._problem = self._told = ""
            return False
        try:
            value = self._read()
        except Exception as error:  # of several libraries; whatever the files hold, what is in force stays
            self._note(error.message if isinstance(error, InvalidArgument) else type(error).__name__)
            return False
        self._seen, self._problem, self._told = found, "", ""
        is_other = value != self.value
        self.value = value
        return is_other

    def _note(self, problem: str) -> None:
        if problem == self._problem and problem != self._told:
            _logger.warning("what was renewed cannot be used, and %s stays as it was: %s", self.name, problem)
            self._told = problem
        self._problem = problem

    def _identities(self) -> list[tuple[int, ...] | None]:
        return [_identity(path) for path in self._paths]


def _identity(path: str) -> tuple[int, ...] | None:
    """Give what tells a file from what was, or will be, in its place; None where it cannot be looked at."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    # The change of the inode, too: a file that nobody but us may read now is another than it was.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
