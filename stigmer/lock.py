"""The lock on a data directory: one owner, for as long as its process holds the file open.

Owns the file `LOCK`. The lock is the kernel's (flock), so it ends with the process however that ends; what is written
in the file only says who holds it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from datetime import UTC, datetime

import msgspec

from stigmer.errors import DataDirectoryError, LogLocked

_FILE = "LOCK"


class Owner(msgspec.Struct, frozen=True):
    """Who holds the lock."""

    pid: int
    since: datetime
    command: str


class Lock:
    """A held lock."""

    def __init__(self, fd: int) -> None:
        """Keep the descriptor that holds it."""
        self._fd = fd
        self.pid = os.getpid()
        _held.add(self)

    def release(self) -> None:
        """Let it go."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = -1

    def drop(self) -> None:
        """Close the descriptor and leave the lock to the process that took it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _drop_all() -> None:
    for held in _held:
        held.drop()


# A forked child shares the lock: it would keep it after its parent, the owner, is gone.
os.register_at_fork(after_in_child=_drop_all)


def take(data_directory: str, command: str) -> Lock:
    """Take the lock on a data directory. Raises `LogLocked` where another process, or this one, has it."""
    path = os.path.join(data_directory, _FILE)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unusable(data_directory, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        holder = owner(data_directory)
        # Who has just taken it may not have written so yet: then what is there is of an owner before.
        if holder is None or not is_alive(holder.pid):
            raise LogLocked(data_directory, None, None, None) from error
        raise LogLocked(data_directory, holder.pid, _when(holder.since), holder.command) from error
    me = msgspec.json.encode(Owner(os.getpid(), datetime.now(UTC).replace(microsecond=0), command)) + b"\n"
    try:
        # Over what is there, so that a full disk has room for it.
        os.pwrite(fd, me, 0)
        os.ftruncate(fd, len(me))
    except OSError as error:
        os.close(fd)
        raise _unusable(data_directory, error) from error
    return Lock(fd)


def _unusable(data_directory: str, error: OSError) -> DataDirectoryError:
    path = os.path.join(data_directory, _FILE)
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "start as the user whose file it is, give yourself access to it, or choose another with --data-dir"
    elif error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
        hint = f"move {path} away; it is made anew"
    else:
        hint = "choose another with --data-dir"
    return DataDirectoryError(data_directory, f"cannot be used: {error.strerror} ({path})", hint=hint)


def owner(data_directory: str) -> Owner | None:
    """Read who took the lock last; None where nothing readable is written. It may have ended since."""
    try:
        with open(os.path.join(data_directory, _FILE), "rb") as file:
            return msgspec.json.decode(file.read(4096), type=Owner)
    except (OSError, msgspec.MsgspecError):
        return None


def is_held(data_directory: str) -> bool:
    """Say whether some process holds the lock now."""
    try:
        fd = os.open(os.path.join(data_directory, _FILE), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def is_alive(pid: int) -> bool:
    """Say whether there is a process of that number now."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # alive, and another user's
    return True


def _when(since: datetime) -> str:
    local = since.astimezone()
    same_day = local.date() == datetime.now(local.tzinfo).date()
    return local.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S")
