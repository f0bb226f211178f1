"""The daemon's process log: `DATA/daemon.log`, rotated by size.

It may be written only by the owner of the data directory, but opening the store has things to tell before it is known
that the directory is ours. So messages are kept in memory until `attach` says where they go.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import time
from io import TextIOWrapper

from stigmer import config

_KEPT_UNTIL_ATTACHED = 10_000


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A rotated file for our user alone."""

    def _open(self) -> TextIOWrapper:
        fd = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return TextIOWrapper(open(fd, "ab"), encoding=self.encoding, errors=self.errors)


class ProcessLog:
    """Takes what the process logs, from its creation until `close`."""

    def __init__(self) -> None:
        self._buffer = logging.handlers.MemoryHandler(_KEPT_UNTIL_ATTACHED, flushLevel=logging.CRITICAL + 1)
        self._file: logging.Handler | None = None
        self._root = logging.getLogger()
        self._level_before = self._root.level
        self._root.setLevel(logging.INFO)
        self._root.addHandler(self._buffer)

    def attach(self, data_dir: str) -> None:
        """Write to the log of this data directory, first what was kept so far."""
        path = os.path.join(data_dir, "daemon.log")
        formatter = logging.Formatter(
            "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        formatter.converter = time.gmtime
        self._file = _PrivateFile(
            path, maxBytes=config.DAEMON_LOG_BYTES, backupCount=config.DAEMON_LOG_FILES - 1, encoding="utf-8"
        )
        self._file.setFormatter(formatter)
        self._root.addHandler(self._file)
        self._root.removeHandler(self._buffer)
        self._buffer.setTarget(self._file)
        self._buffer.close()

    def close(self) -> None:
        """Stop taking messages."""
        self._root.setLevel(self._level_before)
        for handler in (self._buffer, self._file):
            if handler is not None:
                self._root.removeHandler(handler)
                handler.close()
