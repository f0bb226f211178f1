"""Folding the whole log again: replay, verify, and the repair of damaged views.

Owns the generations that are being built beside the serving one. The long part runs on the caller's thread while
the store goes on; what must not race with a commit (taking both sides of a comparison at one revision, swapping) is
given to the writer and runs between two groups. One replay or verify runs at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from stigmer.errors import Closed, CorruptView, DiskFull, StigmerError, StorageFailed
from stigmer.log.log import Log
from stigmer.model import FoldProgress, FoldReport, ProgressCallback
from stigmer.views import generations
from stigmer.views.checksums import Checksums
from stigmer.views.environment import EnvironmentClosed
from stigmer.views.generations import Comparison, Generation
from stigmer.writer import Writer

_logger = logging.getLogger("stigmer")

# The writer stands still while it folds what is missing, so that has to be little.
_EVENTS_LEFT_FOR_WRITER = 2_000
# What nobody waits for rests so many times as long as it works, so that calls have the interpreter to themselves.
_RESTS = 3
# A store that is written to faster than it can be folded is never caught up with from outside.
_ROUNDS_MAX = 20


class Rebuild:
    """Builds generations from the log of one store."""

    def __init__(self, views_directory: str, map_bytes: int, log: Log, writer: Writer) -> None:
        """Build in this directory, from this log, beside the generation of this writer."""
        self._views_directory = views_directory
        self._map_bytes = map_bytes
        self._log = log
        self._writer = writer
        self._running = threading.Lock()
        self._stopping = False
        self._ended = threading.Event()
        self._repairing = False
        self._checker: threading.Thread | None = None

    def replay(self, progress: ProgressCallback | None) -> FoldReport:
        """Build a new generation, compare it with the serving one, swap it in."""
        return self._fold_again(progress, swap=True)

    def verify(self, progress: ProgressCallback | None) -> FoldReport:
        """Build a generation aside, or go on with one, compare it with the serving one, drop it."""
        return self._fold_again(progress, swap=False)

    def check(self, progress: ProgressCallback | None) -> FoldReport:
        """Compare the checksums of every frame and of every row that is in LMDB."""
        started = time.monotonic()
        with self._alone():
            last = self._writer.generation.projector.checkpoint
            frames = revision = 0
            for checked in self._log.check():
                revision, frames = checked
                self._report(progress, "frames", revision, max(last, revision))
            generation, checksums = self._check_rows(progress)
        return FoldReport(
            revision=revision,
            rows=checksums.rows,
            differences=checksums.damaged,
            examples=checksums.examples,
            generation=generation.number,
            seconds=time.monotonic() - started,
            frames=frames,
        )

    def _check_rows(self, progress: ProgressCallback | None) -> tuple[Generation, Checksums]:
        while True:
            generation = self._writer.generation
            try:
                checksums = Checksums(generation.environment)
                for rows in checksums:
                    self._report(progress, "rows", rows, max(rows, checksums.total))
                return generation, checksums
            except EnvironmentClosed:
                if self._writer.generation is generation:
                    raise Closed from None

    def check_in_background(self) -> None:
        """Look at all rows while the store serves, once, and replace the views if one is damaged or missing."""
        checker = threading.Thread(target=self._check_once, name="stigmer-check", daemon=True)
        checker.start()
        self._checker = checker

    def _check_once(self) -> None:
        began = time.monotonic()

        def rest(_progress: FoldProgress) -> None:
            nonlocal began
            self._ended.wait((time.monotonic() - began) * _RESTS)
            began = time.monotonic()

        try:
            _generation, checksums = self._check_rows(rest)
        except Closed:
            return
        except StigmerError as error:
            _logger.error("the rows of the views could not be looked at: %s", error)
            return
        if checksums.damaged:
            view, _, problem = checksums.examples[0].partition(": ")
            self.in_background(CorruptView(view, problem))

    def in_background(self, error: CorruptView) -> None:
        """Replace damaged views while reads of what is whole go on. Does nothing if that is under way already."""
        if self._repairing or self._stopping:
            return
        self._repairing = True
        _logger.error("%s; the views are folded again from the log", error)
        try:
            threading.Thread(target=self._repair, name="stigmer-repair", daemon=True).start()
        except RuntimeError as lack:  # no more threads: the next one who finds the damage tries again
            _logger.error("the views could not be folded again: %s", lack)
            self._repairing = False

    def in_place(self) -> None:
        """Replace the serving generation while writes wait. Only on the writer's thread."""
        fresh = generations.create(self._views_directory, self._map_bytes)
        try:
            self._catch_up(fresh, self._log.next_revision - 1, None)
            self._swap(fresh)
        except BaseException:
            fresh.remove()
            raise

    def stop(self) -> None:
        """Have work that is under way end soon, with `Closed`, and wait for it."""
        self._stopping = True
        self._ended.set()
        with self._running:
            pass
        if self._checker is not None:
            self._checker.join()

    def _repair(self) -> None:
        try:
            with self._running:
                self._writer.run(self.in_place)
            _logger.warning("the views were folded again from the log")
        except StigmerError as error:
            _logger.error("the views could not be folded again: %s", error)
        finally:
            self._repairing = False

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._running.acquire(blocking=False):
            raise StigmerError("a replay or verify is under way", hint="wait until it has ended")
        try:
            if self._stopping:
                raise Closed
            yield
        finally:
            self._running.release()

    def _fold_again(self, progress: ProgressCallback | None, *, swap: bool) -> FoldReport:
        started = time.monotonic()
        with self._alone():
            if swap:
                fresh = generations.create(self._views_directory, self._map_bytes)
            else:
                last = self._log.next_revision - 1
                fresh = generations.aside(self._views_directory, self._map_bytes, self._log.store_id, last)
            resumed_revision = fresh.projector.checkpoint
            try:
                revision, comparison = self._compare(fresh, progress)
                if swap:
                    # All of it is to be durable before it serves; here nobody waits for most of that.
                    fresh.environment.sync()
                    self._come_close(fresh, progress)
                    self._writer.run(lambda: self._catch_up_and_swap(fresh))
                else:
                    fresh.remove()
            except BaseException as error:
                # An interrupt may come when it serves already.
                if self._writer.generation is not fresh:
                    self._leave(fresh, error, is_aside=not swap)
                raise
        return FoldReport(
            revision=revision,
            rows=comparison.rows,
            differences=comparison.differences,
            examples=comparison.examples,
            generation=self._writer.generation.number,
            seconds=time.monotonic() - started,
            resumed_revision=resumed_revision,
        )

    def _leave(self, fresh: Generation, error: BaseException, *, is_aside: bool) -> None:
        """Let go of what was being built; a verify that was only interrupted leaves it for the next one."""
        if is_aside and not isinstance(error, CorruptView | DiskFull | StorageFailed):
            with suppress(StigmerError):
                fresh.keep()
                return
        fresh.remove()

    def _compare(self, fresh: Generation, progress: ProgressCallback | None) -> tuple[int, Comparison]:
        while True:
            self._come_close(fresh, progress)
            taken: list[Comparison] = []

            def take(taken: list[Comparison] = taken) -> None:
                serving = self._writer.generation
                self._catch_up(fresh, serving.projector.checkpoint, None)
                fresh.projector.flush()
                damage = None
                try:
                    self._writer.flush_now()
                except CorruptView as error:
                    damage = error
                taken.append(Comparison(serving, fresh, damage))

            try:
                self._writer.run(take)
                comparison = taken[0]
                revision = fresh.projector.checkpoint
                for rows in comparison:
                    self._report(progress, "compare", rows, comparison.total)
                    if comparison.must_stop:
                        break
                else:
                    self._report(progress, "compare", comparison.rows, comparison.total)
                    return revision, comparison
            finally:
                for comparison in taken:
                    comparison.close()

    def _come_close(self, fresh: Generation, progress: ProgressCallback | None) -> None:
        """Fold on the caller's thread until little is left for the writer's."""
        for _ in range(_ROUNDS_MAX):
            target = self._writer.generation.projector.checkpoint
            self._catch_up(fresh, target, progress)
            if self._writer.generation.projector.checkpoint - target <= _EVENTS_LEFT_FOR_WRITER:
                return

    def _catch_up(self, fresh: Generation, upto_revision: int, progress: ProgressCallback | None) -> None:
        cursor = self._log.cursor(fresh.projector.checkpoint)
        try:
            for checkpoint in fresh.projector.catch_up(cursor, upto_revision):
                self._report(progress, "fold", checkpoint, upto_revision)
        finally:
            cursor.close()

    def _catch_up_and_swap(self, fresh: Generation) -> None:
        self._catch_up(fresh, self._writer.generation.projector.checkpoint, None)
        self._swap(fresh)

    def _swap(self, fresh: Generation) -> None:
        fresh.projector.flush()
        fresh.serve(self._log.store_id, self._log.sync)
        before = self._writer.generation
        self._writer.use(fresh)
        before.remove()

    def _report(self, progress: ProgressCallback | None, phase: str, completed: int, total: int) -> None:
        if self._stopping:
            raise Closed
        if progress is not None:
            progress(FoldProgress(phase, completed, total))
