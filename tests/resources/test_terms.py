"""What is indexed is what the platform's messages call so, and every value gives terms."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest
from checks import deterministic
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from stigmer.errors import InvalidArgument
from stigmer.resources import kinds, options
from stigmer.views import terms
from stigmer.views.terms import DECLARED, QUALIFIED, Form, Path, term_key, terms_of

# Our own kinds, whose values are the messages of another.
HOLDS = {"skill_version": "skill", "skill_tag": "skill"}
EVERY_PATH = [
    (kind, index, path)
    for kind, paths in DECLARED.items()
    for index, path in [
        *paths.items(),
        *((f"{index}'s qualifier", QUALIFIED[index]) for index in paths if index in QUALIFIED),
    ]
]


def message_class(kind: str) -> type[Message]:
    """Give the generated class of a declared kind's values."""
    found = kinds.find(HOLDS.get(kind, kind))
    assert found is not None
    return found.message_class


def form_of(field: FieldDescriptor) -> Form:
    """Give the form of a field of the generated messages."""
    if options.is_map(field):
        assert options.map_value(field).type == FieldDescriptor.TYPE_STRING
        return Form.PAIRS
    if field.type == FieldDescriptor.TYPE_ENUM:
        return Form.NUMBER
    assert field.type == FieldDescriptor.TYPE_STRING
    return Form.TEXTS if field.is_repeated else Form.TEXT


@pytest.mark.parametrize(
    ("kind", "index", "path"), EVERY_PATH, ids=lambda one: one.name if isinstance(one, Path) else one
)
def test_numbers_lead_to_the_field_of_that_name(kind: str, index: str, path: Path) -> None:
    """Every declared way of numbers is the way of names beside it, to a field of the declared form."""
    descriptor: Descriptor = message_class(kind).DESCRIPTOR
    names = path.name.split(".")
    assert len(names) == len(path.numbers)
    for name, number in zip(names, path.numbers, strict=True):
        field = descriptor.fields_by_number[number]
        assert field.name == name
        descriptor = field.message_type
    assert form_of(field) == path.form


def test_every_kind_of_the_platform_is_declared() -> None:
    """The kinds of the contract have indexes, and beside them only those that skills are kept as."""
    assert set(DECLARED) == {kind.name for kind in kinds.all_kinds()} | set(HOLDS)
    for kind, paths in DECLARED.items():
        assert {"tag", "label"} <= paths.keys()
        assert ("slug" in paths) == (kind not in HOLDS)


def filled(kind: str) -> Any:
    """Give a message of a kind that has something in every indexed field, and much beside."""
    message: Any = message_class(kind)(api_version="agentic.stigmer.ai/v1", kind="Any")
    message.metadata.annotations["not"] = "indexed"
    for _, path in (pair for pair in DECLARED[kind].items()):
        *outer, last = path.name.split(".")
        inner = message
        for name in outer:
            inner = getattr(inner, name)
        if path.form is Form.PAIRS:
            getattr(inner, last).update({"team": "red", "": "", "b": ""})
        elif path.form is Form.TEXTS:
            getattr(inner, last).extend(["two", "one", "", "two"])
        else:
            setattr(inner, last, 3 if path.form is Form.NUMBER else f"the {last}")
    message.metadata.org = "acme"
    return message


@pytest.mark.parametrize("kind", DECLARED)
def test_terms_are_those_of_the_fields(kind: str) -> None:
    """A message has the term of its kind and those of its fields, sorted, each once, and none for what is empty."""
    expected = {terms.Term(term_key(kind, "all"))}
    for index, path in DECLARED[kind].items():
        texts = {
            Form.PAIRS: ["team=red", "=", "b="],
            Form.TEXTS: ["one", "two"],
            Form.NUMBER: ["3"],
            Form.TEXT: [f"the {path.name.rpartition('.')[2]}"],
        }[path.form]
        qualifier = b"acme" if index == "slug" else b""
        expected |= {terms.Term(term_key(kind, index, text), qualifier) for text in texts}
    value = filled(kind).SerializeToString()
    assert terms_of(kind, value) == tuple(sorted(expected))
    assert terms_of(kind, b"") == (terms.Term(term_key(kind, "all")),)
    # In any order of a map's entries, and where a field comes in parts.
    assert terms_of(kind, filled(kind).SerializeToString(deterministic=True)) == terms_of(kind, value)
    assert terms_of(kind, b"\x1a\x02\x42\x00" + value) == terms_of(kind, value)


def test_kinds_that_are_not_declared_have_no_terms() -> None:
    """Values of other kinds are not looked at."""
    assert terms_of("note", filled("agent").SerializeToString()) == ()
    assert terms_of("api_resource_version", b"\xff") == ()


@pytest.mark.parametrize("kind", DECLARED)
def test_any_bytes_give_terms(kind: str) -> None:
    """Cut, changed and random values, and groups in groups, have the term of their kind at least, and fit into keys."""
    source = random.Random(kind)
    value = filled(kind).SerializeToString()
    hostile = [value[:size] for size in range(len(value))]
    for _ in range(500):
        changed = bytearray(value)
        for _ in range(source.randint(1, 4)):
            changed[source.randrange(len(changed))] = source.randrange(256)
        hostile.append(bytes(changed))
    hostile += [source.randbytes(source.randint(1, 60)) for _ in range(500)]
    hostile += [b"\x13" * 100_000, b"\x1a\x7f" * 10_000, b"\x1b" * 50 + b"\x1c" * 50]
    for one in hostile:
        found = terms_of(kind, one)
        assert terms.Term(term_key(kind, "all")) in found
        assert found == tuple(sorted(set(found)))
        assert all(len(term.key) <= 160 and len(term.qualifier) <= terms.TEXT_BYTES_MAX for term in found)


@settings(deterministic, max_examples=300)
@given(value=st.binary(max_size=60))
def test_what_the_platforms_class_reads_is_what_is_indexed(value: bytes) -> None:
    """Where the generated class can read a value at all, it finds the same slug, organization, tags and labels."""
    value = b"\x1a" + bytes((len(value),)) + value
    try:
        metadata = message_class("agent").FromString(value).metadata  # type: ignore[attr-defined]
    except DecodeError:
        return
    expected = {terms.Term(term_key("agent", "all"))}
    if metadata.slug:
        qualifier = terms.qualifier_of(metadata.org).encode()
        expected.add(terms.Term(term_key("agent", "slug", metadata.slug), qualifier))
    expected |= {terms.Term(term_key("agent", "tag", tag)) for tag in metadata.tags if tag}
    expected |= {terms.Term(term_key("agent", "label", f"{key}={text}")) for key, text in metadata.labels.items()}
    assert set(terms_of("agent", value)) == expected


AWKWARD = ["x" * 96, "x" * 97, "x" * 10_000, "a", "a\0b", "\0", "\1", "é" * 48, "é" * 49, "a=b=c", "/"]
AWKWARD.append("\1" + hashlib.sha256(b"a\0b").hexdigest())


def test_awkward_texts_have_keys_of_their_own() -> None:
    """Long texts, and those with a NUL or with the mark of a hash, are told apart and fit into a key."""
    keys = [term_key("workflow_execution", "workflow_instance", text) for text in AWKWARD]
    assert len(set(keys)) == len(AWKWARD)
    # No key and what follows it in a row begins like another one.
    assert not [one for one in keys for other in keys if (one + b"\0").startswith(other + b"\0") and one != other]
    assert max(map(len, keys)) + 1 + 8 + 256 <= 511
    message: Any = message_class("agent")()
    message.metadata.tags.extend(AWKWARD)
    message.metadata.labels.update({text: text for text in AWKWARD})
    message.metadata.slug = "s" * 300
    message.metadata.org = "o" * 300
    found = terms_of("agent", message.SerializeToString())
    for text in AWKWARD:
        assert terms.Term(term_key("agent", "tag", text)) in found
        assert terms.Term(term_key("agent", "label", f"{text}={text}")) in found
    assert terms.Term(term_key("agent", "slug", "s" * 300), terms.qualifier_of("o" * 300).encode()) in found
    assert len(found) == 2 + 2 * len(AWKWARD)


def test_text_that_is_no_utf8_hides_nothing_else() -> None:
    """A slug of other bytes, which the generated classes refuse, is a term like others; so is what is beside it."""
    value = b"\x1a\x09" + b"\x12\x02\xff\xfe" + b"\x42\x03tag"
    with pytest.raises(DecodeError):
        message_class("agent").FromString(value)
    expected = {term_key("agent", "all"), term_key("agent", "slug", b"\xff\xfe"), term_key("agent", "tag", "tag")}
    assert {term.key for term in terms_of("agent", value)} == expected


def test_one_resource_has_a_bounded_number_of_terms() -> None:
    """Of a million tags and labels the first thousand of each are indexed."""
    value = b"".join(b"\x42\x03%03x\x32\x05\x0a\x03%03x" % (n, n) for n in range(4096)) * 4
    size = len(value)
    head = b"\x1a" + bytes((size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14))
    found = {term.key for term in terms_of("agent", head + value)}
    expected = {term_key("agent", "tag", f"{n:03x}") for n in range(1000)}
    expected |= {term_key("agent", "label", f"{n:03x}=") for n in range(1000)}
    assert found == expected | {term_key("agent", "all")}


@pytest.mark.parametrize(("kind", "index"), [("note", "all"), ("", "all"), ("agent", "phase"), ("skill_tag", "slug")])
def test_index_that_is_not_there_is_refused(kind: str, index: str) -> None:
    """Asking for it is an error that names it, not an empty answer."""
    with pytest.raises(InvalidArgument, match=f"'{index if kind in DECLARED else kind}'"):
        terms.check(kind, index)
    terms.check("agent", "all")
    terms.check("agent_execution", "phase")
