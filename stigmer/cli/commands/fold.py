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
@pass_invocation
def verify_command(invocation: Invocation) -> None:
    """Prove that the views are what the log says.

    Changes nothing: the log is read and checked from revision 1 on and folded aside; every row is compared. Exit code
    6: they differ, or the log is damaged.
    """
    report = _fold(invocation, lambda store, callback: store.verify(callback), replayed=False)
    if report.differences:
        from stigmer.cli.exits import ExitCode

        invocation.say("Hint: stigmer replay")
        raise click.exceptions.Exit(ExitCode.DAMAGE)


def _fold(invocation: Invocation, work: Work, *, replayed: bool) -> FoldReport:
    from stigmer.cli import backend
    from stigmer.cli.output import write_record
    from stigmer.cli.progress import progress
    from stigmer.cli.units import counted, visible

    units = {"fold": "events", "compare": "rows"}
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
        }
        write_record(record, invocation.output)
        return report
    done = f"replayed to revision {report.revision}" if replayed else f"verified up to revision {report.revision}"
    found = counted(report.differences, "difference") if report.differences else "no differences"
    print(f"{done}: {counted(report.rows, 'row')}, {found}, in {report.seconds:.2f} s")
    if replayed:
        print(f"generation {report.generation} serves")
    for example in report.examples:
        print(f"  {visible(example)}")
    if report.differences > len(report.examples):
        print(f"  and {report.differences - len(report.examples)} more")
    return report
