"""Opening a data directory: a log that ends where it should, and views that have all of it.

Owns what must hold of the directory, and the order: views say what was durable, then the log recovers its end by that,
then the views take what they lack of it, or are folded anew. Which views can be used is decided in `views.generations`,
what is cut off a log in `log.recovery`.

Invariants: whoever opens has the lock; views are marked as in use before anything is written to them; after an error
nothing is left open, and nothing of a fold that was begun.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import NamedTuple

from stigmer import unfinished
from stigmer.config import StoreOptions
from stigmer.errors import CorruptView, DataDirectoryError, DiskFull
from stigmer.log import files
from stigmer.log.log import Log
from stigmer.log.recovery import Watermark
from stigmer.views import generations
from stigmer.views.generations import Generation

_logger = logging.getLogger("stigmer")


class Opened(NamedTuple):
    """The parts of a store, in agreement with each other."""

    log: Log
    generation: Generation
    notes: list[str]
    """What opening found and did, in sentences; empty after a clean end."""


def prepare_directory(directory: str, create: bool) -> None:
    """See to it that a data directory is there, and ours to use. Raises `DataDirectoryError` or `DiskFull`."""
    try:
        if not os.path.exists(directory):
            if os.path.islink(directory):
                raise DataDirectoryError(
                    directory,
                    "is a symbolic link that leads nowhere",
                    hint="remove or mend the link, or choose another with --data-dir",
                )
            if not create:
                raise DataDirectoryError(
                    directory,
                    "does not exist",
                    hint=f"start a daemon, which makes it: stigmer daemon --data-dir {directory}",
                )
            files.make_directories(directory)
        elif os.path.isdir(directory):
            files.sync_name(directory)  # whoever made it may have been killed before its name was durable
        if not os.path.isdir(directory):
            raise DataDirectoryError(directory, "is not a directory", hint="choose another with --data-dir")
        if not create and not os.path.isdir(os.path.join(directory, "log")):
            raise DataDirectoryError(directory, "has no store in it", hint="choose another with --data-dir")
    except OSError as error:
        if error.errno in files.FULL:
            raise DiskFull(directory) from error
        raise DataDirectoryError(
            directory, f"cannot be used: {error.strerror}", hint="choose another with --data-dir"
        ) from error
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise DataDirectoryError(
            directory, "is not writable", hint="give yourself access to it, or choose another with --data-dir"
        )


def _check_views(directory: str) -> None:
    """Raise `DataDirectoryError` where what lies in the place of the views is no directory of ours."""
    path = os.path.join(directory, "views")
    if not os.path.lexists(path):
        return
    problem = None
    if not os.path.isdir(path):
        problem = os.strerror(errno.ENOTDIR)
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        problem = os.strerror(errno.EACCES)
    if problem is not None:
        raise DataDirectoryError(
            directory,
            f"cannot be used: {problem} ({path})",
            hint="make it accessible, or move it away: the views are folded again from the log",
        )


def open_parts(directory: str, options: StoreOptions) -> Opened:
    """Open the log of a data directory whose lock is held, then views that have all of it.

    Raises `DataDirectoryError` (`NewerFormat`), `CorruptLog`, `DiskFull` or `StorageFailed`.
    """
    unfinished.check(directory)
    _check_views(directory)
    notes: list[str] = []
    views_directory = os.path.join(directory, "views")
    serving = generations.open_serving(views_directory, options.map_bytes, notes)
    try:
        log = Log.open(
            os.path.join(directory, "log"),
            segment_bytes=options.segment_bytes,
            check_bytes=options.open_check_bytes,
            watermark=None if serving is None else Watermark(serving[1], serving[0].projector.checkpoint),
            notes=notes,
        )
    except BaseException:
        if serving is not None:
            serving[0].close()
        raise
    generation: Generation | None = None
    is_new = False
    try:
        if serving is not None:
            generation = serving[0]
            if serving[1] != log.store_id:
                notes.append("the views were of another store")
                generation.close()
                generation = None
        last = log.next_revision - 1
        folded_from = 0 if generation is None else generation.projector.checkpoint
        if generation is not None:
            try:
                # In use before anything is written: a power cut must not find the mark of a clean end over new rows.
                generation.serve(log.store_id, log.sync)
                _catch_up(generation, log)
            except CorruptView as error:
                notes.append(f"generation {generation.number} of the views is not used: {error.problem}")
                generation.close()
                generation, folded_from = None, 0
        if generation is None:
            generations.remove_unfinished(views_directory)
            generation = generations.create(views_directory, options.map_bytes)
            is_new = True
            _catch_up(generation, log)
            generation.serve(log.store_id, log.sync)
    except BaseException:
        log.abandon()
        if is_new and generation is not None:
            generation.remove()
        elif generation is not None:
            generation.close()
        raise
    if last > folded_from:
        notes.append(f"folded revisions {folded_from + 1} to {last} into the views")
    generations.remove_others(views_directory, generation.number)
    for note in notes:
        _logger.warning("%s", note)
    return Opened(log, generation, notes)


def _catch_up(generation: Generation, log: Log) -> None:
    """Fold what a generation lacks of the log."""
    cursor = log.cursor(generation.projector.checkpoint)
    try:
        for _checkpoint in generation.projector.catch_up(cursor, log.next_revision - 1):
            pass
        generation.projector.flush()
    finally:
        cursor.close()
