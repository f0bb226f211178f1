"""The mark of a data directory that is being put together: a restore into it, or a repair of its log.

Owns the file `UNFINISHED`. Whoever does such work has the lock, makes the mark durable before the first change, and
removes it after the last one is durable. While it is there no store opens, for what is there is only a part; the same
work, begun again, ends it.
"""

from __future__ import annotations

import os

import msgspec

from stigmer.errors import DataDirectoryError
from stigmer.log import files

FILE = "UNFINISHED"


class Work(msgspec.Struct, frozen=True):
    """What was begun."""

    operation: str
    """As in "a restore was not finished"."""
    command: str
    """What finishes it."""


def begin(directory: str, work: Work) -> None:
    """Mark a directory, durably."""
    # A path in the command may hold bytes that are no UTF-8, as lone surrogates.
    told = msgspec.structs.replace(work, command=work.command.encode("utf-8", "backslashreplace").decode())
    os.close(files.create(os.path.join(directory, FILE), msgspec.json.encode(told) + b"\n"))


def end(directory: str) -> None:
    """Remove the mark, durably."""
    os.unlink(os.path.join(directory, FILE))
    files.sync_directory(directory)


def read(directory: str) -> Work | None:
    """Give what was begun and not finished; None where nothing was."""
    try:
        with open(os.path.join(directory, FILE), "rb") as file:
            return msgspec.json.decode(file.read(), type=Work)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        return Work("restore or repair", "the command that was interrupted")


def check(directory: str) -> None:
    """Raise `DataDirectoryError` where work on a directory was begun and not finished."""
    work = read(directory)
    if work is not None:
        raise DataDirectoryError(
            directory, f"is not whole: a {work.operation} of it was not finished", hint=f"run it again: {work.command}"
        )
