"""The values that go in and out of a store: the same for the embedded `Store` and both clients.

Values are frozen; those that come in great numbers are kept out of the garbage collector's walks (`gc=False`), which
is sound because they never refer back to themselves. Times are kept as whole nanoseconds since 1970 UTC (`..._ns`),
because that is what the log holds; the properties without the suffix give an aware `datetime`, to the microsecond.
"""

from __future__ import annotations

import builtins
import enum
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, NewType

import msgspec

from stigmer.errors import BatchFailed, StigmerError

Revision = NewType("Revision", int)
"""The number of an event: 1, 2, 3, ... over the whole store."""


def to_datetime(time_ns: int) -> datetime:
    """Give the aware UTC datetime of nanoseconds since 1970, cut to the microsecond."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_ns // 1000)


class Op(enum.StrEnum):
    """What an event did to its resource."""

    SAVE = "save"
    DELETE = "delete"


class Resource(msgspec.Struct, frozen=True, gc=False):
    """What is stored under a kind and an id, as of now."""

    kind: str
    id: str
    value: bytes
    revision: Revision
    """Of the last event."""
    created_revision: Revision
    """Of the event that created it; starts anew when it is deleted and saved again."""
    created_at_ns: int
    updated_at_ns: int

    @property
    def created_at(self) -> datetime:
        """When it was created, in UTC."""
        return to_datetime(self.created_at_ns)

    @property
    def updated_at(self) -> datetime:
        """When its last event was committed, in UTC."""
        return to_datetime(self.updated_at_ns)


class Event(msgspec.Struct, frozen=True, gc=False):
    """One change of one resource, as a tail gives it."""

    revision: Revision
    op: Op
    kind: str
    id: str
    value: bytes
    """Empty for a delete."""
    time_ns: int
    expected_revision: Revision | None = None
    """The revision that its resource had before, where the writer relied on it; 0: it did not exist."""

    @property
    def time(self) -> datetime:
        """When it was committed, in UTC."""
        return to_datetime(self.time_ns)


class Save(msgspec.Struct, frozen=True, gc=False):
    """A change to put into a commit: the resource's value becomes `value`."""

    kind: str
    id: str
    value: object
    """Bytes, or a protobuf message."""
    expected_revision: int | None = None
    """Only if the resource's revision is this; 0: only if it does not exist; None: whatever is there."""


class Delete(msgspec.Struct, frozen=True, gc=False):
    """A change to put into a commit: the resource is no more."""

    kind: str
    id: str
    expected_revision: int | None = None


class Committed(msgspec.Struct, frozen=True, gc=False):
    """The revisions of a commit's events: `first_revision` to `last_revision`, dense."""

    first_revision: Revision
    last_revision: Revision


class Transacted(NamedTuple):
    """What became of an operation."""

    committed: Committed | None
    """None where it changed nothing."""
    told: Any
    """What the operation gave; None for a repeat."""
    is_repeat: bool
    """Its request id was used before: nothing was done now, and `committed` is what was done then."""


def revisions_of(results: Sequence[Committed | StigmerError | None]) -> list[Revision]:
    """Give the last revision of each of many commits, or raise `BatchFailed` where some failed."""
    failures = {place: result for place, result in enumerate(results) if isinstance(result, StigmerError)}
    if failures:
        revisions = [result.last_revision if isinstance(result, Committed) else None for result in results]
        raise BatchFailed(failures, len(results), list(revisions)) from next(iter(failures.values()))
    return [result.last_revision for result in results if isinstance(result, Committed)]


class Page(msgspec.Struct, frozen=True):
    """Some resources of a kind, in the order of their ids; `next_page_token` where there are more."""

    resources: list[Resource]
    next_page_token: str | None = None

    def __iter__(self) -> Iterator[Resource]:
        return iter(self.resources)

    def __len__(self) -> int:
        return len(self.resources)


class IndexEntry(NamedTuple):
    """A resource that an index gives."""

    id: str
    qualifier: str
    """What tells apart those that have the same text: the organization, for a slug; else empty."""
    created_revision: Revision


class IndexedPage(NamedTuple):
    """Some resources that an index gives, in the order of their creation."""

    rows: list[bytes]
    """Each a serialized stigmer.store.v1.Resource."""
    next_page_token: str
    """Empty where there are no more."""
    total: int
    """How many there are on all pages, as of the moment of this one."""


class SegmentInfo(msgspec.Struct, frozen=True):
    """One file of the log."""

    name: str
    first_revision: int
    last_revision: int
    """0 where it has no event yet."""
    bytes: int
    sealed: bool
    created_at_ns: int
    saved_bytes: int = 0
    """How many more bytes it would have, if every payload were stored as it was committed."""


class BackupPoint(msgspec.Struct, frozen=True):
    """What belongs to a backup: the log as it was, durable, between two groups."""

    store_id: str
    data_dir: str
    segments: list[SegmentInfo]
    """Each counts up to its size, whatever is appended to it later."""
    master_key: str = ""
    """Where the master key of the secrets is, which no backup has; empty where it is not known."""


class FrameInfo(msgspec.Struct, frozen=True):
    """One commit as it lies on disk."""

    segment: str
    offset: int
    bytes: int
    """Header and payload."""
    first_revision: int
    event_count: int
    group_first_revision: int
    time_ns: int
    flags: int
    payload_crc32c: int
    payload: builtins.bytes
    """A serialized stigmer.log.v1.Commit, as it was committed."""
    codec: str = "none"
    """How the payload is stored: "none", "delta" or "zstd"."""
    payload_bytes: int = 0
    """Of the payload as it was committed."""
    base_revision: int = 0
    """The first revision of the frame against which a delta is stored; 0 for other frames."""
    depth: int = 0
    """How many deltas have to be applied to get the payload."""


class AccessStatus(msgspec.Struct, frozen=True):
    """What callers of a daemon over TCP have to show, and what they are shown. Those at sockets show nothing."""

    auth: str
    """"none" or "token"."""
    token_file: str
    """Where the daemon has the token from; empty where it asks for none."""
    tls: bool
    client_certificates: bool
    """Clients have to show a certificate."""
    certificate_valid_until_ns: int
    """The end of the daemon's own certificate; 0 without TLS."""

    def summary(self) -> str:
        """Say in a line what TCP takes; empty where that is nothing."""
        said = [f"token in {self.token_file}"] if self.token_file else []
        if self.tls:
            whose = " with certificates of clients" if self.client_certificates else ""
            until = to_datetime(self.certificate_valid_until_ns)
            days = (until - datetime.now(UTC)).total_seconds() / 86_400
            said.append(f"TLS{whose}, certificate valid for {days:.0f} days, until {until:%Y-%m-%d}")
        return "; ".join(said)


class Status(msgspec.Struct, frozen=True):
    """A store, looked at from outside."""

    version: str
    store_id: str
    data_dir: str
    pid: int
    started_at_ns: int
    durability: str
    revision: int
    segments: int
    log_bytes: int
    views_bytes: int
    generation: int
    checkpoints: dict[str, int]
    resources: int
    recovery: list[str]
    """What opening the log found and did, in sentences; empty after a clean end."""
    listen: list[str] = []
    tails: int = 0
    log_saved_bytes: int = 0
    """How many more bytes the log would have, if every payload were stored as it was committed."""
    views_map_bytes: int = 0
    """How large the views' file may become before its map is enlarged."""
    views_readers: int = 0
    """How many slots for readers of it have been in use."""
    access: AccessStatus | None = None
    """None for an embedded store, and for a daemon of an older version."""
    refused: dict[str, int] = {}
    """How many calls, and commits of streams, the daemon has refused since its start, because their caller showed no
    token or a limit was reached; by the name of the status code."""


class FoldProgress(msgspec.Struct, frozen=True):
    """How far a replay or a verify is: `phase` is "fold" or "frames" (counts events), "compare" or "rows"."""

    phase: str
    completed: int
    total: int


class FoldReport(msgspec.Struct, frozen=True):
    """What a replay or a verify found.

    `examples` holds the first few differences, each "view: key: what differs".
    """

    revision: int
    rows: int
    differences: int
    examples: list[str]
    generation: int
    seconds: float
    frames: int = 0
    """Whose checksums were compared, where nothing was folded."""
    resumed_revision: int = 0
    """Up to which an earlier verify, which was interrupted, had folded."""


ProgressCallback = Callable[[FoldProgress], None]
