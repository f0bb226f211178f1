"""What the log asks of the file system, and nothing more.

Each function says what is durable when it returns. No function retries an fsync: after a failed one the kernel may
have dropped the pages, so a second that succeeds would prove nothing (docs/ARCHITECTURE.md, "Crash and damage").
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Iterable

# Small buffers are joined into blocks of this size: a copy costs less than a system call.
_BLOCK_BYTES = 512 * 1024

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The errors that mean "no room", which pass when room is made."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})
"""The errors that mean "too many open files", which pass as well. They come from `open`, never from a write."""


class Unreadable(OSError):
    """The disk has lost what was to be read: an error of a read alone, not of a write or a sync."""


# A directory above ours may be closed to us, on a file system that is only read, or of a kind that syncs none.
_NOT_OURS_TO_SYNC = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL})


def write_at(fd: int, buffers: Iterable[bytes], offset: int) -> int:
    """Write all buffers one behind the other at `offset`; give the offset behind them. Not durable yet."""
    block: list[bytes] = []
    size = 0
    for buffer in buffers:
        block.append(buffer)
        size += len(buffer)
        if size >= _BLOCK_BYTES:
            offset = _write_whole(fd, block, offset)
            block, size = [], 0
    return _write_whole(fd, block, offset)


def _write_whole(fd: int, block: list[bytes], offset: int) -> int:
    rest = memoryview(block[0] if len(block) == 1 else b"".join(block))
    while rest:
        written = os.pwrite(fd, rest, offset)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        offset += written
        # A short write is no error: go on behind what was taken.
        rest = rest[written:]
    return offset


def sync_data(fd: int) -> None:
    """Make a file's bytes and size durable."""
    if sys.platform == "darwin":
        # On macOS fsync leaves the bytes in the drive's cache; F_FULLFSYNC does not.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def sync_file(fd: int) -> None:
    """Make a file's bytes, size and all that describes it durable: for a file of which one does not know the past."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_name(path: str) -> None:
    """Make the name of a directory durable, where the one above it is ours to sync."""
    try:
        sync_directory(os.path.dirname(path) or os.curdir)
    except OSError as error:
        if error.errno not in _NOT_OURS_TO_SYNC:
            raise


def make_directories(path: str) -> None:
    """Make a directory, and the parents that are missing, for us alone, and their names durable.

    One that is there is left as it is, but for its name: whoever made it may have been killed before that was durable.
    Unlike `os.makedirs`, which makes the parents for everybody that the umask lets in.
    """
    try:
        _make_directory(path)
    except FileNotFoundError:
        parent = os.path.dirname(path)
        if not parent or parent == path:
            raise
        make_directories(parent)
        _make_directory(path)  # once: /proc, for one, takes none and says that there is no such thing
    sync_name(path)


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def create(path: str, content: bytes) -> int:
    """Create a file with this content under its final name, durably; give a descriptor to read and write it.

    After a crash either the whole file is there or nothing under that name. The mode is 0600.
    """
    temporary = path + ".new"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_at(fd, (content,), 0)
        os.fsync(fd)
        os.rename(temporary, path)
        sync_directory(os.path.dirname(path))
    except BaseException:
        os.close(fd)
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return fd


def read_at(fd: int, size: int, offset: int, *, in_part: bool = False) -> bytes:
    """Read `size` bytes at `offset`, fewer only at the end of the file. No more is allocated than there is.

    With `in_part` fewer as well where the disk cannot read on; of the first byte that is `Unreadable` all the same.
    """
    if size > _BLOCK_BYTES:
        # It may come from the file itself, which can be damaged or cut short.
        size = min(size, max(os.fstat(fd).st_size - offset, 0))
    data = _pread(fd, size, offset)
    while data and len(data) < size:
        try:
            more = _pread(fd, size - len(data), offset + len(data))
        except Unreadable:
            if in_part:
                break
            raise
        if not more:
            break
        data += more
    return data


def _pread(fd: int, size: int, offset: int) -> bytes:
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise Unreadable(error.errno, error.strerror) from error
