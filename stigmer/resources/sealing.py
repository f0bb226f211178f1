"""Secrets of messages: sealed before they are stored, opened after they are read.

Owns which values of a message are sealed: those that `present` masks, by the options beside their fields. A sealed text
stands where the secret stood, in a string as it is, in bytes as its ASCII. What is empty stays empty.

Invariants:
- A secret that is stored already keeps its sealed text, byte for byte, so what changes nothing changes no byte.
- A sealed text means something only in a field that holds a secret; elsewhere it is text like any other. What a client
  sends is a secret too, whatever it looks like, unless it is the very text that is stored in that place.
- Whatever else a message holds stays: unknown fields, numbers of enums without a name.
- Nothing that is stored makes `reveal` fail. What cannot be opened is given as it is stored.

Keys are made in `prepare`, before the writer's thread decides the commit; `Sealer.seal` runs there and does no I/O.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from stigmer.codec import value_bytes, varint
from stigmer.errors import InvalidArgument, SecretUnreadable
from stigmer.resources import kinds, options, paths
from stigmer.resources.options import MASK
from stigmer.vault import SEALED_PREFIX, DataKey, Vault, is_sealed

_MARKER = SEALED_PREFIX.encode("ascii")
_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
"""The sizes of what has a fixed one, by its wire type."""
_VARINT_BYTES_MAX = 10


@functools.cache
def may_hold_secrets(kind: str) -> bool:
    """Say whether resources of a kind, as the store's keys have it, can hold secrets at all."""
    known = _known(kind)
    return known is not None and bool(_fields_to_secrets(known.descriptor))


def _known(kind: str) -> kinds.Kind | None:
    known = kinds.find(kind)
    # The store takes any name: "agents" is another kind there, of which nothing is known.
    return known if known is not None and known.name == kind else None


# --- the walk ------------------------------------------------------------------------------------------------


@functools.cache
def _fields_to_secrets(message: Descriptor) -> tuple[FieldDescriptor, ...]:
    """Give the fields of a message that can hold a secret, themselves or further inside."""
    return tuple(field for field in message.fields if options.secret_of(field) or _leads_to_secrets(field))


def _leads_to_secrets(field: FieldDescriptor) -> bool:
    waiting = [_message_in(field)]
    seen: set[str] = set()
    while waiting:
        inner = waiting.pop()
        if inner is None or inner.full_name in seen:
            continue
        seen.add(inner.full_name)
        if any(options.secret_of(one) for one in inner.fields):
            return True
        waiting += map(_message_in, inner.fields)
    return False


def _message_in(field: FieldDescriptor) -> Descriptor | None:
    inner: Descriptor | None = (options.map_value(field) if options.is_map(field) else field).message_type
    return inner


class _Secret(NamedTuple):
    """A place of a message that holds a secret, and what is stored in the same place."""

    message: Any
    field: FieldDescriptor
    path: paths.Path
    stored: str
    """As text; empty where nothing is stored there, or nothing that is a secret."""
    stored_plaintext: bytes
    """The same as it is, for where it is not sealed."""

    @property
    def text(self) -> str:
        """The value; of bytes, what a sealed text among them would be."""
        return _as_text(getattr(self.message, self.field.name))

    @property
    def plaintext(self) -> bytes:
        return _as_bytes(getattr(self.message, self.field.name))

    def set(self, value: bytes) -> None:
        """Put a value in; raises `UnicodeDecodeError` where the field takes text and this is none."""
        is_bytes = self.field.type == FieldDescriptor.TYPE_BYTES
        setattr(self.message, self.field.name, value if is_bytes else value.decode())


def _as_text(value: str | bytes) -> str:
    # Bytes that are no ASCII are no sealed text either; what they become here is only compared.
    return value.decode("ascii", "backslashreplace") if isinstance(value, bytes) else value


class _Place(NamedTuple):
    """A field on the way to secrets: what the walk needs of its descriptor, which is slow to ask."""

    field: FieldDescriptor
    name: str
    holds_messages: bool
    is_map: bool
    is_repeated: bool
    is_always_secret: bool


class _Way(NamedTuple):
    """The fields of a message that lead to secrets."""

    places: tuple[_Place, ...]
    has_flag: bool
    """Whether the message says itself if one of them is a secret."""


@functools.cache
def _way(message: Descriptor) -> _Way:
    places = tuple(
        _Place(
            field,
            field.name,
            _message_in(field) is not None,
            options.is_map(field),
            field.is_repeated,
            options.secret_of(field) == options.ALWAYS_SECRET,
        )
        for field in _fields_to_secrets(message)
    )
    return _Way(places, options.FLAG_FIELD in message.fields_by_name)


def _as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _secrets(message: Message, stored: Message | None, all_secret: bool, path: paths.Path) -> Iterator[_Secret]:
    """Give every secret of a message that is not empty, in the order of the fields."""
    here: Any = message
    there: Any = stored
    way = _way(options.descriptor_of(message))
    flagged = way.has_flag and options.is_flagged(message)
    stored_flagged = way.has_flag and options.is_flagged(stored)
    for place in way.places:
        field, name = place.field, place.name
        if not place.holds_messages:
            if options.hides(field, flagged=flagged, all_secret=all_secret) and getattr(here, name):
                was = there is not None and options.hides(field, flagged=stored_flagged, all_secret=all_secret)
                stored_value = getattr(there, name) if was else ""
                yield _Secret(here, field, (*path, name), _as_text(stored_value), _as_bytes(stored_value))
            continue
        inside = all_secret or place.is_always_secret
        for inner, stored_inner, part in _inner_messages(here, there, place):
            yield from _secrets(inner, stored_inner, inside, (*path, name, *part))


def _inner_messages(here: Any, there: Any, place: _Place) -> Iterator[tuple[Any, Any, paths.Path]]:
    """Give the messages in a field, each with the one that is stored in its place, and its place in the field."""
    name = place.name
    value = getattr(here, name)
    stored = getattr(there, name) if there is not None else None
    if place.is_map:
        for key in sorted(value):
            # To look up what is not in a map would put it there.
            yield value[key], stored[key] if stored is not None and key in stored else None, (str(key),)
    elif place.is_repeated:
        for index, entry in enumerate(value):
            yield entry, stored[index] if stored is not None and index < len(stored) else None, (index,)
    elif here.HasField(name):
        yield value, stored, ()


def holds_secrets(message: Message) -> bool:
    """Say whether a message has a secret in it."""
    return any(True for _ in _secrets(message, None, False, ()))


def unmask(message: Message, stored: Message) -> list[paths.Path]:
    """Replace every mask that stands for a secret by the secret of `stored` in that place, in place.

    Both have readable secrets. Gives the places of the masks that stay, because no secret is stored there, or because
    what would take its place would be no secret any more.
    """
    for secret in _secrets(message, stored, False, ()):
        if secret.plaintext == MASK.encode() and secret.stored_plaintext:
            secret.set(secret.stored_plaintext)
    return [one.path for one in _secrets(message, None, True, ()) if one.plaintext == MASK.encode()]


# --- sealing -------------------------------------------------------------------------------------------------


class Sealer:
    """What the saving of one resource's secrets needs, made ready."""

    def __init__(self, vault: Vault, keys: tuple[DataKey, ...], key: DataKey | None) -> None:
        """Use `prepare`. `keys` open what is stored, `key` seals what is new."""
        self._vault = vault
        self._keys = keys
        self._key = key

    @property
    def has_key(self) -> bool:
        """Whether there is something to seal, so that it is good for the one resource that it was prepared for."""
        return self._key is not None

    def seal(self, message: Message, stored: Message | None) -> None:
        """Replace every secret of a message by its sealed text, in place; `stored` is the message that is stored now.

        Does no I/O and can be repeated on other messages of the same resource. Raises `KeyRetired` where the resource
        was deleted since `prepare`, which is then to be called again.
        """
        if self._key is None and stored is None:
            return  # `prepare` has looked through it
        for secret in _secrets(message, stored, False, ()):
            if self._is_stored(secret):
                secret.set(secret.stored.encode("ascii"))
            elif self._key is not None:
                secret.set(self._key.seal(secret.plaintext).encode("ascii"))
            elif secret.text != secret.stored:
                # What is stored unsealed, from before there were keys, may stay: then `prepare` did not see it.
                raise ValueError(f"{paths.text(secret.path)} holds a secret, and none was there in prepare")

    def _is_stored(self, secret: _Secret) -> bool:
        """Say whether a secret is what is stored, sealed, in its place: the same text, or a text of the same."""
        if not is_sealed(secret.stored):
            return False
        if secret.text == secret.stored:
            return True
        return any(key.open(secret.stored) == secret.plaintext for key in self._keys)

    def discard(self) -> None:
        """Free the key where it was made for this save alone. For a save that was certainly not made."""
        if self._key is not None:
            self._vault.discard(self._key)


def prepare(kind: str, id: str, message: Message, vault: Vault) -> Sealer:
    """Make ready to seal the secrets of a message; where it has any and its resource no key yet, makes one, durably.

    Raises `InvalidArgument` for a secret that is the mask which stands for one, `DiskFull` and `StorageFailed`.
    """
    if not may_hold_secrets(kind):
        return Sealer(vault, (), None)
    any_secret = False
    for secret in _secrets(message, None, False, ()):
        any_secret = True
        if secret.plaintext == MASK.encode():
            raise InvalidArgument(
                paths.text(secret.path),
                "is the text that stands for a secret, not the secret",
                hint="send the secret itself, or what is stored in its place",
            )
    if not any_secret:
        return Sealer(vault, (), None)
    return Sealer(vault, vault.keys_of(kind, id), vault.key_for(kind, id))


def seal(message: Message, kind: str, id: str, vault: Vault, stored: Message | None) -> None:
    """Replace every secret of a message by its sealed text, in place. For where nobody else writes meanwhile."""
    prepare(kind, id, message, vault).seal(message, stored)


# --- opening -------------------------------------------------------------------------------------------------


def reveal(kind: str, id: str, value: bytes, vault: Vault) -> bytes:
    """Give a stored value with its secrets readable; the very same object where there is nothing to open.

    A secret that cannot be opened any more is left as it is stored, as is a value that is not its kind's message.
    """
    if _MARKER not in value or not may_hold_secrets(kind):
        return value
    known = _known(kind)
    if known is None:
        return value
    parts = _cut(value)
    if parts is None:
        opened = _opened(kind, id, known.descriptor, False, value, vault)
        return value if opened is None else opened
    fields = {field.number: field for field in _fields_to_secrets(known.descriptor)}
    pieces: list[bytes] = []
    copied = 0
    for part in parts:
        field = fields.get(part.number)
        inner = _message_in(field) if field is not None else None
        # Only what has a sealed text is parsed: spec with a few variables, and not a status of some hundred kilobytes.
        if field is None or inner is None or value.find(_MARKER, part.start, part.end) < 0:
            continue
        all_secret = options.secret_of(field) == options.ALWAYS_SECRET
        opened = _opened(kind, id, inner, all_secret, value[part.start : part.end], vault)
        if opened is not None:
            pieces += (
                value[copied : part.tag],
                varint(part.number << 3 | _LENGTH_DELIMITED),
                varint(len(opened)),
                opened,
            )
            copied = part.end
    return b"".join((*pieces, value[copied:])) if pieces else value


def _opened(kind: str, id: str, descriptor: Descriptor, all_secret: bool, body: bytes, vault: Vault) -> bytes | None:
    """Give a serialized message with its secrets opened; None where none was, or the bytes are no such message."""
    try:
        message = GetMessageClass(descriptor).FromString(body)
    except DecodeError:
        return None
    changed = False
    for secret in _secrets(message, None, all_secret, ()):
        if secret.text.startswith(SEALED_PREFIX):
            try:
                secret.set(vault.open_sealed(kind, id, secret.text))
                changed = True
            except (SecretUnreadable, UnicodeDecodeError):
                continue
    return value_bytes(message) if changed else None


class _Part(NamedTuple):
    """A field with a length, of a serialized message: where its tag, its content and its end are."""

    number: int
    tag: int
    start: int
    end: int


def _cut(value: bytes) -> list[_Part] | None:
    """Find the fields of a serialized message that have a length; None where the bytes are none, or have groups.

    https://protobuf.dev/programming-guides/encoding/#structure
    """
    parts: list[_Part] = []
    at, end = 0, len(value)
    while at < end:
        tag_at = at
        if (tag := _read_varint(value, at)) is None:
            return None
        key, at = tag
        number, wire_type = key >> 3, key & 7
        if wire_type in (_VARINT, _LENGTH_DELIMITED):
            if (read := _read_varint(value, at)) is None:
                return None
            length, at = read
            if wire_type == _LENGTH_DELIMITED:
                parts.append(_Part(number, tag_at, at, at + length))
                at += length
        elif wire_type in _FIXED_BYTES:
            at += _FIXED_BYTES[wire_type]
        else:
            return None
    return parts if at == end else None


def _read_varint(data: bytes, at: int) -> tuple[int, int] | None:
    """Read a varint; give it with the offset behind it."""
    number = shift = 0
    for byte in data[at : at + _VARINT_BYTES_MAX]:
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    return None
