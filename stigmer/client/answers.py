"""The daemon's answers, decoded into the values of `stigmer.model`."""

from __future__ import annotations

from collections.abc import Iterable

from stigmer import codec, wire
from stigmer.errors import StigmerError
from stigmer.model import (
    AccessStatus,
    BackupPoint,
    Committed,
    FoldProgress,
    FoldReport,
    FrameInfo,
    Resource,
    Revision,
    SegmentInfo,
    Status,
)
from stigmer.pb import store_pb2


def committed(answer: bytes) -> Committed:
    """Decode a `CommitResponse`."""
    m = store_pb2.CommitResponse.FromString(answer)
    return Committed(Revision(m.first_revision), Revision(m.last_revision))


def write(answer: bytes, answered: int, event_counts: Iterable[int]) -> list[Committed | StigmerError]:
    """Decode a `WriteResponse`: what the next commits got.

    `answered` is how many had their answer before, `event_counts` the events of those that wait, in order. Raises
    `StigmerError` where it answers other commits than the next.
    """
    m = store_pb2.WriteResponse.FromString(answer)
    refusals = {refusal.number: refusal.error for refusal in m.refusals}
    first_revisions = {first.number: first.first_revision for first in m.first_revisions}
    found: list[Committed | StigmerError] = []
    for number, (last, count) in enumerate(zip(m.last_revisions, event_counts, strict=False), answered + 1):
        if last:
            first = first_revisions.get(number, last - count + 1)
            found.append(Committed(Revision(first), Revision(last)))
        else:
            found.append(wire.error_from(refusals[number]))
    if m.answered != answered + len(found) or len(found) != len(m.last_revisions):
        raise StigmerError(f"{m.answered} commits of a stream were answered; {answered + len(found)} had their turn")
    return found


def get_many(answer: bytes) -> list[Resource | StigmerError]:
    """Decode a `GetManyResponse`."""
    return [
        codec.resource_from(result.resource) if result.HasField("resource") else wire.error_from(result.error)
        for result in store_pb2.GetManyResponse.FromString(answer).results
    ]


def list_page(answer: bytes, resources: list[Resource]) -> str:
    """Decode one message of a List: append its resources, give the token of the next page."""
    message = store_pb2.ListResponse.FromString(answer)
    resources.extend(map(codec.resource_from, message.resources))
    return message.next_page_token


def count(answer: bytes) -> dict[str, int]:
    """Decode a `CountResponse`."""
    return dict(store_pb2.CountResponse.FromString(answer).counts)


def status(answer: bytes) -> Status:
    """Decode a `StatusResponse`."""
    m = store_pb2.StatusResponse.FromString(answer)
    return Status(
        version=m.version,
        store_id=m.store_id,
        data_dir=m.data_dir,
        pid=m.pid,
        started_at_ns=m.started_at_ns,
        durability=m.durability,
        revision=m.revision,
        segments=m.segments,
        log_bytes=m.log_bytes,
        views_bytes=m.views_bytes,
        generation=m.generation,
        checkpoints=dict(m.checkpoints),
        resources=m.resources,
        recovery=list(m.recovery),
        listen=list(m.listen),
        tails=m.tails,
        log_saved_bytes=m.log_saved_bytes,
        views_map_bytes=m.views_map_bytes,
        views_readers=m.views_readers,
        refused=dict(m.refused),
        access=_access(m.access) if m.HasField("access") else None,
    )


def _access(m: store_pb2.Access) -> AccessStatus:
    return AccessStatus(m.auth, m.token_file, m.tls, m.client_certificates, m.certificate_valid_until_ns)


def segments(answer: bytes) -> list[SegmentInfo]:
    """Decode a `SegmentsResponse`."""
    return [_segment(m) for m in store_pb2.SegmentsResponse.FromString(answer).segments]


def _segment(m: store_pb2.Segment) -> SegmentInfo:
    return SegmentInfo(m.name, m.first_revision, m.last_revision, m.bytes, m.sealed, m.created_at_ns, m.saved_bytes)


def backup_point(answer: bytes) -> BackupPoint:
    """Decode a `BackupPoint`."""
    m = store_pb2.BackupPoint.FromString(answer)
    return BackupPoint(m.store_id, m.data_dir, [_segment(segment) for segment in m.segments], m.master_key)


def frame(answer: bytes) -> FrameInfo:
    """Decode a `FrameResponse`."""
    m = store_pb2.FrameResponse.FromString(answer)
    return FrameInfo(
        segment=m.segment,
        offset=m.offset,
        bytes=m.bytes,
        first_revision=m.first_revision,
        event_count=m.event_count,
        group_first_revision=m.group_first_revision,
        time_ns=m.time_ns,
        flags=m.flags,
        payload_crc32c=m.payload_crc32c,
        payload=m.commit.SerializeToString(),
        codec=m.codec,
        payload_bytes=m.payload_bytes,
        base_revision=m.base_revision,
        depth=m.depth,
    )


def fold(answer: bytes) -> FoldProgress | FoldReport:
    """Decode a `FoldProgress`: the report where it is the last one."""
    m = store_pb2.FoldProgress.FromString(answer)
    if not m.HasField("report"):
        return FoldProgress(m.phase, m.completed, m.total)
    report = m.report
    return FoldReport(
        revision=report.revision,
        rows=report.rows,
        differences=report.differences,
        examples=list(report.examples),
        generation=report.generation,
        seconds=report.seconds,
        frames=report.frames,
        resumed_revision=report.resumed_revision,
    )
