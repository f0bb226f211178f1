"""The grammar of names."""

from __future__ import annotations

import random

import pytest
from checks import deterministic
from hypothesis import given
from hypothesis import strategies as st

from stigmer import names
from stigmer.errors import InvalidArgument
from stigmer.views.keys import key_of, parts_of

GOOD_KINDS = ["a", "Z", "note", "agent.v1", "a-b_c.9", "a" * 64]
BAD_KINDS = [
    "",
    "9a",
    "-a",
    ".a",
    "_a",
    "a b",
    "a/b",
    "a\n",
    "ä",
    "a\0",
    "a" * 65,
    " a",
    "a ",
    "\u0430",  # Cyrillic
]
GOOD_IDS = ["a", "...", ".a", "a..", "a b", "~", "é", "e\u0301", "日本", "x" * 256, "é" * 128, "😀" * 64, "A=1&b", "0"]
BAD_IDS = {
    "": "must not be empty",
    ".": '"." is not an id',
    "..": '".." is not an id',
    "/": "must not contain '/'",
    "a/b": "must not contain '/'",
    "../x": "must not contain '/'",
    "a\0b": r"U\+0000",
    "a\nb": r"U\+000A",
    "\x1b[31m": r"U\+001B",
    "a\x7f": r"U\+007F",
    "a\x85b": r"U\+0085",
    "a\u200bb": r"U\+200B",
    "a\u202eb": r"U\+202E",
    "a\u2028b": r"U\+2028",
    "a\ufeffb": r"U\+FEFF",
    "a\udc80b": r"U\+DC80",
    " a": "begin or end with a space",
    "a ": "begin or end with a space",
    "a\u00a0": "begin or end with a space",
    "x" * 257: "has 257 bytes; at most 256",
    "é" * 129: "has 258 bytes; at most 256",
    "x" * 2**20: "has 1048576 bytes; at most 256",
}

ids = st.text(min_size=1, max_size=20)


def is_good_id(id: str) -> bool:
    try:
        names.check_id(id)
    except InvalidArgument:
        return False
    return True


@pytest.mark.parametrize("kind", GOOD_KINDS)
def test_good_kind(kind: str) -> None:
    """Kinds of letters, digits and a few marks, a letter first, are taken."""
    names.check_kind(kind)
    names.check(kind, "x")


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_bad_kind(kind: str) -> None:
    """Every other kind is refused by both ways of checking, also when it is asked about again."""
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="kind"):
            names.check_kind(kind)
        with pytest.raises(InvalidArgument, match="kind"):
            names.check(kind, "x")


@pytest.mark.parametrize("id", GOOD_IDS)
def test_good_id(id: str) -> None:
    """Ids are any visible text, up to 256 bytes."""
    names.check_id(id)
    names.check("note", id)


@pytest.mark.parametrize("id", BAD_IDS)
def test_bad_id(id: str) -> None:
    """What could be misread, in a path, on a terminal or as another id, is refused, and the reason said."""
    for check in (names.check_id, lambda id: names.check("note", id)):
        with pytest.raises(InvalidArgument, match=BAD_IDS[id]) as caught:
            check(id)
        assert caught.value.field == "id"
        assert len(caught.value.message) < 700
        assert all(c.isprintable() for c in caught.value.message)


def test_names_are_compared_byte_for_byte() -> None:
    """Case and normal form are kept: what looks alike may be two names."""
    alike = ["é", "e\u0301", "E\u0301", "É"]
    assert len({key_of("note", id) for id in alike}) == 4
    for id in alike:
        assert parts_of(key_of("note", id)) == ("note", id)


def test_keys_of_different_pairs_never_meet() -> None:
    """Of 100,000 pairs made of few and awkward pieces no two that are taken share a key, and each comes back."""
    source = random.Random(1)
    pieces = ["a", "b", "ab", "/", ".", "..", "-", "a/b", "/b", "a/", "%2F", "\u2215", "é", " "]
    seen: dict[bytes, tuple[str, str]] = {}
    refused = 0
    for _ in range(100_000):
        kind = "".join(source.choices(pieces, k=source.randint(1, 4)))
        id = "".join(source.choices(pieces, k=source.randint(1, 4)))
        try:
            names.check(kind, id)
        except InvalidArgument:
            refused += 1
            continue
        key = key_of(kind, id)
        assert seen.setdefault(key, (kind, id)) == (kind, id)
        assert parts_of(key) == (kind, id)
        assert len(key) <= 511
    assert len(seen) > 1500
    assert refused > 10_000
    for kind, id in (("a", "b/c"), ("a/b", "c")):
        with pytest.raises(InvalidArgument):
            names.check(kind, id)


@deterministic
@given(ids, st.integers(0, 20))
def test_every_beginning_of_an_id_is_a_prefix(id: str, size: int) -> None:
    """Whatever an id may start with can be listed by, also where it is cut before or behind a space."""
    if is_good_id(id):
        names.check_prefix(id[:size])


@pytest.mark.parametrize("id", ["a b", "a\u00a0b", "a\u3000b", ".x", "..x"])
def test_prefix_may_end_where_an_id_may_not(id: str) -> None:
    """A prefix may end with any space that an id may hold, and be a dot or two."""
    for size in range(len(id) + 1):
        names.check_prefix(id[:size])


@pytest.mark.parametrize("prefix", ["/", "a/", "\0", "a\n", "\u202e", "x" * 257])
def test_bad_prefix(prefix: str) -> None:
    """With what no id can start with nothing can be listed."""
    with pytest.raises(InvalidArgument, match="prefix"):
        names.check_prefix(prefix)


@deterministic
@given(st.text())
def test_shown_text_is_safe_on_a_terminal(text: str) -> None:
    """Quoted text is one printable line of bounded length."""
    shown = names.shown(text)
    assert shown[0] == shown[-1] == '"'
    assert shown.isprintable()
    assert len(shown) <= 80 * 10 + 5


@pytest.mark.parametrize("request_id", ["", "a", "~!", "x" * 64])
def test_good_request_id(request_id: str) -> None:
    """Request ids are visible ASCII; the empty one is none."""
    names.check_request_id(request_id)


@pytest.mark.parametrize("request_id", [" ", "a b", "a\n", "é", "x" * 65, "\x7f"])
def test_bad_request_id(request_id: str) -> None:
    """Other request ids are refused."""
    with pytest.raises(InvalidArgument, match="request_id"):
        names.check_request_id(request_id)
