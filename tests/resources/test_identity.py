"""Ids and slugs: their grammar holds for whatever they are made from."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmer import names
from stigmer.errors import InvalidArgument
from stigmer.resources import identity, kinds

times_ms = st.integers(0, (1 << 48) - 1)
randoms = st.binary(min_size=10, max_size=10)


def test_a_ulid_is_what_its_specification_says() -> None:
    """The extremes, and the example of the specification for its time (01ARZ3NDEKTSV4RRFFQ69G5FAV)."""
    assert identity.ulid(0, bytes(10)) == "0" * 26
    assert identity.ulid((1 << 48) - 1, b"\xff" * 10) == "7" + "z" * 25
    assert identity.ulid(1469922850259, bytes(10))[:10] == "01arz3ndek"


@given(times_ms, randoms)
def test_an_id_is_prefix_and_ulid_and_follows_the_store_s_grammar(time_ms: int, random: bytes) -> None:
    """26 digits of Crockford's base 32 in lower case behind the kind's prefix."""
    for kind in kinds.all_kinds():
        id = identity.mint_id(kind, time_ms * 1_000_000 + 999_999, random)
        assert re.fullmatch(rf"{kind.id_prefix}-[0-7][0-9a-hjkmnp-tv-z]{{25}}", id)
        names.check_id(id)


@given(times_ms, times_ms, randoms, randoms)
def test_ulids_sort_as_their_times_do(one_ms: int, other_ms: int, one: bytes, other: bytes) -> None:
    """A later time is a larger text; the same time and randomness are the same text."""
    first, second = identity.ulid(one_ms, one), identity.ulid(other_ms, other)
    assert (first < second) == ((one_ms, one) < (other_ms, other))


@pytest.mark.parametrize(("time_ms", "random"), [(-1, bytes(10)), (1 << 48, bytes(10)), (0, bytes(9)), (0, b"")])
def test_what_does_not_fit_a_ulid_is_refused(time_ms: int, random: bytes) -> None:
    """Nothing is cut off in silence."""
    with pytest.raises(ValueError, match=r"ULID|fit"):
        identity.ulid(time_ms, random)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Support Bot", "support-bot"),
        ("  a  b  ", "a-b"),
        ("Café №5", "caf-5"),
        ("a_b.c/d", "abcd"),
        ("--A--B--", "a-b"),
        ("tab\tbed", "tabbed"),
        ("İ", "i"),
    ],
)
def test_a_slug_is_made_from_the_name(name: str, slug: str) -> None:
    """Lower case, blanks to "-", the rest dropped, runs folded, ends trimmed."""
    assert identity.slug_of(name) == slug


def test_a_slug_that_is_given_is_kept() -> None:
    """Whatever it looks like."""
    assert identity.slug_of("Support Bot", "My_Slug") == "My_Slug"


@pytest.mark.parametrize(("name", "slug"), [("", ""), ("  ", ""), ("äöü", ""), ("---", ""), ("", "slug")])
def test_without_a_name_or_a_slug_there_is_no_resource(name: str, slug: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidArgument, match=r"metadata\.name"):
        identity.slug_of(name, slug)


@given(st.text())
def test_a_made_slug_follows_its_grammar(name: str) -> None:
    """Any name gives a slug of a-z, 0-9 and single "-", or is refused; and a slug's slug is itself."""
    try:
        slug = identity.slug_of(name)
    except InvalidArgument:
        return
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)
    assert identity.slug_of(slug) == slug
