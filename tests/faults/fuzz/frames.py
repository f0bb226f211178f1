"""Target: the log's format, from single headers, seals and deltas to whole logs that are opened, read and written on.

The first byte of the input says what the rest is. Where it is a log, its checksums may be made right first, so that
what only a wrong number can show is reached at all.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from log.support import Written, contents, open_log, read_all

from stigmer.errors import CorruptLog, NewerFormat
from stigmer.log import compression, delta
from stigmer.log import format as fmt
from stigmer.log.lineages import Entry
from stigmer.log.log import Log
from stigmer.log.recovery import Watermark

READERS = ("stigmer.log",)
TOKENS = (
    fmt.FRAME_MAGIC,
    b"STGMRLOG",
    b"SEAL",
    b"\x28\xb5\x2f\xfd",
    *(flags.to_bytes(4, "little") for flags in (1, 3, 0x10, 0x20, 0x30)),
    *(number.to_bytes(8, "little") for number in (1, 2, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)),
)

_HEADERS, _DELTA, _LIKENESS, _LOG, _REPAIRED_LOG = range(5)
_WAYS = 5
_SEGMENTS_MAX = 4
_NAME = "a segment"
_ADDED = b"appended after the recovery"


def one(data: bytes) -> None:
    """Give bytes to the part of the format that the first one names."""
    if len(data) < 2:
        return
    way, choice, rest = data[0] % _WAYS, data[1], data[2:]
    if way == _HEADERS:
        _check_headers(rest, choice)
    elif way == _DELTA:
        _check_delta(rest)
    elif way == _LIKENESS:
        _check_likeness(rest)
    elif way == _LOG:
        _check_log(_segments(rest), choice)
    else:
        _check_log([repaired(segment) for segment in _segments(rest)], choice)


def seeds() -> Iterator[bytes]:
    """Give logs of this and of older versions, and the parts they are made of."""
    golden = b"".join(path.read_bytes() for path in sorted((Path(__file__).parents[2] / "data/format-1/log").iterdir()))
    logs = [golden, *(_made(sealed, encoded) for sealed in (False, True) for encoded in (False, True))]
    for log in logs:
        for way in (_LOG, _REPAIRED_LOG):
            for watermark in (0, 5):
                yield bytes((way, watermark)) + log
    yield bytes((_LOG, 0)) + logs[1][:-7]
    yield bytes((_REPAIRED_LOG, 0)) + golden[:300] + bytes(40) + golden[300:900]
    yield bytes((_HEADERS, 0)) + golden[: fmt.SEGMENT_HEADER_SIZE]
    yield bytes((_HEADERS, 1)) + golden[fmt.SEGMENT_HEADER_SIZE :][: fmt.FRAME_HEADER_SIZE]
    yield bytes((_HEADERS, 3)) + fmt.encode_seal(fmt.Seal(1, 2, [(1, 64), (9, 700)], 5))
    yield bytes((_HEADERS, 1)) + fmt.encode_seal(fmt.Seal(1, 2, [(1, 64)]))
    for base, payload in _likes():
        yield bytes((_LIKENESS, 0)) + struct.pack("<H", len(base)) + base + payload
        body = delta.encode(base, payload)
        if body is not None:
            yield bytes((_DELTA, 0)) + struct.pack("<HI", len(base), len(payload)) + base + body


def _likes() -> Iterator[tuple[bytes, bytes]]:
    words = b"".join(b"step %d of the run is %s; " % (n, b"done" if n % 3 else b"waiting") for n in range(40))
    yield words, words + b"and one more"
    yield words, words[:300] + b"something that was not there before, of some length" + words[340:]
    yield words, words[500:] + words[:500]
    yield words, words[::-1]
    yield b"", words
    yield words[:700], words[:700] + b" ".join(words.split()[::-1])[:600]


# --- headers, seals, deltas --------------------------------------------------------------------------------


def _check_headers(data: bytes, flags: int) -> None:
    """What decodes is what its bytes were encoded from; so it is where the checksum was wrong and is made right."""
    salt, offset = flags * 77, flags << 3
    for candidate in (data, _with_segment_crc(data)):
        try:
            segment = fmt.decode_segment_header(candidate, _NAME)
        except NewerFormat:
            continue
        if segment is not None and candidate[8:16] == fmt.FORMAT_VERSION.to_bytes(8, "little"):
            assert fmt.encode_segment_header(segment) == candidate[: fmt.SEGMENT_HEADER_SIZE]
    for at in (0, 1):
        assert fmt.decode_frame_header(data[: fmt.FRAME_HEADER_SIZE - 1 + at], at, offset, salt) is None
        candidate = data[:at] + _with_frame_crc(data[at:], offset, salt)
        header = fmt.decode_frame_header(candidate, at, offset, salt)
        if header is None:
            continue
        assert fmt.encode_frame_header(header, offset, salt) == candidate[at : at + fmt.FRAME_HEADER_SIZE]
        assert fmt.decode_frame_header(candidate, at, offset + 1, salt) is None
        assert fmt.decode_frame_header(candidate, at, offset, salt + 1) is None
        try:
            fmt.check_flags(header, _NAME)
        except NewerFormat:
            assert header.flags not in (0, 1, 3, 0x10, 0x20)
    seal = fmt.decode_seal(data, flags)
    if seal is not None:
        again = fmt.encode_seal(seal)
        if bool(seal.saved_bytes) == bool(flags & fmt.FLAG_SAVED):
            assert again[: -fmt.SEAL_TRAILER_SIZE] == data[: -fmt.SEAL_TRAILER_SIZE]
            assert fmt.decode_seal(again, fmt.seal_flags(seal)) == seal
            assert fmt.seal_size(again[-fmt.SEAL_TRAILER_SIZE :]) == fmt.FRAME_HEADER_SIZE + len(again)
    for codec in (fmt.CODEC_DELTA, fmt.CODEC_ZSTD, flags):
        found = fmt.decode_encoded_head(codec, data)
        if found is not None:
            head, size = found
            encode = fmt.encode_delta_head if codec == fmt.CODEC_DELTA else fmt.encode_compressed_head
            assert encode(head) == data[:size]


def _check_delta(data: bytes) -> None:
    """A body makes the declared number of bytes of a base, or `ValueError`; so does a compressed payload."""
    if len(data) < 6:
        return
    base_size, size = struct.unpack_from("<HI", data)
    size %= 1 << 20
    base, body = data[6 : 6 + base_size], data[6 + base_size :]
    try:
        assert len(delta.decode(base, body, size)) == size
    except ValueError:
        pass
    try:
        assert len(compression.decompress(body, size, base)) == size
    except ValueError:
        pass


def _check_likeness(data: bytes) -> None:
    """Whatever two payloads are, the second comes back from the first and what is new."""
    if len(data) < 2:
        return
    (base_size,) = struct.unpack_from("<H", data)
    base, payload = data[2 : 2 + base_size], data[2 + base_size :]
    body = delta.encode(base, payload)
    if body is not None:
        assert 2 * len(body) < len(payload)
        assert delta.decode(base, body, len(payload)) == payload
    for prefix in (b"", base):
        assert compression.decompress(compression.compress(payload, prefix), len(payload), prefix) == payload


# --- logs --------------------------------------------------------------------------------------------------


def _segments(data: bytes) -> list[bytes]:
    """Cut bytes into the segments of a log, where the headers of segments are."""
    pieces = data.split(b"STGMRLOG")[:_SEGMENTS_MAX]
    return (
        [pieces[0], *(b"STGMRLOG" + piece for piece in pieces[1:])]
        if pieces[0]
        else [b"STGMRLOG" + piece for piece in pieces[1:]]
    )


def _check_log(segments: list[bytes], choice: int) -> None:
    """A log opens, or is refused and left as it is; one that opens shows what it has and takes more."""
    directory = Path(tempfile.mkdtemp(prefix="stigmer-fuzz-"))
    try:
        written: dict[str, bytes] = {}
        for place, segment in enumerate(segments):
            first = int.from_bytes(segment[48:56], "little") if len(segment) >= fmt.SEGMENT_HEADER_SIZE else place + 1
            name = fmt.segment_name(first)
            written[name] = segment
            (directory / name).write_bytes(segment)
        watermark = Watermark(min(written.items())[1][16:32], choice // 2) if written and choice else None
        before = contents(directory)
        notes: list[str] = []
        try:
            log = open_log(directory, watermark, notes, check_bytes=(choice % 2) << 30)
        except (CorruptLog, NewerFormat):
            assert contents(directory) == before, "a log that is refused was changed"
            return
        try:
            _check_kept(directory, written, notes)
            if watermark is not None:
                assert log.durable_revision >= watermark.revision
            found = _read(log)
            if found is not None:
                _check_more(log, directory, found)
        finally:
            log.abandon()
    finally:
        shutil.rmtree(directory)


def _check_kept(directory: Path, written: dict[str, bytes], notes: list[str]) -> None:
    """No byte is lost: what was cut off a segment is beside it, and told of once."""
    torn = [path for path in directory.iterdir() if path.suffix == ".torn"]
    for name, segment in written.items():
        kept = (directory / name).read_bytes()
        aside = [path for path in torn if path.name.startswith(name)]
        assert len(aside) <= 1
        assert kept + b"".join(path.read_bytes() for path in aside) == segment
    assert len(notes) == len(torn) <= 1


def _read(log: Log) -> list[Written] | None:
    """Give the frames of a log; None where one of them turns out to be damaged, as behind a seal that is wrong."""
    try:
        for _ in log.check():
            pass
        frames = read_all(log)
        infos = [log.frame(frame.first_revision + frame.event_count - 1) for frame in frames]
    except (CorruptLog, NewerFormat):
        return None
    revision = 1
    for frame in frames:
        assert frame.first_revision == revision
        revision += frame.event_count
    assert revision == log.next_revision
    for frame, info in zip(frames, infos, strict=True):
        assert (info.payload, info.first_revision) == (frame.payload, frame.first_revision)
    return frames


def _check_more(log: Log, directory: Path, found: list[Written]) -> None:
    """What is appended after a recovery is there after the next one, behind all that was there before."""
    if log.next_revision >= 1 << 63 or log.last_time_ns >= 1 << 62:
        return
    added = Written(log.next_revision, 1, _ADDED)
    log.append([Entry(_ADDED, 1)], log.last_time_ns + 1)
    log.sync()
    log.abandon()
    notes: list[str] = []
    again = open_log(directory, None, notes)
    try:
        assert not notes
        assert again.next_revision == added.first_revision + 1
        assert read_all(again) == [*found, added]
        again.close()
    finally:
        again.abandon()


# --- checksums made right ----------------------------------------------------------------------------------


def _with_segment_crc(data: bytes) -> bytes:
    body = data[: fmt.SEGMENT_HEADER_SIZE - 4]
    return body + fmt.crc32c(0, body).to_bytes(4, "little") + data[fmt.SEGMENT_HEADER_SIZE :]


def _with_frame_crc(data: bytes, offset: int, salt: int) -> bytes:
    """Make a header that of a frame at an offset, whatever else it says."""
    body = fmt.FRAME_MAGIC + data[4:44] + offset.to_bytes(8, "little")
    if len(data) < fmt.FRAME_HEADER_SIZE:
        return data
    return body + fmt.crc32c(salt, body).to_bytes(4, "little") + data[fmt.FRAME_HEADER_SIZE :]


def repaired(segment: bytes) -> bytes:
    """Make the checksums of a segment right, and each frame one of its place, as far as sizes lead from frame to frame.

    What a frame says beside that stays: revisions, counts, sizes, flags. Deltas get the checksums of what they decode
    to, where they do.
    """
    if len(segment) < fmt.SEGMENT_HEADER_SIZE:
        return segment
    out = bytearray(_with_segment_crc(segment)[: fmt.SEGMENT_HEADER_SIZE])
    salt = fmt.salt_of(bytes(out[32:48]))
    payloads: dict[int, bytes] = {}
    at = fmt.SEGMENT_HEADER_SIZE
    while len(segment) - at >= fmt.FRAME_HEADER_SIZE:
        head = segment[at : at + fmt.FRAME_HEADER_SIZE]
        flags, size = struct.unpack_from("<II", head, 4)
        end = at + fmt.FRAME_HEADER_SIZE + size
        payload = segment[at + fmt.FRAME_HEADER_SIZE : end]
        if flags & fmt.FLAG_SEAL:
            payload = fmt.crc32c(0, bytes(out)).to_bytes(4, "little") + payload[4:]
        else:
            payload, decoded = _with_right_head(flags, payload, payloads)
            payloads[int.from_bytes(head[16:24], "little")] = decoded
        head = head[:40] + fmt.crc32c(0, payload).to_bytes(4, "little") + head[44:]
        out += _with_frame_crc(head, at, salt) + payload
        at = end
    out += segment[at:]
    return bytes(out)


def _with_right_head(flags: int, payload: bytes, payloads: dict[int, bytes]) -> tuple[bytes, bytes]:
    """Give a payload as it is stored with the checksums that its head should have, and as it was committed."""
    found = fmt.decode_encoded_head(flags, payload)
    if found is None:
        return payload, payload
    head, size = found
    base = payloads.get(head.base_revision, b"")
    body = payload[size:]
    try:
        if head.size > 1 << 20:
            raise ValueError("too large to be tried")
        decoded = delta.decode(base, body, head.size) if size > 8 else compression.decompress(body, head.size)
    except ValueError:
        return payload, payload
    head = head._replace(crc=fmt.crc32c(0, decoded), base_crc=fmt.crc32c(0, base))
    return (fmt.encode_delta_head(head) if size > 8 else fmt.encode_compressed_head(head)) + body, decoded


def _made(sealed: bool, encoded: bool) -> bytes:
    """Make a small log of this version, with deltas where `encoded`, always of the same bytes."""
    directory = Path(tempfile.mkdtemp(prefix="stigmer-fuzz-"))
    try:
        log = open_log(directory, segment_bytes=1 << 20)
        text = b"".join(b"%d %s, " % (n * 7919, bytes((97 + n % 26,)) * (n % 9)) for n in range(450))
        for n in range(6):
            payload = text[: 4_500 + n * 40] if encoded else text[: 10 + n]
            log.append([Entry(payload, 1 + n % 2, b"k" if encoded else None), Entry(b"x" * n, 1)], 1_000 + n)
            log.sync()
        log.close() if sealed else log.abandon()
        (path,) = directory.glob("*.log")
        # Ids and time of creation are the only bytes that differ from one run to the next.
        data = path.read_bytes()
        return repaired(data[:16] + b"S" * 16 + b"I" * 16 + data[48:56] + bytes(4) + data[60:])
    finally:
        shutil.rmtree(directory)
