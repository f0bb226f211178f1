"""Checking a backup: everything that its manifest names is there, and is what it was.

Reads all of it, changes nothing, and goes on behind what is damaged, so that one run names every file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from stigmer.artifacts import Artifacts
from stigmer.backup import manifest as manifests
from stigmer.backup.manifest import Manifest, SegmentEntry
from stigmer.errors import CorruptArtifact, CorruptBackup, CorruptLog, NotFound
from stigmer.log import format as fmt
from stigmer.log.segment import FrameScan, Segment, crc_of, read_header
from stigmer.model import FoldProgress, ProgressCallback


class Checked(NamedTuple):
    """What was found."""

    manifest: Manifest
    frames: int
    problems: list[CorruptBackup]
    """One for each file that is damaged, in the order of the manifest."""


def check(directory: str, progress: ProgressCallback | None = None) -> Checked:
    """Check a backup. Raises `BackupDirectoryError`, `NewerFormat`, and `CorruptBackup` for its manifest."""
    manifests.read(directory)  # so that what is no backup is left without our lock in it
    with manifests.in_use(directory, "stigmer backup verify"):
        return _check(directory, progress)


def _check(directory: str, progress: ProgressCallback | None) -> Checked:
    manifest = manifests.read(directory)
    total = sum(entry.bytes for entry in manifest.segments)
    problems: list[CorruptBackup] = []
    frames = done = 0
    revision = 1
    for entry in manifest.segments:
        try:
            segment = segment_of(directory, manifest, entry, revision)
            for _frame in frames_of(segment, entry, compare=True):
                frames += 1
        except CorruptBackup as error:
            problems.append(error)
        revision = entry.last_revision + 1
        done += entry.bytes
        if progress is not None:
            progress(FoldProgress("check", done, total))
    if revision != manifest.revision + 1:
        path = os.path.join(directory, manifests.MANIFEST)
        problems.append(CorruptBackup(path, f"its segments end at revision {revision - 1}, not {manifest.revision}"))
    problems += _others(directory, manifest)
    return Checked(manifest, frames, problems)


def segment_of(directory: str, manifest: Manifest, entry: SegmentEntry, revision: int) -> Segment:
    """Give a segment of a backup, which is to begin with this revision. Raises `CorruptBackup`."""
    if entry.first_revision != revision or entry.name != fmt.segment_name(revision):
        path = os.path.join(directory, manifests.MANIFEST)
        raise CorruptBackup(path, f"{entry.name} begins at revision {entry.first_revision}, not {revision}")
    log = os.path.join(directory, manifests.LOG)
    path = os.path.join(log, entry.name)
    try:
        segment = Segment(log, read_header(path))
    except FileNotFoundError as error:
        raise CorruptBackup(path, "is missing") from error
    except CorruptLog as error:
        raise CorruptBackup(path, error.problem) from error
    if (segment.header.store_id.hex(), segment.header.segment_id.hex()) != (manifest.store_id, entry.segment_id):
        raise CorruptBackup(path, "is not the segment that the manifest names")
    return segment


def frames_of(
    segment: Segment, entry: SegmentEntry, *, compare: bool = False
) -> Iterator[tuple[fmt.FrameHeader, bytes]]:
    """Give header and stored payload of each commit in a segment, as far as it belongs to the backup.

    With `compare` the checksum of the whole part is looked at as well. Raises `CorruptBackup`.
    """
    fd = segment.open()
    try:
        scan = FrameScan(fd, segment, fmt.SEGMENT_HEADER_SIZE, entry.first_revision, entry.bytes)
        for _offset, header, stored in scan:
            if header.event_count:
                yield header, stored
        if scan.problem is not None:
            raise CorruptBackup(segment.path, f"offset {scan.offset}, revision {scan.revision}: {scan.problem}")
        if (scan.offset, scan.revision) != (entry.bytes, entry.last_revision + 1):
            raise CorruptBackup(
                segment.path,
                f"has {scan.offset} bytes up to revision {scan.revision - 1}, "
                f"not {entry.bytes} up to {entry.last_revision}",
            )
        if compare and manifests.shown(crc_of(fd, entry.bytes)) != entry.crc32c:
            raise CorruptBackup(segment.path, "its checksum is not that of the manifest")
    finally:
        os.close(fd)


def _others(directory: str, manifest: Manifest) -> Iterator[CorruptBackup]:
    artifacts = Artifacts(os.path.join(directory, manifests.ARTIFACTS))
    for artifact in manifest.artifacts:
        try:
            artifacts.get(artifact.key)
        except NotFound:
            yield CorruptBackup(os.path.join(directory, manifests.ARTIFACTS), f"artifact {artifact.key} is missing")
        except CorruptArtifact as error:
            yield CorruptBackup(error.path, error.problem)
    try:
        read_secrets(directory, manifest)
    except CorruptBackup as error:
        yield error


def read_secrets(directory: str, manifest: Manifest) -> bytes | None:
    """Give the keys of secrets; None where the backup has none. Raises `CorruptBackup`."""
    if manifest.secrets is None:
        return None
    path = os.path.join(directory, manifest.secrets.name)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError as error:
        raise CorruptBackup(path, "is missing") from error
    if manifests.shown(fmt.crc32c(0, content)) != manifest.secrets.crc32c:
        raise CorruptBackup(path, "its checksum is not that of the manifest")
    return content
