"""Deltas: what is encoded comes back, what is damaged does not, and what does not pay is refused quickly."""

from __future__ import annotations

import random
import struct
import tracemalloc

import pytest
from checks import deterministic
from hypothesis import given
from hypothesis import strategies as st

from stigmer.log import compression, delta


def text(seed: int, size: int) -> bytes:
    """Bytes like those of a status: words that repeat, and numbers that do not."""
    source = random.Random(seed)
    words = [source.randbytes(source.randint(2, 9)).hex() for _ in range(200)]
    parts: list[str] = []
    length = 0
    while length < size:
        parts.append(f"{source.choice(words)} {source.randint(0, 10**9)};")
        length += len(parts[-1])
    return "".join(parts).encode()[:size]


def mixed(payload: bytes, seed: int, edits: int) -> bytes:
    """Change some bytes, take some out and put some in."""
    source = random.Random(seed)
    changed = bytearray(payload)
    for _ in range(edits):
        at = source.randint(0, len(changed))
        changed[at : at + source.choice([0, 1, 30])] = source.randbytes(source.choice([0, 1, 20, 300]))
    return bytes(changed)


edits = st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 3000), st.binary(max_size=200)), max_size=6)


@deterministic
@given(st.integers(0, 5), edits)
def test_any_edits_of_a_base_come_back(seed: int, changes: list[tuple[int, int, bytes]]) -> None:
    """Whatever is replaced, taken out or put in, decoding gives the payload."""
    base = text(seed, 20_000)
    changed = bytearray(base)
    for at, size, fresh in changes:
        changed[at : at + size] = fresh
    payload = bytes(changed)
    body = delta.encode(base, payload)
    if body is not None:
        assert delta.decode(base, body, len(payload)) == payload
        assert len(body) < len(payload) / 2


@deterministic
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_pair_comes_back_or_is_refused(base: bytes, payload: bytes) -> None:
    """Nothing that two payloads can be makes encoding fail or decode to anything else."""
    body = delta.encode(base, payload)
    if body is not None:
        assert delta.decode(base, body, len(payload)) == payload


@deterministic
@given(st.lists(st.sampled_from([b"abcdefgh" * 8, b"\0" * 50, b"x", b"0123456789" * 20]), max_size=30), st.data())
def test_repetitive_payloads_come_back(pieces: list[bytes], data: st.DataObject) -> None:
    """Where the same bytes are found in many places, each run is still what it says."""
    base = b"".join(pieces)
    payload = b"".join(data.draw(st.permutations(pieces)))
    for run in delta.find_runs(base, payload):
        copied = base[run.base_offset : run.base_offset + run.size]
        assert copied == payload[run.payload_offset : run.payload_offset + run.size]
    body = delta.encode(base, payload)
    if body is not None:
        assert delta.decode(base, body, len(payload)) == payload


@pytest.mark.parametrize("count", [1, 5, 20, 200, 2000])
@pytest.mark.parametrize("seed", range(3))
def test_runs_are_in_order_and_the_same(seed: int, count: int) -> None:
    """Runs do not overlap in the payload, and are the base's bytes; with more changes than runs it still pays."""
    base = text(seed, 100_000)
    payload = mixed(base, seed, count)
    at = 0
    for run in delta.find_runs(base, payload):
        assert run.payload_offset >= at
        at = run.payload_offset + run.size
        assert base[run.base_offset : run.base_offset + run.size] == payload[run.payload_offset : at]
    body = delta.encode(base, payload)
    if count <= 200:
        assert body is not None
        assert delta.decode(base, body, len(payload)) == payload


def test_same_payload_is_one_run() -> None:
    """A value that is saved again as it is costs a header and a run."""
    base = text(1, 100_000)
    body = delta.encode(base, bytes(bytearray(base)))
    assert body == struct.pack("<HHIII", 0, 1, 0, 0, 0) + struct.pack("<III", 0, 0, 100_000)


@pytest.mark.parametrize(
    "make",
    [
        lambda base, fresh: base + fresh,
        lambda base, fresh: fresh + base,
        lambda base, fresh: base[:50_000] + fresh + base[50_000:],
        lambda base, fresh: base[:30_000] + fresh + base[30_000:70_000] + fresh[:999] + base[70_000:],
        lambda base, fresh: base[:20_000] + base[60_000:],
        lambda base, fresh: fresh[:10] + base[10:90_000] + fresh,
    ],
    ids=["append", "prepend", "insert", "insert twice", "remove", "change"],
)
def test_what_has_moved_is_found(make: object) -> None:
    """Whatever a value gains or loses in one or two places, only what is new is written."""
    base, fresh = random.Random(1).randbytes(100_000), random.Random(2).randbytes(5_000)
    assert callable(make)
    payload = make(base, fresh)
    body = delta.encode(base, payload)
    assert body is not None
    assert delta.decode(base, body, len(payload)) == payload
    assert len(body) < 6_200


@pytest.mark.parametrize("every", [15, 50])
def test_changes_all_over_a_value_pay(every: int) -> None:
    """More changes than there are runs, even too close together for one, are found by compression."""
    base = random.Random(1).randbytes(100_000)
    changed = bytearray(base)
    for at in range(0, len(changed), every):
        changed[at] ^= 1
    body = delta.encode(base, bytes(changed))
    assert body is not None
    assert delta.decode(base, body, len(changed)) == changed
    assert len(body) < 25_000


def test_a_payload_that_does_not_resemble_is_refused() -> None:
    """Nothing is written where less than half would be saved, also where only the beginning is the same."""
    one, other = random.Random(1).randbytes(100_000), random.Random(2).randbytes(100_000)
    assert delta.encode(one, other) is None
    assert delta.encode(one, one[:1000] + other) is None
    assert delta.encode(one, one[:40_000] + other[:60_000]) is None
    assert delta.encode(b"", other) is None
    assert delta.encode(one, b"") is None


# --- damage ----------------------------------------------------------------------------------------------


def pairs() -> list[tuple[bytes, bytes]]:
    """A base and a payload whose delta has stored literals, and some whose literals are compressed."""
    base = text(3, 3_000)
    return [
        (base, base[:1000] + b"new" + base[1000:]),
        (base, base[:1000] + text(3, 2000)[1500:] + text(4, 300) + base[1200:]),
        (text(5, 500), text(5, 700)),
    ]


def decode_or_refuse(base: bytes, body: bytes, size: int) -> None:
    """Decode; anything but a result of the right size and `ValueError` fails."""
    try:
        assert len(delta.decode(base, body, size)) == size
    except ValueError:
        pass


@pytest.mark.parametrize("place", range(3))
def test_cut_or_flipped_body_raises_nothing_else(place: int) -> None:
    """A body that lacks bytes or has one bit wrong is refused, or gives bytes of the declared size for the checksum."""
    base, payload = pairs()[place]
    body = delta.encode(base, payload)
    assert body is not None
    assert struct.unpack_from("<H", body)[0] == (0 if place == 0 else 1)
    for size in range(len(body)):
        with pytest.raises(ValueError, match=r"delta|compressed"):
            delta.decode(base, body[:size], len(payload))
    for bit in range(len(body) * 8):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        decode_or_refuse(base, bytes(flipped), len(payload))
    with pytest.raises(ValueError, match=r"delta|compressed"):
        delta.decode(base, body + b"x", len(payload))


@deterministic
@given(st.binary(max_size=100), st.integers(0, 300), st.integers(0, 1), st.integers(0, 5))
def test_hostile_bodies_raise_nothing_else(rest: bytes, size: int, coding: int, count: int) -> None:
    """Bytes that nobody encoded are refused, or give bytes of the declared size."""
    base = text(6, 200)
    decode_or_refuse(base, rest, size)
    decode_or_refuse(base, struct.pack("<HH", coding, count) + rest, size)
    decode_or_refuse(base, struct.pack("<HHIII", coding, count, len(rest) % 7, 0, 0) + rest, size)


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<HHIII", 0, 65_535, 0, 0, 0) + struct.pack("<III", 0, 0, 1_000_000) * 65_535,
        struct.pack("<HHIII", 1, 0, 1_000_000, 0, 0) + compression.compress(bytes(200_000_000)),
        struct.pack("<HHIII", 1, 0, 2**32 - 1, 0, 0) + compression.compress(bytes(200_000_000)),
        struct.pack("<HHIII", 1, 0, 1_000, 2**32 - 1, 2**32 - 1) + compression.compress(bytes(1_000)),
    ],
    ids=["runs", "literals", "size of literals", "context"],
)
def test_a_body_that_unfolds_without_end_is_refused(body: bytes) -> None:
    """What is allocated is bounded by the declared size of the payload, not by what the body makes of itself."""
    base = bytes(1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"delta|compressed"):
            delta.decode(base, body, 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("run", [(4, 0, 5), (0, 96, 5), (0, 0, 98), (0, 2**32 - 1, 1)])
def test_a_run_out_of_bounds_is_refused(run: tuple[int, int, int]) -> None:
    """More literals than there are, bytes behind the base's end, or more than the payload has."""
    head = struct.pack("<HHIII", 0, 1, 3, 0, 0)
    assert delta.decode(bytes(100), head + struct.pack("<III", 1, 95, 5) + b"abc", 8) == b"a" + bytes(5) + b"bc"
    with pytest.raises(ValueError, match="out of bounds"):
        delta.decode(bytes(100), head + struct.pack("<III", *run) + b"abc", 8)


def test_compressed_bytes_come_back() -> None:
    """With and without a prefix, of any length; not with another prefix's content or size."""
    data = text(7, 5_000)
    for prefix in (b"", b"short", text(7, 4_000), text(8, 3_000_000)):
        compressed = compression.compress(data, prefix)
        assert compression.decompress(compressed, len(data), prefix) == data
        for size in (0, len(data) - 1, len(data) + 1):
            with pytest.raises(ValueError, match="compressed"):
                compression.decompress(compressed, size, prefix)
    assert len(compression.compress(data, data)) < 50 < len(compression.compress(data))
