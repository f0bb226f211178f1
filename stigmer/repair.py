"""The repair of a damaged log, on request (docs/OPERATIONS.md, "Repair of the log").

Owns what a repair does beside the log itself: what the views know of it, the events that stand for what is lost, and
the end of views that may have had it. The log is examined and written anew by `log.repair`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from stigmer import config, lock, unfinished
from stigmer.errors import DataDirectoryError, DiskFull, InvalidArgument, StorageFailed
from stigmer.log import files
from stigmer.log.log import Log
from stigmer.log.recovery import Watermark
from stigmer.log.repair import Damage, Lost, examine, rewrite
from stigmer.model import ProgressCallback
from stigmer.pb import log_pb2
from stigmer.views import generations

LOST_KIND = "lost_revisions"
"""The kind of the resources that tell which revisions were lost."""

_OPERATION = "repair"
_WORK = unfinished.Work(_OPERATION, "stigmer log repair")


class Repaired(NamedTuple):
    """What was found, and what was done about it."""

    damages: list[Damage]
    lost: list[Lost]
    """What has to be accepted, in order."""
    is_whole: bool
    """Whether the log is whole now."""
    revision: int
    """The last one, once it is."""
    kept: str | None
    """The folder with the originals of what was written anew."""
    notes: list[str]
    """Sentences about what was done."""


def repair(directory: str, accepted: Sequence[Lost], progress: ProgressCallback | None = None) -> Repaired:
    """Examine the log of a data directory, and repair it as far as that loses nothing but what is accepted.

    Raises `InvalidArgument` where something else is accepted than what is lost; `CorruptLog` for what only a person
    can mend; `DataDirectoryError`, `LogLocked`, `NewerFormat`, `DiskFull` or `StorageFailed`.
    """
    if not os.path.isdir(os.path.join(directory, "log")):
        raise DataDirectoryError(directory, "has no log in it", hint="choose another with --data-dir")
    held = lock.take(directory, "stigmer log repair")
    try:
        begun = unfinished.read(directory)
        if begun is not None and begun.operation != _OPERATION:
            unfinished.check(directory)
        return _repair(directory, accepted, progress, is_continued=begun is not None)
    except OSError as error:
        if error.errno in files.FULL:
            raise DiskFull(directory) from error
        raise StorageFailed(error.filename or directory, "repair", error.strerror or str(error)) from error
    finally:
        held.release()


def _repair(
    directory: str, accepted: Sequence[Lost], progress: ProgressCallback | None, *, is_continued: bool
) -> Repaired:
    log_directory = os.path.join(directory, "log")
    watermark = _watermark(directory)
    examination = examine(log_directory, watermark, progress)
    damages, lost = examination.damages, examination.lost
    if accepted and list(accepted) != lost:
        raise InvalidArgument(
            "--accept-loss",
            f"{_shown(accepted)} is not what is lost, which is {_shown(lost) or 'nothing'}",
            hint="stigmer log repair, without the option, tells what is lost and why",
        )
    if lost and not accepted:
        return Repaired(damages, lost, False, examination.revision, None, [])
    notes: list[str] = []
    kept = None
    if damages:
        kept = os.path.join(directory, "log.damaged-" + datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ"))
        if not is_continued:
            unfinished.begin(directory, _WORK)
        rewrite(log_directory, kept, examination, _filler)
        segments = ", ".join(damaged.part.segment.name for damaged in examination.damaged)
        notes.append(f"written anew: {segments}")
    if damages or is_continued:
        # They may have what is lost, and would hide it.
        generations.remove_all(os.path.join(directory, "views"))
        unfinished.end(directory)
        notes.append("the views were removed; they are folded again at the next open")
    elif examination.torn is not None:
        Log.open(
            log_directory,
            segment_bytes=config.SEGMENT_BYTES_DEFAULT,
            check_bytes=0,
            watermark=watermark,
            notes=notes,
        ).abandon()
    return Repaired(damages, lost, True, examination.revision, kept, notes)


def _watermark(directory: str) -> Watermark | None:
    """Give what the views prove to have been durable, where they can be used."""
    found = generations.open_serving(os.path.join(directory, "views"), config.MAP_BYTES_DEFAULT, [])
    if found is None:
        return None
    generation, store_id = found
    try:
        return Watermark(store_id, generation.projector.checkpoint)
    finally:
        generation.close()


def _filler(first: int, last: int) -> list[tuple[bytes, int]]:
    """Give the commits that stand for lost revisions: as many events, each of which tells of the loss."""
    sentence = f"Revisions {first} to {last} were damaged, and were given up by stigmer log repair."
    id = f"{first}-{last}"
    event = log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind=LOST_KIND, id=id, value=sentence.encode())
    made: list[tuple[bytes, int]] = []
    left = last - first + 1
    while left:
        count = min(left, config.COMMIT_EVENTS_MAX)
        made.append((log_pb2.Commit(events=[event] * count).SerializeToString(), count))
        left -= count
    return made


def _shown(ranges: Sequence[Lost]) -> str:
    return ", ".join(map(str, ranges))
