"""The manifest: which files belong to a backup, and how much of each.

Owns `manifest.json` and the names of the other files. A backup is what its manifest says: it is written last, durably,
in the place of the one before, and what it does not name does not count.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import msgspec

from stigmer import lock
from stigmer.errors import BackupDirectoryError, CorruptBackup, LogLocked, NewerFormat
from stigmer.log import files
from stigmer.log.format import crc32c

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
README = "README"
LOG = "log"
ARTIFACTS = "artifacts"
SECRETS_PREFIX = "secrets.keys."

_README_TITLE = "A backup of a Stigmer store."


class SegmentEntry(msgspec.Struct, frozen=True):
    """A file of the log."""

    name: str
    segment_id: str
    first_revision: int
    last_revision: int
    """One less than the first where it has no event."""
    bytes: int
    crc32c: str
    """Of that many bytes."""


class ArtifactEntry(msgspec.Struct, frozen=True):
    """An artifact; its key is its checksum."""

    key: str
    bytes: int


class SecretsEntry(msgspec.Struct, frozen=True):
    """The keys of secrets."""

    name: str
    bytes: int
    crc32c: str


class Manifest(msgspec.Struct, frozen=True):
    """What belongs to a backup."""

    store_id: str
    revision: int
    """The last one in it."""
    made_at: datetime
    last_event_at: datetime | None
    version: str
    """Of stigmer."""
    master_key: str
    """Where the master key of the secrets was; it is not in the backup."""
    segments: list[SegmentEntry]
    artifacts: list[ArtifactEntry]
    secrets: SecretsEntry | None
    format: int = FORMAT_VERSION


class _File(msgspec.Struct, frozen=True):
    manifest: msgspec.Raw
    crc32c: str


class _Version(msgspec.Struct, frozen=True):
    format: int


def shown(crc: int) -> str:
    """Write a checksum as the manifest does."""
    return f"{crc:08x}"


@contextmanager
def in_use(directory: str, command: str, *, writing: bool = False) -> Iterator[None]:
    """Keep other commands from a backup's directory; one that may not be written to needs that to be `writing` only."""
    if not writing and not os.access(directory, os.W_OK):
        yield
        return
    try:
        held = lock.take(directory, command)
    except LogLocked as error:
        who = f"pid {error.pid} ({error.command})" if error.pid else "another process"
        raise BackupDirectoryError(directory, f"is in use by {who}", hint="wait until it has ended") from error
    try:
        yield
    finally:
        held.release()


def is_backup(directory: str) -> bool:
    """Say whether a directory is one of ours: a backup, or one that was begun."""
    try:
        with open(os.path.join(directory, README), encoding="utf-8") as file:
            return file.readline().rstrip("\n") == _README_TITLE
    except (OSError, UnicodeDecodeError):
        return False


def write_readme(directory: str) -> None:
    """Say what a directory is, durably, before anything else is put there."""
    text = (
        f"{_README_TITLE}\n\n"
        "What belongs to it is in manifest.json. Check it with\n\n    stigmer backup verify DIR\n\n"
        "and put it into an empty data directory with\n\n    stigmer restore DIR --data-dir NEW\n\n"
        "The master key of the secrets is not in it; manifest.json says where it was. Keep a copy of it elsewhere.\n"
    )
    os.close(files.create(os.path.join(directory, README), text.encode()))


def write(directory: str, manifest: Manifest) -> None:
    """Make this the manifest of a backup, durably."""
    plain = msgspec.json.encode(manifest)
    whole = msgspec.json.encode(_File(msgspec.Raw(plain), shown(crc32c(0, plain))))
    os.close(files.create(os.path.join(directory, MANIFEST), msgspec.json.format(whole, indent=1) + b"\n"))


def read(directory: str) -> Manifest:
    """Read the manifest of a backup. Raises `BackupDirectoryError`, `CorruptBackup` or `NewerFormat`."""
    path = os.path.join(directory, MANIFEST)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError as error:
        problem = "is a backup that was begun and not finished" if is_backup(directory) else "is no backup"
        raise BackupDirectoryError(directory, problem, hint="make one: stigmer backup DIR") from error
    try:
        found = msgspec.json.decode(content, type=_File)
        # Whatever the white space, it is the same manifest.
        plain = msgspec.json.format(found.manifest, indent=-1)
        if found.crc32c != shown(crc32c(0, plain)):
            raise CorruptBackup(path, "its checksum does not match")
        version = msgspec.json.decode(plain, type=_Version).format
        if version > FORMAT_VERSION:
            raise NewerFormat(path, version, FORMAT_VERSION)
        return msgspec.json.decode(plain, type=Manifest)
    except msgspec.MsgspecError as error:
        raise CorruptBackup(path, f"is not a manifest: {error}") from error
