"""The keys of secrets: made before they are used, and destroyed with what they belong to.

Owns `DATA/secrets.keys` and the master key (docs/FORMAT.md, "Secrets"). Each resource that has secrets has a *data key*
of its own, which lies in a slot of the file, wrapped by the master key. A secret is stored as a *sealed text*, which
only its resource's key opens. Knows no resource's message (resources/sealing.py does) and no log.

Invariants:
- A key is on disk before anybody gets it. One whose sync failed is given to nobody.
- Where a slot is lost, so is what its key sealed. A slot is overwritten only when its key was retired or its resource
  is gone, and one that is damaged stays as it is until then. Damage costs the secrets of one resource, never the start.
- A retired key seals nothing any more. Who decides the deletion of a resource retires its keys, and destroys them once
  it is durable: a save that was prepared with such a key meanwhile is refused (`KeyRetired`) and prepared again.
- No key file is ever overwritten, and nothing is made before the first secret.

One process, many threads. Locks are taken in this order: `_making` (the file's size), then `_lock` (what is in it);
`_turn` (who syncs) is taken alone. `_lock` is never held during I/O, so `retire`, and sealing with a key that one
has, are fit for the writer's thread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import heapq
import os
import stat
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stigmer import config, names
from stigmer.errors import (
    Closed,
    DataDirectoryError,
    DiskFull,
    InvalidArgument,
    KeyRetired,
    NewerFormat,
    SecretUnreadable,
    StorageFailed,
)
from stigmer.log import files
from stigmer.log.format import crc32c

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SECRETS_FILE = "secrets.keys"
KEY_FILE = "secret.key"
KEY_VARIABLE = "STIGMER_KEY"

SEALED_PREFIX = "stigmer-sealed:1:"
"""What every sealed text begins with."""

_FORMAT_VERSION = 1
_MAGIC = b"STGMKEYS"
_KEY_BYTES = 32
_NONCE_BYTES = 12
_U32 = struct.Struct("<I")

SLOT_BYTES = 512
_HEADER = struct.Struct("<8sII16s16s12x")
"""Magic, format version, reserved, file id, fingerprint of the master key; then the CRC, then zeros."""
_SLOT = struct.Struct("<HHI16s60s424s")
"""Behind the CRC: state, size of the name, the slot's own number, key id, wrapped key, name."""
_SCAN = struct.Struct("<4xHH4x16s60x424s")
"""What opening looks at: state, size of the name, key id, name."""
_IN_USE = 1
_FREE_SLOT = bytes(SLOT_BYTES)
_SLOTS_ADDED = 128
"""The file grows by so many slots at a time, so that most keys only overwrite what is there."""
_SCAN_BYTES = 2048 * SLOT_BYTES

_SEALED_HEAD = struct.Struct(f"<I16s{_NONCE_BYTES}s")
_TAG_BYTES = 16

_KEY_FILE_BYTES_MAX = 4096
_KEY_FILE_TEXT = (
    "# The master key of a Stigmer store. Who has it can read the store's secrets; without it nobody can.\n{}\n"
)
_LOST_HINT = (
    "put the right key back (STIGMER_KEY, --key-file or {key}); "
    "if it is lost, so are the secrets: move {secrets} away to go on without them"
)


class KeyId(NamedTuple):
    """Which key: the number of its slot, and the random id that tells it from others that were there before."""

    slot: int
    id: bytes


class _Entry(msgspec.Struct, gc=False):
    """What is known of a slot that is in use."""

    name: bytes
    """Of its resource: `kind/id`. That of a damaged slot may be anything."""
    id: bytes
    takers: int = 0
    """How many asked for the key to seal with it, since the vault was opened."""
    is_new: bool = False
    """Whether it was made since then. What was there before may have sealed what is stored."""
    retired: bool = False


class DataKey:
    """A key that lies on disk, opened. It goes on opening what it sealed until it is destroyed."""

    __slots__ = ("_cipher", "_entry", "slot")

    def __init__(self, slot: int, entry: _Entry, cipher: AESGCM) -> None:
        """Only the vault makes them."""
        self.slot = slot
        self._entry = entry
        self._cipher = cipher

    @property
    def id(self) -> KeyId:
        """Which key it is."""
        return KeyId(self.slot, self._entry.id)

    @property
    def retired(self) -> bool:
        """Whether nothing may be sealed with it any more."""
        return self._entry.retired

    def seal(self, plaintext: bytes) -> str:
        """Give the sealed text of a secret: another one each time. Raises `KeyRetired`. Does no I/O."""
        if self._entry.retired:
            raise KeyRetired(*_kind_and_id(self._entry.name))
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, plaintext, self._entry.name)
        head = _SEALED_HEAD.pack(self.slot, self._entry.id, nonce)
        return SEALED_PREFIX + base64.b64encode(head + sealed).decode("ascii")

    def open(self, text: str) -> bytes | None:
        """Give the secret in a sealed text; None where it is none of this key's or is damaged. Does no I/O."""
        sealed = _parse(text)
        return self._open(sealed) if sealed is not None and sealed.key == self.id else None

    def _open(self, sealed: _Sealed) -> bytes | None:
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(sealed.nonce, sealed.ciphertext, self._entry.name)
        except InvalidTag:
            return None


class _Sealed(NamedTuple):
    key: KeyId
    nonce: bytes
    ciphertext: bytes


def _parse(text: str) -> _Sealed | None:
    """Take a sealed text apart; None where it is not one, to the last character."""
    if not text.startswith(SEALED_PREFIX):
        return None
    encoded = text[len(SEALED_PREFIX) :]
    try:
        raw = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    # Base64 has several texts for the same bytes where the last character is not whole; only one of them is ours.
    if len(raw) < _SEALED_HEAD.size + _TAG_BYTES or base64.b64encode(raw).decode("ascii") != encoded:
        return None
    slot, id, nonce = _SEALED_HEAD.unpack_from(raw)
    return _Sealed(KeyId(slot, id), nonce, raw[_SEALED_HEAD.size :])


def is_sealed(text: str) -> bool:
    """Say whether a text has the form of a sealed text; whether it opens is another question."""
    return _parse(text) is not None


def _name(kind: str, id: str) -> bytes:
    names.check(kind, id)
    return f"{kind}/{id}".encode()


def _kind_and_id(name: bytes) -> tuple[str, str]:
    kind, _, id = name.decode("utf-8", "replace").partition("/")
    return kind, id


class Vault:
    """The data keys of one data directory, whose lock the caller holds."""

    def __init__(self, directory: str, key_path: str, master: _Master | None) -> None:
        """Use `Vault.open`."""
        self.path = os.path.join(directory, SECRETS_FILE)
        self._directory = directory
        self._key_path = key_path
        self._making = threading.Lock()
        """Guards the making of the file and its growth."""
        self._slot_count = 1
        self._lock = threading.Lock()
        """Guards what follows."""
        self._fd = -1
        self._closed = False
        self._salt = 0
        self._master = master
        self._entries: dict[int, _Entry] = {}
        self._slots_of: dict[bytes, tuple[int, ...]] = {}
        self._free: list[int] = []
        self._opened: OrderedDict[int, DataKey] = OrderedDict()
        self._turn = threading.Condition()
        """Guards what follows: who syncs, and what is synced."""
        self._written = 0
        self._synced = 0
        self._syncing = False
        self._failure: tuple[str, str] | None = None

    @classmethod
    def open(cls, directory: str, key_file: str | None, environ: MutableMapping[str, str]) -> Vault:
        """Open the keys of a data directory; where there are none yet, nothing is made before the first secret.

        The master key is `STIGMER_KEY` in `environ` (the base64 of 32 bytes), which is taken out of there so that no
        child process gets it; else it is in `key_file`; else in `secret.key` of the directory. Raises `InvalidArgument`
        for a `STIGMER_KEY` that is no key, `NewerFormat`, and `DataDirectoryError` where a key file cannot be used, is
        missing, or is not that of these secrets.
        """
        given = environ.pop(KEY_VARIABLE, "")
        key_path = os.path.abspath(key_file) if key_file else os.path.join(directory, KEY_FILE)
        if given:
            master: _Master | None = _Master(_given_key(given), KEY_VARIABLE)
        else:
            master = _read_key_file(directory, key_path)
        vault = cls(directory, key_path, master)
        try:
            vault._open_file()
        except BaseException:
            vault.close()
            raise
        return vault

    @classmethod
    def without_keys(cls, directory: str) -> Vault:
        """Make the vault that opens nothing, to read a data directory whose secrets are not asked for."""
        vault = cls(directory, "", None)
        vault.close()
        return vault

    @property
    def master_key_place(self) -> str:
        """Where the master key is, or will be, in words for people."""
        with self._lock:
            master = self._master
        given = master is not None and master.origin == KEY_VARIABLE
        return f"the environment ({KEY_VARIABLE})" if given else self._key_path

    def close(self) -> None:
        """Forget every key and close the file. Nobody may be using the vault."""
        with self._making, self._lock:
            self._closed = True
            self._opened.clear()
            self._master = None
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # --- keys ------------------------------------------------------------------------------------------------

    def key_for(self, kind: str, id: str) -> DataKey:
        """Give the key to seal a resource's secrets with; makes one, durably, where the resource has none."""
        name = _name(kind, id)
        for slot, entry in self._entries_of(name):
            key = self._key(slot, entry)
            with self._lock:
                if key is not None and not entry.retired:
                    entry.takers += 1
                    return key
        return self._make(name)

    def new_key(self, kind: str, id: str) -> DataKey:
        """Make a further key for a resource, durable when it is given.

        Raises `DiskFull`, after which one can try again, and `StorageFailed`, after which the vault makes no more keys.
        """
        return self._make(_name(kind, id))

    def keys_of(self, kind: str, id: str) -> tuple[DataKey, ...]:
        """Give every key of a resource that can be opened, the retired ones too."""
        keys = [self._key(slot, entry) for slot, entry in self._entries_of(_name(kind, id))]
        return tuple(key for key in keys if key is not None)

    def retire(self, kind: str, id: str) -> tuple[KeyId, ...]:
        """Let nothing be sealed any more with the keys that a resource has now; give them, for `destroy`.

        For the operation that decides the deletion. Does no I/O and can be repeated. Where the deletion is not
        committed after all, what is sealed can still be read, and the next secret gets a new key.
        """
        with self._lock:
            return tuple(self._retire(slot) for slot in self._slots_of.get(_name(kind, id), ()))

    def _retire(self, slot: int) -> KeyId:
        entry = self._entries[slot]
        entry.retired = True
        return KeyId(slot, entry.id)

    def destroy(self, keys: Iterable[KeyId]) -> int:
        """Overwrite keys with zeros, durably; give how many were there. What they sealed can never be read again.

        Raises `DiskFull` or `StorageFailed`; the keys are no longer used then, and the next `sweep` destroys them.
        """
        return self._overwrite(keys, durably=True)

    def discard(self, key: DataKey) -> None:
        """Free a key that was made for a save that was not made; one that was there before, or that somebody else took
        too, is kept.

        Never fails, for its caller has an error of its own to tell: what stays, or what a power cut brings back, the
        next `sweep` destroys.
        """
        with self._lock:
            entry = key._entry
            if not entry.is_new or entry.takers != 1 or self._entries.get(key.slot) is not entry:
                return
            retired = self._retire(key.slot)
        try:
            self._overwrite((retired,), durably=False)
        except (Closed, DiskFull, StorageFailed):
            pass

    def sweep(self, exists: Callable[[str, str], bool]) -> int:
        """Destroy the keys of resources that do not exist; give how many.

        For the start: after a crash there are keys whose resource was not saved any more, or was deleted just before. A
        key that somebody took to seal with since the vault was opened is left alone, so calls may be served meanwhile.
        """
        with self._lock:
            found = list(self._entries.items())
        gone: list[KeyId] = []
        for slot, entry in found:
            if entry.takers == 0 and not _exists(entry.name, exists):
                with self._lock:
                    if entry.takers == 0 and self._entries.get(slot) is entry:
                        gone.append(self._retire(slot))
        return self.destroy(gone)

    # --- secrets -----------------------------------------------------------------------------------------------

    def seal(self, key: DataKey, kind: str, id: str, plaintext: bytes) -> str:
        """Give the sealed text of a secret of a resource, whose key it must be. Raises `KeyRetired`. Does no I/O."""
        if key._entry.name != _name(kind, id):
            raise ValueError(f"the key is not one of {kind} {names.shown(id)}")
        return key.seal(plaintext)

    def open_sealed(self, kind: str, id: str, text: str) -> bytes:
        """Give the secret in a sealed text of a resource.

        Raises `SecretUnreadable` where its key is gone or damaged, and where the text is damaged or another resource's.
        """
        name = _name(kind, id)
        sealed = _parse(text)
        if sealed is None:
            raise SecretUnreadable(kind, id, "it is not a whole sealed text")
        with self._lock:
            entry = self._entries.get(sealed.key.slot)
        if entry is None or entry.id != sealed.key.id:
            raise SecretUnreadable(kind, id, "its key was destroyed or is damaged")
        if entry.name != name:
            raise SecretUnreadable(kind, id, "it was sealed for another resource, or its key is damaged")
        key = self._key(sealed.key.slot, entry)
        if key is None:
            raise SecretUnreadable(kind, id, "its key was destroyed or is damaged")
        plaintext = key._open(sealed)
        if plaintext is None:
            raise SecretUnreadable(kind, id, "it is damaged")
        return plaintext

    # --- slots -------------------------------------------------------------------------------------------------

    def _entries_of(self, name: bytes) -> list[tuple[int, _Entry]]:
        with self._lock:
            return [(slot, self._entries[slot]) for slot in self._slots_of.get(name, ())]

    def _key(self, slot: int, entry: _Entry) -> DataKey | None:
        """Give the key in a slot, opened; None where it is damaged or was destroyed meanwhile."""
        with self._lock:
            if self._entries.get(slot) is not entry:
                return None
            if (key := self._opened.get(slot)) is not None:
                self._opened.move_to_end(slot)
                return key
            fd, master, salt = self._fd, self._master, self._salt
        if fd < 0 or master is None:
            raise Closed("vault")
        cipher = _unwrap(files.read_at(fd, SLOT_BYTES, slot * SLOT_BYTES), slot, entry, master, salt)
        if cipher is None:
            return None
        key = DataKey(slot, entry, cipher)
        self._keep(key)
        return key

    def _keep(self, key: DataKey) -> None:
        with self._lock:
            # Destroyed in between: it must not come back by way of the cache.
            if self._entries.get(key.slot) is not key._entry:
                return
            self._opened[key.slot] = key
            if len(self._opened) > config.SECRET_KEYS_OPEN_MAX:
                self._opened.popitem(last=False)

    def _make(self, name: bytes) -> DataKey:
        slot = self._reserve()
        with self._lock:
            fd, master, salt = self._fd, self._master, self._salt
        if fd < 0 or master is None:
            raise Closed("vault")
        cipher_class = _aesgcm()
        data_key = cipher_class.generate_key(8 * _KEY_BYTES)
        entry = _Entry(name, os.urandom(16), takers=1, is_new=True)
        nonce = os.urandom(_NONCE_BYTES)
        wrapped = nonce + master.cipher.encrypt(nonce, data_key, _wrapping_data(slot, entry))
        record = _SLOT.pack(_IN_USE, len(name), slot, entry.id, wrapped, name)
        try:
            self._write(fd, _U32.pack(crc32c(salt, record)) + record, slot)
        except BaseException:
            # Nobody has the key. Whatever of it reached the file is overwritten by the next one, or swept.
            self._give_back((slot,))
            raise
        self._sync(fd)
        key = DataKey(slot, entry, cipher_class(data_key))
        with self._lock:
            self._entries[slot] = entry
            self._slots_of[name] = (*self._slots_of.get(name, ()), slot)
        self._keep(key)
        return key

    def _reserve(self) -> int:
        """Take a free slot, and make the file, or make it larger, where there is none."""
        with self._making:
            self._check_usable()
            if self._fd < 0:
                self._create_file()
            with self._lock:
                if self._free:
                    return heapq.heappop(self._free)
            self._grow()
            with self._lock:
                return heapq.heappop(self._free)

    def _give_back(self, slots: Iterable[int]) -> None:
        with self._lock:
            for slot in slots:
                heapq.heappush(self._free, slot)

    def _overwrite(self, keys: Iterable[KeyId], *, durably: bool) -> int:
        slots: list[int] = []
        with self._lock:
            for key in keys:
                entry = self._entries.get(key.slot)
                # Destroyed before, and the slot may have another key by now.
                if entry is None or entry.id != key.id:
                    continue
                entry.retired = True
                self._opened.pop(key.slot, None)
                del self._entries[key.slot]
                rest = tuple(slot for slot in self._slots_of[entry.name] if slot != key.slot)
                if rest:
                    self._slots_of[entry.name] = rest
                else:
                    del self._slots_of[entry.name]
                slots.append(key.slot)
            fd = self._fd
        if not slots:
            return 0
        self._check_usable()
        for slot in slots:
            self._write(fd, _FREE_SLOT, slot)
        if durably:
            self._sync(fd)
        # Only now: a slot that is given away again must not be zeroed behind its new key.
        self._give_back(slots)
        return len(slots)

    # --- the file ----------------------------------------------------------------------------------------------

    def _check_usable(self) -> None:
        with self._turn:
            failure = self._failure
        if failure is not None:
            raise StorageFailed(self.path, *failure)
        if self._closed:
            raise Closed("vault")

    def _write(self, fd: int, content: bytes, slot: int) -> None:
        try:
            files.write_at(fd, (content,), slot * SLOT_BYTES)
        except OSError as error:
            if error.errno in files.FULL:
                raise DiskFull(self.path) from error
            raise self._fail("write", error) from error

    def _sync(self, fd: int) -> None:
        """Make what this thread has written durable. Threads that come while one syncs share the next sync."""
        with self._turn:
            self._written += 1
            mine = self._written
            while self._failure is None and self._synced < mine and self._syncing:
                self._turn.wait()
            if self._failure is not None:
                raise StorageFailed(self.path, *self._failure)
            if self._synced >= mine:
                return
            self._syncing = True
            until = self._written
        synced = False
        try:
            files.sync_data(fd)
            synced = True
        except OSError as error:
            # "No room" too: what of the pages is on disk after this, nobody knows.
            raise self._fail("fdatasync", error) from error
        finally:
            with self._turn:
                self._syncing = False
                if synced:
                    self._synced = until
                self._turn.notify_all()

    def _fail(self, operation: str, error: OSError) -> StorageFailed:
        """Use the file for nothing but reading from now on: what it holds after this is not known."""
        cause = error.strerror or str(error)
        with self._turn:
            if self._failure is None:
                self._failure = (operation, cause)
        return StorageFailed(self.path, operation, cause)

    def _create_file(self) -> None:
        """Make the file, and before it the master key where that is to be made."""
        master = self._master
        if master is None:
            master = _make_key_file(self._directory, self._key_path)
        file_id = os.urandom(16)
        header = _HEADER.pack(_MAGIC, _FORMAT_VERSION, 0, file_id, _fingerprint(master, file_id))
        slot = (header + _U32.pack(crc32c(0, header))).ljust(SLOT_BYTES, b"\0")
        try:
            fd = files.create(self.path, slot + _FREE_SLOT * (_SLOTS_ADDED - 1))
        except OSError as error:
            if error.errno in files.FULL:
                raise DiskFull(self.path) from error
            raise DataDirectoryError(
                self._directory,
                f"takes no keys: {error.strerror} ({self.path})",
                hint="check the directory's permissions",
            ) from error
        with self._lock:
            self._fd, self._master, self._salt = fd, master, crc32c(0, file_id)
            self._free = list(range(1, _SLOTS_ADDED))
        self._slot_count = _SLOTS_ADDED

    def _grow(self) -> None:
        first, behind = self._slot_count, self._slot_count + _SLOTS_ADDED
        try:
            self._write(self._fd, _FREE_SLOT * _SLOTS_ADDED, first)
        except DiskFull:
            os.ftruncate(self._fd, first * SLOT_BYTES)
            raise
        # The sync of the first key in them makes the new slots durable too.
        self._slot_count = behind
        self._give_back(range(first, behind))

    def _open_file(self) -> None:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataDirectoryError(
                self._directory, f"has keys that cannot be opened: {error.strerror} ({self.path})"
            ) from error
        self._fd = fd
        file_id = self._check_header(files.read_at(fd, SLOT_BYTES, 0))
        self._salt = crc32c(0, file_id)
        offset = SLOT_BYTES
        while block := files.read_at(fd, _SCAN_BYTES, offset):
            # What is behind the last whole slot is an unfinished growth.
            self._scan(block[: len(block) // SLOT_BYTES * SLOT_BYTES], offset // SLOT_BYTES)
            offset += len(block)
        self._slot_count = offset // SLOT_BYTES

    def _check_header(self, data: bytes) -> bytes:
        """Give the id of the file. Raises what `open` raises."""
        lost = _LOST_HINT.format(key=self._key_path, secrets=self.path)
        if len(data) == SLOT_BYTES and data.startswith(_MAGIC):
            _magic, version, _reserved, file_id, fingerprint = _HEADER.unpack_from(data)
            if _U32.unpack_from(data, _HEADER.size)[0] == crc32c(0, data[: _HEADER.size]):
                if version > _FORMAT_VERSION:
                    raise NewerFormat(self.path, version, _FORMAT_VERSION)
                if self._master is None:
                    raise DataDirectoryError(
                        self._directory, f"has secrets, and their key file is missing: {self._key_path}", hint=lost
                    )
                if fingerprint != _fingerprint(self._master, file_id):
                    raise DataDirectoryError(
                        self._directory,
                        f"has secrets of another master key than that of {self._master.origin}",
                        hint=lost,
                    )
                if not any(data[_HEADER.size + 4 :]):
                    return bytes(file_id)
        raise DataDirectoryError(
            self._directory,
            f"has keys of secrets whose header is damaged: {self.path}",
            hint="restore this file from a backup; or move it away, which loses the secrets",
        )

    def _scan(self, block: bytes, first: int) -> None:
        """Take in what is in some slots. Checksums are looked at when a key is opened: most never are."""
        entries, slots_of, free = self._entries, self._slots_of, self._free
        for slot, (state, size, id, padded) in enumerate(_SCAN.iter_unpack(block), first):
            if not state:
                at = (slot - first) * SLOT_BYTES
                if block[at : at + SLOT_BYTES] == _FREE_SLOT:
                    free.append(slot)  # in their order, which is a heap
                    continue
            name = padded[:size]
            entries[slot] = _Entry(name, id)
            slots_of[name] = (*slots_of[name], slot) if name in slots_of else (slot,)


def _exists(name: bytes, exists: Callable[[str, str], bool]) -> bool:
    """Ask whether a resource exists; a name that is damaged is that of none."""
    try:
        kind, separator, id = name.decode().partition("/")
        if not separator:
            return False
        names.check(kind, id)
    except (UnicodeDecodeError, InvalidArgument):
        return False
    return exists(kind, id)


# --- wrapping ----------------------------------------------------------------------------------------------


class _Master:
    """The master key and where it came from. The cipher is made at its first use: its library is slow to import."""

    def __init__(self, key: bytes, origin: str) -> None:
        self._key = key
        self.origin = origin
        self._cipher: AESGCM | None = None

    def digest(self, data: bytes) -> bytes:
        """Give 16 bytes that only this key gives for that data."""
        return hashlib.blake2b(data, key=self._key, digest_size=16, person=b"stigmer-master").digest()

    @property
    def cipher(self) -> AESGCM:
        """The cipher that wraps data keys."""
        if self._cipher is None:
            self._cipher = _aesgcm()(self._key)
        return self._cipher


def _aesgcm() -> type[AESGCM]:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM


def _fingerprint(master: _Master, file_id: bytes) -> bytes:
    return master.digest(file_id)


def _wrapping_data(slot: int, entry: _Entry) -> bytes:
    return _U32.pack(slot) + entry.id + entry.name


def _unwrap(data: bytes, slot: int, entry: _Entry, master: _Master, salt: int) -> AESGCM | None:
    """Open the key in the bytes of a slot; None where they are damaged or no longer what they were."""
    from cryptography.exceptions import InvalidTag

    if len(data) != SLOT_BYTES or _U32.unpack_from(data)[0] != crc32c(salt, data[4:]):
        return None
    _state, _size, _slot, _id, wrapped, _name = _SLOT.unpack_from(data, 4)
    try:
        # Where the slot has another key by now, or was moved here from elsewhere, the additional data do not fit.
        data_key = master.cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], _wrapping_data(slot, entry))
    except InvalidTag:
        return None
    return _aesgcm()(data_key)


# --- the master key ----------------------------------------------------------------------------------------


def master_key_place(directory: str, key_file: str | None, environ: Mapping[str, str]) -> str:
    """Say where the master key of a data directory is, by what `Vault.open` would be given."""
    if environ.get(KEY_VARIABLE):
        return f"the environment ({KEY_VARIABLE})"
    return os.path.abspath(key_file) if key_file else os.path.join(directory, KEY_FILE)


def _decoded_key(text: str) -> bytes | None:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == _KEY_BYTES else None


def _given_key(text: str) -> bytes:
    key = _decoded_key(text)
    if key is None:
        # What it is instead is not told: it may be a key with a slip in it.
        raise InvalidArgument(KEY_VARIABLE, "is not the base64 of 32 bytes", hint="make one: openssl rand -base64 32")
    return key


def _read_key_file(directory: str, path: str) -> _Master | None:
    """Read the master key; None where there is no such file. Raises `DataDirectoryError` where it cannot be used."""

    def unusable(problem: str, hint: str) -> DataDirectoryError:
        return DataDirectoryError(directory, f"cannot use the key file {path}: {problem}", hint=hint)

    try:
        # Not to wait for a writer, should it be a pipe.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable(
            error.strerror or str(error), "give yourself access to it, or name another with --key-file"
        ) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise unusable("it is not a file", "name a file with --key-file")
        if status.st_mode & 0o077:
            raise unusable(
                f"others have access to it (mode {stat.S_IMODE(status.st_mode):04o})",
                f"chmod 600 {path}; if others may have read it, take the secrets in it for known",
            )
        content = os.read(fd, _KEY_FILE_BYTES_MAX)
    finally:
        os.close(fd)
    lines = [line for line in content.decode("ascii", "replace").splitlines() if line and not line.startswith("#")]
    key = _decoded_key(lines[0]) if len(lines) == 1 else None
    if key is None:
        raise unusable("it does not hold the base64 of 32 bytes", "restore it from a backup; it is not made anew")
    return _Master(key, path)


def _make_key_file(directory: str, path: str) -> _Master:
    """Make a master key, durably and readable by us alone; where somebody was quicker, theirs is taken."""
    existing = _read_key_file(directory, path)
    if existing is not None:
        return existing
    key = os.urandom(_KEY_BYTES)
    # Several daemons may share a key file, so each has a temporary name of its own.
    temporary = f"{path}.{os.getpid()}.new"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            files.write_at(fd, (_KEY_FILE_TEXT.format(base64.b64encode(key).decode("ascii")).encode(),), 0)
            files.sync_file(fd)
            # A link, unlike a renaming, never takes the place of what is there.
            os.link(temporary, path)
        except FileExistsError:
            existing = _read_key_file(directory, path)
        finally:
            os.close(fd)
            os.unlink(temporary)
        files.sync_directory(os.path.dirname(path))
    except OSError as error:
        if error.errno in files.FULL:
            raise DiskFull(path) from error
        raise DataDirectoryError(
            directory,
            f"cannot use the key file {path}: it is not there and cannot be made: {error.strerror}",
            hint="make its directory, or name another with --key-file",
        ) from error
    return existing if existing is not None else _Master(key, path)
