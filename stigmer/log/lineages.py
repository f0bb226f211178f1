"""What the appender remembers of what it wrote, and how it stores what resembles that.

A lineage is a name under which payloads resemble one another; the log does not know what it stands for. Of each one
the last payload that was written is kept, the least recently written lineages being forgotten first.

Invariants: only what is in the file is kept, so a base that a delta names is always there; a base lies in the same
segment, for a roll empties this; no chain is longer than `config` allows. Belongs to the thread that appends.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from stigmer import config
from stigmer.log import compression, delta
from stigmer.log import format as fmt
from stigmer.log.payloads import Decoded, Payloads

_REST_MAX = 14
"""Of values that do not resemble one another, at least each fifteenth is compared."""


class Entry(NamedTuple):
    """A commit to be appended."""

    payload: bytes
    event_count: int
    likeness: bytes | None = None
    """The lineage: the payload probably resembles the last one appended under this name. None: store it as it is."""


class Stored(NamedTuple):
    """A payload as it goes into a frame."""

    flags: int
    data: bytes
    crc: int


class _Lineage(NamedTuple):
    """The last payload of a lineage."""

    revision: int
    decoded: Decoded
    chain_bytes: int
    """Of the deltas that lead to it from a whole payload."""
    misses: int = 0
    """How often in a row a payload was compared and did not resemble the one before it."""
    rest: int = 0
    """So many more are stored as they are before one is compared again."""


class Lineages:
    """The last payloads, up to a number of bytes."""

    def __init__(self, bytes_max: int, payloads: Payloads) -> None:
        """Keep so many bytes, and hand what was written to the readers' `payloads`, who would ask for it next."""
        self._bytes_max = bytes_max
        self._payloads = payloads
        self._kept: OrderedDict[bytes, _Lineage] = OrderedDict()
        self._bytes = 0

    def group(self) -> Group:
        """Begin a group of payloads. Nothing is kept of it before it is settled."""
        return Group(self._kept)

    def settle(self, group: Group) -> None:
        """Keep what a group has stored, now that it is written."""
        for likeness, lineage in group.staged.items():
            before = self._kept.pop(likeness, None)
            if before is not None:
                self._bytes -= len(before.decoded.payload)
            self._kept[likeness] = lineage
            self._bytes += len(lineage.decoded.payload)
        while self._bytes > self._bytes_max:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest.decoded.payload)
        for revision, decoded, base_revision in group.decoded:
            self._payloads.keep(revision, decoded, base_revision)

    def clear(self) -> None:
        """Forget everything: what comes next lies in another file."""
        self._kept.clear()
        self._bytes = 0


class Group:
    """Payloads on their way into the log, each seen against those before it."""

    def __init__(self, kept: OrderedDict[bytes, _Lineage]) -> None:
        self._kept = kept
        self.staged: dict[bytes, _Lineage] = {}
        self.decoded: list[tuple[int, Decoded, int]] = []
        """First revision, payload, and the revision of its base or 0."""

    def store(self, entry: Entry, revision: int) -> Stored:
        """Give a payload, the first of whose events will have this revision, in the form in which it is stored."""
        payload, likeness = entry.payload, entry.likeness
        crc = fmt.crc32c(0, payload)
        if likeness is None or len(payload) > config.COMMIT_BYTES_MAX:
            return Stored(0, payload, crc)
        base = self.staged.get(likeness) or self._kept.get(likeness)
        stored, depth, chain_bytes, misses, rest = Stored(0, payload, crc), 0, 0, 0, 0
        if base is not None and base.rest:
            misses, rest = base.misses, base.rest - 1
        elif base is not None:
            body = delta.encode(base.decoded.payload, payload)
            if body is None:
                # Values that never resemble one another, such as encrypted ones, should not be compared every time. One
                # that is unlike the others makes two misses, its own and the next one's, and costs no delta but these.
                misses = base.misses + 1
                rest = min(max((1 << misses - 1) - 2, 0), _REST_MAX)
            else:
                depth = base.decoded.depth + 1
                head = fmt.EncodedHead(len(payload), crc, base.revision, base.decoded.crc, depth)
                data = fmt.encode_delta_head(head) + body
                chain_bytes = base.chain_bytes + len(data)
                if depth <= config.CHAIN_FRAMES_MAX and chain_bytes <= max(config.CHAIN_BYTES_MAX, len(payload)):
                    stored = Stored(fmt.CODEC_DELTA, data, fmt.crc32c(0, data))
                else:
                    stored, depth, chain_bytes = _whole(payload, crc), 0, 0
        decoded = Decoded(payload, crc, depth)
        # Last in the order of the group, which is that in which lineages are forgotten.
        self.staged.pop(likeness, None)
        self.staged[likeness] = _Lineage(revision, decoded, chain_bytes, misses, rest)
        self.decoded.append((revision, decoded, base.revision if base is not None and depth else 0))
        return stored


def _whole(payload: bytes, crc: int) -> Stored:
    """Give a payload that ends a chain: compressed, where that saves a quarter."""
    compressed = compression.compress(payload)
    if 4 * len(compressed) > 3 * len(payload):
        return Stored(0, payload, crc)
    data = fmt.encode_compressed_head(fmt.EncodedHead(len(payload), crc)) + compressed
    return Stored(fmt.CODEC_ZSTD, data, fmt.crc32c(0, data))
