"""The service `stigmer.store.v1.Admin`: a look inside, and the work an operator asks for.

Invariants:
- One replay or verify at a time: each reads the whole log and fills a second set of views.
- The work belongs to the daemon, not to the call: a caller that goes away stops being told, and the work goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

import msgspec

from stigmer import codec, parsing, wire
from stigmer.daemon.access import Access
from stigmer.daemon.handlers import Context
from stigmer.daemon.refusals import Refusals
from stigmer.daemon.tail import Tails
from stigmer.errors import InvalidArgument, StigmerError
from stigmer.model import FoldProgress, FoldReport, ProgressCallback, SegmentInfo
from stigmer.pb import store_pb2
from stigmer.resources.verbs import Resources
from stigmer.store import Store

_PROGRESS_SECONDS = 0.5


class AdminService:
    """Answers the calls of `stigmer.store.v1.Admin` out of an open store."""

    def __init__(
        self,
        store: Store,
        resources: Resources,
        access: Access,
        tails: Tails,
        refusals: Refusals,
        readers: Executor,
        listen: list[str],
    ) -> None:
        """`listen` is read at each call: it is complete only once the server listens."""
        self._store = store
        self._resources = resources
        self._access = access
        self._tails = tails
        self._refusals = refusals
        self._readers = readers
        self._listen = listen
        self._loop = asyncio.get_running_loop()
        self._folder = ThreadPoolExecutor(1, "stigmer-fold")
        self._ended = asyncio.Event()
        self._fold: str | None = None
        """The work that is under way. Touched on the event loop only."""

    async def status(self, request: bytes, context: Context) -> bytes:
        """Give the store's status with the daemon's part of it."""
        parsing.parsed(store_pb2.StatusRequest, request)
        found = await self._loop.run_in_executor(self._readers, self._store.status)
        return store_pb2.StatusResponse(
            version=found.version,
            store_id=found.store_id,
            data_dir=wire.path_text(found.data_dir),
            pid=found.pid,
            started_at_ns=found.started_at_ns,
            durability=found.durability,
            listen=self._listen,
            revision=found.revision,
            segments=found.segments,
            log_bytes=found.log_bytes,
            log_saved_bytes=found.log_saved_bytes,
            views_bytes=found.views_bytes,
            views_map_bytes=found.views_map_bytes,
            views_readers=found.views_readers,
            generation=found.generation,
            checkpoints=found.checkpoints,
            resources=found.resources,
            tails=self._tails.count,
            recovery=found.recovery,
            access=store_pb2.Access(**msgspec.structs.asdict(self._access.status())),
            refused=self._refusals.counts,
        ).SerializeToString()

    async def segments(self, request: bytes, context: Context) -> bytes:
        """Give the segments of the log."""
        parsing.parsed(store_pb2.SegmentsRequest, request)
        found = await self._loop.run_in_executor(self._readers, self._store.segments)
        return store_pb2.SegmentsResponse(segments=map(_segment, found)).SerializeToString()

    async def frame(self, request: bytes, context: Context) -> bytes:
        """Give the frame that holds a revision."""
        asked = parsing.parsed(store_pb2.FrameRequest, request)
        if asked.revision == 0:
            raise InvalidArgument("revision", "must be 1 or more")
        found = await self._loop.run_in_executor(self._readers, self._store.frame, asked.revision)
        return store_pb2.FrameResponse(
            segment=found.segment,
            offset=found.offset,
            bytes=found.bytes,
            first_revision=found.first_revision,
            event_count=found.event_count,
            group_first_revision=found.group_first_revision,
            time_ns=found.time_ns,
            flags=found.flags,
            payload_crc32c=found.payload_crc32c,
            commit=codec.decode_commit(found.payload),
            codec=found.codec,
            payload_bytes=found.payload_bytes,
            base_revision=found.base_revision,
            depth=found.depth,
        ).SerializeToString()

    async def replay(self, request: bytes, context: Context) -> None:
        """Fold the log into a new generation of views, telling how far it is."""
        parsing.parsed(store_pb2.ReplayRequest, request)
        await self._fold_and_tell("replay", self._store.replay, context)

    async def verify(self, request: bytes, context: Context) -> None:
        """Compare the views with a fold of the log, telling how far it is."""
        asked = parsing.parsed(store_pb2.VerifyRequest, request)
        await self._fold_and_tell("verify", lambda progress: self._store.verify(progress, quick=asked.quick), context)

    async def backup(self, request: bytes, context: Context) -> None:
        """Tell what a backup is made of, and keep every artifact until the caller is gone."""
        parsing.parsed(store_pb2.BackupRequest, request)
        with self._resources.artifacts.hold_all():
            point = await self._loop.run_in_executor(self._readers, self._store.backup_point)
            await context.write(
                store_pb2.BackupPoint(
                    store_id=point.store_id,
                    data_dir=wire.path_text(point.data_dir),
                    segments=map(_segment, point.segments),
                    master_key=wire.path_text(self._resources.vault.master_key_place),
                ).SerializeToString()
            )
            await self._ended.wait()

    def end_streams(self) -> None:
        """End what only waits for its caller."""
        self._ended.set()

    async def _fold_and_tell(
        self, name: str, fold: Callable[[ProgressCallback | None], FoldReport], context: Context
    ) -> None:
        if self._fold is not None:
            raise StigmerError(f"a {self._fold} is under way; one replay or verify at a time", hint="try again later")
        self._fold = name
        latest: list[FoldProgress] = []

        def on_progress(progress: FoldProgress) -> None:
            latest[:] = (progress,)  # on the folding thread

        work = self._loop.run_in_executor(self._folder, fold, on_progress)
        work.add_done_callback(self._on_fold_done)
        told: FoldProgress | None = None
        while True:
            await asyncio.wait((work,), timeout=_PROGRESS_SECONDS)
            if work.done():
                break
            if latest and latest[0] is not told:
                told = latest[0]
                await context.write(
                    store_pb2.FoldProgress(
                        phase=told.phase, completed=told.completed, total=told.total
                    ).SerializeToString()
                )
        report = work.result()
        last = latest[0] if latest else FoldProgress("done", 0, 0)
        await context.write(
            store_pb2.FoldProgress(
                phase="done",
                completed=last.completed,
                total=last.total,
                report=store_pb2.FoldReport(
                    revision=report.revision,
                    rows=report.rows,
                    differences=report.differences,
                    examples=report.examples,
                    generation=report.generation,
                    seconds=report.seconds,
                    frames=report.frames,
                    resumed_revision=report.resumed_revision,
                ),
            ).SerializeToString()
        )

    def _on_fold_done(self, work: asyncio.Future[FoldReport]) -> None:
        self._fold = None
        if not work.cancelled():
            work.exception()  # looked at, so that asyncio does not report it where the caller is gone

    def close(self) -> None:
        """Let go of the folding thread; the store's close ends what it is doing."""
        self._folder.shutdown(wait=False)


def _segment(segment: SegmentInfo) -> store_pb2.Segment:
    return store_pb2.Segment(
        name=segment.name,
        first_revision=segment.first_revision,
        last_revision=segment.last_revision,
        bytes=segment.bytes,
        saved_bytes=segment.saved_bytes,
        sealed=segment.sealed,
        created_at_ns=segment.created_at_ns,
    )
