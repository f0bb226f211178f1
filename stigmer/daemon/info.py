"""`DATA/daemon.json`: by it others find the daemon of a data directory.

The file is written once the daemon listens and removed when it stops. A daemon that was killed leaves it behind, so
what it says holds only while the process that wrote it owns the directory; `read_daemon_info` checks that.
"""

from __future__ import annotations

import fcntl
import functools
import os

import msgspec

from stigmer import lock
from stigmer.errors import DataDirectoryError

_FILE = "daemon.json"
_LOCK = "LOCK"


class DaemonInfo(msgspec.Struct, frozen=True):
    """A running daemon."""

    pid: int
    listen: list[str]
    """Every address, with the real ports."""
    started_at_ns: int
    version: str


def write_daemon_info(data_dir: str, info: DaemonInfo) -> None:
    """Write the file as a whole or not at all. Raises `DataDirectoryError` where something else is in its place."""
    path = os.path.join(data_dir, _FILE)
    try:
        with open(path + ".new", "wb", opener=functools.partial(os.open, mode=0o600)) as file:
            file.write(msgspec.json.encode(info))
        os.replace(path + ".new", path)
    except OSError as error:
        raise unusable_file(data_dir, error) from error


def unusable_file(data_dir: str, error: OSError) -> DataDirectoryError:
    """Give the error for a file of the daemon's that it cannot write, for what is in its place."""
    where = error.filename2 or error.filename or data_dir
    return DataDirectoryError(
        data_dir, f"cannot be used: {error.strerror} ({where})", hint="make it accessible, or move it away"
    )


def remove_daemon_info(data_dir: str) -> None:
    """Remove the file, where it is."""
    try:
        os.unlink(os.path.join(data_dir, _FILE))
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        pass  # not one that was written


def read_owner(data_dir: str) -> lock.Owner | None:
    """Give the process that owns a data directory now, a daemon or a program that embeds the store; None: nobody."""
    owner = lock.owner(data_dir)
    # First the process, then the lock: to try a lock that is free is to hold it for a moment.
    if owner is None or not lock.is_alive(owner.pid) or not lock.is_held(data_dir):
        return None
    return owner


def check_access(data_dir: str) -> None:
    """Raise `DataDirectoryError` where a data directory is closed to us, so that nobody could say who owns it."""
    if os.path.isdir(data_dir) and not os.access(data_dir, os.R_OK | os.X_OK):
        raise DataDirectoryError(
            data_dir, "is not readable", hint="give yourself access to it, or choose another with --data-dir"
        )


def read_daemon_info(data_dir: str) -> DaemonInfo | None:
    """Give the daemon that runs on a data directory now; None where none does, or none that listens yet."""
    try:
        with open(os.path.join(data_dir, _FILE), "rb") as file:
            info = msgspec.json.decode(file.read(), type=DaemonInfo)
    except (OSError, msgspec.DecodeError):
        return None
    owner = read_owner(data_dir)
    return info if owner is not None and owner.pid == info.pid else None


def wait_until_free(data_dir: str) -> None:
    """Wait until nobody owns a data directory."""
    try:
        descriptor = os.open(os.path.join(data_dir, _LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)
