"""Target: values of the platform's kinds, where we read them by their bytes: fields, terms of the indexes, secrets.

The first byte of the input chooses the kind. Protobuf's own parser says what is right.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.support import TRAFFIC
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from stigmer import fields, wire
from stigmer.cli import recordings
from stigmer.errors import InvalidArgument, SecretUnreadable
from stigmer.pb import store_pb2
from stigmer.resources import kinds, manifests, present, rules, sealing, status
from stigmer.resources.kinds import Kind
from stigmer.vault import SEALED_PREFIX
from stigmer.views import terms
from stigmer.views.terms import ALL, Form, Term, term_key

READERS = ("stigmer.resources", "stigmer.views.terms", "stigmer.wire")
_SEALED = SEALED_PREFIX.encode() + b"c2VhbGVk"
TOKENS = (
    _SEALED,
    SEALED_PREFIX.encode(),
    b"\x1a\x04\x12\x02ab",
    b"\x22\x00",
    b"\x2a\x02\x10\x03",
    b"\x0b\x0c",
    b"\x13\x14",
    b"\x80\x80\x80\x80\x10",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xff\xff\xff\xff\x07",
    b"\xed\xa0\x80",
    b"\x80\x00",
    b"\0",
)

_ID = "a-resource"
_EXAMPLES = Path(__file__).parents[3] / "stigmer/resources/examples"
_OPENED = b"the secret"


def one(data: bytes) -> None:
    """Read bytes as a value of a kind, and as the facts of an error."""
    if not data:
        return
    kind, value = _kinds()[data[0] % len(_kinds())], data[1:]
    message: Any = None
    try:
        message = kind.message_class.FromString(value)
    except DecodeError:
        pass
    _check_fields(kind, value, message)
    _check_terms(kind, value, message)
    _check_secrets(kind, value, message)
    if message is not None:
        rules.check(message)
        present.yaml_text(present.as_dict(message))
        present.json_text(present.as_dict(message, show_secrets=True))
        present.summary(message)
    _check_error(value)


def seeds() -> Iterator[bytes]:
    """Give a value of each kind, with sealed texts in what can be sealed, and reports of an agent's run."""
    every = _kinds()
    for path in sorted(_EXAMPLES.glob("*.yaml")):
        for manifest in manifests.parse(path.read_bytes(), path.name):
            first = bytes((every.index(manifest.kind),))
            message = manifest.message
            yield first + message.SerializeToString(deterministic=True)
            for secret in sealing._secrets(message, None, False, ()):
                secret.set(_SEALED)
            yield first + message.SerializeToString(deterministic=True)
    runs = bytes((next(place for place, kind in enumerate(every) if kind.name == "agent_execution"),))
    for number, update in zip(range(3), recordings.frames(str(TRAFFIC / "agent-run-chat.binpb.zst")), strict=False):
        yield runs + update
        yield runs + b"".join(fields.of_message(5, fields.split(update))) + bytes(number)
    detail = store_pb2.ErrorDetail(name="Conflict", message="m", kind="k", id="i", expected_revision=3)
    yield b"\0" + detail.SerializeToString()


@functools.cache
def _kinds() -> list[Kind]:
    return sorted(kinds.all_kinds(), key=lambda kind: kind.name)


# --- fields ------------------------------------------------------------------------------------------------


def _check_fields(kind: Kind, value: bytes, message: Message | None) -> None:
    """Whatever is a message comes apart, and its fields make the same message again."""
    try:
        parts = fields.split(value)
    except InvalidArgument:
        assert not _is_message(value), "a message was refused"
        return
    assert b"".join(fields.join({number: parts[number]}) for number in sorted(parts)) == fields.join(parts)
    assert sum(len(one) for found in parts.values() for one in found) == len(value)
    for number in parts:
        fields.text(parts, number)
        fields.content(parts, number)
        fields.integer(parts, number)
    if message is not None:
        joined = kind.message_class.FromString(fields.join(parts))
        assert _in_order(joined) == _in_order(message)
        if kind.name in status.REPORTS:
            phase: Any = message
            assert status.phase_of(kind.name, value) & 0xFFFFFFFF == phase.status.phase & 0xFFFFFFFF


def _is_message(value: bytes) -> bool:
    """Say whether protobuf takes bytes for a message; its parser here lets fields of number 0 pass, which are none."""
    try:
        unknown = UnknownFieldSet(Empty.FromString(value))
    except DecodeError:
        return False
    return all(field.field_number for field in unknown)


def _same(one: Message, other: Message) -> bool:
    """Compare by bytes: messages that hold a number which is none are never equal."""
    return one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def _in_order(message: Message) -> bytes:
    """Serialize a message with the fields that it does not know between those that it knows."""
    return fields.join(fields.split(message.SerializeToString(deterministic=True)))


# --- terms -------------------------------------------------------------------------------------------------


def _check_terms(kind: Kind, value: bytes, message: Message | None) -> None:
    """The terms of a value are those of the message that it is; of what is none, there is the one of all."""
    found = terms.terms_of(kind.name, value)
    assert list(found) == sorted(set(found))
    if kind.name not in terms.DECLARED:
        assert found == ()
        return
    assert Term(term_key(kind.name, ALL)) in found
    if message is not None and not _hides_labels(message):
        assert found == tuple(sorted(_terms(kind, message)))


def _hides_labels(message: Any) -> bool:
    """Say whether an entry of a map has a field of its own: protobuf's parser here takes such a one out of the map."""
    label = terms.DECLARED["agent"]["label"].numbers[-1]
    return any(field.field_number == label for field in UnknownFieldSet(message.metadata))


def _terms(kind: Kind, message: Message) -> Iterator[Term]:
    yield Term(term_key(kind.name, ALL))
    expected = {}
    for name, path in terms.DECLARED[kind.name].items():
        held = _at(message, path.name)
        if path.form is Form.PAIRS:
            texts = [f"{key}={value}" for key, value in held.items()]
        elif path.form is Form.NUMBER:
            texts = [str(held)] if held else []
        else:
            texts = [held] if isinstance(held, str) else list(held)
        qualifier = b""
        if name in terms.QUALIFIED:
            qualifier = terms._short(_at(message, terms.QUALIFIED[name].name).encode())
        for text in texts[: terms.TEXTS_MAX]:
            if text:
                expected[term_key(kind.name, name, text), qualifier] = None
    yield from (Term(*one) for one in expected)


def _at(message: Any, path: str) -> Any:
    return functools.reduce(getattr, path.split("."), message)


# --- secrets -----------------------------------------------------------------------------------------------


class _Vault:
    """Opens every sealed text that has an even length."""

    def open_sealed(self, kind: str, id: str, text: str) -> bytes:
        if len(text) % 2:
            raise SecretUnreadable(kind, id, "is one of those that cannot be opened")
        return _OPENED


def _check_secrets(kind: Kind, value: bytes, message: Message | None) -> None:
    """Revealing by pieces gives what revealing the whole message gives, and never fails."""
    vault: Any = _Vault()
    revealed = sealing.reveal(kind.name, _ID, value, vault)
    if SEALED_PREFIX.encode() not in value:
        assert revealed is value
    if message is None:
        return
    for secret in sealing._secrets(message, None, False, ()):
        if secret.text.startswith(SEALED_PREFIX) and not len(secret.text) % 2:
            secret.set(_OPENED)
    assert _same(kind.message_class.FromString(revealed), message)


# --- errors ------------------------------------------------------------------------------------------------


def _check_error(value: bytes) -> None:
    """Whatever a daemon tells of an error, a client makes an exception of it that tells the same."""
    try:
        error = wire.error_of(value)
    except DecodeError:
        return
    assert wire.detail_of(wire.error_of(wire.detail_of(error))) == wire.detail_of(error)
