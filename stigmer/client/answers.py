"""The daemon's answers, decoded into the values of `stigmer.model`."""

from __future__ import annotations

from stigmer.model import Committed, FoldProgress, FoldReport, FrameInfo, Resource, Revision, SegmentInfo, Status
from stigmer.pb import store_pb2


def committed(answer: bytes) -> Committed:
    """Decode a `CommitResponse`."""
    m = store_pb2.CommitResponse.FromString(answer)
    return Committed(Revision(m.first_revision), Revision(m.last_revision))


def list_page(answer: bytes, resources: list[Resource]) -> str:
    """Decode one message of a List: append its resources, give the token of the next page."""
    message = store_pb2.ListResponse.FromString(answer)
    resources.extend(
        Resource(
            m.kind,
            m.id,
            m.value,
            Revision(m.revision),
            Revision(m.created_revision),
            m.created_at_ns,
            m.updated_at_ns,
        )
        for m in message.resources
    )
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
    )


def segments(answer: bytes) -> list[SegmentInfo]:
    """Decode a `SegmentsResponse`."""
    return [
        SegmentInfo(m.name, m.first_revision, m.last_revision, m.bytes, m.sealed, m.created_at_ns)
        for m in store_pb2.SegmentsResponse.FromString(answer).segments
    ]


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
    )
