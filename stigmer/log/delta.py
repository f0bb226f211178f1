"""A payload told by way of another one that it resembles: encoding and decoding, bytes in, bytes out.

Owns the body of a delta frame (docs/FORMAT.md, "Delta"): runs copied from the base, and what is new between them, the
literals. Runs are looked for with comparisons of whole stretches of memory, so the work is that of reading both once
where little has changed, and that of a few dozen probes where nothing is alike.

Invariants: `decode(base, encode(base, payload), len(payload))` is the payload; `decode` of anything else raises
`ValueError`, or gives bytes of the declared size, which a checksum beside the body tells from the right ones.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from stigmer.log import compression

_HEAD = struct.Struct("<HHIII")
_RUN = struct.Struct("<III")
HEAD_SIZE = _HEAD.size

_STORED = 0
_COMPRESSED = 1
_CODINGS = (_STORED, _COMPRESSED)

# --- encoding --------------------------------------------------------------------------------------------

_PROBE_BYTES = 32
"""So much must be alike for a run to begin. Shorter ones come from bytes that are frequent, not from a likeness."""
_RUN_BYTES_MIN = 16
"""A run costs twelve bytes."""
_PROBE_DISTANCE_MIN = 12
_GROWN_BYTES_MAX = 128 << 10
_SHRUNK_BYTES_MIN = 512
_SHRUNK_BYTES_MAX = 32 << 10
"""How much may have come in before a probe, or gone, for it to be found around its place. Values grow more often than
they shrink. What moved further may still be found from the end."""
_RUNS_MAX = 64
"""Beyond that, changes are all over the value, and compression with the base as a prefix finds them faster."""

_COMPRESSED_BYTES_MIN = 40
"""Fewer literals are not worth a zstd frame."""
_COMPRESSED_BYTES_MAX = 1 << 20
"""More literals are stored as they are: what is new is large, and the writer has others to serve."""
_CONTEXT_BEFORE_BYTES = 32 << 10
_CONTEXT_BEHIND_BYTES = 4 << 10
_CONTEXT_BYTES_MAX = 1 << 20

_PIECES = 16
_PIECE_BYTES = 8
_PIECE_STRIDE = 40_503
"""Takes the pieces all over a gap, not at equal distances: what changes is often at equal distances, too."""
_PIECE_RADIUS_BYTES = 1024
_PIECES_KNOWN_MIN = 4


class Run(NamedTuple):
    """Bytes that are the same in both."""

    base_offset: int
    payload_offset: int
    size: int


class _Gap(NamedTuple):
    """New bytes between two runs, and the place in the base that corresponds to them."""

    payload_offset: int
    size: int
    base_offset: int


def encode(base: bytes, payload: bytes) -> bytes | None:
    """Give a body from which `decode` makes the payload, or None where it would not be less than half of the payload.

    Both are smaller than 4 GiB. A payload that does not resemble the base costs some tens of microseconds.
    """
    runs = find_runs(base, payload)
    largest = _largest_gap(payload, runs)
    new_size = len(payload) - sum(run.size for run in runs)
    if 2 * new_size > len(payload):
        # Where runs were found to the last, the rest is alike as well.
        is_alike = len(runs) == _RUNS_MAX or _is_compressible(base, payload, largest)
        if new_size > _COMPRESSED_BYTES_MAX or not is_alike:
            return None
    literals = _literals(payload, runs)
    coding, stored, start, size = _STORED, literals, 0, 0
    if _COMPRESSED_BYTES_MIN <= len(literals) <= _COMPRESSED_BYTES_MAX:
        context = _context(base, largest)
        compressed = compression.compress(literals, base[context])
        if len(compressed) < len(literals):
            coding, stored, start, size = _COMPRESSED, compressed, context.start, context.stop - context.start
    if 2 * len(stored) >= len(payload):
        return None
    parts = [_HEAD.pack(coding, len(runs), len(literals), start, size)]
    at = 0
    for run in runs:
        parts.append(_RUN.pack(run.payload_offset - at, run.base_offset, run.size))
        at = run.payload_offset + run.size
    parts.append(stored)
    body = b"".join(parts)
    return body if 2 * len(body) < len(payload) else None


def find_runs(base: bytes, payload: bytes) -> list[Run]:
    """Give runs that are the same in both, in the payload's order, apart from each other; not all there are."""
    view = memoryview(payload)
    runs: list[Run] = []
    at, to = 0, 0  # in the base, in the payload
    while len(runs) < _RUNS_MAX:
        size = _same_from(base, at, view, to)
        if size >= _RUN_BYTES_MIN:
            runs.append(Run(at, to, size))
            at += size
            to += size
        found = _next_alike(base, at, view, to)
        if found is None:
            break
        size = _same_before(base, found[0], view, found[1], min(found[0] - at, found[1] - to))
        at, to = found[0] - size, found[1] - size
    return runs


def _next_alike(base: bytes, at: int, view: memoryview, to: int) -> tuple[int, int] | None:
    """Find a place further on in both where bytes are alike; None where the probes find none.

    Probes are taken at distances that double, so the search costs little however long the rest is. Each is looked for
    where nothing has moved, then around that place, then where it lies if only something before it has grown.
    """
    last = len(view) - _PROBE_BYTES
    if to > last or at > len(base) - _PROBE_BYTES:
        return None
    from_end = len(base) - len(view)
    distance = _PROBE_DISTANCE_MIN
    while True:
        place = min(to + distance, last)
        probe = view[place : place + _PROBE_BYTES]
        straight = place + at - to
        if base.startswith(probe, straight):
            return straight, place
        shrunk = min(distance + _SHRUNK_BYTES_MIN, _SHRUNK_BYTES_MAX)
        found = base.find(probe, max(at, straight - _GROWN_BYTES_MAX), straight + shrunk)
        if found >= 0:
            return found, place
        aligned = place + from_end
        if aligned >= at and base.startswith(probe, aligned):
            return aligned, place
        if place == last:
            return None
        distance *= 2


def _same_from(base: bytes, at: int, view: memoryview, to: int) -> int:
    """Give the number of bytes that are the same from these two places on."""
    low, high = 0, min(len(base) - at, len(view) - to)
    if base.startswith(view[to : to + high], at):
        return high
    # The first `low` are the same, the first `high` are not.
    step = 64
    while low + step < high:
        if not base.startswith(view[to + low : to + low + step], at + low):
            high = low + step
            break
        low += step
        step *= 4
    while high - low > 1:
        middle = (low + high) // 2
        if base.startswith(view[to + low : to + middle], at + low):
            low = middle
        else:
            high = middle
    return low


def _same_before(base: bytes, at: int, view: memoryview, to: int, size_max: int) -> int:
    """Give the number of bytes, at most `size_max`, that are the same up to these two places."""
    low, high = 0, size_max
    if base.endswith(view[to - high : to], 0, at):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if base.endswith(view[to - middle : to - low], 0, at - low):
            low = middle
        else:
            high = middle
    return low


def _largest_gap(payload: bytes, runs: list[Run]) -> _Gap:
    """Give the largest stretch that no run covers."""
    largest = _Gap(0, 0, 0)
    at, base_at = 0, 0
    for run in (*runs, Run(0, len(payload), 0)):
        if run.payload_offset - at > largest.size:
            largest = _Gap(at, run.payload_offset - at, base_at)
        at = run.payload_offset + run.size
        base_at = run.base_offset + run.size
    return largest


def _literals(payload: bytes, runs: list[Run]) -> bytes:
    """Put together what no run covers."""
    parts: list[bytes] = []
    at = 0
    for run in runs:
        parts.append(payload[at : run.payload_offset])
        at = run.payload_offset + run.size
    parts.append(payload[at:])
    return b"".join(parts)


def _is_compressible(base: bytes, payload: bytes, gap: _Gap) -> bool:
    """Say whether short pieces of a gap are found near their place in the base, or before themselves in the payload."""
    known = 0
    for piece in range(_PIECES):
        distance = piece * _PIECE_STRIDE % max(gap.size - _PIECE_BYTES, 1)
        to = gap.payload_offset + distance
        near = gap.base_offset + distance
        sample = payload[to : to + _PIECE_BYTES]
        if (
            base.find(sample, max(near - _PIECE_RADIUS_BYTES, 0), near + _PIECE_RADIUS_BYTES) >= 0
            or payload.find(sample, max(to - _PIECE_RADIUS_BYTES, 0), to) >= 0
        ):
            known += 1
    return known >= _PIECES_KNOWN_MIN


def _context(base: bytes, gap: _Gap) -> slice:
    """Give the part of the base that resembles a gap most: around its place, and as far behind as the gap is long."""
    behind = min(max(_CONTEXT_BEHIND_BYTES, gap.size + gap.size // 8), _CONTEXT_BYTES_MAX - _CONTEXT_BEFORE_BYTES)
    context = slice(max(gap.base_offset - _CONTEXT_BEFORE_BYTES, 0), min(gap.base_offset + behind, len(base)))
    return context if context.stop - context.start >= compression.PREFIX_BYTES_MIN else slice(0, 0)


# --- decoding --------------------------------------------------------------------------------------------


def decode(base: bytes, body: bytes, size: int) -> bytes:
    """Give the payload of `size` bytes that a body makes of its base. Raises `ValueError` where it makes none.

    Nothing larger than `size` is allocated, whatever the body says.
    """
    if len(body) < _HEAD.size:
        raise ValueError("the delta is cut short")
    coding, count, literals_size, start, context_size = _HEAD.unpack_from(body)
    end = _HEAD.size + count * _RUN.size
    if coding not in _CODINGS or len(body) < end or literals_size > size or start + context_size > len(base):
        raise ValueError("the delta's sizes do not agree")
    literals = body[end:]
    if coding == _COMPRESSED:
        literals = compression.decompress(literals, literals_size, base[start : start + context_size])
    elif len(literals) != literals_size:
        raise ValueError(f"the delta has {len(literals)} bytes of literals, not {literals_size}")
    base_view, view = memoryview(base), memoryview(literals)
    parts: list[memoryview] = []
    at = 0
    left = size - literals_size
    for fresh, base_offset, run_size in _RUN.iter_unpack(body[_HEAD.size : end]):
        left -= run_size
        if fresh > literals_size - at or base_offset + run_size > len(base) or left < 0:
            raise ValueError("a run of the delta is out of bounds")
        parts.append(view[at : at + fresh])
        parts.append(base_view[base_offset : base_offset + run_size])
        at += fresh
    if left:
        raise ValueError(f"the delta makes {size - left} bytes, not {size}")
    parts.append(view[at:])
    return b"".join(parts)
