"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere, nothing when quiet.

Owns how progress looks. Always on stderr: stdout is for data.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stigmer.cli.invocation import Invocation

LINE_SECONDS = 5.0
"""Between two plain lines."""

Report = Callable[[str, int, int, str], None]
"""What is being done, how much is done, how much there is in all, and of what."""


@contextmanager
def progress(invocation: Invocation) -> Iterator[Report]:
    """Show how far something is: the caller calls what it is given, as often as it likes."""
    if invocation.quiet:
        yield lambda _phase, _completed, _total, _unit: None
    elif invocation.color == "never" or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield _Lines()
    else:
        with _bar() as report:
            yield report


class _Lines:
    """A line at the most every few seconds, so that a log stays readable."""

    def __init__(self) -> None:
        self._phase = ""
        self._started = self._written = time.monotonic()

    def __call__(self, phase: str, completed: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._phase = phase
            self._started = self._written = now
            return
        if now - self._written < LINE_SECONDS:
            return
        self._written = now
        rate = completed / (now - self._started)
        left = f", {(total - completed) / rate:.0f} s left" if rate and total > completed else ""
        print(f"{phase}: {completed} of {total} {unit}, {rate:,.0f}/s{left}", file=sys.stderr)


@contextmanager
def _bar() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        # NO_COLOR asks for no colour; a bar without colour is still a bar.
        console=Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")) or None),
        transient=True,
    )
    task: TaskID | None = None
    phase_now = ""
    started = time.monotonic()

    def report(phase: str, completed: int, total: int, unit: str) -> None:
        nonlocal task, phase_now, started
        if task is None or phase != phase_now:
            if task is not None:
                shown.remove_task(task)
            task, phase_now, started = shown.add_task(phase, rate="", total=total), phase, time.monotonic()
        elapsed = time.monotonic() - started
        rate = f"{completed / elapsed:,.0f} {unit}/s" if elapsed > 0.2 else ""
        shown.update(task, completed=completed, total=total, rate=rate)

    with shown:
        yield report
