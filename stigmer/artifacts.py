"""Artifacts: files that are stored under the hash of their content, for as long as something needs them.

Owns `DATA/artifacts/`. The artifact with the key `sha256-HASH` is the file `HH/HASH`, where HASH is the SHA-256 of its
content in hexadecimal and HH its first two digits. What an artifact holds and who needs it is known above.

Invariants:

- A file appears under its name whole and synced, by a rename, so a crash leaves temporary names at the worst. A file
  that was damaged later is found out whenever it is read, and replaced when the same content is put again.
- What is held is not removed. Who puts an artifact and then commits what names it holds the artifact from before the
  one until after the other; so `collect` sees either the hold or the commit, whichever way the two cross.
- A key is checked before a path is made of it.

Any number of threads may use it. One process does: the one that has the data directory's lock.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from stigmer.errors import CorruptArtifact, DiskFull, InvalidArgument, NotFound, StorageFailed
from stigmer.log import files
from stigmer.names import shown

KEY_PREFIX = "sha256-"

_TEMPORARY_SUFFIX = ".new"
_PIECE_BYTES = 1024 * 1024

_key_matches = re.compile(r"sha256-[0-9a-f]{64}", re.ASCII).fullmatch
_folder_matches = re.compile(r"[0-9a-f]{2}", re.ASCII).fullmatch
_file_matches = re.compile(r"[0-9a-f]{64}", re.ASCII).fullmatch
_temporary_matches = re.compile(r"[0-9a-f]{64}\.[0-9a-f]+\.new", re.ASCII).fullmatch


def key_of(content: bytes) -> str:
    """Give the key that an artifact with this content has, stored or not."""
    return KEY_PREFIX + hashlib.sha256(content).hexdigest()


def check_key(key: str) -> None:
    """Raise `InvalidArgument` unless `key` is the key of an artifact."""
    if _key_matches(key) is None:
        raise InvalidArgument(
            "artifact_storage_key",
            f"{shown(key)} is not the key of an artifact: sha256- and 64 lower-case hexadecimal digits",
            hint="take it from the status of the skill",
        )


class Artifacts:
    """The artifacts of one data directory. The directory is made when the first one is put."""

    def __init__(self, directory: str) -> None:
        # Constant after construction.
        self._directory = directory
        # Guards all below; nothing else is taken while it is held. Told when a removal has ended.
        self._changed = threading.Condition()
        self._holds: dict[str, int] = {}
        self._holds_of_all = 0
        self._removing: set[str] = set()
        self._temporaries: set[str] = set()
        self._directory_is_durable = False
        self._failure: StorageFailed | None = None

    # --- in and out --------------------------------------------------------------------------------------

    def put(self, content: bytes) -> str:
        """Store an artifact, durably, and give its key.

        Where it is there and whole, it is read, not written. It stays until nobody needs it: the caller holds it
        (`hold`, `key_of`) until what names it is committed.
        Raises `DiskFull`, or `StorageFailed`; after a failed sync of a directory every later put fails as well, for
        nothing would prove any more that a name is on disk.
        """
        key = key_of(content)
        path = self._path(key)
        with self.hold(key):
            self._raise_if_failed()
            if not _is_whole(path, content):
                self._write(path, content)
            # Also for a file that was there: whoever renamed it may have been killed before this.
            self._sync_names(os.path.dirname(path))
        return key

    def get(self, key: str) -> bytes:
        """Give an artifact's content. Raises `NotFound`, `CorruptArtifact` or `StorageFailed`."""
        path = self._path(key)
        try:
            with open(path, "rb", opener=_open_itself) as file:
                content = file.read()
        except FileNotFoundError as error:
            raise NotFound("artifact", key) from error
        except OSError as error:
            raise StorageFailed(path, "read", str(error)) from error
        if (found := key_of(content)) != key:
            raise CorruptArtifact(path, f"its {len(content)} bytes have the hash {found.removeprefix(KEY_PREFIX)}")
        return content

    def keys(self) -> list[str]:
        """Give the keys of what is stored, in order. Raises `StorageFailed`."""
        return sorted(KEY_PREFIX + name for _, name in self._names() if _file_matches(name))

    # --- out of use --------------------------------------------------------------------------------------

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Keep an artifact from being removed, whether it is there yet or not. Any number may hold the same one.

        Waits while it is just being removed, which takes as long as `is_needed` and an unlink.
        """
        check_key(key)
        with self._changed:
            while key in self._removing:
                self._changed.wait()
            self._holds[key] = self._holds.get(key, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._holds[key] -= 1
                if not self._holds[key]:
                    del self._holds[key]

    @contextmanager
    def hold_all(self) -> Iterator[None]:
        """Keep every artifact from being removed. What is not collected meanwhile is collected at the next start.

        Does not wait for a removal that is under way: nothing that is committed names what it removes.
        """
        with self._changed:
            self._holds_of_all += 1
        try:
            yield
        finally:
            with self._changed:
                self._holds_of_all -= 1

    def remove(self, key: str) -> bool:
        """Remove an artifact unless it is held; say whether it was removed. Raises `StorageFailed`.

        The removal is not synced: an artifact that a power cut brings back is collected later.
        """
        check_key(key)
        return self._remove_unless(key, lambda _: False)

    def collect(self, is_needed: Callable[[str], bool], candidates: Iterable[str] | None = None) -> list[str]:
        """Remove what nobody needs and nobody holds, among the candidates; give the keys of what was removed.

        Without candidates everything stored is looked at, and what unfinished puts have left is removed as well. A
        candidate that is no key stands for no file, and is passed over.
        `is_needed` is asked while nobody can begin to hold the key; it must see every commit that was acknowledged
        before it is asked, and must not hold that key itself. Raises what it raises, and `StorageFailed`.
        """
        if candidates is None:
            self._remove_temporaries()
            candidates = self.keys()
        found = [key for key in dict.fromkeys(candidates) if _key_matches(key) is not None]
        return [key for key in found if self._remove_unless(key, is_needed)]

    def _remove_unless(self, key: str, is_needed: Callable[[str], bool]) -> bool:
        path = self._path(key)
        with self._changed:
            while key in self._removing:
                self._changed.wait()
            if key in self._holds or self._holds_of_all:
                return False
            # From here on a hold waits. One that ended before this ended after its commit, so `is_needed` knows of it;
            # one that begins after the unlink puts the artifact anew.
            self._removing.add(key)
        try:
            return not is_needed(key) and _unlink(path)
        finally:
            with self._changed:
                self._removing.discard(key)
                self._changed.notify_all()

    def _remove_temporaries(self) -> None:
        for folder, name in self._names():
            if _temporary_matches(name) is None:
                continue
            path = os.path.join(folder, name)
            # A name that is not registered now was, or its put has ended: names do not come twice.
            with self._changed:
                if path in self._temporaries:
                    continue
            _unlink(path)

    # --- files -------------------------------------------------------------------------------------------

    def _path(self, key: str) -> str:
        check_key(key)
        digits = key.removeprefix(KEY_PREFIX)
        return os.path.join(self._directory, digits[:2], digits)

    def _names(self) -> Iterator[tuple[str, str]]:
        """Give folder and name of every file."""
        try:
            for folder in filter(_folder_matches, os.listdir(self._directory)):
                path = os.path.join(self._directory, folder)
                for name in os.listdir(path):
                    if name.startswith(folder):
                        yield path, name
        except FileNotFoundError:
            return  # nothing was put yet
        except OSError as error:
            raise StorageFailed(error.filename or self._directory, "list", str(error)) from error

    def _write(self, path: str, content: bytes) -> None:
        """Have the content under this name, whole; the name itself is not durable yet."""
        temporary = f"{path}.{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"
        # Before the file is there, so that a collection never takes it for one that a crash has left.
        with self._changed:
            self._temporaries.add(temporary)
        try:
            for directory in (self._directory, os.path.dirname(path)):
                with suppress(FileExistsError):
                    os.mkdir(directory, 0o700)
            try:
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    files.write_at(fd, (content,), 0)
                    files.sync_file(fd)
                finally:
                    os.close(fd)
                os.rename(temporary, path)
            except BaseException:
                # Nothing depends on the file yet, so even a failed fsync is over with it.
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            if error.errno in files.FULL:
                raise DiskFull(self._directory) from error
            raise StorageFailed(path, "write", str(error)) from error
        finally:
            with self._changed:
                self._temporaries.discard(temporary)

    def _sync_names(self, folder: str) -> None:
        """Make the names of a file, of its folder and, the first time, of the directory itself durable."""
        directories = [folder, self._directory]
        if not self._directory_is_durable:
            directories.append(os.path.dirname(os.path.abspath(self._directory)))
        for directory in directories:
            try:
                files.sync_directory(directory)
            except OSError as error:
                failure = StorageFailed(directory, "fsync", str(error))
                with self._changed:
                    self._failure = failure
                raise failure from error
        with self._changed:
            self._directory_is_durable = True

    def _raise_if_failed(self) -> None:
        with self._changed:
            if self._failure is not None:
                raise self._failure


def _open_itself(path: str, flags: int) -> int:
    """Open a file, and not what a link under its name leads to."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)


def _unlink(path: str) -> bool:
    """Remove a file; say whether it was there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageFailed(path, "remove", str(error)) from error
    return True


def _is_whole(path: str, content: bytes) -> bool:
    """Say whether the file is there and has this content; one that cannot be read is as good as not there."""
    try:
        with open(path, "rb", opener=_open_itself) as file:
            if os.fstat(file.fileno()).st_size != len(content):
                return False
            rest = memoryview(content)
            while rest:
                piece = file.read(_PIECE_BYTES)
                if not piece or piece != rest[: len(piece)]:
                    return False
                rest = rest[len(piece) :]
    except OSError:
        return False
    return True
