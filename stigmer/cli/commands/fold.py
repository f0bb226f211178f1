"""`replay` and `verify`: the views and the log, compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, pass_invocation

if TYPE_CHECKING:
    from stigmer.cli.backend import AnyStore
    from stigmer.model import FoldReport, ProgressCallback

    Work = Callable[[AnyStore, ProgressCallback], FoldReport]


@click.command("replay", cls=Command)
@pass_invocation
def replay_command(invocation: Invocation) -> None:
    """Rebuild the views from the log.

    The log is folded from revision 1 on: a second generation of the views is built beside the one that serves,
    compared with it and put in its place; reads go on meanwhile. If they differ, the differences are printed, and the
    new generation serves: the log is the truth.
    """
    _fold(invocation, lambda store, callback: store.replay(callback), replayed=True)


@click.command("verify", cls=Command)
@click.option("--quick", is_flag=True, help="Compare the checksums of every frame and row, and fold nothing.")
@pass_invocation
def verify_command(invocation: Invocation, quick: bool) -> None:
    """Prove that the views are what the log says.

    Changes nothing: the log is read and checked from revision 1 on and folded aside; every row is compared. One that
    was interrupted goes on where it stopped. Exit code 6: they differ, or the log is damaged.
    """
    try:
        report = _fold(invocation, lambda store, callback: store.verify(callback, quick=quick), replayed=False)
    except KeyboardInterrupt:
        if not quick:
            invocation.say(
                "\ninterrupted; `stigmer verify` goes on where it stopped, unless the daemon ends it meanwhile"
            )
        raise
    if report.differences:
        from stigmer.cli.exits import ExitCode

        invocation.say("Hint: stigmer replay")
        raise click.exceptions.Exit(ExitCode.DAMAGE)


def _fold(invocation: Invocation, work: Work, *, replayed: bool) -> FoldReport:
    from stigmer.cli import backend
    from stigmer.cli.output import write_record
    from stigmer.cli.progress import progress
    from stigmer.cli.units import counted, visible

    units = {"fold": "events", "compare": "rows", "frames": "events", "rows": "rows"}
    with backend.reader(invocation) as store, progress(invocation) as report_progress:
        report = work(store, lambda p: report_progress(p.phase, p.completed, p.total, units.get(p.phase, "")))
    if invocation.output in ("yaml", "json", "jsonl"):
        record: dict[str, object] = {
            "revision": report.revision,
            "rows": report.rows,
            "differences": report.differences,
            "examples": list(report.examples),
            "generation": report.generation,
            "seconds": round(report.seconds, 3),
            "frames": report.frames,
            "resumed_revision": report.resumed_revision,
        }
        write_record(record, invocation.output)
        return report
    done = f"replayed to revision {report.revision}" if replayed else f"verified up to revision {report.revision}"
    noun = "damaged row" if report.frames else "difference"
    found = counted(report.differences, noun) if report.differences else f"no {noun}s"
    rows = counted(report.rows, "row")
    if report.frames:
        done, rows = (
            f"compared checksums up to revision {report.revision}",
            f"{counted(report.frames, 'frame')}, {rows}",
        )
    print(f"{done}: {rows}, {found}, in {report.seconds:.2f} s")
    if report.resumed_revision:
        print(f"went on from revision {report.resumed_revision}, where the last one stopped")
    if replayed:
        print(f"generation {report.generation} serves")
    for example in report.examples:
        print(f"  {visible(example)}")
    if report.differences > len(report.examples):
        print(f"  and {report.differences - len(report.examples)} more")
    return report
