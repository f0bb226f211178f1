"""What others could reach of a data directory is closed to them when a daemon starts on it.

What the daemon makes is closed from the beginning. This is for what it finds: files of an older version, or a directory
that was made by hand.

Invariants:
- Only what is ours is touched: an entry that has the name of one of ours, and belongs to our user.
- The directory itself is closed only where nothing else lies in it; others may have a right to what does.
- Files with a key or a token are left to who reads them, who refuses: to close them would not undo that others read
  them.
"""

from __future__ import annotations

import logging
import os
import re
import stat

from stigmer import credentials

_OURS = re.compile(
    r"(LOCK|log|views|artifacts|run|secrets\.keys(\.new)?|daemon\.(json|log|out)(\.new)?|daemon\.log\.[0-9]+)", re.ASCII
).fullmatch
_LEFT_ALONE = re.compile(rf"(secret\.key|{credentials.TOKEN_FILE})(\.[0-9]+\.new)?", re.ASCII).fullmatch

_logger = logging.getLogger("stigmer.daemon")


def close_to_others(data_dir: str) -> None:
    """Take the rights of group and others from what is ours in a data directory, with a warning for each."""
    foreign = []
    with os.scandir(data_dir) as entries:
        for entry in entries:
            if _OURS(entry.name):
                _close(entry.path, entry.stat(follow_symlinks=False))
            elif not _LEFT_ALONE(entry.name):
                foreign.append(entry.name)
    status = os.stat(data_dir)
    if not foreign:
        _close(data_dir, status)
    elif stat.S_IMODE(status.st_mode) & 0o077:
        _logger.warning(
            "others have access to the data directory (mode %04o), which is left so because of what else is in it, "
            "such as %r; its own entries are closed to them",
            stat.S_IMODE(status.st_mode),
            min(foreign),
        )


def _close(path: str, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not mode & 0o077 or stat.S_ISLNK(status.st_mode):
        return
    if status.st_uid != os.geteuid():
        _logger.warning("others have access to %s (mode %04o), which belongs to user %d", path, mode, status.st_uid)
        return
    try:
        os.chmod(path, mode & 0o700)
    except OSError as error:
        _logger.warning("others have access to %s (mode %04o), and it cannot be closed: %s", path, mode, error.strerror)
        return
    _logger.warning("closed to others, who had access to it (mode %04o): %s", mode, path)
