"""The bytes of segments, frames and seals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from checks import deterministic
from hypothesis import given
from hypothesis import strategies as st

from stigmer.errors import NewerFormat
from stigmer.log import format as fmt
from stigmer.log.format import FrameHeader, Seal, SegmentHeader
from stigmer.log.lineages import Entry, Lineages
from stigmer.log.payloads import Payloads
from stigmer.pb import log_pb2

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "FORMAT.md"

STORE = bytes.fromhex("00112233445566778899aabbccddeeff")
SEGMENT = bytes.fromhex("c0c1c2c3c4c5c6c7c8c9cacbcccdcecf")
SALT = fmt.salt_of(SEGMENT)
OFFSET = 4711

U32, U64 = 2**32 - 1, 2**64 - 1


def crc(data: bytes, salt: bytes = b"") -> str:
    """CRC-32C, computed bit by bit from its definition (RFC 3720, appendix B.4), as little-endian hex."""
    register = 0xFFFFFFFF
    for byte in salt + data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return (register ^ 0xFFFFFFFF).to_bytes(4, "little").hex()


def with_crc(fields: str, salt: bytes = b"") -> str:
    """Put the checksum of some hex digits behind them."""
    fields = fields.replace(" ", "")
    return fields + crc(bytes.fromhex(fields), salt)


# Each case: the value, and its bytes as docs/FORMAT.md lays them out, written by hand.
SEGMENT_CASES = [
    (
        SegmentHeader(STORE, SEGMENT, 1, 0),
        with_crc(f"5354474d524c4f47 01000000 00000000 {STORE.hex()} {SEGMENT.hex()} 0100000000000000 00000000"),
    ),
    (
        SegmentHeader(bytes(16), b"\xff" * 16, 731, 1_767_225_600),
        with_crc(f"5354474d524c4f47 01000000 00000000 {'00' * 16} {'ff' * 16} db02000000000000 00b95569"),
    ),
    (
        SegmentHeader(STORE, SEGMENT, U64, U32),
        with_crc(f"5354474d524c4f47 01000000 00000000 {STORE.hex()} {SEGMENT.hex()} ffffffffffffffff ffffffff"),
    ),
]
FRAME_CASES = [
    (
        FrameHeader(0, 5, 1, 7, 6, 256, 0xDEADBEEF),
        "f7534746 00000000 05000000 01000000 0700000000000000 0600000000000000 0001000000000000 efbeadde",
    ),
    (
        FrameHeader(fmt.FLAG_SEAL, 24, 0, 8, 8, -1, 0),
        "f7534746 01000000 18000000 00000000 0800000000000000 0800000000000000 ffffffffffffffff 00000000",
    ),
    (
        FrameHeader(U32, U32, U32, U64, U64, -(2**63), U32),
        f"f7534746 {'ff' * 12} {'ff' * 8} {'ff' * 8} 0000000000000080 ffffffff",
    ),
]
SEAL_CASES = [
    (Seal(0, 0, []), "00000000 00000000 0000000000000000 50000000 5345414c"),
    (
        Seal(0x01020304, 513, [(1, 64), (300, 65_600)]),
        "04030201 02000000 0102000000000000"
        " 0100000000000000 4000000000000000 2c01000000000000 4000010000000000 70000000 5345414c",
    ),
    (
        Seal(1, 2, [(1, 64)], 0x0102),
        "01000000 01000000 0200000000000000 0100000000000000 4000000000000000 0201000000000000 68000000 5345414c",
    ),
]


def frame_bytes(fields: str, offset: int = OFFSET) -> str:
    return with_crc(fields + offset.to_bytes(8, "little").hex(), SEGMENT)


# --- one table, both ways --------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "encoded"), SEGMENT_CASES)
def test_segment_header_has_the_bytes_of_the_page(header: SegmentHeader, encoded: str) -> None:
    """A segment header encodes to the documented 64 bytes, and these decode to it."""
    assert fmt.encode_segment_header(header).hex() == encoded
    assert fmt.decode_segment_header(bytes.fromhex(encoded), "x.log") == header
    assert len(encoded) == 2 * fmt.SEGMENT_HEADER_SIZE == 128


@pytest.mark.parametrize(("header", "fields"), FRAME_CASES)
def test_frame_header_has_the_bytes_of_the_page(header: FrameHeader, fields: str) -> None:
    """A frame header encodes to the documented 56 bytes, and these decode to it, wherever they lie in a buffer."""
    encoded = frame_bytes(fields)
    assert fmt.encode_frame_header(header, OFFSET, SALT).hex() == encoded
    assert fmt.decode_frame_header(bytes.fromhex(encoded), 0, OFFSET, SALT) == header
    assert fmt.decode_frame_header(b"before" + bytes.fromhex(encoded) + b"behind", 6, OFFSET, SALT) == header
    assert len(encoded) == 2 * fmt.FRAME_HEADER_SIZE == 112


@pytest.mark.parametrize(("seal", "encoded"), SEAL_CASES)
def test_seal_has_the_bytes_of_the_page(seal: Seal, encoded: str) -> None:
    """A seal's payload encodes to the documented bytes, these decode to it, and its end tells its size."""
    data = bytes.fromhex(encoded)
    assert fmt.encode_seal(seal) == data
    assert fmt.decode_seal(data, fmt.seal_flags(seal)) == seal
    assert fmt.seal_size(data[-fmt.SEAL_TRAILER_SIZE :]) == fmt.FRAME_HEADER_SIZE + len(data)


def test_crc_is_castagnoli() -> None:
    """The checksum has the values that RFC 3720 gives for its test patterns."""
    assert fmt.crc32c(0, bytes(32)) == 0x8A9136AA
    assert fmt.crc32c(0, b"\xff" * 32) == 0x62A8AB43
    assert fmt.crc32c(0, bytes(range(32))) == 0x46DD794E
    assert fmt.crc32c(fmt.crc32c(0, b"12345"), b"6789") == fmt.crc32c(0, b"123456789") == 0xE3069283


def test_segment_names_list_in_order_of_their_revisions() -> None:
    """Names are twenty digits, so that a sorted listing is in the order of the log."""
    revisions = [1, 9, 10, 731, 10**10, U64]
    assert [fmt.segment_name(revision) for revision in revisions] == sorted(map(fmt.segment_name, revisions))
    assert fmt.segment_name(731) == "00000000000000000731.log"


# --- round trips -----------------------------------------------------------------------------------------

u32, u64 = st.integers(0, U32), st.integers(0, U64)
i64 = st.integers(-(2**63), 2**63 - 1)
ids = st.binary(min_size=16, max_size=16)


@deterministic
@given(st.builds(SegmentHeader, ids, ids, u64, u32))
def test_any_segment_header_comes_back(header: SegmentHeader) -> None:
    """Every segment header decodes to what was encoded."""
    assert fmt.decode_segment_header(fmt.encode_segment_header(header), "x.log") == header


@deterministic
@given(st.builds(FrameHeader, u32, u32, u32, u64, u64, i64, u32), u64, ids)
def test_any_frame_header_comes_back(header: FrameHeader, offset: int, segment_id: bytes) -> None:
    """Every frame header decodes to what was encoded, in its own place."""
    salt = fmt.salt_of(segment_id)
    assert fmt.decode_frame_header(fmt.encode_frame_header(header, offset, salt), 0, offset, salt) == header


@deterministic
@given(st.builds(Seal, u32, i64, st.lists(st.tuples(u64, u64), max_size=20), u64))
def test_any_seal_comes_back(seal: Seal) -> None:
    """Every seal decodes to what was encoded."""
    assert fmt.decode_seal(fmt.encode_seal(seal), fmt.seal_flags(seal)) == seal


@deterministic
@given(st.binary(max_size=200), st.integers(0, 100), u64)
def test_random_bytes_are_nothing(data: bytes, at: int, offset: int) -> None:
    """Bytes that nobody encoded are no header and no seal of a size that fits, and do not make the decoder fail."""
    assert fmt.decode_segment_header(data, "x.log") is None
    assert fmt.decode_frame_header(data, at, offset, SALT) is None
    for flags in (fmt.FLAG_SEAL, fmt.FLAG_SEAL | fmt.FLAG_SAVED):
        fmt.decode_seal(data, flags)
    fmt.seal_size(data[-8:])


# --- damage ----------------------------------------------------------------------------------------------


def flips(data: bytes) -> list[bytes]:
    """Every variant of some bytes with one bit turned over."""
    return [
        data[: bit // 8] + bytes((data[bit // 8] ^ 1 << bit % 8,)) + data[bit // 8 + 1 :]
        for bit in range(len(data) * 8)
    ]


@pytest.mark.parametrize(("_header", "encoded"), SEGMENT_CASES)
def test_cut_or_flipped_segment_header_is_refused(_header: SegmentHeader, encoded: str) -> None:
    """A segment header that lacks bytes or has any one bit wrong is not one, and is not taken for a newer one."""
    data = bytes.fromhex(encoded)
    for size in range(len(data)):
        assert fmt.decode_segment_header(data[:size], "x.log") is None
    for flipped in flips(data):
        assert fmt.decode_segment_header(flipped, "x.log") is None


@pytest.mark.parametrize(("_header", "fields"), FRAME_CASES)
def test_cut_or_flipped_frame_header_is_refused(_header: FrameHeader, fields: str) -> None:
    """A frame header that lacks bytes or has any one bit wrong is not one."""
    data = bytes.fromhex(frame_bytes(fields))
    for size in range(len(data)):
        assert fmt.decode_frame_header(data[:size], 0, OFFSET, SALT) is None
        assert fmt.decode_frame_header(b"behind" + data[:size], 6, OFFSET, SALT) is None
    for flipped in flips(data):
        assert fmt.decode_frame_header(flipped, 0, OFFSET, SALT) is None


@pytest.mark.parametrize(("seal", "_encoded"), SEAL_CASES)
def test_cut_or_flipped_seal_is_refused(seal: Seal, _encoded: str) -> None:
    """A seal that lacks bytes is not one; with any bit wrong its frame's checksum or its sizes do not match."""
    payload = fmt.encode_seal(seal)
    checksum = fmt.crc32c(0, payload)
    for size in range(len(payload)):
        assert fmt.decode_seal(payload[:size], fmt.seal_flags(seal)) is None
        assert fmt.seal_size(payload[:size][-fmt.SEAL_TRAILER_SIZE :]) is None
    for flipped in flips(payload):
        assert fmt.crc32c(0, flipped) != checksum


def test_frame_is_valid_only_at_its_own_offset() -> None:
    """A whole frame header read at another offset is refused: it is a copy, not the frame."""
    data = fmt.encode_frame_header(FRAME_CASES[0][0], OFFSET, SALT)
    assert fmt.decode_frame_header(data, 0, OFFSET, SALT) is not None
    for offset in (0, OFFSET - 1, OFFSET + 1, OFFSET + 512, OFFSET + 2**32):
        assert fmt.decode_frame_header(data, 0, offset, SALT) is None


def test_frame_is_valid_only_in_its_own_segment() -> None:
    """A whole frame header of one segment is refused in another, whichever bit of the segment's id differs."""
    data = fmt.encode_frame_header(FRAME_CASES[0][0], OFFSET, SALT)
    for other in flips(SEGMENT):
        assert fmt.decode_frame_header(data, 0, OFFSET, fmt.salt_of(other)) is None


# --- versions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3, U32])
def test_newer_version_is_named_and_not_called_damage(version: int) -> None:
    """A whole header of a newer version raises `NewerFormat` with the file and both versions."""
    fields = f"5354474d524c4f47 {version.to_bytes(4, 'little').hex()} {'00' * 44} 07000000"
    with pytest.raises(NewerFormat, match=rf"some\.log was written by a newer stigmer \(format {version}\)") as caught:
        fmt.decode_segment_header(bytes.fromhex(with_crc(fields)), "some.log")
    assert (caught.value.path, caught.value.found_version, caught.value.known_version) == ("some.log", version, 1)


FLAGS_KNOWN = {0, 0x1, 0x3, 0x10, 0x20}


@pytest.mark.parametrize("bit", range(32))
def test_unknown_flags_are_of_a_newer_format(bit: int) -> None:
    """Flags that this version does not write, alone or beside those it does, raise `NewerFormat`."""
    header = FrameHeader(0, 5, 1, 7, 6, 0, 0)
    for known in FLAGS_KNOWN:
        fmt.check_flags(header._replace(flags=known), "x.log")
        flags = known | 1 << bit
        if flags not in FLAGS_KNOWN:
            with pytest.raises(NewerFormat):
                fmt.check_flags(header._replace(flags=flags), "x.log")


# --- the page --------------------------------------------------------------------------------------------


def worked_example() -> bytes:
    """A segment with one frame that holds one commit of one event: what the page shows."""
    commit = log_pb2.Commit(
        events=[log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="note", id="n1", value=b"hello")],
        request_id="example-1",
    )
    payload = commit.SerializeToString()
    header = SegmentHeader(STORE, SEGMENT, 1, 1_767_225_600)
    frame = FrameHeader(0, len(payload), 1, 1, 1, 1_767_225_600_000_000_000, fmt.crc32c(0, payload))
    offset = fmt.SEGMENT_HEADER_SIZE
    return fmt.encode_segment_header(header) + fmt.encode_frame_header(frame, offset, SALT) + payload


def worked_delta() -> bytes:
    """The second frame of a segment in which a note was saved twice."""
    lineages = Lineages(1 << 20, Payloads(1 << 20, 0)).group()
    rest = b"the quick brown fox jumps over the lazy dog. " * 3
    offset, frame = fmt.SEGMENT_HEADER_SIZE, b""
    for revision, value in ((1, b"draft 1: " + rest), (2, b"draft 2: " + rest)):
        offset += len(frame)
        commit = log_pb2.Commit(events=[log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="note", id="n1", value=value)])
        flags, data, checksum = lineages.store(Entry(commit.SerializeToString(), 1, b"note/n1"), revision)
        header = FrameHeader(flags, len(data), 1, revision, revision, 1_767_225_600_000_000_000, checksum)
        frame = fmt.encode_frame_header(header, offset, SALT) + data
    return frame


def dump_on_page(page: str, title: str) -> tuple[int, bytes]:
    """Put the lines `offset  hex digits  what it is` of a section together; give them with their first offset."""
    _, _, example = page.partition(f"\n## {title}\n")
    example, _, _ = example.partition("\n## ")
    start, data = -1, b""
    for line in re.finditer(r"^ {4}([0-9a-f]{4})  ((?:[0-9a-f]{2} )+) +\S.*$", example, re.MULTILINE):
        start = int(line[1], 16) if start < 0 else start
        end = start + len(data)
        assert int(line[1], 16) == end, f"the line at {line[1]} follows one that ends at {end:04x}"
        data += bytes.fromhex(line[2])
    return start, data


def test_worked_examples_on_the_page_are_what_the_code_writes() -> None:
    """The hex dumps in docs/FORMAT.md are byte for byte the segment and the delta that they describe."""
    page = FORMAT_PAGE.read_text()
    start, data = dump_on_page(page, "A worked example")
    assert (start, data.hex(" ")) == (0, worked_example().hex(" "))
    start, data = dump_on_page(page, "A worked example of a delta")
    assert data.hex(" ") == worked_delta().hex(" ")
    assert fmt.decode_frame_header(data, 0, start, SALT) is not None
